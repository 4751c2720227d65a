"""A cohort as the engine trains on it: MONAI transforms bring each sample to the plan's shape."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import ResizeWithPadOrCrop
from monai.transforms.spatial.array import Resize
from monai.transforms.utility.array import EnsureType

from wardround.client.errors import TaskInvalid
from wardround.client.training import TensorData
from wardround.datasets.cohort import Cohort, Sample
from wardround.datasets.manifest import Part
from wardround.privacy.plan import Task


def training_data(cohort: Cohort, task: Task, part: Part) -> TensorData:
    """Return the samples of one part in memory: inputs [n, *task.input_shape], float32.

    Targets are class numbers in the plan's order [n], or for volumes label maps
    [n, *spatial]. Pictures are resized, volumes cropped or padded around their centre. Raises
    TaskInvalid when the cohort has another kind, class or number of features.
    """
    samples = cohort.samples(part)
    if not samples:
        raise TaskInvalid(f"the data set has no sample in its part {part}")
    inputs = torch.stack([_input(cohort, sample, task) for sample in samples])
    return TensorData(inputs, _targets(cohort, samples, task), [s.patient for s in samples])


def _input(cohort: Cohort, sample: Sample, task: Task) -> torch.Tensor:
    values = cohort.moments(sample) if task.kind == "tabular-moments" else cohort.read(sample)
    if values.shape[0] != task.input_shape[0] or values.ndim != len(task.input_shape):
        raise TaskInvalid(
            f"a sample has shape {values.shape}, the plan asks for {task.input_shape}"
        )
    if values.shape == task.input_shape or values.ndim == 1:
        return torch.from_numpy(np.ascontiguousarray(values))
    resize = (
        ResizeWithPadOrCrop(task.input_shape[1:])
        if task.kind == "segmentation-3d"
        else Resize(task.input_shape[1:], mode="area")
    )
    shaped = Compose([EnsureType(track_meta=False), resize])(values)
    return torch.as_tensor(shaped, dtype=torch.float32)


def _targets(cohort: Cohort, samples: Sequence[Sample], task: Task) -> torch.Tensor:
    if task.kind == "segmentation-3d":
        crop = Compose([EnsureType(track_meta=False), ResizeWithPadOrCrop(task.input_shape[1:])])
        masks = [torch.as_tensor(crop(cohort.read_mask(s))[0]) for s in samples]
        return torch.stack(masks).long()
    number = {name: index for index, name in enumerate(task.classes)}
    unknown = {sample.label for sample in samples} - number.keys()
    if unknown:
        raise TaskInvalid("the data set has a class that the plan does not name")
    return torch.tensor([number[sample.label] for sample in samples])
