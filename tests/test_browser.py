"""The page in a real browser, from a real server: Debian's chromium and chromium-driver."""
import os
import re
import subprocess
import threading
from base64 import b64decode
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, ENTER, FLAGS, SPACE, TAB, Browser
from conftest import MINUTE, statuses, wait_task
from inside import Commands, close_database
from server import PROJECT, Server, wait_until

from app import create_app, utc_now

AXE = Path(__file__).parent / "data" / "axe.min.js"
LONG = "a-topic-without-any-blank-" * 9

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.skipif(
    not (os.path.exists(CHROMIUM) and os.path.exists(DRIVER)),
    reason="no browser here (Debian: apt install chromium chromium-driver)")]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A running service that asks for tokens, and prints links to itself."""
    server = Server(tmp_path_factory.mktemp("service"), WEB_CONCURRENCY="1", SECRET_KEY="key",
                    ACCESS_TOKENS="token")
    server.environ["PUBLIC_URL"] = f"http://127.0.0.1:{server.port}"
    with server:
        server.define("release", wait_task("approval"), displayName="Release approval")
        server.define("long", wait_task(LONG), displayName=LONG)
        yield server


@pytest.fixture(scope="module")
def flask(service):
    """The commands, on the service's database."""
    yield Commands(create_app(service.environ))
    close_database()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def browser(driver):
    """The browser: 800 px wide, light, with JavaScript."""
    show_as(driver, 800, "light")
    yield driver
    driver.devtools("Emulation.setScriptExecutionDisabled", value=False)


@pytest.fixture
def run(service):
    """A run that waits for its approval."""
    return service.run("release", {"ref": "refs/tags/v1.2"}, x_access_token="token")


@pytest.fixture
def link(flask, run):
    """The printed link to the run's approval, for Ada."""
    return printed_link(flask, run)


@pytest.fixture
def stored(flask, run):
    """The run as it is stored now: stored()."""
    return lambda: flask.json("workflowrun", "show", run["id"])


def printed_link(flask, run, *options, topic="approval"):
    result = flask("workflowrun", "link", run["id"], "--topic", topic, "--by", "Ada", *options)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def results(run):
    return {result["name"]: result["value"] for result in run["tasks"][0]["results"]}


def still_waits(run):
    return statuses(run) == {"approval": "waiting"} and results(run) == {}


def show_as(driver, width, scheme):
    set_size(driver, width, 700)
    driver.devtools("Emulation.setEmulatedMedia",
                    features=[{"name": "prefers-color-scheme", "value": scheme}])


def set_size(driver, width, height):
    driver.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                    deviceScaleFactor=1, mobile=False)


def text(browser):
    return " ".join(browser.one("main").text.split())


def buttons(browser):
    return {button.text: button for button in browser.all("button")}


def click(browser, verb):
    buttons(browser)[verb].click()
    until_answered(browser)


def until_answered(browser):
    wait_until(lambda: "nothing left for you to do" in browser.source, "it is answered")


def expired(link):
    """The link as it is after something was changed: a page that refuses."""
    return re.sub("expires=[0-9]+", "expires=1", link)


# A person

@pytest.mark.parametrize("verb, status, heading", [("Approve", "succeeded", "Approved"),
                                                   ("Reject", "failed", "Rejected")])
def test_a_person_opens_the_link_comments_clicks_and_is_told(
        browser, stored, link, verb, status, heading):
    browser.get(link)
    assert "approval of Release approval" in text(browser)
    assert "by a webhook for refs/tags/v1.2" in text(browser)
    assert buttons(browser).keys() == {"Approve", "Reject"}
    assert still_waits(stored())

    browser.one("[name=comment]").write("Looks <b>good</b>", ENTER, "to me ✓")
    click(browser, verb)
    assert heading in text(browser) and "Looks <b>good</b> to me ✓" in text(browser)
    ended = stored()
    assert statuses(ended) == {"approval": status} and ended["status"] == status
    assert results(ended) == {"comment": "Looks <b>good</b>\nto me ✓", "by": "Ada"}

    browser.get(link)
    assert heading in text(browser) and "nothing left for you to do" in text(browser)
    assert not buttons(browser) and stored() == ended


def test_a_link_with_a_status_has_its_one_button(browser, flask, stored, run):
    browser.get(printed_link(flask, run, "--status", "failed"))
    assert buttons(browser).keys() == {"Reject"}
    click(browser, "Reject")
    assert statuses(stored()) == {"approval": "failed"}


def test_the_keyboard_alone_is_enough(browser, stored, link):
    browser.get(link)
    browser.press(TAB)
    assert browser.focused.attribute("name") == "comment"
    browser.press("no mouse here", TAB)
    assert browser.focused.text == "Approve"
    assert browser.focused.style("outline-style") == "solid"
    browser.press(TAB)
    assert browser.focused.text == "Reject"
    browser.press(SPACE)
    until_answered(browser)
    assert statuses(stored()) == {"approval": "failed"}
    assert results(stored()) == {"comment": "no mouse here", "by": "Ada"}


def test_the_page_works_without_javascript(browser, stored, link):
    browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
    browser.get("data:text/html,<title>off</title><script>document.title = 'on'</script>")
    assert browser.title == "off"
    browser.get(link)
    browser.one("[name=comment]").write("no scripts")
    click(browser, "Approve")
    assert results(stored()) == {"comment": "no scripts", "by": "Ada"}


# A machine

def test_a_browser_that_only_loads_the_link_changes_nothing(
        service, run, stored, link, tmp_path):
    """As a scanner that renders the page and runs whatever it finds in it, for five seconds."""
    loaded = subprocess.run([CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom",
                             "--virtual-time-budget=5000", link],
                            capture_output=True, text=True, timeout=60)
    assert "Nothing has happened yet." in loaded.stdout
    assert "GET /api/v2/callback?workflowrun=" + run["id"] in service.log
    assert still_waits(stored())


@pytest.fixture
def other_site(tmp_path):
    """Show a page of another site: its URL, given the page's HTML."""
    handler = partial(QuietHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()

        def show(html):
            (tmp_path / "index.html").write_text(html)
            return f"http://localhost:{server.server_port}/"
        yield show
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_another_site_cannot_send_the_form(browser, stored, link, other_site):
    browser.get(other_site(f'<form method="post" action="{escape(link)}">'
                           '<button name="status" value="succeeded">Win</button></form>'))
    browser.one("button").click()
    wait_until(lambda: "This answer was not taken" in browser.source, "it is refused")
    assert still_waits(stored())


def test_another_site_cannot_frame_the_page(browser, link, other_site, tmp_path):
    (tmp_path / "own.html").write_text("Approve")
    browser.get(other_site(f'<iframe src="own.html"></iframe><iframe src="{escape(link)}">'))
    shown = []
    for frame in browser.all("iframe"):
        browser.enter(frame)
        shown.append("Approve" in browser.source)
        browser.enter(None)
    assert shown == [True, False]


# How it looks

def asking(browser, link):
    browser.get(link)


def answered(browser, link):
    browser.get(link)
    browser.one("[name=comment]").write("Looks good to me")
    click(browser, "Approve")


def refused(browser, link):
    browser.get(expired(link))
    assert "This link does not work" in text(browser)


PAGES = pytest.mark.parametrize("open_page", [asking, answered, refused],
                                ids=lambda page: page.__name__)


@PAGES
def test_axe_finds_nothing_in_the_light_and_in_the_dark(browser, link, open_page):
    open_page(browser, link)
    browser.run(AXE.read_text())
    backgrounds = []
    for scheme in ("light", "dark"):
        show_as(browser, 800, scheme)
        found = browser.run(
            "const done = arguments[0]; axe.run().then(done, error => done({error: `${error}`}))",
            kind="async")
        assert found["testEngine"]["version"] == "4.14.1" and len(found["passes"]) >= 10
        assert [(rule["id"], [node["html"] for node in rule["nodes"]])
                for rule in found["violations"] + found["incomplete"]] == []
        colour = browser.one("body").style("background-color")
        backgrounds.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
    assert backgrounds[0] > 600 and backgrounds[1] < 150


@PAGES
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_at_320_px(browser, link, open_page, scheme):
    show_as(browser, 320, scheme)
    open_page(browser, link)
    assert width_of_page(browser) <= 320
    for button in buttons(browser).values():
        assert button.rect["height"] >= 44 and button.rect["x"] + button.rect["width"] <= 320


def test_not_even_long_names_scroll_sideways(browser, service, flask):
    show_as(browser, 320, "light")
    run = service.run("long", {"ref": LONG}, x_access_token="token")
    browser.get(printed_link(flask, run, topic=LONG))
    assert width_of_page(browser) <= 320
    browser.one("[name=comment]").write("x" * 300)
    click(browser, "Approve")
    assert width_of_page(browser) <= 320


def width_of_page(browser):
    return browser.run("return document.documentElement.scrollWidth")


@pytest.mark.skipif("SCREENSHOT" not in os.environ, reason="SCREENSHOT=1 makes docs/approval.png")
def test_the_screenshot_of_the_readme(browser, service, flask):
    earlier = create_app(service.environ, lambda: utc_now() - 3 * MINUTE).test_client()
    run = earlier.post("/api/v2/webhook?workflow=release", json={"ref": "refs/tags/v1.2"},
                       headers={"x-access-token": "token"}).json
    browser.get(printed_link(flask, run))
    height = browser.run("return document.documentElement.offsetHeight")
    set_size(browser, 800, height)
    image = b64decode(browser.ask("GET", "screenshot"))
    (PROJECT / "docs" / "approval.png").write_bytes(image)
