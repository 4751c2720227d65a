"""Writes a document as one self-contained, accessible HTML file.

No script, no network, no external file: the page's own content security policy forbids all of
them, and names its one style sheet by hash. Every value passes Jinja2's autoescape.
"""

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from wardround.privacy.errors import ReportError
from wardround.privacy.presentation import svg
from wardround.privacy.presentation.charts import Chart
from wardround.privacy.presentation.document import Document

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render_html(document: Document) -> str:
    """Return `document` as an HTML page. Raises ReportError where jinja2 is not installed."""
    style = (TEMPLATES / "document.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("document.html.jinja")
        .render(
            document=document,
            style=style,
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'",
            meaning=dict(document.legend),
            draw=_Drawing(count(1)),
            number=count(1),
            next=next,
        )
    )


@cache
def _environment() -> "Environment":
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError:
        raise ReportError(
            "HTML reports need jinja2: pip install 'wardround[coordinator]' or 'wardround[site]'"
        ) from None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["kind"] = lambda value, name: type(value).__name__ == name
    return environment


class _Drawing:
    """Draws the charts of a page, each with ids of its own."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers

    def __call__(self, chart: Chart) -> str:
        return svg.draw(chart, svg.PAGE, f"chart-{next(self._numbers)}")
