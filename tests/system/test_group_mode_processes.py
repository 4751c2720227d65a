"""Group mode in 16 bits as it is deployed: real processes over TLS, two rounds, one story.

The coordinator's folder is searched all the while for the bytes of every model the sites come to.
Coordinator, run, SuperNodes and sites are processes of their own; what is typed and ends again
runs in this one (in test_real_processes that is a process each, too).
"""

import contextlib
import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from deploy.demo import __main__ as demonstration
from tests.system.processes import wait_for

from wardround.client import cli as site_cli
from wardround.client.replica import Replica, load_replica
from wardround.privacy import commands
from wardround.privacy.events import ModelStep, PrivacySpend, RunEnd, from_leaf
from wardround.privacy.model import Vector, model_digest
from wardround.privacy.plan import StudyPlan
from wardround.privacy.verify import cli as verify_cli
from wardround.server import cli as coordinator_cli
from wardround.server import config
from wardround.server.desk import Desk
from wardround.server.operations import RunRecord

SITES = sorted(demonstration.SITES)
ROUNDS = 2
PATIENTS = 40
COORDINATOR = ("--home", "coordinator")
PIECE = 16
"""Numbers that are searched for at once: so few bytes lie together in a database's page, too."""
LOOK_SECONDS = 0.5
PROGRAMS = {
    "wardround-coordinator": lambda: commands.run(coordinator_cli.app),  # its guard is a process's
    "wardround-site": site_cli.main,
    "wardround-verify": verify_cli.main,
}


class Typed(demonstration.Demo):
    """The demo, without a new interpreter for each command: most take longer to load than to do."""

    keyboard = threading.Lock()

    def run(self, program: str, *arguments: str, quiet: bool = True) -> str:
        """Type one command; return what it prints."""
        del quiet
        said = io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.keyboard)  # output, folder and arguments are the process's
            stack.enter_context(contextlib.redirect_stdout(said))
            stack.enter_context(contextlib.redirect_stderr(said))
            stack.enter_context(contextlib.chdir(self.folder))
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(
                sys, "argv", [program, *arguments]
            )
            try:
                PROGRAMS[program]()
            except SystemExit as ended:
                if ended.code:
                    said_last = said.getvalue().strip()[-800:]
                    raise demonstration.DemoFailed(
                        f"{program} {arguments[0]}: {said_last}"
                    ) from None
        return said.getvalue().strip()


@dataclass
class Story:
    """A run in group mode, and what was seen of it."""

    demo: demonstration.Demo
    desk: Desk
    models: dict[str, Vector] = field(default_factory=dict)
    """Every model that the first site was seen with, by digest."""
    leaks: list[str] = field(default_factory=list)

    def run(self) -> RunRecord:
        """The run as the coordinator has it."""
        run = self.desk.studies.newest_run(demonstration.STUDY)
        assert run is not None
        return run

    def replica(self, site: str) -> Replica | None:
        """The model that a site has made, if it has made one."""
        return load_replica(self.demo.folder / site / "models", self.run().run)

    def look(self) -> None:
        """Note the newest model, and where in the coordinator's folder any of them is."""
        made = self.replica(SITES[0])
        if made is not None and made.round:
            self.models[made.digest] = made.vector
        for data in contents(self.desk.home.folder):
            self.leaks += [digest for digest, model in self.models.items() if holds(data, model)]

    def over(self) -> bool:
        """Look once more; whether the run is at its end."""
        status = self.run().status
        self.look()
        time.sleep(LOOK_SECONDS)
        return status in ("completed", "stopped", "failed")


def contents(folder: Path) -> Iterator[bytes]:
    """What the files of a folder hold that are there now."""
    for path in folder.rglob("*"):
        try:
            yield path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):  # its turn was over, or none to read
            continue


def holds(data: bytes, model: Vector) -> bool:
    """Whether data hold any part of a model, as bytes or in hexadecimal."""
    pieces = (model[at : at + PIECE].tobytes() for at in range(0, len(model) - PIECE, PIECE))
    return any(piece in data or piece.hex().encode() in data for piece in pieces)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The study of the demo with less data, its draft edited as a researcher does."""
    folder = tmp_path_factory.mktemp("group") / "federation"
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(demonstration, "PATIENTS", PATIENTS)
        patch.setattr(demonstration, "Demo", Typed)
        demo = stack.enter_context(demonstration.federation(folder))
        demonstration.gather(demo)
        demonstration.draft(demo, ROUNDS)
        plan = demo.folder / "study.toml"
        for edit in ("group_mode = true", "ring_bits = 16", f"max_weight = {PATIENTS}"):
            line = f"(?m)^{edit.partition(' ')[0]} = .*"
            plan.write_text(re.sub(line, edit, plan.read_text()))
        demonstration.agree(demo)
        with Desk.open(config.load(demo.folder / "coordinator")) as desk:
            demo.run("wardround-coordinator", "study", "start", demonstration.STUDY, *COORDINATOR)
            story = Story(demo, desk)
            wait_for("the run to end", story.over, demo.folder)
            yield story


def test_the_run_completes_over_tls(story: Story) -> None:
    run = story.run()
    assert (run.status, run.note, run.round) == ("completed", "", ROUNDS + 1)
    pins = [json.loads((story.demo.folder / s / "coordinator.json").read_text()) for s in SITES]
    assert {pin["url"].partition(":")[0] for pin in pins} == {"https"}


def test_the_sites_hold_one_model_that_the_log_names(story: Story) -> None:
    made = {site: story.replica(site) for site in SITES}
    (digest,) = {replica.digest if replica else "" for replica in made.values()}
    plan = StudyPlan.from_toml((story.demo.folder / "study.toml").read_text())
    assert digest != Replica.first(plan).digest, "something was learnt"
    leaves = [from_leaf(data) for data in story.desk.log.entries(0, story.desk.log.size())]
    events = [leaf.event for leaf in leaves]
    assert [e.model_digest for e in events if isinstance(e, RunEnd)] == [digest]
    last = [(x.site, x.event) for x in leaves if isinstance(x.event, ModelStep)][-len(SITES) :]
    assert {site: step.model_digest for site, step in last} == dict.fromkeys(SITES, digest)
    spends = [(x.site, x.round) for x in leaves if isinstance(x.event, PrivacySpend)]
    assert sorted(spends) == [(site, number) for site in SITES for number in (1, 2)]
    command = ("wardround-site", "study", "model", demonstration.STUDY, "--home", SITES[-1])
    story.demo.run(*command, "--output", "model.npz")
    with np.load(story.demo.folder / "model.npz") as file:
        written = np.concatenate([file[name].ravel() for name in file.files])
    assert model_digest(written) == digest


def test_the_coordinators_folder_never_held_a_model(story: Story) -> None:
    assert story.leaks == []
    final = story.replica(SITES[0])
    assert final is not None
    assert final.digest in story.models
    kept = list(contents(story.demo.folder / SITES[1]))
    assert any(holds(data, final.vector) for data in kept), "the search finds what is there"
    command = ("wardround-coordinator", "study", "model", demonstration.STUDY, *COORDINATOR)
    with pytest.raises(demonstration.DemoFailed, match="hidden from the coordinator"):
        story.demo.run(*command, "--output", "coordinator.npz")


def test_the_evidence_verifies(story: Story) -> None:
    verify = demonstration.bundle(story.demo, demonstration.pin(story.demo))
    found = json.loads(story.demo.run(*verify, "--json"))
    assert (found["status"], found["findings"]) == ("verified", [])
