"""A scaling common to all sites: a study whose model is the mean of every column and its square."""

from pathlib import Path

import numpy as np
import pytest
from deploy.local import LocalFederation
from typer.testing import CliRunner

from wardround.client.cli import app
from wardround.datasets import phantom
from wardround.datasets.cohort import Cohort
from wardround.datasets.errors import DataError
from wardround.datasets.tabular import Row
from wardround.datasets.tabular_moments import row_moments
from wardround.datasets.tabular_schema import Schema
from wardround.privacy.plan import StudyPlan

SITES = ("north", "south", "west")
PATIENTS = 300
NOISE = 1.0


def test_a_study_gives_the_moments_of_all_sites_and_the_lines_for_the_schema(
    tmp_path: Path,
) -> None:
    sources = {
        site: phantom.table(tmp_path / site, seed=number, patients=PATIENTS)
        for number, site in enumerate(SITES)
    }
    schema_file = sources["north"].parent / "schema.toml"
    schema = Schema.from_toml(schema_file.read_text())
    size = 3 * sum(column.type != "category" for column in schema.columns)
    draft, runner = tmp_path / "scaling.toml", CliRunner()
    words = (
        *("plan", "draft", "--study", "scaling", "--sites", ",".join(SITES)),
        *("--classes", ",".join(schema.class_names), "--task", "tabular-moments"),
        *("--model", "moments", "--widths", "", "--shape", str(size), "--noise", str(NOISE)),
        *("--epsilon", "50", "--output", str(draft)),
    )
    assert runner.invoke(app, words, catch_exceptions=False).exit_code == 0
    plan = StudyPlan.from_toml(draft.read_text())

    with LocalFederation(tmp_path / "federation", sources, task="tabular-moments") as federation:
        federation.approve(plan)
        outcome = federation.run("scaling")
        assert outcome.status == "completed", outcome.note
        assert set(outcome.epsilon) == set(SITES)
        train = [row for site in federation.sites.values() for row in train_rows(site.home.folder)]
    expected = np.mean([row_moments(row, schema) for row in train], axis=0, dtype=np.float64)
    # Three sites' noise on a sum of so many rows, and six standard errors of it.
    error = NOISE * float(plan.privacy.clip) * np.sqrt(len(SITES)) / len(train)
    assert np.abs(outcome.model - expected).max() < 6 * error
    assert np.abs(outcome.model - expected).max() > error / 1000  # there is noise
    assert np.abs(expected).max() > 20 * error  # else nothing would be seen

    model = tmp_path / "model.npz"
    np.savez(model, mean=outcome.model)
    said = runner.invoke(app, ("data", "scaling", str(model), str(schema_file)))
    assert said.exit_code == 0
    assert said.stdout.startswith('scaling = "schema"')
    assert said.stdout.count("centre = ") == size // 3


def train_rows(home: Path) -> list[Row]:
    """The training rows of a site."""
    samples = Cohort.load(home, "data").samples("train")
    return [sample.row for sample in samples if sample.row is not None]


def test_a_file_that_is_no_such_model_is_refused(tmp_path: Path) -> None:
    source = phantom.table(tmp_path / "in", seed=1, patients=10)
    (tmp_path / "model.npz").write_bytes(b"not a model")
    words = ("data", "scaling", str(tmp_path / "model.npz"), str(source.parent / "schema.toml"))
    with pytest.raises(DataError, match="study model"):
        CliRunner().invoke(app, words, catch_exceptions=False)
