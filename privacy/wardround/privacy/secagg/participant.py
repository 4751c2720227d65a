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
    KeysRejected,
    OutOfOrder,
    ParametersInvalid,
    SurvivorsRejected,
    TaskRejected,
)
from wardround.privacy.identity import Roster, Signer
from wardround.privacy.secagg import checks, keys, shamir
from wardround.privacy.secagg.checks import others
from wardround.privacy.secagg.codec import decode, digest, encode
from wardround.privacy.secagg.masking import Stream
from wardround.privacy.secagg.messages import (
    Approval,
    BookAck,
    Confirmation,
    KeyAdvert,
    KeyBook,
    Opening,
    Quorum,
    Sealed,
    Shares,
    Survivors,
    SurvivorSet,
    SurvivorSignature,
    Task,
    Upload,
    UploadHeader,
    signed,
)
from wardround.privacy.secagg.parameters import RunSpec, SignedRunSpec
from wardround.privacy.secagg.protection import GroupKeys, protect, unprotect
from wardround.privacy.secagg.quantization import Aggregate, Contribution
from wardround.privacy.secagg.segments import Ring, ring_type, vector_digest
from wardround.privacy.secagg.state import (
    Accepted,
    ParticipantState,
    Released,
    RoundState,
    Store,
)

SECRET = 32


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
        private, public = keys.fresh_key_pair()
        share = keys.fresh_secret()
        spec, site = self._state.spec, self._state.site
        advert = signed(
            KeyAdvert(spec, site, public, keys.commit("group-share", spec, share, site)),
            self._signer,
        )
        self._save(
            replace(
                self._state,
                advert=advert,
                private_key=private,
                group_share=share,
                book=None,
                confirmed=False,
                roots=(),
                roots_round=0,
                group_key=b"",
                current=None,
            )
        )
        return advert

    def accept_book(self, book: KeyBook) -> BookAck:
        """M2 to M3: check every advert against the pinned roster, agree on keys, approve.

        The private key is deleted here. Raises KeysRejected for a forged, foreign or old advert,
        too few sites, or a book other than the one already approved.
        """
        state = self._state
        if state.advert is None:
            raise OutOfOrder("a key book came before this site advertised its keys")
        if state.book is not None:
            if state.book != book:
                raise KeysRejected("the coordinator sent a second, different key book")
            return self._acknowledgement(state)
        checks.check_book(self._spec, self._roster, book)
        if state.advert not in book.adverts:
            raise KeysRejected("the key book holds another advert of this site than its last one")
        name = digest(book)
        roots = tuple(
            keys.pair_root(state.private_key, advert.public_key, name, state.site, advert.site)
            for advert in book.adverts
            if advert.site != state.site
        )
        agreed = replace(state, book=book, roots=roots, private_key=b"")
        answer = self._acknowledgement(agreed)
        self._save(agreed)
        return answer

    def confirm(self, confirmation: Confirmation) -> None:
        """M4: go on only if every site of the book approved this very book.

        Opens each peer's group-key share, compares it with the commitment of its advert, and
        derives the group key. Raises KeysRejected otherwise.
        """
        state = self._state
        if state.book is None:
            raise OutOfOrder("a confirmation came before the key book")
        if state.confirmed:
            return
        book, name = state.book, digest(state.book)
        if tuple(approval.site for approval in confirmation.approvals) != book.sites:
            raise KeysRejected("not every site of the key book approved it")
        for approval in confirmation.approvals:
            if approval.book != name:
                raise KeysRejected(
                    f"{approval.site} approved another key book than this site", approval.site
                )
            checks.check_site_signature(self._roster, approval, KeysRejected)
        shares = self._group_shares(confirmation, book, name)
        group_key = keys.derive(b"".join(shares), "group-key", salt=name)
        self._save(replace(state, confirmed=True, group_key=group_key, group_share=b""))

    def _acknowledgement(self, state: ParticipantState) -> BookAck:
        book = state.book
        if book is None or state.confirmed:
            raise OutOfOrder("the keys of this run are agreed already")
        name, site = digest(book), state.site
        sealed = tuple(
            Sealed(site, peer, keys.seal(root, name, site, peer, state.group_share))
            for peer, root in zip(others(book.sites, site), state.roots, strict=True)
        )
        return BookAck(signed(Approval(name, site), self._signer), sealed)

    def _group_shares(self, confirmation: Confirmation, book: KeyBook, name: bytes) -> list[bytes]:
        state, site = self._state, self._state.site
        boxes = {sealed.sender: sealed.box for sealed in confirmation.sealed}
        if tuple(boxes) != tuple(others(book.sites, site)) or len(boxes) != len(
            confirmation.sealed
        ):
            raise KeysRejected("the confirmation does not hold one group-key share of each peer")
        roots = dict(zip(others(book.sites, site), state.roots, strict=True))
        shares = []
        for advert in book.adverts:
            share = state.group_share
            if advert.site != site:
                share = keys.unseal(roots[advert.site], name, advert.site, site, boxes[advert.site])
            expected = keys.commit("group-share", state.spec, share, advert.site)
            if expected != advert.group_commitment:
                raise KeysRejected(
                    f"the group-key share of {advert.site} is not what it committed to",
                    advert.site,
                )
            shares.append(share)
        return shares

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
        if task.model != model:
            raise TaskRejected("the task names another global model than the one received")
        for released in state.releases:
            if released.model == task.model and released.sites & ~self._mask(task.participants):
                raise TaskRejected(
                    "a sum over other sites was opened for this model; two such sums could be "
                    "subtracted"
                )

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
        vector, vector_hash = protect(self._spec, task, site, contribution, streams, group)

        dealt = shamir.share(
            b"".join((self_secret, *pair_secrets)),
            self._spec.threshold,
            [self._point(name) for name in task.participants],
        )
        share_of = dict(zip(task.participants, dealt, strict=True))
        boxes = tuple(keys.seal(root_of[p], context, site, p, share_of[p]) for p in peers)
        header = signed(
            UploadHeader(
                context=context,
                site=site,
                vector=vector_hash,
                length=len(vector),
                self_commitment=keys.commit("self-mask", context, self_secret, site),
                pair_commitments=tuple(
                    keys.commit("pair-secret", context, secret, *sorted((site, peer)))
                    for peer, secret in zip(peers, pair_secrets, strict=True)
                ),
                boxes=tuple(checks.box_digest(box) for box in boxes),
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
                current=RoundState(task, header, share_of[site]),
            )
        )
        return Upload(header, boxes), vector

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
        self._check_survivors(current, survivors, chosen)
        opened = self._open_boxes(current, survivors)
        self._save(replace(self._state, current=replace(current, survivors=chosen, opened=opened)))
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
        shares = signed(self._shares(current, current.survivors), self._signer)
        released = Released(current.task.model, self._mask(current.survivors.sites))
        releases = self._state.releases
        if released not in releases:
            releases = (*releases, released)
        self._save(
            replace(
                self._state,
                releases=releases,
                current=replace(current, own_shares=b"", opened=(), released=shares),
            )
        )
        return shares

    def _current(self, context: bytes) -> RoundState:
        current = self._state.current
        if current is None or current.task.context != context:
            raise OutOfOrder("the message is not for the attempt this site takes part in")
        return current

    def _check_survivors(
        self, current: RoundState, survivors: Survivors, chosen: SurvivorSet
    ) -> None:
        spec, task, site = self._spec, current.task, self._state.site
        checks.check_survivor_sites(spec, task, chosen.sites)
        if current.header not in survivors.headers:
            raise SurvivorsRejected("the survivor set does not hold this site's own upload")
        mask = self._mask(chosen.sites)
        for released in self._state.releases:
            if released.model == task.model and released.sites != mask:
                raise SurvivorsRejected(
                    "a sum over other sites was opened for this model; two such sums could be "
                    "subtracted"
                )
        for header in survivors.headers:
            checks.check_header(spec, self._roster, task, header, SurvivorsRejected)
        for header in survivors.headers:
            for peer in survivors.headers:
                checks.check_pair(task, header, peer, SurvivorsRejected)
        if len(survivors.boxes) != len(survivors.headers) - 1:
            raise SurvivorsRejected("the survivor set does not bring one box of each survivor")
        senders = [header for header in survivors.headers if header.site != site]
        for header, box in zip(senders, survivors.boxes, strict=True):
            if (
                checks.box_digest(box)
                != header.boxes[others(task.participants, header.site).index(site)]
            ):
                raise SurvivorsRejected(f"a box is not the one {header.site} sent", header.site)

    def _open_boxes(self, current: RoundState, survivors: Survivors) -> tuple[bytes, ...]:
        """Return the shares in the survivors' boxes; empty for a box its sender made badly."""
        root_of = self._roots(self._state.roots)
        boxes = iter(survivors.boxes)
        opened = []
        for header in survivors.headers:
            if header.site == self.site:
                opened.append(current.own_shares)
                continue
            box = next(boxes)
            try:
                content = keys.unseal(
                    root_of[header.site], survivors.context, header.site, self.site, box
                )
            except KeysRejected:
                content = b""
            if len(content) != SECRET * len(current.task.participants):
                content = b""
            opened.append(content)
        return tuple(opened)

    def _shares(self, current: RoundState, survivors: SurvivorSet) -> Shares:
        participants = current.task.participants
        pair_shares = []
        for site, content in zip(survivors.sites, current.opened, strict=True):
            for position, peer in enumerate(others(participants, site), start=1):
                if peer not in survivors.sites:
                    pair_shares.append(content[SECRET * position : SECRET * (position + 1)])
        return Shares(
            survivors.context,
            self.site,
            digest(survivors),
            tuple(content[:SECRET] for content in current.opened),
            tuple(pair_shares),
        )

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
        accepted = Accepted(task.round, task.context, opening.vector)
        last = state.accepted
        if last is not None and last != accepted and task.round <= last.round:
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
        aggregate = unprotect(self._spec, task, survivors.sites, vector, group)
        self._save(replace(state, accepted=accepted))
        return aggregate

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

    def _point(self, site: str) -> int:
        return checks.share_point(self._spec, site)
