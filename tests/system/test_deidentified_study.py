"""From DICOM files with names in them to a report that says how they were de-identified."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from deploy.local import LocalFederation
from tests.datasets.test_cohort_dicom import write
from tests.system.conftest import CLASSES, make_plan
from tests.system.test_study_in_process import evidence
from typer.testing import CliRunner

from wardround.client import cli as site_cli
from wardround.client.ledger import Ledger
from wardround.client.site_report import build_site_report
from wardround.client.site_report.document import site_document
from wardround.datasets.errors import CohortInvalid
from wardround.privacy.events import Approval, Deidentification
from wardround.privacy.presentation.html import render_html
from wardround.server.report import build_report
from wardround.server.report.document import run_document

NAME = "Okonkwo"


def scans(folder: Path) -> None:
    """Write one CT slice a patient, each named after its patient, in a folder a class."""
    for number in range(24):
        label = CLASSES[number % 2]
        y, x = np.mgrid[:64, :64] / 64
        blob = 900 * np.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / (0.02, 0.1)[number % 2])
        pixels = (blob + 10 * number).astype(np.int16)
        name = f"{NAME}-{number}"
        write(folder / label / f"{name}.dcm", pixels, name, series=str(number + 1))
    (folder / "notes.txt").write_text(NAME)


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `data deidentify` writes, and a list of classes as a site makes it from the map."""
    home = tmp_path / "federation" / "north"
    home.mkdir(parents=True)
    monkeypatch.setenv("WARDROUND_DEIDENTIFY_KEY", str(home / "deidentify.key"))
    scans(tmp_path / "scans")
    out, mapping = tmp_path / "clean", tmp_path / "map.csv"
    paths = [str(path) for path in (tmp_path / "scans", out, tmp_path / "done.json", mapping)]
    made = CliRunner().invoke(
        site_cli.app,
        ["data", "deidentify", *paths[:2], "--report", paths[2], "--map", paths[3], "--jobs", "1"],
    )
    assert made.exit_code == 0, made.output
    rows = [line.split(",") for line in mapping.read_text().splitlines()[1:]]
    listed = "".join(f"{Path(new).name},{Path(old).parent.name}\n" for old, new in rows)
    (out / "labels.csv").write_text("path,label\n" + listed)
    return out


@pytest.fixture
def federation(
    tmp_path: Path, clean: Path, images: Callable[[int], Path]
) -> Iterator[LocalFederation]:
    """Three sites: north de-identified its DICOM files, the others have pictures without names."""
    data = {"north": clean, "south": images(1), "west": images(2)}
    with LocalFederation(tmp_path / "federation", data, epsilon=8.0, deadline=2) as made:
        yield made


def test_the_statement_reaches_both_reports(federation: LocalFederation, tmp_path: Path) -> None:
    federation.approve(make_plan(rounds=1))
    for name, told in (("north", "24 of 25 files written, 1 set aside"), ("south", "no statement")):
        home = str(federation.sites[name].home.folder)
        shown = CliRunner().invoke(
            site_cli.app, ["study", "review", "findings", "--home", home], env={"COLUMNS": "120"}
        )
        assert re.search(f"de-identified +{told}", shown.output), shown.output
    federation.sites["north"].approve("findings", "officer")  # again: stated once all the same
    federation.sites["north"].sync()
    outcome = federation.run("findings")
    assert outcome.status == "completed", outcome.note

    said = [leaf for leaf in federation.leaves() if isinstance(leaf.event, Deidentification)]
    [stated] = said
    event = stated.event
    assert isinstance(event, Deidentification)
    kinds = [leaf.event for leaf in federation.leaves() if leaf.site == "north"]
    approval = next(e for e in kinds if isinstance(e, Approval))
    assert kinds.index(event) + 1 == kinds.index(approval)
    assert (stated.site, event.dataset, event.options) == ("north", approval.datasets[0], ())
    counts = {count.name: count.value for count in event.counts}
    assert (counts["files_seen"], counts["files_written"], counts["quarantined"]) == (25, 24, 1)
    assert counts["quarantined_not_dicom"] == 1
    log = federation.desk.log
    whole = b"".join(log.entries(0, log.size()))
    assert NAME.encode() not in whole

    checked = evidence(federation, outcome.run)
    assert (checked.status, checked.findings) == ("verified", ())

    report = build_report(log.entries(0, checked.size), checked, outcome.run)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", render_html(run_document(report))))
    data = page[page.index(" Data preparation ", page.index("Privacy") + 1) :]
    assert re.search(r"north .{0,80}DICOM PS3.15 Basic Profile 2024b .{0,40}25 .{0,20}24 ", data)
    assert len(re.findall("no de-identification statement", data)) == 2
    assert "Not evidence of" in data
    assert event.report_digest in data


def test_a_site_reports_what_it_stated_and_what_it_did_not(federation: LocalFederation) -> None:
    federation.approve(make_plan(rounds=1))
    assert federation.run("findings").status == "completed"
    day = datetime.now(UTC)
    for name, stated in (("north", 1), ("south", 0)):
        site = federation.sites[name]
        made = build_site_report(
            site.witness, Ledger(site.engine), day - timedelta(1), day + timedelta(1)
        )
        assert (len(made.data), len(made.unstated)) == (stated, 1 - stated)
        page = render_html(site_document(made))
        assert page.count("no de-identification statement") == 1 - stated


def test_a_report_lost_at_the_site_stops_the_approval(federation: LocalFederation) -> None:
    site = federation.sites["north"]
    federation.desk.studies.create(make_plan(), federation.desk.signer, "researcher")
    site.sync()
    kept = site.home.folder / "datasets" / "data" / "deidentification.json"
    report = json.loads(kept.read_bytes())
    kept.write_bytes(json.dumps({**report, "edition": "2099z"}).encode())
    with pytest.raises(CohortInvalid, match="lost or changed"):
        site.approve("findings", "officer")
    assert not any(isinstance(leaf.event, Approval) for leaf in federation.leaves())
    assert not site.witness.pending()
    assert not site.approved(make_plan().digest())
    assert not site.ledger.book().budgets
