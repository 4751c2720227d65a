"""The global model in group mode: the sites have it, the coordinator has its digest.

A round's sum opens under the group masks. It goes to the sites, each of which checks it, takes the
plan's step and signs the digest of the model it came to (`ModelStep`). The next round starts from
the digest that enough sites signed, with those sites alone. A site that missed sums gets them one
after the other, each with the signatures of its round.

Nothing here is for the sites to rely on: each starts from its own model alone, whose digest is in
the context of every task. See "The model in group mode" in privacy/README.md.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from wardround.privacy.conversation import Kind
from wardround.privacy.events import ModelStep, from_leaf
from wardround.privacy.model import initial_vector, model_digest
from wardround.privacy.plan import StudyPlan
from wardround.privacy.secagg.aggregator import Aggregator
from wardround.privacy.secagg.codec import encode
from wardround.privacy.secagg.parameters import MAX_ROUNDS
from wardround.server.asking import Asking
from wardround.server.audit import AuditLog
from wardround.server.database import READ_ONLY
from wardround.server.errors import ModelsDiffer, RoundAborted
from wardround.server.global_model import Taken
from wardround.server.models import LogEntry
from wardround.server.openings import Openings

STAGE = "aggregate"


@dataclass(slots=True)
class HiddenModel:
    """The model of a run in group mode, of which `digest` is known once the sites agree on it."""

    run: str
    plan: StudyPlan
    log: AuditLog
    sites: Asking
    aggregator: Aggregator
    openings: Openings
    digest: str = ""
    _oldest: int = 1
    """The first round whose sum some site may have yet to read."""

    @property
    def payload(self) -> bytes | None:
        """None: no model ever passes here."""
        return None

    def settle(self, done: int, online: Sequence[str]) -> tuple[str, ...]:
        """Give the sums up to round `done` to the sites that lack them; see who has which model.

        What was signed is in the log, so a coordinator that is started anew asks nobody twice.
        """
        if not done:
            self.digest = model_digest(
                initial_vector(self.plan.model.tensors, self.plan.model.seed)
            )
            return tuple(online)
        signed = self._signed()
        for number in range(self._oldest, done + 1):
            before, there = _same(signed, number - 1), signed.get(number, {})
            lack = [s for s in online if s not in there and (number == 1 or s in before)]
            if lack:
                self._hand_out(number, lack)
                signed = self._signed()
        self.digest = self._agreed(done, signed.get(done, {}))
        following = set(self.plan.participants.sites) - _astray(signed)
        while self._oldest < done and following <= signed.get(self._oldest, {}).keys():
            self._oldest += 1
        self.openings.drop(self._oldest)
        return tuple(site for site in online if signed[done].get(site) == self.digest)

    def take(self, aggregator: Aggregator, number: int) -> Taken:
        """Keep the sum for the sites; what it says and what it leads to is theirs to know."""
        vector, opening = aggregator.opened(), aggregator.opening()
        self.openings.keep(opening, vector)
        self.digest = ""
        return Taken(
            digest=opening.vector.hex(),
            size=vector.nbytes,
            survivors=opening.survivors.sites,
            weight=0,
            counters=(),
            model_digest="",
            evaluation=(),
            kept={"model": "", "optimiser": ""},
        )

    def forget(self) -> None:
        """Drop the openings: nobody will be asked to read them any more."""
        self.openings.drop(MAX_ROUNDS + 1)

    def _hand_out(self, number: int, sites: Sequence[str]) -> None:
        """R7: the sum of round `number` to sites whose model is that of the round before."""
        message, vector = self.openings.get(number)
        parts = {
            site: {"opening": message, "confirmation": encode(self.aggregator.confirmation(site))}
            for site in sites
        }
        answered = [site for site, _, _ in self.sites.ask(Kind.AGGREGATE, parts, STAGE, vector)]
        signed = self._signed()
        there, same = signed.get(number, {}), _same(signed, number)
        for site in answered:
            if site not in there:
                self.sites.drop(site, STAGE, "it answered without signing what model it came to")
            elif len(same) >= self._needed and site not in same:
                others = there[next(iter(same))][:12]
                what = f"it came to the model {there[site][:12]} after round {number}"
                self.sites.drop(site, STAGE, f"{what}, {len(same)} sites to {others}")

    def _agreed(self, done: int, signed: Mapping[str, str]) -> str:
        """Return the digest that enough sites signed.

        Two cannot have enough: any two sets of `min_cohort` sites share an honest one, which
        signs once a round. And fewer than that could open no sum anyway.
        """
        needed, sites = self._needed, self.plan.participants.sites
        digest, most = _most(signed)
        if most >= needed:
            return digest
        told = ", ".join(f"{site} {signed[site][:12]}" for site in sorted(signed)) or "nobody did"
        reason = f"fewer than {needed} sites signed one model after round {done} ({told})"
        if most + len(sites) - len(signed) < needed:
            raise ModelsDiffer(reason)  # whoever is still missing cannot change it
        raise RoundAborted(reason)

    @property
    def _needed(self) -> int:
        return self.plan.secure_aggregation.min_cohort

    def _signed(self) -> dict[int, dict[str, str]]:
        """Return what sites signed: by round, from before the oldest, site and model's digest."""
        query = select(LogEntry.leaf).where(
            LogEntry.kind == ModelStep.kind,
            LogEntry.run_id == self.run,
            LogEntry.round >= self._oldest - 1,
        )
        with self.log.engine.connect().execution_options(**READ_ONLY) as connection:
            leaves = [from_leaf(data) for data in connection.scalars(query.order_by(LogEntry.idx))]
        found: dict[int, dict[str, str]] = {}
        for leaf in leaves:
            if isinstance(leaf.event, ModelStep):
                found.setdefault(leaf.round, {}).setdefault(leaf.site, leaf.event.model_digest)
        return found


def _most(signed: Mapping[str, str]) -> tuple[str, int]:
    """Return the digest that most sites signed, and how many."""
    votes = Counter(signed.values())
    return max(votes.items(), key=lambda item: item[1], default=("", 0))


def _same(signed: Mapping[int, Mapping[str, str]], number: int) -> set[str]:
    """Return the sites that signed what most did after a round."""
    there = signed.get(number, {})
    digest, _ = _most(there)
    return {site for site, other in there.items() if other == digest}


def _astray(signed: Mapping[int, Mapping[str, str]]) -> set[str]:
    """Return the sites whose model is not that of most: no later sum is of use to them."""
    return {site for n, there in signed.items() for site in there.keys() - _same(signed, n)}
