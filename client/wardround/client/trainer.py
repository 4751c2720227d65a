"""From an approved plan to a trained update: the model, the data and one round of training."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from wardround.client.cohort_data import training_data
from wardround.client.errors import Refused
from wardround.client.tasks import TaskSpec, arrays, build, layout, load_arrays, per_sample_loss
from wardround.client.training import (
    Engine,
    RoundResult,
    StepReport,
    TrainingData,
    TrainingSettings,
    check_shared_noise,
    counters,
    evaluate,
    expected_batch,
    noise_share,
    train_round,
    validate,
)
from wardround.datasets.cohort import Cohort
from wardround.privacy import run_spec
from wardround.privacy.model import TensorLayout, Vector, flatten, unflatten
from wardround.privacy.plan import StudyPlan

logger = logging.getLogger(__name__)
REPORT_SECONDS = 5.0
OUTSIDE = (
    "number of patients to train on, as weight of the update, in the masked sum only",
    "patients expected in a step, by which its noisy sum is divided: the size of the noise tells",
    "held-out counts of evaluation, in the masked sum only",
)
SCALED = (
    "scaling of the table by mean and deviation of this site's own rows: a patient's inputs depend "
    "on the others'; scaling = schema in the schema depends on nobody"
)


def task_spec(plan: StudyPlan) -> TaskSpec:
    """Return the plan's task as the model catalogue takes it."""
    return TaskSpec(
        kind=plan.task.kind,
        model=plan.model.name,
        classes=len(plan.task.classes),
        input_shape=plan.task.input_shape,
        args=dict(plan.model.arguments),
        loss=plan.task.loss,
    )


def tensor_layout(model: nn.Module) -> tuple[TensorLayout, ...]:
    """Return name and shape of every tensor that trains, as a plan lists them."""
    return tuple(TensorLayout(name, shape) for name, shape, _ in layout(model))


def settings(plan: StudyPlan) -> TrainingSettings:
    """Return the training of one round as the plan fixes it."""
    privacy, training, secagg = plan.privacy, plan.training, plan.secure_aggregation
    return TrainingSettings(
        clip=float(privacy.clip),
        sigma=float(privacy.noise_multiplier),
        sample_rate=float(privacy.sample_rate),
        steps=plan.steps_per_round,
        lr=float(training.learning_rate),
        optimiser=training.optimiser,
        unit=privacy.unit,
        max_images_per_patient=privacy.max_images_per_patient,
        microbatch=training.microbatch,
        noise_share=noise_share(secagg.threshold, secagg.colluders)
        if privacy.shared_noise
        else 1.0,
        mode=training.mode,
    )


@dataclass(slots=True)
class Trainer:
    """The local training of one plan on one cohort; data are read once and kept in memory.

    `outside` names, one line each, what leaves with an update and no accountant covers.
    """

    plan: StudyPlan
    device: str
    _model: nn.Module = field(repr=False)
    _train: TrainingData = field(repr=False)
    _held_out: TrainingData = field(repr=False)
    _engine: Engine | None = field(default=None, init=False, repr=False)
    outside: tuple[str, ...] = OUTSIDE

    @classmethod
    def open(cls, plan: StudyPlan, cohort: Cohort, device: str = "cpu") -> "Trainer":
        """Build the plan's model and load the cohort.

        Raises Refused when the model built here has other tensors than the plan lists, the plan
        counts other things than this version's evaluation, or shared noise would not add up.
        """
        model = check_layout(plan)
        train = training_data(cohort, plan.task, "train")
        if plan.privacy.shared_noise:
            _check_shared_noise(plan, len(set(train.owners)))
        held_out = training_data(cohort, plan.task, "held_out")
        return cls(plan, device, model.to(device), train, held_out, _outside(cohort))

    def evaluate(self, vector: Vector) -> tuple[int, ...]:
        """Return the counters of the global model `vector` [D] on held-out data.

        All zero when there are fewer held-out samples than the plan's `min_count`: a small count
        does not leave the site, not even inside a sum.
        """
        names = run_spec.counters(self.plan)
        if len(self._held_out.owners) < self.plan.evaluation.min_count:
            return (0,) * len(names)
        self._load(vector)
        found = evaluate(self._model, self._held_out, task_spec(self.plan))
        return tuple(found[name] for name in names)

    def train(self, vector: Vector, say: Callable[[str], None] = logger.info) -> tuple[Vector, int]:
        """Train one round from `vector` [D]; return the update [D] and the weight.

        The update is clipped coordinate by coordinate to the plan's `update_clip`, which costs
        no privacy: it is made from noisy values alone.
        """
        self._load(vector)
        total, began, last = self.plan.steps_per_round, time.monotonic(), 0.0

        def on_step(step: StepReport) -> None:
            nonlocal last
            if time.monotonic() - last > REPORT_SECONDS:
                last = time.monotonic()
                say(f"step {step.step + 1} of {total}")

        loss = per_sample_loss(task_spec(self.plan))
        self._engine = self._engine or validate(self._model, loss, self.plan.task.input_shape)
        result = train_round(
            self._model,
            self._train,
            settings(self.plan),
            loss,
            engine=self._engine,
            on_step=on_step,
        )
        update = flatten(self.plan.model.tensors, result.update)
        bound = np.float32(self.plan.secure_aggregation.update_clip)
        if result.nonfinite:
            say(
                f"{result.nonfinite} gradients were not finite and counted as zero; look at the "
                "images with: wardround-site data check"
            )
        say(f"{result.steps} noisy steps in {time.monotonic() - began:.1f} s")
        return np.clip(update, -bound, bound), self._weight(result)

    def _weight(self, result: RoundResult) -> int:
        if self.plan.privacy.shared_noise:
            # Shared noise adds up to what was accounted only at this very weight.
            return result.expected_batch
        return min(result.patients, self.plan.secure_aggregation.max_weight)

    def _load(self, vector: Vector) -> None:
        load_arrays(self._model, unflatten(self.plan.model.tensors, vector))


def _outside(cohort: Cohort) -> tuple[str, ...]:
    """What a spend on `cohort` states as outside the accountant."""
    scaled = cohort.schema is not None and cohort.schema.scaling == "site"
    return (*OUTSIDE, SCALED) if scaled else OUTSIDE


def _check_shared_noise(plan: StudyPlan, units: int) -> None:
    secagg, chosen = plan.secure_aggregation, settings(plan)
    check_shared_noise(
        chosen,
        units=units,
        expected=expected_batch(units, chosen.sample_rate),
        update_clip=float(secagg.update_clip),
        max_weight=secagg.max_weight,
        largest_value=(2 ** (secagg.ring_bits - 1) - 1) // len(plan.participants.sites),
    )


def check_layout(plan: StudyPlan) -> nn.Module:
    """Return the plan's model; Refused when its tensors here are not those of the plan."""
    spec = task_spec(plan)
    model = build(spec)
    per_sample_loss(spec)  # raises TaskInvalid for a loss that is not in the catalogue
    if tensor_layout(model) != plan.model.tensors:
        raise Refused(
            "layout",
            f"the model {plan.model.name} of this version has other tensors than the plan lists; "
            "make the plan anew with: wardround-site plan draft",
        )
    if counters(spec) != run_spec.counters(plan):
        raise Refused("layout", "the plan counts other things than this version evaluates")
    return model


def set_threads(threads: int) -> None:
    """Use so many processor threads for training; 0: all there are."""
    if threads:
        torch.set_num_threads(threads)


__all__ = ["Trainer", "arrays", "check_layout", "set_threads", "task_spec", "tensor_layout"]
