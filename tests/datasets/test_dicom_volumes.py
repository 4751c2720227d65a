"""DICOM series to volumes: by geometry, in the right units, or refused with the reason."""

import io

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.pixels import compress
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from wardround.datasets.dicom import read_picture, read_volume, series_of
from wardround.datasets.errors import Refused

AXIAL = (1, 0, 0, 0, 1, 0)


def plane(number: int = 0, **changes: object) -> Dataset:
    """Slice `number` of a CT series: 4 rows, 3 columns; its pixels are 100 * number + index."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    dataset.SOPInstanceUID = UID(f"1.2.826.0.1.3680043.98.{number + 1}")
    dataset.SeriesInstanceUID = UID("1.2.826.0.1.3680043.98.100")
    dataset.FrameOfReferenceUID = UID("1.2.826.0.1.3680043.98.200")
    dataset.Modality, dataset.PatientID = "CT", "P1"
    dataset.InstanceNumber = 50 - number
    dataset.ImagePositionPatient = [10, 20, 30 + 2.5 * number]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1024
    pixels = np.arange(12, dtype=np.int16).reshape(4, 3) + 100 * number
    put(dataset, pixels)
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def put(dataset: Dataset, pixels: np.ndarray) -> None:
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.add_new(0x7FE00010, "OW", pixels.astype("<i2").tobytes())


@pytest.fixture
def write(tmp_path):
    def call(datasets):
        paths = []
        for number, dataset in enumerate(datasets):
            buffer = io.BytesIO()
            dcmwrite(buffer, dataset, enforce_file_format=True)
            # File names run against the geometry on purpose.
            path = tmp_path / f"{99 - number}.dcm"
            path.write_bytes(buffer.getvalue())
            paths.append(path)
        return paths

    return call


def test_slices_are_sorted_by_where_they_lie(write):
    volume = read_volume(write([plane(n) for n in (2, 0, 3, 1)]))
    assert volume.voxels.shape == (3, 4, 4)
    assert volume.voxels[:, :, 0].T.ravel().tolist() == [2 * v - 1024 for v in range(12)]
    assert volume.voxels[0, 0].tolist() == [2 * 100 * n - 1024 for n in range(4)]
    assert volume.spacing == (0.25, 0.5, 2.5)
    # Voxel (0, 0, 0) lies 10 mm left, 20 mm posterior, 30 mm superior.
    assert volume.affine[:3, 3].tolist() == [-10, -20, 30]
    assert np.diag(volume.affine).tolist() == [-0.25, -0.5, 2.5, 1]


def test_every_voxel_lies_where_the_standard_says(write):
    """An oblique series: PS3.3 equation C.7.6.2.1-1 for some pixels against the affine."""
    row, column = np.array([0.8, 0.6, 0]), np.array([0, 0, -1.0])
    normal = np.cross(row, column)
    slices = [
        plane(
            n,
            ImageOrientationPatient=[*row, *column],
            ImagePositionPatient=list(np.array([5, -7, 11]) + 3 * n * normal),
        )
        for n in range(3)
    ]
    volume = read_volume(write(slices))
    for i, j, k in [(0, 0, 0), (2, 3, 1), (1, 2, 2)]:
        patient = np.array([5, -7, 11]) + 3 * k * normal + row * 0.25 * i + column * 0.5 * j
        assert np.allclose(volume.affine @ [i, j, k, 1], [*(patient * [-1, -1, 1]), 1])
        assert volume.voxels[i, j, k] == 2 * (100 * k + 3 * j + i) - 1024


def test_each_slice_has_its_own_rescale(write):
    volume = read_volume(write([plane(0), plane(1, RescaleSlope=1, RescaleIntercept=0)]))
    assert volume.voxels[0, 0].tolist() == [-1024, 100]


def enhanced(frames: int = 3) -> Dataset:
    dataset = plane(0, SOPClassUID=UID("1.2.840.10008.5.1.4.1.1.2.1"))
    put(dataset, np.stack([np.arange(12).reshape(4, 3) + 100 * n for n in range(frames)]))
    dataset.NumberOfFrames = frames
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del dataset[name]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    orientation.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for number in range(frames):
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, -4 * number]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, number, "HU"
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [values]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    return dataset


@pytest.mark.parametrize("packed", [False, True])
def test_a_multi_frame_object_is_one_volume(write, packed):
    dataset = enhanced()
    if packed:
        compress(dataset, RLELossless, generate_instance_uid=False)
    volume = read_volume(write([dataset]))
    assert volume.spacing == (0.25, 0.5, 4)
    # Frames run downwards, so the last frame is the first slice.
    assert volume.voxels[0, 0].tolist() == [202, 101, 0]
    assert volume.affine[2, 3] == -8


def test_frames_without_positions_are_no_volume(write):
    dataset = plane(0)
    put(dataset, np.zeros((3, 4, 3)))
    dataset.NumberOfFrames = 3
    with pytest.raises(Refused) as caught:
        read_volume(write([dataset]))
    assert caught.value.reason == "no_geometry"


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("mixed_series", {"SeriesInstanceUID": UID("1.2.3")}),
        ("mixed_series", {"FrameOfReferenceUID": UID("1.2.3")}),
        ("mixed_series", {"PatientID": "P2"}),
        ("mixed_kind", {"Modality": "MR"}),
        ("mixed_orientation", {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}),
        ("mixed_spacing", {"PixelSpacing": [0.5, 0.3]}),
        ("no_geometry", {"PixelSpacing": [0.5, 0]}),
        ("no_geometry", {"ImagePositionPatient": None}),
        ("no_geometry", {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}),
        ("duplicate_slice", {"ImagePositionPatient": [10, 20, 30]}),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason_and_the_file(write, reason, changes):
    paths = write([plane(0), plane(1), plane(2, **changes)])
    with pytest.raises(Refused) as caught:
        read_volume(paths)
    assert caught.value.reason == reason
    assert caught.value.file == 2
    assert "file 3 of 3 by name" in str(caught.value)


def test_a_slice_at_a_slight_angle_is_the_one_that_is_named(write):
    turned = [np.cos(0.02), np.sin(0.02), 0, -np.sin(0.02), np.cos(0.02), 0]
    paths = write([plane(0), plane(1), plane(2, ImageOrientationPatient=turned), plane(3)])
    with pytest.raises(Refused, match="orientations, such as file 3 of 4 by name") as caught:
        read_volume(paths)
    assert caught.value.file == 2


def test_a_missing_slice_is_missed_between_two_files(write):
    with pytest.raises(Refused, match="between file 3 of 5 by name and file 4 of 5") as caught:
        read_volume(write([plane(n) for n in (0, 1, 2, 4, 5)]))
    assert caught.value.reason == "gap"


def test_a_frame_of_one_file_is_named_as_such(write):
    dataset = enhanced()
    second, third = dataset.PerFrameFunctionalGroupsSequence[1:]
    third.PlanePositionSequence = second.PlanePositionSequence
    with pytest.raises(Refused, match="at one place: frame 2 and frame 3"):
        read_volume(write([dataset]))


def test_slices_of_another_size_are_refused(write):
    odd = plane(2)
    put(odd, np.zeros((4, 4)))
    with pytest.raises(Refused) as caught:
        read_volume(write([plane(0), plane(1), odd]))
    assert caught.value.reason == "mixed_size"


def test_a_tilted_gantry_is_refused(write):
    tilted = [plane(n, ImagePositionPatient=[10, 20 + n, 30 + 2.5 * n]) for n in range(3)]
    with pytest.raises(Refused) as caught:
        read_volume(write(tilted))
    assert caught.value.reason == "tilted"


def test_one_slice_is_no_volume(write):
    with pytest.raises(Refused) as caught:
        read_volume(write([plane(0)]))
    assert caught.value.reason == "single_slice"


def test_monochrome1_is_turned_so_that_large_is_bright(write):
    dataset = plane(0, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=0)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    picture = read_picture(write([dataset])[0])
    assert picture.pixels.ravel().tolist() == [65535 - v for v in range(12)]
    assert picture.spacing == (0.5, 0.25)


def test_colour_is_rgb_from_zero_to_one(write):
    dataset = plane(0)
    rgb = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [51, 102, 204]]], np.uint8)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 2, 2, 3
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.add_new(0x7FE00010, "OB", rgb.tobytes())
    picture = read_picture(write([dataset])[0])
    assert np.allclose(picture.pixels, rgb / 255)
    with pytest.raises(Refused) as caught:
        read_volume(write([dataset]))
    assert caught.value.reason == "mixed_kind"


def test_a_file_of_many_frames_is_no_picture(write):
    with pytest.raises(Refused) as caught:
        read_picture(write([enhanced()])[0])
    assert caught.value.reason == "several_frames"


def test_files_are_grouped_by_series_and_others_left_out(write, tmp_path):
    paths = write([plane(0), plane(1), plane(2, SeriesInstanceUID=UID("1.2.3"))])
    (tmp_path / "notes.txt").write_text("no image")
    found = series_of(tmp_path.iterdir())
    assert list(found) == ["1.2.3", "1.2.826.0.1.3680043.98.100"]
    assert sorted(path for group in found.values() for path in group) == sorted(paths)


def test_a_real_series_is_a_volume(shared_data):
    folder = shared_data / "dicom" / "real" / "hippocrop_series_1"
    volume = read_volume(list(folder.iterdir()))
    assert volume.voxels.shape == (35, 51, 32)
    assert volume.spacing == (1, 1, 1)
    assert volume.modality == "MR"
    assert "Avasarala" not in repr(volume)
    assert "PGBM" not in repr(volume)
