"""`wardround-coordinator`: what the operator of a coordinator types.

Exit codes: 0 done; 1 it did not work, the last line says why and what to do; 2 wrong usage.
Colours are off with NO_COLOR or when the output is not a terminal.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround.privacy import commands
from wardround.privacy.identity import FileSigner
from wardround.privacy.joining import coordinator_fingerprint
from wardround.server import config, guard
from wardround.server.certificates import certificate_fingerprint
from wardround.server.desk import Desk
from wardround.server.errors import ServerError
from wardround.server.evidence_cli import bundle, report
from wardround.server.export_cli import export
from wardround.server.recover_cli import recover
from wardround.server.study_cli import app as study_app

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.add_typer(study_app, name="study", help="Studies: create, show, list, start, watch, stop.")
app.command()(report)
app.command()(bundle)
app.command()(recover)
app.command()(export)

out = Console(highlight=False)
HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="WARDROUND_COORDINATOR_HOME", help="The coordinator's folder."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DEFAULT_HOME = Path("coordinator")


@app.command()
def init(
    host: Annotated[str, typer.Option(help="Name or address under which sites reach it.")],
    origin: Annotated[str, typer.Option(help="The log's name, for ever.")] = "",
    bind: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Public port (TLS).")] = 9443,
    internal_port: Annotated[int, typer.Option(help="Port on loopback.")] = 9440,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make the coordinator's folder: authority, certificate, keys, database, config.toml."""
    made = config.create(
        home,
        origin=origin or f"{host}/wardround",
        host=host,
        bind=bind,
        port=port,
        internal_port=internal_port,
    )
    with Desk.open(made):
        pass  # makes the database and the log's first entry
    out.print(f"Coordinator made in {home}, for sites at {made.url}")
    out.print(f"  fingerprint  [bold]{_fingerprint(made)}[/]  (read it to sites by phone)")
    out.print("  config.toml  every setting, with what it does")
    out.print("Next: wardround-coordinator serve")


@app.command()
def serve(home: HomeOption = DEFAULT_HOME) -> None:
    """Run the coordinator until Ctrl-C."""
    from wardround.server.service import serve as run_service

    made = config.load(home)
    out.print(f"Serving sites at {made.url}; stop with Ctrl-C")
    run_service(made)


@app.command()
def status(
    home: HomeOption = DEFAULT_HOME,
    wait: Annotated[int, typer.Option(help="Wait so many seconds until it serves.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say whether the coordinator serves, and how long its log is."""
    made = config.load(home)
    deadline = time.monotonic() + wait
    while not (serving := _serves(made)) and time.monotonic() < deadline:
        time.sleep(0.2)
    with Desk.open(made) as desk:
        state = {"url": made.url, "serving": serving, "log_entries": desk.log.size()}
    if as_json:
        sys.stdout.write(json.dumps(state) + "\n")
    else:
        word = "serving" if serving else "not serving; start it with: wardround-coordinator serve"
        out.print(f"{made.url}  {word}, {state['log_entries']} log entries")
    if not serving:
        raise typer.Exit(1)


@app.command()
def enrol(
    site: Annotated[str, typer.Argument(help="The site's name: a-z, 0-9 and inner hyphens.")],
    home: HomeOption = DEFAULT_HOME,
    token_only: Annotated[bool, typer.Option(help="Print the token and nothing else.")] = False,
) -> None:
    """Make a one-time join token for a site, valid for a day."""
    made = config.load(home)
    with Desk.open(made) as desk:
        token = desk.enrolment.offer(
            site,
            url=made.url,
            origin=made.origin,
            ca=certificate_fingerprint(made.ca_certificate.read_bytes()),
            log_public=desk.log.signer.public_bytes(),
            coordinator=desk.signer.public_bytes(),
        )
    sys.stdout.write(token.to_text() + "\n")
    if not token_only:
        out.print(f"\nHand this token to {site} by a channel you trust. It works once, for a day.")
        out.print(f"Your fingerprint, to compare by phone: [bold]{token.fingerprint()}[/]")


@app.command()
def approve(
    site: Annotated[str, typer.Argument(help="The site that waits.")],
    home: HomeOption = DEFAULT_HOME,
    yes: Annotated[
        bool, typer.Option("--yes", help="The fingerprints were compared; do not ask.")
    ] = False,
) -> None:
    """Enrol a site that waits, after its fingerprint was compared by phone."""
    with Desk.open(config.load(home)) as desk:
        waiting = desk.enrolment.pending(site)
        out.print(f"{site} ({waiting.organisation}) shows  [bold]{waiting.fingerprint}[/]")
        if not yes and not typer.confirm("Did the site read you this fingerprint by phone?"):
            raise typer.Exit(1)
        desk.enrolment.approve(site, desk.actor(commands.operator()))
    out.print(f"{site} is enrolled and in the log.")


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site whose keys become void.")],
    reason: Annotated[str, typer.Option(help="One line for the log; no person's name.")],
    home: HomeOption = DEFAULT_HOME,
    compromised_since: Annotated[
        str, typer.Option(help="Day since when its keys may be in other hands: 2026-05-31.")
    ] = "",
) -> None:
    """Make a site's keys void, at its next request."""
    from datetime import UTC, datetime

    since = 0
    if compromised_since:
        try:
            day = datetime.strptime(compromised_since, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise ServerError(f"{compromised_since!r} is not a day like 2026-05-31") from None
        since = int(day.timestamp() * 1000)
    with Desk.open(config.load(home)) as desk:
        desk.enrolment.revoke(site, reason, desk.actor(commands.operator()), since)
    out.print(f"The keys of {site} are void from its next request on.")


@app.command()
def sites(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List sites: enrolled, waiting, revoked."""
    with Desk.open(config.load(home)) as desk:
        rows = desk.enrolment.rows()
    if as_json:
        for row in rows:
            value = asdict(row) | {"fingerprint": row.fingerprint}
            value.pop("keys")
            sys.stdout.write(json.dumps(value) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("site", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("organisation", overflow="fold")
    table.add_column("fingerprint", no_wrap=True)  # to be read out: never cut short
    for row in rows:
        table.add_row(row.site, row.status, Text(row.organisation), row.fingerprint)
    out.print(table if rows else "No site yet. Make a token: wardround-coordinator enrol NAME")


def _serves(home: config.Home) -> bool:
    """Whether the public listener answers and shows this coordinator's certificate."""
    import ssl

    import httpx

    context = ssl.create_default_context(cafile=str(home.ca_certificate))
    with httpx.Client(verify=context, timeout=5.0, trust_env=False) as client:
        try:
            return client.get(f"{home.url}/wardround/v1/ca").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def _fingerprint(home: config.Home) -> str:
    return coordinator_fingerprint(
        certificate_fingerprint(home.ca_certificate.read_bytes()),
        FileSigner.load(home.log_key).public_bytes(),
        FileSigner.load(home.coordinator_key).public_bytes(),
    )


def main() -> None:
    """Run the command line; a person's mistake ends in one line and exit code 1."""
    guard.install()
    commands.run(app)
