"""What an exchange carries besides its payload: protocol messages and the state of the log.

A request brings the newest head of the log, so that a site sees its receipts and cosigns while
it works; an answer brings the site's head: its cosignature and what it has to say. `parts` are
messages of secure aggregation, by name, in their own codec.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from wardround.privacy import canonical
from wardround.privacy.canonical import Json
from wardround.privacy.errors import MalformedData
from wardround.privacy.loghead import LogHead, SiteHead


class Kind(StrEnum):
    """What a site is asked, in the order of a run; task to aggregate repeat each round.

    The aggregate goes out in group mode alone, where only the sites can read it.
    """

    HELLO = "hello"
    BOOK = "book"
    TASK = "task"
    SURVIVORS = "survivors"
    OPEN = "open"
    AGGREGATE = "aggregate"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the coordinator in run `run`."""

    run: str
    parts: Mapping[str, bytes] = field(repr=False)
    head: LogHead | None = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.dumps(
            {
                "run": self.run,
                "head": self.head.to_json() if self.head else None,
                "parts": _encode(self.parts),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Ask":
        """Read what `to_bytes` wrote; MalformedData for anything else."""
        value = canonical.loads_object(data)
        run = value.get("run")
        if set(value) != {"run", "head", "parts"} or not isinstance(run, str):
            raise MalformedData("a request has exactly run, head and parts")
        head = LogHead.from_json(value["head"]) if value["head"] is not None else None
        return cls(run, _decode(value["parts"]), head)

    def part(self, name: str) -> bytes:
        """Return the part `name`; MalformedData when the request lacks it."""
        return _part(self.parts, name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a site answers: parts, where it stands in the log, or why it refuses (one line)."""

    parts: Mapping[str, bytes] = field(repr=False)
    head: SiteHead | None = field(default=None, repr=False)
    refusal: str = ""

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.dumps(
            {
                "parts": _encode(self.parts),
                "head": self.head.to_json() if self.head else None,
                "refusal": self.refusal,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """Read what `to_bytes` wrote; MalformedData for anything else."""
        value = canonical.loads_object(data)
        refusal = value.get("refusal")
        if set(value) != {"parts", "head", "refusal"} or not isinstance(refusal, str):
            raise MalformedData("an answer has exactly parts, head and refusal")
        head = SiteHead.from_json(value["head"]) if value["head"] is not None else None
        return cls(_decode(value["parts"]), head, refusal)

    def part(self, name: str) -> bytes:
        """Return the part `name`; MalformedData when the answer lacks it."""
        return _part(self.parts, name)


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise MalformedData(f"the message lacks its part {name!r}")
    return parts[name]


def _encode(parts: Mapping[str, bytes]) -> dict[str, Json]:
    return {name: base64.b64encode(data).decode() for name, data in parts.items()}


def _decode(value: Json) -> dict[str, bytes]:
    if not isinstance(value, Mapping):
        raise MalformedData("parts is not an object")
    result = {}
    for name, text in value.items():
        if not isinstance(text, str):
            raise MalformedData("a part is not text")
        try:
            result[name] = base64.b64decode(text, validate=True)
        except ValueError:
            raise MalformedData("a part is not base64") from None
    return result
