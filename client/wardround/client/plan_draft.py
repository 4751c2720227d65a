"""`wardround-site plan draft`: a plan to start from, with the layout of every tensor filled in."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wardround.client.errors import ConfigInvalid
from wardround.client.ledger_cli import note
from wardround.privacy import commands
from wardround.privacy.model import dimension
from wardround.privacy.plan import StudyPlan

out = Console(highlight=False)

TEMPLATE = """\
# A study plan. The coordinator signs it; a site trains only under a plan whose digest its
# operator has approved. What a plan costs: wardround-site plan cost {file}

[study]
id = "{study}"
title = "{title}"
# What the data are used for, and the reference of the legal basis and of the DPIA.
purpose = "{purpose}"
legal_basis = "{legal_basis}"
dpia = ""

[task]
kind = "{task}"
classes = [{classes}]
input_shape = [{shape}]

[training]
rounds = {rounds}
# "local_steps": so many noisy steps between two sums. "one_step": one, better at small epsilon.
mode = "local_steps"
local_steps = {steps}
optimiser = "{optimiser}"
learning_rate = {rate}
microbatch = 64

[aggregation]
rule = "fedavg"

[privacy]
unit = "patient"
relation = "add-remove"
clip = {clip:g}
noise_multiplier = {noise}
sample_rate = {sample_rate}
target_epsilon = {epsilon}
delta = {delta}
max_images_per_patient = 4
shared_noise = false

[secure_aggregation]
# n sites, c of them may collude with the coordinator: 2 * threshold > n + c.
threshold = {threshold}
colluders = {colluders}
min_cohort = {cohort}
max_weight = 100000
update_clip = {update_clip:g}
# 16: half the bytes. Then max_weight near the patients of the largest site, and update_clip near
# the largest step of one number in a round, or the first sum is coarse.
ring_bits = 32
# true: the sites alone can read sums, metrics and models, the coordinator cannot.
group_mode = false

[evaluation]
min_count = 20

[participants]
sites = [{sites}]

[model]
{converted}name = "{model}"
seed = 1
arguments = {{ {arguments} }}
# Every tensor of the model, as it leaves a site in the sum: {count} numbers in all.
tensors = [
{tensors}
]
"""

CONVERTED = """\
# Its {count} batch norms, which mix the patients of a batch, are group norms here: what one patient
# changes could not be bounded otherwise.
"""


def draft(
    study: Annotated[str, typer.Option(help="The study's id: a-z, 0-9 and inner hyphens.")],
    sites: Annotated[str, typer.Option(help="Participants, separated by commas.")],
    classes: Annotated[str, typer.Option(help="Class names, separated by commas.")],
    output: Annotated[Path, typer.Option(help="The plan to write; it must not exist.")],
    task: Annotated[str, typer.Option(help="Kind of task.")] = "image-classification-2d",
    shape: Annotated[str, typer.Option(help="Input: channels, height, width.")] = "1,32,32",
    model: Annotated[str, typer.Option(help="A model of the catalogue.")] = "convnet",
    widths: Annotated[str, typer.Option(help="The model's widths.")] = "8,16",
    rounds: Annotated[int, typer.Option(help="Training rounds.")] = 6,
    steps: Annotated[int, typer.Option(help="Noisy steps a round.")] = 8,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 0.008,
    noise: Annotated[float, typer.Option(help="Noise multiplier.")] = 3.5,
    sample_rate: Annotated[float, typer.Option(help="Share of patients in a step.")] = 0.5,
    epsilon: Annotated[float, typer.Option(help="The most the study may cost.")] = 4.0,
    delta: Annotated[float, typer.Option(help="Delta of that epsilon.")] = 1e-4,
    colluders: Annotated[int, typer.Option(help="Sites that may collude.")] = 1,
    title: Annotated[str, typer.Option(help="The study's title.")] = "A draft",
    purpose: Annotated[str, typer.Option(help="What the data are used for.")] = "to be written",
    legal_basis: Annotated[str, typer.Option(help="Reference.")] = "to be written",
) -> None:
    """Write a plan to start from; edit it, ask what it costs, then give it to the coordinator."""
    if output.exists():
        raise ConfigInvalid(f"{output} exists already; give another name")
    names, participants = _split(classes), sorted(_split(sites))
    optimiser, clip, update_clip = "adamw", 1.0, 0.5
    if task == "tabular-moments":  # one step of rate 1 over all patients is their mean
        rounds, steps, rate, sample_rate, optimiser = 1, 1, 1.0, 1.0, "sgd"
        # Each of the numbers is in -1..1, so no patient's are cut; the mean is moved by noise.
        clip, update_clip = math.sqrt(max(_numbers(shape))), 4.0
    arguments = f"widths = [{widths}]" if widths else ""
    with note.status("Building the model ..."):
        with commands.loading():
            from wardround.client.tasks import TaskSpec, batch_norms, build
            from wardround.client.trainer import tensor_layout

        spec = TaskSpec(
            kind=task,  # type: ignore[arg-type]  # checked when made
            model=model,
            classes=len(names),
            input_shape=_numbers(shape),
            args={"widths": _numbers(widths)} if widths else {},
        )
        layout, norms = tensor_layout(build(spec)), batch_norms(spec)
    rows = [f'  {{ name = "{tensor.name}", shape = {list(tensor.shape)} }},' for tensor in layout]
    threshold = (len(participants) + colluders) // 2 + 1
    text = TEMPLATE.format(
        file=output.name,
        study=study,
        title=title,
        purpose=purpose,
        legal_basis=legal_basis,
        task=task,
        classes=", ".join(f'"{name}"' for name in names),
        shape=", ".join(map(str, spec.input_shape)),
        rounds=rounds,
        steps=steps,
        rate=rate,
        optimiser=optimiser,
        clip=clip,
        update_clip=update_clip,
        noise=noise,
        sample_rate=sample_rate,
        epsilon=epsilon,
        delta=delta,
        threshold=threshold,
        colluders=colluders,
        cohort=max(3, threshold, colluders + 2),
        sites=", ".join(f'"{name}"' for name in participants),
        converted=CONVERTED.format(count=norms) if norms else "",
        model=model,
        arguments=arguments,
        count=f"{dimension(layout):,}",
        tensors="\n".join(rows),
    )
    plan = StudyPlan.from_toml(text)
    output.write_text(text, encoding="utf-8")
    out.print(f"{output}: a draft of {plan.study.id}, {plan.dimension:,} numbers in the model")
    if norms:
        out.print(f"Its {norms} batch norms become group norms: the first would mix patients")
    out.print(f"Next: wardround-site plan cost {output}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _split(text))
    except ValueError:
        raise ConfigInvalid(f"{text!r} is not a list of whole numbers like 1,32,32") from None
