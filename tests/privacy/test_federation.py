"""One reading of the log: who is enrolled, what was agreed, which runs there were."""

import pytest

from wardround.privacy.errors import IdentityUnknown
from wardround.privacy.events import (
    Approval,
    Enrol,
    Event,
    Fault,
    Leaf,
    Refusal,
    Revoke,
    Rotate,
    RunEnd,
    RunStart,
    StudyPlanned,
)
from wardround.privacy.federation import KINDS, Federation, project
from wardround.privacy.statements import FIRST, Body, Statement

FIRST_PLAN, SECOND_PLAN = "a1" * 32, "b2" * 32


def leaf(event: Event, site: str = "") -> Leaf:
    """An entry as the log gives it; `site` is the one that signed it."""
    statement = Statement("0" * 64, site, 1, FIRST, 1, event.kind, Body()) if site else None
    return Leaf(1, "", event, statement)


def enrol(site: str, key: str = "11") -> Leaf:
    """A site whose identity key is `key`, 32 times; its other keys follow from its name."""
    witness, supernode = site.encode().ljust(32).hex(), site.encode().hex()
    return leaf(Enrol(site, key * 32, witness, supernode, f"Clinic {site}", "w 1"), site)


def planned(digest: str = FIRST_PLAN, study: str = "shapes") -> Leaf:
    return leaf(
        StudyPlanned(
            *(study, digest, "{}", "00", "Shapes", "to test", "none", "", "tabular", "mlp"),
            *(("north", "south"), 3, "local_steps", "patient", "add-remove", "1", "1"),
            *("0.5", "3", "1e-5", False, 2, 0, 2),
        )
    )


def approval(site: str, digest: str = FIRST_PLAN, study: str = "shapes") -> Leaf:
    return leaf(Approval(study, digest, "officer", ("d",), "3", "1e-5", "", "none", ""), site)


def refusal(site: str, digest: str = FIRST_PLAN, run: str = "") -> Leaf:
    return leaf(Refusal("shapes", digest, run, 0, 0, "operator", "no"), site)


def run_start(run: str, study: str = "shapes") -> Leaf:
    return leaf(
        RunStart(
            *(run, study, FIRST_PLAN, "00" * 32, "00" * 32, "00", ("north", "south"), 3, 10),
            *(32, 2, 0, 2, False, ("evaluated",), "w 1"),
        )
    )


def run_end(run: str) -> Leaf:
    return leaf(RunEnd(run, "completed", "", 3, ""))


def test_an_empty_log_holds_nobody() -> None:
    assert project([]) == Federation()


def test_an_enrolled_site_is_in_the_roster_with_the_keys_it_stated() -> None:
    federation = project([enrol("south"), enrol("north", "22")])
    roster = federation.roster(["south", "north"])
    assert tuple(roster) == ("north", "south")
    assert roster["north"].identity == b"\x22" * 32
    assert federation.organisations["south"] == "Clinic south"


def test_a_site_that_is_not_enrolled_is_named() -> None:
    with pytest.raises(IdentityUnknown, match="site 'west' is not enrolled"):
        project([enrol("south")]).roster(["south", "west"])


def test_a_revoked_site_is_out_until_it_is_enrolled_anew() -> None:
    revoke = leaf(Revoke("south", "11" * 32, "key lost", 0))
    federation = project([enrol("south"), revoke])
    assert (set(federation.sites), federation.revoked) == (set(), {"south"})
    with pytest.raises(IdentityUnknown, match="'south' is revoked"):
        federation.roster(["south"])
    again = project([enrol("south"), revoke, enrol("south", "33")])
    assert again.revoked == set()
    assert again.sites["south"].identity == b"\x33" * 32


def test_a_rotation_replaces_the_keys_and_nothing_else() -> None:
    rotate = Rotate("south", "44" * 32, "55" * 32, "bb", "00" * 64, "yearly")
    federation = project([enrol("south"), leaf(rotate, "south")])
    assert federation.sites["south"].identity == b"\x44" * 32
    assert federation.organisations["south"] == "Clinic south"


def test_approvals_count_for_the_newest_plan_alone() -> None:
    leaves = [planned(), approval("north"), approval("south")]
    assert project(leaves).studies["shapes"].approved == {"north", "south"}
    changed = [*leaves, planned(SECOND_PLAN)]
    assert project(changed).studies["shapes"].approved == frozenset()
    late = project([*changed, approval("north")])  # of the plan that is no more
    assert late.studies["shapes"].approved == frozenset()
    assert late.study_of_digest(FIRST_PLAN) is None
    found = late.study_of_digest(SECOND_PLAN)
    assert found is not None
    assert found.planned.plan_digest == SECOND_PLAN


def test_the_last_word_of_a_site_counts() -> None:
    state = project([planned(), approval("north"), refusal("north")]).studies["shapes"]
    assert (state.approved, state.refused) == (frozenset(), {"north"})
    state = project([planned(), refusal("north"), approval("north")]).studies["shapes"]
    assert (state.approved, state.refused) == ({"north"}, frozenset())


def test_a_refusal_of_one_run_takes_back_no_approval() -> None:
    state = project([planned(), approval("north"), refusal("north", run="r-1")]).studies["shapes"]
    assert (state.approved, state.refused) == ({"north"}, frozenset())


def test_what_is_said_of_an_unknown_study_or_run_changes_nothing() -> None:
    leaves = [approval("north", study="other"), refusal("north"), run_end("r-9")]
    assert project(leaves) == Federation()


def test_a_run_goes_on_until_its_end_is_logged() -> None:
    leaves = [planned(), run_start("r-1"), run_start("r-2"), run_start("x-1", "other")]
    federation = project([*leaves, run_end("r-1")])
    outcomes = [(state.start.run, state.outcome) for state in federation.runs_of("shapes")]
    assert outcomes == [("r-1", "completed"), ("r-2", "")]


def test_the_study_gives_back_the_plan_as_it_was_signed() -> None:
    signed = project([planned()]).studies["shapes"].signed_plan
    assert (signed.plan_bytes, signed.signature) == (b"{}", b"\x00")


def test_kinds_that_are_not_listed_change_nothing() -> None:
    fault = Fault("r-1", 1, 1, "north", "upload", "late")
    assert fault.kind not in KINDS
    assert project([leaf(fault)]) == Federation()
    assert {event.event.kind for event in (enrol("a"), planned(), approval("a"))} < set(KINDS)
