"""What the commands show a person on a terminal, and how they help one who mistypes (E.2, E.5)."""
import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import _NamedTextIOWrapper
from peewee import OperationalError

import upkeep
from app import create_app
from conftest import wait_task
from inside import VERSION, Commands, age
from server import PROJECT

FLASK = [sys.executable, "-m", "flask"]


class Terminal(Commands):
    """Runs commands as if a person saw their output; gives the text, with its colours if asked."""

    def __call__(self, *args, color=False, **more):
        result = self.runner.invoke(args=[str(arg) for arg in args], color=color, **more)
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture
def on_terminal(monkeypatch):
    """Standard output and standard error are a terminal of 80 columns."""
    monkeypatch.setattr(_NamedTextIOWrapper, "isatty", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def terminal(app, on_terminal):
    return Terminal(app)


@pytest.fixture
def settings(environ, monkeypatch):
    """Change settings before the service starts, as `app` has made it already: settings(KEY=…)."""
    def settings(**changed):
        return Terminal(create_app({**environ, **changed}, lambda: 1_795_424_400_000))
    return settings


@pytest.fixture
def release(define, start):
    """A run that waits for tests, then for one of two."""
    define("release", wait_task("tests"), wait_task("approval", tests="success"),
           wait_task("rollback", tests="failure"), wait_task("ship", approval="success"))
    return start("release", {"ref": "refs/tags/v1"})


def test_a_run_is_drawn_as_a_tree(release, callback, clock, terminal):
    clock.advance(minutes=2)
    callback(release, "tests")
    clock.advance(minutes=3)
    head, tests, approval, curl, ship, rollback = terminal(
        "workflowrun", "show", release["id"]).splitlines()
    assert head == (f"release {release['id']} running for 5m, started 5m ago by a webhook for "
                    "refs/tags/v1")
    assert tests == "  ✓ tests: succeeded after 2m, topic tests"
    assert approval == "    ● approval: waiting for 3m, topic approval"
    assert ship == "      ○ ship: notstarted (needs approval), topic ship"
    assert rollback == ("    – rollback: skipped (needs failure of tests, which succeeded), "
                        "topic rollback")


@pytest.mark.both
def test_every_task_of_a_run_is_drawn_once_below_its_first_dependency(define, start, terminal):
    chain = [wait_task(f"t{n}", **({f"t{n - 1}": "always"} if n else {})) for n in range(499)]
    run = start(define("deep", *chain[::-1], wait_task("both", t1="success", t0="success")))
    lines = terminal("workflowrun", "show", run["id"]).splitlines()
    marks = [line for line in lines[1:] if line.lstrip()[0] in "●○"]
    indents = {line.split()[1]: len(line) - len(line.lstrip()) for line in marks}
    assert len(marks) == 500
    assert (indents["t0:"], indents["t498:"], indents["both:"]) == (2, 998, 6)
    assert "(needs t1, t0)" in next(line for line in marks if "both" in line)


TOPIC = "it's \"a\" $HOME & 100%\nü"


def test_the_command_that_is_drawn_resolves_the_topic(define, start, terminal, client):
    run = start(define("release", wait_task("tests", TOPIC)))
    drawn = terminal("workflowrun", "show", run["id"]).splitlines()[2]
    curl, d, data, h, header, url = shlex.split(drawn)
    assert (curl, d, h, header) == ("curl", "-d", "-H", "Content-Type: application/json")
    assert url.startswith("http://127.0.0.1:8000/api/v2/callback?")
    answer = client.post(url.removeprefix("http://127.0.0.1:8000"), data=data,
                         content_type="application/json")
    assert answer.status_code == 200
    assert terminal("workflowrun", "show", run["id"]).startswith(f"release {run['id']} succeeded ")


def test_the_commands_fit_the_settings(release, on_terminal, settings):
    terminal = settings(PUBLIC_URL="https://ci.example/box/", SECRET_KEY="key",
                        ACCESS_TOKENS="one-token,two")
    _, _, curl, link, *_ = terminal("workflowrun", "show", release["id"]).splitlines()
    assert f" 'https://ci.example/box/api/v2/callback?workflowrun={release['id']}&topic=" in curl
    assert "one-token" not in curl
    echoed = subprocess.run(["sh", "-c", f"printf '%s\\n' {curl}"], capture_output=True, text=True,
                            env={"ACCESS_TOKENS": "one-token,two"})
    assert "Authorization: Bearer one-token" in echoed.stdout.splitlines()
    words = shlex.split(link)
    assert words[0] == "flask" and "signature=" in terminal(*words[1:])


@pytest.mark.parametrize("resolvers, drawn", [
    (["link"], ["for a signed link only", "flask workflowrun link"]),
    (["ci"], ["for the token 'ci' only", "curl -d"]),
    (["ci", "link"], ["for the token 'ci' or a signed link only", "curl -d",
                      "flask workflowrun link"])])
def test_only_commands_that_may_resolve_a_topic_are_drawn(
        define, start, on_terminal, settings, resolvers, drawn):
    run = start(define("release", {**wait_task("tests"), "resolvers": resolvers}))
    terminal = settings(SECRET_KEY="key")
    _, _, *lines = terminal("workflowrun", "show", run["id"]).splitlines()
    assert len(lines) == len(drawn)
    assert all(line.strip().startswith(words) for line, words in zip(lines, drawn))


@pytest.mark.parametrize("topic", ["a\nb", "a\x1bb", "a\u202eb"])
def test_no_command_is_drawn_that_a_terminal_could_change(
        define, start, on_terminal, settings, topic):
    run = start(define("release", wait_task("tests", topic)))
    assert "workflowrun link" not in settings(SECRET_KEY="key")("workflowrun", "show", run["id"])


def test_what_a_sender_writes_cannot_command_the_terminal(
        define, start, callback, terminal):
    define("release", wait_task("a\x1b[2Jb", "c\x9bd\ne"))
    run = start("release", {"ref": "\x1b]0;x\x07\u202e"})
    callback(run, "c\x9bd\ne", json={"said": "\x1b[2J\u202e"})
    for command in (["workflowrun", "show", run["id"]], ["workflowrun", "list"]):
        drawn = terminal(*command, color=True)
        assert all(char.isprintable() for char in click.unstyle(drawn).replace("\n", ""))


@pytest.mark.parametrize("options", [["--json"], []], ids=["asked for", "no terminal"])
def test_a_program_gets_the_run_as_json(release, flask, request, options):
    if options:
        request.getfixturevalue("on_terminal")
    assert flask.json("workflowrun", "show", release["id"], *options) == release


def test_a_run_of_an_event_says_so(define, client, terminal):
    run = client.post("/api/v2/event", query_string={"workflow": define("release")}, json={
        "specversion": "1.0", "id": "1", "source": "/ci", "type": "built"}).json
    assert "succeeded after 0s, started 0s ago by an event built from /ci" in terminal(
        "workflowrun", "show", run["id"])


def test_a_webhooks_parameter_named_event_is_no_event(define, start, client, terminal):
    define("release", wait_task("tests"), params=[{"name": "event"}])
    run = start("release", {"event": "push"})
    assert "by a webhook" in terminal("workflowrun", "show", run["id"])
    page = client.get("/api/v2/callback", headers={
        "Accept": "text/html", "User-Agent": "Mozilla/5.0"}, query_string={
        "workflowrun": run["id"], "topic": "tests"})
    assert page.status_code == 200


def test_runs_are_listed_with_age_and_what_they_wait_for(release, callback, clock, terminal):
    clock.advance(minutes=26 * 60)
    callback(release, "tests", "failed")
    line = terminal("workflowrun", "list").splitlines()[1]
    assert line.split() == [release["id"], "running", "1d", "release", "rollback"]


@pytest.mark.parametrize("milliseconds, text", [
    (-5, "0s"), (0, "0s"), (59_999, "59s"), (60_000, "1m"), (3_599_999, "59m"), (3_600_000, "1h"),
    (86_399_999, "23h"), (86_400_000, "1d"), (864_000_000, "10d")])
def test_ages_are_short(milliseconds, text):
    assert age(milliseconds) == text


def test_colours_are_for_terminals_and_can_be_switched_off(release, terminal, monkeypatch):
    for command in (["workflowrun", "list"], ["workflowrun", "show", release["id"]]):
        assert "\x1b[33mrunning\x1b[0m" in terminal(*command, color=True)
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in terminal(*command, color=True)
        monkeypatch.delenv("NO_COLOR")


def test_wait_shows_what_it_waits_for_and_clears_it(release, app, on_terminal, clock):
    clock.advance(minutes=3)
    result = app.test_cli_runner().invoke(
        args=["workflowrun", "wait", release["id"], "--timeout", "0.01"])
    assert result.stderr.startswith("\r\x1b[Kwaiting for tests (3m)")
    assert result.stderr.endswith("\r\x1b[K")
    assert json.loads(result.stdout)["id"] == release["id"] and result.exit_code == 124


def test_an_error_stands_on_a_line_of_its_own(app, on_terminal, monkeypatch):
    def purge(before):
        yield 50
        raise OperationalError("disk I/O error")
    monkeypatch.setattr(upkeep, "purge", purge)
    result = app.test_cli_runner().invoke(args=["workflowrun", "purge", "--older-than", "30d"])
    *_, line = result.stderr.split("\r\x1b[K")
    assert line.startswith("Error: the database cannot be used now") and result.exit_code == 1


# A real terminal

def typed(environ, *args):
    """What a person sees who types the command at a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen([*FLASK, *args], cwd=PROJECT, stdin=slave, stdout=slave, stderr=slave,
                          env={"PATH": os.environ["PATH"], "COLUMNS": "80", **environ}):
        os.close(slave)
        seen = b""
        try:
            while part := os.read(master, 65536):
                seen += part
        except OSError:  # how Linux says that nobody writes any more
            pass
    os.close(master)
    return seen.decode().replace("\r\n", "\n")


def test_on_a_real_terminal_a_run_is_drawn_and_waiting_leaves_no_trace(release, environ):
    environ = {**environ, "NO_COLOR": "1"}
    head, tests, curl, *_ = typed(environ, "workflowrun", "show", release["id"]).splitlines()
    assert head.startswith(f"release {release['id']} running for ")
    assert tests.startswith("  ● tests: waiting for ") and curl.startswith("      curl -d ")
    seen = typed(environ, "workflowrun", "wait", release["id"], "--timeout", "0")
    line, _, document = seen.rpartition("\r\x1b[K")
    assert line.startswith("\r\x1b[Kwaiting for tests (") and json.loads(document)
    assert "\x1b" in typed({**environ, "NO_COLOR": ""}, "workflowrun", "list")


# Checking and trying

def test_check_needs_no_database_and_makes_none(tmp_path):
    files = [PROJECT / "workflows" / name for name in ("release.json", "deploy-on-push.json")]
    (tmp_path / "broken.db").write_text("no database " * 100)
    for url in (f"sqlite:///{tmp_path}/new/signalbox.db", f"sqlite:///{tmp_path}/broken.db",
                "postgresql://127.0.0.1:1/nowhere"):
        result = subprocess.run(
            [*FLASK, "workflow", "check", *files], cwd=PROJECT, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "DATABASE_URL": url})
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "valid release\nvalid deploy-on-push\n"
    assert not (tmp_path / "new").exists()


def test_check_names_file_path_and_what_would_be_right(flask, tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps([
        {"name": "a", "tasks": [], "timeout": "5"}, {"name": "a b", "tasks": []}]))
    two.write_text(json.dumps({"name": "b", "triggers": [], "tasks": [
        {**wait_task("t"), "dependencies": [{"taskRef": "x"}, {"executionCondition": "ok"}]}]}))
    result = flask("workflow", "check", one, two)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{one}: 0.timeout: must be a whole number",
        f"{one}: 1.name: must be 1 to 100 of a-z A-Z 0-9 . _ -",
        f"{two}: triggers: must be an object",
        f"{two}: tasks.0.dependencies.1.taskRef: is required",
        f"{two}: tasks.0.dependencies.1.executionCondition: "
        "must be one of success, failure, always",
        f"{two}: tasks: task 't' depends on 'x', which is no task of this workflow",
        "Error: correct the lines above"]


def test_check_stores_nothing(flask, tmp_path):
    file = tmp_path / "both.json"
    file.write_text(json.dumps([{"name": "a", "tasks": []}, {"name": "b", "tasks": []}]))
    result = flask("workflow", "check", file)
    assert (result.exit_code, result.stdout) == (0, "valid a\nvalid b\n")
    assert flask.json("workflow", "list", "--json") == []
    twice = flask("workflow", "check", file, file)
    assert twice.exit_code == 1 and "a is defined twice" in twice.stderr


CONDITIONS = [{"field": "data.ref", "operation": "matches", "value": "v.*"},
              {"field": "data.draft.by", "operation": "in", "values": [None, "x"]}]
EVENT = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "built"}


@pytest.fixture
def tried(flask, define):
    """Try a payload on a workflow with two conditions: tried({...}); exit code and lines."""
    define("release", triggers={"webhook": {"conditions": CONDITIONS}, "event": {
        "conditions": [{"field": "event.type", "operation": "equals", "value": "built"}]}},
        secretEnv="RELEASE_SECRET")

    def tried(payload, *options):
        result = flask("workflow", "try", "release", "--payload", "-", *options,
                       input=json.dumps(payload))
        assert flask.json("workflowrun", "list", "--json") == []
        return result.exit_code, (result.stdout + result.stderr).splitlines()
    return tried


@pytest.mark.parametrize("payload, exit_code, judged", [
    ({"ref": "v1", "draft": {"by": None}}, 0, ["holds: 'v1'", "holds: null", "would start"]),
    ({"ref": "main"}, 1, ["does not hold: 'main'", "does not hold: missing", "would not start"]),
    ({"ref": 5, "draft": 1}, 1, ["does not hold: 5", "does not hold: missing", "would not start"]),
])
def test_try_says_which_conditions_hold_and_what_was_found(tried, payload, exit_code, judged):
    code, (trigger, *conditions) = tried(payload)
    conditions, outcome = conditions[:2], conditions[-1]
    assert (code, trigger) == (exit_code, "the webhook trigger is on")
    assert [f"{line.partition(':')[0]}: {line.rpartition('found ')[2]}".replace('"', "'")
            for line in conditions] == judged[:2]
    assert 'data.ref matches "v.*"' in conditions[0] and outcome == judged[2]


def test_try_reads_an_event_as_it_would_come(tried, flask, define):
    assert tried(EVENT, "--event") == (0, [
        "the event trigger is on", 'holds: event.type equals "built"; found "built"',
        "its sender must sign it with RELEASE_SECRET", "would start"])
    code, (line,) = tried({**EVENT, "source": "a b", "id": ""}, "--event")
    assert code == 1 and "id: must not be empty" in line and "source: must be a URI" in line


def test_try_judges_as_a_real_request_does(define, flask, client, tmp_path):
    define("release", triggers={"event": {"enabled": False}, "webhook": {"conditions": CONDITIONS}})
    file = tmp_path / "payload.json"
    for payload in ({"ref": "v1", "draft": {"by": "x"}}, {"ref": "v1"}, {"ref": ["v1"]}, {}):
        file.write_text(json.dumps(payload))
        tried = flask("workflow", "try", "release", "--payload", file)
        answer = client.post("/api/v2/webhook?workflow=release", json=payload).json
        assert (tried.exit_code == 0) == (answer["status"] == "succeeded")
    off = flask("workflow", "try", "release", "--payload", "-", "--event", input=json.dumps(EVENT))
    assert (off.exit_code, off.stdout) == (1, "the event trigger is off\nwould not start\n")


@pytest.mark.parametrize("raw, says", [("[]", "must be a JSON object"), ("{", "malformed JSON")])
def test_try_refuses_what_a_request_could_not_carry(define, flask, raw, says):
    result = flask("workflow", "try", define("release"), "--payload", "-", input=raw)
    assert (result.exit_code, result.stdout) == (1, "") and says in result.stderr
    assert len(result.stderr.splitlines()) == 1


# Mistyping

@pytest.mark.both
@pytest.mark.parametrize("command", ["show relase", "delete rel", "try releases --payload -"])
def test_a_mistyped_workflow_suggests_the_nearest(release, define, flask, command):
    define("nightly")
    result = flask("workflow", *command.split(), input="{}")
    assert result.exit_code == 1
    assert result.stderr.endswith("; did you mean 'release'?\n")


@pytest.mark.parametrize("verb, exit_code", [("show", 1), ("wait", 2), ("cancel", 1)])
def test_a_mistyped_run_suggests_the_nearest(release, start, flask, verb, exit_code):
    start("release")
    id = release["id"]
    for typed in (id[:12], id[1:], f"{id[:16]}{id[17]}{id[16]}{id[18:]}x"):
        result = flask("workflowrun", verb, typed)
        assert result.exit_code == exit_code and len(result.stderr.splitlines()) == 1
        assert result.stderr.endswith(f"; did you mean {id!r}?\n")


@pytest.mark.both
def test_what_is_near_nothing_suggests_nothing(release, flask):
    for command in (["workflow", "show", "xyz"], ["workflowrun", "show", "zzzz"],
                    ["workflow", "show", ""], ["workflowrun", "show", "%"],
                    ["workflowrun", "show", ""]):
        assert "did you mean" not in flask(*command).stderr
    assert flask("workflowrun", "list", "--workflow", "xyz").stdout == "no such runs\n"
    assert flask("workflowrun", "list", "--workflow", "relase").stdout == (
        "no such runs; did you mean 'release'?\n")


def test_a_mistyped_topic_suggests_the_nearest(release, on_terminal, settings, callback):
    link = settings(SECRET_KEY="key").runner.invoke(
        args=["workflowrun", "link", release["id"], "--topic", "aproval"])
    assert link.exit_code == 1
    answer = callback(release, "aproval", json={})
    assert answer.status_code == 404
    for said in (link.stderr, answer.json["detail"] + "\n"):
        assert said.endswith(f"run {release['id']} waits on topic 'aproval'; "
                             "did you mean 'approval'?\n")


def test_no_answer_suggests_a_workflow_or_a_run(release, client, callback):
    answers = [client.post("/api/v2/webhook?workflow=relase", json={}),
               callback({"id": release["id"][:-1]}, "tests", json={})]
    for answer in answers:
        assert answer.status_code == 404
        assert "did you mean" not in answer.text and release["id"] not in answer.text


# The shell

def completed(environ, *words):
    program = Path(sys.executable).with_name("flask")
    result = subprocess.run([program], cwd=PROJECT, capture_output=True, text=True, env={
        "PATH": os.environ["PATH"], **environ, "_FLASK_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["flask", *words]), "COMP_CWORD": str(len(words))})
    assert (result.returncode, result.stderr) == (0, "")
    return [line.partition(",")[2] for line in result.stdout.split()]


def test_the_shell_completes_names_and_ids(release, start, define, environ):
    define("nightly")
    newer = start("release")["id"]
    assert completed(environ, "workflow", "show", "re") == ["release"]
    assert completed(environ, "workflowrun", "list", "--workflow", "") == ["nightly", "release"]
    assert completed(environ, "workflowrun", "cancel", newer[:20]) == [newer]


@pytest.mark.parametrize("url", ["sqlite:////proc/no/signalbox.db",
                                 "postgresql://127.0.0.1:1/nowhere"])
def test_the_shell_completes_nothing_while_the_database_is_away(url):
    assert completed({"DATABASE_URL": url}, "workflow", "show", "re") == []


# The version, and help

def test_status_shows_the_version_that_the_package_has(flask):
    assert flask.json("status", "--json")["version"] == VERSION
    assert "version = attr: cli.__version__" in (PROJECT / "setup.cfg").read_text()


def test_help_needs_no_database(tmp_path):
    result = subprocess.run([*FLASK, "workflow", "show", "--help"], cwd=PROJECT, text=True, env={
        "PATH": os.environ["PATH"], "DATABASE_URL": "sqlite:////proc/no/signalbox.db"},
        capture_output=True)
    assert result.returncode == 0 and "definition" in result.stdout
