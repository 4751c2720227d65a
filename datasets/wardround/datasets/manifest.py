"""The manifest of a cohort: what is in it, by hash and pseudonym, and the digest that names it.

One canonical-JSON line a sample, below a header line that carries the SHA-256 of all of them. It
holds no path, name or identifier; where the files are stands in a second file, of mode 0600, that
never leaves the site. Patients are HMAC-SHA256 under the site's key (FIPS 198-1): without the key
nobody can test a guessed record number, which a plain hash would allow.
"""

import hashlib
import hmac
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from wardround.datasets.errors import CohortInvalid
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData

FORMAT = "wardround/v1/cohort"
KINDS = ("image-classification-2d", "segmentation-3d", "tabular")
MAX_BYTES = 4 * 2**30

Kind: TypeAlias = Literal["image-classification-2d", "segmentation-3d", "tabular"]
Part: TypeAlias = Literal["train", "held_out"]
PARTS: tuple[Part, ...] = ("train", "held_out")


def pseudonym(key: bytes, use: str, identity: str) -> str:
    """Return the 128 bits (hex) that stand for `identity` in one `use`, under the site's key."""
    label = f"wardround/v1/cohort/{use}\0".encode()
    return hmac.digest(key, label + identity.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()


def patient_pseudonym(key: bytes, identity: str) -> str:
    """Return the pseudonym of a patient, however a record number was typed: with other capitals,
    spaces or composed letters it is the same patient's, and one budget's.
    """
    words = unicodedata.normalize("NFC", identity.replace("\0", " ")).casefold().split()
    return pseudonym(key, "patient", " ".join(words))


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample. Hashes in hex; `label` is a class name, "" for volumes (their label is a file).

    `content` names the sample in its cohort; `pixels` is equal for equal pictures; `shape` is
    that of the decoded data, () for a row.
    """

    content: str
    pixels: str
    label: str
    patient: str
    split: Part
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, canonical.Json]:
        """Return the canonical-JSON object of this line."""
        return {
            "content": self.content,
            "label": self.label,
            "patient": self.patient,
            "pixels": self.pixels,
            "shape": list(self.shape),
            "split": self.split,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, canonical.Json]) -> "Entry":
        """Read what `to_json` wrote; CohortInvalid for anything else."""
        shape, part = value.get("shape"), value.get("split")
        texts = [value.get(name) for name in ("content", "pixels", "label", "patient")]
        if (
            len(value) != 6
            or not isinstance(shape, list)
            or not all(isinstance(text, str) for text in texts)
            or part not in PARTS
        ):
            raise CohortInvalid("a line of the manifest is damaged; add the data set again")
        sizes = tuple(n for n in shape if isinstance(n, int))
        content, pixels, label, patient = (str(text) for text in texts)
        return cls(
            content, pixels, label, patient, "train" if part == "train" else "held_out", sizes
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole manifest. `pseudonym` names the data set in ledger and log; `options` are texts.

    `findings` counts what was wrong when it was made, by code. `deidentification` is the digest of
    the report of the de-identifier that made every image, "" when none or another did.
    """

    name: str
    kind: Kind
    pseudonym: str
    classes: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    findings: tuple[tuple[str, int], ...]
    entries: tuple[Entry, ...] = field(repr=False)
    deidentification: str = ""

    def lines(self) -> bytes:
        """Return the canonical lines of all entries, each ended by a line feed."""
        return b"".join(canonical.dumps(entry.to_json()) + b"\n" for entry in self.entries)

    def header(self) -> bytes:
        """Return the canonical header line: everything but the entries, and their digest."""
        header: dict[str, canonical.Json] = {
            "format": FORMAT,
            "name": self.name,
            "kind": self.kind,
            "pseudonym": self.pseudonym,
            "classes": list(self.classes),
            "options": dict(self.options),
            "findings": dict(self.findings),
            "samples": len(self.entries),
            "entries": hashlib.sha256(self.lines()).hexdigest(),
        }
        if self.deidentification:
            header["deidentification"] = self.deidentification
        return canonical.dumps(header)

    def digest(self) -> str:
        """Return the SHA-256 (hex) that names this exact manifest: of its header."""
        return hashlib.sha256(b"wardround/v1/manifest\0" + self.header()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the file: header, then entries."""
        return self.header() + b"\n" + self.lines()


def sorted_entries(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return entries in the manifest's order: by patient, then content."""
    return tuple(sorted(entries, key=lambda entry: (entry.patient, entry.content)))


def load_manifest(path: Path) -> Manifest:
    """Read and verify the manifest at `path`.

    Raises CohortInvalid when it is missing, not of this form, or its lines do not have the digest
    that its header states.
    """
    try:
        data = path.read_bytes()
    except OSError:
        raise CohortInvalid("the manifest cannot be read; add the data set again") from None
    first, _, rest = data.partition(b"\n")
    try:
        header = canonical.loads_object(first)
        entries = tuple(Entry.from_json(canonical.loads_object(line)) for line in rest.splitlines())
        manifest = _manifest(header, entries)
    except MalformedData:
        raise CohortInvalid("the manifest is damaged; add the data set again") from None
    if manifest.to_bytes() != data:
        raise CohortInvalid(
            "the manifest was changed after it was made: its digest does not fit; "
            "add the data set again"
        )
    return manifest


def _manifest(header: Mapping[str, canonical.Json], entries: tuple[Entry, ...]) -> Manifest:
    kind, classes = header.get("kind"), header.get("classes")
    options, findings = header.get("options"), header.get("findings")
    if (
        header.get("format") != FORMAT
        or kind not in KINDS
        or not isinstance(classes, list)
        or not isinstance(options, dict)
        or not isinstance(findings, dict)
    ):
        raise CohortInvalid("this is not a manifest of this version; add the data set again")
    known: dict[str, Kind] = {
        "image-classification-2d": "image-classification-2d",
        "segmentation-3d": "segmentation-3d",
        "tabular": "tabular",
    }
    return Manifest(
        name=str(header.get("name")),
        kind=known[str(kind)],
        pseudonym=str(header.get("pseudonym")),
        classes=tuple(str(name) for name in classes),
        options=tuple(sorted((key, str(value)) for key, value in options.items())),
        findings=tuple(sorted((key, n) for key, n in findings.items() if isinstance(n, int))),
        entries=entries,
        deidentification=str(header.get("deidentification", "")),
    )
