"""Small fixtures: a service on a database of its own, a clock to move, its client and commands."""
import json
import logging
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import postgres_server as postgres
from app import create_app
from inside import Commands, close_database, sqlite, upkeep
from server import as_installed

MINUTE = 60_000
MEMORY = "/dev/shm"
LONGEST = ("test_recipes", "test_postgres", "test_durability", "test_server")  # a minute each


class Clock:
    """The service's clock in milliseconds since 1970; it stands still until a test moves it."""

    def __init__(self):
        self.now = 1_795_424_400_000  # 2026-11-23T09:00:00Z

    def __call__(self):
        return self.now

    def advance(self, minutes=0, milliseconds=0):
        self.now += minutes * MINUTE + milliseconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server of the tests' own, or None where there are no programs for one."""
    with postgres.running() as server:
        yield server


def pytest_generate_tests(metafunc):
    """Tests run on SQLite; those marked `both` have a second turn on PostgreSQL."""
    if metafunc.definition.get_closest_marker("both"):
        metafunc.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


def pytest_collection_modifyitems(items):
    """The long tests first, and of those the longest: no core waits for another at the end."""
    items.sort(key=lambda item: (item.get_closest_marker("server") is None,
                                 item.path.stem not in LONGEST))


def session(url):
    """A session of another program's with a database: closing(session(url))."""
    if url.startswith("sqlite"):
        return sqlite3.connect(file_of(url), isolation_level=None)
    return psycopg.connect(url, autocommit=True)


def sql(url, statement, *values):
    """The rows that another program gets for a statement."""
    with closing(session(url)) as connection:
        return connection.execute(statement, values).fetchall()


def file_of(url):
    return url.removeprefix("sqlite:///").partition("?")[0]


@pytest.fixture
def tmp_path(request, tmp_path):
    """The test's folder: in memory, where a sync takes no time, unless real processes use it."""
    if request.node.get_closest_marker("server") or not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="signalbox-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory):
    """A SQLite file with the tables and nothing in them: to copy one is faster than to make one."""
    file = tmp_path_factory.mktemp("empty") / "signalbox.db"
    create_app({"DATABASE_URL": f"sqlite:///{file}"})
    close_database()
    return file


@pytest.fixture
def database_url(request, tmp_path):
    """An empty database: SQLite's, unless the test is marked `both`."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path}/signalbox.db"
    server = request.getfixturevalue("postgres_server")
    if server is None:
        pytest.skip("no PostgreSQL programs here (Debian: apt install postgresql)")
    return server.empty()


@pytest.fixture
def environ(database_url):
    """The service's settings; a test that needs others overrides this fixture."""
    return {"DATABASE_URL": database_url, **as_installed(database_url)}


@pytest.fixture(autouse=True, scope="session")
def impatient():
    """A file that another program holds is given up soon by what runs in the tests' process;
    test_durability.py tries how long services wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "BUSY_SECONDS", 0.1)
        yield


@pytest.fixture
def app(environ, clock, empty_file):
    url = environ["DATABASE_URL"]
    if url.startswith("sqlite") and not os.path.exists(file_of(url)):
        shutil.copyfile(empty_file, file_of(url))
    yield create_app(environ, clock)
    close_database()
    logging.getLogger("signalbox").setLevel(logging.NOTSET)  # a command may have raised it


@pytest.fixture
def small_batches(monkeypatch):
    """What looks after all runs takes on two of them at a time."""
    monkeypatch.setattr(upkeep, "BATCH", 2)


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def flask(app):
    return Commands(app)


def wait_task(name, topic=None, timeout=None, **dependencies):
    """A wait-for-event task; dependencies as name="success" | "failure" | "always"."""
    task = {"name": name, "type": "eventwait",
            "params": [{"name": "topic", "value": topic or name}]}
    if timeout is not None:
        task["timeout"] = timeout
    if dependencies:
        task["dependencies"] = [{"taskRef": ref, "executionCondition": condition}
                                for ref, condition in dependencies.items()]
    return task


@pytest.fixture
def define(flask):
    """Apply a workflow: define("release", wait_task("tests"), timeout=60); returns its name."""
    def define(name, *tasks, **keys):
        definition = {"name": name, "tasks": tasks, **keys}
        result = flask("workflow", "apply", "-", input=json.dumps(definition))
        assert result.exit_code == 0, result.output
        return name
    return define


@pytest.fixture
def start(client):
    """Start a run through the webhook and return it: start("release", {"version": 1})."""
    def start(workflow, payload=None, **headers):
        answer = client.post("/api/v2/webhook", query_string={"workflow": workflow},
                             json=payload or {}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json
    return start


@pytest.fixture
def callback(client):
    """Call back: callback(run, "tests", status="failed", json={...}); without json it is a GET."""
    def callback(run, topic, status=None, json=None):
        query = {"workflowrun": run["id"], "topic": topic, **({"status": status} if status else {})}
        if json is None:
            return client.get("/api/v2/callback", query_string=query)
        return client.post("/api/v2/callback", query_string=query, json=json)
    return callback


@pytest.fixture
def show(flask):
    """The run as it is stored now: show(run)."""
    return lambda run: flask.json("workflowrun", "show", run["id"])


def statuses(run):
    """The status of each task by name."""
    return {task["name"]: task["status"] for task in run["tasks"]}
