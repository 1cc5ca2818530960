"""gunicorn's settings for a small machine with two cores; `gunicorn wsgi:app` reads them itself."""
import re

from gunicorn.glogging import Logger as GunicornLogger

from app import address
from storage import database
from web import answers, logs
from wsgi import app


class Logger(GunicornLogger):
    """gunicorn's logs, in lines of our own making: what a caller wrote is not repeated in them."""

    def setup(self, cfg):
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                handler.setFormatter(logs.Line(self.error_fmt, self.datefmt))

    def access(self, resp, req, environ, request_time):
        self.access_log.info(
            "%s %s %s bytes=%s ms=%d", logs.plain(environ.get("REMOTE_ADDR") or "-"),
            logs.request_line(environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"),
                              environ.get("QUERY_STRING", "")),
            str(resp.status).partition(" ")[0], resp.sent, request_time.total_seconds() * 1000)

    def warning(self, msg, *args, **kwargs):
        msg = re.sub("(?s)^(Invalid request from .*?: ).*", r"\1it cannot be read", msg)
        super().warning(msg, *args, **kwargs)

    def exception(self, msg, *args, **kwargs):
        super().exception("an error while a request was handled")


def when_ready(server):
    if not database.ready:
        server.log.warning("the database cannot be used yet; requests are answered 503 until then")


def pre_request(worker, req):
    answers.connection.close = req.force_close


settings = app.config["SETTINGS"]
bind = address(settings)
workers, threads = settings["WEB_CONCURRENCY"], settings["THREADS"]
worker_class = "gthread" if threads > 1 else "sync"
limit_request_line = 8190
timeout = graceful_timeout = 30  # deploy/ builds on it: nginx waits shorter, systemd longer
forwarded_allow_ips = ""  # only TRUSTED_PROXIES decides whose headers count
preload_app = True  # it is made already: what is wrong with a setting has ended the start
control_socket_disable = True
logger_class = Logger
accesslog = "-"
