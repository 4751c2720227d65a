"""Any text at all, in every place of a document: the page stays whole and the PDF is made."""

from datetime import UTC, datetime
from html.parser import HTMLParser
from xml.etree import ElementTree

from hypothesis import example, given, settings
from hypothesis import strategies as st

from wardround.privacy.presentation import svg
from wardround.privacy.presentation.charts import Bars, Chart, Grid, Line, Presence
from wardround.privacy.presentation.document import (
    Answer,
    Bullets,
    Cell,
    Document,
    Facts,
    Figure,
    Group,
    Note,
    Section,
    Table,
    Tone,
    Verdict,
    columns,
    words,
)
from wardround.privacy.presentation.html import render_html
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.pdf import render_pdf

ANY = st.text(st.characters(), max_size=40)
NASTY = "\x00\ud800\u202e</script>]]>&#0;{{x}}*#\\\n\ue000\U000e0041"


def charts(text: str) -> tuple[Chart, ...]:
    """Return a chart of each kind with `text` everywhere."""
    return (
        Line(text, text, ((0, 0.5), (1, 1.0)), 2.0, text, text, text, 2.5),
        Bars(text, text, ((text, 3.0),), (text,), text, text),
        Grid(text, text, ("1", "2"), ((text, (Presence.INCLUDED, Presence.REFUSED)),), text),
    )


def document(text: str) -> Document:
    """Return a document with `text` in every value."""
    value = Cell(text, Source.SITE, (1,))
    table = Table("Table", columns("A", "#B"), ((value, value),))
    figure = Figure("Figure", charts(text), table)
    note = Note(Tone.BAD, "Note", (words(value),))
    blocks = (words("x", value), Bullets((words(value),)), Facts((("t", (value,)),)), table)
    return Document(
        kind="Run report",
        title=value,
        subtitle=(value,),
        at=datetime(2026, 1, 1, tzinfo=UTC),
        verdict=Verdict(Tone.GOOD, "L", "H", (words(value),), Facts((("t", (value,)),))),
        answers=(Answer("Q?", (words(value),), "one"),),
        sections=(Section("one", "One", (*blocks, figure, note, Group("G", blocks))),),
        entries=frozenset(),
    )


class Counter(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += 1


PLAIN = Counter(render_html(document("plain"))).count


@given(ANY)
@example(NASTY)
@settings(max_examples=60)
def test_text_never_becomes_an_element(text: str) -> None:
    assert Counter(render_html(document(text))).count == PLAIN


@given(ANY)
@example(NASTY)
@settings(max_examples=60)
def test_charts_are_well_formed_xml(text: str) -> None:
    for chart in charts(text):
        root = ElementTree.fromstring(svg.draw(chart, svg.PAPER, "c"))  # noqa: S314 - our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_longest_name_of_a_site_is_whole_in_a_chart() -> None:
    name = "n" * 32
    grid = Grid("t", "d", ("1",), ((name, (Presence.INCLUDED,)),), "Round")
    line = Line(f"{name}, 0123456789ab…", "d", ((0, 0.5),), 2.0, "b", "x", "y", 2.5)
    for chart in (grid, line):
        assert "more characters" not in svg.draw(chart, svg.PAPER, "c")


@given(ANY)
@example(NASTY)
@example("\u65e5\u672c \u0645 \U0001f600")
@settings(max_examples=30)
def test_pdf_is_made_of_any_text(text: str) -> None:
    assert render_pdf(document(text)).startswith(b"%PDF-1.7")
