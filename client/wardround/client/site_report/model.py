"""What a site's report over a period knows: a tree of frozen records, each value with its mark.

Times are milliseconds since 1970 UTC, sizes bytes, digests SHA-256 in hex, epsilons decimal text.
"""

from dataclasses import dataclass

from wardround.privacy.presentation.marks import Marked

Text = Marked[str]
Whole = Marked[int]


@dataclass(frozen=True, slots=True)
class LogFacts:
    """The log this site witnesses, and how far its own copy goes."""

    origin: Text
    mirrored: Whole
    witnessed: Whole
    root: Text
    unreadable: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One step in the life of the site's keys: enrolled, replaced or revoked."""

    step: Text
    fingerprint: Text
    reason: Text
    at_ms: Whole


@dataclass(frozen=True, slots=True)
class DecisionFacts:
    """An approval or refusal that the site signed."""

    decision: Text
    study: Text
    run: Text
    round: Whole
    reason: Text
    at_ms: Whole


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run that names this site, as far as its copy of the log tells."""

    run: Text
    study: Text
    started_ms: Whole
    outcome: Text
    updates: Whole
    bytes_sent: Whole
    refusals: Whole
    closed: Marked[bool]


@dataclass(frozen=True, slots=True)
class EgressFacts:
    """One statement that left the site, with what went along. `entry` is -1 without a receipt."""

    sequence: Whole
    at_ms: Whole
    kind: Text
    run: Text
    round: Whole
    digest: Text
    size: Whole
    recipient: Text
    encryption: Text
    entry: Whole


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """The check of all statements ever made, not of the period alone."""

    statements: Whole
    receipts: Whole
    problems: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class SpendFacts:
    """Spends of one run on one data set, from the ledger."""

    at_ms: Whole
    study: Text
    run: Text
    rounds: Whole
    steps: Whole
    mechanisms: Text
    after: Text


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """The account of one data set: opening, spends of the period, closing, against its budget.

    `against` says whom the budget bounds: "everyone", or "aggregate" for those who see only the
    sum; `otherwise` is the closing against the other of the two where noise was shared, else
    empty. `curve` is epsilon after each spend of the period.
    """

    dataset: Text
    unit: Text
    relation: Text
    sampling: Text
    delta: Text
    against: Text
    budget: Text
    opening: Text
    closing: Text
    otherwise: Text
    held: Text
    left: Text
    accountant: Text
    spends: tuple[SpendFacts, ...]
    curve: Marked[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """Checkpoints of the log that the site cosigned in the period."""

    cosigned: Whole
    first_size: Whole
    last_size: Whole


@dataclass(frozen=True, slots=True)
class RefusedFacts:
    """A checkpoint that the site refused: evidence against the log, kept whole at the site."""

    at_ms: Whole
    reason: Text


@dataclass(frozen=True, slots=True)
class DataFacts:
    """A de-identification that the site stated."""

    dataset: Text
    profile: Text
    options: Marked[tuple[str, ...]]
    manifest: Text
    report: Text
    counts: tuple[tuple[str, Whole], ...]
    at_ms: Whole


@dataclass(frozen=True, slots=True)
class SiteReport:
    """The whole report of one site over [start_ms, end_ms).

    `unstated` are the data sets with a budget on whose de-identification the site never said
    anything.
    """

    site: Text
    organisation: Text
    start_ms: int
    end_ms: int
    made_ms: int
    log: LogFacts
    keys: tuple[KeyFacts, ...]
    decisions: tuple[DecisionFacts, ...]
    runs: tuple[RunFacts, ...]
    egress: tuple[EgressFacts, ...]
    chain: ChainFacts
    accounts: tuple[AccountFacts, ...]
    checkpoints: CheckpointFacts
    refused: tuple[RefusedFacts, ...]
    data: tuple[DataFacts, ...]
    unstated: tuple[Text, ...]
    outside: tuple[str, ...]
