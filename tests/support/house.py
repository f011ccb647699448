"""What each source file imports, and what it reaches into; read without running it.

The tests of the house's rules stand on this, and so does the picture in ``docs/architecture.md``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("geventpg", "celery_integration")

ROOMS = (
    "errors",
    "sql",
    "conninfo",
    "hub",
    "connection",
    "statements",
    "pool",
    "registry",
    "transactions",
    "metrics",
)
"""The rooms from the bottom to the top. A file imports from its own room and those before it."""

EDGES = ("django", "sqlalchemy", "cli", "testing", "celery_integration")
"""What users' programs touch. An edge imports from all rooms and from no other edge."""

FACADE = "facade"
"""``geventpg/__init__.py``: it stands on the rooms, and the edges may import it."""


@dataclass(frozen=True)
class Import:
    """One imported name, and where."""

    line: int
    name: str
    """``package.module.name``, absolute."""


@dataclass(frozen=True)
class Reach:
    """One read or write of a private attribute of another object."""

    line: int
    owner: str
    name: str


@dataclass
class SourceFile:
    """One file of the source."""

    module: str
    path: Path
    lines: int = 0
    imports: list[Import] = field(default_factory=list)
    """Those for type checking and those inside functions included."""
    reaches: list[Reach] = field(default_factory=list)
    hub_uses: list[Import] = field(default_factory=list)

    @property
    def room(self) -> str:
        """The room, the edge or the facade that the file belongs to."""
        parts = self.module.split(".")
        if parts[0] != "geventpg":
            return parts[0]
        if len(parts) == 1:
            return FACADE
        return "cli" if parts[1] == "__main__" else parts[1]


LOOP_WATCHERS = {"async_", "child", "fork", "io", "prepare", "check", "idle", "signal", "timer"}


def read(source: str, module: str, *, is_package: bool = False) -> SourceFile:
    """Parse the text of a file."""
    file = SourceFile(module, Path(), source.count("\n"))
    package = module if is_package else module.rpartition(".")[0]
    tree = ast.parse(source)
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            file.imports += [Import(node.lineno, alias.name) for alias in node.names]
            modules |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1])
                origin = f"{base}.{origin}".rstrip(".")
            file.imports += [Import(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
            # A lower-case name imported from a package is taken for a module of it.
            if not node.module or origin in PACKAGES:
                modules |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = ast.unparse(node.value)
                if owner not in {"self", "cls", "super()"} | modules:
                    file.reaches.append(Reach(node.lineno, owner, node.attr))
            value = node.value
            of_loop = (isinstance(value, ast.Attribute) and value.attr == "loop") or (
                isinstance(value, ast.Name) and value.id in ("loop", "_loop")
            )
            if (of_loop and node.attr in LOOP_WATCHERS) or node.attr == "get_hub":
                file.hub_uses.append(Import(node.lineno, ast.unparse(node)))
    return file


def read_all() -> dict[str, SourceFile]:
    """Read every file of the source; by module name."""
    files = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT).with_suffix("")
            is_package = relative.name == "__init__"
            module = ".".join(relative.parent.parts if is_package else relative.parts)
            files[module] = read(path.read_text(), module, is_package=is_package)
            files[module].path = path.relative_to(ROOT)
    return files


def resolve(imported: str, files: Iterable[str]) -> str | None:
    """Return the module of ours that *imported* (``package.module.name``) comes from."""
    while imported:
        if imported in files:
            return imported
        imported = imported.rpartition(".")[0]
    return None


def graph_of(files: dict[str, SourceFile]) -> dict[str, set[str]]:
    """Return, for each module, the modules of ours that it imports."""
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        targets = (resolve(imported.name, files) for imported in file.imports)
        graph[module] = {target for target in targets if target is not None and target != module}
    return graph


def circles_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, in one step or in several."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in number:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], number[target])
        if low[module] == number[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return found


def functions_of(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each function of a file, its lines and the number of its parameters."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            a = node.args
            named = [arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs]]
            parameters = len([name for name in named if name not in ("self", "cls")])
            assert node.end_lineno is not None
            yield f"{path}:{node.name}", node.end_lineno - node.lineno + 1, parameters
