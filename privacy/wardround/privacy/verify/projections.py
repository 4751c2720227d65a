"""The summary of a log: what a report counts and a dashboard shows, derived from entries alone.

The coordinator writes it into a bundle; the verifier derives it again and compares. Both run
this code, over what each of them holds.
"""

from collections import Counter
from dataclasses import dataclass, field

from wardround.privacy.canonical import Json
from wardround.privacy.events import (
    Access,
    Aggregated,
    Approval,
    Closing,
    Deidentification,
    Enrol,
    Export,
    Fault,
    Leaf,
    ModelStep,
    PrivacySpend,
    Refusal,
    Revoke,
    Rotate,
    RoundEnd,
    RoundStart,
    RunEnd,
    RunStart,
    StudyPlanned,
    Update,
)


def _table() -> dict[str, dict[str, Json]]:
    return {}


@dataclass(slots=True)
class Projection:
    """Tables that grow with each entry; `to_json` gives them, sorted by key."""

    kinds: Counter[str] = field(default_factory=Counter)
    sites: dict[str, dict[str, Json]] = field(default_factory=_table)
    studies: dict[str, dict[str, Json]] = field(default_factory=_table)
    runs: dict[str, dict[str, Json]] = field(default_factory=_table)
    rounds: dict[str, dict[str, Json]] = field(default_factory=_table)
    updates: dict[str, dict[str, Json]] = field(default_factory=_table)
    spends: dict[str, dict[str, Json]] = field(default_factory=_table)
    data: dict[str, dict[str, Json]] = field(default_factory=_table)
    access: Counter[str] = field(default_factory=Counter)

    def add(self, index: int, leaf: Leaf) -> None:
        """Take in the next entry."""
        self.kinds[leaf.kind] += 1
        site, event = leaf.site, leaf.event
        if leaf.statement is not None:
            row = self.sites.setdefault(site, {"statements": 0})
            row["statements"] = leaf.statement.sequence
        match event:
            case Access():
                self.access[f"{event.api} {event.outcome}"] += 1
            case Enrol() | Rotate():
                self.sites[site] |= {
                    "identity": event.identity,
                    "witness": event.witness,
                    "key_entry": index,
                    "revoked_entry": None,
                }
            case Revoke():
                self.sites.setdefault(site, {"statements": 0})["revoked_entry"] = index
            case StudyPlanned():
                self.studies[event.study] = {
                    "plan_digest": event.plan_digest,
                    "entry": index,
                    "approved": {},
                    "refused": {},
                }
            case Approval() | Refusal():
                key = "approved" if isinstance(event, Approval) else "refused"
                row = self.studies.setdefault(event.study, {})
                row[key] = {**_object(row.get(key)), site: index}
            case RunStart():
                self.runs[event.run] = {
                    "study": event.study,
                    "plan_digest": event.plan_digest,
                    "participants": list(event.participants),
                    "entry": index,
                    "outcome": None,
                    "closed": {},
                }
            case Closing():
                row = self.runs.setdefault(event.run, {})
                row["closed"] = {**_object(row.get("closed")), site: index}
            case RunEnd():
                row = self.runs.setdefault(event.run, {})
                row |= {"outcome": event.outcome, "model_digest": event.model_digest}
            case _:
                self._round(index, leaf)

    def _round(self, index: int, leaf: Leaf) -> None:
        event = leaf.event
        match event:
            case RoundStart():
                self.rounds[_key(event.run, event.round, event.attempt)] = {
                    "purpose": event.purpose,
                    "invited": list(event.invited),
                    "model_digest": event.model_digest,
                    "entry": index,
                }
            case Update():
                key = f"{_key(event.run, event.round, event.attempt)}/{leaf.site}"
                self.updates[key] = {
                    "digest": event.digest,
                    "bytes": event.size + event.header_size + event.boxes_size,
                    "entry": index,
                }
            case Aggregated():
                self.rounds.setdefault(_key(event.run, event.round, event.attempt), {}).update(
                    digest=event.digest,
                    survivors=list(event.survivors),
                    weight=event.weight,
                    counters={c.name: c.value for c in event.counters},
                    new_model=event.model_digest,
                )
            case ModelStep():
                taken = self.rounds.setdefault(_key(event.run, event.round, event.attempt), {})
                models = _object(taken.get("models"))
                taken["models"] = {**models, leaf.site: event.model_digest}
            case RoundEnd():
                self.rounds.setdefault(_key(event.run, event.round, event.attempt), {}).update(
                    outcome=event.outcome, bytes_up=event.bytes_up, bytes_down=event.bytes_down
                )
            case PrivacySpend():
                self.spends[f"{leaf.site}/{event.dataset}"] = {
                    "epsilon": event.epsilon_after,
                    "delta": event.delta,
                    "budget": event.budget,
                    "ledger_sequence": event.ledger_sequence,
                    "entry": index,
                }
            case Deidentification():
                self.data[f"{leaf.site}/{event.dataset}"] = {
                    "profile": event.profile,
                    "manifest_digest": event.manifest_digest,
                    "report_digest": event.report_digest,
                    "entry": index,
                }
            case Fault() | Export():
                row = self.runs.setdefault(event.run, {}) if event.run else None
                if row is not None:
                    count = row.get(event.kind, 0)
                    row[event.kind] = (count if isinstance(count, int) else 0) + 1
            case _:
                pass

    def to_json(self) -> dict[str, Json]:
        """Return all tables as one canonical object."""
        tables: dict[str, Json] = {
            "kinds": dict(self.kinds),
            "sites": dict(self.sites),
            "studies": dict(self.studies),
            "runs": dict(self.runs),
            "rounds": dict(self.rounds),
            "updates": dict(self.updates),
            "spends": dict(self.spends),
            "access": dict(self.access),
        }
        if self.data:  # a bundle of before such statements has no such table
            tables["data"] = dict(self.data)
        return tables


def columns(index: int, leaf: Leaf) -> bytes:
    """Return the line of `columns.jsonl` for an entry: what a database keeps beside the leaf."""
    parts = leaf.kind, leaf.run, leaf.site, leaf.actor  # names: nothing in them needs escaping
    return b'[%d,%d,"%b","%b",%d,"%b","%b"]' % (
        index,
        leaf.ts_ms,
        parts[0].encode(),
        parts[1].encode(),
        leaf.round,
        parts[2].encode(),
        parts[3].encode(),
    )


def _key(run: str, number: int, attempt: int) -> str:
    return f"{run}/{number}/{attempt}"


def _object(value: Json) -> dict[str, Json]:
    return dict(value) if isinstance(value, dict) else {}
