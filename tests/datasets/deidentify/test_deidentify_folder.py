"""Whole folders: names of outputs, the map, the report, resuming, two files with one UID."""

import csv
import hashlib
import io
import json
import os
import shutil
import stat

import pytest
from pydicom import dcmread
from pydicom.uid import UID
from typer import Typer
from typer.testing import CliRunner

from wardround.datasets.deid_cli import deidentify as command
from wardround.datasets.deidentify import Profile, deidentify_folder, load_profile, process
from wardround.datasets.deidentify.table import Option
from wardround.datasets.errors import DeidentificationError

app = Typer()
app.command()(command)
NAME = "Okonkwo"


@pytest.fixture
def folder(tmp_path, build):
    """Three slices of two series under a patient's name, a reference, and rubbish."""
    source = tmp_path / "in" / NAME
    source.mkdir(parents=True)
    for number in range(3):
        dataset = build.base()
        dataset.SOPInstanceUID = UID(f"1.2.826.0.1.3680043.99.2.{number}")
        dataset.ImagePositionPatient = [0, 0, number]
        if number == 2:
            dataset.SeriesInstanceUID = UID("1.2.826.0.1.3680043.99.1.77")
            item = type(dataset)()
            item.ReferencedSOPClassUID = UID(build.mr)
            item.ReferencedSOPInstanceUID = UID("1.2.826.0.1.3680043.99.2.0")
            dataset.ReferencedImageSequence = [item]
        (source / f"{NAME}-{number}.dcm").write_bytes(build.to_bytes(dataset))
    (source / "notes.txt").write_text(NAME)
    (source / "empty.dcm").write_bytes(b"")
    (source / "outside.dcm").symlink_to("/etc/hostname")
    return source.parent


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("WARDROUND_DEIDENTIFY_KEY", raising=False)
    monkeypatch.delenv("WARDROUND_SITE_HOME", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_the_command_works_alone_and_names_nobody(folder, tmp_path, invoke):
    output, report, mapping = tmp_path / "out", tmp_path / "r.json", tmp_path / "m.csv"
    aside = tmp_path / "q.csv"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = invoke(
        folder, output, "--report", report, "--map", mapping, "--quarantine", aside, "--jobs", 1
    )
    assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    files = sorted(output.glob("*.dcm"))
    assert len(files) == 3
    assert sorted(output.iterdir()) == files  # and nothing else
    [kept] = (tmp_path / "config" / "wardround" / "deidentified").iterdir()
    record = kept.read_text()
    assert sorted(json.loads(record)["files"]) == sorted(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    )
    for path in files:
        assert path.stem == dcmread(path).SOPInstanceUID
        assert dcmread(path).file_meta.MediaStorageSOPInstanceUID == path.stem
    text = report.read_text()
    for word in (NAME, "3680043", "MRN", ".dcm", "notes", str(tmp_path), "2.25."):
        assert word not in text
        assert word not in record
        assert word not in result.stdout
    counted = json.loads(text)
    assert counted["files"] == {"seen": 6, "passed": 3, "duplicates": 0, "quarantined": 3}
    assert set(counted["reasons"]) == {"empty", "not_dicom", "link"}
    rows = list(csv.DictReader(io.StringIO(mapping.read_text())))
    assert list(rows[0]) == ["input", "output"]
    assert sorted(row["output"] for row in rows) == [str(path) for path in files]
    assert all(NAME in row["input"] for row in rows)
    for private in (mapping, aside, tmp_path / "config" / "wardround" / "deidentify.key"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_references_between_files_still_hold(folder, tmp_path, build):
    run = deidentify_folder(folder, tmp_path / "out", profile=Profile(), key=build.key, jobs=1)
    made = {done.source.name: dcmread(done.output) for done in run.files if done.output}
    first, second, third = (made[f"{NAME}-{n}.dcm"] for n in range(3))
    assert first.StudyInstanceUID == second.StudyInstanceUID == third.StudyInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != third.SeriesInstanceUID
    assert first.FrameOfReferenceUID == third.FrameOfReferenceUID
    reference = third.ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == build.mr
    assert first.PatientID == third.PatientID == first.PatientName
    assert first.ImagePositionPatient == [0, 0, 0]
    assert first.PixelSpacing == [0.8, 0.7]


def test_another_key_gives_other_uids_and_the_same_key_the_same(folder, tmp_path, build):
    def names(output, key):
        deidentify_folder(folder, tmp_path / output, profile=Profile(), key=key, jobs=1)
        return {path.name for path in (tmp_path / output).iterdir()}

    assert names("a", build.key) == names("b", build.key)
    assert names("a", build.key).isdisjoint(names("c", bytes(32)))


def test_a_second_run_does_only_what_is_new(folder, tmp_path, build, monkeypatch):
    def run():
        return deidentify_folder(
            folder,
            tmp_path / "out",
            profile=Profile(),
            key=build.key,
            journal=tmp_path / "journal",
            jobs=1,
        )

    first = run()
    worked = []
    monkeypatch.setattr(
        process, "_run", lambda tasks, jobs: (worked.append(task) for task in tasks)
    )
    second = run()
    assert not worked
    assert second.report == first.report
    monkeypatch.undo()
    next((tmp_path / "out").iterdir()).unlink()
    assert run().report == first.report
    assert len(list((tmp_path / "out").iterdir())) == 3
    journal = "".join(path.read_text() for path in (tmp_path / "journal").iterdir())
    assert NAME not in journal
    assert "3680043" not in journal


def test_a_torn_journal_line_is_only_done_again(folder, tmp_path, build):
    def run():
        journal = tmp_path / "journal"
        return deidentify_folder(
            folder, tmp_path / "out", profile=Profile(), key=build.key, journal=journal, jobs=1
        )

    first = run()
    journal = next((tmp_path / "journal").iterdir())
    journal.write_text(journal.read_text()[:-40])
    assert run().report == first.report


def test_the_same_bytes_twice_are_one_file(folder, tmp_path, build):
    first = folder / NAME / f"{NAME}-0.dcm"
    shutil.copy(first, folder / "copy.dcm")
    run = deidentify_folder(folder, tmp_path / "out", profile=Profile(), key=build.key, jobs=1)
    assert (run.report.passed, run.report.duplicates) == (3, 1)


def test_another_content_under_one_uid_gets_its_own(folder, tmp_path, build):
    dataset = build.base()
    dataset.SOPInstanceUID = UID("1.2.826.0.1.3680043.99.2.0")
    dataset.SliceThickness = "9"
    (folder / "other.dcm").write_bytes(build.to_bytes(dataset))
    run = deidentify_folder(folder, tmp_path / "out", profile=Profile(), key=build.key, jobs=1)
    assert run.report.passed == 4
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize("journalled", [True, False])
def test_the_results_do_not_depend_on_what_the_files_are_called(tmp_path, build, journalled):
    """Three contents that claim one UID, one of them twice, and a fourth file."""
    contents = []
    for thickness in ("1", "2", "3", "3", "4"):
        dataset = build.base()
        dataset.SliceThickness = thickness
        dataset.SOPInstanceUID = UID(f"1.2.826.0.1.3680043.99.5.{thickness == '4':d}")
        contents.append(build.to_bytes(dataset))

    def results(name, order):
        for number, content in enumerate(order):
            path = tmp_path / name / f"{number}.dcm"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        run = deidentify_folder(
            tmp_path / name,
            tmp_path / f"{name}-out",
            profile=Profile(),
            key=build.key,
            journal=tmp_path / "journal" if journalled else None,
            jobs=1,
        )
        assert (run.report.passed, run.report.duplicates) == (4, 1)
        for done in run.files:
            wanted = dcmread(done.source).SliceThickness
            assert dcmread(done.output).SliceThickness == wanted
        return {path.name: path.read_bytes() for path in (tmp_path / f"{name}-out").iterdir()}

    one, other = results("a", contents), results("b", contents[::-1])
    assert len(one) == 4
    assert one == other
    assert results("a", contents) == one  # once more, over the earlier results


def test_a_new_file_takes_no_name_from_an_earlier_result(folder, tmp_path, build):
    def run():
        journal = tmp_path / "journal"
        return deidentify_folder(
            folder, tmp_path / "out", profile=Profile(), key=build.key, journal=journal, jobs=1
        )

    run()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    dataset = build.base()
    dataset.SOPInstanceUID = UID("1.2.826.0.1.3680043.99.2.0")
    dataset.SliceThickness = "9"
    (folder / "0-comes-first.dcm").write_bytes(build.to_bytes(dataset))
    assert run().report.passed == 4
    after = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(after) == 4
    assert before.items() <= after.items()


def test_a_folder_that_cannot_be_looked_into_is_said(folder, tmp_path, build, monkeypatch):
    scandir = os.scandir

    def locked(place):
        if str(place).endswith(NAME):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", locked)
    run = deidentify_folder(folder, tmp_path / "out", profile=Profile(), key=build.key, jobs=1)
    assert run.report.passed == 0
    assert len(run.report.quarantined) == 1


def test_an_interrupted_run_leaves_no_half_file(folder, tmp_path, build):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    def run(on_file=None):
        return deidentify_folder(
            folder,
            tmp_path / "out",
            profile=Profile(),
            key=build.key,
            journal=tmp_path / "journal",
            jobs=1,
            on_file=on_file,
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    left = list((tmp_path / "out").iterdir())
    assert len(left) < 3
    assert all(dcmread(path).SOPInstanceUID == path.stem for path in left)
    assert run().report.passed == 3


def test_a_worker_that_dies_takes_only_its_own_file(folder, tmp_path, build, monkeypatch):
    monkeypatch.setattr(process, "_work", die_on_the_second)
    run = deidentify_folder(folder, tmp_path / "out", profile=Profile(), key=build.key, jobs=1)
    assert run.report.reasons()["crash"] == 1
    assert run.report.passed == 2


_WORK = process._work


def die_on_the_second(task):
    if task.source.name.endswith("-1.dcm"):
        os._exit(139)
    return _WORK(task)


@pytest.mark.parametrize("output", ["in/out", ".", "in"])
def test_folders_inside_each_other_are_refused(folder, tmp_path, build, output):
    with pytest.raises(DeidentificationError, match="inside each other"):
        deidentify_folder(folder, tmp_path / output, profile=Profile(), key=build.key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[options]\nretain_names = true", "no such option"),
        ("[options]\nretain_uids = 1", "true or false"),
        ("[options]\nretain_full_dates = true\nretain_modified_dates = true", "exclude"),
        ("boxes = [[0, 0, 5, 5]]", "clean_pixel_data"),
        ("boxes = [[5, 0, 5, 5]]\n[options]\nclean_pixel_data = true", "left < right"),
        ("max_file_mb = 0", "limits"),
        ("modality = ['MR']", "unknown entry"),
        ("not toml", "TOML"),
    ],
)
def test_a_wrong_profile_says_what_is_wrong(tmp_path, invoke, folder, text, words):
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(DeidentificationError, match=words):
        load_profile(path)
    result = invoke(folder, tmp_path / "out", "--profile", path)
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_a_profile_from_another_editor_is_read(tmp_path):
    path = tmp_path / "profile.toml"
    path.write_bytes(b"\xef\xbb\xbfmodalities = ['MR']\r\n[options]\r\nretain_uids = true\r\n")
    assert load_profile(path) == Profile(frozenset({Option.UIDS}), frozenset({"MR"}))
    path.write_bytes("[options]".encode("utf-16"))
    with pytest.raises(DeidentificationError, match="UTF-8"):
        load_profile(path)


def test_nothing_is_written_among_the_originals(tmp_path, invoke, folder):
    before = sorted(folder.rglob("*"))
    for option in ("--map", "--report", "--quarantine", "--key"):
        result = invoke(folder, tmp_path / "out", option, folder / NAME / f"{NAME}-0.dcm")
        assert result.exit_code == 1
        assert NAME not in result.output
    result = invoke(folder, tmp_path / "out", "--map", tmp_path / "missing" / "map.csv")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()
    assert sorted(folder.rglob("*")) == before
    result = invoke(folder, tmp_path / "out", "--map", tmp_path / "out" / "map.csv", "--jobs", 1)
    assert result.exit_code == 0
    assert "take it out" in " ".join(result.output.split())


def test_mistakes_get_one_line(tmp_path, invoke, folder):
    assert invoke(tmp_path / "missing", tmp_path / "out").exit_code == 1
    assert invoke(folder).exit_code == 2
    open_key = tmp_path / "open.key"
    open_key.write_text("00" * 32)
    open_key.chmod(0o644)
    result = invoke(folder, tmp_path / "out", "--key", open_key)
    assert result.exit_code == 1
    assert "chmod 600" in result.output


def test_json_is_the_report(tmp_path, invoke, folder):
    result = invoke(folder, tmp_path / "out", "--json", "--jobs", 1)
    assert json.loads(result.stdout)["files"]["passed"] == 3
