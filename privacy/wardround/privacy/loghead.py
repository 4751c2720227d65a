"""What coordinator and site tell each other about the log with every message of a study.

Down goes a `LogHead`: the newest checkpoint, the proof that it continues what the site has seen,
the entries the site lacks, and receipts for its statements. Up comes a `SiteHead`: where the
site stands, its cosignature, and its statements that have no receipt yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from wardround.privacy.records import Count, Hex32, Pattern, Record
from wardround.privacy.statements import Envelope

MAX_ENTRIES = 4096
MAX_ENTRY_BYTES = 4 * 2**20

NoteText = Annotated[str, Pattern("[^\\x00-\\x09\\x0b-\\x1f]{0,262144}", "a signed note")]
LeafText = Annotated[str, Pattern("[\\x20-\\x7e]{2,1048576}", "a leaf")]


@dataclass(frozen=True, slots=True)
class Receipt(Record):
    """Proof that the site's statement `sequence` is entry `index` of the checkpoint."""

    sequence: Count
    index: Count
    proof: tuple[Hex32, ...]


@dataclass(frozen=True, slots=True)
class LogHead(Record):
    """The log as the coordinator shows it to one site.

    `consistency` leads from `since` entries to the note's size. `entries` are those from
    `start` on, as many as fit; `entries_consistency` leads from their end to the note's size.
    `cosigned` is the largest checkpoint that carries the site's own line, where it is larger than
    what the site says it has witnessed (else empty): then the site's database is an old copy.
    """

    note: NoteText
    since: Count
    consistency: tuple[Hex32, ...]
    start: Count
    entries: tuple[LeafText, ...]
    entries_consistency: tuple[Hex32, ...]
    receipts: tuple[Receipt, ...]
    cosigned: NoteText = ""

    def leaves(self) -> tuple[bytes, ...]:
        """Return the entries as the bytes that are hashed."""
        return tuple(entry.encode("ascii") for entry in self.entries)


@dataclass(frozen=True, slots=True)
class SiteHead(Record):
    """The log as the site has it, and what the site has to say.

    It witnessed `size` entries and holds the first `mirrored`; `cosignature` is its line under
    the checkpoint of `size` (empty: none), `statements` those without a receipt, in order.
    """

    size: Count
    mirrored: Count
    cosignature: NoteText
    statements: tuple[Envelope, ...]


def to_hex(proof: Sequence[bytes]) -> tuple[str, ...]:
    """Return a Merkle proof as the texts that records hold."""
    return tuple(part.hex() for part in proof)


def from_hex(proof: Sequence[str]) -> tuple[bytes, ...]:
    """Return a Merkle proof from the texts that records hold."""
    return tuple(bytes.fromhex(part) for part in proof)
