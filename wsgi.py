"""The entry point: `gunicorn wsgi:app`, and where `flask` finds the application."""
import logging

from app import create_app
from runs.refusals import Unusable, one_line
from web.logs import Line, rewrite_request

handler = logging.StreamHandler()
handler.setFormatter(Line("%(asctime)s %(levelname)s %(message)s"))
logging.basicConfig(level=logging.INFO, handlers=[handler])
logging.getLogger("werkzeug").addFilter(rewrite_request)

try:
    app = create_app()
except Unusable as error:
    raise SystemExit(f"signalbox cannot start: {one_line(error)}")
