"""What the tests need of the service's inside: taken from here only, so that it may move."""
import contextlib
import json

import upkeep
from app import create_app
from cli import __version__ as VERSION
from models import STEPS
from runs.refusals import Unusable
from storage import database, open_database, sqlite
from storage.copy import BATCH as COPIED_AT_A_TIME
from terminal import age

SCHEMA_VERSION = len(STEPS) + 1

__all__ = ["COPIED_AT_A_TIME", "SCHEMA_VERSION", "VERSION", "Commands", "Unusable", "age",
           "close_database", "commands_on", "database", "open_database", "sqlite", "upkeep"]


def close_database():
    """End this thread's session with the database of the application that was made last."""
    database.close()


class Commands:
    """Runs `flask` commands as a person types them."""

    def __init__(self, app):
        self.runner = app.test_cli_runner()

    def __call__(self, *args, input=None):
        return self.runner.invoke(args=[str(arg) for arg in args], input=input)

    def json(self, *args):
        result = self(*args)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@contextlib.contextmanager
def commands_on(environ):
    """The commands with these settings, in this process: a process of their own takes longer."""
    yield Commands(create_app(environ))
    close_database()
