"""One run of a study: set-up, rounds, attempts, checkpoints, and what the log says of each.

    hello, book                      keys of the run, once
    task, survivors, open            each attempt at a round; its sum makes the next model
    aggregate                        in group mode: the sum goes to the sites, who make it
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
from pathlib import Path

from wardround.privacy import canonical
from wardround.privacy.conversation import Kind
from wardround.privacy.errors import PrivacyError
from wardround.privacy.events import Aggregated, KeyBookMade, RoundEnd, RunEnd, RunStart, SiteDigest
from wardround.privacy.identity import Roster, Signer
from wardround.privacy.plan import StudyPlan
from wardround.privacy.records import one_line
from wardround.privacy.run_spec import exchange_rounds, make_run_spec
from wardround.privacy.secagg.aggregator import Aggregator
from wardround.privacy.secagg.codec import decode, digest, encode
from wardround.privacy.secagg.messages import BookAck, KeyAdvert, Task
from wardround.privacy.secagg.parameters import SignedRunSpec
from wardround.server.asking import Asking
from wardround.server.attempt import Attempt
from wardround.server.audit import AuditLog
from wardround.server.blobs import BlobStore, expire
from wardround.server.config import Rounds
from wardround.server.errors import ModelsDiffer, RoundAborted, RunStopped
from wardround.server.exchange import Exchange
from wardround.server.federation import read_federation
from wardround.server.global_model import GlobalModel, OpenModel, Taken
from wardround.server.hidden_model import HiddenModel
from wardround.server.openings import Openings
from wardround.server.operations import RunRecord
from wardround.server.studies import Studies

logger = logging.getLogger(__name__)
SOFTWARE = f"wardround {version('wardround')}"
CLOSING_SECONDS = 60.0


@dataclass(slots=True)
class StudyRun:
    """One run, from its record to its end.

    `sleep` is used while sites are waited for, `clock` says for how many seconds they have been.
    """

    run: str
    plan: StudyPlan
    roster: Roster
    signer: Signer = field(repr=False)
    log: AuditLog
    uploads: BlobStore
    models: BlobStore
    openings: Path
    studies: Studies
    exchange: Exchange
    rules: Rounds
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _sites: Asking = field(init=False)
    _model: GlobalModel | None = None

    def __post_init__(self) -> None:
        self._sites = Asking(self.run, self.log, self.exchange, self.rules.exchange_deadline)

    def execute(self) -> None:
        """Run to the end, or go on from where an earlier process stopped.

        Raises RunStopped when an operator stopped it, RoundAborted when attempts are used up;
        the run's record and the log say so already.
        """
        self._take_up_logged_round()
        aggregator = self._set_up(self.studies.run(self.run))
        model = self._model = self._open_model(aggregator)
        while (done := self.studies.run(self.run)).round < exchange_rounds(self.plan):
            self._round(aggregator, done, model)
        self._settle_last(done.round, model)
        self._finish("completed", "", model)

    # -- once a run -----------------------------------------------------------------------------

    def _set_up(self, record: RunRecord) -> Aggregator:
        """Agree on keys, or take up the agreement of an earlier life of this process."""
        spec = make_run_spec(self.plan, self.run, self.roster)
        signed = SignedRunSpec.sign(spec, self.signer)
        if self.run not in read_federation(self.log.engine).runs:
            self.log.append([_run_start(self.plan, signed)])
        if record.status == "requested":
            with self.studies.editing(self.run) as row:
                row.status, row.stage = "running", "setting up"
        if record.aggregator:
            return Aggregator.restore(record.aggregator, signed, self.roster, self.signer)
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
            return aggregator
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

    def _open_model(self, aggregator: Aggregator) -> GlobalModel:
        """Return the global model as the run's record has it, or in group mode the sites."""
        if self.plan.secure_aggregation.group_mode:
            store = BlobStore(self.openings / self.run)
            openings = Openings(self.log.engine, self.run, store)
            return HiddenModel(self.run, self.plan, self.log, self._sites, aggregator, openings)
        return OpenModel.resume(self.run, self.plan, self.models, self.studies.run(self.run))

    def _finish(self, outcome: str, reason: str, model: GlobalModel | None) -> None:
        """End the run: closing statements, the log's last word, and cosignatures under it.

        `model` is the final one, None when the run did not come so far.
        """
        self._close(model.payload if model else None)
        done = self.studies.run(self.run).round
        begun = read_federation(self.log.engine).runs.get(self.run)
        if begun is not None and not begun.outcome:
            final = model.digest if model else ""
            self.log.append([RunEnd(self.run, outcome, one_line(reason), done, final)])
        self.log.checkpoint()
        self._close(None)
        expire(self.log.engine, self.uploads, self.rules.keep_uploads)
        if self._model:
            self._model.forget()
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

    def _round(self, aggregator: Aggregator, record: RunRecord, model: GlobalModel) -> None:
        """Try the next round until its sum opens and is recorded."""
        number, first = record.round + 1, record.attempt + 1
        for attempt in range(first, first + self.rules.attempts):
            self._stop_if_asked()
            with self.studies.editing(self.run) as row:
                row.attempt, row.stage = attempt, "round"
            self._sites.begin(number, attempt)
            try:
                task = self._task(aggregator, number, attempt, model)
            except ModelsDiffer as error:
                raise self._give_up(str(error)) from None
            except (RoundAborted, PrivacyError) as error:
                self._sites.fault("", "invitation", str(error))
            else:
                if self._attempt(aggregator, task, model):
                    return
            if self._too_many_refused():
                break
            self.sleep(min(2.0 * (attempt - first + 1), 30.0))
        raise self._give_up(f"round {number} cannot be finished")

    def _task(self, aggregator: Aggregator, number: int, attempt: int, model: GlobalModel) -> Task:
        """Return the task for the sites that are there and may start from the model."""
        least = self.plan.secure_aggregation.min_cohort
        invited = model.settle(number - 1, self._online(least))
        if len(invited) < least:
            others = ", ".join(sorted(set(self.plan.participants.sites) - set(invited)))
            raise RoundAborted(
                f"{len(invited)} of {least} sites have the model of round {number}; not {others}"
            )
        task = aggregator.task(number, attempt, invited, bytes.fromhex(model.digest))
        with self.studies.editing(self.run) as row:
            row.aggregator = aggregator.save()
        return task

    def _attempt(self, aggregator: Aggregator, task: Task, model: GlobalModel) -> bool:
        """Carry out one attempt and record what it led to; False when its sum did not open."""
        attempt = Attempt(self.run, self.plan, self.log, self.uploads, self._sites, aggregator)
        attempt.start(task, 4 * self.plan.dimension)
        try:
            summed = attempt.open(task, model.payload)
            taken = model.take(aggregator, task.round)
        except (RoundAborted, PrivacyError) as error:
            self.log.append([self._round_end(task, "aborted", str(error), ())])
            logger.warning("round %s attempt %s: %s", task.round, task.attempt, error)
            return False
        self._record(aggregator, task, summed, taken)
        return True

    def _too_many_refused(self) -> bool:
        left = len(self.plan.participants.sites) - len(self._sites.refused)
        return left < self.plan.secure_aggregation.min_cohort

    def _settle_last(self, done: int, model: GlobalModel) -> None:
        """In group mode: see that the sites have read the last sum and agree on its model."""
        if not self.plan.secure_aggregation.group_mode:
            return
        least = self.plan.secure_aggregation.min_cohort
        for attempt in range(1, self.rules.attempts + 1):
            self._stop_if_asked()
            self._sites.begin(done, 0)
            try:  # at first without waiting: all may have read it before a restart
                model.settle(done, self._online(0 if attempt == 1 else least))
            except ModelsDiffer as error:
                raise self._give_up(str(error)) from None
            except (RoundAborted, PrivacyError) as error:
                self._sites.fault("", "aggregate", str(error))
                if self._too_many_refused():
                    break
                self.sleep(min(2.0 * attempt, 30.0))
            else:
                return
        raise self._give_up("the sites did not read the last sum")

    def _record(
        self, aggregator: Aggregator, task: Task, summed: tuple[SiteDigest, ...], taken: Taken
    ) -> None:
        """Log the round in one transaction, and make its checkpoint.

        What the model needs is durable before the log names it, so that a process that dies in
        between is followed by one that goes on after this round, not by a second sum of it.
        """
        with self.studies.editing(self.run) as row:
            saved = aggregator.save().hex()  # what the next task follows from
            kept: dict[str, canonical.Json] = {"round": task.round, "aggregator": saved}
            row.pending = canonical.dumps({**kept, **taken.kept}).decode("ascii")
        aggregated = Aggregated(
            run=self.run,
            round=task.round,
            attempt=task.attempt,
            context=task.context.hex(),
            digest=taken.digest,
            size=taken.size,
            uploads=summed,
            survivors=taken.survivors,
            weight=taken.weight,
            counters=taken.counters,
            model_digest=taken.model_digest,
            quorum=encode(aggregator.quorum()).hex(),
        )
        end = self._round_end(task, "completed", "", taken.survivors)
        self.log.append([aggregated, *taken.evaluation, end])
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
                row.aggregator = bytes.fromhex(str(pending.get("aggregator", ""))) or row.aggregator

    def _round_end(
        self, task: Task, outcome: str, reason: str, joined: tuple[str, ...]
    ) -> RoundEnd:
        traffic = self._sites.traffic
        return RoundEnd(
            *(self.run, task.round, task.attempt, outcome, one_line(reason), joined),
            *(traffic.up, traffic.down),
        )

    def _online(self, needed: int) -> tuple[str, ...]:
        """Wait until `needed` participants are online; return all that are, in order."""
        deadline = self.clock() + self.rules.patience
        while True:
            nodes = self.exchange.nodes()
            sites = tuple(site for site in self.plan.participants.sites if site in nodes)
            if len(sites) >= needed:
                return sites
            if self.clock() > deadline:
                missing = sorted(set(self.plan.participants.sites) - set(sites))
                raise RoundAborted(
                    f"{len(sites)} of {needed} sites are online; {', '.join(missing)} must start "
                    "(wardround-site start)"
                )
            self._stop_if_asked()
            self.sleep(1.0)

    # -- record and end -------------------------------------------------------------------------

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
