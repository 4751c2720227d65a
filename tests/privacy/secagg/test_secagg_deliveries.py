"""Any schedule of an unreliable network and honest parties: the sum is exact, or a typed error.

Hypothesis is the network between a coordinator and four sites that keep the rules: it delivers in
any order, late, twice or never, and either end may be restarted at any time. Whatever happened,
every sum that opens is that of its survivors, and the next attempt that nothing disturbs opens.
(A coordinator that breaks the rules is in test_secagg_schedules.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from secagg_federation import COORDINATOR, check, ready, wire

from wardround.privacy.errors import AggregateRejected, SecureAggregationError
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import (
    Aggregator,
    Contribution,
    Quorum,
    Shares,
    Survivors,
    SurvivorSignature,
    Task,
    UploadHeader,
)
from wardround.privacy.secagg.collection import Collection

SITES = 4


@dataclass(frozen=True)
class Letter:
    """A message under way: to a site, or (`site` None) to the coordinator, with its vector."""

    site: str | None
    message: Any
    vector: Any = None


@dataclass(frozen=True)
class Network:
    """What becomes of the letters that are under way, by the order in which they are taken.

    `twice` ones arrive and are under way again, `late` ones stay under way until later.
    """

    order: int
    lost: frozenset[int]
    twice: frozenset[int]
    late: frozenset[int]


some = st.one_of(st.just(frozenset()), st.frozensets(st.integers(0, 9), max_size=3))
network = st.builds(Network, st.integers(0, 99), some, some, some)
networks = st.lists(network, min_size=4, max_size=4)


class Deliveries(RuleBasedStateMachine):
    @initialize(group_mode=st.booleans())
    def agree_on_keys(self, group_mode: bool) -> None:
        self.federation = ready(
            SITES, layout=(TensorLayout("w", (6,)),), rounds=1000, group_mode=group_mode
        )
        self.given: dict[tuple[bytes, str], Contribution] = {}
        self.at, self.model, self.opened = (0, 0), 0, 0
        self.letters: list[Letter] = []

    @rule(again=st.booleans(), without=st.sampled_from([SITES, SITES, 0]), networks=networks)
    def attempt(self, again: bool, without: int, networks: list[Network]) -> None:
        """An attempt at the round that did not open, or (`again` False) at a new one."""
        self._tried(self._begin, without, again)
        for step, network in zip((None, *self._steps()), networks, strict=True):
            if step is not None:
                self._tried(step)
            self._deliver(network)

    @rule(network=network)
    def deliver(self, network: Network) -> None:
        """What is still under way arrives, whatever attempt it belongs to."""
        self._deliver(network)

    @rule(step=st.integers(0, 2))
    def step_out_of_turn(self, step: int) -> None:
        """The coordinator closes the uploads, sends the quorum or opens the sum whenever."""
        self._tried(self._steps()[step])

    @rule(sites=st.sets(st.integers(0, SITES - 1)), coordinator=st.booleans())
    def restart(self, sites: set[int], coordinator: bool) -> None:
        federation = self.federation
        for k in sites:
            federation.restart(federation.names[k])
        if coordinator:
            federation.aggregator = Aggregator.restore(
                federation.aggregator.save(), federation.spec, federation.roster, COORDINATOR
            )

    @rule()
    def undisturbed(self) -> None:
        """Whatever happened: an attempt with a new model that nothing disturbs opens."""
        before, self.letters = self.opened, []
        self._begin(SITES, False)
        for step in (None, *self._steps()):
            if step is not None:
                step()
            while self.letters:
                self._arrive(self.letters.pop())
        assert self.opened == before + 1

    def _deliver(self, network: Network) -> None:
        """Deliver what is under way and what it brings forth, but for what the network keeps."""
        kept, count = [], 0
        while self.letters:
            letter = self.letters.pop(network.order % len(self.letters))
            if count in network.late:
                kept.append(letter)
            elif count not in network.lost:
                self._tried(self._arrive, letter)
                if count in network.twice:
                    self.letters.append(letter)
            count += 1
        self.letters = kept

    def _steps(self) -> tuple[Callable[[], None], ...]:
        return self._send_survivors, self._send_quorum, self._open

    # What the honest parties do

    def _tried(self, step: Callable[..., None], *arguments: Any) -> None:
        """A step succeeds or raises an error of the protocol; any other ends the test."""
        try:
            step(*arguments)
        except AggregateRejected as error:  # a round is read once; else the sum is not genuine
            if "accepted already" not in str(error):
                pytest.fail(f"a sum of honest sites was refused: {error}")
            event("AggregateRejected")
        except SecureAggregationError as error:
            event(type(error).__name__)

    def _arrive(self, letter: Letter) -> None:
        message, aggregator = wire(letter.message), self.federation.aggregator
        if letter.site is not None:
            self.letters.append(self._answer(letter.site, message))
        elif isinstance(message, SurvivorSignature):
            aggregator.add_signature(message)
        elif isinstance(message, Shares):
            aggregator.add_shares(message)
        else:
            aggregator.add(message, letter.vector)

    def _answer(self, site: str, message: Any) -> Letter:
        participant = self.federation.sites[site]
        if isinstance(message, Task):
            given = self._contribution(message.model, site)
            return Letter(None, *participant.begin_round(message, message.model, given))
        if isinstance(message, Survivors):
            return Letter(None, participant.accept_survivors(message))
        assert isinstance(message, Quorum)
        return Letter(None, participant.release_shares(message))

    def _contribution(self, model: bytes, site: str) -> Contribution:
        """What a site adds to a model's round: the same however often it is asked."""
        return self.given.setdefault(
            (model, site), self.federation.contribution(len(self.given), weight=1 + int(site[-1]))
        )

    def _begin(self, without: int, again: bool) -> None:
        number, count = self.at
        if not again or not number:
            self.at, self.model = (number + 1, 1), self.model + 1
        else:
            self.at = (number, count + 1)
        names = [name for k, name in enumerate(self.federation.names) if k != without]
        task = self.federation.start(*self.at, names, self.model.to_bytes(32, "big"))
        self.letters += [Letter(name, task) for name in names]

    def _send_survivors(self) -> None:
        aggregator = self.federation.aggregator
        for site in aggregator.survivors():
            self.letters.append(Letter(site, aggregator.survivors_for(site)))

    def _send_quorum(self) -> None:
        quorum = self.federation.aggregator.quorum()
        sites = self.federation.aggregator.survivors()
        self.letters += [Letter(site, quorum) for site in sites]

    def _open(self) -> None:
        aggregator, spec = self.federation.aggregator, self.federation.spec.spec
        vector = aggregator.opened()
        opening = wire(aggregator.opening())
        model, survivors = opening.task.model, opening.survivors.sites
        given = {site: self._contribution(model, site) for site in survivors}
        if spec.group_mode:
            reader = self.federation.sites[self.federation.names[0]]
            check(reader.accept_aggregate(opening, vector), given, spec)
        else:
            check(aggregator.result(), given, spec)
        self.opened += 1


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(max_examples=30, stateful_step_count=20, derandomize=True)


# Rules broken on purpose


def adds_an_upload_twice(original: Callable[..., None]) -> Callable[..., None]:
    def add(self: Collection, header: UploadHeader, *rest: Any) -> None:
        known = self._headers
        self._headers = {site: known[site] for site in known if site != header.site}
        try:
            original(self, header, *rest)
        finally:
            self._headers = {**known, **self._headers}

    return add


def adds_a_late_upload(original: Callable[..., None]) -> Callable[..., None]:
    def add(self: Collection, header: UploadHeader, *rest: Any) -> None:
        chosen, self._survivors = self._survivors, None
        try:
            original(self, header, *rest)
        finally:
            self._survivors = chosen

    return add


@pytest.mark.parametrize("broken", [adds_an_upload_twice, adds_a_late_upload])
def test_a_broken_rule_of_the_coordinator_is_found(
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[Callable[..., None]], Callable[..., None]],
) -> None:
    monkeypatch.setattr(Collection, "add", broken(Collection.add))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(
            Deliveries,
            settings=settings(
                TestDeliveries.settings,
                max_examples=150,
                phases=[Phase.generate],
                database=None,
                print_blob=False,
            ),
        )
