"""What a run did, counted: fit to leave the site. No name, no path, no UID, no value of a file."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from wardround.datasets.deidentify.profile import EDITION, Profile
from wardround.datasets.deidentify.reasons import REASONS
from wardround.privacy import canonical

FORMAT = "wardround/v1/deidentification-report"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file. `uid` is set when it passed, `reason` when it was set aside.

    `sha256` is the hash of the input's bytes (hex), "" when it could not be read.
    """

    sha256: str
    uid: str = ""
    duplicate: bool = False
    reason: str = ""
    detail: str = ""
    counts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The counts of a whole run."""

    profile: Profile
    key_id: str
    passed: int
    duplicates: int
    actions: tuple[tuple[str, int], ...]
    quarantined: tuple[Outcome, ...]

    @classmethod
    def of(cls, profile: Profile, key_id: str, outcomes: Iterable[Outcome]) -> "Report":
        """Count `outcomes`; the quarantined are sorted by hash, so folder order does not show."""
        passed = duplicates = 0
        actions: Counter[str] = Counter()
        quarantined = []
        for outcome in outcomes:
            if outcome.reason:
                quarantined.append(outcome)
            elif outcome.duplicate:
                duplicates += 1
            else:
                passed += 1
                actions.update(dict(outcome.counts))
        quarantined.sort(key=lambda outcome: (outcome.sha256, outcome.reason))
        return cls(
            profile, key_id, passed, duplicates, tuple(sorted(actions.items())), tuple(quarantined)
        )

    def reasons(self) -> dict[str, int]:
        """Return how many files were set aside for each reason."""
        return dict(sorted(Counter(outcome.reason for outcome in self.quarantined).items()))

    def to_json(self) -> dict[str, canonical.Json]:
        """Return the canonical-JSON object: whole numbers and fixed words only."""
        return {
            "format": FORMAT,
            "edition": EDITION,
            "profile": self.profile.to_json(),
            "profile_digest": self.profile.digest(),
            "methods": [
                {"code": code, "scheme": "DCM", "meaning": meaning}
                for code, meaning in self.profile.methods()
            ],
            "key_id": self.key_id,
            "files": {
                "seen": self.passed + self.duplicates + len(self.quarantined),
                "passed": self.passed,
                "duplicates": self.duplicates,
                "quarantined": len(self.quarantined),
            },
            "actions": dict(self.actions),
            "reasons": {
                reason: {"files": count, "meaning": REASONS[reason]}
                for reason, count in self.reasons().items()
            },
            "quarantined": [
                {"sha256": outcome.sha256, "reason": outcome.reason, "detail": outcome.detail}
                for outcome in self.quarantined
            ],
        }
