"""Writes a site's report to a folder, in the formats asked for."""

from collections.abc import Sequence
from pathlib import Path

from wardround.client.site_report.document import site_document
from wardround.client.site_report.model import SiteReport
from wardround.privacy.presentation.files import FORMATS, Format, write_document


def write_site_report(
    report: SiteReport, folder: Path, formats: Sequence[Format] = FORMATS
) -> tuple[Path, ...]:
    """Write `report` as `site-report.html`, `.json` and `.pdf` into `folder`; return the paths.

    Each file is complete or absent. Raises ReportError when a format's library is missing.
    """
    return write_document(site_document(report), report, folder, "site-report", formats)
