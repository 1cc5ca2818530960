"""openapi.yaml and the running service say the same, in both directions."""
import contextlib
import json
import re
import sqlite3
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
import yaml
from conftest import wait_task
from inside import VERSION, close_database
from jsonschema import Draft202012Validator, FormatChecker

from app import create_app

HERE = Path(__file__).resolve().parent.parent
SPEC = yaml.safe_load((HERE / "openapi.yaml").read_text())
COMPONENTS = SPEC["components"]
WEBHOOK, EVENT, CALLBACK = (f"/api/v2/{name}" for name in ("webhook", "event", "callback"))
TOKEN, KEY = "token1", "link-key"
PAGE = {"Accept": "text/html", "User-Agent": "Mozilla/5.0"}
JSON, FORM_TYPE = "application/json", "application/x-www-form-urlencoded"
UNPROVED = {401, 410, 413, 503}  # what a stranger is answered (contract 7.1)
#: The run's id in the file's examples; a request gets the id of a run that there is instead.
RUN = COMPONENTS["parameters"]["workflowrun"]["example"]


def resolved(part):
    """The part of the file, or what it refers to."""
    if "$ref" not in part:
        return part
    found = SPEC
    for key in part["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return resolved(found)


OPERATIONS = {(method.upper(), path): operation for path, methods in SPEC["paths"].items()
              for method, operation in methods.items()}
RESPONSES = {(*key, int(status)): resolved(response) for key, operation in OPERATIONS.items()
             for status, response in operation["responses"].items()}
PAGE_HEADERS = COMPONENTS["responses"]["Resolved"]["headers"]


FORMATS = FormatChecker(formats=())


@FORMATS.checks("date-time", ValueError)
def is_time(value):
    return not isinstance(value, str) or bool(datetime.fromisoformat(value).tzinfo)


@FORMATS.checks("uri-reference", ValueError)
def is_uri_reference(value):
    return not isinstance(value, str) or not re.search(r"[^!-~]", urlsplit(value).geturl())


@FORMATS.checks("uri", ValueError)
def is_uri(value):
    return not isinstance(value, str) or is_uri_reference(value) and bool(urlsplit(value).scheme)


def conforms(value, schema):
    """Assert that the value is as the schema of the file says."""
    Draft202012Validator({**schema, "components": COMPONENTS},
                         format_checker=FORMATS).validate(value)


def is_described(answer):
    """Assert that the file allows this answer: its status, media type, headers and body."""
    method, path, status = answer.request.method, answer.request.path, answer.status_code
    if (method, path) in OPERATIONS:
        assert (method, path, status) in RESPONSES, answer.text
        response = RESPONSES[method, path, status]
    else:
        assert status in (401, 405)
        response = COMPONENTS["responses"]["Unproved" if status == 401 else "MethodNotAllowed"]
    content, headers = response.get("content", {}), dict(response.get("headers", {}))
    if answer.data:
        body = answer.json if answer.is_json else answer.text
        conforms(body, content[answer.mimetype]["schema"])
        if answer.mimetype == "application/problem+json":
            assert (body["status"], f"{status} {body['title'].upper()}") == (status, answer.status)
    else:
        nothing_to_say = not content or status == 200 and path == CALLBACK
        assert method == "HEAD" or nothing_to_say and not answer.content_type
    if answer.mimetype == "text/html":
        assert path == CALLBACK
        headers.update(PAGE_HEADERS)
        assert PAGE_HEADERS.keys() <= set(answer.headers.keys())
    elif b"access_token=" in answer.request.query_string:
        assert answer.headers.pop("Cache-Control") == "private, no-store"
    assert set(answer.headers.keys()) - {"Content-Type", "Content-Length"} <= headers.keys()
    for name, header in headers.items():
        header = resolved(header)
        assert name in answer.headers or not header.get("required")
        if name in answer.headers:
            value = answer.headers[name]
            conforms(int(value) if header["schema"].get("type") == "integer" else value,
                     header["schema"])


def parameters(operation, place):
    """The names of an operation's parameters in that place, those of its security included."""
    schemes = [COMPONENTS["securitySchemes"][name]
               for either in operation.get("security", SPEC["security"]) for name in either]
    return {parameter["name"] for parameter in [*map(resolved, operation.get("parameters", [])),
                                                *schemes] if parameter.get("in") == place}


@pytest.fixture
def environ(tmp_path):
    return {"DATABASE_URL": f"sqlite:///{tmp_path}/signalbox.db", "SECRET_KEY": KEY,
            "ACCESS_TOKENS": TOKEN}


@pytest.fixture
def client(client):
    client.environ_base["HTTP_X_ACCESS_TOKEN"] = TOKEN
    return client


@pytest.fixture(autouse=True)
def workflows(app, flask, define):
    """What the examples name, and workflows whose starts are refused."""
    for name in ("release", "deploy-on-push"):
        assert flask("workflow", "apply", HERE / "workflows" / f"{name}.json").exit_code == 0
    define("off", triggers={"webhook": {"enabled": False}})
    define("signed", secretEnv="UNSET_SECRET")


@pytest.fixture
def run(start):
    return start("release")


def as_sent(query, run):
    """The query with the id of a run that there is in place of the example's."""
    return {name: run["id"] if value == RUN else value for name, value in query.items()
            if value is not None}


# The file by itself

def parts(part, path=""):
    """Every object in the file, with where it stands."""
    if isinstance(part, dict):
        yield path, part
        for key, value in part.items():
            yield from parts(value, f"{path}/{key}")
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from parts(value, f"{path}/{number}")


def shown(part):
    """The examples that stand beside a schema, or in one."""
    if "example" in part:
        yield part["example"]
    named = part.get("examples", {})
    yield from ((resolved(example)["value"] for example in named.values())
                if isinstance(named, dict) else named)


def test_the_file_is_valid_openapi_of_this_version():
    published = json.loads((HERE / "tests" / "data" / "openapi-3.1.json").read_text())
    Draft202012Validator(published).validate(SPEC)
    for _, part in parts(SPEC):
        resolved(part)
        if "schema" in part:
            Draft202012Validator.check_schema(part["schema"])
    for schema in COMPONENTS["schemas"].values():
        Draft202012Validator.check_schema(schema)
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)
    assert SPEC["openapi"].startswith("3.1.")
    assert SPEC["info"]["version"] == VERSION


def test_every_component_is_used():
    used = {part["$ref"] for _, part in parts(SPEC) if "$ref" in part}
    used |= {f"#/{word}" for word in re.findall(r"components/\w+/\w+", SPEC["info"]["description"])}
    for kind in COMPONENTS.keys() - {"securitySchemes"}:
        for name in COMPONENTS[kind]:
            assert f"#/components/{kind}/{name}" in used
    schemes = {name for operation in [SPEC, *OPERATIONS.values()]
               for either in operation.get("security", []) for name in either}
    assert schemes == COMPONENTS["securitySchemes"].keys()


EXAMPLES = {path: (part["schema"], list(shown(part))) for path, part in parts(SPEC)
            if "schema" in part and list(shown(part))}
EXAMPLES |= {path: (part, part["examples"]) for path, part in parts(SPEC)
             if isinstance(part.get("examples"), list)}


@pytest.mark.parametrize("schema, values", EXAMPLES.values(), ids=EXAMPLES)
def test_every_example_is_as_its_schema_says(schema, values):
    for value in values:
        conforms(value, schema)


def test_every_answer_and_every_body_has_an_example():
    for path, part in parts(SPEC):
        for media_type, content in part.get("content", {}).items():
            assert list(shown(content)) or list(shown(resolved(content["schema"]))), path


# Requests of the file

BODIES = {f"{path} {media_type} {name}": (path, media_type, name, resolved(example)["value"])
          for (method, path), operation in OPERATIONS.items()
          for media_type, content in operation.get("requestBody", {}).get("content", {}).items()
          for name, example in content["examples"].items()}


@pytest.mark.parametrize("path, media_type, name, body", BODIES.values(), ids=BODIES)
def test_every_example_of_a_request_is_accepted(client, run, path, media_type, name, body):
    given = [resolved(parameter) for parameter in OPERATIONS["POST", path]["parameters"]]
    query = {parameter["name"]: parameter["example"] for parameter in given
             if parameter["in"] == "query" and "example" in parameter}
    headers = {parameter["name"]: parameter["example"] for parameter in given
               if parameter["name"].startswith("ce-") and name == "binary"}
    is_form = media_type == FORM_TYPE
    answer = client.post(path, query_string=as_sent(query, run), content_type=media_type,
                         data=body if is_form else json.dumps(body),
                         headers={**headers, "Origin": "http://localhost"})
    assert answer.status_code == 200, answer.text
    is_described(answer)


@pytest.mark.parametrize("path", [WEBHOOK, EVENT, CALLBACK])
def test_other_media_types_than_the_described_ones_are_415(client, run, path):
    described = OPERATIONS["POST", path]["requestBody"]["content"].keys()
    for media_type in {JSON, FORM_TYPE, "application/xml", "text/html"} - described:
        answer = client.post(path, data="{}", content_type=media_type,
                             query_string={"workflowrun": run["id"], "topic": "tests"})
        assert answer.status_code == 415
        is_described(answer)


# Every answer that is described can be had

def to(path, method="POST", workflow="release", json=None, **options):
    """A request, right but for what is named."""
    query = ({"workflowrun": RUN, "topic": "tests"} if path == CALLBACK else
             {"workflow": workflow} if workflow and method == "POST" else {})
    if method == "POST" and not {"data", "content_type"} & options.keys():
        options["json"] = {} if json is None else json
    return {"path": path, "method": method, **options,
            "query_string": {**query, **options.get("query_string", {})}}


def linked(**link):
    """The query of a signed link to the run; `answered` puts the signature in."""
    return {"query_string": {"expires": "1d", "signature": "right", **link}}


BUILT = resolved(COMPONENTS["examples"]["event"])["value"]
STRANGER = {"environ_base": {"HTTP_X_ACCESS_TOKEN": "wrong"}}
LARGE = {"data": b" " * 1_048_577, "content_type": JSON}
TEXT = {"data": "{}", "content_type": "text/html"}
BYTES = {"environ_overrides": {"QUERY_STRING": "topic=\xff"}}
BUSY = {"busy": True}  # the database
USED = {"headers": {"Idempotency-Key": "used"}}
FORM = {"data": {"status": "succeeded"}, "content_type": FORM_TYPE}
FOREIGN = {**FORM, "headers": {"Sec-Fetch-Site": "cross-site"}}
PART = {"headers": {"Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "cross-site"}}
PREFETCH = {"headers": {"Purpose": "prefetch"}}
ORIGIN = {"headers": {"WebHook-Request-Origin": "eventemitter.example.com",
                      "WebHook-Request-Rate": "120"}}
PING, SLACK = {"X-GitHub-Event": "ping"}, {"type": "url_verification", "challenge": "3eZbrw1a"}
CHANGED, OLD = linked(expires="9999999999", signature="changed"), linked(expires="1s")
NIGHTLY = {"query_string": {"topic": "nightly"}}

WAYS = [
    (200, to(WEBHOOK, json={"version": "1.2"})), (200, to(WEBHOOK, workflow="deploy-on-push")),
    (200, to(WEBHOOK, workflow=None, headers=PING, query_string={"access_token": TOKEN})),
    (200, to(WEBHOOK, json=SLACK)), (400, to(WEBHOOK, json=[])), (401, to(WEBHOOK, **STRANGER)),
    (403, to(WEBHOOK, workflow="off")), (404, to(WEBHOOK, workflow="nightly")),
    (413, to(WEBHOOK, **LARGE)), (415, to(WEBHOOK, **TEXT)), (422, to(WEBHOOK, **USED)),
    (503, to(WEBHOOK, **BUSY)), (503, to(WEBHOOK, workflow="signed")),
    (200, to(EVENT, json=BUILT)), (400, to(EVENT)), (401, to(EVENT, json=BUILT, **STRANGER)),
    (403, to(EVENT, json=BUILT, workflow="deploy-on-push")),
    (404, to(EVENT, json=BUILT, workflow="nightly")), (413, to(EVENT, **LARGE)),
    (415, to(EVENT, **TEXT)), (503, to(EVENT, json=BUILT, **BUSY)),
    (200, to(CALLBACK)), (200, to(CALLBACK, **FORM)), (200, to(CALLBACK, **FORM, **linked())),
    (403, to(CALLBACK, **FOREIGN)), (413, to(CALLBACK, **LARGE)), (415, to(CALLBACK, **TEXT)),
    (200, to(CALLBACK, "GET")), (200, to(CALLBACK, "GET", **linked())),
    (200, to(CALLBACK, "GET", query_string={"topic": None})), (403, to(CALLBACK, "GET", **PART)),
    (503, to(CALLBACK, "GET", **PREFETCH)), (200, to(CALLBACK, "OPTIONS"))]
WAYS += [(status, to(CALLBACK, method, **options)) for method in ("POST", "GET", "OPTIONS")
         for status, options in [(400, BYTES), (401, CHANGED), (410, OLD), (503, BUSY)]]
WAYS += [(status, to(CALLBACK, method, **options)) for method in ("POST", "GET")
         for status, options in [(404, NIGHTLY), (409, {})]]
WAYS += [(status, to(path, "OPTIONS", **options)) for path in (WEBHOOK, EVENT) for status, options
         in [(200, ORIGIN), (200, {}), (400, BYTES), (401, STRANGER), (503, BUSY)]]


@pytest.fixture
def answered(client, start, flask, environ, clock, tmp_path):
    """Go a way: answered(409, to(CALLBACK), Accept="text/html")."""
    def signed(run, expires):
        """The query of a link that is good for so long; a second is over then."""
        printed = flask("workflowrun", "link", run["id"], "--topic", "tests", "--expires", expires)
        clock.advance(milliseconds=1001 if expires == "1s" else 0)
        return dict(parse_qsl(urlsplit(printed.stdout.strip()).query))

    def answered(status, request, **headers):
        run = start("release", {"version": "1.2"})
        request = {**request, "headers": {**request.get("headers", {}), **headers}}
        query = request["query_string"] = as_sent(request["query_string"], run)
        if query.get("signature") == "right":
            query.update(signed(run, query["expires"]))
        if status == 409:
            client.get(CALLBACK, query_string={**query, "status": "failed"})
        elif status == 422:
            client.open(**to(WEBHOOK, json={"another": "payload"}, **USED))
        if not request.pop("busy", False):
            return client.open(**request)
        close_database()
        with contextlib.closing(sqlite3.connect(tmp_path / "busy", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            busy = {**environ, "DATABASE_URL": f"sqlite:///{tmp_path}/busy"}
            return create_app(busy, clock).test_client().open(
                environ_base=client.environ_base, **request)
    return answered


def name_of(value):
    return value if isinstance(value, int) else "{method} {path}".format(**value)


@pytest.mark.parametrize("status, request_", WAYS, ids=name_of)
@pytest.mark.parametrize("headers", [{}, PAGE], ids=["program", "person"])
def test_each_described_answer_can_be_had_and_is_as_described(answered, status, request_, headers):
    answer = answered(status, request_, **headers)
    if headers and request_["method"] == "GET" and status == 409:
        status = 200  # a person sees the page that says how it ended
    assert answer.status_code == status, answer.text
    is_described(answer)
    if request_["path"] == CALLBACK and answer.data:
        is_page = headers or status == 200 or request_.get("content_type") == FORM_TYPE
        is_look = status == 200 and "topic" in request_["query_string"] and (
            request_["query_string"]["topic"] is None and not headers)
        assert answer.mimetype == ("application/json" if is_look else "text/html" if is_page
                                   else "application/problem+json")


def test_there_is_a_way_to_each_described_answer():
    reached = {(way["method"], way["path"], status) for status, way in WAYS}
    assert reached == RESPONSES.keys()


def masked(document):
    """The document as text, without the ids that are new each time."""
    return re.sub(r"\b[0-9a-v]{32}\b", "ID", json.dumps(document, sort_keys=True))


def test_every_example_of_an_answer_is_what_the_service_says(answered):
    ways = [(status, way) for status, way in WAYS if "busy" not in way]
    ways += [(status, way) for status, way in WAYS if "busy" in way][:1]  # it is busy from then on
    said = [answered(status, way).get_json(silent=True) for status, way in ways]
    for document in said:
        if document and "tasks" in document:
            document["tasks"] = document["tasks"][:1]  # the example leaves the others out
    examples = [example for response in RESPONSES.values()
                for content in response.get("content", {}).values() for example in shown(content)]
    assert set(map(masked, examples)) <= set(map(masked, said))


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "PROPFIND"]


@pytest.mark.parametrize("path", SPEC["paths"])
def test_every_other_method_is_405_as_described(client, path):
    described = {method for method, where in OPERATIONS if where == path}
    for method in set(METHODS) - described:
        answer = client.open(path, method=method)
        assert answer.status_code == 405
        is_described(answer)
        assert set(answer.headers["Allow"].split(", ")) == described


# The service and the file name the same things

def test_the_file_has_the_routes_and_methods_of_the_service(app):
    assert {(method, rule.rule) for rule in app.url_map.iter_rules()
            for method in rule.methods} == OPERATIONS.keys()


def test_the_file_says_what_strangers_are_answered():
    said, = re.findall(r"is answered ([\d\s,or]+) only", SPEC["info"]["description"])
    assert set(map(int, re.findall(r"\d+", said))) == UNPROVED


@pytest.mark.parametrize("method, path", [key for key in OPERATIONS if key[0] != "OPTIONS"])
def test_every_described_query_parameter_is_read(client, run, method, path):
    for name in parameters(OPERATIONS[method, path], "query") - {"by", "expires"}:  # of a link
        body = {"json": {}} if method == "POST" else {}
        answer = client.open(f"{path}?{name}=", method=method, **body)
        assert answer.status_code == 401 if name == "signature" else (
            name in answer.json["errors"]), name


def everything(define, start, callback, flask, clock):
    """Runs with every key and every word that there is."""
    define("all", wait_task("a", timeout=5) | {"message": "Wait."}, wait_task("b"),
           wait_task("c"), wait_task("d"), wait_task("e", b="success"),
           wait_task("f", c="success"), displayName="All", timeout=60, correlate="data.n")
    runs = [start("all", {"n": number}) for number in range(4)]
    clock.advance(minutes=5)
    for run in runs[:2]:
        callback(run, "b", "failed", {"n": 1})
    for topic in "cdf":
        callback(runs[1], topic, json={})
    flask("workflowrun", "cancel", runs[2]["id"])
    yield from (flask.json("workflowrun", "show", run["id"]) for run in runs)
    clock.advance(minutes=60)
    yield flask.json("workflowrun", "show", runs[3]["id"])
    define("quick")
    yield start("quick")


def test_the_file_has_the_keys_and_the_words_of_the_service(define, start, callback, flask, clock):
    described = COMPONENTS["schemas"]
    runs = list(everything(define, start, callback, flask, clock))
    tasks = [task for run in runs for task in run["tasks"]]
    for name, seen in (("WorkflowRun", runs), ("TaskRun", tasks)):
        known = described[name]["properties"]
        assert known.keys() == set().union(*seen)
        for key in ("status", "phase"):
            assert set(known[key]["enum"]) == {part[key] for part in seen}
        for part in seen:
            conforms(part, described[name])


def test_the_longest_timeout_is_the_described_one(define, flask):
    longest = COMPONENTS["schemas"]["Timeout"]["maximum"]
    define("long", timeout=longest)
    longer = json.dumps({"name": "longer", "timeout": longest + 1})
    assert flask("workflow", "apply", "-", input=longer).exit_code == 1


@pytest.mark.parametrize("status", COMPONENTS["parameters"]["status"]["schema"]["enum"])
def test_every_described_status_ends_a_task(client, run, status):
    query = {"workflowrun": run["id"], "topic": "tests", "status": status}
    assert client.post(CALLBACK, query_string=query, json={}).status_code == 200


# Odd requests

TEXTS = ["", " ", "x", "none", "\0", "\ud800", "é", "%", '"', '"x', "1", "x" * 300]
VALUES = [None, True, 0, -1, 1.5, 10**20, "", "x", "\0", "x" * 300, [], [1], {}, {"a": 1}]
RAW = [b"", b"{", b"[]", b"null", b'"text"', b"1e999", b"\xff", b"{}", b"{}{}", b"status=failed",
       b"status=&status=", b"comment=%00"]


def odd(method, path, run):
    """Requests of an operation, each as it should be but for one thing."""
    operation = OPERATIONS[method, path]
    query = {"workflowrun": run["id"], "topic": "tests"} if path == CALLBACK else {
        "workflow": "release"}
    bodies = [(media_type, body) for where, media_type, name, body in BODIES.values()
              if where == path and method == "POST"] or [(None, None)]
    send = partial(dict, path=path, method=method)
    for media_type, body in bodies:
        body = body.encode() if isinstance(body, str) else body and json.dumps(body).encode()
        usual = partial(send, data=body, content_type=media_type)
        yield usual(query_string=urlencode(query))
        for name in parameters(operation, "query"):
            rest = urlencode({key: value for key, value in query.items() if key != name})
            yield usual(query_string=rest)
            for text in TEXTS:
                value = quote(text, errors="surrogatepass")
                yield usual(query_string=f"{rest}&{name}={value}")
            yield usual(query_string=f"{rest}&{name}=release&{name}=release")
        for name in parameters(operation, "header") - {"x-access-token", "Authorization"}:
            for text in TEXTS:
                text = text.encode("utf-8", "surrogatepass").decode("latin-1")
                yield usual(query_string=query, headers={name: text})
    for media_type in {media_type for media_type, body in bodies} - {None} | {"text/plain", "x"}:
        for raw in RAW if method == "POST" else []:
            yield send(query_string=query, data=raw, content_type=media_type)
    for media_type, body in bodies:
        for key in body if isinstance(body, dict) else []:
            rest = {name: value for name, value in body.items() if name != key}
            for changed in [rest, *({**rest, key: value} for value in VALUES)]:
                yield send(query_string=query, data=json.dumps(changed), content_type=media_type)


@pytest.mark.parametrize("method, path", OPERATIONS)
def test_no_request_gets_an_answer_that_is_not_described(app, client, run, method, path):
    """Neither one with a token, nor one without."""
    for request in odd(method, path, run):
        is_described(client.open(**request))
        answer = app.test_client().open(**request)
        assert answer.status_code in UNPROVED, request
        is_described(answer)
