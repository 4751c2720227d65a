"""What the verifier finds, and the verdict that follows.

A finding either *breaks* the evidence (it contradicts itself, a signature, or the policy) or
leaves it *incomplete* (something that would be needed is not there). The verdict is the worst.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wardround.privacy.canonical import Json

Status: TypeAlias = Literal["verified", "tampered", "incomplete"]

EXIT: dict[Status, int] = {"verified": 0, "tampered": 1, "incomplete": 2}

# Every check by its short name, and what it means when it is in a finding.
CHECKS = {
    "bundle": "the bundle is not one that a coordinator writes",
    "entry": "an entry is not in the one form that leaves have",
    "genesis": "the log does not begin as the log of the policy",
    "root": "the entries do not give the root that was signed",
    "checkpoint": "a checkpoint is not signed by the log's key, or the checkpoints contradict",
    "cosignature": "a cosignature does not verify, or counts twice",
    "quorum": "too few of the policy's witnesses cosigned",
    "witness-rollback": "a witness signed a smaller log after a larger one",
    "uncovered": "entries that no checkpoint covers",
    "pin": "the log is not the one that was pinned",
    "receipt": "a receipt that a site holds does not fit the log",
    "time": "an entry's time contradicts its place, a statement or a cosignature",
    "columns": "the database's columns do not say what the leaf says",
    "projection": "the coordinator's summary does not follow from the entries",
    "signature": "a statement is not signed by the key of its site",
    "other-log": "a statement was made for another log",
    "sequence": "a site's statements have a gap, a repetition or another order",
    "keys": "keys of sites are shared, unknown to the policy, or replaced without proof",
    "revoked": "a statement by a key that was revoked",
    "compromised": "statements from a time when the key may have been stolen",
    "plan": "what is told of a study plan is not what its text says",
    "approval": "a site takes part in a run whose plan it did not approve",
    "round": "an entry does not fit its run, round or attempt",
    "aggregate": "an aggregate does not follow from the uploads it names",
    "model": "a round does not start from the model the one before led to",
    "evaluation": "metrics do not follow from the opened sum of their round",
    "closing": "a site's closing statement is missing or contradicts the log",
    "run": "a run has no end",
    "deidentification": "a statement on de-identified data contradicts itself or another",
    "ledger": "a privacy ledger goes back, jumps or overruns its budget",
    "spend": "a site sent an update and no privacy spend",
    "blob": "a retained ciphertext is not the one that was logged",
    "replay": "adding up again was not possible, not asked for, or gave something else",
    "epsilon": "an epsilon is lower than its events cost",
}

# What it means where nothing is wrong, and something is only not there.
_MISSING = {
    "pin": "no checkpoint that was kept outside was given",
    "keys": "a site that the policy does not know",
    "plan": "the text of a study plan is not there, or of a form that is not read",
    "closing": "a site has not closed a run",
    "run": "a run has no end, or is not in the log",
    "blob": "a retained ciphertext that no entry names",
    "replay": "a sum was not added up again",
    "epsilon": "epsilons were not computed again",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or missing.

    `entry` is the log index it is about, None for the whole; `breaks`: the evidence contradicts
    itself, otherwise it is incomplete.
    """

    check: str
    entry: int | None
    expected: str
    found: str
    breaks: bool = True

    @property
    def told(self) -> str:
        """Return what the finding means, in words."""
        right = CHECKS.get(self.check, self.check)
        return right if self.breaks else _MISSING.get(self.check, right)

    def to_json(self) -> dict[str, Json]:
        """Return the finding for `--json`."""
        return {
            "check": self.check,
            "entry": self.entry,
            "expected": self.expected,
            "found": self.found,
            "breaks": self.breaks,
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, by whose cosignatures, and with what result.

    `witnesses` are the sites of the policy, `quorum` how many must cosign, `cosigners` who
    cosigned the newest checkpoint that reached the quorum (`size` entries, hex `root`, cosigned
    last at `time_ms`; 0 and the newest signed checkpoint when none reached it). `replayed` are
    the entries of aggregates that were added up again, `recomputed` those of privacy spends with
    the epsilon the verifier found. `remade` are the entries of aggregates from which the model that
    they led to was made again, from the plan's first model on. `hidden` are those of `replayed` in
    group mode: the sum opened again as far as an outsider can, down to the masks of the group key.
    """

    size: int
    root: str
    time_ms: int
    witnesses: tuple[str, ...]
    quorum: int
    cosigners: tuple[str, ...]
    pinned: bool
    findings: tuple[Finding, ...]
    replayed: frozenset[int] = frozenset()
    recomputed: tuple[tuple[int, str], ...] = ()
    remade: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()

    @property
    def status(self) -> Status:
        """The worst of all findings."""
        if any(finding.breaks for finding in self.findings):
            return "tampered"
        return "incomplete" if self.findings else "verified"

    @property
    def colluders_covered(self) -> int | None:
        """Return the largest f with quorum > (n + f) / 2, None when there is none.

        So many witnesses may lie together with the coordinator before a split view is possible.
        """
        largest = 2 * self.quorum - len(self.witnesses) - 1
        return largest if largest >= 0 else None

    def to_json(self) -> dict[str, Json]:
        """Return the verdict for `--json`."""
        return {
            "status": self.status,
            "size": self.size,
            "root": self.root,
            "time_ms": self.time_ms,
            "witnesses": list(self.witnesses),
            "quorum": self.quorum,
            "cosigners": list(self.cosigners),
            "colluders_covered": self.colluders_covered,
            "pinned": self.pinned,
            "replayed": sorted(self.replayed),
            "remade": sorted(self.remade),
            "hidden": sorted(self.hidden),
            "recomputed": [[entry, value] for entry, value in self.recomputed],
            "findings": [finding.to_json() for finding in self.findings],
        }


class Findings:
    """Collects findings; of one check at most `LIMIT` are kept, the rest are counted.

    What breaks the evidence and what is only missing are counted apart: however much is missing,
    no contradiction is crowded out.
    """

    LIMIT = 100

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._counts: dict[tuple[str, bool], int] = {}

    def add(
        self, check: str, entry: int | None, expected: str, found: str, *, breaks: bool = True
    ) -> None:
        """Note one finding of a check that `CHECKS` names."""
        if check not in CHECKS:
            raise KeyError(check)
        kind = check, breaks
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= self.LIMIT:
            self._kept.append(Finding(check, entry, expected, found, breaks))

    def absorb(self, other: "Findings") -> None:
        """Take over what another collection holds."""
        self._kept += other._kept
        for kind, count in other._counts.items():
            self._counts[kind] = self._counts.get(kind, 0) + count

    def all(self) -> tuple[Finding, ...]:
        """Return what was found, those that break first, then by entry."""
        more = [
            Finding(check, None, f"at most {self.LIMIT} such findings", f"{count}", False)
            for (check, _), count in self._counts.items()
            if count > self.LIMIT
        ]
        key = [
            (not f.breaks, -1 if f.entry is None else f.entry, n) for n, f in enumerate(self._kept)
        ]
        return (*(self._kept[n] for *_, n in sorted(key)), *more)
