"""Phantoms: the same seed gives the same bytes, and the pictures hold what their folder says."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wardround.datasets import phantom, phantom_dicom
from wardround.datasets.cohort import add
from wardround.datasets.cohort_options import Options
from wardround.datasets.deidentify import Profile, deidentify_folder
from wardround.datasets.dicom import read_volume
from wardround.datasets.errors import DataError


def digest(folder: Path) -> str:
    """Hash of names and contents; gzip's clock is left out by hashing decoded volumes instead."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(path.relative_to(folder).as_posix().encode())
        if not path.name.endswith(".gz"):
            total.update(path.read_bytes())
    return total.hexdigest()


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        phantom.images(tmp_path / name, seed=seed, patients=8)
        phantom.table(tmp_path / name, seed=seed, patients=20)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_images_hold_every_class_and_several_pictures_of_a_patient(tmp_path: Path) -> None:
    folder = phantom.images(tmp_path, seed=1, patients=40, images_per_patient=(2, 3))
    files = sorted(folder.rglob("*.png"))
    assert {path.parent.name for path in files} == set(phantom.CLASSES)
    shots = Counter(path.name.split("_")[0] for path in files)
    assert len(shots) == 40
    assert set(shots.values()) == {2, 3}
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.mode) == ((64, 64), "L")


def test_mix_makes_a_site_uneven(tmp_path: Path) -> None:
    folder = phantom.images(
        tmp_path, seed=1, patients=20, images_per_patient=(1, 1), mix=[0.9, 0.1, 0, 0]
    )
    counts = {name: len(list((folder / name).iterdir())) for name in phantom.CLASSES}
    assert counts == {"clear": 18, "nodule": 2, "cavity": 0, "fibrosis": 0}


def test_an_unknown_class_or_a_wrong_mix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no phantom of class 'plague'"):
        phantom.images(tmp_path, seed=1, classes=["plague"])
    with pytest.raises(DataError, match="one share"):
        phantom.images(tmp_path, seed=1, mix=[1.0])


def test_no_single_pixel_statistic_tells_the_classes_apart(tmp_path: Path) -> None:
    """Mean and spread alone must not solve it: the nearest class mean stays well below 90 %."""
    folder = phantom.images(tmp_path, seed=5, patients=120, images_per_patient=(1, 1))
    files = sorted(folder.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path), dtype=np.float64) for path in files])
    facts = np.stack([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)
    facts = (facts - facts.mean(0)) / facts.std(0)
    labels = np.array([phantom.CLASSES.index(path.parent.name) for path in files])
    means = np.stack([facts[labels == c].mean(0) for c in range(4)])
    guess = ((facts[:, None] - means) ** 2).sum(2).argmin(1)
    assert (guess == labels).mean() < 0.75


def test_volumes_are_a_decathlon_task_with_both_tissues(tmp_path: Path) -> None:
    import nibabel

    folder = phantom.volumes(tmp_path, seed=2, patients=3)
    images = sorted((folder / "imagesTr").iterdir())
    assert [p.name for p in images] == [p.name for p in sorted((folder / "labelsTr").iterdir())]
    for path in images:
        voxels = np.asarray(nibabel.load(path).dataobj)
        label = np.asarray(nibabel.load(folder / "labelsTr" / path.name).dataobj)
        assert voxels.shape == label.shape
        assert set(np.unique(label)) == {0, 1, 2}
        assert voxels[label > 0].mean() > voxels[label == 0].mean()


def test_scanners_differ() -> None:
    assert phantom.Scanner.of(1) == phantom.Scanner.of(1)
    assert phantom.Scanner.of(1) != phantom.Scanner.of(2)


def test_table_has_gaps_and_repeated_patients(tmp_path: Path) -> None:
    path = phantom.table(tmp_path, seed=1, patients=200)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert 200 < len(rows) < 260
    assert len({row["patient"] for row in rows}) == 200
    assert any("?" in row.values() for row in rows)
    assert 0.2 < np.mean([row["outcome"] == "1" for row in rows]) < 0.8


def test_series_are_volumes_and_can_be_deidentified(tmp_path: Path) -> None:
    first = phantom_dicom.series(tmp_path / "a", seed=3, patients=4, size=16)
    second = phantom_dicom.series(tmp_path / "b", seed=3, patients=4, size=16)
    files = sorted(first.rglob("*.dcm"))
    again = [second / file.relative_to(first) for file in files]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    options = Options(classes=phantom.TISSUES)
    cohort = add(first, tmp_path, "mr", "segmentation-3d", key=bytes(32), options=options)
    assert [f.code for f in cohort.findings] == ["few-patients"]
    sample = cohort.samples("train")[0]
    # Both parts of the organ are brighter than what is around them.
    voxels, mask = cohort.read(sample)[0], cohort.read_mask(sample)[0]
    assert voxels[mask > 0].mean() > voxels[mask == 0].mean() + 1
    run = deidentify_folder(first, tmp_path / "out", profile=Profile(), key=bytes(32), jobs=1)
    assert run.report.passed == len(files)
    folder = files[0].parent
    family = folder.name.split("_")[1].encode()
    assert family in files[0].read_bytes()
    outputs = [done.output for done in run.files if done.output and done.source.parent == folder]
    assert all(family not in output.read_bytes() for output in outputs)
    before, after = read_volume(sorted(folder.iterdir())), read_volume(outputs)
    np.testing.assert_array_equal(before.voxels, after.voxels)
    np.testing.assert_array_equal(before.affine, after.affine)
