"""The site is built without a warning, is complete, and needs nothing from elsewhere."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.support.script import ROOT, clean_environment

pytest.importorskip("sphinx")
DOCS = ROOT / "docs"
PICTURES = runpy.run_path(str(DOCS / "diagrams.py"))["PICTURES"]
pytestmark = pytest.mark.hang_limit(180)  # seconds of computing, on whatever machine

# Whatever a page loads by itself; links that a reader may follow are another matter.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//"""
    r"""|<link\b[^>]*\brel=["'](?:stylesheet|preload)["'][^>]*\bhref=["'](?:https?:)?//"""
    r"""|url\(["']?(?:https?:)?//|@import ["'](?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet",
         "-d", directory / "doctrees", ROOT / "docs", directory / "html"],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return directory / "html"


@pytest.mark.parametrize(
    "module", ["geventpg", "geventpg.testing", "geventpg.sqlalchemy", "celery_integration"]
)
def test_every_public_name_is_in_the_reference_with_its_docstring(site, module):
    inventory = (site / "objects.inv").read_bytes()
    names = zlib.decompress(inventory.split(b"\n", 4)[4]).decode()
    described = {line.split(" ", 1)[0] for line in names.splitlines() if " py:" in line}
    public = importlib.import_module(module).__all__
    # The pool's errors that are psycopg_pool's keep its name.
    missing = {name for name in public if f"{module}.{name}" not in described}
    assert {name for name in missing if f"psycopg_pool.{name}" not in described} == set()


def test_every_page_of_docs_is_a_page_of_the_site(site):
    pages = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert pages <= built


def test_the_pages_of_the_repository_are_in_the_site_with_their_text(site):
    assert "GEVENTPG_CONNINFO" in (site / "project" / "readme.html").read_text()
    assert "Reporting a vulnerability" in (site / "project" / "security.html").read_text()


def test_the_site_loads_nothing_from_the_network(site):
    loading = {
        path.name: match[0]
        for path in [*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]
        for match in LOADED.finditer(path.read_text())
    }
    assert loading == {}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_its_script_draws(name):
    assert (DOCS / name).read_text() == str(PICTURES[name]()), "python docs/diagrams.py"
