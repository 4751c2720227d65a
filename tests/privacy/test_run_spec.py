"""From plan to run: counters and metrics by task, and a RunSpec that every side makes alike."""

from dataclasses import replace
from decimal import Decimal

import pytest

from wardround.privacy.errors import ParametersInvalid
from wardround.privacy.identity import Roster, SiteKeys
from wardround.privacy.model import TensorLayout
from wardround.privacy.plan import (
    Evaluation,
    Model,
    Participants,
    Privacy,
    SecureAggregation,
    Study,
    StudyPlan,
    Task,
    Training,
)
from wardround.privacy.run_spec import counters, exchange_rounds, make_run_spec, metrics
from wardround.privacy.secagg.parameters import MAX_COUNTERS

SITES = ("north", "south", "west")
PLAN = StudyPlan(
    study=Study("shapes", "Shapes", "to test", "none"),
    task=Task("image-classification-2d", ("disc", "ring"), (1, 8, 8)),
    model=Model("convnet", 1, (TensorLayout("weight", (4, 2)), TensorLayout("bias", (3,)))),
    training=Training(4, "local_steps", 2, "adamw", Decimal("0.002")),
    privacy=Privacy(
        *("patient", "add-remove", Decimal(1), Decimal("1.1"), Decimal("0.25")),
        *(Decimal(3), Decimal("1e-5")),
    ),
    secure_aggregation=SecureAggregation(3, 1, 3, 500, Decimal("0.25")),
    participants=Participants(SITES),
    evaluation=Evaluation(10),
)
SEGMENTATION = replace(
    PLAN, task=Task("segmentation-3d", ("background", "nodule", "vessel"), (1, 8, 8, 8))
)


def make_roster(sites: tuple[str, ...] = SITES) -> Roster:
    """Invented keys, each another."""
    return Roster(
        tuple(
            SiteKeys(site, bytes([n]) * 32, bytes([n + 100]) * 32, b"supernode %d" % n)
            for n, site in enumerate(sites, start=1)
        )
    )


def test_a_class_task_counts_the_evaluated_and_the_correct() -> None:
    assert counters(PLAN) == ("evaluated", "correct")
    assert counters(replace(PLAN, task=Task("tabular", ("a", "b"), (5,)))) == counters(PLAN)
    assert metrics(PLAN, {"evaluated": 80, "correct": 60}) == {"accuracy": 0.75}


def test_segmentation_counts_voxels_of_each_class_but_the_background() -> None:
    assert counters(SEGMENTATION) == (
        "evaluated",
        *("overlap_1", "truth_1", "predicted_1"),
        *("overlap_2", "truth_2", "predicted_2"),
    )
    sums = dict(zip(counters(SEGMENTATION), (10, 30, 40, 20, 5, 10, 40), strict=True))
    assert metrics(SEGMENTATION, sums)["dice"] == pytest.approx((60 / 60 + 10 / 50) / 2)


def test_a_class_that_is_nowhere_and_predicted_nowhere_is_segmented_perfectly() -> None:
    sums = dict.fromkeys(counters(SEGMENTATION), 0) | {"evaluated": 10}
    assert metrics(SEGMENTATION, sums) == {"dice": 1.0}


@pytest.mark.parametrize(("evaluated", "shown"), [(0, False), (9, False), (10, True)])
def test_a_metric_over_few_samples_is_not_shown(evaluated: int, shown: bool) -> None:
    assert bool(metrics(PLAN, {"evaluated": evaluated, "correct": 0})) is shown


def test_a_run_has_one_sum_more_than_training_rounds() -> None:
    assert exchange_rounds(PLAN) == 5


def test_the_run_spec_takes_everything_from_plan_and_roster() -> None:
    roster = make_roster()
    spec = make_run_spec(PLAN, "shapes-1", roster)
    assert spec.study.hex() == PLAN.digest()
    assert spec.roster.hex() == roster.digest()
    assert (spec.run, spec.participants, spec.rounds) == ("shapes-1", SITES, 5)
    assert (spec.threshold, spec.colluders, spec.min_cohort) == (3, 1, 3)
    assert (spec.dimension, spec.layout) == (11, PLAN.model.tensors)
    assert (spec.clip, spec.max_weight, spec.ring_bits, spec.group_mode) == (0.25, 500, 32, False)
    assert spec.counters == ("evaluated", "correct")
    assert make_run_spec(PLAN, "shapes-1", make_roster()) == spec


def test_any_change_of_plan_run_or_roster_makes_another_spec() -> None:
    spec = make_run_spec(PLAN, "shapes-1", make_roster())
    looser = replace(PLAN, privacy=replace(PLAN.privacy, noise_multiplier=Decimal(1)))
    others = [
        make_run_spec(looser, "shapes-1", make_roster()),
        make_run_spec(PLAN, "shapes-2", make_roster()),
        make_run_spec(PLAN, "shapes-1", Roster(tuple(_with_other_key(make_roster())))),
    ]
    assert len({spec, *others}) == 4


def test_more_counters_than_a_sum_carries_are_refused() -> None:
    classes = tuple(f"class-{number}" for number in range(MAX_COUNTERS))
    plan = replace(SEGMENTATION, task=replace(SEGMENTATION.task, classes=classes))
    with pytest.raises(ParametersInvalid, match="counters"):
        make_run_spec(plan, "shapes-1", make_roster())


def _with_other_key(roster: Roster) -> list[SiteKeys]:
    first, *rest = roster.sites
    return [replace(first, identity=b"other key of the first site, 32b"), *rest]
