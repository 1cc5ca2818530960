"""The page in a real browser, from a real server: Debian's chromium and chromium-driver."""
import os
import re
import subprocess
import threading
from functools import partial
from html import escape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import MINUTE, Commands, statuses, wait_task
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from server import PROJECT, Server, wait_until

from app import create_app, utc_now
from storage import database

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
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
    database.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver):
    """The browser: 800 px wide, light, with JavaScript."""
    show_as(driver, 800, "light")
    yield driver
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


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
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": scheme}]})


def text(browser):
    return " ".join(browser.find_element(By.TAG_NAME, "main").text.split())


def buttons(browser):
    return {button.text: button for button in browser.find_elements(By.TAG_NAME, "button")}


def click(browser, verb):
    buttons(browser)[verb].click()
    until_answered(browser)


def until_answered(browser):
    wait_until(lambda: "nothing left for you to do" in browser.page_source, "it is answered")


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

    browser.find_element(By.NAME, "comment").send_keys("Looks <b>good</b>", Keys.ENTER, "to me ✓")
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

    def focused():
        return browser.switch_to.active_element

    def press(*keys):
        webdriver.ActionChains(browser).send_keys(*keys).perform()
    press(Keys.TAB)
    assert focused().get_attribute("name") == "comment"
    press("no mouse here", Keys.TAB)
    assert focused().text == "Approve"
    assert focused().value_of_css_property("outline-style") == "solid"
    press(Keys.TAB)
    assert focused().text == "Reject"
    press(Keys.SPACE)
    until_answered(browser)
    assert statuses(stored()) == {"approval": "failed"}
    assert results(stored()) == {"comment": "no mouse here", "by": "Ada"}


def test_the_page_works_without_javascript(browser, stored, link):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get("data:text/html,<title>off</title><script>document.title = 'on'</script>")
    assert browser.title == "off"
    browser.get(link)
    browser.find_element(By.NAME, "comment").send_keys("no scripts")
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
        threading.Thread(target=server.serve_forever, daemon=True).start()

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
    browser.find_element(By.TAG_NAME, "button").click()
    wait_until(lambda: "came from another site" in browser.page_source, "it is refused")
    assert still_waits(stored())


def test_another_site_cannot_frame_the_page(browser, link, other_site, tmp_path):
    (tmp_path / "own.html").write_text("Approve")
    browser.get(other_site(f'<iframe src="own.html"></iframe><iframe src="{escape(link)}">'))
    shown = []
    for frame in browser.find_elements(By.TAG_NAME, "iframe"):
        browser.switch_to.frame(frame)
        shown.append("Approve" in browser.page_source)
        browser.switch_to.default_content()
    assert shown == [True, False]


# How it looks

def asking(browser, link):
    browser.get(link)


def answered(browser, link):
    browser.get(link)
    browser.find_element(By.NAME, "comment").send_keys("Looks good to me")
    click(browser, "Approve")


def refused(browser, link):
    browser.get(expired(link))
    assert "This link does not work" in text(browser)


PAGES = pytest.mark.parametrize("open_page", [asking, answered, refused],
                                ids=lambda page: page.__name__)


@PAGES
def test_axe_finds_nothing_in_the_light_and_in_the_dark(browser, link, open_page):
    open_page(browser, link)
    browser.execute_script(AXE.read_text())
    backgrounds = []
    for scheme in ("light", "dark"):
        show_as(browser, 800, scheme)
        found = browser.execute_async_script(
            "const done = arguments[0]; axe.run().then(done, error => done({error: `${error}`}))")
        assert found["testEngine"]["version"] == "4.14.1" and len(found["passes"]) >= 10
        assert [(rule["id"], [node["html"] for node in rule["nodes"]])
                for rule in found["violations"] + found["incomplete"]] == []
        colour = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
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
    browser.find_element(By.NAME, "comment").send_keys("x" * 300)
    click(browser, "Approve")
    assert width_of_page(browser) <= 320


def width_of_page(browser):
    return browser.execute_script("return document.documentElement.scrollWidth")


@pytest.mark.skipif("SCREENSHOT" not in os.environ, reason="SCREENSHOT=1 makes docs/approval.png")
def test_the_screenshot_of_the_readme(browser, service, flask):
    earlier = create_app(service.environ, lambda: utc_now() - 3 * MINUTE).test_client()
    run = earlier.post("/api/v2/webhook?workflow=release", json={"ref": "refs/tags/v1.2"},
                       headers={"x-access-token": "token"}).json
    browser.get(printed_link(flask, run))
    height = browser.execute_script("return document.documentElement.offsetHeight")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 800, "height": height, "deviceScaleFactor": 1, "mobile": False})
    assert browser.save_screenshot(str(PROJECT / "docs" / "approval.png"))
