"""The entry point: `gunicorn wsgi:app`, and where `flask` finds the application."""
import logging
import sys

from app import create_app
from runs.refusals import Unusable, one_line
from web.logs import Line

handler = logging.StreamHandler()
handler.setFormatter(Line("%(asctime)s %(levelname)s %(message)s"))
logging.basicConfig(level=logging.INFO, handlers=[handler])

try:
    app = create_app()
except Unusable as error:
    print(f"signalbox cannot start: {one_line(error)}", file=sys.stderr)
    raise SystemExit(3 if "wait" in sys.argv[1:3] else 1)  # whose 1 says that a run has ended
