"""Volumes (NIfTI, or a DICOM series) and their labels, turned to RAS and to one voxel spacing.

A `.nii.gz` is unpacked only as far as its own header promises, so a gzip bomb stops at its first
surplus byte. Orientation is changed by exact flips (nibabel); only a change of spacing, when asked
for, interpolates (MONAI's `Spacing`: linear for images, nearest for labels). Intensities are
brought to mean 0 and deviation 1 per volume: scanners of one study differed by a factor of
10,000, and a scale fitted at one site breaks at the next.

Source: NIfTI-1.1 and NIfTI-2 headers, https://nifti.nimh.nih.gov.
"""

import gzip
import hashlib
import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.datasets.cohort_image import pixel_hash
from wardround.datasets.errors import FileRefused, Refused
from wardround.datasets.manifest import patient_pseudonym
from wardround.datasets.scan import Note, Paths, Probe
from wardround.datasets.scan_guard import MEBIBYTE, files_of, read_file

Voxels: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.uint8]
Spacing: TypeAlias = tuple[float, float, float]

MAX_BYTES = 1024 * MEBIBYTE
_HEADER = 544
_SLACK = 65536
_GZIP = b"\x1f\x8b"
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
OBLIQUE_RADIANS = 0.1
AFFINE_TOLERANCE = 0.01  # mm


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume in RAS order. `spacing` in mm along the three axes; `affine` voxel to mm, RAS.

    `orientation` is how the file had it, such as "LPS"; "" when its header does not say. `patient`
    and `modality` are a DICOM series' own, "" for NIfTI.
    """

    voxels: Voxels
    spacing: Spacing
    affine: NDArray[np.float64]
    orientation: str
    oblique: bool
    patient: str = field(default="", repr=False)
    modality: str = ""


def decode(data: bytes) -> Volume:
    """Return the volume that `data` (a whole .nii or .nii.gz file) holds, turned to RAS.

    Raises FileRefused (`not-a-volume`, `truncated`, `bomb`, `too-large`, `four-dimensional`,
    `bad-geometry`, `bad-pixels`).
    """
    nibabel = _nibabel()
    plain = _unpack(data) if data.startswith(_GZIP) else data
    kind = _image_class(plain)
    _expected(plain, kind)
    try:
        with _quietly():
            image = kind.from_bytes(plain)
            shape = tuple(int(n) for n in image.shape)
            while len(shape) > 3 and shape[-1] == 1:
                image = image.slicer[..., 0]
                shape = shape[:-1]
            if len(shape) != 3:
                raise FileRefused("four-dimensional", f"{len(shape)} dimensions")
            if image.get_data_dtype().kind not in "iufb":
                raise FileRefused("not-a-volume", "voxels are colours or complex numbers")
            known = bool(image.header["qform_code"]) or bool(image.header["sform_code"])
            codes = nibabel.aff2axcodes(image.affine)
            if None in codes or not np.isfinite(image.affine).all():
                raise FileRefused("bad-geometry")
            oblique = float(nibabel.affines.obliquity(image.affine).max()) > OBLIQUE_RADIANS
            image = nibabel.as_closest_canonical(image)
            factor = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
            spacing = tuple(float(n) * factor for n in nibabel.affines.voxel_sizes(image.affine))
            voxels: Voxels = np.asarray(image.dataobj, dtype=np.float32)
    except (EOFError, OSError, zlib.error):
        raise FileRefused("truncated") from None
    except (ValueError, TypeError, ArithmeticError, LookupError, MemoryError):
        raise FileRefused("not-a-volume") from None
    except nibabel.spatialimages.HeaderDataError:
        raise FileRefused("not-a-volume") from None
    if not all(0.01 <= n <= 100 for n in spacing):
        raise FileRefused("bad-geometry")
    if not np.isfinite(voxels).all():
        raise FileRefused("bad-pixels")
    affine = np.asarray(image.affine, dtype=np.float64) * np.array([[factor]] * 3 + [[1.0]])
    orientation = "".join(codes) if known else ""
    return Volume(voxels, (spacing[0], spacing[1], spacing[2]), affine, orientation, oblique)


def _nibabel() -> Any:
    """Return the library, loaded late to keep commands quick; its functions carry no types."""
    import nibabel

    return nibabel


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence remarks about odd headers: the facts that matter are checked here."""
    logger = _nibabel().imageglobals.logger
    before = logger.disabled
    logger.disabled = True
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _image_class(plain: bytes) -> Any:
    nibabel = _nibabel()
    if plain[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and plain[344:348] == b"n+1\0":
        return nibabel.Nifti1Image
    if plain[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") and plain[4:8] == b"n+2\0":
        return nibabel.Nifti2Image
    raise FileRefused("not-a-volume")


def _expected(plain: bytes, kind: Any) -> int:
    """Return how many bytes the header in `plain` promises; at most `MAX_BYTES`, else raise."""
    from nibabel.spatialimages import HeaderDataError

    try:
        with _quietly():
            header = kind.header_class(plain[: kind.header_class.sizeof_hdr], check=True)
        shape = [int(n) for n in header.get_data_shape()]
        width = int(header.get_data_dtype().itemsize)
        start = int(header.get_data_offset())
    except (HeaderDataError, ValueError, TypeError, OverflowError, OSError, LookupError):
        raise FileRefused("not-a-volume") from None
    if not shape or min(shape) < 1 or start < 0:
        raise FileRefused("not-a-volume", "impossible size")
    total = start + width
    for n in shape:  # Python's integers do not overflow
        total = start + (total - start) * n
    if total > MAX_BYTES:
        raise FileRefused("too-large", f"{total // MEBIBYTE:,} MiB unpacked")
    return total


def _unpack(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            head = file.read(_HEADER)
            promised = _expected(head, _image_class(head))
            rest = file.read(max(0, promised + _SLACK + 1 - len(head)))
    except (EOFError, OSError, zlib.error):
        raise FileRefused("truncated") from None
    plain = head + rest
    if len(plain) > promised + _SLACK:
        raise FileRefused("bomb", f"more than the {promised:,} bytes its header promises")
    return plain


def decode_mask(data: bytes) -> tuple[Volume, Mask]:
    """Return the label volume in `data` and its values as uint8.

    Raises FileRefused as `decode` does, and `label-values` for values that are not whole numbers
    from 0 to 255.
    """
    volume = decode(data)
    whole = np.rint(volume.voxels)
    if (np.abs(volume.voxels - whole) > 1e-3).any() or whole.min() < 0 or whole.max() > 255:
        raise FileRefused("label-values", "not whole numbers from 0 to 255")
    return volume, whole.astype(np.uint8)


def probe(paths: Paths, *, root: Path, classes: int, key: bytes) -> Probe:
    """Look at an image and its label (`paths`), below `root`; never raises.

    `classes` is the number of label values that exist, background included; 0 when not known.
    `key` makes the pseudonym of the patient that a DICOM series names.
    """
    try:
        image_data = _image_bytes(root, paths[0])
        image = _image(root, paths[0], image_data)
        mask_data = read_file(root, paths[1], limit=MAX_BYTES)
        label, mask = decode_mask(mask_data)
        if image.voxels.shape != label.voxels.shape or not np.allclose(
            image.affine, label.affine, atol=AFFINE_TOLERANCE
        ):
            raise FileRefused("label-shape")
        if classes and mask.max() >= classes:
            raise FileRefused("label-values", f"value {mask.max()} of {classes} classes")
    except FileRefused as refused:
        part = _part(root, paths[0], refused.file)
        return Probe(refused=(refused.code, refused.detail), part=part)
    return Probe(
        content=_content(image_data, mask_data),
        pixels=pixel_hash(image.voxels),
        shape=image.voxels.shape,
        patient=patient_pseudonym(key, image.patient) if image.patient else "",
        modality=image.modality,
        orientation=image.orientation,
        spacing=tuple(f"{n:.4g}" for n in image.spacing),
        notes=tuple(_notes(image, mask)),
    )


def _part(root: Path, folder: str, number: int | None) -> str:
    """Return file `number` of a series, "" when there is none (any more)."""
    try:
        return "" if number is None else files_of(root, folder)[number]
    except (FileRefused, IndexError):
        return ""


def _notes(image: Volume, mask: Mask) -> list[Note]:
    notes: list[Note] = []
    if image.voxels.min() == image.voxels.max():
        notes.append(("flat", ""))
    if not image.orientation:
        notes.append(("no-geometry", ""))
    if image.oblique:
        notes.append(("oblique", ""))
    if not mask.any():
        notes.append(("label-empty", ""))
    return notes


def read_image(root: Path, paths: Paths, content: str, spacing: Spacing | None) -> Voxels:
    """Return the image as float32 [1, X, Y, Z], RAS, mean 0 and deviation 1.

    With `spacing` (mm) it is resampled. Raises FileRefused (`changed` when image or label no
    longer have the hash `content`).
    """
    volume = _image(root, paths[0], _pair(root, paths, content)[0])
    voxels = volume.voxels[np.newaxis]
    if spacing is not None and not np.allclose(volume.spacing, spacing, rtol=1e-3):
        voxels = _resample(voxels, volume.affine, spacing, "bilinear")
    deviation = float(voxels.std())
    centred: Voxels = (voxels - voxels.mean()) / np.float32(deviation if deviation > 0 else 1)
    return centred


def read_mask(root: Path, paths: Paths, content: str, spacing: Spacing | None) -> Mask:
    """Return the label as uint8 [1, X, Y, Z] that goes with `read_image`. Raises FileRefused."""
    volume, mask = decode_mask(_pair(root, paths, content)[1])
    values = mask[np.newaxis]
    if spacing is None or np.allclose(volume.spacing, spacing, rtol=1e-3):
        return values
    return _resample(values.astype(np.float32), volume.affine, spacing, "nearest").astype(np.uint8)


def _resample(voxels: Voxels, affine: NDArray[np.float64], spacing: Spacing, mode: str) -> Voxels:
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.array import Spacing as MonaiSpacing

    tensor = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(voxels)), affine=torch.from_numpy(affine)
    )
    result: Voxels = MonaiSpacing(pixdim=spacing, mode=mode)(tensor).numpy().astype(np.float32)
    return result


def _image_bytes(root: Path, relative: str) -> list[bytes]:
    """Return the image's file, or the files of the DICOM series when `relative` is a folder."""
    if not (root / relative).is_dir():
        return [read_file(root, relative, limit=MAX_BYTES)]
    files: list[bytes] = []
    paths = files_of(root, relative)
    for number, path in enumerate(paths):
        try:
            files.append(read_file(root, path, limit=MAX_BYTES))
        except FileRefused as refused:
            detail = f"{refused.detail}; " if refused.detail else ""
            raise FileRefused(
                refused.code, f"{detail}file {number + 1} of {len(paths)} by name", number
            ) from None
    if not files:
        raise FileRefused("no-files")
    return files


def _image(root: Path, relative: str, files: list[bytes]) -> Volume:
    if not (root / relative).is_dir():
        return decode(files[0])
    return _series([root / path for path in files_of(root, relative)])


def _series(files: list[Path]) -> Volume:
    from wardround.datasets.dicom import read_volume

    nibabel = _nibabel()
    try:
        read = read_volume(files)
    except Refused as refused:
        raise FileRefused("dicom-refused", str(refused), refused.file) from None
    image = nibabel.Nifti1Image(read.voxels, read.affine)
    codes = "".join(nibabel.aff2axcodes(read.affine))
    oblique = float(nibabel.affines.obliquity(read.affine).max()) > OBLIQUE_RADIANS
    image = nibabel.as_closest_canonical(image)
    spacing = tuple(float(n) for n in nibabel.affines.voxel_sizes(image.affine))
    return Volume(
        np.asarray(image.dataobj, dtype=np.float32),
        (spacing[0], spacing[1], spacing[2]),
        np.asarray(image.affine, dtype=np.float64),
        codes,
        oblique,
        read.patient.strip(),
        read.modality.strip(),
    )


def _pair(root: Path, paths: Paths, content: str) -> tuple[list[bytes], bytes]:
    image = _image_bytes(root, paths[0])
    label = read_file(root, paths[1], limit=MAX_BYTES)
    if _content(image, label) != content:
        raise FileRefused("changed")
    return image, label


def _content(image: list[bytes], label: bytes) -> str:
    """SHA-256 (hex) of all files, each by its own hash, so that no byte can move between them."""
    parts = b"".join(hashlib.sha256(data).digest() for data in (*image, label))
    return hashlib.sha256(b"wardround/v1/pair\0" + parts).hexdigest()
