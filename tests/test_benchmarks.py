"""How benchmarks are run, and what their results file holds."""

import io
import json
from pathlib import Path

import benchmarks.__main__ as runner
import pytest
from benchmarks.results import FIELDS, load, record
from rich.console import Console

ROW = {
    "name": "a step", "value": 1.5, "unit": "s", "compared_to": "plain", "ratio": 1.25,
    "goal": 1.4, "met": True,
}  # fmt: skip
GOOD = """
from pathlib import Path
import os, sys
sys.path.insert(0, {repository!r})
from benchmarks.results import record
print("measuring", *sys.argv[1:])
record([{row!r}], "good")
"""


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    record([ROW, {**ROW, "name": "another"}], "one", path)
    record([ROW], "two", path)
    record([{**ROW, "value": 2.0, "section": "one"}], "one", path)
    rows = json.loads(path.read_text())
    found = [(row["name"], row["value"]) for row in rows]
    assert found == [("two: a step", 1.5), ("one: a step", 2.0)]
    assert all(tuple(row) == FIELDS for row in rows)
    assert load(path) == rows
    assert [one.name for one in path.parent.iterdir()] == ["results.json"]


def test_a_name_that_begins_with_its_section_is_kept(tmp_path: Path) -> None:
    record([{**ROW, "name": "heart, pooled"}], "heart", tmp_path / "r.json")
    assert load(tmp_path / "r.json")[0]["name"] == "heart, pooled"


def test_a_row_without_a_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="goal"):
        record([{k: v for k, v in ROW.items() if k != "goal"}], "one", tmp_path / "r.json")
    assert load(tmp_path / "r.json") == []


def test_every_benchmark_named_is_a_program_here() -> None:
    for one in runner.ALL:
        assert Path(one.command(False)[1]).is_file()
        program = Path(one.command(True)[1]).read_text()
        assert all(f'add_argument("{word}"' in program for word in one.quick[:1])


def test_the_table_fits_eighty_columns() -> None:
    long = {**ROW, "name": "audit log: " + "verify 1,000,000 entries " * 3, "met": False}
    row = {**ROW, "name": "training: a step"}
    rows = [row, {**row, "goal": "ratio >= 0.7"}, long, {**row, "ratio": None, "met": None}]
    file = io.StringIO()
    Console(file=file, width=200).print(runner.table(rows))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.strip() for line in lines if not line.startswith(" ")][1:] == [
        *("training", "audit log", "training")
    ]
    assert lines[0].split() == ["name", "value", "unit", "compared", "to", "ratio", "goal", "met"]
    assert "1.25" in file.getvalue()
    assert "<= 1.4" in file.getvalue()
    assert "NO" in file.getvalue()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of invented benchmarks: one works, one fails, one lacks its data."""
    repository = str(Path(runner.__file__).parent.parent)
    (tmp_path / "good.py").write_text(GOOD.format(repository=repository, row=ROW))
    (tmp_path / "bad.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(runner, "HERE", tmp_path)
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(
        runner, "ALL",
        (
            runner.Benchmark("bad"),
            runner.Benchmark("good", ("whole",), ("--quick",)),
            runner.Benchmark("good", needs=tmp_path / "absent"),
        ),
    )  # fmt: skip
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    return runner.main()


def test_one_failure_does_not_stop_the_others(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 1
    told = capsys.readouterr().out
    assert "bad failed with exit code 3" in told
    assert "measuring whole\n" in told
    assert "good left out" in told
    assert told.splitlines()[-1] == "failed: bad"
    assert [row["name"] for row in load(programs / "results.json")] == ["good: a step"]


def test_a_quick_try_leaves_the_real_figures_alone(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (programs / "results.json").write_text("[]")
    assert run(monkeypatch, "--only", "good", "--quick") == 0
    assert "measuring whole --quick" in capsys.readouterr().out
    assert (programs / "results.json").read_text() == "[]"
    assert len(load(programs / "quick.json")) == 1
