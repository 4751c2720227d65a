"""From a plan to an update: what the plan fixes is what is trained, and no more leaves."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.system.conftest import CLASSES, PATIENTS, make_plan
from torch import nn

from wardround.client import trainer
from wardround.client.errors import Refused, TaskInvalid
from wardround.client.tasks import build
from wardround.client.trainer import Trainer, check_layout, settings, task_spec, tensor_layout
from wardround.client.training import Engine, validate
from wardround.client.training import trainer as rounds
from wardround.datasets import cohort, phantom
from wardround.datasets.cohort import Cohort
from wardround.privacy.model import TensorLayout, Vector, initial_vector, unflatten
from wardround.privacy.plan import Evaluation, Model, StudyPlan, Task, Training

PLAN = make_plan()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A small data set of invented images."""
    folder = tmp_path_factory.mktemp("trainer")
    images = folder / "images"
    phantom.images(images, seed=3, patients=PATIENTS, classes=CLASSES, size=16, scanner=0)
    home = folder / "site"
    home.mkdir()
    cohort.add(images, home, "data", "image-classification-2d", key=b"k" * 32)
    return Cohort.load(home, "data")


@pytest.fixture
def start() -> Vector:
    """The model before the first round."""
    return initial_vector(PLAN.model.tensors, PLAN.model.seed)


def changed(**sections: object) -> StudyPlan:
    return replace(PLAN, **sections)  # type: ignore[arg-type]  # named by each test


def one_step(shared: bool) -> StudyPlan:
    return changed(
        training=Training(2, "one_step", 1, "sgd", Decimal("0.1")),
        privacy=replace(PLAN.privacy, shared_noise=shared),
        secure_aggregation=replace(PLAN.secure_aggregation, update_clip=Decimal(5)),
    )


def test_the_plans_settings_are_the_engines() -> None:
    found = settings(PLAN)
    assert (found.clip, found.sigma, found.sample_rate, found.steps) == (1.0, 2.0, 0.5, 2)
    assert (found.lr, found.optimiser, found.mode) == (0.01, "adamw", "local_steps")
    assert (found.unit, found.max_images_per_patient, found.microbatch) == ("patient", 2, 32)
    assert found.noise_share == 1.0


def test_noise_is_shared_only_where_the_plan_says_so() -> None:
    assert settings(one_step(shared=False)).noise_share == 1.0
    secagg = PLAN.secure_aggregation
    honest = secagg.threshold - secagg.colluders
    assert settings(one_step(shared=True)).noise_share == pytest.approx(honest**-0.5)


def test_the_task_is_the_catalogues() -> None:
    spec = task_spec(changed(task=replace(PLAN.task, loss="cross-entropy")))
    assert (spec.kind, spec.model, spec.classes) == ("image-classification-2d", "convnet", 2)
    assert (spec.input_shape, spec.args, spec.loss) == (
        (1, 16, 16),
        {"widths": (4, 4)},
        "cross-entropy",
    )


def test_the_layout_names_every_tensor_that_trains() -> None:
    model = build(task_spec(PLAN))
    trained = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {tensor.name: tensor.shape for tensor in tensor_layout(model)} == trained
    assert tensor_layout(model) == PLAN.model.tensors


@pytest.mark.parametrize(
    "tensors",
    [
        PLAN.model.tensors[1:],
        PLAN.model.tensors[::-1],
        (*PLAN.model.tensors, TensorLayout("extra", (1,))),
        (TensorLayout(PLAN.model.tensors[0].name, (1,)), *PLAN.model.tensors[1:]),
    ],
    ids=["missing", "reordered", "extra", "reshaped"],
)
def test_a_plan_with_another_layout_is_refused(tensors: tuple[TensorLayout, ...]) -> None:
    with pytest.raises(Refused, match="has other tensors than the plan lists") as caught:
        check_layout(changed(model=replace(PLAN.model, tensors=tensors)))
    assert caught.value.rule == "layout"


def test_a_model_or_loss_that_is_not_in_the_catalogue_is_refused() -> None:
    for plan in (
        changed(model=replace(PLAN.model, name="no-such")),
        changed(task=replace(PLAN.task, loss="no-such")),
    ):
        with pytest.raises(TaskInvalid):
            check_layout(plan)


def test_a_data_set_with_a_class_that_the_plan_lacks_is_refused(data: Cohort) -> None:
    with pytest.raises(TaskInvalid, match="class that the plan does not name"):
        Trainer.open(changed(task=replace(PLAN.task, classes=("clear", "else"))), data)


def test_evaluation_counts_held_out_samples_alone(data: Cohort, start: Vector) -> None:
    evaluated, correct = Trainer.open(PLAN, data).evaluate(start)
    assert evaluated == len(data.samples("held_out")) > 0
    assert 0 <= correct <= evaluated


def test_a_small_count_does_not_leave_the_site(data: Cohort, start: Vector) -> None:
    held_out = len(data.samples("held_out"))
    for least, shown in ((held_out, True), (held_out + 1, False)):
        found = Trainer.open(changed(evaluation=Evaluation(least)), data).evaluate(start)
        assert (found != (0, 0)) is shown


def test_a_round_trains_a_clipped_update_and_weighs_it_by_patients(
    data: Cohort, start: Vector
) -> None:
    said: list[str] = []
    before = start.copy()
    bound = Decimal("0.001")
    plan = changed(secure_aggregation=replace(PLAN.secure_aggregation, update_clip=bound))
    values, weight = Trainer.open(plan, data).train(start, said.append)
    assert values.dtype == np.float32
    assert values.shape == start.shape
    assert 0 < np.abs(values).max() <= np.float32(bound)
    assert weight == len({sample.patient for sample in data.samples("train")})
    assert (start == before).all()
    assert "2 noisy steps" in said[-1]
    assert not any(sample.patient in line for line in said for sample in data.samples("train"))


def test_gradients_that_are_not_finite_are_counted_on_the_sites_screen(
    data: Cohort, start: Vector
) -> None:
    said: list[str] = []
    opened = Trainer.open(PLAN, data)
    opened._train._inputs[:] = np.nan  # type: ignore[attr-defined]  # a scanner's fault
    values, _ = opened.train(start, said.append)
    assert np.isfinite(values).all()
    assert "gradients were not finite and counted as zero" in said[-2]


def test_the_weight_is_bounded_by_the_plan(data: Cohort, start: Vector) -> None:
    plan = changed(secure_aggregation=replace(PLAN.secure_aggregation, max_weight=5))
    assert Trainer.open(plan, data).train(start)[1] == 5


def test_with_shared_noise_the_weight_is_the_expected_batch(data: Cohort, start: Vector) -> None:
    patients = len({sample.patient for sample in data.samples("train")})
    _, weight = Trainer.open(one_step(shared=True), data).train(start)
    assert weight == round(patients * 0.5)
    assert Trainer.open(one_step(shared=False), data).train(start)[1] == patients


def test_shared_noise_that_the_protected_sum_would_cut_is_refused(data: Cohort) -> None:
    plan = one_step(shared=True)
    for change in ({"update_clip": Decimal("0.5")}, {"max_weight": 3}):
        cut = replace(plan, secure_aggregation=replace(plan.secure_aggregation, **change))
        with pytest.raises(Refused, match="raise it"):
            Trainer.open(cut, data)


def test_two_rounds_from_one_model_draw_other_noise(data: Cohort, start: Vector) -> None:
    opened = Trainer.open(PLAN, data)
    assert (opened.train(start)[0] != opened.train(start)[0]).any()


def test_every_round_starts_from_the_model_that_came(data: Cohort, start: Vector) -> None:
    opened = Trainer.open(PLAN, data)
    opened.train(start)
    opened.evaluate(start)
    arrays = unflatten(PLAN.model.tensors, start)
    for name, values in trainer.arrays(opened._model).items():
        assert (np.asarray(values) == arrays[name]).all(), name


def test_the_model_is_validated_once_for_all_rounds(
    data: Cohort, start: Vector, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[tuple[int, ...]] = []

    def counting(model: nn.Module, loss: object, input_shape: tuple[int, ...]) -> Engine:
        validated.append(input_shape)
        return validate(model, loss, input_shape)

    monkeypatch.setattr(trainer, "validate", counting)
    monkeypatch.delattr(rounds, "validate")  # a round that is handed an engine makes none
    opened = Trainer.open(PLAN, data)
    for _ in range(2):
        opened.train(start)
    assert validated == [PLAN.task.input_shape]


def test_threads_are_set_only_where_the_site_says_so() -> None:
    before = torch.get_num_threads()
    try:
        trainer.set_threads(1)
        assert torch.get_num_threads() == 1
        trainer.set_threads(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_no_path_of_the_data_stands_in_a_trainers_repr(data: Cohort, tmp_path: Path) -> None:
    text = repr(Trainer.open(PLAN, data))
    assert str(data.source) not in text
    assert "tensor(" not in text


@pytest.mark.parametrize("scaling", ["site", "schema"])
def test_a_scaling_by_the_sites_own_rows_is_stated_as_outside(tmp_path: Path, scaling: str) -> None:
    """A z-score makes a patient's inputs depend on the others', which no clip bounds."""
    table = phantom.table(tmp_path / "table", seed=1, patients=40)
    schema = table.parent / "schema.toml"
    schema.write_text(schema.read_text().replace("[table]", f'[table]\nscaling = "{scaling}"', 1))
    cohort.add(table, tmp_path, "data", "tabular", key=b"k" * 32)
    opened = Cohort.load(tmp_path, "data")
    plan = changed(
        task=Task("tabular", opened.classes, (len(opened.features),)),
        model=Model("perceptron", 1, (TensorLayout("any", (1,)),)),
    )
    layout = tensor_layout(build(task_spec(plan)))
    found = Trainer.open(replace(plan, model=replace(plan.model, tensors=layout)), opened).outside
    assert [("scaling of the table" in line) for line in found].count(True) == (scaling == "site")
    assert any("held-out counts" in line for line in found)
    assert any("number of patients" in line for line in found)


def test_the_divisor_of_the_noise_is_stated_as_outside_the_accountant(data: Cohort) -> None:
    opened = Trainer.open(PLAN, data)
    assert any("expected in a step" in line for line in opened.outside)
