"""Sites and a coordinator in one process: the real secure sum over the in-process Flower grid.

Every message of the protocol is encoded, travels as a Flower message, and is decoded; each site
checks, masks and signs as in a study. Left out are the ledger, the log and the TLS: they change
nothing in what is learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.model import Vector
from wardround.privacy.plan import StudyPlan
from wardround.privacy.run_spec import make_run_spec
from wardround.privacy.secagg import (
    Aggregator,
    BookAck,
    Confirmation,
    Contribution,
    KeyAdvert,
    KeyBook,
    Participant,
    Quorum,
    Shares,
    SignedRunSpec,
    Survivors,
    SurvivorSignature,
    Task,
    Upload,
    decode,
    encode,
    ring_type,
)
from wardround.server.exchange import Exchange, Reply, Request
from wardround.server.inprocess import InProcessGrid

DEADLINE = 60.0


class _Memory:
    """Keeps what a participant saved last."""

    def __init__(self) -> None:
        self.saved = b""

    def save(self, state: bytes) -> None:
        self.saved = state


class _Site:
    """One site's end of the grid."""

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        self.contribution: Contribution | None = None

    def __call__(
        self, kind: str, body: bytes, payload: bytes | None
    ) -> tuple[str, bytes, bytes | None]:
        site = self.participant
        if kind == "hello":
            return kind, encode(site.advertise()), None
        if kind == "book":
            return kind, encode(site.accept_book(decode(KeyBook, body))), None
        if kind == "confirm":
            site.confirm(decode(Confirmation, body))
            return kind, b"", None
        if kind == "task":
            task = decode(Task, body)
            if self.contribution is None:
                raise ValueError("nothing was trained in this round")
            upload, vector = site.begin_round(task, task.model, self.contribution)
            return kind, encode(upload), vector.tobytes()
        if kind == "survivors":
            return kind, encode(site.accept_survivors(decode(Survivors, body))), None
        return kind, encode(site.release_shares(decode(Quorum, body))), None


class Federation:
    """The secure sum of a run: `aggregate` once a round."""

    def __init__(self, plan: StudyPlan) -> None:
        names = plan.participants.sites
        signers = {name: FileSigner.generate() for name in names}
        coordinator = FileSigner.generate()
        roster = Roster(
            tuple(
                SiteKeys(n, signers[n].public_bytes(), bytes([k + 1]) * 32, bytes([k + 1]) * 97)
                for k, n in enumerate(names)
            )
        )
        spec = make_run_spec(plan, "reference", roster)
        signed = SignedRunSpec.sign(spec, coordinator)
        public = coordinator.public_bytes()
        self._spec = spec
        self._sites = {
            n: _Site(Participant(signed, n, signers[n], roster, public, _Memory())) for n in names
        }
        self._exchange = Exchange(InProcessGrid(self._sites))
        self._aggregator = Aggregator(signed, roster, coordinator)
        self._round = 0
        self._agree()

    def _ask(self, kind: str, bodies: Mapping[str, bytes]) -> dict[str, Reply]:
        requests = {site: Request(kind, body) for site, body in bodies.items()}
        replies = {}
        for site, answer in self._exchange.ask(requests, deadline=DEADLINE):
            if not isinstance(answer, Reply) or answer.kind != kind:
                raise RuntimeError(f"{site} did not answer {kind}: {answer}")
            replies[site] = answer
        return replies

    def _all(self, kind: str, message: Any) -> dict[str, Reply]:
        return self._ask(kind, dict.fromkeys(self._sites, encode(message) if message else b""))

    def _agree(self) -> None:
        for reply in self._all("hello", None).values():
            self._aggregator.add_advert(decode(KeyAdvert, reply.body))
        for reply in self._all("book", self._aggregator.key_book()).values():
            self._aggregator.add_ack(decode(BookAck, reply.body))
        confirmations = {n: encode(self._aggregator.confirmation(n)) for n in self._sites}
        self._ask("confirm", confirmations)

    def aggregate(
        self, model: Vector, change: Callable[[str, Vector], tuple[Vector, int]]
    ) -> Vector:
        """The weighted mean [D] of what `change` makes of `model` at each site.

        `change` gives a site's update [D] and weight; the updates are opened only as a sum.
        """
        self._round += 1
        for name, site in self._sites.items():
            update, weight = change(name, model)
            site.contribution = Contribution(update, weight, (0,) * len(self._spec.counters))
        digest = hashlib.sha256(model.tobytes()).digest()
        names = tuple(self._sites)
        task = self._aggregator.task(self._round, 1, names, digest)
        for reply in self._all("task", task).values():
            vector = np.frombuffer(reply.payload or b"", dtype=ring_type(self._spec.ring_bits))
            self._aggregator.add(decode(Upload, reply.body), vector.copy())
        survivors = {n: encode(self._aggregator.survivors_for(n)) for n in self._fixed()}
        for reply in self._ask("survivors", survivors).values():
            self._aggregator.add_signature(decode(SurvivorSignature, reply.body))
        quorum = encode(self._aggregator.quorum())
        for reply in self._ask("open", dict.fromkeys(self._fixed(), quorum)).values():
            self._aggregator.add_shares(decode(Shares, reply.body))
        return self._aggregator.result().mean

    def _fixed(self) -> tuple[str, ...]:
        return self._aggregator.survivors()
