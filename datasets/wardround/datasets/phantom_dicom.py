"""Invented DICOM series, as a scanner would send them: for trying `data deidentify` and `data add`
where no patient's file may be.

The volumes are those of `phantom.volumes`. What surrounds them is what real headers hold: a name
in the header, in a sequence, in a private block and in the files' and folders' names, dates, and
free text of whoever examined. The people never lived.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from wardround.datasets.phantom import Scanner, organ, record_number, save_volume

_FAMILY = ("Okonkwo", "Lindqvist", "Haruki", "Moreau", "Castellanos", "Ivanova", "Byrne", "Adeyemi")
_GIVEN = ("Adaeze", "Sven", "Mei", "Camille", "Rosa", "Irina", "Niamh", "Tunde")


def series(
    folder: Path, *, seed: int, patients: int = 6, size: int = 24, scanner: int | None = None
) -> Path:
    """Write one MR series a patient, and its label, and return `folder`.

    `imagesTr/<number>_<name>/<nn>.dcm` are slices of 1 mm, `labelsTr/<number>_<name>.nii.gz` goes
    with them (labels as in `phantom.volumes`): a folder for `data add --classes`, and for
    `data deidentify`. The same seed makes the same files.
    """
    random = np.random.default_rng([seed, 2])
    device = Scanner.of(seed if scanner is None else scanner)
    (folder / "labelsTr").mkdir(parents=True, exist_ok=True)
    for number in range(patients):
        scene, label = organ(size, random)
        voxels = np.clip(device.record(scene, random) * 1000, 0, 4095).astype(np.uint16)
        family, given = (str(random.choice(names)) for names in (_FAMILY, _GIVEN))
        case = f"{record_number(seed, number)}_{family}"
        header = _header(seed, number, f"{family}^{given}", int(random.integers(20, 80)))
        (folder / "imagesTr" / case).mkdir(parents=True, exist_ok=True)
        for place in range(voxels.shape[2]):
            # DICOM counts to the patient's left and back, NIfTI to right and front.
            plane = voxels[::-1, ::-1, place].T
            left, back = 1 - voxels.shape[0], 1 - voxels.shape[1]
            dataset = _slice(header, plane, place, (left, back, place))
            dataset.save_as(
                folder / "imagesTr" / case / f"{place:02d}.dcm", enforce_file_format=True
            )
        save_volume(folder / "labelsTr" / f"{case}.nii.gz", label)
    return folder


def _header(seed: int, number: int, name: str, age: int) -> Dataset:
    """Return what all slices of one patient share."""
    base = f"2.25.{1_000_000 * (seed + 1) + 1_000 * number}"
    header = Dataset()
    header.SOPClassUID = MRImageStorage
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(header, keyword, UID(f"{base}{len(header)}"))
    header.Modality, header.Manufacturer = "MR", "Phantom Works"
    header.ManufacturerModelName = "Imaginary 3T"
    header.PatientName, header.PatientID = name, record_number(seed, number)
    header.PatientBirthDate, header.PatientSex = f"{2024 - age}0314", "O"
    header.PatientAge = f"{age:03d}Y"
    header.StudyDate = header.SeriesDate = "20240917"
    header.StudyTime, header.AccessionNumber = "101500", f"A{seed:03d}{number:04d}"
    header.InstitutionName, header.ReferringPhysicianName = "Invented Hospital", "Nobody^Ida"
    header.StudyDescription = f"Head, {name.split('^')[0]}, follow-up"
    request = Dataset()
    request.RequestedProcedureDescription, request.RequestingPhysician = "MR head", "Nobody^Ida"
    header.RequestAttributesSequence = [request]
    block = header.private_block(0x0029, "PHANTOM WORKS", create=True)
    block.add_new(1, "LO", name)
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SliceThickness = [1, 1], "1"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    return header


def _slice(
    header: Dataset, plane: NDArray[np.uint16], number: int, position: tuple[int, int, int]
) -> Dataset:
    dataset = Dataset()
    dataset.update(header)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPInstanceUID = UID(f"{header.SeriesInstanceUID}.{number + 1}")
    dataset.InstanceNumber, dataset.ImagePositionPatient = number + 1, list(position)
    dataset.Rows, dataset.Columns = plane.shape
    dataset.PixelData = np.ascontiguousarray(plane).tobytes()
    return dataset
