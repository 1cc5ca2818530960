"""The entry point: `gunicorn wsgi:app`, and where `flask` finds the application."""
import gc
import logging
import os
import signal
import sys

# Before the imports, which take a while. A command that is stopped puts away what is half made, and
# `wait` never ends with 1 but for a run that has ended.
if "FLASK_RUN_FROM_CLI" in os.environ and "run" not in sys.argv:
    signal.signal(signal.SIGTERM, lambda *signal: sys.exit(143))
if WAITS := ("workflowrun", "wait") in zip(sys.argv, sys.argv[1:]):
    signal.signal(signal.SIGINT, lambda *signal: sys.exit(130))

from app import address, create_app
from cli import __version__
from runs.refusals import Unusable, one_line
from web.logs import Line, rewrite_request

# Whoever closed one of them shall get a command's exit code all the same.
sys.stdin, sys.stdout, sys.stderr = [stream or open(os.devnull, "r+") for stream in (
    sys.stdin, sys.stdout, sys.stderr)]
gc.set_threshold(10_000)  # at 700 a megabyte of small lists took twice as long to parse
# No line shows these, and finding them out takes a sixth of its time (Python's Logging HOWTO,
# "Optimization").
logging._srcfile = None
logging.logThreads = logging.logMultiprocessing = logging.logAsyncioTasks = False
handler = logging.StreamHandler()
handler.setFormatter(Line("%(asctime)s %(levelname)s %(message)s"))
logging.basicConfig(level=logging.INFO, handlers=[handler])
logging.getLogger("werkzeug").addFilter(rewrite_request)

try:
    app = create_app()
except Unusable as error:
    print(f"signalbox cannot start: {one_line(error)}", file=sys.stderr)
    raise SystemExit(3 if WAITS else 1)

if "FLASK_RUN_FROM_CLI" not in os.environ:
    log, settings = logging.getLogger("signalbox"), app.config["SETTINGS"]
    log.info("Signalbox %s starts, to listen on http://%s", __version__, address(settings))
    if not settings["ACCESS_TOKENS"]:
        log.warning("the doors are open: whoever reaches this address may call; set ACCESS_TOKENS")
