"""Default deny: a plan is admitted only by a block that allows every point of it."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from wardround.client import policy
from wardround.client.config import POLICY
from wardround.client.errors import ConfigInvalid, Refused
from wardround.privacy.model import TensorLayout
from wardround.privacy.plan import (
    Model,
    Participants,
    Privacy,
    SecureAggregation,
    Study,
    StudyPlan,
    Task,
    Training,
)

ADMITS = """
[total]
epsilon = 8.0
delta = 1e-5
[[admit]]
task = "image-classification-2d"
data = "chest"
epsilon = 3.0
delta = 1e-5
unit = "patient"
min_cohort = 3
min_patients = 20
peers = ["north", "south", "west"]
shared_noise = false
expires = 2027-12-31
"""
DAY = date(2027, 1, 1)
PLAN = StudyPlan(
    study=Study("shapes", "Shapes", "to test", "none"),
    task=Task("image-classification-2d", ("disc", "ring"), (1, 32, 32)),
    model=Model("cnn", 1, (TensorLayout("weight", (4,)),)),
    training=Training(2, "local_steps", 5, "adamw", Decimal("0.002")),
    privacy=Privacy(
        "patient",
        "add-remove",
        Decimal(1),
        Decimal("1.1"),
        Decimal("0.25"),
        Decimal(3),
        Decimal("1e-5"),
    ),
    secure_aggregation=SecureAggregation(3, 1, 3, 1000, Decimal(1)),
    participants=Participants(("north", "south", "west")),
)


def read(tmp_path: Path, text: str) -> policy.Policy:
    (tmp_path / "policy.toml").write_text(text)
    return policy.load(tmp_path / "policy.toml")


def test_the_policy_a_new_site_gets_admits_nothing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="admits no study") as caught:
        read(tmp_path, POLICY).admit(PLAN, today=DAY)
    assert caught.value.rule == "task"


def test_the_commented_block_of_a_new_site_is_a_valid_one(tmp_path: Path) -> None:
    text = "\n".join(
        line[2:] if line.startswith("# ") and ("=" in line or "[[" in line) else line
        for line in POLICY.splitlines()
    )
    assert len(read(tmp_path, text).admissions) == 1


def test_a_plan_within_every_bound_is_admitted(tmp_path: Path) -> None:
    block = read(tmp_path, ADMITS).admit(PLAN, today=DAY)
    assert (block.data, block.min_patients) == ("chest", 20)


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ('task = "image-classification-2d"', 'task = "tabular"', "task"),
        ("expires = 2027-12-31", "expires = 2026-12-31", "expires"),
        ('"south", "west"', '"south"', "peers"),
        ("min_cohort = 3", "min_cohort = 4", "min_cohort"),
        ("epsilon = 3.0", "epsilon = 2.9", "epsilon"),
        ("epsilon = 8.0", "epsilon = 2.9", "total"),
        ("unit = ", "delta = 1e-6\nunit = ", "delta"),
    ],
)
def test_one_point_beyond_the_policy_refuses_and_names_its_rule(
    tmp_path: Path, old: str, new: str, rule: str
) -> None:
    text = ADMITS.replace(old, new, 1)
    if rule == "delta":
        text = text.replace("delta = 1e-5\ndelta", "delta")
    with pytest.raises(Refused) as caught:
        read(tmp_path, text).admit(PLAN, today=DAY)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("plan", "rule"),
    [
        (replace(PLAN, privacy=replace(PLAN.privacy, unit="image")), "unit"),
        (
            replace(
                PLAN,
                privacy=replace(PLAN.privacy, shared_noise=True),
                training=replace(PLAN.training, mode="one_step", local_steps=1),
            ),
            "shared_noise",
        ),
    ],
)
def test_a_weaker_protection_than_the_policy_asks_is_refused(
    tmp_path: Path, plan: StudyPlan, rule: str
) -> None:
    with pytest.raises(Refused) as caught:
        read(tmp_path, ADMITS).admit(plan, today=DAY)
    assert caught.value.rule == rule


def test_a_policy_may_demand_group_mode(tmp_path: Path) -> None:
    text = ADMITS + "require_group_mode = true\n"
    with pytest.raises(Refused, match="ask for a plan with group_mode = true") as caught:
        read(tmp_path, text).admit(PLAN, today=DAY)
    assert caught.value.rule == "group_mode"
    hidden = replace(PLAN.secure_aggregation, group_mode=True)
    grouped = replace(PLAN, secure_aggregation=hidden)
    assert read(tmp_path, text).admit(grouped, today=DAY).require_group_mode
    for silent in (ADMITS, ADMITS + "require_group_mode = false\n"):
        assert not read(tmp_path, silent).admit(PLAN, today=DAY).require_group_mode
        assert read(tmp_path, silent).admit(grouped, today=DAY).data == "chest"


def test_the_second_block_may_admit_what_the_first_refuses(tmp_path: Path) -> None:
    second = ADMITS[ADMITS.index("[[admit]]") :]
    text = ADMITS.replace("epsilon = 3.0", "epsilon = 1.0", 1) + second
    assert read(tmp_path, text).admit(PLAN, today=DAY).epsilon == Decimal(3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("min_patients = 20\n", "", "lacks 'min_patients'"),
        ("min_patients = 20", "min_patients = 20\nmore = 1", "unknown field 'more'"),
        ("min_cohort = 3", 'min_cohort = "3"', "min_cohort must be a whole number"),
        ("expires = 2027-12-31", 'expires = "soon"', "expires must be a date"),
        ("epsilon = 8.0", "epsilon = -1", "must be a number above 0"),
        ("epsilon = 8.0", "epsilon = nan", "must be a number above 0, not NaN"),
        ("epsilon = 8.0", "epsilon = inf", "must be a number above 0"),
        ("epsilon = 8.0", "epsilon = 1e400", "out of every sensible range"),
        ("delta = 1e-5", "delta = 1e-400", "out of every sensible range"),
        ("delta = 1e-5", "delta = 1", "must be below 1"),
        ("delta = 1e-5", "delta = true", "must be a number above 0, not True"),
        ("[total]", "[totals]", "unknown setting 'totals'"),
        ("[total]", "[total", "not valid TOML"),
        ("[[admit]]", "[admit]", r"blocks that begin \[\[admit\]\]"),
        ("shared_noise = false", "shared_noise = 0", "shared_noise must be true or false"),
        ("expires", "require_group_mode = 1\nexpires", "require_group_mode must be true or false"),
    ],
)
def test_a_policy_with_a_mistake_admits_nothing_and_says_where(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        read(tmp_path, ADMITS.replace(old, new, 1))


def test_without_a_policy_file_nothing_is_admitted(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="nothing is admitted"):
        policy.load(tmp_path / "policy.toml")
