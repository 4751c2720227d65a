"""The log entry of a study plan: its signed text, and what a reader looks for said beside it."""

from wardround.privacy.events import StudyPlanned
from wardround.privacy.plan import SignedPlan, StudyPlan, decimal_text, spelled


def plan_entry(plan: StudyPlan, signed: SignedPlan) -> StudyPlanned:
    """Return the one entry that puts `plan` forward; `signed` holds its canonical text."""
    privacy, secagg = plan.privacy, plan.secure_aggregation
    return StudyPlanned(
        study=plan.study.id,
        plan_digest=plan.digest(),
        plan=signed.plan_bytes.decode("ascii"),
        signature=signed.signature.hex(),
        title=plan.study.title,
        purpose=plan.study.purpose,
        legal_basis=plan.study.legal_basis,
        dpia=plan.study.dpia,
        task=plan.task.kind,
        model=plan.model.name,
        participants=plan.participants.sites,
        rounds=plan.training.rounds,
        mode=plan.training.mode,
        unit=privacy.unit,
        relation=privacy.relation,
        clip=decimal_text(privacy.clip),
        noise_multiplier=decimal_text(privacy.noise_multiplier),
        sample_rate=decimal_text(privacy.sample_rate),
        target_epsilon=decimal_text(privacy.target_epsilon),
        delta=spelled(privacy.delta),
        shared_noise=privacy.shared_noise,
        threshold=secagg.threshold,
        colluders=secagg.colluders,
        min_cohort=secagg.min_cohort,
    )
