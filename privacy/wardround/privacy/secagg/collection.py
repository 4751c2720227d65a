"""One attempt at a round as the coordinator sees it: uploads, survivors, shares, opened sum.

Uploads are added to one running sum as they come, so memory is that of one vector however many
sites there are. The same object opens the sum for a verifier that replays a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wardround.privacy.errors import (
    OutOfOrder,
    SharesRejected,
    TooFewSites,
    UploadRejected,
)
from wardround.privacy.identity import Roster
from wardround.privacy.secagg import checks
from wardround.privacy.secagg.checks import others
from wardround.privacy.secagg.codec import digest
from wardround.privacy.secagg.messages import (
    Opening,
    Quorum,
    Shares,
    Survivors,
    SurvivorSet,
    SurvivorSignature,
    Task,
    UploadHeader,
)
from wardround.privacy.secagg.parameters import RunSpec
from wardround.privacy.secagg.protection import unmask
from wardround.privacy.secagg.quantization import Aggregate
from wardround.privacy.secagg.recovery import Recovery
from wardround.privacy.secagg.segments import (
    Ring,
    accumulate,
    aligned,
    ring_type,
    vector_digest,
)


@dataclass(frozen=True, slots=True)
class Opened:
    """The opened sum, its digest, and what it says; in group mode that is for the sites to read."""

    vector: Ring
    digest: bytes
    aggregate: Aggregate | None


class Collection:
    """Collects one attempt. Every method refuses what deviates and is unchanged by it."""

    def __init__(self, spec: RunSpec, roster: Roster, task: Task) -> None:
        self.task = task
        self._spec = spec
        self._roster = roster
        self._sum: Ring = aligned(spec.vector_length, ring_type(spec.ring_bits))
        self._headers: dict[str, UploadHeader] = {}
        self._boxes: dict[str, tuple[bytes, ...]] = {}
        self._survivors: SurvivorSet | None = None
        self._signatures: dict[str, SurvivorSignature] = {}
        self._shares: dict[str, Shares] = {}
        self._opened: Opened | None = None

    @property
    def uploaded(self) -> tuple[str, ...]:
        """The sites whose vectors are in the sum, in order."""
        return tuple(sorted(self._headers))

    def add(self, header: UploadHeader, boxes: Sequence[bytes] | None, vector: Ring) -> None:
        """R2: check an upload and add it to the sum. A verifier has no boxes and gives None.

        Raises UploadRejected for a forged, damaged, repeated, late or contradictory upload.
        """
        site = header.site
        if self._survivors is not None:
            raise UploadRejected(f"the upload of {site} came after the survivors were fixed", site)
        if site in self._headers:
            raise UploadRejected(f"{site} uploaded twice", site)
        checks.check_header(self._spec, self._roster, self.task, header, UploadRejected)
        for other in self._headers.values():
            checks.check_pair(self.task, header, other, UploadRejected)
        if boxes is not None and tuple(map(checks.box_digest, boxes)) != header.boxes:
            raise UploadRejected(f"the boxes of {site} are not those of its header", site)
        kind = ring_type(self._spec.ring_bits)
        if vector.dtype != kind or vector.shape != (self._spec.vector_length,):
            raise UploadRejected(f"the vector of {site} has another length or ring", site)
        self._add_if_genuine(header, np.ascontiguousarray(vector))
        self._headers[site] = header
        self._boxes[site] = tuple(boxes or ())

    def fix_survivors(self) -> SurvivorSet:
        """Close the uploads and return U. Raises TooFewSites when the run's minimum is missed."""
        if self._survivors is None:
            if len(self._headers) < self._spec.smallest_cohort:
                raise TooFewSites(
                    f"uploads arrived: {len(self._headers)}; the run asks for at least "
                    f"{self._spec.smallest_cohort}. Start another attempt"
                )
            sites = self.uploaded
            self._survivors = SurvivorSet(
                self.task.context, sites, tuple(digest(self._headers[site]) for site in sites)
            )
        return self._survivors

    def survivors_for(self, site: str) -> Survivors:
        """R3: return the survivor message of one survivor, with the boxes sealed to it."""
        chosen = self.fix_survivors()
        if site not in chosen.sites:
            raise OutOfOrder(f"{site} is not among the survivors")
        boxes = []
        for name in others(chosen.sites, site):
            holders = checks.sealed_holders(self.task.participants, name, self._spec.threshold)
            if site in holders:
                boxes.append(self._boxes[name][holders.index(site)])
        headers = tuple(self._headers[name] for name in chosen.sites)
        return Survivors(chosen.context, headers, tuple(boxes))

    def add_signature(self, signature: SurvivorSignature) -> None:
        """R4: take in a survivor's signature. Raises SurvivorsRejected when it does not fit."""
        chosen = self._fixed()
        checks.check_survivor_signature(self._roster, chosen, signature)
        self._signatures[signature.site] = signature

    def quorum(self) -> Quorum:
        """R5: return the signatures so far. Raises TooFewSites below the threshold."""
        chosen = self._fixed()
        if len(self._signatures) < self._spec.threshold:
            raise TooFewSites(
                f"{len(self._signatures)} sites signed the survivor set; "
                f"{self._spec.threshold} must. Start another attempt"
            )
        ordered = tuple(self._signatures[site] for site in sorted(self._signatures))
        return Quorum(chosen.context, digest(chosen), ordered)

    def add_shares(self, shares: Shares) -> None:
        """R6: take in a survivor's recovery shares. Raises SharesRejected when they do not fit."""
        chosen = self._fixed()
        site = shares.site
        if site not in chosen.sites:
            raise SharesRejected(f"{site} sent shares but is no survivor", site)
        if shares.context != chosen.context or shares.survivors != digest(chosen):
            raise SharesRejected(f"{site} sent shares for another survivor set", site)
        checks.check_site_signature(self._roster, shares, SharesRejected)
        dead = len(self.task.participants) - len(chosen.sites)
        expected = (len(chosen.sites), len(chosen.sites) * dead)
        if (len(shares.self_shares), len(shares.pair_shares)) != expected:
            raise SharesRejected(f"{site} sent another number of shares than U asks for", site)
        self._shares[site] = shares

    def open(self) -> Opened:
        """Recover every mask and take it off the sum.

        Bad shares are routed around as far as the commitments allow. Raises TooFewSites when
        fewer than t sites sent shares and SharesRejected when a secret does not open.
        """
        chosen = self._fixed()
        if self._opened is None:
            recovery = Recovery(self._spec, self.task, chosen, self._headers)
            masks = [mask.opposite() for mask in recovery.masks(self._shares)]
            aggregate = unmask(self._spec, self.task.clip, chosen.sites, self._sum, masks)
            name = vector_digest(self._sum)
            if aggregate is not None:
                aggregate = replace(aggregate, digest=name.hex())
            self._opened = Opened(self._sum, name, aggregate)
        return self._opened

    def opening(self) -> Opening:
        """R7: return the message that goes with the opened sum."""
        signatures = self.quorum().signatures
        return Opening(self.task, self._fixed(), signatures, self.open().digest)

    def _fixed(self) -> SurvivorSet:
        if self._survivors is None:
            raise OutOfOrder("the survivors of this attempt are not fixed yet")
        return self._survivors

    def _add_if_genuine(self, header: UploadHeader, vector: Ring) -> None:
        """Add and hash in one pass over the vector; take it off again if the hash is wrong."""
        first = not self._headers  # the sum is not initialised yet
        if accumulate(self._sum, vector, first) != header.vector:
            if not first:
                np.subtract(self._sum, vector, out=self._sum)
            raise UploadRejected(f"the vector of {header.site} was damaged", header.site)
