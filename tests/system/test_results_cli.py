"""What came of a study, as a person asks for it: at a site and at a coordinator, in both modes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deploy.local import LocalFederation
from tests.system.conftest import SITES, make_plan
from tests.system.test_reports_cli import refusal, type_in

from wardround.client import cli as site_cli
from wardround.client.errors import ClientError
from wardround.client.replica import load_replica
from wardround.datasets import phantom
from wardround.privacy.model import model_digest, unflatten
from wardround.privacy.verify import cli as verify_cli
from wardround.privacy.verify import write_policy
from wardround.server import cli as coordinator_cli
from wardround.server.errors import StudyError


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three sites that ran one study in plain mode, another in group mode, and agreed to a third.

    A later plan has taken the place of the one that `hidden` ran by.
    """
    folder = tmp_path_factory.mktemp("results")
    data = {}
    for number, site in enumerate(SITES):
        data[site] = folder / f"{site}-images"
        phantom.images(
            data[site], seed=number, patients=24, classes=("clear", "nodule"), size=16, scanner=0
        )
    plan = make_plan(rounds=1)
    hidden = replace(
        plan,
        study=replace(plan.study, id="hidden"),
        secure_aggregation=replace(plan.secure_aggregation, group_mode=True),
    )
    idle = replace(plan, study=replace(plan.study, id="idle"))
    with LocalFederation(folder / "federation", data, epsilon=8.0) as made:
        for each in (plan, hidden, idle):
            made.approve(each)
        for study in ("findings", "hidden"):
            assert made.run(study).status == "completed"
        later = replace(hidden, training=replace(hidden.training, rounds=2))
        made.desk.studies.create(later, made.desk.signer, "researcher")
        for site in made.sites.values():
            site.sync()
        yield made


def site(federation: LocalFederation, *words: str) -> str:
    result = type_in(site_cli.app, *words, "--home", str(federation.folder / "west"))
    assert result.exit_code == 0, result.output
    return result.output


def coordinator(federation: LocalFederation, *words: str) -> str:
    result = type_in(coordinator_cli.app, *words, "--home", str(federation.desk.home.folder))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("study", ["findings", "hidden"])
def test_a_site_shows_how_the_model_does(federation: LocalFederation, study: str) -> None:
    shown = json.loads(site(federation, "study", "show", study, "--json"))
    assert [row["round"] for row in shown["rounds"]] == [1, 2]
    assert all(0 <= row["metrics"]["accuracy"] <= 1 for row in shown["rounds"])
    assert all(row["evaluated"] >= 3 for row in shown["rounds"])
    text = site(federation, "study", "show", study)
    assert "2 of 2 sums read" in text
    for row in shown["rounds"]:
        assert row["model"][:12] in text
        assert f"accuracy {row['metrics']['accuracy']:.4f}" in text


@pytest.mark.parametrize("study", ["findings", "hidden"])
def test_a_site_writes_the_model(federation: LocalFederation, study: str, tmp_path: Path) -> None:
    output = tmp_path / "model.npz"
    assert "tensors of run" in site(federation, "study", "model", study, "--output", str(output))
    run = federation.desk.studies.newest_run(study)
    assert run is not None
    plan = make_plan(rounds=1)
    home = federation.sites["west"].home
    if study == "hidden":
        replica = load_replica(home.models, run.run)
        assert replica is not None
        vector = replica.vector
    else:
        vector = federation.outcome(run.run).model
        assert model_digest(vector) == run.model
    with np.load(output, allow_pickle=False) as file:
        assert set(file) == {tensor.name for tensor in plan.model.tensors}
        for name, values in unflatten(plan.model.tensors, vector).items():
            assert (file[name] == values).all()
    words = ("study", "model", study, "--output", str(output), "--home", str(home.folder))
    assert "exists already" in refusal(type_in(site_cli.app, *words), ClientError)


@pytest.mark.parametrize("command", [("show",), ("model", "--output", "nowhere.npz")])
@pytest.mark.parametrize("study", ["idle", "unknown"])
def test_a_study_without_a_run_has_no_results(
    federation: LocalFederation, command: tuple[str, ...], study: str
) -> None:
    home = str(federation.folder / "west")
    result = type_in(site_cli.app, "study", command[0], study, *command[1:], "--home", home)
    assert "has taken part in no run of" in refusal(result, ClientError)


def test_a_site_sees_in_the_plan_who_reads_the_sum(federation: LocalFederation) -> None:
    assert "the sites alone (group mode)" in site(federation, "study", "review", "hidden")
    assert "sum read by" in (shown := site(federation, "study", "review", "findings"))
    assert "group mode" not in shown


def test_the_coordinator_says_that_it_is_hidden(federation: LocalFederation) -> None:
    lines = coordinator(federation, "study", "watch", "hidden").splitlines()
    rounds = [line for line in lines if "north, south, west" in line]
    assert len(rounds) == 2
    assert all("hidden" in line and "accuracy" not in line for line in rounds)
    assert "accuracy" in coordinator(federation, "study", "watch", "findings")
    assert "the sites alone" in coordinator(federation, "study", "show", "hidden")
    home = str(federation.desk.home.folder)
    words = ("study", "model", "hidden", "--output", "nowhere.npz", "--home", home)
    assert "wardround-site study model hidden" in refusal(
        type_in(coordinator_cli.app, *words), StudyError
    )


def test_the_verifier_tells_what_the_mode_leaves_open(
    federation: LocalFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "evidence.zip"
    coordinator(federation, "bundle", "hidden", "--output", str(bundle), "--wait", "0")
    log, sites = federation.desk.log, federation.desk.enrolment.federation()
    policy, pin = tmp_path / "policy.txt", tmp_path / "west.note"
    roster = sites.roster(sites.sites)
    policy.write_text(write_policy(log.origin, log.signer.public_bytes(), roster, 3))
    pin.write_bytes(federation.sites["west"].witness.pin())
    capsys.readouterr()
    given = str(bundle), "--policy", str(policy), "--pin", str(pin), "--replay"
    assert verify_cli.run(given) == 2  # the uploads of the other study's run are not in it
    told = capsys.readouterr().out
    assert "tampered" not in told
    assert "replayed     2 aggregates" in told
    assert "group mode   2 of them down to the sum under the group masks" in told


def test_the_report_tells_who_learned_what(federation: LocalFederation, tmp_path: Path) -> None:
    report = tmp_path / "report"
    coordinator(federation, "report", "hidden", "--output", str(report), "--no-pdf", "--wait", "0")
    (page,) = report.glob("*.html")
    html = page.read_text()
    assert "group mode: only the sites can read a sum" in html
    assert "Hidden from the coordinator and the log" in html
    run = federation.desk.studies.newest_run("hidden")
    assert run is not None
    replica = load_replica(federation.sites["west"].home.models, run.run)
    assert replica is not None
    assert replica.digest in html
