"""Pages of the repository in the site, and links that work in the repository and in the site.

A page of `MIRRORED` is an empty file in docs/; its text is that of the file of the repository.
Links of all pages are relative paths, as GitHub wants them. What leads out of docs/ becomes a
link to the mirrored page, a download of the file, or, for a directory, its name.

Patterns in tables of contents may stand for pages that are not there (yet): Sphinx warns of them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
MIRRORED = {
    "project/readme": "README.md",
    "project/security": "SECURITY.md",
    "project/changelog": "CHANGELOG.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/examples": "examples/README.md",
    "project/benchmarks": "benchmarks/README.md",
}
_PAGES = {ROOT / path: DOCS / f"{name}.md" for name, path in MIRRORED.items()}
# Code comes first, so that nothing in it is taken for a link.
_LINK = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)$|`[^`\n]+`(?!\])|\[(?P<text>[^\]\n]+)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
_PATTERN = re.compile(r"^[\w/-]+\*\n", re.MULTILINE)


def without_empty_patterns(text: str) -> str:
    """Return *text* without the lines of its tables of contents that match no page."""
    return _PATTERN.sub(lambda line: line[0] if any(DOCS.glob(f"{line[0][:-1]}.md")) else "", text)


def rewritten(text: str, origin: Path, page: Path) -> str:
    """Return *text*, which stands in *origin*, with links for *page* of the site."""

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or target.startswith(("#", "https://")):
            return match[0]
        path, _, anchor = target.partition("#")
        file = (origin.parent / path).resolve()
        if file.is_dir():
            return match["text"]
        file = _PAGES.get(file, file)
        relative = os.path.relpath(file, page.parent)
        return f"[{match['text']}]({relative}{'#' + anchor if anchor else ''})"

    return _LINK.sub(link, text)


def read_page(app: Sphinx, name: str, content: list[str]) -> None:
    page = DOCS / f"{name}.md"
    if name in MIRRORED:
        origin = ROOT / MIRRORED[name]
        app.env.note_dependency(str(origin))  # built again when that file changes
        text = origin.read_text()
    elif page.exists():
        origin, text = page, content[0]
    else:
        return  # what extensions generate
    content[0] = without_empty_patterns(rewritten(text, origin, page))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
