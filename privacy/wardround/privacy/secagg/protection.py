"""A site's pass over its update: check, encode, authenticate, mask, digest; and the way back.

One pass, chunk by chunk, so that a chunk is read from memory once; segments run on all cores.
The masked vector is  [update | limbs of weight and counters | limbs of the tags].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wardround.privacy.errors import AggregateRejected
from wardround.privacy.secagg.authentication import Authenticator, tags_of
from wardround.privacy.secagg.keys import derive, stream_key
from wardround.privacy.secagg.masking import SegmentMask, Stream, apply_streams, expand
from wardround.privacy.secagg.messages import Task
from wardround.privacy.secagg.parameters import TAG_BITS, TAGS, RunSpec
from wardround.privacy.secagg.quantization import (
    Aggregate,
    Contribution,
    Quantizer,
    count_coordinates,
    decode_counts,
    decode_mean,
    from_limbs,
    to_limbs,
)
from wardround.privacy.secagg.segments import (
    CHUNK_BYTES,
    SEGMENT_BYTES,
    Ring,
    chunks,
    for_each,
    join_digests,
    ring_type,
    segment_digest,
    segments,
    vector_digest,
)


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """What G, the key all sites share and the coordinator lacks, yields in one context."""

    key: bytes = field(repr=False)
    context: bytes

    def mask(self, site: str) -> bytes:
        """Return the stream key of a site's group mask: over the whole vector, in group mode."""
        return stream_key(derive(self.key, "group-mask", self.context, site.encode()))

    def tag_pad(self, spec: RunSpec, site: str) -> Ring:
        """Return the pad of a site's tag coordinates (in every mode: a MAC's one-time pad)."""
        key = stream_key(derive(self.key, "tag-pad", self.context, site.encode()))
        return expand(key, TAGS * spec.tag_limbs, ring_type(spec.ring_bits))

    def authenticator(self, spec: RunSpec) -> Authenticator:
        """Return the MAC of this context over vectors of this run."""
        return Authenticator(self.key, self.context, spec.vector_length)


def protect(
    spec: RunSpec,
    task: Task,
    site: str,
    contribution: Contribution,
    streams: Sequence[Stream],
    group: GroupKeys,
) -> tuple[Ring, bytes]:
    """Return the masked vector of a site and its digest.

    `streams` are its self mask and pair masks; the group mask is added here. Raises
    ContributionInvalid when the update does not fit the run or is not finite.
    """
    contribution.check(spec)
    if spec.group_mode:
        streams = (*streams, Stream(group.mask(site)))
    kind = ring_type(spec.ring_bits)
    vector: Ring = np.zeros(spec.vector_length, dtype=kind)
    signed = vector.view(np.int32 if spec.ring_bits == 32 else np.int16)
    signed[spec.dimension : spec.plain_length] = count_coordinates(spec, contribution)
    quantizer = Quantizer(spec, task.clips, contribution.weight)
    authenticator = group.authenticator(spec)
    parts = segments(len(vector), vector.itemsize)
    digests = [b""] * len(parts)
    first_tag_segment = spec.plain_length // (SEGMENT_BYTES // vector.itemsize)

    def work(index: int) -> None:
        mask = SegmentMask(streams, index)
        size = CHUNK_BYTES // vector.itemsize
        floats, doubles = np.empty(size, np.float32), np.empty(size, np.float64)
        for start, stop in chunks(*parts[index], vector.itemsize):
            values = contribution.values[start:stop]  # shorter, or empty, behind the update
            if len(values):
                quantizer.encode(values, start, signed[start : start + len(values)], floats)
            authenticator.inner(start, signed[start:stop], doubles)
            mask.apply(vector[start:stop])
        if index < first_tag_segment:
            digests[index] = segment_digest(vector, *parts[index])

    for_each(len(parts), work)
    limbs = [
        limb
        for tag in authenticator.tags()
        for limb in to_limbs(tag, spec.limb_bits, spec.tag_limbs)
    ]
    vector[spec.plain_length :] += np.asarray(limbs, dtype=kind) + group.tag_pad(spec, site)
    for index in range(first_tag_segment, len(parts)):
        digests[index] = segment_digest(vector, *parts[index])
    return vector, join_digests(digests, len(vector), vector.itemsize)


def unprotect(
    spec: RunSpec, task: Task, survivors: Sequence[str], opened: Ring, group: GroupKeys
) -> Aggregate:
    """Return the aggregate from the sum the coordinator opened, as a site that holds G reads it.

    Strips the group masks (in group mode) and the pads of the tags, and checks the MAC. Raises
    AggregateRejected when the sum is not what the survivors protected.
    """
    total = opened.copy()
    if spec.group_mode:
        apply_streams(total, [Stream(group.mask(site), -1) for site in survivors])
    tags = total[spec.plain_length :]
    for site in survivors:
        tags -= group.tag_pad(spec, site)
    width, size = spec.limb_bits, spec.tag_limbs
    claimed = tuple(
        from_limbs(tags[at : at + size].tolist(), width) % 2**TAG_BITS
        for at in range(0, TAGS * size, size)
    )
    tags[:] = 0
    signed = total.view(np.int32 if spec.ring_bits == 32 else np.int16)
    if tags_of(group.key, group.context, signed) != claimed:
        raise AggregateRejected("the aggregate is not the sum that the sites protected")
    return decode(spec, task, survivors, total, vector_digest(opened))


def decode(
    spec: RunSpec, task: Task, survivors: Sequence[str], total: Ring, digest: bytes
) -> Aggregate:
    """Return the aggregate from a sum that wears no mask over update and counts."""
    signed = total.view(np.int32 if spec.ring_bits == 32 else np.int16)
    counts = total[spec.dimension : spec.plain_length].tolist()
    weight, counters = decode_counts(spec, counts)
    mean = decode_mean(spec, task.clips, signed[: spec.dimension], weight)
    return Aggregate(mean, weight, counters, tuple(survivors), digest.hex())
