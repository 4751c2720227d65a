"""The HTML page: self-contained, well formed, and deaf to what a site writes into its texts."""

import base64
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from wardround.privacy.errors import ReportError
from wardround.privacy.presentation import html
from wardround.privacy.presentation.document import (
    Cell,
    Facts,
    Figure,
    Note,
    Paragraph,
    Table,
    Tone,
    columns,
)
from wardround.privacy.presentation.files import Format
from wardround.privacy.presentation.html import TEMPLATES, render_html
from wardround.privacy.presentation.text import printable
from wardround.server.report import RunReport, write_report
from wardround.server.report.document import run_document

MakeReport = Callable[..., RunReport]

VOID = {"meta", "br", "hr", "img", "input", "link", "line", "circle", "rect", "polyline", "path"}
# What the log itself would refuse is tested too: a report must not lean on another's check.
HOSTILE = {
    "organisation": 'Haus "A" & B\' onmouseover=alert(1)',
    "notes": "{{ 7 * 7 }} {% include 'x' %} javascript:alert(1)",
    "what": "&lt;script&gt;alert(1)&lt;/script&gt; ${7*7} #{x}",
    "title": "Κλινική — больница — 病院 – مستشفى",
    "purpose": "#set page(width: 1pt) *bold* $x$ `raw` \\u{202e} @label",
    "legal_basis": "=HYPERLINK('http://evil.example') |calc",
}


class Page(HTMLParser):
    """Reads a page strictly: every element closed in order, ids and links collected."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute of {tag} stands twice"
        self.elements.append((tag, values))
        if "id" in values:
            self.ids.append(str(values["id"]))
        if "href" in values:
            self.links.append(str(values["href"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of a name."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(report: RunReport) -> str:
    """The example report as HTML."""
    return render_html(run_document(report))


def test_page_is_well_formed_and_its_links_lead_somewhere(page: str) -> None:
    read = Page(page)
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    assert {link.removeprefix("#") for link in read.links} <= set(read.ids)
    assert all(link.startswith("#") for link in read.links)


def test_page_loads_nothing_and_runs_nothing(page: str) -> None:
    read = Page(page)
    names = {name for name, _ in read.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in read.elements:
        assert not {"src", "srcset", "style", "action"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_policy_names_the_one_style_sheet(page: str) -> None:
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = next(m for m in Page(page).named("meta") if m.get("http-equiv"))["content"]
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_tables_have_captions_and_scopes(page: str) -> None:
    read = Page(page)
    assert len(read.named("table")) == len(read.named("caption")) > 10
    assert {th["scope"] for th in read.named("th")} == {"col", "row"}


def test_headings_go_down_one_level_at_a_time(page: str) -> None:
    levels = [int(name[1]) for name, _ in Page(page).elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_charts_have_titles_and_descriptions(page: str) -> None:
    read = Page(page)
    charts = read.named("svg")
    assert len(charts) == 6
    for chart in charts:
        assert chart["role"] == "img"
        assert set(str(chart["aria-labelledby"]).split()) <= set(read.ids)


def test_landmarks(page: str) -> None:
    read = Page(page)
    assert [len(read.named(name)) for name in ("main", "header", "footer", "nav")] == [1, 1, 1, 1]
    assert read.named("html") == [{"lang": "en"}]


def test_every_value_in_a_table_tells_its_source(page: str) -> None:
    exchange = page[page.index('<section id="exchange"') : page.index('<section id="sites"')]
    cells = re.findall(r"<t[dh](?: scope=\"row\"| class=\"number\")?><span([^>]*)>", exchange)
    assert len(cells) > 100
    assert [attributes for attributes in cells if "data-source=" not in attributes] == []
    unmarked = re.findall(r"<t[dh][^>]*><bdi>([^<]*)</bdi>", exchange)
    assert unmarked == ["–"]  # of the attempt that opened no sum


def test_a_table_is_looked_through_once_for_the_marks_of_its_columns(
    report: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a table, not once a cell: a page of a long run took minutes."""
    looked: list[str] = []
    sources = Table.sources.fget  # type: ignore[attr-defined]  # of a property

    def counted(table: Table) -> object:
        looked.append(table.caption)
        return sources(table)

    monkeypatch.setattr(Table, "sources", property(counted))
    tables = render_html(run_document(report)).count("<table>")
    assert len(looked) == tables > 10


# -- hostile texts ------------------------------------------------------------------------------


def test_hostile_texts_stay_text(make_report: MakeReport) -> None:
    page = render_html(run_document(make_report(**HOSTILE)))
    read = Page(page)
    assert read.open == []
    assert not read.named("script")
    for _, attributes in read.elements:
        assert not any(name.startswith("on") for name in attributes)
    assert "{{ 7 * 7 }}" in page
    assert "Haus &#34;A&#34; &amp; B&#39; onmouseover=alert(1)" in page
    assert "&amp;lt;script&amp;gt;" in page
    assert "病院" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("line\nsecond", "line<U+000A>second"),
        ("\u202egnp.exe", "<U+202E>gnp.exe"),
        ("a\u200bb", "a<U+200B>b"),
        ("\x1b[31mred", "<U+001B>[31mred"),
        ("\u2028", "<U+2028>"),
        ("e" + "\u0301" * 6, "e\u0301\u0301\u0301\u0301<U+0301><U+0301>"),
        ("مستشفى", "مستشفى"),
        ("x" * 405, "x" * 400 + " … (5 more characters)"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_its_code_point(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_markup_in_every_value_is_escaped(report: RunReport) -> None:
    """The log refuses angle brackets; the page must not depend on that."""
    document = run_document(report)
    attack = "</td></table></main><script>alert(1)</script><svg onload=alert(1)>"
    figure = next(b for b in document.sections[1].blocks if isinstance(b, Figure))
    chart = replace(figure.charts[0], title=attack, description=attack)
    blocks = (
        Paragraph((attack, Cell(attack))),
        replace(figure, caption=attack, charts=(chart,)),
        Note(Tone.BAD, attack, (Paragraph((attack,)),)),
        Facts(((attack, (Cell(attack),)),)),
        Table(attack, columns(attack), ((Cell(attack),),)),
    )
    section = replace(document.sections[0], heading=attack, blocks=blocks)
    changed = replace(document, title=Cell(attack), sections=(section, *document.sections[1:]))
    read = Page(render_html(changed))
    assert read.open == []
    assert not read.named("script")
    assert not any("onload" in attributes for _, attributes in read.elements)


def test_json_is_ascii_and_holds_hostile_texts_exactly(
    make_report: MakeReport, tmp_path: Path
) -> None:
    (path,) = write_report(make_report(**HOSTILE), tmp_path, ("json",))
    data = path.read_bytes()
    assert data.isascii()
    value = json.loads(data)
    assert value["kind"] == "Run report"
    plan = value["report"]["plan"]
    assert plan["purpose"] == {"value": HOSTILE["purpose"], "source": "C", "entries": [6]}
    assert value["report"]["verdict"] == {"value": "incomplete", "source": "V", "entries": []}


def test_json_holds_the_open_points_that_the_page_shows(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(verification={"pinned": False})
    page, file = write_report(report, tmp_path, ("html", "json"))
    told = json.loads(file.read_bytes())["report"]["gaps"]
    assert [(one["subject"], one["serious"]) for one in told] == [("log", False), ("west", False)]
    for one in told:
        assert one["words"] in page.read_text()


def test_files_are_whole_or_absent(report: RunReport, tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "run"
    paths = write_report(report, folder, ("html", "json", "html"))
    assert [path.name for path in paths] == ["run-report.html", "run-report.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["run-report.html", "run-report.json"]
    assert render_html(run_document(report)).encode() == paths[0].read_bytes()


# -- colours --------------------------------------------------------------------------------------

TEXT_ON = {
    "ink": ("surface", "page", "good-soft", "warning-soft", "bad-soft", "accent-soft"),
    "muted": ("surface", "page", "good-soft", "warning-soft", "bad-soft"),
    "accent": ("surface", "page", "good-soft", "warning-soft", "bad-soft", "accent-soft"),
    "good": ("surface", "good-soft"),
    "warning": ("surface", "warning-soft"),
    "bad": ("surface", "bad-soft"),
    "surface": ("good", "warning", "bad", "muted"),
}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_meet_wcag_aa(theme: str) -> None:
    """Contrast of at least 4.5 : 1 for text (WCAG 2.2, success criterion 1.4.3)."""
    css = (TEMPLATES / "document.css").read_text()
    light, dark, _ = re.split(r"@media \((?:prefers-color-scheme: dark|prefers-reduced)", css)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", light if theme == "light" else dark))
    for text, grounds in TEXT_ON.items():
        for ground in grounds:
            ratio = contrast(colours[text], colours[ground])
            assert ratio >= 4.5, f"{theme}: {text} on {ground} is {ratio:.2f}"


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# -- libraries that an auditor's install lacks ----------------------------------------------------


@pytest.mark.parametrize(
    ("library", "form", "hint"),
    [("jinja2", "html", "jinja2"), ("typst", "pdf", r"wardround\[pdf\]")],
)
def test_missing_library_is_named(
    report: RunReport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    form: Format,
    hint: str,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    html._environment.cache_clear()
    with pytest.raises(ReportError, match=hint):
        write_report(report, tmp_path, (form,))
    assert list(tmp_path.iterdir()) == []
