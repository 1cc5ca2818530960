"""What `workflowrun wait` exits with: 1 always means that the run has ended (contract 5); and
what commands print, in whatever encoding (issue G)."""
import json
import os
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from threading import Timer

import pytest

from app import create_app
from conftest import file_of, session, wait_task
from inside import Commands, database
from server import PROJECT

FLASK = [sys.executable, "-m", "flask"]


@pytest.fixture
def run(define, start):
    return start(define("release", wait_task("tests")))


@contextmanager
def held(url):
    """Another program lets nobody read the database."""
    database.close()
    with closing(session(url)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        yield other


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("storage.sqlite.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("storage.sqlite.HURRY_SECONDS", 0.02)


@pytest.mark.parametrize("seconds", ["0", "0.1", "0.5"])
def test_a_database_that_is_held_at_the_timeout_is_124(run, flask, environ, impatient, seconds):
    with held(environ["DATABASE_URL"]):
        result = flask("workflowrun", "wait", run["id"], "--timeout", seconds)
    assert (result.exit_code, result.stdout) == (124, "")
    [line] = result.stderr.splitlines()
    assert "asked again" in line and "another program holds the database" in line


HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("PRAGMA locking_mode = EXCLUSIVE")
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("status, exit_code", [("succeeded", 0), ("failed", 1)])
def test_a_database_that_is_held_at_the_start_is_asked_again(
        run, flask, callback, environ, impatient, status, exit_code):
    callback(run, "tests", status)
    database.close()
    with subprocess.Popen([sys.executable, "-c", HOLD, file_of(environ["DATABASE_URL"])],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        timer = Timer(0.5, holder.kill)
        timer.start()
        result = flask("workflowrun", "wait", run["id"], "--timeout", "20")
        timer.join()
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (exit_code, status)
    assert "asked again" in result.stderr


@pytest.mark.parametrize("url", [
    "postgresql://127.0.0.1:1/nowhere", "postgresql:///name?host=/nowhere"], ids=["port", "socket"])
def test_a_server_that_is_away_is_asked_again_until_the_timeout(clock, url):
    try:
        flask = Commands(create_app({"DATABASE_URL": url}, clock))
        result = flask("workflowrun", "wait", "5f0c", "--timeout", "1.5")
    finally:
        database.close()
    assert (result.exit_code, result.stdout) == (124, "")
    assert len(result.stderr.splitlines()) == 1 and "PostgreSQL is away" in result.stderr


def waiting(environ, run, *options, **more):
    return subprocess.Popen([*FLASK, "workflowrun", "wait", run["id"], *options], cwd=PROJECT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={"PATH": os.environ["PATH"], **environ}, **more)


@pytest.mark.parametrize("setting", [
    {"MAX_CONTENT_LENGTH": "much"}, {"DATABASE_URL": "mysql://x/y"}, {"PORT": "-1"},
    {"DATABASE_URL": "sqlite:////proc/no/such.db"}, {"DATABASE_URL": "sqlite:////dev/null"},
    {"DATABASE_URL": f"sqlite:///{PROJECT}/README.md"}, {"DATABASE_URL": "sqlite:///:memory:"},
], ids=str)
def test_what_it_cannot_tell_is_3(run, environ, setting):
    mode = (PROJECT / "README.md").stat().st_mode
    process = waiting({**environ, **setting}, run, "--timeout", "5")
    out, said = process.communicate(timeout=30)
    assert (PROJECT / "README.md").stat().st_mode == mode  # a file that is not ours stays as it is
    assert (process.returncode, out, len(said.splitlines())) == (3, "", 1), said


@pytest.mark.parametrize("damage", ["text", "newer", "another application"])
def test_a_database_that_is_not_ours_is_3(run, flask, environ, clock, tmp_path, damage):
    database.close()
    url = f"sqlite:///{tmp_path}/other.db"
    if damage == "text":
        (tmp_path / "other.db").write_text("minutes of the board meeting " * 100)
    else:
        with closing(session(url)) as other:
            other.execute("CREATE TABLE invoice (id INTEGER)")
            if damage == "newer":
                other.execute(f"PRAGMA application_id = {0x51674278}")
                other.execute("PRAGMA user_version = 999")
    process = waiting({"DATABASE_URL": url}, run)
    out, said = process.communicate(timeout=30)
    assert (process.returncode, out, len(said.splitlines())) == (3, "", 1), said


@pytest.mark.server
@pytest.mark.parametrize("number, exit_code", [(signal.SIGINT, 130)])
def test_ctrl_c_is_130(run, environ, number, exit_code):
    database.close()
    process = waiting(environ, run)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=3)
    process.send_signal(number)
    out, said = process.communicate(timeout=10)
    assert (process.returncode, out, said) == (exit_code, "", "")


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "peewee":  # the application is being imported
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
"""


@pytest.mark.server
def test_ctrl_c_is_130_before_it_has_begun_too(run, environ, tmp_path):
    database.close()
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    out, said, code = ended(waiting({**environ, "PYTHONPATH": str(tmp_path)}, run))
    assert (code, out, said) == (130, "", "")


@pytest.mark.server
@pytest.mark.parametrize("options", [["--debug"], ["--app", "wsgi"]])
def test_a_wrong_setting_is_3_with_options_of_flask_too(run, environ, options):
    database.close()
    process = subprocess.Popen(
        [*FLASK, *options, "workflowrun", "wait", run["id"]], cwd=PROJECT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environ, "THREADS": "no"})
    out, said, code = ended(process)
    assert (code, out, len(said.splitlines())) == (3, "", 1), said


@pytest.mark.server
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-"])
def test_an_exit_code_is_the_same_without_somewhere_to_write(environ, closed):
    database.close()
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *FLASK, "workflowrun", "wait", "nope"],
        cwd=PROJECT, env={"PATH": os.environ["PATH"], **environ}, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr


@pytest.mark.server
def test_only_wait_itself_ends_with_3(environ):
    database.close()
    done = subprocess.run(
        [*FLASK, "workflowrun", "list", "--containing", "workflowrun wait"], cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **environ, "THREADS": "no"}, capture_output=True)
    assert done.returncode == 1


def ended(process):
    """What the process wrote, and its exit code."""
    return *process.communicate(timeout=30), process.returncode


# In whatever encoding

TERMINALS = {"Latin-1": {"PYTHONIOENCODING": "latin-1"}, "ASCII": {"PYTHONIOENCODING": "ascii"},
             "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
             "Greek": {"PYTHONIOENCODING": "iso8859-7"}, "UTF-8": {"PYTHONIOENCODING": "utf-8"}}
WORDS = ("a \u2013 dash, ü, \u65e5\u672c, \U0001f600, \x9b, \x9d, \x1b[2J, \u202a\u202e, "
         "\u2066\u2069, \u200e\u200f, \u2028\u2029")


@pytest.mark.parametrize("terminal", TERMINALS.values(), ids=TERMINALS)
def test_a_run_is_printed_in_every_terminals_encoding(define, start, callback, environ, terminal):
    run = start(define("release", wait_task("tests", WORDS), displayName=WORDS), {"text": WORDS})
    callback(run, WORDS, json={"said": WORDS})
    database.close()
    environ = {"PATH": os.environ["PATH"], **environ, **terminal}
    commands = [["workflowrun", "show", run["id"]], ["workflow", "list"]]
    if "LC_ALL" in terminal:  # every process takes half a second
        commands += [["workflowrun", "wait", run["id"]], ["workflowrun", "list", "--json"],
                     ["workflow", "show", "release"], ["workflow", "list", "--json"],
                     ["workflowrun", "list"]]
    for command in commands:
        done = subprocess.run([*FLASK, *command], cwd=PROJECT, capture_output=True, env=environ)
        assert (done.returncode, done.stderr) == (0, b""), (command, done.stderr)
        encoding = terminal.get("PYTHONIOENCODING", "ascii")
        text = done.stdout.decode(encoding)
        assert all(char.isprintable() for char in text.replace("\n", "")), (command, text)
        if "--json" in command or command[1] in ("wait", "show"):
            assert WORDS in strings(json.loads(text))


def strings(value):
    """All the texts in a JSON value."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(strings, parts))


ODD = "\x1b]0;x\x07\x9b\u202e\u2028"


@pytest.mark.parametrize("definition", [
    {"name": "a", "tasks": [wait_task(ODD, **{"b" + ODD: "success"}),
                            wait_task("b" + ODD, **{ODD: "success"})]},
    {"name": ODD}, {"name": "a", ODD: 1, "tasks": [wait_task(ODD, **{"c" + ODD: "success"})]},
    {"name": "a", "tasks": [{"name": ODD, "type": ODD}]},
    {"name": "a", "tasks": [wait_task(ODD), wait_task(ODD)]},
    {"name": "a", "triggers": {"webhook": {"conditions": [
        {"field": ODD, "operation": ODD, "value": "("}]}}},
], ids=["circle", "name", "reference", "type", "twice", "condition"])
@pytest.mark.parametrize("verb", ["check", "apply"])
def test_mistakes_are_named_without_commanding_the_terminal(flask, tmp_path, definition, verb):
    file = tmp_path / f"odd{ODD}.json"
    file.write_text(json.dumps(definition))
    result = flask("workflow", verb, file)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert all(char.isprintable() for char in result.output.replace("\n", ""))
    assert "\\u202e" in result.stderr and "odd\\u001b" in result.stderr


@pytest.mark.parametrize("command", [
    ["workflow", "show", ODD], ["workflow", "apply", ODD], ["workflow", "delete", ODD],
    ["workflowrun", "show", ODD], ["workflowrun", "list", "--status", ODD],
    ["workflowrun", "list", "--limit", ODD], ["workflow", ODD], ["db", "backup", f"no/{ODD}"],
    ["db", "copy", ODD, ODD], ["workflowrun", "purge", "--older-than", ODD]], ids=lambda c: c[1])
def test_what_was_typed_is_repeated_without_commanding_the_terminal(flask, command):
    result = flask(*command)
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
    assert all(char.isprintable() for char in result.output.replace("\n", ""))
