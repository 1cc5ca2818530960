"""The entry point: `gunicorn wsgi:app`, and where `flask` finds the application."""
import logging
import os

from app import address, create_app
from cli import __version__
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

if "FLASK_RUN_FROM_CLI" not in os.environ:
    log, settings = logging.getLogger("signalbox"), app.config["SETTINGS"]
    log.info("Signalbox %s starts, to listen on http://%s", __version__, address(settings))
    if not settings["ACCESS_TOKENS"]:
        log.warning("the doors are open: whoever reaches this address may call; set ACCESS_TOKENS")
