"""DICOM files as pictures and as volumes of a cohort: pixels, patients, and what is refused."""

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from wardround.datasets.cohort import add
from wardround.datasets.cohort_options import Options

KEY = bytes(range(32))


def write(
    path: Path,
    pixels: NDArray[np.int16],
    patient: str,
    *,
    series: str = "1",
    place: float = 0,
    modality: str = "CT",
) -> None:
    """Write one CT slice: 2 x 2 mm pixels, rescaled by -1000, lying `place` mm above the first."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"2.25.{series}{int(place * 10) + 1}"
    dataset.SeriesInstanceUID = f"2.25.{series}"
    dataset.FrameOfReferenceUID = "2.25.5"
    dataset.PatientID = patient
    dataset.Modality = modality
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1000
    dataset.PixelSpacing = [2, 2]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, place]
    dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def picture(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(0, 2000, (12, 16)).astype(np.int16)


def test_the_patient_comes_from_the_file(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for number in range(12):
        label = ("well", "ill")[number % 2]
        # Named as the de-identifier names its results: no patient in the name.
        write(source / label / f"2.25.{number}.dcm", picture(number), f"WR{number // 4}")
    (source / "ill" / "2.25.99.dcm").write_bytes(bytes(128) + b"DICM" + b"nothing more")
    cohort = add(source, tmp_path, "ct", "image-classification-2d", key=KEY)
    assert {finding.code for finding in cohort.findings} == {"dicom-refused", "few-patients"}
    assert cohort.summary()["patients"] == 3
    assert cohort.summary()["units"] == {"4": 3}
    values = cohort.read(cohort.samples("train")[0])
    assert values.shape == (1, 12, 16)
    assert (values.min(), values.max()) == (0, 1)


def test_a_file_without_patient_beside_others_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for number in range(4):
        write(source / "well" / f"{number}.dcm", picture(number), f"P{number}" if number else "")
    cohort = add(source, tmp_path, "ct", "image-classification-2d", key=KEY)
    assert [(f.code, f.where) for f in cohort.findings if f.level == "left out"] == [
        ("no-patient", "well/0.dcm")
    ]


def test_a_picture_of_another_modality_is_mentioned_or_left_out(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for number in range(6):
        modality = {4: "MR", 5: "KOWALCZYK"}.get(number, "CT")
        write(source / "well" / f"{number}.dcm", picture(number), "P1", modality=modality)
    kind, said = "image-classification-2d", [("4", "MR"), ("5", "no code")]
    cohort = add(source, tmp_path, "all", kind, key=KEY)
    odd = [f for f in cohort.findings if f.code == "modality-differs"]
    assert [(f.where[5], f.detail) for f in odd] == said
    assert cohort.summary()["samples"] == 6
    cohort = add(source, tmp_path, "ct", kind, key=KEY, options=Options(modalities=("CT",)))
    odd = [f for f in cohort.findings if f.code == "wrong-modality"]
    assert [(f.where[5], f.detail) for f in odd] == said
    assert cohort.summary()["samples"] == 4
    both = Options(modalities=("CT", "MR"))
    assert add(source, tmp_path, "both", kind, key=KEY, options=both).summary()["samples"] == 5


def test_an_odd_header_is_not_quoted_in_a_warning(tmp_path: Path) -> None:
    """Warnings are errors here; pydicom's quote the value."""
    file = tmp_path / "in" / "well" / "0.dcm"
    write(file, picture(0), "P1")
    usual, odd = (b"LO" + len(text).to_bytes(2, "little") + text for text in (b"P1", b"Kowal" * 20))
    content = file.read_bytes()
    assert usual in content
    file.write_bytes(content.replace(usual, odd))
    cohort = add(tmp_path / "in", tmp_path, "ct", "image-classification-2d", key=KEY)
    assert cohort.summary()["samples"] == 1


def test_a_file_without_preamble_is_read_and_an_undecodable_one_told_in_words(
    tmp_path: Path,
) -> None:
    source = tmp_path / "in"
    for number in range(2):
        write(source / "well" / f"{number}.dcm", picture(number), f"P{number}")
    old = source / "well" / "0.dcm"
    old.write_bytes(old.read_bytes()[132:])
    broken = source / "well" / "1.dcm"
    broken.write_bytes(broken.read_bytes().replace(b"MONOCHROME2 ", b"MONOCHROMEX "))
    cohort = add(source, tmp_path, "ct", "image-classification-2d", key=KEY)
    said = [(f.where, f.detail) for f in cohort.findings if f.level == "left out"]
    assert said == [("well/1.dcm", "a photometric interpretation that is not read")]
    assert cohort.summary()["samples"] == 1


def test_a_series_is_a_volume_by_geometry(tmp_path: Path) -> None:
    source = tmp_path / "in"
    voxels = np.stack([picture(n) for n in range(5)])  # slice, row, column
    for case in ("a", "b"):
        for number in range(5):
            name = f"{(number * 3) % 5}.dcm"  # in another order than the slices lie
            shift = 0 if case == "a" else 1
            file = source / "imagesTr" / case / name
            write(file, voxels[number] + shift, f"P-{case}", series="1", place=3.0 * number)
        # DICOM counts to the patient's left and back, NIfTI to right and front.
        affine = np.diag([-2.0, -2.0, 3.0, 1.0])
        mask = (voxels > 1500).astype(np.uint8).transpose(2, 1, 0)
        (source / "labelsTr").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, affine), source / "labelsTr" / f"{case}.nii.gz")
    write(source / "imagesTr" / "c" / "0.dcm", picture(9), "P-c")
    for number in range(3):  # the first in the middle of the others
        place = 3.0 * number if number else 3.0
        write(source / "imagesTr" / "d" / f"{number}.dcm", picture(number), "P-d", place=place)
    for case in ("c", "d"):
        nibabel.save(nibabel.Nifti1Image(mask, affine), source / "labelsTr" / f"{case}.nii.gz")
    options = Options(classes=("air", "bone"))
    cohort = add(source, tmp_path, "ct", "segmentation-3d", key=KEY, options=options)
    assert [(f.code, f.where) for f in cohort.findings if f.level == "left out"] == [
        ("dicom-refused", "imagesTr/c"),
        ("dicom-refused", "imagesTr/d/1.dcm"),
    ]
    sample = cohort.samples("train")[0]
    image, label = cohort.read(sample), cohort.read_mask(sample)
    assert image.shape == label.shape == (1, 16, 12, 5)
    expected = voxels.transpose(2, 1, 0)[::-1, ::-1].astype(np.float32)
    np.testing.assert_allclose(image[0], (expected - expected.mean()) / expected.std(), atol=1e-4)
    np.testing.assert_array_equal(label[0], expected > 1500)
    # The patient is the series' own, not the folder's name.
    again = add(source, tmp_path, "again", "segmentation-3d", key=KEY, options=options, workers=1)
    assert again.pseudonym == cohort.pseudonym
