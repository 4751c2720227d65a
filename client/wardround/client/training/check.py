"""Per-sample gradients of every network of the catalogue against a loop over single samples.

    python -m wardround.client.training.check [--json] [NETWORK ...]

In float64, on made-up data, three samples of two patients. The error is the largest difference
over the largest norm of a sample's gradient, at most 1e-9. The sensitivity, in float32 as in a
study, is the most by which leaving out one of three patients, one of them not a number, moves the
clipped sum, over the clip: at most 1 + 1e-6 for every loss that suits the network. Exit code 0 if
all stay within, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from wardround.client.tasks.losses import per_sample_loss
from wardround.client.tasks.models import build
from wardround.client.tasks.spec import DIMENSIONS, Argument, Kind, TaskSpec
from wardround.client.training.engine import BookKeeping, Engine, trainable
from wardround.client.training.experiment import difference
from wardround.client.training.losses import (
    CATALOGUE,
    LossName,
    PerSampleLoss,
    WeightedCrossEntropy,
)
from wardround.client.training.tape import CLIP_MARGIN, Units
from wardround.client.training.validation import validate
from wardround.client.training.vectorised import loop

LIMIT = 1e-9
SENSITIVITY = 1 + 1e-6
_CLIP = 1e-3


def _task(kind: Kind, model: str, size: int, **args: Argument) -> TaskSpec:
    return TaskSpec(kind, model, 3, (1, *[size] * DIMENSIONS[kind]), args)


_THIN = (8, 8, 16, 16, 32, 8)
# The networks with the smallest inputs that they take; the three-dimensional ones are thin.
NETWORKS: dict[str, TaskSpec] = {
    "DenseNet121": _task("image-classification-2d", "densenet121", 32),
    "ResNet18": _task("image-classification-2d", "resnet18", 32),
    "ResNet18 3D": _task("image-classification-3d", "resnet18", 16),
    "SEResNet50": _task("image-classification-2d", "seresnet50", 32),
    "EfficientNet-b0": _task("image-classification-2d", "efficientnet-b0", 32),
    "UNet": _task("segmentation-2d", "unet", 16),
    "UNet 3D": _task("segmentation-3d", "unet", 16),
    "AttentionUnet": _task("segmentation-3d", "attention-unet", 16),
    "BasicUNet": _task("segmentation-2d", "basic-unet", 32, features=_THIN),
    "BasicUNet 3D": _task("segmentation-3d", "basic-unet", 32, features=_THIN),
    "SegResNet 3D": _task("segmentation-3d", "segresnet", 16),
    "DynUNet": _task("segmentation-3d", "dynunet", 16),
    "UNETR": _task("segmentation-3d", "unetr", 32),
    "ViT": _task("image-classification-2d", "vit", 32),
    "SwinUNETR": _task("segmentation-2d", "swin-unetr", 64),
    "MLP": TaskSpec("tabular", "perceptron", 3, (13,), {"widths": (16, 16)}),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One network's outcome. `sum_error`: of the clipped sum, over the clip, as `sensitivity`."""

    network: str
    engine: str
    parameters: int
    error: float
    sum_error: float
    sensitivity: float
    seconds: float

    @property
    def good(self) -> bool:
        """Whether all stay within their limits; never true for what is not a number."""
        exact = self.error <= LIMIT and self.sum_error <= LIMIT
        return exact and self.sensitivity <= SENSITIVITY


def check(name: str) -> Row:
    """Compare one network with the loop over single samples."""
    start = time.perf_counter()
    task = NETWORKS[name]
    shape = task.input_shape
    model = build(task).double().eval()
    loss = per_sample_loss(task)
    engine = validate(model, loss, shape)
    inputs = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        targets = loss.example_targets(model(inputs))
    expected = loop(model, loss, inputs, targets)
    error = difference(engine.per_sample(loss, inputs, targets), expected)

    units = Units.of(torch.tensor([0, 1, 0]))
    total = engine.clipped_sum(loss, inputs, targets, units, _CLIP).total
    means = {n: torch.stack([(g[0] + g[2]) / 2, g[1]]) for n, g in expected.items()}
    norms = torch.stack([m.flatten(1).square().sum(1) for m in means.values()]).sum(0).sqrt()
    wanted = {n: torch.tensordot(_CLIP / norms, m, 1) for n, m in means.items()}
    # The engine aims CLIP_MARGIN below the bound: compare directions and lengths without it.
    zero = torch.zeros(1, dtype=torch.float64)
    gaps = [
        (total.get(n, zero).reshape(-1) / (1 - CLIP_MARGIN) - w.reshape(-1)).square().sum()
        for n, w in wanted.items()
    ]
    kind = "single backward" if isinstance(engine, BookKeeping) else "whole-model vmap"
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    sum_error = float(torch.stack(gaps).sum().sqrt()) / _CLIP
    model.float()
    moved = max(_sensitivity(engine, model, each, shape) for each in _losses(task))
    return Row(name, kind, count, error, sum_error, moved, time.perf_counter() - start)


def _losses(task: TaskSpec) -> list[PerSampleLoss]:
    names: list[LossName] = ["cross-entropy", "focal"]
    if task.kind.startswith("segmentation"):
        names += ["dice", "dice-ce"]
    weighted = WeightedCrossEntropy(tuple(map(float, range(1, task.classes + 1))))
    return [weighted, *(CATALOGUE[name] for name in names)]


def _sensitivity(
    engine: Engine, model: nn.Module, loss: PerSampleLoss, shape: tuple[int, ...]
) -> float:
    owners = torch.tensor([0, 1, 0, 2])
    inputs = torch.randn(4, *shape)
    with torch.no_grad():
        targets = loss.example_targets(model(inputs))
    inputs[3] = torch.nan

    def total(without: int) -> Tensor:
        keep = owners != without
        left = owners[keep]
        units = Units.of(left - (left > without).long())
        made = engine.clipped_sum(loss, inputs[keep], targets[keep], units, _CLIP).total
        flat = [
            made[n].reshape(-1) if n in made else p.new_zeros(p.numel())
            for n, p in trainable(model).items()
        ]
        return torch.cat(flat).double()

    nobody = 3
    everyone = total(nobody)
    return max(float((everyone - total(one)).norm()) for one in range(nobody)) / _CLIP


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The rows as lines of text, at most 80 columns."""
    yield (
        f"{'network':<16}{'engine':<17}{'parameters':>10}{'gradients':>10}{'sum':>9}"
        f"{'moved by':>12}{'':>6}"
    )
    for row in rows:
        word = "ok" if row.good else "WRONG"
        yield (
            f"{row.network:<16}{row.engine:<17}{row.parameters:>10,}{row.error:>10.1e}"
            f"{row.sum_error:>9.1e}{row.sensitivity:>12.7f}{word:>6}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Check the networks named, or all; 0 if every one is good."""
    parser = argparse.ArgumentParser(prog="wardround.client.training.check", description=__doc__)
    parser.add_argument("network", nargs="*", choices=[[], *NETWORKS], default=[])
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    chosen = parser.parse_args(arguments)
    rows: list[Row] = []

    def each() -> Iterator[Row]:
        for name in chosen.network or NETWORKS:
            rows.append(check(name))
            yield rows[-1]

    if chosen.json:
        print(json.dumps([asdict(row) | {"good": row.good} for row in each()], indent=1))
    else:
        for line in table(each()):
            print(line, flush=True)
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
