"""Reports on a run, for people (HTML, PDF) and for machines (JSON)."""

from wardround.privacy.verify.findings import Finding, Verification
from wardround.server.report.build import build_report
from wardround.server.report.model import RunReport
from wardround.server.report.write import write_report

__all__ = ["Finding", "RunReport", "Verification", "build_report", "write_report"]
