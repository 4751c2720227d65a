"""From a signed plan to the RunSpec of one run: the same function at coordinator and site.

A site does not read the RunSpec it is sent; it makes its own from the plan it approved and
compares. So nothing of a run can be looser than what was approved.
"""

from collections.abc import Mapping

from wardround.privacy.identity import Roster
from wardround.privacy.plan import StudyPlan
from wardround.privacy.secagg.parameters import RunSpec

EVALUATED, CORRECT = "evaluated", "correct"


def counters(plan: StudyPlan) -> tuple[str, ...]:
    """Return the names of the counters that ride masked beside the update, in order.

    `evaluated` samples and, for a class task, those that were `correct`; for segmentation the
    voxels of overlap, truth and prediction of each class but the background. Moments predict
    nothing that could be right.
    """
    if plan.task.kind == "tabular-moments":
        return (EVALUATED,)
    if plan.task.kind.startswith("segmentation"):
        parts = ("overlap", "truth", "predicted")
        classes = range(1, len(plan.task.classes))
        return (EVALUATED, *(f"{part}_{c}" for c in classes for part in parts))
    return (EVALUATED, CORRECT)


def metrics(plan: StudyPlan, sums: Mapping[str, int]) -> dict[str, float]:
    """Return the metrics of summed counters; empty when fewer than `min_count` were evaluated."""
    if sums[EVALUATED] < plan.evaluation.min_count:
        return {}
    if plan.task.kind == "tabular-moments":
        return {"patients": float(sums[EVALUATED])}
    if not plan.task.kind.startswith("segmentation"):
        return {"accuracy": sums[CORRECT] / sums[EVALUATED]}
    scores = []
    for c in range(1, len(plan.task.classes)):
        size = sums[f"truth_{c}"] + sums[f"predicted_{c}"]
        scores.append(2 * sums[f"overlap_{c}"] / size if size else 1.0)
    return {"dice": sum(scores) / len(scores)}


def exchange_rounds(plan: StudyPlan) -> int:
    """Return how many sums a run opens: one a training round, and one that only evaluates."""
    return plan.training.rounds + 1


def make_run_spec(plan: StudyPlan, run: str, roster: Roster) -> RunSpec:
    """Return the RunSpec of run `run` of `plan` among the sites of `roster`.

    Raises ParametersInvalid when the plan's thresholds do not hold for them.
    """
    secagg = plan.secure_aggregation
    return RunSpec(
        run=run,
        study=bytes.fromhex(plan.digest()),
        roster=bytes.fromhex(roster.digest()),
        participants=plan.participants.sites,
        threshold=secagg.threshold,
        colluders=secagg.colluders,
        min_cohort=secagg.min_cohort,
        rounds=exchange_rounds(plan),
        layout=plan.model.tensors,
        clip=float(secagg.update_clip),
        max_weight=secagg.max_weight,
        counters=counters(plan),
        ring_bits=secagg.ring_bits,
        group_mode=secagg.group_mode,
    )
