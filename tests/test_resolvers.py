"""Named tokens, and who may end which task (contract 4.3, 7.1, 8)."""
import pytest

from app import create_app
from conftest import statuses, wait_task
from inside import Unusable

PAGE = {"Accept": "text/html", "User-Agent": "Mozilla/5.0"}


@pytest.fixture
def environ(environ):
    return {**environ, "SECRET_KEY": "key",
            "ACCESS_TOKENS": "ci:ci-token, deploy:deploy-token, plain"}


@pytest.fixture
def call(client):
    """GET or POST a callback as a token's owner: call("ci", run, "approval")."""
    def call(name, run, topic, status="succeeded", method="POST", **options):
        token = "plain" if name is None else f"{name}-token"
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        if method == "POST":
            options["json"] = {}
        return client.open("/api/v2/callback", method=method, headers=headers, query_string={
            "workflowrun": run["id"], "topic": topic, "status": status}, **options)
    return call


@pytest.fixture
def start(start):
    """Start a run as the owner of a named token."""
    return lambda workflow: start(workflow, Authorization="Bearer ci-token")


@pytest.fixture
def link(flask, client):
    """The path of a signed link to the run's topic."""
    def link(run, topic):
        result = flask("workflowrun", "link", run["id"], "--topic", topic, "--by", "Ada")
        return result.stdout.strip().partition(":8000")[2]
    return link


def results(run, number=0):
    return {result["name"]: result["value"] for result in run["tasks"][number]["results"]}


def reserved(name, *resolvers, topic=None):
    return {**wait_task(name, topic), "resolvers": [*resolvers]}


@pytest.mark.parametrize("tokens", ["ci:", ":token", "ci:to:ken", "link:token", "a,ci:"])
def test_a_token_without_name_or_text_is_refused(environ, tokens):
    with pytest.raises(Unusable, match="ACCESS_TOKENS"):
        create_app({**environ, "ACCESS_TOKENS": tokens})


@pytest.mark.parametrize("offered, status", [
    ("ci-token", 200), ("plain", 200), ("ci:ci-token", 401), ("ci", 401), ("ci:", 401)])
def test_the_name_is_no_part_of_the_token(define, client, offered, status):
    define("record")
    answer = client.post("/api/v2/webhook?workflow=record", json={},
                         headers={"Authorization": f"Bearer {offered}"})
    assert answer.status_code == status


def test_the_name_stands_in_the_log_and_in_the_results(define, start, call, show, caplog):
    caplog.set_level("INFO", "signalbox")
    define("release", wait_task("tests"), wait_task("approval"))
    run = start("release")
    assert f"by='ci' run={run['id']}" in caplog.text
    call("deploy", run, "tests")
    assert "task succeeded task='tests' topic='tests' by='deploy'" in caplog.text
    call(None, run, "approval")
    assert results(show(run)) == {"data": {}, "by": "deploy"}
    assert results(show(run), 1) == {"data": {}}
    define("later", wait_task("a"), wait_task("b", a="success"))
    call("ci", start("later"), "b")
    assert "callback kept task='b' status=succeeded by='ci'" in caplog.text
    assert "-token" not in caplog.text


@pytest.mark.both
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_its_resolvers_end_a_task(define, start, call, show, method):
    define("release", reserved("approval", "deploy", "link"))
    run = start("release")
    for other in "ci", None:
        answer = call(other, run, "approval", method=method)
        assert answer.status_code == 403
        assert "the token 'deploy' or a signed link only" in answer.json["detail"]
    assert statuses(show(run)) == {"approval": "waiting"}
    assert call("deploy", run, "approval", method=method).status_code == 200
    assert results(show(run))["by"] == "deploy"
    assert call("ci", run, "approval", method=method).status_code == 403  # a repeat
    assert statuses(show(run)) == {"approval": "succeeded"}


def test_a_link_ends_what_is_for_links_only(define, start, call, link, client, show):
    define("release", reserved("approval", "link"), reserved("tests", "ci"))
    run = start("release")
    assert call("ci", run, "approval").status_code == 403
    assert client.post(link(run, "approval"), json={}).status_code == 200
    assert client.post(link(run, "tests"), json={}).status_code == 403
    assert statuses(show(run)) == {"approval": "succeeded", "tests": "waiting"}
    assert results(show(run)) == {"data": {}, "by": "Ada"}


def test_several_tasks_of_a_topic_each_have_their_resolvers(define, start, call, show):
    define("release", reserved("one", "ci", topic="t"), reserved("two", "deploy", topic="t"),
           wait_task("three", "t"))
    run = start("release")
    assert call("ci", run, "t").status_code == 200
    assert statuses(show(run)) == {"one": "succeeded", "two": "waiting", "three": "succeeded"}
    assert call("ci", run, "t", "failed").status_code == 409  # his own have ended otherwise
    assert call("deploy", run, "t", "failed").status_code == 200
    assert statuses(show(run)) == {"one": "succeeded", "two": "failed", "three": "succeeded"}


def test_an_early_callback_asks_for_the_resolver_too(define, start, call, show):
    later = {**wait_task("approval", tests="success"), "resolvers": ["deploy"]}
    define("release", wait_task("tests"), later)
    run = start("release")
    assert call("ci", run, "approval").status_code == 403
    call("ci", run, "tests")
    assert statuses(show(run)) == {"tests": "succeeded", "approval": "waiting"}


def test_the_page_has_no_buttons_for_who_may_not(define, start, call, link, client):
    define("release", reserved("approval", "deploy"))
    run = start("release")
    answer = call("ci", run, "approval", method="GET", headers=PAGE)
    assert answer.status_code == 200
    assert "<button" not in answer.text and "<form" not in answer.text
    assert "the token &#39;deploy&#39;" in answer.text
    assert "<button" not in client.get(link(run, "approval")).text
    refused = client.post(link(run, "approval"), data={"status": "succeeded"})
    assert refused.status_code == 403 and "This answer was not taken" in refused.text
    assert "the token &#39;deploy&#39; only" in refused.text
    assert "<button" in call("deploy", run, "approval", method="GET", headers=PAGE).text


class TestOpen:
    @pytest.fixture
    def environ(self, environ):
        return {name: value for name, value in environ.items() if name != "ACCESS_TOKENS"}

    def test_without_tokens_nobody_has_a_name(self, define, start, client):
        define("release", reserved("approval", "ci"))
        run = start("release")
        answer = client.post("/api/v2/callback", json={}, query_string={
            "workflowrun": run["id"], "topic": "approval"})
        assert answer.status_code == 403
