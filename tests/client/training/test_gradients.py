"""Per-sample gradients against a loop over single samples, and against Opacus."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import Tensor, nn

from wardround.client.errors import ModuleRefused
from wardround.client.tasks import TaskSpec, build
from wardround.client.training import check, tape, weights
from wardround.client.training import weight_gradients as ways
from wardround.client.training.engine import BookKeeping, checked_losses, trainable
from wardround.client.training.experiment import difference
from wardround.client.training.losses import CATALOGUE
from wardround.client.training.tape import Units
from wardround.client.training.vectorised import VectorisedGradients, loop

CROSS_ENTROPY = CATALOGUE["cross-entropy"]
# The large networks run in `python -m wardround.client.training.check`, with all the others.
QUICK = [
    "EfficientNet-b0",
    "UNet",
    "UNet 3D",
    "AttentionUnet",
    "BasicUNet",
    "SegResNet 3D",
    "DynUNet",
    "ViT",
    "SwinUNETR",
    "MLP",
]


@pytest.mark.parametrize("name", QUICK)
def test_a_network_of_the_catalogue_has_exact_gradients(name: str) -> None:
    row = check.check(name)
    assert row.error <= 1e-9
    assert row.sum_error <= 1e-9
    assert 1 - 1e-4 < row.sensitivity <= 1 + 1e-6


def test_the_check_goes_red_where_a_gradient_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        weights.LinearLayer,
        "bias_gradient",
        lambda self, error: (
            error.flatten(1, -2).sum(1) * 1.001 if error.dim() > 2 else error * 1.001
        ),
    )
    monkeypatch.setattr(check, "validate", lambda model, loss, shape: BookKeeping(model))
    row = check.check("MLP")
    assert not row.good
    assert check.main(["MLP"]) == 1


def test_the_check_goes_red_where_a_patient_moves_the_sum_by_more_than_the_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = tape.squared_norms

    def short(values: Tensor) -> Tensor:
        """Exact in float64; in float32 a little below the true norm."""
        return original(values) * (0.998 if values.dtype == torch.float32 else 1)

    monkeypatch.setattr(tape, "squared_norms", short)
    row = check.check("MLP")
    assert max(row.error, row.sum_error) <= 1e-9
    assert not row.good


def test_the_check_prints_a_table_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["MLP", "UNet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert check.main(["--json", "MLP"]) == 0
    assert '"good": true' in capsys.readouterr().out


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "stride, dilation, padding": (lambda: nn.Conv2d(3, 4, 3, 2, 2, 2), (3, 9, 8)),
    "groups": (lambda: nn.Conv2d(4, 8, 3, groups=2), (4, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 6)),
    "pointwise": (lambda: nn.Conv3d(4, 3, 1), (4, 3, 4, 5)),
    "strided pointwise": (lambda: nn.Conv2d(4, 3, 1, stride=2), (4, 5, 5)),
    "no bias": (lambda: nn.Conv1d(2, 3, 3, bias=False), (2, 9)),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 6)),
    "same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), (3, 5, 5)),
    "transposed, groups": (lambda: nn.ConvTranspose2d(4, 8, 2, 2, groups=2), (4, 5, 5)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, 2), (2, 3, 3, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 5, 5)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), (4, 5, 5)),
    "layer norm": (lambda: nn.LayerNorm((5, 6)), (3, 5, 6)),
    "prelu, one": (lambda: nn.PReLU(), (4, 5)),
    "prelu, each": (lambda: nn.PReLU(4), (4, 5, 5)),
    "linear on tokens": (lambda: nn.Linear(5, 4), (7, 5)),
    "linear": (lambda: nn.Linear(5, 4), (5,)),
}


class Summed(nn.Module):
    """A layer between two others of its kind of width, brought down to three logits."""

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x)).flatten(1))


def around(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    make, shape = LAYERS[name]
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    inputs = torch.randn(5, *shape, dtype=torch.float64)
    model = Summed(layer, layer(inputs)[0].numel()).double()
    return model, inputs, torch.tensor([0, 1, 2, 1, 0])


IMAGES = [name for name, (_, shape) in LAYERS.items() if len(shape) == 3]


@pytest.mark.parametrize(
    ("name", "channels_last"), [(n, False) for n in LAYERS] + [(n, True) for n in IMAGES]
)
def test_a_layer_alone(name: str, channels_last: bool) -> None:
    model, inputs, targets = around(name)
    if channels_last:
        inputs = inputs.to(memory_format=torch.channels_last)
    expected = loop(model, CROSS_ENTROPY, inputs, targets)
    found = BookKeeping(model).per_sample(CROSS_ENTROPY, inputs, targets)
    assert difference(found, expected) < 1e-12
    found = VectorisedGradients(model).per_sample(CROSS_ENTROPY, inputs, targets)
    assert difference(found, expected) < 1e-12


WHOLE = ["stride, dilation, padding", "pointwise", "reflect", "transposed", "transposed 3d"]
GROUPED = ["groups", "depthwise", "transposed, groups"]


@pytest.mark.parametrize(
    ("name", "way"),
    [(n, w) for n in WHOLE for w in ("ghost", *weights.WAYS)]
    + [(n, w) for n in GROUPED for w in ("grouped", "one by one")],
)
@pytest.mark.parametrize("owner", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 0], [2, 0, 1, 1, 1]])
def test_every_way_gives_the_same_clipped_sum(
    name: str, way: str, owner: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs, targets = around(name)
    monkeypatch.setattr(
        weights, "choose", lambda kernel, s, e, ghost: way if len(kernel.weight) > 2 else "ghost"
    )
    units = Units.of(torch.tensor(owner))
    made = BookKeeping(model).clipped_sum(CROSS_ENTROPY, inputs, targets, units, 0.3)
    wanted = VectorisedGradients(model).clipped_sum(CROSS_ENTROPY, inputs, targets, units, 0.3)
    for name_, value in wanted.total.items():
        torch.testing.assert_close(made.total[name_].reshape(value.shape), value)


@settings(max_examples=60)
@given(st.data())
def test_every_way_to_compute_a_convolution_is_the_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.integers(1, 3))
    size = draw(st.integers(1, 3))
    stride, dilation, groups, batch = draw(st.tuples(*[st.integers(1, 2)] * 4))
    padding = draw(st.integers(0, 2))
    inside, outside = (groups * n for n in draw(st.tuples(*[st.integers(1, 3)] * 2)))
    kind = [nn.Conv1d, nn.Conv2d, nn.Conv3d][dims - 1]
    conv = kind(
        inside, outside, size, stride, padding, dilation, groups, bias=draw(st.booleans())
    ).double()
    space = draw(st.integers(max(1, dilation * (size - 1) + 1 - 2 * padding), 7))
    x = torch.randn(batch, inside, *[space] * dims, dtype=torch.float64, requires_grad=True)
    expected = conv(x)
    error = torch.randn_like(expected)
    (below,) = torch.autograd.grad(expected, x, error)
    layer = weights.ConvolutionLayer(conv, {"weight": "w"})
    with torch.no_grad():
        for forward in layer.forwards.values():
            torch.testing.assert_close(forward(x), expected)
        for backward in layer.backwards.values():
            torch.testing.assert_close(backward(x, error), below)
    simple = stride == 1 and padding <= dilation * (size - 1)
    pointwise = simple and size == 1 and groups == 1
    assert set(layer.forwards) == {"convolution"} | ({"product"} if pointwise else set())
    assert len(layer.backwards) == (2 if simple else 1)


@settings(max_examples=60)
@given(st.data())
def test_patches_and_ways_agree_for_any_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.integers(1, 3))
    per_axis = [st.integers(1, 3)] * dims
    size, stride, dilation = (draw(st.tuples(*per_axis)) for _ in range(3))
    padding = draw(st.tuples(*[st.integers(0, 2)] * dims))
    batch, inside, outside = draw(st.tuples(*[st.integers(1, 3)] * 3))
    space = [
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 7))
        for k, d, p in zip(size, dilation, padding, strict=True)
    ]
    kernel = ways.Kernel((outside, inside, *size), stride, padding, dilation, 1)
    signal = torch.randn(batch, inside, *space, dtype=torch.float64)
    weight = torch.randn(kernel.weight, dtype=torch.float64)
    none = [0] * dims
    out = torch.convolution(signal, weight, None, stride, padding, dilation, False, none, 1)
    error = torch.randn_like(out)
    found = [way(kernel, signal, error) for way in weights.WAYS.values()]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)
    torch.testing.assert_close(found[0].sum(0), ways.summed(kernel, signal, error))
    norms = weights.Ghost(kernel, signal, error).squared_norms(Units.of(torch.arange(batch)))
    torch.testing.assert_close(norms, found[0].flatten(1).square().sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("space", "size"), [((1,), 1), ((20,), 3)])
@pytest.mark.parametrize("owner", [[0, 1], [0, 0]])
@pytest.mark.parametrize(("large", "small"), [(1e17, 2e-23), (2e-23, 1e17)])
def test_squares_that_underflow_do_not_shorten_a_gradient(
    space: tuple[int, ...], size: int, owner: list[int], large: float, small: float
) -> None:
    # One float32 square of these is 0, their product is a gradient like any other.
    kernel = ways.Kernel((8, 4, size), (1,), (0,), (1,), 1)
    signal = torch.full((2, 4, *space), large)
    error = torch.full((2, 8, space[0] - size + 1), small)
    units = Units.of(torch.tensor(owner))
    exact = units.gather(ways.unfolded(kernel, signal.double(), error.double()))
    norms = weights.Ghost(kernel, signal, error).squared_norms(units)
    assert (norms >= exact.flatten(1).square().sum(1)).all()


class Twice(nn.Module):
    """One layer that runs twice: its gradients add up before the norm is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(torch.tanh(self.norm(self.layer(x))))))


def test_a_layer_that_runs_twice_adds_up() -> None:
    model = Twice().double()
    inputs, targets = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    expected = loop(model, CROSS_ENTROPY, inputs, targets)
    found = BookKeeping(model).per_sample(CROSS_ENTROPY, inputs, targets)
    assert difference(found, expected) < 1e-12


def test_a_gradient_that_is_not_finite_is_its_samples_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    inputs, targets = torch.randn(3, 4), torch.tensor([0, 1, 2])
    inputs[1] = float("inf")
    for engine in (BookKeeping(model), VectorisedGradients(model)):
        found = engine.per_sample(CROSS_ENTROPY, inputs, targets)["0.weight"]
        assert found.isfinite().flatten(1).all(1).tolist() == [True, False, True]


def test_opacus_agrees() -> None:
    torch.manual_seed(4)
    task = TaskSpec("image-classification-2d", "convnet", 3, (1, 16, 16))
    model = build(task).double()
    inputs, targets = torch.randn(6, 1, 16, 16, dtype=torch.float64), torch.arange(6) % 3
    found = BookKeeping(model).per_sample(CROSS_ENTROPY, inputs, targets)
    oracle = GradSampleModule(model, loss_reduction="sum")
    logits = oracle(inputs.requires_grad_())
    nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad_sample)
    oracle.remove_hooks()


def test_a_pass_leaves_the_model_as_it_was() -> None:
    task = TaskSpec("image-classification-2d", "vit", 3, (1, 32, 32))
    model = build(task)
    names = [n for n, _ in model.named_parameters()]
    before = {n: p.clone() for n, p in model.state_dict().items()}
    inputs, targets = torch.randn(2, 1, 32, 32), torch.tensor([0, 1])
    units = Units.of(torch.arange(2))
    BookKeeping(model).clipped_sum(CROSS_ENTROPY, inputs, targets, units, 1.0)
    with pytest.raises(RuntimeError):
        BookKeeping(model).clipped_sum(CROSS_ENTROPY, inputs[:, :, :8], targets, units, 1.0)
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any("forward" in vars(m) for m in model.modules())


def test_frozen_parameters_have_no_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    found = BookKeeping(model).per_sample(CROSS_ENTROPY, torch.randn(2, 4), torch.tensor([0, 1]))
    assert set(found) == set(trainable(model)) == {"0.bias", "2.weight", "2.bias"}


class Folded(nn.Module):
    """Folds an axis into the batch, as window attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 4)).reshape(len(x), -1, 3).mean(1)


def test_samples_folded_into_another_axis_are_refused_by_book_keeping() -> None:
    with pytest.raises(ModuleRefused, match="folds samples"):
        BookKeeping(Folded()).per_sample(CROSS_ENTROPY, torch.randn(2, 8), torch.tensor([0, 1]))


def test_an_unknown_layer_is_refused_by_book_keeping() -> None:
    with pytest.raises(ModuleRefused, match="cannot follow 0 \\(Bilinear\\)"):
        BookKeeping(nn.Sequential(nn.Bilinear(2, 2, 3)))


def test_ghost_norms_are_never_below_the_true_ones() -> None:
    # Terms that cancel: float32 rounding must not make the norm look smaller than it is.
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(40, 6, 50, generator=generator).repeat(1, 1, 2) * 100
    error = torch.randn(40, 5, 50, generator=generator)
    error = torch.cat([error, -error * (1 - 1e-4)], 2)
    kernel = ways.Kernel((5, 6), (), (), (), 1)
    units = Units.of(torch.arange(40))
    found = weights.Ghost(kernel, signal, error).squared_norms(units)
    exact = (error.double() @ signal.double().transpose(1, 2)).flatten(1).square().sum(1)
    assert bool((found >= exact * (1 - 1e-5)).all())


def test_a_loss_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(Exception, match="one number for each sample"):
        checked_losses(lambda o, t: o.mean(), torch.zeros(2, 3), torch.zeros(2))
    assert math.isfinite(float(CROSS_ENTROPY(torch.zeros(2, 3), torch.tensor([0, 1])).sum()))
