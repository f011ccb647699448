"""Just enough SVG for boxes with words and arrows between them."""

from __future__ import annotations

from html import escape

INK, QUIET, PAPER = "#24292f", "#57606a", "#ffffff"
GREEN, BLUE, GREY, RED = "#dafbe1", "#ddf4ff", "#f6f8fa", "#ffebe9"
_FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"

_ARROW_HEAD = (
    "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7'"
    f" orient='auto-start-reverse'><path d='M0 0 8 4 0 8z' fill='{QUIET}'/></marker></defs>"
)


class Drawing:
    """A picture of *width* by *height* on white, so that it can be read on any page."""

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
