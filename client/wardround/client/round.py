"""One site's part in a run: what it does with each request of the coordinator.

    hello      plan and policy checked, fresh keys        -> key advert
    book       every peer's key against the witnessed log -> signed approval of the book
    task       log and receipts, budget, training         -> masked update
    survivors  who is in the sum                          -> signature
    open       t signatures                               -> recovery shares
    aggregate  group mode: the opened sum                 -> signed digest of the next model
    close      the final model                            -> closing statement

Before each step the site takes in the log's newest checkpoint and insists on the receipts for
what it said before. Privacy is reserved before training and committed before anything leaves.
"""

import hashlib
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wardround.client.config import Home
from wardround.client.contribution import Contributions
from wardround.client.database import session
from wardround.client.errors import ClientError, ProofStale, Refused, SiteStateError
from wardround.client.replica import Replica, load_replica, save_replica
from wardround.client.site import Site
from wardround.client.state import RunState, RunStore, drop_updates
from wardround.client.trainer import Trainer, set_threads
from wardround.privacy.conversation import Answer, Ask, Kind
from wardround.privacy.errors import (
    AggregateRejected,
    MalformedData,
    PrivacyError,
    SurvivorsRejected,
    WardroundError,
)
from wardround.privacy.events import ModelStep, RecoveryShare, Refusal, Update
from wardround.privacy.loghead import LogHead
from wardround.privacy.model import Vector, model_digest
from wardround.privacy.plan import StudyPlan
from wardround.privacy.planned import PlannedSpend
from wardround.privacy.records import one_line
from wardround.privacy.run_spec import exchange_rounds, make_run_spec
from wardround.privacy.secagg.codec import decode, encode
from wardround.privacy.secagg.messages import (
    Confirmation,
    KeyBook,
    Opening,
    Quorum,
    Survivors,
    Task,
    Upload,
)
from wardround.privacy.secagg.parameters import RunSpec, SignedRunSpec
from wardround.privacy.secagg.participant import Participant
from wardround.privacy.secagg.segments import ring_type

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Run:
    """A run that this process works on."""

    plan: StudyPlan
    participant: Participant
    contributions: Contributions


@dataclass(slots=True)
class RoundHandler:
    """Answers the coordinator's requests for one site; the site runner calls it."""

    home: Home
    site: Site
    _runs: dict[str, _Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_threads(self.home.threads)

    def __call__(
        self, kind: str, body: bytes, payload: bytes | None
    ) -> tuple[str, bytes, bytes | None]:
        """Answer one request. A refusal is an answer too, signed and with its rule."""
        ask = Ask.from_bytes(body)
        try:
            if ask.head is not None:
                self._take_in(ask.head)
            answer, data = self._answer(Kind(kind), ask, payload)
        except Refused as error:
            self._state_refusal(ask, error)
            answer, data = Answer({}, refusal=str(error)), None
        except (WardroundError, ValueError) as error:
            logger.warning("%s of %s: %s", kind, ask.run, error)
            answer, data = Answer({}, refusal=_reason(error)), None
        if answer.refusal:
            logger.warning("refused %s: %s", kind, answer.refusal)
        said = replace(answer, head=self.site.witness.head(), refusal=one_line(answer.refusal))
        return kind, said.to_bytes(), data

    def _take_in(self, head: LogHead) -> None:
        """Take in the log up to the checkpoint that came with a request."""
        try:
            self.site.witness.accept(head, asked_at=0)  # not asked for, so it may be overtaken
        except ProofStale:  # it was, by a call of this site's own; the site knows where it stands
            self.site.sync()

    def _answer(self, kind: Kind, ask: Ask, payload: bytes | None) -> tuple[Answer, bytes | None]:
        if kind is Kind.HELLO:
            return self._hello(ask), None
        run = self._run(ask.run)
        if kind is Kind.BOOK:
            ack = run.participant.accept_book(decode(KeyBook, ask.part("book")))
            return Answer({"ack": encode(ack)}), None
        if kind is Kind.TASK:
            return self._task(run, ask, self._model(run, ask.run, payload))
        if kind is Kind.SURVIVORS:
            signature = run.participant.accept_survivors(decode(Survivors, ask.part("survivors")))
            return Answer({"signature": encode(signature)}), None
        if kind is Kind.OPEN:
            return self._open(run, ask), None
        if kind is Kind.AGGREGATE:
            return self._aggregate(run, ask, payload), None
        return self._close(run, ask, payload), None

    # -- once a run -----------------------------------------------------------------------------

    def _hello(self, ask: Ask) -> Answer:
        """Check everything of the run against what was approved, then make fresh keys."""
        signed = decode(SignedRunSpec, ask.part("spec"))
        if signed.spec.run != ask.run or Path(ask.run).name != ask.run:
            raise Refused("run", "the run spec is of another run than the request, or misnamed")
        self.site.catch_up()
        plan, contributions = self._admitted(signed)
        self.site.check_budget(plan, contributions.dataset)
        with session(self.site.engine) as database:
            row = database.get(RunState, ask.run)
            if row is None:
                row = RunState(
                    run=ask.run,
                    study=plan.study.id,
                    plan_digest=plan.digest(),
                    spec=encode(signed),
                    participant=b"",
                    phase="setting up",
                    round=0,
                    attempt=0,
                    updated_ms=_now_ms(),
                )
                database.add(row)
            # Which rounds and sums there were outlives new keys: else two sums of the same
            # updates could be opened, and subtracted.
            saved = row.participant
        if plan.secure_aggregation.group_mode and not saved:
            save_replica(self.home.models, ask.run, Replica.first(plan))
        participant = self._participant(signed, saved)
        advert = participant.advertise()
        self._runs[ask.run] = _Run(plan, participant, contributions)
        self._announce(plan, signed.spec)
        return Answer({"advert": encode(advert)})

    def _announce(self, plan: StudyPlan, spec: RunSpec) -> None:
        """Say before the first round what will leave this site."""
        planned, size = PlannedSpend.of_plan(plan), spec.vector_length * spec.ring_bits // 8
        cost = planned.promised()
        peers = [site for site in spec.participants if site != self.home.name]
        logger.info("run %s of study %s. What will leave this site:", spec.run, plan.study.id)
        logger.info("  tensors  %s, %s numbers", len(plan.model.tensors), f"{plan.dimension:,}")
        logger.info("  bytes    %s masked, in each of %s rounds", f"{size:,}", spec.rounds)
        logger.info("  epsilon  %s at delta %s, all rounds", cost.text, plan.privacy.delta)
        if planned.honest > 1:  # the one above is against who sees only the sum
            logger.info("  unmasked epsilon %s against everyone", planned.cost().text)
        logger.info("  peers    %s; sums open over %s or more", ", ".join(peers), spec.min_cohort)

    def _admitted(self, signed: SignedRunSpec) -> tuple[StudyPlan, Contributions]:
        """Return the plan of a run this site may take part in, and what it adds to it."""
        digest = signed.spec.study.hex()
        study = self.site.federation().study_of_digest(digest)
        if study is None:
            raise Refused("plan", "the log holds no plan of this digest; it may have been replaced")
        plan = study.signed_plan.open(self.site.pins.coordinator_public)
        if not self.site.approved(digest):
            raise Refused(
                "approval",
                f"this plan ({digest[:12]}) is not approved here; at the site: "
                f"wardround-site study review {plan.study.id}",
            )
        _, cohort = self.site.check_plan(plan)
        roster = self.site.federation().roster(plan.participants.sites)
        if make_run_spec(plan, signed.spec.run, roster) != signed.spec:
            raise Refused("run_spec", "the run differs from the approved plan")
        trainer = Trainer.open(plan, cohort, self.home.device)
        contributions = Contributions(
            self.home, self.site, signed.spec, plan, trainer, cohort.pseudonym
        )
        return plan, contributions

    def _run(self, run: str) -> _Run:
        """Return a run that this site takes part in, from the database after a restart."""
        if run not in self._runs:
            with session(self.site.engine) as database:
                row = database.get(RunState, run)
                if row is None or not row.participant:
                    raise Refused("run", f"this site takes no part in the run {run[:60]}")
                spec, saved = decode(SignedRunSpec, row.spec), row.participant
            plan, contributions = self._admitted(spec)
            self._runs[run] = _Run(plan, self._participant(spec, saved), contributions)
        return self._runs[run]

    def _participant(self, signed: SignedRunSpec, saved: bytes) -> Participant:
        roster = self.site.federation().roster(signed.spec.participants)
        store = RunStore(self.site.engine, signed.spec.run)
        common = (signed, self.home.name, self.site.identity, roster)
        public = self.site.pins.coordinator_public
        if saved:
            return Participant.restore(saved, *common, public, store)
        return Participant(*common, public, store)

    # -- each round -----------------------------------------------------------------------------

    def _task(self, run: _Run, ask: Ask, vector: Vector) -> tuple[Answer, bytes]:
        task = decode(Task, ask.part("task"))
        self.site.catch_up()
        self.site.witness.require_receipts()
        self._confirm(run, ask)
        digest = bytes.fromhex(model_digest(vector))
        run.participant.check_task(task, digest)
        contribution = run.contributions.of(task, vector)
        upload, masked = run.participant.begin_round(task, digest, contribution)
        data = masked.tobytes()
        self._state_update(run, ask.run, task, upload, data)
        drop_updates(self.home.scratch, ask.run, task.round)
        self._mark(ask.run, "in a round", task.round, task.attempt)
        return Answer({"upload": encode(upload)}), data

    def _confirm(self, run: _Run, ask: Ask) -> None:
        if not run.participant.ready:
            run.participant.confirm(decode(Confirmation, ask.part("confirmation")))

    def _model(self, run: _Run, name: str, payload: bytes | None) -> Vector:
        """Return the global model: the one that came, or in group mode this site's own."""
        if not run.plan.secure_aggregation.group_mode:
            return _vector(payload)
        if payload is not None:
            raise MalformedData("a model came in group mode, where each site makes it for itself")
        return self._replica(name).vector

    def _replica(self, name: str) -> Replica:
        replica = load_replica(self.home.models, name)
        if replica is None:
            raise SiteStateError(f"this site's model of run {name} is gone; it cannot go on")
        return replica

    def _state_update(self, run: _Run, name: str, task: Task, upload: Upload, data: bytes) -> None:
        header = encode(upload.header)
        self.site.witness.statement(
            Update(
                run=name,
                round=task.round,
                attempt=task.attempt,
                context=task.context.hex(),
                model_digest=task.model.hex(),
                digest=hashlib.sha256(data).hexdigest(),
                size=len(data),
                header_digest=hashlib.sha256(header).hexdigest(),
                header_size=len(header),
                boxes_size=sum(map(len, upload.boxes)),
                dimension=run.plan.dimension,
                ring_bits=run.plan.secure_aggregation.ring_bits,
                recipient=self.site.pins.origin,
                encryption="secure aggregation over TLS 1.3",
            )
        )

    def _open(self, run: _Run, ask: Ask) -> Answer:
        quorum = decode(Quorum, ask.part("quorum"))
        shares = run.participant.release_shares(quorum)
        with session(self.site.engine) as database:
            row = database.get_one(RunState, ask.run)
            round_, attempt = row.round, row.attempt
        if not self.site.witness.stated(RecoveryShare.kind, ask.run, round_, attempt):
            self.site.witness.statement(
                RecoveryShare(
                    run=ask.run,
                    round=round_,
                    attempt=attempt,
                    context=shares.context.hex(),
                    shares=encode(shares).hex(),
                )
            )
        return Answer({"shares": encode(shares)})

    def _aggregate(self, run: _Run, ask: Ask, payload: bytes | None) -> Answer:
        """In group mode: read an opened sum, take the step, and sign the model it leads to."""
        if not run.plan.secure_aggregation.group_mode or payload is None:
            raise MalformedData("a sum came that is not for this site to read, or none with it")
        opening, replica = decode(Opening, ask.part("opening")), self._replica(ask.run)
        self._confirm(run, ask)
        try:
            step = replica.check(opening)
            if step is None:
                kind = ring_type(run.plan.secure_aggregation.ring_bits)
                vector = np.frombuffer(payload, dtype=kind)
                aggregate = run.participant.accept_aggregate(opening, vector)
                replica = replica.after(run.plan, opening, aggregate)
                save_replica(self.home.models, ask.run, replica)
                step = replica.steps[-1]
        except (AggregateRejected, SurvivorsRejected) as error:
            raise Refused("aggregate", str(error)) from None
        if not self.site.witness.stated(ModelStep.kind, ask.run, step.round):
            place = ask.run, step.round, step.attempt, step.context
            self.site.witness.statement(ModelStep(*place, step.aggregate, step.model_digest))
        return Answer({})

    def _close(self, run: _Run, ask: Ask, payload: bytes | None) -> Answer:
        """Keep the final model, if there is one, and say how far this site's statements go."""
        if payload is not None and not run.plan.secure_aggregation.group_mode:
            self.home.models.mkdir(mode=0o700, exist_ok=True)
            np.save(self.home.models / f"{ask.run}.npy", _vector(payload), allow_pickle=False)
            logger.info("run %s is over; the model is in models/%s.npy", ask.run, ask.run)
        drop_updates(self.home.scratch, ask.run, exchange_rounds(run.plan) + 1)
        self._release(ask.run)
        self.site.witness.require_receipts()
        self.site.witness.closing(ask.run)
        self._mark(ask.run, "closed", exchange_rounds(run.plan), 0)
        return Answer({})

    def _release(self, run: str) -> None:
        """Give back what the ledger still holds for the run: an update leaves only once paid."""
        for held in tuple(self.site.ledger.book().open.values()):
            if held.run == run:
                self.site.ledger.release(held.id, "the run is over and nothing of the round left")

    # -- what is remembered ---------------------------------------------------------------------

    def _mark(self, run: str, phase: str, round_: int, attempt: int) -> None:
        with session(self.site.engine) as database:
            row = database.get_one(RunState, run)
            row.phase, row.round, row.attempt = phase, round_, attempt
            row.updated_ms = _now_ms()

    def _state_refusal(self, ask: Ask, error: Refused) -> None:
        """Sign why this site refuses; the coordinator logs it, whoever asked."""
        known = self._runs.get(ask.run)
        digest = known.plan.digest() if known else _plan_digest(ask)
        study = self.site.federation().study_of_digest(digest)
        self.site.witness.statement(
            Refusal(
                study=study.planned.study if study else "unknown",
                plan_digest=digest,
                run=ask.run,
                round=0,
                attempt=0,
                rule=error.rule,
                reason=one_line(str(error)),
            )
        )


def _plan_digest(ask: Ask) -> str:
    """Return the plan digest that a request names, empty when it names none."""
    if "spec" not in ask.parts:
        return ""
    return decode(SignedRunSpec, ask.parts["spec"]).spec.study.hex()


def _reason(error: Exception) -> str:
    """Return what may leave the site of an error: our own messages, of others only the kind."""
    if isinstance(error, PrivacyError | ClientError):
        return str(error)
    return f"the site failed ({type(error).__name__}); its log says more"


def _vector(payload: bytes | None) -> Vector:
    if payload is None or len(payload) % 4:
        raise MalformedData("the request brings no model")
    return np.frombuffer(payload, dtype="<f4").astype(np.float32)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
