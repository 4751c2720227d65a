"""What a run is made of: participants, thresholds, layout and encoding, signed by the coordinator.

The bounds, and why each of them (n participants, c sites that may work with the coordinator):

    2t > n + c        two quorums of t sites share more than c sites, so at least one honest one;
                      an honest site signs one survivor set, so only one set is ever opened
    t <= n            n = 3 gives t = 3: no drop-out can be survived
    min_cohort >= 3, t, c + 2
                      besides the c colluders a sum holds at least two honest updates
"""

import re
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from wardround.privacy.errors import (
    KeysRejected,
    ParametersInvalid,
    SignatureInvalid,
)
from wardround.privacy.identity import SITE_NAME, Signer, verify_signature
from wardround.privacy.model import TensorLayout, dimension
from wardround.privacy.secagg.codec import Limit, signed_bytes
from wardround.privacy.secagg.rotation import rotated_length

MAX_SITES = 50
MAX_DIMENSION = 200_000_000
MAX_ROUNDS = 10_000
MAX_WEIGHT = 2**31 - 1
MAX_COUNTER = 2**31 - 1
MAX_COUNTERS = 64
COUNT_BITS = 31
TAGS, TAG_BITS = 4, 96
SECRET = 32
SMALLEST_CLIP = 1e-28  # the scale of an update, below 2^31 / clip, stays within float32

Digest: TypeAlias = Annotated[bytes, Limit(32, 32)]
Signature: TypeAlias = Annotated[bytes, Limit(64, 64)]
Site: TypeAlias = Annotated[str, Limit(1, 32, SITE_NAME)]
Name: TypeAlias = Annotated[str, Limit(1, 64, re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]*"))]


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything the parties of a run agree on before it starts. Building one checks it.

    `study` and `roster` are the SHA-256 of the signed study plan and of the roster; `clip` bounds
    each coordinate of an update (a task may bring a smaller bound); `max_weight` bounds a
    site's sample count (1 to 2^31 - 1); `counters` names non-negative integers below 2^31 that
    are summed exactly beside the update; `ring_bits` is 32 or 16. Raises ParametersInvalid.
    """

    run: Name
    study: Digest
    roster: Digest
    participants: Annotated[tuple[Site, ...], Limit(1, MAX_SITES)]
    threshold: Annotated[int, Limit(1, MAX_SITES)]
    colluders: Annotated[int, Limit(0, MAX_SITES)]
    min_cohort: Annotated[int, Limit(1, MAX_SITES)]
    rounds: Annotated[int, Limit(1, MAX_ROUNDS)]
    layout: Annotated[tuple[TensorLayout, ...], Limit(1, 100_000)]
    clip: float
    max_weight: Annotated[int, Limit(1, MAX_WEIGHT)]
    counters: Annotated[tuple[Name, ...], Limit(0, MAX_COUNTERS)] = ()
    ring_bits: int = 32
    group_mode: bool = False

    def __post_init__(self) -> None:
        n, t, c = len(self.participants), self.threshold, self.colluders
        smallest = max(3, t, c + 2)
        rules = (
            (3 <= n <= MAX_SITES, f"a run has 3 to {MAX_SITES} participants, not {n}"),
            (
                list(self.participants) == sorted(set(self.participants)),
                "participants must be in order of name, each once",
            ),
            (0 <= c <= n - 2, f"colluders must be 0..{n - 2}, not {c}"),
            (2 * t > n + c and t <= n, f"threshold must be {(n + c) // 2 + 1}..{n}, not {t}"),
            (
                smallest <= self.min_cohort <= n,
                f"min_cohort must be {smallest}..{n}, not {self.min_cohort}",
            ),
            (1 <= self.rounds <= MAX_ROUNDS, f"rounds must be 1..{MAX_ROUNDS}"),
            (
                1 <= self.dimension <= MAX_DIMENSION,
                f"an update must hold 1..{MAX_DIMENSION} numbers, not {self.dimension}",
            ),
            (
                len({tensor.name for tensor in self.layout}) == len(self.layout)
                and all(size >= 0 for tensor in self.layout for size in tensor.shape),
                "tensor names must differ and shapes be non-negative",
            ),
            (
                SMALLEST_CLIP <= self.clip <= 1e30,
                f"clip must be {SMALLEST_CLIP} to 1e30",
            ),
            (1 <= self.max_weight <= MAX_WEIGHT, f"max_weight must be 1..{MAX_WEIGHT}"),
            (
                len(set(self.counters)) == len(self.counters) <= MAX_COUNTERS,
                f"counters must be at most {MAX_COUNTERS} different names",
            ),
            (self.ring_bits in (16, 32), "ring_bits must be 16 or 32"),
        )
        for holds, message in rules:
            if not holds:
                raise ParametersInvalid(message)

    @property
    def dimension(self) -> int:
        """How many numbers an update holds (D)."""
        return dimension(self.layout)

    @property
    def smallest_cohort(self) -> int:
        """The fewest sites whose sum may open: max(min_cohort, threshold)."""
        return max(self.min_cohort, self.threshold)

    @property
    def largest_value(self) -> int:
        """The largest |q| of one encoded coordinate: n of them stay below 2^(ring_bits - 1)."""
        return ((1 << (self.ring_bits - 1)) - 1) // len(self.participants)

    @property
    def limb_bits(self) -> int:
        """Bits of a limb such that n limbs add up below 2^(ring_bits - 1)."""
        return self.ring_bits - 1 - (len(self.participants) - 1).bit_length()

    @property
    def count_limbs(self) -> int:
        """Coordinates that hold the weight or one counter (31 bits)."""
        return -(-COUNT_BITS // self.limb_bits)

    @property
    def tag_limbs(self) -> int:
        """Coordinates that hold one authentication tag (96 bits)."""
        return -(-TAG_BITS // self.limb_bits)

    @property
    def encoded_length(self) -> int:
        """Coordinates of an encoded update: in a ring of 2^16, D rounded up to whole columns."""
        return self.dimension if self.ring_bits == 32 else rotated_length(self.dimension)

    @property
    def plain_length(self) -> int:
        """Coordinates that the aggregate MAC covers: update, weight and counters."""
        return self.encoded_length + self.count_limbs * (1 + len(self.counters))

    @property
    def vector_length(self) -> int:
        """Coordinates of a masked vector: the covered ones, then the tags."""
        return self.plain_length + TAGS * self.tag_limbs


@dataclass(frozen=True, slots=True)
class SignedRunSpec:
    """M0: the RunSpec with the coordinator's signature."""

    spec: RunSpec
    signature: Signature

    @classmethod
    def sign(cls, spec: RunSpec, signer: Signer) -> "SignedRunSpec":
        """Sign `spec` with the coordinator's key."""
        unsigned = cls(spec, bytes(64))
        return cls(spec, signer.sign(signed_bytes(unsigned)))

    def verify(self, coordinator_public: bytes) -> None:
        """Raise KeysRejected unless the coordinator's pinned key signed this spec."""
        try:
            verify_signature(coordinator_public, self.signature, signed_bytes(self))
        except SignatureInvalid:
            raise KeysRejected(
                "the run spec is not signed by the coordinator this site pinned"
            ) from None
