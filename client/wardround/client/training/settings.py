"""What a round of training is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Unit = Literal["patient", "image"]
Mode = Literal["local_steps", "one_step"]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """The private training of one round, as the plan fixes it.

    clip: C, the most one unit moves the sum of gradients in a step, L2, > 0.
    sigma: noise multiplier, > 0: the noise's standard deviation over the sensitivity.
    sample_rate: q in (0, 1], the probability with which a unit takes part in a step.
    steps: noisy steps in this round, >= 1; exactly 1 in mode "one_step".
    optimiser: "adamw" or "sgd"; its state starts afresh each round.
    lr: learning rate, > 0; unused in mode "one_step".
    unit: whose presence is hidden. "image" only where a patient has one image.
    max_images_per_patient: at most so many, drawn anew each step, enter a patient's mean.
    microbatch: images in one pass through the network, at most 256 of them (`LARGEST_PASS`);
        changes memory and speed, not the result.
    noise_share: 1.0 is full local noise. Under shared noise this site adds noise_share * sigma,
        see `shared_noise.noise_share`.
    mode: "local_steps" answers the change of the model, "one_step" the noisy mean gradient.
    """

    clip: float
    sigma: float
    sample_rate: float
    steps: int
    lr: float = 1e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    unit: Unit = "patient"
    max_images_per_patient: int = 4
    microbatch: int = 64
    noise_share: float = 1.0
    mode: Mode = "local_steps"

    def __post_init__(self) -> None:
        if not (self.clip > 0 and self.sigma > 0 and self.lr > 0):
            raise ValueError("clip, sigma and lr are positive")
        if not 0 < self.sample_rate <= 1:
            raise ValueError("sample_rate lies in (0, 1]")
        if min(self.steps, self.max_images_per_patient, self.microbatch) < 1:
            raise ValueError("steps, max_images_per_patient and microbatch are at least 1")
        if not 0 < self.noise_share <= 1:
            raise ValueError("noise_share lies in (0, 1]")
        if self.mode == "one_step" and self.steps != 1:
            raise ValueError("mode one_step takes exactly one step a round")
        if self.noise_share < 1 and self.mode != "one_step":
            raise ValueError("noise is shared only in mode one_step: one noisy step a release")
        if self.optimiser not in ("adamw", "sgd"):
            raise ValueError("optimiser is adamw or sgd")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did. Of this site alone: none of it is noised, so none of it may leave.

    `patients` took part, `images` of theirs were seen, `nonfinite` gradients counted as zero.
    """

    step: int
    patients: int
    images: int
    nonfinite: int


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The outcome of a round.

    update: tensor name -> float32. Local steps: model after less model before. One step: the noisy
        sum of clipped gradients over `expected_batch`.
    steps: noisy steps made, those without a patient included.
    expected_batch: q times the number of units, rounded, at least 1: the divisor, and the weight
        to send under shared noise.
    patients: units in the training data.
    noise_only_steps, nonfinite: for the site's own screen; they are not noised and must not leave.
    """

    update: dict[str, npt.NDArray[np.float32]] = field(repr=False)
    steps: int
    expected_batch: int
    patients: int
    noise_only_steps: int = field(repr=False)
    nonfinite: int = field(repr=False)
