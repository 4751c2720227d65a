"""What hospitals' folders hold besides good files, through the commands that a person types.

A clear line each, nothing crashes, the rest is used, and nothing that may leave names anybody.
"""

import gzip
import io
import json
import os
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from typer.testing import CliRunner, Result

from wardround.client.cli import app
from wardround.datasets import phantom
from wardround.privacy.errors import WardroundError
from wardround.privacy.identity import write_private

NAME = "Okonkwo"
MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
CMS = bytes.fromhex("3082010006092a864886f70d010703a0") + bytes(300)
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    write_private(folder / "data.key", bytes(range(32)))
    return folder


def data(*words: object, home: Path) -> Result:
    """Type `wardround-site data ...`."""
    typed = ["data", *(str(word) for word in words)]
    return runner.invoke(app, typed, env={"WARDROUND_SITE_HOME": str(home)})


def dicom(number: int, modality: str = "MR", **header: Any) -> bytes:
    """One slice of an invented patient, 3 mm above the one before."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UID(MR if modality == "MR" else CT)
    dataset.SOPInstanceUID = UID(f"2.25.{number + 1}")
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = dataset.FrameOfReferenceUID = UID("2.25")
    dataset.Modality = modality
    dataset.PatientID, dataset.PatientName = f"MRN{number}", f"{NAME}^Adaeze"
    y, x = np.mgrid[:32, :32]
    pixels = (4 * x + 2 * y + number).astype(np.uint8)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 32, 32, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelSpacing = [1, 1]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, 3 * number]
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB"
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def deflate_bomb() -> bytes:
    """A hundred kilobytes that unpack to more than any image holds."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(MR), UID("2.25.9")
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    head = buffer.getvalue()
    length = int.from_bytes(head[140:144], "little")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join([squeeze.compress(bytes(1 << 20)) for _ in range(80)])
    return head[: 144 + length] + body + squeeze.flush()


def png_bomb() -> bytes:
    """A PNG whose header promises ten gigapixels."""

    def piece(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    body = piece(b"IHDR", head) + piece(b"IDAT", zlib.compress(bytes(1000))) + piece(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def traps(tmp_path: Path) -> Iterator[Any]:
    """Put what is no ordinary file into a folder: links out, a pipe, a socket."""
    secret = tmp_path / "another"
    secret.mkdir()
    (secret / "patient.dcm").write_bytes(dicom(77))
    opened: list[socket.socket] = []

    def put(folder: Path) -> None:
        (folder / f"{NAME}-link.dcm").symlink_to(secret / "patient.dcm")
        (folder / f"{NAME}-folder").symlink_to(secret)
        os.mkfifo(folder / f"{NAME}-pipe.dcm")
        made = socket.socket(socket.AF_UNIX)
        opened.append(made)
        before = Path.cwd()
        os.chdir(folder)  # a socket's path may have 107 bytes
        try:
            made.bind("socket.dcm")
        finally:
            os.chdir(before)

    yield put
    for each in opened:
        each.close()


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def test_deidentify_sets_each_aside_with_its_reason_and_passes_the_rest(
    tmp_path: Path, home: Path, traps: Any
) -> None:
    source, output = tmp_path / "in" / NAME, tmp_path / "out"
    source.mkdir(parents=True)
    good = dicom(1)
    wanted = {
        "truncated": good[: len(good) // 2],
        "encrypted": CMS,
        "modality": dicom(3, "CT"),
        "empty": b"",
        "not_dicom": b"PK\x03\x04" + bytes(300),
        "expands": deflate_bomb(),
    }
    (source / f"{NAME}.dcm").write_bytes(good)
    for reason, content in wanted.items():
        (source / f"{NAME}-{reason}.dcm").write_bytes(content)
    # Above the limit of the profile; every file set aside is hashed, and 4 GB would take a while.
    sparse(source / f"{NAME}-large.dcm", 40 << 20)
    traps(source)
    profile, report = tmp_path / "profile.toml", tmp_path / "report.json"
    profile.write_text('modalities = ["MR"]\nmax_file_mb = 32\n')
    result = data(
        "deidentify", source.parent, output, "--profile", profile, "--report", report, home=home
    )
    assert result.exit_code == 0, result.output
    assert len(list(output.iterdir())) == 1
    counted = json.loads(report.read_text())
    reasons = {reason: entry["files"] for reason, entry in counted["reasons"].items()}
    alone = dict.fromkeys(wanted, 1)
    assert reasons == {**alone, "too_large": 1, "link": 2, "special_file": 2}
    assert all(entry["meaning"] for entry in counted["reasons"].values())
    for text in (result.output, report.read_text()):
        assert NAME not in text
        assert "MRN" not in text


def test_pictures_that_cannot_be_used_get_a_line_each_and_the_rest_is_added(
    tmp_path: Path, home: Path, traps: Any
) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    folder = source / "clear"
    whole = next(folder.iterdir()).read_bytes()
    bad = {
        "truncated": whole[: len(whole) // 2],
        "encrypted": CMS,
        "not-an-image": b"PK\x03\x04" + bytes(300),
        "empty": b"",
        "bomb": png_bomb(),
        "dicom-refused": deflate_bomb(),
    }
    good = len(list(source.rglob("*.png")))
    for code, content in bad.items():
        (folder / f"{NAME}{code}_1.png").write_bytes(content)
    (folder / f"{NAME}report_1.dcm").write_bytes(dicom(5, PixelData=b""))
    sparse(folder / f"{NAME}large_1.png", 4 << 30)
    traps(folder)
    checked = data("check", source, "--json", home=home)
    assert checked.exit_code == 1
    lines = json.loads(checked.stdout)
    assert all(line["what"] and line["do"] for line in lines)
    found = Counter(line["code"] for line in lines if line["level"] == "left out")
    alone = dict.fromkeys(bad, 1)
    assert found == {
        **alone, "dicom-refused": 2, "too-large": 1, "outside": 1, "linked-folder": 1,
        "not-a-file": 2,
    }  # fmt: skip
    added = data("add", source, "--name", "chest", "--json", home=home)
    assert added.exit_code == 0, added.output
    assert json.loads(added.stdout)["samples"] == good
    manifest = (home / "datasets" / "chest" / "manifest.jsonl").read_text()
    assert NAME not in manifest


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("command", ["check", "add"])
def test_a_folder_without_one_good_file_gets_a_line_for_each(
    tmp_path: Path, home: Path, command: str, as_json: bool
) -> None:
    folder = tmp_path / "in" / "well"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}_1.png").write_bytes(b"")
    words = [*(["--name", "x"] if command == "add" else []), *(["--json"] if as_json else [])]
    result = data(command, tmp_path / "in", *words, home=home)
    assert result.exit_code == 1
    assert isinstance(result.exception, WardroundError)  # the site's `main` makes a line of it
    assert str(result.exception) == "nothing here can be used"
    assert all(f"well/{number}_1.png" in result.stdout for number in range(3))
    if as_json:
        assert [line["code"] for line in json.loads(result.stdout)] == ["empty"] * 3


def test_nothing_may_be_left_out_and_what_would_be_is_said(tmp_path: Path, home: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    (source / "clear" / "a_1.png").write_bytes(b"")
    result = data("add", source, "--name", "x", "--whole", home=home)
    assert result.exit_code == 1
    assert "clear/a_1.png: the file is empty" in result.stdout


def test_a_duplicate_is_said_with_its_twin(tmp_path: Path, home: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    first = next((source / "clear").iterdir())
    (source / "nodule" / "x_1.png").write_bytes(first.read_bytes())
    result = data("check", source, home=home)
    assert f"clear/{first.name}, as nodule/x_1.png: the same picture" in result.stdout
    assert f"nodule/x_1.png, as clear/{first.name}: the same picture" in result.stdout


def save(path: Path, voxels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), path)


def test_volumes_that_cannot_be_used_get_a_line_each_and_the_rest_is_added(
    tmp_path: Path, home: Path, traps: Any
) -> None:
    source = phantom.volumes(tmp_path / "in", seed=1, patients=3)
    (source / "dataset.json").unlink()
    images, labels = source / "imagesTr", source / "labelsTr"
    whole = next(images.glob("*.nii.gz")).read_bytes()
    files = {
        "truncated": whole[: len(whole) // 2],
        "bomb": whole + gzip.compress(bytes(64 << 20)),
        "empty": b"",
        "encrypted": CMS,
        "not-a-volume": b"PK\x03\x04" + bytes(300),
    }
    for code, content in files.items():
        (images / f"{NAME}{code}.nii.gz").write_bytes(content)
    sparse(images / f"{NAME}large.nii", 4 << 30)
    slices = {
        "mixed-orientation": dicom(1, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        "mixed-modality": dicom(1, "CT"),
        "mixed-patient": dicom(1, PatientID="MRN0x"),
        "cut-off": dicom(1)[:700],
        "no-bytes": b"",
    }
    for code, second in slices.items():
        series = images / f"{NAME}{code}"
        series.mkdir()
        (series / "1").write_bytes(dicom(0, PatientID="MRN1"))
        (series / "2").write_bytes(second)
    for name in [f"{NAME}{code}" for code in [*files, "large", *slices]]:
        save(labels / f"{name}.nii.gz", np.ones((32, 32, 2), np.uint8))
    traps(images)
    for name in (f"{NAME}-link.dcm", f"{NAME}-folder", f"{NAME}-pipe.dcm", "socket.dcm"):
        save(labels / f"{name}.nii.gz", np.ones((32, 32, 2), np.uint8))
    words = ("--classes", "background,head,tail")
    checked = data("check", source, *words, "--json", home=home)
    assert checked.exit_code == 1
    lines = [line for line in json.loads(checked.stdout) if line["level"] == "left out"]
    assert all(line["what"] and line["do"] for line in lines)
    found = Counter(line["code"] for line in lines)
    alone = dict.fromkeys(files, 1)
    assert found == {
        **alone, "empty": 2, "too-large": 1, "outside": 2, "not-a-file": 2,
        "dicom-refused": len(slices) - 1,
    }  # fmt: skip
    said = {line["where"].removeprefix(f"imagesTr/{NAME}"): line["what"] for line in lines}
    assert "several orientations" in said["mixed-orientation/1"]
    assert "several modalities" in said["mixed-modality/2"]
    assert "several patients" in said["mixed-patient/2"]
    for code in ("cut-off", "no-bytes"):
        assert "file 2 of 2 by name" in said[f"{code}/2"]
    added = data("add", source, "--name", "organ", *words, "--json", home=home)
    assert json.loads(added.stdout)["samples"] == 3
    codes = {line["code"] for line in json.loads(checked.stdout)}
    assert "few-patients" in codes  # three patients can take part, and are told


def test_a_table_of_three_patients_one_class_and_a_new_category(tmp_path: Path, home: Path) -> None:
    (tmp_path / "schema.toml").write_text(
        '[target]\ncolumn = "died"\nclasses = { no = ["0"], yes = ["1"] }\n'
        '[table]\npatient = "who"\n'
        '[columns]\nage = { type = "number", range = [18, 110] }\n'
        'ward = { type = "category", categories = ["a", "b"] }\n'
    )
    table = tmp_path / "records.csv"
    rows = [(f"{NAME}{n}", 50 + n, "ab"[n % 2], 0) for n in range(3)]
    rows.append((f"{NAME}9", 60, "intensive", 0))
    lines = ["who,age,ward,died", *(",".join(map(str, row)) for row in rows)]
    table.write_text("\n".join(lines) + "\n")
    checked = data("check", table, "--json", home=home)
    assert checked.exit_code == 1
    found = {line["code"]: line for line in json.loads(checked.stdout)}
    assert {"value-category", "one-class", "few-patients"} <= set(found)
    assert found["value-category"]["where"] == "row 4"
    assert "agree on a new schema" in found["value-category"]["do"]
    added = data("add", table, "--name", "records", "--json", home=home)
    assert json.loads(added.stdout)["samples"] == 3
    assert NAME not in checked.output + added.output


@pytest.mark.parametrize("kind", ["check", "add"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, CMS, b"who,age\n" * 3])
def test_a_table_that_is_none_is_one_line(
    content: bytes, kind: str, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "schema.toml").write_text(
        '[target]\ncolumn = "died"\nclasses = { no = ["0"], yes = ["1"] }\n'
        '[columns]\nage = { type = "number", range = [18, 110] }\n'
    )
    table = tmp_path / f"{NAME}.csv"
    table.write_bytes(content)
    words = ("--name", "x") if kind == "add" else ()
    result = data(kind, table, *words, home=home)
    assert isinstance(result.exception, WardroundError)
    assert "\n" not in str(result.exception)
    assert NAME not in str(result.exception)
