"""The global model in group mode: each site makes it for itself from the opened sums.

The coordinator cannot read a sum; it hands it out with the signatures of its round. A site checks
both and the MAC under the group key, takes the plan's step and signs the digest of the model it
came to. The step is elementwise and the same bits everywhere, so all sites come to one model.

A replica is one private file. It is written anew, durably, before the site signs anything of a
round, and holds what each round said, so that a request that comes again gets the same answer.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from wardround.privacy import canonical
from wardround.privacy.errors import AggregateRejected, MalformedData
from wardround.privacy.identity import read_private
from wardround.privacy.model import Vector, initial_vector, model_digest
from wardround.privacy.optimiser import Optimiser
from wardround.privacy.plan import StudyPlan
from wardround.privacy.secagg.messages import Opening
from wardround.privacy.secagg.quantization import Aggregate


@dataclass(frozen=True, slots=True)
class Step:
    """One round as this site read it: which sum, what it said, and the model it led to.

    `context` and `aggregate` name the sum, `counters` are the totals over the sites in it; all
    digests are hex.
    """

    round: int
    attempt: int
    context: str
    aggregate: str
    model_digest: str
    weight: int
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Replica:
    """The model (float32 [D]) after `round`, the optimiser's state, and the way here."""

    vector: Vector = field(repr=False)
    optimiser: bytes = field(default=b"", repr=False)
    steps: tuple[Step, ...] = ()

    @classmethod
    def first(cls, plan: StudyPlan) -> "Replica":
        """Return the model that every run of the plan starts from."""
        return cls(initial_vector(plan.model.tensors, plan.model.seed))

    @property
    def round(self) -> int:
        """The round after which this is the model; 0: before the first."""
        return len(self.steps)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the model."""
        return model_digest(self.vector)

    def check(self, opening: Opening) -> Step | None:
        """Return the step that was taken with this sum; None when it is the next one to read.

        Raises AggregateRejected for another sum of a round that was read, for one whose turn it
        is not, and for one of updates to another model.
        """
        number = opening.task.round
        if number <= self.round:
            step = self.steps[number - 1]
            if (step.context, step.aggregate) != (opening.task.context.hex(), opening.vector.hex()):
                raise AggregateRejected(f"another sum of round {number} was read here before")
            return step
        if number != self.round + 1:
            raise AggregateRejected(
                f"the model here is that after round {self.round}; a sum of round {number} "
                "cannot follow it"
            )
        if opening.task.model.hex() != self.digest:
            raise AggregateRejected("the sum is of updates to another model than the one here")
        return None

    def after(self, plan: StudyPlan, opening: Opening, aggregate: Aggregate) -> "Replica":
        """Return the replica one round on; `aggregate` is the sum of `opening` as it was read."""
        optimiser = Optimiser.resume(plan, self.optimiser)
        moved = optimiser.move(self.vector, aggregate.mean) if aggregate.weight else self.vector
        step = Step(
            opening.task.round,
            opening.task.attempt,
            opening.task.context.hex(),
            opening.vector.hex(),
            model_digest(moved),
            aggregate.weight,
            aggregate.counters,
        )
        return Replica(moved, optimiser.save(), (*self.steps, step))


def save_replica(folder: Path, run: str, replica: Replica) -> None:
    """Write the replica of a run, mode 0600: durable, and all or nothing, when this returns."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = _path(folder, run)
    partial = path.with_suffix(".new")
    steps = canonical.dumps([_to_json(step) for step in replica.steps])
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        np.savez(
            file,
            vector=replica.vector.astype("<f4"),
            optimiser=np.frombuffer(replica.optimiser, dtype=np.uint8),
            steps=np.frombuffer(steps, dtype=np.uint8),
        )
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_replica(folder: Path, run: str) -> Replica | None:
    """Return the replica of a run, None when there is none; MalformedData for a damaged one."""
    path = _path(folder, run)
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(read_private(path)), allow_pickle=False) as file:
            steps = canonical.loads(file["steps"].tobytes(), max_bytes=2**28)
            if not isinstance(steps, list):
                raise MalformedData("no list of steps")
            replica = Replica(
                file["vector"].astype(np.float32),
                file["optimiser"].tobytes(),
                tuple(_from_json(step) for step in steps),
            )
    except (ValueError, KeyError, TypeError, EOFError, OSError, BadZipFile, MalformedData):
        raise MalformedData(f"the model of run {run} is damaged at this site") from None
    if replica.steps and replica.steps[-1].model_digest != replica.digest:
        raise MalformedData(f"the model of run {run} is damaged at this site")
    return replica


def _path(folder: Path, run: str) -> Path:
    return folder / f"{run}.replica"


def _to_json(step: Step) -> canonical.Json:
    return {name: getattr(step, name) for name in Step.__slots__} | {
        "counters": dict(step.counters)
    }


def _from_json(value: Any) -> Step:
    return Step(**value)
