"""A second implementation of the protocol's mathematics, slow and from the standards alone.

It shares no code with the package: AES-256 from FIPS 197, HKDF from RFC 5869, X25519 from
RFC 7748, shares and tags in plain Python integers. `masked_vector` computes from a site's secrets
what that site must upload; the vectors in this folder pin both implementations.
"""

import hashlib
import hmac
import struct
from collections.abc import Sequence
from fractions import Fraction

LABEL = b"wardround/v1/secagg/key/"
SEGMENT = 2 * 2**20

# AES-256, FIPS 197


def _field_product(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def _field_power(a: int, exponent: int) -> int:
    result = 1
    for _ in range(exponent):
        result = _field_product(result, a)
    return result


def _substitute(byte: int) -> int:
    inverse = _field_power(byte, 254)
    result = 0x63
    for shift in range(5):
        result ^= ((inverse << shift) | (inverse >> (8 - shift))) & 0xFF
    return result


_SBOX = [_substitute(byte) for byte in range(256)]


def _round_keys(key: bytes) -> list[bytes]:
    words = [key[i : i + 4] for i in range(0, 32, 4)]
    constant = 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            word = bytes(_SBOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _field_product(constant, 2)
        elif i % 8 == 4:
            word = bytes(_SBOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[-8], word, strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def aes256(key: bytes, block: bytes) -> bytes:
    """Encrypt one 16-byte block."""
    keys = _round_keys(key)
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number, round_key in enumerate(keys[1:], start=1):
        state = [_SBOX[b] for b in state]
        state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]  # ShiftRows
        if number < 14:
            mixed = []
            for column in range(0, 16, 4):
                a = state[column : column + 4]
                for row in range(4):
                    mixed.append(
                        _field_product(a[row], 2)
                        ^ _field_product(a[(row + 1) % 4], 3)
                        ^ a[(row + 2) % 4]
                        ^ a[(row + 3) % 4]
                    )
            state = mixed
        state = [a ^ b for a, b in zip(state, round_key, strict=True)]
    return bytes(state)


def stream(key: bytes, size: int, segment: int = 0) -> bytes:
    """The first `size` bytes of one segment of a mask stream: CTR from segment || 2."""
    blocks = range(-(-size // 16))
    counter = [segment.to_bytes(12, "big") + (2 + k).to_bytes(4, "big") for k in blocks]
    return b"".join(aes256(key, block) for block in counter)[:size]


# Keys, RFC 5869 and RFC 7748


def frame(purpose: str, *parts: bytes) -> bytes:
    pieces = (LABEL + purpose.encode(), *parts)
    return b"".join(struct.pack(">I", len(piece)) + piece for piece in pieces)


def derive(secret: bytes, purpose: str, *context: bytes, salt: bytes = b"") -> bytes:
    """HKDF-SHA256, one block of output."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(extracted, frame(purpose, *context) + b"\x01", "sha256")


def x25519(scalar: bytes, point: bytes) -> bytes:
    """The Montgomery ladder of RFC 7748, section 5."""
    p = 2**255 - 19
    k = (int.from_bytes(scalar, "little") & ~7 & (2**255 - 1)) | 2**254
    u = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % p, b * b % p, d * a % p, c * b % p
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % p, u * (da - cb) ** 2 % p
        x2, z2 = aa * bb % p, e * (aa + 121665 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def pair_secret(
    private: bytes, public: bytes, book: bytes, names: tuple[str, str], rounds: int, context: bytes
) -> bytes:
    """h_ij for a round: the root of the run, moved on once a round, bound to the context."""
    first, second = sorted(names)
    shared = x25519(private, public)
    root = derive(shared, "pair-root", first.encode(), second.encode(), salt=book)
    for _ in range(rounds):
        root = derive(root, "next-round")
    return derive(root, "pair-secret", context)


# Shares


def combine(points: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """Lagrange interpolation at zero, byte by byte."""
    secret = []
    for column in range(len(shares[0])):
        total = 0
        for i, one in enumerate(points):
            term = shares[i][column]
            for other in points:
                if other != one:
                    term = _field_product(term, other)
                    term = _field_product(term, _field_power(one ^ other, 254))
            total ^= term
        secret.append(total)
    return bytes(secret)


def dealt_share(
    root: bytes, context: bytes, dealer: str, holder: str, salt: bytes, count: int
) -> bytes:
    """The share of `count` secrets that dealer and holder both compute."""
    key = derive(root, "dealt-share", context, dealer.encode(), holder.encode(), salt)
    return stream(derive(key, "stream"), 32 * count)


# Encoding


def float32(value: float) -> float:
    """Round to the nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def below_float32(value: float) -> float:
    """The largest float32 that is not above a non-negative value."""
    rounded = float32(value)
    if rounded <= value:
        return rounded
    (bits,) = struct.unpack("<I", struct.pack("<f", rounded))
    return float(struct.unpack("<f", struct.pack("<I", bits - 1))[0])


def quantize(value: float, n: int, bits: int, weight: int, max_weight: int, clip: float) -> int:
    """One coordinate: scale in float32, clamp, round half to even."""
    share = ((1 << (bits - 1)) - 1) // n * weight / max_weight
    scaled = Fraction(float32(value)) * Fraction(float32(share / clip))
    bound = below_float32(share)
    if abs(scaled) >= bound:  # rounding to float32 is monotonic: beyond the bound it clamps
        return round(bound if scaled > 0 else -bound)
    return round(float32(float(scaled)))


def rotated(
    values: Sequence[float], n: int, weight: int, max_weight: int, run_clip: float, clip: float
) -> list[int]:
    """An update in the ring of 2^16 under a task's clip: scaled, rotated, clamped, rounded.

    As a matrix of 256 rows it is multiplied by +-1: Walsh-Hadamard, columns times a bent function.
    """
    top = (2**15 - 1) // n
    scale = float32(top * weight / max_weight / clip / 16)
    bound = below_float32(top * weight / max_weight / clip / 16 * run_clip)
    columns = -(-len(values) // 256)
    scaled = [max(-bound, min(bound, float32(float32(v) * scale))) for v in values]
    scaled += [0.0] * (256 * columns - len(values))
    result = []
    for tile in range(0, columns, 256):
        for row in range(256):
            signs = [_sign(row & k) * _bent(k) for k in range(256)]
            for column in range(tile, min(tile + 256, columns)):
                total = sum(
                    Fraction(sign * scaled[k * columns + column]) for k, sign in enumerate(signs)
                )
                result.append(round(max(Fraction(-top), min(Fraction(top), total))))
    return result


def _sign(bits: int) -> int:
    return -1 if bin(bits).count("1") % 2 else 1


def _bent(k: int) -> int:
    """The quadratic bent function x0 x1 + x2 x3 + x4 x5 + x6 x7 of the bits of k, as a sign."""
    return -1 if sum((k >> i) & (k >> (i + 1)) & 1 for i in (0, 2, 4, 6)) % 2 else 1


def limbs(value: int, width: int, count: int) -> list[int]:
    return [(value >> (width * k)) % (1 << width) for k in range(count)]


def tags(group_key: bytes, context: bytes, vector: Sequence[int]) -> list[int]:
    """The four linear tags, from their definition."""
    rows = -(-len(vector) // 256)
    raw = stream(derive(group_key, "mac-columns", context), 256 * 4 * 2)
    columns = [value >> 1 for value in struct.unpack(f"<{256 * 4}h", raw)]
    raw = stream(derive(group_key, "mac-rows", context), rows * 4 * 2)
    row_keys = struct.unpack(f"<{rows * 4}H", raw)
    return [
        sum(
            row_keys[4 * (at // 256) + tag] * columns[4 * (at % 256) + tag] * value
            for at, value in enumerate(vector)
        )
        % 2**96
        for tag in range(4)
    ]


def masked_vector(
    *,
    site: str,
    sites: Sequence[str],
    bits: int,
    group_mode: bool,
    encoded: Sequence[int],
    counts: Sequence[int],
    self_secret: bytes,
    pair_secrets: dict[str, bytes],
    group_key: bytes,
    context: bytes,
) -> list[int]:
    """What `site` uploads: `encoded` update and `counts`, tags, under every mask."""
    width = bits - 1 - (len(sites) - 1).bit_length()
    vector = list(encoded)
    for count in counts:
        vector += limbs(count, width, -(-31 // width))
    plain = len(vector)
    tag_limbs = -(-96 // width)
    all_tags = tags(group_key, context, [*vector, *([0] * 4 * tag_limbs)])
    pad = _numbers(derive(group_key, "tag-pad", context, site.encode()), 4 * tag_limbs, bits)
    for tag in all_tags:
        vector += limbs(tag, width, tag_limbs)
    for k, value in enumerate(pad):
        vector[plain + k] += value
    masks = [(1, self_secret)]
    masks += [(1 if site < peer else -1, secret) for peer, secret in pair_secrets.items()]
    if group_mode:
        masks.append((1, derive(group_key, "group-mask", context, site.encode())))
    for sign, secret in masks:
        for k, value in enumerate(_numbers(secret, len(vector), bits)):
            vector[k] += sign * value
    return [value % (1 << bits) for value in vector]


def _numbers(secret: bytes, count: int, bits: int) -> list[int]:
    raw = stream(derive(secret, "stream"), count * bits // 8)
    return list(struct.unpack(f"<{count}{'I' if bits == 32 else 'H'}", raw))


def context_of(task: bytes) -> bytes:
    """ctx from the encoding of a signed task: everything before the signature field."""
    return hashlib.sha256(b"signed:" + task[:-68]).digest()
