"""`wardround-site report` and `wardround-coordinator export`, as a person types them."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from deploy.local import LocalFederation
from tests.system.conftest import SITES, make_plan
from typer import Typer
from typer.testing import CliRunner

from wardround.client import cli as site_cli
from wardround.client.errors import ClientError, SiteStateError
from wardround.datasets import phantom
from wardround.privacy.errors import ReportError, WardroundError
from wardround.privacy.events import Export
from wardround.server import cli as coordinator_cli
from wardround.server.errors import StudyError

DAY = "2026-01-31"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three sites that ran one study to its end, and agreed to another."""
    folder = tmp_path_factory.mktemp("reports")
    data = {}
    for number, site in enumerate(SITES):
        data[site] = folder / f"{site}-images"
        phantom.images(
            data[site], seed=number, patients=24, classes=("clear", "nodule"), size=16, scanner=0
        )
    with LocalFederation(folder / "federation", data, epsilon=8.0) as made:
        made.approve(make_plan(rounds=1))
        assert made.run("findings").status == "completed"
        yield made


def type_in(app: Typer, *arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "NO_COLOR": "1"})


def refusal(result: Result, kind: type[WardroundError]) -> str:
    """Return the one line that the program would end with."""
    assert type(result.exception) is kind, result.output
    line = str(result.exception)
    assert "\n" not in line
    return line


def site_report(federation: LocalFederation, folder: Path, *more: str) -> Result:
    home = str(federation.folder / "north")
    return type_in(
        site_cli.app, "report", "--home", home, "--output", str(folder), "--no-pdf", *more
    )


def export(federation: LocalFederation, path: Path, *more: str) -> Result:
    home = str(federation.folder / "coordinator")
    return type_in(coordinator_cli.app, "export", "--home", home, "--output", str(path), *more)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def exports(federation: LocalFederation) -> list[Export]:
    return [leaf.event for leaf in federation.leaves() if isinstance(leaf.event, Export)]


def test_a_site_reports_the_day_of_its_study(federation: LocalFederation, tmp_path: Path) -> None:
    times = [leaf.ts_ms for leaf in federation.leaves()]  # midnight may have come meanwhile
    first, last = (
        f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}" for ms in (times[0], times[-1])
    )
    done = site_report(federation, tmp_path, "--from", first, "--to", last)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("verdict: ")
    written = json.loads((tmp_path / "site-report.json").read_bytes())["report"]
    assert written["site"]["value"] == "north"
    assert [run["outcome"]["value"] for run in written["runs"]] == ["completed"]
    assert "update" in {one["kind"]["value"] for one in written["egress"]}
    assert len(written["accounts"]) == 1
    assert "north" in (tmp_path / "site-report.html").read_text()


def test_a_day_without_a_study_has_nothing_in_it(
    federation: LocalFederation, tmp_path: Path
) -> None:
    done = site_report(federation, tmp_path, "--from", "2020-01-01", "--to", "2020-01-01")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "site-report.json").read_bytes())["report"]
    assert (written["runs"], written["egress"]) == ([], [])


@pytest.mark.parametrize(
    ("first", "last", "kind", "told"),
    [
        ("yesterday", DAY, ClientError, "'yesterday' is no day; write it as 2026-01-31"),
        (DAY, "2026-02-30", ClientError, "'2026-02-30' is no day"),
        (DAY, "2020-01-01", ReportError, "is empty"),
    ],
)
def test_a_period_that_is_none_is_refused(
    federation: LocalFederation, tmp_path: Path, first: str, last: str,
    kind: type[WardroundError], told: str,
) -> None:  # fmt: skip
    done = site_report(federation, tmp_path / "report", "--from", first, "--to", last)
    assert told in refusal(done, kind)
    assert not (tmp_path / "report").exists()


def test_a_report_that_cannot_be_written_ends_in_one_line(
    federation: LocalFederation, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    done = site_report(federation, tmp_path / "taken", "--from", DAY, "--to", DAY)
    assert "cannot write to" in refusal(done, ClientError)


def test_a_site_that_never_joined_has_no_report(tmp_path: Path) -> None:
    home = str(tmp_path / "lonely")
    assert type_in(site_cli.app, "init", "lonely", "--home", home).exit_code == 0
    done = type_in(site_cli.app, "report", "--home", home, "--from", DAY, "--to", DAY)
    assert "join" in refusal(done, SiteStateError)


@pytest.mark.parametrize("form", ["fhir", "siem"])
def test_the_whole_log_is_exported_and_the_export_logged(
    federation: LocalFederation, tmp_path: Path, form: str
) -> None:
    size = federation.desk.log.size()
    path = tmp_path / "log.ndjson"
    done = export(federation, path, "--all", "--format", form)
    assert done.exit_code == 0, done.output
    assert len(lines(path)) == size
    assert re.search(rf"{size} of {size} log entries", done.output)
    logged = exports(federation)[-1]
    assert (logged.what, logged.format, logged.size) == ("log", form, path.stat().st_size)
    assert logged.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(tmp_path.iterdir()) == [path]


def test_a_studys_export_keeps_places_and_leaves_out_what_is_not_its(
    federation: LocalFederation, tmp_path: Path
) -> None:
    whole, own = tmp_path / "whole", tmp_path / "own"
    assert export(federation, whole, "--all", "--format", "siem").exit_code == 0
    assert export(federation, own, "findings", "--format", "siem").exit_code == 0
    chosen = [record["event"]["action"] for record in lines(own)]  # type: ignore[index]  # ECS
    assert set(lines(own)[0]) >= {"event", "observer"}
    assert {"study_plan", "approval", "run_start", "update", "run_end"} <= set(chosen)
    assert not {"genesis", "enrol"} & set(chosen)
    everything = whole.read_bytes().splitlines()
    assert [one for one in everything if one in own.read_bytes().splitlines()] == (
        own.read_bytes().splitlines()
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere", "--format", "fhir"), "the log holds no study 'nowhere'"),
        (("findings", "--format", "siem"), "exists already; give another name"),
    ],
)
def test_an_export_that_cannot_be_is_refused_and_not_logged(
    federation: LocalFederation, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    before = len(exports(federation))
    (tmp_path / "taken").write_text("mine")
    assert told in refusal(export(federation, tmp_path / "taken", *arguments), StudyError)
    assert (tmp_path / "taken").read_text() == "mine"
    missing = tmp_path / "no" / "folder"
    done = export(federation, missing, "findings", "--format", "siem")
    assert "cannot write" in refusal(done, StudyError)
    assert len(exports(federation)) == before


@pytest.mark.parametrize("arguments", [(), ("findings", "--all"), ("--all", "--format", "csv")])
def test_wrong_usage_is_told_apart(
    federation: LocalFederation, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    formats = () if "--format" in arguments else ("--format", "siem")
    assert export(federation, tmp_path / "log", *arguments, *formats).exit_code == 2


def test_a_mistake_ends_in_one_line_and_exit_code_1(
    federation: LocalFederation, tmp_path: Path
) -> None:
    program = Path(sys.executable).with_name("wardround-coordinator")
    home = ("--home", str(federation.folder / "coordinator"))
    done = subprocess.run(
        [program, "export", "nowhere", "--format", "fhir", "--output", tmp_path / "log", *home],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the log holds no study 'nowhere'; see: study list\n"
