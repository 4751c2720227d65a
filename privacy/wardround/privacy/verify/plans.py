"""The rules of study plans: what the log tells of a plan, a run and a metric follows from its text.

A site approves the digest of a plan's text. All that the coordinator says beside it (purpose, legal
basis, thresholds, noise, the parameters of a run, the metrics of a round) could say otherwise,
and a reader of a report sees only that. So each is derived again from the text and compared.
"""

import hashlib
from dataclasses import dataclass, field, fields

from wardround.privacy.errors import PlanInvalid, SignatureInvalid
from wardround.privacy.events import (
    Aggregated,
    Counter,
    Evaluation,
    Metric,
    RoundStart,
    RunStart,
    StudyPlanned,
)
from wardround.privacy.plan import SignedPlan, StudyPlan
from wardround.privacy.plan_entry import plan_entry
from wardround.privacy.run_spec import counters, metrics
from wardround.privacy.verify.findings import Findings


@dataclass(slots=True)
class Plans:
    """The study plans of a log; `coordinator` is the key that signs them (32 bytes)."""

    findings: Findings
    coordinator: bytes = b""
    studies: dict[str, str] = field(default_factory=dict)  # by plan digest
    read: dict[str, StudyPlan] = field(default_factory=dict)  # by plan digest

    def add(self, index: int, event: StudyPlanned) -> None:
        """Check the entry of a plan against the plan's text."""
        self.studies[event.plan_digest] = event.study
        data = event.plan.encode("ascii")
        if not data:
            self.findings.add("plan", index, "the text of the plan", "none", breaks=False)
            return
        digest = hashlib.sha256(data).hexdigest()
        if digest != event.plan_digest:
            self.findings.add("plan", index, f"a text of digest {event.plan_digest}", digest)
            return
        signed = SignedPlan(data, bytes.fromhex(event.signature))
        try:
            plan = StudyPlan.from_canonical(data)
            signed.open(self.coordinator)
        except PlanInvalid as error:
            found = str(error)
            self.findings.add("plan", index, "a plan of a form that is read", found, breaks=False)
            return
        except SignatureInvalid:
            self.findings.add("plan", index, "a plan signed by the coordinator", "another key")
        self.read[digest] = plan
        right = plan_entry(plan, signed)
        for one in fields(event):
            expected, said = getattr(right, one.name), getattr(event, one.name)
            if said != expected:
                self.findings.add(
                    "plan", index, f"{one.name} {expected}, as in its text", f"{said}"[:300]
                )

    def start(self, index: int, run: RunStart) -> None:
        """Check the parameters of a run against its plan."""
        plan = self.read.get(run.plan_digest)
        if plan is None:
            return
        secagg = plan.secure_aggregation
        for what, expected, said in (
            ("sites", plan.participants.sites, run.participants),
            ("rounds", plan.training.rounds, run.rounds),
            ("dimension", plan.dimension, run.dimension),
            ("ring bits", secagg.ring_bits, run.ring_bits),
            ("threshold", secagg.threshold, run.threshold),
            ("colluders", secagg.colluders, run.colluders),
            ("smallest cohort", secagg.min_cohort, run.min_cohort),
            ("group mode", secagg.group_mode, run.group_mode),
            ("counters", counters(plan), run.counters),
        ):
            if said != expected:
                self.findings.add("plan", index, f"{what} {expected}, as planned", f"{said}")

    def evaluation(
        self, index: int, run: RunStart, start: RoundStart, total: Aggregated, event: Evaluation
    ) -> None:
        """Check the metrics of a round against the counters of its opened sum."""
        if event.model_digest != start.model_digest:
            self.findings.add("evaluation", index, start.model_digest, event.model_digest)
        plan = self.read.get(run.plan_digest)
        if plan is None:
            return
        sums = {one.name: one.value for one in total.counters}
        found = metrics(plan, sums) if set(counters(plan)) <= sums.keys() else {}
        right = tuple(Metric(name, f"{value:.4f}") for name, value in found.items())
        if event.metrics != right:
            self.findings.add("evaluation", index, _told(right), _told(event.metrics))
        shown = total.counters if found else ()
        if event.counters != shown:
            self.findings.add("evaluation", index, _told(shown), _told(event.counters))


def _told(values: tuple[Metric, ...] | tuple[Counter, ...]) -> str:
    return ", ".join(f"{one.name} {one.value}" for one in values)[:300] or "nothing shown"
