"""What deploy/ ships: the service behind a real nginx, and the units as systemd reads them."""
import http.client
import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from conftest import wait_task
from inside import commands_on
from server import PROJECT, Load, Server, at_once, free_port, integrity, kill, wait_until

DEPLOY = PROJECT / "deploy"
PATH = f"{os.environ['PATH']}:/usr/sbin"
NGINX, ANALYZE = (shutil.which(name, path=PATH) for name in ("nginx", "systemd-analyze"))
NAME = "signalbox.example.org"
PROBLEM = "application/problem+json"
JSON = {"Content-Type": "application/json"}
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))

needs_nginx = pytest.mark.skipif(not NGINX, reason="no nginx here (Debian: apt install nginx)")
needs_systemd = pytest.mark.skipif(not ANALYZE, reason="no systemd-analyze here (Debian: systemd)")
pytestmark = pytest.mark.server


def site(folder, changes):
    """A configuration around the shipped site file, in which only these texts are changed."""
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in {"/var/log/nginx/": f"{folder}/", **changes}.items():
        assert old in text, f"nginx.conf has no {old!r}"
        text = text.replace(old, new)
    (folder / "site").write_text(text)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    conf = folder / "nginx.conf"
    conf.write_text(f"{user} daemon off; pid {folder}/pid; worker_processes 2; events {{}}"
                    f"error_log {folder}/error.log; http {{ {temporary} include {folder}/site; }}")
    return ["nginx", "-p", str(folder), "-c", str(conf), "-e", f"{folder}/error.log"]


class Nginx(Server):
    """nginx with the shipped site before these ports; a client chooses its loopback address."""

    def __init__(self, folder, *ports, **changes):
        super().__init__(folder, PATH=PATH)
        upstream = "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
        self.command = site(folder, {"listen 80;": f"listen 127.0.0.1:{self.port};",
                                     "listen [::]:80;": "", "server 127.0.0.1:8000;": upstream,
                                     **changes})
        self.access_log = folder / "signalbox.access.log"

    def send(self, method, path, body=None, headers={}, address="127.0.0.1"):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15,
                                            source_address=(address, 0))
        try:
            client.request(method, path, body, {"Host": NAME, **headers})
            answer = client.getresponse()
            return SimpleNamespace(status=answer.status, headers=answer.headers,
                                   text=answer.read().decode())
        finally:
            client.close()

    def logged(self, mark):
        """The line of the access log that has the mark; it is written after the answer."""
        return wait_until(lambda: [line for line in self.access_log.read_text().splitlines()
                                   if mark in line], f"nginx has logged {mark}")[-1]


def check_problem(answer, status):
    document = json.loads(answer.text)
    assert (answer.status, answer.headers["Content-Type"]) == (status, PROBLEM)
    assert document["status"] == status and document["title"] and document["detail"]


def post(client, path, payload, **options):
    headers = {**JSON, **options.pop("headers", {})}
    return client.send("POST", path, json.dumps(payload), headers, **options)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with Server(folder, TRUSTED_PROXIES="1", SECRET_KEY="key",
                PUBLIC_URL=f"https://{NAME}") as server:
        server.define("release", wait_task("tests"), wait_task("approval", tests="success"))
        yield server


@pytest.fixture(scope="module")
def nginx(service, tmp_path_factory):
    if not NGINX:
        pytest.skip("no nginx here (Debian: apt install nginx)")
    with Nginx(tmp_path_factory.mktemp("nginx"), service.port) as nginx:
        yield nginx


def start(nginx):
    answer = post(nginx, "/api/v2/webhook?workflow=release", {})
    assert answer.status == 200, answer.text
    return json.loads(answer.text)["id"]


def callback(run, topic, status):
    return f"/api/v2/callback?workflowrun={run}&topic={topic}&status={status}"


# The four endpoints, and what is not one

def test_all_four_endpoints_answer_through_nginx(nginx, service):
    run = start(nginx)
    event = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "built"}
    assert post(nginx, "/api/v2/event?workflow=release", event).status == 200
    assert post(nginx, callback(run, "tests", "succeeded"), {"passed": 3}).status == 200
    assert nginx.send("GET", callback(run, "approval", "failed")).status == 200
    tests, approval = json.loads(service.flask("workflowrun", "show", run).stdout)["tasks"]
    assert tests["results"] == [{"name": "data", "value": {"passed": 3}}]
    assert approval["status"] == "failed"


def test_head_stays_head_and_resolves_nothing(nginx):
    run = start(nginx)
    answer = nginx.send("HEAD", callback(run, "tests", "succeeded"))
    assert (answer.status, "POST" in answer.headers["Allow"]) == (405, True)
    assert post(nginx, callback(run, "tests", "failed"), {}).status == 200


def test_options_is_a_health_check(nginx):
    assert nginx.send("OPTIONS", "/api/v2/event").status == 200


@pytest.mark.parametrize("path", ["/", "/api//v2/webhook", "/api/v2/webhook/",
                                  "/api/v2/../v2/webhook", "/problem", "/.git/config"])
def test_any_other_path_is_a_404_problem(nginx, path):
    check_problem(post(nginx, path, {}), 404)


def test_what_nginx_itself_refuses_is_a_problem(nginx):
    trace = nginx.send("TRACE", "/api/v2/webhook")
    check_problem(trace, 405)
    assert trace.headers["Allow"]
    check_problem(nginx.send("GET", "/" + "x" * 9000), 414)
    check_problem(nginx.send("GET", "/", headers={"X": "x" * 9000}), 400)
    assert json.loads(nginx.raw(b"GET\r\n\r\n")[1])["status"] == 400


def test_the_body_limit_is_the_services(nginx):
    path, limit = "/api/v2/webhook?workflow=release", 1_048_576
    assert nginx.send("POST", path, "{}".ljust(limit), JSON).status == 200
    for header in ("", "Expect: 100-continue\r\n"):
        head = f"POST {path} HTTP/1.1\r\nHost: {NAME}\r\n{header}Content-Length: {limit + 1}"
        status, text = nginx.raw(f"{head}\r\n\r\n".encode())
        assert (status, json.loads(text)["status"]) == (413, 413)
    chunks = iter([b" " * 4096] * (limit // 4096) + [b"{}"])
    check_problem(nginx.send("POST", path, chunks, JSON), 413)


# Who asks

def test_the_service_sees_the_senders_address_and_no_forged_one(nginx, service):
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.example",
              "X-Forwarded-Proto": "https", "X-Forwarded-Protocol": "ssl", "X-Forwarded-Ssl": "on",
              "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    answer = nginx.send("OPTIONS", "/api/v2/event?workflow=seen", None, forged, "127.0.0.77")
    assert answer.status == 200
    line, = wait_until(lambda: [line for line in service.log.splitlines() if "=seen" in line],
                       "the service has logged the request")
    assert "127.0.0.77" in line and "203.0.113.9" not in line


@pytest.mark.parametrize("origin, status", [
    (f"http://{NAME}", 200), (f"https://{NAME}", 403), ("https://evil.example", 403)],
    ids=["own", "another scheme", "foreign"])
def test_a_signed_links_page_works_behind_nginx(nginx, service, origin, status):
    run = start(nginx)
    with commands_on(service.environ) as flask:
        link = flask("workflowrun", "link", run, "--topic", "tests").stdout.strip()
    path, signature = link.removeprefix(f"https://{NAME}"), link.rpartition("signature=")[2]
    page = nginx.send("GET", path)
    assert page.status == 200 and "<form" in page.text and page.headers["Content-Security-Policy"]
    forged = {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin,
              "X-Forwarded-Host": "evil.example", "Referer": f"https://{NAME}{path}"}
    assert nginx.send("POST", path, "status=succeeded", forged).status == status
    other = post(nginx, callback(run, "tests", "failed"), {}).status
    assert other == (409 if status == 200 else 200)  # it has ended, or waited still
    assert signature not in nginx.access_log.read_text() + service.log


TOKEN = "S3cret"
LINK = quote(f"https://{NAME}/api/v2/callback?workflowrun=1&topic=a&signature={TOKEN}", safe="")
SPELLINGS = {  # what follows a path of ours, what the logs show of it
    "named ones": (f"?workflow=a.b&topic=c&x={TOKEN}", "workflow=a.b topic=c"),
    "a token": (f"?workflow=a&access_token={TOKEN}", "workflow=a"),
    "a token first": (f"?access_token={TOKEN}&workflow=a", "workflow=a"),
    "semicolon": (f"?workflow=x;access_token={TOKEN}", "workflow=***"),
    "HTML": (f"?workflow=x&amp;access_token={TOKEN}", "workflow=x"),
    "%26": (f"?workflow=x%26access_token={TOKEN}", "workflow=***"),
    "%3D": (f"?workflow=x&access_token%3D{TOKEN}", "workflow=x"),
    "%3B and %3D": (f"?topic=x%3Baccess_token%3D{TOKEN}", "topic=***"),
    "encoded twice": (f"?topic=x%2526access_token%253D{TOKEN}", "topic=***"),
    "capitals": (f"?ACCESS_TOKEN={TOKEN}", ""), "a dash": (f"?access-token={TOKEN}", ""),
    "another name": (f"?token={TOKEN}&signature={TOKEN}", ""),
    "an encoded name": (f"?acc%65ss_token={TOKEN}", ""), "no name": (f"?{TOKEN}", ""),
    "a blank in a name": (f"?+access_token={TOKEN}", ""),
    "another question mark": (f"?workflow=a?access_token={TOKEN}", "workflow=***"),
    "in the path": (f"/{TOKEN}", "/***"),
    "in the path, ended": (f"/{TOKEN}/?workflow=a", "/*** workflow=a"),
    "after a semicolon": (f";access_token={TOKEN}", "/***"),
    "as a fragment": (f"?workflow=x#access_token={TOKEN}", ""),
    "a whole link": (f"?workflow={LINK}", "workflow=***"),
    "a whole link as a run": (f"?workflowrun={LINK}&topic=c", "workflowrun=*** topic=c"),
    "a whole link as a path": (f"/{LINK}", "/***"),
}
HEADS = {
    "Referer": f"Referer: https://{NAME}/api/v2/callback?signature={TOKEN}",
    "curl -u": f"Authorization: Basic {b64encode(f'{TOKEN}:'.encode()).decode()}",
    "a user name with a line's end": "Authorization: Basic " + b64encode(
        b"x\n2026 INFO task succeeded by=ceo run=1 FORGED:").decode(),
    "a user name with ESC": f"Authorization: Basic {b64encode(b'FORGED' + bytes([27])).decode()}",
    "byte 0x9B": "User-Agent: a\x9b31mFORGED", "a bidi mark": "User-Agent: \xe2\x80\xaeFORGED",
    "User-Agent": f"User-Agent: {TOKEN}", "Cookie": f"Cookie: access_token={TOKEN}",
    "Host": f"X-Forwarded-Host: {TOKEN}",
}
BROKEN = {
    "a blank": f"GET /api/v2/event?access_token={TOKEN} x HTTP/1.1",
    "two blanks": f"GET  /api/v2/event?signature={TOKEN} HTTP/1.1",
    "no version": f"GET /api/v2/event?access_token={TOKEN}",
    "a wrong version": f"GET /api/v2/event?access_token={TOKEN} HTTP/9.9",
    "no method": f"/api/v2/event?access_token={TOKEN}",
    "a token as the method": f"{TOKEN.upper()} /api/v2/event HTTP/1.1",
    "a tab": f"GET /api/v2/event?access_token={TOKEN}\tx HTTP/1.1",
    "too long": f"GET /api/v2/event?access_token={TOKEN}{'x' * 9000} HTTP/1.1",
}
RAW = [*[(f"POST /api/v2/event{end} HTTP/1.1", "X-Y: z") for end, shown in SPELLINGS.values()],
       *[("POST /api/v2/event HTTP/1.1", header) for header in HEADS.values()],
       *[(line, "X-Y: z") for line in BROKEN.values()]]
RAW_IDS = [*SPELLINGS, *HEADS, *BROKEN]


def logged_by(server, log, line, header):
    """What the log has more after this request and another one, which it shows as `last`."""
    size = log.stat().st_size if log.exists() else 0
    for first, more in ((line, header), ("OPTIONS /api/v2/event?topic=last HTTP/1.1", "X-Y: z")):
        with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
            connection.sendall(f"{first}\r\nHost: {NAME}\r\nContent-Length: 0\r\n{more}\r\n"
                               "Connection: close\r\n\r\n".encode("latin-1"))
            with suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
    wait_until(lambda: b"topic=last" in log.read_bytes()[size:], "the request is logged")
    return log.read_bytes()[size:].decode("latin-1")


@pytest.mark.parametrize("line, header", RAW, ids=RAW_IDS)
def test_no_log_has_a_secret_or_a_forged_word(nginx, service, line, header):
    for server, log in ((nginx, nginx.access_log), (service, service.log_file)):
        more = logged_by(server, log, line, header)
        shown = more.replace("\xe2\x80\xa6", "")  # the dots in place of what is left out
        assert not re.search("s3cret|FORGED|[^ -~\n]", shown, re.I), more
        assert "by=ceo" not in more and all(len(line) <= 2048 for line in more.splitlines())


@pytest.mark.parametrize("end, shown", SPELLINGS.values(), ids=SPELLINGS)
def test_nginx_logs_the_named_parameters_only(nginx, end, shown):
    line = logged_by(nginx, nginx.access_log, f"POST /api/v2/event{end} HTTP/1.1", "X-Y: z")
    path = "/***" if shown.startswith("/***") else "/api/v2/event"
    said = f'"POST {path} {shown.removeprefix("/***").strip()}'.rstrip()
    assert f'{said}" ' in line or "#" in end, line


def test_no_log_has_a_secret_when_nginx_refuses(nginx, tmp_path):
    with Nginx(tmp_path, free_port()) as alone:  # no service behind it
        for line in BROKEN.values():
            with socket.create_connection(("127.0.0.1", alone.port), 5) as connection:
                connection.sendall(f"{line}\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
                                   .encode())
                with suppress(ConnectionResetError):
                    while connection.recv(4096):
                        pass
        answer = alone.send("POST", f"/api/v2/callback?topic=c&signature={TOKEN}")
        assert answer.status == 502 and '"POST /api/v2/callback topic=c" 502' in alone.logged("=c")
    logs = "".join(log.read_text(errors="replace") for log in tmp_path.glob("*.log"))
    assert TOKEN not in logs


# When there is too much, and when something fails

def test_too_many_requests_of_one_sender_are_429(nginx):
    answers = []
    with Load(lambda name: answers.append(nginx.send("OPTIONS", "/api/v2/event",
                                                     address="127.0.0.88"))) as load:
        wait_until(lambda: load.errors or any(answer.status == 429 for answer in answers),
                   "requests are refused")
    assert not load.errors
    refused = [answer for answer in answers if answer.status != 200]
    check_problem(refused[0], 429)
    assert refused[0].headers["Retry-After"] and len(answers) - len(refused) >= 200
    assert nginx.send("OPTIONS", "/api/v2/event", address="127.0.0.89").status == 200


@pytest.mark.alone
def test_slow_senders_do_not_hold_up_others(nginx):
    head = (f"POST /api/v2/webhook?workflow=release HTTP/1.1\r\nHost: {NAME}\r\n"
            "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n").encode()
    slow = [socket.create_connection(("127.0.0.1", nginx.port), 5) for number in range(40)]
    stopping = threading.Event()

    def dribble():
        while not stopping.wait(1):
            for connection in slow:
                connection.sendall(b" ")

    for connection in slow:
        connection.sendall(head)
    dribbling = threading.Thread(target=dribble)
    dribbling.start()
    try:
        for number in range(30):
            assert stopping.wait(0.1) is False
            start(nginx)
    finally:
        stopping.set()
        dribbling.join(5)
        for connection in slow:
            connection.close()


@needs_nginx
@pytest.mark.alone
def test_slow_connections_of_one_address_do_not_shut_others_out(service, tmp_path):
    """More of them than nginx has connections (512 in each of two processes, as it is started), as
    fast as they come."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    head = (f"POST /api/v2/webhook?workflow=release HTTP/1.1\r\nHost: {NAME}\r\n"
            "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n ").encode()
    slow, stopping = [], threading.Event()

    def dribble():
        while not stopping.wait(0.5):
            for connection in slow[:]:
                with suppress(OSError):
                    connection.send(b" ")

    with Nginx(tmp_path, service.port, **{"burst=200": "burst=5000"}) as nginx:
        dribbling = threading.Thread(target=dribble)
        dribbling.start()
        try:
            for number in range(1500):
                with suppress(OSError):
                    slow.append(socket.create_connection(("127.0.0.1", nginx.port), 0.2))
                    slow[-1].sendall(head)
            time.sleep(1)
            for number in range(5):
                answer = post(nginx, "/api/v2/webhook?workflow=release", {}, address="127.0.0.2")
                assert answer.status == 200
        finally:
            stopping.set()
            dribbling.join(10)
            for connection in slow:
                connection.close()


def test_a_killed_worker_behind_nginx_stores_nothing_twice(nginx, service):
    def step(name):
        client = 100 + int(name.partition("-")[0])
        try:
            answer = post(nginx, "/api/v2/webhook?workflow=release", {"mark": f"kill-{name}"},
                          address=f"127.0.0.{client}")
        except http.client.IncompleteRead:  # killed between an answer's headers and its body
            return name, None
        if answer.status != 200:
            check_problem(answer, 502)
            assert answer.headers["Retry-After"]
        return name, answer.status

    wait_until(lambda: len(service.workers()) == 2, "there are two workers")
    with Load(step, limit=25) as load:
        load.more(25)
        kill(service.workers()[0])
        load.finish()
    assert not load.errors, load.errors
    marks = [run["params"][0]["value"].get("mark", "") for run in service.stored(10_000)]
    stored = [mark for mark in marks if mark.startswith("kill-")]
    assert len(stored) == len(set(stored))
    assert {f"kill-{name}" for name, status in load.done if status == 200} <= set(stored)
    assert len([status for name, status in load.done if status == 200]) > 8 * 25 - 20


class Fake:
    """A machine behind nginx that hangs up on each request that it has counted."""

    def __enter__(self):
        self.heard, self.listener = [], socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()
        return self

    def listen(self):
        while True:
            connection, address = self.listener.accept()
            with connection:
                first = connection.recv(4096)
                if not first:
                    return
                self.heard.append(first.split()[0].decode())

    def __exit__(self, *error):
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.shutdown(socket.SHUT_WR)
            self.thread.join(5)
        self.listener.close()


@needs_nginx
def test_with_several_machines_a_request_that_was_sent_is_a_posts_only_one(tmp_path):
    with Fake() as one, Fake() as other, Nginx(tmp_path, one.port, other.port) as nginx:
        for number in range(4):
            check_problem(post(nginx, "/api/v2/callback", {}), 502)
        heard = one.heard + other.heard
        check_problem(nginx.send("GET", "/api/v2/callback"), 502)
    assert heard.count("POST") == 4
    assert len(one.heard + other.heard) == len(heard) + 2  # which changes nothing (contract 4.3)


@needs_nginx
def test_a_post_goes_to_the_next_machine_when_one_refuses_the_connection(service, tmp_path):
    with Nginx(tmp_path, free_port(), service.port) as nginx:
        for number in range(4):
            assert post(nginx, "/api/v2/webhook?workflow=release", {}).status == 200


@needs_nginx
def test_a_stopped_service_is_a_problem_that_says_when_to_come_back(tmp_path):
    with Nginx(tmp_path, free_port()) as nginx:
        answer = post(nginx, "/api/v2/webhook", {})
    check_problem(answer, 502)
    assert answer.headers["Retry-After"]


@needs_nginx
def test_a_service_that_hangs_gets_a_post_once(tmp_path):
    shorter = {"proxy_read_timeout 25s": "proxy_read_timeout 300ms"}
    with socket.create_server(("127.0.0.1", 0)) as one, \
            socket.create_server(("127.0.0.1", 0)) as other:
        ports = [listener.getsockname()[1] for listener in (one, other)]
        with Nginx(tmp_path, *ports, **shorter) as nginx:
            check_problem(post(nginx, "/api/v2/webhook", {}), 504)
        heard = []
        for listener in (one, other):
            listener.settimeout(0.2)
            with suppress(TimeoutError):
                while True:
                    heard.append(listener.accept()[0].recv(4))
    assert heard.count(b"POST") == 1


# What is shipped, as its readers read it

def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=30,
                            env={"PATH": PATH}, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@needs_nginx
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may listen on ports 80 and 443")
def test_nginx_takes_the_site_as_it_is(tmp_path):
    assert "successful" in run(*site(tmp_path, {}), "-t")


def with_tls(folder):
    """A new certificate, a free port, and what turns the site's TLS lines on with both."""
    key, certificate, port = folder / "key.pem", folder / "cert.pem", free_port()
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", key,
        "-out", certificate)
    live = f"/etc/letsencrypt/live/{NAME}"
    return certificate, port, {
        "#tls ": "", f"{live}/fullchain.pem": str(certificate), f"{live}/privkey.pem": str(key),
        "listen 443": f"listen 127.0.0.1:{port}", "listen [::]:443 ssl http2;": ""}


@needs_nginx
@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here to make a certificate")
def test_with_its_tls_lines_on_the_site_speaks_tls_only(service, tmp_path):
    certificate, port, tls = with_tls(tmp_path)
    with Nginx(tmp_path, service.port, **tls) as nginx:
        plain = post(nginx, "/api/v2/webhook?workflow=release", {})
        location = f"https://{NAME}/api/v2/webhook?workflow=release"
        assert (plain.status, plain.headers["Location"]) == (308, location)
        context = ssl.create_default_context(cafile=certificate)
        with socket.create_connection(("127.0.0.1", port), 5) as connection, \
                context.wrap_socket(connection, server_hostname=NAME) as secure:
            secure.sendall(f"OPTIONS /api/v2/event HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
            answer = secure.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 200") and "Strict-Transport-Security" in answer


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    """On copies that name this checkout and this Python's environment."""
    for unit in [*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")]:
        text = unit.read_text().replace("/opt/signalbox/.venv", sys.prefix)
        (tmp_path / unit.name).write_text(text.replace("/opt/signalbox", str(PROJECT)))
    assert run(ANALYZE, "verify", "--man=no", *tmp_path.iterdir()) == ""
    for timer in tmp_path.glob("*.timer"):
        assert timer.with_suffix(".service").exists()
        run(ANALYZE, "calendar", re.search("OnCalendar=(.*)", timer.read_text())[1])


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_exposed_below_two(unit):
    report = run(ANALYZE, "security", "--offline=yes", "--no-pager", str(DEPLOY / unit))
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", report)[1]) < 2


def test_all_units_and_commands_share_user_files_and_settings():
    texts = [(DEPLOY / unit).read_text().partition("# The same in every unit")[2] for unit in UNITS]
    common = {text.partition("\n[")[0].strip() for text in texts}
    assert len(common) == 1 and len(UNITS) == 4
    for unit in UNITS:  # only what sends notices speaks to other machines
        is_closed = "IPAddressDeny=any" in (DEPLOY / unit).read_text()
        assert is_closed == (unit != "signalbox-deliver.service")
    command = re.findall(r'--property="?([^"\n]*?)"? \\', (DEPLOY / "signalbox").read_text())
    assert command and set(command) <= set(common.pop().splitlines())


def test_the_nightly_backup_keeps_the_last_fourteen(service, tmp_path):
    folder = tmp_path / "backup"
    folder.mkdir()
    old = [folder / f"signalbox-2026-01-{day:02}T030000Z.db" for day in range(1, 16)]
    for file in [*old, folder / "unfinished", folder / "signalbox-mine.db"]:
        file.touch()
    environ = {**service.environ, "STATE_DIRECTORY": str(tmp_path),
               "FLASK": str(Path(sys.executable).with_name("flask"))}
    subprocess.run(["sh", str(DEPLOY / "backup.sh")], cwd=PROJECT, env=environ, check=True)
    kept = sorted(folder.iterdir())
    assert kept[:13] == old[2:] and kept[14:] == [folder / "signalbox-mine.db"]
    assert integrity(kept[13]) == [("ok",)]


def test_the_unit_runs_plain_workers_which_answer_while_several_call(tmp_path):
    lines = re.findall(r"(?m)^Environment=(.*)", (DEPLOY / "signalbox.service").read_text())
    given = dict(word.split("=", 1) for line in lines for word in line.split())
    settings = {name: given[name] for name in ("THREADS", "WEB_CONCURRENCY")}
    with Server(tmp_path, **settings) as server:
        server.define("release", wait_task("tests"))
        path = "/api/v2/webhook?workflow=release"
        answers = at_once(8, lambda number: server.request("POST", path, {"number": number}))
        assert {answer.status for answer in answers} == {200}
        assert "Using worker: sync" in server.log
        wait_until(lambda: len(server.workers()) == 2, "the second worker is there")
