"""The house stands as ARCHITECTURE.md draws it: imports point one way, libraries in their place."""
import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
MODULES = {path.name.removesuffix(".py"): path for path in PROJECT.glob("*.py")}
FLOORS = {name: int(floor)
          for floor, names in re.findall(r"^\| (\d) \| (.*?) \|",
                                         (PROJECT / "ARCHITECTURE.md").read_text(), re.M)
          for name in re.findall("`(.*?)`", names)}


def imported(module):
    """The first names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def those_that_import(library):
    return {module for module in MODULES if library in imported(module)}


def on_floors(least, most):
    return {name for name, floor in FLOORS.items() if least <= floor <= most}


def test_every_module_has_its_floor():
    assert FLOORS.keys() == MODULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_floors_below(module):
    above = {name for name in imported(module)
             if name in MODULES and FLOORS[name] >= FLOORS[module]}
    assert above == set(), f"{module} stands on floor {FLOORS[module]}"


@pytest.mark.parametrize("library, modules", [
    ("flask", on_floors(7, 9)), ("werkzeug", on_floors(7, 9)), ("click", on_floors(6, 7)),
    ("peewee", on_floors(3, 7)), ("playhouse", {"database"}),
    ("sqlite3", {"sqlite"}), ("fcntl", {"sqlite"}), ("psycopg", {"postgres"}),
    ("gunicorn", {"gunicorn.conf", "app"}), ("itsdangerous", {"security"})])
def test_a_library_is_known_where_it_belongs_only(library, modules):
    assert those_that_import(library) <= modules


@pytest.mark.parametrize("module", ["schemas", "events", "security", "rules", "strictjson"])
def test_what_checks_never_touches_the_database(module):
    assert not {"database", "models", "peewee"} & set(imported(module))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_reads_in_one_sitting(module):
    assert len(MODULES[module].read_text().splitlines()) < 400


def test_there_are_four_views_and_no_more(app):
    assert {(rule.rule, *rule.methods - {"OPTIONS"}) for rule in app.url_map.iter_rules()} == {
        ("/api/v2/event", "POST"), ("/api/v2/callback", "POST"), ("/api/v2/callback", "GET"),
        ("/api/v2/webhook", "POST")}
