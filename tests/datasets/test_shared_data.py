"""Real public data, where they are at hand: MedNIST, UCI heart disease, Hippocampus, DICOM."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from wardround.datasets.cohort import add
from wardround.datasets.cohort_options import Options

KEY = bytes(range(32))
CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
HEART = """
[table]
names = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
         "slope", "ca", "thal", "num"]
incomplete = "leave out"
drop_first = true
[target]
column = "num"
classes = { healthy = ["0"], disease = ["1", "2", "3", "4"] }
[columns]
age = { type = "number", range = [18, 110] }
sex = { type = "category", categories = ["0", "1"] }
cp = { type = "category", categories = ["1", "2", "3", "4"] }
trestbps = { type = "number", range = [0, 260] }
chol = { type = "number", range = [0, 700] }
fbs = { type = "category", categories = ["0", "1"] }
restecg = { type = "category", categories = ["0", "1", "2"] }
thalach = { type = "number", range = [40, 250] }
exang = { type = "category", categories = ["0", "1"] }
oldpeak = { type = "number", range = [-5, 10] }
"""


def folder(shared_data: Path, name: str) -> Path:
    if not (shared_data / name).is_dir():
        pytest.skip(f"the test data {name} are not on this machine")
    return shared_data / name


def test_mednist_by_its_class_folders(shared_data: Path, tmp_path: Path) -> None:
    source = folder(shared_data, "mednist") / "MedNIST"
    few = tmp_path / "few"
    for label in CLASSES:
        (few / label).mkdir(parents=True)
        for path in sorted((source / label).glob("*.jpeg"))[:30]:
            shutil.copy(path, few / label)
    cohort = add(few, tmp_path, "mednist", "image-classification-2d", key=KEY)
    assert cohort.classes == CLASSES
    # The file names are bare numbers: no patient can be told from them, and that is said.
    assert {finding.code for finding in cohort.findings} == {"patients-unknown"}
    assert cohort.summary()["shapes"] == {"64x64": 180}
    assert len(cohort.samples("held_out")) == 36


def test_mednist_by_its_own_list(shared_data: Path, tmp_path: Path) -> None:
    source = folder(shared_data, "mednist")
    with (source / "split.csv").open() as file:
        rows = list(csv.DictReader(file))[::60]
    index = tmp_path / "list.csv"
    with index.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    options = Options(index=index)
    cohort = add(source, tmp_path, "mednist", "image-classification-2d", key=KEY, options=options)
    train = sum(row["split"] == "train" for row in rows)
    assert len(cohort.samples("train")) == train
    assert len(cohort.samples("held_out")) == len(rows) - train


@pytest.mark.parametrize(
    ("site", "complete", "disease"),
    [("cleveland", 303, 139), ("hungarian", 261, 98), ("switzerland", 46, 45), ("va", 130, 101)],
)
def test_heart_disease_of_four_hospitals(
    site: str, complete: int, disease: int, shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "schema.toml").write_text(HEART)
    options = Options(schema=tmp_path / "schema.toml")
    source = folder(shared_data, "heart-disease") / f"processed.{site}.data"
    cohort = add(source, tmp_path, site, "tabular", key=KEY, options=options)
    summary = cohort.summary()
    # The complete rows are those of FLamby's recipe (740 together); two rows of the hospitals'
    # own may be equal, and stay two patients.
    assert summary["samples"] == complete
    assert sum(e.label == "disease" for e in cohort.manifest.entries) == disease
    rows = np.stack([cohort.read(sample) for sample in cohort.samples("train")])
    assert rows.shape[1] == len(cohort.features) == 13
    assert np.isfinite(rows).all()


def test_hippocampus_volumes(shared_data: Path, tmp_path: Path) -> None:
    source = folder(shared_data, "hippocampus") / "Task04_Hippocampus"
    few = tmp_path / "few"
    for part in ("imagesTr", "labelsTr"):
        (few / part).mkdir(parents=True)
        for path in sorted((source / part).glob("*.nii.gz"))[:8]:
            shutil.copy(path, few / part)
    options = Options(classes=("background", "Anterior", "Posterior"))
    cohort = add(few, tmp_path, "hippocampus", "segmentation-3d", key=KEY, options=options)
    assert {finding.code for finding in cohort.findings} == {"few-patients"}
    for sample in cohort.samples("train"):
        voxels, mask = cohort.read(sample), cohort.read_mask(sample)
        assert voxels.shape == mask.shape
        # Scanners of this set differ by a factor of 10,000; after reading they do not.
        assert float(voxels.std()) == pytest.approx(1, abs=1e-3)
        assert set(np.unique(mask)) == {0, 1, 2}


def test_real_dicom_headers_tell_the_patient(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "in" / "head"
    source.mkdir(parents=True)
    shutil.copy(folder(shared_data, "dicom") / "real" / "ctbrain1.dcm", source / "a")
    cohort = add(tmp_path / "in", tmp_path, "ct", "image-classification-2d", key=KEY)
    assert cohort.summary()["patients"] == 1
    text = b"".join(p.read_bytes() for p in (tmp_path / "datasets" / "ct").iterdir())
    assert b"SIMPSON" not in text.upper()
    values = cohort.read(cohort.samples("train")[0])
    assert values.shape[0] == 1
    assert values.std() > 0.01
