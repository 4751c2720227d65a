"""A whole federation in memory: every site, the coordinator, and the messages between them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import (
    Aggregate,
    Aggregator,
    Contribution,
    Opening,
    Participant,
    Ring,
    RunSpec,
    SignedRunSpec,
    Task,
    Upload,
    decode,
    encode,
)
from wardround.privacy.secagg.checks import sealed_holders

MODEL = bytes(range(32))
COORDINATOR = FileSigner.generate()
SIGNERS = {f"site-{k:02}": FileSigner.generate() for k in range(50)}


class MemoryStore:
    """Keeps what a participant saved last."""

    def __init__(self) -> None:
        self.saved: bytes | None = None
        self.saves = 0

    def save(self, state: bytes) -> None:
        self.saved = state
        self.saves += 1


def wire(message: Any) -> Any:
    """Send a message through the codec, as the network would."""
    return decode(type(message), encode(message))


def roster_of(sites: Iterable[str], signers: dict[str, FileSigner] | None = None) -> Roster:
    signers = signers or SIGNERS
    return Roster(
        tuple(
            SiteKeys(site, signers[site].public_bytes(), bytes([k + 1]) * 32, bytes([k + 1]) * 97)
            for k, site in enumerate(sites)
        )
    )


@dataclass
class Federation:
    """n sites and a coordinator that do what they should, step by step."""

    spec: SignedRunSpec
    roster: Roster
    aggregator: Aggregator
    stores: dict[str, MemoryStore]
    sites: dict[str, Participant]
    uploads: dict[str, tuple[Upload, Ring]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.spec.participants

    def contribution(self, seed: int, weight: int = 10, scale: float = 0.3) -> Contribution:
        spec = self.spec.spec
        generator = np.random.default_rng(seed)
        values = (generator.standard_normal(spec.dimension) * scale).astype(np.float32)
        counters = tuple(int(c) for c in generator.integers(0, 1000, len(spec.counters)))
        return Contribution(values, weight, counters)

    def agree(self, sites: Iterable[str] | None = None) -> None:
        chosen = tuple(sites or self.names)
        for site in chosen:
            self.aggregator.add_advert(wire(self.sites[site].advertise()))
        book = wire(self.aggregator.key_book())
        for site in chosen:
            self.aggregator.add_ack(wire(self.sites[site].accept_book(book)))
        for site in chosen:
            self.sites[site].confirm(wire(self.aggregator.confirmation(site)))

    def start(
        self,
        round_number: int = 1,
        attempt: int = 1,
        participants: Iterable[str] | None = None,
        model: bytes = MODEL,
        clip: float | None = None,
    ) -> Task:
        task: Task = wire(
            self.aggregator.task(
                round_number, attempt, tuple(participants or self.names), model, clip
            )
        )
        return task

    def upload(self, task: Task, site: str, contribution: Contribution | None = None) -> None:
        given = contribution or self.contribution(self.names.index(site))
        upload, vector = self.sites[site].begin_round(task, task.model, given)
        self.uploads[site] = (wire(upload), vector)
        self.aggregator.add(*self.uploads[site])

    def sign(self, sites: Iterable[str] | None = None) -> None:
        for site in tuple(sites or self.aggregator.survivors()):
            message = wire(self.aggregator.survivors_for(site))
            self.aggregator.add_signature(wire(self.sites[site].accept_survivors(message)))

    def release(self, sites: Iterable[str] | None = None) -> None:
        quorum = wire(self.aggregator.quorum())
        for site in tuple(sites or self.aggregator.survivors()):
            self.aggregator.add_shares(wire(self.sites[site].release_shares(quorum)))

    def run(
        self, task: Task, contributions: dict[str, Contribution] | None = None
    ) -> dict[str, Contribution]:
        """One whole attempt of the sites in `contributions` (all participants without it)."""
        given = contributions or {
            site: self.contribution(self.names.index(site)) for site in task.participants
        }
        for site, contribution in given.items():
            self.upload(task, site, contribution)
        self.aggregator.survivors()
        self.sign()
        self.release()
        return given

    def opened(self) -> tuple[Opening, Ring]:
        vector = self.aggregator.opened().copy()
        opening: Opening = wire(self.aggregator.opening())
        return opening, vector

    def restart(self, site: str) -> None:
        """Kill a site's process and start it again from its store."""
        saved = self.stores[site].saved
        assert saved is not None
        self.sites[site] = Participant.restore(
            saved,
            self.spec,
            site,
            SIGNERS[site],
            self.roster,
            COORDINATOR.public_bytes(),
            self.stores[site],
        )


def run_spec(n: int = 3, **changes: Any) -> tuple[RunSpec, Roster]:
    """A small run of n sites, and its roster; `changes` override fields of the spec."""
    names = tuple(list(SIGNERS)[:n])
    roster = roster_of(names)
    colluders = changes.get("colluders", 0)
    threshold = changes.get("threshold", (n + colluders) // 2 + 1)
    fields: dict[str, Any] = {
        "run": "run-1",
        "study": bytes(32),
        "roster": bytes.fromhex(roster.digest()),
        "participants": names,
        "threshold": threshold,
        "colluders": colluders,
        "min_cohort": max(3, threshold, colluders + 2),
        "rounds": 20,
        "layout": (TensorLayout("weight", (5, 7)), TensorLayout("bias", (5,))),
        "clip": 1.0,
        "max_weight": 100,
        "counters": ("correct", "evaluated"),
    }
    return RunSpec(**{**fields, **changes}), roster


def build(n: int = 3, **changes: Any) -> Federation:
    spec, roster = run_spec(n, **changes)
    signed_spec: SignedRunSpec = wire(SignedRunSpec.sign(spec, COORDINATOR))
    stores = {site: MemoryStore() for site in spec.participants}
    sites = {
        site: Participant(
            signed_spec, site, SIGNERS[site], roster, COORDINATOR.public_bytes(), stores[site]
        )
        for site in spec.participants
    }
    return Federation(
        signed_spec, roster, Aggregator(signed_spec, roster, COORDINATOR), stores, sites
    )


def ready(n: int = 3, **changes: Any) -> Federation:
    """A federation of n sites whose keys are agreed."""
    federation = build(n, **changes)
    federation.agree()
    return federation


def boxes_for(
    federation: Federation, task: Task, site: str, boxes: dict[str, tuple[bytes, ...]]
) -> tuple[bytes, ...]:
    """Of each dealer's boxes the one to `site`, where there is one."""
    threshold, found = federation.spec.spec.threshold, []
    for dealer in sorted(boxes):
        holders = sealed_holders(task.participants, dealer, threshold)
        if site in holders:
            found.append(boxes[dealer][holders.index(site)])
    return tuple(found)


def expected_mean(contributions: dict[str, Contribution], clip: float) -> np.ndarray[Any, Any]:
    """The plaintext weighted mean in float64."""
    total = sum(c.weight for c in contributions.values())
    return (
        sum(
            c.weight * np.clip(c.values.astype(np.float64), -clip, clip)
            for c in contributions.values()
        )
        / total
    )


def check(aggregate: Aggregate, contributions: dict[str, Contribution], spec: RunSpec) -> None:
    """Assert that an aggregate is that of `contributions`, within half a unit per site."""
    assert aggregate.survivors == tuple(sorted(contributions))
    assert aggregate.weight == sum(c.weight for c in contributions.values())
    for index, name in enumerate(spec.counters):
        assert aggregate.counters[name] == sum(c.counters[index] for c in contributions.values())
    unit = spec.max_weight * spec.clip / (spec.largest_value * aggregate.weight)
    tolerance = len(contributions) * unit * 0.5 + 4e-7 * spec.clip
    np.testing.assert_allclose(
        aggregate.mean, expected_mean(contributions, spec.clip), rtol=0, atol=tolerance
    )
