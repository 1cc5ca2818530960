"""A browser by WebDriver (https://www.w3.org/TR/webdriver2/): Debian's chromium and its driver."""
import http.client
import json
import subprocess

from server import free_port, wait_until

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in an answer
TAB, ENTER, SPACE = "\ue004", "\ue007", "\ue00d"


class Browser:
    """A headless Chromium; a context manager."""

    def __init__(self, profile):
        self.port, self.session = free_port(), ""
        self.options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}

    def __enter__(self):
        self.process = subprocess.Popen([DRIVER, f"--port={self.port}"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self.is_ready, "the browser's driver answers", 15)
            made = self.ask("POST", "session", capabilities={
                "alwaysMatch": {"goog:chromeOptions": self.options}})
            self.session = f"session/{made['sessionId']}/"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        try:
            if self.session:
                self.ask("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(10)

    def is_ready(self):
        try:
            return self.ask("GET", "status")["ready"]
        except ConnectionError:
            return False

    def ask(self, method, path, **values):
        """What the driver answers to a command of the session."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = json.dumps(values) if method == "POST" else None
            connection.request(method, f"/{self.session}{path}".rstrip("/"), body)
            answer = connection.getresponse()
            value = json.load(answer)["value"]
        finally:
            connection.close()
        assert answer.status == 200, value
        return value

    def get(self, url):
        self.ask("POST", "url", url=url)

    @property
    def source(self):
        return self.ask("GET", "source")

    @property
    def title(self):
        return self.ask("GET", "title")

    def all(self, selector):
        """The elements that the CSS selector finds."""
        found = self.ask("POST", "elements", using="css selector", value=selector)
        return [Element(self, one) for one in found]

    def one(self, selector):
        found, *more = self.all(selector)
        return found

    @property
    def focused(self):
        return Element(self, self.ask("GET", "element/active"))

    def press(self, *texts):
        """Press the keys, wherever the focus is."""
        keys = [{"type": kind, "value": key} for key in "".join(texts)
                for kind in ("keyDown", "keyUp")]
        self.ask("POST", "actions", actions=[{"type": "key", "id": "keyboard", "actions": keys}])

    def run(self, script, kind="sync"):
        """What a script returns; an `async` one gives it to its last argument."""
        return self.ask("POST", f"execute/{kind}", script=script, args=[])

    def enter(self, frame):
        """Go on in the frame, or with None in the page itself."""
        self.ask("POST", "frame", id=frame and frame.key)

    def devtools(self, command, **parameters):
        return self.ask("POST", "goog/cdp/execute", cmd=command, params=parameters)


class Element:
    def __init__(self, browser, key):
        self.browser, self.key = browser, key
        self.path = f"element/{key[ELEMENT]}/"

    def look(self, what):
        return self.browser.ask("GET", self.path + what)

    @property
    def text(self):
        return self.look("text")

    def attribute(self, name):
        return self.look(f"attribute/{name}")

    def style(self, name):
        return self.look(f"css/{name}")

    @property
    def rect(self):
        return self.look("rect")

    def click(self):
        self.browser.ask("POST", self.path + "click")

    def write(self, *texts):
        self.browser.ask("POST", self.path + "value", text="".join(texts))
