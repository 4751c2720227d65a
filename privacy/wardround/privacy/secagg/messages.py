"""The messages of the protocol, M1 to M4 once a run and R1 to R7 each round (see README).

Sites are listed in order of name everywhere, so a set has one encoding. What a `signature` covers
is `codec.signed_bytes` of its message. The masked vector travels beside its header as raw
little-endian integers, never inside a message.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, TypeAlias, TypeVar

from wardround.privacy.identity import Signer
from wardround.privacy.secagg.codec import Limit, digest, signed_bytes
from wardround.privacy.secagg.parameters import (
    MAX_DIMENSION,
    MAX_ROUNDS,
    MAX_SITES,
    Digest,
    Signature,
    Site,
)

MAX_ATTEMPTS = 1000
MAX_BOX = 8192
UNSIGNED = bytes(64)

Box: TypeAlias = Annotated[bytes, Limit(0, MAX_BOX)]
Share: TypeAlias = Annotated[bytes, Limit(0, 32)]
Round: TypeAlias = Annotated[int, Limit(1, MAX_ROUNDS)]
Attempt: TypeAlias = Annotated[int, Limit(1, MAX_ATTEMPTS)]


@dataclass(frozen=True, slots=True)
class KeyAdvert:
    """M1, site to coordinator: a fresh X25519 key and the commitment to a share of the group key.

    `spec` is the digest of the RunSpec, so an advert of another run fits nowhere.
    """

    spec: Digest
    site: Site
    public_key: Digest
    group_commitment: Digest
    signature: Signature = UNSIGNED


@dataclass(frozen=True, slots=True)
class KeyBook:
    """M2, coordinator to sites: the adverts of everyone who takes part in the run."""

    spec: Digest
    adverts: Annotated[tuple[KeyAdvert, ...], Limit(1, MAX_SITES)]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the book, in order."""
        return tuple(advert.site for advert in self.adverts)


@dataclass(frozen=True, slots=True)
class Approval:
    """A site's signature over the digest of the one key book it accepted."""

    book: Digest
    site: Site
    signature: Signature = UNSIGNED


@dataclass(frozen=True, slots=True)
class Sealed:
    """One site's share of the group key, sealed for another site."""

    sender: Site
    recipient: Site
    box: Box


@dataclass(frozen=True, slots=True)
class BookAck:
    """M3, site to coordinator: approval of the book, the group-key share sealed to each peer."""

    approval: Approval
    sealed: Annotated[tuple[Sealed, ...], Limit(0, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """M4, coordinator to one site: everyone's approval, and the shares sealed to that site."""

    approvals: Annotated[tuple[Approval, ...], Limit(1, MAX_SITES)]
    sealed: Annotated[tuple[Sealed, ...], Limit(0, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class Task:
    """R1, coordinator to sites: one attempt at one round, signed by the coordinator.

    `model` is the SHA-256 of the global model. `clip` bounds the weighted update (quantization),
    in place of the RunSpec's; in group mode `prior` names instead the opened sum of the earlier
    round from whose mean the sites compute that bound.
    """

    spec: Digest
    book: Digest
    round: Round
    attempt: Attempt
    participants: Annotated[tuple[Site, ...], Limit(1, MAX_SITES)]
    model: Digest
    clip: float | None = None
    prior: Digest | None = None
    signature: Signature = UNSIGNED

    @property
    def context(self) -> bytes:
        """ctx: the digest of everything above that all sites must share; keys the round."""
        return _context(self)


@lru_cache(maxsize=16)
def _context(task: Task) -> bytes:
    return hashlib.sha256(signed_bytes(task)).digest()


@dataclass(frozen=True, slots=True)
class UploadHeader:
    """R2, the signed part: what the masked vector is and which secrets mask it.

    `vector` is its digest, `length` its number of coordinates. `pair_commitments` follow the
    task's participants without the site itself; `boxes` are the digests of the sealed boxes, to
    those of them that do not compute their shares (`checks.sealed_holders`).
    """

    context: Digest
    site: Site
    vector: Digest
    length: Annotated[int, Limit(1, 2 * MAX_DIMENSION)]
    self_commitment: Digest
    pair_commitments: Annotated[tuple[Digest, ...], Limit(0, MAX_SITES)]
    boxes: Annotated[tuple[Digest, ...], Limit(0, MAX_SITES)]
    signature: Signature = UNSIGNED


@dataclass(frozen=True, slots=True)
class Upload:
    """R2, site to coordinator: header and sealed boxes; the masked vector travels beside it."""

    header: UploadHeader
    boxes: Annotated[tuple[Box, ...], Limit(0, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class SurvivorSet:
    """U: who is in the sum, each with the digest of its header."""

    context: Digest
    sites: Annotated[tuple[Site, ...], Limit(1, MAX_SITES)]
    headers: Annotated[tuple[Digest, ...], Limit(1, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class Survivors:
    """R3, coordinator to one site: the headers of U, and U's boxes for that site.

    There is a box of each site of U that sealed its shares to this one, in order.
    """

    context: Digest
    headers: Annotated[tuple[UploadHeader, ...], Limit(1, MAX_SITES)]
    boxes: Annotated[tuple[Box, ...], Limit(0, MAX_SITES)]

    @property
    def set(self) -> SurvivorSet:
        """The survivor set these headers make."""
        return SurvivorSet(
            self.context,
            tuple(header.site for header in self.headers),
            tuple(digest(header) for header in self.headers),
        )


@dataclass(frozen=True, slots=True)
class SurvivorSignature:
    """R4, site to coordinator: the one survivor set this site accepts for this context."""

    context: Digest
    site: Site
    survivors: Digest
    signature: Signature = UNSIGNED


@dataclass(frozen=True, slots=True)
class Quorum:
    """R5, coordinator to sites: at least t signatures over one survivor set."""

    context: Digest
    survivors: Digest
    signatures: Annotated[tuple[SurvivorSignature, ...], Limit(1, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class Shares:
    """R6, site to coordinator: what opens the sum, and nothing else.

    `self_shares`: of the self mask of each site in U. `pair_shares`: for each i in U, for each j
    outside U, of their pair secret as dealt by i. An empty share says that i's box did not open.
    """

    context: Digest
    site: Site
    survivors: Digest
    self_shares: Annotated[tuple[Share, ...], Limit(1, MAX_SITES)]
    pair_shares: Annotated[tuple[Share, ...], Limit(0, MAX_SITES * MAX_SITES)]
    signature: Signature = UNSIGNED


@dataclass(frozen=True, slots=True)
class Opening:
    """R7, coordinator to sites: whose sum was opened, by whose signatures, and its digest.

    The sum itself travels beside it; in group mode it still wears the group masks.
    """

    task: Task
    survivors: SurvivorSet
    signatures: Annotated[tuple[SurvivorSignature, ...], Limit(1, MAX_SITES)]
    vector: Digest


Signed = TypeVar("Signed", KeyAdvert, Approval, Task, UploadHeader, SurvivorSignature, Shares)


def signed(message: Signed, signer: Signer) -> Signed:
    """Return `message` with its signature made by `signer`."""
    return replace(message, signature=signer.sign(signed_bytes(message)))
