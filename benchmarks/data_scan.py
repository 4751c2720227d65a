"""A folder of 10,000 small DICOM files: looked at by one process and by two, and de-identified.

    python benchmarks/data_scan.py [--files 10000] [--deidentify 1000]

The files are phantoms of 64 x 64 pixels, invented anew for each run. A scan is what `data add` does
before it writes the manifest. Rounds of one and two processes alternate and the fastest of each
counts, as a busy machine only ever slows a scan down; CPU seconds, which it disturbs less, are of
all processes together and say what a second process costs.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from results import record

from wardround.datasets import phantom
from wardround.datasets.check import prepare
from wardround.datasets.cohort_options import Options
from wardround.datasets.deidentify import Profile, deidentify_folder

KEY = bytes(range(32))
KIND = "image-classification-2d"
SHOTS = 4


def write(picture: Path, number: int, target: Path) -> None:
    """Write the picture as one MR slice of an invented patient."""
    pixels = np.asarray(Image.open(picture))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = UID(f"1.2.826.0.1.3680043.99.1.{number}")
    series = f"1.2.826.0.1.3680043.99.2.{number // SHOTS}"
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = UID(series)
    dataset.Modality = "MR"
    dataset.PatientID = picture.stem.split("_")[0]
    dataset.PatientName = "Invented^Patient"
    dataset.PatientBirthDate, dataset.StudyDate = "19520314", "20210907"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB"
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(target, enforce_file_format=True)


def fill(folder: Path, count: int) -> None:
    """Put `count` files into class folders."""
    with tempfile.TemporaryDirectory() as beside:
        patients = -(-count // SHOTS)
        made = phantom.images(
            Path(beside), seed=1, patients=patients, images_per_patient=(SHOTS, SHOTS)
        )
        for number, path in enumerate(sorted(made.rglob("*.png"))[:count]):
            write(path, number, folder / path.parent.name / f"{number}.dcm")


def processor_seconds() -> float:
    """Return the CPU time so far, of this process and of those it waited for."""
    return sum(
        sum(resource.getrusage(whose)[:2])
        for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def scan(folder: Path, workers: int, state: Path) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of one scan."""
    begun, used = time.perf_counter(), processor_seconds()
    found = prepare(folder, KIND, Options(), key=KEY, state=state, workers=workers)
    took = time.perf_counter() - begun, processor_seconds() - used
    if any(finding.level == "left out" for finding in found.findings):
        raise RuntimeError("a phantom was left out of its cohort")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--deidentify", type=int, default=1_000, help="how many of them")
    arguments = parser.parse_args()
    count, few = arguments.files, min(arguments.deidentify, arguments.files)
    took: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as work:
        folder, state = Path(work) / "in", Path(work) / "state"
        fill(folder, count)
        for _ in range(2):
            for workers in (1, 2):
                state.unlink(missing_ok=True)
                took[workers].append(scan(folder, workers, state))
        again = scan(folder, 2, state)[0]
        for path in sorted(folder.rglob("*.dcm"))[few:]:
            path.unlink()
        begun = time.perf_counter()
        run = deidentify_folder(folder, Path(work) / "out", profile=Profile(), key=KEY, jobs=2)
        rate = few / (time.perf_counter() - begun)
    (one, one_used), (two, two_used) = (
        tuple(min(figures) for figures in zip(*took[workers], strict=True)) for workers in (1, 2)
    )
    none = {"ratio": None, "goal": None, "met": None, "compared_to": None}
    rows = [
        {"name": f"scan of {count:,}, one process", "value": one, "unit": "s", **none},
        {"name": f"scan of {count:,}, two processes", "value": two, "unit": "s", **none,
         "compared_to": "one process", "ratio": two / one},
        {"name": "CPU of the two together", "value": two_used, "unit": "CPU s", **none,
         "compared_to": "one process", "ratio": two_used / one_used},
        {"name": "scan taken up again, nothing changed", "value": again, "unit": "s", **none,
         "compared_to": "two processes", "ratio": again / two},
        {"name": f"de-identification of {few:,}, two processes", "value": rate,
         "unit": "files/s", **none},
    ]  # fmt: skip
    for row in rows:
        ratio = "" if row["ratio"] is None else f"  {row['ratio']:.2f} x {row['compared_to']}"
        print(f"{row['name']}: {row['value']:.2f} {row['unit']}{ratio}")
    print(f"{run.report.passed} of {few} passed de-identification")
    record(rows, "data scan")


if __name__ == "__main__":
    main()
