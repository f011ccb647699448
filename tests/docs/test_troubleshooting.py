"""The page for operators has every error and every warning, in its own words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import geventpg.errors
import geventpg.testing
from tests.docs.pages import text_of
from tests.support.script import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
WORKERS = ROOT / "docs" / "celery.md"
PACKAGES = ("geventpg", "celery_integration")
LEVELS = {"warning", "error", "exception", "critical", "log", "once"}
_TYPED = set(geventpg.errors.__all__)
_PLACEHOLDER = re.compile(r"%(?:\.\d+)?[a-z]")


def warnings() -> Iterator[tuple[str, str]]:
    """Yield the place and text of each literal message that is more than information."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    if node.func.attr not in LEVELS:
                        continue
                    texts = [
                        argument.value
                        for argument in node.args[:2]
                        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                    ]
                    if texts and " " in texts[0]:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", texts[0]


def lines_of_the_worker() -> Iterator[tuple[str, str]]:
    """Yield the place and text of what a worker logs at start, with ``%s`` for what varies."""
    for path in sorted((ROOT / "celery_integration").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = _text_of(node)
                if text.startswith("geventpg: ") and text != "geventpg: %s":
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text.removeprefix("geventpg: ")


def texts_of_errors() -> Iterator[tuple[str, str]]:
    """Yield the place and text of each typed error that is made with a text of ours."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args and _name_of(node) in _TYPED:
                    text = _text_of(node.args[0])
                    if " " in _PLACEHOLDER.sub("", text).strip():
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def _name_of(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _text_of(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text_of, node.values))
    if isinstance(node, ast.BinOp):
        return _text_of(node.left)
    return str(node.value) if isinstance(node, ast.Constant) else "%s"


def errors() -> list[str]:
    names = [*geventpg.errors.__all__, *geventpg.testing.__all__]
    return [name for name in names if _is_error(name)]


def _is_error(name: str) -> bool:
    found = getattr(geventpg.errors, name, None) or getattr(geventpg.testing, name)
    return isinstance(found, type) and issubclass(found, Exception)


def is_on(page: Path, words: str) -> bool:
    """Tell whether the page has these words, with anything in place of their placeholders."""
    wanted = ".{1,200}?".join(map(re.escape, _PLACEHOLDER.split(" ".join(words.split()))))
    return re.search(wanted, " ".join(text_of(page).split())) is not None


@pytest.mark.parametrize(("place", "message"), [pytest.param(*w, id=w[0]) for w in warnings()])
def test_every_warning_is_on_the_page(place, message):
    # What follows a semicolon tells what to do, as the page does.
    assert is_on(PAGE, message.partition(";")[0]), f"{message!r} of {place} is not in {PAGE.name}"


@pytest.mark.parametrize(
    ("place", "message"), [pytest.param(*w, id=w[0]) for w in lines_of_the_worker()]
)
def test_every_line_of_a_worker_that_starts_is_on_the_page_about_workers(place, message):
    assert is_on(WORKERS, re.split("[,;]", message)[0]), f"{message!r} of {place}"


@pytest.mark.parametrize(("place", "text"), [pytest.param(*t, id=t[0]) for t in texts_of_errors()])
def test_the_text_of_every_typed_error_is_on_the_page(place, text):
    assert is_on(PAGE, re.split("[;:(]", text)[0].strip()), f"{text!r} of {place}"


@pytest.mark.parametrize("name", errors())
def test_every_error_has_a_heading(name):
    headings = "".join(re.findall(r"^### .*$", text_of(PAGE), re.MULTILINE))
    assert f"`{name}`" in headings


def test_the_warnings_are_found_at_all():
    found = {message for _place, message in warnings()}
    assert "error connecting in %r: %s" in found
    assert len(found) >= 20
    assert len(list(lines_of_the_worker())) >= 5
    assert len(list(texts_of_errors())) >= 30
