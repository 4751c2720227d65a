"""What is refused before a single patient's gradient is taken, and what to use instead.

First by rule, from the modules and the loss; then by two experiments on made-up inputs. At rest the
engine's gradients must equal those of each sample alone. In training mode, where dropout and its
kin are at work, a sample's gradient must stay as it is when the other samples are exchanged, and
nothing may be kept from one batch for the next. The experiments do not know what could be wrong (a
padding mode, a memory format, a layer that mixes samples), they see that something is.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from wardround.client.errors import (
    BatchCoupled,
    GradientMismatch,
    LossRefused,
    ModuleRefused,
    TrainingRefused,
)
from wardround.client.training.engine import BookKeeping, Engine, trainable
from wardround.client.training.losses import PerSampleLoss
from wardround.client.training.vectorised import VectorisedGradients, loop

TOLERANCE = 1e-8
_PROBES = 3
_SEED = 0
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def validate(
    model: nn.Module, loss: object, input_shape: tuple[int, ...] | None = None
) -> Engine | None:
    """Refuse whatever breaks the sensitivity bound; with `input_shape` (C, ...) also by experiment.

    Returns the engine to use, if the experiment was made. Raises TrainingRefused.
    """
    _check_loss(loss)
    _check_wrapper(model)
    _check_modules(model)
    _check_precision(model)
    _check_registered_once(model)
    if input_shape is None or not isinstance(loss, PerSampleLoss):
        return None
    try:
        return _experiment(model, loss, input_shape)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        first = str(error).partition("\n")[0]
        raise ModuleRefused(
            f"the model and the loss cannot be tried on inputs of shape {list(input_shape)}: "
            f"{first}; they must take floating-point inputs of that shape, and be copyable"
        ) from error


def check_accountant(name: str) -> None:
    """Refuse accountants that are not an upper bound."""
    if name.lower() not in ("pld", "rdp", "prv"):
        raise TrainingRefused(
            f"the accountant {name!r} is not an upper bound on epsilon (a Gaussian-DP "
            "approximation gave 7.95 where 8.41 is true): use PLD"
        )


def check_loader(loader: object) -> None:
    """Refuse data loaders: the engine draws its own Poisson sample of patients."""
    if isinstance(loader, torch.utils.data.DataLoader):
        raise TrainingRefused(
            "a data loader deals out shuffled batches, which the accountant does not cover: hand "
            "over the samples (TrainingData), and the engine draws patients by Poisson sampling"
        )


def _check_loss(loss: object) -> None:
    if isinstance(loss, PerSampleLoss):
        return
    if isinstance(loss, nn.Module):
        raise LossRefused(
            f"{type(loss).__name__} reduces over the batch, or may do so, which couples the "
            "patients: use the loss of the same name from wardround.client.training.losses"
        )
    raise LossRefused(
        "the loss is not a PerSampleLoss: take one from wardround.client.training.losses, or "
        "derive from PerSampleLoss and return one number for each sample"
    )


def _check_wrapper(model: nn.Module) -> None:
    kind = type(model)
    if kind.__module__.startswith("opacus.grad_sample"):
        raise ModuleRefused(
            f"{kind.__name__} is a wrapper of Opacus, whose hooks and ghost mode are wrong without "
            "a word for some layers and losses: hand over the network itself"
        )
    if isinstance(model, _PARALLEL):
        raise ModuleRefused(
            f"{kind.__name__} averages gradients before they are clipped: hand over the network "
            "itself, and the process group as `group` of train_round"
        )


def _check_modules(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kind = type(module).__name__
        where = f"{name or 'the model'} ({kind})"
        if isinstance(module, _InstanceNorm):
            if module.track_running_stats:
                raise BatchCoupled(
                    f"{where} keeps running statistics, which leave without noise: build it with "
                    "track_running_stats=False"
                )
        elif isinstance(module, _BatchNorm):
            raise BatchCoupled(
                f"{where} mixes the patients of a batch: replace it by a group norm, "
                "wardround.client.training.conversion.to_group_norm(model) does so"
            )
        if isinstance(module, _RECURRENT):
            raise ModuleRefused(f"{where} is recurrent, which no engine here follows")
        if (
            hasattr(module, "weight_u")
            or "spectral" in repr(getattr(module, "parametrizations", "")).lower()
        ):
            raise BatchCoupled(
                f"{where} has spectral normalisation, whose power iteration changes with the "
                "data's order: leave it out; clipping already bounds the gradient"
            )
        if any(isinstance(p, nn.UninitializedParameter) for p in module._parameters.values()):
            raise ModuleRefused(f"{where} has no shape yet: run it once, or give its size")


def _check_precision(model: nn.Module) -> None:
    for name, parameter in trainable(model).items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TrainingRefused(
                f"{name} is kept in {parameter.dtype}: a norm in so few bits comes out below the "
                "true one, and the clip would not hold; train in float32, model.float()"
            )
        if torch.is_autocast_enabled(parameter.device.type):
            raise TrainingRefused(
                "training under torch.autocast makes norms and sums in few bits, so that the clip "
                "would not hold: leave it out; full float32 is what the bound is tested for"
            )


def _check_registered_once(model: nn.Module) -> None:
    owner: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owner.setdefault(id(parameter), name)
        if first != name and parameter.requires_grad:
            raise ModuleRefused(
                f"{name} and {first} are one parameter under two names: register the module once "
                "(delete one of the attributes) or give each place a module of its own"
            )


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference over the largest norm of a sample's whole gradient."""
    gap = [(found[n] - e).flatten(1).double().square().sum(1) for n, e in expected.items()]
    size = [e.flatten(1).double().square().sum(1) for e in expected.values()]
    worst = torch.stack(gap).sum(0).sqrt().max() / torch.stack(size).sum(0).sqrt().max()
    return float(worst)


def _experiment(model: nn.Module, loss: PerSampleLoss, input_shape: tuple[int, ...]) -> Engine:
    first = next(iter(trainable(model).values()), None)
    if first is None:
        raise ModuleRefused("the model has nothing to train")
    # A copy in float64, so that rounding is not taken for mixing; dropout and its kin rest.
    twin = copy.deepcopy(model).double().eval()
    before = {n: b.clone() for n, b in twin.named_buffers()}
    inputs = torch.randn(_PROBES, *input_shape, device=first.device, dtype=torch.float64)
    with torch.no_grad():
        targets = loss.example_targets(twin(inputs))
    expected = loop(twin, loss, inputs, targets)
    engine, found = _first_that_runs(twin, loss, inputs, targets)
    error = difference(found, expected)
    if not error <= TOLERANCE:
        raise GradientMismatch(
            f"per-sample gradients differ from those of each sample alone by {error:.1e} of their "
            "size: a layer or the loss mixes samples, or the engine cannot follow it; use a model "
            "of the catalogue (wardround.client.tasks) or one without such a layer"
        )
    twin.train()
    moved = _moved_by_others(engine, loss, inputs, targets)
    for name, buffer in twin.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise BatchCoupled(
                f"the buffer {name} changes in a forward pass: statistics of patients would leave "
                "without noise; use layers without running statistics"
            )
    if not moved <= TOLERANCE:
        raise BatchCoupled(
            f"in training mode the other samples of a batch, or of one before, change a sample's "
            f"gradient by {moved:.1e} of its size: a layer or the loss mixes or remembers them; "
            "use a group norm (to_group_norm) and a loss of the catalogue, and keep no state"
        )
    return type(engine)(model)


def _moved_by_others(engine: Engine, loss: PerSampleLoss, inputs: Tensor, targets: Tensor) -> float:
    """How far a sample's gradient moves when the others do, with the same random numbers drawn.

    The others become a thousand times as large, so that a choice made for the batch shows.
    """

    def gradients(exchanged: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(_SEED)
        x, y = inputs / 10, targets.clone()
        x[exchanged] = 1 + 100 * inputs.roll(1, 0)[exchanged]
        y[exchanged] = targets.roll(1, 0)[exchanged]
        return engine.per_sample(loss, x, y)

    first = torch.arange(len(inputs), device=inputs.device) == 0
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        nobody, alone, rest = gradients(first & ~first), gradients(~first), gradients(first)
    kept = {n: torch.cat([alone[n][:1], rest[n][1:]]) for n in nobody}
    return difference(kept, nobody)


def _first_that_runs(
    model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor
) -> tuple[BookKeeping | VectorisedGradients, dict[str, Tensor]]:
    try:
        single = BookKeeping(model)
        return single, single.per_sample(loss, inputs, targets)
    except ModuleRefused as refusal:
        reason = str(refusal)
    try:
        whole = VectorisedGradients(model)
        return whole, whole.per_sample(loss, inputs, targets)
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise ModuleRefused(
            f"{reason}; and vmap cannot follow the model either: {first}"
        ) from error
