"""Any schedule of an adversarial coordinator: what a site answers is always what it may answer.

Hypothesis is the coordinator of four honest sites and may say anything it can sign or has seen:
tasks in any order for any participants, survivor sets over any uploads, quorums of any
signatures, every message again to anyone, to some sites and not to others; and sites restart. An
`Oracle` that shares no code with the sites keeps what each ever answered and says whether the
next answer breaks a rule; sums that can be opened must be exact.

A rule that is broken on purpose has to be found, each within the examples given below.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from secagg_federation import COORDINATOR, boxes_for, check, ready, wire

from wardround.privacy.errors import SecureAggregationError
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import (
    Contribution,
    Participant,
    Quorum,
    Ring,
    Shares,
    Survivors,
    SurvivorSet,
    SurvivorSignature,
    Task,
    Upload,
    digest,
    release,
)
from wardround.privacy.secagg.collection import Collection
from wardround.privacy.secagg.messages import signed

SITES, THRESHOLD = 4, 3
Sum: TypeAlias = tuple[tuple[str, ...], float | None]  # over whom, and the bound of the updates


@dataclass
class Oracle:
    """The rules a site must keep, told by its answers alone."""

    attempts: dict[str, tuple[int, int]] = field(default_factory=dict)
    tasks: dict[bytes, Task] = field(default_factory=dict)
    sets: dict[bytes, SurvivorSet] = field(default_factory=dict)
    signed: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    released: dict[str, list[Shares]] = field(default_factory=lambda: defaultdict(list))

    def uploads(self, site: str, task: Task) -> None:
        """A site masks one vector for each (round, attempt), in increasing order."""
        assert (task.round, task.attempt) > self.attempts.get(site, (0, 0)), "attempt used twice"
        self.attempts[site] = (task.round, task.attempt)
        for opened, bound in self._opened_by(site, task.model):
            assert set(opened) <= set(task.participants), "differencing by participants"
            assert bound == task.clip, "differencing by bounds"

    def signs(self, site: str, chosen: SurvivorSet) -> None:
        """A site signs one survivor set a context, which holds it, and one a released model."""
        name, context = digest(chosen), chosen.context
        assert self.signed.setdefault((site, context), name) == name, "signed two survivor sets"
        assert site in chosen.sites, "signed a set without itself"
        assert len(chosen.sites) >= THRESHOLD, "signed too small a set"
        for opened, _ in self._opened_by(site, self.tasks[context].model):
            assert opened == chosen.sites, "differencing by survivors"

    def releases(self, site: str, shares: Shares, quorum: Quorum) -> None:
        """With t signatures on the set it signed: own masks of U, pair secrets with the others."""
        chosen = self.sets[shares.survivors]
        assert self.signed[site, shares.context] == shares.survivors, "released for another set"
        signers = {
            signature.site
            for signature in quorum.signatures
            if self.signed.get((signature.site, shares.context)) == shares.survivors
        }
        assert len(signers) >= THRESHOLD, "released without a quorum"
        alive = len(chosen.sites)
        dead = len(self.tasks[shares.context].participants) - alive
        counts = (len(shares.self_shares), len(shares.pair_shares))
        assert counts == (alive, alive * dead), "released shares of both kinds for one peer"
        self.released[site].append(shares)
        self._one_set_opens()

    def _one_set_opens(self) -> None:
        """For a model: at most one set, under one bound, can ever gather t sites' shares."""
        who: dict[tuple[bytes, Sum], set[str]] = defaultdict(set)
        for site, all_shares in self.released.items():
            for shares in all_shares:
                task = self.tasks[shares.context]
                who[task.model, (self.sets[shares.survivors].sites, task.clip)].add(site)
        models = [model for (model, _), sites in who.items() if len(sites) >= THRESHOLD]
        assert len(models) == len(set(models)), "two sums opened for one model"

    def _opened_by(self, site: str, model: bytes) -> Iterable[Sum]:
        for shares in self.released[site]:
            task = self.tasks[shares.context]
            if task.model == model:
                yield self.sets[shares.survivors].sites, task.clip


everyone = set(range(SITES))
maybe_one = st.sampled_from([SITES, 0, SITES, 1, SITES, 2, 3])  # SITES: nobody
some_sites = st.one_of(st.just(everyone), st.sets(st.integers(0, SITES - 1), min_size=1))
most_sites = st.one_of(st.just(everyone), st.sets(st.integers(0, SITES - 1), min_size=3))


class Schedules(RuleBasedStateMachine):
    @initialize()
    def agree_on_keys(self) -> None:
        self.federation = ready(SITES, layout=(TensorLayout("w", (6,)),))
        self.oracle = Oracle()
        self.at, self.model = (0, 0), 0
        self.uploads: dict[bytes, dict[str, tuple[Upload, Ring]]] = defaultdict(dict)
        self.given: dict[bytes, dict[str, Contribution]] = defaultdict(dict)
        self.signatures: dict[bytes, dict[str, SurvivorSignature]] = defaultdict(dict)
        self.said: list[Task | Survivors | Quorum] = []
        self.opened = 0

    # What the coordinator can say

    @rule(new=st.sampled_from(["attempt", "round", "model"]), without=maybe_one,
          restarted=st.booleans(), stage=st.sampled_from([2, 2, 1, 0]), to=most_sites,
          last=some_sites, clip=st.sampled_from([None, None, None, 0.5]))  # fmt: skip
    def attempt(
        self,
        new: str,
        without: int,
        restarted: bool,
        stage: int,
        to: set[int],
        last: set[int],
        clip: float | None,
    ) -> None:
        """An attempt without lies up to some stage; its last message reaches only some sites."""
        number, count = self.at
        self.at = (number, count + 1) if new == "attempt" and number else (number + 1, 1)
        self.model += new == "model"
        if restarted:
            self.restart(everyone)
        task = self._task(*self.at, everyone - {without}, clip)
        self._tell(task, to if stage else last)
        ready_to_sign = sorted(self.uploads[task.context])
        if stage < 1 or len(ready_to_sign) < THRESHOLD:
            return
        name = self._tell_survivors(task, ready_to_sign, last if stage == 1 else to)
        if stage == 2 and len(self.signatures.get(name, ())) >= THRESHOLD:
            self._tell(self._quorum(name, sorted(self.signatures[name])), last)
            self.open_the_sum(0)

    @rule(back=st.integers(0, 2), step=st.integers(0, 2), participants=most_sites, to=some_sites)
    def task_out_of_order(self, back: int, step: int, participants: set[int], to: set[int]) -> None:
        """A genuine signature on a task of an earlier, the same or another attempt."""
        number, count = self.at
        at = (max(1, number - back), max(1, count - 1 + step))
        self.at = max(self.at, at)
        self._tell(self._task(*at, participants), to)

    @precondition(lambda self: self._may_sign())
    @rule(newest=st.sampled_from([0, 0, 1]), without=maybe_one, to=some_sites,
          twice=st.booleans(), restarted=st.booleans())  # fmt: skip
    def survivors(
        self, newest: int, without: int, to: set[int], twice: bool, restarted: bool
    ) -> None:
        """All uploads that came, or all but one, are called survivors; or first all, then those."""
        context = self._recent(self._may_sign(), newest)
        task, came = self.oracle.tasks[context], sorted(self.uploads[context])
        if twice:
            self._tell_survivors(task, came, everyone)
        if restarted:
            self.restart(to)
        self._tell_survivors(task, [s for s in came if s != f"site-{without:02}"], to)

    @precondition(lambda self: self.signatures)
    @rule(newest=st.sampled_from([0, 0, 1]), chosen=st.sets(st.integers(0, SITES - 1), min_size=1),
          to=some_sites)  # fmt: skip
    def quorum(self, newest: int, chosen: set[int], to: set[int]) -> None:
        """Any of the signatures on a set, be they enough or not."""
        name = self._recent(list(self.signatures), newest)
        signers = [s for k, s in enumerate(sorted(self.signatures[name])) if k in chosen]
        if signers:
            self._tell(self._quorum(name, signers), to)

    @precondition(lambda self: self.said)
    @rule(newest=st.integers(0, 5), to=some_sites, restarted=st.booleans())
    def say_again(self, newest: int, to: set[int], restarted: bool) -> None:
        """A message that was said before, to the same sites or others."""
        if restarted:
            self.restart(to)
        self._tell(self._recent(self.said, newest), to)

    @rule(which=some_sites)
    def restart(self, which: set[int]) -> None:
        for k in which:
            self.federation.restart(self.federation.names[k])

    @precondition(lambda self: self.signatures)
    @rule(newest=st.integers(0, 2))
    def open_the_sum(self, newest: int) -> None:
        """A sum that has t sites' shares is the exact sum of its survivors' updates."""
        name = self._recent(list(self.signatures), newest)
        chosen, federation = self.oracle.sets[name], self.federation
        shares = {
            site: answer
            for site, answers in self.oracle.released.items()
            for answer in answers
            if answer.survivors == name
        }
        if len(shares) < THRESHOLD:
            return
        spec, task = federation.spec.spec, self.oracle.tasks[chosen.context]
        collection = Collection(spec, federation.roster, task)
        for site in chosen.sites:
            upload, vector = self.uploads[chosen.context][site]
            collection.add(upload.header, upload.boxes, vector)
        assert collection.fix_survivors() == chosen
        for answer in shares.values():
            collection.add_shares(wire(answer))
        aggregate = collection.open().aggregate
        assert aggregate is not None
        given = self.given[chosen.context]
        check(aggregate, {site: given[site] for site in chosen.sites}, spec)
        self.opened += 1

    # How it says it

    def _task(
        self, number: int, attempt: int, participants: set[int], clip: float | None = None
    ) -> Task:
        book = self.federation.aggregator.key_book()
        names = tuple(self.federation.names[k] for k in sorted(participants))
        model = bytes([self.model]) * 32
        spec = digest(self.federation.spec.spec)
        task = signed(Task(spec, digest(book), number, attempt, names, model, clip), COORDINATOR)
        self.oracle.tasks[task.context] = task
        return task

    def _tell_survivors(self, task: Task, sites: list[str], to: set[int]) -> bytes:
        """The sites of U and no others can be told: each message holds a site's own boxes."""
        uploads = self.uploads[task.context]
        headers = tuple(uploads[site][0].header for site in sites)
        boxes = {site: uploads[site][0].boxes for site in sites}
        for k in sorted(to):
            site = self.federation.names[k]
            mine = boxes_for(self.federation, task, site, boxes)
            self._tell(Survivors(task.context, headers, mine), {k})
        chosen = Survivors(task.context, headers, ()).set
        self.oracle.sets[digest(chosen)] = chosen
        return digest(chosen)

    def _quorum(self, name: bytes, signers: list[str]) -> Quorum:
        signatures = tuple(self.signatures[name][site] for site in signers)
        return Quorum(self.oracle.sets[name].context, name, signatures)

    def _tell(self, message: Task | Survivors | Quorum, to: set[int]) -> None:
        self.said.append(message)
        for k in sorted(to):
            site = self.federation.names[k]
            try:
                self._answer(site, self.federation.sites[site], wire(message))
            except SecureAggregationError:
                continue

    def _answer(self, site: str, participant: Participant, message: Any) -> None:
        if isinstance(message, Task):
            contribution = self.federation.contribution(len(self.said) * SITES + int(site[-1]))
            answer = participant.begin_round(message, message.model, contribution)
            self.oracle.uploads(site, message)
            self.uploads[message.context][site] = answer
            self.given[message.context][site] = contribution
        elif isinstance(message, Survivors):
            chosen = message.set
            self.oracle.sets[digest(chosen)] = chosen
            signature = participant.accept_survivors(message)
            self.oracle.signs(site, chosen)
            self.signatures[digest(chosen)][site] = signature
        else:
            shares = participant.release_shares(message)
            self.oracle.releases(site, shares, message)

    def _may_sign(self) -> list[bytes]:
        return [context for context, came in self.uploads.items() if len(came) >= THRESHOLD]

    def _recent(self, history: list[Any], newest: int) -> Any:
        return history[-1 - newest % len(history)]


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=40, stateful_step_count=20, derandomize=True)


def test_the_machine_opens_sums() -> None:
    """The machine can reach what it is about: an attempt without lies opens, one after another."""
    machine = Schedules()
    machine.agree_on_keys()
    for new in ("model", "attempt", "round", "model"):
        machine.attempt(new, SITES, False, 2, everyone, everyone, None)
    machine.attempt("model", 1, True, 2, everyone, everyone, 0.5)
    assert machine.opened == 5


# Rules broken on purpose


def _with_state(monkeypatch: pytest.MonkeyPatch, name: str, forget: Callable[[Any], Any]) -> None:
    """Let a step of every site see a state in which something is forgotten, and then go on."""
    original = getattr(Participant, name)

    def broken(self: Participant, *arguments: Any) -> Any:
        before, self._state = self._state, forget(self._state)
        seen = self._state
        try:
            return original(self, *arguments)
        finally:
            if self._state is seen:  # nothing was saved
                self._state = before

    monkeypatch.setattr(Participant, name, broken)


def _after_restart(monkeypatch: pytest.MonkeyPatch, forget: Callable[[Any], Any]) -> None:
    original = Participant.restore.__func__  # type: ignore[attr-defined]  # a class method

    def broken(cls: type[Participant], *arguments: Any) -> Participant:
        participant: Participant = original(cls, *arguments)
        participant._state = forget(participant._state)
        return participant

    monkeypatch.setattr(Participant, "restore", classmethod(broken))


def _no_set(state: Any) -> Any:
    return replace(state, current=state.current and replace(state.current, survivors=None))


def signs_two_sets_in_one_context(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_state(monkeypatch, "accept_survivors", _no_set)


def signs_a_second_set_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    _after_restart(monkeypatch, _no_set)


def uses_an_attempt_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_state(monkeypatch, "check_task", lambda state: replace(state, round=0, attempt=0))


def uses_an_attempt_twice_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    _after_restart(monkeypatch, lambda state: replace(state, round=0, attempt=0))


def takes_other_participants_for_a_released_model(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_state(monkeypatch, "check_task", lambda state: replace(state, releases=()))


def takes_another_bound_for_a_released_model(monkeypatch: pytest.MonkeyPatch) -> None:
    original = release.check_repeat

    def broken(releases: Any, task: Task, participants: int) -> None:
        bound = {"clip": task.clip, "prior": task.prior}
        original(tuple(replace(r, **bound) for r in releases), task, participants)

    monkeypatch.setattr(release, "check_repeat", broken)


def signs_another_set_for_a_released_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "check_difference", lambda *_: None)


def forgets_releases_in_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    _after_restart(monkeypatch, lambda state: replace(state, releases=()))


def releases_without_a_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.privacy.secagg.checks.check_quorum", lambda *_: None)


def releases_both_kinds_of_share(monkeypatch: pytest.MonkeyPatch) -> None:
    original = release.shares_to_release

    def broken(site: str, current: Any, survivors: SurvivorSet) -> Shares:
        shares = original(site, current, survivors)
        return replace(shares, pair_shares=(*shares.pair_shares, bytes(32)))

    monkeypatch.setattr(release, "shares_to_release", broken)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (signs_two_sets_in_one_context, "signed two survivor sets"),
        (signs_a_second_set_after_a_restart, "signed two survivor sets"),
        (uses_an_attempt_twice, "attempt used twice"),
        (uses_an_attempt_twice_after_a_restart, "attempt used twice"),
        (takes_other_participants_for_a_released_model, "differencing by participants"),
        (takes_another_bound_for_a_released_model, "differencing by bounds"),
        (signs_another_set_for_a_released_model, "differencing by survivors"),
        (forgets_releases_in_a_restart, "differencing by"),
        (releases_without_a_quorum, "released without a quorum"),
        (releases_both_kinds_of_share, "both kinds for one peer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_rule_is_found(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    break_it(monkeypatch)
    with pytest.raises(AssertionError, match=said):
        run_state_machine_as_test(
            Schedules,
            settings=settings(
                TestSchedules.settings,
                max_examples=150,
                phases=[Phase.generate],
                database=None,
                print_blob=False,
            ),
        )
