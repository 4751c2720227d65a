"""`wardround-coordinator study`: create, show, list, start, watch, stop; the model at the end."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround.privacy.commands import operator
from wardround.privacy.errors import PlanInvalid
from wardround.privacy.federation import StudyState
from wardround.privacy.model import save_model
from wardround.privacy.plan import StudyPlan
from wardround.server import config
from wardround.server.blobs import BlobStore
from wardround.server.desk import Desk
from wardround.server.errors import StudyError
from wardround.server.watching import Watch

app = typer.Typer(no_args_is_help=True)
out = Console(highlight=False)
HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="WARDROUND_COORDINATOR_HOME", help="The coordinator's folder."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
StudyArgument = Annotated[str, typer.Argument(help="The study's id.")]
DEFAULT_HOME = Path("coordinator")
WATCH_SECONDS = 0.5


@app.command()
def create(
    plan_file: Annotated[Path, typer.Argument(help="The plan, study.toml.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Check a plan, sign it and put it before its sites."""
    try:
        plan = StudyPlan.from_toml(plan_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise PlanInvalid(f"cannot read {plan_file}; give the plan's TOML file") from None
    with Desk.open(config.load(home)) as desk:
        desk.studies.create(plan, desk.signer, desk.actor(operator()))
    out.print(f"Study {plan.study.id} is put before {', '.join(plan.participants.sites)}")
    out.print(f"  plan digest  [bold]{plan.digest()}[/]")
    out.print(f"Next, at each site: wardround-site study review {plan.study.id}")


@app.command()
def show(
    study: StudyArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Show a study's plan and who has agreed to it."""
    with Desk.open(config.load(home)) as desk:
        state = desk.studies.get(study)
    planned = state.planned
    if as_json:
        sys.stdout.write(planned.plan + "\n")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("study", f"{planned.study}: {planned.title}"),
        ("purpose", planned.purpose),
        ("legal basis", planned.legal_basis),
        ("plan digest", planned.plan_digest),
        ("task", f"{planned.task} with {planned.model}"),
        ("rounds", f"{planned.rounds} ({planned.mode})"),
        ("privacy", f"epsilon {planned.target_epsilon} at {planned.delta}, per {planned.unit}"),
        ("sum", f"over {planned.min_cohort} sites or more, {planned.colluders} may collude"),
        ("who reads it", "the sites alone" if _hidden(state) else "the coordinator"),
        ("approved", ", ".join(sorted(state.approved)) or "nobody yet"),
        ("refused", ", ".join(sorted(state.refused)) or "nobody"),
    ):
        table.add_row(name, Text(value))
    out.print(table)


@app.command("list")
def list_studies(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List studies with their approvals and newest run."""
    with Desk.open(config.load(home)) as desk:
        rows = desk.studies.rows()
    if as_json:
        for row in rows:
            value = {name: getattr(row, name) for name in row.__slots__}
            sys.stdout.write(json.dumps(value) + "\n")
        return
    if not rows:
        out.print("No study yet: wardround-coordinator study create study.toml")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("study", "approved", "run", "status", "round"):
        table.add_column(name, overflow="fold")  # an id that is cut short is of no use
    for row in rows:
        approved = f"{len(row.approved)} of {len(row.participants)}"
        table.add_row(row.study, approved, row.run, row.status, f"{row.round} of {row.rounds}")
    out.print(table)


@app.command()
def start(study: StudyArgument, home: HomeOption = DEFAULT_HOME) -> None:
    """Start a run of a study that every one of its sites has approved."""
    with Desk.open(config.load(home)) as desk:
        run = desk.studies.start(study)
    out.print(f"Run {run} was asked for; `serve` begins it. See: study watch {study}")


@app.command()
def stop(study: StudyArgument, home: HomeOption = DEFAULT_HOME) -> None:
    """Stop the run of a study after its present exchange."""
    with Desk.open(config.load(home)) as desk:
        run = desk.studies.stop(study)
    out.print(f"Run {run} stops after its present exchange.")


@app.command()
def status(
    study: StudyArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Say how far the newest run of a study is."""
    with Desk.open(config.load(home)) as desk:
        run = desk.studies.newest_run(study)
    if run is None:
        raise StudyError(f"{study[:40]!r} has no run; start one: study start {study[:40]}")
    value = {
        "run": run.run,
        "status": run.status,
        "stage": run.stage,
        "round": run.round,
        "attempt": run.attempt,
        "note": run.note,
    }
    if as_json:
        sys.stdout.write(json.dumps(value) + "\n")
    else:
        out.print(Text(f"{run.run}: {run.status}, round {run.round} done. {run.note}"))


@app.command()
def watch(study: StudyArgument, home: HomeOption = DEFAULT_HOME) -> None:
    """Follow a run to its end, a line for each round. Exit code 1 when it does not complete."""
    with Desk.open(config.load(home)) as desk:
        run = desk.studies.newest_run(study)
        if run is None:
            raise StudyError(f"{study[:40]!r} has no run; start one: study start {study[:40]}")
        following = Watch(desk, run.run)
        out.print(following.header())
        with out.status("waiting for the coordinator to begin") as spinner:
            while True:
                for line in following.lines():
                    out.print(line)
                spinner.update(following.doing())
                run = desk.studies.run(run.run)
                if run.status in ("completed", "stopped", "failed"):
                    break
                time.sleep(WATCH_SECONDS)
        for line in following.lines():
            out.print(line)
    out.print(Text.assemble((run.status, "bold"), f"  {run.note}"))
    if run.status != "completed":
        raise typer.Exit(1)


@app.command()
def model(
    study: StudyArgument,
    output: Annotated[Path, typer.Option(help="The .npz to write; it must not exist.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write the newest run's model: one float32 array a tensor, by name (NumPy .npz)."""
    with Desk.open(config.load(home)) as desk:
        run = desk.studies.newest_run(study)
        if run is not None and _hidden(desk.studies.get(study)):
            raise StudyError(
                f"the models of {study[:40]} are hidden from the coordinator (group mode); "
                f"at a site: wardround-site study model {study[:40]} --output FILE"
            )
        if run is None or not run.model:
            raise StudyError(f"no run of {study[:40]!r} has a model yet")
        if output.exists():
            raise StudyError(f"{output} exists already; give another name")
        plan = desk.studies.get(study).signed_plan.open(desk.signer.public_bytes())
        data = BlobStore(desk.home.models).get(run.model)
    vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
    save_model(output, plan.model.tensors, vector)
    out.print(f"{output}: {len(plan.model.tensors)} tensors after round {run.round}")


def _hidden(state: StudyState) -> bool:
    """Whether the study's newest plan is in group mode."""
    plan = StudyPlan.from_canonical(state.planned.plan.encode("ascii"))
    return plan.secure_aggregation.group_mode
