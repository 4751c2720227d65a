"""A budget is the site's: an approval sets one where none stands, and never raises one."""

from dataclasses import replace
from decimal import Decimal

import pytest
from deploy.local import LocalFederation
from tests.system.conftest import make_plan

from wardround.client.errors import Refused
from wardround.client.site import Site
from wardround.datasets.cohort import Cohort
from wardround.privacy.plan import StudyPlan
from wardround.privacy.planned import PlannedSpend


def promising(epsilon: str) -> StudyPlan:
    """A plan that costs 2.3 at delta 1e-4 and promises to cost at most `epsilon`."""
    plan = make_plan()
    return replace(plan, privacy=replace(plan.privacy, target_epsilon=Decimal(epsilon)))


def approve(federation: LocalFederation, plan: StudyPlan) -> str:
    """Let the first site approve `plan`; return the study's budget there, in epsilon."""
    federation.desk.studies.create(plan, federation.desk.signer, "researcher")
    site = first(federation)
    site.sync()
    site.approve("findings", "officer")
    return budget(site)


def first(federation: LocalFederation) -> Site:
    return federation.sites["north"]


def dataset(site: Site) -> str:
    return Cohort.load(site.home.folder, "data").pseudonym


def budget(site: Site) -> str:
    return site.ledger.book().budgets[dataset(site), "findings"].epsilon


def test_a_budget_that_the_operator_set_stands(federation: LocalFederation) -> None:
    site = first(federation)
    site.ledger.set_budget(dataset(site), Decimal(8), Decimal("1e-4"))
    site.ledger.set_budget(dataset(site), Decimal(1), Decimal("1e-4"), study="findings")
    with pytest.raises(Refused, match=r"0 of its 2 rounds.*ledger budget set"):
        approve(federation, promising("8"))
    assert budget(site) == "1"
    site.ledger.set_budget(dataset(site), Decimal(3), Decimal("1e-4"), study="findings")
    site.approve("findings", "officer")
    assert budget(site) == "3"


def test_an_approval_sets_and_lowers_a_budget_and_never_raises_one(
    federation: LocalFederation,
) -> None:
    assert approve(federation, promising("4")) == "4"
    assert approve(federation, promising("3")) == "3"
    assert approve(federation, promising("5")) == "3"


def test_the_last_round_that_the_budget_bears_is_announced(
    federation: LocalFederation, caplog: pytest.LogCaptureFixture
) -> None:
    plan = promising("8")
    site = first(federation)
    cost = PlannedSpend.of_plan(plan).cost()
    site.ledger.set_budget(dataset(site), cost.value, plan.privacy.delta)
    federation.approve(plan)
    with caplog.at_level("INFO"):
        assert federation.run("findings").status == "completed"
    last = [r.getMessage() for r in caplog.records if "the last round" in r.getMessage()]
    assert last == ["this is the last round that the budget of the data set bears"]
    assert site.ledger.book().accounts(dataset(site), "")[0].left == 0
