"""From a folder or table to the samples of a cohort, and everything found wrong on the way.

`prepare` is what `data add` and `data check` share: lay out, look at every file, leave out what
cannot be used, find duplicates by pixels, put patients into parts.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from wardround.datasets import cohort_image, cohort_layout, nifti
from wardround.datasets.check_findings import Finding
from wardround.datasets.cohort_layout import Item, Layout
from wardround.datasets.cohort_options import Options
from wardround.datasets.cohort_split import split
from wardround.datasets.errors import DataError, Unusable
from wardround.datasets.manifest import (
    KINDS,
    Entry,
    Kind,
    Part,
    patient_pseudonym,
    pseudonym,
    sorted_entries,
)
from wardround.datasets.scan import Paths, Probe, Progress, scan
from wardround.datasets.tabular import Row, open_table, read_table
from wardround.datasets.tabular_schema import Schema
from wardround.privacy import canonical

FEW_PATIENTS = 10
SCHEMA_NAME = "schema.toml"
MAX_SCHEMA = 2**20


@dataclass(frozen=True, slots=True)
class Prepared:
    """A cohort before it is written. `places` leads from an entry's content hash to its files.

    For a table, `rows` has each entry's row by its content hash instead, and `table` the bytes.
    """

    kind: Kind
    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    places: Mapping[str, Paths] = field(default_factory=dict, repr=False)
    rows: Mapping[str, Row] = field(default_factory=dict, repr=False)
    table: bytes = field(default=b"", repr=False)
    schema: str = ""


def prepare(
    source: Path,
    kind: str,
    options: Options,
    *,
    key: bytes,
    state: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Look at everything in `source` and return what a cohort of `kind` would hold.

    `key` (32 bytes) makes the pseudonyms. `state`, `workers` and `progress` are those of
    `scan.scan`. Raises DataError when nothing can be used or, with `options.whole`, when anything
    must be left out.
    """
    if kind == "tabular":
        prepared = _table(source, options, key)
    elif kind in KINDS:
        if not source.is_dir():
            raise DataError("there is no such folder; give the folder that holds the data")
        layout = _layout(source, kind, options)
        if options.classes:
            layout = replace(layout, classes=options.classes)
        probe = _probe(source, kind, layout, key)
        probes = scan(
            source,
            [item.paths for item in layout.items],
            probe,
            tag=f"{kind} {len(layout.classes)} {pseudonym(key, 'scan', '')}",
            state=state,
            workers=workers,
            progress=progress,
        )
        prepared = _assemble(kind, layout, probes, options, key)
    else:
        raise DataError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
    out = sum(finding.level == "left out" for finding in prepared.findings)
    if options.whole and out:
        raise Unusable(f"{out} cannot be used, and nothing may be left out", prepared.findings)
    return prepared


def _layout(source: Path, kind: str, options: Options) -> Layout:
    if kind == "segmentation-3d":
        return cohort_layout.volumes(source, pattern=options.patient_pattern)
    return cohort_layout.pictures(source, index=options.index, pattern=options.patient_pattern)


def _probe(source: Path, kind: str, layout: Layout, key: bytes) -> partial[Probe]:
    if kind == "segmentation-3d":
        return partial(nifti.probe, root=source, classes=len(layout.classes), key=key)
    return partial(cohort_image.probe, root=source, key=key)


def _assemble(
    kind: str, layout: Layout, probes: Sequence[Probe], options: Options, key: bytes
) -> Prepared:
    findings = list(layout.findings)
    found: list[tuple[Item, Probe]] = []
    told = any(item.patient for item in layout.items) or any(probe.patient for probe in probes)
    if not told:
        findings.append(Finding("patients-unknown"))
    for item, probe in zip(layout.items, probes, strict=True):
        where = item.paths[0]
        if probe.refused:
            findings.append(Finding(*probe.refused, where=probe.part or where))
        elif probe.modality and options.modalities and probe.modality not in options.modalities:
            findings.append(Finding("wrong-modality", _code(probe.modality), where=where))
        elif item.label and item.label not in layout.classes:
            findings.append(Finding("class-unknown", where=where))
        elif told and not (item.patient or probe.patient):
            findings.append(Finding("no-patient", where=where))
        else:
            findings += [Finding(*note, where=where) for note in probe.notes]
            patient = probe.patient or _patient(item, probe, key)
            found.append((replace(item, patient=patient), probe))
    findings += _odd_modalities(found, options)
    found, doubled = _without_duplicates(found)
    findings += doubled
    if kind == "segmentation-3d":
        findings += _mixed(found, options)
    elif options.size is None:
        found, odd = _one_size(found)
        findings += odd
    items = [item for item, _ in found]
    _need_one(items, findings)
    parts, unclear = _parts(items, options, key)
    findings += unclear
    findings += _as_a_whole(items, parts)
    entries = [
        Entry(
            probe.content, probe.pixels, item.label, item.patient, parts[item.patient], probe.shape
        )
        for item, probe in found
    ]
    classes = layout.classes
    if kind == "segmentation-3d" and not classes:
        raise DataError(
            "the classes are not known; give --classes, or describe them in dataset.json"
        )
    return Prepared(
        "segmentation-3d" if kind == "segmentation-3d" else "image-classification-2d",
        classes,
        sorted_entries(entries),
        tuple(findings),
        places={probe.content: item.paths for item, probe in found},
    )


def _odd_modalities(found: Sequence[tuple[Item, Probe]], options: Options) -> list[Finding]:
    """Mention the DICOM files of another modality than most, unless the study's were named."""
    seen = Counter(probe.modality for _, probe in found if probe.modality)
    if len(seen) < 2 or options.modalities:
        return []
    usual = max(seen, key=lambda modality: (seen[modality], modality))
    return [
        Finding("modality-differs", _code(probe.modality), where=item.paths[0])
        for item, probe in found
        if probe.modality not in ("", usual)
    ]


def _code(modality: str) -> str:
    """Return a modality as a finding may say it: what is no code could be a name."""
    return modality if re.fullmatch(r"[A-Z]{2,3}", modality) else "no code"


def _patient(item: Item, probe: Probe, key: bytes) -> str:
    if item.patient:
        return patient_pseudonym(key, item.patient)
    return pseudonym(key, "patient of", probe.pixels)  # the picture itself stands for the patient


def _without_duplicates(
    found: list[tuple[Item, Probe]],
) -> tuple[list[tuple[Item, Probe]], list[Finding]]:
    """Keep the first of equal pictures; none when they speak of two patients or two classes."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item, probe in found:
        groups[probe.pixels].append(item)
    kept: list[tuple[Item, Probe]] = []
    findings: list[Finding] = []
    for item, probe in found:
        group = groups[probe.pixels]
        place = (
            {"where": item.paths[0], "twin": group[item is group[0]].paths[0]} if group[1:] else {}
        )
        if len({other.label for other in group}) > 1:
            findings.append(Finding("duplicate-label", **place))
        elif len({other.patient for other in group}) > 1:
            findings.append(Finding("duplicate-patient", **place))
        elif item is group[0]:
            kept.append((item, probe))
        else:
            findings.append(Finding("duplicate", **place))
    return kept, findings


def _one_size(
    found: list[tuple[Item, Probe]],
) -> tuple[list[tuple[Item, Probe]], list[Finding]]:
    sizes = Counter(probe.shape for _, probe in found)
    if len(sizes) < 2:
        return found, []
    usual = max(sizes, key=lambda size: (sizes[size], size))
    findings = [
        Finding("size-differs", f"{'x'.join(map(str, probe.shape))}", where=item.paths[0])
        for item, probe in found
        if probe.shape != usual
    ]
    return [(item, probe) for item, probe in found if probe.shape == usual], findings


def _mixed(found: list[tuple[Item, Probe]], options: Options) -> list[Finding]:
    findings: list[Finding] = []
    lies = Counter(probe.orientation for _, probe in found if probe.orientation)
    if len(lies) > 1:
        detail = ", ".join(f"{count} {code}" for code, count in sorted(lies.items()))
        findings.append(Finding("orientation-mixed", detail))
    spacings = {probe.spacing for _, probe in found}
    if len(spacings) > 1 and options.spacing is None:
        findings.append(Finding("spacing-mixed", f"{len(spacings)} different"))
    return findings


def _parts(
    items: Sequence[Item | Row], options: Options, key: bytes
) -> tuple[dict[str, Part], list[Finding]]:
    """Give each patient one part: as the list says, else by the site's key."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    said: dict[str, set[str]] = defaultdict(set)
    for item in items:
        labels[item.patient][item.label] += 1
        said[item.patient].add(item.split)
    if any(item.split for item in items):
        torn = [patient for patient, parts in said.items() if len(parts) > 1]
        return (
            {p: "held_out" if parts == {"held_out"} else "train" for p, parts in said.items()},
            [Finding("split-patient", f"{len(torn)} patients")] if torn else [],
        )
    most = {patient: max(sorted(seen), key=seen.__getitem__) for patient, seen in labels.items()}
    return split(most, options.held_out, key), []


def _need_one(items: Sequence[Item | Row], findings: Sequence[Finding]) -> None:
    if not items:
        raise Unusable("nothing here can be used", tuple(findings))


def _as_a_whole(items: Sequence[Item | Row], parts: Mapping[str, Part]) -> list[Finding]:
    findings: list[Finding] = []
    labels = {item.label for item in items}
    if len(labels) == 1 and labels != {""}:
        findings.append(Finding("one-class"))
    if len(parts) < FEW_PATIENTS:
        findings.append(Finding("few-patients", f"{len(parts)}"))
    if "held_out" not in parts.values():
        findings.append(Finding("no-held-out"))
    return findings


def _table(source: Path, options: Options, key: bytes) -> Prepared:
    text = _schema_text(source, options)
    schema = Schema.from_toml(text)
    data = open_table(source)
    table = read_table(data, schema)
    findings = list(table.findings)
    if schema.patient is None:
        findings.append(Finding("rows-unknown"))
    rows: dict[str, Row] = {}
    equal: Counter[str] = Counter()
    for row in table.rows:
        if (
            schema.patient is None
        ):  # the row itself, and how many like it came before, stands for it
            same = repr((row.label, row.values))
            equal[same] += 1
            patient = pseudonym(key, "patient of", f"{same} {equal[same]}")
        else:
            patient = patient_pseudonym(key, row.patient)
        content = pseudonym(key, "row", canonical.dumps([patient, row.label, _texts(row)]).decode())
        if content in rows:
            findings.append(Finding("duplicate", where=f"row {row.number}"))
        else:
            rows[content] = replace(row, patient=patient)
    items = list(rows.values())
    _need_one(items, findings)
    parts, unclear = _parts(items, options, key)
    findings += unclear
    findings += _as_a_whole(items, parts)
    entries = [
        Entry(content, content, row.label, row.patient, parts[row.patient], ())
        for content, row in rows.items()
    ]
    return Prepared(
        "tabular",
        schema.class_names,
        sorted_entries(entries),
        tuple(findings),
        rows=rows,
        table=data,
        schema=text,
    )


def _texts(row: Row) -> list[canonical.Json]:
    return [repr(value) for value in row.values]


def _schema_text(source: Path, options: Options) -> str:
    path = options.schema or source.parent / SCHEMA_NAME
    try:
        data = path.read_bytes()[:MAX_SCHEMA]
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        raise DataError(
            "a table needs a schema: put schema.toml beside it or give --schema; "
            "datasets/README.md shows one"
        ) from None
