"""The log as JSON lines for a SIEM, in fields of the Elastic Common Schema (ECS 8).

One object a line, ASCII only: neither a line break nor a terminal escape from a site's text can
start a second record or reach a screen.
"""

import json
from collections.abc import Iterable, Iterator

from wardround.privacy.exports.exported import Exported, exported

_CATEGORY: dict[str, tuple[str, str]] = {
    "genesis": ("configuration", "creation"),
    "enrol": ("iam", "creation"),
    "rotate": ("iam", "change"),
    "revoke": ("iam", "deletion"),
    "study_plan": ("configuration", "creation"),
    "approval": ("configuration", "allowed"),
    "refusal": ("configuration", "denied"),
    "update": ("network", "end"),
    "recovery_share": ("network", "end"),
    "access": ("web", "access"),
    "export": ("file", "access"),
    "fault": ("process", "error"),
    "restored": ("database", "change"),
    "unreadable": ("database", "error"),
}


def siem_lines(entries: Iterable[bytes], origin: str, first: int = 0) -> Iterator[bytes]:
    """Yield one JSON line (with its newline) per raw leaf of the log `origin`.

    `first` is the log index of the first leaf given, for exports that go on where one ended.
    """
    for entry in exported(entries, first):
        line = json.dumps(_record(entry, origin), ensure_ascii=True, separators=(",", ":"))
        yield line.encode("ascii") + b"\n"


def _record(entry: Exported, origin: str) -> dict[str, object]:
    leaf = entry.leaf
    category, kind_type = _CATEGORY.get(entry.kind, ("process", "info"))
    record: dict[str, object] = {
        "@timestamp": entry.time,
        "ecs": {"version": "8.11.0"},
        "event": {
            "kind": "alert" if entry.kind == "unreadable" else "event",
            "category": [category],
            "type": [kind_type],
            "action": entry.kind,
            "outcome": "failure" if entry.failed else "success",
            "dataset": "wardround.audit",
            "sequence": entry.index,
            "hash": entry.leaf_hash,
        },
        "observer": {"vendor": "Wardround", "name": origin},
        "message": _message(entry),
        "wardround": entry.details(),
    }
    if leaf and leaf.actor:
        record["user"] = {"id": leaf.actor}
    if leaf and leaf.site:
        record["organization"] = {"id": leaf.site}
        record["labels"] = {"signed_by_site": "true" if leaf.statement else "false"}
    return record


def _message(entry: Exported) -> str:
    if entry.leaf is None:
        return f"entry {entry.index} of the log cannot be read"
    leaf = entry.leaf
    parts = [entry.kind.replace("_", " ")]
    parts += [f"by {leaf.site}"] if leaf.statement else [f"about {leaf.site}"] if leaf.site else []
    parts += [f"in run {leaf.run}"] if leaf.run else []
    parts += [f"round {leaf.round}"] if leaf.round else []
    return " ".join(parts)
