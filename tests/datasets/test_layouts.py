"""Layouts: every way a hospital lays out its files gives the same items, classes and patients."""

import csv
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wardround.datasets import phantom
from wardround.datasets.cohort import Cohort, add
from wardround.datasets.cohort_options import Options
from wardround.datasets.cohort_split import split
from wardround.datasets.errors import DataError
from wardround.datasets.manifest import patient_pseudonym

KEY = bytes(range(32))
KIND = "image-classification-2d"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures named `<patient>_<nn>.png` in class folders."""
    folder = phantom.images(tmp_path_factory.mktemp("in"), seed=1, patients=12)
    return sorted(folder.rglob("*.png"))


def place(pictures: list[Path], folder: Path, name: str) -> Path:
    for path in pictures:
        patient, shot = path.stem.split("_")
        target = folder / name.format(label=path.parent.name, patient=patient, shot=shot)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


def parts(cohort: Cohort) -> list[tuple[str, str, str, str]]:
    return [(e.content, e.label, e.patient, e.split) for e in cohort.manifest.entries]


def write_list(folder: Path, rows: list[list[str]]) -> None:
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_all_layouts_mean_the_same(pictures: list[Path], tmp_path: Path) -> None:
    by_name = place(pictures, tmp_path / "a", "{label}/{patient}_{shot}.png")
    by_folder = place(pictures, tmp_path / "b", "{label}/{patient}/study/{shot}.png")
    by_pattern = place(pictures, tmp_path / "c", "{label}/img-{shot}-{patient}.png")
    by_list = place(pictures, tmp_path / "d", "all/{patient}-{shot}.png")
    rows = [["path", "label", "patient"]]
    for path in pictures:
        patient, shot = path.stem.split("_")
        rows.append([f"all/{patient}-{shot}.png", path.parent.name, patient])
    write_list(by_list, rows)
    pattern = Options(patient_pattern=r"-(?P<patient>MRN\d+)\.png$")
    cohorts = [
        add(by_name, tmp_path / "1", "x", KIND, key=KEY),
        add(by_folder, tmp_path / "2", "x", KIND, key=KEY),
        add(by_pattern, tmp_path / "3", "x", KIND, key=KEY, options=pattern),
        add(by_list, tmp_path / "4", "x", KIND, key=KEY),
    ]
    first, *others = [parts(cohort) for cohort in cohorts]
    assert len(first) == len(pictures)
    assert all(other == first for other in others)


def test_a_list_may_say_the_parts(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{patient}_{shot}.png")
    rows = [["path", "label", "patient", "split"]]
    for path in pictures:
        patient = path.stem.split("_")[0]
        word = ("Training", "val", "test")[int(patient[-1]) % 3]
        rows.append([path.name, path.parent.name, patient, word])
    write_list(source, rows)
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    for part in ("train", "held_out"):
        for sample in cohort.samples(part):
            patient = Path(sample.paths[0]).stem.split("_")[0]
            assert (part == "train") == (int(patient[-1]) % 3 == 0)
    rows[1][3] = "someday"
    write_list(source, rows)
    with pytest.raises(DataError, match="train or test"):
        add(source, tmp_path, "y", KIND, key=KEY)


def test_a_list_cannot_put_a_patient_into_two_parts(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{patient}_{shot}.png")
    rows = [["path", "label", "patient", "split"]]
    for number, path in enumerate(pictures):
        patient = path.stem.split("_")[0]
        rows.append([path.name, path.parent.name, patient, ("train", "test")[number % 2]])
    write_list(source, rows)
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    assert "split-patient" in {finding.code for finding in cohort.findings}
    train = {sample.patient for sample in cohort.samples("train")}
    held = {sample.patient for sample in cohort.samples("held_out")}
    assert train.isdisjoint(held)


def test_gaps_and_lies_in_a_list_are_said(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{patient}_{shot}.png")
    good = [[p.name, p.parent.name, p.stem.split("_")[0]] for p in pictures[3:]]
    bad = [
        ["absent.png", "clear", "P"],
        ["../../secret.png", "clear", "P"],
        ["/etc/passwd", "clear", "P"],
        [pictures[0].name, "", "P"],
        [pictures[1].name, "clear", ""],
        ["", "clear", "P"],
    ]
    write_list(source, [["path", "label", "patient"], *good, *bad])
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    codes = sorted(f.code for f in cohort.findings if f.level == "left out")
    assert codes == ["missing", "missing", "missing", "no-label", "no-patient", "outside"]
    assert len(cohort.manifest.entries) == len(good)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "path,label\n\xff\xfe"])
def test_a_list_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="the list"):
        add(tmp_path, tmp_path / "home", "x", KIND, key=KEY)


def test_files_without_patients_stand_for_themselves(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{label}/{patient}{shot}.png")
    (source / pictures[0].parent.name / "copy.png").write_bytes(pictures[0].read_bytes())
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    assert {"patients-unknown"} <= {finding.code for finding in cohort.findings}
    assert len({entry.patient for entry in cohort.manifest.entries}) == len(pictures)


def test_duplicates_are_found_by_their_pixels(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{label}/{patient}_{shot}.png")
    first, second, third = [path for path in pictures if path.stem.endswith("_01")][:3]
    other = next(p for p in pictures if p.parent != third.parent)
    with Image.open(first) as picture:  # the same picture in another file format
        picture.save(source / first.parent.name / f"{first.stem}9.bmp")
    (source / second.parent.name / "MRN7777777_01.png").write_bytes(second.read_bytes())
    target = source / other.parent.name / third.name
    target.write_bytes(third.read_bytes())
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    found = sorted(f.code for f in cohort.findings if f.code.startswith("duplicate"))
    assert found == ["duplicate", *["duplicate-label"] * 2, *["duplicate-patient"] * 2]


def test_links_files_and_noise_do_not_stop_the_rest(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{label}/{patient}_{shot}.png")
    secret = tmp_path / "secret.png"
    secret.write_bytes(pictures[0].read_bytes())
    clear = source / "clear"
    (clear / "P1_1.png").symlink_to(secret)
    (clear / "P2_1.png").symlink_to(tmp_path / "nowhere")
    (clear / "P3_1.png").write_bytes(b"")
    (clear / "P4_1.png").write_bytes(pictures[0].read_bytes()[:200])
    (clear / "P5_1.pdf.png").write_bytes(b"%PDF-1.4")
    with (clear / "P6_1.png").open("wb") as file:
        file.truncate(4 * 2**30)
    (clear / ".DS_Store").write_bytes(b"x")
    (clear / "README.txt").write_bytes(b"x")
    (source / "stray.png").write_bytes(b"x")
    (source / "up").symlink_to(tmp_path)
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    left_out = {f.where: f.code for f in cohort.findings if f.level == "left out"}
    assert left_out == {
        "clear/P1_1.png": "outside",
        "clear/P2_1.png": "outside",
        "clear/P3_1.png": "empty",
        "clear/P4_1.png": "truncated",
        "clear/P5_1.pdf.png": "not-an-image",
        "clear/P6_1.png": "too-large",
        "stray.png": "no-label",
        "up": "linked-folder",
    }
    assert len(cohort.manifest.entries) == len(pictures)


def test_a_class_is_named_in_plain_text(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{label}/{patient}_{shot}.png")
    (source / "clear\n\x1b[2J").mkdir()
    (source / "clear\n\x1b[2J" / "P1_1.png").write_bytes(pictures[0].read_bytes())
    os.mkdir(os.fsencode(source) + b"/cl\xe9")  # a name of another encoding
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    assert [f.code for f in cohort.findings if f.level == "left out"] == ["class-name"]
    assert all(name.isprintable() for name in cohort.classes)
    assert len(cohort.manifest.entries) == len(pictures)


def test_a_folder_that_cannot_be_listed_is_said(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = place(pictures, tmp_path / "in", "{label}/{patient}_{shot}.png")
    closed = source / "clear" / "closed"
    closed.mkdir()
    look_into = os.scandir

    def scandir(path: Any) -> Any:
        if os.fspath(path) == os.fspath(closed):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return look_into(path)

    monkeypatch.setattr(os, "scandir", scandir)
    cohort = add(source, tmp_path, "x", KIND, key=KEY)
    left_out = [(f.code, f.where) for f in cohort.findings if f.level == "left out"]
    assert left_out == [("locked-folder", "clear/closed")]
    assert len(cohort.manifest.entries) == len(pictures)


@pytest.mark.parametrize("typed", ["mrn 7", " MRN  7 ", "MRN 7\0"])
def test_a_record_number_is_the_same_however_it_is_typed(typed: str) -> None:
    assert patient_pseudonym(KEY, typed) == patient_pseudonym(KEY, "MRN 7")
    assert patient_pseudonym(KEY, typed) != patient_pseudonym(KEY, "MRN 70")


def test_a_class_nobody_has_here_is_still_a_class(pictures: list[Path], tmp_path: Path) -> None:
    source = place(pictures, tmp_path / "in", "{label}/{patient}_{shot}.png")
    (source / "rare").mkdir()
    assert "rare" in add(source, tmp_path, "x", KIND, key=KEY).classes
    options = Options(classes=("nodule", "clear", "cavity", "plague"))
    chosen = add(source, tmp_path, "y", KIND, key=KEY, options=options)
    assert chosen.classes == options.classes
    assert "class-unknown" in {f.code for f in chosen.findings}
    assert "fibrosis" not in {sample.label for sample in chosen.samples("train")}
    with pytest.raises(DataError, match="each named once"):
        Options(classes=("a", "a"))


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one folder a class"):
        add(tmp_path, tmp_path / "home", "x", KIND, key=KEY)


patients = st.dictionaries(
    st.text("0123456789abcdef", min_size=4, max_size=8),
    st.sampled_from(["", "a", "b", "c"]),
    min_size=1,
    max_size=60,
)


@given(patients, st.fractions(0, 1).filter(lambda share: share < 1), st.binary(max_size=32))
def test_every_split_is_fair_and_leaves_somebody_to_train(
    classes: dict[str, str], share: Fraction, key: bytes
) -> None:
    parts = split(classes, share, key)
    assert parts.keys() == classes.keys()
    assert parts == split(dict(reversed(classes.items())), share, key)
    for label in set(classes.values()):
        members = [p for p in classes if classes[p] == label]
        held = sum(parts[p] == "held_out" for p in members)
        assert held < len(members) or (held == len(members) < len(classes))
        if share == 0:
            assert held == 0
        elif len(members) >= 3:
            assert max(1, round(share * len(members)) - 1) <= held <= len(members) - 1
    assert "train" in parts.values()
    if share > 0 and len(classes) > 1:
        assert "held_out" in parts.values()


def test_another_key_splits_otherwise() -> None:
    classes = {f"p{n}": "a" for n in range(40)}
    assert split(classes, Fraction(1, 4), b"one") != split(classes, Fraction(1, 4), b"two")
