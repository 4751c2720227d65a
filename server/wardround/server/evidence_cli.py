"""`wardround-coordinator report` and `bundle`: what leaves the coordinator as evidence."""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wardround.privacy.bundle import Bundle
from wardround.privacy.commands import operator
from wardround.privacy.events import Export
from wardround.privacy.federation import RunState
from wardround.privacy.presentation.document import amount
from wardround.privacy.verify import Policy, verify, write_policy
from wardround.server import config
from wardround.server.blobs import BlobStore
from wardround.server.desk import Desk
from wardround.server.errors import StudyError
from wardround.server.evidence import newest_cosigned, write_bundle

out = Console(highlight=False)
HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="WARDROUND_COORDINATOR_HOME", help="The coordinator's folder."),
]
StudyArgument = Annotated[str, typer.Argument(help="The study's id.")]
RunOption = Annotated[str, typer.Option("--run", help="A run's id; the newest when left out.")]
WaitOption = Annotated[
    int, typer.Option(help="Seconds given to the sites to cosign the newest entries.")
]
DEFAULT_HOME = Path("coordinator")


def bundle(
    study: StudyArgument,
    output: Annotated[Path, typer.Option(help="The zip to write; it must not exist.")],
    home: HomeOption = DEFAULT_HOME,
    run: RunOption = "",
    wait: WaitOption = 30,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Also write the keys as this coordinator has them, for wardround-verify. An "
            "auditor takes each site's line from that site."
        ),
    ] = None,
) -> None:
    """Write the evidence of a study's run for an outsider: the log and the masked uploads."""
    with Desk.open(config.load(home)) as desk:
        state = _run(desk, study, run)
        _refuse_existing(output)
        _write_bundle(desk, state, output, wait)
        if policy is not None:
            policy.write_text(_policy(desk, state), encoding="utf-8")
        _log_export(desk, "bundle", "zip", output, state.start.run)
    out.print(f"{output}: the evidence of run {state.start.run}, {amount(output.stat().st_size)}")
    if policy is not None:
        out.print(f"{policy}: keys of log and sites, to compare with the sites' own")
        out.print(f"Check it with: wardround-verify {output} --policy {policy} --replay")


def report(
    study: StudyArgument,
    output: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("report"),
    home: HomeOption = DEFAULT_HOME,
    run: RunOption = "",
    wait: WaitOption = 30,
    pdf: Annotated[bool, typer.Option(help="Also as PDF (needs the extra 'pdf').")] = True,
    pin: Annotated[
        list[Path] | None, typer.Option(help="A checkpoint that a site kept; may be repeated.")
    ] = None,
) -> None:
    """Verify a run's evidence and write its report: HTML, JSON and PDF."""
    from wardround.server.report import build_report, write_report

    with Desk.open(config.load(home)) as desk, tempfile.TemporaryDirectory() as scratch:
        state = _run(desk, study, run)
        path = Path(scratch) / "evidence.zip"
        size = _write_bundle(desk, state, path, wait)
        rules = Policy.from_text(_policy(desk, state))
        with Bundle(path) as opened:
            verification = verify(
                opened, rules, pins=_pins(pin or []), replay=True, recompute_epsilon=True
            )
        made = build_report(desk.log.entries(0, size), verification, state.start.run)
        written = write_report(made, output, ("html", "json", "pdf") if pdf else ("html", "json"))
        for file in written:
            _log_export(desk, "report", file.suffix[1:], file, state.start.run)
    out.print(f"verdict: [bold]{verification.status}[/]")
    for file in written:
        out.print(f"  {file}  {amount(file.stat().st_size)}")


def _run(desk: Desk, study: str, run: str) -> RunState:
    federation = desk.enrolment.federation()
    if run:
        found = federation.runs.get(run)
        runs = [found] if found and found.start.study == study else []
    else:
        runs = list(federation.runs_of(study))
    if not runs:
        raise StudyError(f"the log holds no run {run[:60]!r} of {study[:40]!r}")
    return runs[-1]


def _quorum(state: RunState) -> int:
    """The fewest witnesses with which a split view needs more liars than the plan expects."""
    sites, colluders = len(state.start.participants), state.start.colluders
    return (sites + colluders) // 2 + 1


def _policy(desk: Desk, state: RunState) -> str:
    roster = desk.enrolment.federation().roster(state.start.participants)
    return write_policy(desk.log.origin, desk.log.signer.public_bytes(), roster, _quorum(state))


def _write_bundle(desk: Desk, state: RunState, path: Path, wait: int) -> int:
    """Write the bundle up to the newest checkpoint that enough sites cosigned; its size.

    Sites that are at work cosign every few seconds; up to `wait` seconds are given to them to
    cosign all that the log holds now.
    """
    desk.log.checkpoint()
    target, deadline = desk.log.size(), time.monotonic() + wait
    with out.status("waiting for the sites' cosignatures"):
        while (size := newest_cosigned(desk.engine, _quorum(state)) or 0) < target:
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
    if size < target:
        covered = f"its first {size} entries" if size else "no entry"
        out.print(
            f"Enough sites cosigned {covered} of {target}; the rest is left out. Start them, or "
            "give them time with --wait"
        )
    uploads = BlobStore(desk.home.blobs)
    write_bundle(desk.engine, path, state.start.run, uploads, size or None)
    return size or target


def _log_export(desk: Desk, what: str, form: str, path: Path, run: str) -> None:
    data = path.read_bytes()
    event = Export(what, form, hashlib.sha256(data).hexdigest(), len(data), run, "")
    desk.log.append([event], actor=desk.actor(operator()))


def _pins(paths: list[Path]) -> list[bytes]:
    try:
        return [path.read_bytes() for path in paths]
    except OSError as error:
        raise StudyError(f"cannot read the pin {error.filename}") from None


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise StudyError(f"{path} exists already; give another name")
