"""A federation in one process: the same apps over the in-process grid, for notebooks and tests.

    federation = LocalFederation(folder, {"north": images_of_north, ...})
    federation.approve(plan)
    outcome = federation.run("shapes")

Keys, log, ledgers, secure aggregation and training are the real ones; only the network is not
there. Every message is serialised as on the wire.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from wardround.client import config as site_config
from wardround.client.config import Pins
from wardround.client.round import RoundHandler
from wardround.client.site import Site
from wardround.datasets import cohort
from wardround.privacy.events import Enrol, Evaluation, Leaf, PrivacySpend, from_leaf
from wardround.privacy.loghead import LogHead, SiteHead
from wardround.privacy.model import Vector
from wardround.privacy.plan import StudyPlan, Task, TaskKind
from wardround.server import config as coordinator_config
from wardround.server.app import execute
from wardround.server.blobs import BlobStore
from wardround.server.desk import Desk
from wardround.server.inprocess import InProcessGrid
from wardround.server.loglink import LogLink

POLICY = """\
[total]
epsilon = {epsilon}
delta = 1e-3

[[admit]]
task = "{task}"
data = "data"
epsilon = {epsilon}
delta = 1e-3
unit = "image"
min_cohort = 3
min_patients = 2
peers = [{peers}]
shared_noise = true
expires = 2099-12-31
"""


@dataclass(slots=True)
class DirectLink:
    """A site's link to a coordinator in the same process."""

    link: LogLink

    def sync(self, head: SiteHead) -> tuple[LogHead, str]:
        """Tell where the site stands; return the log's head."""
        self.link.receive(head)
        return self.link.head(), "approved"


@dataclass(slots=True)
class Clock:
    """Time that passes only while somebody waits.

    A site of this process answers when it is asked: nothing comes of waiting but its deadline.
    """

    seconds: float = 0.0

    def now(self) -> float:
        """Return the seconds that were waited for."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.seconds += seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its status, the final model [D], and a metric after each round.

    As the coordinator knows it: in group mode neither model nor metrics, which are at the sites.
    """

    run: str
    status: str
    note: str
    model: Vector = field(repr=False)
    metrics: tuple[float, ...]
    epsilon: Mapping[str, float]


class LocalFederation:
    """A coordinator and sites in `folder`; `data` names each site's folder of data.

    `task` is the kind of task, `epsilon` what each site's policy admits, `deadline` the seconds of
    an exchange (see `Clock`), `database` the coordinator's (SQLite when empty). Use it as a context
    manager.
    """

    def __init__(
        self,
        folder: Path,
        data: Mapping[str, Path],
        *,
        task: TaskKind = "image-classification-2d",
        epsilon: float = 100.0,
        options: cohort.Options | None = None,
        deadline: int = 600,
        database: str = "",
    ) -> None:
        self.folder = folder
        self._stack = ExitStack()
        home = coordinator_config.create(
            folder / "coordinator",
            origin="local.example/wardround",
            host="127.0.0.1",
            bind="127.0.0.1",
            port=9443,
            internal_port=9440,
        )
        settings = home.folder / "config.toml"
        text = settings.read_text().replace(
            "exchange_deadline = 600", f"exchange_deadline = {deadline}"
        )
        text = text.replace('url = ""', f'url = "{database}"')
        settings.write_text(text)
        home = coordinator_config.load(home.folder)
        self.desk = self._stack.enter_context(Desk.open(home))
        self.sites: dict[str, Site] = {}
        peers = ", ".join(f'"{name}"' for name in sorted(data))
        for name, source in sorted(data.items()):
            self.sites[name] = self._join(name)
            path = self.sites[name].home
            kind = Task(task, classes=(), input_shape=()).data_kind
            cohort.add(source, path.folder, "data", kind, key=path.data_key(), options=options)
            path.policy.write_text(POLICY.format(epsilon=epsilon, task=task, peers=peers))
        self.grid = InProcessGrid(
            {name: RoundHandler(site.home, site) for name, site in self.sites.items()}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _join(self, name: str) -> Site:
        """Make a site and enrol it, as `init`, `join` and `approve` do over the network."""
        home = site_config.create(self.folder / name, name, f"Hospital {name}")
        log = self.desk.log
        pins = Pins(
            self.desk.home.url,
            log.origin,
            log.signer.public_bytes(),
            self.desk.signer.public_bytes(),
        )
        (home.folder / "coordinator.json").write_bytes(pins.to_bytes())
        home.ca_certificate.write_bytes(self.desk.home.ca_certificate.read_bytes())
        link = DirectLink(LogLink(log, name))
        site = self._stack.enter_context(Site.open(home, link))
        keys = home.public_keys()
        statement = site.witness.statement(
            Enrol(
                name,
                keys.identity.hex(),
                keys.witness.hex(),
                keys.supernode.hex(),
                home.organisation,
                "wardround",
            )
        )
        token = self.desk.enrolment.offer(
            name,
            url=pins.url,
            origin=pins.origin,
            ca="00" * 32,
            log_public=pins.log_public,
            coordinator=pins.coordinator_public,
        )
        self.desk.enrolment.receive(token.secret, statement)
        self.desk.enrolment.approve(name, "officer")
        site.sync()
        return site

    def approve(self, plan: StudyPlan) -> None:
        """Put a plan before the sites and let each approve it."""
        self.desk.studies.create(plan, self.desk.signer, "researcher")
        for site in self.sites.values():
            site.sync()
            site.approve(plan.study.id, "officer")
            site.sync()

    def run(self, study: str) -> Outcome:
        """Run a study to its end, however it ends."""
        return self.resume(self.desk.studies.start(study))

    def resume(self, run: str) -> Outcome:
        """Execute a run, from its start or from where it was left."""
        clock = Clock()
        execute(self.desk, self.grid, run, sleep=clock.sleep, clock=clock.now)
        return self.outcome(run)

    def outcome(self, run: str) -> Outcome:
        """Return how a run stands."""
        record = self.desk.studies.run(run)
        model = np.empty(0, np.float32)
        if record.model:
            data = BlobStore(self.desk.home.models).get(record.model)
            model = np.frombuffer(data, dtype="<f4").astype(np.float32)
        metrics: list[float] = []
        epsilon: dict[str, float] = {}
        for leaf in self.leaves():
            event = leaf.event
            if isinstance(event, Evaluation) and event.run == run:
                metrics += [float(metric.value) for metric in event.metrics]
            if isinstance(event, PrivacySpend) and event.run == run:
                epsilon[leaf.site] = float(event.epsilon_study or event.epsilon_after)
        return Outcome(run, record.status, record.note, model, tuple(metrics), epsilon)

    def leaves(self) -> Iterator[Leaf]:
        """Give every entry of the log."""
        log = self.desk.log
        return (from_leaf(data) for data in log.entries(0, log.size()))
