"""What this site adds to a round: trained once, paid for, and the same however often it is sent."""

import logging
from dataclasses import dataclass

import numpy as np

from wardround.client.config import Home
from wardround.client.errors import Refused
from wardround.client.site import Site
from wardround.client.spend import Reservation, Spend
from wardround.client.state import TrainedUpdate, load_update, save_update
from wardround.client.trainer import Trainer
from wardround.privacy.events import PrivacySpend
from wardround.privacy.model import Vector
from wardround.privacy.plan import StudyPlan
from wardround.privacy.planned import PlannedSpend
from wardround.privacy.run_spec import exchange_rounds
from wardround.privacy.secagg.messages import Task
from wardround.privacy.secagg.parameters import RunSpec
from wardround.privacy.secagg.quantization import Contribution

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contributions:
    """What a site adds to the rounds of the run of `spec` from the data set `dataset`."""

    home: Home
    site: Site
    spec: RunSpec
    plan: StudyPlan
    trainer: Trainer
    dataset: str

    def of(self, task: Task, vector: Vector) -> Contribution:
        """Return what this site adds, paid for: an earlier attempt's update, or a new one.

        `vector` [D] is the model of `task`. The update is on disk before the ledger commits, and
        the ledger commits before the update can leave; a crash in between is made good by the
        next attempt. Raises Refused when the round cannot be paid for, or its update would not be
        heard in the sum.
        """
        digest, trains = task.model.hex(), task.round < exchange_rounds(self.plan)
        if self.plan.privacy.shared_noise and task.clip is not None:
            raise Refused("shared_noise", "the task brings a clip of its own, which cuts the noise")
        held = self._reserve(task.round) if trains else None
        kept = load_update(self.home.scratch, self.spec.run, task.round)
        if kept is not None and kept.model_digest != digest:
            raise Refused("model", "this round was trained from another model already")
        if kept is None:
            if isinstance(held, Spend):
                raise Refused("spent", "this round was paid for already, and its update is gone")
            kept = self._train(vector, digest, task.round, trains)
            save_update(self.home.scratch, self.spec.run, task.round, kept)
        if held is not None:
            self._commit(held, task)
            if task.round == 1:
                self._check_precision(kept.values, kept.weight)
        return Contribution(kept.values, kept.weight, kept.counters)

    def _train(self, vector: Vector, digest: str, round_: int, trains: bool) -> TrainedUpdate:
        """Evaluate the model that came and train from it; the last round only evaluates."""
        counts = self.trainer.evaluate(vector)
        if not trains:
            return TrainedUpdate(digest, np.zeros_like(vector), 0, counts)
        logger.info("round %s: training", round_)
        values, weight = self.trainer.train(vector)
        return TrainedUpdate(digest, values, weight, counts)

    def _check_precision(self, values: Vector, weight: int) -> None:
        """Raise Refused, once the round is paid, when 16 bits would make zeros of its update.

        The first sum knows no bound but the plan's, and each later bound follows from the sum
        before: such a study would spend its whole budget and learn nothing. The refusal tells how
        large the update is, so it is a release like the update: unpaid, a coordinator could have
        the round trained anew, and refused, as often as it likes.
        """
        largest = float(np.abs(values).max(initial=0.0))
        share = self.spec.largest_value * weight / self.spec.max_weight
        if self.spec.ring_bits == 16 and 0 < share * largest / self.spec.clip < 0.5:
            raise Refused(
                "precision",
                "in 16 bits all of this site's update would be rounded to zero; ask for a plan "
                "with max_weight near the patients of the largest site and a smaller update_clip, "
                "or with 32 bits",
            )

    def _reserve(self, round_: int) -> Reservation | Spend:
        held = self.site.ledger.reserve(
            run=self.spec.run,
            study=self.plan.study.id,
            dataset=self.dataset,
            round=round_,
            events=PlannedSpend.of_plan(self.plan).events_per_round(),
        )
        if isinstance(held, Reservation) and held.last_affordable:
            logger.warning("this is the last round that the budget of the data set bears")
        return held

    def _commit(self, held: Reservation | Spend, task: Task) -> None:
        """Commit the round's spend and sign it, each once."""
        spend = held
        if isinstance(spend, Reservation):
            spend = self.site.ledger.commit(spend.id, spend.events)
            logger.info(
                "round %s: epsilon %s of %s spent on this data set",
                *(task.round, spend.counted, spend.budget),
            )
        if not self.site.witness.stated(PrivacySpend.kind, spend.run, spend.round):
            self.site.witness.statement(
                spend.statement(
                    attempt=task.attempt,
                    clip=self.plan.privacy.clip,
                    releases_outside=self.trainer.outside,
                )
            )
