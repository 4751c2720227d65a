"""The PDF: tagged, held to PDF/UA-1 and PDF/A-2a by its exporter, deaf to hostile texts."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pypdf
import pytest
from pypdf.generic import ArrayObject, DictionaryObject

from wardround.privacy.errors import ReportError
from wardround.privacy.presentation import pdf
from wardround.privacy.presentation.document import (
    Cell,
    Document,
    Facts,
    Paragraph,
    Table,
    columns,
)
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.pdf import render_pdf
from wardround.server.report import RunReport
from wardround.server.report.document import run_document

MakeReport = Callable[..., RunReport]
REPOSITORY = Path(__file__).resolve().parents[3]
CHECKER = Path(os.environ.get("WARDROUND_PAGE", REPOSITORY / ".venv/page"))


@pytest.fixture(scope="module")
def data(report: RunReport) -> bytes:
    """The example report as PDF."""
    return render_pdf(run_document(report))


def read(data: bytes) -> pypdf.PdfReader:
    """Open a PDF."""
    return pypdf.PdfReader(io.BytesIO(data), strict=True)


def text_of(data: bytes) -> str:
    """Return the text of a PDF, break marks inside digests left out."""
    text = " ".join(page.extract_text() for page in read(data).pages)
    return re.sub(r"\s+", " ", text.replace("\u200b", ""))


def first_pages(report: RunReport) -> Document:
    """Return a report's document cut to its first section: enough for a text to show."""
    document = run_document(report)
    return replace(document, sections=document.sections[:1])


def structure(reader: pypdf.PdfReader) -> Iterator[DictionaryObject]:
    """Yield every structure element of a PDF."""
    waiting = [reader.trailer["/Root"]["/StructTreeRoot"]]
    while waiting:
        node = waiting.pop().get_object()
        if isinstance(node, ArrayObject):
            waiting.extend(node)
        elif isinstance(node, DictionaryObject):
            if "/S" in node:
                yield node
            if "/K" in node:
                waiting.append(node["/K"])


def streams(data: bytes) -> Iterator[bytes]:
    """Yield every stream, of exactly the length it is said to have."""
    for said in re.finditer(rb"/Length (\d+)", data):
        start = data.index(b"stream\n", said.start()) + len(b"stream\n")
        end = start + int(said[1])
        assert data.startswith(b"\nendstream", end)
        yield data[start:end]


def test_every_stream_has_the_length_it_is_said_to_have(data: bytes) -> None:
    assert len(list(streams(data))) == data.count(b"endstream")


def test_says_it_meets_pdf_ua_and_pdf_a(data: bytes) -> None:
    root = read(data).trailer["/Root"]
    metadata = root["/Metadata"].get_object().get_data().decode()
    assert "<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert "<pdfaid:part>2</pdfaid:part>" in metadata
    assert "<pdfaid:conformance>A</pdfaid:conformance>" in metadata
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert root["/ViewerPreferences"]["/DisplayDocTitle"]


@pytest.fixture(scope="module")
def validate() -> Callable[[bytes, str], list[str]]:
    """A checker of PDF/UA and PDF/A that has nothing to do with the exporter: rules that fail."""
    if not CHECKER.is_dir():
        pytest.skip("page-validation is not installed (see .ci/accessibility)")
    sys.path.append(str(CHECKER))
    try:
        page = pytest.importorskip("page", reason="page-validation is not made for this Python")
    finally:
        sys.path.remove(str(CHECKER))

    def failures(data: bytes, profile: str) -> list[str]:
        found = page.validate_pdf_bytes(data, profile=profile)
        assert found.rules.total > 100
        rules = {failure.rule_id for failure in found.failures}
        # It takes a stream's own last byte, a carriage return, for a part of the line end after it.
        if any(stream.endswith(b"\r") for stream in streams(data)):
            rules.discard("PDFA2A-STREAM-LENGTH-001")
        return sorted(rules)

    return failures


@pytest.mark.parametrize("profile", ["ua1", "2a"])
def test_another_program_finds_nothing_against_the_standards(
    data: bytes, validate: Callable[[bytes, str], list[str]], profile: str
) -> None:
    assert validate(data, profile) == []


def test_the_other_program_sees_what_is_missing(
    data: bytes, validate: Callable[[bytes, str], list[str]]
) -> None:
    blind = data.replace(b"/Alt(", b"/Xlt(")
    assert blind != data
    assert any("FIGURE" in rule for rule in validate(blind, "ua1"))
    untagged = data.replace(b"/Marked true", b"/Marked null")
    assert untagged != data
    assert validate(untagged, "ua1")


def test_is_tagged_with_headings_tables_and_alternative_texts(data: bytes) -> None:
    elements = list(structure(read(data)))
    kinds = [str(e["/S"]) for e in elements]
    assert kinds.count("/H1") == 1
    assert kinds.count("/H2") >= 12
    assert kinds.count("/Table") > 10
    assert kinds.count("/TH") > 60
    pictures = [e for e in elements if e["/S"] == "/Figure"]
    assert len(pictures) == 6
    assert all(len(str(e["/Alt"])) > 20 for e in pictures)


def test_fonts_are_embedded(data: bytes) -> None:
    fonts = [
        font.get_object()["/DescendantFonts"][0].get_object()["/FontDescriptor"].get_object()
        for page in read(data).pages
        for font in page["/Resources"].get("/Font", {}).values()
    ]
    assert fonts
    assert all({"/FontFile3", "/FontFile2"} & font.keys() for font in fonts)


def test_says_what_the_page_says(data: bytes, report: RunReport) -> None:
    text = text_of(data)
    assert "Nothing in the evidence contradicts itself" in text
    assert "q = 3, n = 4, f = 1" in text
    unbroken = text.replace(" ", "")
    assert report.plan.digest.value in unbroken
    assert report.updates[0].digest.value in unbroken
    assert "It is not evidence of" in text


def test_words_of_the_report_are_not_broken_and_names_may_be(report: RunReport) -> None:
    """Many columns are narrow: a name from elsewhere must not run into the next one."""
    for source, whole in ((None, 14), (Source.SITE, 0)):
        table = Table("T", columns(*"ABCDEFGHIJKLMN"), ((Cell("cybersecurity", source),) * 14,))
        section = replace(run_document(report).sections[0], blocks=(table,))
        text = text_of(render_pdf(replace(first_pages(report), sections=(section,))))
        assert text.count("cybersecurity") == whole


def test_a_word_longer_than_a_line_stays_on_the_page(report: RunReport) -> None:
    endless = Cell("x" * 200)
    section = replace(
        run_document(report).sections[0],
        blocks=(Paragraph((endless,)), Facts((("t", (endless,)),))),
    )
    document = replace(first_pages(report), title=endless, sections=(section,))
    text = text_of(render_pdf(document))
    assert text.count("x") >= 600
    assert "x" * 110 not in text


def test_same_report_gives_the_same_bytes(data: bytes, report: RunReport) -> None:
    assert render_pdf(run_document(report)) == data


def test_typst_markup_stays_text(make_report: MakeReport) -> None:
    purpose = "#set page(width: 1pt) *bold* $x$ `raw` @label #import sys // end"
    text = text_of(render_pdf(first_pages(make_report(purpose=purpose))))
    assert purpose in text


@pytest.mark.parametrize("title", ["病院 😀", "مستشفى", "\ue000 private", "\U000e0041 tag"])
def test_texts_that_no_font_draws_are_written_as_code_points(report: RunReport, title: str) -> None:
    document = replace(first_pages(report), title=Cell(title))
    text = text_of(render_pdf(document))
    assert title in text or f"<U+{ord(title[0]):04X}>" in text


def test_newlines_and_directions_are_shown(report: RunReport) -> None:
    document = first_pages(report)
    attack = Paragraph((Cell("first\nsecond \u202egnp.exe"),))
    changed = replace(document.sections[0], blocks=(attack,))
    document = replace(document, sections=(changed,))
    assert "first<U+000A>second <U+202E>gnp.exe" in text_of(render_pdf(document))


def test_exporter_refuses_a_chart_without_description(
    report: RunReport, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("templates")
    template = (pdf.TEMPLATES / "document.typ").read_text()
    (folder / "document.typ").write_text(template.replace(", alt: chart.alt", ""))
    monkeypatch.setattr(pdf, "TEMPLATES", folder)
    with pytest.raises(ReportError, match="alt"):
        render_pdf(run_document(report))


def test_long_table_is_cut_and_says_so(report: RunReport) -> None:
    rows = tuple((Cell(f"row {n}"),) for n in range(1_003))
    section = replace(run_document(report).sections[0], blocks=(Table("T", columns("N"), rows),))
    document = replace(first_pages(report), sections=(section,))
    text = text_of(render_pdf(document))
    assert "(first 1,000 of 1,003 rows; HTML and JSON have all)" in text
    assert "row 999" in text
    assert "row 1000" not in text
