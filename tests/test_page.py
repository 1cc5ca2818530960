"""The page that a person sees, and the form on it (contract 8, "a person's browser")."""
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest
from conftest import statuses, wait_task

HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROME = ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,"
          "*/*;q=0.8,application/signed-exchange;v=b3;q=0.7")
MOZILLA = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
FORM = "application/x-www-form-urlencoded"
VOID = {"meta", "link", "br", "img", "input", "hr", "base", "source", "embed"}


@pytest.fixture
def environ(tmp_path):
    return {"DATABASE_URL": f"sqlite:///{tmp_path}/signalbox.db", "SECRET_KEY": "key"}


@pytest.fixture
def waiting(define, start):
    """A run that waits on `approval` for an hour at most, and on another topic."""
    return start(define("release", wait_task("approval", timeout=60), wait_task("other"),
                        displayName="Release approval"), {"ref": "refs/tags/v1.2"})


@pytest.fixture
def open_page(client):
    """Open a topic's URL in a browser: open_page(run, "approval", status="failed")."""
    return lambda run, topic="approval", **more: client.get(
        url(run, topic, **more), headers={"Accept": HTML, **MOZILLA})


@pytest.fixture
def send(client):
    """Send the form as a browser does: send(run, {"comment": "fine"}, status="failed")."""
    return lambda run, form, topic="approval", **more: client.post(
        url(run, topic, **more), data=form, headers={"Accept": HTML, **MOZILLA})


def url(run, topic="approval", **more):
    return "/api/v2/callback?" + urlencode({"workflowrun": run["id"], "topic": topic, **more})


class Page(HTMLParser):
    """An answer's HTML, taken apart; it must be well-formed."""

    def __init__(self, answer):
        super().__init__()
        assert answer.content_type == "text/html; charset=utf-8"
        self.tags, self.open, self.words, self.css = [], [], [], ""
        self.feed(answer.text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.css += data
        else:
            self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def results(run, name="approval"):
    """What the task's results hold, by name."""
    task, = [task for task in run["tasks"] if task["name"] == name]
    return {result["name"]: result["value"] for result in task["results"]}


# Who gets the page

@pytest.mark.parametrize("accept", [
    CHROME, HTML.replace("*/*", "image/avif,image/webp,*/*"),
    HTML, "text/html, application/xhtml+xml, image/jxr, */*;q=0.5", "text/html", "TEXT/HTML",
    "text/*", "application/json;q=0.9, text/html", "text/html;q=0.2, application/json;q=0.1",
    "text/html;q=0.1"],
    ids=["Chrome", "Firefox", "Safari", "Edge", "HTML", "upper case", "any text",
         "HTML before JSON", "HTML a little before JSON", "HTML if need be"])
def test_who_prefers_html_gets_the_page_and_nothing_has_happened(client, waiting, show, accept):
    answer = client.get(url(waiting), headers={**MOZILLA, "Accept": accept})
    assert answer.status_code == 200
    assert "Nothing has happened yet." in Page(answer).text
    assert show(waiting) == waiting


@pytest.mark.parametrize("accept", [
    None, "*/*", "application/json", "application/*", "text/plain", "image/png,*/*",
    "application/json, text/html", "text/html;q=0.5, application/json", "text/html;q=0, */*",
    "application/json, text/plain, */*"],
    ids=["none", "curl and requests", "JSON", "any application", "text", "image", "both alike",
         "JSON before HTML", "never HTML", "axios"])
def test_any_other_get_resolves_at_once(client, waiting, show, accept):
    accepts = {} if accept is None else {"Accept": accept}
    answer = client.get(url(waiting), headers={**MOZILLA, **accepts})
    assert (answer.status_code, answer.data) == (200, b"")
    assert statuses(show(waiting)) == {"approval": "succeeded", "other": "waiting"}


# Software that opens the links of a message by itself. The User-Agents are those of the sources;
# where a source tells no other headers, they are those that such a client sends elsewhere.
# [1] github.com/monperrus/crawler-user-agents, 7c7f9f2   [2] api.slack.com/robots
# [3] github.com/nextauthjs/next-auth/issues/1840   [4] opencollective/opencollective/issues/3656
# [5] edalzell/laravel-passwordless-login/issues/79   [6] SergeyMosin/Appointments/issues/293
# [7] opengraphplus.com/consumers/apple/crawling
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) "
SCANNERS = {
    "Safe Links, a Chrome [4]": {
        "User-Agent": WINDOWS + "Chrome/72.0.3626.109 Safari/537.36", "Accept": CHROME,
        "Upgrade-Insecure-Requests": "1"},
    "Safe Links, a newer Chrome [5]": {
        "User-Agent": WINDOWS + "Chrome/97.0.4692.99 Safari/537.36", "Accept": CHROME,
        "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    "Safe Links without a User-Agent [5] [6]": {"User-Agent": ""},
    "Safe Links in the new Outlook [3]": {
        "User-Agent": WINDOWS + "Chrome/117.0.0.0 Safari/537.36 Edg/117.0.2045.47 "
                                "OneOutlook/1.2023.927.100",
        "X-Native-Host": "OneOutlook/1.2023.927.100", "Accept": CHROME},
    "Slack [1] [2]": {
        "User-Agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "Accept": "*/*", "Range": "bytes=0-32768"},
    "Teams and Skype [1]": {
        "User-Agent": "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 "
                      "skype-url-preview@microsoft.com", "Accept": "*/*"},
    "Gmail's image proxy [1]": {
        "User-Agent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 "
                      "(via ggpht.com GoogleImageProxy)", "Accept": "image/webp,image/*,*/*;q=0.8"},
    "Twitter [1]": {"User-Agent": "Twitterbot/1.0", "Accept": "*/*"},
    "Apple's link preview [7]": {
        "User-Agent": MAC + "Version/9.0.1 Safari/601.2.4 facebookexternalhit/1.1 Facebot "
                            "Twitterbot/1.0", "Accept": HTML},
    "Apple Mail's privacy proxy": {"User-Agent": "Mozilla/5.0", "Accept": "image/*,*/*;q=0.5"},
    "a scanner that takes JSON": {"User-Agent": "scanner", "Accept": "application/json"},
}


@pytest.mark.parametrize("options", [[], ["--status", "succeeded", "--by", "Ada"]],
                         ids=["asking", "with status"])
@pytest.mark.parametrize("headers", SCANNERS.values(), ids=SCANNERS.keys())
def test_a_scanner_that_opens_a_signed_link_changes_nothing(
        client, flask, waiting, show, headers, options):
    printed = flask("workflowrun", "link", waiting["id"], "--topic", "approval", *options).stdout
    link = printed.strip().removeprefix("http://127.0.0.1:8000")
    codes = [client.open(link, method=method, headers=headers).status_code
             for method in ("HEAD", "GET", "GET", "OPTIONS")]
    assert codes == [405, 200, 200, 200]
    assert show(waiting) == waiting


@pytest.mark.parametrize("header, value", [
    ("Sec-Purpose", "prefetch"), ("Sec-Purpose", "prefetch;prerender"),
    ("Sec-Purpose", "prefetch;anonymous-client-ip"), ("Purpose", "prefetch"),
    ("purpose", "PREFETCH")])
@pytest.mark.parametrize("accept", [CHROME, "*/*"], ids=["browser", "any"])
def test_a_prefetch_is_503_and_changes_nothing(client, waiting, show, header, value, accept):
    answer = client.get(url(waiting), headers={**MOZILLA, header: value, "Accept": accept})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "0")
    assert show(waiting) == waiting


# What it says

def test_the_page_says_what_waits_since_when_and_what_started_it(waiting, open_page, clock):
    clock.advance(minutes=3)
    text = Page(open_page(waiting)).text
    assert "approval of Release approval" in text
    assert "for 3 minutes" in text
    assert "3 minutes ago by a webhook for refs/tags/v1.2" in text


def test_the_wait_counts_from_the_task_s_start(define, start, open_page, callback, clock):
    run = start(define("release", wait_task("tests"), wait_task("approval", tests="success")))
    clock.advance(minutes=60 * 50)
    callback(run, "tests")
    clock.advance(minutes=61)
    text = Page(open_page(run)).text
    assert "for 1 hour" in text and "2 days ago by a webhook" in text


def test_a_workflow_without_a_display_name_goes_by_its_name(define, start, open_page):
    run = start(define("nightly-build", wait_task("approval")))
    assert "approval of nightly-build" in Page(open_page(run)).text


def test_a_run_that_an_event_started_says_which(define, client, open_page):
    define("release", wait_task("approval"))
    run = client.post("/api/v2/event?workflow=release", content_type="application/json", json={
        "specversion": "1.0", "id": "1", "source": "/shop/eu", "type": "com.example.order"}).json
    assert "by an event com.example.order from /shop/eu" in Page(open_page(run)).text


def test_the_page_names_whom_the_link_is_for(client, flask, waiting):
    link = flask("workflowrun", "link", waiting["id"], "--topic", "approval", "--by", "Ada").stdout
    assert "Ada" in Page(client.get(link.strip().removeprefix("http://127.0.0.1:8000"))).text


def test_every_task_that_the_answer_ends_is_named(define, start, open_page):
    run = start(define("release", wait_task("unit", "tests"), wait_task("lint", "tests"),
                       wait_task("docs")))
    text = Page(open_page(run, "tests")).text
    assert "ends unit, lint as succeeded" in text and "docs" not in text


@pytest.mark.parametrize("status, buttons", [
    ({}, [("succeeded", "Approve"), ("failed", "Reject")]),
    ({"status": "succeeded"}, [("succeeded", "Approve")]),
    ({"status": "failed"}, [("failed", "Reject")]),
    ({"status": "FAILED"}, [("failed", "Reject")])], ids=str)
def test_there_is_a_button_for_the_url_s_status_or_for_each(open_page, waiting, status, buttons):
    answer = open_page(waiting, **status)
    page = Page(answer)
    assert [(button["name"], button["value"]) for button in page.all("button")] == [
        ("status", value) for value, _ in buttons]
    for verb in ("Approve", "Reject"):
        assert (verb in page.text) == (verb in dict(buttons).values())


def test_the_form_posts_to_its_own_url_and_labels_its_optional_comment(open_page, waiting):
    page = Page(open_page(waiting))
    assert page.all("form") == [{"method": "post"}]  # no action: the URL itself, signature and all
    assert all(button.get("type", "submit") == "submit" for button in page.all("button"))
    field, = page.all("textarea")
    assert field["name"] == "comment" and field["maxlength"] == "1000" and "required" not in field
    assert page.all("label") == [{"for": field["id"]}] and page.all("input") == []


# The answer

@pytest.mark.parametrize("status, heading", [("succeeded", "Approved"), ("failed", "Rejected")])
def test_the_button_resolves_and_its_answer_says_what_happened(
        send, waiting, show, clock, status, heading):
    clock.advance(minutes=3)
    answer = send(waiting, {"status": status, "comment": "as agreed"})
    page = Page(answer)
    assert answer.status_code == 200
    assert "approval of Release approval" in page.text and heading in page.text
    assert "as agreed" in page.text and status in page.text
    assert "nothing left for you to do" in page.text
    assert page.all("form") == page.all("button") == []
    assert statuses(show(waiting)) == {"approval": status, "other": "waiting"}
    assert results(show(waiting)) == {"comment": "as agreed"}


@pytest.mark.parametrize("status", ["succeeded", "failed", "FAILED"])
def test_a_button_of_a_url_with_a_status_gives_that_status(send, waiting, show, status):
    assert send(waiting, {"status": status.lower()}, status=status).status_code == 200
    assert statuses(show(waiting))["approval"] == status.lower()


@pytest.mark.parametrize("status, chosen", [("succeeded", "failed"), ("failed", "succeeded")])
def test_a_form_cannot_give_another_status_than_its_url(send, waiting, show, status, chosen):
    assert send(waiting, {"status": chosen}, status=status).status_code == 400
    assert show(waiting) == waiting


@pytest.mark.parametrize("text, kept", [
    ("x" * 1000, "x" * 1000), ("é🙂" * 500, "é🙂" * 500), ("a\r\nb", "a\nb"),
    ("ab\r\n" * 333 + "c", "ab\n" * 333 + "c"), ("  fine \n", "fine"), ("a & b=c+d%", "a & b=c+d%"),
    ("<script>", "<script>"), ("", None), ("  \r\n\t", None)],
    ids=["1,000", "1,000 not ASCII", "line end", "1,000 with line ends", "blanks around",
         "URL signs", "script", "empty", "blank"])
def test_a_comment_is_kept_as_it_was_written(send, waiting, show, text, kept):
    assert send(waiting, {"status": "succeeded", "comment": text}).status_code == 200
    assert results(show(waiting)) == ({"comment": kept} if kept else {})


def test_a_comment_may_be_left_out(send, waiting, show):
    assert send(waiting, {"status": "failed"}).status_code == 200
    assert results(show(waiting)) == {}


def test_a_comment_shows_in_the_log(send, waiting, caplog):
    caplog.set_level("INFO", "signalbox")
    send(waiting, {"status": "failed", "comment": "not\r\nyet"})
    line, = [line for line in caplog.messages if line.startswith("task failed")]
    assert r"comment='not\nyet'" in line and waiting["id"] in line


WRONG_FORMS = {
    "comment too long": "status=succeeded&comment=" + "x" * 1001,
    "line ends too many": "status=succeeded&comment=x" + "%0D%0Ax" * 500,
    "unknown status": "status=done", "status of a run": "status=timedout",
    "status twice": "status=succeeded&status=failed", "comment twice": "comment=a&comment=b",
    "not UTF-8": "comment=%FF", "a lone surrogate": "comment=%ED%A0%80",
    "raw bytes": "comment=é", "too many fields": "&".join(f"f{n}=1" for n in range(1001))}


@pytest.mark.parametrize("body", WRONG_FORMS.values(), ids=WRONG_FORMS.keys())
def test_a_wrong_form_is_a_400_page_and_changes_nothing(client, waiting, show, body):
    answer = client.post(url(waiting), data=body.encode("latin-1"), content_type=FORM)
    assert answer.status_code == 400
    assert "Your visit has changed nothing. Go back" in Page(answer).text
    assert show(waiting) == waiting


@pytest.mark.parametrize("content_type, code", [
    (FORM, 200), (f"{FORM}; charset=utf-8", 200), (f"{FORM};charset=UTF-8", 200),
    (f'{FORM}; charset="utf-8"', 200), (FORM.upper(), 200), (f"{FORM}; charset=latin-1", 415),
    (f"{FORM}; charset=", 415), ("multipart/form-data; boundary=x", 415), ("text/plain", 415),
    (None, 415)])
def test_the_form_comes_urlencoded_in_utf_8(client, waiting, show, content_type, code):
    answer = client.post(url(waiting), data=b"status=failed", content_type=content_type)
    assert answer.status_code == code
    assert statuses(show(waiting))["approval"] == ("failed" if code == 200 else "waiting")


NO_ANSWERS = {
    "curl's default": '{"passed": 41}', "empty object": "{}", "blanks before it": ' \n{"a": 1}',
    "no field at all": "[1]", "Slack's button": "payload=%7B%22action%22%3A+%22reject%22%7D",
    "a field more": "status=succeeded&passed=41", "not our word": "outcome=failed"}


@pytest.mark.parametrize("body", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_is_never_dropped_under_a_200(client, waiting, show, body):
    answer = client.post(url(waiting), data=body, content_type=FORM)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in Page(answer).text
    assert show(waiting) == waiting


def test_a_form_is_no_event(client, waiting):
    answer = client.post("/api/v2/event?workflow=release", data={"status": "failed"})
    assert (answer.status_code, answer.content_type) == (415, "application/problem+json")


# Afterwards

def test_sent_again_the_first_answer_stays(send, waiting, show):
    send(waiting, {"status": "succeeded", "comment": "first"})
    before = show(waiting)
    answer = send(waiting, {"status": "succeeded", "comment": "second"})
    assert answer.status_code == 200
    assert "first" in Page(answer).text and "second" not in Page(answer).text
    assert show(waiting) == before


@pytest.mark.parametrize("more", [{}, {"status": "succeeded"}, {"status": "failed"}], ids=str)
def test_opened_again_the_page_says_what_happened(send, open_page, waiting, clock, more):
    send(waiting, {"status": "failed", "comment": "too risky"})
    clock.advance(minutes=5)
    answer = open_page(waiting, **more)
    page = Page(answer)
    assert answer.status_code == 200
    assert "Rejected" in page.text and "failed, 5 minutes ago" in page.text
    assert "too risky" in page.text and page.all("button") == []
    assert "Nothing has happened" not in page.text


def test_another_status_afterwards_is_a_409_page(send, waiting, show):
    send(waiting, {"status": "succeeded"})
    before = show(waiting)
    answer = send(waiting, {"status": "failed", "comment": "wait!"})
    text = Page(answer).text
    assert answer.status_code == 409
    assert "decided already" in text and "approval succeeded" in text
    assert "talk to whoever sent you the link" in text
    assert show(waiting) == before


def test_a_cancelled_run_is_told_and_answered_with_409(flask, open_page, send, waiting, show):
    flask("workflowrun", "cancel", waiting["id"])
    before = show(waiting)
    answer = open_page(waiting)
    page = Page(answer)
    assert answer.status_code == 200 and page.all("button") == []
    assert "Cancelled" in page.text and "The run has ended: cancelled." in page.text
    assert send(waiting, {"status": "succeeded"}).status_code == 409
    assert show(waiting) == before


def test_a_page_that_was_open_too_long_is_409(open_page, send, waiting, clock, show):
    open_page(waiting)
    clock.advance(minutes=60)
    assert send(waiting, {"status": "succeeded"}).status_code == 409
    assert "Not answered in time" in Page(open_page(waiting)).text
    assert statuses(show(waiting))["approval"] == "timedout"


def test_an_ended_run_is_told(define, start, send, open_page):
    run = start(define("release", wait_task("approval")))
    assert "The run has ended: failed." in Page(send(run, {"status": "failed"})).text
    assert "The run has ended: failed." in Page(open_page(run)).text


def test_a_run_that_goes_on_is_told(send, waiting):
    assert "The run goes on." in Page(send(waiting, {"status": "failed"})).text


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("run, topic", [({"id": "0" * 32}, "approval"), (None, "nothing")],
                         ids=["run", "topic"])
def test_an_unknown_run_or_topic_is_a_404_page(open_page, send, waiting, show, run, topic, method):
    answer = (open_page(run or waiting, topic) if method == "GET"
              else send(run or waiting, {"status": "succeeded"}, topic))
    assert answer.status_code == 404
    assert "There is nothing to answer here" in Page(answer).text
    assert "sent you the link" in Page(answer).text
    assert show(waiting) == waiting


@pytest.fixture
def early(define, start):
    """A run whose `approval` is not due before its `tests`."""
    return start(define("release", wait_task("tests"), wait_task("approval", tests="success")))


def test_an_answer_before_its_turn_is_kept(early, open_page, send, callback, show):
    assert "not yet; your answer is kept" in Page(open_page(early)).text
    text = Page(send(early, {"status": "succeeded", "comment": "early"})).text
    assert "succeeded as soon as its turn comes" in text and "early" in text
    assert statuses(show(early)) == {"tests": "waiting", "approval": "notstarted"}
    assert "as soon as its turn comes" in Page(open_page(early)).text
    callback(early, "tests")
    assert statuses(show(early)) == {"tests": "succeeded", "approval": "succeeded"}
    assert results(show(early)) == {"comment": "early"}


def test_a_kept_answer_whose_turn_never_came_is_told(early, open_page, send, callback, show):
    send(early, {"status": "succeeded", "comment": "early"})
    callback(early, "tests", "failed")
    text = Page(open_page(early)).text
    assert statuses(show(early))["approval"] == "skipped"
    assert "No longer needed" in text and "needs success of tests, which failed" in text


def test_one_task_ended_and_one_waiting_still_asks(define, start, clock, open_page, send, show):
    run = start(define("release", wait_task("fast", "approval", timeout=5),
                       wait_task("slow", "approval")))
    clock.advance(minutes=6)
    assert "ends slow as succeeded" in Page(open_page(run)).text
    text = Page(send(run, {"status": "failed"})).text
    assert "fast timedout" in text and "slow failed" in text
    assert statuses(show(run)) == {"fast": "timedout", "slow": "failed"}


# Forms of other sites

FOREIGN = [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
           {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
           {"Sec-Fetch-Site": "nonsense"},
           {"Origin": "https://evil.example"}, {"Origin": "null"},
           {"Origin": "http://localhost:81"}, {"Origin": "http://localhost.evil.example"},
           {"Origin": "http://evil.example/localhost"},
           {"Origin": "localhost"}, {"Origin": "http://[x"}, {"Origin": "https://localhost"},
           {"Origin": "ws://localhost"}, {"Origin": "file://localhost"},
           {"Origin": "moz-extension://localhost"}, {"Origin": "//localhost"}]
OWN = [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"},
       {"Origin": "http://localhost"},
       {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
       {"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.a.proxy"}]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_form_of_another_site_is_403_and_changes_nothing(
        client, flask, waiting, show, headers, signed):
    where = url(waiting)
    if signed:
        printed = flask("workflowrun", "link", waiting["id"], "--topic", "approval").stdout.strip()
        where = printed.removeprefix("http://127.0.0.1:8000")
    answer = client.post(where, data={"status": "succeeded"}, headers=headers)
    assert answer.status_code == 403
    assert "another site" in Page(answer).text
    assert show(waiting) == waiting


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_the_page_s_own_form_is_taken(client, waiting, show, headers):
    assert client.post(url(waiting), data={"status": "failed"}, headers=headers).status_code == 200
    assert statuses(show(waiting))["approval"] == "failed"


def test_a_program_s_json_needs_no_origin(client, waiting, show):
    assert client.post(url(waiting), json={}, headers={"Origin": "https://ci.example"}
                       ).status_code == 200
    assert statuses(show(waiting))["approval"] == "succeeded"


PARTS = [(part, site) for part in ("image", "script", "style", "iframe", "empty", "audio", "font")
         for site in ("cross-site", "same-site", None)]


@pytest.mark.parametrize("accept", ["image/avif,image/webp,*/*;q=0.8", "*/*", HTML])
@pytest.mark.parametrize("part, site", PARTS, ids=str)
def test_a_part_of_another_site_s_page_is_403_and_resolves_nothing(
        client, waiting, show, part, site, accept):
    headers = {**MOZILLA, "Accept": accept, "Sec-Fetch-Dest": part,
               **({"Sec-Fetch-Site": site} if site else {})}
    assert client.get(url(waiting), headers=headers).status_code == 403
    assert show(waiting) == waiting


@pytest.mark.parametrize("headers", [
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"}, {}], ids=str)
def test_a_link_that_is_clicked_elsewhere_shows_the_page(client, waiting, headers):
    answer = client.get(url(waiting), headers={**MOZILLA, "Accept": HTML, **headers})
    assert answer.status_code == 200 and "<form" in answer.text


# Programs that say they prefer HTML

@pytest.mark.parametrize("agent", [
    "Java-http-client/17.0.9", "Java/1.8.0_392", "Wget/2.1.0", "wget2/2.1.0", "Lynx/2.9",
    "curl/8 (like Mozilla/5.0)", "mozilla/5.0", ""], ids=str)
def test_a_program_resolves_though_it_prefers_html(client, waiting, show, agent):
    accept = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
    answer = client.get(url(waiting), headers={"Accept": accept, "User-Agent": agent})
    assert (answer.status_code, answer.data) == (200, b"")
    assert statuses(show(waiting))["approval"] == "succeeded"


# What a stranger wrote

@pytest.mark.parametrize("ref", [
    "x" * 10**6, "a\nStarted by the boss", "a\r\n\r\nb", "\u202egnp.exe", "\x9b31m", "\u2028" * 200,
    "\U0001f600" * 500], ids=lambda text: ascii(text[:9]))
def test_what_started_a_run_is_a_short_line(client, define, start, ref):
    define("release", wait_task("approval"))
    shown = client.get(url(start("release", {"ref": ref})),
                       headers={**MOZILLA, "Accept": HTML}).text
    assert len(shown) < 8000
    [origin] = [line for line in shown.splitlines() if "ago by a webhook for" in line]
    text = origin.partition("webhook for ")[2].removesuffix("</dd>")
    assert text.isprintable() and len(text) <= 100


# Headers, and what the page may do

def asking(client, waiting):
    return client.get(url(waiting), headers={**MOZILLA, "Accept": CHROME})


def answered(client, waiting):
    return client.post(url(waiting), data={"status": "succeeded"})


def too_long(client, waiting):
    return client.post(url(waiting), data={"comment": "x" * 1001})


def wrong_query(client, waiting):
    return client.get(url(waiting, status="done"), headers={**MOZILLA, "Accept": CHROME})


def changed(client, waiting):
    return client.get(url(waiting, signature="x"), headers={**MOZILLA, "Accept": CHROME})


def foreign(client, waiting):
    return client.post(url(waiting), data={"status": "failed"},
                       headers={"Sec-Fetch-Site": "cross-site"})


def unknown(client, waiting):
    return client.get(url({"id": "x"}), headers={**MOZILLA, "Accept": CHROME})


def decided(client, waiting):
    answered(client, waiting)
    return client.post(url(waiting), data={"status": "failed"})


def not_utf_8(client, waiting):
    return client.post(url(waiting), data=b"", content_type=f"{FORM}; charset=x")


def prefetched(client, waiting):
    return client.get(url(waiting), headers={
        **MOZILLA, "Accept": CHROME, "Sec-Purpose": "prefetch"})


def with_token(client, waiting):
    return client.get(url(waiting, access_token="x"), headers={**MOZILLA, "Accept": CHROME})


EVERY_PAGE = pytest.mark.parametrize("get, code", [
    (asking, 200), (answered, 200), (too_long, 400), (wrong_query, 400), (changed, 401),
    (foreign, 403), (unknown, 404), (decided, 409), (not_utf_8, 415), (prefetched, 503),
    (with_token, 200)], ids=lambda value: getattr(value, "__name__", str(value)))


@EVERY_PAGE
def test_every_page_carries_its_headers(client, waiting, get, code):
    answer = get(client, waiting)
    policy = dict(rule.strip().partition(" ")[::2]
                  for rule in answer.headers["Content-Security-Policy"].split(";"))
    style, = Page(answer).all("style")
    assert answer.status_code == code
    assert policy == {"default-src": "'none'", "style-src": f"'nonce-{style['nonce']}'",
                      "form-action": "'self'", "frame-ancestors": "'none'", "base-uri": "'none'"}
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@EVERY_PAGE
def test_every_page_loads_nothing_and_runs_nothing(client, waiting, get, code):
    page = Page(get(client, waiting))
    used = {tag for tag, _ in page.tags}
    assert not used & {"script", "link", "img", "iframe", "object", "embed", "base", "video", "svg"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert not {"src", "href", "action", "formaction", "background", "ping"} & set(attributes)
        assert "http-equiv" not in attributes
    assert "url(" not in page.css and "@import" not in page.css
    assert {"html", "main", "h1", "title"} <= used
    assert page.all("html") == [{"lang": "en"}] and len(page.all("h1")) == 1


def test_the_nonce_is_never_the_same(client, waiting):
    nonces = {asking(client, waiting).headers["Content-Security-Policy"] for _ in range(5)}
    assert len(nonces) == 5


EVIL = "<script>alert(1)</script>\"'&amp;</textarea>{{7*7}}"
SHOWN = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;amp;&lt;/textarea&gt;{{7*7}}"


def test_everything_from_the_run_is_escaped(client, flask, define, start):
    run = start(define("release", wait_task(EVIL + "task", EVIL), displayName=EVIL + "name"),
                {"ref": EVIL + "ref"})
    printed = flask("workflowrun", "link", run["id"], "--topic", EVIL, "--by", EVIL + "by").stdout
    link = printed.strip().removeprefix("http://127.0.0.1:8000")
    asks = client.get(link)
    done = client.post(link, data={"status": "failed", "comment": EVIL + "comment"})
    for answer, parts in ((asks, ("task", "name", "ref", "by")),
                          (done, ("task", "name", "by", "comment"))):
        assert answer.status_code == 200
        assert all(SHOWN + part in answer.text for part in parts)
        assert "<script" not in answer.text and "49" not in Page(answer).text
        assert not Page(answer).all("script")


@pytest.mark.parametrize("more", [{"status": EVIL}, {"topic": EVIL}, {"run": {"id": EVIL}},
                                  {"signature": EVIL}], ids=str)
def test_what_a_refusal_repeats_is_escaped(client, waiting, more):
    more = {"run": waiting, **more}
    answer = client.get(url(**more), headers={**MOZILLA, "Accept": CHROME})
    assert answer.status_code in (400, 401, 404)
    assert "<script" not in answer.text and not Page(answer).all("script")


@pytest.mark.parametrize("ref", [EVIL, ["a", "b"], {"x": 1}, 7, None, "", "r" * 5000], ids=repr)
def test_any_payload_can_be_shown(define, start, open_page, ref):
    run = start(define("release", wait_task("approval")), {"ref": ref})
    assert open_page(run).status_code == 200
