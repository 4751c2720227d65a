"""A run report as a document: verdict first, details after, the law and the entries last."""

from datetime import UTC, datetime

from wardround.privacy.presentation.document import Document, cell
from wardround.server.report.exchange_section import exchange_section
from wardround.server.report.gaps import gaps
from wardround.server.report.model import RunReport
from wardround.server.report.privacy_section import privacy_section
from wardround.server.report.provisions import provisions_section
from wardround.server.report.record_section import (
    access_section,
    data_section,
    entries_section,
    findings_section,
    limits_section,
    model_section,
)
from wardround.server.report.study_section import approval_section, sites_section, summary
from wardround.server.report.verdict import answers, verdict


def run_document(report: RunReport) -> Document:
    """Return the document of a run report, ready for `presentation`."""
    open_points = gaps(report)
    sections = (
        approval_section(report),
        exchange_section(report),
        sites_section(report),
        privacy_section(report),
        data_section(report),
        model_section(report),
        access_section(report),
        findings_section(report, open_points),
        limits_section(report),
    )
    entries = entries_section(report)
    headings = {section.id: section.heading for section in (*sections, entries)}
    newest = report.verification.time_ms or report.log.last_ms.value
    return Document(
        kind="Run report",
        title=cell(report.plan.title),
        subtitle=("Run ", cell(report.run), ": ", summary(report)),
        at=datetime.fromtimestamp(newest // 1000, UTC),
        verdict=verdict(report, open_points),
        answers=answers(report, open_points),
        sections=(*sections, provisions_section(headings), entries),
        entries=frozenset(entry.index for entry in report.entries),
    )
