"""What a site knows of a run's results: metrics over all sites, and the model.

In plain mode they are in the log and in the model that came at the end; in group mode this site
has read the sums and made the model itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from wardround.client.database import session
from wardround.client.errors import ClientError
from wardround.client.replica import load_replica
from wardround.client.site import Site
from wardround.client.state import RunState
from wardround.privacy.events import Evaluation, Event, StudyPlanned, from_leaf
from wardround.privacy.model import Vector, initial_vector, model_digest
from wardround.privacy.plan import SignedPlan, StudyPlan
from wardround.privacy.run_spec import EVALUATED, metrics

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """How the model that a round began with does on the held-out data of the sites in its sum.

    `metrics` is empty where fewer samples were evaluated than the plan asks for.
    """

    round: int
    model_digest: str
    evaluated: int
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        """Return the object for `--json`."""
        return {
            "round": self.round,
            "model": self.model_digest,
            "evaluated": self.evaluated if self.metrics else None,
            "metrics": self.metrics,
        }


def of_study(site: Site, study: str) -> tuple[str, StudyPlan, tuple[Result, ...]]:
    """Return the newest run of a study here, its plan, and a result for each sum so far.

    Raises ClientError when this site has taken part in none.
    """
    run, plan = _newest(site, study)
    results = _read_here if plan.secure_aggregation.group_mode else _logged
    return run, plan, tuple(results(site, run, plan))


def model_of_study(site: Site, study: str) -> tuple[str, StudyPlan, Vector]:
    """Return the newest run of a study here, its plan, and the newest model [D] of it.

    Raises ClientError when there is none (yet).
    """
    run, plan = _newest(site, study)
    if plan.secure_aggregation.group_mode:
        replica = load_replica(site.home.models, run)
        if replica is not None and replica.round:
            return run, plan, replica.vector
    elif (path := site.home.models / f"{run}.npy").exists():
        return run, plan, np.load(path, allow_pickle=False)
    raise ClientError(f"run {run} has no model here yet; see: wardround-site study show {study}")


def _newest(site: Site, study: str) -> tuple[str, StudyPlan]:
    query = select(RunState.run, RunState.plan_digest).where(RunState.study == study)
    with session(site.engine) as database:
        row = database.execute(query.order_by(RunState.updated_ms.desc()).limit(1)).first()
    if row is None:
        raise ClientError(f"this site has taken part in no run of {study[:40]!r} yet")
    for event in _entries(site):
        if isinstance(event, StudyPlanned) and event.plan_digest == row.plan_digest:
            signed = SignedPlan(event.plan.encode("ascii"), bytes.fromhex(event.signature))
            return row.run, signed.open(site.pins.coordinator_public)
    raise ClientError(f"this site's copy of the log lacks the plan of run {row.run}")


def _entries(site: Site) -> Iterator[Event]:
    """Give the events of this site's copy of the log."""
    for start in range(0, site.witness.position().mirrored, BATCH):
        for data in site.witness.entries(start, start + BATCH):
            yield from_leaf(data).event


def _read_here(site: Site, run: str, plan: StudyPlan) -> Iterator[Result]:
    replica = load_replica(site.home.models, run)
    before = model_digest(initial_vector(plan.model.tensors, plan.model.seed))
    for step in replica.steps if replica else ():
        shown = metrics(plan, step.counters)
        yield Result(step.round, before, step.counters[EVALUATED], shown)
        before = step.model_digest


def _logged(site: Site, run: str, plan: StudyPlan) -> Iterator[Result]:
    del plan
    for event in _entries(site):
        if isinstance(event, Evaluation) and event.run == run:
            counts = {counter.name: counter.value for counter in event.counters}
            shown = {metric.name: float(metric.value) for metric in event.metrics}
            yield Result(event.round, event.model_digest, counts.get(EVALUATED, 0), shown)
