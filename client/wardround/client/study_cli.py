"""`wardround-site study` and `wardround-site policy`: what a site agrees to, and what it admits."""

import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround.client import config, results
from wardround.client.deidentification import deidentification
from wardround.client.errors import ClientError, Refused
from wardround.client.ledger_cli import read_plan
from wardround.client.ledger_names import delta_note
from wardround.client.site import Site
from wardround.privacy.commands import operator
from wardround.privacy.events import Deidentification
from wardround.privacy.model import save_model
from wardround.privacy.plan import StudyPlan
from wardround.privacy.planned import PlannedSpend
from wardround.privacy.presentation.document import amount
from wardround.privacy.run_spec import exchange_rounds

study_app = typer.Typer(no_args_is_help=True)
policy_app = typer.Typer(no_args_is_help=True)
out = Console(highlight=False)
note = Console(stderr=True, highlight=False, soft_wrap=True)
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="WARDROUND_SITE_HOME", help="The site's folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
StudyArgument = Annotated[str, typer.Argument(help="The study's id.")]
DEFAULT_HOME = Path("site")


@study_app.command()
def review(
    study: Annotated[str, typer.Argument(help="The study's id; without it, all are listed.")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show the plan of a study: what it is for, what would leave this site, what it costs."""
    with Site.open(config.load(home)) as site:
        try:
            site.sync()
        except ClientError as error:
            note.print(Text(f"{error}\nWhat follows is from this site's own copy.", style="yellow"))
        if not study:
            _list(site, as_json)
            return
        state, plan = site.study(study)
        digest = state.planned.plan_digest
        if as_json:
            sys.stdout.write(plan.canonical().decode() + "\n")
            return
        show_plan(plan, site.home.name)
        out.print(f"\nplan digest   [bold]{digest}[/]")
        out.print(f"approved here {'yes' if site.approved(digest) else 'no'}")
        try:
            admission, cohort = site.check_plan(plan)
        except Refused as refusal:
            out.print(Text(f"The policy refuses it ({refusal.rule}): {refusal}", style="yellow"))
            return
        patients = len({sample.patient for sample in cohort.samples("train")})
        out.print(f"data set      {admission.data}, {patients} patients to train on")
        if said := delta_note(plan.privacy.delta, patients):
            out.print(Text(said, style="yellow"))
        if cohort.kind != "tabular":
            out.print(f"de-identified {_prepared(deidentification(site.home.folder, cohort))}")
        out.print(f"Next: wardround-site study approve {study}")


@study_app.command()
def approve(
    study: StudyArgument,
    home: HomeOption = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", help="The plan was read; do not ask.")] = False,
) -> None:
    """Agree to the newest plan of a study: policy checked, budget set, statement signed."""
    with Site.open(config.load(home)) as site:
        site.sync()
        state, plan = site.study(study)
        show_plan(plan, site.home.name)
        question = f"Approve plan {state.planned.plan_digest[:12]} for this site?"
        if not yes and not typer.confirm(question):
            raise typer.Exit(1)
        try:
            site.approve(study, _officer(site))
        except Refused as refusal:
            site.refuse(study, refusal.rule, str(refusal))
            site.sync()
            raise
        site.sync()
    out.print(f"Approved: {study}, plan {state.planned.plan_digest[:12]}; it is in the log.")


@study_app.command()
def refuse(
    study: StudyArgument,
    reason: Annotated[str, typer.Option(help="One line for the log; no person's name.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Refuse the newest plan of a study, or take an approval back."""
    with Site.open(config.load(home)) as site:
        site.sync()
        site.refuse(study, "operator", reason)
        site.sync()
    out.print(f"Refused: {study}; it is in the log.")


@study_app.command()
def show(
    study: StudyArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Show how the model of the newest run does, over all sites, as this site knows it."""
    with Site.open(config.load(home)) as site:
        run, plan, rounds = results.of_study(site, study)
    if as_json:
        sys.stdout.write(json.dumps({"run": run, "rounds": [row.to_json() for row in rounds]}))
        sys.stdout.write("\n")
        return
    table = Table("round", "model before it", "samples", "on held-out data", box=None)
    for row in rounds:
        found = ", ".join(f"{name} {value:.4f}" for name, value in row.metrics.items())
        samples = str(row.evaluated) if found else ""
        table.add_row(str(row.round), row.model_digest[:12], samples, found or "(too few)")
    out.print(Text(f"{run}: {len(rounds)} of {exchange_rounds(plan)} sums read"))
    if rounds:
        out.print(table)


@study_app.command()
def model(
    study: StudyArgument,
    output: Annotated[Path, typer.Option(help="The .npz to write; it must not exist.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write the newest run's model: one float32 array a tensor, by name (NumPy .npz)."""
    with Site.open(config.load(home)) as site:
        run, plan, vector = results.model_of_study(site, study)
    if output.exists():
        raise ClientError(f"{output} exists already; give another name")
    save_model(output, plan.model.tensors, vector)
    out.print(f"{output}: {len(plan.model.tensors)} tensors of run {run}", soft_wrap=True)


@policy_app.command("show")
def policy_show(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show what this site admits."""
    from wardround.client import policy

    rules = policy.load(config.load(home).policy)
    if as_json:
        blocks = [
            {
                "task": block.task,
                "data": block.data,
                "epsilon": str(block.epsilon),
                "delta": str(block.delta),
                "unit": block.unit,
                "min_cohort": block.min_cohort,
                "min_patients": block.min_patients,
                "peers": sorted(block.peers),
                "shared_noise": block.shared_noise,
                "require_group_mode": block.require_group_mode,
                "expires": str(block.expires),
            }
            for block in rules.admissions
        ]
        total = {"epsilon": str(rules.total_epsilon), "delta": str(rules.total_delta)}
        sys.stdout.write(json.dumps({"total": total, "admit": blocks}, indent=2) + "\n")
        return
    out.print(f"In total, on one data set: epsilon {rules.total_epsilon} at {rules.total_delta}")
    if not rules.admissions:
        out.print("No study is admitted: policy.toml has no [[admit]] block.", markup=False)
        return
    names = ("task", "data", "epsilon", "unit", "sites", "sum read by", "expires")
    table = Table(*names, box=None, pad_edge=False)
    for block in rules.admissions:
        table.add_row(
            block.task,
            block.data,
            str(block.epsilon),
            block.unit,
            f"{block.min_cohort}+ of {', '.join(sorted(block.peers))}",
            "sites" if block.require_group_mode else "coordinator",
            str(block.expires),
        )
    out.print(table)


@policy_app.command("check")
def policy_check(
    plan_file: Annotated[Path, typer.Argument(help="A study plan, study.toml.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Say whether the policy admits a plan, before anyone signs anything. Exit code 1: refused."""
    from wardround.client import policy

    plan = read_plan(plan_file)
    try:
        block = policy.load(config.load(home).policy).admit(plan)
    except Refused as refusal:
        out.print(Text(f"refused by the rule {refusal.rule}: {refusal}"))
        raise typer.Exit(1) from None
    out.print(f"admitted, on the data set {block.data}")


def show_plan(plan: StudyPlan, site: str) -> None:
    """Print what a plan asks of this site, and what will leave it."""
    privacy, secagg = plan.privacy, plan.secure_aggregation
    planned = PlannedSpend.of_plan(plan)
    cost, shared = planned.promised(), planned.honest > 1
    width = secagg.ring_bits // 8
    size = plan.dimension * width
    peers = [name for name in plan.participants.sites if name != site]
    lines = (
        ("study", f"{plan.study.id}: {plan.study.title}"),
        ("purpose", plan.study.purpose),
        ("legal basis", plan.study.legal_basis),
        ("task", f"{plan.task.kind}: {', '.join(plan.task.classes)}"),
        ("model", f"{plan.model.name}, {len(plan.model.tensors)} tensors"),
        ("with", f"{', '.join(peers)}; a sum opens over {secagg.min_cohort} sites or more"),
        ("training", f"{plan.training.rounds} rounds of {plan.steps_per_round} noisy steps"),
        (
            "privacy",
            f"epsilon {cost.text} of at most {privacy.target_epsilon} at delta {privacy.delta}, "
            f"unit {privacy.unit}, {privacy.relation}" + ", against who sees only the sum" * shared,
        ),
        *(
            [("unmasked", f"epsilon {planned.cost().text} against who sees this site's own update")]
            if shared
            else []
        ),
        ("sum read by", "the sites alone (group mode)" if secagg.group_mode else "the coordinator"),
        (
            "leaves",
            f"each round one masked vector of {plan.dimension:,} numbers ({amount(size)}), "
            "held-out counts inside it, and signed statements",
        ),
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, Text(text))
    out.print(table)


def _list(site: Site, as_json: bool) -> None:
    rows = [
        (name, state.planned.title, site.approved(state.planned.plan_digest))
        for name, state in sorted(site.federation().studies.items())
        if site.home.name in state.planned.participants
    ]
    if as_json:
        value = [{"study": n, "title": t, "approved": a} for n, t, a in rows]
        sys.stdout.write(json.dumps(value) + "\n")
        return
    if not rows:
        raise ClientError("no study names this site yet")
    table = Table("study", "title", "approved here", box=None, pad_edge=False)
    for name, title, approved in rows:
        table.add_row(name, Text(title), "yes" if approved else "no")
    out.print(table)


def _officer(site: Site) -> str:
    """Return a random-looking id of the person at the keyboard: keyed, so no name is in the log."""
    key = site.home.data_key()
    digest = hmac.new(key, b"officer\0" + operator().encode(), hashlib.sha256)
    return f"officer-{digest.hexdigest()[:12]}"


def _prepared(stated: Deidentification | None) -> str:
    if stated is None:
        return "no statement: the images are not those of one run of `data deidentify`"
    counts = {count.name: count.value for count in stated.counts}
    return (
        f"{counts['files_written']} of {counts['files_seen']} files written, "
        f"{counts['quarantined']} set aside; signed and logged with the approval"
    )
