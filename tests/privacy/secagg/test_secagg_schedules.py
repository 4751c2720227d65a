"""Any schedule of deliveries, losses, duplicates, reorderings, restarts and lies about survivors.

Hypothesis drives four sites and a network. Whatever it does: a sum that opens is the exact sum,
every refusal is an error of the tree, and no site ever releases both kinds of share for a peer
or shares for two survivor sets of one context.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from secagg_federation import COORDINATOR, Federation, boxes_for, check, ready, wire

from wardround.privacy.errors import SecureAggregationError
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import (
    Aggregator,
    Contribution,
    Quorum,
    Shares,
    Survivors,
    SurvivorSet,
    SurvivorSignature,
    Task,
    digest,
)

SITES = 4


@dataclass
class Letter:
    """A message on its way to a site, or with site "" to the coordinator."""

    site: str
    body: Any


class Schedules(RuleBasedStateMachine):
    federation: Federation

    @initialize()
    def agree_on_keys(self) -> None:
        self.federation = ready(SITES, layout=(TensorLayout("w", (6,)),))
        self.letters: list[Letter] = []
        self.contributions: dict[bytes, dict[str, Contribution]] = defaultdict(dict)
        self.released: list[Shares] = []
        self.sets: dict[bytes, SurvivorSet] = {}
        self.signatures: dict[bytes, dict[str, SurvivorSignature]] = defaultdict(dict)
        self.uploads: dict[bytes, dict[str, Any]] = defaultdict(dict)
        self.task: Task | None = None
        self.at = (0, 0)
        self.rounds: dict[bytes, int] = {}
        self.participants: dict[bytes, int] = {}
        self.opened = 0

    @property
    def aggregator(self) -> Aggregator:
        return self.federation.aggregator

    # The coordinator's moves

    @rule(new_round=st.booleans(), leave_out=st.sampled_from([None, 0, 3]))
    def give_out_a_task(self, new_round: bool, leave_out: int | None) -> None:
        number, attempt = self.at
        self.at = (number + 1, 1) if new_round or number == 0 else (number, attempt + 1)
        names = self.federation.names
        chosen = [site for k, site in enumerate(names) if k != leave_out]
        try:
            self.task = self.federation.start(*self.at, chosen, model=bytes([self.at[0]]) * 32)
        except SecureAggregationError:
            return
        self.rounds[self.task.context] = self.at[0]
        self.participants[self.task.context] = len(chosen)
        self.letters += [Letter(site, self.task) for site in chosen]

    @precondition(lambda self: self.task is not None)
    @rule()
    def close_uploads(self) -> None:
        try:
            sites = self.aggregator.survivors()
            self.letters += [Letter(s, self.aggregator.survivors_for(s)) for s in sites]
        except SecureAggregationError:
            return

    @precondition(lambda self: self.task is not None and len(self.uploads[self.task.context]) > 2)
    @rule(data=st.data())
    def lie_about_the_survivors(self, data: st.DataObject) -> None:
        assert self.task is not None
        uploads = self.uploads[self.task.context]
        chosen = sorted(data.draw(st.sets(st.sampled_from(sorted(uploads)), min_size=3)))
        for site in chosen:
            boxes = boxes_for(
                self.federation, self.task, site, {other: uploads[other].boxes for other in chosen}
            )
            headers = tuple(uploads[other].header for other in chosen)
            self.letters.append(Letter(site, Survivors(self.task.context, headers, boxes)))

    @rule(data=st.data())
    def send_a_quorum(self, data: st.DataObject) -> None:
        full = [name for name in self.sets if len(self.signatures[name]) >= 3]
        if not full:
            return
        name = data.draw(st.sampled_from(full[::-1]))  # simplest: the newest
        chosen = self.sets[name]
        signatures = tuple(self.signatures[name][s] for s in sorted(self.signatures[name]))
        for site in chosen.sites:
            self.letters.append(Letter(site, Quorum(chosen.context, name, signatures)))

    @precondition(lambda self: self.task is not None)
    @rule()
    def open_the_sum(self) -> None:
        assert self.task is not None
        try:
            aggregate = self.aggregator.result()
        except SecureAggregationError:
            return
        given = self.contributions[self.task.context]
        survivors = {site: given[site] for site in aggregate.survivors}
        check(aggregate, survivors, self.federation.spec.spec)
        self.opened += 1

    @rule()
    def restart_the_coordinator(self) -> None:
        self.federation.aggregator = Aggregator.restore(
            self.aggregator.save(), self.federation.spec, self.federation.roster, COORDINATOR
        )
        self.task = None

    # The network's moves

    @precondition(lambda self: bool(self.letters))
    @rule(data=st.data(), again=st.booleans())
    def deliver(self, data: st.DataObject, again: bool) -> None:
        at = data.draw(st.integers(0, len(self.letters) - 1))
        letter = self.letters[at] if again else self.letters.pop(at)
        try:
            if letter.site:
                self._to_site(letter.site, wire(letter.body))
            else:
                self._to_coordinator(letter.body)
        except SecureAggregationError:
            return

    @precondition(lambda self: bool(self.letters))
    @rule(most=st.sampled_from([3, 12, 12, 12]))
    def deliver_in_order(self, most: int) -> None:
        """Deliver some letters and the answers to them: how a schedule gets anywhere."""
        for _ in range(most):
            if not self.letters:
                return
            letter = self.letters.pop(0)
            try:
                if letter.site:
                    self._to_site(letter.site, wire(letter.body))
                else:
                    self._to_coordinator(letter.body)
            except SecureAggregationError:
                continue

    @precondition(lambda self: self.task is not None)
    @rule(data=st.data(), honest=st.booleans())
    def open_as_far_as_the_sites_let(self, data: st.DataObject, honest: bool) -> None:
        """Survivors, signatures, quorum, shares, sum: an honest end of the attempt, or a lie."""
        self.deliver_in_order(12)
        if honest:
            self.close_uploads()
        elif self.task is not None and len(self.uploads[self.task.context]) > 2:
            self.lie_about_the_survivors(data)
        self.deliver_in_order(12)
        self.send_a_quorum(data)
        self.deliver_in_order(12)
        self.open_the_sum()

    @rule(data=st.data(), new_round=st.booleans(), honest=st.booleans())
    def run_a_whole_attempt(self, data: st.DataObject, new_round: bool, honest: bool) -> None:
        self.letters.clear()
        self.give_out_a_task(new_round=new_round, leave_out=None)
        self.open_as_far_as_the_sites_let(data, honest)

    @precondition(lambda self: bool(self.letters))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.letters.pop(data.draw(st.integers(0, len(self.letters) - 1)))

    @rule(index=st.integers(0, SITES - 1))
    def restart_a_site(self, index: int) -> None:
        self.federation.restart(self.federation.names[index])

    def _to_site(self, site: str, body: Any) -> None:
        participant = self.federation.sites[site]
        if isinstance(body, Task):
            seed = body.round * 100 + body.attempt * 10 + self.federation.names.index(site)
            contribution = self.federation.contribution(seed)
            upload, vector = participant.begin_round(body, body.model, contribution)
            self.contributions[body.context][site] = contribution
            self.uploads[body.context][site] = upload
            self.letters.append(Letter("", (upload, vector)))
        elif isinstance(body, Survivors):
            signature = participant.accept_survivors(body)
            self.sets[digest(body.set)] = body.set
            self.letters.append(Letter("", signature))
        elif isinstance(body, Quorum):
            shares = participant.release_shares(body)
            self.released.append(shares)
            self.letters.append(Letter("", shares))

    def _to_coordinator(self, body: Any) -> None:
        if isinstance(body, SurvivorSignature):
            self.signatures[body.survivors][body.site] = body
            self.aggregator.add_signature(body)
        elif isinstance(body, Shares):
            self.aggregator.add_shares(body)
        else:
            self.aggregator.add(*body)

    # What always holds

    @invariant()
    def one_survivor_set_opens_for_a_context(self) -> None:
        opened: dict[bytes, bytes] = {}
        for shares in getattr(self, "released", []):
            assert opened.setdefault(shares.context, shares.survivors) == shares.survivors

    @invariant()
    def no_site_releases_both_kinds_of_share_for_one_peer(self) -> None:
        """Who is in U gives a self share, who is not gives pair shares: together, everyone once."""
        for shares in getattr(self, "released", []):
            alive = len(self.sets[shares.survivors].sites)
            dead = self.participants[shares.context] - alive
            assert (len(shares.self_shares), len(shares.pair_shares)) == (alive, alive * dead)

    @invariant()
    def one_set_opens_for_one_model(self) -> None:
        """Differencing: for one global model (here: one round), one survivor set."""
        opened: dict[int, tuple[str, ...]] = {}
        for context, sets in self._opened_sets().items():
            number = self.rounds[context]
            assert opened.setdefault(number, sets) == sets

    def _opened_sets(self) -> dict[bytes, tuple[str, ...]]:
        """Contexts for which t sites released shares, and their survivors."""
        released: dict[bytes, set[str]] = defaultdict(set)
        sets: dict[bytes, tuple[str, ...]] = {}
        for shares in getattr(self, "released", []):
            released[shares.context].add(shares.site)
            sets[shares.context] = self.sets[shares.survivors].sites
        return {context: sets[context] for context, who in released.items() if len(who) >= 3}


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=30, stateful_step_count=25)


def test_the_machine_reaches_opened_sums() -> None:
    """The machine is able to open a sum at all: the plain schedule, rule by rule."""
    machine = Schedules()
    machine.agree_on_keys()
    machine.give_out_a_task(new_round=True, leave_out=None)
    machine.deliver_in_order(12)
    machine.close_uploads()
    machine.deliver_in_order(12)
    full = next(iter(machine.sets.values()))
    name = digest(full)
    signatures = tuple(machine.signatures[name][s] for s in sorted(machine.signatures[name]))
    machine.letters += [Letter(s, Quorum(full.context, name, signatures)) for s in full.sites]
    machine.deliver_in_order(12)
    machine.open_the_sum()
    assert machine.opened == 1
    machine.one_set_opens_for_one_model()
