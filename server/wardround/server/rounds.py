"""One run of a study: set-up, rounds, attempts, checkpoints, and what the log says of each.

    hello, book                      keys of the run, once
    task, survivors, open            each attempt at a round; its sum makes the next model
    close                            the final model goes out, sites close their statements

Nothing here is trusted by a site. After each step the state that a restarted coordinator needs is
in the database, so a run goes on with the next attempt whenever this process dies. A site that
fails is left out of the attempt; below the plan's minimum the round is tried again.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np

from wardround.privacy import canonical
from wardround.privacy.conversation import Kind
from wardround.privacy.errors import MalformedData, PrivacyError
from wardround.privacy.events import (
    Aggregated,
    Counter,
    Dropped,
    Evaluation,
    Event,
    KeyBookMade,
    Metric,
    RoundEnd,
    RoundStart,
    RunEnd,
    RunStart,
    SiteDigest,
)
from wardround.privacy.events import Survivors as SurvivorsLogged
from wardround.privacy.identity import Roster, Signer
from wardround.privacy.model import Vector, initial_vector, model_digest
from wardround.privacy.plan import StudyPlan
from wardround.privacy.records import one_line
from wardround.privacy.run_spec import exchange_rounds, make_run_spec, metrics
from wardround.privacy.secagg.aggregator import Aggregator
from wardround.privacy.secagg.codec import decode, digest, encode
from wardround.privacy.secagg.messages import (
    BookAck,
    KeyAdvert,
    Shares,
    SurvivorSignature,
    Task,
    Upload,
)
from wardround.privacy.secagg.parameters import SignedRunSpec
from wardround.privacy.secagg.quantization import Aggregate
from wardround.privacy.secagg.segments import ring_type
from wardround.server.asking import Asking
from wardround.server.audit import AuditLog
from wardround.server.blobs import BlobStore, expire
from wardround.server.config import Rounds
from wardround.server.errors import RoundAborted, RunStopped
from wardround.server.exchange import Exchange
from wardround.server.federation import read_federation
from wardround.server.operations import RunRecord
from wardround.server.optimiser import Optimiser
from wardround.server.studies import Studies

logger = logging.getLogger(__name__)
SOFTWARE = f"wardround {version('wardround')}"
CLOSING_SECONDS = 60.0


@dataclass(slots=True)
class StudyRun:
    """One run, from its record to its end. `sleep` is used while sites are waited for."""

    run: str
    plan: StudyPlan
    roster: Roster
    signer: Signer = field(repr=False)
    log: AuditLog
    uploads: BlobStore
    models: BlobStore
    studies: Studies
    exchange: Exchange
    rules: Rounds
    sleep: Callable[[float], None] = time.sleep
    _sites: Asking = field(init=False)
    _summed: tuple[SiteDigest, ...] = ()

    def __post_init__(self) -> None:
        self._sites = Asking(self.run, self.log, self.exchange, self.rules.exchange_deadline)

    def execute(self) -> None:
        """Run to the end, or go on from where an earlier process stopped.

        Raises RunStopped when an operator stopped it, RoundAborted when attempts are used up;
        the run's record and the log say so already.
        """
        self._take_up_logged_round()
        aggregator, record = self._set_up(self.studies.run(self.run))
        vector = self._model(record)
        optimiser = Optimiser.resume(self.plan, self._optimiser_state(record))
        while record.round < exchange_rounds(self.plan):
            vector = self._round(aggregator, record, vector, optimiser)
            record = self.studies.run(self.run)
        self._finish("completed", "", vector)

    # -- once a run -----------------------------------------------------------------------------

    def _set_up(self, record: RunRecord) -> tuple[Aggregator, RunRecord]:
        """Agree on keys, or take up the agreement of an earlier life of this process."""
        spec = make_run_spec(self.plan, self.run, self.roster)
        signed = SignedRunSpec.sign(spec, self.signer)
        if self.run not in read_federation(self.log.engine).runs:
            self.log.append([_run_start(self.plan, signed)])
        if record.status == "requested":
            with self.studies.editing(self.run) as row:
                row.status, row.stage = "running", "setting up"
        if record.aggregator:
            aggregator = Aggregator.restore(record.aggregator, signed, self.roster, self.signer)
            return aggregator, self.studies.run(self.run)
        for attempt in range(1, self.rules.attempts + 1):
            self._stop_if_asked()
            aggregator = Aggregator(signed, self.roster, self.signer)
            self._sites.begin(0, attempt)
            try:
                self._agree_on_keys(aggregator, signed)
            except (RoundAborted, PrivacyError) as error:
                self._sites.fault("", "set-up", str(error))
                if self._sites.refused:
                    break
                self.sleep(min(2.0 * attempt, 30.0))
                continue
            with self.studies.editing(self.run) as row:
                row.aggregator, row.stage = aggregator.save(), "keys agreed"
            return aggregator, self.studies.run(self.run)
        raise self._give_up("the sites could not agree on keys")

    def _agree_on_keys(self, aggregator: Aggregator, signed: SignedRunSpec) -> None:
        """M0 to M3: every participant has to be there, since a run's sites are fixed here."""
        sites = self._online(len(self.plan.participants.sites))
        parts = {"spec": encode(signed)}
        arrived: set[str] = set()
        for site, answer, _ in self._sites.ask(Kind.HELLO, dict.fromkeys(sites, parts), "set-up"):
            with self._sites.taking(site, "set-up"):
                aggregator.add_advert(decode(KeyAdvert, answer.part("advert")))
                arrived.add(site)
        missing = sorted(set(self.plan.participants.sites) - arrived)
        if missing:
            reasons = "; ".join(
                f"{s}: {self._sites.why.get(s, ('', 'no answer'))[1]}" for s in missing
            )
            raise RoundAborted(f"the run cannot begin without {', '.join(missing)} ({reasons})")
        book = aggregator.key_book()
        parts = {"book": encode(book)}
        for site, answer, _ in self._sites.ask(
            Kind.BOOK, dict.fromkeys(book.sites, parts), "set-up"
        ):
            with self._sites.taking(site, "set-up"):
                aggregator.add_ack(decode(BookAck, answer.part("ack")))
        if aggregator.missing_acks:
            raise RoundAborted(f"{', '.join(aggregator.missing_acks)} did not approve the keys")
        data = encode(book)
        name = hashlib.sha256(data).hexdigest()
        self.log.append([KeyBookMade(self.run, name, book.sites, len(data), data.hex())])

    def _finish(self, outcome: str, reason: str, vector: Vector | None) -> None:
        """End the run: closing statements, the log's last word, and cosignatures under it."""
        self._close(None if vector is None else vector.astype("<f4").tobytes())
        done = self.studies.run(self.run).round
        model = "" if vector is None else model_digest(vector)
        begun = read_federation(self.log.engine).runs.get(self.run)
        if begun is not None and not begun.outcome:
            self.log.append([RunEnd(self.run, outcome, one_line(reason), done, model)])
        self.log.checkpoint()
        self._close(None)
        expire(self.log.engine, self.uploads, self.rules.keep_uploads)
        with self.studies.editing(self.run) as row:
            row.status = {"aborted": "failed"}.get(outcome, outcome)
            row.stage, row.note = "over", one_line(reason)

    def _close(self, payload: bytes | None) -> None:
        """Hand the sites the final model, if there is one; take in what they have to say."""
        if not self.studies.run(self.run).aggregator:
            return  # no site has begun the run
        online = self.exchange.nodes()
        parts: dict[str, dict[str, bytes]] = {
            site: {} for site in self.plan.participants.sites if site in online
        }
        for _ in self._sites.ask(Kind.CLOSE, parts, "close", payload, CLOSING_SECONDS):
            pass

    # -- each round -----------------------------------------------------------------------------

    def _round(
        self, aggregator: Aggregator, record: RunRecord, vector: Vector, optimiser: Optimiser
    ) -> Vector:
        """Try the next round until its sum opens; return the model after it."""
        number, first = record.round + 1, record.attempt + 1
        for attempt in range(first, first + self.rules.attempts):
            self._stop_if_asked()
            with self.studies.editing(self.run) as row:
                row.attempt, row.stage = attempt, "round"
            self._sites.begin(number, attempt)
            try:
                aggregate, task = self._attempt(aggregator, number, attempt, vector)
            except (RoundAborted, PrivacyError) as error:
                self.log.append([self._round_end(number, attempt, "aborted", str(error), ())])
                logger.warning("round %s attempt %s: %s", number, attempt, error)
                left = len(self.plan.participants.sites) - len(self._sites.refused)
                if left < self.plan.secure_aggregation.min_cohort:
                    break
                self.sleep(min(2.0 * (attempt - first + 1), 30.0))
                continue
            moved = optimiser.move(vector, aggregate.mean) if aggregate.weight else vector
            self._record(number, attempt, vector, moved, aggregate, aggregator, task, optimiser)
            return moved
        raise self._give_up(f"round {number} cannot be finished")

    def _attempt(
        self, aggregator: Aggregator, number: int, attempt: int, vector: Vector
    ) -> tuple[Aggregate, Task]:
        """R1 to R6 once; the opened sum."""
        invited = self._online(self.plan.secure_aggregation.min_cohort)
        model = model_digest(vector)
        task = aggregator.task(number, attempt, invited, bytes.fromhex(model))
        with self.studies.editing(self.run) as row:
            row.aggregator = aggregator.save()
        last = number == exchange_rounds(self.plan)
        purpose = "evaluate" if last else "train"
        self.log.append(
            [
                RoundStart(
                    *(self.run, number, attempt, purpose, model, vector.nbytes, invited),
                    encode(task).hex(),
                )
            ]
        )
        uploads = self._collect(aggregator, task, vector)
        survivors = aggregator.survivors()
        dropped = tuple(
            Dropped(site, *self._sites.why.get(site, ("upload", "no upload")))
            for site in invited
            if site not in survivors
        )
        self.log.append(
            [
                SurvivorsLogged(
                    self.run,
                    number,
                    attempt,
                    task.context.hex(),
                    survivors,
                    digest(aggregator.survivors_for(survivors[0]).set).hex(),
                    dropped,
                )
            ]
        )
        self._sign_survivors(aggregator, survivors)
        self._recover(aggregator, survivors)
        aggregate = aggregator.result()
        self._summed = tuple(upload for upload in uploads if upload.site in survivors)
        return aggregate, task

    def _collect(self, aggregator: Aggregator, task: Task, vector: Vector) -> list[SiteDigest]:
        """R1, R2: hand out the task; add each masked vector as it comes, and keep it as a blob."""
        kind = ring_type(self.plan.secure_aggregation.ring_bits)
        parts = {
            site: {"task": encode(task), "confirmation": encode(aggregator.confirmation(site))}
            for site in task.participants
        }
        uploads: list[SiteDigest] = []
        payload = vector.astype("<f4").tobytes()
        for site, answer, data in self._sites.ask(Kind.TASK, parts, "upload", payload):
            with self._sites.taking(site, "upload"):
                if data is None:
                    raise MalformedData("the answer brings no masked vector")
                upload = decode(Upload, answer.part("upload"))
                aggregator.add(upload, np.frombuffer(data, dtype=kind))
                self.uploads.put(encode(upload.header))
                uploads.append(SiteDigest(upload.header.site, self.uploads.put(data), len(data)))
        return uploads

    def _sign_survivors(self, aggregator: Aggregator, survivors: tuple[str, ...]) -> None:
        """R3, R4."""
        parts = {s: {"survivors": encode(aggregator.survivors_for(s))} for s in survivors}
        for site, answer, _ in self._sites.ask(Kind.SURVIVORS, parts, "survivors"):
            with self._sites.taking(site, "survivors"):
                aggregator.add_signature(decode(SurvivorSignature, answer.part("signature")))

    def _recover(self, aggregator: Aggregator, survivors: tuple[str, ...]) -> None:
        """R5, R6."""
        parts = {"quorum": encode(aggregator.quorum())}
        for site, answer, _ in self._sites.ask(Kind.OPEN, dict.fromkeys(survivors, parts), "open"):
            with self._sites.taking(site, "open"):
                aggregator.add_shares(decode(Shares, answer.part("shares")))

    def _record(
        self,
        number: int,
        attempt: int,
        before: Vector,
        moved: Vector,
        aggregate: Aggregate,
        aggregator: Aggregator,
        task: Task,
        optimiser: Optimiser,
    ) -> None:
        """Log the round in one transaction, and make its checkpoint.

        Model and optimiser are durable before the log names them, so that a process that dies in
        between is followed by one that goes on after this round, not by a second sum of it.
        """
        state = optimiser.save()
        after = self.models.put(moved.astype("<f4").tobytes())
        with self.studies.editing(self.run) as row:
            row.pending = canonical.dumps(
                {
                    "round": number,
                    "model": after,
                    "optimiser": self.models.put(state) if state else "",
                }
            ).decode("ascii")
        opened = aggregator.opened()
        counters = tuple(Counter(name, value) for name, value in aggregate.counters.items())
        found = metrics(self.plan, aggregate.counters)
        shown = counters if found else ()
        events: list[Event] = [
            Aggregated(
                run=self.run,
                round=number,
                attempt=attempt,
                context=task.context.hex(),
                digest=aggregate.digest,
                size=opened.nbytes,
                uploads=self._summed,
                survivors=aggregate.survivors,
                weight=aggregate.weight,
                counters=counters,
                model_digest=model_digest(moved),
                quorum=encode(aggregator.quorum()).hex(),
            ),
            Evaluation(
                self.run,
                number,
                model_digest(before),
                shown,
                tuple(Metric(name, f"{value:.4f}") for name, value in found.items()),
            ),
        ]
        events.append(self._round_end(number, attempt, "completed", "", aggregate.survivors))
        self.log.append(events)
        self.log.checkpoint()
        self._take_up_logged_round()

    def _take_up_logged_round(self) -> None:
        """Make a round that the log holds the run's checkpoint."""
        with self.studies.editing(self.run) as row:
            pending = canonical.loads_object(row.pending.encode()) if row.pending else {}
            number = pending.get("round")
            if number == row.round + 1 and self.log.holds(Aggregated.kind, self.run, number):
                row.round, row.attempt = number, 0
                row.model, row.optimiser = str(pending["model"]), str(pending["optimiser"])

    def _round_end(
        self, number: int, attempt: int, outcome: str, reason: str, joined: tuple[str, ...]
    ) -> RoundEnd:
        traffic = self._sites.traffic
        return RoundEnd(
            *(self.run, number, attempt, outcome, one_line(reason), joined),
            *(traffic.up, traffic.down),
        )

    def _online(self, needed: int) -> tuple[str, ...]:
        """Wait until `needed` participants are online; return all that are, in order."""
        deadline = time.monotonic() + self.rules.patience
        while True:
            nodes = self.exchange.nodes()
            sites = tuple(site for site in self.plan.participants.sites if site in nodes)
            if len(sites) >= needed:
                return sites
            if time.monotonic() > deadline:
                missing = sorted(set(self.plan.participants.sites) - set(sites))
                raise RoundAborted(
                    f"{len(sites)} of {needed} sites are online; {', '.join(missing)} must start "
                    "(wardround-site start)"
                )
            self._stop_if_asked()
            self.sleep(1.0)

    # -- record and end -------------------------------------------------------------------------

    def _model(self, record: RunRecord) -> Vector:
        if not record.model:
            return initial_vector(self.plan.model.tensors, self.plan.model.seed)
        return np.frombuffer(self.models.get(record.model), dtype="<f4").astype(np.float32)

    def _optimiser_state(self, record: RunRecord) -> bytes:
        return self.models.get(record.optimiser) if record.optimiser else b""

    def _stop_if_asked(self) -> None:
        if self.studies.run(self.run).status == "stopping":
            self._finish("stopped", "an operator stopped it", None)
            raise RunStopped("an operator stopped the run")
        sites = self.plan.participants.sites
        gone = sorted(self.studies.revoked().intersection(sites))
        if len(sites) - len(gone) < self.plan.secure_aggregation.min_cohort:
            reason = f"{', '.join(gone)} was revoked: too few sites are left for a sum"
            self._finish("aborted", reason, None)
            raise RunStopped(reason)

    def _give_up(self, reason: str) -> RoundAborted:
        why = self._sites.reasons()
        reason = f"{reason} ({why})" if why else reason
        self._finish("aborted", reason, None)
        return RoundAborted(reason)


def _run_start(plan: StudyPlan, signed: SignedRunSpec) -> RunStart:
    spec = signed.spec
    return RunStart(
        run=spec.run,
        study=plan.study.id,
        plan_digest=plan.digest(),
        roster_digest=spec.roster.hex(),
        run_spec_digest=digest(spec).hex(),
        run_spec=encode(signed).hex(),
        participants=spec.participants,
        rounds=plan.training.rounds,
        dimension=spec.dimension,
        ring_bits=spec.ring_bits,
        threshold=spec.threshold,
        colluders=spec.colluders,
        min_cohort=spec.min_cohort,
        group_mode=spec.group_mode,
        counters=spec.counters,
        software=SOFTWARE,
    )
