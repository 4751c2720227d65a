"""The rules of studies and runs: who agreed to them, and what must agree with what."""

import hashlib
from dataclasses import dataclass, field

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
    Refusal,
    RoundEnd,
    RoundStart,
    RunEnd,
    RunStart,
    StudyPlanned,
    Survivors,
    Update,
)
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.ledgers import Ledgers
from wardround.privacy.verify.model_steps import ModelSteps
from wardround.privacy.verify.plans import Plans
from wardround.privacy.verify.rounds import InRound, Rounds, Run

_RULED = {
    StudyPlanned, Approval, Refusal, Deidentification, RunStart, KeyBookMade, PrivacySpend,
    Closing, RunEnd, RoundStart, Update, Survivors, RecoveryShare, Aggregated, RoundEnd, ModelStep,
    Evaluation,
}  # fmt: skip


@dataclass(slots=True)
class Runs:
    """The runs of a log, with their rounds, plans and privacy ledgers."""

    findings: Findings
    approvals: set[tuple[str, str]] = field(default_factory=set)  # site, plan digest
    runs: dict[str, Run] = field(default_factory=dict)
    closings: list[tuple[int, str, Closing]] = field(default_factory=list)
    plans: Plans = field(init=False)
    rounds: Rounds = field(init=False)
    ledgers: Ledgers = field(init=False)
    _datasets: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # site, plan digest
    _reports: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plans = Plans(self.findings)
        self.rounds = Rounds(self.findings)
        self.ledgers = Ledgers(self.findings)

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
                agreed = self._datasets.setdefault((leaf.site, event.plan_digest), set())
                agreed.update(event.datasets)
            case Refusal():
                if not event.run:  # a refusal of one round takes back no approval
                    self.approvals.discard((leaf.site, event.plan_digest))
            case Deidentification():
                self._deidentified(index, leaf.site, event)
            case RunStart():
                self._start(index, event)
            case KeyBookMade():
                self._key_book(index, event)
            case ModelStep():
                self._model_step(index, leaf.site, event)
            case Evaluation():
                self._evaluation(index, event)
            case PrivacySpend():
                self._spend(index, leaf.site, event)
            case Closing():
                self._closing(index, leaf, event)
            case RunEnd():
                self._end(index, event)
            case _ if isinstance(event, InRound):
                run = self.runs.get(event.run)
                if run is None or run.end is not None:
                    self.findings.add("round", index, f"an open run {event.run}", event.kind)
                else:
                    self.rounds.add(index, run, leaf.site, event)

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

    def _key_book(self, index: int, event: KeyBookMade) -> None:
        """Logged once all sites have approved it; again only after a crash before any round."""
        run = self.runs.get(event.run)
        if run is None or run.end is not None or run.latest != (0, 0):
            self.findings.add("run", index, f"{event.run} before its first round", event.kind)
            return
        run.book = event.book
        data = bytes.fromhex(event.book)
        right = hashlib.sha256(data).hexdigest(), len(data)
        if data and (event.book_digest, event.size) != right:
            self.findings.add(
                "run", index, f"a key book of digest {event.book_digest}, {event.size} bytes",
                f"{right[0]}, {right[1]} bytes",
            )  # fmt: skip
        if event.sites != run.start.participants:
            self.findings.add("run", index, "keys of all participants", ", ".join(event.sites))

    def _end(self, index: int, event: RunEnd) -> None:
        """A run is completed when every sum was opened; of any other no model is final."""
        run = self.runs.get(event.run)
        if run is None or run.end is not None:
            self.findings.add("run", index, f"an open run {event.run}", "none")
            return
        run.end = event
        completed = event.outcome == "completed"
        if event.outcome not in ("completed", "stopped", "aborted"):
            self.findings.add("run", index, "completed, stopped or aborted", event.outcome)
        least = run.start.rounds + 1 if completed else 0
        if not least <= event.rounds <= run.opened:
            self.findings.add(
                "run", index, f"{max(least, run.opened)} rounds", f"{event.rounds} rounds"
            )
        if run.steps:
            run.steps.end(index, event)
        elif event.model_digest != (run.model if completed else ""):
            self.findings.add(
                "model", index, run.model if completed else "no model", event.model_digest
            )

    def _evaluation(self, index: int, event: Evaluation) -> None:
        """Stands after the opened sum that it reads, in the attempt that opened it."""
        run = self.runs.get(event.run)
        attempt = run.attempts.get(run.latest) if run else None
        if run and attempt and attempt.aggregate and attempt.start.round == event.round:
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
        self.ledgers.add(index, site, event)
        run = self.runs.get(event.run)
        if run is None:
            self.findings.add("spend", index, "a run of the log", event.run)
            return
        run.paid.add((site, event.round))
        run.trained.pop((site, event.round), None)
        agreed = self._datasets.get((site, run.start.plan_digest), set())
        if event.dataset not in agreed:
            self.findings.add(
                "spend", index, f"a data set that {site} approved the plan for", event.dataset
            )
        plan = self.plans.read.get(run.start.plan_digest)
        if plan is not None:
            self.ledgers.of_plan(index, plan, event)

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
