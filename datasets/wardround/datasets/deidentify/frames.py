"""The pixels of a data set, frame by frame, each as grey planes in which text can be looked for."""

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import decompress, iter_pixels
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from wardround.datasets.deidentify.reading import BROKEN, quiet
from wardround.datasets.deidentify.streams import blank_comments, blank_rle
from wardround.datasets.errors import Refused

Plane = NDArray[np.float32]

# A frame takes up to 40 bytes a pixel while text is looked for; the largest films have 50 million.
MAX_FRAME_PIXELS = 100_000_000
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
CODESTREAMS = frozenset(
    [*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes]
) | {HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL}


def has_pixels(dataset: Dataset) -> bool:
    """Tell whether the data set holds an image."""
    return any(keyword in dataset for keyword in PIXEL_KEYWORDS)


def frame_count(dataset: Dataset) -> int:
    """Return the number of frames, at least 1. Raises Refused when it is no such number."""
    try:
        return max(1, int(dataset.get("NumberOfFrames", 1) or 1))
    except (ValueError, TypeError):
        raise Refused("malformed", "NumberOfFrames is no number") from None


def check_size(dataset: Dataset, limit: int) -> None:
    """See that the decoded image has a size, of at most `limit` bytes, and each frame at most
    `MAX_FRAME_PIXELS`; else raise Refused.
    """
    try:
        sides = [int(dataset[name].value) for name in ("Rows", "Columns", "BitsAllocated")]
        samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    except BROKEN:
        raise Refused("malformed", "the image's size is missing") from None
    if min(*sides, samples) < 1:
        raise Refused("malformed", "the image's size is zero")
    if sides[0] * sides[1] > MAX_FRAME_PIXELS:
        raise Refused("too_large", f"a frame of {sides[0] * sides[1] // 10**6} megapixels")
    if math.prod(sides) * samples * frame_count(dataset) // 8 > limit:
        raise Refused("too_large", "decodes to more than the profile allows")


def tidy_pixels(dataset: Dataset, syntax: UID) -> int:
    """Take out of the pixel element what is no pixel; return how many parts changed.

    Native: bytes after the last frame and bits outside those stored. Compressed: comments,
    application data and trailing bytes; where a frame has bits outside those stored, the pixels
    are decompressed and the file's transfer syntax with them.
    Raises Refused ("truncated" or "pixels_unreadable").
    """
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    if not syntax.is_encapsulated:
        return sum(_trim(dataset, keyword) for keyword in PIXEL_KEYWORDS if keyword in dataset)
    old = cast(bytes, dataset.PixelData)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    try:
        frames = list(generate_frames(old, number_of_frames=frame_count(dataset)))
    except BROKEN:
        raise Refused("pixels_unreadable", "the compressed frames cannot be told apart") from None
    if syntax == RLELossless:
        cleaned = [blank_rle(frame, rows * columns) for frame in frames]
    elif syntax in CODESTREAMS:
        size = (rows, columns, int(dataset.get("SamplesPerPixel", 1) or 1))
        cleaned = [blank_comments(frame, *size) for frame in frames]
    else:
        raise Refused("pixels_unreadable", "a compression this version does not know")
    dataset.PixelData = encapsulate(cleaned)
    dataset["PixelData"].is_undefined_length = True
    if _hides_bits(dataset):
        with quiet():
            decompress(dataset, as_rgb=False, generate_instance_uid=False)
        _trim(dataset, "PixelData")
        return len(frames)
    return sum(before != after for before, after in zip(frames, cleaned, strict=True))


def _hides_bits(dataset: Dataset) -> bool:
    """Tell whether a compressed frame has bits where the header says that none are stored."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    low = int(dataset.HighBit) - stored + 1
    if stored >= allocated or allocated not in (8, 16, 32) or not 0 <= low <= allocated - stored:
        return False
    signs = (1 << (allocated - low - stored)) - 1 if int(dataset.PixelRepresentation) else 0
    try:
        with quiet():
            decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
            for frame, _ in decoder.iter_buffer(dataset):
                whole = np.frombuffer(frame, f"<u{allocated // 8}")
                above = whole >> (low + stored)
                if (whole & ((1 << low) - 1)).any() or ((above != 0) & (above != signs)).any():
                    return True
    except (*BROKEN, RuntimeError, MemoryError) as error:
        raise Refused("pixels_unreadable", f"not decodable: {type(error).__name__}") from None
    return False


def _trim(dataset: Dataset, keyword: str) -> int:
    pixels = int(dataset.Rows) * int(dataset.Columns) * frame_count(dataset)
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    if samples == 3 and dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    expected = (pixels * samples * int(dataset.BitsAllocated) + 7) // 8
    content = dataset[keyword].value
    if not isinstance(content, bytes) or len(content) < expected:
        raise Refused("truncated", "fewer pixels than the header says")
    if dataset.original_encoding[1] is False:
        expected += expected % 2  # in big-endian words the last single byte lies in the padding
    pixels_only = content[:expected]
    if keyword == "PixelData":
        pixels_only = _mask_unused_bits(dataset, pixels_only)
    if pixels_only != content[:expected] or any(content[expected:]):
        dataset[keyword].value = pixels_only + b"\0" * (expected % 2)
        return 1
    return 0


def _mask_unused_bits(dataset: Dataset, content: bytes) -> bytes:
    """Clear what stands outside the stored bits: old files keep overlays there (PS3.5 8.1.2)."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.HighBit)
    if stored >= allocated or allocated not in (8, 16, 32) or not stored <= high + 1 <= allocated:
        return content
    little = dataset.original_encoding[1] is not False
    kind = "i" if int(dataset.get("PixelRepresentation", 0)) else "u"
    whole = np.frombuffer(content, f"{'<' if little else '>'}{kind}{allocated // 8}")
    # Shifted up and down again, the bits above hold zeros, or the sign; the bits below hold zeros.
    up, down, low = (
        whole.dtype.type(bits)
        for bits in (allocated - 1 - high, allocated - stored, high + 1 - stored)
    )
    return bytes((((whole << up) >> down) << low).astype(whole.dtype).tobytes())


def grey_planes(dataset: Dataset) -> Iterator[Plane]:
    """Yield for each frame one or two planes (rows x columns, float32): brightness and colour.

    Raises Refused ("pixels_unreadable") when a frame cannot be decoded.
    """
    colour = str(dataset.get("PhotometricInterpretation", ""))
    expected, seen = frame_count(dataset), 0
    try:
        with quiet():
            for frame in iter_pixels(dataset, raw=True):
                yield from _planes(np.asarray(frame), colour, dataset)
                seen += 1
    except (*BROKEN, RuntimeError, MemoryError) as error:
        raise Refused("pixels_unreadable", f"not decodable: {type(error).__name__}") from None
    if seen != expected:
        raise Refused("pixels_unreadable", "another number of frames than the header says")


def _planes(frame: NDArray[np.generic], colour: str, dataset: Dataset) -> Iterator[Plane]:
    if colour == "PALETTE COLOR":
        frame = np.asarray(apply_color_lut(frame, dataset))[..., :3]
        colour = "RGB"
    values = frame.astype(np.float32)
    if values.ndim == 2:
        yield values
    elif values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[..., :3]
        if colour.startswith("YBR"):
            yield values[..., 0]
            yield np.abs(values[..., 1:] - values[..., 1:].mean()).sum(axis=2)
        else:
            yield values @ np.array([0.299, 0.587, 0.114], np.float32)
            yield values.max(axis=2) - values.min(axis=2)
    else:
        raise Refused("pixels_unreadable", "a frame is neither grey nor of three colours")
