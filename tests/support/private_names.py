"""The private names of psycopg and psycopg_pool, and where the source names them.

Found by looking at their own classes, so that a new version of psycopg needs no new list.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType

import psycopg
from psycopg_pool import ConnectionPool
from psycopg_pool.base import BasePool

from tests.support.house import ROOT, SourceFile


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _modules() -> Iterator[ModuleType]:
    yield psycopg
    for info in pkgutil.iter_modules(psycopg.__path__, "psycopg."):
        if "_async" not in info.name and not info.name.endswith(("_cmodule", "_psycopg")):
            with suppress(ImportError):  # what an optional package would be needed for
                yield importlib.import_module(info.name)


def classes_of_psycopg() -> set[type]:
    """Return psycopg's classes that are used by or made for synchronous connections."""
    return {
        value
        for module in _modules()
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__.split(".")[0] == "psycopg"
        and not value.__name__.startswith("Async")
    }


def names_of(classes: set[type]) -> set[str]:
    """Return the private names that these classes define, or set on their objects."""
    found: set[str] = set()
    for cls in classes:
        found |= {name for name in vars(cls) if is_private(name)}
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError):
            continue
        found |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and is_private(node.attr)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        }
    return found


CLASSES = classes_of_psycopg() | {ConnectionPool, BasePool}
OF_NAMED_TUPLES = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}
OF_CELERY = {"_tasks"}
NAMES = names_of(CLASSES) - OF_NAMED_TUPLES - OF_CELERY

HEIRS = {cls.__name__ for cls in CLASSES} | {
    *("OpenConnection", "OpenCursor", "OpenServerCursor", "OpenTransaction"),
    *("BindableConnection", "ConnectingOnHub", "Connection", "Cursor", "OpenPool", "Pool"),
}
"""psycopg's classes, and those of ours that others descend from."""


def named_in(file: SourceFile, source: str | None = None) -> Iterator[str]:
    """Yield each place of a file that names something private of psycopg or psycopg_pool."""
    for imported in file.imports:
        parts = imported.name.split(".")
        if parts[0] in ("psycopg", "psycopg_pool") and any(map(is_private, parts[1:])):
            yield f"{file.path}:{imported.line}: imports {imported.name}"
    tree = ast.parse((ROOT / file.path).read_text() if source is None else source)
    yield from _named(tree, file, _heirs(tree), inside=False)


def _heirs(tree: ast.Module) -> set[str]:
    """Return the names of the classes that descend from one of psycopg's, as far as can be read."""
    heirs: set[str] = set()
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            bases = {ast.unparse(base).split("[")[0] for base in cls.bases}
            names = {base.split(".")[-1] for base in bases}
            if names & (HEIRS | heirs):
                heirs.add(cls.name)
    return heirs


def _named(node: ast.AST, file: SourceFile, heirs: set[str], *, inside: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        place = f"{file.path}:{getattr(child, 'lineno', 0)}:"
        here = child.name in heirs if isinstance(child, ast.ClassDef) else inside
        if isinstance(child, ast.FunctionDef) and inside and child.name in NAMES:
            yield f"{place} overrides {child.name}"
        elif isinstance(child, ast.Attribute) and child.attr in NAMES:
            if inside or ast.unparse(child.value) not in ("self", "cls", "super()"):
                yield f"{place} {ast.unparse(child)}"
        elif isinstance(child, ast.Call) and ast.unparse(child.func) in ("getattr", "hasattr"):
            name = ast.unparse(child.args[1])
            if name.strip("'") in NAMES:
                yield f"{place} {name}"
        yield from _named(child, file, heirs, inside=here)
