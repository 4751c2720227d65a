"""The rules of group mode: which model each opened sum led to, as the sites sign it.

An outsider cannot take the step from sum to model again: that takes the group key, which only the
sites have. What can be checked is that enough of them came to one model, from the very sum that was
logged, and that the next round starts from it with nobody but them.
"""

from collections import Counter
from dataclasses import dataclass, field

from wardround.privacy.events import Aggregated, ModelStep, RoundStart, RunEnd, RunStart
from wardround.privacy.verify.findings import Findings


@dataclass(slots=True)
class ModelSteps:
    """The sums of one run in group mode, and the models that its sites made of them."""

    run: RunStart
    findings: Findings
    sums: dict[int, Aggregated] = field(default_factory=dict)  # by round
    signed: dict[int, dict[str, tuple[str, int]]] = field(default_factory=dict)
    """By round and site: digest of the model, and entry."""

    def opened(self, index: int, event: Aggregated) -> None:
        """Check a sum that the coordinator cannot have read."""
        if event.weight or event.counters or event.model_digest:
            self.findings.add(
                "aggregate", index, "a sum that only the sites can read", "what it says"
            )
        self.sums.setdefault(event.round, event)

    def add(self, index: int, site: str, event: ModelStep) -> None:
        """Check what a site says it made of a sum."""
        if site not in self.run.participants:
            self.findings.add("model", index, "a site of the run", site)
        total = self.sums.get(event.round)
        said = event.attempt, event.context, event.aggregate
        if total is None:
            self.findings.add("model", index, f"an opened sum of round {event.round}", "none")
        elif said != (total.attempt, total.context, total.digest):
            self.findings.add(
                "model", index, f"a step from the sum {total.digest}", f"from {event.aggregate}"
            )
        there = self.signed.setdefault(event.round, {})
        if site in there:
            what = f"one model of {site} after round {event.round}"
            self.findings.add("model", index, what, "another one")
        there.setdefault(site, (event.model_digest, index))

    def start(self, index: int, event: RoundStart) -> None:
        """A round starts from the model that enough sites signed, with nobody but them."""
        if event.round == 1:
            return
        there, agreed = self.signed.get(event.round - 1, {}), self._agreed(event.round - 1)
        if event.model_digest != agreed:
            self.findings.add("model", index, self._told(agreed), event.model_digest)
        others = {s for s in event.invited if there.get(s, ("", 0))[0] != event.model_digest}
        if others:
            self.findings.add(
                "model", index, "sites that signed this model", ", ".join(sorted(others))
            )

    def end(self, index: int, event: RunEnd) -> None:
        """A completed run ends with a model that enough sites signed."""
        agreed = self._agreed(event.rounds)
        if event.outcome == "completed" and event.model_digest != agreed:
            self.findings.add("model", index, self._told(agreed), event.model_digest)

    def finish(self) -> None:
        """Every site has come to the model that most have."""
        for number, there in self.signed.items():
            votes = Counter(digest for digest, _ in there.values())
            most, count = max(votes.items(), key=lambda item: item[1])
            for site, (digest, entry) in there.items():
                if digest != most:
                    expected = f"the model {most} of {count} sites after round {number}"
                    self.findings.add("model", entry, expected, f"{digest}, as {site} says")

    @property
    def _needed(self) -> int:
        return max(self.run.min_cohort, self.run.threshold)

    def _agreed(self, number: int) -> str:
        """Return the digest that enough sites signed, empty when there is none."""
        votes = Counter(digest for digest, _ in self.signed.get(number, {}).values())
        return next((digest for digest, count in votes.items() if count >= self._needed), "")

    def _told(self, agreed: str) -> str:
        return agreed or f"a model that {self._needed} sites signed"
