"""Two-dimensional pictures as grey values: PNG, JPEG, TIFF and BMP through Pillow, and DICOM.

DICOM values are in modality units (such as Hounsfield's), so each picture's own range becomes 0
to 1; of the others the full range of 8 or 16 bits does. A DICOM file also says whose it is.
Colour becomes luminance (ITU-R 601-2, Pillow's `L`). Pillow looks at size before it unpacks
anything, so a picture that promises more than `MAX_PIXELS` is never decoded.
"""

import hashlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.datasets.errors import FileRefused, Refused
from wardround.datasets.manifest import patient_pseudonym
from wardround.datasets.scan import Paths, Probe
from wardround.datasets.scan_guard import MEBIBYTE, is_dicom, read_file

Grey: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.float32]

MAX_BYTES = 64 * MEBIBYTE
MAX_PIXELS = 50_000_000  # a mammogram has about 20 million
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

# What Pillow's readers raise on damaged files; each is turned into FileRefused at once.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    AttributeError,
    ArithmeticError,
    LookupError,
    MemoryError,
    struct.error,
    zlib.error,
)


def decode(data: bytes) -> Grey:
    """Return the grey picture [height, width], uint8 or uint16, that `data` is the file of.

    Raises FileRefused (`not-an-image`, `truncated`, `bomb`, `several-frames`, `bad-pixels`).
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which is not read here, and of size, which is checked here.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise FileRefused("bomb", f"{width} x {height} pixels")
                if getattr(picture, "n_frames", 1) != 1:
                    raise FileRefused("several-frames")
                if picture.mode in ("I;16", "I;16B", "I"):
                    values = np.asarray(picture)
                    if values.min() < 0 or values.max() > 65535:
                        raise FileRefused("not-an-image", "values beyond 16 bits")
                    return values.astype(np.uint16)
                if picture.mode == "F":
                    raise FileRefused("not-an-image", "floating-point pixels")
                return np.asarray(picture.convert("L"))
        except Image.DecompressionBombError:
            raise FileRefused("bomb") from None
        except UnidentifiedImageError:
            raise FileRefused("not-an-image") from None
        except _DAMAGED:
            raise FileRefused("truncated") from None


def load(data: bytes) -> tuple[Grey, str, str]:
    """Return the grey picture in `data` and, of a DICOM file, Patient ID and modality.

    Raises FileRefused.

    DICOM pictures are float32 in modality units; what may be wrong with one is `dicom-refused`.
    """
    if not is_dicom(data):
        return decode(data), "", ""
    from wardround.datasets.deidentify.reading import Content, parse, quiet
    from wardround.datasets.dicom_frames import frames

    try:
        dataset = parse(Content(data, ""))
        pictures = [picture for picture, _ in zip(frames(dataset), range(2), strict=False)]
    except Refused as refused:
        raise FileRefused("dicom-refused", str(refused)) from None
    if len(pictures) != 1:
        raise FileRefused("several-frames")
    values = pictures[0]
    if values.ndim == 3:
        values = values @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    with quiet():
        patient, modality = (str(dataset.get(name, "") or "") for name in ("PatientID", "Modality"))
    return values.astype(np.float32), patient.strip(), modality.strip()


def scaled(grey: Grey, size: tuple[int, int] | None) -> Pixels:
    """Return float32 [1, height, width] from 0 to 1: of the range of 8 or 16 bits, or its own.

    With `size` (height, width) the picture is shrunk or enlarged to fit, its sides kept in
    proportion, and zeros fill the rest.
    """
    values: Pixels = grey.astype(np.float32)
    if grey.dtype == np.float32:
        low, high = float(values.min()), float(values.max())
        values = (values - np.float32(low)) / np.float32(high - low if high > low else 1)
    else:
        values /= np.float32(65535 if grey.dtype == np.uint16 else 255)
    if size is not None and values.shape != size:
        values = _fit(values, size)
    return values[np.newaxis]


def _fit(values: Pixels, size: tuple[int, int]) -> Pixels:
    from PIL import Image

    height, width = values.shape
    factor = min(size[0] / height, size[1] / width)
    new = (max(1, round(height * factor)), max(1, round(width * factor)))
    resized = Image.fromarray(values).resize((new[1], new[0]), Image.Resampling.BILINEAR)
    result = np.zeros(size, dtype=np.float32)
    top, left = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2
    result[top : top + new[0], left : left + new[1]] = np.asarray(resized)
    return result


def pixel_hash(values: NDArray[np.generic]) -> str:
    """Return SHA-256 (hex) of type, shape and values: the same for equal pictures in any file."""
    head = f"wardround/v1/pixels {values.dtype.str} {values.shape}\0".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()


def probe(paths: Paths, *, root: Path, key: bytes) -> Probe:
    """Look at one picture below `root`; what is wrong with it is in the result, never raised.

    `key` makes the pseudonym of the patient that a DICOM file names.
    """
    try:
        data = read_file(root, paths[0], limit=MAX_BYTES)
        grey, patient, modality = load(data)
    except FileRefused as refused:
        return Probe(refused=(refused.code, refused.detail))
    return Probe(
        content=hashlib.sha256(data).hexdigest(),
        pixels=pixel_hash(grey),
        shape=grey.shape,
        patient=patient_pseudonym(key, patient) if patient else "",
        modality=modality,
        notes=(("flat", ""),) if grey.min() == grey.max() else (),
    )


def read(root: Path, relative: str, content: str, size: tuple[int, int] | None) -> Pixels:
    """Return picture `relative` as `scaled` does, if its bytes still have the hash `content`.

    Raises FileRefused (`changed` when they have not).
    """
    data = read_file(root, relative, limit=MAX_BYTES)
    if hashlib.sha256(data).hexdigest() != content:
        raise FileRefused("changed")
    return scaled(load(data)[0], size)
