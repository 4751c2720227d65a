"""Writes the known-answer vectors of the protected sum: python tests/vectors/generate.py

Randomness comes from SHA-256 of a counter instead of the operating system, so that running it
again gives the same files. A difference after a change of the package is a change of the wire
format: give it a new version label.
"""

import hashlib
import struct
from pathlib import Path
from unittest import mock

import numpy as np

from wardround.privacy.identity import Roster, SiteKeys
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import (
    Aggregator,
    Contribution,
    Participant,
    RunSpec,
    SignedRunSpec,
    digest,
    encode,
    keys,
    shamir,
)
from wardround.privacy.secagg.dealing import deal
from wardround.privacy.secagg.masking import SegmentMask, Stream
from wardround.privacy.secagg.quantization import Quantizer

FOLDER = Path(__file__).parent
SITES = ("amber", "birch", "cedar")


class Counted:
    """SHA-256 of a counter, in place of `secrets.token_bytes`; remembers what it gave out."""

    def __init__(self) -> None:
        self.count = 0
        self.given: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += hashlib.sha256(b"wardround test randomness %d" % self.count).digest()
            self.count += 1
        self.given.append(data[:size])
        return data[:size]


class FixedSigner:
    """An Ed25519 key from 32 known bytes: signatures are deterministic (RFC 8032)."""

    def __init__(self, seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())

    def public_bytes(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class Forgetful:
    """A store that keeps nothing."""

    def save(self, state: bytes) -> None:
        pass


def write(name: str, comment: str, cases: list[dict[str, str]]) -> None:
    blocks = ["\n".join(f"{key}: {value}" for key, value in case.items()) for case in cases]
    text = "\n".join(f"# {line}" for line in comment.splitlines())
    (FOLDER / name).write_text(text + "\n\n" + "\n\n".join(blocks) + "\n", encoding="ascii")


def streams() -> None:
    cases = []
    for key, segment in ((bytes(32), 0), (bytes(range(32)), 0), (bytes(range(32)), 5)):
        chunk = np.zeros(16, dtype="<u4")
        SegmentMask([Stream(key)], segment).apply(chunk)
        cases.append({"key": key.hex(), "segment": str(segment), "expect": chunk.tobytes().hex()})
    write("stream.txt", "First 64 bytes of a segment of a mask stream.", cases)


def shares() -> None:
    cases, random = [], Counted()
    for size, threshold, points in ((4, 1, (1,)), (32, 3, (1, 2, 3, 5)), (8, 5, range(1, 8))):
        secret = hashlib.sha256(bytes([size])).digest()[:size]
        at = [0, *points[: threshold - 1]]
        known = [secret, *(random(size) for _ in at[1:])]
        dealt = [shamir.interpolate(at, known, point) for point in points]
        cases.append(
            {
                "threshold": str(threshold),
                "points": " ".join(map(str, points)),
                "shares": " ".join(share.hex() for share in dealt),
                "expect": secret.hex(),
            }
        )
    write("shamir.txt", "Any `threshold` of the shares give the secret (expect).", cases)


def dealt() -> None:
    """Two secrets of the third of five sites, dealt with threshold three."""
    names = ("amber", "birch", "cedar", "dogwood", "elder")
    points = {name: k for k, name in enumerate(names, start=1)}
    roots = {name: hashlib.sha256(name.encode()).digest() for name in names if name != "cedar"}
    content = [hashlib.sha256(b"secret %d" % k).digest() for k in range(2)]
    context, salt = hashlib.sha256(b"context").digest(), hashlib.sha256(b"salt").digest()
    own, boxes = deal(content, 3, points, "cedar", roots, context, salt)
    case = {"context": context.hex(), "salt": salt.hex(), "secrets": b"".join(content).hex()}
    case |= {f"{name}.root": root.hex() for name, root in roots.items()}
    case["cedar.share"] = own.hex()
    for name, box in boxes.items():
        case[f"{name}.share"] = keys.unseal(roots[name], context, "cedar", name, box).hex()
    write(
        "dealing.txt",
        "cedar deals two secrets to five sites, threshold 3: dogwood and elder compute theirs.",
        [case],
    )


def quantization() -> None:
    cases = []
    values = [0.0, 1.0, -1.0, 0.1, -0.1, 1e-9, 0.75, -3e38, 3e38, 0.50000006, 1.17549435e-38]
    for n, bits, weight, top, clip in (
        (3, 32, 100, 100, 1.0),
        (8, 32, 100, 100, 0.1),
        (50, 32, 1, 7, 0.3),
        (10, 16, 33, 100, 1.0),
        (50, 16, 16777215, 16777215, 0.01),
        (3, 16, 0, 100, 1.0),
    ):
        spec = RunSpec(
            "vectors", bytes(32), bytes(32), tuple(f"site-{k:02}" for k in range(n)),
            n // 2 + 1, 0, max(3, n // 2 + 1), 1, (TensorLayout("x", (len(values),)),),
            clip, top, (), bits,
        )  # fmt: skip
        out = np.empty(spec.encoded_length, np.int32 if bits == 32 else np.int16)
        Quantizer(spec, None, np.asarray(values, np.float32), weight).encode(0, out)
        cases.append(
            {
                "sites": str(n),
                "bits": str(bits),
                "weight": str(weight),
                "max_weight": str(top),
                "clip": repr(clip),
                "values": " ".join(struct.pack("<f", value).hex() for value in values),
                "expect": " ".join(str(int(q)) for q in out[: len(values)]),
            }
        )
    write("quantization.txt", "float32 (hex, little-endian) to ring integers.", cases)


def rotation() -> None:
    """Dyadic values and scales: every sum is exact, so that no order of summation shows."""
    cases = []
    for n, dimension, weight, clip in ((3, 300, 64, 10922 / 2**17), (10, 700, 128, 3276 / 2**22)):
        spec = RunSpec(
            "vectors", bytes(32), bytes(32), tuple(f"site-{k:02}" for k in range(n)),
            n // 2 + 1, 0, max(3, n // 2 + 1), 1, (TensorLayout("x", (dimension,)),),
            0.25, 128, (), 16,
        )  # fmt: skip
        noise = b"".join(hashlib.sha256(b"%d" % k).digest() for k in range(dimension))
        values = np.frombuffer(noise, "i1")[:dimension].astype(np.float32) / 2**14
        values[::50] *= 64  # heavy tails; some beyond the run's clip
        out = np.empty(spec.encoded_length, np.int16)
        Quantizer(spec, clip, values, weight).encode(0, out)
        cases.append(
            {
                "sites": str(n),
                "weight": str(weight),
                "max_weight": "128",
                "run_clip": "0.25",
                "clip": repr(clip),
                "values": values.tobytes().hex(),
                "expect": " ".join(str(int(q)) for q in out),
            }
        )
    write("rotation.txt", "float32 to integers of the ring of 2^16 under a task's clip.", cases)


def rounds() -> None:
    cases = [_round(bits, group_mode) for bits in (32, 16) for group_mode in (False, True)]
    write(
        "rounds.txt",
        "Round 2 of a run of three sites: all secrets of each, and the vector it must upload.\n"
        "run and task are encodings; mean is float32, little-endian.",
        cases,
    )


def _round(bits: int, group_mode: bool) -> dict[str, str]:
    signers = {site: FixedSigner(site.encode()) for site in SITES}
    coordinator = FixedSigner(b"coordinator")
    roster = Roster(
        tuple(
            SiteKeys(site, signers[site].public_bytes(), bytes([k + 1]) * 32, bytes([k + 1]) * 97)
            for k, site in enumerate(SITES)
        )
    )
    spec = RunSpec(
        "vectors", bytes(range(32)), bytes.fromhex(roster.digest()), SITES, 3, 1, 3, 5,
        (TensorLayout("a", (2, 3)), TensorLayout("b", (2,))), 0.5, 1000, ("correct",),
        bits, group_mode,
    )  # fmt: skip
    signed = SignedRunSpec.sign(spec, coordinator)
    case = {"bits": str(bits), "group_mode": str(int(group_mode)), "run": encode(signed).hex()}
    random = Counted()
    with mock.patch("secrets.token_bytes", random):
        aggregator = Aggregator(signed, roster, coordinator)
        sites = {}
        for site in SITES:
            sites[site] = Participant(
                signed, site, signers[site], roster, coordinator.public_bytes(), Forgetful()
            )
            aggregator.add_advert(sites[site].advertise())
            case[f"{site}.private"], case[f"{site}.group_share"] = (
                value.hex() for value in random.given[-2:]
            )
        book = aggregator.key_book()
        for site in SITES:
            aggregator.add_ack(sites[site].accept_book(book))
        for site in SITES:
            sites[site].confirm(aggregator.confirmation(site))
        clip = 0.25 if bits == 16 else None
        task = aggregator.task(2, 1, SITES, hashlib.sha256(b"model").digest(), clip)
        case["book"], case["task"] = digest(book).hex(), encode(task).hex()
        for k, site in enumerate(SITES):
            values = np.asarray([(k + 1) * (j - 3.5) / 17 for j in range(8)], np.float32)
            weight, counter = 100 * (k + 1), 2**31 - 1 - k
            at = len(random.given)
            upload, vector = sites[site].begin_round(
                task, task.model, Contribution(values, weight, (counter,))
            )
            aggregator.add(upload, vector)
            case[f"{site}.self_secret"] = random.given[at].hex()
            case[f"{site}.values"] = values.tobytes().hex()
            case[f"{site}.counts"] = f"{weight} {counter}"
            case[f"{site}.expect"] = vector.tobytes().hex()
        for site in aggregator.survivors():
            message = aggregator.survivors_for(site)
            aggregator.add_signature(sites[site].accept_survivors(message))
        for site in SITES:
            aggregator.add_shares(sites[site].release_shares(aggregator.quorum()))
        opening, total = aggregator.opening(), aggregator.opened()
        aggregate = sites[SITES[0]].accept_aggregate(opening, total)
    case["opened"] = total.tobytes().hex()
    case["digest"] = aggregate.digest
    case["mean"] = aggregate.mean.tobytes().hex()
    case["totals"] = f"{aggregate.weight} {aggregate.counters['correct']}"
    return case


def commitments() -> None:
    secret, context = bytes(range(32)), bytes(32)
    cases = [
        {"kind": kind, "sites": " ".join(sites), "secret": secret.hex(), "context": context.hex(),
         "expect": keys.commit(kind, context, secret, *sites).hex()}
        for kind, sites in (
            ("self-mask", ("amber",)),
            ("pair-secret", ("amber", "birch")),
            ("group-share", ("cedar",)),
        )
    ]  # fmt: skip
    write("commitments.txt", "Commitments to secrets.", cases)


if __name__ == "__main__":
    streams()
    shares()
    dealt()
    quantization()
    rotation()
    commitments()
    rounds()
