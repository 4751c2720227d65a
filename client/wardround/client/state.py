"""What a site must remember of studies and runs: decisions, and how far it is in each run."""

import os
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from sqlalchemy import Engine, LargeBinary, select
from sqlalchemy.orm import Mapped, mapped_column

from wardround.client.database import Base, session
from wardround.privacy.errors import MalformedData
from wardround.privacy.identity import read_private
from wardround.privacy.model import Vector


class Decision(Base):
    """The operator's word on one plan: "approved" or "refused"; the newest row counts."""

    __tablename__ = "decision"
    id: Mapped[int] = mapped_column(primary_key=True)
    plan_digest: Mapped[str] = mapped_column(index=True)
    study: Mapped[str]
    verdict: Mapped[str]
    reason: Mapped[str]
    data: Mapped[str]
    time_ms: Mapped[int]


class RunState(Base):
    """One run at this site. `participant` is the protocol's saved state: secret, in this file."""

    __tablename__ = "run_state"
    run: Mapped[str] = mapped_column(primary_key=True)
    study: Mapped[str]
    plan_digest: Mapped[str]
    spec: Mapped[bytes] = mapped_column(LargeBinary)
    participant: Mapped[bytes] = mapped_column(LargeBinary)
    phase: Mapped[str]
    round: Mapped[int]
    attempt: Mapped[int]
    updated_ms: Mapped[int]

    def __repr__(self) -> str:
        return f"RunState({self.run!r}, {self.phase!r}, round={self.round})"


@dataclass(frozen=True, slots=True)
class RunStore:
    """Keeps the protocol state of one run; what was saved survives a crash at any point."""

    engine: Engine
    run: str

    def save(self, state: bytes) -> None:
        """Write `state` durably; the protocol calls this before anything leaves the site."""
        with session(self.engine) as database:
            row = database.get_one(RunState, self.run)
            row.participant = state


def newest_decision(engine: Engine, plan_digest: str) -> Decision | None:
    """Return the newest decision on a plan, or None when nobody decided."""
    with session(engine) as database:
        row = database.scalars(
            select(Decision)
            .where(Decision.plan_digest == plan_digest)
            .order_by(Decision.id.desc())
            .limit(1)
        ).one_or_none()
        if row is not None:
            database.expunge(row)
        return row


@dataclass(frozen=True, slots=True)
class TrainedUpdate:
    """What training gave for one round, kept until the round is over.

    `values` is float32 [D]; a further attempt at the round sends it again, so that a failed
    attempt costs no second training and no second epsilon.
    """

    model_digest: str
    values: Vector
    weight: int
    counters: tuple[int, ...]


def save_update(folder: Path, run: str, round_: int, update: TrainedUpdate) -> None:
    """Write the update of a round to a private file, durably and all at once."""
    path = _path(folder, run, round_)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        np.savez(
            file,
            digest=np.frombuffer(bytes.fromhex(update.model_digest), dtype=np.uint8),
            values=update.values,
            weight=np.int64(update.weight),
            counters=np.asarray(update.counters, dtype=np.int64),
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_update(folder: Path, run: str, round_: int) -> TrainedUpdate | None:
    """Return the kept update of a round, or None when there is none."""
    path = _path(folder, run, round_)
    if not path.exists():
        return None
    read_private(path)  # refuses a file that others can read
    try:
        with np.load(path, allow_pickle=False) as file:
            return TrainedUpdate(
                file["digest"].tobytes().hex(),
                file["values"].astype(np.float32, copy=False),
                int(file["weight"]),
                tuple(int(value) for value in file["counters"]),
            )
    except (ValueError, KeyError, EOFError, OSError, BadZipFile):
        raise MalformedData("the kept update of this round is damaged") from None


def drop_updates(folder: Path, run: str, before: int) -> None:
    """Remove kept updates of rounds below `before`."""
    for path in folder.glob(f"{run}-*.npz"):
        if int(path.stem.rsplit("-", 1)[1]) < before:
            path.unlink()


def _path(folder: Path, run: str, round_: int) -> Path:
    return folder / f"{run}-{round_}.npz"
