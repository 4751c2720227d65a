"""Cohorts: no patient in two parts, no name in a manifest, no changed file read, one budget."""

import json
import shutil
import stat
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from wardround.datasets import phantom
from wardround.datasets.cohort import Cohort, add, names
from wardround.datasets.cohort_options import Options
from wardround.datasets.errors import CohortInvalid, DataError

KEY = bytes(range(32))
IMAGES, VOLUMES, TABLE = "image-classification-2d", "segmentation-3d", "tabular"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One phantom of each kind; their patients differ."""
    base = tmp_path_factory.mktemp("sources")
    return {
        IMAGES: phantom.images(base / "images", seed=1, patients=30),
        VOLUMES: phantom.volumes(base / "volumes", seed=2, patients=5),
        TABLE: phantom.table(base / "table", seed=3, patients=60),
    }


def test_pictures_are_added_loaded_and_read(sources: dict[str, Path], tmp_path: Path) -> None:
    added = add(sources[IMAGES], tmp_path, "scans", IMAGES, key=KEY)
    cohort = Cohort.load(tmp_path, "scans")
    assert cohort.digest() == added.digest()
    assert cohort.classes == tuple(sorted(phantom.CLASSES))
    everything = [*cohort.samples("train"), *cohort.samples("held_out")]
    assert len(everything) == len(list(sources[IMAGES].rglob("*.png")))
    for sample in everything:
        assert sample.label == Path(sample.paths[0]).parent.name
    pixels = cohort.read(everything[0])
    assert (pixels.shape, pixels.dtype) == ((1, 64, 64), np.float32)
    assert 0 <= pixels.min() < pixels.max() <= 1


def test_volumes_come_with_their_masks(sources: dict[str, Path], tmp_path: Path) -> None:
    add(sources[VOLUMES], tmp_path, "organs", VOLUMES, key=KEY)
    cohort = Cohort.load(tmp_path, "organs")
    assert cohort.classes == phantom.TISSUES
    for sample in [*cohort.samples("train"), *cohort.samples("held_out")]:
        voxels, mask = cohort.read(sample), cohort.read_mask(sample)
        assert voxels.shape == mask.shape
        assert (voxels.dtype, mask.dtype) == (np.float32, np.uint8)
        assert abs(float(voxels.mean())) < 1e-3
        assert float(voxels.std()) == pytest.approx(1, abs=1e-3)
        assert set(np.unique(mask)) == {0, 1, 2}


def test_rows_become_features(sources: dict[str, Path], tmp_path: Path) -> None:
    added = add(sources[TABLE], tmp_path, "records", TABLE, key=KEY)
    cohort = Cohort.load(tmp_path, "records")
    assert cohort.classes == ("well", "ill")
    rows = np.stack([cohort.read(sample) for sample in cohort.samples("train")])
    assert rows.shape == (len(cohort.samples("train")), len(cohort.features))
    assert np.isfinite(rows).all()
    ages = rows[:, cohort.features.index("age")]
    assert abs(float(ages.mean())) < 0.1
    same = np.stack([added.read(sample) for sample in added.samples("train")])
    np.testing.assert_array_equal(rows, same)


@pytest.mark.parametrize("kind", [IMAGES, VOLUMES, TABLE])
def test_no_patient_is_in_two_parts(kind: str, sources: dict[str, Path], tmp_path: Path) -> None:
    cohort = add(sources[kind], tmp_path, "one", kind, key=KEY)
    parts = defaultdict(set)
    for entry in cohort.manifest.entries:
        parts[entry.patient].add(entry.split)
    assert all(len(where) == 1 for where in parts.values())
    assert {part for where in parts.values() for part in where} == {"train", "held_out"}


@pytest.mark.parametrize("kind", [IMAGES, VOLUMES, TABLE])
def test_only_the_private_files_know_names(
    kind: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    cohort = add(sources[kind], tmp_path, "one", kind, key=KEY)
    folder = tmp_path / "datasets" / "one"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.name in ("files.jsonl", "scan.jsonl"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        else:
            assert "MRN" not in text
            assert str(sources[kind]) not in text
    shown = [repr(cohort), repr(cohort.samples("train")), repr(cohort.findings)]
    shown += [repr(Cohort.load(tmp_path, "one")), json.dumps(cohort.summary())]
    assert not any("MRN" in text or str(sources[kind]) in text for text in shown)


def test_pseudonyms_need_the_key(sources: dict[str, Path], tmp_path: Path) -> None:
    ours = add(sources[IMAGES], tmp_path / "a", "one", IMAGES, key=KEY)
    same = add(sources[IMAGES], tmp_path / "b", "one", IMAGES, key=KEY)
    other = add(sources[IMAGES], tmp_path / "c", "one", IMAGES, key=bytes(32))
    assert ours.digest() == same.digest()
    ids = {entry.patient for entry in ours.manifest.entries}
    assert ids.isdisjoint(entry.patient for entry in other.manifest.entries)
    assert ours.pseudonym != other.pseudonym


def test_summary_counts_units_of_privacy(sources: dict[str, Path], tmp_path: Path) -> None:
    summary = add(sources[IMAGES], tmp_path, "one", IMAGES, key=KEY).summary()
    units = summary["units"]
    assert isinstance(units, dict)
    pictures = sum(int(size) * int(str(count)) for size, count in units.items())
    assert pictures == summary["samples"]
    assert summary["patients"] == 30


def test_a_picture_changed_after_it_was_added_is_not_read(tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=12)
    cohort = add(source, tmp_path, "one", IMAGES, key=KEY)
    sample = cohort.samples("train")[0]
    other = cohort.samples("train")[-1]
    (source / sample.paths[0]).write_bytes((source / other.paths[0]).read_bytes())
    with pytest.raises(CohortInvalid, match="add it again") as caught:
        cohort.read(sample)
    assert "MRN" not in str(caught.value)
    assert caught.value.__suppress_context__
    (source / sample.paths[0]).unlink()
    with pytest.raises(CohortInvalid, match="not there"):
        cohort.read(sample)


def test_a_table_changed_after_it_was_added_is_not_read(tmp_path: Path) -> None:
    source = phantom.table(tmp_path / "in", seed=1, patients=30)
    add(source, tmp_path, "one", TABLE, key=KEY)
    source.write_text(source.read_text() + "MRN0019999,50,F,100,2,none,1\n")
    with pytest.raises(CohortInvalid, match="changed after it was added"):
        Cohort.load(tmp_path, "one")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"split":"held_out"', b'"split":"train"'), (b'"name":"one"', b'"name":"two"'), (b"[", b"")],
)
def test_a_manifest_somebody_edited_is_refused(
    old: bytes, new: bytes, sources: dict[str, Path], tmp_path: Path
) -> None:
    before = add(sources[IMAGES], tmp_path, "one", IMAGES, key=KEY)
    path = tmp_path / "datasets" / "one" / "manifest.jsonl"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    if b"name" in old:  # the header may be rewritten whole, but it is then another digest
        assert Cohort.load(tmp_path, "one").digest() != before.digest()
    else:
        with pytest.raises(CohortInvalid, match=r"add (it|the data set) again"):
            Cohort.load(tmp_path, "one")


def test_damaged_private_files_are_one_clear_line(sources: dict[str, Path], tmp_path: Path) -> None:
    for kind in (IMAGES, TABLE):
        add(sources[kind], tmp_path, "one", kind, key=KEY, replace=True)
        files = tmp_path / "datasets" / "one" / "files.jsonl"
        good = files.read_bytes()
        for bad in (b"", b"{}", good[:-3], b"[1]\n" + good):
            files.write_bytes(bad)
            with pytest.raises(CohortInvalid, match="damaged; add it again"):
                Cohort.load(tmp_path, "one")


def test_the_same_patients_under_another_name_share_the_budget(tmp_path: Path) -> None:
    first = phantom.images(tmp_path / "a", seed=1, patients=15)
    second = phantom.images(tmp_path / "b", seed=2, patients=15)
    one = add(first, tmp_path, "one", IMAGES, key=KEY)
    two = add(second, tmp_path, "two", IMAGES, key=KEY)
    again = add(first, tmp_path, "again", IMAGES, key=KEY)
    assert one.pseudonym == again.pseudonym != two.pseudonym
    both = tmp_path / "both"
    for path in [*first.rglob("*.png"), *second.rglob("*.png")]:
        target = both / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="budgets are counted apart"):
        add(both, tmp_path, "both", IMAGES, key=KEY)
    assert names(tmp_path) == ("again", "one", "two")


def test_replacing_keeps_the_budget(tmp_path: Path) -> None:
    one = add(phantom.images(tmp_path / "a", seed=1, patients=9), tmp_path, "d", IMAGES, key=KEY)
    with pytest.raises(DataError, match="already"):
        add(tmp_path / "a", tmp_path, "d", IMAGES, key=KEY)
    source = phantom.images(tmp_path / "b", seed=2, patients=9)
    two = add(source, tmp_path, "d", IMAGES, key=KEY, replace=True)
    assert one.pseudonym == two.pseudonym
    assert one.digest() != two.digest()


def test_patients_keep_their_budget_when_their_data_set_is_replaced(tmp_path: Path) -> None:
    first = phantom.images(tmp_path / "a", seed=1, patients=9)
    other = phantom.images(tmp_path / "b", seed=2, patients=9)
    mixed = tmp_path / "mixed"
    shutil.copytree(other, mixed)
    shutil.copytree(first, mixed, dirs_exist_ok=True)
    one = add(first, tmp_path, "one", IMAGES, key=KEY)
    add(mixed, tmp_path, "two", IMAGES, key=KEY)
    # Without the patients of `one` too, those of `two` have spent what they have spent.
    alone = add(other, tmp_path, "two", IMAGES, key=KEY, replace=True)
    assert alone.pseudonym == one.pseudonym
    # Nor does a data set leave its patients' past behind when others take its place.
    third = phantom.images(tmp_path / "c", seed=3, patients=9)
    for name in ("one", "two"):
        add(third, tmp_path, name, IMAGES, key=KEY, replace=True)
    assert add(first, tmp_path, "new", IMAGES, key=KEY).pseudonym == one.pseudonym


def test_a_tiny_site_with_one_class_can_take_part_and_is_told(tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=3, classes=["nodule"])
    cohort = add(source, tmp_path, "tiny", IMAGES, key=KEY)
    codes = {finding.code for finding in cohort.findings}
    assert codes == {"one-class", "few-patients"}
    patients = {p: {s.patient for s in cohort.samples(p)} for p in ("train", "held_out")}
    assert (len(patients["train"]), len(patients["held_out"])) == (2, 1)


def test_one_patient_trains_and_nobody_is_held_out(tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=1, images_per_patient=(3, 3))
    cohort = add(source, tmp_path, "one", IMAGES, key=KEY)
    assert len(cohort.samples("train")) == 3
    assert "no-held-out" in {finding.code for finding in cohort.findings}


def test_names_and_kinds_are_checked(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a-z, 0-9"):
        add(sources[IMAGES], tmp_path, "../escape", IMAGES, key=KEY)
    with pytest.raises(DataError, match="unknown kind"):
        add(sources[IMAGES], tmp_path, "one", "audio", key=KEY)
    with pytest.raises(DataError, match="no such folder"):
        add(tmp_path / "nowhere", tmp_path, "one", IMAGES, key=KEY)
    with pytest.raises(DataError, match="there is no data set 'one'"):
        Cohort.load(tmp_path, "one")


def test_size_fits_every_picture(tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=8)
    phantom.images(source, seed=2, patients=3, size=40)
    strict = add(source, tmp_path, "plain", IMAGES, key=KEY)
    assert {f.code for f in strict.findings} >= {"size-differs"}
    assert strict.summary()["shapes"] == {"64x64": len(strict.manifest.entries)}
    fitted = add(source, tmp_path, "fitted", IMAGES, key=KEY, options=Options(size=(32, 48)))
    shapes = {fitted.read(sample).shape for sample in fitted.samples("train")}
    assert shapes == {(1, 32, 48)}
    assert Cohort.load(tmp_path, "fitted").options == fitted.options


def test_nothing_may_be_left_out_when_the_policy_says_so(tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=8)
    (source / "clear" / "MRN0010099_01.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 cannot be used"):
        add(source, tmp_path, "one", IMAGES, key=KEY, options=Options(whole=True))
    assert names(tmp_path) == ()
    assert add(source, tmp_path, "one", IMAGES, key=KEY).manifest.findings == (
        ("empty", 1),
        ("few-patients", 1),
    )
