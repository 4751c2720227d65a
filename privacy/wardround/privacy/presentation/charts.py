"""What a chart shows, before it is drawn. `svg` draws it; the figure's table holds the numbers."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Line:
    """A value per round that grows towards a limit: one panel of a figure.

    `points` are (round, value) in order of rounds; `top` is the upper end of the value axis, so
    that panels of one figure share a scale. Labels of axes say quantity and unit.
    """

    title: str
    description: str
    points: tuple[tuple[int, float], ...]
    limit: float | None
    limit_label: str
    x_label: str
    y_label: str
    top: float


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar per round or day. `labels` are the values as text, written on the bars."""

    title: str
    description: str
    bars: tuple[tuple[str, float], ...]
    labels: tuple[str, ...]
    x_label: str
    y_label: str


class Presence(StrEnum):
    """What a site did in a round."""

    INCLUDED = "in the sum"
    DROPPED = "dropped out"
    REFUSED = "refused"
    ABSENT = "did not join"


@dataclass(frozen=True, slots=True)
class Grid:
    """Sites by rounds, with a sign for what each did."""

    title: str
    description: str
    rounds: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Presence, ...]], ...]
    x_label: str


Chart: TypeAlias = Line | Bars | Grid
