"""Studies and their runs as an operator handles them: create, look at, start, stop."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from wardround.privacy.errors import PrivacyError
from wardround.privacy.events import Event, Fault, RunEnd
from wardround.privacy.federation import StudyState
from wardround.privacy.identity import Signer
from wardround.privacy.plan import SignedPlan, StudyPlan
from wardround.privacy.plan_entry import plan_entry
from wardround.privacy.records import one_line
from wardround.privacy.run_spec import make_run_spec
from wardround.server.audit import AuditLog
from wardround.server.database import READ_ONLY
from wardround.server.errors import StudyError
from wardround.server.federation import read_federation
from wardround.server.operations import RunRecord

ACTIVE = ("requested", "running")


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study for a table: who agreed, and the newest run's status (empty: none)."""

    study: str
    title: str
    plan_digest: str
    participants: tuple[str, ...]
    approved: tuple[str, ...]
    refused: tuple[str, ...]
    run: str
    status: str
    round: int
    rounds: int


class Studies:
    """The studies of one coordinator."""

    def __init__(self, engine: Engine, log: AuditLog) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**READ_ONLY)
        self._log = log

    def create(self, plan: StudyPlan, signer: Signer, actor: str) -> SignedPlan:
        """Sign `plan` and put it before the sites by logging it.

        A plan under the id of an earlier study replaces it: approvals count for a digest only.
        Raises StudyError when a participant is not enrolled, no run could be made of the plan, or
        a run of the study is active.
        """
        federation = read_federation(self._engine)
        try:
            make_run_spec(plan, plan.study.id, federation.roster(plan.participants.sites))
        except PrivacyError as error:
            raise StudyError(f"the plan cannot be put forward: {error}") from None
        if self._active(plan.study.id) is not None:
            raise StudyError(f"a run of {plan.study.id} is going on; stop it before a new plan")
        signed = SignedPlan.sign(plan, signer)
        self._log.append([plan_entry(plan, signed)], actor=actor)
        self._log.checkpoint()
        return signed

    def get(self, study: str) -> StudyState:
        """Return a study; StudyError when the log has none of that id."""
        found = read_federation(self._engine).studies.get(study)
        if found is None:
            raise StudyError(f"there is no study {study[:40]!r}; see: study list")
        return found

    def rows(self) -> list[StudyRow]:
        """Return every study with its newest run, by id."""
        federation = read_federation(self._engine)
        rows = []
        for study, state in sorted(federation.studies.items()):
            run = self.newest_run(study)
            rows.append(
                StudyRow(
                    study=study,
                    title=state.planned.title,
                    plan_digest=state.planned.plan_digest,
                    participants=state.planned.participants,
                    approved=tuple(sorted(state.approved)),
                    refused=tuple(sorted(state.refused)),
                    run=run.run if run else "",
                    status=run.status if run else "",
                    round=min(run.round, state.planned.rounds) if run else 0,
                    rounds=state.planned.rounds,
                )
            )
        return rows

    def start(self, study: str) -> str:
        """Ask for a run; `serve` begins it within seconds. Return the run's id.

        Raises StudyError when a site has not approved this very plan, or a run is active.
        """
        state = self.get(study)
        missing = sorted(set(state.planned.participants) - state.approved)
        if missing:
            raise StudyError(
                f"{', '.join(missing)} has not approved this plan "
                f"({state.planned.plan_digest[:12]}); at the site: "
                f"wardround-site study review {study}"
            )
        if (active := self._active(study)) is not None:
            raise StudyError(f"run {active.run} of {study} is going on already")
        run = f"{study}-{secrets.token_hex(4)}"
        now = _now_ms()
        with Session(self._engine) as database, database.begin():
            database.add(
                RunRecord(
                    run=run,
                    study=study,
                    status="requested",
                    stage="",
                    round=0,
                    attempt=0,
                    model="",
                    optimiser="",
                    pending="",
                    aggregator=b"",
                    note="",
                    created_ms=now,
                    updated_ms=now,
                )
            )
        return run

    def stop(self, study: str) -> str:
        """Ask the active run to stop after its present exchange; return its id."""
        active = self._active(study)
        if active is None:
            raise StudyError(f"no run of {study[:40]!r} is going on")
        with self.editing(active.run) as row:
            row.status = "stopping"
        return active.run

    def fail(self, run: str, reason: str) -> None:
        """Note, here and in the log, that a run cannot go on; one that has ended stays as it is."""
        reason = one_line(reason)
        with self.editing(run) as row:
            if row.status not in (*ACTIVE, "stopping"):
                return
            row.status, row.stage, row.note = "failed", "over", reason
            round_, attempt = row.round, row.attempt
        events: list[Event] = [Fault(run, round_, attempt, "", "process", reason)]
        begun = read_federation(self._engine).runs.get(run)
        if begun is not None and not begun.outcome:
            events.append(RunEnd(run, "aborted", reason, round_, ""))
        self._log.append(events)
        self._log.checkpoint()

    def revoked(self) -> frozenset[str]:
        """Return every site whose keys are void."""
        return frozenset(read_federation(self._engine).revoked)

    def newest_run(self, study: str) -> RunRecord | None:
        """Return the newest run of a study, or None."""
        with Session(self._reader, expire_on_commit=False) as database:
            return database.scalars(
                select(RunRecord)
                .where(RunRecord.study == study)
                .order_by(RunRecord.created_ms.desc(), RunRecord.run)
                .limit(1)
            ).one_or_none()

    def run(self, run: str) -> RunRecord:
        """Return a run; StudyError when there is none of that id."""
        with Session(self._reader, expire_on_commit=False) as database:
            found = database.get(RunRecord, run)
        if found is None:
            raise StudyError(f"there is no run {run[:60]!r}")
        return found

    def unfinished(self) -> list[RunRecord]:
        """Return every run that was asked for and has not ended."""
        with Session(self._reader, expire_on_commit=False) as database:
            return list(
                database.scalars(
                    select(RunRecord)
                    .where(RunRecord.status.in_((*ACTIVE, "stopping")))
                    .order_by(RunRecord.created_ms)
                )
            )

    @contextmanager
    def editing(self, run: str) -> Iterator[RunRecord]:
        """Give the record of a run to change, in one transaction."""
        with Session(self._engine) as database, database.begin():
            row = database.get_one(RunRecord, run)
            yield row
            row.updated_ms = _now_ms()

    def _active(self, study: str) -> RunRecord | None:
        return next((run for run in self.unfinished() if run.study == study), None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
