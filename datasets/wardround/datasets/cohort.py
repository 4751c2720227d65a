"""A cohort: a site's data for studies, known by hash and pseudonym, read sample by sample.

    cohort = add(Path("scans"), home, "chest", "image-classification-2d", key=key)
    for sample in cohort.samples("train"):
        pixels = cohort.read(sample)          # float32 [1, height, width]

In the site's home, `datasets/<name>/` holds `manifest.jsonl` (hashes and pseudonyms),
`files.jsonl` (where the files are: mode 0600, never leaves), once it was replaced `former.json`
(on which budget its former patients count), for a table its schema and scaling,
for images the report of the de-identifier that wrote them, if one did, and `scan.jsonl`, from which
an interrupted scan goes on. The files stay where they are; each is compared with its hash whenever
it is read.
"""

import dataclasses
import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.datasets import cohort_image, nifti
from wardround.datasets.budget_name import FORMER, budget_name, former
from wardround.datasets.check import Prepared, prepare
from wardround.datasets.check_findings import Finding, counts
from wardround.datasets.cohort_options import Options
from wardround.datasets.deidentified import (
    RECORD,
    RECORDS,
    Deidentified,
    default_key_path,
    report_digest,
)
from wardround.datasets.errors import CohortInvalid, DataError, FileRefused
from wardround.datasets.manifest import Entry, Manifest, Part, load_manifest
from wardround.datasets.scan import Paths, Progress
from wardround.datasets.tabular import Row, open_table, read_table
from wardround.datasets.tabular_features import Scaler
from wardround.datasets.tabular_moments import row_moments
from wardround.datasets.tabular_schema import Schema
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData
from wardround.privacy.identity import SITE_NAME

MANIFEST, FILES, SCAN = "manifest.jsonl", "files.jsonl", "scan.jsonl"
SCHEMA, SCALING = "schema.toml", "scaling.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to learn from. `label` is a class name, "" for a volume (see `read_mask`)."""

    content: str
    label: str
    patient: str
    paths: Paths = field(default=(), repr=False)
    row: Row | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Cohort:
    """A data set of this site, ready for a study. Made by `add` or `load`."""

    manifest: Manifest
    source: Path = field(repr=False)
    options: Options = field(repr=False)
    places: dict[str, Paths] = field(repr=False)
    rows: dict[str, Row] = field(repr=False)
    schema: Schema | None = field(default=None, repr=False)
    scaler: Scaler | None = field(default=None, repr=False)
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """How the site calls it."""
        return self.manifest.name

    @property
    def kind(self) -> str:
        """The kind of task it is for: one of `manifest.KINDS`."""
        return self.manifest.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; for volumes in order of their voxel value, else in alphabetical order.

        A table has its schema's classes in the schema's order, present here or not.
        """
        return self.manifest.classes

    @property
    def pseudonym(self) -> str:
        """The name of the data set in ledger and log: 32 hex digits that say nothing."""
        return self.manifest.pseudonym

    @property
    def features(self) -> tuple[str, ...]:
        """The inputs of a table's row, in order; () for pictures and volumes."""
        return self.schema.features if self.schema else ()

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the manifest."""
        return self.manifest.digest()

    def samples(self, part: Part) -> Sequence[Sample]:
        """Return the samples of one part, always in the same order (by patient, then hash)."""
        return tuple(self._sample(e) for e in self.manifest.entries if e.split == part)

    def _sample(self, entry: Entry) -> Sample:
        paths, row = self.places.get(entry.content, ()), self.rows.get(entry.content)
        return Sample(entry.content, entry.label, entry.patient, paths, row)

    def read(self, sample: Sample) -> NDArray[np.float32]:
        """Return the input of `sample`, float32.

        A picture: [1, height, width], 0 to 1. A volume: [1, X, Y, Z], RAS, mean 0, deviation 1.
        A row: [features], scaled. Raises CohortInvalid when the file is no longer the one added.
        """
        if self.schema is not None and self.scaler is not None and sample.row is not None:
            return self.scaler.apply(sample.row, self.schema)
        try:
            if self.kind == "segmentation-3d":
                return nifti.read_image(
                    self.source, sample.paths, sample.content, self.options.spacing
                )
            return cohort_image.read(
                self.source, sample.paths[0], sample.content, self.options.size
            )
        except FileRefused as refused:
            raise _unlike(refused) from None

    def moments(self, sample: Sample) -> NDArray[np.float32]:
        """Return what a row adds to the moments of all sites, float32 [3 * number columns].

        Raises DataError for a cohort that is no table.
        """
        if self.schema is None or sample.row is None:
            raise DataError("only a table has moments")
        return row_moments(sample.row, self.schema)

    def read_mask(self, sample: Sample) -> NDArray[np.uint8]:
        """Return the label volume of `sample`, uint8 [1, X, Y, Z], values as in `classes`.

        Raises CohortInvalid as `read` does, and DataError for a cohort without volumes.
        """
        if self.kind != "segmentation-3d":
            raise DataError("only volumes have a label file")
        try:
            return nifti.read_mask(self.source, sample.paths, sample.content, self.options.spacing)
        except FileRefused as refused:
            raise _unlike(refused) from None

    def summary(self) -> dict[str, canonical.Json]:
        """Return counts for the site's own eyes: no name of a file or patient is among them.

        `patients` and `units` (how many patients have how many samples) speak of the units of
        privacy; `findings` counts what was wrong, by code.
        """
        entries = self.manifest.entries
        by_part: dict[str, canonical.Json] = {}
        for part in ("train", "held_out"):
            here = [entry for entry in entries if entry.split == part]
            by_part[part] = {
                "samples": len(here),
                "patients": len({entry.patient for entry in here}),
                "classes": dict(sorted(Counter(e.label for e in here if e.label).items())),
            }
        units = Counter(Counter(entry.patient for entry in entries).values())
        shapes = Counter("x".join(map(str, entry.shape)) for entry in entries if entry.shape)
        return {
            "name": self.name,
            "kind": self.kind,
            "pseudonym": self.pseudonym,
            "digest": self.digest(),
            "classes": list(self.classes),
            "samples": len(entries),
            "patients": sum(units.values()),
            "units": {str(size): count for size, count in sorted(units.items())},
            "parts": by_part,
            "shapes": dict(sorted(shapes.items())),
            "features": list(self.features),
            "findings": dict(self.manifest.findings),
        }

    @classmethod
    def load(cls, home: Path, name: str) -> "Cohort":
        """Open the data set `name` of the site at `home`.

        Raises DataError when there is none of that name, CohortInvalid when it is damaged.
        """
        folder = _folder(home, name)
        if not (folder / MANIFEST).is_file():
            raise DataError(f"there is no data set {name!r}; `data list` shows what there is")
        manifest = load_manifest(folder / MANIFEST)
        options = Options.from_kept(manifest.options)
        try:
            first, *lines = (folder / FILES).read_bytes().splitlines()
            header = canonical.loads_object(first)
            source = Path(str(header["source"]))
            places: dict[str, Paths] = {}
            numbers: dict[int, tuple[str, str]] = {}
            for line in lines:
                parts = canonical.loads(line)
                if not isinstance(parts, list):
                    raise ValueError("not a list")
                content, *paths = (str(item) for item in parts)
                if manifest.kind == "tabular":
                    numbers[int(paths[0])] = (content, paths[1])
                else:
                    places[content] = tuple(paths)
        except (OSError, ValueError, KeyError, TypeError, IndexError, MalformedData):
            raise CohortInvalid(f"data set {name!r} is damaged; add it again") from None
        if manifest.kind != "tabular":
            return cls(manifest, source, options, places, {})
        return _load_table(folder, manifest, source, options, str(header.get("table")), numbers)


def add(
    source: Path,
    home: Path,
    name: str,
    kind: str,
    *,
    key: bytes,
    options: Options | None = None,
    replace: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Look at `source`, write a manifest into the site's `home`, and return the cohort.

    `kind` is one of `manifest.KINDS`, `key` the site's 32-byte pseudonym key. Data sets that share
    a patient share a pseudonym, and so one privacy budget, whatever they are called, and keep it
    when they are replaced. Raises
    DataError when nothing can be used, the name is taken (and `replace` is not set), or patients
    are already counted under two budgets.
    """
    options = options or Options()
    folder = _folder(home, name)
    if (folder / MANIFEST).exists() and not replace:
        raise DataError(f"there is a data set {name!r} already; give another name, or --replace")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    prepared = prepare(
        source, kind, options, key=key, state=folder / SCAN, workers=workers, progress=progress
    )
    report, prepared = _deidentified(source, home, prepared)
    digest = report_digest(report) if report else ""
    manifests = [home / "datasets" / other / MANIFEST for other in names(home)]
    budget = budget_name(name, prepared.entries, manifests, key=key)
    cohort = _cohort(name, budget, source, options, prepared, digest)
    if cohort.schema is not None and cohort.scaler is not None:
        _write(folder / SCHEMA, prepared.schema.encode())
        _write(folder / SCALING, cohort.scaler.to_bytes())
    if report:
        _write(folder / RECORD, canonical.dumps(report))
    if (folder / MANIFEST).exists():
        _write(folder / FORMER, former(folder / MANIFEST))
    _write(folder / FILES, _files(source, prepared))
    _write(folder / MANIFEST, cohort.manifest.to_bytes())  # last: with it the data set exists
    return cohort


def look(
    source: Path,
    kind: str,
    *,
    options: Options | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Return the cohort that `add` would make of `source`, without writing anything.

    Its pseudonyms are under a key of this call alone. Raises DataError as `add` does.
    """
    options = options or Options()
    key = secrets.token_bytes(32)
    prepared = prepare(source, kind, options, key=key, workers=workers, progress=progress)
    return _cohort("", "", source, options, prepared)


def _deidentified(
    source: Path, home: Path, prepared: Prepared
) -> tuple[Mapping[str, canonical.Json] | None, Prepared]:
    """Return the report of the run that made every image here, None when no run made all."""
    images = [paths[0] for paths in prepared.places.values()]
    folders = {home / RECORDS, default_key_path().parent / RECORDS}
    record, foreign = Deidentified.closest(sorted(folders), source, images)
    if record is None:
        return None, prepared
    if not foreign:
        return record.report, prepared
    detail = f"{foreign} of {len(images)}"
    finding = Finding("not-deidentified", detail)
    return None, dataclasses.replace(prepared, findings=(*prepared.findings, finding))


def _cohort(
    name: str,
    budget: str,
    source: Path,
    options: Options,
    prepared: Prepared,
    deidentification: str = "",
) -> Cohort:
    manifest = Manifest(
        name=name,
        kind=prepared.kind,
        pseudonym=budget,
        classes=prepared.classes,
        options=options.kept(),
        findings=tuple(counts(prepared.findings).items()),
        entries=prepared.entries,
        deidentification=deidentification,
    )
    schema = Schema.from_toml(prepared.schema) if prepared.schema else None
    scaler = None
    if schema is not None:
        train = [prepared.rows[e.content] for e in prepared.entries if e.split == "train"]
        scaler = Scaler.fit(train, schema)
    return Cohort(
        manifest,
        source.resolve(),
        options,
        dict(prepared.places),
        dict(prepared.rows),
        schema,
        scaler,
        prepared.findings,
    )


def names(home: Path) -> tuple[str, ...]:
    """Return the names of the data sets of the site at `home`."""
    return tuple(sorted(path.parent.name for path in (home / "datasets").glob(f"*/{MANIFEST}")))


def _files(source: Path, prepared: Prepared) -> bytes:
    header: dict[str, canonical.Json] = {"source": os.fspath(source.resolve())}
    lines: list[canonical.Json] = []
    if prepared.kind == "tabular":
        header["table"] = hashlib.sha256(prepared.table).hexdigest()
        for content, row in prepared.rows.items():
            lines.append([content, row.number, row.patient])
    else:
        lines += [[content, *paths] for content, paths in prepared.places.items()]
    return b"".join(canonical.dumps(line) + b"\n" for line in [header, *lines])


def _load_table(
    folder: Path,
    manifest: Manifest,
    source: Path,
    options: Options,
    digest: str,
    numbers: dict[int, tuple[str, str]],
) -> Cohort:
    try:
        schema = Schema.from_toml((folder / SCHEMA).read_text(encoding="utf-8"))
        scaler = Scaler.from_bytes((folder / SCALING).read_bytes(), schema)
    except (OSError, UnicodeDecodeError, MalformedData):
        raise CohortInvalid(f"data set {manifest.name!r} is damaged; add it again") from None
    data = open_table(source)
    if hashlib.sha256(data).hexdigest() != digest:
        raise CohortInvalid("the table was changed after it was added; add it again (--replace)")
    rows: dict[str, Row] = {}
    for row in read_table(data, schema).rows:
        if row.number in numbers:
            content, patient = numbers[row.number]
            rows[content] = dataclasses.replace(row, patient=patient)
    return Cohort(manifest, source, options, {}, rows, schema, scaler)


def _unlike(refused: FileRefused) -> CohortInvalid:
    what = Finding(refused.code).what
    return CohortInvalid(f"a file of this data set cannot be used any more: {what}; add it again")


def _folder(home: Path, name: str) -> Path:
    if not SITE_NAME.fullmatch(name):
        raise DataError("a data set's name is made of a-z, 0-9 and inner hyphens, at most 32")
    return home / "datasets" / name


def _write(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, mode 0600, whole or not at all."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
