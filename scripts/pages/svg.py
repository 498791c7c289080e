"""Shapes of the tuners' pictures, as SVG text: a card that is light or dark as the reader's screen is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 760, 350
SUBSCRIPT = re.compile(r"_(\w)")
STYLE = """
svg { --card: #ffffff; --edge: #d8dee4; --ink: #1f2328; --soft: #656d76; --line: #8c959f;
  --frozen: #f0f2f5; --frozen-edge: #b4bdc8; --trained: #ffe2c7; --trained-edge: #e8670c; --trained-ink: #8f3a00;
  --other: #dcebff; --other-edge: #3b82d6; --other-ink: #1b4b87; }
@media (prefers-color-scheme: dark) { svg { --card: #161b22; --edge: #30363d; --ink: #e6edf3; --soft: #9aa4af;
  --line: #6e7681; --frozen: #242b34; --frozen-edge: #4c5662; --trained: #4d2a0e; --trained-edge: #ff9440;
  --trained-ink: #ffd2a6; --other: #14304f; --other-edge: #5aa2f0; --other-ink: #bcdcff; } }
.card { fill: var(--card); stroke: var(--edge) }
.frame { fill: none; stroke: var(--frozen-edge); stroke-dasharray: 4 4 }
.frozen { fill: var(--frozen); stroke: var(--frozen-edge); stroke-width: 1.2 }
.trained { fill: var(--trained); stroke: var(--trained-edge); stroke-width: 1.6 }
.other { fill: var(--other); stroke: var(--other-edge); stroke-width: 1.4 }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; marker-end: url(#head) }
.plain { fill: none; stroke: var(--line); stroke-width: 1.5 }
.zoom { fill: none; stroke: var(--trained-edge); stroke-width: 1.3; stroke-dasharray: 3 4 }
.joint { fill: var(--card); stroke: var(--line); stroke-width: 1.5 }
.head { fill: var(--line) }
.dot { fill: var(--trained-edge) }
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink) }
.big { font-size: 17px; font-weight: 600 }
.small { font-size: 11.5px; fill: var(--soft) }
.in-trained { fill: var(--trained-ink); font-weight: 600 }
.in-other { fill: var(--other-ink); font-weight: 600 }
.in-frozen { fill: var(--soft) }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0 0.8 L7.5 4 L0 7.2 Z"/></marker>'
)
Point = tuple[float, float]


class Picture:
    """Shapes in the order in which they are drawn."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, look: str = "", anchor: str = "middle") -> None:
        """A line of words around a point; `_` lowers the letter behind it."""
        lowered = SUBSCRIPT.sub(
            r'<tspan dy="3" font-size="75%">\1</tspan><tspan dy="-3">&#8203;</tspan>', escape(words, quote=False)
        )
        self.parts.append(f'<text class="{look}" x="{x:g}" y="{y + 4.5:g}" text-anchor="{anchor}">{lowered}</text>')

    def box(
        self, x: float, y: float, w: float, h: float, words: str = "", look: str = "frozen", corner: float = 5
    ) -> None:
        """A rectangle with words in its middle."""
        self.parts.append(f'<rect class="{look}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{corner:g}"/>')
        if words:
            self.text(x + w / 2, y + h / 2, words, f"in-{look}")

    def shape(self, points: Sequence[Point], words: str = "", look: str = "frozen") -> None:
        """A polygon with words in its middle."""
        corners = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polygon class="{look}" points="{corners}" stroke-linejoin="round"/>')
        if words:
            middle = (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
            self.text(*middle, words, f"in-{look}")

    def line(self, *points: Point, look: str = "line") -> None:
        """An arrow through points; "plain" is without a head."""
        self.parts.append(f'<path class="{look}" d="M{" L".join(f"{x:g} {y:g}" for x, y in points)}"/>')

    def joint(self, x: float, y: float, sign: str = "+") -> None:
        """Where two things are put together."""
        self.parts.append(f'<circle class="joint" cx="{x:g}" cy="{y:g}" r="11"/>')
        self.text(x, y, sign)

    def dot(self, x: float, y: float) -> None:
        """A place in the model."""
        self.parts.append(f'<circle class="dot" cx="{x:g}" cy="{y:g}" r="4.5"/>')

    def svg(self, says: str) -> str:
        """The whole picture; `says` is read out to those who cannot see it."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="{WIDTH}">\n'
            f"<title>{escape(self.title)}</title><desc>{escape(says)}</desc>\n<style>{STYLE}</style><defs>{HEAD}</defs>\n"
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>\n{body}\n</svg>\n'
        )
