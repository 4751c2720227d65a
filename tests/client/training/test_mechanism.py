"""The mechanism as a whole, and broken versions of it: every check is shown to go red.

The randomness of these tests is seeded where the check is statistical, so that a check that passes
passes always; the code under test has no such door, the tests replace its source of bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as f
from torch import Tensor, nn

from wardround.client.tasks import TaskSpec, build, per_sample_loss
from wardround.client.training import TensorData, TrainingSettings, tape, train_round, trainer
from wardround.client.training.engine import BookKeeping, Loss
from wardround.client.training.losses import CATALOGUE, ProportionalHazards, WeightedCrossEntropy
from wardround.client.training.noise import Grid, release
from wardround.client.training.randomness import SecureBits
from wardround.client.training.tape import Units
from wardround.client.training.validation import validate
from wardround.client.training.vectorised import VectorisedGradients

CLIP = 0.1


class SeededBits:
    """Reproducible bits, for statistics in tests only."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)

    def words(self, count: int) -> np.ndarray:
        return self._generator.integers(0, 2**64, count, dtype=np.uint64)


# --- (a) sensitivity -------------------------------------------------------------------------

SMALL = {
    "convnet": TaskSpec("image-classification-2d", "convnet", 3, (1, 8, 8), {"widths": (4, 8)}),
    "resnet": TaskSpec("image-classification-2d", "resnet", 3, (1, 8, 8), {"widths": (4,) * 4}),
    "vit": TaskSpec(
        "image-classification-2d",
        "vit",
        3,
        (1, 8, 8),
        {"patch_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_layers": 2, "num_heads": 2},
    ),
    "unet": TaskSpec(
        "segmentation-2d", "unet", 3, (1, 8, 8), {"channels": (4, 4), "strides": (2,)}
    ),
    "unet-3d": TaskSpec(
        "segmentation-3d", "unet", 3, (1, 8, 8, 8), {"channels": (4, 4), "strides": (2,)}
    ),
    "segresnet-3d": TaskSpec(
        "segmentation-3d", "segresnet", 3, (1, 8, 8, 8), {"blocks_down": (1, 1), "blocks_up": (1,)}
    ),
    "perceptron": TaskSpec("tabular", "perceptron", 3, (5,), {"widths": (7,)}),
}
CLASS_LOSSES: dict[str, Loss] = {
    "cross-entropy": CATALOGUE["cross-entropy"],
    "weighted": WeightedCrossEntropy((1.0, 5.0, 9.0), 2.0),
    "focal": CATALOGUE["focal"],
}
PIXEL_LOSSES: dict[str, Loss] = CLASS_LOSSES | {
    "dice": CATALOGUE["dice"],
    "dice-ce": CATALOGUE["dice-ce"],
}
PAIRS = [
    (model, loss)
    for model, task in SMALL.items()
    for loss in (PIXEL_LOSSES if task.kind.startswith("segmentation") else CLASS_LOSSES)
]
OWNERS = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4])


def largest_sensitivity(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, engine: type
) -> float:
    """The most by which leaving out one patient moves the clipped sum, over the clip."""

    def total(keep: Tensor) -> Tensor:
        _, owner = OWNERS[keep].unique(return_inverse=True)
        made = engine(model).clipped_sum(loss, inputs[keep], targets[keep], Units.of(owner), CLIP)
        flat = [
            made.total.get(n, torch.zeros(p.numel())).reshape(-1).double()
            for n, p in model.named_parameters()
        ]
        return torch.cat(flat)

    everyone = total(torch.ones(len(OWNERS), dtype=torch.bool))
    moved = [float((everyone - total(p != OWNERS)).norm()) for p in OWNERS.unique()]
    return max(moved) / CLIP


def check_sensitivity(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, engine: type = BookKeeping
) -> None:
    assert largest_sensitivity(model, loss, inputs, targets, engine) <= 1 + 1e-6


def example(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(7)
    task = SMALL[name]
    model = build(task)
    inputs = torch.randn(len(OWNERS), *task.input_shape) * 3
    targets = CATALOGUE["cross-entropy"].example_targets(model(inputs).detach())
    return model, inputs, targets


def test_the_sum_of_a_full_pass_does_not_round_beyond_the_bound() -> None:
    # With one parameter nothing averages the rounding out; these were 5e-6 above the bound.
    clip, most = 1.0036874264228572, trainer.LARGEST_PASS
    model = nn.Linear(1, 1, bias=False)
    inputs = torch.full((most, 1), 118.83867645263672)

    def total(patients: int) -> float:
        units, targets = Units.of(torch.arange(patients)), torch.ones(patients, 1)
        loss = CATALOGUE["bce"]
        made = BookKeeping(model).clipped_sum(loss, inputs[:patients], targets, units, clip)
        return float(made.total["weight"])

    with torch.no_grad():
        model.weight.zero_()
    assert abs(total(most) - total(most - 1)) <= clip * (1 + 1e-6)


def test_a_huge_image_of_a_sure_model_is_clipped() -> None:
    # The errors' squares are 0 in float32, the gradient was once 6.6 clips long.
    clip, size = 1e-4, 1 << 14
    model = nn.Linear(size, 10, bias=False)
    inputs = torch.full((1, size), 1.8e17)
    with torch.no_grad():
        model.weight.zero_()[0] = 53 / (1.8e17 * size)
    one = Units.of(torch.zeros(1, dtype=torch.long))
    made = BookKeeping(model).clipped_sum(
        CATALOGUE["cross-entropy"], inputs, torch.zeros(1, dtype=torch.long), one, clip
    )
    assert made.nonfinite == 0
    assert float(made.total["weight"].double().norm()) <= clip * (1 + 1e-6)


@pytest.mark.parametrize(("name", "loss"), PAIRS)
def test_one_patient_moves_the_sum_by_at_most_the_clip(name: str, loss: str) -> None:
    model, inputs, targets = example(name)
    check_sensitivity(model, PIXEL_LOSSES[loss], inputs, targets)


def test_one_patient_moves_a_mean_by_at_most_the_clip() -> None:
    model = build(TaskSpec("tabular-moments", "moments", 2, (6,)))
    engine = validate(model, CATALOGUE["half-square"], (6,))
    assert isinstance(engine, VectorisedGradients)  # a bare parameter: no layer to follow
    inputs = torch.randn(len(OWNERS), 6) * 3
    targets = torch.zeros(len(OWNERS), dtype=torch.long)
    reached = largest_sensitivity(
        model, CATALOGUE["half-square"], inputs, targets, VectorisedGradients
    )
    assert 0.5 < reached <= 1 + 1e-6


@pytest.mark.parametrize("engine", [BookKeeping, VectorisedGradients])
def test_the_bound_is_reached(engine: type) -> None:
    model, inputs, targets = example("convnet")
    reached = largest_sensitivity(model, CATALOGUE["cross-entropy"], inputs, targets, engine)
    assert 1 - 1e-4 < reached <= 1 + 1e-6


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("name", ["convnet", "unet-3d", "vit", "perceptron"])
def test_a_sample_that_is_not_finite_moves_nothing_and_spoils_nobody(
    name: str, poison: float
) -> None:
    model, inputs, targets = example(name)
    inputs[3] = poison
    check_sensitivity(model, PIXEL_LOSSES["cross-entropy"], inputs, targets)
    units = Units.of(OWNERS)
    made = BookKeeping(model).clipped_sum(CATALOGUE["cross-entropy"], inputs, targets, units, CLIP)
    assert all(bool(g.isfinite().all()) for g in made.total.values())
    # A group norm brings any finite size back to one: only what is not finite is counted.
    assert made.nonfinite == (0 if np.isfinite(poison) else 1) or np.isfinite(poison)


def test_norms_and_sums_are_made_in_full_precision() -> None:
    class Seen:
        def squared_norms(self, units: Units) -> Tensor:
            self.inside = [place.fp32_precision for place in tape._SHORT]
            return torch.ones(units.count, dtype=torch.float64)

        def weighted_sum(self, weight: Tensor, sound: Tensor | None) -> Tensor:
            return weight.sum()

    seen, before = Seen(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        outside = [place.fp32_precision for place in tape._SHORT]
        made = tape.clipped_sum(tape.Tape(deferred={"w": seen}), Units.of(torch.arange(2)), 1.0)
        assert set(seen.inside) == {"ieee"}
        assert outside == [place.fp32_precision for place in tape._SHORT]
        assert set(outside) != {"ieee"}
        assert float(made.total["w"]) == pytest.approx(2, rel=1e-4)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


class Short(nn.Module):
    """Runs its layer in 16 bits, as a network of its own mind about speed may."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x.bfloat16()).float()


def test_a_layer_that_runs_in_few_bits_is_clipped_in_all() -> None:
    torch.manual_seed(6)
    inputs, targets = torch.randn(len(OWNERS), 40) * 30, torch.arange(len(OWNERS)) % 3
    reached = largest_sensitivity(Short(), CATALOGUE["cross-entropy"], inputs, targets, BookKeeping)
    assert 1 - 1e-4 < reached <= 1 + 1e-6


def test_many_patients_are_added_up_within_the_margin_of_the_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients that all point one way; in float32 throughout this is 6e-5 of the clip off."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(300, 3)
    alike = torch.randn(300, generator=generator)
    inputs = alike + 0.05 * torch.randn(4000, 300, generator=generator)
    totals: list[Tensor] = []
    monkeypatch.setattr(trainer, "release", lambda total, *_: totals.append(total.clone()))
    for kept in (inputs, inputs[1:]):
        settings = TrainingSettings(
            clip=CLIP, sigma=1.0, sample_rate=1.0, steps=1, mode="one_step", microbatch=65_536
        )
        data = TensorData(kept, torch.zeros(len(kept), dtype=torch.long))
        train_round(model, data, settings, CATALOGUE["cross-entropy"])
    moved = float((totals[0].double() - totals[1].double()).norm()) / CLIP
    assert moved == pytest.approx(1 - tape.CLIP_MARGIN, abs=1e-5)


def test_proportional_hazards_and_bce_keep_patients_apart() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
    inputs = torch.randn(len(OWNERS), 5) * 3
    hazards = ProportionalHazards((0.0, 2.0), (0.1, 0.4))
    for loss in (hazards, CATALOGUE["bce"]):
        check_sensitivity(model, loss, inputs, loss.example_targets(model(inputs).detach()))


def against_the_batch(outputs: Tensor, targets: Tensor) -> Tensor:
    """A mutant: logits are compared with the batch's mean, as a contrastive loss does."""
    return f.cross_entropy(20 * (outputs - outputs.mean(0)), targets, reduction="none")


def test_mutant_a_batch_coupled_loss_is_noticed() -> None:
    model, inputs, targets = example("convnet")
    with pytest.raises(AssertionError):
        check_sensitivity(model, against_the_batch, inputs, targets)


def test_mutant_no_clipping_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "clip_factors", lambda squares, clip: torch.ones_like(squares))
    model, inputs, targets = example("convnet")
    with pytest.raises(AssertionError):
        check_sensitivity(model, CATALOGUE["cross-entropy"], inputs, targets)


def test_mutant_a_layer_left_out_of_the_norm_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tape.squared_norms

    def forgetful(values: Tensor) -> Tensor:
        return original(values[:, values.shape[1] // 2 :])

    monkeypatch.setattr(tape, "squared_norms", forgetful)
    model, inputs, targets = example("convnet")
    with pytest.raises(AssertionError):
        check_sensitivity(model, CATALOGUE["cross-entropy"], inputs, targets)


def test_mutant_clipping_images_instead_of_patients_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs, targets = example("convnet")
    of = Units.of
    monkeypatch.setattr(Units, "of", lambda owner: of(torch.arange(len(owner))))
    with pytest.raises(AssertionError):
        check_sensitivity(model, CATALOGUE["cross-entropy"], inputs, targets)


# --- (b) the noise of every tensor -----------------------------------------------------------

TASK = SMALL["convnet"]


def dataset(patients: int = 20) -> TensorData:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(patients, *TASK.input_shape, generator=generator)
    return TensorData(inputs, torch.arange(patients) % 3)


def one_step(sigma: float = 1.0, rate: float = 1.0) -> TrainingSettings:
    return TrainingSettings(
        clip=CLIP, sigma=sigma, sample_rate=rate, steps=1, mode="one_step", microbatch=8
    )


def noises(rounds: int, sigma: float = 1.0, share: float = 1.0) -> dict[str, Tensor]:
    """Noise alone, in units of the clip, from rounds in which nobody takes part."""
    model = build(TASK)
    collected: dict[str, list[Tensor]] = {}
    settings = replace(one_step(sigma, 1e-12), noise_share=share)
    for _ in range(rounds):
        result = train_round(model, dataset(), settings, per_sample_loss(TASK))
        assert result.noise_only_steps == 1
        for name, value in result.update.items():
            collected.setdefault(name, []).append(torch.from_numpy(value).flatten() / CLIP)
    return {name: torch.cat(values) for name, values in collected.items()}


def check_noise(values: dict[str, Tensor], sigma: float) -> None:
    for name, value in values.items():
        error = sigma / (2 * value.numel()) ** 0.5
        assert abs(float(value.std()) - sigma) < 4 * error, name
        assert abs(float(value.mean())) < 4 * sigma / value.numel() ** 0.5, name


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SeededBits()
    monkeypatch.setattr(trainer, "SecureBits", lambda: shared)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_every_tensor_gets_the_noise_of_the_plan(sigma: float) -> None:
    check_noise(noises(40, sigma), sigma)


@pytest.mark.usefixtures("seeded")
def test_a_share_of_the_noise_is_that_part_of_sigma() -> None:
    check_noise(noises(40, 2.0, share=0.25), 0.5)


@pytest.mark.usefixtures("seeded")
def test_mutant_half_the_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "release", lambda t, c, s, b: release(t, c, s / 2, b))
    with pytest.raises(AssertionError):
        check_noise(noises(40), 1.0)


@pytest.mark.usefixtures("seeded")
def test_mutant_a_layer_without_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "release", lambda t, c, s, b: release(t[:-3], c, s, b))
    with pytest.raises(AssertionError):
        check_noise(noises(40), 1.0)


# --- (c) a one-run audit with canaries -------------------------------------------------------


def audited_mu(sigma: float, rounds: int, canaries: int = 4000) -> float:
    """Gaussian mu as seen in one run by an attacker with canaries (after Steinke et al. 2023).

    Each canary moves a coordinate of its own by the clip, and is in the data by a coin's fall. The
    scores of those inside and those outside are two normal laws, mu standard deviations apart.
    """
    generator = np.random.default_rng(5)
    inside = generator.integers(0, 2, canaries).astype(bool)
    inputs = torch.eye(canaries)[torch.from_numpy(inside)] * 100
    data = TensorData(inputs, torch.ones(len(inputs), dtype=torch.long))
    model = nn.Linear(canaries, 1, bias=False)
    nn.init.zeros_(model.weight)
    settings = TrainingSettings(
        clip=CLIP, sigma=sigma, sample_rate=1.0, steps=1, mode="one_step", microbatch=4000
    )
    score = np.zeros(canaries)
    for _ in range(rounds):
        result = train_round(model, data, settings, CATALOGUE["bce"])
        score -= result.update["weight"][0] * result.expected_batch
    spread = (score[inside].std() ** 2 + score[~inside].std() ** 2) / 2
    return float((score[inside].mean() - score[~inside].mean()) / np.sqrt(spread))


def check_audit(sigma: float = 2.0, rounds: int = 4) -> None:
    theory = np.sqrt(rounds) / sigma
    assert 0.85 < audited_mu(sigma, rounds) / theory < 1.10


@pytest.mark.usefixtures("seeded")
def test_an_audit_finds_the_privacy_that_was_promised() -> None:
    check_audit()


@pytest.mark.usefixtures("seeded")
def test_mutant_half_the_noise_fails_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "release", lambda t, c, s, b: release(t, c, s / 2, b))
    with pytest.raises(AssertionError):
        check_audit()


def test_mutant_a_reused_seed_fails_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same noise every round does not average: four rounds then hide less than they promise.
    monkeypatch.setattr(trainer, "SecureBits", SeededBits)
    with pytest.raises(AssertionError):
        check_independent(lambda: next(iter(noises(1).values())))


# --- (d) sampling, steps, independence -------------------------------------------------------


def check_independent(draw: Callable[[], Tensor]) -> None:
    first, second = draw(), draw()
    assert not torch.equal(first, second)


def test_two_sites_and_two_rounds_never_share_noise() -> None:
    check_independent(lambda: next(iter(noises(1).values())))


@dataclass
class Seen:
    sizes: list[int]
    empty: int


def seen_steps(steps: int, patients: int, rate: float) -> Seen:
    sizes: list[int] = []
    settings = TrainingSettings(clip=CLIP, sigma=1.0, sample_rate=rate, steps=steps, lr=1e-6)
    task = SMALL["perceptron"]
    data = TensorData(torch.randn(patients, 5), torch.zeros(patients, dtype=torch.long))
    result = train_round(
        build(task),
        data,
        settings,
        per_sample_loss(task),
        on_step=lambda s: sizes.append(s.patients),
    )
    return Seen(sizes, result.noise_only_steps)


def check_poisson(steps: int = 300, patients: int = 12, rate: float = 0.25) -> None:
    seen = seen_steps(steps, patients, rate)
    assert len(seen.sizes) == steps, "every step reaches the ledger"
    assert seen.empty == seen.sizes.count(0) > 0, "empty steps too"
    mean, variance = patients * rate, patients * rate * (1 - rate)
    assert abs(np.mean(seen.sizes) - mean) < 4 * (variance / steps) ** 0.5
    assert abs(np.var(seen.sizes) / variance - 1) < 4 * (2 / steps) ** 0.5


@pytest.mark.usefixtures("seeded")
def test_patients_are_drawn_by_poisson_sampling_and_every_step_is_reported() -> None:
    check_poisson()


@pytest.mark.usefixtures("seeded")
def test_mutant_batches_of_fixed_size_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trainer, "poisson_sample", lambda b, n, q: np.argsort(b.words(n))[: round(n * q)]
    )
    with pytest.raises(AssertionError):
        check_poisson()


class LedgerFull(Exception):
    """What a ledger raises that cannot record a step."""


def test_nothing_moves_and_no_noise_is_drawn_if_the_ledger_refuses_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noised: list[Tensor] = []
    monkeypatch.setattr(trainer, "release", lambda total, *_: noised.append(total))
    model = build(TASK)
    before = [p.detach().clone() for p in model.parameters()]

    def refuse(report: object) -> None:
        raise LedgerFull

    settings = TrainingSettings(clip=CLIP, sigma=1.0, sample_rate=0.5, steps=3)
    with pytest.raises(LedgerFull):
        train_round(model, dataset(), settings, per_sample_loss(TASK), on_step=refuse)
    assert not noised
    assert all(torch.equal(b, p) for b, p in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


# --- (e) the divisor -------------------------------------------------------------------------


def check_divisor(rate: float = 0.5, patients: int = 40) -> None:
    """The noise of the mean must not depend on how many took part."""
    model, data = build(TASK), dataset(patients)
    settings = one_step(sigma=1.0, rate=rate)
    spread = []
    for _ in range(12):
        result = train_round(model, data, settings, per_sample_loss(TASK))
        flat = np.concatenate([u.ravel() for u in result.update.values()])
        spread.append(float(flat.std()) * result.expected_batch / CLIP)
    size = sum(p.numel() for p in model.parameters())
    # The noise alone; the gradients add a little to it in quadrature.
    assert max(abs(s - 1) for s in spread) < 6 / (2 * size) ** 0.5 + 0.1


@pytest.mark.usefixtures("seeded")
def test_the_sum_is_divided_by_the_expected_size() -> None:
    check_divisor()


@pytest.mark.usefixtures("seeded")
def test_mutant_division_by_the_actual_size_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainer._Round._step
    # A divisor that follows the batch, as a plain mean over the samples does.

    def mutant(self: object, *args: object) -> dict[str, Tensor]:
        made = original(self, *args)  # type: ignore[arg-type] # a mutant of a private method
        return {n: g * self.expected / 14 for n, g in made.items()}  # type: ignore[attr-defined] # same

    monkeypatch.setattr(trainer._Round, "_step", mutant)
    with pytest.raises(AssertionError):
        check_divisor()


def test_the_secure_source_is_the_one_that_is_used() -> None:
    assert trainer.SecureBits is SecureBits
    assert Grid.of(CLIP, 4).sensitivity == CLIP * (1 + 2 * 2.0**-24)
