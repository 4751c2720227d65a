"""Shares, streams, encodings and tags, each alone: known answers, properties, boundaries."""

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
from wardround.privacy.secagg import Contribution, adaptive_clips, keys, shamir
from wardround.privacy.secagg.authentication import tags_of
from wardround.privacy.secagg.masking import SegmentMask, Stream, apply_streams, fastest_backend
from wardround.privacy.secagg.parameters import TAG_BITS
from wardround.privacy.secagg.quantization import (
    Decoder,
    Quantizer,
    check_clips,
    from_limbs,
    to_limbs,
)
from wardround.privacy.secagg.segments import (
    CHUNK_BYTES,
    SEGMENT_BYTES,
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


@given(
    secret=st.binary(min_size=1, max_size=64),
    threshold=st.integers(1, 20),
    data=st.data(),
)
def test_any_threshold_of_shares_gives_the_secret_back(
    secret: bytes, threshold: int, data: st.DataObject
) -> None:
    points = data.draw(st.lists(st.integers(1, 255), min_size=threshold, max_size=30, unique=True))
    shares = dict(zip(points, shamir.share(secret, threshold, points), strict=True))
    chosen = data.draw(st.permutations(points))[:threshold]
    assert shamir.combine(chosen, [shares[p] for p in chosen]) == secret


def test_fewer_shares_are_uniform_whatever_the_secret() -> None:
    """For each of two shares of threshold three, every value of a byte turns up alike."""
    shares = shamir.share(bytes(20_000), 3, [1, 2])
    for share in shares:
        counts = np.bincount(np.frombuffer(share, np.uint8), minlength=256)
        assert (counts - 78.1).std() < 12  # Poisson: 8.8
    joint = np.frombuffer(shares[0], np.uint8) ^ np.frombuffer(shares[1], np.uint8)
    assert np.bincount(joint, minlength=256).max() < 140


@given(threshold=st.integers(2, 12), spare=st.integers(0, 3), extra=st.booleans(), data=st.data())
@settings(max_examples=40)
def test_decode_finds_as_many_wrong_shares_as_can_be_found(
    threshold: int, spare: int, extra: bool, data: st.DataObject
) -> None:
    points = list(range(1, threshold + 2 * spare + 1 + extra))
    shares = shamir.share(bytes(range(8)), threshold, points)
    wrong = data.draw(st.sets(st.sampled_from(points), min_size=spare, max_size=spare))
    for point in wrong:
        shares[point - 1] = bytes(b ^ data.draw(st.integers(1, 255)) for b in shares[point - 1])
    assert shamir.decode(points, shares, threshold) == wrong


def test_decode_refuses_when_too_many_shares_are_wrong() -> None:
    points = list(range(1, 8))
    shares = shamir.share(bytes(32), 5, points)
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
            chunks = np.zeros((3, CHUNK_BYTES // 4), dtype="<u4")
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
    Quantizer(spec, (), spec.max_weight).encode(values, 0, encoded)
    total = n * int(encoded[0])
    assert -(2 ** (bits - 1)) < total < 2 ** (bits - 1)
    assert abs(total) > 0.99 * 2 ** (bits - 1)


@pytest.mark.parametrize("n", [3, 8, 50])
def test_the_boundary_test_would_catch_a_bound_rounded_up(n: int) -> None:
    spec, _ = run_spec(n)
    up = np.nextafter(np.float32(spec.largest_value), np.float32(np.inf))
    assert n * int(up) > 2**31 - 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 39])
def test_nan_and_infinity_are_refused(bad: float, place: int) -> None:
    spec, _ = run_spec(3)
    values = np.zeros(spec.dimension, np.float32)
    values[place] = bad
    with pytest.raises(ContributionInvalid, match="NaN or infinity"):
        Quantizer(spec, (), 1).encode(values, 0, np.empty(spec.dimension, np.int32))


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
    Quantizer(spec, (), weight).encode(np.asarray([value], np.float32), 0, encoded)
    decoder = Decoder(spec, (), weight)
    decoder.decode(encoded, 0)
    unit = spec.max_weight / (spec.largest_value * weight)
    assert abs(float(decoder.mean[0]) - value) <= 0.5 * unit + 3e-7


@given(value=st.integers(0, 2**96 - 1), bits=st.integers(9, 29))
def test_limbs_give_the_integer_back(value: int, bits: int) -> None:
    assert from_limbs(to_limbs(value, bits, -(-96 // bits)), bits) == value


def test_clips_of_a_task_are_bounded_by_the_run() -> None:
    spec, _ = run_spec(3)
    check_clips(spec, ())
    check_clips(spec, (1.0, 0.001))
    for clips in ((1.0,), (1.0, 1.0001), (1.0, 0.0), (1.0, 1e-30)):
        with pytest.raises(TaskRejected):
            check_clips(spec, clips)


def test_adaptive_clips_follow_each_tensor_and_stay_in_bounds() -> None:
    spec, _ = run_spec(3)
    mean = np.zeros(spec.dimension, np.float32)
    mean[3], mean[36] = -0.01, 0.9
    weight, bias = adaptive_clips(spec, mean)
    assert weight == pytest.approx(0.06)
    assert bias == 1.0
    check_clips(spec, adaptive_clips(spec, np.zeros(spec.dimension, np.float32)))


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
