"""A site's end of the protocol: a state machine without sockets, clocks or threads of its own.

    advertise -> accept_book -> confirm                                  once a run
    check_task, begin_round -> accept_survivors -> release_shares        each attempt at a round
    accept_aggregate                                                     when the sum comes back

Every step first checks, then saves the new state, then returns the message. A step that raises
changes nothing. A message that comes twice gets the same answer where that is safe, and is
refused where it is not (a task).
"""

from dataclasses import replace

import numpy as np

from wardround.privacy.errors import (
    AggregateRejected,
    OutOfOrder,
    ParametersInvalid,
    SurvivorsRejected,
    TaskRejected,
)
from wardround.privacy.identity import Roster, Signer
from wardround.privacy.secagg import agreement, checks, keys, release
from wardround.privacy.secagg.checks import others
from wardround.privacy.secagg.codec import decode, digest, encode
from wardround.privacy.secagg.dealing import deal
from wardround.privacy.secagg.masking import Stream
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
    UploadHeader,
    signed,
)
from wardround.privacy.secagg.parameters import RunSpec, SignedRunSpec
from wardround.privacy.secagg.protection import GroupKeys, protect, unprotect
from wardround.privacy.secagg.quantization import Aggregate, Contribution, next_clip
from wardround.privacy.secagg.segments import Ring, ring_type, vector_digest
from wardround.privacy.secagg.state import (
    Accepted,
    ParticipantState,
    Released,
    RoundState,
    Store,
)


class Participant:
    """One site in one run.

    `roster` and `coordinator_public` are what this site pinned when it enrolled; nothing a
    message brings replaces them. Raises KeysRejected when the coordinator did not sign `spec`,
    ParametersInvalid when it is for another roster or leaves this site or its key out.
    """

    def __init__(
        self,
        spec: SignedRunSpec,
        site: str,
        signer: Signer,
        roster: Roster,
        coordinator_public: bytes,
        store: Store,
    ) -> None:
        spec.verify(coordinator_public)
        checks.check_roster(spec.spec, roster)
        if site not in spec.spec.participants:
            raise ParametersInvalid(f"{site} is not a participant of this run")
        if roster[site].identity != signer.public_bytes():
            raise ParametersInvalid(f"the roster has another identity key for {site}")
        self._spec: RunSpec = spec.spec
        self._signer = signer
        self._roster = roster
        self._coordinator = coordinator_public
        self._store = store
        self._state = ParticipantState(digest(spec.spec), site)

    @classmethod
    def restore(
        cls,
        saved: bytes,
        spec: SignedRunSpec,
        site: str,
        signer: Signer,
        roster: Roster,
        coordinator_public: bytes,
        store: Store,
    ) -> "Participant":
        """Return the participant whose last saved state is `saved`.

        An upload that was not sent before the crash is lost: its attempt is used up, the next
        one works. Survivor signature and shares can be asked for again. Raises MessageMalformed
        for damaged bytes and ParametersInvalid for the state of another run or site.
        """
        participant = cls(spec, site, signer, roster, coordinator_public, store)
        state = decode(ParticipantState, saved)
        if state.spec != participant._state.spec or state.site != site:
            raise ParametersInvalid("the saved state is of another run or another site")
        participant._state = state
        return participant

    @property
    def site(self) -> str:
        """This site's name."""
        return self._state.site

    @property
    def ready(self) -> bool:
        """Whether the run's keys are agreed, so that tasks can come."""
        return self._state.confirmed

    # M1 to M4: keys of the run

    def advertise(self) -> KeyAdvert:
        """M1: make fresh keys for the run and return them, signed.

        Calling it again starts the key agreement over, and ends a round that is under way.
        """
        state, advert = agreement.advertise(self._state, self._signer)
        self._save(state)
        return advert

    def accept_book(self, book: KeyBook) -> BookAck:
        """M2 to M3: check every advert against the pinned roster, agree on keys, approve.

        The private key is deleted here. Raises KeysRejected for a forged, foreign or old advert,
        too few sites, or a book other than the one already approved.
        """
        state = agreement.accept_book(self._state, book, self._spec, self._roster)
        answer = agreement.acknowledge(state, self._signer)
        self._save(state)
        return answer

    def confirm(self, confirmation: Confirmation) -> None:
        """M4: go on only if every site of the book approved this very book.

        Opens each peer's group-key share, compares it with the commitment of its advert, and
        derives the group key. Raises KeysRejected otherwise.
        """
        self._save(agreement.confirm(self._state, confirmation, self._roster))

    # R1 to R6: one attempt at a round

    def check_task(self, task: Task, model: bytes) -> None:
        """R1: raise TaskRejected unless this site may work on `task`; nothing changes yet.

        `model` is the SHA-256 of the global model this site holds. Called before training, so
        that no privacy budget goes into a task that cannot be uploaded.
        """
        state = self._state
        if state.book is None or not state.confirmed:
            raise OutOfOrder("a task came before the keys of the run were agreed")
        checks.check_task(self._spec, state.book, self._coordinator, task)
        if state.site not in task.participants:
            raise TaskRejected("the task is not for this site")
        if (task.round, task.attempt) <= (state.round, state.attempt):
            raise TaskRejected(
                f"round {task.round} attempt {task.attempt} is not after "
                f"round {state.round} attempt {state.attempt}"
            )
        self._clip(task)
        if task.model != model:
            raise TaskRejected("the task names another global model than the one received")
        release.check_repeat(state.releases, task, self._mask(task.participants))

    def begin_round(
        self, task: Task, model: bytes, contribution: Contribution
    ) -> tuple[Upload, Ring]:
        """R2: return the signed upload and the masked vector.

        Round and attempt are used up before anything leaves. Raises like `check_task`, and
        ContributionInvalid when the update cannot be encoded.
        """
        self.check_task(task, model)
        state, context, site = self._state, task.context, self._state.site
        roots = tuple(keys.advance(r, task.round - state.roots_round) for r in state.roots)
        root_of = self._roots(roots)
        peers = others(task.participants, site)
        pair_secrets = [keys.pair_secret(root_of[peer], context) for peer in peers]
        self_secret = keys.fresh_secret()

        streams = [Stream(keys.stream_key(self_secret))]
        for peer, secret in zip(peers, pair_secrets, strict=True):
            streams.append(Stream(keys.stream_key(secret), 1 if site < peer else -1))
        group = GroupKeys(state.group_key, context)
        vector, vector_hash = protect(
            self._spec, self._clip(task), site, contribution, streams, group
        )

        commitment = keys.commit("self-mask", context, self_secret, site)
        own_shares, boxes = deal(
            (self_secret, *pair_secrets),
            self._spec.threshold,
            {name: checks.share_point(self._spec, name) for name in task.participants},
            *(site, root_of, context, commitment),
        )
        header = signed(
            UploadHeader(
                context=context,
                site=site,
                vector=vector_hash,
                length=len(vector),
                self_commitment=commitment,
                pair_commitments=tuple(
                    keys.commit("pair-secret", context, secret, *sorted((site, peer)))
                    for peer, secret in zip(peers, pair_secrets, strict=True)
                ),
                boxes=tuple(checks.box_digest(box) for box in boxes.values()),
            ),
            self._signer,
        )
        self._save(
            replace(
                state,
                roots=roots,
                roots_round=task.round,
                round=task.round,
                attempt=task.attempt,
                current=RoundState(task, header, own_shares),
            )
        )
        return Upload(header, tuple(boxes.values())), vector

    def accept_survivors(self, survivors: Survivors) -> SurvivorSignature:
        """R3 to R4: check the survivor set and sign it: one set per context, ever.

        Raises SurvivorsRejected for a second or too small set, a forged header, boxes that are
        not those of the headers, or two ends that committed to different pair secrets.
        """
        current = self._current(survivors.context)
        chosen = survivors.set
        answer = SurvivorSignature(survivors.context, self.site, digest(chosen))
        if current.survivors is not None:
            if current.survivors != chosen:
                raise SurvivorsRejected("the coordinator sent a second, different survivor set")
            return signed(answer, self._signer)
        release.check_survivors(self._spec, self._roster, self.site, current, survivors)
        release.check_difference(self._state.releases, current.task.model, self._mask(chosen.sites))
        roots = self._roots(self._state.roots)
        held = release.hold_shares(self._spec, self.site, current, survivors, roots)
        self._save(replace(self._state, current=replace(current, survivors=chosen, held=held)))
        return signed(answer, self._signer)

    def release_shares(self, quorum: Quorum) -> Shares:
        """R5 to R6: with t signatures over the set this site signed, release what opens the sum.

        For a survivor the share of its self mask, for everyone else shares of their pair secrets
        with survivors: the two lists come from the one signed set and cannot overlap. The
        round's secrets are deleted. Raises SurvivorsRejected otherwise.
        """
        current = self._current(quorum.context)
        if current.survivors is None:
            raise OutOfOrder("a quorum came before the survivor set")
        if quorum.survivors != digest(current.survivors):
            raise SurvivorsRejected("the quorum is for another survivor set than the signed one")
        checks.check_quorum(self._spec, self._roster, current.survivors, quorum.signatures)
        if current.released is not None:
            return current.released
        shares = signed(
            release.shares_to_release(self.site, current, current.survivors), self._signer
        )
        task, sites = current.task, self._mask(current.survivors.sites)
        released = Released(task.model, sites, task.clip, task.prior)
        releases = self._state.releases
        if released not in releases:
            releases = (*releases, released)
        self._save(
            replace(
                self._state,
                releases=releases,
                current=replace(current, own_shares=b"", held=(), released=shares),
            )
        )
        return shares

    def _current(self, context: bytes) -> RoundState:
        current = self._state.current
        if current is None or current.task.context != context:
            raise OutOfOrder("the message is not for the attempt this site takes part in")
        return current

    # R7: the aggregate

    def accept_aggregate(self, opening: Opening, vector: Ring) -> Aggregate:
        """R7: check the opened sum and return what it says; in group mode only sites can.

        Also a site that missed the round can accept it: t signatures of survivors vouch for the
        set, the MAC under the group key for the sum. Raises AggregateRejected for an altered,
        wrapped or replayed aggregate, SurvivorsRejected for a set that was not signed.
        """
        state, task, survivors = self._state, opening.task, opening.survivors
        if state.book is None or not state.confirmed:
            raise OutOfOrder("an aggregate came before the keys of the run were agreed")
        checks.check_task(self._spec, state.book, self._coordinator, task)
        last = state.accepted
        again = last is not None and last.context == task.context and last.vector == opening.vector
        if last is not None and not again and task.round <= last.round:
            raise AggregateRejected("the aggregate is of a round that was accepted already")
        if survivors.context != task.context:
            raise AggregateRejected("the aggregate's survivor set is of another attempt")
        checks.check_survivor_sites(self._spec, task, survivors.sites)
        checks.check_quorum(self._spec, self._roster, survivors, opening.signatures)
        current = state.current
        opened_here = current is not None and current.released and current.task.round == task.round
        if current is not None and opened_here and current.survivors != survivors:
            raise AggregateRejected("the aggregate is not of the set this site helped to open")
        if vector.dtype != ring_type(self._spec.ring_bits) or vector.shape != (
            self._spec.vector_length,
        ):
            raise AggregateRejected("the aggregate has another length or ring than the run")
        vector = np.ascontiguousarray(vector)
        if vector_digest(vector) != opening.vector:
            raise AggregateRejected("the aggregate differs from its digest")
        group = GroupKeys(state.group_key, task.context)
        clip = last.clip if last is not None and again else self._clip(task)
        aggregate = unprotect(self._spec, clip, survivors.sites, vector, group)
        aggregate = replace(aggregate, digest=opening.vector.hex())
        if not again:
            following = next_clip(self._spec, aggregate) or (last.next_clip if last else None)
            accepted = Accepted(
                *(task.round, task.context, opening.vector, task.prior, clip, following)
            )
            self._save(replace(state, accepted=accepted))
        return aggregate

    def _clip(self, task: Task) -> float | None:
        """Return the bound of a task's updates: its own, or one from the aggregate it names."""
        if task.prior is None:
            return task.clip
        last = self._state.accepted
        if last is not None and task.prior == last.vector:
            return last.next_clip
        if last is not None and task.prior == last.prior:
            return last.clip  # the coordinator forgot its last sum in a crash
        raise TaskRejected(
            "the task builds on an aggregate that this site does not hold; send it that first"
        )

    # helpers of all steps

    def _save(self, state: ParticipantState) -> None:
        self._store.save(encode(state))
        self._state = state

    def _roots(self, roots: tuple[bytes, ...]) -> dict[str, bytes]:
        book = self._state.book
        if book is None:
            raise OutOfOrder("the keys of this run are not agreed yet")
        return dict(zip(others(book.sites, self.site), roots, strict=True))

    def _mask(self, sites: tuple[str, ...]) -> int:
        return sum(1 << self._spec.participants.index(site) for site in sites)
