"""A round of private training at one site.

A step (DP-SGD, Abadi et al., CCS 2016, with the patient as the unit):

1. every patient takes part with probability q, alone (Poisson);
2. the gradients of a patient's images, at most a fixed number, are averaged;
3. the patient's gradient is clipped to C in L2; one that is not finite counts as zero;
4. the clipped gradients are added, and Gaussian noise is added to the sum, once, on a grid;
5. the noisy sum is divided by the *expected* number of patients, never by the actual one;
6. the optimiser, or in mode "one_step" the coordinator, moves the model.

A step in which nobody takes part is a step like any other: its noise alone moves the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from wardround.client.errors import ModuleRefused, TrainingDataInvalid
from wardround.client.training.data import TrainingData, samples_of_units
from wardround.client.training.engine import Engine, trainable
from wardround.client.training.losses import PerSampleLoss
from wardround.client.training.noise import release
from wardround.client.training.optimisers import AdamW, Optimiser, Sgd
from wardround.client.training.randomness import BitSource, SecureBits
from wardround.client.training.sampling import choose, poisson_sample
from wardround.client.training.settings import RoundResult, StepReport, TrainingSettings
from wardround.client.training.tape import Units
from wardround.client.training.validation import check_loader, check_rules, validate

# A float32 sum of more gradients than this would round by more than the margin of the clip.
LARGEST_PASS = 256
OnStep = Callable[[StepReport], None]
Batch = list[npt.NDArray[np.int64]]


def train_round(
    model: nn.Module,
    data: TrainingData,
    settings: TrainingSettings,
    loss: PerSampleLoss,
    *,
    engine: Engine | None = None,
    on_step: OnStep | None = None,
    group: dist.ProcessGroup | None = None,
) -> RoundResult:
    """Train `model` in place, privately, and answer what may leave the site.

    `engine` is what `validate` gave for this very model and loss, so that it is made once for many
    rounds: the weights may have changed since, nothing else. What the rules forbid, such as
    autocast, is refused in each round; only the experiment is not made again. Without an engine
    the whole check is made here.
    `on_step` is called for every noisy step, empty ones too, before the step's noise is added and
    anything moves: a ledger that cannot record the step raises there and nothing is released.
    With `group` the processes of it train one model together (a site with several GPUs): all hold
    the same model and data. The first draws the patients of each step, calls `on_step` and adds
    the noise, once; the patients are dealt out, and all get the same noisy sum.
    Raises TrainingRefused where the guarantee would not hold.
    """
    check_loader(data)
    units = samples_of_units(data, settings.unit)
    if not units:
        raise TrainingDataInvalid("there is no patient to train on")
    if engine is None:
        shape = tuple(data.samples(np.zeros(1, dtype=np.int64))[0].shape[1:])
        engine = validate(model, loss, shape)
    elif engine.model is not model:
        raise ModuleRefused("the engine is that of another model: validate the one to train")
    else:
        check_rules(model, loss)
    model.train()
    return _Round(model, data, units, settings, loss, engine, group).run(on_step)


class _Round:
    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        units: Batch,
        settings: TrainingSettings,
        loss: PerSampleLoss,
        engine: Engine,
        group: dist.ProcessGroup | None,
    ) -> None:
        self.model, self.data, self.units, self.settings = model, data, units, settings
        self.loss, self.engine, self.group = loss, engine, group
        self.parameters = trainable(model)
        self.device = next(iter(self.parameters.values())).device
        self.bits: BitSource = SecureBits()
        self.expected = expected_batch(len(units), settings.sample_rate)
        self.noise_only = 0
        self.nonfinite = 0

    def run(self, on_step: OnStep | None) -> RoundResult:
        """All steps of the round."""
        before = {n: p.detach().clone() for n, p in self.parameters.items()}
        optimiser = make_optimiser(self.settings, list(self.parameters.values()))
        gradient: dict[str, Tensor] = {}
        for step in range(self.settings.steps):
            gradient = self._step(step, on_step)
            if self.settings.mode == "local_steps":
                optimiser.step([gradient[n].to(p.dtype) for n, p in self.parameters.items()])
        if self.settings.mode == "local_steps":
            gradient = {n: p.detach() - before[n] for n, p in self.parameters.items()}
        return RoundResult(
            update={n: g.cpu().float().numpy() for n, g in gradient.items()},
            steps=self.settings.steps,
            expected_batch=self.expected,
            patients=len(self.units),
            noise_only_steps=self.noise_only,
            nonfinite=self.nonfinite,
        )

    def _step(self, step: int, on_step: OnStep | None) -> dict[str, Tensor]:
        """One noisy step: the noisy sum of clipped gradients over the expected batch."""
        settings = self.settings
        batch = self._sample()
        size = sum(p.numel() for p in self.parameters.values())
        total = torch.zeros(size, dtype=torch.float64, device=self.device)
        lost = 0
        for part in microbatches(self._mine(batch), min(settings.microbatch, LARGEST_PASS)):
            lost += self._add(part, total)
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
            everywhere = torch.tensor(lost, device=self.device)
            dist.all_reduce(everywhere, group=self.group)
            lost = int(everywhere)
        if on_step is not None and self._leads():
            on_step(StepReport(step, len(batch), sum(map(len, batch)), lost))
        self.noise_only += not batch
        self.nonfinite += lost
        if self._leads():
            sigma = settings.sigma * settings.noise_share
            release(total, settings.clip, sigma, self.bits)
        if self.group is not None:
            dist.broadcast(total, group=self.group, group_src=0)
        return dict(self._named(total.div_(self.expected)))

    def _sample(self) -> Batch:
        """The samples of every unit that takes part; with a group, the leader's draw."""
        batch: Batch = []
        if self._leads():
            chosen = poisson_sample(self.bits, len(self.units), self.settings.sample_rate)
            most = self.settings.max_images_per_patient
            batch = [choose(self.bits, self.units[i], most) for i in chosen]
        if self.group is None:
            return batch
        drawn = torch.zeros(len(self.data.owners), dtype=torch.uint8)
        drawn[[int(i) for samples in batch for i in samples]] = 1
        drawn = drawn.to(self.device)
        dist.broadcast(drawn, group=self.group, group_src=0)
        taken = drawn.cpu().numpy() == 1
        return [samples[taken[samples]] for samples in self.units if taken[samples].any()]

    def _leads(self) -> bool:
        return self.group is None or dist.get_rank(self.group) == 0

    def _mine(self, batch: Batch) -> Batch:
        if self.group is None:
            return batch
        return batch[dist.get_rank(self.group) :: dist.get_world_size(self.group)]

    def _add(self, part: Batch, total: Tensor) -> int:
        """Add the clipped gradients of `part` to `total` [d]; how many were not finite."""
        inputs, targets = self.data.samples(np.concatenate(part))
        owner = torch.repeat_interleave(torch.arange(len(part)), torch.tensor([*map(len, part)]))
        units = Units.of(owner.to(self.device))
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        result = self.engine.clipped_sum(self.loss, inputs, targets, units, self.settings.clip)
        views = dict(self._named(total))
        for name, gradient in result.total.items():
            views[name] += gradient.reshape(views[name].shape)
        return result.nonfinite

    def _named(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        start = 0
        for name, parameter in self.parameters.items():
            yield name, flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()


def expected_batch(units: int, rate: float) -> int:
    """What the noisy sum is divided by: q times the number of units, rounded, at least 1.

    It is not hidden: whoever sees the update alone reads it off the size of the noise, and with it
    about how many units there are. So it is stated as released outside the accountant.
    """
    return max(1, round(units * rate))


def microbatches(batch: Batch, most: int) -> Iterator[Batch]:
    """Cut a batch into parts of at most `most` images, without ever parting a patient."""
    part: Batch = []
    size = 0
    for samples in batch:
        if part and size + len(samples) > most:
            yield part
            part, size = [], 0
        part.append(samples)
        size += len(samples)
    if part:
        yield part


def make_optimiser(settings: TrainingSettings, parameters: list[nn.Parameter]) -> Optimiser:
    """A fresh optimiser: AdamW without weight decay, or plain SGD."""
    return (Sgd if settings.optimiser == "sgd" else AdamW)(parameters, settings.lr)
