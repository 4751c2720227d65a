"""`wardround-site data`: what a person sees, exit codes, and that names stay on the terminal."""

import io
import json
import re
import stat
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from wardround.datasets import contact_sheet, phantom, phantom_dicom
from wardround.datasets.cohort import look
from wardround.datasets.data_cli import app, guess_kind
from wardround.datasets.errors import DataError
from wardround.privacy.identity import write_private

runner = CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site's folder, as `wardround-site init` leaves it for this part."""
    folder = tmp_path / "site"
    folder.mkdir()
    write_private(folder / "data.key", bytes(range(32)))
    return folder


def run(*args: object, home: Path) -> Result:
    return runner.invoke(app, [str(arg) for arg in args], env={"WARDROUND_SITE_HOME": str(home)})


def test_add_list_show_and_check(home: Path, tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    added = run("add", source, "--name", "chest", home=home)
    assert added.exit_code == 0, added.output
    assert re.search(r"patients\s+15", added.output)
    listed = run("list", home=home)
    assert "chest" in listed.output
    assert max(len(line) for line in listed.output.splitlines()) <= 80
    shown = run("show", "chest", home=home)
    assert shown.exit_code == 0
    sheet = home / "datasets" / "chest" / "sheet.png"
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    with Image.open(sheet) as picture:
        assert picture.width == 1100
    checked = run("check", "chest", home=home)
    assert checked.exit_code == 0
    assert "as they were added" in checked.output
    next(source.rglob("*.png")).unlink()
    checked = run("check", "chest", home=home)
    assert checked.exit_code == 1
    assert "1 of" in checked.output


def test_check_says_what_is_wrong_where_and_what_to_do(home: Path, tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    (source / "clear" / "MRN0010001_99.png").write_bytes(b"")
    result = run("check", source, home=home)
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert "clear/MRN0010001_99.png: the file is empty (zero bytes)." in text
    assert "export it again" in text
    assert list((home).iterdir()) == [home / "data.key"]
    as_json = json.loads(run("check", source, "--json", home=home).stdout)
    assert as_json == [
        {
            "level": "left out",
            "code": "empty",
            "where": "clear/MRN0010001_99.png",
            "what": "the file is empty (zero bytes)",
            "do": "export it again",
        }
    ]


def test_names_cannot_write_to_the_terminal(home: Path, tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    (source / "clear" / "[bold]MRN9\x1b[2J_1.png").write_bytes(b"")
    result = run("check", source, home=home)
    assert "\x1b" not in result.output
    assert "[bold]MRN9?[2J_1.png" in result.output


def test_a_file_gone_since_cannot_write_to_the_terminal_either(home: Path, tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    odd = next(source.rglob("*.png")).rename(source / "clear" / "a\x1b[2J_1.png")
    run("add", source, "--name", "x", home=home)
    odd.unlink()
    result = run("check", "x", home=home)
    assert "clear/a?[2J_1.png" in result.output
    assert "\x1b" not in result.output


def test_one_table_that_moved_does_not_hide_the_other_data_sets(home: Path, tmp_path: Path) -> None:
    table = phantom.table(tmp_path / "in", seed=1, patients=30)
    pictures = phantom.images(tmp_path / "pictures", seed=1, patients=15)
    run("add", table, "--name", "records", home=home)
    run("add", pictures, "--name", "chest", home=home)
    table.rename(tmp_path / "moved.csv")
    result = run("list", home=home)
    assert result.exit_code == 1
    assert re.search(r"chest +image-classification-2d", result.output)
    assert re.search(r"unusable +records: the table cannot be used: the file is", result.output)
    told = json.loads(run("list", "--json", home=home).stdout)
    assert [entry["name"] for entry in told] == ["chest", "records"]
    assert "the file is not there" in told[1]["error"]


def test_an_interrupted_add_says_how_to_go_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wardround.datasets.cohort.add", interrupted)
    source = phantom.images(tmp_path / "in", seed=1, patients=1)
    result = run("add", source, "--name", "x", home=home)
    assert result.exit_code == 130
    assert "the same command goes on" in result.output


def test_names_on_the_sheet_are_no_formulas(
    home: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    (source / "clear").rename(source / "$\\frac$")
    (source / "nodule").rename(source / "\u6b63\u5e38")  # the font has no such letters
    sheet = tmp_path / "x.png"
    sheet.touch(0o644)
    result = run("show", source, "--out", sheet, home=home)
    assert result.exit_code == 0, result.exception
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    assert not [each for each in recwarn if issubclass(each.category, UserWarning)]


def test_a_sheet_that_cannot_be_drawn_leaves_none(home: Path, tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    run("add", source, "--name", "x", home=home)
    for path in source.rglob("*.png"):
        path.unlink()
    assert run("show", "x", home=home).exit_code == 1
    assert not (home / "datasets" / "x" / "sheet.png").exists()


def test_json_output_of_every_command(home: Path, tmp_path: Path) -> None:
    source = phantom.table(tmp_path / "in", seed=1, patients=30)
    added = json.loads(run("add", source, "--name", "rec", "--json", home=home).stdout)
    assert added["kind"] == "tabular"
    assert json.loads(run("list", "--json", home=home).stdout) == [added]
    sheet = tmp_path / "x.png"
    shown = json.loads(run("show", "rec", "--out", sheet, "--json", home=home).stdout)
    assert shown == {**added, "sheet": str(sheet)}
    checked = json.loads(run("check", "rec", "--json", home=home).stdout)
    assert checked == {"samples": added["samples"], "changed": 0, "digest": added["digest"]}


@pytest.mark.parametrize("kind", ["images", "volumes", "table"])
def test_show_draws_a_folder_too(kind: str, home: Path, tmp_path: Path) -> None:
    if kind == "images":
        source = phantom.images(tmp_path / "in", seed=1, patients=10)
    elif kind == "volumes":
        source = phantom.volumes(tmp_path / "in", seed=1, patients=3)
    else:
        source = phantom.table(tmp_path / "in", seed=1, patients=20)
    sheet = tmp_path / "sheet.png"
    assert run("show", source, "--out", sheet, home=home).exit_code == 0
    with Image.open(io.BytesIO(sheet.read_bytes())) as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["add", "nowhere/at-all", "--name", "x"], "no such folder or table"),
        (["add", "{in}", "--name", "x", "--size", "big"], "height x width"),
        (["add", "{in}", "--name", "x", "--spacing", "1,1"], "three numbers"),
        (["add", "{in}", "--name", "x", "--held-out", "many"], "a number such as"),
        (["add", "{in}", "--name", "x", "--held-out", "1"], "below 1"),
        (["add", "{in}", "--name", "x", "--patient-pattern", "("], "regular expression"),
        (["add", "{in}", "--name", "x", "--patient-pattern", "a"], r"needs a group"),
        (["add", "{in}", "--name", "x", "--kind", "audio"], "unknown kind"),
        (["show", "{in}"], "--out"),
        (["show", "nothing"], "there is no data set"),
        (["check", "nothing"], "there is no data set"),
    ],
)
def test_a_mistake_is_one_line(args: list[str], message: str, home: Path, tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=4)
    result = run(*(arg.replace("{in}", str(source)) for arg in args), home=home)
    assert isinstance(result.exception, DataError)
    assert re.search(message, str(result.exception))
    assert "\n" not in str(result.exception)


def test_adding_needs_a_site(tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=4)
    result = run("add", source, "--name", "x", home=tmp_path / "none")
    assert isinstance(result.exception, DataError)
    assert "wardround-site init" in str(result.exception)


def test_kinds_are_guessed(tmp_path: Path) -> None:
    assert guess_kind(phantom.images(tmp_path / "a", seed=1, patients=2)) == (
        "image-classification-2d"
    )
    assert guess_kind(phantom.volumes(tmp_path / "b", seed=1, patients=1)) == "segmentation-3d"
    assert guess_kind(phantom.table(tmp_path / "c", seed=1, patients=2)) == "tabular"


def test_many_findings_are_cut_short(home: Path, tmp_path: Path) -> None:
    source = phantom.images(tmp_path / "in", seed=1, patients=15)
    for number in range(60):
        (source / "clear" / f"MRN{number}_1.png").write_bytes(b"no picture")
    (source / "nodule" / "MRN1_1.png").write_bytes(b"")
    result = run("check", source, home=home)
    assert "50 more" in result.output
    assert "nodule/MRN1_1.png: the file is empty" in result.output  # one of another kind is seen
    assert len(result.output.splitlines()) < 40


def test_the_sheet_counts_the_volumes_that_have_each_class(tmp_path: Path) -> None:
    source = phantom.volumes(tmp_path / "in", seed=1, patients=5)
    first = sorted((source / "labelsTr").iterdir())[0]
    mask = nibabel.load(first)
    voxels = np.asarray(mask.dataobj)
    nibabel.save(nibabel.Nifti1Image(np.minimum(voxels, 1), mask.affine), first)
    names, seen, title = contact_sheet._marked(look(source, "segmentation-3d"))
    assert names[0] == "background"
    assert sum(seen["train"].values()) + sum(seen["held_out"].values()) == 5 * len(names) - 1
    assert seen["train"][names[2]] + seen["held_out"][names[2]] == 4
    assert title == "Volumes with each class"


def test_show_draws_a_folder_whose_classes_are_typed(home: Path, tmp_path: Path) -> None:
    source = phantom_dicom.series(tmp_path / "in", seed=1, patients=2, size=16)
    words = ("--classes", ",".join(phantom.TISSUES), "--out", tmp_path / "x.png")
    assert run("show", source, *words, home=home).exit_code == 0
    assert (tmp_path / "x.png").is_file()
