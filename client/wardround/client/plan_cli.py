"""`wardround-site plan`: what a study plan costs, and what to plan for a given budget.

Exit codes: 0 done; 1 it did not work, the last line says why and what to do; 2 wrong usage.
"""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.client.ledger_cli import (
    DEFAULT_HOME,
    PRICING,
    HomeOption,
    JsonOption,
    forecast_of,
    note,
    number,
    open_ledger,
    read_plan,
    write_json,
)
from wardround.client.ledger_names import delta_note, patients, units
from wardround.privacy.canonical import Json
from wardround.privacy.plan import decimal_text, spelled
from wardround.privacy.planned import PlannedSpend, Suggestion, suggest

app = typer.Typer(no_args_is_help=True, add_completion=False)
out = Console(highlight=False)


@app.command()
def cost(
    plan: Annotated[Path, typer.Argument(help="The study plan, a TOML file.")],
    dataset: Annotated[
        list[str] | None, typer.Option(help="Also: of what is left on this data set of the site.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Say what a plan costs, before anyone agrees to anything."""
    read = read_plan(plan)
    planned = PlannedSpend.of_plan(read)
    forecasts = []
    ledger = open_ledger(home) if dataset else None
    with note.status(PRICING):
        price = planned.cost()
        shared = planned.cost("aggregate") if planned.honest > 1 else None
        within = planned.promised().value <= read.privacy.target_epsilon
        if dataset and ledger:
            forecasts = [forecast_of(home, ledger, planned, name) for name in dataset]
    for one in forecasts:
        if said := delta_note(planned.delta, patients(home, one.dataset)):
            note.print(said)
    if as_json:
        write_json(
            {
                "study": planned.study,
                "rounds": planned.rounds,
                "steps_per_round": planned.steps_per_round,
                "sample_rate": decimal_text(planned.sample_rate),
                "noise_multiplier_of_a_site": decimal_text(planned.sigma),
                "honest_sites_that_share_noise": planned.honest,
                "cost": price.to_json(),
                "cost_with_shared_noise": shared.to_json() if shared else None,
                "target_epsilon": str(read.privacy.target_epsilon),
                "within_target": within,
                "forecasts": [one.to_json() for one in forecasts],
            }
        )
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = (
        ("study", planned.study),
        ("training", _training(planned)),
        ("sampling", f"{price.sampling}, rate {planned.sample_rate} of each {planned.unit}"),
        ("noise", f"sigma {planned.sigma} x clip {read.privacy.clip}, by each site"),
        ("neighbours", f"{planned.relation} one {planned.unit}"),
        ("epsilon", f"[bold]{price.text}[/] at delta {spelled(planned.delta)}, against everyone"),
        ("accountant", f"{price.accountant} ({price.version}), Renyi ceiling {price.ceiling}"),
    )
    for row in rows:
        table.add_row(*row)
    if shared:
        table.add_row(
            "shared noise",
            f"[bold]{shared.text}[/] against coordinator plus "
            f"{plural(read.secure_aggregation.colluders, 'site')} "
            f"({planned.honest} honest ones add noise)",
        )
    table.add_row(
        "plan says",
        f"at most {read.privacy.target_epsilon}: " + ("kept" if within else "[bold]not kept[/]"),
    )
    out.print(table)
    for name, one in zip(dataset or (), forecasts, strict=True):
        out.print(replace(one, dataset=name).sentence)


@app.command("suggest")
def suggest_command(
    epsilon: Annotated[str, typer.Option(help="What the study may cost.")],
    patients: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**9, help="Units at the smallest site; without it, of this site's data."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Those of this data set.")] = None,
    home: HomeOption = DEFAULT_HOME,
    delta: Annotated[str, typer.Option(help="Well under 1 / patients.")] = "1e-5",
    unit: Annotated[str, typer.Option(help="patient or image.")] = "patient",
    relation: Annotated[str, typer.Option(help="add-remove or replace-one.")] = "add-remove",
    steps: Annotated[
        list[int] | None, typer.Option(min=1, help="Noisy steps in all; may be repeated.")
    ] = None,
    passes: Annotated[float, typer.Option(min=0, help="Most uses of each unit.")] = 50.0,
    as_json: JsonOption = False,
) -> None:
    """Propose noise, sample rate and steps for a budget, the best first."""
    target, at = number(epsilon, "--epsilon"), number(delta, "--delta")
    if patients is not None and dataset is not None:
        raise typer.BadParameter("give --patients or --dataset, not both")
    count = units(home, dataset, unit) if patients is None else patients
    with note.status("Looking for the least noise ..."):
        found = suggest(
            target,
            at,
            count,
            unit=unit,
            relation=relation,
            steps=tuple(dict.fromkeys(steps or (50, 100, 200))),
            passes=passes,
        )
    best = found[0]
    if said := delta_note(at, count):
        note.print(said)
    if best.step_error > 1:
        note.print(
            f"With {plural(count, unit)} the noise of a step is larger than the clip: little can "
            "be learnt. More patients or sites help; so does a larger epsilon."
        )
    if as_json:
        write_json([_json(one) for one in found])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("steps", "rate", "batch", "sigma", "epsilon", "noise/step", "noise/run", "uses"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            str(one.steps), str(one.sample_rate), _human(one.batch), f"{one.sigma:.2f}",
            str(one.epsilon), f"{one.step_error:#.3g}", f"{one.run_error:#.3g}", f"{one.passes:g}",
            style="" if one.passes <= passes else "dim",
        )  # fmt: skip
    out.print(
        f"Epsilon {decimal_text(target)} at delta {spelled(at)}, {count} of unit {unit}, {relation}"
    )
    out.print(table)
    out.print(
        "noise/step: standard error of one coordinate of a step's mean gradient, in clips; "
        "noise/run: of the mean over all steps; uses: how often each unit takes part."
    )
    if any(one.passes > passes for one in found):
        out.print(f"Last come those that use each unit more than {passes:g} times (--passes).")
    out.print(
        f"The first: {best.price.sampling} sampling, {best.price.accountant} "
        f"({best.price.version}), Renyi ceiling {best.price.ceiling}."
    )
    out.print("\nFor the plan:\n", end="")
    out.print(
        f'[privacy]\nunit = "{unit}"\nrelation = "{relation}"\n'
        f"noise_multiplier = {best.sigma}\nsample_rate = {best.sample_rate}\n"
        f"target_epsilon = {decimal_text(target)}\ndelta = {spelled(at)}\n"
        f"# and rounds x local_steps = {best.steps} under [training]",
        markup=False,
    )


def plural(count: int, thing: str) -> str:
    """Write a number of things in words for a person."""
    return f"{count} {thing}" + "s" * (count != 1)


def _training(planned: PlannedSpend) -> str:
    steps = plural(planned.steps_per_round, "noisy step")
    return f"{plural(planned.rounds, 'round')} of {steps}"


def _human(batch: float) -> str:
    return f"{batch:.0f}" if batch >= 10 else f"{batch:.2g}"


def _json(one: Suggestion) -> dict[str, Json]:
    return {
        "steps": one.steps,
        "sample_rate": str(one.sample_rate),
        "batch": _short(one.batch),
        "sigma": str(one.sigma),
        **one.price.to_json(),
        "noise_error_per_step_in_clips": _short(one.step_error),
        "noise_error_of_run_in_clips": _short(one.run_error),
        "uses_of_each_unit": _short(one.passes),
    }


def _short(value: float) -> str:
    return f"{Decimal(value):.8f}".rstrip("0").rstrip(".")
