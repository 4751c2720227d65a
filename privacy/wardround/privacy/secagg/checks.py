"""Checks that both ends make: signatures of sites under the pinned roster, sets, quorums."""

import hashlib
from collections.abc import Collection, Sequence
from typing import TypeAlias

from wardround.privacy.errors import (
    IdentityUnknown,
    KeysRejected,
    ParametersInvalid,
    ProtocolViolation,
    SignatureInvalid,
    SurvivorsRejected,
    TaskRejected,
)
from wardround.privacy.identity import Roster, verify_signature
from wardround.privacy.secagg.codec import digest, signed_bytes
from wardround.privacy.secagg.messages import (
    Approval,
    KeyAdvert,
    KeyBook,
    Shares,
    SurvivorSet,
    SurvivorSignature,
    Task,
    UploadHeader,
)
from wardround.privacy.secagg.parameters import RunSpec
from wardround.privacy.secagg.quantization import check_clip

SiteSigned: TypeAlias = KeyAdvert | Approval | UploadHeader | SurvivorSignature | Shares


def check_roster(spec: RunSpec, roster: Roster) -> None:
    """Raise ParametersInvalid unless `spec` names this roster and only sites of it."""
    if spec.roster.hex() != roster.digest():
        raise ParametersInvalid("the run spec is for another roster than the one pinned here")
    for site in spec.participants:
        if site not in roster:
            raise ParametersInvalid(f"participant {site} is not in the pinned roster")


def check_site_signature(
    roster: Roster, message: SiteSigned, error: type[ProtocolViolation]
) -> None:
    """Raise `error` unless the roster's identity key of `message.site` signed the message."""
    what = type(message).__name__
    try:
        keys = roster[message.site]
        verify_signature(keys.identity, message.signature, signed_bytes(message))
    except IdentityUnknown:
        raise error(f"{what} of {message.site}, which the roster does not know") from None
    except SignatureInvalid:
        raise error(f"{what} was not signed by {message.site}", message.site) from None


def check_advert(spec: RunSpec, roster: Roster, advert: KeyAdvert) -> None:
    """Raise KeysRejected unless `advert` is signed by a participant, for this run."""
    if advert.site not in spec.participants:
        raise KeysRejected(f"{advert.site} is not a participant of this run", advert.site)
    if advert.spec != digest(spec):
        raise KeysRejected(f"the key advert of {advert.site} is for another run", advert.site)
    check_site_signature(roster, advert, KeysRejected)


def check_book(spec: RunSpec, roster: Roster, book: KeyBook) -> None:
    """Raise KeysRejected unless all adverts are good, differ, and are of enough sites."""
    if book.spec != digest(spec):
        raise KeysRejected("the key book is for another run")
    if list(book.sites) != sorted(set(book.sites)):
        raise KeysRejected("the key book is not in order of sites, or names one twice")
    if len(book.sites) < spec.smallest_cohort:
        raise KeysRejected(
            f"the key book has {len(book.sites)} sites; the run asks for {spec.smallest_cohort}"
        )
    for advert in book.adverts:
        check_advert(spec, roster, advert)
    if len({advert.public_key for advert in book.adverts}) != len(book.adverts):
        raise KeysRejected("two sites of the key book have one key")


def check_task(spec: RunSpec, book: KeyBook, coordinator_public: bytes, task: Task) -> None:
    """Raise TaskRejected unless `task` is the coordinator's, for this run, book and cohort."""
    if task.spec != digest(spec) or task.book != digest(book):
        raise TaskRejected("the task is for another run or another key book")
    if task.round > spec.rounds:
        raise TaskRejected(f"the task is for round {task.round}; the run has {spec.rounds}")
    if list(task.participants) != sorted(set(task.participants)):
        raise TaskRejected("the task's participants are not in order, or one is named twice")
    if not set(task.participants) <= set(book.sites):
        raise TaskRejected("the task names a site that is not in the key book")
    if len(task.participants) < spec.smallest_cohort:
        raise TaskRejected(
            f"the task has {len(task.participants)} participants; "
            f"the run asks for {spec.smallest_cohort}"
        )
    check_clip(spec, task.clip)
    try:
        verify_signature(coordinator_public, task.signature, signed_bytes(task))
    except SignatureInvalid:
        raise TaskRejected("the task is not signed by the coordinator") from None


def check_survivor_sites(spec: RunSpec, task: Task, sites: Sequence[str]) -> None:
    """Raise SurvivorsRejected unless `sites` is an ordered, large enough part of the task's."""
    if list(sites) != sorted(set(sites)):
        raise SurvivorsRejected("the survivors are not in order, or one is named twice")
    if not set(sites) <= set(task.participants):
        raise SurvivorsRejected("a survivor is not a participant of the task")
    if len(sites) < spec.smallest_cohort:
        raise SurvivorsRejected(
            f"{len(sites)} survivors; the run asks for at least {spec.smallest_cohort}"
        )


def check_quorum(
    spec: RunSpec, roster: Roster, survivors: SurvivorSet, signatures: Sequence[SurvivorSignature]
) -> None:
    """Raise SurvivorsRejected unless at least t survivors signed exactly this survivor set."""
    signers = [signature.site for signature in signatures]
    if signers != sorted(set(signers)):
        raise SurvivorsRejected("the signatures are not in order of sites, or one is there twice")
    for signature in signatures:
        check_survivor_signature(roster, survivors, signature)
    if len(signers) < spec.threshold:
        raise SurvivorsRejected(
            f"{len(signers)} sites signed the survivor set; {spec.threshold} must"
        )


def check_survivor_signature(
    roster: Roster, survivors: SurvivorSet, signature: SurvivorSignature
) -> None:
    """Raise SurvivorsRejected unless a survivor signed exactly this survivor set."""
    if signature.site not in survivors.sites:
        raise SurvivorsRejected(f"{signature.site} signed but is no survivor", signature.site)
    if signature.context != survivors.context or signature.survivors != digest(survivors):
        raise SurvivorsRejected(f"{signature.site} signed another survivor set", signature.site)
    check_site_signature(roster, signature, SurvivorsRejected)


def others(sites: Collection[str], site: str) -> list[str]:
    """Return `sites` without `site`, in order: how per-peer fields of messages are laid out."""
    return [other for other in sites if other != site]


def peer_position(sites: Sequence[str], site: str, peer: str) -> int:
    """Return where `peer` stands among `others(sites, site)`."""
    position = sites.index(peer)
    return position - 1 if sites.index(site) < position else position


def derived_holders(participants: Sequence[str], dealer: str, threshold: int) -> list[str]:
    """Return the t - 1 peers who compute their shares of the dealer's secrets themselves.

    Those who follow the dealer in the circle of participants, so that all send alike much.
    """
    at = participants.index(dealer)
    return [participants[(at + k) % len(participants)] for k in range(1, threshold)]


def sealed_holders(participants: Sequence[str], dealer: str, threshold: int) -> list[str]:
    """Return the other peers, in order: those to whom the dealer seals their shares."""
    derived = derived_holders(participants, dealer, threshold)
    return [site for site in participants if site != dealer and site not in derived]


def check_header(
    spec: RunSpec,
    roster: Roster,
    task: Task,
    header: UploadHeader,
    error: type[ProtocolViolation],
) -> None:
    """Raise `error` unless a participant of `task` signed `header`, and it is for that task."""
    site, peers = header.site, len(task.participants) - 1
    if site not in task.participants:
        raise error(f"{site} is not a participant of the task", site)
    if header.context != task.context:
        raise error(f"the upload of {site} is for another attempt, round or run", site)
    if header.length != spec.vector_length:
        raise error(f"the upload of {site} has {header.length} coordinates", site)
    if len(header.pair_commitments) != peers:
        raise error(f"the upload of {site} does not commit to {peers} pair secrets", site)
    if len(header.boxes) != len(task.participants) - spec.threshold:
        raise error(f"the upload of {site} has {len(header.boxes)} boxes", site)
    check_site_signature(roster, header, error)


def check_pair(
    task: Task, one: UploadHeader, other: UploadHeader, error: type[ProtocolViolation]
) -> None:
    """Raise `error` unless two headers commit to one and the same pair secret."""
    if one.site == other.site:
        return
    first = one.pair_commitments[peer_position(task.participants, one.site, other.site)]
    second = other.pair_commitments[peer_position(task.participants, other.site, one.site)]
    if first != second:
        raise error(f"{one.site} and {other.site} committed to different pair secrets", one.site)


def box_digest(box: bytes) -> bytes:
    """Return the digest of a sealed box as upload headers carry it."""
    return hashlib.sha256(b"wardround/v1/secagg/box\0" + box).digest()


def share_point(spec: RunSpec, site: str) -> int:
    """Return the point (1 to n) at which `site` holds its shares."""
    return spec.participants.index(site) + 1
