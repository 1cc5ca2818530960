"""gunicorn's settings for a small machine with two cores; `gunicorn wsgi:app` reads them itself."""
import os

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "gthread"
threads = 8
preload_app = True  # a wrong setting ends the start with its one line instead of a restart loop
control_socket_disable = True
