"""What a run of the de-identifier leaves at the site, and what a data set keeps of it.

The record, beside the key in the site's folder, holds the run's report and the SHA-256 of each
file it wrote. `data add` looks there: when every image of the data set is one of those files, the
data set keeps the report, and its manifest names the report's digest. Nothing has to be typed, and
a picture that came from elsewhere is noticed. Neither file holds a name, a path or an identifier.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wardround.datasets.errors import CohortInvalid, DataError, FileRefused
from wardround.datasets.scan_guard import MEBIBYTE, files_of, read_file
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData

RECORDS, RECORD = "deidentified", "deidentification.json"
FORMAT = "wardround/v1/deidentified-files"
# That of `deidentify.report`; importing it would load pydicom for every command of the site.
REPORT_FORMAT = "wardround/v1/deidentification-report"
KEY_FILE, KEY_VARIABLE = "deidentify.key", "WARDROUND_DEIDENTIFY_KEY"
MAX_RECORD = 512 * MEBIBYTE
MAX_FILE = 4096 * MEBIBYTE


def default_key_path() -> Path:
    """Return where the key lies when none is named. Never in the output folder: what is handed on
    must not hold its own key.

    `$WARDROUND_DEIDENTIFY_KEY`; else the site's folder, where there is one
    (`$WARDROUND_SITE_HOME`, or `site` here); else the account's own configuration:
    `$XDG_CONFIG_HOME/wardround/deidentify.key`, or the same under `~/.config`.
    """
    if named := os.environ.get(KEY_VARIABLE):
        return Path(named)
    home = Path(os.environ.get("WARDROUND_SITE_HOME") or "site")
    if (home / "data.key").is_file():
        return home / KEY_FILE
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "wardround" / KEY_FILE


@dataclass(frozen=True, slots=True)
class Deidentified:
    """A run's report, as its own JSON object, and the hashes (hex) of the files it wrote."""

    report: Mapping[str, canonical.Json]
    files: frozenset[str] = field(repr=False)

    @classmethod
    def of(cls, report: Mapping[str, canonical.Json], outputs: Iterable[Path]) -> "Deidentified":
        """Return the record of a run that wrote `outputs`, each read once more from the disk."""
        hashes = set()
        for path in outputs:
            with path.open("rb") as file:
                hashes.add(hashlib.file_digest(file, "sha256").hexdigest())
        return cls(report, frozenset(hashes))

    def save(self, folder: Path) -> None:
        """Write the record into `folder`, under its own SHA-256."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = self.to_bytes()
        path = folder / f"{hashlib.sha256(data).hexdigest()}.json"
        partial = path.with_suffix(".part")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(partial, path)

    @classmethod
    def closest(
        cls, folders: Iterable[Path], source: Path, images: Iterable[str]
    ) -> "tuple[Deidentified | None, int]":
        """Return the record in `folders` that knows most of `images`, and how many it lacks.

        None when no record knows any of them. `images` are files below `source`, or folders of
        slices. Raises DataError for a damaged record.
        """
        records = [cls.load(path) for folder in folders for path in sorted(folder.glob("*.json"))]
        if not records:
            return None, 0
        hashes = [_hashes(source, image) for image in images]
        lacks = [sum(not one or not one <= record.files for one in hashes) for record in records]
        fewest = min(lacks)
        if fewest == len(hashes):
            return None, 0
        return records[lacks.index(fewest)], fewest

    @classmethod
    def load(cls, path: Path) -> "Deidentified":
        """Return the record at `path`; DataError when it is damaged."""
        try:
            data = read_file(path.parent, path.name, limit=MAX_RECORD)
            value = canonical.loads_object(data, max_bytes=MAX_RECORD)
            report, files = _object(value, "report"), value.get("files")
            Summary.of(report)
        except (FileRefused, MalformedData):
            files = None
        if not isinstance(files, list):
            raise DataError(
                f"{RECORDS}/{path.name} is damaged; run data deidentify again, or remove the file"
            )
        return cls(report, frozenset(str(item) for item in files))

    def to_bytes(self) -> bytes:
        """Return the record's file."""
        return canonical.dumps(
            {"format": FORMAT, "report": self.report, "files": sorted(self.files)}
        )


def _hashes(source: Path, image: str) -> frozenset[str]:
    """The SHA-256 of a file, or of each file of a folder; none when one cannot be read."""
    try:
        parts = files_of(source, image) if (source / image).is_dir() else [image]
        return frozenset(
            hashlib.sha256(read_file(source, part, limit=MAX_FILE)).hexdigest() for part in parts
        )
    except FileRefused:
        return frozenset()


def report_digest(report: Mapping[str, canonical.Json]) -> str:
    """Return the SHA-256 (hex) of the report's canonical bytes.

    Of a report written with `--report` it is what `jq -cjS . FILE | sha256sum` prints.
    """
    return hashlib.sha256(canonical.dumps(report)).hexdigest()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a report says, flat: edition of the standard, options that were on, and its counts.

    `counts` are `files_seen`, `files_written`, `duplicates` and `quarantined`, then each action,
    then `quarantined_` and each reason.
    """

    edition: str
    options: tuple[str, ...]
    counts: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, report: Mapping[str, canonical.Json]) -> "Summary":
        """Read a report; MalformedData when it is none."""
        profile, files, actions, reasons = (
            _object(report, name) for name in ("profile", "files", "actions", "reasons")
        )
        options = profile.get("options")
        if report.get("format") != REPORT_FORMAT or not isinstance(options, list):
            raise MalformedData("not a report of the de-identifier")
        counts = [
            ("files_seen", files.get("seen")),
            ("files_written", files.get("passed")),
            ("duplicates", files.get("duplicates")),
            ("quarantined", files.get("quarantined")),
            *sorted(actions.items()),
            *((f"quarantined_{r}", _object(reasons, r).get("files")) for r in sorted(reasons)),
        ]
        whole = tuple((name, count) for name, count in counts if isinstance(count, int))
        if len(whole) != len(counts):
            raise MalformedData("a count of the report is not a number")
        return cls(str(report.get("edition")), tuple(map(str, options)), whole)


def kept_summary(folder: Path, digest: str) -> Summary:
    """Return what the report says that the data set in `folder` keeps; its manifest names `digest`.

    Raises CohortInvalid when it is gone or another.
    """
    try:
        data = (folder / RECORD).read_bytes()
        if hashlib.sha256(data).hexdigest() == digest:
            return Summary.of(canonical.loads_object(data, max_bytes=MAX_RECORD))
    except (OSError, MalformedData):
        pass
    raise CohortInvalid("the de-identification report was lost or changed; add the data again")


def _object(value: Mapping[str, canonical.Json], name: str) -> Mapping[str, canonical.Json]:
    found = value.get(name)
    if not isinstance(found, Mapping):
        raise MalformedData(f"the report has no {name}")
    return found
