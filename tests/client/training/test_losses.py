"""The catalogue of losses: values, and that no sample knows another."""

import pytest
import torch
import torch.nn.functional as f
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor

from wardround.client.training.losses import (
    CATALOGUE,
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    DiceCrossEntropy,
    Focal,
    PerSampleLoss,
    ProportionalHazards,
    WeightedCrossEntropy,
)

SHAPES: list[tuple[PerSampleLoss, tuple[int, ...]]] = [
    (CrossEntropy(), (4, 3)),
    (CrossEntropy(), (4, 3, 5, 5)),
    (WeightedCrossEntropy((1.0, 2.0, 3.0), 2.0), (4, 3)),
    (WeightedCrossEntropy((1.0, 2.0, 3.0), 2.0), (4, 3, 2, 2, 2)),
    (BinaryCrossEntropy(), (4, 1)),
    (BinaryCrossEntropy(), (4,)),
    (BinaryCrossEntropy(), (4, 2, 5, 5)),
    (Focal(), (4, 3)),
    (Focal(1.0), (4, 3, 4, 4, 4)),
    (Dice(), (4, 3, 5, 5)),
    (Dice(include_background=True), (4, 3, 4, 4, 4)),
    (DiceCrossEntropy(), (4, 3, 5, 5)),
    (ProportionalHazards((0.0, 2.0), (0.1, 0.3)), (4, 1)),
]


@pytest.mark.parametrize(("loss", "shape"), SHAPES)
def test_each_loss_depends_on_its_own_sample_alone(
    loss: PerSampleLoss, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(shape, dtype=torch.float64)
    targets = loss.example_targets(outputs)
    assert loss(outputs, targets).shape == (4,)

    def of(values: Tensor) -> Tensor:
        return loss(values, targets)

    jacobian = torch.autograd.functional.jacobian(of, outputs)
    jacobian = jacobian.reshape(4, 4, -1).abs().sum(2)
    assert bool((jacobian.diagonal() > 0).all())
    assert float((jacobian - jacobian.diagonal().diag()).abs().max()) == 0
    alone = torch.cat([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(loss(outputs, targets), alone)


def test_values_are_those_of_torch_and_monai_on_one_sample() -> None:
    torch.manual_seed(1)
    outputs = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    targets = CATALOGUE["dice"].example_targets(outputs)
    truth = targets[:, None]
    ready = {
        "softmax": True,
        "to_onehot_y": True,
        "smooth_nr": 1.0,
        "smooth_dr": 1.0,
        "include_background": False,
    }
    torch.testing.assert_close(Dice()(outputs, targets)[0], DiceLoss(**ready)(outputs, truth))
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0, include_background=True)
    mean_over_classes = focal(outputs, truth).double()
    torch.testing.assert_close(
        Focal()(outputs, targets)[0], mean_over_classes * 3, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        CrossEntropy()(outputs, targets)[0], f.cross_entropy(outputs, targets)
    )


def test_weights_have_a_fixed_normaliser() -> None:
    loss = WeightedCrossEntropy((1.0, 3.0), normaliser=2.0)
    outputs = torch.zeros(2, 2)
    expected = torch.tensor([0.5, 1.5]) * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(loss(outputs, torch.tensor([0, 1])), expected)


def test_proportional_hazards_is_the_full_likelihood() -> None:
    loss = ProportionalHazards((0.0, 2.0), (0.1, 0.4))
    eta, time, event = torch.tensor([0.5, -0.2]), torch.tensor([1.5, 3.0]), torch.tensor([1.0, 1.0])
    cumulative = torch.tensor([0.15, 0.2 + 0.4])
    hazard = torch.tensor([0.1, 0.4])
    expected = eta.exp() * cumulative - (eta + hazard.log())
    torch.testing.assert_close(loss(eta, torch.stack([time, event], 1)), expected)
    censored = loss(eta, torch.stack([time, torch.zeros(2)], 1))
    torch.testing.assert_close(censored, eta.exp() * cumulative)


def test_focal_is_finite_for_a_sure_sample() -> None:
    outputs = torch.tensor([[200.0, 0.0]], requires_grad=True)
    Focal()(outputs, torch.tensor([0])).sum().backward()
    assert bool(outputs.grad.isfinite().all())


def test_an_absent_class_gives_a_finite_dice() -> None:
    outputs = torch.zeros(1, 3, 4, 4)
    assert bool(Dice()(outputs, torch.zeros(1, 4, 4, dtype=torch.long)).isfinite().all())
