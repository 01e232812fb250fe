"""Bars and lines as SVG: plain text, the same for the same figures, readable on light and dark pages.

Knows nothing of benchmarks; charts.py does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 70, 36, 48, 46
HEIGHT = 340
ROW = 24
COLORS = ("#2f6fb7", "#c4622d", "#3a8a54", "#8757b3", "#b23a5b", "#6b7280")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 14px; font-weight: 600; }
.muted { fill: #57606a; }
.grid { stroke: #d0d7de; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .muted { fill: #9198a1; }
  .grid { stroke: #3d444d; }
}
""".strip()

Points = Sequence[tuple[float, float]]


def number(value: float) -> str:
    """A value beside a bar or an axis: three digits that count."""
    if value >= 1_000_000 and value % 1_000_000 == 0:
        return f"{value / 1_000_000:,.0f} M"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """Horizontal bars from nought, in the order given, each with its name and value."""
    names = 12 + max(map(len, values)) * 6.6
    most = max(values.values()) or 1.0
    room = WIDTH - names - 90
    parts = [_text(12, 24, title, "title"), _text(12, 41, unit, "muted")]
    for row, (name, value) in enumerate(values.items()):
        y = TOP + 8 + row * ROW
        wide = max(1.0, room * value / most)
        parts.append(_text(names - 6, y + 13, name, anchor="end"))
        parts.append(f'<rect x="{names:.1f}" y="{y}" width="{wide:.1f}" height="{ROW - 7}" rx="2" fill="{COLORS[0]}"/>')
        parts.append(_text(names + wide + 6, y + 13, number(value), "muted"))
    return _document(title, TOP + 16 + len(values) * ROW, parts)


def lines(title: str, x_title: str, y_title: str, series: Mapping[str, Points]) -> str:
    """One line for each series over a logarithmic x axis, the y axis from nought; an x of nought stands at 1."""
    xs = [max(1.0, x) for points in series.values() for x, _ in points]
    decades = range(math.floor(math.log10(min(xs))), max(1, math.ceil(math.log10(max(xs)))) + 1)
    step = _step(max(y for points in series.values() for _, y in points))
    most = step * max(1, math.ceil(max(y for points in series.values() for _, y in points) / step))

    def at(x: float, y: float) -> tuple[float, float]:
        along = (math.log10(max(1.0, x)) - decades[0]) / (decades[-1] - decades[0])
        return LEFT + along * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / most * (HEIGHT - TOP - BOTTOM - 18)

    parts = [_text(12, 24, title, "title"), _text(12, 41, y_title, "muted")]
    for tick in range(round(most / step) + 1):
        _, y = at(1, tick * step)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, number(tick * step), "muted", "end"))
    for decade in decades:
        x, _ = at(10.0**decade, 0)
        parts.append(_text(x, HEIGHT - BOTTOM + 18, number(10.0**decade), "muted", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, "muted", "middle"))
    along = WIDTH - RIGHT - sum(22 + len(name) * 6.6 for name in series)
    for (name, points), color in zip(series.items(), COLORS, strict=False):
        places = [at(x, y) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        parts.append(f'<rect x="{along:.1f}" y="32" width="10" height="10" rx="2" fill="{color}"/>')
        parts.append(_text(along + 14, 41, name))
        along += 22 + len(name) * 6.6
    return _document(title, HEIGHT, parts)


def _step(most: float) -> float:
    """A round distance of grid lines, of which there are four to nine."""
    rough = max(most, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    kinds = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kinds} text-anchor="{anchor}">{escape(text)}</text>'


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", *parts, "</svg>", ""])
