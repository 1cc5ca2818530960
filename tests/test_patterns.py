"""Patterns: Python's syntax, and no payload keeps a worker busy with one (contract 3, issue H)."""
import json
import logging
import threading
import time

import pytest

MEGABYTE = 1_000_000
#: A pattern, and a text at which Python's own `re` is busy for seconds, minutes or years.
SLOW = {
    "a version": (r"refs/tags/v(\d+\.?)+", "refs/tags/v" + "1" * 36 + "-rc"),
    "a branch": (r"([a-z]+-?)+", "a" * 60 + "!"),
    "(a+)+$": (r"(a+)+$", "a" * 60 + "b"),
    "(a|aa)+$": (r"(a|aa)+$", "a" * 60 + "b"),
    "(.*a){12}": (r"(.*a){12}b", "a" * 60),
    "words": (r"(\w+\s?)*:", "word " * 40),
    **{f"{pattern} and a megabyte": (pattern, "a" * MEGABYTE) for pattern in (
        r"(a+)+b", r"(a|aa)+b", r"(.*a){12}", r"(.*a){12}b", r"(\w+\s?)*:", r"(a|b|ab)*c")},
}


def matching(pattern):
    return {"webhook": {"conditions": [
        {"field": "data.ref", "operation": "matches", "value": pattern}]}}


@pytest.fixture
def environ(environ):
    return {**environ, "MAX_CONTENT_LENGTH": str(2 * MEGABYTE)}


@pytest.mark.parametrize("pattern, text", SLOW.values(), ids=SLOW)
def test_a_pattern_that_would_take_for_ever_is_answered_at_once(define, client, pattern, text):
    define("release", triggers=matching(pattern))
    began = time.process_time()  # so that a busy machine does not count
    answer = client.post("/api/v2/webhook?workflow=release", json={"ref": text})
    assert time.process_time() - began < 0.25
    assert answer.status_code == 200


def test_many_slow_patterns_are_answered_soon_too(define, client):
    for number in range(30):
        define(f"slow{number}", triggers=matching("(a|aa)+$"))
    began = time.process_time()
    answer = client.post("/api/v2/webhook", json={"ref": "a" * 60 + "b"})
    assert time.process_time() - began < 1.5
    assert answer.status_code == 404 and "take too long" in answer.json["detail"]


def test_the_workflow_that_was_found_in_time_is_started(define, client):
    define("good", triggers=matching("a+b"))
    for number in range(3):
        define(f"slow{number}", triggers=matching("(a|aa)+$"))
    answer = client.post("/api/v2/webhook", json={"ref": "a" * 60 + "b"})
    assert answer.json["workflowRef"] == "good"


@pytest.mark.alone
def test_others_go_on_while_a_pattern_is_tried(define, app):
    """A thread that holds the interpreter lets nobody else in before it is done."""
    define("slow", triggers=matching("(a|aa)+$"))
    laps, done = [], threading.Event()

    def others():
        while not done.is_set():
            began = time.perf_counter()
            time.sleep(0.001)
            laps.append(time.perf_counter() - began)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for number in range(5):
            app.test_client().post("/api/v2/webhook?workflow=slow", json={"ref": "a" * 60 + "b"})
    finally:
        done.set()
        thread.join()
    assert len(laps) > 100 and max(laps) < 0.09


def test_a_slow_pattern_is_logged_once_in_a_while_with_workflow_and_field(define, client, caplog):
    define("flooded", triggers=matching("(a|aa)+$"))
    caplog.set_level(logging.INFO)
    for number in range(3):
        answer = client.post("/api/v2/webhook?workflow=flooded", json={"ref": "a" * 60 + "b"})
        assert answer.json["status"] == "skipped"
    lines = [record.getMessage() for record in caplog.records if "pattern" in record.message]
    assert lines == ["a pattern took too long, so it does not hold; write a simpler one "
                     "workflow=flooded field='data.ref'"]


@pytest.mark.parametrize("pattern", [
    r"(?:colour){e<=1}", r"v{e}", r"v{i<=2,d}", r"a{x}", r"{", r"[[:alpha:]]+", r"[^[:digit:]x]",
    r"\p{Lu}", r"(?|a|b)", r"(?P<x>a)(?P<x>b)", r"\m\w+\M", r"(?R)", r"a(?i)b", r"\L<names>",
    r"(?<=a+)b", "(", "[", "a{2,1}"])
def test_what_python_would_read_otherwise_is_refused(flask, tmp_path, define, pattern):
    file = tmp_path / "w.json"
    define("w")
    shown = flask.json("workflow", "show", "w")
    file.write_text(json.dumps({**shown, "triggers": matching(pattern)}))
    result = flask("workflow", "check", file)
    assert result.exit_code == 1
    assert "conditions.0.value: not a regular expression: " in result.stderr


@pytest.mark.parametrize("pattern, text, starts", [
    (r"v\d{1,3}", "v12", True), (r"a{,2}", "aa", True), (r"a{,2}", "aaa", False),
    (r"\{x\}", "{x}", True), (r"[{}]+", "{}", True), (r"[]{x}]+", "]{x}", True),
    (r"[:/]+", "://", True), (r"(?i)main", "MAIN", True), (r"(?P<a>x)(?P=a)", "xx", True),
    (r"(?>a+)b", "aab", True), (r"ab*+", "abb", True), (r"a.b", "a\nb", False),
    (r"(?s)a.b", "a\nb", True), (r"\w+", "größe", True), (r"a|ab", "ab", True),
    (r"\\{2}", "\\\\", True), (r"[[a]", "[", True), (r"a$", "a\n", False),
])
def test_a_pattern_means_what_it_means_in_python(define, client, pattern, text, starts):
    define("release", triggers=matching(pattern))
    answer = client.post("/api/v2/webhook?workflow=release", json={"ref": text})
    assert answer.json["status"] == ("succeeded" if starts else "skipped")
