"""Writes a report's files: HTML and PDF for people, JSON of the records for machines."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from wardround.privacy.presentation.document import Document
from wardround.privacy.presentation.html import render_html
from wardround.privacy.presentation.pdf import render_pdf
from wardround.privacy.presentation.plain import plain

Format: TypeAlias = Literal["html", "json", "pdf"]
FORMATS: tuple[Format, ...] = ("html", "json", "pdf")
JSON_FORMAT = 1


def write_document(
    document: Document, records: object, folder: Path, name: str, formats: Sequence[Format]
) -> tuple[Path, ...]:
    """Write `folder/name.*` in each of `formats` and return the paths.

    `records` is the report's model, for JSON. A file is written beside its place and moved there,
    so a reader never sees half a report. Raises ReportError when a format's library is missing.
    """
    written = {form: _render(document, records, form) for form in dict.fromkeys(formats)}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for form, content in written.items():
        path = folder / f"{name}.{form}"
        partial = path.with_suffix(f".{form}.part")
        partial.write_bytes(content)
        os.replace(partial, path)
        paths.append(path)
    return tuple(paths)


def _render(document: Document, records: object, form: Format) -> bytes:
    if form == "html":
        return render_html(document).encode()
    if form == "pdf":
        return render_pdf(document)
    value = {"format": JSON_FORMAT, "kind": document.kind, "report": plain(records)}
    return (json.dumps(value, indent=2, ensure_ascii=True) + "\n").encode()
