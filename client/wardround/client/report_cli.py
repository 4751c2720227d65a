"""`wardround-site report`: a site's own account of a period, from what it keeps itself.

Exit codes: 0 done; 1 it did not work, the last line says why and what to do; 2 wrong usage.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wardround.client import config
from wardround.client.errors import ClientError

out = Console(highlight=False)
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="WARDROUND_SITE_HOME", help="The site's folder.")
]
DEFAULT_HOME = Path("site")


def report(
    first: Annotated[str, typer.Option("--from", help="First day, in UTC, as 2026-01-31.")],
    last: Annotated[str, typer.Option("--to", help="Last day, counted in, as 2026-12-31.")],
    output: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("report"),
    home: HomeOption = DEFAULT_HOME,
    pdf: Annotated[bool, typer.Option(help="Also as PDF (needs the extra 'pdf').")] = True,
) -> None:
    """Write what this site sent, decided and spent in a period: HTML, JSON and PDF.

    It is made from the site's own statements, ledger and copy of the log; nothing is asked of the
    coordinator.
    """
    from wardround.client.ledger import Ledger
    from wardround.client.site import open_witness
    from wardround.client.site_report import build_site_report, write_site_report
    from wardround.client.site_report.document import site_document

    start, end = _midnight(first), _midnight(last) + timedelta(days=1)
    site = config.load(home)
    with open_witness(site, site.pins()) as witness:
        made = build_site_report(witness, Ledger(witness.engine), start, end)
    try:
        written = write_site_report(
            made, output, ("html", "json", "pdf") if pdf else ("html", "json")
        )
    except OSError as error:
        raise ClientError(f"cannot write to {output}: {error.strerror}") from None
    out.print(f"verdict: [bold]{site_document(made).verdict.label}[/]")
    for file in written:
        out.print(f"  {file}", soft_wrap=True)


def _midnight(day: str) -> datetime:
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ClientError(f"{day!r} is no day; write it as 2026-01-31") from None
