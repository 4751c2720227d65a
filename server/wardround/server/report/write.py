"""Writes a run report to a folder, in the formats asked for."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from wardround.privacy.presentation.files import FORMATS, Format, write_document
from wardround.server.report.document import run_document
from wardround.server.report.gaps import gaps
from wardround.server.report.model import RunReport


def write_report(
    report: RunReport, folder: Path, formats: Sequence[Format] = FORMATS
) -> tuple[Path, ...]:
    """Write `report` as `run-report.html`, `.json` and `.pdf` into `folder`; return the paths.

    JSON holds the report's records and, as `gaps`, the contradictions and open points in them.
    Each file is complete or absent. Raises ReportError when a format's library is missing.
    """
    records = {field.name: getattr(report, field.name) for field in fields(report)}
    records["gaps"] = gaps(report)
    return write_document(run_document(report), records, folder, "run-report", formats)
