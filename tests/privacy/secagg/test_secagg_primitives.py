"""Shares, streams, encodings and tags, each alone: known answers, properties, boundaries."""

import math
import secrets
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_federation import run_spec

from wardround.privacy.errors import (
    ContributionInvalid,
    KeysRejected,
    ParametersInvalid,
    SharesRejected,
    TaskRejected,
)
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import Aggregate, Contribution, keys, next_clip, shamir
from wardround.privacy.secagg.authentication import tags_of
from wardround.privacy.secagg.checks import derived_holders, sealed_holders
from wardround.privacy.secagg.dealing import deal, derived_share
from wardround.privacy.secagg.masking import SegmentMask, Stream, apply_streams, fastest_backend
from wardround.privacy.secagg.parameters import TAG_BITS
from wardround.privacy.secagg.protection import GroupKeys, protect
from wardround.privacy.secagg.quantization import (
    Decoder,
    Quantizer,
    check_clip,
    from_limbs,
    to_limbs,
)
from wardround.privacy.secagg.rotation import GAIN, ROWS, rotate_back
from wardround.privacy.secagg.segments import (
    CHUNK,
    SEGMENT_BYTES,
    WORKSPACE,
    Ring,
    segments,
    vector_digest,
)

# Parameters


@pytest.mark.parametrize(
    ("n", "colluders", "threshold"), [(3, 0, 3), (5, 1, 4), (10, 3, 7), (50, 16, 34)]
)
def test_smallest_threshold_of_the_design(n: int, colluders: int, threshold: int) -> None:
    spec, _ = run_spec(n, colluders=colluders)
    # 2t > n + c; with n = 3 the minimum cohort asks for all three sites.
    assert max(spec.threshold, spec.min_cohort) == threshold


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 2, "min_cohort": 3}, None),
        ({"threshold": 1}, "threshold must be 2..3"),
        ({"threshold": 4, "min_cohort": 3}, "threshold"),
        ({"colluders": 2, "threshold": 3, "min_cohort": 3}, "colluders must be 0..1"),
        ({"colluders": 1, "threshold": 2}, "threshold must be 3..3"),
        ({"min_cohort": 2}, "min_cohort must be 3..3"),
        ({"clip": 0.0}, "clip"),
        ({"clip": float("inf")}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"clip": 1e-30}, "clip"),
        ({"ring_bits": 64}, "ring_bits"),
        ({"counters": ("a", "a")}, "counters"),
        ({"layout": (TensorLayout("a", (0,)),)}, "numbers"),
        ({"layout": (TensorLayout("a", (1,)), TensorLayout("a", (1,)))}, "tensor names"),
        ({"participants": ("b", "a", "c")}, "order"),
        ({"participants": ("a", "b"), "threshold": 2}, "3 to 50"),
    ],
)
def test_bounds_of_a_run_spec(changes: dict[str, object], message: str | None) -> None:
    if message is None:
        run_spec(3, **changes)
        return
    with pytest.raises(ParametersInvalid, match=message):
        run_spec(3, **changes)


# Shamir


def dealt(secret: bytes, threshold: int, points: list[int]) -> list[bytes]:
    """Shares at `points`: random ones at the first t - 1, the others as they must be."""
    known = {0: secret} | {point: secrets.token_bytes(len(secret)) for point in points}
    at = [0, *points[: threshold - 1]]
    given = [known[point] for point in at]
    return given[1:] + [shamir.interpolate(at, given, point) for point in points[threshold - 1 :]]


def share_all(
    content: list[bytes],
    threshold: int,
    points: dict[str, int],
    dealer: str,
    roots: dict[str, bytes],
) -> dict[str, bytes]:
    """What every participant ends up with when `dealer` deals."""
    own, boxes = deal(content, threshold, points, dealer, roots, b"ctx", b"salt")
    assert set(boxes) == set(sealed_holders(tuple(points), dealer, threshold))
    held = {dealer: own}
    for site in derived_holders(tuple(points), dealer, threshold):
        held[site] = derived_share(roots[site], b"ctx", dealer, site, b"salt", len(content))
    for site, box in boxes.items():
        held[site] = keys.unseal(roots[site], b"ctx", dealer, site, box)
    return held


@settings(max_examples=40)
@given(n=st.integers(3, 12), data=st.data())
def test_any_threshold_of_holders_open_what_was_dealt(n: int, data: st.DataObject) -> None:
    """Whether they computed their shares, were sent them, or dealt them."""
    names = [f"site-{k:02}" for k in range(n)]
    points = dict(zip(names, data.draw(st.permutations(range(1, n + 1))), strict=True))
    threshold, dealer = data.draw(st.integers(2, n)), data.draw(st.sampled_from(names))
    roots = {name: name.encode().ljust(32) for name in names if name != dealer}
    content = [secrets.token_bytes(32) for _ in range(n)]
    held = share_all(content, threshold, points, dealer, roots)
    assert sorted(held) == names
    chosen = data.draw(st.permutations(names))[:threshold]
    secret = shamir.combine([points[site] for site in chosen], [held[site] for site in chosen])
    assert secret == b"".join(content)


@pytest.mark.parametrize(
    "change", [("root", b"r" * 31 + b"x"), ("context", b"d"), ("dealer", "z"), ("holder", "z"),
               ("salt", b"t")]
)  # fmt: skip
def test_derived_shares_depend_on_everything_they_name(change: tuple[str, Any]) -> None:
    given: dict[str, Any] = {
        "root": b"r" * 32, "context": b"c", "dealer": "a", "holder": "b", "salt": b"s",
        "secrets": 2,
    }  # fmt: skip
    assert derived_share(**given) == derived_share(**given)
    assert derived_share(**given) != derived_share(**{**given, change[0]: change[1]})


@given(
    secret=st.binary(min_size=1, max_size=64),
    threshold=st.integers(1, 20),
    data=st.data(),
)
def test_any_threshold_of_shares_gives_the_secret_back(
    secret: bytes, threshold: int, data: st.DataObject
) -> None:
    points = data.draw(st.lists(st.integers(1, 255), min_size=threshold, max_size=30, unique=True))
    shares = dict(zip(points, dealt(secret, threshold, points), strict=True))
    chosen = data.draw(st.permutations(points))[:threshold]
    assert shamir.combine(chosen, [shares[p] for p in chosen]) == secret


def test_fewer_shares_are_uniform_whatever_the_secret() -> None:
    """For each of two shares of threshold three, every value of a byte turns up alike.

    Whether peers compute them or they are sent: b and c compute theirs, d and e are sent them.
    """
    roots = {site: bytes([k]) * 32 for k, site in enumerate("bcde", start=1)}
    points = {site: k for k, site in enumerate("abcde", start=1)}
    held = share_all([bytes(32)] * 640, 3, points, "a", roots)
    for chosen in (("b", "c"), ("b", "d"), ("d", "e"), ("a", "e")):
        _look_uniform([held[site] for site in chosen])


def _look_uniform(shares: list[bytes]) -> None:
    for share in shares:
        counts = np.bincount(np.frombuffer(share, np.uint8), minlength=256)
        assert (counts - 80.0).std() < 12  # Poisson: 8.9
    joint = np.frombuffer(shares[0], np.uint8) ^ np.frombuffer(shares[1], np.uint8)
    assert np.bincount(joint, minlength=256).max() < 140


@given(threshold=st.integers(2, 12), spare=st.integers(0, 3), extra=st.booleans(), data=st.data())
@settings(max_examples=40)
def test_decode_finds_as_many_wrong_shares_as_can_be_found(
    threshold: int, spare: int, extra: bool, data: st.DataObject
) -> None:
    points = list(range(1, threshold + 2 * spare + 1 + extra))
    shares = dealt(bytes(range(8)), threshold, points)
    wrong = data.draw(st.sets(st.sampled_from(points), min_size=spare, max_size=spare))
    for point in wrong:
        shares[point - 1] = bytes(b ^ data.draw(st.integers(1, 255)) for b in shares[point - 1])
    assert shamir.decode(points, shares, threshold) == wrong


def test_decode_refuses_when_too_many_shares_are_wrong() -> None:
    points = list(range(1, 8))
    shares = dealt(bytes(32), 5, points)
    for index in (0, 1, 2):
        shares[index] = bytes(b ^ 0x5A ^ index for b in shares[index])
    with pytest.raises(SharesRejected):
        shamir.decode(points, shares, 5)


# Mask streams


@pytest.mark.parametrize("backend", ["gcm", "ctr"])
def test_stream_starts_as_gcm_test_case_14_says(backend: str) -> None:
    """McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14: all zeros."""
    chunk = np.zeros(4, dtype="<u4")
    SegmentMask([Stream(bytes(32))], 0, backend).apply(chunk)
    assert chunk.tobytes().hex() == "cea7403d4d606b6e074ec5d3baf39d18"


def test_both_backends_give_the_same_segments() -> None:
    for segment in (0, 1, 2**32 + 5):
        results = []
        for backend in ("gcm", "ctr"):
            chunks = np.zeros((3, CHUNK), dtype="<u4")
            mask = SegmentMask([Stream(bytes(range(32)))], segment, backend)
            for chunk in chunks:
                mask.apply(chunk)
            results.append(chunks.tobytes())
        assert results[0] == results[1]
    assert fastest_backend() in ("gcm", "ctr")


@pytest.mark.parametrize("dtype", ["<u4", "<u2"])
def test_opposite_streams_cancel_over_segment_borders(dtype: str) -> None:
    length = SEGMENT_BYTES // np.dtype(dtype).itemsize + 12345
    vector = np.arange(length).astype(dtype)
    streams = [Stream(b"a" * 32), Stream(b"b" * 32, -1)]
    apply_streams(vector, streams)
    assert (vector != np.arange(length).astype(dtype)).mean() > 0.99
    apply_streams(vector, [stream.opposite() for stream in streams])
    assert np.array_equal(vector, np.arange(length).astype(dtype))


def test_segments_have_different_streams() -> None:
    vector = np.zeros(SEGMENT_BYTES // 2, dtype="<u4")
    apply_streams(vector, [Stream(b"k" * 32)])
    first, second = vector.reshape(2, -1)
    assert not np.array_equal(first, second)


def test_vector_digest_tells_lengths_widths_and_places_apart() -> None:
    base = np.zeros(SEGMENT_BYTES // 4 + 4, dtype="<u4")
    seen = {vector_digest(base), vector_digest(base[:-1]), vector_digest(base.view("<u2"))}
    for place in (0, -1):
        changed = base.copy()
        changed[place] = 1
        seen.add(vector_digest(changed))
    assert len(seen) == 5
    assert segments(len(base), 4) == [(0, 524288), (524288, 524292)]


def test_a_stream_does_not_show_its_key() -> None:
    assert "kkkk" not in repr(Stream(b"k" * 32))


# Keys


def test_pair_roots_agree_and_move_forward_one_way() -> None:
    a, b = keys.fresh_key_pair(), keys.fresh_key_pair()
    book = bytes(32)
    root = keys.pair_root(a[0], b[1], book, "a", "b")
    assert root == keys.pair_root(b[0], a[1], book, "b", "a")
    assert root != keys.pair_root(b[0], a[1], b"\1" * 32, "b", "a")
    assert keys.advance(keys.advance(root, 2), 3) == keys.advance(root, 5) != root


def test_a_key_of_low_order_is_refused() -> None:
    """RFC 7748, section 6.1: an all-zero shared secret must be checked for."""
    with pytest.raises(KeysRejected, match="not a usable"):
        keys.pair_root(keys.fresh_secret(), bytes(32), bytes(32), "a", "b")


def test_a_box_opens_only_in_its_direction_and_context() -> None:
    root = keys.fresh_secret()
    box = keys.seal(root, b"ctx", "a", "b", b"content")
    assert keys.unseal(root, b"ctx", "a", "b", box) == b"content"
    for context, sender, recipient in ((b"ctx", "b", "a"), (b"other", "a", "b")):
        with pytest.raises(KeysRejected):
            keys.unseal(root, context, sender, recipient, box)
    with pytest.raises(KeysRejected):
        keys.unseal(root, b"ctx", "a", "b", b"")


# Encoding


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("n", [3, 8, 50])
@pytest.mark.parametrize("sign", [1, -1])
def test_n_full_scale_coordinates_do_not_wrap(n: int, bits: int, sign: int) -> None:
    """Rounding the bound up in float32 would make n of them pass 2^(bits-1)."""
    spec, _ = run_spec(n, ring_bits=bits, clip=0.1)
    kind = np.int32 if bits == 32 else np.int16
    encoded = np.empty(spec.dimension, dtype=kind)
    values = np.full(spec.dimension, sign * 3e38, dtype=np.float32)
    Quantizer(spec, None, values, spec.max_weight).encode(0, encoded)
    total = n * int(encoded[0])
    assert -(2 ** (bits - 1)) < total < 2 ** (bits - 1)
    assert abs(total) > 0.99 * 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("clip", [1e-28, 1e30])
def test_the_scale_of_every_clip_that_a_run_may_have_is_finite(clip: float, bits: int) -> None:
    """An infinite one would make the lowest integer of a zero."""
    spec, _ = run_spec(3, ring_bits=bits, clip=clip)
    check_clip(spec, clip)
    encoded = np.empty(spec.encoded_length, np.int32 if bits == 32 else np.int16)
    values = np.zeros(spec.dimension, np.float32)
    values[0] = clip
    Quantizer(spec, None, values, spec.max_weight).encode(0, encoded)
    assert encoded[0] == pytest.approx(spec.largest_value, rel=1e-6)
    assert not encoded[1:].any()


@pytest.mark.parametrize("n", [3, 8, 50])
def test_the_boundary_test_would_catch_a_bound_rounded_up(n: int) -> None:
    spec, _ = run_spec(n)
    up = np.nextafter(np.float32(spec.largest_value), np.float32(np.inf))
    assert n * int(up) > 2**31 - 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 39])
@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_nan_and_infinity_are_refused(
    bad: float, place: int, bits: int, clip: float | None
) -> None:
    spec, _ = run_spec(3, ring_bits=bits)
    kind = np.int32 if bits == 32 else np.int16
    values = np.zeros(spec.dimension, np.float32)
    values[place] = bad
    with pytest.raises(ContributionInvalid, match="NaN or infinity"):
        Quantizer(spec, clip, values, 1).encode(0, np.empty(spec.encoded_length, kind))


@pytest.mark.parametrize(
    "contribution",
    [
        Contribution(np.zeros(39, np.float32), 1, (0, 0)),
        Contribution(np.zeros(40, np.float64), 1, (0, 0)),
        Contribution(np.zeros(40, np.float32), 101, (0, 0)),
        Contribution(np.zeros(40, np.float32), -1, (0, 0)),
        Contribution(np.zeros(40, np.float32), 1, (0,)),
        Contribution(np.zeros(40, np.float32), 1, (0, 2**31)),
        Contribution(np.zeros(40, np.float32), 1, (0, -1)),
    ],
)
def test_contributions_that_do_not_fit_are_refused(contribution: Contribution) -> None:
    spec, _ = run_spec(3)
    with pytest.raises(ContributionInvalid):
        contribution.check(spec)


@given(
    value=st.floats(-1, 1, width=32),
    weight=st.integers(1, 100),
    bits=st.sampled_from([16, 32]),
)
def test_one_coordinate_comes_back_within_half_a_unit(value: float, weight: int, bits: int) -> None:
    spec, _ = run_spec(3, ring_bits=bits, layout=(TensorLayout("x", (1,)),))
    encoded = np.empty(1, np.int32 if bits == 32 else np.int16)
    Quantizer(spec, None, np.asarray([value], np.float32), weight).encode(0, encoded)
    decoder = Decoder(spec, None, weight)
    decoder.decode(encoded, 0)
    unit = spec.max_weight / (spec.largest_value * weight)
    assert abs(float(decoder.mean[0]) - value) <= 0.5 * unit + 3e-7


@given(value=st.integers(0, 2**96 - 1), bits=st.integers(9, 29))
def test_limbs_give_the_integer_back(value: int, bits: int) -> None:
    assert from_limbs(to_limbs(value, bits, -(-96 // bits)), bits) == value


def test_the_clip_of_a_task_is_bounded_by_the_run() -> None:
    spec, _ = run_spec(3)
    for clip in (None, 1.0, 0.001):
        check_clip(spec, clip)
    for clip in (1.0001, 0.0, -0.5, 1e-30):
        with pytest.raises(TaskRejected):
            check_clip(spec, clip)


@pytest.mark.parametrize("clip", [1e-18, 0.003, 0.1])
@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("n", [3, 8, 50])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), weight=st.integers(0, 100))
def test_no_clip_and_no_update_lets_a_sum_wrap(
    n: int, bits: int, clip: float, seed: int, weight: int
) -> None:
    """Updates that put everything into one rotated coordinate are the worst: rows of the matrix."""
    generator = np.random.default_rng(seed)
    spec, _ = run_spec(n, ring_bits=bits, clip=0.1, layout=(TensorLayout("x", (512,)),))
    tile = WORKSPACE.floats[:512].reshape(ROWS, -1)
    tile[:] = 0
    tile[generator.integers(ROWS)] = generator.choice([-3e38, 1e-3, 1.0, 3e38])
    rotate_back(tile)
    values = np.nan_to_num(tile.reshape(-1).copy(), posinf=3e38, neginf=-3e38)
    encoded = np.empty(512, np.int32 if bits == 32 else np.int16)
    Quantizer(spec, clip, values, weight).encode(0, encoded)
    assert n * int(np.abs(encoded.astype(np.int64)).max()) < 2 ** (bits - 1)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    dimension=st.sampled_from([1, 7, 255, 256, 257, 3000, 65536, 70_001]),
    weight=st.integers(1, 100),
)
def test_a_rotated_update_comes_back_within_its_rounding(
    seed: int, dimension: int, weight: int
) -> None:
    spec, _ = run_spec(3, ring_bits=16, clip=100.0, layout=(TensorLayout("x", (dimension,)),))
    values = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    clip = 8.0 * weight / spec.max_weight
    encoded = np.empty(spec.encoded_length, np.int16)
    quantizer, decoder = Quantizer(spec, clip, values, weight), Decoder(spec, clip, weight)
    for start in range(0, spec.encoded_length, 65536):
        quantizer.encode(start, encoded[start : start + 65536])
        decoder.decode(encoded[start : start + 65536], start)
    unit = 8.0 / spec.largest_value
    error = np.linalg.norm(decoder.mean - values)
    assert error <= 0.5 * unit * math.sqrt(spec.encoded_length) + 1e-6 * np.linalg.norm(values)


def test_a_rotation_there_and_back_is_exact_for_integers() -> None:
    generator = np.random.default_rng(1)
    integers = generator.integers(-(2**15), 2**15, 512).astype(np.float32)
    tile = WORKSPACE.floats[:512].reshape(ROWS, -1)
    tile[:] = integers.reshape(tile.shape)
    rotate_back(tile)
    signs = np.array([[1, 1], [1, -1]], dtype=np.int64)
    hadamard = np.ones((1, 1), dtype=np.int64)
    for _ in range(8):
        hadamard = np.kron(hadamard, signs)
    digits = [(np.arange(ROWS) >> k) & 1 for k in range(8)]
    bent = 1 - 2 * ((digits[0] & digits[1]) ^ (digits[2] & digits[3]) ^ (digits[4] & digits[5])
                    ^ (digits[6] & digits[7]))  # fmt: skip
    expected = (hadamard * bent).T @ integers.reshape(ROWS, -1).astype(np.int64)
    np.testing.assert_array_equal(tile, expected)
    assert np.abs((hadamard * bent).sum(axis=1)).max() == GAIN  # a constant update stays flat


def _aggregate(mean: np.ndarray[Any, Any], weight: int, sites: int = 3) -> Aggregate:
    names = tuple(f"site-{k}" for k in range(sites))
    return Aggregate(mean.astype(np.float32), weight, {}, names, "")


def test_the_next_clip_follows_size_and_weight_of_the_last_mean() -> None:
    spec, _ = run_spec(3, ring_bits=16)
    mean = np.full(spec.dimension, -0.01)
    assert next_clip(spec, _aggregate(mean, 300)) == pytest.approx(0.16)
    assert next_clip(spec, _aggregate(mean, 3)) == pytest.approx(0.0016)
    assert next_clip(spec, _aggregate(mean * 50, 300)) == spec.clip
    tiny = next_clip(spec, _aggregate(mean * 1e-20, 300))
    check_clip(spec, tiny)
    for nothing in (_aggregate(mean, 0), _aggregate(mean * 0, 300)):
        assert next_clip(spec, nothing) is None
    wide, _ = run_spec(3, ring_bits=32)
    assert next_clip(wide, _aggregate(mean, 300)) is None


# Aggregate MAC


@given(st.integers(0, 2**32), st.integers(1, 3000), st.sampled_from(["<i4", "<i2"]))
@settings(max_examples=30)
def test_tags_of_sites_add_up_to_the_tag_of_their_sum(seed: int, length: int, kind: str) -> None:
    generator = np.random.default_rng(seed)
    top = np.iinfo(kind).max // 5
    vectors = generator.integers(-top, top, (5, length)).astype(kind)
    tags = [tags_of(b"g" * 32, b"ctx", vector) for vector in vectors]
    expected = tuple(sum(tag) % 2**TAG_BITS for tag in zip(*tags, strict=True))
    assert tags_of(b"g" * 32, b"ctx", vectors.sum(axis=0).astype(kind)) == expected


def test_tags_equal_the_definition_at_the_extremes() -> None:
    """Full-scale coordinates: the float64 sums must still be exact."""
    for value in (2**31 - 1, -(2**31)):
        vector = np.full(1000, value, np.int32)
        half = np.full(1000, value // 2, np.int32)
        rest = vector - half
        one = tags_of(b"k" * 32, b"c", vector)
        parts = tags_of(b"k" * 32, b"c", half), tags_of(b"k" * 32, b"c", rest)
        assert one == tuple((a + b) % 2**TAG_BITS for a, b in zip(*parts, strict=True))


@given(st.integers(0, 999), st.integers(-(2**31), 2**31 - 1).filter(bool))
def test_any_change_of_one_coordinate_changes_every_tag(place: int, delta: int) -> None:
    """Each tag alone misses a change with probability 2^-14; all four never did."""
    vector = np.zeros(1000, np.int32)
    before = tags_of(b"k" * 32, b"c", vector)
    vector[place] = delta
    assert tags_of(b"k" * 32, b"c", vector) != before


# Uploads


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_an_upload_holds_no_memory_that_was_not_written(
    bits: int, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a site's fresh memory holds (another patient's data, say) is not uploaded."""
    spec, _ = run_spec(3, ring_bits=bits, layout=(TensorLayout("x", (CHUNK + 300,)),))
    values = np.full(spec.dimension, 0.25, np.float32)
    contribution = Contribution(values, 1, (0,) * len(spec.counters))
    uploads = set()
    for old in (0, 0x5A):

        def memory(length: int, dtype: "np.dtype[Any]", old: int = old) -> Ring:
            return np.full(length * dtype.itemsize, old, np.uint8).view(dtype)

        monkeypatch.setattr("wardround.privacy.secagg.protection.aligned", memory)
        group = GroupKeys(b"g" * 32, b"c" * 32)
        vector, _ = protect(spec, clip, spec.participants[0], contribution, (), group)
        uploads.add(vector.tobytes())
    assert len(uploads) == 1
