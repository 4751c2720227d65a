"""The global model of a run, from the coordinator's side: here, where it reads the opened sums.

In group mode only the sites hold the model: see `hidden_model`. `GlobalModel` is what a run asks of
either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wardround.privacy.events import Counter, Evaluation, Metric
from wardround.privacy.model import Vector, initial_vector, model_digest
from wardround.privacy.optimiser import Optimiser
from wardround.privacy.plan import StudyPlan
from wardround.privacy.run_spec import metrics
from wardround.privacy.secagg.aggregator import Aggregator
from wardround.server.blobs import BlobStore
from wardround.server.operations import RunRecord


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an opened sum: what the log says of it, and what is durable now.

    `digest` is that of the opened vector and `size` its bytes. In group mode `weight` is 0 and
    `counters`, `model_digest` and `evaluation` are empty.
    """

    digest: str
    size: int
    survivors: tuple[str, ...]
    weight: int
    counters: tuple[Counter, ...]
    model_digest: str
    evaluation: tuple[Evaluation, ...]
    kept: Mapping[str, str]
    """The record's `model` and `optimiser` after this round."""


class GlobalModel(Protocol):
    """What the rounds of a run start from and lead to."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the model that the next round starts from; empty: not known yet."""

    @property
    def payload(self) -> bytes | None:
        """What goes to the sites with a task and at the end; None where they have the model."""

    def settle(self, done: int, online: Sequence[str]) -> tuple[str, ...]:
        """Return those of `online` that may start from the model after round `done`.

        Raises RoundAborted when they are too few, RunStopped when no further try can help.
        """

    def take(self, aggregator: Aggregator, number: int) -> Taken:
        """Go on to the model after round `number`, whose sum `aggregator` can open."""

    def forget(self) -> None:
        """The run is over: drop what was kept for its sites alone."""


@dataclass(slots=True)
class OpenModel:
    """The model that the coordinator makes itself; `vector` is float32 [D]."""

    run: str
    plan: StudyPlan
    store: BlobStore
    vector: Vector
    optimiser: Optimiser

    @classmethod
    def resume(cls, run: str, plan: StudyPlan, store: BlobStore, record: RunRecord) -> "OpenModel":
        """Return the model as the run's record has it; at the start, the plan's first weights."""
        saved = store.get(record.optimiser) if record.optimiser else b""
        if record.model:
            vector = np.frombuffer(store.get(record.model), dtype="<f4").astype(np.float32)
        else:
            vector = initial_vector(plan.model.tensors, plan.model.seed)
        return cls(run, plan, store, vector, Optimiser.resume(plan, saved))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the model."""
        return model_digest(self.vector)

    @property
    def payload(self) -> bytes | None:
        """The model as little-endian float32."""
        return self.vector.astype("<f4").tobytes()

    def settle(self, done: int, online: Sequence[str]) -> tuple[str, ...]:
        """Every site gets the model with its task."""
        return tuple(online)

    def take(self, aggregator: Aggregator, number: int) -> Taken:
        """Read the sum and take the plan's step; model and optimiser are durable on return."""
        aggregate = aggregator.result()
        before = self.digest
        if aggregate.weight:
            self.vector = self.optimiser.move(self.vector, aggregate.mean)
        state = self.optimiser.save()
        counters = tuple(Counter(name, value) for name, value in aggregate.counters.items())
        found = metrics(self.plan, aggregate.counters)
        shown = tuple(Metric(name, f"{value:.4f}") for name, value in found.items())
        return Taken(
            digest=aggregate.digest,
            size=aggregator.opened().nbytes,
            survivors=aggregate.survivors,
            weight=aggregate.weight,
            counters=counters,
            model_digest=self.digest,
            evaluation=(Evaluation(self.run, number, before, counters if found else (), shown),),
            kept={
                "model": self.store.put(self.vector.astype("<f4").tobytes()),
                "optimiser": self.store.put(state) if state else "",
            },
        )

    def forget(self) -> None:
        """Nothing: the model stays, for whoever may export it."""
