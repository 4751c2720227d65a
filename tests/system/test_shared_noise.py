"""Noise shared between the sites of a sum: from the approval to the report, and where it ends."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from deploy.local import LocalFederation
from tests.system.conftest import SITES, make_plan
from tests.system.test_results_cli import coordinator
from tests.system.test_study_in_process import evidence

from wardround.privacy.events import PrivacySpend
from wardround.privacy.plan import StudyPlan, Training
from wardround.privacy.planned import PlannedSpend
from wardround.privacy.secagg import aggregator


def shared(rounds: int = 1, sites: tuple[str, ...] = SITES) -> StudyPlan:
    """One noisy step a round; three sites of which one may collude: two share the noise."""
    plan = make_plan(sites)
    return replace(
        plan,
        training=Training(rounds, "one_step", 1, "sgd", Decimal("0.1")),
        privacy=replace(plan.privacy, shared_noise=True),
        secure_aggregation=replace(plan.secure_aggregation, update_clip=Decimal(8)),
    )


def spent(federation: LocalFederation) -> list[PrivacySpend]:
    return [leaf.event for leaf in federation.leaves() if isinstance(leaf.event, PrivacySpend)]


def test_both_epsilons_are_signed_and_reported(federation: LocalFederation, tmp_path: Path) -> None:
    plan = shared(rounds=2)
    federation.approve(plan)
    outcome = federation.run("findings")
    assert (outcome.status, outcome.note) == ("completed", "")
    # At the delta of the data set's budget, which is the site's own.
    planned = replace(PlannedSpend.of_plan(plan), delta=Decimal("1e-3"))
    everyone, aggregate = planned.cost(), planned.cost("aggregate")
    assert aggregate.value < everyone.value
    last = [spend for spend in spent(federation) if spend.round == 2]
    assert len(last) == len(SITES)
    for spend in last:
        assert (spend.epsilon_after, spend.shared_noise_epsilon) == (everyone.text, aggregate.text)
    found = evidence(federation, outcome.run)
    assert (found.status, found.findings) == ("verified", ())
    report = tmp_path / "report"
    coordinator(federation, "report", "findings", "--output", str(report), "--no-pdf", "--wait=0")
    html = next(report.glob("*.html")).read_text()
    for price in (everyone, aggregate):
        assert price.text in html


def test_a_sum_that_would_cut_the_noise_is_refused_before_training(
    federation: LocalFederation,
) -> None:
    plan = shared()
    secagg = replace(plan.secure_aggregation, update_clip=Decimal("0.5"))
    federation.approve(replace(plan, secure_aggregation=secagg))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "may cut this site's update, and the shared noise with it" in outcome.note
    assert spent(federation) == []


def test_a_coordinator_that_sends_a_tiny_clip_gets_nothing(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all coordinates at the clip the other sites' noise would be gone from the sum."""
    monkeypatch.setattr(aggregator, "next_clip", lambda spec, aggregate: spec.clip * 2.0**-20)
    federation.approve(shared(rounds=2))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "clip of its own" in outcome.note
    assert {spend.round for spend in spent(federation)} == {1}
