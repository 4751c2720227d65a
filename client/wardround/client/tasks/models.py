"""The models of the catalogue, by name: MONAI's networks, made free of batch statistics.

Every network is built without pretrained weights, its batch norms become group norms, each module
is registered once, and parameters that no output depends on are frozen at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import ResNet, resnet18
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.senet import SEResNet50
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR
from monai.networks.nets.vit import ViT
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wardround.client.errors import TaskInvalid
from wardround.client.tasks.small import Mean, convnet, perceptron
from wardround.client.tasks.spec import Argument, TaskSpec
from wardround.client.training.conversion import to_group_norm

Maker = Callable[[TaskSpec, int, Mapping[str, Any]], nn.Module]


def _convnet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    """`widths`: channels after each halving, (16, 32, 32) if not given.

    `strided`: 1 halves by strides, which is faster; `grid`: places that the last layer sees, 1.
    """
    widths, strided = args.get("widths", (16, 32, 32)), bool(args.get("strided", 0))
    grid = args.get("grid", 1)
    return convnet(task.input_shape[0], task.classes, widths, strided=strided, grid=grid)


def _perceptron(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    """`widths`: hidden layers, none if not given (logistic regression)."""
    return perceptron(task.input_shape[0], task.classes, args.get("widths", ()))


def _moments(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    """No arguments. One step of gradient descent with rate 1 is the mean over the patients."""
    if task.kind != "tabular-moments":
        raise TaskInvalid(f"the model moments is for the task tabular-moments, not {task.kind}")
    return Mean(task.input_shape[0], **args)


def _densenet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    return DenseNet121(dims, task.input_shape[0], task.classes, **args)


def _resnet18(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    return resnet18(
        spatial_dims=dims, n_input_channels=task.input_shape[0], num_classes=task.classes, **args
    )


def _resnet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    """`layers` blocks of `widths` channels at each scale."""
    return ResNet(
        "basic",
        list(args.get("layers", (1, 1, 1, 1))),
        list(args.get("widths", (16, 32, 64, 128))),
        spatial_dims=dims,
        n_input_channels=task.input_shape[0],
        num_classes=task.classes,
        conv1_t_size=3,
        no_max_pool=True,
    )


def _seresnet50(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    return SEResNet50(
        spatial_dims=dims, in_channels=task.input_shape[0], num_classes=task.classes, **args
    )


def _efficientnet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    return EfficientNetBN(
        "efficientnet-b0",
        pretrained=False,
        spatial_dims=dims,
        in_channels=task.input_shape[0],
        num_classes=task.classes,
        **args,
    )


def _vit(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    sizes = {"patch_size": 16, "hidden_size": 192, "mlp_dim": 768, "num_layers": 6, "num_heads": 3}
    net = ViT(
        task.input_shape[0],
        task.input_shape[1:],
        classification=True,
        num_classes=task.classes,
        spatial_dims=dims,
        post_activation="none",
        **{**sizes, **args},
    )
    return _FirstOutput(net)


def _unet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    sizes = {"channels": (16, 32, 64), "strides": (2, 2), "num_res_units": 1}
    return UNet(dims, task.input_shape[0], task.classes, **{**sizes, **args})


def _attention_unet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    sizes = {"channels": (16, 32, 64), "strides": (2, 2)}
    return AttentionUnet(dims, task.input_shape[0], task.classes, **{**sizes, **args})


def _basic_unet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    return BasicUNet(dims, task.input_shape[0], task.classes, **args)


def _segresnet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    return SegResNet(dims, in_channels=task.input_shape[0], out_channels=task.classes, **args)


def _dynunet(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    sizes = {
        "kernel_size": (3, 3, 3),
        "strides": (1, 2, 2),
        "upsample_kernel_size": (2, 2),
        "filters": (16, 32, 64),
    }
    net = DynUNet(dims, task.input_shape[0], task.classes, **{**sizes, **args})
    # Every block is registered in these lists and again in the nested skip layers that run them.
    for name in ("input_block", "downsamples", "bottleneck", "upsamples"):
        delattr(net, name)
    return net


def _unetr(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    sizes = {"feature_size": 8, "hidden_size": 96, "mlp_dim": 192, "num_heads": 4}
    return UNETR(
        task.input_shape[0],
        task.classes,
        task.input_shape[1:],
        spatial_dims=dims,
        **{**sizes, **args},
    )


def _swin_unetr(task: TaskSpec, dims: int, args: Mapping[str, Any]) -> nn.Module:
    sizes = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    return SwinUNETR(task.input_shape[0], task.classes, spatial_dims=dims, **{**sizes, **args})


MODELS: dict[str, Maker] = {
    "convnet": _convnet,
    "perceptron": _perceptron,
    "moments": _moments,
    "resnet": _resnet,
    "resnet18": _resnet18,
    "densenet121": _densenet,
    "seresnet50": _seresnet50,
    "efficientnet-b0": _efficientnet,
    "vit": _vit,
    "unet": _unet,
    "attention-unet": _attention_unet,
    "basic-unet": _basic_unet,
    "segresnet": _segresnet,
    "dynunet": _dynunet,
    "unetr": _unetr,
    "swin-unetr": _swin_unetr,
}


class _FirstOutput(nn.Module):
    """Drops all outputs but the first: MONAI's ViT also returns its hidden states."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits, [B, classes]."""
        logits: torch.Tensor = self.net(x)[0]
        return logits


def build(task: TaskSpec) -> nn.Module:
    """The model of a task, untrained. Raises TaskInvalid for a model or argument it does not know.

    Its initial values are torch's; a study sets them from the plan with `load_arrays`.
    """
    model = to_group_norm(_made(task))
    _without_inplace(model)
    _freeze_unused(model, task.input_shape)
    return model


def batch_norms(task: TaskSpec) -> int:
    """How many batch norms of the task's network `build` replaces by group norms."""
    return sum(isinstance(module, _BatchNorm) for module in _made(task).modules())


def _made(task: TaskSpec) -> nn.Module:
    """The network as its authors have it."""
    if task.model not in MODELS:
        raise TaskInvalid(f"unknown model {task.model!r}: one of {', '.join(MODELS)}")
    try:
        return MODELS[task.model](task, len(task.input_shape) - 1, _plain(task.args))
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise TaskInvalid(
            f"the model {task.model} does not accept {dict(task.args)}: {error}"
        ) from error


def _plain(args: Mapping[str, Argument]) -> dict[str, Any]:
    return {name: tuple(a) if isinstance(a, (list, tuple)) else a for name, a in args.items()}


def _without_inplace(model: nn.Module) -> None:
    # vmap cannot write in place into what it does not batch.
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment] # activations keep a plain bool


def _freeze_unused(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Parameters that never reach an output would carry nothing but noise."""
    parameters = dict(model.named_parameters())
    model.eval()
    with torch.enable_grad():
        output = model(torch.zeros(1, *input_shape)).sum()
    reached = torch.autograd.grad(output, list(parameters.values()), allow_unused=True)
    for parameter, gradient in zip(parameters.values(), reached, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
            torch.nn.init.zeros_(parameter)
    model.train()
