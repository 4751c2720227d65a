"""What the coordinator tells beside what was signed: every site cosigns it, none of them said it.

A witness vouches that entries stay, not that they are true. So the summary of a plan, the
parameters of a run and the metrics of a round are derived again from what they should follow from.
"""

from pathlib import Path

import pytest
from audit_forger import Forger, found
from audit_study import Evidence, Study

from wardround.privacy.identity import FileSigner
from wardround.privacy.plan import SignedPlan
from wardround.privacy.verify.findings import Findings


@pytest.fixture
def forger(study: Study, evidence: Evidence) -> Forger:
    return Forger(study, evidence)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("purpose", "quality control"),
        ("legal_basis", "consent of every patient"),
        ("dpia", "DPIA-8"),
        ("noise_multiplier", "11"),
        ("unit", "image"),
        ("threshold", 4),
        ("participants", ["a", "b", "c"]),
    ],
)
def test_a_plan_told_otherwise_than_its_text(
    forger: Forger, tmp_path: Path, field: str, value: object
) -> None:
    """A report shows these fields; sites have read and approved the text alone."""
    at = forger.find("study_plan")
    forger.edit(at, **{field: value})
    assert found(forger.rederive().seal().verify(tmp_path), "plan", at)


def test_another_text_under_the_digest_that_was_approved(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("study_plan")
    text = forger.study.plan.canonical().decode()
    forger.edit(at, plan=text.replace("Art. 9(2)(j)", "Art. 9(2)(a)"))
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "plan", at)


def test_a_plan_that_somebody_else_signed(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("study_plan")
    signed = SignedPlan.sign(forger.study.plan, FileSigner.generate())
    forger.edit(at, signature=signed.signature.hex())
    assert found(forger.rederive().seal().verify(tmp_path), "plan", at)


def test_a_plan_without_its_text_leaves_the_evidence_incomplete(
    forger: Forger, tmp_path: Path
) -> None:
    at = forger.find("study_plan")
    forger.edit(at, plan="")
    result = forger.rederive().seal().verify(tmp_path, replay=True)
    assert [one.breaks for one in result.findings if one.check == "plan"] == [False]


@pytest.mark.parametrize(
    ("field", "value"), [("colluders", 2), ("rounds", 9), ("min_cohort", 2), ("counters", [])]
)
def test_a_run_that_is_not_as_planned(
    forger: Forger, tmp_path: Path, field: str, value: object
) -> None:
    at = forger.find("run_start")
    forger.edit(at, **{field: value})
    assert found(forger.rederive().seal().verify(tmp_path), "plan", at)


@pytest.mark.parametrize(
    ("field", "value"), [("colluders", 2), ("group_mode", True), ("dimension", 41)]
)
def test_a_run_told_otherwise_than_its_first_message(
    forger: Forger, tmp_path: Path, field: str, value: object
) -> None:
    """Without the plan's text, replaying still compares with the RunSpec that sites were sent."""
    forger.edit(forger.find("study_plan"), plan="")
    forger.edit(forger.find("run_start"), **{field: value})
    assert found(forger.rederive().seal().verify(tmp_path, replay=True), "replay")


def test_a_better_accuracy_than_was_counted(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("evaluation")
    forger.edit(at, metrics=[{"name": "accuracy", "value": "0.9999"}])
    assert found(forger.rederive().seal().verify(tmp_path), "evaluation", at)


def test_counters_that_are_not_those_of_the_sum(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("evaluation")
    forger.edit(
        at,
        counters=[{"name": "evaluated", "value": 36}, {"name": "correct", "value": 36}],
        metrics=[{"name": "accuracy", "value": "1.0000"}],
    )
    assert found(forger.rederive().seal().verify(tmp_path), "evaluation", at)


def test_an_evaluation_said_to_be_of_another_model(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("evaluation")
    forger.edit(at, model_digest="ab" * 32)
    assert found(forger.rederive().seal().verify(tmp_path), "evaluation", at)


def test_an_evaluation_of_a_round_that_opened_nothing(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("evaluation")
    forger.edit(at, round=9)
    assert found(forger.rederive().seal().verify(tmp_path), "evaluation", at)


def test_a_run_that_ends_with_another_model(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("run_end")
    forger.edit(at, model_digest="cd" * 32)
    assert found(forger.rederive().seal().verify(tmp_path), "model", at)


def test_a_contradiction_is_not_crowded_out_by_what_is_missing() -> None:
    """A long log has many rounds whose uploads are gone; the one that was forged comes last."""
    findings = Findings()
    for entry in range(2 * Findings.LIMIT):
        findings.add("replay", entry, "retained uploads", "gone", breaks=False)
    findings.add("replay", 999, "a sum", "another sum")
    assert findings.all()[0].entry == 999
    assert findings.all()[0].breaks
