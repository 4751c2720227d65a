"""A verifier's way through one attempt: the same sum again from what was kept and logged."""

from collections.abc import Iterable
from dataclasses import dataclass

from wardround.privacy.identity import Roster
from wardround.privacy.secagg import checks
from wardround.privacy.secagg.codec import digest
from wardround.privacy.secagg.collection import Collection
from wardround.privacy.secagg.messages import (
    KeyBook,
    Shares,
    SurvivorSignature,
    Task,
    UploadHeader,
)
from wardround.privacy.secagg.parameters import SignedRunSpec
from wardround.privacy.secagg.quantization import Aggregate
from wardround.privacy.secagg.segments import Ring


@dataclass(frozen=True, slots=True)
class Replayed:
    """Digest (hex) and bytes of the opened sum, survivors with the digest (hex) of the set of
    their headers, and the aggregate unless group mode hides it."""

    digest: str
    size: int
    headers: str
    survivors: tuple[str, ...]
    aggregate: Aggregate | None


def replay(
    spec: SignedRunSpec,
    coordinator_public: bytes,
    roster: Roster,
    book: KeyBook,
    task: Task,
    uploads: Iterable[tuple[UploadHeader, Ring]],
    signatures: Iterable[SurvivorSignature],
    shares: Iterable[Shares],
) -> Replayed:
    """Recompute an attempt from the survivors' masked vectors and the logged recovery shares.

    `uploads` are those of the survivors and no others, read one at a time: memory is that of two
    vectors. Every signature, digest and commitment is checked on the way. Raises an error of the
    SecureAggregationError tree for the first thing that does not hold.
    """
    spec.verify(coordinator_public)
    checks.check_roster(spec.spec, roster)
    checks.check_book(spec.spec, roster, book)
    checks.check_task(spec.spec, book, coordinator_public, task)
    collection = Collection(spec.spec, roster, task)
    for header, vector in uploads:
        collection.add(header, None, vector)
    survivors = collection.fix_survivors()
    checks.check_quorum(spec.spec, roster, survivors, tuple(signatures))
    for answer in shares:
        collection.add_shares(answer)
    opened = collection.open()
    return Replayed(
        opened.digest.hex(),
        opened.vector.nbytes,
        digest(survivors).hex(),
        survivors.sites,
        opened.aggregate,
    )
