"""What a run report knows: a tree of frozen records, each value with its source mark.

The tree is built from log entries and the verifier's outcome and from nothing else (`build`), and
written as JSON, HTML and PDF from there. Times are milliseconds since 1970 UTC, sizes are bytes,
digests SHA-256 in hex, epsilons decimal text as the site wrote it.
"""

from dataclasses import dataclass

from wardround.privacy.presentation.charts import Presence
from wardround.privacy.presentation.marks import Marked
from wardround.privacy.verify.findings import Verification

Text = Marked[str]
Whole = Marked[int]
Names = Marked[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Which log the report was read from, and how much of it."""

    origin: Text
    operator: Text
    software: Text
    genesis: Text
    entries: Whole
    first_ms: Whole
    last_ms: Whole
    unreadable: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """The study plan that was run, as its log entry says it."""

    study: Text
    title: Text
    purpose: Text
    legal_basis: Text
    dpia: Text
    digest: Text
    task: Text
    model: Text
    participants: Names
    rounds: Whole
    mode: Text
    unit: Text
    relation: Text
    clip: Text
    noise_multiplier: Text
    sample_rate: Text
    target_epsilon: Text
    delta: Text
    shared_noise: Marked[bool]
    threshold: Whole
    colluders: Whole
    min_cohort: Whole
    details: tuple[tuple[str, Text], ...]


@dataclass(frozen=True, slots=True)
class ApprovalFacts:
    """One site's signed agreement to the plan. `same_plan`: it names the digest that was run."""

    site: Text
    approver: Text
    plan_digest: Text
    same_plan: Marked[bool]
    datasets: Names
    epsilon_limit: Text
    legal_basis: Text
    dpia: Text
    at_ms: Whole


@dataclass(frozen=True, slots=True)
class RefusalFacts:
    """One signed refusal: of the study (round 0) or of a round of the run."""

    site: Text
    round: Whole
    rule: Text
    reason: Text
    at_ms: Whole


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """One site: its keys and what it did in this run. Counts are of rounds, not attempts."""

    site: Text
    organisation: Text
    fingerprint: Text
    enrolled_ms: Whole | None
    revoked: Text | None
    invited: Whole
    included: Whole
    dropped: Whole
    refused: Whole
    bytes_sent: Whole
    closing: "ClosingFacts | None"


@dataclass(frozen=True, slots=True)
class ClosingFacts:
    """A site's closing statement: how far it confirms the log and what it says it sent."""

    last_sequence: Whole
    checkpoint_size: Whole
    updates: Whole
    bytes_sent: Whole


@dataclass(frozen=True, slots=True)
class UpdateFacts:
    """One masked update as its site signed it.

    `confirmed`: the checkpoint named by the site's closing statement covers this entry.
    """

    site: Text
    round: Whole
    attempt: Whole
    digest: Text
    size: Whole
    total_size: Whole
    recipient: Text
    encryption: Text
    confirmed: Marked[bool]


@dataclass(frozen=True, slots=True)
class DroppedFacts:
    """A site that was invited to an attempt and is not in its sum."""

    site: Text
    stage: Text
    reason: Text


@dataclass(frozen=True, slots=True)
class AggregateFacts:
    """The opened sum of an attempt. `replayed`: the verifier added the uploads up again.

    In group mode nobody but the sites can read it: `weight` is 0, `counters` is empty, and
    `model_digest` is what most of them signed.
    """

    digest: Text
    weight: Whole
    model_digest: Text
    counters: tuple[tuple[str, Whole], ...]
    replayed: Marked[bool] | None


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """One attempt at one round."""

    round: Whole
    attempt: Whole
    purpose: Text
    started_ms: Whole
    model_digest: Text
    invited: Names
    survivors: Names
    dropped: tuple[DroppedFacts, ...]
    aggregate: AggregateFacts | None
    outcome: Text
    reason: Text
    bytes_up: Whole
    bytes_down: Whole
    metrics: tuple[tuple[str, Text], ...]


@dataclass(frozen=True, slots=True)
class MechanismFacts:
    """One privacy event: how noise and sampling were really used."""

    kind: str
    noise_multiplier: str
    sample_rate: str
    steps: int
    sampling: str


@dataclass(frozen=True, slots=True)
class SpendFacts:
    """What one round cost one data set of one site; `recomputed` is the verifier's own figure."""

    site: Text
    dataset: Text
    round: Whole
    attempt: Whole
    unit: Text
    relation: Text
    clip: Text
    mechanisms: Marked[tuple[MechanismFacts, ...]]
    delta: Text
    before: Text
    after: Text
    study: Text
    budget: Text
    accountant: Text
    ledger_sequence: Whole
    shared_noise: Text
    outside: Names
    recomputed: Text | None


@dataclass(frozen=True, slots=True)
class DataFacts:
    """De-identification of one data set, as its site states it.

    `report` is the digest of the de-identifier's report, which the site keeps.
    """

    site: Text
    dataset: Text
    profile: Text
    options: Marked[tuple[str, ...]]
    manifest: Text
    report: Text
    counts: tuple[tuple[str, Whole], ...]
    notes: Text


@dataclass(frozen=True, slots=True)
class AccessFacts:
    """Calls of one kind with one outcome, counted; actors are random ids.

    `refused`: the answer was an error (status 400 or above).
    """

    api: Text
    what: Text
    role: Text
    outcome: Text
    refused: bool
    calls: Whole
    actors: Whole


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """Something handed out by the coordinator."""

    what: Text
    digest: Text
    size: Whole
    recipient: Text
    actor: Text
    at_ms: Whole


@dataclass(frozen=True, slots=True)
class FaultFacts:
    """Something that went wrong in the run."""

    site: Text
    round: Whole
    attempt: Whole
    stage: Text
    what: Text
    at_ms: Whole


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """One log entry the report was read from."""

    index: int
    at_ms: int
    kind: str
    site: str
    sequence: int
    leaf_hash: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """A whole report of one run."""

    run: Text
    outcome: Text
    reason: Text
    final_model: Text
    group_mode: Marked[bool]
    software: Text
    started_ms: Whole
    ended_ms: Whole | None
    log: LogFacts
    verdict: Text
    colluders_covered: Marked[int | None]
    verification: Verification
    plan: PlanFacts
    approvals: tuple[ApprovalFacts, ...]
    refusals: tuple[RefusalFacts, ...]
    sites: tuple[SiteFacts, ...]
    rounds: tuple[RoundFacts, ...]
    updates: tuple[UpdateFacts, ...]
    participation: tuple[tuple[str, tuple[tuple[int, Presence], ...]], ...]
    spends: tuple[SpendFacts, ...]
    data: tuple[DataFacts, ...]
    access: tuple[AccessFacts, ...]
    exports: tuple[ExportFacts, ...]
    faults: tuple[FaultFacts, ...]
    entries: tuple[EntryFacts, ...]

    @property
    def final_rounds(self) -> frozenset[int]:
        """Return the rounds that train nothing: they evaluate the model that training led to."""
        return frozenset(r.round.value for r in self.rounds if r.purpose.value == "evaluate")
