"""`wardround-site`: what a hospital's operator types.

Exit codes: 0 done; 1 it did not work, the last line says why and what to do; 2 wrong usage.
Colours are off with NO_COLOR or when the output is not a terminal.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround.client import config
from wardround.client.ledger_cli import app as ledger_app
from wardround.client.plan_cli import app as plan_app
from wardround.client.plan_draft import draft
from wardround.client.report_cli import report
from wardround.client.study_cli import policy_app, study_app
from wardround.datasets.data_cli import app as data_app
from wardround.privacy import commands

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.add_typer(data_app, name="data", help="Data sets: add, list, check, show, deidentify.")
app.add_typer(study_app, name="study", help="Studies: review, approve, refuse; what came of them.")
app.add_typer(policy_app, name="policy", help="What this site admits: show, check.")
plan_app.command()(draft)
app.add_typer(plan_app, name="plan", help="What a plan costs; drafts of plans.")
app.add_typer(ledger_app, name="ledger", help="The privacy budget, spent and left.")
app.command()(report)

out = Console(highlight=False)
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="WARDROUND_SITE_HOME", help="The site's folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DEFAULT_HOME = Path("site")


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The site's name: a-z, 0-9 and inner hyphens.")],
    organisation: Annotated[str, typer.Option(help="Who runs it, as reports show it.")] = "",
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make the site's folder: its keys, site.toml and a policy that admits nothing."""
    site = config.create(home, name, organisation or name)
    out.print(f"Site [bold]{site.name}[/] made in {home}")
    out.print(f"  keys         {site.public_keys().fingerprint()}  (never leave this folder)")
    out.print("  site.toml    name, threads, device")
    out.print("  policy.toml  what this site takes part in: nothing yet")
    out.print("Next: ask the coordinator for a join token, then: wardround-site join TOKEN")


@app.command()
def join(
    token: Annotated[str, typer.Argument(help="The one-time token from the coordinator.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Join a coordinator: pin its keys, hand over this site's public keys."""
    from wardround.client.joining import join as join_coordinator

    joined = join_coordinator(config.load(home), token)
    out.print("Request sent. Compare both fingerprints by phone before the officer approves:")
    out.print(f"  this site    [bold]{joined.site_fingerprint}[/]")
    out.print(f"  coordinator  [bold]{joined.coordinator_fingerprint}[/]  ({joined.url})")
    out.print("Then: wardround-site status")


@app.command()
def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show enrolment, the log's state, studies and runs."""
    from wardround.client.site import Site

    with Site.open(config.load(home)) as site:
        report = site.status()
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} ({state})" for name, state in value.items()) or "none"
        table.add_row(key.replace("_", " "), Text(str(value)))
    out.print(table)


@app.command()
def start(home: HomeOption = DEFAULT_HOME) -> None:
    """Run the site: a supervised SuperNode and the runner of the locally installed app."""
    with commands.loading():
        from wardround.client.service import serve

    serve(config.load(home))


@app.command()
def log(
    home: HomeOption = DEFAULT_HOME,
    last: Annotated[int, typer.Option(help="How many entries to show.")] = 20,
    pin: Annotated[
        Path | None,
        typer.Option(help="Write the newest checkpoint this site cosigned: an auditor's pin."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Write this site's line for an auditor's policy file.")
    ] = None,
    copy: Annotated[
        Path | None,
        typer.Option(help="Write the whole copy, for a coordinator that has lost entries."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show this site's own copy of the log, checked when it came."""
    from wardround.client.site import Site
    from wardround.privacy.log_copy import write_log_copy
    from wardround.privacy.verify import site_line

    with Site.open(config.load(home)) as site:
        if pin is not None:
            pin.write_bytes(site.witness.pin())
            out.print(f"{pin}: the newest checkpoint this site cosigned")
        if key is not None:
            keys = site.home.public_keys()
            line = site_line(site.pins.origin, keys.site, keys.identity, keys.witness)
            key.write_text(line + "\n", encoding="utf-8")
            out.print(f"{key}: this site's keys, for an auditor's policy file")
        if copy is not None:
            held = site.witness.position().mirrored
            write_log_copy(copy, site.home.name, site.witness.pin(), site.witness.entries(0, held))
            out.print(f"{copy}: all {held} entries this site holds, and its pin")
        if pin is not None or key is not None or copy is not None:
            return
        rows = site.log_rows(last)
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row) + "\n")
        return
    table = Table("entry", "time", "kind", "site", "round", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("entry", "time", "kind", "site", "round")))
    out.print(table)


def main() -> None:
    """Run the command line; a person's mistake ends in one line and exit code 1."""
    commands.run(app)
