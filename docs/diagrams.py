"""Draw the diagrams of these pages: `python docs/diagrams.py`, after a change here."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from tests.support.house import EDGES, FACADE, ROOMS, graph_of, read_all  # noqa: E402

INK, QUIET, PAPER = "#24292f", "#57606a", "#ffffff"
GREEN, BLUE, GREY, RED = "#dafbe1", "#ddf4ff", "#f6f8fa", "#ffebe9"
_FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"

_ARROW_HEAD = (
    "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7'"
    f" orient='auto-start-reverse'><path d='M0 0 8 4 0 8z' fill='{QUIET}'/></marker></defs>"
)


class Drawing:
    """Boxes with words and arrows between them, on white, so that any page can show it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        size = f"viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
        self._parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' {_FONT}>",
            f"<title>{escape(title)}</title>",
            _ARROW_HEAD,
            f"<rect width='{width}' height='{height}' rx='8' fill='{PAPER}'/>",
        ]

    def box(
        self, place: tuple[int, int], size: tuple[int, int], lines: str = "", fill: str = GREY
    ) -> None:
        """Draw a box; of *lines* the first is its name, the others say more."""
        (x, y), (width, height) = place, size
        self._parts.append(
            f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='6' fill='{fill}'"
            f" stroke='{QUIET}'/>"
        )
        texts = lines.split("\n")
        top = y + height / 2 - 8.5 * (len(texts) - 1) + 5
        for number, line in enumerate(texts):
            self.text(x + width / 2, top + 17 * number, line, "middle", bold=number == 0)

    def text(
        self, x: float, y: float, line: str, anchor: str = "start", *, bold: bool = False
    ) -> None:
        size, colour = (14, INK) if bold else (12, QUIET)
        weight = " font-weight='600'" if bold else ""
        self._parts.append(
            f"<text x='{x:g}' y='{y:g}' text-anchor='{anchor}' font-size='{size}'{weight}"
            f" fill='{colour}'>{escape(line)}</text>"
        )

    def dot(self, x: int, y: int, fill: str) -> None:
        self._parts.append(f"<circle cx='{x}' cy='{y}' r='4' fill='{fill}' stroke='{QUIET}'/>")

    def arrow(self, path: str, *, both: bool = False) -> None:
        """Draw an arrow along an SVG *path*."""
        start = " marker-start='url(#head)'" if both else ""
        self._parts.append(
            f"<path d='{path}' fill='none' stroke='{QUIET}' stroke-width='1.5'{start}"
            " marker-end='url(#head)'/>"
        )

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>\n"])


def overview() -> Drawing:
    picture = Drawing(760, 240, "Hundreds of greenlets share twenty connections to PostgreSQL")
    picture.text(20, 28, "one process: celery -P gevent, gunicorn -k gevent, yours")
    picture.box((20, 42), (500, 182), "", GREY)
    picture.text(40, 68, "500 greenlets", bold=True)
    for row in range(5):
        for column in range(9):
            picture.dot(48 + 15 * column, 90 + 15 * row, BLUE)
    picture.text(40, 180, "each asks for a connection")
    picture.text(40, 197, "when it needs one, and")
    picture.text(40, 214, "waits in line, not in a thread")
    picture.arrow("M190 120 H270", both=True)
    picture.text(230, 110, "get_conn()", "middle")
    picture.box((278, 58), (226, 148), "", GREEN)
    picture.text(292, 82, "geventpg.Pool", bold=True)
    for row in range(2):
        for column in range(10):
            picture.dot(300 + 20 * column, 104 + 18 * row, "#ffffff")
    picture.text(292, 150, "20 connections on gevent's hub:")
    picture.text(292, 167, "idle ones are watched, dead ones")
    picture.text(292, 184, "replaced, interrupted statements")
    picture.text(292, 201, "cancelled on the server")
    picture.arrow("M504 130 H598", both=True)
    picture.text(551, 120, "psycopg 3", "middle")
    picture.box(
        (600, 84), (140, 92), "PostgreSQL\n20 backends,\nor a PgBouncer\nin front of it", BLUE
    )
    return picture


def life() -> Drawing:
    picture = Drawing(760, 400, "The life of a connection in the pool")
    picture.box((20, 40), (170, 64), "place reserved\nsize never above max_size", GREY)
    picture.box((290, 40), (170, 64), "connecting\nname, TCP, TLS, login", BLUE)
    picture.box((560, 40), (170, 64), "configure\nyour callback", BLUE)
    picture.box((560, 170), (170, 76), "idle\nwatched, probed after\nkeepalive_interval", GREEN)
    picture.box((290, 170), (170, 76), "in use\none greenlet has it", GREEN)
    picture.box((20, 170), (170, 76), "returned\ncancelled, rolled back,\nreset if need be", BLUE)
    picture.box((290, 320), (170, 60), "closed\nits place is free", RED)
    picture.arrow("M190 60 H288")
    picture.arrow("M290 86 H192")
    picture.text(241, 80, "failed", "middle")
    picture.arrow("M460 72 H558")
    picture.arrow("M645 104 V168")
    picture.arrow("M560 208 H462")
    picture.text(511, 200, "checkout", "middle")
    picture.arrow("M290 208 H192")
    picture.text(241, 200, "return", "middle")
    picture.arrow("M105 170 C105 130 575 130 590 168")
    picture.text(340, 134, "clean: to the next in line, or idle", "middle")
    picture.arrow("M645 246 C645 330 560 350 462 350")
    picture.text(560, 282, "evict: dead, not answering", "end")
    picture.text(740, 374, "retire: age, max_idle, drain", "end")
    picture.arrow("M105 246 C105 330 190 350 288 350")
    picture.text(122, 282, "evict: broken, not clean in cancel_timeout")
    picture.text(20, 366, "retire: age, drain, shrink")
    return picture


def needs_of_rooms() -> dict[str, set[str]]:
    """Return, for each room, the rooms that its files import, without the obvious.

    What a room reaches through another one is left out: `pool` imports `connection`, which imports
    `hub`, so that no arrow is needed from `pool` to `hub`.
    """
    files = read_all()
    needs: dict[str, set[str]] = defaultdict(set)
    for module, targets in graph_of(files).items():
        needs[files[module].room] |= {files[target].room for target in targets}
    reached: dict[str, set[str]] = {}
    for room in [*ROOMS, FACADE, *EDGES]:  # from the bottom to the top
        needs[room] -= {room}
        through = set[str]().union(*(reached.get(need, set()) for need in needs[room]))
        reached[room] = needs[room] | through
        needs[room] -= through
    return needs


def house() -> Drawing:
    """Draw the rooms of the source, one above the other, and what each stands on."""
    needs = needs_of_rooms()
    files: dict[str, list[str]] = defaultdict(list)
    for file in read_all().values():
        name = file.module.removeprefix(f"geventpg.{file.room}").lstrip(".")
        if file.room in ROOMS and name and not file.path.name.startswith("__"):
            inside, _, rest = name.partition(".")
            name = f"{inside}/" if rest else inside
            if name not in files[file.room]:
                files[file.room].append(name)
    width, left, gap = 600, 20, 22
    top = 96
    places: dict[str, tuple[int, int]] = {}
    texts: dict[str, str] = {}
    for room in [FACADE, *reversed(ROOMS)]:
        lines = ["geventpg/__init__.py: what users import"] if room == FACADE else [room]
        line = ""
        for name in files[room]:
            if len(line) + len(name) > 84:
                lines.append(line + ",")
                line = ""
            line = f"{line}, {name}" if line else name
        texts[room] = "\n".join([*lines, line] if line else lines)
        height = 17 * (texts[room].count("\n") + 1) + 14
        places[room] = (top, height)
        top += height + gap
    picture = Drawing(760, top + 2, "The rooms of the source, and what each stands on")
    picture.box((left, 20), (720, 52), "edges\n" + ", ".join(EDGES), BLUE)
    picture.arrow(f"M{left + width / 2:g} 72 V{places[FACADE][0] - 2}")
    lanes = 0
    for room, (y, height) in places.items():
        fill = GREY if room in ("errors", FACADE) else GREEN
        picture.box((left, y), (width, height), texts[room], fill)
        for target in sorted(needs[room], key=lambda other: places[other][0]):
            to, to_height = places[target]
            if to == y + height + gap:
                picture.arrow(f"M{left + width / 2:g} {y + height} V{to - 2}")
                continue
            lanes += 1
            x, start, end = left + width, y + height - 8, to + to_height / 2
            bend = x + 24 + 14 * (lanes % 8)
            picture.arrow(
                f"M{x} {start} C{bend} {start} {bend} {start} {bend} {start + 20}"
                f" V{end - 20:g} C{bend} {end:g} {bend} {end:g} {x + 2} {end:g}"
            )
    return picture


PICTURES: dict[str, Callable[[], Drawing]] = {
    "overview.svg": overview,
    "life.svg": life,
    "house.svg": house,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (DOCS / name).write_text(str(draw()))
