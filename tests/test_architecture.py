"""The house is as its folders say: imports point one way, libraries stay in their rooms."""
import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
MODULES = {path.relative_to(PROJECT).with_suffix("").as_posix().replace("/", "."): path
           for room in (".", "web", "runs", "storage") for path in (PROJECT / room).glob("*.py")}
#: What a module or a room may import of ours, beside what stands in its own room.
MAY_IMPORT = {
    "runs": set(),
    "storage": {"runs"},
    "models": {"storage", "runs"},
    "schemas": {"runs"},
    "notices": {"upkeep", "models", "schemas", "storage", "runs", "web.signatures"},
    "upkeep": {"models", "storage", "runs"},
    "terminal": {"upkeep", "models", "schemas", "storage", "runs", "web.signatures"},
    "web": {"models", "schemas", "storage", "runs"},
    "cli": {"upkeep", "terminal", "notices", "models", "schemas", "storage", "runs", "web"},
    "app": {"cli", "upkeep", "models", "schemas", "storage", "runs", "web"},
    "wsgi": {"app", "cli", "runs", "web"},
    "gunicorn.conf": {"wsgi", "app", "storage", "web"},
}
ROOMS = {"flask": {"web", "app", "cli", "terminal"}, "werkzeug": {"web", "app"},
         "click": {"cli", "terminal"},
         "peewee": {"storage", "models", "upkeep", "notices"}, "playhouse": {"storage", "models"},
         "sqlite3": {"storage"}, "psycopg": set(), "gunicorn": {"gunicorn.conf"},
         "itsdangerous": {"web"},
         "marshmallow": {"schemas", "web", "runs", "app", "cli", "terminal", "models"},
         "regex": {"runs"}}


def room(module):
    first = module.partition(".")[0]
    return first if first in ("web", "runs", "storage") else module


def imported(module):
    """What a module imports, wherever in it, by its full name."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may_know(module):
    ours = {name for name in imported(module) if name.partition(".")[0] in map(room, MODULES)}
    allowed = MAY_IMPORT[room(module)] | {room(module)}
    assert [name for name in ours
            if not any(name == other or name.startswith(f"{other}.") for other in allowed)] == []


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_is_known_in_its_rooms_only(library):
    users = {room(module) for module in MODULES
             if library in {name.partition(".")[0] for name in imported(module)}}
    assert users <= ROOMS[library]


@pytest.mark.parametrize("proxy, where", [
    ("request", {"web.asked"}), ("current_app", {"web.doors"}), ("g", set()), ("session", set())])
def test_the_request_is_looked_up_in_one_place(proxy, where):
    """A look through one of Flask's proxies takes 600 ns, and at the request itself 80."""
    assert {module for module in MODULES if room(module) in ("app", "web")
            and f"flask.{proxy}" in imported(module)} == where


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_reads_in_one_sitting(module):
    assert len(MODULES[module].read_text().splitlines()) <= 350


def test_the_top_has_few_modules():
    top = {module for module in MODULES if room(module) == module}
    assert len(top) <= 9


def test_there_are_four_views_and_no_more(app):
    assert {(rule.rule, *rule.methods - {"OPTIONS"}) for rule in app.url_map.iter_rules()} == {
        ("/api/v2/event", "POST"), ("/api/v2/callback", "POST"), ("/api/v2/callback", "GET"),
        ("/api/v2/webhook", "POST")}
