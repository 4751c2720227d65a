"""DICOM files made for the tests: an invented identity in every attribute the standard names."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from wardround.datasets.deidentify.instance import Deidentified, deidentify
from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms
from wardround.datasets.deidentify.reading import Content
from wardround.datasets.deidentify.table import rules

MR = "1.2.840.10008.5.1.4.1.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
KEY = bytes(range(32))
_SKIPPED = {0x00080016, 0x00080018, 0x7FE00010, 0x00080005, 0x00280301, 0x00280302}


def smooth(rows: int = 64, columns: int = 64) -> np.ndarray:
    """A picture with no text in it: two soft blobs on a slope, 8 bit."""
    y, x = np.mgrid[:rows, :columns] / max(rows, columns)
    picture = 60 * x + 90 * np.exp(-((x - 0.4) ** 2 + (y - 0.5) ** 2) / 0.05)
    return (picture + 40 * np.exp(-((x - 0.7) ** 2 + (y - 0.3) ** 2) / 0.01)).astype(np.uint8)


def base(sop_class: str = MR, modality: str = "MR") -> Dataset:
    """The smallest image object with geometry and one identity."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = UID("1.2.826.0.1.3680043.99.1.1")
    dataset.StudyInstanceUID = UID("1.2.826.0.1.3680043.99.1.2")
    dataset.SeriesInstanceUID = UID("1.2.826.0.1.3680043.99.1.3")
    dataset.FrameOfReferenceUID = UID("1.2.826.0.1.3680043.99.1.4")
    dataset.Modality = modality
    dataset.PatientName = "Okonkwo^Adaeze"
    dataset.PatientID = "MRN-4471902"
    dataset.PatientBirthDate = "19520314"
    dataset.StudyDate = "20210907"
    dataset.ImagePositionPatient = [-10.5, 20.25, 3.0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.8, 0.7]
    dataset.SliceThickness = "2.5"
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    return with_pixels(dataset, smooth())


def with_pixels(dataset: Dataset, pixels: np.ndarray, photometric: str = "MONOCHROME2") -> Dataset:
    """Put native pixels into `dataset`: [rows, columns], [frames, ...] or [..., 3] for colour."""
    colour = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    frames = pixels.size // (rows * columns * dataset.SamplesPerPixel)
    if frames > 1:
        dataset.NumberOfFrames = frames
    content = pixels.tobytes()
    dataset.add_new(0x7FE00010, "OW", content + b"\0" * (len(content) % 2))
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    """Write a data set with file meta that names people too, as real exports do."""
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.SourceApplicationEntityTitle = "CNRYMETAAE"
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return b"CNRYPREAMBLE".ljust(128, b"\0") + buffer.getvalue()[128:]


@dataclass
class Canaries:
    """Unique values by VR, each remembered."""

    values: list[str] = field(default_factory=list)
    number: int = 0

    def make(self, vr: str) -> object:
        """Return a fresh value, valid for `vr`; None where no text can be hidden."""
        self.number += 1
        n = self.number
        text = {
            "PN": f"Canary{n:06}^Person",
            "DA": f"{1930 + n % 60}{1 + n % 12:02}{1 + n % 28:02}",
            "TM": f"{n % 24:02}{n % 60:02}{n % 59:02}.{n:06}",
            "DT": f"{1930 + n % 60}{1 + n % 12:02}{1 + n % 28:02}101010.{n:06}",
            "UI": f"1.2.826.0.1.3680043.77.{1000000 + n}",
            "AS": None,
            "UR": f"http://cnry{n:06}.example",
        }.get(vr, f"CNRY{n:08}")
        if vr in {"DS", "IS", "FD", "FL", "US", "SS", "UL", "SL", "AT", "SV", "UV", "AS", "SQ"}:
            return None
        assert text is not None
        self.values.append(text)
        return text.encode().ljust(len(text) + len(text) % 2) if vr in _BYTES else text


_BYTES = {"OB", "OW", "UN", "OF", "OD", "OL", "OV"}


def fill(dataset: Dataset, canaries: Canaries, depth: int) -> None:
    """Give every attribute of the standard's table a canary, in sequences down to `depth`."""
    for tag in rules()[0]:
        if tag in _SKIPPED or tag >> 16 <= 4 or tag not in DicomDictionary or tag in dataset:
            continue
        vr = DicomDictionary[tag][0].split(" or ")[0]
        if vr == "SQ":
            item = Dataset()
            item.PatientName = canaries.make("PN")
            item.CodeMeaning = canaries.make("LO")
            item.TextValue = canaries.make("UT")
            if depth:
                inner = Dataset()
                inner.PatientName = canaries.make("PN")
                inner.CodeMeaning = canaries.make("LO")
                item.AnatomicRegionSequence = [inner]
            dataset.add(DataElement(tag, "SQ", Sequence([item])))
        elif (value := canaries.make(vr)) is not None:
            dataset.add(DataElement(tag, vr, value))


def nested(dataset: Dataset, canaries: Canaries, depth: int) -> None:
    """Hang a data set full of canaries `depth` levels deep under a sequence the profile keeps."""
    inner = Dataset()
    fill(inner, canaries, 0)
    for _ in range(depth):
        outer = Dataset()
        outer.AnatomicRegionSequence = [inner]
        inner = outer
    dataset.AnatomicRegionSequence = inner.AnatomicRegionSequence


@pytest.fixture
def run() -> Callable[..., Deidentified]:
    """De-identify a data set or raw bytes under the test key."""

    def call(source: Dataset | bytes, profile: Profile | None = None) -> Deidentified:
        data = source if isinstance(source, bytes) else to_bytes(source)
        return deidentify(Content(data, "0" * 64), profile or Profile(), Pseudonyms(KEY))

    return call


@pytest.fixture(name="build")
def _build() -> "Builders":
    return Builders()


class Builders:
    """The functions above, reachable from tests without an import path."""

    base = staticmethod(base)
    smooth = staticmethod(smooth)
    with_pixels = staticmethod(with_pixels)
    to_bytes = staticmethod(to_bytes)
    fill = staticmethod(fill)
    nested = staticmethod(nested)
    canaries = Canaries
    mr = MR
    secondary_capture = SECONDARY_CAPTURE
    key = KEY
