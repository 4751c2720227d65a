"""Tasks: from a plan's words to a model, its loss, its tensors and its data."""

from wardround.client.tasks.arrays import arrays, layout, load_arrays
from wardround.client.tasks.losses import per_sample_loss
from wardround.client.tasks.models import MODELS, batch_norms, build
from wardround.client.tasks.spec import TaskSpec

__all__ = [
    "MODELS",
    "TaskSpec",
    "arrays",
    "batch_norms",
    "build",
    "layout",
    "load_arrays",
    "per_sample_loss",
]
