"""A site's pass over its update: check, encode, authenticate, mask, digest; and the way back.

One pass, chunk by chunk, so that a chunk is read from memory once; segments run on all cores.
The masked vector is  [update | limbs of weight and counters | limbs of the tags].
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wardround.privacy.errors import AggregateRejected
from wardround.privacy.secagg.authentication import Authenticator, tags_of
from wardround.privacy.secagg.keys import derive, stream_key
from wardround.privacy.secagg.masking import SegmentMask, Stream, apply_streams, expand
from wardround.privacy.secagg.parameters import TAG_BITS, TAGS, RunSpec
from wardround.privacy.secagg.quantization import (
    Aggregate,
    Contribution,
    Decoder,
    Quantizer,
    count_coordinates,
    decode_counts,
    from_limbs,
    to_limbs,
)
from wardround.privacy.secagg.segments import (
    Ring,
    aligned,
    chunks,
    for_each,
    join_digests,
    ring_type,
    segments,
    signed_view,
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
    clip: float | None,
    site: str,
    contribution: Contribution,
    streams: Sequence[Stream],
    group: GroupKeys,
) -> tuple[Ring, bytes]:
    """Return the masked vector of a site and its digest.

    `clip` is the task's bound, None for the run's; `streams` are the site's self mask and pair
    masks; the group mask is added here. Raises
    ContributionInvalid when the update does not fit the run or is not finite.
    """
    contribution.check(spec)
    if spec.group_mode:
        streams = (*streams, Stream(group.mask(site)))
    kind = ring_type(spec.ring_bits)
    vector: Ring = aligned(spec.vector_length, kind)
    signed = signed_view(vector)
    signed[spec.encoded_length : spec.plain_length] = count_coordinates(spec, contribution)
    signed[spec.plain_length :] = 0
    quantizer = Quantizer(spec, clip, contribution.values, contribution.weight)
    authenticator = group.authenticator(spec)
    parts = segments(len(vector), vector.itemsize)
    hashers = [hashlib.sha256() for _ in parts]

    def work(index: int) -> None:
        mask = SegmentMask(streams, index)
        for start, stop in chunks(*parts[index]):
            if start < spec.encoded_length:
                quantizer.encode(start, signed[start : min(stop, spec.encoded_length)])
            authenticator.inner(start, signed[start:stop])
            mask.apply(vector[start:stop])
            if stop <= spec.plain_length:  # the tags are still to come behind it
                hashers[index].update(vector[start:stop].data)

    for_each(len(parts), work)
    limbs = [
        limb
        for tag in authenticator.tags()
        for limb in to_limbs(tag, spec.limb_bits, spec.tag_limbs)
    ]
    vector[spec.plain_length :] += np.asarray(limbs, dtype=kind) + group.tag_pad(spec, site)
    for hasher, part in zip(hashers, parts, strict=True):
        for start, stop in chunks(*part):
            if stop > spec.plain_length:
                hasher.update(vector[start:stop].data)
    digests = [hasher.digest() for hasher in hashers]
    return vector, join_digests(digests, len(vector), vector.itemsize)


def unprotect(
    spec: RunSpec,
    clip: float | None,
    survivors: Sequence[str],
    opened: Ring,
    group: GroupKeys,
) -> Aggregate:
    """Return the aggregate from the sum the coordinator opened, as a site that holds G reads it.

    Strips the group masks (in group mode) and the pads of the tags, and checks the MAC. The digest
    of the aggregate is left empty. Raises AggregateRejected when the sum is not what the survivors
    protected.
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
    if tags_of(group.key, group.context, signed_view(total)) != claimed:
        raise AggregateRejected("the aggregate is not the sum that the sites protected")
    weight, counters = _counts(spec, total)
    decoder = Decoder(spec, clip, weight)
    parts = segments(len(total), total.itemsize)
    for_each(len(parts), lambda index: _decode_segment(decoder, total, *parts[index]))
    return Aggregate(decoder.mean, weight, counters, tuple(survivors), "")


def unmask(
    spec: RunSpec,
    clip: float | None,
    survivors: Sequence[str],
    total: Ring,
    masks: Sequence[Stream],
) -> Aggregate | None:
    """Take `masks` off `total` in place; in plain mode decode it in the same pass.

    What remains in group mode is the sum under the group masks, and None is returned. The digest
    of the aggregate is left empty.

    The counts at the end of the vector say how to scale, so their segments come first.
    """
    if spec.group_mode:
        apply_streams(total, masks)
        return None
    parts = segments(len(total), total.itemsize)

    def open_segment(index: int, decoder: Decoder | None = None) -> None:
        mask = SegmentMask(masks, index)
        for start, stop in chunks(*parts[index]):
            mask.apply(total[start:stop])
            if decoder is not None:
                decoder.decode(signed_view(total[start:stop]), start)

    last = next(index for index, (_, stop) in enumerate(parts) if stop > spec.encoded_length)
    for index in range(last, len(parts)):
        open_segment(index)
    weight, counters = _counts(spec, total)
    decoder = Decoder(spec, clip, weight)
    for_each(last, lambda index: open_segment(index, decoder))
    for index in range(last, len(parts)):
        _decode_segment(decoder, total, *parts[index])
    return Aggregate(decoder.mean, weight, counters, tuple(survivors), "")


def _counts(spec: RunSpec, total: Ring) -> tuple[int, dict[str, int]]:
    return decode_counts(spec, total[spec.encoded_length : spec.plain_length].tolist())


def _decode_segment(decoder: Decoder, total: Ring, start: int, stop: int) -> None:
    for low, high in chunks(start, stop):
        decoder.decode(signed_view(total[low:high]), low)
