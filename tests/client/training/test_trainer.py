"""Rounds of training, private and plain, and evaluation."""

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from wardround.client.errors import (
    BatchCoupled,
    ModuleRefused,
    TrainingDataInvalid,
    TrainingRefused,
)
from wardround.client.tasks import TaskSpec, arrays, build, load_arrays, per_sample_loss
from wardround.client.training import (
    RoundResult,
    StepReport,
    TensorData,
    TrainingSettings,
    counters,
    evaluate,
    train_plain,
    train_round,
    trainer,
    validate,
)
from wardround.client.training.evaluation import dice
from wardround.client.training.trainer import expected_batch, make_optimiser, microbatches

TASK = TaskSpec("image-classification-2d", "convnet", 3, (1, 16, 16), {"widths": (8, 16)})


class Seeded:
    """Reproducible bits, so that two runs can be compared."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(11)

    def words(self, count: int) -> np.ndarray:
        return self._generator.integers(0, 2**64, count, dtype=np.uint64)


def easy(samples: int = 120, images: int = 2) -> TensorData:
    """Three classes that a patch tells apart; `images` of each patient."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(samples) // images % 3
    inputs = torch.randn(samples, 1, 16, 16, generator=generator) * 0.3
    for i, c in enumerate(targets):
        inputs[i, 0, :, 5 * c : 5 * c + 5] += 1
    return TensorData(inputs, targets, [f"p{i // images}" for i in range(samples)])


def settings(**change: object) -> TrainingSettings:
    usual: dict[str, object] = {
        "clip": 1.0,
        "sigma": 1.0,
        "sample_rate": 0.5,
        "steps": 10,
        "lr": 0.02,
    }
    return TrainingSettings(**(usual | change))  # type: ignore[arg-type] # a dict of mixed values


def test_a_round_learns_under_noise() -> None:
    torch.manual_seed(0)
    model, data = build(TASK), easy(480)
    seen: list[StepReport] = []
    before = arrays(model)
    result = train_round(
        model, data, settings(steps=30), per_sample_loss(TASK), on_step=seen.append
    )
    counts = evaluate(model, data, TASK)
    assert counts["evaluated"] == 480
    assert counts["correct"] > 400
    assert [s.step for s in seen] == list(range(30))
    assert all(s.images == 2 * s.patients for s in seen)
    assert (result.steps, result.patients, result.expected_batch) == (30, 240, 120)
    after = arrays(model)
    for name, change in result.update.items():
        assert change.dtype == np.float32
        np.testing.assert_array_equal(change, after[name] - before[name])


def test_one_step_answers_the_noisy_mean_gradient_and_leaves_the_model() -> None:
    model, data, loss = build(TASK), easy(), per_sample_loss(TASK)
    before = arrays(model)
    # Everybody is sampled, nobody clipped, hardly any noise: what is left is the gradient.
    chosen = settings(
        mode="one_step", steps=1, clip=100.0, sigma=1e-7, sample_rate=1.0, max_images_per_patient=2
    )
    result = train_round(model, data, chosen, loss)
    after = arrays(model)
    assert all(np.array_equal(before[n], after[n]) for n in before)
    inputs, targets = data.samples(np.arange(120))
    loss(model(inputs), targets).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(result.update[name], parameter.grad.numpy(), atol=1e-4)


def test_a_patient_counts_once_however_many_images_there_are() -> None:
    """Nobody is clipped, hardly any noise: the mean over patients of the mean over their images."""
    model, loss = build(TASK), per_sample_loss(TASK)
    inputs, targets = easy(12).samples(np.arange(12))
    owners = [0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4]
    chosen = settings(mode="one_step", steps=1, clip=100.0, sigma=1e-7, sample_rate=1.0)
    result = train_round(model, TensorData(inputs, targets, owners), chosen, loss)
    share = 1 / torch.tensor([owners.count(o) for o in owners])
    ((loss(model(inputs), targets) * share).sum() / 5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(result.update[name], parameter.grad.numpy(), atol=1e-4)


def test_the_microbatch_changes_memory_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SecureBits", Seeded)
    model = build(TASK)
    start = arrays(model)
    updates = []
    for size in (3, 16, 1000):
        load_arrays(model, start)
        result = train_round(
            model,
            easy(60, 3),
            settings(microbatch=size, steps=1, mode="one_step"),
            per_sample_loss(TASK),
        )
        updates.append(result.update)
    for other in updates[1:]:
        for name, value in updates[0].items():
            np.testing.assert_allclose(other[name], value, atol=2e-6)


def test_microbatches_never_part_a_patient() -> None:
    patients = [np.arange(n) for n in (3, 1, 5, 2, 2, 9, 1)]
    parts = list(microbatches(patients, 4))
    assert [[len(s) for s in part] for part in parts] == [[3, 1], [5], [2, 2], [9], [1]]
    assert list(microbatches([], 4)) == []


def test_images_of_a_patient_are_capped() -> None:
    seen: list[StepReport] = []
    train_round(
        build(TASK),
        easy(120, 6),
        settings(max_images_per_patient=2, sample_rate=1.0, steps=2),
        per_sample_loss(TASK),
        on_step=seen.append,
    )
    assert [(s.patients, s.images) for s in seen] == [(20, 40), (20, 40)]


def test_the_image_is_a_unit_only_where_patients_have_one() -> None:
    with pytest.raises(TrainingDataInvalid, match="a patient has 2 images"):
        train_round(build(TASK), easy(), settings(unit="image"), per_sample_loss(TASK))
    train_round(build(TASK), easy(30, 1), settings(unit="image", steps=1), per_sample_loss(TASK))


def test_a_broken_image_is_counted_and_the_model_stays_finite() -> None:
    inputs, targets = easy(30, 1).samples(np.arange(30))
    inputs[4] = float("nan")
    model = build(TASK)
    seen: list[StepReport] = []
    result = train_round(
        model,
        TensorData(inputs, targets),
        settings(sample_rate=1.0, steps=3),
        per_sample_loss(TASK),
        on_step=seen.append,
    )
    assert result.nonfinite == 3
    assert [s.nonfinite for s in seen] == [1, 1, 1]
    assert all(np.isfinite(v).all() for v in result.update.values())


def test_what_must_not_leave_is_not_shown() -> None:
    result = train_round(build(TASK), easy(30), settings(steps=1), per_sample_loss(TASK))
    assert "update" not in repr(result)
    assert "nonfinite" not in repr(result)


def test_optimisers_start_afresh_and_sgd_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SecureBits", Seeded)
    model = build(TASK)
    start = arrays(model)
    step = train_round(
        model, easy(), settings(steps=1, mode="one_step"), per_sample_loss(TASK)
    ).update
    moved = train_round(
        model, easy(), settings(steps=1, optimiser="sgd", lr=0.5), per_sample_loss(TASK)
    ).update
    load_arrays(model, start)
    adam = train_round(model, easy(), settings(steps=1, lr=0.01), per_sample_loss(TASK)).update
    for name, gradient in step.items():
        np.testing.assert_allclose(moved[name], -0.5 * gradient, atol=1e-6)
        np.testing.assert_allclose(np.abs(adam[name]), 0.01, rtol=1e-2)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_optimisers_are_pytorch_s_bit_for_bit(kind: Literal["adamw", "sgd"]) -> None:
    generator = torch.Generator().manual_seed(3)
    ours, theirs = (
        [nn.Parameter(torch.linspace(-1, 1, size)) for size in (1, 7, 64)] for _ in range(2)
    )
    reference: torch.optim.Optimizer = (
        torch.optim.SGD(theirs, lr=0.02)
        if kind == "sgd"
        else torch.optim.AdamW(theirs, lr=0.02, weight_decay=0.0)
    )
    optimiser = make_optimiser(settings(optimiser=kind, lr=0.02), ours)
    for _ in range(50):
        gradients = [torch.randn(p.shape, generator=generator) for p in ours]
        optimiser.step(gradients)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_training_refuses_what_is_not_private() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(256), nn.Linear(256, 3))
    with pytest.raises(BatchCoupled):
        train_round(model, easy(), settings(), per_sample_loss(TASK))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(3)))
    with pytest.raises(TrainingRefused, match="Poisson"):
        train_round(build(TASK), loader, settings(), per_sample_loss(TASK))  # type: ignore[arg-type] # the mistake under test
    with pytest.raises(TrainingDataInvalid, match="no patient"):
        train_round(build(TASK), easy(0), settings(), per_sample_loss(TASK))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"clip": 0.0}, "positive"),
        ({"sigma": -1.0}, "positive"),
        ({"sample_rate": 1.5}, "sample_rate"),
        ({"steps": 0}, "at least 1"),
        ({"noise_share": 0.0}, "noise_share"),
        ({"noise_share": 0.5}, "shared only in mode one_step"),
        ({"mode": "one_step"}, "exactly one step"),
        ({"optimiser": "lion"}, "adamw or sgd"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        settings(**change)


def test_data_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(TrainingDataInvalid, match="3 samples, 2 targets and 3 patients"):
        TensorData(torch.zeros(3, 1), torch.zeros(2))


def test_the_expected_batch_is_a_whole_number_and_never_zero() -> None:
    assert expected_batch(100, 0.25) == 25
    assert expected_batch(101, 0.25) == 25
    assert expected_batch(103, 0.25) == 26
    assert expected_batch(3, 0.01) == 1


def test_plain_training_is_there_for_comparison() -> None:
    torch.manual_seed(1)
    model, data = build(TASK), easy()
    train_plain(model, data, per_sample_loss(TASK), steps=40, batch=30, lr=0.01)
    assert evaluate(model, data, TASK)["correct"] == 120


def test_segmentation_is_counted_in_voxels() -> None:
    task = TaskSpec("segmentation-2d", "unet", 3, (1, 4, 4))

    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            classes = torch.nn.functional.one_hot(x[:, 0].long(), 3)
            return classes.movedim(-1, 1) * self.scale

    found = torch.tensor([[0, 1, 1, 2]] * 4)[None, None].float()
    truth = torch.tensor([[0, 1, 2, 2]] * 4)[None]
    counts = evaluate(Known(), TensorData(found, truth), task)
    assert tuple(counts) == counters(task)
    assert counts == {
        "evaluated": 1,
        "overlap_1": 4,
        "truth_1": 4,
        "predicted_1": 8,
        "overlap_2": 4,
        "truth_2": 8,
        "predicted_2": 4,
    }
    assert dice(counts, 3) == pytest.approx(2 / 3)
    assert dice(dict.fromkeys(counters(task), 0), 3) == 1.0


def test_evaluation_of_nothing_counts_nothing() -> None:
    assert evaluate(build(TASK), easy(0), TASK) == {"evaluated": 0, "correct": 0}


def test_one_output_is_the_logit_of_class_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    task = TaskSpec("tabular", "perceptron", 2, (1,), loss="bce")
    data = TensorData(torch.tensor([[-1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0]))
    assert evaluate(model, data, task) == {"evaluated": 3, "correct": 2}


def _fork(rank: int, folder: str) -> int:
    """A process that is one of the two; gives its id."""
    child = os.fork()
    if child == 0:
        try:
            _one_of_two(rank, folder)
            os._exit(0)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    result, seen = _with_a_broken_image(dist.group.WORLD)
    np.savez(Path(folder) / f"{rank}.npz", **result.update)
    (Path(folder) / f"{rank}.txt").write_text(f"{result.nonfinite} {seen}")
    dist.destroy_process_group()


def _with_a_broken_image(group: dist.ProcessGroup | None) -> tuple[RoundResult, list[StepReport]]:
    """The same round for any number of processes: the leader's bits repeat themselves."""
    torch.manual_seed(5)
    model, seen = build(TASK), list[StepReport]()
    inputs, targets = easy(60).samples(np.arange(60))
    inputs[7] = float("nan")
    data = TensorData(inputs, targets, [i // 4 for i in range(60)])
    change = settings(steps=3, optimiser="sgd", max_images_per_patient=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SecureBits", Seeded)
        result = train_round(
            model, data, change, per_sample_loss(TASK), on_step=seen.append, group=group
        )
    return result, seen


def test_two_processes_share_one_draw_and_one_noise(tmp_path: Path) -> None:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, __file__, tmp_path], env=environment, timeout=600, check=True)
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    alone, seen = _with_a_broken_image(None)
    assert set(first) == set(second) == set(alone.update)
    for name, change in alone.update.items():
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], change, atol=2e-6)
    assert alone.nonfinite > 0
    assert (tmp_path / "0.txt").read_text() == f"{alone.nonfinite} {seen}"
    assert (tmp_path / "1.txt").read_text() == f"{alone.nonfinite} []"


def test_what_the_rules_forbid_is_refused_with_a_validated_engine_too() -> None:
    model, loss, data = build(TASK), per_sample_loss(TASK), easy()
    engine = validate(model, loss, TASK.input_shape)
    train_round(model, data, settings(steps=1), loss, engine=engine)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TrainingRefused, match="autocast"),
    ):
        train_round(model, data, settings(steps=1), loss, engine=engine)
    with pytest.raises(ModuleRefused, match="another model"):
        train_round(build(TASK), data, settings(steps=1), loss, engine=engine)
    with pytest.raises(TrainingRefused, match="bfloat16"):
        train_round(model.bfloat16(), data, settings(steps=1), loss, engine=engine)


if __name__ == "__main__":
    # Forked once all is loaded, which takes most of the time, and before anything is computed.
    children = [_fork(rank, sys.argv[1]) for rank in (0, 1)]
    sys.exit(max(os.waitpid(child, 0)[1] for child in children) != 0)
