"""Tricks with the bundle as a file: what it says it is, what is in it, where it ends."""

import json
import zipfile
from pathlib import Path

import pytest
from audit_forger import Forger, found
from audit_study import ORIGIN, Evidence, Study

from wardround.privacy import canonical
from wardround.privacy.bundle import MANIFEST
from wardround.privacy.verify.cli import run


@pytest.fixture
def forger(study: Study, evidence: Evidence) -> Forger:
    return Forger(study, evidence)


@pytest.fixture
def own(evidence: Evidence, tmp_path: Path) -> list[str]:
    """The auditor's own files, as arguments."""
    (tmp_path / "policy.txt").write_text(evidence.policy)
    (tmp_path / "site.note").write_bytes(evidence.pin)
    return ["--policy", f"{tmp_path}/policy.txt", "--pin", f"{tmp_path}/site.note", "--replay"]


@pytest.mark.parametrize("change", [{"size": 5}, {"size": "5"}, {"extra": 1}, {"run": 1}], ids=str)
def test_a_manifest_that_lies_about_the_log(
    forger: Forger, tmp_path: Path, change: dict[str, canonical.Json]
) -> None:
    value = canonical.loads_object(forger.manifest)
    forger.manifest = canonical.dumps({**value, **change})
    result = forger.verify(tmp_path, pins=[forger.evidence.pin], replay=True)
    assert result.status == "tampered"
    assert found(result, "bundle")


def test_a_bundle_of_a_run_that_is_not_in_it(forger: Forger, tmp_path: Path) -> None:
    value = canonical.loads_object(forger.manifest)
    forger.manifest = canonical.dumps({**value, "run": "run-2"})
    result = forger.verify(tmp_path, pins=[forger.evidence.pin], replay=True)
    assert result.status == "incomplete"
    assert found(result, "run")


def test_uploads_of_two_rounds_swapped_are_seen_without_replaying(
    forger: Forger, tmp_path: Path
) -> None:
    one, two = sorted(forger.blobs)[:2]
    forger.blobs[one], forger.blobs[two] = forger.blobs[two], forger.blobs[one]
    result = forger.verify(tmp_path, pins=[forger.evidence.pin])
    assert result.status == "tampered"
    assert found(result, "blob")


def test_a_file_smuggled_in_as_an_upload(forger: Forger, tmp_path: Path) -> None:
    forger.blobs["0" * 64] = b"patients.csv"
    result = forger.verify(tmp_path, pins=[forger.evidence.pin], replay=True)
    assert result.status == "tampered"
    assert any("an update that names it" in finding.expected for finding in result.findings)


def test_the_envelope_of_one_site_under_the_entry_of_another(
    forger: Forger, tmp_path: Path
) -> None:
    one, two = forger.find("update", "a"), forger.find("update", "b")
    first, second = json.loads(forger.leaves[one]), json.loads(forger.leaves[two])
    first["statement"], second["statement"] = second["statement"], first["statement"]
    forger.leaves[one], forger.leaves[two] = canonical.dumps(first), canonical.dumps(second)
    result = forger.rederive().seal().verify(tmp_path)
    assert result.status == "tampered"


def test_a_cosignature_moved_to_another_size(forger: Forger, tmp_path: Path) -> None:
    text, lines = forger.notes[-2].split("\n\n")
    witness = [line for line in forger.notes[-1].split("\n") if "/witness/" in line]
    own_lines = [line for line in lines.split("\n") if line and "/witness/" not in line]
    forger.notes[-2] = "\n".join([text, "", *own_lines, *witness, ""])
    result = forger.verify(tmp_path)
    assert found(result, "cosignature", forger.checkpoint(-2).size - 1)


def test_a_checkpoint_of_another_origin(forger: Forger, tmp_path: Path) -> None:
    forger.notes.append(forger.notes[-1].replace(ORIGIN, "elsewhere.example/log"))
    assert found(forger.verify(tmp_path), "checkpoint")


def test_a_bundle_cut_off_at_each_boundary(
    evidence: Evidence, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = evidence.bundle.read_bytes()
    with zipfile.ZipFile(evidence.bundle) as archive:
        starts = [info.header_offset for info in archive.infolist()]
        cuts = {0, 1, *starts, archive.start_dir, archive.start_dir + 46, len(data) - 22}
    for cut in sorted(cuts | {len(data) - 1}):
        path = tmp_path / "cut.zip"
        path.write_bytes(data[:cut])
        assert run([str(path), *own]) == 1
        captured = capsys.readouterr()
        assert captured.out.splitlines()[-1] == "tampered: 1 finding"
        assert captured.err == ""


def test_one_damaged_byte_anywhere_is_seen_or_changes_nothing(
    evidence: Evidence, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No byte of a bundle makes the verifier fail, nor believe anything but the same content."""
    data = evidence.bundle.read_bytes()
    with zipfile.ZipFile(evidence.bundle) as archive:
        right = {name: archive.read(name) for name in archive.namelist()}
    for at in range(7, len(data), len(data) // 60):
        path = tmp_path / "damaged.zip"
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :])
        status = run([str(path), *own])
        assert capsys.readouterr().err == ""
        if status == 0:
            with zipfile.ZipFile(path) as archive:
                assert {name: archive.read(name) for name in archive.namelist()} == right


def test_a_member_that_unpacks_to_more_than_its_directory_says(
    forger: Forger, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forger.write(tmp_path / "bundle.zip")
    with zipfile.ZipFile(path) as archive:
        at = archive.start_dir
        size = archive.getinfo(MANIFEST).file_size
    data = bytearray(path.read_bytes())
    assert int.from_bytes(data[at + 24 : at + 28], "little") == size
    data[at + 24 : at + 28] = (size - 1).to_bytes(4, "little")
    path.write_bytes(data)
    assert run([str(path), *own]) == 1
    assert capsys.readouterr().err == ""


def test_what_cannot_be_read_is_named(
    evidence: Evidence, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several files of the auditor's, the message says which."""
    (tmp_path / "empty.pin").write_bytes(b"")
    assert run([str(evidence.bundle), *own, "--pin", str(tmp_path / "empty.pin")]) == 3
    assert "empty.pin: " in capsys.readouterr().err
    assert run([str(tmp_path), *own]) == 3
    assert f"{tmp_path}: Is a directory" in capsys.readouterr().err
