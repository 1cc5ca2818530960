"""gunicorn's settings for a small machine with two cores; `gunicorn wsgi:app` reads them itself."""
import os
import select

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers.gthread import ThreadWorker

from security import Mask


class Logger(GunicornLogger):
    """gunicorn's logs, with tokens and signatures in URLs masked."""

    def setup(self, cfg):
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                handler.addFilter(Mask())


class Worker(ThreadWorker):
    """A threaded worker that, when it stops, still answers who has connected already.

    gunicorn keeps the listening socket open while it finishes, so that the kernel goes on
    accepting, and then resets whom nobody took from its queue.
    """

    def set_accept_enabled(self, enabled):
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()


bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = Worker
threads = 8
preload_app = True  # a wrong setting ends the start with its one line instead of a restart loop
control_socket_disable = True
logger_class = Logger
accesslog = "-"
