"""From the de-identifier's record to the manifest of a data set: what ties the two together."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from tests.datasets.test_cohort_dicom import KEY, picture, write
from typer import Typer
from typer.testing import CliRunner

from wardround.datasets import data_cli, deidentified
from wardround.datasets.cohort import Cohort, add
from wardround.datasets.deidentified import RECORD, RECORDS, Deidentified, Summary, report_digest
from wardround.datasets.deidentify.report import FORMAT
from wardround.datasets.errors import CohortInvalid, DataError
from wardround.datasets.manifest import load_manifest

KIND = "image-classification-2d"
REPORT = {
    "format": FORMAT,
    "edition": "2024b",
    "profile": {"options": []},
    "files": {"seen": 3, "passed": 3, "duplicates": 0, "quarantined": 0},
    "actions": {},
    "reasons": {},
}


def scans(folder: Path, count: int = 12) -> None:
    """Write CT slices of four patients, each with its class in the name of its folder."""
    for number in range(count):
        pixels = np.kron(picture(number), np.ones((4, 4), np.int16))
        label = ("well", "ill")[number % 2]
        name = f"P{number % 4}"
        write(folder / label / f"{name}_{number}.dcm", pixels, name, series=str(number + 1))


def record(home: Path) -> Path:
    """The one record of the site."""
    [found] = (home / RECORDS).iterdir()
    return found


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("WARDROUND_DEIDENTIFY_KEY", str(tmp_path / "deidentify.key"))
    (tmp_path / "data.key").write_bytes(KEY)
    os.chmod(tmp_path / "data.key", 0o600)
    app: Typer = data_cli.app

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"NO_COLOR": "1"})

    return run


@pytest.fixture
def clean(tmp_path: Path, type_in: Callable[..., Result]) -> Path:
    """The results of a run of the command, and a list that gives each its class."""
    scans(tmp_path / "in")
    made = type_in(
        "deidentify", tmp_path / "in", tmp_path / "clean", "--jobs", 1, "--report",
        tmp_path / "done.json", "--map", tmp_path / "map.csv",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    rows = [line.split(",") for line in (tmp_path / "map.csv").read_text().splitlines()[1:]]
    assert len(rows) == 12
    listed = "".join(f"{Path(out).name},{Path(old).parent.name}\n" for old, out in rows)
    (tmp_path / "clean" / "labels.csv").write_text("path,label\n" + listed)
    return tmp_path / "clean"


def test_nothing_has_to_be_typed(
    clean: Path, tmp_path: Path, type_in: Callable[..., Result]
) -> None:
    made = type_in("add", clean, "--name", "ct", "--home", tmp_path)
    assert made.exit_code == 0, made.output
    manifest = Cohort.load(tmp_path, "ct").manifest
    report = json.loads((tmp_path / "done.json").read_text())
    assert manifest.deidentification == report_digest(report)
    assert re.search(f"de-identified +{manifest.deidentification[:20]}", made.output)
    summary = deidentified.kept_summary(tmp_path / "datasets" / "ct", manifest.deidentification)
    assert summary == Summary.of(report)
    assert summary.counts[:4] == (
        ("files_seen", 12), ("files_written", 12), ("duplicates", 0), ("quarantined", 0),
    )  # fmt: skip
    assert (tmp_path / "datasets" / "ct" / RECORD).stat().st_mode & 0o077 == 0


def test_the_report_is_part_of_what_the_manifest_digest_names(clean: Path, tmp_path: Path) -> None:
    with_report = add(clean, tmp_path, "ct", KIND, key=KEY)
    record(tmp_path).unlink()
    without = add(clean, tmp_path, "ct", KIND, key=KEY, replace=True)
    assert without.manifest.deidentification == ""
    assert with_report.manifest.entries == without.manifest.entries
    assert with_report.digest() != without.digest()
    assert "deidentification" not in json.loads(without.manifest.header())


@pytest.mark.parametrize("attack", ["another file", "a file changed afterwards"])
def test_an_image_of_elsewhere_among_the_results(clean: Path, tmp_path: Path, attack: str) -> None:
    """An original put in beside the results, or in place of one, is not called de-identified."""
    if attack == "another file":
        scans(tmp_path / "more", 13)
        shutil.copy(tmp_path / "more" / "well" / "P0_12.dcm", clean / "late.dcm")
        with (clean / "labels.csv").open("a") as file:
            file.write("late.dcm,well\n")
    else:
        path = sorted(clean.glob("*.dcm"))[0]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    cohort = add(clean, tmp_path, "ct", KIND, key=KEY)
    assert cohort.manifest.deidentification == ""
    assert not (tmp_path / "datasets" / "ct" / RECORD).exists()
    [found] = [f for f in cohort.findings if f.code == "not-deidentified"]
    assert found.detail in ("1 of 13", "1 of 12")
    assert (found.level, cohort.manifest.findings) == (
        "warning",
        tuple(sorted({f.code: 1 for f in cohort.findings}.items())),
    )


def test_a_damaged_record_is_not_passed_over(clean: Path, tmp_path: Path) -> None:
    record(tmp_path).write_text('{"format":"other","report":{},"files":[]}')
    with pytest.raises(DataError, match="run data deidentify again"):
        add(clean, tmp_path, "ct", KIND, key=KEY)


def test_a_report_edited_at_the_site_is_not_stated(clean: Path, tmp_path: Path) -> None:
    digest = add(clean, tmp_path, "ct", KIND, key=KEY).manifest.deidentification
    kept = tmp_path / "datasets" / "ct" / RECORD
    kept.write_bytes(kept.read_bytes().replace(b'"quarantined":0', b'"quarantined":1'))
    with pytest.raises(CohortInvalid, match="lost or changed"):
        deidentified.kept_summary(kept.parent, digest)
    kept.unlink()
    with pytest.raises(CohortInvalid, match="lost or changed"):
        deidentified.kept_summary(kept.parent, digest)


def test_a_manifest_of_before_is_still_read(tmp_path: Path) -> None:
    scans(tmp_path / "in")
    made = add(tmp_path / "in", tmp_path, "ct", KIND, key=KEY)
    manifest = load_manifest(tmp_path / "datasets" / "ct" / "manifest.jsonl")
    assert (manifest, manifest.deidentification) == (made.manifest, "")


def test_a_series_counts_as_one_image_of_many_files(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "imagesTr" / "a" / f"{number}.dcm", picture(number), "P", place=number)
    write(tmp_path / "imagesTr" / "b" / "0.dcm", picture(9), "Q")
    files = sorted((tmp_path / "imagesTr" / "a").iterdir())
    images = ["imagesTr/a", "imagesTr/b"]
    for number, (written, lacks) in enumerate(((files, 1), (files[:2], 2), ([], 2))):
        home = tmp_path / str(number)
        Deidentified.of(REPORT, written).save(home)
        found, foreign = Deidentified.closest([home], tmp_path, images)
        assert (found is not None, foreign) == ((lacks < 2), lacks % 2)


def test_the_format_is_the_reports_own() -> None:
    assert deidentified.REPORT_FORMAT == FORMAT
