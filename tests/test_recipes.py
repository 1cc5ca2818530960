"""README.md and docs/, run as they stand there: what a page shows is what comes.

A page's blocks are taken in order. One after "Save this as `NAME`" is written to that file, every
other `sh` block is run in one bash session, and the `text` block below it must be what the terminal
showed; without one it must have shown nothing. "Restart the service" in the text restarts it, and
so do "Stop the service" and "Start the service again", one after the other. Blocks in another
language are not run. The folder is the project's with a database of its own, and curl's
configuration leads the addresses that the pages name to the port that the service has here.
"""
import base64
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import termios
import threading
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from aiosmtpd.controller import Controller
from server import PROJECT, Server, free_port, kill, processes
from standardwebhooks import Webhook
from browser import CHROMIUM, Browser
from test_browser import click
from test_deploy import NAME, NGINX, Nginx, with_tls
from test_notices import Receiver

MISSING = [program for program in ("bash", "curl", "openssl") if not shutil.which(program)]
pytestmark = [pytest.mark.server,
              pytest.mark.skipif(bool(MISSING), reason=f"not here: {', '.join(MISSING)}")]

DOCS = sorted((PROJECT / "docs").glob("*.md"))
PAGES = [PROJECT / "README.md", *DOCS]
CODE = {"Makefile", "__pycache__", "deploy", "runs", "storage", "templates", "web"}
TOKEN = "recipe-token"
BLOCK = re.compile(r"(?P<prose>.*?)^```(?P<language>\w+)\n(?P<code>.*?)^```\n", re.M | re.S)
SAVE = re.compile(r"[Ss]ave this as `([^`]+)`[^`]*\Z")
END = b"\x1e"
#: What a terminal does not show: a line that was drawn over, and colours.
HIDDEN = re.compile(r"[^\n]*\r\x1b\[K|\x1b\[[\d;]*m|\r(?=\n)")
#: What differs each time, however a page shows it.
VARIES = re.compile(r"""(?P<lines>^…\n) | (?P<some>…) | (?P<id>\b[0-9a-v]{32}\b)
    | (?P<minute>\d{4}-\d\d-\d\d\ \d\d:\d\d\ UTC)
    | (?P<age>(?<=\ )\d+[smh]\ +)
    | (?P<field>(?:expires|signature)=)[\w-]+""", re.M | re.X)


class Shown:
    """What a page shows, compared with what came; an id stands for the same run all through it."""

    def __init__(self):
        self.ids = {}

    def check(self, shown, seen):
        shown, seen = (text.strip() + "\n" for text in (shown, seen))
        pattern, at, new = "", 0, []
        for part in VARIES.finditer(shown):
            pattern += re.escape(shown[at:part.start()]) + self.pattern(part, new)
            at = part.end()
        match = re.fullmatch(pattern + re.escape(shown[at:]), seen)
        assert match, f"the page shows\n{shown}\nbut this came:\n{seen}"
        self.ids.update((shown_id, match[f"id_{shown_id}"]) for shown_id in new)

    def pattern(self, part, new):
        if part["id"]:
            if part["id"] in self.ids:
                return self.ids[part["id"]]
            if part["id"] in new:
                return f"(?P=id_{part['id']})"
            new.append(part["id"])
            return f"(?P<id_{part['id']}>[0-9a-v]{{32}})"
        if part["age"]:
            return r"\d+[smh] +"
        if part["minute"]:
            return r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
        if part["field"]:
            return part["field"] + r"[\w-]+"
        return r"(?:.*\n)*?" if part["lines"] else ".*?"


class Terminal:
    """A bash session in a folder, at a terminal as a reader has it."""

    def __init__(self, folder, environ):
        self.folder, self.count = folder, 0
        self.master, slave = pty.openpty()
        modes = termios.tcgetattr(slave)
        modes[1] &= ~termios.OPOST  # lines end as the commands wrote them
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        termios.tcsetwinsize(slave, (40, 120))
        self.process = subprocess.Popen(["bash"], cwd=folder, env=environ, stdin=subprocess.PIPE,
                                        stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.kill()
        self.process.communicate()
        os.close(self.master)

    def kill(self):
        """End the shell, and a command that it waits for."""
        kill(*processes(self.process.pid))

    def __call__(self, code):
        """What the commands print, once they are done."""
        self.count += 1
        block = self.folder / f"block-{self.count}"
        block.write_text(code)
        self.process.stdin.write(f". ./{block.name} < /dev/null; printf '\\036'\n".encode())
        self.process.stdin.flush()
        late = threading.Timer(30, self.kill)
        late.start()
        seen = b""
        try:
            while not seen.endswith(END):
                seen += os.read(self.master, 65536)
        except OSError:
            raise AssertionError(f"{code}\nended the shell, or took too long: {seen}") from None
        finally:
            late.cancel()
        return HIDDEN.sub("", seen.removesuffix(END).decode())


class Recipe:
    """A page and the service that it is tried on."""

    def __init__(self, folder, page, **settings):
        self.folder = folder
        self.text = next(path for path in PAGES if path.stem == page).read_text()
        self.blocks = [block.groupdict() for block in BLOCK.finditer(self.text)]
        self.shown = Shown()
        for path in PROJECT.iterdir():
            if path.suffix == ".py" or path.name in CODE:
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copytree(PROJECT / "workflows", folder / "workflows")
        for name in ("bin", "instance"):
            (folder / name).mkdir()
        self.settings = folder / "instance" / "settings.env"
        self.settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        load = "set -a; . instance/settings.env; set +a"  # as docs/security.md says
        command = ["bash", "-c", f'{load}; exec "$0" -m gunicorn wsgi:app', sys.executable]
        self.service = Server(folder / "instance", command, folder, WEB_CONCURRENCY="1",
                              HOME=str(folder))
        self.environ = self.service.environ = {**self.service.environ,
                                               "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        self.lead("127.0.0.1", 8000, self.service.port)

    def __enter__(self):
        self.service.start()
        return self

    def __exit__(self, *error):
        self.service.hang_up()
        self.service.kill()

    def lead(self, host, port, here):
        """Let curl reach on this port here what the page calls host:port."""
        with (self.folder / ".curlrc").open("a") as curlrc:
            curlrc.write(f'connect-to = "{host}:{port}:127.0.0.1:{here}"\n')

    def stand_in(self, program, script):
        """Put a program where the page calls one that this machine does not have."""
        file = self.folder / "bin" / program
        file.write_text(f"#!/bin/bash\n{script}")
        file.chmod(0o755)

    def apply(self, *files):
        """Load definitions, as `make run` or an earlier page did."""
        result = self.service.flask("workflow", "apply", *files)
        assert result.returncode == 0, result.stderr

    def code(self, language):
        """The page's blocks in this language."""
        return [block["code"] for block in self.blocks if block["language"] == language]

    def run(self, between={}, **paths):
        """Do what the page says; these paths in it are others here. `between` has what is done
        where the page's text has these words."""
        with Terminal(self.folder, self.environ) as terminal:
            seen = ""
            for block in self.blocks:
                if re.search("Restart the service|Stop the service", block["prose"]):
                    self.service.stop()
                if re.search("Restart the service|Start the service again", block["prose"]):
                    self.service.start()
                for words, act in between.items():
                    if words in block["prose"]:
                        act()
                language, code = block["language"], block["code"]
                if language != "text":
                    assert not seen.strip(), f"the page does not show that this came:\n{seen}"
                if file := SAVE.search(block["prose"].strip()):
                    saved = self.folder / file[1]
                    saved.parent.mkdir(parents=True, exist_ok=True)
                    saved.write_text(code)
                elif language == "sh":
                    for old, new in paths.items():
                        code = code.replace(old, new)
                    seen = terminal(code)
                elif language == "text":
                    self.shown.check(code, seen)
                    seen = ""
            assert not seen.strip(), f"the page does not show that this came:\n{seen}"


@pytest.fixture
def recipe(tmp_path):
    """Opens a page: with recipe("slack", SECRET_KEY="key") as page: page.run()."""
    return lambda page, **settings: Recipe(tmp_path, page, **settings)


# What a page shows must be what came

ID, OTHER = "1lgehebsq5us2kujkacjonhnob71bdas", "1lgehef6d3nbjo567f6tmjaqocih8pum"


@pytest.mark.parametrize("shown, seen", [
    ("created release", "updated release"), ("created", "created release"), ("", "Error: no"),
    ("created release", "created\nrelease"), ("a … c", "a b"), (f"run {ID}", "run 1lge"),
    (f"{ID} again {ID}", f"{ID} again {OTHER}"), ("a…c", "a\nc"), ("first\n…", "second"),
])
def test_a_page_that_shows_something_else_is_wrong(shown, seen):
    with pytest.raises(AssertionError, match="the page shows"):
        Shown().check(shown, seen)


def test_a_page_shows_another_id_and_age_and_leaves_things_out():
    shown = Shown()
    shown.check(f"{ID}  0s   release\n…\nlast … line", f"{OTHER}  12m  release\nb\nlast c line")
    shown.check(f"run {ID}", f"run {OTHER}")
    with pytest.raises(AssertionError, match="the page shows"):
        shown.check(f"run {ID}", f"run {ID}")


def test_every_page_is_run_here_and_named_in_the_readme():
    to_run = [page.stem for page in PAGES if "```sh\n" in page.read_text()]
    tests, readme = Path(__file__).read_text(), (PROJECT / "README.md").read_text()
    assert set(to_run) == set(re.findall(r'with recipe\("([\w-]+)"', tests))
    assert [page.name for page in DOCS if f"(docs/{page.name})" not in readme] == []


def anchors(page):
    """What a page's headings are called in links to it."""
    headings = re.findall("(?m)^#+ (.+)", re.sub("(?ms)^```.*?^```", "", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *PROJECT.glob("[AC]*.md"), PROJECT / "deploy/README.md"],
                         ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_pages_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# The pages

def test_the_readme(recipe):
    with recipe("README") as page:
        page.stand_in("apt-get", "exit 0")
        page.stand_in("make", '[ "$1" != run ] || .venv/bin/flask workflow apply '
                              "workflows/release.json > make.log 2>&1")
        page.run()


def test_definitions(recipe):
    with recipe("definitions") as page:
        page.apply("workflows/release.json")
        page.run()


def test_http(recipe):
    with recipe("http") as page:
        page.apply("workflows/release.json")
        page.run()


def test_commands(recipe):
    with recipe("commands") as page:
        page.apply("workflows/release.json", "workflows/deploy-on-push.json")
        page.run()


def test_security(recipe):
    with recipe("security") as page:
        page.stand_in("make", "exit 0")
        page.apply("workflows/release.json", "workflows/deploy-on-push.json")
        page.run()
        assert "set DEPLOY_SECRET and restart" in page.service.log


def test_operations(recipe):
    with recipe("operations") as page:
        page.apply("workflows/release.json")
        page.run()


def test_integration_tests(recipe):
    with recipe("integration-tests") as page:
        page.run(**{"../signalbox": "."})


def test_a_github_webhook(recipe):
    with recipe("github-webhook") as page:
        page.run()
        assert "X-Hub-Signature-256 does not fit" in page.service.log


GITHUB = {"vars.SIGNALBOX_URL": "http://127.0.0.1:8000", "secrets.SIGNALBOX_TOKEN": TOKEN,
          "github.server_url": "https://github.com", "github.repository": "octo-org/shop",
          "inputs.run": "${7#run=}", "github.run_id": "$number", "job.status": "$outcome"}


def stand_in_for_github(page, *outcomes):
    """A `gh` that runs the job's last step at once; the job ends in these ways, one after another.

    The step's shell is GitHub's: `bash -e`.
    """
    workflow = yaml.safe_load(page.code("yaml")[0])
    *_, step = workflow["jobs"]["tests"]["steps"]
    assert step["if"] == "always()" and workflow[True]["workflow_dispatch"]["inputs"]["run"]
    filled = {name: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: GITHUB[found[1]], value)
              for name, value in step["env"].items()}
    (page.folder / "step").write_text(step["run"])
    (page.folder / "jobs").write_text("".join(f"{1658821493 + number} {outcome}\n"
                                              for number, outcome in enumerate(outcomes)))
    page.stand_in("gh", "\n".join([
        '[ "${*:1:6} ${7%%=*}" = "workflow run tests.yml --repo octo-org/shop -f run" ] || exit 1',
        "read -r number outcome < jobs; sed -i 1d jobs",
        *(f'export {name}="{value}"' for name, value in filled.items()), "exec bash -e step"]))


def test_github_actions_jobs_that_end_in_each_way(recipe):
    with recipe("github-actions", ACCESS_TOKENS=TOKEN) as page:
        stand_in_for_github(page, "success", "failure", "cancelled")
        page.run()
        waiting = page.service.run("shop-tests", Authorization=f"Bearer {TOKEN}")
        subprocess.run(["gh", "workflow", "run", "tests.yml", "--repo", "octo-org/shop", "-f",
                        f"run={waiting['id']}"], cwd=page.folder, env=page.environ, check=True)
        runs = page.service.stored()
        assert [run["status"] for run in runs] == ["failed", "failed", "succeeded"]
        assert runs[0]["tasks"][0]["results"][0]["value"]["status"] == "cancelled"


def test_an_approval_by_email(recipe, mailbox):
    with recipe("approval-by-email", ACCESS_TOKENS=TOKEN, SECRET_KEY="key",
                ANNA=shlex.quote(mailbox.address)) as page:
        page.run()
        mail, = mailbox.mail
        page.shown.check(page.code("eml")[0].partition("\n\n")[2],
                         mail.get_content().replace("\r\n", "\n"))
        assert mail["Subject"] == "approval of Budget for the new server waits"


class Mailbox:
    """Keeps the mail that its server takes."""

    def __init__(self):
        self.mail = []

    async def handle_DATA(self, server, session, envelope):
        self.mail.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"


@pytest.fixture
def mailbox():
    """A mail server, and the address of Apprise's that leads to it."""
    mailbox = Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    server.start()
    mailbox.address = (f"mailto://127.0.0.1:{server.port}/?mode=insecure"
                       "&from=signalbox@example.org&to=anna@example.org")
    yield mailbox
    server.stop()


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path / "profile") as browser:
        yield browser


@pytest.mark.browser
@pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no browser here (Debian: chromium)")
@pytest.mark.both
def test_a_release(recipe, tmp_path, mailbox, database_url, browser):
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    (tmp_path / "other").mkdir()
    with Receiver() as receiver, Server(tmp_path / "other", SHOP_SECRET=secret) as other:
        settings = {
            "DATABASE_URL": database_url, "ACCESS_TOKENS": "ci:4f1c0c34e3d94e1a8f",
            "SECRET_KEY": "key", "GITHUB_SECRET": "secret", "NOTIFY_SECRET": secret,
            "APPROVERS": mailbox.address, "HEAD_OF_SHOP": mailbox.address,
            "DEPLOY_HOOK": receiver.url, "OTHER_SIGNALBOX":
            f"http://127.0.0.1:{other.port}/api/v2/event?workflow=deploy"}
        with recipe("release", **{name: shlex.quote(value) for name, value in settings.items()}
                    ) as page:
            other.define(**json.loads(page.code("json")[2]))

            def answer():
                text = mailbox.mail[0].get_content().replace("\r\n", "\n")
                page.shown.check(page.code("eml")[0].partition("\n\n")[2], text)
                link = re.search(r"http://127.0.0.1:8000(\S+)", text)[1]
                browser.get(f"http://127.0.0.1:{page.service.port}{link}")
                shown = browser.one("main").text
                assert "Release refs/tags/v1.2.0, pushed by Codertocat?" in shown
                take_picture(browser, "release-page")
                assert browser.one("dd a, p a").text == ("https://github.com/octo-org/shop/compare/"
                                                         "v1.1.0...v1.2.0")
                browser.one("[name=comment]").write("go ahead")
                click(browser, "Approve")

            def look():
                run, = page.service.stored()
                url = f"/api/v2/callback?workflowrun={run['id']}&access_token=4f1c0c34e3d94e1a8f"
                browser.get(f"http://127.0.0.1:{page.service.port}{url}")
                shown = browser.one("main").text
                assert "Succeeded" in shown and "go ahead" in shown
                assert not browser.all("button")
                take_picture(browser, "run-page")

            page.service.environ["DATABASE_URL"] = database_url
            page.run({"## 5. Whoever waits": answer, "![The run as a page": look})
        mail, = mailbox.mail
        assert mail["Subject"] == "approval of Release of octo-org/shop waits"
        (headers, body), = receiver.got
        event = Webhook(secret).verify(body, dict(headers.items()))
        assert event.keys() == json.loads(page.code("json")[1]).keys()
        assert event["data"]["workflowrun"]["status"] == "succeeded"
        started, = other.stored()
        assert started["workflowRef"] == "deploy" and started["status"] == "running"
        assert started["params"][0]["value"] == event | {"data": started["params"][1]["value"],
                                                         "id": started["params"][0]["value"]["id"]}
        for hidden in "4f1c0c34e3d94e1a8f", "signature=", "anna@":
            assert hidden not in page.service.log


def take_picture(browser, name):
    """Into docs/, when the variable PICTURES is set."""
    if os.environ.get("PICTURES"):
        picture = base64.b64decode(browser.one("body").look("screenshot"))
        (PROJECT / "docs" / f"{name}.png").write_bytes(picture)


def test_notices(recipe):
    with recipe("notices", SECRET_KEY="key") as page:
        port = str(free_port())
        page.run(**{"8090": port})


def test_cloudevents(recipe):
    with recipe("cloudevents") as page:
        page.run()
        ping, *routed = [kind for code in page.code("yaml") for kind in yaml.safe_load_all(code)]
        address = ping["spec"]["sink"]["uri"]
        assert address == routed[-1]["spec"]["subscriber"]["uri"]
        event = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "dev.knative.sources.ping",
                 "ce-source": "/apis/v1/namespaces/default/pingsources/nightly"}
        answer = page.service.request("POST", address.removeprefix(f"https://{NAME}"),
                                      json.loads(ping["spec"]["data"]), event)
        assert json.loads(answer.text)["status"] == "running"


def test_senders(recipe):
    with recipe("senders") as page:
        page.run()


def test_a_shell_script(recipe):
    with recipe("shell-script") as page:
        page.run()


class Channel(BaseHTTPRequestHandler):
    """Takes messages in place of Slack, whose host's name stands in Apprise."""
    messages = []

    def do_POST(self):
        self.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


@pytest.fixture
def channel():
    """An address of Apprise's that a message is posted to."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Channel) as server:
        listening = threading.Thread(target=server.serve_forever)
        listening.start()
        yield f"json://127.0.0.1:{server.server_port}/services/T00000000/B00000000/XXXXXXXX"
        server.shutdown()
        listening.join(5)


def test_slack(recipe, channel):
    with recipe("slack", SECRET_KEY="key", SLACK_SIGNING_SECRET="8f742231b10e8888abcd99yyyzzz85a5",
                LAUNCH_CHANNEL=channel) as page:
        page.run()
        message, = Channel.messages
        assert message["title"] == "approval of Launch waits"
        link = re.search(r"http://127.0.0.1:8000(\S+)", message["message"])[1]
        answer = page.service.get(link)
        assert (answer.status, "<form" in answer.text) == (200, True)


def nginx_with_tls(page):
    """nginx with the shipped site, its TLS lines on, before the page's service."""
    folder = page.folder / "nginx"
    folder.mkdir()
    certificate, port, tls = with_tls(folder)
    nginx = Nginx(folder, page.service.port, **tls)
    page.lead(NAME, 80, nginx.port)
    page.lead(NAME, 443, port)
    with (page.folder / ".curlrc").open("a") as curlrc:
        curlrc.write(f'cacert = "{certificate}"\n')
    return nginx


@pytest.mark.skipif(not NGINX, reason="no nginx here (Debian: apt install nginx)")
def test_behind_nginx(recipe):
    with recipe("behind-nginx", ACCESS_TOKENS=TOKEN, SECRET_KEY="key", TRUSTED_PROXIES="1",
                PUBLIC_URL=f"https://{NAME}") as page, nginx_with_tls(page) as nginx:
        page.stand_in("signalbox", 'set -a; . instance/settings.env; exec .venv/bin/flask "$@"')
        page.run(**{"/etc/signalbox.env": "instance/settings.env", "/opt/signalbox/": "",
                    "/var/log/nginx/": f"{nginx.access_log.parent}/"})
        ended, = page.service.stored()
        assert ended["tasks"][1]["results"] == [{"name": "by", "value": "anna@example.com"}]
