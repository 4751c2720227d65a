"""Writes a run report to a folder, in the formats asked for."""

from collections.abc import Sequence
from pathlib import Path

from wardround.privacy.presentation.files import FORMATS, Format, write_document
from wardround.server.report.document import run_document
from wardround.server.report.model import RunReport


def write_report(
    report: RunReport, folder: Path, formats: Sequence[Format] = FORMATS
) -> tuple[Path, ...]:
    """Write `report` as `run-report.html`, `.json` and `.pdf` into `folder`; return the paths.

    Each file is complete or absent. Raises ReportError when a format's library is missing.
    """
    return write_document(run_document(report), report, folder, "run-report", formats)
