"""Comments and application data inside compressed frames: blanked in place, pixels untouched.

A JPEG file can carry EXIF, comments and bytes after its end; JPEG 2000 has comments too. The
payloads are overwritten with zeros, so no offset moves and every decoder gives the same pixels.

A run-length frame can carry bytes its segments do not need.

Sources: ITU-T T.81 Annex B (JPEG), T.87 Annex C (JPEG-LS), T.800 Annex A (JPEG 2000); PS3.5 Annex G
(run-length).
"""

import struct
from itertools import pairwise

from wardround.datasets.errors import Refused

_EOI, _SOS = 0xD9, 0xDA
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}
# Tables, scans, restart intervals, numbers of lines, and JPEG-LS's parameters.
_CODING = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xF8})
# What decoders need of the rest, the last of its bytes: JFIF's version and density, Adobe's and
# HP's colour transforms.
_NEEDED = (
    (0xE0, b"JFIF\0", 16, 9),
    (0xEE, b"Adobe\0\x64", 14, 1),  # and the version: libjpeg reads no unknown one
    (0xEE, b"Adobe\0\x65", 14, 1),
    (0xE8, b"mrfx", 16, 10),
)
_RLE_HEADER, _NO_RUN = 64, b"\x80"
_J2K_SIZ, _J2K_COM, _J2K_SOT, _J2K_SOD, _J2K_EOC = 0xFF51, 0xFF64, 0xFF90, 0xFF93, 0xFFD9
# CAP, COD, COC, TLM, PRF, PLM, PLT, CPF, QCD, QCC, RGN, POC, PPM, PPT, CRG
_J2K_CODING = frozenset(
    0xFF00 | low
    for low in (0x50, 0x52, 0x53, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61)
) | {0xFF63}


def blank_comments(frame: bytes, rows: int, columns: int, samples: int = 1) -> bytes:
    """Return `frame` (JPEG, JPEG-LS or JPEG 2000 codestream) with its free-form payloads zeroed.

    Raises Refused ("pixels_unreadable") for another format, a broken structure, or a picture whose
    size is not `rows` x `columns`, of `samples` a pixel, which would decode to something the header
    does not tell.
    """
    data = bytearray(frame)
    try:
        if data[:2] == b"\xff\xd8":
            size = _blank_jpeg(data)
        elif data[:2] == b"\xff\x4f":
            size = _blank_jpeg2000(data)
        else:
            raise Refused("pixels_unreadable", "a frame is no JPEG or JPEG 2000 codestream")
    except IndexError:
        raise Refused("pixels_unreadable", "a compressed frame ends early") from None
    if size != (rows, columns, samples):
        raise Refused("pixels_unreadable", "a frame's own size is not the header's")
    return bytes(data)


def blank_rle(frame: bytes, pixels: int) -> bytes:
    """Return a run-length `frame` without what none of its segments needs.

    `pixels` is the number of pixels of a frame: the bytes each segment unpacks to. Raises Refused
    ("pixels_unreadable") when a segment lies outside the frame or ends early.
    """
    head = struct.unpack("<16L", frame[:_RLE_HEADER]) if len(frame) >= _RLE_HEADER else (0,)
    count, starts = head[0], head[1 : head[0] + 1]
    bounds = [_RLE_HEADER - 1, *starts, len(frame)]
    if not 1 <= count <= 15 or bounds != sorted(set(bounds)):
        raise Refused("pixels_unreadable", "a run-length header is broken")
    clean = bytearray(len(frame))
    clean[: 4 * (count + 1)] = frame[: 4 * (count + 1)]
    for start, stop in pairwise(bounds[1:]):
        end = _end_of_runs(frame, start, stop, pixels)
        clean[start:end] = frame[start:end]
        if any(frame[end:stop]):
            clean[end:stop] = _NO_RUN * (stop - end)
    return bytes(clean)


def _end_of_runs(frame: bytes, at: int, stop: int, pixels: int) -> int:
    while pixels > 0:
        if at >= stop:
            raise Refused("pixels_unreadable", "a run-length segment ends early")
        control = frame[at]
        if control < 128:  # that many bytes and one as they are
            at, pixels = at + 2 + control, pixels - 1 - control
        elif control > 128:  # one byte, several times
            at, pixels = at + 2, pixels - 257 + control
        else:
            at += 1
    return min(at, stop)


def _word(data: bytearray, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _long(data: bytearray, at: int) -> int:
    return _word(data, at) << 16 | _word(data, at + 2)


def _zero(data: bytearray, start: int, stop: int) -> None:
    stop = min(stop, len(data))
    data[start:stop] = bytes(max(0, stop - start))


def _blank_jpeg(data: bytearray) -> tuple[int, int, int]:
    at, size = 2, (0, 0, 0)
    while True:
        if data[at] != 0xFF:
            raise Refused("pixels_unreadable", "a JPEG marker is missing")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _EOI:
            _zero(data, at + 2, len(data))
            return size
        if marker in _BARE:
            at += 2
            continue
        length = _word(data, at + 2)
        start, stop = at + 4, at + 2 + length
        if length < 2 or stop > len(data):
            raise Refused("pixels_unreadable", "a JPEG segment is longer than its frame")
        if marker in _FRAME_HEADERS:
            if size == (0, 0, 0):
                size = _word(data, start + 1), _word(data, start + 3), data[start + 5]
        elif marker not in _CODING:
            _blank_segment(data, marker, start, stop)
        at = _after_scan(data, stop) if marker == _SOS else stop


def _blank_segment(data: bytearray, marker: int, start: int, stop: int) -> None:
    for kind, name, length, needed in _NEEDED:
        begins = data[start : start + len(name)] == name
        if marker == kind and begins and stop - start + 2 == length:
            _zero(data, start + len(name), stop - needed)
            return
    _zero(data, start, stop)


def _after_scan(data: bytearray, at: int) -> int:
    """Return where the entropy-coded bytes after `at` end: the next marker that is no restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise Refused("pixels_unreadable", "a JPEG frame has no end marker")
        following = data[at + 1]
        if following >= 0x80 and following not in _BARE and following != 0xFF:
            return at
        at += 1 if following == 0xFF else 2


def _blank_jpeg2000(data: bytearray) -> tuple[int, int, int]:
    at, size, tile_end = 2, (0, 0, 0), 0
    while True:
        marker = _word(data, at)
        if marker == _J2K_EOC:
            _zero(data, at + 2, len(data))
            return size
        if marker == _J2K_SOD:
            if tile_end == 0:
                # No two bytes of packets look like a marker (T.800 section B.10.1).
                end = data.find(b"\xff\xd9", at + 2)
                if end < 0:
                    raise Refused("pixels_unreadable", "a JPEG 2000 frame has no end marker")
                tile_end = end
            if tile_end <= at:
                raise Refused("pixels_unreadable", "a JPEG 2000 tile has no length")
            at = tile_end
            continue
        length = _word(data, at + 2)
        if length < 2:
            raise Refused("pixels_unreadable", "a JPEG 2000 segment has no length")
        if marker == _J2K_SIZ:
            wide = _long(data, at + 6) - _long(data, at + 14)
            high = _long(data, at + 10) - _long(data, at + 18)
            size = high, wide, _word(data, at + 38)
        elif marker == _J2K_SOT:
            part = _long(data, at + 6)
            tile_end = at + part if part else 0
        elif marker == _J2K_COM:
            _zero(data, at + 6, at + 2 + length)
        elif marker not in _J2K_CODING:
            _zero(data, at + 4, at + 2 + length)
        at += 2 + length
