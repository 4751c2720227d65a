"""The whole system as it is deployed: a coordinator, three sites, two of them killed on the way.

The commands are those of the demo, with less data. One story is lived through once; each test then
looks at what it left behind.
"""

import json
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import httpx
import pytest
from deploy.demo import __main__ as demonstration
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from tests.system.processes import (
    command,
    family,
    is_alive,
    kill_family,
    libraries,
    sockets_off_loopback,
    wait_for,
)

from wardround.privacy.events import (
    Access,
    Event,
    PrivacySpend,
    RoundEnd,
    RoundStart,
    RunEnd,
    from_leaf,
)
from wardround.server import config
from wardround.server.desk import Desk
from wardround.server.listener import LOOPBACK_ROUTES, PUBLIC_ROUTES

WATCH = Path(__file__).parents[1] / "server" / "flower" / "programs"
"""Its sitecustomize writes down every connection off loopback, in whichever process it is made."""
ROUNDS = 3
COORDINATOR = ("--home", "coordinator")
PROTOBUF = {"content-type": "application/protobuf"}
EVERY_PATH = sorted({path for _, path in PROTOBUF_REQUEST_TYPES} | LOOPBACK_ROUTES)


@dataclass
class Story:
    """What happened, and the processes, which are still there."""

    demo: demonstration.Demo
    desk: Desk
    killed: list[int] = field(default_factory=list)
    rounds_at_death: int = -1
    coordinator_libraries: dict[str, set[str]] = field(default_factory=dict)
    site_libraries: set[str] = field(default_factory=set)
    off_loopback: list[str] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)

    def process(self, name: str) -> Popen[bytes]:
        """The newest process that was started for a folder."""
        return [each for each in self.demo.processes if list(each.args)[-1] == name][-1]  # type: ignore[arg-type]  # the demo starts with lists

    def events(self) -> list[tuple[str, Event]]:
        """Every entry of the log: site and event."""
        leaves = map(from_leaf, self.desk.log.entries(0, self.desk.log.size()))
        return [(leaf.site, leaf.event) for leaf in leaves]

    def done(self) -> int:
        """How many rounds have been completed."""
        return sum(isinstance(e, RoundEnd) and e.outcome == "completed" for _, e in self.events())

    def begun(self) -> int:
        """The newest round that was begun."""
        return max((e.round for _, e in self.events() if isinstance(e, RoundStart)), default=0)

    def ended(self) -> bool:
        """Whether the run's end is in the log."""
        return any(isinstance(event, RunEnd) for _, event in self.events())

    def wait(self, what: str, condition: object) -> None:
        """Poll until a condition holds."""
        assert callable(condition)
        wait_for(what, lambda: bool(condition()), self.demo.folder)

    def look(self) -> None:
        """Note libraries and sockets of every process that lives now."""
        for name in ("coordinator", *demonstration.SITES):
            for pid in family(self.process(name).pid):
                try:
                    loaded, line = libraries(pid), command(pid)
                    self.off_loopback += sockets_off_loopback(pid)
                except FileNotFoundError:  # it has ended since
                    continue
                self.pids.add(pid)
                if name == "coordinator":
                    kind = "run" if "runprocess" in line else "serve"
                    self.coordinator_libraries.setdefault(kind, set()).update(loaded)
                elif "supernode_process" not in line:
                    self.site_libraries |= loaded


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A study during which a site and then the coordinator are killed and started again."""
    folder = tmp_path_factory.mktemp("real") / "federation"
    with pytest.MonkeyPatch.context() as patch, demonstration.federation(folder) as demo:
        patch.setattr(demonstration, "PATIENTS", 40)
        demo.environment |= {
            "PYTHONPATH": os.pathsep.join([str(WATCH), os.environ.get("PYTHONPATH", "")]),
            "CONNECTION_WATCH": str(folder / "connections.txt"),
        }
        demonstration.prepare(demo, ROUNDS)
        with Desk.open(config.load(folder / "coordinator")) as desk:
            yield live_through(Story(demo, desk))


def refused_calls(story: Story) -> set[tuple[str, int]]:
    """API and status of each refused call that the log knows of."""
    calls = [event for _, event in story.events() if isinstance(event, Access)]
    return {(call.api, call.status) for call in calls if call.outcome == "refused"}


def live_through(story: Story) -> Story:
    """Start the study; kill south in a round and the coordinator in a later one."""
    demo = story.demo
    demo.run("wardround-coordinator", "study", "start", demonstration.STUDY, *COORDINATOR)
    story.wait("a round to begin", story.begun)
    story.look()

    site = demonstration.SITES[-1]
    story.killed += kill_family(story.process(site), demo.folder)
    before = story.done()
    demo.start(f"{site}-again", "wardround-site", "start", "--home", site)
    story.wait("a round with the site that came back", lambda: story.done() > before)

    story.killed += kill_family(story.process("coordinator"), demo.folder)
    story.rounds_at_death = story.done()
    assert not story.ended(), "the coordinator was to be killed in the middle of the run"
    demo.start("coordinator-again", "wardround-coordinator", "serve", *COORDINATOR)
    story.wait("a round after the restart", lambda: story.done() > story.rounds_at_death)
    story.look()
    story.wait("the run to end", lambda: story.desk.studies.unfinished() == [])
    story.look()
    return story


def test_the_run_completes_although_a_site_and_the_coordinator_were_killed(story: Story) -> None:
    ends = [event for _, event in story.events() if isinstance(event, RunEnd)]
    assert [(end.outcome, end.reason) for end in ends] == [("completed", "")]
    assert story.done() == ROUNDS + 1
    assert len(story.killed) >= 4  # site, its SuperNode, the coordinator, the run's process
    assert not any(map(is_alive, story.killed))
    model = story.demo.folder / "model.npz"
    story.demo.run(
        *("wardround-coordinator", "study", "model", demonstration.STUDY),
        *("--output", str(model), *COORDINATOR),
    )
    assert model.stat().st_size > 0


def test_each_site_paid_for_each_round_once(story: Story) -> None:
    spends = [(site, e.round) for site, e in story.events() if isinstance(e, PrivacySpend)]
    assert sorted(spends) == [
        (site, number) for site in sorted(demonstration.SITES) for number in range(1, ROUNDS + 1)
    ]


def test_the_evidence_verifies_with_every_sites_pin(story: Story) -> None:
    demo = story.demo
    verify = demonstration.bundle(demo, demonstration.pin(demo))
    found = json.loads(demo.run(*verify, "--json"))
    assert (found["status"], found["findings"]) == ("verified", [])


def test_an_outsider_at_the_public_port_is_refused_on_every_path(story: Story) -> None:
    home = story.desk.home
    context = ssl.create_default_context(cafile=str(home.ca_certificate))
    with httpx.Client(base_url=home.url, verify=context, trust_env=False) as client:
        for path in EVERY_PATH:
            status = client.post(path, headers=PROTOBUF).status_code
            assert status == (401 if path in PUBLIC_ROUTES else 404), path
        invented = PROTOBUF | {"authorization": "Bearer wrc_invented"}
        for path in sorted(LOOPBACK_ROUTES - PUBLIC_ROUTES):
            assert client.post(path, headers=invented).status_code == 404, path
        assert client.post("/wardround/v1/sync", content=b"{}").status_code == 403
        assert client.post("/wardround/v1/enrol", content=b"{}").status_code == 400
    expected = {("fleet", 401), ("other", 404), ("wardround", 403), ("wardround", 400)}
    story.wait("the refusals to be in the log", lambda: expected <= refused_calls(story))


def test_somebody_on_the_coordinators_machine_without_a_token_is_refused(story: Story) -> None:
    url = f"http://127.0.0.1:{story.desk.home.internal_port}"
    with httpx.Client(base_url=url, trust_env=False) as client:
        for path in EVERY_PATH:
            status = client.post(path, headers=PROTOBUF).status_code
            assert status == (401 if path in LOOPBACK_ROUTES else 404), path


def test_no_process_spoke_with_anything_off_loopback(story: Story) -> None:
    watched = {int(pid) for pid in (story.demo.folder / "connections.txt.seen").read_text().split()}
    assert story.pids <= watched, "the watch is to be in every process"
    assert len(story.pids) >= 10  # four programs and their children, two of them twice
    assert story.off_loopback == []
    spoken = story.demo.folder / "connections.txt"
    assert not spoken.exists(), spoken.read_text()


def test_the_coordinators_processes_never_loaded_torch(story: Story) -> None:
    assert set(story.coordinator_libraries) == {"serve", "run"}
    for loaded in story.coordinator_libraries.values():
        assert len(loaded) > 10
        assert not [name for name in loaded if "torch" in name or "c10" in name]
    assert any("torch" in name for name in story.site_libraries), "the sites train with it"
