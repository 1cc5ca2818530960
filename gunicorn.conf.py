"""gunicorn's settings for a small machine with two cores; `gunicorn wsgi:app` reads them itself."""
import contextlib
import functools
import os
import select
import socket
import struct
import time
from array import array

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers.gthread import ThreadWorker

from database import database
from security import Mask


REQUEST_SECONDS = 20  # how long a request may take from its first byte to its answer
SO_ATTACH_FILTER = 26  # Linux, <asm-generic/socket.h>
#: A packet filter of four steps: drop a TCP segment whose SYN flag is set, let others through.
NO_SYN = array("B", struct.pack(
    "=" + 4 * "HBBI", 0x30, 0, 0, 13, 0x45, 0, 1, 0x02, 0x06, 0, 0, 0, 0x06, 0, 0, 0xFFFFFFFF))


class Logger(GunicornLogger):
    """gunicorn's logs, with tokens and signatures in URLs masked."""

    def setup(self, cfg):
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                handler.addFilter(Mask())


class Worker(ThreadWorker):
    """A threaded worker that answers everybody when it stops, and gives up on slow senders."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.began = {}

    def handle(self, conn):
        self.began[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            del self.began[conn]

    def murder_keepalived(self, force=False):
        """Once a second: end requests that take too long, be it by sending a byte a second."""
        super().murder_keepalived(force)
        for conn, began in list(self.began.items()):
            if time.monotonic() - began > REQUEST_SECONDS:
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def set_accept_enabled(self, enabled):
        super().set_accept_enabled(enabled)
        # gunicorn keeps the listening socket open while it finishes, so that the kernel goes on
        # accepting, and then resets whom nobody took from its queue.
        if not self.alive:
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()


def close_last(listener, server):
    """Close the listening socket; when the service ends, let nobody new in before.

    The kernel accepts by itself, and resets whom it accepted between a worker's last look and the
    end of the socket. A caller who is not let in tries again within a second, and is refused then.
    """
    shared = server.systemd or server.reexec_pid or server.master_pid
    if os.getpid() == server.pid and not shared and listener.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # not Linux
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                                struct.pack("HP", 4, NO_SYN.buffer_info()[0]))
    type(listener).close(listener)


def when_ready(server):
    for listener in server.LISTENERS:
        listener.close = functools.partial(close_last, listener, server)
    if database.obj and not database.ready:  # the yardstick of bench/ has none
        server.log.warning("the database cannot be used yet; requests are answered 503 until then")


bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = Worker
threads = 16  # half of them may be held by slow senders for REQUEST_SECONDS without harm
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
timeout = graceful_timeout = 30  # deploy/ builds on it: nginx waits shorter, systemd longer
forwarded_allow_ips = ""  # only TRUSTED_PROXIES decides whose headers count
preload_app = True  # a wrong setting ends the start with its one line instead of a restart loop
control_socket_disable = True
logger_class = Logger
accesslog = "-"
