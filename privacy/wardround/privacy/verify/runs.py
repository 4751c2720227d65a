"""The rules of runs, rounds and ledgers: what may stand where, and what must agree with what."""

from dataclasses import dataclass, field
from decimal import Decimal

from wardround.privacy.events import (
    Aggregated,
    Approval,
    Closing,
    Deidentification,
    Evaluation,
    KeyBookMade,
    Leaf,
    ModelStep,
    PrivacySpend,
    RecoveryShare,
    RoundEnd,
    RoundStart,
    RunEnd,
    RunStart,
    StudyPlanned,
    Survivors,
    Update,
)
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.model_steps import ModelSteps
from wardround.privacy.verify.plans import Plans

LEDGER_SLACK = Decimal("0.99")
"""A ledger may price its past anew with a finer accountant; lower than this it has gone back."""

_InRound = RoundStart | Update | Survivors | RecoveryShare | Aggregated | RoundEnd

_RULED = {
    StudyPlanned, Approval, Deidentification, RunStart, KeyBookMade, PrivacySpend, Closing, RunEnd,
    RoundStart, Update, Survivors, RecoveryShare, Aggregated, RoundEnd, ModelStep, Evaluation,
}  # fmt: skip


@dataclass(slots=True)
class Attempt:
    """One attempt at a round, from its start to its end."""

    start: RoundStart
    entry: int
    uploads: dict[str, Update] = field(default_factory=dict)
    survivors: Survivors | None = None
    shares: dict[str, RecoveryShare] = field(default_factory=dict)
    aggregate: tuple[int, Aggregated] | None = None


@dataclass(slots=True)
class Run:
    """One run, from its start to its end; attempts that are over are dropped."""

    start: RunStart
    entry: int
    book: str = ""
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    done: dict[tuple[int, int], set[str]] = field(default_factory=dict)  # who uploaded
    model: str = ""
    steps: ModelSteps | None = None  # in group mode
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)  # site: updates, bytes
    trained: dict[tuple[str, int], int] = field(default_factory=dict)  # (site, round): entry
    paid: set[tuple[str, int]] = field(default_factory=set)  # (site, round)
    closed: set[str] = field(default_factory=set)
    end: RunEnd | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened sum with all that it was made of: what replaying needs."""

    entry: int
    run: RunStart
    book: str
    attempt: Attempt
    aggregate: Aggregated


@dataclass(slots=True)
class Runs:
    """The runs of a log, and the privacy ledgers that go along.

    What replaying and pricing need is kept only when asked for: it grows with the log.
    """

    findings: Findings
    keep_opened: bool = False
    keep_spends: bool = False
    first_opened: int | None = None
    approvals: set[tuple[str, str]] = field(default_factory=set)  # site, plan digest
    runs: dict[str, Run] = field(default_factory=dict)
    blobs: dict[str, int | None] = field(default_factory=dict)  # of the bundle: who names it
    opened: list[Opened] = field(default_factory=list)
    closings: list[tuple[int, str, Closing]] = field(default_factory=list)
    spends: list[tuple[int, str, PrivacySpend]] = field(default_factory=list)
    plans: Plans = field(init=False)
    _reports: dict[tuple[str, str], str] = field(default_factory=dict)
    _ledgers: dict[str, int] = field(default_factory=dict)
    _spent: dict[tuple[str, str, str], Decimal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plans = Plans(self.findings)

    def add(self, index: int, leaf: Leaf) -> None:
        """Check the next entry against those before."""
        event = leaf.event
        if type(event) not in _RULED:  # most of a log is access, which no rule is about
            return
        match event:
            case StudyPlanned():
                self.plans.add(index, event)
            case Approval():
                self.approvals.add((leaf.site, event.plan_digest))
            case Deidentification():
                self._deidentified(index, leaf.site, event)
            case RunStart():
                self._start(index, event)
            case KeyBookMade():
                if event.run in self.runs:
                    self.runs[event.run].book = event.book
            case ModelStep():
                self._model_step(index, leaf.site, event)
            case Evaluation():
                self._evaluation(index, event)
            case PrivacySpend():
                self._spend(index, leaf.site, event)
            case Closing():
                self._closing(index, leaf, event)
            case RunEnd():
                run = self.runs.get(event.run)
                if run is None or run.end is not None:
                    self.findings.add("run", index, f"an open run {event.run}", "none")
                else:
                    run.end = event
                    if run.steps:
                        run.steps.end(index, event)
                    elif event.outcome == "completed" and event.model_digest != run.model:
                        self.findings.add("model", index, run.model, event.model_digest)
            case _ if isinstance(event, _InRound):
                self._in_round(index, leaf.site, event)

    def finish(self) -> None:
        """Check what can be said only at the end of the log."""
        for name, run in self.runs.items():
            if run.steps:
                run.steps.finish()
            for (site, number), entry in sorted(run.trained.items()):
                self.findings.add(
                    "spend",
                    entry,
                    f"a privacy spend of {site} for round {number} of {name}",
                    "none",
                    breaks=False,
                )
            if run.end is None:
                self.findings.add("run", run.entry, f"an end of {name}", "none", breaks=False)
                continue
            for site in sorted(set(run.start.participants) - run.closed):
                self.findings.add(
                    "closing", run.entry, f"{site} closes {name}", "no statement", breaks=False
                )

    def _start(self, index: int, event: RunStart) -> None:
        if event.run in self.runs:
            self.findings.add("run", index, "a new run", f"{event.run} again")
            return
        steps = ModelSteps(event, self.findings) if event.group_mode else None
        self.runs[event.run] = Run(event, index, steps=steps)
        self.plans.start(index, event)
        if self.plans.studies.get(event.plan_digest) != event.study:
            self.findings.add("approval", index, f"a logged plan of {event.study}", "another plan")
        for site in event.participants:
            if (site, event.plan_digest) not in self.approvals:
                self.findings.add("approval", index, f"{site} approved the plan", "no approval")

    def _in_round(self, index: int, site: str, event: _InRound) -> None:
        run = self.runs.get(event.run)
        place = event.round, event.attempt
        if run is None or run.end is not None:
            self.findings.add("round", index, f"an open run {event.run}", event.kind)
            return
        if isinstance(event, RoundStart):
            self._round_start(index, run, event)
            return
        attempt = run.attempts.get(place)
        if attempt is None and place in run.done and isinstance(event, Update | RecoveryShare):
            self._late(index, run, site, event)
            return
        if attempt is None:
            self.findings.add(
                "round",
                index,
                f"round {event.round} attempt {event.attempt} of {event.run} is open",
                event.kind,
            )
            return
        match event:
            case Update():
                self._update(index, run, attempt, site, event)
            case Survivors():
                self._survivors(index, run, attempt, event)
            case RecoveryShare():
                self._share(index, attempt, site, event)
            case Aggregated():
                self._aggregate(index, run, attempt, event)
            case RoundEnd():
                if event.outcome == "completed" and attempt.aggregate is None:
                    self.findings.add("aggregate", index, "an aggregate", "completed without one")
                del run.attempts[place]
                run.done[place] = set(attempt.uploads)

    def _late(self, index: int, run: Run, site: str, event: Update | RecoveryShare) -> None:
        """What a site said of an attempt that went on without it, handed in when it was back."""
        if not isinstance(event, Update):
            return
        uploaded = run.done[event.round, event.attempt]
        if site in uploaded:
            self.findings.add("round", index, f"one update of {site}", "another one")
        uploaded.add(site)
        self._sent(index, run, site, event)

    def _round_start(self, index: int, run: Run, event: RoundStart) -> None:
        place = event.round, event.attempt
        if place in run.done or place in run.attempts:
            self.findings.add("round", index, "a new attempt", f"round {place[0]} once more")
        strangers = set(event.invited) - set(run.start.participants)
        if strangers:
            self.findings.add("round", index, "participants of the run", ", ".join(strangers))
        if run.model and event.model_digest != run.model:
            self.findings.add("model", index, run.model, event.model_digest)
        if run.steps:
            run.steps.start(index, event)
        run.attempts[place] = Attempt(event, index)

    def _update(self, index: int, run: Run, attempt: Attempt, site: str, event: Update) -> None:
        if site not in attempt.start.invited:
            self.findings.add("round", index, "an invited site", site)
        if site in attempt.uploads:
            self.findings.add("round", index, f"one update of {site}", "another one")
            return
        if event.model_digest != attempt.start.model_digest:
            self.findings.add("model", index, attempt.start.model_digest, event.model_digest)
        for other in attempt.uploads.values():
            if other.context != event.context:
                self.findings.add("round", index, f"context {other.context}", event.context)
            break
        attempt.uploads[site] = event
        self._sent(index, run, site, event)
        # A site pays once for a round, however many attempts at it send the same update.
        if attempt.start.purpose == "train" and (site, event.round) not in run.paid:
            run.trained.setdefault((site, event.round), index)

    def _sent(self, index: int, run: Run, site: str, event: Update) -> None:
        count, size = run.sent.get(site, (0, 0))
        size += event.size + event.header_size + event.boxes_size
        for blob in (event.digest, event.header_digest):
            if blob in self.blobs:
                self.blobs[blob] = index
        run.sent[site] = count + 1, size

    def _survivors(self, index: int, run: Run, attempt: Attempt, event: Survivors) -> None:
        silent = set(event.survivors) - attempt.uploads.keys()
        if silent:
            self.findings.add("aggregate", index, "sites that uploaded", ", ".join(sorted(silent)))
        fewest = max(run.start.min_cohort, run.start.threshold)
        if len(set(event.survivors)) < fewest:
            self.findings.add(
                "aggregate", index, f"at least {fewest} sites", f"{len(set(event.survivors))}"
            )
        if attempt.survivors is not None:
            self.findings.add("aggregate", index, "one set of survivors", "a second one")
        self._context(index, attempt, event.context)
        attempt.survivors = event

    def _share(self, index: int, attempt: Attempt, site: str, event: RecoveryShare) -> None:
        if site in attempt.shares:
            self.findings.add("round", index, f"one set of shares of {site}", "another one")
        self._context(index, attempt, event.context)
        attempt.shares[site] = event

    def _aggregate(self, index: int, run: Run, attempt: Attempt, event: Aggregated) -> None:
        self._context(index, attempt, event.context)
        if attempt.survivors is None or event.survivors != attempt.survivors.survivors:
            self.findings.add("aggregate", index, "the logged survivors", "another set")
        named = {part.site: (part.digest, part.size) for part in event.uploads}
        sent = {
            site: (attempt.uploads[site].digest, attempt.uploads[site].size)
            for site in event.survivors
            if site in attempt.uploads
        }
        if named != sent or len(named) != len(event.uploads):
            wrong = sorted(s for s in named.keys() | sent.keys() if named.get(s) != sent.get(s))
            self.findings.add(
                "aggregate",
                index,
                "the digests of the updates as the sites signed them",
                f"others for {', '.join(wrong)}",
            )
        if len(attempt.shares) < run.start.threshold:
            self.findings.add(
                "aggregate",
                index,
                f"shares of {run.start.threshold} sites",
                f"{len(attempt.shares)}",
            )
        attempt.aggregate = index, event
        if run.steps:
            run.steps.opened(index, event)
        elif not event.model_digest:
            self.findings.add("model", index, "the model that the sum led to", "none")
        run.model = event.model_digest
        if self.first_opened is None:
            self.first_opened = index
        if self.keep_opened:
            self.opened.append(Opened(index, run.start, run.book, attempt, event))

    def _evaluation(self, index: int, event: Evaluation) -> None:
        """Stands after the opened sum that it reads, in the attempt that opened it."""
        run = self.runs.get(event.run)
        for (number, _), attempt in run.attempts.items() if run else ():
            if run and number == event.round and attempt.aggregate is not None:
                self.plans.evaluation(index, run.start, attempt.start, attempt.aggregate[1], event)
                return
        self.findings.add("evaluation", index, f"an opened sum of round {event.round}", "none")

    def _model_step(self, index: int, site: str, event: ModelStep) -> None:
        """May come late: a site that was away reads the sum, or hands this in, when it is back."""
        run = self.runs.get(event.run)
        if run is None or run.steps is None:
            self.findings.add("model", index, "a run in group mode", event.run)
        else:
            run.steps.add(index, site, event)

    def _context(self, index: int, attempt: Attempt, context: str) -> None:
        for update in attempt.uploads.values():
            if update.context != context:
                self.findings.add("round", index, f"context {update.context}", context)
            break

    def _deidentified(self, index: int, site: str, event: Deidentification) -> None:
        """Every file seen has one outcome, and the same files come from the same run."""
        counts = {count.name: count.value for count in event.counts}
        seen = counts.get("files_seen", 0)
        told = sum(counts.get(n, 0) for n in ("files_written", "duplicates", "quarantined"))
        if seen != told or len(counts) != len(event.counts):
            self.findings.add(
                "deidentification", index, f"an outcome for {seen} files", f"for {told}"
            )
        key = site, event.manifest_digest
        report = self._reports.setdefault(key, event.report_digest)
        if report != event.report_digest:
            self.findings.add("deidentification", index, f"report {report}", event.report_digest)

    def _spend(self, index: int, site: str, event: PrivacySpend) -> None:
        before, after = Decimal(event.epsilon_before), Decimal(event.epsilon_after)
        last = self._ledgers.get(site, 0)
        if event.ledger_sequence <= last:
            self.findings.add("ledger", index, f"after {last}", f"entry {event.ledger_sequence}")
        self._ledgers[site] = max(last, event.ledger_sequence)
        key = site, event.dataset, event.delta
        spent = self._spent.get(key, Decimal(0))
        if before < spent * LEDGER_SLACK or after < before:
            self.findings.add(
                "ledger", index, f"epsilon from {spent} on, rising", f"{before} to {after}"
            )
        shared = event.shared_noise_epsilon
        if min(after, Decimal(shared or "inf")) > Decimal(event.budget):
            self.findings.add("ledger", index, f"at most the budget {event.budget}", f"{after}")
        self._spent[key] = max(spent, after)
        run = self.runs.get(event.run)
        if run is not None:
            run.paid.add((site, event.round))
            run.trained.pop((site, event.round), None)
        if self.keep_spends:
            self.spends.append((index, site, event))

    def _closing(self, index: int, leaf: Leaf, event: Closing) -> None:
        run, site = self.runs.get(event.run), leaf.site
        if run is None or site in run.closed:
            self.findings.add("closing", index, f"one closing of {event.run}", "another one")
            return
        run.closed.add(site)
        sent = run.sent.get(site, (0, 0))
        if sent != (event.updates, event.bytes_sent):
            self.findings.add(
                "closing",
                index,
                f"{event.updates} updates, {event.bytes_sent} bytes, as {site} says",
                f"{sent[0]} updates, {sent[1]} bytes",
            )
        if leaf.statement is not None and event.last_sequence != leaf.statement.sequence - 1:
            self.findings.add(
                "closing", index, f"after statement {event.last_sequence}", "elsewhere"
            )
        self.closings.append((index, site, event))
