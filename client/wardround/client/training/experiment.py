"""Two experiments on made-up inputs, which see that a bound breaks without knowing why.

At rest the engine's gradients must equal those of each sample alone. In training mode, where
dropout and its kin are at work, a sample's gradient must stay as it is when the other samples are
exchanged; a model that draws random numbers is tried several times, for it may mix samples by
chance alone. The same holds where numbers are missing, for a model may fill them from the others.
In both no parameter or buffer may change, and nothing may be kept from one batch for the next.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from wardround.client.errors import BatchCoupled, GradientMismatch, ModuleRefused
from wardround.client.training.engine import BookKeeping, Engine, checked_losses, trainable
from wardround.client.training.losses import PerSampleLoss
from wardround.client.training.vectorised import VectorisedGradients, loop

TOLERANCE = 1e-8
_PROBES = 3
_DRAWS = 8


def engine_that_follows(
    model: nn.Module, loss: PerSampleLoss, input_shape: tuple[int, ...]
) -> Engine:
    """The engine for `model`, tried on inputs [3, *input_shape] in float64, on a copy.

    Raises ModuleRefused where no engine follows the model, GradientMismatch and BatchCoupled where
    samples mix, and whatever the model and the loss raise on such inputs.
    """
    first = next(iter(trainable(model).values()), None)
    if first is None:
        raise ModuleRefused("the model has nothing to train")
    # In float64, so that rounding is not taken for mixing.
    twin = copy.deepcopy(model).double().eval()
    before = {n: t.detach().clone() for n, t in _kept(twin)}
    inputs = torch.randn(_PROBES, *input_shape, device=first.device, dtype=torch.float64)
    with torch.no_grad():
        targets = loss.example_targets(_checked_outputs(twin(inputs)))
    expected = loop(twin, loss, inputs, targets)
    engine, found = _first_that_runs(twin, loss, inputs, targets)
    _check_unchanged(twin, before)
    _check_equal(found, expected)
    twin.train()
    with _randomness_given_back(inputs.device):
        chance = _draws_random_numbers(twin, loss, inputs, targets)
        # Gradients once; losses, which are cheaper, show what chance and missing numbers change.
        losses, gaps = partial(_losses, twin, loss), _with_gaps(inputs)
        trials = [(partial(engine.per_sample, loss), inputs, inputs, 0)]
        trials += [(losses, inputs, inputs, draw) for draw in range(1, _DRAWS) if chance]
        trials += [(losses, own, gaps, 0) for own in (inputs, gaps)]
        for of, own, others, draw in trials:
            moved = _moved_by_others(of, own, others, targets, draw)
            _check_unchanged(twin, before)
            _check_apart(moved)
    if not chance:
        _check_equal(engine.per_sample(loss, inputs, targets), loop(twin, loss, inputs, targets))
    return type(engine)(model)


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference over the largest norm of a sample's whole gradient."""
    gap = [(found[n] - e).flatten(1).double().square().sum(1) for n, e in expected.items()]
    size = [e.flatten(1).double().square().sum(1) for e in expected.values()]
    worst = torch.stack(gap).sum(0).sqrt().max() / torch.stack(size).sum(0).sqrt().max()
    return float(worst)


def _checked_outputs(outputs: object) -> Tensor:
    if isinstance(outputs, Tensor) and outputs.shape[:1] == (_PROBES,):
        return outputs
    kind = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
    raise ModuleRefused(
        f"the model answers {kind} for {_PROBES} samples: wrap it in a module that returns one "
        "tensor, [B, ...]"
    )


def _first_that_runs(
    model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor
) -> tuple[BookKeeping | VectorisedGradients, dict[str, Tensor]]:
    try:
        single = BookKeeping(model)
        return single, single.per_sample(loss, inputs, targets)
    except ModuleRefused as refusal:
        reason = str(refusal).partition(":")[0]
    try:
        whole = VectorisedGradients(model)
        return whole, whole.per_sample(loss, inputs, targets)
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise ModuleRefused(
            f"{reason}, and vmap cannot follow the whole model ({first}): use layers of torch.nn "
            "that stand alone, or a model of the catalogue (wardround.client.tasks)"
        ) from error


def _kept(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def _check_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in _kept(model):
        if not torch.equal(tensor, before[name]):
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            raise BatchCoupled(
                f"the {kind} {name} changes in a forward pass: statistics of patients would leave "
                "without noise; use layers without running statistics, and change no weights there"
            )


def _check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    error = difference(found, expected)
    if not error <= TOLERANCE:
        raise GradientMismatch(
            f"per-sample gradients differ from those of each sample alone by {error:.1e} of their "
            "size: a layer or the loss mixes samples, or the engine cannot follow it; use a model "
            "of the catalogue (wardround.client.tasks) or one without such a layer"
        )


def _check_apart(moved: float) -> None:
    if not moved <= TOLERANCE:
        raise BatchCoupled(
            "in training mode the other samples of a batch, or of one before, change a "
            f"sample's gradient by {moved:.1e} of its size: a layer or the loss mixes or "
            "remembers them, perhaps only where numbers are missing (NaN); use a group norm "
            "(to_group_norm) and a loss of the catalogue, and keep no state"
        )


def _with_gaps(inputs: Tensor) -> Tensor:
    """A third of each sample's numbers missing, of each sample others."""
    gaps = inputs.flatten(1)
    place = torch.arange(gaps.shape[1]) + torch.arange(len(gaps))[:, None]
    return gaps.masked_fill((place % 3 == 0).to(gaps.device), math.nan).reshape(inputs.shape)


def _moved_by_others(
    of: Callable[[Tensor, Tensor], dict[str, Tensor]],
    inputs: Tensor,
    others: Tensor,
    targets: Tensor,
    draw: int,
) -> float:
    """How far what belongs to one sample moves when the others do, random numbers being the same.

    Each is exchanged for the one before it in `others`, a thousand times as large, so that a
    choice made for the batch shows.
    """

    def after(exchanged: Tensor) -> dict[str, Tensor]:
        _seed(draw)
        x, y = inputs / 10, targets.clone()
        x[exchanged] = 1 + 100 * others.roll(1, 0)[exchanged]
        y[exchanged] = targets.roll(1, 0)[exchanged]
        return of(x, y)

    first = torch.arange(len(inputs), device=inputs.device) == 0
    nobody, alone, rest = after(first & ~first), after(~first), after(first)
    kept = {n: torch.cat([alone[n][:1], rest[n][1:]]) for n in nobody}
    for name, value in nobody.items():  # what is no number before and after has not moved
        both = value.isnan() & kept[name].isnan()
        nobody[name], kept[name] = value.masked_fill(both, 0), kept[name].masked_fill(both, 0)
    if all(torch.equal(kept[n], nobody[n]) for n in nobody):
        return 0.0  # all may be zeros, where chance leaves out a whole batch
    return difference(kept, nobody)


@torch.no_grad()
def _losses(
    model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    return {"loss": checked_losses(loss, model(inputs), targets)[:, None]}


def _draws_random_numbers(
    model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor
) -> bool:
    _seed(0)
    unused = _next_numbers(inputs.device)
    _seed(0)
    _losses(model, loss, inputs, targets)
    return _next_numbers(inputs.device) != unused


def _next_numbers(device: torch.device) -> tuple[float, ...]:
    """One number of each generator that a model may use."""
    drawn = torch.rand(()), torch.rand((), device=device)
    return random.random(), np.random.random(), *map(float, drawn)  # noqa: S311 # keeps no secret


def _seed(draw: int) -> None:
    """Seed the generators that a model may use; the engine's own bits come from none of them."""
    torch.manual_seed(draw)
    random.seed(draw)
    np.random.seed(draw)


@contextmanager
def _randomness_given_back(device: torch.device) -> Iterator[None]:
    """Leave the generators as they were: no seed of the experiment may stay."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
