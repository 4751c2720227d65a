"""What an exchange carries besides its payload: protocol messages, the log's head, statements.

A request brings the newest head of the log, so that a site sees its receipts and cosigns while
it works; an answer brings what the site has to say to the log, and its cosignature. `parts` are
messages of secure aggregation in their own codec, by name.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from wardround.privacy import canonical
from wardround.privacy.canonical import Json
from wardround.privacy.errors import MalformedData
from wardround.privacy.statements import Envelope


class Kind(StrEnum):
    """What a site is asked, in the order of a run; the last three repeat each round."""

    HELLO = "hello"
    BOOK = "book"
    TASK = "task"
    SURVIVORS = "survivors"
    OPEN = "open"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the coordinator in run `run`; `head` is a `LogHead` as JSON, or None."""

    run: str
    parts: Mapping[str, bytes] = field(repr=False)
    head: Json = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.dumps({"run": self.run, "head": self.head, "parts": _encode(self.parts)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Ask":
        """Read what `to_bytes` wrote; MalformedData for anything else."""
        value = canonical.loads_object(data)
        run = value.get("run")
        if set(value) != {"run", "head", "parts"} or not isinstance(run, str):
            raise MalformedData("a request has exactly run, head and parts")
        return cls(run, _decode(value["parts"]), value["head"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a site answers: parts, statements for the log, and a cosignature (a note line)."""

    parts: Mapping[str, bytes] = field(repr=False)
    statements: tuple[Envelope, ...] = ()
    cosignature: str = ""
    refusal: str = ""

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.dumps(
            {
                "parts": _encode(self.parts),
                "statements": [envelope.to_json() for envelope in self.statements],
                "cosignature": self.cosignature,
                "refusal": self.refusal,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """Read what `to_bytes` wrote; MalformedData for anything else."""
        value = canonical.loads_object(data)
        if set(value) != {"parts", "statements", "cosignature", "refusal"}:
            raise MalformedData("an answer has exactly its four fields")
        statements, cosignature = value["statements"], value["cosignature"]
        refusal = value["refusal"]
        if (
            not isinstance(statements, list)
            or not isinstance(cosignature, str)
            or not isinstance(refusal, str)
        ):
            raise MalformedData("an answer's fields are of other types")
        return cls(
            _decode(value["parts"]),
            tuple(Envelope.from_json(item) for item in statements),
            cosignature,
            refusal,
        )

    def part(self, name: str) -> bytes:
        """Return the part `name`; MalformedData when the answer lacks it."""
        if name not in self.parts:
            raise MalformedData(f"the answer lacks {name!r}")
        return self.parts[name]


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
