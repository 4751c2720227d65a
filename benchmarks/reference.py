"""Accuracy on real data: what privacy costs, for both ways to train, beside pooled and alone.

    python benchmarks/reference.py [--only mednist|heart] [--seeds 3] [--table]

Every cell (data, way, epsilon, learning rate, seed) is computed once and kept in .reference/runs;
a second call goes on where the first was stopped. The learning rate of a cell is the one with the
best validation accuracy (at the first seed, or the mean of three for the small tables), and only
its test accuracy is reported. Results go to
.reference/results.json, the table to .reference/utility.md, the plot to .reference/utility.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np
import torch
from reference_data import Part, Sites, heart_disease, joined, mednist
from reference_federation import Federation
from results import record
from torch import nn

from wardround.client.tasks import TaskSpec, arrays, build, layout, load_arrays, per_sample_loss
from wardround.client.training import (
    TensorData,
    TrainingSettings,
    evaluate,
    train_plain,
    train_round,
)
from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.model import TensorLayout, flatten, unflatten

FOLDER = Path(__file__).resolve().parent.parent / ".reference"
EPSILONS = ("1", "8", "0.5", "3", "none")
WAYS = ("one step a round", "local steps", "pooled", "one site alone")
CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Experiment:
    """A data set, its model, and how long it trains. `steps` noisy steps in all, in `rounds`."""

    name: str
    task: TaskSpec
    load: Callable[[int], Sites]
    delta: str
    sample_rate: float
    steps: int
    rounds: int
    special_rates: dict[str, tuple[float, ...]]
    usual_rates: tuple[float, ...]
    epsilons: tuple[str, ...]
    goals: dict[str, float]
    tuning_seeds: int = 1

    def rates(self, way: str) -> tuple[float, ...]:
        """The learning rates that a way to train chooses from."""
        return self.special_rates.get(way, self.usual_rates)


EXPERIMENTS = {
    "mednist": Experiment(
        "mednist",
        TaskSpec(
            "image-classification-2d",
            "convnet",
            6,
            (1, 32, 32),
            {"widths": (16, 32), "strided": 1, "grid": 4},
        ),
        cache(lambda seed: mednist()),
        "1e-5",
        0.05,
        60,
        12,
        {"local steps": (0.002, 0.004)},
        (0.004, 0.01),
        EPSILONS,
        {"1": 0.96, "8": 0.975},
    ),
    "heart": Experiment(
        "heart",
        TaskSpec("tabular", "perceptron", 2, (13,)),
        cache(lambda seed: heart_disease()),
        "1e-3",
        0.25,
        60,
        15,
        {},
        (0.01, 0.03, 0.1),
        ("1", "8", "none"),
        {"1": 0.71},
        tuning_seeds=3,
    ),
}


@cache
def noise_multiplier(target: str, rate: float, steps: int, delta: str) -> float:
    """The smallest sigma, to 1%, whose `steps` steps cost at most epsilon `target` at `delta`."""
    low, high = 0.3, 200.0
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        event = PrivacyEvent.gaussian(
            round(middle, 4), rate, steps, unit="patient", relation="add-remove"
        )
        if epsilon([event], Decimal(delta)).value <= Decimal(target):
            high = middle
        else:
            low = middle
    return round(high, 4)


def settings(e: Experiment, target: str, lr: float, steps: int, mode: str) -> TrainingSettings:
    """The settings of one round; the noise is that of all steps of the experiment together."""
    return TrainingSettings(
        clip=CLIP,
        sigma=noise_multiplier(target, e.sample_rate, e.steps, e.delta),
        sample_rate=e.sample_rate,
        steps=steps,
        lr=lr,
        microbatch=256,
        mode=mode,  # type: ignore[arg-type] # one of two words
    )


def data_of(part: Part) -> TensorData:
    """Every sample is a patient of its own: neither data set names patients."""
    return TensorData(part.inputs, part.targets)


def single(e: Experiment, model: nn.Module, part: Part, target: str, lr: float, seed: int) -> None:
    """Train at one place, with all its steps in one round."""
    loss = per_sample_loss(e.task)
    if target == "none":
        batch = max(1, round(len(part) * e.sample_rate))
        train_plain(model, data_of(part), loss, steps=e.steps, batch=batch, lr=lr, seed=seed)
    else:
        train_round(model, data_of(part), settings(e, target, lr, e.steps, "local_steps"), loss)


def federated(
    e: Experiment, model: nn.Module, sites: Sites, target: str, lr: float, mode: str
) -> None:
    """Train among the sites, every round through the secure sum."""
    shapes = tuple(TensorLayout(name, shape) for name, shape, _ in layout(model))
    rounds = e.rounds if mode == "local_steps" else e.steps
    most = max(len(part) for part in sites.train.values())
    federation = Federation(
        tuple(sites.train), shapes, rounds=rounds, clip=4.0, max_weight=2 * most
    )
    vector = nn.Parameter(torch.from_numpy(flatten(shapes, arrays(model))))
    outer = torch.optim.Adam([vector], lr=lr)
    loss = per_sample_loss(e.task)
    for _ in range(rounds):
        start = vector.detach().numpy().copy()
        updates, weights = {}, {}
        for name, part in sites.train.items():
            load_arrays(model, unflatten(shapes, start))
            if target == "none":
                change = without_noise(e, model, part, lr, rounds, mode)
            else:
                change = train_round(
                    model, data_of(part), settings(e, target, lr, e.steps // rounds, mode), loss
                ).update
            updates[name], weights[name] = flatten(shapes, change), len(part)
        mean = torch.from_numpy(federation.aggregate(updates, weights).mean)
        if mode == "local_steps":
            vector.data += mean
        else:
            vector.grad = mean
            outer.step()
    load_arrays(model, unflatten(shapes, vector.detach().numpy()))


def without_noise(
    e: Experiment, model: nn.Module, part: Part, lr: float, rounds: int, mode: str
) -> dict[str, np.ndarray]:
    """A site's round without privacy, for comparison."""
    loss, before = per_sample_loss(e.task), arrays(model)
    batch = max(1, round(len(part) * e.sample_rate))
    seed = int.from_bytes(np.random.default_rng().bytes(4), "big")
    if mode == "local_steps":
        steps = e.steps // rounds
        train_plain(model, data_of(part), loss, steps=steps, batch=batch, lr=lr, seed=seed)
        return {name: after - before[name] for name, after in arrays(model).items()}
    # One step of plain gradient descent with rate 1 moves the model by minus the gradient.
    train_plain(
        model, data_of(part), loss, steps=1, batch=batch, lr=1.0, optimiser="sgd", seed=seed
    )
    return {name: before[name] - after for name, after in arrays(model).items()}


def accuracy(model: nn.Module, parts: dict[str, Part], task: TaskSpec) -> float:
    """Mean over the parts (the centres) of their accuracy."""
    scores = []
    for part in parts.values():
        counts = evaluate(model, data_of(part), task)
        scores.append(counts["correct"] / counts["evaluated"])
    return statistics.mean(scores)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run, kept in a file."""

    experiment: str
    way: str
    target: str
    lr: float
    seed: int

    @property
    def path(self) -> Path:
        """Where the outcome lies."""
        words = (self.experiment, self.way.replace(" ", "-"), self.target, self.lr, self.seed)
        return FOLDER / "runs" / ("_".join(map(str, words)) + ".json")

    def outcome(self) -> dict[str, float]:
        """Validation and test accuracy; computed if it is not there yet."""
        if self.path.is_file():
            known: dict[str, float] = json.loads(self.path.read_text())
            return known
        found = run(self)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(found))
        print(f"{self.path.stem}: {found}", file=sys.stderr, flush=True)
        return found


def run(cell: Cell) -> dict[str, float]:
    """Train one model (or one for each site, if alone) and evaluate it."""
    e = EXPERIMENTS[cell.experiment]
    sites = e.load(cell.seed)
    validation, test = [], []
    places = list(sites.train.values()) if cell.way == "one site alone" else [None]
    for place in places:
        torch.manual_seed(cell.seed)
        model = build(e.task)
        if place is not None:
            single(e, model, place, cell.target, cell.lr, cell.seed)
        elif cell.way == "pooled":
            single(e, model, joined(list(sites.train.values())), cell.target, cell.lr, cell.seed)
        else:
            mode = "local_steps" if cell.way == "local steps" else "one_step"
            federated(e, model, sites, cell.target, cell.lr, mode)
        validation.append(accuracy(model, sites.validation, e.task))
        test.append(accuracy(model, sites.test, e.task))
    return {"validation": statistics.mean(validation), "test": statistics.mean(test)}


@dataclass(frozen=True, slots=True)
class Score:
    """Mean and sample standard deviation over the seeds, at the learning rate chosen."""

    mean: float
    spread: float
    lr: float
    seeds: int


def score(e: Experiment, way: str, target: str, seeds: int) -> Score:
    """Choose the learning rate on validation data, then take all seeds' test accuracy."""
    tuned = {
        lr: statistics.mean(
            Cell(e.name, way, target, lr, seed).outcome()["validation"]
            for seed in range(e.tuning_seeds)
        )
        for lr in e.rates(way)
    }
    lr = max(tuned, key=lambda rate: tuned[rate])
    found = [Cell(e.name, way, target, lr, seed).outcome()["test"] for seed in range(seeds)]
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return Score(statistics.mean(found), spread, lr, len(found))


def table(name: str, scores: dict[tuple[str, str], Score]) -> str:
    """A Markdown table: ways down, epsilons across."""
    e = EXPERIMENTS[name]
    across = sorted(e.epsilons, key=lambda t: float("inf") if t == "none" else float(t))
    lines = [f"| {name}, epsilon | " + " | ".join(across) + " |", "|---" * (len(across) + 1) + "|"]
    for way in WAYS:
        cells = [scores.get((way, target)) for target in across]
        shown = ["" if s is None else f"{100 * s.mean:.1f} ± {100 * s.spread:.1f}" for s in cells]
        lines.append(f"| {way} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def plot(scores: dict[tuple[str, str], Score], path: Path) -> None:
    """The MedNIST curve of accuracy over epsilon, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    across = sorted(EPSILONS, key=lambda t: float("inf") if t == "none" else float(t))
    for way in WAYS:
        known = [(i, scores[way, t]) for i, t in enumerate(across) if (way, t) in scores]
        axes.errorbar(
            [i for i, _ in known],
            [100 * s.mean for _, s in known],
            [100 * s.spread for _, s in known],
            marker="o",
            capsize=3,
            label=way,
        )
    axes.set_xticks(range(len(across)), across)
    axes.set_xlabel("epsilon of each site (delta 1e-5, patient)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("MedNIST, four label-skewed sites")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def rows(name: str, scores: dict[tuple[str, str], Score]) -> list[dict[str, object]]:
    """The scores as rows of the results."""
    e = EXPERIMENTS[name]
    made: list[dict[str, object]] = []
    for (way, target), s in scores.items():
        goal = e.goals.get(target) if way in WAYS[:2] else None
        pooled = scores.get(("pooled", "none"))
        made.append(
            {
                "name": f"{name}, {way}, epsilon {target}",
                "value": round(s.mean, 4),
                "unit": f"accuracy (± {s.spread:.4f} over {s.seeds} seeds, lr {s.lr})",
                "compared_to": "pooled without privacy" if pooled else "",
                "ratio": round(s.mean / pooled.mean, 4) if pooled else None,
                "goal": goal,
                "met": None if goal is None else s.mean >= goal,
            }
        )
    return made


def main() -> None:
    """Compute what is missing and write table, plot and results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=EXPERIMENTS, help="one data set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=WAYS, help="compute only these ways")
    parser.add_argument("--epsilons", nargs="*", help="compute only these")
    parser.add_argument("--table", action="store_true", help="show only what is there already")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    text = ""
    for name in [chosen.only] if chosen.only else EXPERIMENTS:
        e = EXPERIMENTS[name]
        scores: dict[tuple[str, str], Score] = {}
        for target in chosen.epsilons or e.epsilons:
            for way in chosen.ways:
                cells = [Cell(name, way, target, lr, 0).path for lr in e.rates(way)]
                if not chosen.table or all(path.is_file() for path in cells):
                    scores[way, target] = score(e, way, target, chosen.seeds)
        record(rows(name, scores), name, FOLDER / "results.json")
        text += table(name, scores) + "\n"
        if name == "mednist":
            plot(scores, FOLDER / "utility.svg")
    (FOLDER / "utility.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
