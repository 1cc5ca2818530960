"""Signed links that let a person answer from an e-mail (contract 7.3)."""
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from conftest import statuses, wait_task
from inside import Commands, Unusable

from app import create_app

DAY = 24 * 60
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "User-Agent": "Mozilla/5.0"}
HOSTILE = ["größe/✓ 日本", "a b+c&d=e#f?g;h", "100% <b>\"'\\", "../../x?workflowrun=1", "🙂 e\u0301"]
ANYBODY = pytest.mark.parametrize("headers", [
    {}, {"Accept": "*/*"}, {"Accept": "application/json"}, {"Accept": "text/plain"}, BROWSER],
    ids=["no Accept", "any", "JSON", "text", "browser"])


@pytest.fixture
def environ(tmp_path):
    return {"DATABASE_URL": f"sqlite:///{tmp_path}/signalbox.db", "SECRET_KEY": "first",
            "ACCESS_TOKENS": "token", "PUBLIC_URL": "https://signalbox.example"}


@pytest.fixture
def start(client):
    """Start a run, with the token: start("release")."""
    def start(workflow):
        answer = client.post("/api/v2/webhook", query_string={"workflow": workflow}, json={},
                             headers={"Authorization": "Bearer token"})
        assert answer.status_code == 200, answer.text
        return answer.json
    return start


@pytest.fixture
def waiting(define, start):
    """A run that waits on `approval`, and on another topic."""
    return start(define("release", wait_task("approval"), wait_task("other")))


@pytest.fixture
def other_app(environ, clock, app):
    """The service as it is after a change of its settings: other_app(SECRET_KEY="second")."""
    return lambda **settings: create_app({**environ, **settings}, clock)


@pytest.fixture
def link(flask):
    """A printed link: link(run, "--by", "Ada")."""
    return lambda run, *options: printed_link(flask, run, *options)


def printed_link(flask, run, *options, topic="approval"):
    result = flask("workflowrun", "link", run["id"], "--topic", topic, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1 and result.stdout.endswith("\n")
    return result.stdout.strip()


def path(link):
    """The link without scheme and host: what the test client asks for."""
    return urlsplit(link)._replace(scheme="", netloc="").geturl()


def query(link):
    return dict(parse_qsl(urlsplit(link).query, strict_parsing=True))


def changed(link, **parameters):
    """The link's path with other parameters; None leaves one out."""
    parameters = {**query(link), **parameters}
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{urlsplit(link).path}?{urlencode(given)}"


def results(run, name="approval"):
    """What the task's results hold, by name."""
    task, = [task for task in run["tasks"] if task["name"] == name]
    return {result["name"]: result["value"] for result in task["results"]}


def is_page(answer):
    return answer.mimetype == "text/html" and answer.text.startswith("<!doctype html>")


# The command

def test_the_command_prints_one_url_alone_on_its_line(flask, waiting):
    result = flask("workflowrun", "link", waiting["id"], "--topic", "approval", "--status",
                   "failed", "--by", "Ada")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("https://signalbox.example/api/v2/callback?")
    assert result.stdout.split("\n")[1:] == [""]
    assert query(result.stdout.strip()).items() > {
        "workflowrun": waiting["id"], "topic": "approval", "status": "failed", "by": "Ada"}.items()


def test_a_link_holds_nothing_but_what_was_asked_for(link, waiting):
    assert query(link(waiting)).keys() == {"workflowrun", "topic", "expires", "signature"}


@pytest.mark.parametrize("public_url, begins", [
    ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api/v2/callback?"),
    ("https://example.com/", "https://example.com/api/v2/callback?"),
    ("https://example.com/signalbox", "https://example.com/signalbox/api/v2/callback?"),
    ("http://[::1]:8000", "http://[::1]:8000/api/v2/callback?"),
    ("http://build-box", "http://build-box/api/v2/callback?")])
def test_a_link_begins_with_the_public_url(other_app, waiting, public_url, begins):
    flask = Commands(other_app(PUBLIC_URL=public_url))
    assert printed_link(flask, waiting).startswith(begins)


def test_the_public_url_is_this_machine_unless_set(environ, clock, app, waiting):
    del environ["PUBLIC_URL"]
    flask = Commands(create_app(environ, clock))
    assert printed_link(flask, waiting).startswith("http://127.0.0.1:8000/api/v2/callback?")


@pytest.mark.parametrize("given, decided, warning", [
    ({}, None, None),
    ({}, "succeeded", "warning: this topic has been decided: approval succeeded; the link's page "
                      "will say so\n"),
    ({}, "failed", "warning: this topic has been decided: approval failed; the link's page will "
                   "say so\n"),
    ({"PUBLIC_URL": ""}, None, "warning: only this machine reaches http://127.0.0.1:8000; set "
                               "PUBLIC_URL to an address that all do\n"),
    ({"PUBLIC_URL": "http://127.0.0.1:8000/"}, None, "warning: only this machine reaches "
     "http://127.0.0.1:8000; set PUBLIC_URL to an address that all do\n")])
def test_a_link_that_may_be_in_vain_is_printed_with_a_warning(
        other_app, client, waiting, given, decided, warning):
    if decided:
        client.get(f"/api/v2/callback?workflowrun={waiting['id']}&topic=approval&status={decided}"
                   "&access_token=token")
    flask = Commands(other_app(**given))
    result = flask("workflowrun", "link", waiting["id"], "--topic", "approval")
    assert (result.exit_code, result.stderr) == (0, warning or "")
    assert result.stdout.startswith("http") and result.stdout.count("\n") == 1


def test_a_link_for_what_links_may_not_end_is_printed_with_a_warning(define, start, flask):
    define("guarded", {"name": "a", "type": "eventwait", "resolvers": ["ci"],
                       "params": [{"name": "topic", "value": "t"}]})
    result = flask("workflowrun", "link", start("guarded")["id"], "--topic", "t")
    assert result.stderr == ("warning: the link will end nothing: this topic is for the token 'ci' "
                             "only\n")


def test_a_task_that_has_ended_is_none_that_a_link_may_end(define, start, client, flask):
    define("two", {"name": "a", "type": "eventwait", "params": [{"name": "topic", "value": "t"}]},
           {"name": "b", "type": "eventwait", "resolvers": ["ci"],
            "params": [{"name": "topic", "value": "t"}]})
    run = start("two")
    link = ("workflowrun", "link", run["id"], "--topic", "t")
    assert flask(*link).stderr == ""
    client.get(f"/api/v2/callback?workflowrun={run['id']}&topic=t&access_token=token")
    assert "the link will end nothing" in flask(*link).stderr


def test_without_a_secret_key_there_are_no_links(environ, clock, app, waiting):
    del environ["SECRET_KEY"]
    result = Commands(create_app(environ, clock))(
        "workflowrun", "link", waiting["id"], "--topic", "approval")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "set SECRET_KEY" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("run, topic", [
    ("0" * 32, "approval"), ("", "approval"), ("{id}x", "approval"), ("{id}", "Approval"),
    ("{id}", "nothing"), ("{id}", "")])
def test_a_link_to_nothing_is_refused(flask, waiting, run, topic):
    result = flask("workflowrun", "link", run.format(**waiting), "--topic", topic)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [
    ["--expires", "7"], ["--expires", "d"], ["--expires", "-1d"], ["--expires", "1.5d"],
    ["--expires", "7w"], ["--expires", ""], ["--expires", "٧d"], ["--status", "done"],
    ["--status", "timedout"], ["--status", ""], ["--expires"], ["--until", "7d"]],
    ids=lambda options: " ".join(options) or "empty")
def test_a_wrong_option_is_wrong_usage(flask, waiting, options):
    result = flask("workflowrun", "link", waiting["id"], "--topic", "approval", *options)
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_topic_is_required(flask, waiting):
    assert flask("workflowrun", "link", waiting["id"]).exit_code == 2


@pytest.mark.parametrize("setting, value", [
    ("SECRET_KEY", ","), ("SECRET_KEY", " , "), ("SECRET_KEY", "two words"),
    ("SECRET_KEY", "schlüssel"), ("PUBLIC_URL", "example.com"),
    ("PUBLIC_URL", "ftp://example.com"), ("PUBLIC_URL", "//example.com"),
    ("PUBLIC_URL", "https://"), ("PUBLIC_URL", "javascript:alert(1)"), ("CONFIRM_LINKS", "yes"),
    ("CONFIRM_LINKS", "2")])
def test_a_setting_that_cannot_be_used_is_named(environ, clock, setting, value):
    with pytest.raises(Unusable, match=f"^{setting}: ") as refusal:
        create_app({**environ, setting: value}, clock)
    assert "\n" not in str(refusal.value)
    assert "schlüssel" not in str(refusal.value) and "two words" not in str(refusal.value)


# A valid link

@ANYBODY
@pytest.mark.parametrize("options", [[], ["--status", "failed", "--by", "Ada"]],
                         ids=["short", "full"])
def test_opening_a_link_shows_the_page_and_changes_nothing(
        client, link, waiting, show, headers, options):
    answer = client.get(path(link(waiting, *options)), headers=headers)
    assert answer.status_code == 200
    assert is_page(answer) and "Nothing has happened yet" in answer.text
    assert show(waiting) == waiting


def send_json(client, url, **form):
    return client.post(url, json={"checked": True})


def send_form(client, url, **form):
    return client.post(url, data=form)


SENDERS = pytest.mark.parametrize("send", [send_json, send_form], ids=["JSON", "form"])


@SENDERS
@pytest.mark.parametrize("options, end", [
    (["--status", "succeeded"], "succeeded"), (["--status", "FAILED"], "failed")])
def test_a_post_to_a_link_resolves_it_and_keeps_the_name(
        client, link, waiting, show, caplog, send, options, end):
    caplog.set_level("INFO", "signalbox")
    url = link(waiting, "--by", "Ada Lovelace", *options)
    assert send(client, path(url), status=end, comment="fine").status_code == 200
    assert statuses(show(waiting)) == {"approval": end, "other": "waiting"}
    given = {"data": {"checked": True}} if send is send_json else {"comment": "fine"}
    assert results(show(waiting)) == {**given, "by": "Ada Lovelace"}
    line, = [line for line in caplog.messages if line.startswith(f"task {end}")]
    assert "Ada" not in caplog.text and f"run={waiting['id']}" in line
    assert ("comment='fine'" in line) == (send is send_form)
    assert query(url)["signature"] not in caplog.text


def test_a_program_resolves_a_link_without_status_as_it_would_a_callback(
        client, link, waiting, show):
    answer = client.post(path(link(waiting)), json={})
    assert (answer.status_code, answer.data) == (200, b"")
    assert statuses(show(waiting))["approval"] == "succeeded"
    assert results(show(waiting)) == {"data": {}}


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_person_chooses_where_the_link_has_no_status(client, link, waiting, show, status):
    assert client.post(path(link(waiting)), data={"status": status}).status_code == 200
    assert statuses(show(waiting))["approval"] == status


@pytest.mark.parametrize("linked, chosen", [("succeeded", "failed"), ("failed", "succeeded")])
def test_a_form_cannot_give_another_status_than_its_link(
        client, link, waiting, show, linked, chosen):
    answer = client.post(path(link(waiting, "--status", linked)), data={"status": chosen})
    assert answer.status_code == 400 and is_page(answer)
    assert show(waiting) == waiting


@pytest.mark.parametrize("text", HOSTILE)
def test_topics_and_names_of_any_kind_round_trip(client, flask, define, start, show, text):
    run = start(define("release", wait_task("approval", text)))
    url = printed_link(flask, run, "--by", text, topic=text)
    assert url.isascii() and " " not in url and parse_qs(urlsplit(url).query)["by"] == [text]
    assert client.get(path(url)).status_code == 200
    assert client.post(path(url), json={}).status_code == 200
    assert results(show(run)) == {"data": {}, "by": text}


def test_a_comment_cannot_forge_a_log_line(client, link, waiting, show, caplog):
    caplog.set_level("INFO", "signalbox")
    form = {"status": "succeeded", "comment": "fine\nrun failed run=1"}
    assert client.post(path(link(waiting, "--by", "Ada")), data=form).status_code == 200
    assert results(show(waiting))["comment"] == "fine\nrun failed run=1"
    assert all("\n" not in line for line in caplog.messages)


@pytest.mark.parametrize("name", ["", "Ada\nrun failed run=1", "x" * 256],
                         ids=["empty", "two lines", "long"])
def test_a_name_that_cannot_stand_in_a_log_line_is_wrong_usage(flask, waiting, name):
    result = flask("workflowrun", "link", waiting["id"], "--topic", "approval", "--by", name)
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_name_that_is_not_text_is_refused_without_a_traceback(flask, waiting):
    result = flask("workflowrun", "link", waiting["id"], "--topic", "approval", "--by", "\udcff")
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("more", ["access_token=wrong", "access_token=token", "utm_source=mail"])
def test_other_parameters_beside_a_link_do_not_matter(client, link, waiting, show, more):
    url = path(link(waiting, "--by", "Ada"))
    for beside in (f"{url}&{more}", url.replace("?", f"?{more}&")):
        assert client.get(beside).status_code == 200
    assert client.post(beside, json={}).status_code == 200
    assert results(show(waiting))["by"] == "Ada"


def test_the_order_and_the_spelling_of_the_parameters_do_not_matter(client, link, waiting):
    url = urlsplit(link(waiting, "--by", "Ada Lovelace"))
    turned = "&".join(reversed(url.query.replace("+", "%20").split("&")))
    assert client.get(f"{url.path}?{turned}").status_code == 200


def test_a_link_works_where_no_tokens_are_set(other_app, link, waiting, show):
    url = path(link(waiting, "--by", "Ada"))
    open_app = other_app(ACCESS_TOKENS="unused")
    open_app.config["SETTINGS"]["ACCESS_TOKENS"] = []
    client = open_app.test_client()
    assert is_page(client.get(url)) and show(waiting) == waiting
    assert client.post(url, json={}).status_code == 200
    assert results(show(waiting)) == {"data": {}, "by": "Ada"}


@pytest.mark.parametrize("method, where", [
    ("POST", "/api/v2/webhook?workflow=release&"), ("POST", "/api/v2/event?workflow=release&"),
    ("GET", "/api/v2/nothing?"), ("OPTIONS", "/api/v2/webhook?")])
def test_a_link_opens_no_other_door(client, link, waiting, method, where):
    assert client.open(where + urlsplit(link(waiting)).query, method=method, json={}
                       ).status_code == 401


def test_head_of_a_link_is_405_and_changes_nothing(client, link, waiting, show):
    assert client.head(path(link(waiting))).status_code == 405
    assert show(waiting) == waiting


@ANYBODY
def test_without_confirmation_every_get_resolves_at_once(other_app, link, waiting, show, headers):
    client = other_app(CONFIRM_LINKS="0").test_client()
    answer = client.get(path(link(waiting, "--by", "Ada", "--status", "failed")), headers=headers)
    assert (answer.status_code, answer.data) == (200, b"")
    assert statuses(show(waiting))["approval"] == "failed"
    assert results(show(waiting)) == {"by": "Ada"}


def test_without_confirmation_an_unsigned_get_of_a_browser_resolves_too(
        other_app, waiting, show):
    client = other_app(CONFIRM_LINKS="0").test_client()
    client.get("/api/v2/callback", headers={**BROWSER, "x-access-token": "token"},
               query_string={"workflowrun": waiting["id"], "topic": "approval"})
    assert statuses(show(waiting))["approval"] == "succeeded"


# A link that is not valid

CHANGES = {
    "another topic": {"topic": "other"}, "another run": {"workflowrun": "0" * 32},
    "another status": {"status": "succeeded"}, "status spelt otherwise": {"status": "FAILED"},
    "status dropped": {"status": None}, "status emptied": {"status": ""},
    "another name": {"by": "Eve"}, "name dropped": {"by": None}, "name emptied": {"by": ""},
    "later expiry": {"expires": "99999999999"}, "expiry dropped": {"expires": None},
    "expiry spelt otherwise": {"expires": " 1"}, "no expiry": {"expires": "never"},
    "signature emptied": {"signature": ""}, "signature replaced": {"signature": "x" * 43},
    "signature not ASCII": {"signature": "✓"}, "topic dropped": {"topic": None},
    "run dropped": {"workflowrun": None}}


@pytest.mark.parametrize("method", ["GET", "JSON", "form"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_link_is_401_and_changes_nothing(client, link, waiting, show, method, change):
    url = changed(link(waiting, "--status", "failed", "--by", "Ada"), **change)
    answer = client.get(url) if method == "GET" else client.post(
        url, **({"json": {}} if method == "JSON" else {"data": {"status": "failed"}}))
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert show(waiting) == waiting


@pytest.mark.parametrize("added", [{"status": "succeeded"}, {"status": "failed"}, {"by": "Eve"},
                                   {"by": ""}], ids=str)
def test_a_link_to_which_something_was_added_is_401(client, link, waiting, show, added):
    url = changed(link(waiting), **added)
    assert [client.get(url).status_code, client.post(url, json={}).status_code] == [401, 401]
    assert show(waiting) == waiting


@pytest.mark.parametrize("name", ["workflowrun", "topic", "status", "by", "expires", "signature"])
def test_a_parameter_given_twice_is_refused(client, link, waiting, show, name):
    url = link(waiting, "--status", "failed", "--by", "Ada")
    for twice in (f"{path(url)}&{name}=x", path(url).replace("?", f"?{name}=x&")):
        assert client.get(twice).status_code in (400, 401)
        assert client.post(twice, json={}).status_code in (400, 401)
    assert show(waiting) == waiting


@pytest.mark.parametrize("change", [
    lambda text: text[:-1], lambda text: text + "A", lambda text: text.swapcase(),
    lambda text: text + "=", lambda text: text[:20] + "!" + text[20:], lambda text: text + " "],
    ids=["truncated", "longer", "other case", "padded", "with a stray character", "with a blank"])
def test_a_signature_spelt_otherwise_is_401(client, link, waiting, change):
    url = link(waiting)
    spelt = changed(url, signature=change(query(url)["signature"]))
    assert client.get(spelt).status_code == 401


def test_every_character_of_the_signature_counts(client, link, waiting):
    url = link(waiting)
    signature = query(url)["signature"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place, letter in enumerate(signature):
        other = letters[letters.index(letter) ^ 1]  # the nearest: one bit less or more
        spelt = signature[:place] + other + signature[place + 1:]
        assert client.get(changed(url, signature=spelt)).status_code == 401, place


def test_a_signature_fits_no_other_run(client, link, define, start, waiting, show):
    other = start(define("release", wait_task("approval"), wait_task("other")))
    url = changed(link(waiting), workflowrun=other["id"])
    assert client.post(url, json={}).status_code == 401
    assert show(other) == other


@pytest.mark.parametrize("tokens", ["token", None], ids=["tokens set", "no tokens"])
def test_a_changed_link_is_401_whoever_brings_it(other_app, link, waiting, show, tokens):
    app = other_app()
    app.config["SETTINGS"]["ACCESS_TOKENS"] = ["token"] if tokens else []
    answer = app.test_client().get(changed(link(waiting), by="Eve"),
                                   headers={"Authorization": "Bearer token"})
    assert answer.status_code == 401
    assert show(waiting) == waiting


EXPIRIES = [([], 7 * DAY), (["--expires", "7d"], 7 * DAY), (["--expires", "90s"], 1.5),
            (["--expires", "5m"], 5), (["--expires", "2h"], 120)]


@pytest.mark.parametrize("options, minutes", EXPIRIES,
                         ids=["by itself", "7d", "90s", "5m", "2h"])
def test_a_link_expires_at_that_very_moment(client, link, waiting, clock, show, options, minutes):
    url = path(link(waiting, *options))
    clock.advance(minutes=minutes, milliseconds=-1)
    assert client.get(url).status_code == 200
    clock.advance(milliseconds=1)
    assert [client.get(url).status_code, client.post(url, json={}).status_code,
            client.post(url, data={"comment": "late"}).status_code] == [410] * 3
    assert show(waiting)["tasks"][0]["status"] == "waiting"


@pytest.mark.parametrize("code, change", [(401, {"by": "Eve"}), (410, {})],
                         ids=["changed", "expired"])
@pytest.mark.parametrize("headers, page", [
    (BROWSER, True), ({}, False), ({"Accept": "*/*"}, False),
    ({"Accept": "application/json"}, False)], ids=["browser", "no Accept", "any", "JSON"])
def test_a_refused_link_is_a_page_for_a_person_and_a_problem_for_a_program(
        client, link, waiting, clock, code, change, headers, page):
    url = changed(link(waiting), **change)
    clock.advance(minutes=8 * DAY if code == 410 else 0)
    answer = client.get(url, headers=headers)
    assert answer.status_code == code
    assert is_page(answer) == page
    if page:
        assert "ask whoever sent it for a new one" in answer.text.lower()
    else:
        assert answer.content_type == "application/problem+json"
        assert answer.json["status"] == code
    assert waiting["id"] not in answer.text and "approval" not in answer.text


def test_a_link_that_expires_before_its_task_ends_nothing(client, link, waiting, clock, show):
    url = path(link(waiting, "--expires", "1m"))
    page = client.get(url)
    clock.advance(minutes=1)
    assert client.post(url, data={"status": "succeeded"}).status_code == 410
    assert page.status_code == 200 and statuses(show(waiting))["approval"] == "waiting"


# Keys

def test_the_newest_key_signs_and_older_ones_still_verify(other_app, waiting):
    made = {keys: printed_link(Commands(other_app(SECRET_KEY=keys)), waiting)
            for keys in ("old", "new,old", "new")}
    assert made["new,old"] == made["new"] != made["old"]

    def code(keys, link):
        return other_app(SECRET_KEY=keys).test_client().get(path(link)).status_code
    assert [code("new,old", made["old"]), code("new,old", made["new"])] == [200, 200]
    assert [code("newest,new,old", made["old"]), code("old,new", made["new"])] == [200, 200]
    assert [code("new", made["old"]), code("old", made["new"])] == [401, 401]


def test_blanks_around_the_keys_do_not_matter(other_app, waiting):
    made = printed_link(Commands(other_app(SECRET_KEY=" new , old ,")), waiting)
    assert other_app(SECRET_KEY="new").test_client().get(path(made)).status_code == 200


def test_where_no_key_is_set_no_link_is_valid(environ, clock, app, link, waiting, show):
    url = path(link(waiting))
    del environ["SECRET_KEY"]
    client = create_app(environ, clock).test_client()
    assert [client.get(url).status_code, client.post(url, json={}).status_code] == [401, 401]
    assert show(waiting) == waiting


# Without a signature

@pytest.mark.parametrize("method", ["GET", "JSON", "form"])
def test_an_unsigned_callback_cannot_claim_a_name(client, waiting, show, method):
    given = {"query_string": {"workflowrun": waiting["id"], "topic": "approval", "by": "Eve",
                              "expires": "99999999999", "access_token": "token"}}
    if method == "GET":
        answer = client.get("/api/v2/callback", **given)
    elif method == "JSON":
        answer = client.post("/api/v2/callback", json={"by": "Eve"}, **given)
    else:
        answer = client.post("/api/v2/callback", data={"status": "succeeded"}, **given)
    assert answer.status_code == 200
    assert results(show(waiting)) == ({"data": {"by": "Eve"}} if method == "JSON" else {})


def test_a_form_cannot_change_the_name_of_its_link(client, link, waiting, show):
    url = path(link(waiting, "--by", "Ada"))
    answer = client.post(url, data={"status": "succeeded", "by": "Eve"})
    assert answer.status_code == 415 and show(waiting) == waiting
    client.post(url, data={"status": "succeeded"})
    assert results(show(waiting)) == {"by": "Ada"}


def test_a_link_without_its_signature_needs_a_token(client, link, waiting, show):
    url = changed(link(waiting, "--by", "Ada"), signature=None)
    assert [client.get(url).status_code, client.post(url, json={}).status_code] == [401, 401]
    assert show(waiting) == waiting
    assert client.post(f"{url}&access_token=token", json={}).status_code == 200
    assert results(show(waiting)) == {"data": {}}
