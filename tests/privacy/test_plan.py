"""A plan is read strictly, has one byte form, and cannot be changed after it was signed."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy.errors import MalformedData, PlanInvalid, SignatureInvalid
from wardround.privacy.identity import FileSigner
from wardround.privacy.plan import SignedPlan, StudyPlan, decimal_text

PLAN = """
[study]
id = "shapes"
title = "Shapes in phantoms"
purpose = "Show that the parts work together"
legal_basis = "none needed: synthetic data"
[task]
kind = "image-classification-2d"
classes = ["disc", "ring"]
input_shape = [1, 32, 32]
[model]
name = "cnn"
seed = 1
tensors = [{ name = "conv.weight", shape = [8, 1, 3, 3] }, { name = "conv.bias", shape = [8] }]
arguments = { width = 8, strides = [1, 2] }
[training]
rounds = 3
mode = "local_steps"
local_steps = 5
optimiser = "adamw"
learning_rate = 0.002
[privacy]
unit = "patient"
relation = "add-remove"
clip = 1.0
noise_multiplier = 1.1
sample_rate = 0.25
target_epsilon = 3
delta = 1e-5
[secure_aggregation]
threshold = 3
colluders = 1
min_cohort = 3
max_weight = 1000
update_clip = 1.0
[participants]
sites = ["north", "south", "west"]
"""


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return StudyPlan.from_toml(PLAN)


def test_canonical_form_round_trips(plan: StudyPlan) -> None:
    assert StudyPlan.from_canonical(plan.canonical()) == plan
    assert plan.dimension == 80
    assert plan.model.arguments == (("strides", (1, 2)), ("width", 8))


def test_spelling_of_decimals_does_not_change_the_digest(plan: StudyPlan) -> None:
    respelt = PLAN.replace("clip = 1.0", "clip = 1").replace("1e-5", "0.00001")
    assert StudyPlan.from_toml(respelt).digest() == plan.digest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clip = 1.0", 'clip = "x"', r"plan.privacy.clip must be a number"),
        ("clip = 1.0", "clip = nan", r"plan.privacy.clip must be a number"),
        ("clip = 1.0", "clip = 1e99", r"out of every sensible range"),
        ("min_cohort = 3", "min_cohort = 2", r"min_cohort must be 3..3"),
        ("threshold = 3", "threshold = 2", r"threshold must be 3..3"),
        ("rounds = 3", "rounds = true", r"plan.training.rounds must be int"),
        ("seed = 1", "sed = 1", r"unknown field 'sed'"),
        ("seed = 1\n", "", r"plan.model lacks 'seed'"),
        ('"south", "west"', '"south"', r"3 to 50 are needed"),
        ('"north", "south"', '"south", "north"', r"must be sorted"),
        ('"local_steps"', '"often"', r"plan.training.mode must be one of"),
        ("delta = 1e-5", "delta = 0.1", r"privacy.delta must be in"),
        ('id = "shapes"', 'id = "a/../b"', r"study.id: a-z"),
        ('purpose = "Show that the parts work together"', 'purpose = " "', r"purpose is empty"),
        ('title = "Shapes in phantoms"', 'title = "a\\nb"', r"one line of printable text"),
        ("conv.bias", "conv.weight", r"names one twice"),
        ("[task]", "[task", r"not valid TOML"),
        ("delta = 1e-5", "delta = 1e-5\nshared_noise = true", r"sound only with"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(old: str, new: str, message: str) -> None:
    assert old in PLAN
    with pytest.raises(PlanInvalid, match=message):
        StudyPlan.from_toml(PLAN.replace(old, new, 1))


def test_noise_is_not_shared_in_a_ring_that_cuts_it() -> None:
    text = PLAN.replace('"local_steps"', '"one_step"').replace("local_steps = 5", "local_steps = 1")
    text = text.replace("delta = 1e-5", "delta = 1e-5\nshared_noise = true")
    assert StudyPlan.from_toml(text).privacy.shared_noise
    with pytest.raises(PlanInvalid, match=r"needs secure_aggregation\.ring_bits 32"):
        StudyPlan.from_toml(
            text.replace("[secure_aggregation]", "[secure_aggregation]\nring_bits = 16")
        )


def test_a_plan_altered_after_signing_is_refused(plan: StudyPlan) -> None:
    signer = FileSigner.generate()
    signed = SignedPlan.sign(plan, signer)
    assert SignedPlan.from_json(signed.to_json()).open(signer.public_bytes()) == plan
    looser = replace(plan, privacy=replace(plan.privacy, target_epsilon=Decimal(9)))
    with pytest.raises(SignatureInvalid):
        SignedPlan(looser.canonical(), signed.signature).open(signer.public_bytes())
    with pytest.raises(SignatureInvalid):
        signed.open(FileSigner.generate().public_bytes())


def test_a_signed_plan_of_another_form_is_refused(plan: StudyPlan) -> None:
    signed = SignedPlan.sign(plan, FileSigner.generate()).to_json()
    for wrong in ({}, {**signed, "more": 1}, {**signed, "signature": "zz"}, {**signed, "plan": 1}):
        with pytest.raises(MalformedData):
            SignedPlan.from_json(wrong)


@given(st.decimals(min_value=Decimal("1e-12"), max_value=Decimal("1e12"), places=9))
def test_every_decimal_has_one_spelling(number: Decimal) -> None:
    assert Decimal(decimal_text(number)) == number
    assert decimal_text(Decimal(decimal_text(number))) == decimal_text(number)
