"""Writes a document as a tagged PDF through Typst, held to PDF/UA-1 and PDF/A-2a by its exporter.

The template is fixed; the document reaches it as JSON in an input variable. No value is ever part
of Typst source, so no text can become markup. Charts are the same drawings as in HTML.
"""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from html import escape
from typing import Literal, TypeAlias

from wardround.privacy.errors import ReportError
from wardround.privacy.presentation import svg
from wardround.privacy.presentation.charts import Bars, Grid, Line
from wardround.privacy.presentation.document import Document, Table
from wardround.privacy.presentation.html import TEMPLATES
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.text import code_point, printable

STANDARDS: tuple[Literal["ua-1"], Literal["a-2a"]] = ("ua-1", "a-2a")
Drawn: TypeAlias = Callable[[str], bool]
MAX_ROWS = 1_000
"""A longer table is cut in the PDF, and says so: nobody reads 400 pages of digests on paper."""
_ALWAYS_DRAWN = "–—‘’“”…→≤≥≠×σεδµ·✓"


def render_pdf(document: Document) -> bytes:
    """Return `document` as a PDF that says it meets `STANDARDS`.

    Typst refuses an export that would miss one of them: an image without a description, text
    that no font can draw. In the latter case every unusual character is written as its code
    point. Raises ReportError where the `typst` package is missing or refuses.
    """
    try:
        from typst import TypstError, compile
    except ModuleNotFoundError:
        raise ReportError("PDF reports need typst: pip install 'wardround[pdf]'") from None
    template = (TEMPLATES / "document.typ").read_bytes()

    def export(drawn: Drawn) -> bytes:
        pdf = compile(
            template,
            sys_inputs={"document": json.dumps(_data(document, drawn))},
            pdf_standards=[*STANDARDS],
            timestamp=document.at,
        )
        return bytes(pdf)

    try:
        return export(lambda _: True)
    except TypstError:
        try:
            return export(_in_every_font)
        except TypstError as error:
            raise ReportError(f"the PDF report cannot be made: {error.message}") from None


def _data(value: object, drawn: Drawn) -> object:
    """Return the JSON form of a document; a record is told by its class under `kind`."""
    if isinstance(value, Line | Bars | Grid):
        drawing = svg.draw(value, svg.PAPER, "chart")
        return {
            "svg": _shown(drawing, drawn, escape),
            "alt": _shown(f"{value.title}. {printable(value.description, limit=2000)}", drawn),
        }
    if isinstance(value, Source):
        return {"letter": value.value}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, str):
        return _shown(value, drawn)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, tuple):
        return [_data(item, drawn) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Table) and len(value.rows) > MAX_ROWS:
        return _data(_cut(value), drawn)
    if not is_dataclass(value):
        raise TypeError(f"a document cannot hold a {type(value).__name__}")
    written: dict[str, object] = {
        f.name: _data(getattr(value, f.name), drawn) for f in fields(value)
    }
    if isinstance(value, Table):
        written["evidence"] = _data(value.evidence, drawn)
        written["sources"] = _data(value.sources, drawn)
    return {"kind": type(value).__name__, **written}


def _cut(table: Table) -> Table:
    told = (
        f"{table.caption} (first {MAX_ROWS:,} of {len(table.rows):,} rows; HTML and JSON have all)"
    )
    return replace(
        table, caption=told, rows=table.rows[:MAX_ROWS], anchors=table.anchors[:MAX_ROWS]
    )


def _shown(text: str, drawn: Drawn, write: Callable[[str], str] = str) -> str:
    """Return `text` with each character that is not `drawn` as its code point, by `write`."""
    return "".join(one if drawn(one) else write(code_point(one)) for one in text)


def _in_every_font(character: str) -> bool:
    """Return whether Typst's own fonts have the character, as far as we know for sure."""
    return ord(character) < 0x250 or character in _ALWAYS_DRAWN
