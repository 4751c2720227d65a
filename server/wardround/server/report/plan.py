"""Reads the study plan of a run for its report."""

from collections.abc import Iterator

from wardround.privacy.errors import PlanInvalid, ReportError
from wardround.privacy.events import RunStart, StudyPlanned
from wardround.privacy.plan import StudyPlan, decimal_text
from wardround.privacy.presentation.marks import Marked
from wardround.server.report.model import PlanFacts
from wardround.server.report.reading import Noted, Reading


def plan_facts(reading: Reading, start: Noted[RunStart]) -> PlanFacts:
    """Return the plan that the run names by its digest; ReportError when the log lacks it."""
    digest = start.event.plan_digest
    noted = next((n for n in reading.all(StudyPlanned) if n.event.plan_digest == digest), None)
    if noted is None:
        raise ReportError(
            f"run {start.event.run} names a study plan ({digest[:16]}…) that the log does not hold;"
            " make the report from the whole log"
        )
    event = noted.event
    return PlanFacts(
        study=noted.mark(event.study),
        title=noted.mark(event.title),
        purpose=noted.mark(event.purpose),
        legal_basis=noted.refer(event.legal_basis),
        dpia=noted.refer(event.dpia),
        digest=noted.mark(event.plan_digest),
        task=noted.mark(event.task),
        model=noted.mark(event.model),
        participants=noted.mark(event.participants),
        rounds=noted.mark(event.rounds),
        mode=noted.mark(event.mode),
        unit=noted.mark(event.unit),
        relation=noted.mark(event.relation),
        clip=noted.mark(event.clip),
        noise_multiplier=noted.mark(event.noise_multiplier),
        sample_rate=noted.mark(event.sample_rate),
        target_epsilon=noted.mark(event.target_epsilon),
        delta=noted.mark(event.delta),
        shared_noise=noted.mark(event.shared_noise),
        threshold=noted.mark(event.threshold),
        colluders=noted.mark(event.colluders),
        min_cohort=noted.mark(event.min_cohort),
        details=tuple(_details(noted)),
    )


def _details(noted: Noted[StudyPlanned]) -> Iterator[tuple[str, Marked[str]]]:
    """Yield what only the plan's full text says; nothing when this version cannot read it."""
    try:
        plan = StudyPlan.from_canonical(noted.event.plan.encode("ascii"))
    except PlanInvalid:
        return
    training = plan.training
    yield "Classes", noted.mark(", ".join(plan.task.classes))
    yield "Input shape", noted.mark(" × ".join(map(str, plan.task.input_shape)))
    yield "Parameters", noted.mark(f"{plan.dimension:,}")
    yield "Loss", noted.mark(plan.task.loss or "the usual one of the task")
    yield (
        "Optimiser",
        noted.mark(f"{training.optimiser}, learning rate {decimal_text(training.learning_rate)}"),
    )
    yield "Steps per round", noted.mark(str(plan.steps_per_round))
    yield "Aggregation rule", noted.mark(plan.aggregation.rule)
    yield "Smallest evaluation shown", noted.mark(f"{plan.evaluation.min_count} samples")
