"""The catalogue of models, and models as arrays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from wardround.client.errors import TaskInvalid
from wardround.client.tasks import (
    TaskSpec,
    arrays,
    batch_norms,
    build,
    layout,
    load_arrays,
    per_sample_loss,
)
from wardround.client.training import check
from wardround.client.training.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    DiceCrossEntropy,
    WeightedCrossEntropy,
)

QUICK = [
    "EfficientNet-b0",
    "UNet 3D",
    "AttentionUnet",
    "DynUNet",
    "UNETR",
    "ViT",
    "SwinUNETR",
    "MLP",
]


@pytest.mark.parametrize("name", QUICK)
def test_a_model_has_no_batch_statistics_and_each_tensor_once(name: str) -> None:
    task = check.NETWORKS[name]
    model = build(task)
    for module in model.modules():
        assert isinstance(module, _InstanceNorm) or not isinstance(module, _BatchNorm)
        assert not getattr(module, "track_running_stats", False)
    tensors = layout(model)
    assert len({n for n, _, _ in tensors}) == len(tensors) > 0
    every = [n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    assert every == [n for n, _, _ in tensors]
    output = model(torch.zeros(2, *task.input_shape))
    dense = task.kind.startswith("segmentation")
    assert output.shape == (2, task.classes, *(task.input_shape[1:] if dense else ()))


def test_parameters_without_any_effect_are_frozen_at_zero() -> None:
    model = build(check.NETWORKS["UNETR"])
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert frozen
    assert all(float(p.abs().max()) == 0 for p in frozen)
    assert not {n for n, p in model.named_parameters() if not p.requires_grad} & {
        n for n, _, _ in layout(model)
    }


def test_arrays_go_out_and_come_back() -> None:
    task = TaskSpec("image-classification-2d", "resnet", 4, (1, 32, 32))
    first, second = build(task), build(task)
    values = arrays(first)
    assert [(n, v.shape, str(v.dtype)) for n, v in values.items()] == list(layout(first))
    load_arrays(second, values)
    image = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(first(image), second(image))
    # Copies: what is loaded or taken does not change with the model.
    values["fc.bias"] += 1
    assert not np.array_equal(arrays(second)["fc.bias"], values["fc.bias"])


def test_arrays_of_another_model_are_refused() -> None:
    model = nn.Linear(2, 3)
    values = arrays(model)
    with pytest.raises(TaskInvalid, match="1 missing, 1 unknown"):
        load_arrays(model, {"weight": values["weight"], "other": values["bias"]})
    with pytest.raises(TaskInvalid, match="bias has shape"):
        load_arrays(model, {"weight": values["weight"], "bias": np.zeros(4, np.float32)})


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (("image-classification-4d", "convnet", 2, (1, 8, 8)), "unknown task"),
        (("image-classification-2d", "convnet", 1, (1, 8, 8)), "at least 2"),
        (("image-classification-2d", "convnet", 2, (8, 8)), "does not fit"),
        (("tabular", "perceptron", 2, (0,)), "does not fit"),
    ],
)
def test_a_task_that_contradicts_itself_is_refused(
    spec: tuple[str, str, int, tuple[int, ...]], match: str
) -> None:
    with pytest.raises(TaskInvalid, match=match):
        TaskSpec(*spec)  # type: ignore[arg-type] # the mistake under test


def test_batch_norms_that_a_model_loses_are_counted() -> None:
    assert batch_norms(check.NETWORKS["ResNet18"]) == 20
    assert batch_norms(check.NETWORKS["MLP"]) == 0
    model = build(check.NETWORKS["ResNet18"])
    assert sum(isinstance(m, nn.GroupNorm) for m in model.modules()) == 20


def test_unknown_models_arguments_and_losses_are_refused() -> None:
    with pytest.raises(TaskInvalid, match="unknown model 'alexnet'"):
        build(TaskSpec("image-classification-2d", "alexnet", 2, (1, 8, 8)))
    with pytest.raises(TaskInvalid, match="for the task tabular-moments"):
        build(TaskSpec("tabular", "moments", 2, (6,)))
    with pytest.raises(TaskInvalid, match="does not accept"):
        build(TaskSpec("image-classification-2d", "vit", 2, (1, 32, 32), {"hiden_size": 3}))
    with pytest.raises(TaskInvalid, match="unknown loss"):
        per_sample_loss(TaskSpec("tabular", "perceptron", 2, (3,), loss="hinge"))


def test_weights_of_classes_come_from_the_plan() -> None:
    task = TaskSpec("tabular", "perceptron", 2, (3,), loss="weighted-cross-entropy(1, 4.5)")
    assert per_sample_loss(task) == WeightedCrossEntropy((1.0, 4.5), 2.75)
    for bad in ("(1)", "(1, 0)", "(1, 2, 3)", "(1, -2)", "(1, 1.1.1)", "(1, nan)", ""):
        with pytest.raises(TaskInvalid, match="weighted-cross-entropy"):
            per_sample_loss(replace(task, loss=f"weighted-cross-entropy{bad}"))


def test_each_task_has_its_usual_loss() -> None:
    assert per_sample_loss(TaskSpec("tabular", "perceptron", 2, (3,))) == CrossEntropy()
    assert per_sample_loss(TaskSpec("tabular", "p", 2, (3,), loss="bce")) == BinaryCrossEntropy()
    assert per_sample_loss(TaskSpec("segmentation-3d", "u", 2, (1, 8, 8, 8))) == DiceCrossEntropy()
