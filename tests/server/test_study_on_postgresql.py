"""A whole study with the coordinator's tables in PostgreSQL, as in production."""

from collections.abc import Callable
from pathlib import Path

from deploy.local import LocalFederation
from sqlalchemy import URL
from tests.system.conftest import CLASSES, PATIENTS, SITES, make_plan

from wardround.datasets import phantom


def test_a_study_runs_on_postgresql(postgres: Callable[..., URL], tmp_path: Path) -> None:
    data = {}
    for number, site in enumerate(SITES):
        data[site] = phantom.images(
            tmp_path / f"images-{number}",
            seed=number,
            patients=PATIENTS,
            classes=CLASSES,
            size=16,
            scanner=0,
        )
    url = postgres().render_as_string(hide_password=False)
    with LocalFederation(tmp_path / "made", data, epsilon=8.0, database=url) as federation:
        assert federation.desk.engine.dialect.name == "postgresql"
        federation.approve(make_plan(rounds=1))
        outcome = federation.run("findings")
        assert (outcome.status, outcome.note) == ("completed", "")
        assert federation.desk.studies.rows()[0].status == "completed"
        assert {row.status for row in federation.desk.enrolment.rows()} == {"approved"}
