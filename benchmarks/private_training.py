"""What private training costs over plain SGD: time and memory, beside Opacus and vmap.

    python benchmarks/private_training.py [--quick] [--device cpu] [NETWORK ...]

One thread, one process. All ways take turns, every second round in reverse order, so that no way
always follows the same other one; each ratio is taken within its own round, and the median of the
rounds is reported, as are the times. On a CPU time is the process's own. A step is forward, loss,
gradients (clipped, for the private ways) and the SGD update; noise is measured beside it, for a
logical batch of 256. Memory is the peak over the state before the step, in a process of its own.
A way that cannot run has a line with the reason. Rows go into .bench/results.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from opacus import GradSampleModule
from results import record
from torch import Tensor

from wardround.client.tasks import TaskSpec, build, per_sample_loss
from wardround.client.training.engine import BookKeeping, trainable
from wardround.client.training.noise import release
from wardround.client.training.randomness import SecureBits
from wardround.client.training.tape import Units
from wardround.client.training.vectorised import VectorisedGradients

CLIP = 1.0
LOGICAL_BATCH = 256
MEMORY_GOAL = 2.0
NOISE_GOAL = 0.05
OPACUS_GOAL = 0.5
WAYS = ("wardround", "vmap", "opacus hooks", "opacus functorch")


@dataclass(frozen=True, slots=True)
class Subject:
    """A network with its batch and the goal for its ratio to plain SGD."""

    task: TaskSpec
    batch: int
    goal: float
    twice_as_fast: bool = False


def image(model: str) -> TaskSpec:
    """A classification of 64x64 grey images into six classes."""
    return TaskSpec("image-classification-2d", model, 6, (1, 64, 64))


def volume(model: str, **args: tuple[int, ...]) -> TaskSpec:
    """A segmentation of 32x32x32 volumes into three classes."""
    return TaskSpec("segmentation-3d", model, 3, (1, 32, 32, 32), args)


_WIDE = (16, 32, 64, 128)
SUBJECTS = {
    "DenseNet121": Subject(image("densenet121"), 32, 1.40, True),
    "ResNet18": Subject(image("resnet18"), 32, 1.25),
    "EfficientNet-b0": Subject(image("efficientnet-b0"), 32, 1.25),
    "UNet 3D": Subject(
        volume("unet", channels=(16, 32, 64, 128), strides=(2, 2, 2)), 8, 1.25, True
    ),
    "BasicUNet 3D": Subject(volume("basic-unet"), 8, 1.10, True),
    "SegResNet 3D": Subject(volume("segresnet"), 8, 1.10),
}

Step = Callable[[Tensor, Tensor], object]


def make_step(way: str, subject: Subject, device: str) -> Step:
    """One training step of the given way, on a model of its own."""
    torch.manual_seed(0)
    model = build(subject.task).to(device).train()
    loss = per_sample_loss(subject.task)
    parameters = list(trainable(model).values())
    optimiser = torch.optim.SGD(parameters, lr=1e-4)

    def update() -> None:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def plain(inputs: Tensor, targets: Tensor) -> None:
        loss(model(inputs), targets).mean().backward()
        update()

    if way == "plain":
        return plain
    if way in ("wardround", "vmap"):
        engine = BookKeeping(model) if way == "wardround" else VectorisedGradients(model)

        def private(inputs: Tensor, targets: Tensor) -> None:
            units = Units.of(torch.arange(len(inputs), device=inputs.device))
            made = engine.clipped_sum(loss, inputs, targets, units, CLIP)
            for name, parameter in trainable(model).items():
                if name in made.total:
                    parameter.grad = made.total[name].reshape(parameter.shape)
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], len(inputs))
            update()

        return private

    wrapped = GradSampleModule(
        model, loss_reduction="sum", force_functorch=way == "opacus functorch", strict=False
    )

    def opacus(inputs: Tensor, targets: Tensor) -> None:
        loss(wrapped(inputs), targets).sum().backward()
        used = [p for p in parameters if p.grad_sample is not None]
        norms = [p.grad_sample.flatten(1).norm(dim=1) for p in used]
        factor = (CLIP / (torch.stack(norms).norm(dim=0) + 1e-6)).clamp(max=1.0)
        for parameter in used:
            parameter.grad = torch.einsum("i,i...", factor, parameter.grad_sample) / len(inputs)
            parameter.grad_sample = None
        update()

    return opacus


def example(subject: Subject, device: str) -> tuple[Tensor, Tensor]:
    """A batch of made-up data."""
    inputs = torch.randn(subject.batch, *subject.task.input_shape, device=device)
    with torch.no_grad():
        one = build(subject.task).to(device)(inputs[:1])
    outputs = one.expand(subject.batch, *one.shape[1:])
    return inputs, per_sample_loss(subject.task).example_targets(outputs)


def clock(step: Step, inputs: Tensor, targets: Tensor) -> float:
    """Seconds of one step; on a CPU the process's own time, which its neighbours disturb less."""
    if not inputs.is_cuda:
        start = time.process_time()
        step(inputs, targets)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step(inputs, targets)
    torch.cuda.synchronize()
    return time.perf_counter() - start


@dataclass(slots=True)
class Timing:
    """Seconds of each round by way; a way that cannot run has none, and a reason."""

    seconds: dict[str, list[float]]
    reasons: dict[str, str]

    def ratio(self, way: str, to: str = "plain") -> float | None:
        """Median over the rounds of this way's time over the other's."""
        pairs = list(zip(self.seconds[way], self.seconds[to], strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


def measure(subject: Subject, device: str, rounds: int, slow_rounds: int) -> Timing:
    """Interleave all ways; the slow ones take part in the first rounds only."""
    inputs, targets = example(subject, device)
    seconds: dict[str, list[float]] = {"plain": []}
    steps = {"plain": make_step("plain", subject, device)}
    reasons = {}
    for way in WAYS:
        seconds[way] = []
        try:
            step = make_step(way, subject, device)
            step(inputs, targets)
        except (RuntimeError, NotImplementedError) as error:
            reasons[way] = " ".join(str(error).split())
            continue
        steps[way] = step
    for way in ("plain", "wardround"):
        clock(steps[way], inputs, targets)
    for turn in range(rounds):
        order = list(steps) if turn % 2 == 0 else list(reversed(steps))
        for way in order:
            if way in ("plain", "wardround") or turn < slow_rounds:
                seconds[way].append(clock(steps[way], inputs, targets))
    return Timing(seconds, reasons)


def noise_seconds(subject: Subject) -> tuple[float, int]:
    """Seconds to noise one logical batch's sum, and the number of parameters."""
    size = sum(p.numel() for p in trainable(build(subject.task)).values())
    total, bits = torch.zeros(size), SecureBits()
    spent = []
    for _ in range(3):
        start = time.process_time()
        release(total, CLIP, 1.0, bits)
        spent.append(time.process_time() - start)
    return min(spent), size


def peak_of(name: str, way: str, device: str) -> int:
    """Peak bytes of a step, its trials included, over the state before it; in a fresh process."""
    subject = SUBJECTS[name]
    inputs, targets = example(subject, device)
    step = make_step(way, subject, device)
    step(inputs[:2], targets[:2])
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        step(inputs, targets)
        return torch.cuda.max_memory_allocated() - base
    base = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step(inputs, targets)
    return _status("VmHWM") - base


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def memory(name: str, way: str, device: str) -> int:
    """`peak_of` in a process of its own.

    glibc keeps memory that was freed, and a process that has some needs none: the threshold makes
    it give back whatever is larger, so that the peak counts what the step holds at once.
    """
    command = [sys.executable, __file__, "--peak", way, "--device", device, name]
    thrifty = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=thrifty)
    return int(done.stdout)


def row(
    name: str,
    value: float | None,
    unit: str = "",
    compared_to: str = "",
    ratio: float | None = None,
    goal: float | None = None,
) -> dict[str, object]:
    """One line of the results."""
    met = None if goal is None or ratio is None else ratio <= goal
    return {
        "name": name,
        "value": None if value is None else round(value, 4),
        "unit": unit,
        "compared_to": compared_to,
        "ratio": None if ratio is None else round(ratio, 4),
        "goal": goal,
        "met": met,
    }


def rows_of(name: str, device: str, rounds: int, slow_rounds: int) -> list[dict[str, object]]:
    """Everything measured about one network."""
    subject = SUBJECTS[name]
    timing = measure(subject, device, rounds, slow_rounds)
    plain = statistics.median(timing.seconds["plain"])
    found = [row(f"{name}: plain SGD step", plain, "s")]
    for way in WAYS:
        if way in timing.reasons:
            found.append(row(f"{name}: {way} cannot run: {timing.reasons[way][:90]}", None))
        else:
            value, ratio = statistics.median(timing.seconds[way]), timing.ratio(way)
            goal = subject.goal if way == "wardround" else None
            found.append(row(f"{name}: {way} step", value, "s", "plain SGD", ratio, goal))
    if subject.twice_as_fast and timing.seconds["opacus hooks"]:
        ratio = timing.ratio("wardround", "opacus hooks")
        value = statistics.median(timing.seconds["wardround"])
        found.append(row(f"{name}: against Opacus", value, "s", "opacus hooks", ratio, OPACUS_GOAL))
    noise, size = noise_seconds(subject)
    logical = statistics.median(timing.seconds["wardround"]) * LOGICAL_BATCH / subject.batch
    found.append(
        row(f"{name}: noise, {size / 1e6:.1f}M parameters", noise, "s", "logical step of 256",
            noise / (logical + noise), NOISE_GOAL)
    )  # fmt: skip
    base = memory(name, "plain", device)
    for way in ("wardround", "opacus hooks"):
        if way not in timing.reasons:
            peak = memory(name, way, device)
            goal = MEMORY_GOAL if way == "wardround" else None
            label = f"{name}: {way} peak memory"
            found.append(row(label, peak / 2**20, "MiB", "plain SGD", peak / base, goal))
    return found


def show(rows: list[dict[str, object]]) -> None:
    """The rows as a table of at most 80 columns."""
    for r in rows:
        if r["value"] is None:
            print(textwrap.fill(str(r["name"]), 80, subsequent_indent="  "), flush=True)
            continue
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.3f}x"
        goal = "" if r["goal"] is None else f"<= {r['goal']}"
        word = {True: "met", False: "MISSED", None: ""}[r["met"]]  # type: ignore[index] # bool or None
        value = f"{r['value']:.4g} {r['unit']}"
        print(f"{r['name']!s:<42}{value:>12}{ratio:>10}{goal:>9}{word:>7}", flush=True)


def main() -> None:
    """Measure the networks named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="*", help="default: all")
    parser.add_argument("--quick", action="store_true", help="few rounds: for trying it out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", metavar="WAY", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    # Opacus' hooks warn about inputs that need no gradient; torch lays it to this file.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    torch.set_num_threads(1)
    if chosen.peak:
        print(json.dumps(peak_of(chosen.network[0], chosen.peak, chosen.device)))
        return
    collected: list[dict[str, object]] = []
    for name in chosen.network or SUBJECTS:
        found = rows_of(name, chosen.device, *((4, 2) if chosen.quick else (10, 4)))
        show(found)
        collected += found
    record(collected, f"private training ({chosen.device})")


if __name__ == "__main__":
    main()
