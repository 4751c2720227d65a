"""Known answers: the package and an independent implementation both give what the files say."""

import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from wardround.privacy.secagg import SignedRunSpec, Task, decode, keys, shamir
from wardround.privacy.secagg.masking import SegmentMask, Stream

FOLDER = Path(__file__).resolve().parents[2] / "vectors"
sys.path.insert(0, str(FOLDER))

import generate  # noqa: E402
import independent  # noqa: E402

SITES = generate.SITES


def cases(name: str) -> list[dict[str, str]]:
    blocks = (FOLDER / name).read_text(encoding="ascii").split("\n\n")[1:]
    return [dict(line.split(": ", 1) for line in block.strip().splitlines()) for block in blocks]


def test_the_generator_writes_the_very_files_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package still speaks the version of the wire format that the vectors pin."""
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    for make in (
        generate.streams,
        generate.shares,
        generate.dealt,
        generate.quantization,
        generate.rotation,
        generate.commitments,
        generate.rounds,
    ):
        make()
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(path.name for path in FOLDER.glob("*.txt"))
    for name in written:
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), name


def test_independent_aes_against_fips_197_and_sp_800_38a() -> None:
    key = bytes(range(32))
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert independent.aes256(key, block).hex() == "8ea2b7ca516745bfeafc49904b496089"
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    plain = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    expected = "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"  # F.5.5
    key_stream = b"".join(
        independent.aes256(key, (counter + k).to_bytes(16, "big")) for k in range(2)
    )
    mixed = bytes(a ^ b for a, b in zip(key_stream, bytes.fromhex(plain), strict=True))
    assert mixed.hex() == expected


def test_independent_x25519_and_hkdf_against_their_rfcs() -> None:
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert independent.x25519(scalar, point).hex() == expected
    assert independent.derive(b"secret", "purpose", b"c") == keys.derive(b"secret", "purpose", b"c")


@pytest.mark.parametrize("case", cases("stream.txt"))
def test_streams(case: dict[str, str]) -> None:
    key, segment, expected = bytes.fromhex(case["key"]), int(case["segment"]), case["expect"]
    assert independent.stream(key, 64, segment).hex() == expected
    for backend in ("gcm", "ctr"):
        chunk = np.zeros(16, dtype="<u4")
        SegmentMask([Stream(key)], segment, backend).apply(chunk)
        assert chunk.tobytes().hex() == expected


@pytest.mark.parametrize("case", cases("shamir.txt"))
def test_shares(case: dict[str, str]) -> None:
    points = [int(point) for point in case["points"].split()]
    shares = [bytes.fromhex(share) for share in case["shares"].split()]
    threshold, expected = int(case["threshold"]), bytes.fromhex(case["expect"])
    for chosen in (slice(threshold), slice(-threshold, None)):
        assert shamir.combine(points[chosen], shares[chosen]) == expected
        assert independent.combine(points[chosen], shares[chosen]) == expected


@pytest.mark.parametrize("case", cases("dealing.txt"))
def test_dealing(case: dict[str, str]) -> None:
    """Computed shares and sent ones lie on one polynomial through the secrets."""
    known = {name: bytes.fromhex(value) for name, value in case.items()}
    shares = {
        point: independent.dealt_share(
            known[f"{holder}.root"], known["context"], "cedar", holder, known["salt"], 2
        )
        for point, holder in ((4, "dogwood"), (5, "elder"))
    }
    for point, holder in ((1, "amber"), (2, "birch"), (3, "cedar")):
        points, sent = [4, 5, point], known[f"{holder}.share"]
        assert independent.combine(points, [shares[4], shares[5], sent]) == known["secrets"]


@pytest.mark.parametrize("case", cases("quantization.txt"))
def test_quantization(case: dict[str, str]) -> None:
    """The generator's run above pins the package; this pins the second implementation."""
    values = [struct.unpack("<f", bytes.fromhex(value))[0] for value in case["values"].split()]
    n, bits, weight, top = (int(case[k]) for k in ("sites", "bits", "weight", "max_weight"))
    got = [
        independent.quantize(value, n, bits, weight, top, float(case["clip"])) for value in values
    ]
    assert got == [int(q) for q in case["expect"].split()]


@pytest.mark.parametrize("case", cases("rotation.txt"))
def test_rotation(case: dict[str, str]) -> None:
    raw = bytes.fromhex(case["values"])
    n, weight, top = (int(case[k]) for k in ("sites", "weight", "max_weight"))
    got = independent.rotated(
        struct.unpack(f"<{len(raw) // 4}f", raw),
        *(n, weight, top, float(case["run_clip"]), float(case["clip"])),
    )
    assert got == [int(q) for q in case["expect"].split()]


@pytest.mark.parametrize("case", cases("commitments.txt"))
def test_commitments(case: dict[str, str]) -> None:
    names = [site.encode() for site in case["sites"].split()]
    secret, context = bytes.fromhex(case["secret"]), bytes.fromhex(case["context"])
    framed = independent.frame("commit-" + case["kind"], context, *names, secret)
    assert hashlib.sha256(framed).hexdigest() == case["expect"]


@pytest.mark.parametrize("case", cases("rounds.txt"))
def test_a_whole_round_from_its_secrets(case: dict[str, str]) -> None:
    """Each site's upload, and that they add up to what was opened, by the second hand."""
    bits, group_mode = int(case["bits"]), case["group_mode"] == "1"
    spec = decode(SignedRunSpec, bytes.fromhex(case["run"])).spec
    book, task = bytes.fromhex(case["book"]), bytes.fromhex(case["task"])
    context = independent.context_of(task)
    assert context == decode(Task, task).context
    private = {site: bytes.fromhex(case[f"{site}.private"]) for site in SITES}
    nine = (9).to_bytes(32, "little")
    public = {site: independent.x25519(key, nine) for site, key in private.items()}
    group_shares = b"".join(bytes.fromhex(case[f"{site}.group_share"]) for site in SITES)
    group_key = independent.derive(group_shares, "group-key", salt=book)
    clip = decode(Task, task).clip
    total = [0] * spec.vector_length
    for site in SITES:
        raw = bytes.fromhex(case[f"{site}.values"])
        counts = [int(count) for count in case[f"{site}.counts"].split()]
        vector = independent.masked_vector(
            site=site,
            sites=SITES,
            bits=bits,
            group_mode=group_mode,
            encoded=independent.rotated(
                struct.unpack(f"<{len(raw) // 4}f", raw),
                *(3, counts[0], spec.max_weight, spec.clip, clip),
            )
            if clip
            else [
                independent.quantize(value, 3, bits, counts[0], spec.max_weight, spec.clip)
                for value in struct.unpack(f"<{len(raw) // 4}f", raw)
            ],
            counts=counts,
            self_secret=bytes.fromhex(case[f"{site}.self_secret"]),
            pair_secrets={
                peer: independent.pair_secret(
                    private[site], public[peer], book, (site, peer), 2, context
                )
                for peer in SITES
                if peer != site
            },
            group_key=group_key,
            context=context,
        )
        form = f"<{len(vector)}{'I' if bits == 32 else 'H'}"
        assert struct.pack(form, *vector).hex() == case[f"{site}.expect"]
        self_mask = independent._numbers(
            bytes.fromhex(case[f"{site}.self_secret"]), len(vector), bits
        )
        total = [t + v - m for t, v, m in zip(total, vector, self_mask, strict=True)]
    opened = struct.pack(form, *(value % (1 << bits) for value in total))
    assert opened.hex() == case["opened"]
    weights = [int(case[f"{site}.counts"].split()[0]) for site in SITES]
    assert case["totals"] == f"{sum(weights)} {3 * (2**31 - 1) - 3}"
