"""Draws charts as static SVG: no script, no style sheet, no network; a title and a description.

Colours come from a `Palette`, so that the same drawing follows a page's light or dark theme
(custom properties) or stands alone on paper (fixed colours). Nothing is told by colour only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from wardround.privacy.presentation.charts import Bars, Chart, Grid, Line, Presence
from wardround.privacy.presentation.text import printable


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours and type of a drawing, as SVG attribute values."""

    ink: str
    muted: str
    rule: str
    accent: str
    alarm: str
    surface: str
    font: str


PAGE = Palette(
    "var(--ink)", "var(--muted)", "var(--rule)", "var(--accent)", "var(--bad)", "var(--surface)",
    "inherit",
)  # fmt: skip
PAPER = Palette(
    "#1b2430", "#4d5866", "#c9d0d9", "#1f5a8c", "#a32020", "#ffffff", "Libertinus Serif"
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 30.0, 40.0
_TEXT = 12
_NAME = 32  # as long as the name of a site can be
WIDE = 400  # a wider drawing is not shrunk to a narrow screen: its letters would be too small


def draw(chart: Chart, palette: Palette, name: str) -> str:
    """Return `chart` as an `<svg>` element; `name` makes its inner ids unique in a page."""
    if isinstance(chart, Line):
        width, height, body = _line(chart, palette)
    elif isinstance(chart, Bars):
        width, height, body = _bars(chart, palette)
    else:
        width, height, body = _grid(chart, palette)
    title = _element("title", printable(chart.title), id=f"{name}-title")
    wide = ' class="wide"' if width > WIDE else ""
    description = _element("desc", printable(chart.description, limit=2000), id=f"{name}-desc")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}"{wide} role="img" '
        f'aria-labelledby="{name}-title {name}-desc" font-family="{escape(palette.font)}" '
        f'font-size="{_TEXT}">{title}{description}{"".join(body)}</svg>'
    )


def _line(chart: Line, palette: Palette) -> tuple[float, float, Iterator[str]]:
    width, height = 300.0, 200.0
    line_height = 0.0 if chart.limit is None else min(chart.limit, chart.top)
    first = min((x for x, _ in chart.points), default=0)
    last = max((x for x, _ in chart.points), default=1)
    span = max(last - first, 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + 8 + (x - first) / span * (width - _LEFT - _RIGHT - 16)
        return across, _height_at(y, chart.top, height)

    def body() -> Iterator[str]:
        yield _heading(chart.title, palette)
        yield _label(chart.y_label, 8, _TOP + 4, palette)
        yield from _value_axis(chart.top, width, height, palette)
        for x in _some(range(first, last + 1), 8):
            yield _label(str(x), at(x, 0)[0], height - _BOTTOM + 16, palette, anchor="middle")
        yield _axis_title(chart.x_label, width, height, palette)
        if chart.limit is not None:
            limit_y = at(first, line_height)[1]
            yield _shape(
                "line", x1=_LEFT, y1=limit_y, x2=width - _RIGHT, y2=limit_y, stroke=palette.alarm,
                stroke_width=1.5, stroke_dasharray="6 4",
            )  # fmt: skip
        places = [at(x, y) for x, y in chart.points]
        yield _shape(
            "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), fill="none",
            stroke=palette.accent, stroke_width=2, stroke_linejoin="round",
        )  # fmt: skip
        for dot_x, dot_y in places if len(places) <= 30 else places[-1:]:
            yield _shape("circle", cx=dot_x, cy=dot_y, r=3.5, fill=palette.accent)
        if chart.limit is not None:
            label_y = at(first, line_height)[1] - 6
            yield _label(chart.limit_label, _LEFT + 6, label_y, palette, fill=palette.alarm)

    return width, height, body()


def _bars(chart: Bars, palette: Palette) -> tuple[float, float, Iterator[str]]:
    width, height = _width(len(chart.bars)), 220.0
    top = nice_top(max((value for _, value in chart.bars), default=1.0))
    step = (width - _LEFT - _RIGHT) / max(len(chart.bars), 1)
    shown = set(_some(range(len(chart.bars)), int((width - _LEFT) // 54)))

    def body() -> Iterator[str]:
        yield _heading(chart.title, palette)
        yield _label(chart.y_label, 8, _TOP + 4, palette)
        yield _shape(
            "line", x1=_LEFT, y1=height - _BOTTOM, x2=width - _RIGHT, y2=height - _BOTTOM,
            stroke=palette.muted,
        )  # fmt: skip
        for index, ((x, value), text) in enumerate(zip(chart.bars, chart.labels, strict=True)):
            y = _height_at(value, top, height)
            thick = min(step * 0.7, 46)
            centre = _LEFT + (index + 0.5) * step
            yield _shape(
                "rect", x=centre - thick / 2, y=y, width=thick, height=height - _BOTTOM - y,
                fill=palette.accent,
            )  # fmt: skip
            if index in shown:
                yield _label(text, centre, y - 5, palette, anchor="middle", fill=palette.ink)
                yield _label(
                    printable(x, limit=12), centre, height - _BOTTOM + 16, palette, anchor="middle"
                )
        yield _axis_title(chart.x_label, width, height, palette)

    return width, height, body()


def _grid(chart: Grid, palette: Palette) -> tuple[float, float, Iterator[str]]:
    names = max((len(printable(name, limit=_NAME)) for name, _ in chart.rows), default=4)
    left, cell = 16.0 + 7.2 * names, 30.0
    columns = len(chart.rounds)
    cell = cell if columns <= 20 else max(9.0, 600 / columns)
    width = max(left + cell * columns + _RIGHT, 340.0)
    end = _TOP + 16 + 28.0 * len(chart.rows)
    height = end + 62

    def body() -> Iterator[str]:
        yield _heading(chart.title, palette)
        for index in _some(range(columns), int(cell * columns // 26) or 1):
            x = left + (index + 0.5) * cell
            yield _label(chart.rounds[index], x, _TOP + 12, palette, anchor="middle")
        for row, (name, states) in enumerate(chart.rows):
            y = _TOP + 34 + 28.0 * row
            yield _label(
                printable(name, limit=_NAME),
                left - 12,
                y + 4,
                palette,
                anchor="end",
                fill=palette.ink,
            )
            yield _shape("line", x1=left, y1=y, x2=left + cell * columns, y2=y, stroke=palette.rule)
            for index, state in enumerate(states):
                yield _sign(state, left + (index + 0.5) * cell, y, min(7.0, cell * 0.38), palette)
        yield _label(chart.x_label, 8, _TOP + 12, palette)
        for index, state in enumerate(Presence):
            x, y = 14 + 160.0 * (index % 2), end + 24 + 22.0 * (index // 2)
            yield _sign(state, x, y - 4, 6, palette)
            yield _label(state.value, x + 14, y, palette)

    return width, height, body()


def _sign(state: Presence, x: float, y: float, r: float, palette: Palette) -> str:
    """Return the sign of a state: told by shape first, by colour second."""
    if state is Presence.INCLUDED:
        return _shape("circle", cx=x, cy=y, r=r, fill=palette.accent)
    if state is Presence.DROPPED:
        return _shape(
            "circle", cx=x, cy=y, r=r - 1, fill=palette.surface, stroke=palette.alarm,
            stroke_width=2,
        )  # fmt: skip
    if state is Presence.REFUSED:
        d = f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}"
        d += f"M{x - r:.1f} {y + r:.1f}L{x + r:.1f} {y - r:.1f}"
        return _shape("path", d=d, stroke=palette.alarm, stroke_width=2.5)
    return _shape(
        "line", x1=x - r * 0.6, y1=y, x2=x + r * 0.6, y2=y, stroke=palette.muted, stroke_width=2.5
    )


def nice_top(value: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is at least `value`."""
    if not value > 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 2.5, 5, 10) if step * scale >= value * (1 - 1e-9))


def _value_axis(top: float, width: float, height: float, palette: Palette) -> Iterator[str]:
    parts = 4 if f"{top:e}".startswith("2.0") else 5
    for part in range(parts + 1):
        value = top * part / parts
        y = _height_at(value, top, height)
        colour = palette.muted if part == 0 else palette.rule
        yield _shape("line", x1=_LEFT, y1=y, x2=width - _RIGHT, y2=y, stroke=colour)
        yield _label(f"{value:.3g}", _LEFT - 7, y + 4, palette, anchor="end")


def _height_at(value: float, top: float, height: float) -> float:
    return height - _BOTTOM - value / top * (height - _TOP - _BOTTOM - 14)


def _width(count: int) -> float:
    return min(max(340.0, _LEFT + _RIGHT + 62.0 * count), 680.0)


def _some(values: range, most: int) -> range:
    """Return at most `most` of `values`, evenly spaced, the first among them."""
    return values[:: max(1, math.ceil(len(values) / max(most, 1)))]


def _heading(text: str, palette: Palette) -> str:
    return _label(
        printable(text, limit=_NAME + 16), 8, 17, palette, fill=palette.ink, weight=600, size=13
    )


def _axis_title(text: str, width: float, height: float, palette: Palette) -> str:
    return _label(text, (width + _LEFT - _RIGHT) / 2, height - 6, palette, anchor="middle")


def _label(
    text: str,
    x: float,
    y: float,
    palette: Palette,
    *,
    anchor: str = "start",
    fill: str | None = None,
    weight: int = 400,
    size: int = _TEXT,
) -> str:
    return _element(
        "text", printable(text, limit=80), x=x, y=y, fill=fill or palette.muted, text_anchor=anchor,
        font_weight=weight, font_size=size,
    )  # fmt: skip


def _written(value: str | float) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _shape(name: str, **attributes: str | float) -> str:
    return _element(name, "", **attributes)


def _element(name: str, text: str, **attributes: str | float) -> str:
    written = "".join(
        f' {key.replace("_", "-")}="{escape(_written(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{written}>{escape(text)}</{name}>" if text else f"<{name}{written}/>"
