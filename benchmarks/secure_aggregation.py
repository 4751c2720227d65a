"""What the protected sum costs, beside plaintext averaging, Flower's SecAgg+ and CKKS.

    python benchmarks/secure_aggregation.py [--quick]

All times are processor time of this process in nanoseconds per parameter; every candidate of a
table runs in turn, several times over, and the least time of each counts. Only ratios within one
run carry over to another machine. Processor times are of one thread (two hardware threads of one
core slow each other down, which would be counted twice); what a second core brings is a row of its
own, in time of the clock. `Flower` is the faster of its two plaintext aggregations.

A `floor` is what the primitives alone take, measured in the same run: the AES streams, SHA-256 of
what a site sends, one read of what comes in and the first write of what goes out. `with NumPy` adds
what NumPy takes for the rest on data that never leaves the cache: adding the masks, encoding, MAC,
decoding. Arranging these calls differently comes no lower, so a floor beside a goal says whether
the goal can be met with them.
"""

import argparse
import contextlib
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.server.strategy.aggregate import aggregate as flower_aggregate
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from model_deltas import KINDS, model_deltas
from results import record

from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import (
    Aggregate,
    Aggregator,
    Contribution,
    Participant,
    RunSpec,
    SignedRunSpec,
    encode,
    next_clip,
    ring_type,
    segments,
)
from wardround.privacy.secagg.authentication import Authenticator
from wardround.privacy.secagg.masking import (
    SegmentMask,
    Stream,
    apply_streams,
    fastest_backend,
)
from wardround.privacy.secagg.protection import GroupKeys, protect, unmask, unprotect
from wardround.privacy.secagg.quantization import Decoder, Quantizer
from wardround.privacy.secagg.segments import CHUNK, SEGMENT_BYTES

SECTION = "secure aggregation"
MOD = 1 << 32
IN_CACHE = 128  # chunks
PRIMITIVES = {
    "read": "one read from memory",
    "fresh": "one first write to memory",
    "sha": "in cache: one SHA-256",
    "add": "in cache: adding one mask",
    "encode 32": "in cache: encoding, 32 bits",
    "encode 16": "in cache: encoding, 16 bits",
    "mac 32": "in cache: MAC, 32 bits",
    "mac 16": "in cache: MAC, 16 bits",
    "decode 32": "in cache: decoding, 32 bits",
}
CHUNK_BYTES = 4 * CHUNK
ZEROS = segments.aligned(CHUNK_BYTES, np.uint8).data
ZEROS[:] = bytes(CHUNK_BYTES)
BUFFER = segments.aligned(CHUNK_BYTES + 16, np.uint8).data


@dataclass(frozen=True)
class Row:
    """One line of the table and of results.json."""

    name: str
    value: float
    unit: str
    compared_to: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None

    def line(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}x {self.compared_to}"
        met = {None: "", True: "met", False: "NOT met"}[self.met]
        value = f"{self.value:.3g}" if self.value < 1000 else f"{self.value:.0f}"
        return f"{self.name[:34]:34} {value:>7} {self.unit:8} {ratio:17.17} {self.goal:6} {met}"


def least(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least processor seconds of each candidate, all of them in turn `repeats` times."""
    best = dict.fromkeys(candidates, math.inf)
    for _ in range(repeats):
        for name, work in candidates.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


def spec_of(dimension: int, sites: int, bits: int, group_mode: bool) -> RunSpec:
    names = tuple(f"site-{k:02}" for k in range(sites))
    threshold = sites // 2 + 1
    return RunSpec(
        "bench", bytes(32), bytes(32), names, threshold, 0, max(3, threshold), 10,
        (TensorLayout("w", (dimension,)),), 1.0, 1000, (), bits, group_mode,
    )  # fmt: skip


def raw_stream(streams: list[Stream], size: int) -> None:
    """Only make the key stream of every mask, with the same calls, and drop it."""
    for segment, start in enumerate(range(0, size, SEGMENT_BYTES)):
        mask = SegmentMask(streams, segment)
        for _ in range(start, min(start + SEGMENT_BYTES, size), CHUNK_BYTES):
            for encryptor, _ in mask._encryptors:
                encryptor.update_into(ZEROS, BUFFER)


def primitives(update: np.ndarray, clip: float) -> dict[str, Callable[[], object]]:
    """What no protected sum does without, as PRIMITIVES names it.

    `read` takes its vector from memory and `fresh` writes to memory new to the process; the others
    work on one chunk that stays in cache, IN_CACHE times.
    """
    chunk, other = (segments.aligned(CHUNK, ring_type(32)) for _ in range(2))
    chunk[:], other[:] = 1, 2
    narrow = segments.signed_view(chunk.view(ring_type(16))[:CHUNK])
    specs = {bits: spec_of(CHUNK, 10, bits, False) for bits in (32, 16)}
    wide, values = segments.signed_view(chunk), update[:CHUNK].copy()
    authenticator = Authenticator(b"g" * 32, b"c" * 32, CHUNK)
    quantizers = {bits: Quantizer(spec, clip, values, 10) for bits, spec in specs.items()}
    decoder, hasher = Decoder(specs[32], clip, 100), hashlib.sha256()

    def repeated(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: [work() for _ in range(IN_CACHE)]

    in_cache: dict[str, Callable[[], object]] = {
        "sha": lambda: hasher.update(chunk.data),
        "add": lambda: np.add(chunk, other, out=chunk),
        "encode 32": lambda: quantizers[32].encode(0, wide),
        "encode 16": lambda: quantizers[16].encode(0, narrow),
        "mac 32": lambda: authenticator.inner(0, wide),
        "mac 16": lambda: authenticator.inner(0, narrow),
        "decode 32": lambda: decoder.decode(wide, 0),
    }
    return {
        "read": update.max,
        "fresh": lambda: segments.aligned(len(update), np.float32).fill(0),
        **{name: repeated(work) for name, work in in_cache.items()},
    }


def bare_site(spec: RunSpec, update: np.ndarray, streams: list[Stream]) -> np.ndarray:
    """What SecAgg+ does at a site and no more: check, quantise, self mask and pair masks."""
    vector = segments.aligned(spec.encoded_length, ring_type(spec.ring_bits))
    signed = segments.signed_view(vector)
    quantizer = Quantizer(spec, 0.16, update, 10)
    for index, part in enumerate(segments.segments(len(vector), vector.itemsize)):
        mask = SegmentMask(streams, index)
        for start, stop in segments.chunks(*part):
            quantizer.encode(start, signed[start:stop])
            mask.apply(vector[start:stop])
    return vector


def chunked_fedavg(updates: list[np.ndarray], weights: list[int]) -> np.ndarray:
    """Plaintext weighted mean, chunk by chunk in cache: what NumPy can do at best."""
    total, result = sum(weights), np.empty_like(updates[0])
    scratch = np.empty(32768, dtype=np.float32)
    for at in range(0, len(result), 32768):
        out = result[at : at + 32768]
        np.multiply(updates[0][at : at + 32768], np.float32(weights[0] / total), out=out)
        for update, weight in zip(updates[1:], weights[1:], strict=True):
            part = scratch[: len(out)]
            np.multiply(update[at : at + 32768], np.float32(weight / total), out=part)
            np.add(out, part, out=out)
    return result


def secagg_plus_site(update: np.ndarray, sites: int) -> list[Any]:
    """Flower's client step with its primitives: weigh, quantise, self mask, n - 1 pair masks."""
    shapes = [(1,), update.shape]
    vector = factor_combine(10, quantize(parameters_multiply([update], 0.01), 8.0, 1 << 22))
    vector = parameters_addition(vector, pseudo_rand_gen(b"s" * 32, MOD, shapes))
    for k in range(sites - 1):
        mask = pseudo_rand_gen(bytes([k + 1]) * 4 + b"x" * 28, MOD, shapes)
        add = parameters_addition if k % 2 else parameters_subtraction
        vector = add(vector, mask)
    return parameters_mod(vector, MOD)


def secagg_plus_server(masked: list[np.ndarray]) -> list[Any]:
    """Flower's server step: sum, take the self masks off, dequantise."""
    total = parameters_mod(reduce(parameters_addition, [[vector] for vector in masked]), MOD)
    for k in range(len(masked)):
        mask = pseudo_rand_gen(bytes([k + 1]) * 4 + b"y" * 28, MOD, [masked[0].shape])
        total = parameters_subtraction(total, mask)
    return dequantize(parameters_mod(total, MOD), 8.0, 1 << 22)


def ckks_site(update: np.ndarray) -> Callable[[], bytes]:
    """Encrypt and serialise as NVFlare's HE filter does (its provisioned parameters)."""
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40]
    )
    context.global_scale = 2**40

    def work() -> bytes:
        with quiet():  # it warns of what cannot be done with several ciphertexts
            data: bytes = tenseal.ckks_vector(context, update.astype(np.float64)).serialize()
        return data

    return work


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send the process's standard output nowhere, native code included."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
        sys.stdout.flush()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def table(dimension: int, sites: int, repeats: int) -> list[Row]:
    """Everything at one size: this protocol's steps and what they are compared with."""
    generator = np.random.default_rng(0)
    updates = [
        generator.standard_normal(dimension, dtype=np.float32) * np.float32(0.01)
        for _ in range(sites)
    ]
    weights = [10] * sites
    names = tuple(f"site-{k:02}" for k in range(sites))
    clip = 0.16  # as a task brings it from the second round on: 16 bits are rotated
    streams = [Stream(bytes([k]) * 32, 1 if k % 2 else -1) for k in range(sites)]
    group = GroupKeys(b"g" * 32, b"c" * 32)
    contribution = Contribution(updates[0], 10)
    wide, narrow = spec_of(dimension, sites, 32, True), spec_of(dimension, sites, 16, True)
    plain = {bits: spec_of(dimension, sites, bits, False) for bits in (32, 16)}
    masked = {
        32: [
            generator.integers(0, MOD, plain[32].vector_length, dtype=ring_type(32))
            for _ in range(sites)
        ]
    }  # the 16-bit ones share that memory: page faults of a full machine would be measured
    masked[16] = [v.view(ring_type(16))[: plain[16].vector_length] for v in masked[32]]
    records = [
        RecordDict({"a": ArrayRecord([update]), "m": MetricRecord({"num-examples": 10})})
        for update in updates
    ]
    blank = segments.aligned(dimension, ring_type(32))
    blank[:] = 0

    def coordinator(bits: int) -> Aggregate | None:
        total = segments.aligned(plain[bits].vector_length, ring_type(bits))
        np.copyto(total, masked[bits][0])
        for vector in masked[bits][1:]:
            np.add(total, vector, out=total)
        return unmask(plain[bits], clip, names, total, streams)

    def whole_coordinator() -> bytes:
        total = segments.aligned(plain[32].vector_length, ring_type(32))
        for index, vector in enumerate(masked[32]):
            segments.accumulate(total, vector, index == 0)
        unmask(plain[32], clip, names, total, streams)
        return segments.vector_digest(total)

    quick: dict[str, Callable[[], object]] = {
        "fedavg": lambda: chunked_fedavg(updates, weights),
        "flower": lambda: flower_aggregate([([u], 10) for u in updates]),
        "flower records": lambda: aggregate_arrayrecords(records, "num-examples"),
        "raw": lambda: raw_stream(streams, 4 * dimension),
        "masks": lambda: apply_streams(blank, streams),
        "site 32": lambda: protect(wide, clip, names[0], contribution, streams, group),
        "site 16": lambda: protect(narrow, clip, names[0], contribution, streams, group),
        "bare 32": lambda: bare_site(wide, updates[0], streams),
        "bare 16": lambda: bare_site(narrow, updates[0], streams),
        "coordinator 32": lambda: coordinator(32),
        "coordinator 16": lambda: coordinator(16),
        "coordinator, all": whole_coordinator,
        "digest": lambda: segments.vector_digest(blank),
        **primitives(updates[0], clip),
    }
    vector, _ = protect(wide, clip, names[0], contribution, streams, group)
    apply_streams(vector, [stream.opposite() for stream in streams])
    quick["strip"] = lambda: (
        segments.vector_digest(vector),
        unprotect(wide, clip, names[:1], vector, group),
    )
    seconds = least(quick, repeats)
    slow: dict[str, Callable[[], object]] = {
        "secagg+ site": lambda: secagg_plus_site(updates[0], sites),
        "secagg+ server": lambda: secagg_plus_server([m.astype(np.int64) for m in masked[32]]),
    }
    if dimension <= 1_000_000:
        try:
            slow["ckks site"] = ckks_site(updates[0])
        except ImportError:
            print("TenSEAL is not installed (pip install tenseal): no row for CKKS")
    seconds |= least(slow, 4)
    counts = {name: IN_CACHE * CHUNK for name in PRIMITIVES if name not in ("read", "fresh")}
    ns = {name: t / counts.get(name, dimension) * 1e9 for name, t in seconds.items()}
    return _rows(dimension, sites, ns)


def _floors(ns: Mapping[str, float], ours: str, sites: int) -> tuple[float, float]:
    """Return the least nanoseconds of a step with these primitives: without and with NumPy's."""
    kind, bits = ours.split()
    width, masks = int(bits) / 32, sites + (kind == "site")  # a site's own has the group mask
    floor = width * masks * ns["raw"] / sites
    rest = width * masks * ns["add"]
    if kind == "coordinator":
        floor += sites * ns["read"] + 2 * width * ns["fresh"]  # the sum and the mean
        rest += ns[f"decode {bits}"]
    else:
        floor += ns["read"] + width * ns["fresh"]
        rest += ns[f"encode {bits}"]
    if kind == "site":
        floor += width * ns["sha"]
        rest += ns[f"mac {bits}"]
    return floor, floor + rest


def _rows(dimension: int, sites: int, ns: dict[str, float]) -> list[Row]:
    flower = min(ns["flower"], ns["flower records"])
    big, ten = dimension >= 10_000_000, sites == 10
    tag = f"{dimension // 1_000_000}M/{sites} "

    def row(name: str, key: str, base: float = 0.0, to: str = "", most: float | None = None) -> Row:
        ratio = ns[key] / base if base else None
        met = ratio <= most if ratio and most and ten else None
        goal = "" if met is None else f"<={most:g}"
        return Row(tag + name, ns[key], "ns/param", to, ratio, goal, met)

    def gain(name: str, key: str, ours: str, most: float) -> Row:
        ratio = ns[key] / ns[ours]
        return Row(tag + name, ns[key], "ns/param", "ours", ratio, f">={most:g}", ratio >= most)

    def floors(name: str, ours: str, theirs: str, wanted: float) -> list[Row]:
        """Two floors beside a goal: as a ratio to Flower, or of SecAgg+ or CKKS to the floor."""
        rows = []
        for label, value in zip(("floor", "with NumPy"), _floors(ns, ours, sites), strict=True):
            ratio = value / flower if theirs == "flower" else ns[theirs] / value
            sign, other = ("<=", "Flower") if theirs == "flower" else (">=", "floor")
            goal = f"{sign}{wanted:g}"
            rows.append(Row(f"{tag}{name}: {label}", value, "ns/param", other, ratio, goal))
        return rows

    site_goal, coordinator_goal = (0.5, 0.4) if big else (1.2, 1.0)
    rows = [
        row("plaintext FedAvg, chunked", "fedavg", flower, "Flower"),
        row("Flower aggregate (lists)", "flower"),
        row("Flower aggregate (records)", "flower records"),
        row("raw AES of the masks", "raw"),
        row("masks alone", "masks", ns["raw"], "raw AES", 1.5),
        row("site, 32 bits", "site 32", flower, "Flower", site_goal),
        row("site, 16 bits", "site 16", flower, "Flower"),
        row("site, no MAC/digest/group, 32", "bare 32", flower, "Flower"),
        row("coordinator, 32 bits", "coordinator 32", flower, "Flower", coordinator_goal),
        row("same, to Flower's records", "coordinator 32", ns["flower records"], "records"),
        row("same, and all digests", "coordinator, all", flower, "Flower"),
        row("coordinator, 16 bits", "coordinator 16", flower, "Flower"),
        row("digest of one vector", "digest"),
        *(row(name, key) for key, name in PRIMITIVES.items()),
        row("site reads 1-site sum", "strip"),
    ]
    if ten:
        rows += [
            gain("SecAgg+ site (32)", "secagg+ site", "site 32", 10),
            gain("SecAgg+ site (16)", "secagg+ site", "site 16", 20),
            gain("SecAgg+ / bare site (32)", "secagg+ site", "bare 32", 10),
            gain("SecAgg+ / bare site (16)", "secagg+ site", "bare 16", 20),
            *floors("SecAgg+ (32)", "site 32", "secagg+ site", 10),
            *floors("SecAgg+ (16)", "site 16", "secagg+ site", 20),
            *floors("SecAgg+ / bare (16)", "bare 16", "secagg+ site", 20),
            *floors("site, 32", "site 32", "flower", site_goal),
            *floors("coordinator", "coordinator 32", "flower", coordinator_goal),
        ]
        if "ckks site" in ns:
            rows.append(gain("CKKS site (32)", "ckks site", "site 32", 200))
            rows.append(gain("CKKS / bare site (32)", "ckks site", "bare 32", 200))
            rows += floors("CKKS (32)", "site 32", "ckks site", 200)
            rows += floors("CKKS / bare (32)", "bare 32", "ckks site", 200)
    rows.append(row("SecAgg+ server", "secagg+ server", ns["coordinator 32"], "ours"))
    return rows


def both_cores(dimension: int, repeats: int) -> Row:
    """Wall-clock gain of a site's step over one thread (others' load on the machine counts)."""
    spec, sites = spec_of(dimension, 10, 32, True), 10
    streams = [Stream(bytes([k]) * 32) for k in range(sites)]
    contribution = Contribution(np.zeros(dimension, np.float32), 10)
    group = GroupKeys(b"g" * 32, b"c" * 32)
    cores, walls = segments._cores, {"one": math.inf, "all": math.inf}
    try:
        for _ in range(repeats):
            for name, count in (("one", lambda: 1), ("all", cores)):
                segments._cores = count
                start = time.perf_counter()
                protect(spec, None, "site-00", contribution, streams, group)
                walls[name] = min(walls[name], time.perf_counter() - start)
    finally:
        segments._cores = cores
    gain = walls["one"] / walls["all"]
    return Row(f"site on {cores()} cores, wall", walls["all"] * 1e3, "ms", "one core", gain)


def errors_in_16_bits(
    layout: list[TensorLayout], rounds: list[list[np.ndarray]], weights: list[int]
) -> list[float]:
    """Relative error of each round's mean, every bound from the sum before as in a real run."""
    spec = whole_spec(layout, len(weights))
    clip, total, errors = None, sum(weights), []
    for deltas in rounds:
        vector = np.zeros(spec.encoded_length, np.int16)
        encoded = np.empty_like(vector)
        for delta, weight in zip(deltas, weights, strict=True):
            quantizer = Quantizer(spec, clip, delta, weight)
            for start in range(0, len(vector), 65536):
                quantizer.encode(start, encoded[start : start + 65536])
            vector += encoded
        decoder = Decoder(spec, clip, total)
        for start in range(0, len(vector), 65536):
            decoder.decode(vector[start : start + 65536], start)
        aggregate = Aggregate(decoder.mean, total, {}, spec.participants, "")
        expected = np.average(np.asarray(deltas, np.float64), axis=0, weights=weights)
        errors.append(float(np.linalg.norm(aggregate.mean - expected) / np.linalg.norm(expected)))
        clip = next_clip(spec, aggregate)
    return errors


def whole_round(
    sites: int,
    layout: list[TensorLayout],
    updates: list[np.ndarray],
    bits: int,
    clip: float | None = None,
    dead: int = 0,
) -> tuple[Aggregate, int, int]:
    """One real round through every message: the aggregate, bytes of a vector, control bytes.

    The last `dead` sites get the task but do not upload.
    """
    signers = {f"site-{k:02}": FileSigner.generate() for k in range(sites)}
    coordinator = FileSigner.generate()
    roster = Roster(
        tuple(
            SiteKeys(
                name,
                signer.public_bytes(),
                hashlib.sha256(name.encode()).digest(),
                hashlib.sha512(name.encode()).digest(),
            )
            for name, signer in signers.items()
        )
    )
    threshold = sites // 2 + 1
    spec = SignedRunSpec.sign(
        RunSpec(
            "bench", bytes(32), bytes.fromhex(roster.digest()), tuple(signers), threshold, 0,
            max(3, threshold), 10, tuple(layout), 1.0, 100, ("correct", "evaluated"), bits,
        ),
        coordinator,
    )  # fmt: skip

    class Forgetful:
        def save(self, state: bytes) -> None:
            pass

    aggregator = Aggregator(spec, roster, coordinator)
    people = {
        name: Participant(spec, name, signer, roster, coordinator.public_bytes(), Forgetful())
        for name, signer in signers.items()
    }
    for person in people.values():
        aggregator.add_advert(person.advertise())
    for person in people.values():
        aggregator.add_ack(person.accept_book(aggregator.key_book()))
    for name, person in people.items():
        person.confirm(aggregator.confirmation(name))
    task = aggregator.task(1, 1, tuple(people), bytes(32), clip)
    sent, size = dict.fromkeys(people, 0), 0
    for (name, person), update in list(zip(people.items(), updates, strict=True))[: sites - dead]:
        upload, vector = person.begin_round(task, bytes(32), Contribution(update, 100, (1, 2)))
        aggregator.add(upload, vector)
        sent[name], size = len(encode(upload)), vector.nbytes
    for name in aggregator.survivors():
        signature = people[name].accept_survivors(aggregator.survivors_for(name))
        aggregator.add_signature(signature)
        sent[name] += len(encode(signature))
    for name in aggregator.survivors():
        shares = people[name].release_shares(aggregator.quorum())
        aggregator.add_shares(shares)
        sent[name] += len(encode(shares))
    return aggregator.result(), size, max(sent.values())


def sizes_and_errors() -> list[Row]:
    """Bytes up, control messages, and relative errors on deltas of networks that really train."""
    rows, ten = [], list(range(10, 110, 10))
    for kind in KINDS:
        layout, rounds = model_deltas(kind, 10, 6)
        for name, weights in (("", [100] * 10), (", uneven", ten)):
            first, *errors = errors_in_16_bits(layout, rounds, weights)
            worst, middle = max(errors), sorted(errors)[len(errors) // 2]
            rows += [
                Row(f"{kind}{name}: median round", middle, "relative", "", None,
                    "<=0.001", middle <= 1e-3),
                Row(f"{kind}{name}: worst round", worst, "relative", "median", worst / middle,
                    "<=0.001", worst <= 1e-3),
            ]  # fmt: skip
        rows.append(Row(f"{kind}: first round", first, "relative"))
    for bits, share_goal in ((32, 1.0), (16, 0.5)):
        aggregate, size, _ = whole_round(10, layout, rounds[-1], bits)
        expected = np.mean(np.asarray(rounds[-1], np.float64), axis=0)
        error = float(np.linalg.norm(aggregate.mean - expected) / np.linalg.norm(expected))
        share = size / rounds[-1][0].nbytes
        rows += [
            Row(f"{bits} bits, the run's clip", error, "relative"),
            Row(f"bytes up at {bits} bits", size / 1e6, "MB", "float32", share,
                f"~{share_goal:g}", share <= share_goal * 1.01),
        ]  # fmt: skip
    small = [TensorLayout("w", (1000,))]
    for dead, name in ((0, "50 sites"), (18, "18 of 50 gone")):
        zeros = [np.zeros(1000, np.float32)] * 50
        _, _, control = whole_round(50, small, zeros, 32, dead=dead)
        rows.append(
            Row(f"control, {name}", control / 1e3, "KB", "", None, "<100", control < 100_000)
        )
    return rows


def whole_spec(layout: list[TensorLayout], sites: int) -> RunSpec:
    names = tuple(f"site-{k:02}" for k in range(sites))
    threshold = sites // 2 + 1
    return RunSpec(
        "x", bytes(32), bytes(32), names, threshold, 0, max(3, threshold), 1, tuple(layout),
        1.0, 200, (), 16,
    )  # fmt: skip


def main() -> None:
    """Print the table and record its rows."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="1 M parameters only")
    quick = arguments.parse_args().quick
    print(f"processor time; mask streams by AES-256-{fastest_backend().upper()}")
    rows: list[Row] = []

    def show(new: list[Row]) -> None:
        rows.extend(new)
        print("\n".join(row.line() for row in new), flush=True)

    cores, segments._cores = segments._cores, lambda: 1
    for dimension in (1_000_000,) if quick else (1_000_000, 10_000_000):
        for sites in (3, 10):
            show(table(dimension, sites, 15 if dimension == 1_000_000 else 8))
    segments._cores = cores
    show([both_cores(1_000_000 if quick else 10_000_000, 5)])
    show(sizes_and_errors())
    record([row.__dict__ for row in rows], SECTION)


if __name__ == "__main__":
    main()
