"""What is refused, each with what to use instead."""

import random
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as f
from monai.losses import DiceLoss
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
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


def test_a_replacement_is_where_and_of_what_type_the_batch_norm_was() -> None:
    model = to_group_norm(convolutional(nn.BatchNorm2d(8)).to("meta", torch.float64))
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    assert not [*to_group_norm(nn.BatchNorm2d(8, affine=False)).parameters()]


def test_running_statistics_are_refused_and_removed() -> None:
    model = convolutional(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))
    with pytest.raises(BatchCoupled, match="track_running_stats=False"):
        validate(model, CROSS_ENTROPY, (4,))
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
            validate(nn.Sequential(wrap(nn.Linear(4, 3))), CROSS_ENTROPY, (4,))


def test_a_module_registered_twice_is_refused() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(ModuleRefused, match="under two names"):
        validate(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 3)), CROSS_ENTROPY, (4,))
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModuleRefused, match="under two names"):
        validate(tied, CROSS_ENTROPY, (4,))


def test_recurrent_and_shapeless_modules_are_refused() -> None:
    with pytest.raises(ModuleRefused, match=r"recurrent.*nn\.Conv1d"):
        validate(nn.LSTM(3, 3), CROSS_ENTROPY, (4,))
    with pytest.raises(ModuleRefused, match="no shape yet"):
        validate(nn.LazyLinear(3), CROSS_ENTROPY, (4,))


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


class WhileTraining(nn.Module):
    """Well-behaved at rest; in training mode it does what `trick` does with the batch."""

    def __init__(self, trick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)
        self.trick = trick
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return self.head(self.trick(x) if self.training else x)


def normalised(x: Tensor) -> Tensor:
    """A batch norm that no rule knows by its class."""
    return f.batch_norm(x, None, None, training=True)


class Apart(torch.autograd.Function):
    """Forward nothing, backward a mixture."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, error: Tensor) -> Tensor:
        return error - error.mean(0)


class Remembering:
    """Moves each batch by the one before."""

    last: Tensor | float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        moved, self.last = x + self.last, x.detach().mean()
        return moved


@pytest.mark.parametrize(
    "trick",
    [
        pytest.param(lambda x: x - x.mean(0), id="centres on the batch"),
        pytest.param(normalised, id="functional batch norm"),
        pytest.param(lambda x: x + x.roll(1, 0), id="adds a neighbour"),
        pytest.param(lambda x: x.cumsum(0), id="adds all before"),
        pytest.param(lambda x: x.flip(0), id="exchanges samples"),
        pytest.param(Apart.apply, id="mixes backwards"),
        pytest.param(lambda x: x / 255 if x.max() > 20 else x, id="one range for the batch"),
        pytest.param(Remembering(), id="remembers the last batch"),
    ],
)
def test_what_mixes_samples_in_training_mode_alone_is_refused(
    trick: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(BatchCoupled, match="in training mode the other samples"):
        validate(WhileTraining(trick), CROSS_ENTROPY, (4,))


def test_random_numbers_in_training_mode_are_not_taken_for_mixing() -> None:
    tricks = (
        nn.Dropout(0.5),
        lambda x: x * (torch.rand(5, dtype=x.dtype) > 0.5),
        lambda x: x * (np.random.random() > 0.5),  # leaves out the layer for a whole batch
    )
    for trick in tricks:
        assert isinstance(validate(WhileTraining(trick), CROSS_ENTROPY, (4,)), BookKeeping)


CHANCES = [lambda: float(torch.rand(())), random.random, np.random.random]


@pytest.mark.parametrize("chance", CHANCES, ids=["torch", "python", "numpy"])
def test_what_mixes_samples_by_chance_alone_is_refused(chance: Callable[[], float]) -> None:
    def trick(x: Tensor) -> Tensor:
        return x + x.roll(1, 0) if chance() < 0.4 else x

    with pytest.raises(BatchCoupled, match="in training mode the other samples"):
        validate(WhileTraining(trick), CROSS_ENTROPY, (4,))


@pytest.mark.parametrize("chance", CHANCES, ids=["torch", "python", "numpy"])
def test_the_seed_of_the_experiment_does_not_stay(chance: Callable[[], float]) -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        validate(nn.Linear(4, 3), CROSS_ENTROPY, (4,))
        drawn.append(chance())
    assert drawn[0] != drawn[1]


class Averaging(nn.Module):
    """Keeps a running mean, as a norm of one's own may, in training mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.layer(x - self.mean)


def test_a_buffer_that_changes_in_training_mode_alone_is_refused() -> None:
    with pytest.raises(BatchCoupled, match="buffer mean"):
        validate(Averaging(), CROSS_ENTROPY, (4,))


class Shifting(nn.Module):
    """Moves its own bias by what it sees, as a limit on weights or a first batch may."""

    def __init__(self, *, always: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.always:
            # The same for all classes: no gradient shows it.
            self.layer.bias.data += x.mean()
        return self.layer(x)


@pytest.mark.parametrize("always", [True, False])
def test_a_parameter_that_a_forward_pass_changes_is_refused(always: bool) -> None:
    with pytest.raises(BatchCoupled, match=r"the parameter layer\.bias changes"):
        validate(Shifting(always=always), CROSS_ENTROPY, (4,))


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


class HiddenWhileTraining(nn.Module):
    """Runs its layer, and in training mode uses its weight a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        again = x @ self.layer.weight.T if self.training else 0
        return self.layer(x) + again


def test_a_weight_used_behind_the_engines_back_in_training_mode_is_refused() -> None:
    with pytest.raises(GradientMismatch):
        validate(HiddenWhileTraining(), CROSS_ENTROPY, (4,))


class Answering(nn.Module):
    """Answers in the form that `wrap` gives."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.layer(x))


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        pytest.param(lambda x: (x, x), "tuple", id="tuple"),
        pytest.param(lambda x: {"out": x}, "dict", id="dict"),
        pytest.param(lambda x: x.mean(), r"shape \[\]", id="scalar"),
        pytest.param(lambda x: x.mean(0, keepdim=True), r"shape \[1, 3\]", id="one for all"),
    ],
)
def test_a_model_that_does_not_answer_one_tensor_is_refused(
    wrap: Callable[[Tensor], object], kind: str
) -> None:
    with pytest.raises(ModuleRefused, match=f"answers {kind} for 3 samples: wrap it"):
        validate(Answering(wrap), CROSS_ENTROPY, (4,))


def test_a_model_that_does_not_run_is_refused_whatever_it_raises() -> None:
    def asserts(x: Tensor) -> Tensor:
        assert x.shape[1] == 7, "seven classes"
        return x

    for wrap in (asserts, lambda x: {}["head"], lambda x: x.heads, lambda x: x / (1 // 0)):
        with pytest.raises(ModuleRefused, match=r"cannot be tried on inputs of shape \[4\]"):
            validate(Answering(wrap), CROSS_ENTROPY, (4,))


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(reduction="none"), DiceLoss(batch=True)]
)
def test_ready_made_losses_are_refused(loss: nn.Module) -> None:
    with pytest.raises(LossRefused, match="of the same name"):
        validate(nn.Linear(4, 3), loss, (4,))


def test_any_other_function_is_refused() -> None:
    with pytest.raises(LossRefused, match="derive from PerSampleLoss"):
        validate(nn.Linear(4, 3), lambda outputs, targets: outputs.sum(), (4,))


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


class Recalling(CrossEntropy):
    """Adds up all outputs it has ever seen, in a place of its own."""

    seen: ClassVar[list[Tensor]] = []

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.seen.append(outputs.detach().sum(0))
        return f.cross_entropy(outputs + torch.stack(self.seen).sum(0), targets, reduction="none")


def test_a_loss_that_remembers_samples_is_refused_by_experiment() -> None:
    with pytest.raises(GradientMismatch, match="the loss mixes samples"):
        validate(nn.Linear(4, 3), Recalling(), (4,))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_model_in_few_bits_is_refused(kind: torch.dtype) -> None:
    with pytest.raises(TrainingRefused, match=r"train in float32, model\.float\(\)"):
        validate(nn.Linear(4, 3).to(kind), CROSS_ENTROPY, (4,))


def test_training_under_autocast_is_refused() -> None:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TrainingRefused, match="leave it out"),
    ):
        validate(nn.Linear(4, 3), CROSS_ENTROPY, (4,))


def test_wrappers_are_refused() -> None:
    plain = nn.Sequential(nn.Linear(4, 3))
    ghost = GradSampleModuleFastGradientClipping(plain, max_grad_norm=1.0)
    for wrapper in (ghost, GradSampleModule(nn.Sequential(nn.Linear(4, 3)))):
        with pytest.raises(ModuleRefused, match="ghost mode are wrong"):
            validate(wrapper, CROSS_ENTROPY, (4,))
    with pytest.raises(ModuleRefused, match="`group` of train_round"):
        validate(nn.DataParallel(nn.Linear(4, 3)), CROSS_ENTROPY, (4,))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(nn.Embedding(10, 3), "scalar types: Long", id="tokens"),
        pytest.param(nn.Linear(5, 3), "shapes cannot be multiplied", id="another shape"),
    ],
)
def test_a_model_that_cannot_be_tried_is_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(ModuleRefused, match=reason):
        validate(model, CROSS_ENTROPY, (4,))


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


class FilledFromTheBatch(nn.Module):
    """Missing numbers become the mean of the batch's: on whole inputs it does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.where(x.isnan(), x.nanmean(0, keepdim=True), x))


class NothingWhereAnyIsMissing(nn.Module):
    """A batch with one missing number is left out as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.isfinite().all() else self.layer(torch.zeros_like(x))


class FilledWithZero(nn.Module):
    """Each sample by itself: nothing wrong with that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.nan_to_num(0.0))


@pytest.mark.parametrize("kind", [FilledFromTheBatch, NothingWhereAnyIsMissing])
def test_numbers_missing_in_one_sample_may_not_touch_another(kind: type[nn.Module]) -> None:
    with pytest.raises(BatchCoupled, match="missing"):
        validate(kind(), CROSS_ENTROPY, (4,))


def test_a_sample_may_fill_its_own_gaps() -> None:
    validate(FilledWithZero(), CROSS_ENTROPY, (4,))
