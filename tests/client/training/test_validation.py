"""What is refused, each with what to use instead."""

import pytest
import torch
import torch.nn.functional as f
from monai.losses import DiceLoss
from torch import Tensor, nn

from wardround.client.errors import (
    BatchCoupled,
    GradientMismatch,
    LossRefused,
    ModuleRefused,
    TrainingRefused,
)
from wardround.client.tasks import TaskSpec, build
from wardround.client.training import to_group_norm, validate
from wardround.client.training.engine import BookKeeping
from wardround.client.training.losses import CATALOGUE, CrossEntropy, PerSampleLoss
from wardround.client.training.validation import check_accountant, check_loader
from wardround.client.training.vectorised import VectorisedGradients

CROSS_ENTROPY = CATALOGUE["cross-entropy"]


def convolutional(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), norm, nn.Flatten(), nn.Linear(8 * 36, 3))


def test_batch_norm_is_refused_and_converted() -> None:
    model = convolutional(nn.BatchNorm2d(8))
    with pytest.raises(BatchCoupled, match="to_group_norm"):
        validate(model, CROSS_ENTROPY, (1, 8, 8))
    assert isinstance(validate(to_group_norm(model), CROSS_ENTROPY, (1, 8, 8)), BookKeeping)
    assert isinstance(to_group_norm(nn.BatchNorm1d(8)), nn.GroupNorm)


def test_running_statistics_are_refused_and_removed() -> None:
    model = convolutional(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))
    with pytest.raises(BatchCoupled, match="track_running_stats=False"):
        validate(model, CROSS_ENTROPY)
    validate(to_group_norm(model), CROSS_ENTROPY, (1, 8, 8))


class Counting(nn.Module):
    """Keeps a statistic of what it has seen, under a name that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().sum()
        return self.layer(x)


def test_a_buffer_that_changes_is_refused() -> None:
    with pytest.raises(BatchCoupled, match="buffer seen"):
        validate(Counting(), CROSS_ENTROPY, (4,))


def test_spectral_normalisation_is_refused() -> None:
    for wrap in (nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm):
        with pytest.raises(BatchCoupled, match="spectral"):
            validate(nn.Sequential(wrap(nn.Linear(4, 3))), CROSS_ENTROPY)


def test_a_module_registered_twice_is_refused() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(ModuleRefused, match="under two names"):
        validate(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 3)), CROSS_ENTROPY)
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModuleRefused, match="under two names"):
        validate(tied, CROSS_ENTROPY)


def test_recurrent_and_shapeless_modules_are_refused() -> None:
    with pytest.raises(ModuleRefused, match="recurrent"):
        validate(nn.LSTM(3, 3), CROSS_ENTROPY)
    with pytest.raises(ModuleRefused, match="no shape yet"):
        validate(nn.LazyLinear(3), CROSS_ENTROPY)


def test_nothing_to_train_is_refused() -> None:
    model = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(ModuleRefused, match="nothing to train"):
        validate(model, CROSS_ENTROPY, (4,))


class Mixing(nn.Module):
    """Adds the batch's mean to every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(x).mean(0)


def test_a_model_that_mixes_samples_is_refused_by_experiment() -> None:
    with pytest.raises(GradientMismatch, match="mixes samples"):
        validate(Mixing(), CROSS_ENTROPY, (4,))


class Hidden(nn.Module):
    """Uses a layer's weight without running the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.layer.weight.T + self.layer.bias


def test_a_weight_used_behind_the_engines_back_is_refused_by_experiment() -> None:
    with pytest.raises(GradientMismatch):
        validate(nn.Sequential(Hidden()), CROSS_ENTROPY, (4,))


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(reduction="none"), DiceLoss(batch=True)]
)
def test_ready_made_losses_are_refused(loss: nn.Module) -> None:
    with pytest.raises(LossRefused, match="of the same name"):
        validate(nn.Linear(4, 3), loss)


def test_any_other_function_is_refused() -> None:
    with pytest.raises(LossRefused, match="derive from PerSampleLoss"):
        validate(nn.Linear(4, 3), lambda outputs, targets: outputs.sum())


class Mean(CrossEntropy):
    """A scalar, as torch gives by default."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return f.cross_entropy(outputs, targets)


class Weighted(CrossEntropy):
    """Normalised by the weights in the batch."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weight = outputs.new_tensor([1.0, 5.0, 9.0])
        raw = f.cross_entropy(outputs, targets, weight, reduction="none")
        return raw / weight[targets].sum()


class Partial(CrossEntropy):
    """Cox's partial likelihood: everybody against all at risk."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, 0].logcumsumexp(0) - outputs[:, 0]


@pytest.mark.parametrize("loss", [Weighted(), Partial()])
def test_a_loss_that_couples_the_batch_is_refused_by_experiment(loss: PerSampleLoss) -> None:
    with pytest.raises(GradientMismatch, match="the loss mixes samples"):
        validate(nn.Linear(4, 3), loss, (4,))


def test_a_loss_that_is_a_scalar_is_refused_by_experiment() -> None:
    with pytest.raises(LossRefused, match="one number for each sample"):
        validate(nn.Linear(4, 3), Mean(), (4,))


def test_an_unknown_layer_falls_back_to_the_whole_model() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    model = nn.Sequential(nn.Linear(4, 3), Scaled())
    assert isinstance(validate(model, CROSS_ENTROPY, (4,)), VectorisedGradients)


def test_what_neither_engine_follows_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale if float(x.detach().sum()) > 0 else x * 2 * self.scale

    with pytest.raises(ModuleRefused, match="vmap cannot follow"):
        validate(nn.Sequential(nn.Linear(4, 3), Branching()), CROSS_ENTROPY, (4,))


def test_dropout_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    model[1].eval()
    validate(model, CROSS_ENTROPY, (4,))
    assert model.training
    assert not model[1].training


def test_the_gaussian_dp_accountant_is_refused() -> None:
    check_accountant("pld")
    for name in ("gdp", "moments"):
        with pytest.raises(TrainingRefused, match="use PLD"):
            check_accountant(name)


def test_a_shuffled_loader_is_refused() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(3)))
    with pytest.raises(TrainingRefused, match="Poisson"):
        check_loader(loader)


@pytest.mark.parametrize("model", ["convnet", "resnet"])
def test_models_of_the_catalogue_pass(model: str) -> None:
    task = TaskSpec("image-classification-2d", model, 2, (1, 16, 16))
    assert isinstance(validate(build(task), CROSS_ENTROPY, task.input_shape), BookKeeping)
