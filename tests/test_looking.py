"""Looking at a run, and naming it by what it is kept with (contract 4.3, 4.4, 5, 8)."""
import json
from html.parser import HTMLParser

import pytest

from conftest import statuses, wait_task

PAGE = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "User-Agent": "Mozilla/5.0"}
COMMIT = "3f0c2b7"


@pytest.fixture
def look(client):
    """A GET with these parameters: look(workflowrun=ID)."""
    return lambda headers={}, **query: client.get(
        "/api/v2/callback", query_string=query, headers=headers)


@pytest.fixture
def release(define):
    return define("release", wait_task("tests"),
                  {**wait_task("approval", tests="success"), "message": "$(params.data.text)"},
                  correlate="data.after", displayName="Release approval")


class Links(HTMLParser):
    """The addresses of a page's links, its other tags' names, and its text."""

    def __init__(self, answer):
        super().__init__()
        self.links, self.names, self.text = [], set(), ""
        self.feed(answer.text)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_data(self, data):
        self.text += data


# Looking

def test_a_get_that_only_names_a_run_shows_it_and_changes_nothing(release, start, look, show,
                                                                  clock):
    run = start(release, {"after": COMMIT})
    clock.advance(minutes=5)
    for query in ({"workflowrun": run["id"]}, {"workflow": "release", "correlate": COMMIT},
                  {"workflowrun": run["id"], "access_token": "any"}):
        answer = look(**query)
        assert (answer.status_code, answer.json) == (200, show(run))
    assert statuses(show(run)) == {"tests": "waiting", "approval": "notstarted"}


@pytest.mark.parametrize("headers, status", [
    ({"Sec-Purpose": "prefetch"}, 503), ({"Purpose": "prefetch"}, 503),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 200)], ids=str)
def test_who_may_not_resolve_by_a_get_may_not_look_either(release, start, look, headers, status):
    assert look(headers, workflowrun=start(release)["id"]).status_code == status


@pytest.mark.parametrize("more", [{"topc": "tests"}, {"Topic": "tests"}, {"status": "failed"},
                                  {"x": "1"}, {"by": "Ada"}])
def test_any_further_parameter_makes_a_missing_topic_a_mistake(release, start, look, show, more):
    run = start(release, {"after": COMMIT})
    for query in {"workflowrun": run["id"]}, {"workflow": "release", "correlate": COMMIT}:
        answer = look(**query, **more)
        assert answer.status_code == 400 and "topic" in answer.json["errors"]
    assert show(run) == run


@pytest.mark.parametrize("query, status", [
    ({"workflowrun": "nobody"}, 404), ({"workflow": "release", "correlate": "nothing"}, 404),
    ({"workflow": "nothing", "correlate": COMMIT}, 404), ({"workflow": "release"}, 400),
    ({"correlate": COMMIT}, 400), ({}, 400), ({"workflowrun": ""}, 400)])
def test_a_run_that_is_not_there(release, start, look, query, status):
    start(release, {"after": COMMIT})
    assert look(**query).status_code == status


def test_both_ways_at_once_are_400(release, start, look):
    run = start(release, {"after": COMMIT})
    answer = look(workflowrun=run["id"], workflow="release", correlate=COMMIT)
    assert answer.status_code == 400


def test_looking_shows_what_is_overdue_as_ended_and_stores_nothing(define, start, look, clock,
                                                                   flask):
    run = start(define("slow", wait_task("tests", timeout=5)))
    clock.advance(minutes=6)
    assert statuses(look(workflowrun=run["id"]).json) == {"tests": "timedout"}
    assert flask.json("status", "--json")["overdue"] == 1


def test_head_of_a_run_is_405(release, start, client):
    run = start(release)
    assert client.head(f"/api/v2/callback?workflowrun={run['id']}").status_code == 405


class TestWithTokens:
    @pytest.fixture
    def environ(self, environ):
        return {**environ, "ACCESS_TOKENS": "token"}

    def test_looking_needs_a_token(self, release, start, look):
        run = start(release, Authorization="Bearer token")
        assert look(workflowrun=run["id"]).status_code == 401
        assert look(workflowrun="nobody").status_code == 401
        assert look(workflowrun=run["id"], access_token="token").json["id"] == run["id"]


# The run as a page

def test_a_person_sees_the_run_as_a_page_without_buttons(release, start, look, callback, clock,
                                                         client, show):
    run = start(release, {"after": COMMIT, "text": "Is it good?", "secret": "hidden"})
    clock.advance(minutes=3)
    client.post("/api/v2/callback", query_string={"workflowrun": run["id"], "topic": "tests"},
                data={"status": "succeeded", "comment": "all <green>"})
    clock.advance(minutes=2)
    before = show(run)
    answer = look(PAGE, workflowrun=run["id"])
    page = Links(answer)
    text = " ".join(page.text.split())
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    assert not {"form", "button", "script", "img"} & page.names
    for shown in ("Release approval", "● Running", "5 minutes ago",
                  "✓ tests succeeded after 3 minutes", "Comment: all <green>",
                  "● approval waiting for 2 minutes", "Is it good?"):
        assert shown in text, text
    assert "hidden" not in text and "all" not in page.names and COMMIT not in text
    assert '<li class="depth0">' in answer.text and '<li class="depth1">' in answer.text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in answer.text
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert show(run) == before


def test_a_program_gets_json_where_a_person_gets_the_page(release, start, look):
    run = start(release)
    assert look({"Accept": "*/*"}, workflowrun=run["id"]).is_json
    assert not look(PAGE, workflowrun=run["id"]).is_json


# A message

@pytest.mark.parametrize("text, links, shown", [
    ("see https://git.example.org/a?b=c&d=%20#e.", ["https://git.example.org/a?b=c&d=%20#e"], None),
    ("(http://a.example/x), HTTP://B.example", ["http://a.example/x", "HTTP://B.example"], None),
    ("javascript:alert(1) data:text/html,x ftp://a.example mailto:a@b.example www.a.example", [],
     None),
    ('<a href="https://evil.example">x</a>', ["https://evil.example"], None),
    ("<script>alert(1)</script>", [], None),
    ("https://a.example/\"onclick='x'", ["https://a.example/"], None),
    ("https://a.example/<b>", ["https://a.example/"], None),
    ("https://a.example/\x1b[31m\n\u202eevil", ["https://a.example/"],
     "https://a.example/ [31m  evil"),
    ("{{ 7 * 7 }} {% x %}", [], None)], ids=str)
def test_a_strangers_message_is_text_in_which_only_http_addresses_are_links(
        release, start, callback, look, text, links, shown):
    run = start(release, {"after": COMMIT, "text": text})
    callback(run, "tests")
    for query in {}, {"topic": "approval"}:
        page = Links(look(PAGE, workflowrun=run["id"], **query))
        assert page.links == links
        assert (shown or text) in page.text
        assert not {"script", "b"} & page.names


def test_ten_thousand_letters_are_cut(release, start, look, callback):
    run = start(release, {"text": "x" * 10_000})
    callback(run, "tests")
    assert Links(look(PAGE, workflowrun=run["id"], topic="approval")).text.count("x" * 2000) == 1
    assert "x" * 2001 not in look(PAGE, workflowrun=run["id"], topic="approval").text


# Named by what it is kept with

@pytest.mark.both
def test_a_callback_names_the_run_by_workflow_and_value(release, start, client, show):
    run, other = start(release, {"after": COMMIT}), start(release, {"after": "other"})
    answer = client.post("/api/v2/callback", json={"passed": 5}, query_string={
        "workflow": "release", "correlate": COMMIT, "topic": "tests"})
    assert (answer.status_code, answer.data) == (200, b"")
    assert statuses(show(run))["tests"] == "succeeded"
    assert statuses(show(other))["tests"] == "waiting"
    answer = client.get("/api/v2/callback", query_string={
        "workflow": "release", "correlate": "other", "topic": "tests", "status": "failed"})
    assert answer.status_code == 200
    assert statuses(show(other))["tests"] == "failed"


@pytest.mark.both
def test_the_newest_run_counts_and_running_before_ended(release, start, look, flask):
    old, middle, new = [start(release, {"after": COMMIT}) for _ in range(3)]
    named = {"workflow": "release", "correlate": COMMIT}
    assert look(**named).json["id"] == new["id"]
    flask("workflowrun", "cancel", new["id"])
    assert look(**named).json["id"] == middle["id"]
    for run in old, middle:
        flask("workflowrun", "cancel", run["id"])
    assert look(**named).json["id"] == new["id"]


def test_a_form_may_name_it_too(release, start, client, show):
    run = start(release, {"after": COMMIT})
    answer = client.post("/api/v2/callback", headers=PAGE, data={"status": "failed"}, query_string={
        "workflow": "release", "correlate": COMMIT, "topic": "tests"})
    assert answer.status_code == 200 and statuses(show(run))["tests"] == "failed"


# Commands

def ids(runs):
    return [run["id"] for run in runs]


@pytest.mark.both
def test_list_narrows_by_age_text_and_value(release, start, flask, clock):
    one = start(release, {"after": COMMIT, "text": "Größe 100% \"quoted\" a_b"})
    clock.advance(minutes=60)
    two = start(release, {"after": "other", "text": "axb"})

    def listed(*options):
        return ids(flask.json("workflowrun", "list", "--json", *options))
    assert listed() == ids([two, one])
    assert listed("--since", "59m") == ids([two])
    assert listed("--since", "60m") == ids([two, one])
    for text in "Größe", "100%", '"quoted"', "a_b", COMMIT:
        assert listed("--containing", text) == ids([one])
    assert listed("--containing", "100_") == []
    assert listed("--correlate", "other") == ids([two])
    assert listed("--correlate", "other", "--containing", COMMIT) == []
    assert listed("--since", "2h", "--workflow", "release") == ids([two, one])


def test_cancel_ends_all_that_run_of_a_workflow(release, define, start, callback, flask, show):
    runs = [start(release) for _ in range(3)]
    other, ended = start(define("other", wait_task("a"))), start(define("short", wait_task("a")))
    callback(runs[0], "tests", "failed")
    result = flask("workflowrun", "cancel", "--workflow", "release")
    assert (result.exit_code, result.stdout) == (0, "cancelled 2 runs\n")
    assert [show(run)["status"] for run in runs] == ["failed", "cancelled", "cancelled"]
    assert show(other)["status"] == show(ended)["status"] == "running"


@pytest.mark.parametrize("options, code", [
    ([], 2), (["id", "--workflow", "release"], 2), (["--workflow", "relase"], 1)])
def test_cancel_needs_one_of_the_two(release, flask, options, code):
    result = flask("workflowrun", "cancel", *options)
    assert result.exit_code == code
    if code == 1:
        assert "did you mean 'release'?" in result.output


def test_show_draws_messages_results_and_who_answered(release, start, client, flask, monkeypatch):
    monkeypatch.setattr("cli.columns", lambda *stream: 100)
    run = start(release, {"text": "Is it good?\x1b[31m"})
    for topic, form in ("tests", {"comment": "fine"}), ("approval", {}):
        client.post("/api/v2/callback", data={"status": "succeeded", **form},
                    query_string={"workflowrun": run["id"], "topic": topic})
    client.post("/api/v2/callback", json={"n": 1}, query_string={"workflowrun": start(
        release)["id"], "topic": "tests"})
    shown = flask("workflowrun", "show", run["id"]).stdout
    assert "comment: fine" in shown and "Is it good? [31m" in shown and "\x1b[31m" not in shown
    newest = flask.json("workflowrun", "list", "--json", "--limit", "1")[0]
    assert 'data: {"n": 1}' in flask("workflowrun", "show", newest["id"]).stdout
    assert json.loads(flask("workflowrun", "show", run["id"], "--json").stdout)["id"] == run["id"]
