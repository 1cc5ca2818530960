"""The entry point: `gunicorn wsgi:app`, and where `flask` finds the application."""
import logging

from app import create_app
from errors import Unusable

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

try:
    app = create_app()
except Unusable as error:
    raise SystemExit(f"signalbox cannot start: {error}")
