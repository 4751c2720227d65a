"""Training data as the engine sees them: samples, targets, and whose each sample is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from wardround.client.errors import TrainingDataInvalid


class TrainingData(Protocol):
    """Samples with an owner each. What `samples` returns is stacked along the first axis."""

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """Index of the patient of each sample, [n], values 0 .. patients-1."""

    def samples(self, indices: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [b, *input_shape] and targets [b, ...] of the given samples, in that order."""


class TensorData:
    """Training data that fit into memory.

    `patients` names the patient of each sample, by anything hashable; without it every sample is
    a patient of its own.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        patients: Sequence[Hashable] | None = None,
    ) -> None:
        names: Sequence[Hashable] = range(len(inputs)) if patients is None else patients
        if not len(inputs) == len(targets) == len(names):
            raise TrainingDataInvalid(
                f"{len(inputs)} samples, {len(targets)} targets and {len(names)} patients: every "
                "sample needs exactly one target and one patient"
            )
        number: dict[Hashable, int] = {}
        self._owners = np.array([number.setdefault(n, len(number)) for n in names], dtype=np.int64)
        self._inputs = inputs
        self._targets = targets

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """Index of the patient of each sample, [n]."""
        return self._owners

    def samples(self, indices: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of the given samples."""
        chosen = torch.from_numpy(indices)
        return self._inputs[chosen], self._targets[chosen]


def samples_of_units(data: TrainingData, unit: str) -> list[npt.NDArray[np.int64]]:
    """The samples of every unit, in the units' order.

    `unit` "image" makes every sample a unit, and is refused where a patient has several: hiding
    one image of a patient does not hide the patient.
    """
    owners = data.owners
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners)
    if unit == "image" and counts.size and counts.max() > 1:
        raise TrainingDataInvalid(
            f"the unit is the image, but a patient has {counts.max()} images: set the unit to "
            "patient, or keep one image per patient"
        )
    return [s for s in np.split(order, np.cumsum(counts)[:-1]) if s.size]
