"""Turns a report's document into HTML and PDF, for the coordinator and for a site alike.

The base install can import this package; rendering needs `jinja2` (HTML) and `typst` (PDF), which
are imported only when a page is written.
"""

from wardround.privacy.presentation.html import render_html
from wardround.privacy.presentation.pdf import render_pdf
from wardround.privacy.presentation.plain import plain

__all__ = ["plain", "render_html", "render_pdf"]
