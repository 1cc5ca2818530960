"""The entry point: `gunicorn wsgi:app`, and where `flask` finds the application."""
import logging

from app import create_app
from errors import Unusable, one_line
from security import Mask

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
for handler in logging.getLogger().handlers:
    handler.addFilter(Mask())

try:
    app = create_app()
except Unusable as error:
    raise SystemExit(f"signalbox cannot start: {one_line(error)}")
