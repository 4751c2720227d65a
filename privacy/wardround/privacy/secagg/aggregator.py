"""The coordinator's end of the protocol: collects, forwards, sums; holds no key that unmasks.

    add_advert, key_book -> add_ack, confirmation                        once a run
    task -> add -> survivors -> add_signature, quorum -> add_shares -> result      each attempt

Nothing here is trusted by a site. The checks serve to find out early who deviates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from wardround.privacy.errors import CoordinatorBlind, KeysRejected, OutOfOrder, TooFewSites
from wardround.privacy.identity import Roster, Signer
from wardround.privacy.secagg import checks
from wardround.privacy.secagg.codec import Limit, decode, digest, encode
from wardround.privacy.secagg.collection import Collection
from wardround.privacy.secagg.messages import (
    BookAck,
    Confirmation,
    KeyAdvert,
    KeyBook,
    Opening,
    Quorum,
    Shares,
    Survivors,
    SurvivorSignature,
    Task,
    Upload,
    signed,
)
from wardround.privacy.secagg.parameters import MAX_SITES, Digest, RunSpec, SignedRunSpec
from wardround.privacy.secagg.quantization import Aggregate, next_clip
from wardround.privacy.secagg.segments import Ring


@dataclass(frozen=True, slots=True)
class AggregatorState:
    """What a coordinator keeps to go on with the next attempt after a restart. No secrets."""

    spec: Digest
    book: KeyBook | None
    acks: Annotated[tuple[BookAck, ...], Limit(0, MAX_SITES)]
    round: int
    attempt: int
    clip: float | None = None
    prior: Digest | None = None


class Aggregator:
    """The coordinator in one run. `signer` holds its key; `spec` was signed with it."""

    def __init__(self, spec: SignedRunSpec, roster: Roster, signer: Signer) -> None:
        spec.verify(signer.public_bytes())
        checks.check_roster(spec.spec, roster)
        self._spec: RunSpec = spec.spec
        self._roster = roster
        self._signer = signer
        self._adverts: dict[str, KeyAdvert] = {}
        self._book: KeyBook | None = None
        self._acks: dict[str, BookAck] = {}
        self._last = (0, 0)
        self._clip: float | None = None
        self._prior: bytes | None = None
        self._collection: Collection | None = None

    # M1 to M4: keys of the run

    def add_advert(self, advert: KeyAdvert) -> None:
        """M1: take in a site's keys. Raises KeysRejected when they are forged or of another run.

        A site that advertises again starts the key agreement over for everyone.
        """
        checks.check_advert(self._spec, self._roster, advert)
        if self._adverts.get(advert.site) != advert:
            self._adverts[advert.site] = advert
            self._book, self._acks, self._collection = None, {}, None

    def key_book(self) -> KeyBook:
        """M2: return the book of the adverts so far.

        Sites that did not advertise stay out of this run. Raises TooFewSites below the minimum.
        """
        if self._book is None:
            if len(self._adverts) < self._spec.smallest_cohort:
                raise TooFewSites(
                    f"{len(self._adverts)} sites sent keys; the run asks for at least "
                    f"{self._spec.smallest_cohort}"
                )
            ordered = tuple(self._adverts[site] for site in sorted(self._adverts))
            book = KeyBook(digest(self._spec), ordered)
            checks.check_book(self._spec, self._roster, book)
            self._book = book
        return self._book

    def restart_keys(self) -> None:
        """Forget adverts and book, to agree on keys again without a site that dropped out."""
        self._adverts, self._book, self._acks, self._collection = {}, None, {}, None

    def add_ack(self, ack: BookAck) -> None:
        """M3: take in a site's approval. Raises KeysRejected when it is of another book."""
        book, site = self.key_book(), ack.approval.site
        if ack.approval.book != digest(book) or site not in book.sites:
            raise KeysRejected(f"{site} approved another key book", site)
        checks.check_site_signature(self._roster, ack.approval, KeysRejected)
        recipients = [sealed.recipient for sealed in ack.sealed if sealed.sender == site]
        if recipients != checks.others(book.sites, site) or len(recipients) != len(ack.sealed):
            raise KeysRejected(f"{site} did not seal a group-key share to each peer", site)
        self._acks[site] = ack

    @property
    def missing_acks(self) -> tuple[str, ...]:
        """The sites of the book whose approval is still awaited."""
        return tuple(site for site in self.key_book().sites if site not in self._acks)

    def confirmation(self, site: str) -> Confirmation:
        """M4: return what one site needs to go on. Raises TooFewSites while approvals lack."""
        book = self.key_book()
        if self.missing_acks:
            raise TooFewSites(
                f"{', '.join(self.missing_acks)} did not approve the key book; wait, or agree "
                "on keys again without them"
            )
        return Confirmation(
            tuple(self._acks[name].approval for name in book.sites),
            tuple(
                sealed
                for name in book.sites
                for sealed in self._acks[name].sealed
                if sealed.recipient == site
            ),
        )

    # R1 to R7: one attempt at a round

    def task(
        self,
        round_number: int,
        attempt: int,
        participants: Sequence[str],
        model: bytes,
        clip: float | None = None,
    ) -> Task:
        """R1: begin an attempt and return its signed task; the one before is given up.

        `model` is the SHA-256 of the global model (32 bytes); `clip` bounds the weighted updates.
        Without it a ring of 2^16 takes the bound that the last opened sum suggests. Raises
        OutOfOrder unless (round, attempt) increases, TaskRejected for what a site would refuse.
        """
        book = self.key_book()
        if self.missing_acks:
            raise OutOfOrder("the key book is not approved by all of its sites yet")
        if (round_number, attempt) <= self._last:
            raise OutOfOrder(f"round {round_number} attempt {attempt} was used before")
        task = signed(
            Task(
                digest(self._spec),
                digest(book),
                round_number,
                attempt,
                tuple(sorted(participants)),
                model,
                clip or self._clip,
                None if clip else self._prior,
            ),
            self._signer,
        )
        checks.check_task(self._spec, book, self._signer.public_bytes(), task)
        self._collection = Collection(self._spec, self._roster, task)
        self._last = (round_number, attempt)
        return task

    @property
    def uploaded(self) -> tuple[str, ...]:
        """The sites whose uploads are in the sum of this attempt."""
        return self._attempt().uploaded

    def add(self, upload: Upload, vector: Ring) -> None:
        """R2: check an upload and add its vector to the running sum. Raises UploadRejected."""
        self._attempt().add(upload.header, upload.boxes, vector)

    def survivors(self) -> tuple[str, ...]:
        """R3: close the uploads and return U. Raises TooFewSites below the run's minimum."""
        return self._attempt().fix_survivors().sites

    def survivors_for(self, site: str) -> Survivors:
        """R3: return the survivor message for one survivor."""
        return self._attempt().survivors_for(site)

    def add_signature(self, signature: SurvivorSignature) -> None:
        """R4: take in a signature over U. Raises SurvivorsRejected when it does not fit."""
        self._attempt().add_signature(signature)

    def quorum(self) -> Quorum:
        """R5: return the message that lets sites release shares. Raises TooFewSites below t."""
        return self._attempt().quorum()

    def add_shares(self, shares: Shares) -> None:
        """R6: take in recovery shares. Raises SharesRejected when they do not fit."""
        self._attempt().add_shares(shares)

    def opened(self) -> Ring:
        """Return the opened sum as a ring vector; in group mode it still wears the group masks.

        Raises TooFewSites with fewer than t shares, SharesRejected when a secret does not open.
        """
        return self._attempt().open().vector

    def opening(self) -> Opening:
        """R7: return the message that takes the opened sum back to the sites."""
        opening = self._attempt().opening()
        if self._spec.group_mode and self._spec.ring_bits == 16:
            self._prior = opening.vector
        return opening

    def result(self) -> Aggregate:
        """Return the aggregate. Raises CoordinatorBlind in group mode, else like `opened`."""
        aggregate = self._attempt().open().aggregate
        if aggregate is None:
            raise CoordinatorBlind("group mode: only the sites can read the sum; send it to them")
        self._clip = next_clip(self._spec, aggregate) or self._clip
        return aggregate

    # restart

    def save(self) -> bytes:
        """Return what a restarted coordinator needs: key book, approvals, last attempt."""
        acks = tuple(self._acks[site] for site in sorted(self._acks))
        return encode(
            AggregatorState(
                digest(self._spec), self._book, acks, *self._last, self._clip, self._prior
            )
        )

    @classmethod
    def restore(
        cls, saved: bytes, spec: SignedRunSpec, roster: Roster, signer: Signer
    ) -> "Aggregator":
        """Return an aggregator that goes on with the next attempt.

        Raises MessageMalformed for damaged bytes, KeysRejected for those of another run.
        """
        state = decode(AggregatorState, saved)
        aggregator = cls(spec, roster, signer)
        if state.spec != digest(spec.spec):
            raise KeysRejected("the saved coordinator state is of another run")
        if state.book is not None:
            checks.check_book(spec.spec, roster, state.book)
            aggregator._adverts = {advert.site: advert for advert in state.book.adverts}
            aggregator._book = state.book
            for ack in state.acks:
                aggregator.add_ack(ack)
        aggregator._last = (state.round, state.attempt)
        aggregator._clip, aggregator._prior = state.clip, state.prior
        return aggregator

    def _attempt(self) -> Collection:
        if self._collection is None:
            raise OutOfOrder("no attempt is under way; give out a task first")
        return self._collection
