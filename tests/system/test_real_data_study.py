"""Whole studies on real data of the two other kinds: labelled volumes, and hospital tables."""

import csv
import shutil
from pathlib import Path

import numpy as np
from deploy.local import LocalFederation
from tests.datasets.test_shared_data import HEART, folder
from tests.system.test_study_in_process import evidence
from typer.testing import CliRunner

from wardround.client.cli import app
from wardround.datasets.cohort import Options
from wardround.privacy.events import Evaluation
from wardround.privacy.plan import StudyPlan

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
REGIONS = ("background", "Anterior", "Posterior")


def drafted(home: Path, *words: str) -> StudyPlan:
    """The plan that the researcher's command drafts."""
    path = home / "study.toml"
    said = CliRunner().invoke(
        app, ("plan", "draft", "--study", "real", "--output", str(path), *words)
    )
    assert said.exit_code == 0, said.output
    return StudyPlan.from_toml(path.read_text())


def test_three_scanners_segment_the_hippocampus(shared_data: Path, tmp_path: Path) -> None:
    source = folder(shared_data, "hippocampus")
    data: dict[str, Path] = {}
    for row in csv.DictReader((source / "cases.csv").read_text().splitlines()):
        site = tmp_path / "in" / f"scanner-{row['intensity_group'].lower()}"
        if row["intensity_group"] == "D" or len(list(site.glob("imagesTr/*"))) == 10:
            continue
        data[site.name] = site
        for part in ("imagesTr", "labelsTr"):
            (site / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(source / "Task04_Hippocampus" / part / row["file"], site / part)
    plan = drafted(
        tmp_path,
        *("--sites", ",".join(sorted(data)), "--classes", ",".join(REGIONS)),
        *("--task", "segmentation-3d", "--model", "unet", "--widths", "", "--shape", "1,16,24,16"),
        *("--rounds", "1", "--steps", "1", "--epsilon", "8"),
    )
    options = Options(classes=REGIONS)
    with LocalFederation(
        tmp_path / "federation", data, task="segmentation-3d", epsilon=20.0, options=options
    ) as federation:
        federation.approve(plan)
        outcome = federation.run("real")
        assert (outcome.status, outcome.note) == ("completed", "")
        assert np.isfinite(outcome.model).all()
        scores = [leaf.event for leaf in federation.leaves() if isinstance(leaf.event, Evaluation)]
        assert len(scores) == 2
        found = evidence(federation, outcome.run)
        assert (found.status, found.findings) == ("verified", ())


def test_four_hospitals_predict_heart_disease(shared_data: Path, tmp_path: Path) -> None:
    source = folder(shared_data, "heart-disease")
    (tmp_path / "schema.toml").write_text(HEART)
    data = {hospital: source / f"processed.{hospital}.data" for hospital in HOSPITALS}
    plan = drafted(
        tmp_path,
        *("--sites", ",".join(HOSPITALS), "--classes", "healthy,disease"),
        *("--task", "tabular", "--model", "perceptron", "--widths", "", "--shape", "13"),
        *("--rounds", "3", "--rate", "0.05", "--epsilon", "8"),
    )
    options = Options(schema=tmp_path / "schema.toml")
    with LocalFederation(
        tmp_path / "federation", data, task="tabular", epsilon=20.0, options=options
    ) as federation:
        federation.approve(plan)
        outcome = federation.run("real")
        assert (outcome.status, outcome.note) == ("completed", "")
        found = evidence(federation, outcome.run)
        assert (found.status, found.findings) == ("verified", ())
        assert len(outcome.metrics) == 4  # before each of three rounds, and of the last model
        assert outcome.metrics[-1] > 0.6  # the larger class has 0.52 of the patients
