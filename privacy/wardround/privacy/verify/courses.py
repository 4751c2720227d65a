"""`--replay`, the second half: the model after each round, made again from the opened sums.

The first model is a function of the plan, and each next one of the model before and the sum that
was opened. All of it is elementwise and rounded as IEEE 754 says, so every machine gets the same
bits. A coordinator that hands out another model than the sum led to is found here.
"""

from dataclasses import dataclass, field

from wardround.privacy.model import Vector, initial_vector, model_digest
from wardround.privacy.optimiser import Optimiser
from wardround.privacy.plan import StudyPlan
from wardround.privacy.secagg.quantization import Aggregate
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.rounds import Opened


@dataclass(slots=True)
class Course:
    """The global model of one run; it can be followed from the first round on, without a gap."""

    plan: StudyPlan
    findings: Findings
    done: int = 0
    _model: Vector | None = None
    _optimiser: Optimiser = field(init=False)

    def __post_init__(self) -> None:
        self._optimiser = Optimiser(self.plan)

    def follow(self, one: Opened, aggregate: Aggregate) -> bool:
        """Take the step of the next sum; return whether it led to the model that was logged."""
        if one.aggregate.round != self.done + 1:
            return False
        if self.done == 0:
            self._model = initial_vector(self.plan.model.tensors, self.plan.model.seed)
            first = model_digest(self._model)
            if first != one.attempt.start.model_digest:
                self.findings.add("model", one.attempt.entry, first, one.attempt.start.model_digest)
                return False
        if self._model is None or self._model.shape != aggregate.mean.shape:
            return False  # a run of another form than its plan has its own finding
        if aggregate.weight:
            self._model = self._optimiser.move(self._model, aggregate.mean)
        made = model_digest(self._model)
        if made != one.aggregate.model_digest:
            self.findings.add("model", one.entry, made, one.aggregate.model_digest)
            return False
        self.done += 1
        return True
