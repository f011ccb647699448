"""Draw the diagrams of these pages: `python docs/diagrams.py`, after a change here."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
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


PICTURES: dict[str, Callable[[], Drawing]] = {"overview.svg": overview, "life.svg": life}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (DOCS / name).write_text(str(draw()))
