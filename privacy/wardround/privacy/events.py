"""The catalogue of log leaves: one frozen record per kind, and the exact bytes of a leaf.

A leaf is canonical JSON `{"actor", "kind", "ts_ms", "v"}` with either `"event"` (the coordinator
asserts it) or `"statement"` (a DSSE envelope: the site signed it, `signed = True` below).
`actor` is a random id, never a name; `ts_ms` is the coordinator's clock when it appended.
No leaf holds personal data, a path or a file name.

Rounds count from 1; an attempt counts from 1 within its round. Decimals are text, times are
milliseconds since 1970 UTC, digests are SHA-256 in hex. An empty text means "does not apply".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

from wardround.privacy import canonical
from wardround.privacy.canonical import Json
from wardround.privacy.errors import MalformedData
from wardround.privacy.records import (
    Count,
    Decimal,
    Document,
    Hex32,
    Hex64,
    HexBytes,
    Line,
    MaybeDecimal,
    MaybeHex32,
    MaybeName,
    MaybeSite,
    Millis,
    Name,
    Range,
    Record,
    Site,
    Small,
    read_exact,
    write,
)
from wardround.privacy.statements import Envelope, Statement

MAX_LEAF = 2**20
VERSION = 1


class Event(Record):
    """Base of every kind. `kind` names it in the log; `signed` tells that a site must sign it."""

    __slots__ = ()
    kind: ClassVar[str]
    signed: ClassVar[bool] = False


# -- parts of events --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counter(Record):
    """A named count, such as `evaluated` or `images`."""

    name: Name
    value: Count


@dataclass(frozen=True, slots=True)
class Metric(Record):
    """A named figure between 0 and infinity, such as `accuracy` "0.91"."""

    name: Name
    value: Decimal


@dataclass(frozen=True, slots=True)
class SiteDigest(Record):
    """A digest and size that belong to one site, such as its masked upload."""

    site: Site
    digest: Hex32
    size: Count


@dataclass(frozen=True, slots=True)
class Dropped(Record):
    """A site that was invited and is not in the sum: at which stage, and why."""

    site: Site
    stage: Name
    reason: Line


@dataclass(frozen=True, slots=True)
class Mechanism(Record):
    """One privacy event as the accountant takes it (see `wardround.privacy.accounting`).

    `noise_multiplier` is sigma over `clip`; `sample_rate` is per step; `steps` repeats it.
    """

    kind: Name
    noise_multiplier: Decimal
    sample_rate: Decimal
    steps: Count
    unit: Name
    relation: Name
    sampling: Name


# -- the log, its sites and their keys --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Genesis(Event):
    """The first entry: which log this is. Everyone pins its hash."""

    kind = "genesis"
    origin: Name
    log_key: Hex32
    coordinator_key: MaybeHex32  # signs plans and run specs, where it is not the log key
    operator: Line
    software: Name


@dataclass(frozen=True, slots=True)
class Enrol(Event):
    """A site binds its three public keys to its name; the officer who approved is the actor."""

    kind = "enrol"
    signed = True
    site: Site
    identity: Hex32
    witness: Hex32
    supernode: HexBytes
    organisation: Line
    software: Name


@dataclass(frozen=True, slots=True)
class Rotate(Event):
    """A site replaces its keys: a statement of the old key that the new key has signed too.

    `proof` is the new identity key's signature of `rotation_message(...)`. Effective from the
    entry after this one.
    """

    kind = "rotate"
    signed = True
    site: Site
    identity: Hex32
    witness: Hex32
    supernode: HexBytes
    proof: Hex64
    reason: Line


@dataclass(frozen=True, slots=True)
class Revoke(Event):
    """A site's keys are void from this entry on; `compromised_since_ms` 0: not compromised."""

    kind = "revoke"
    site: Site
    identity: Hex32
    reason: Line
    compromised_since_ms: Millis


# -- studies ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StudyPlanned(Event):
    """A study plan is put forward. `plan` is its canonical text, the rest is said in it too."""

    kind = "study_plan"
    study: Name
    plan_digest: Hex32
    plan: Document
    signature: HexBytes
    title: Line
    purpose: Line
    legal_basis: Line
    dpia: Line
    task: Name
    model: Name
    participants: tuple[Site, ...]
    rounds: Small
    mode: Name
    unit: Name
    relation: Name
    clip: Decimal
    noise_multiplier: Decimal
    sample_rate: Decimal
    target_epsilon: Decimal
    delta: Decimal
    shared_noise: bool
    threshold: Small
    colluders: Small
    min_cohort: Small


@dataclass(frozen=True, slots=True)
class Approval(Event):
    """A site agrees to a plan; its own officer is `approver` (a random id)."""

    kind = "approval"
    signed = True
    study: Name
    plan_digest: Hex32
    approver: Name
    datasets: tuple[Name, ...]  # pseudonyms of data sets
    epsilon_limit: MaybeDecimal
    delta: MaybeDecimal
    policy_digest: MaybeHex32
    legal_basis: Line
    dpia: Line


@dataclass(frozen=True, slots=True)
class Refusal(Event):
    """A site refuses a study, or one round of a run, by a rule of its policy."""

    kind = "refusal"
    signed = True
    study: Name
    plan_digest: MaybeHex32
    run: MaybeName
    round: Small
    attempt: Small
    rule: Name
    reason: Line


# -- runs and rounds --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStart(Event):
    """One execution of a plan begins. `run_spec` is message M0, as it was sent."""

    kind = "run_start"
    run: Name
    study: Name
    plan_digest: Hex32
    roster_digest: Hex32
    run_spec_digest: Hex32
    run_spec: HexBytes
    participants: tuple[Site, ...]
    rounds: Small
    dimension: Count
    ring_bits: Small
    threshold: Small
    colluders: Small
    min_cohort: Small
    group_mode: bool
    counters: tuple[Name, ...]
    software: Name


@dataclass(frozen=True, slots=True)
class KeyBookMade(Event):
    """The sites' fresh keys of the run; `book` is message M2, as it was sent to all."""

    kind = "key_book"
    run: Name
    book_digest: Hex32
    sites: tuple[Site, ...]
    size: Count
    book: HexBytes = ""


@dataclass(frozen=True, slots=True)
class RoundStart(Event):
    """A round (or another attempt at it) begins; `purpose` is "train" or "evaluate".

    `task` is message R1, as it was sent to all.
    """

    kind = "round_start"
    run: Name
    round: Small
    attempt: Small
    purpose: Name
    model_digest: Hex32
    model_size: Count
    invited: tuple[Site, ...]
    task: HexBytes = ""


@dataclass(frozen=True, slots=True)
class Update(Event):
    """What a site sent: its masked update (message R2). This is the recorded egress of a round.

    `digest` (SHA-256) and `size` are those of the masked vector y as bytes, `header_digest` and
    `header_size` of its encoded header, `boxes_size` of the sealed shares that went along.
    """

    kind = "update"
    signed = True
    run: Name
    round: Small
    attempt: Small
    context: Hex32
    model_digest: Hex32
    digest: Hex32
    size: Count
    header_digest: Hex32
    header_size: Count
    boxes_size: Count
    dimension: Count
    ring_bits: Small
    recipient: Name
    encryption: Name


@dataclass(frozen=True, slots=True)
class Survivors(Event):
    """The set of sites whose sum is about to be opened, and who fell away (message R3)."""

    kind = "survivors"
    run: Name
    round: Small
    attempt: Small
    context: Hex32
    survivors: tuple[Site, ...]
    headers_digest: MaybeHex32
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class RecoveryShare(Event):
    """The shares with which a site helps to open the sum (message R6, as it was sent)."""

    kind = "recovery_share"
    signed = True
    run: Name
    round: Small
    attempt: Small
    context: Hex32
    shares: HexBytes


@dataclass(frozen=True, slots=True)
class Aggregated(Event):
    """The opened sum: from which uploads, what it says, and the model it led to.

    `digest` is that of the opened vector, `quorum` message R5 with the sites' signatures (R4).
    In group mode the coordinator cannot read the sum: `weight` is 0, `counters` and
    `model_digest` are empty. What model it led to the sites say themselves (`ModelStep`).
    """

    kind = "aggregate"
    run: Name
    round: Small
    attempt: Small
    context: Hex32
    digest: Hex32
    size: Count
    uploads: tuple[SiteDigest, ...]
    survivors: tuple[Site, ...]
    weight: Count
    counters: tuple[Counter, ...]
    model_digest: MaybeHex32
    quorum: HexBytes = ""


@dataclass(frozen=True, slots=True)
class ModelStep(Event):
    """In group mode: a site read an opened sum and made the next model from it.

    `aggregate` is the digest of the opened vector it was shown, `model_digest` that of the model
    after the round, from which the site's part of the next round will start.
    """

    kind = "model_step"
    signed = True
    run: Name
    round: Small
    attempt: Small
    context: Hex32
    aggregate: Hex32
    model_digest: Hex32


@dataclass(frozen=True, slots=True)
class PrivacySpend(Event):
    """What a round cost one data set at one site, by the site's own ledger.

    Epsilons are of the data set over all its studies, at `delta`; `budget` is its limit.
    `ledger_sequence` increases by one with each entry of the site's ledger. `releases_outside`
    names what left the site and no accountant covers. `shared_noise_epsilon` is what the round
    costs against someone who sees only the sum, where the noise is shared between sites.
    """

    kind = "privacy_spend"
    signed = True
    run: Name
    study: Name
    round: Small
    attempt: Small
    dataset: Name
    unit: Name
    relation: Name
    clip: Decimal
    mechanisms: tuple[Mechanism, ...]
    delta: Decimal
    epsilon_before: Decimal
    epsilon_after: Decimal
    epsilon_study: MaybeDecimal
    budget: Decimal
    accountant: Name
    accountant_version: Name
    ledger_sequence: Count
    shared_noise_epsilon: MaybeDecimal
    releases_outside: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Deidentification(Event):
    """A data set was de-identified at the site before it was approved for a study.

    `manifest_digest` names the data set's files, `report_digest` the report of the run that wrote
    them (its canonical JSON), which the site keeps. `counts` are those of the report: `files_seen`,
    `files_written`, `duplicates` and `quarantined` files, then actions and reasons.
    """

    kind = "deidentification"
    signed = True
    dataset: Name
    profile: Name
    profile_version: Name
    options: tuple[Name, ...]
    manifest_digest: Hex32
    report_digest: Hex32
    counts: tuple[Counter, ...]
    notes: Line


@dataclass(frozen=True, slots=True)
class Evaluation(Event):
    """How the model of a round did over all sites, from the masked counters."""

    kind = "evaluation"
    run: Name
    round: Small
    model_digest: Hex32
    counters: tuple[Counter, ...]
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Fault(Event):
    """Something went wrong: which site (empty: the coordinator), at which stage, what."""

    kind = "fault"
    run: MaybeName
    round: Small
    attempt: Small
    site: MaybeSite
    stage: Name
    what: Line


@dataclass(frozen=True, slots=True)
class RoundEnd(Event):
    """An attempt at a round is over; `outcome` is "completed" or "aborted"."""

    kind = "round_end"
    run: Name
    round: Small
    attempt: Small
    outcome: Name
    reason: Line
    joined: tuple[Site, ...]
    bytes_up: Count
    bytes_down: Count


@dataclass(frozen=True, slots=True)
class Closing(Event):
    """A site closes a run: how far its statements go and the last checkpoint it witnessed.

    `last_sequence` is the sequence number of the site's statement *before* this one.
    """

    kind = "closing"
    signed = True
    run: Name
    last_sequence: Count
    checkpoint_size: Count
    checkpoint_root: Hex32
    updates: Count
    bytes_sent: Count


@dataclass(frozen=True, slots=True)
class RunEnd(Event):
    """A run is over; `outcome` is "completed", "stopped" or "aborted"."""

    kind = "run_end"
    run: Name
    outcome: Name
    reason: Line
    rounds: Small
    model_digest: MaybeHex32


# -- people at the coordinator ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Access(Event):
    """Calls of an API: `path_class` is the route, never the path; the leaf names the actor.

    `count` equal calls within a minute are one entry.
    """

    kind = "access"
    api: Name
    method: Name
    path_class: Line
    outcome: Name
    status: Small
    role: MaybeName
    run: MaybeName
    count: Count = 1


@dataclass(frozen=True, slots=True)
class Export(Event):
    """Something was handed out: a report, a bundle, a model; the leaf names the actor."""

    kind = "export"
    what: Name
    format: Name
    digest: Hex32
    size: Count
    run: MaybeName
    recipient: MaybeName


@dataclass(frozen=True, slots=True)
class Restored(Event):
    """The coordinator lost its newest entries and took them back from a site's copy."""

    kind = "restored"
    from_size: Count
    to_size: Count
    root: Hex32
    source: Site
    reason: Line


KINDS: Mapping[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        Genesis,
        Enrol,
        Rotate,
        Revoke,
        StudyPlanned,
        Approval,
        Refusal,
        RunStart,
        KeyBookMade,
        RoundStart,
        Update,
        Survivors,
        RecoveryShare,
        Aggregated,
        ModelStep,
        PrivacySpend,
        Deidentification,
        Evaluation,
        Fault,
        RoundEnd,
        Closing,
        RunEnd,
        Access,
        Export,
        Restored,
    )
}


def read_event(kind: str, body: Json) -> Event:
    """Read the body of an event of `kind`; MalformedData for anything not in the catalogue."""
    if kind not in KINDS:
        raise MalformedData(f"{kind[:40]!a} is not a kind of event this version knows")
    return KINDS[kind].from_json(body)


def rotation_message(log: str, event: Rotate) -> bytes:
    """Return what the new identity key signs in `Rotate.proof`."""
    body = {name: value for name, value in event.to_json().items() if name != "proof"}
    return b"wardround/v1/rotate\0" + canonical.dumps({"log": log, "rotate": body})


@dataclass(frozen=True, slots=True)
class Leaf:
    """One entry of the log, read: who appended it when, what it says, and who signed that."""

    ts_ms: int
    actor: str
    event: Event
    statement: Statement | None = None
    envelope: Envelope | None = None

    @property
    def kind(self) -> str:
        """The kind of the event."""
        return self.event.kind

    @property
    def run(self) -> str:
        """The run it belongs to; empty when to none."""
        return str(getattr(self.event, "run", ""))

    @property
    def round(self) -> int:
        """The round it belongs to; 0 when to none."""
        return int(getattr(self.event, "round", 0))

    @property
    def site(self) -> str:
        """The site that signed it, or that it is about; empty when none."""
        return self.statement.site if self.statement else str(getattr(self.event, "site", ""))


def to_leaf(event: Event, ts_ms: int, actor: str = "") -> bytes:
    """Return the leaf of an event that the coordinator asserts.

    Raises MalformedData for an event that only a site can say, or an actor that is not an id.
    """
    if event.signed:
        raise MalformedData(f"{event.kind} is for a site to sign; log its statement instead")
    return _dump({"event": event.to_json()}, event.kind, ts_ms, actor)


def statement_leaf(envelope: Envelope, ts_ms: int, actor: str = "") -> bytes:
    """Return the leaf of a site's statement, which must be of a kind that sites sign."""
    kind = envelope.statement().kind
    return _dump({"statement": envelope.to_json()}, kind, ts_ms, actor)


def from_leaf(data: bytes) -> Leaf:
    """Read a leaf; MalformedData unless it is exactly what the two functions above write.

    Signatures are not checked here, only that every text says one thing in one way.
    """
    if len(data) > MAX_LEAF:
        raise MalformedData(f"a leaf of {len(data)} bytes; at most {MAX_LEAF} are accepted")
    value = read_exact(data)
    if type(value) is not dict:
        raise MalformedData("a leaf is an object")
    said = value.keys() - _HEAD
    if len(value) != 5 or value.keys() - said != _HEAD or said not in ({"event"}, {"statement"}):
        raise MalformedData("a leaf has exactly its five fields")
    kind, actor, ts_ms = value["kind"], value["actor"], value["ts_ms"]
    head = _Head(actor, kind, ts_ms, value["v"])
    if "event" in value:
        event = read_event(head.kind, value["event"])
        if event.signed:
            raise MalformedData(f"{head.kind} without the signature of a site")
        return Leaf(head.ts_ms, head.actor, event)
    envelope = Envelope.from_json(value["statement"])
    statement = envelope.statement()
    event = read_event(statement.kind, statement.event)
    if statement.kind != kind or not event.signed:
        raise MalformedData("kind of the leaf and of the statement differ")
    if getattr(event, "site", statement.site) != statement.site:
        raise MalformedData("a site speaks of another one's keys")
    return Leaf(head.ts_ms, head.actor, event, statement, envelope)


_HEAD = {"actor", "kind", "ts_ms", "v"}


@dataclass(frozen=True, slots=True)
class _Head(Record):
    actor: MaybeName
    kind: Name
    ts_ms: Millis
    v: Annotated[int, Range(VERSION, VERSION)]


@lru_cache(maxsize=64)  # what is appended together has one time, one actor and few kinds
def _head(actor: str, kind: str, ts_ms: int) -> dict[str, Json]:
    return _Head(actor, kind, ts_ms, VERSION).to_json()


def _dump(said: dict[str, Json], kind: str, ts_ms: int, actor: str) -> bytes:
    data = write(_head(actor, kind, ts_ms) | said)
    if len(data) > MAX_LEAF:
        raise MalformedData(f"a leaf of {len(data)} bytes; at most {MAX_LEAF} are accepted")
    return data
