"""A site's own report over a period, from its copy of the log, its statements and its ledger."""

from wardround.client.site_report.build import build_site_report
from wardround.client.site_report.model import SiteReport
from wardround.client.site_report.write import write_site_report

__all__ = ["SiteReport", "build_site_report", "write_site_report"]
