"""Decoded frames of one DICOM file, as numbers that mean the same whatever made the file.

Stored values become modality values (Hounsfield units and the like) by Rescale Slope and Intercept
or a Modality LUT; MONOCHROME1 is turned so that large is bright; colour comes out as RGB.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import iter_pixels

from wardround.datasets.deidentify.decoders import check_decoder
from wardround.datasets.deidentify.frames import check_size, frame_count, has_pixels
from wardround.datasets.deidentify.reading import BROKEN, quiet
from wardround.datasets.errors import Refused

Frame = NDArray[np.float32]

_MAX_DECODED_BYTES = 4 << 30
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR"})


def is_grey(dataset: Dataset) -> bool:
    """Tell whether the pixels are one brightness each. Raises Refused for what is unknown."""
    if not has_pixels(dataset):
        raise Refused("no_pixels", "the object holds no image")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in _GREY | _COLOUR:
        raise Refused("pixels_unreadable", "a photometric interpretation that is not read")
    return photometric in _GREY


def frames(dataset: Dataset) -> Iterator[Frame]:
    """Yield each frame, in stored order: [rows, columns] float32, or [rows, columns, 3] RGB.

    Grey frames are in modality units; RGB is 0 to 1. Raises Refused when the image is too large,
    of an unknown kind, or cannot be decoded.
    """
    grey = is_grey(dataset)
    check_decoder(dataset)
    check_size(dataset, _MAX_DECODED_BYTES)
    seen = 0
    try:
        with quiet():
            for number, stored in enumerate(iter_pixels(dataset)):
                array = np.asarray(stored)
                yield _grey(array, dataset, number) if grey else _colour(array, dataset)
                seen += 1
    except (*BROKEN, RuntimeError, MemoryError) as error:
        raise Refused("pixels_unreadable", f"not decodable: {type(error).__name__}") from None
    if seen != frame_count(dataset):
        raise Refused("truncated", "fewer frames than the header says")


def _grey(stored: NDArray[np.generic], dataset: Dataset, number: int) -> Frame:
    group = functional_group(dataset, "PixelValueTransformationSequence", number)
    if group is not None:
        slope, intercept = float(group.RescaleSlope), float(group.RescaleIntercept)
        values = stored.astype(np.float32) * slope + intercept
    else:
        values = np.asarray(apply_modality_lut(stored, dataset)).astype(np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise Refused("pixels_unreadable", "a frame is no plane of numbers")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        # The largest stored value is black: turned about the range of the stored type.
        low, high = _range(dataset)
        ends = np.asarray(apply_modality_lut(np.array([low, high]), dataset), np.float32)
        values = ends[0] + ends[1] - values
    return np.ascontiguousarray(values, np.float32)


def _range(dataset: Dataset) -> tuple[int, int]:
    bits = int(dataset.BitsStored)
    if int(dataset.get("PixelRepresentation", 0)):
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def _colour(stored: NDArray[np.generic], dataset: Dataset) -> Frame:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        table = np.asarray(apply_color_lut(stored, dataset))[..., :3]
        return (table.astype(np.float32) / np.iinfo(table.dtype).max).astype(np.float32)
    scale = np.float32((1 << int(dataset.BitsStored)) - 1)
    return np.asarray(stored.astype(np.float32) / scale, np.float32)


def functional_group(dataset: Dataset, name: str, number: int) -> Dataset | None:
    """Return the first item of functional group `name` for frame `number` of an enhanced object.

    The frame's own group wins over the shared one (PS3.3 section C.7.6.16). None when neither is
    there.
    """
    own = dataset.get("PerFrameFunctionalGroupsSequence", None) or ()
    shared = dataset.get("SharedFunctionalGroupsSequence", None) or ()
    for item in [*own[number : number + 1], *shared[:1]]:
        if group := item.get(name, None):
            first: Dataset = group[0]
            return first
    return None
