"""What a plan says about its task, as far as the model and the data need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from wardround.client.errors import TaskInvalid

Kind = Literal[
    "image-classification-2d",
    "image-classification-3d",
    "segmentation-2d",
    "segmentation-3d",
    "tabular",
    "tabular-moments",
]
Argument = int | str | tuple[int, ...]
DIMENSIONS: dict[Kind, int] = {
    "image-classification-2d": 2,
    "image-classification-3d": 3,
    "segmentation-2d": 2,
    "segmentation-3d": 3,
    "tabular": 0,
    "tabular-moments": 0,
}


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    kind: what is learned.
    model: a name of `wardround.client.tasks.models.MODELS`.
    classes: how many, background included; 2 for yes and no.
    input_shape: (C, H, W), (C, D, H, W), or (features,) for a table.
    args: the model's own arguments, see each model's function.
    loss: a name of the loss catalogue; empty for the task's usual one.
    """

    kind: Kind
    model: str
    classes: int
    input_shape: tuple[int, ...]
    args: Mapping[str, Argument] = field(default_factory=dict)
    loss: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise TaskInvalid(f"unknown task {self.kind!r}: one of {', '.join(get_args(Kind))}")
        if self.classes < 2:
            raise TaskInvalid(f"{self.classes} classes: a task has at least 2")
        if len(self.input_shape) != DIMENSIONS[self.kind] + 1 or min(self.input_shape) < 1:
            raise TaskInvalid(
                f"input shape {self.input_shape} does not fit {self.kind}: channels (or features) "
                f"and {DIMENSIONS[self.kind]} spatial sizes, all at least 1"
            )
