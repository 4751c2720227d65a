"""The verifier's rules of group mode: which model a sum led to is for enough sites to sign."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from wardround.privacy.events import (
    Aggregated,
    Counter,
    Event,
    Leaf,
    ModelStep,
    RoundStart,
    RunEnd,
    RunStart,
)
from wardround.privacy.statements import FIRST, Body, Statement
from wardround.privacy.verify.findings import Finding, Findings
from wardround.privacy.verify.runs import Runs

SITES = ("a", "b", "c", "d")
START = RunStart(
    *("run-1", "study", "11" * 32, "22" * 32, "33" * 32, "", SITES, 2, 40, 32, 3, 1, 3, True),
    *((), "wardround"),
)


def digest(number: int) -> str:
    return f"{number:064x}"


def begin(number: int, invited: tuple[str, ...] = SITES, model: str = "") -> RoundStart:
    started = model or digest(number - 1)
    return RoundStart("run-1", number, 1, "train", started, 160, invited)


def opened(number: int) -> Aggregated:
    place = "run-1", number, 1, digest(1000 + number), digest(2000 + number), 160
    return Aggregated(*place, (), SITES, 0, (), "")


def step(number: int, model: str = "") -> ModelStep:
    sums = digest(1000 + number), digest(2000 + number)
    return ModelStep("run-1", number, 1, *sums, model or digest(number))


Said = tuple[str, Event]


def two_rounds() -> list[Said]:
    """An honest run of two rounds, one after the other; the coordinator's name is empty."""
    said: list[Said] = [("", START)]
    for number in (1, 2):
        said += [("", begin(number)), ("", opened(number))]
        said += [(site, step(number)) for site in SITES]
    return [*said, ("", RunEnd("run-1", "completed", "", 2, digest(2)))]


def findings(said: Iterable[Said]) -> list[Finding]:
    """What the rules of group mode find; those about uploads and ends are for other tests."""
    found = Findings()
    runs = Runs(found)
    runs.plans.studies[START.plan_digest] = START.study
    runs.approvals = {(site, START.plan_digest) for site in SITES}
    for index, (site, event) in enumerate(said):
        statement = None
        if site:
            body = Body(event.to_json())
            statement = Statement("44" * 32, site, 1, FIRST, 0, event.kind, body)
        runs.add(index, Leaf(0, "", event, statement))
    runs.finish()
    return [one for one in found.all() if one.check == "model" or "only the sites" in one.expected]


def changed(old: Said, *new: Said) -> list[Said]:
    said = two_rounds()
    place = said.index(old)
    return [*said[:place], *new, *said[place + 1 :]]


def test_an_honest_run_leaves_no_finding() -> None:
    assert findings(two_rounds()) == []


def test_one_site_that_has_not_read_a_sum_and_is_not_invited_is_no_finding() -> None:
    said = [one for one in changed(("", begin(2)), ("", begin(2, SITES[:3]))) if one[0] != "d"]
    assert findings(said) == []
    assert findings([*said, ("d", step(1)), ("d", step(2))]) == []  # it came back later


@pytest.mark.parametrize(
    ("said", "expected", "found"),
    [
        (
            changed(("", begin(2)), ("", begin(2, model=digest(9)))),
            digest(1),
            digest(9),
        ),
        ([one for one in two_rounds() if one != ("b", step(1))], "sites that signed", "b"),
        (
            [one for one in two_rounds() if one not in (("b", step(1)), ("c", step(1)))],
            "a model that 3 sites signed",
            digest(1),
        ),
        (
            changed(("c", step(2)), ("c", step(2, digest(9)))),
            f"the model {digest(2)} of 3 sites after round 2",
            f"{digest(9)}, as c says",
        ),
        (
            changed(("c", step(1)), ("c", replace(step(1), aggregate=digest(8)))),
            f"a step from the sum {digest(2001)}",
            digest(8),
        ),
        (changed(("c", step(1)), ("c", step(1)), ("c", step(1))), "one model of c", "another"),
        (changed(("c", step(1)), ("c", step(1)), ("e", step(1))), "a site of the run", "e"),
        ([("", START), ("a", step(1))], "an opened sum of round 1", "none"),
        (
            [*two_rounds()[:-1], ("", RunEnd("run-1", "completed", "", 2, digest(1)))],
            digest(2),
            digest(1),
        ),
        (
            changed(("", opened(1)), ("", replace(opened(1), model_digest=digest(1)))),
            "only the sites can read",
            "what it says",
        ),
        (
            changed(("", opened(1)), ("", replace(opened(1), counters=(Counter("n", 3),)))),
            "only the sites can read",
            "what it says",
        ),
        ([("", replace(START, group_mode=False)), ("a", step(1))], "a run in group mode", "run-1"),
    ],
)
def test_what_does_not_follow_from_what_enough_sites_signed_is_found(
    said: list[Said], expected: str, found: str
) -> None:
    assert any(
        expected in one.expected and found in one.found and one.breaks for one in findings(said)
    )


def test_a_sum_in_plain_mode_names_the_model_it_led_to() -> None:
    plain = replace(START, group_mode=False)
    (found,) = findings([("", plain), ("", begin(1)), ("", opened(1))])
    assert (found.expected, found.found) == ("the model that the sum led to", "none")
