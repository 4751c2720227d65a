"""DICOM series to volumes, by geometry: where each slice lies, never what its file is called.

PS3.3 section C.7.6.2 says where a pixel is: Image Position (Patient) plus the pixel's column and
row times Pixel Spacing along Image Orientation (Patient). What does not fit together into one
regular volume is refused with the reason, not repaired.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from wardround.datasets.deidentify.reading import BROKEN, parse, quiet, read_content
from wardround.datasets.dicom_frames import Frame, frames, functional_group, is_grey
from wardround.datasets.errors import Refused

Vector = NDArray[np.float64]

MAX_FILE_BYTES = 2 << 30
# Cosines are written with few digits; a hundredth is half a degree.
_SAME_DIRECTION = 1e-2
_SAME_SPACING = 1e-3
# Slice positions may differ from the regular grid by this part of the distance between slices.
_REGULAR = 0.05


@dataclass(frozen=True, slots=True)
class Picture:
    """One two-dimensional image: `pixels` [rows, columns] or [rows, columns, 3], float32.

    `spacing` is the distance of rows and of columns in mm, None where the file does not say.
    """

    pixels: Frame = field(repr=False)
    modality: str
    spacing: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Volume:
    """One three-dimensional image: `voxels` [column, row, slice] in modality units, float32.

    `affine` (4 x 4) takes voxel indices to millimetres right, anterior, superior, as NIfTI does.
    `spacing` is the distance of columns, rows and slices in mm. `series` and `patient` are the
    file's identifiers: for the site alone.
    """

    voxels: NDArray[np.float32] = field(repr=False)
    affine: Vector
    spacing: tuple[float, float, float]
    modality: str
    series: str = field(repr=False)
    patient: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Slice:
    """One plane in space: millimetres in DICOM's axes (left, posterior, superior).

    `file` is the place of its file among those of the series, by name; `name` says that in words.
    """

    file: int
    name: str
    pixels: Frame
    position: Vector
    along_row: Vector
    along_column: Vector
    row_spacing: float
    column_spacing: float


@quiet()
def read_picture(path: Path) -> Picture:
    """Read a single-frame file. Raises Refused ("several_frames" among others)."""
    dataset = parse(read_content(path, MAX_FILE_BYTES))
    decoded = list(frames(dataset))
    if len(decoded) != 1:
        raise Refused("several_frames", f"{len(decoded)} frames where one was expected")
    spacing = dataset.get("PixelSpacing", None) or dataset.get("ImagerPixelSpacing", None)
    try:
        sides = (float(spacing[0]), float(spacing[1])) if spacing else None
    except BROKEN:
        sides = None
    return Picture(decoded[0], str(dataset.get("Modality", "")), sides)


@quiet()
def series_of(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by Series Instance UID, in order of UID; what is no DICOM image is left out."""
    found: dict[str, list[Path]] = {}
    for path in sorted(paths):
        try:
            dataset = parse(read_content(path, MAX_FILE_BYTES))
            is_grey(dataset)
        except Refused:
            continue
        found.setdefault(str(dataset.get("SeriesInstanceUID", "")), []).append(path)
    return dict(sorted(found.items()))


@quiet()
def read_volume(paths: Sequence[Path]) -> Volume:
    """Read the files of one series as one volume, sorted by where the slices lie.

    Raises Refused: "mixed_series", "mixed_kind", "mixed_size", "mixed_orientation",
    "mixed_spacing", "no_geometry", "duplicate_slice", "gap", "tilted", "single_slice", or what
    reading and decoding refuse.
    """
    datasets = [_parsed(path, n, len(paths)) for n, path in enumerate(paths)]
    if not datasets:
        raise Refused("single_slice", "no file was given")
    _check_alike(datasets)
    slices = [plane for n, each in enumerate(datasets) for plane in _slices(each, n, len(paths))]
    _check_planes(slices)
    return _stack(slices, datasets[0])


def _parsed(path: Path, number: int, count: int) -> Dataset:
    try:
        return parse(read_content(path, MAX_FILE_BYTES))
    except Refused as refused:
        detail = f"{refused}; {_by_name(number, count)}"
        raise Refused(refused.reason, detail, number) from None


def _by_name(number: int, count: int) -> str:
    return f"file {number + 1} of {count} by name"


def _odd(values: Sequence[object]) -> int:
    """Return the place of the first of `values` that is not like most."""
    usual = Counter(map(str, values)).most_common(1)[0][0]
    return next((n for n, value in enumerate(values) if str(value) != usual), 0)


def _check_alike(datasets: Sequence[Dataset]) -> None:
    for reason, name, words in (
        ("mixed_series", "SeriesInstanceUID", "files of several series"),
        ("mixed_series", "FrameOfReferenceUID", "several frames of reference"),
        ("mixed_series", "PatientID", "files of several patients"),
        ("mixed_kind", "Modality", "several modalities"),
        ("mixed_kind", "PhotometricInterpretation", "several photometric interpretations"),
    ):
        values = [str(dataset.get(name, "")) for dataset in datasets]
        if len(set(values)) > 1:
            odd = _odd(values)
            raise Refused(reason, f"{words}, such as {_by_name(odd, len(values))}", odd)
    if not is_grey(datasets[0]):
        raise Refused("mixed_kind", "colour images do not make a volume")


def _slices(dataset: Dataset, file: int, files: int) -> Iterator[_Slice]:
    try:
        yield from _planes(dataset, file, _by_name(file, files) if files > 1 else "")
    except Refused as refused:
        detail = f"{refused}; {_by_name(file, files)}" if files > 1 else str(refused)
        raise Refused(refused.reason, detail, file) from None


def _planes(dataset: Dataset, file: int, name: str) -> Iterator[_Slice]:
    for number, pixels in enumerate(frames(dataset)):
        position = functional_group(dataset, "PlanePositionSequence", number)
        orientation = functional_group(dataset, "PlaneOrientationSequence", number)
        measures = functional_group(dataset, "PixelMeasuresSequence", number)
        if number and position is None and "GridFrameOffsetVector" not in dataset:
            raise Refused("no_geometry", "several frames without a position each")
        try:
            where = np.array((position or dataset).ImagePositionPatient, np.float64)
            cosines = np.array((orientation or dataset).ImageOrientationPatient, np.float64)
            spacing = [float(side) for side in (measures or dataset).PixelSpacing]
            along_row, along_column = cosines[:3], cosines[3:]
            if number and position is None:
                normal = np.cross(along_row, along_column)
                where = where + normal * float(dataset.GridFrameOffsetVector[number])
            plane = _Slice(
                file,
                name or f"frame {number + 1}",
                pixels,
                where,
                along_row,
                along_column,
                spacing[0],
                spacing[1],
            )
        except BROKEN:
            raise Refused("no_geometry", "position, orientation or spacing is missing") from None
        _check_geometry(plane)
        yield plane


def _check_geometry(plane: _Slice) -> None:
    vectors = (plane.position, plane.along_row, plane.along_column)
    numbers = np.concatenate([vector.ravel() for vector in vectors])
    if numbers.shape != (9,) or not np.isfinite(numbers).all():
        raise Refused("no_geometry", "position or orientation is no vector of numbers")
    lengths = np.linalg.norm(plane.along_row), np.linalg.norm(plane.along_column)
    if not np.allclose(lengths, 1, atol=_SAME_DIRECTION) or (
        abs(plane.along_row @ plane.along_column) > _SAME_DIRECTION
    ):
        raise Refused("no_geometry", "the orientation is not two perpendicular directions")
    if not (0 < plane.row_spacing < np.inf and 0 < plane.column_spacing < np.inf):
        raise Refused("no_geometry", "pixel spacing is not positive")


def _check_planes(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    for plane in slices:
        if plane.pixels.shape != first.pixels.shape:
            odd = _odd([other.pixels.shape for other in slices])
            raise _unlike("mixed_size", "sizes", slices[odd])
        if not (
            np.allclose(plane.along_row, first.along_row, atol=_SAME_DIRECTION)
            and np.allclose(plane.along_column, first.along_column, atol=_SAME_DIRECTION)
        ):
            cosines = np.array([[*other.along_row, *other.along_column] for other in slices])
            odd = int(np.abs(cosines - np.median(cosines, axis=0)).max(axis=1).argmax())
            raise _unlike("mixed_orientation", "orientations", slices[odd])
        if not (
            np.isclose(plane.row_spacing, first.row_spacing, rtol=_SAME_SPACING)
            and np.isclose(plane.column_spacing, first.column_spacing, rtol=_SAME_SPACING)
        ):
            odd = _odd([(other.row_spacing, other.column_spacing) for other in slices])
            raise _unlike("mixed_spacing", "pixel spacings", slices[odd])
    if len(slices) < 2:
        raise Refused("single_slice", "one slice makes no volume")


def _unlike(reason: str, what: str, odd: _Slice) -> Refused:
    return Refused(reason, f"slices of several {what}, such as {odd.name}", odd.file)


def _stack(slices: Sequence[_Slice], header: Dataset) -> Volume:
    first = slices[0]
    normal = np.cross(first.along_row, first.along_column)
    ordered = sorted(slices, key=lambda plane: float(plane.position @ normal))
    positions = np.array([plane.position for plane in ordered])
    steps = np.diff(positions @ normal)
    distance = float(np.median(steps))
    if steps.min() <= 1e-3:
        one, other = ordered[int(steps.argmin())], ordered[int(steps.argmin()) + 1]
        words = f"two slices lie at one place: {one.name} and {other.name}"
        raise Refused("duplicate_slice", words, other.file)
    uneven = np.abs(steps - distance)
    if uneven.max() > _REGULAR * distance:
        one, other = ordered[int(uneven.argmax())], ordered[int(uneven.argmax()) + 1]
        words = f"the distance between slices varies; is one missing between {one.name} and "
        raise Refused("gap", f"{words}{other.name}?", one.file)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    sideways = float(np.linalg.norm(step - normal * (step @ normal)))
    if sideways > _REGULAR * distance:
        raise Refused("tilted", "slices are shifted against each other (gantry tilt)")
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.column_spacing
    affine[:3, 1] = first.along_column * first.row_spacing
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    voxels = np.stack([plane.pixels.T for plane in ordered], axis=2)
    return Volume(
        np.ascontiguousarray(voxels),
        affine,
        (first.column_spacing, first.row_spacing, distance),
        str(header.get("Modality", "")),
        str(header.get("SeriesInstanceUID", "")),
        str(header.get("PatientID", "")),
    )
