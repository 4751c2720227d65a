"""A report as a neutral document: headings, facts, tables and charts, before any output format.

Both reports (a run's, made by the coordinator; a site's period, made by the site) are built as one
`Document` and rendered by the same HTML and PDF writers, so that a reader meets one form. Every
string is plain text and passes `printable` when it becomes a `Cell`; there is no markup in here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, TypeAlias, TypeVar

from wardround.privacy.presentation.charts import Chart
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.presentation.text import printable

T = TypeVar("T")
Style: TypeAlias = Literal["text", "number", "code", "time"]


class Tone(StrEnum):
    """How a verdict or a note is coloured; its words always say the same as its colour."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Cell:
    """One value as text, with its mark. `source` is None for words of the report itself."""

    text: str
    source: Source | None = None
    entries: tuple[int, ...] = ()
    style: Style = "text"

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))


Inline: TypeAlias = str | Cell


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Words of the report with values among them."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of short paragraphs."""

    items: tuple[Paragraph, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Terms with one or more values each."""

    items: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A table column: its header and whether it holds numbers."""

    title: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A data table; the first cell of a row is that row's header.

    `empty` is what the reader is told when there are no rows. `anchors` are the log entries that
    the rows themselves list, one a row: other values then link to them. `cite` adds a column of
    the log entries that a row was read from.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "No such entry in the log."
    anchors: tuple[int, ...] = ()
    cite: bool = True

    @property
    def evidence(self) -> tuple[tuple[int, ...], ...]:
        """Return, per row, the log entries its values were read from; empty for a list of words."""
        found = tuple(
            tuple(sorted({index for one in row for index in one.entries})) for row in self.rows
        )
        return found if self.cite and any(found) and not self.anchors else ()

    @property
    def sources(self) -> tuple[Source | None, ...]:
        """Return, per column, the mark that all its cells share, or None: each shows its own."""
        shared: list[Source | None] = []
        for index in range(len(self.columns)):
            found = {row[index].source for row in self.rows if row[index].text}
            shared.append(found.pop() if len(found) == 1 else None)
        return tuple(shared)


@dataclass(frozen=True, slots=True)
class Figure:
    """Charts of one subject, and the same numbers as a table."""

    caption: str
    charts: tuple[Chart, ...]
    table: Table


@dataclass(frozen=True, slots=True)
class Note:
    """A remark set apart from the text."""

    tone: Tone
    heading: str
    body: tuple[Paragraph, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks under a heading of the third level."""

    heading: str
    blocks: tuple["Block", ...]


Block: TypeAlias = Paragraph | Bullets | Facts | Table | Figure | Note | Group


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under a heading of the second level. `id` is a fragment name."""

    id: str
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One question of the first page and its short answer; `section` holds the details."""

    question: str
    body: tuple[Paragraph, ...]
    section: str
    tone: Tone = Tone.NEUTRAL


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the reader learns first."""

    tone: Tone
    label: str
    headline: str
    body: tuple[Paragraph, ...]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report.

    `at` is the moment it speaks of (UTC); `entries` are the log entries that a table in it lists;
    `legend` says what each mark means in this report.
    """

    kind: str
    title: Cell
    subtitle: tuple[Inline, ...]
    at: datetime
    verdict: Verdict
    answers: tuple[Answer, ...]
    sections: tuple[Section, ...]
    entries: frozenset[int]
    legend: tuple[tuple[Source, str], ...] = tuple((source, source.meaning) for source in Source)


def cell(marked: Marked[T], write: Callable[[T], str] = str, style: Style = "text") -> Cell:
    """Return a marked value as a cell, written by `write`."""
    return Cell(write(marked.value), marked.source, marked.entries, style)


def number(marked: Marked[T], write: Callable[[T], str] = str) -> Cell:
    """Return a marked number as a cell."""
    return cell(marked, write, "number")


def code(marked: Marked[str]) -> Cell:
    """Return a marked digest or identifier as a cell."""
    return cell(marked, str, "code")


def when(marked: Marked[int]) -> Cell:
    """Return a marked log time (milliseconds since 1970, UTC) as a cell; its day keeps together."""
    return cell(marked, moment, "time")


def words(*parts: Inline) -> Paragraph:
    """Return a paragraph."""
    return Paragraph(parts)


def columns(*titles: str) -> tuple[Column, ...]:
    """Return columns; a title that starts with '#' makes a column of numbers."""
    return tuple(Column(title.removeprefix("#"), title.startswith("#")) for title in titles)


def moment(milliseconds: int) -> str:
    """Return a log time (milliseconds since 1970, UTC) as text, to the second."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def amount(size: int) -> str:
    """Return a number of bytes for people: binary units, three digits."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} B" if unit == "B" else f"{value:.3g} {unit}"
