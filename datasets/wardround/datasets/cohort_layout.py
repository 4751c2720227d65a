"""Where the pictures, classes and patients of a folder are: the layouts hospitals really have.

Pictures: a folder per class; or a list (CSV: `path,label,patient` and, if wished, `split`).
Volumes: `dataset.json` of the Medical Segmentation Decathlon; or `imagesTr` and `labelsTr`. An
image there is a NIfTI file or a folder with one DICOM series.

Whose picture it is: a DICOM file says it; else the list does, else `patient_pattern`, else a
patient's folder inside the class folder, else the file name up to its first underscore. Where
none of these tells patients apart, each file counts as one patient, and that is said.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from wardround.datasets.check_findings import Finding
from wardround.datasets.errors import DataError, FileRefused
from wardround.datasets.scan import Paths
from wardround.datasets.scan_guard import MEBIBYTE, read_file

LIST_NAMES = ("index.csv", "labels.csv")
LIST_LIMIT = 64 * MEBIBYTE
_BESIDE = {".csv", ".json", ".md", ".txt", ".toml", ".pdf", ".html", ".xml"}
_HIDDEN = (".", "__MACOSX")
_TRAIN = {"train", "training"}
_HELD_OUT = {"test", "testing", "val", "valid", "validation", "held_out", "held-out", "heldout"}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to learn from: its file or files, class, patient (as the hospital names them).

    `patient` is "" where neither list nor name says it.
    """

    paths: Paths = field(repr=False)
    label: str = ""
    patient: str = field(default="", repr=False)
    split: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """The items of a folder, their classes in order, and what was wrong on the way."""

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]


def pictures(source: Path, *, index: Path | None, pattern: str | None) -> Layout:
    """Find the pictures below `source`. Raises DataError when there is no layout to follow."""
    named = index or next((source / n for n in LIST_NAMES if (source / n).is_file()), None)
    if named is not None:
        return _listed(source, named)
    findings: list[Finding] = []
    found: list[tuple[str, str]] = []
    for path in walk(source):
        parts = PurePosixPath(path).parts
        if (source / path).is_dir():
            linked = (source / path).is_symlink()
            findings.append(Finding("linked-folder" if linked else "locked-folder", where=path))
        elif len(parts) < 2:
            findings.append(Finding("no-label", where=path))
        elif not parts[0].isprintable():
            findings.append(Finding("class-name", where=path))
        else:
            found.append((path, parts[0]))
    if not found:
        raise DataError(
            "no pictures in class folders here; put one folder a class into it, or a list "
            "index.csv with the columns path,label,patient"
        )
    who = _Patients(pattern, [path for path, _ in found], below=1)
    items = tuple(Item((path,), label, who.of(path)) for path, label in found)
    # A folder without a picture is still a class: of the study, if not of this site.
    names = [p.name for p in source.iterdir() if p.is_dir() and not p.name.startswith(_HIDDEN)]
    classes = sorted(name for name in names if name.isprintable())
    return Layout(items, tuple(classes), tuple(findings))


def volumes(source: Path, *, pattern: str | None) -> Layout:
    """Find the volumes and labels below `source`. Raises DataError when there is no layout."""
    description = source / "dataset.json"
    if description.is_file():
        classes, pairs = _decathlon(source)
    elif (source / "imagesTr").is_dir() and (source / "labelsTr").is_dir():
        classes, pairs = (), _paired(source)
    else:
        raise DataError(
            "neither dataset.json nor the folders imagesTr and labelsTr are here; "
            "see datasets/README.md for the layouts"
        )
    findings: list[Finding] = []
    items: list[Item] = []
    for pair in pairs:
        there = [os.path.lexists(source / path) for path in pair]
        if all(there):
            items.append(Item(pair))
        else:
            code = "label-missing" if any(there) else "missing"
            findings.append(Finding(code, where=pair[0]))
    who = _Patients(pattern or r"(?P<patient>[^/]+?)(\.nii(\.gz)?)?/?$", [])
    named = tuple(Item(item.paths, patient=who.of(item.paths[0])) for item in items)
    return Layout(named, classes, tuple(findings))


def walk(source: Path) -> Iterator[str]:
    """Yield every file below `source` but hidden ones and side files, in order of its path.

    Folders that are links, or may not be looked into, are yielded; links to files are judged when
    opened.
    """
    closed: list[OSError] = []
    for folder, names, files in os.walk(source, onerror=closed.append, followlinks=False):
        names[:] = sorted(n for n in names if not n.startswith(_HIDDEN))
        for name in names:
            if (Path(folder) / name).is_symlink():
                yield (Path(folder) / name).relative_to(source).as_posix()
        for name in sorted(files):
            if name.startswith(".") or name == "Thumbs.db":
                continue
            if Path(name).suffix.lower() not in _BESIDE:
                yield (Path(folder) / name).relative_to(source).as_posix()
    for error in closed:
        yield Path(error.filename).relative_to(source).as_posix()


class _Patients:
    """Tells patients apart by the path of a file, in one way for all files of a data set."""

    def __init__(self, pattern: str | None, paths: list[str], below: int = 0) -> None:
        if pattern is not None:
            try:
                self.pattern = re.compile(pattern)
            except re.error:
                raise DataError("the patient pattern is not a regular expression") from None
            if "patient" not in self.pattern.groupindex:
                raise DataError("the patient pattern needs a group (?P<patient>...)")
        elif all(len(PurePosixPath(path).parts) > below + 1 for path in paths):
            self.pattern = re.compile(rf"(?:[^/]*/){{{below}}}(?P<patient>[^/]+)/")
        else:
            self.pattern = re.compile(r"(?:.*/)?(?P<patient>[^/_]+)_[^/]*$")

    def of(self, path: str) -> str:
        """Return the patient that `path` names, or ""."""
        match = self.pattern.search(path)
        return (match.group("patient") or "") if match else ""


def _listed(source: Path, index: Path) -> Layout:
    try:
        text = read_file(index.parent, index.name, limit=LIST_LIMIT).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except FileRefused as refused:
        raise DataError(f"the list cannot be used: {Finding(refused.code).what}") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError("the list cannot be read; save it as CSV in UTF-8") from None
    columns = set(rows[0]) if rows else set()
    if not {"path", "label"} <= columns:
        raise DataError("the list needs the columns path and label, and should have patient")
    findings: list[Finding] = []
    items: list[Item] = []
    for number, row in enumerate(rows, start=2):
        path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
        patient = (row.get("patient") or "").strip()
        where = path or f"line {number} of the list"
        split = (row.get("split") or "").strip().lower()
        if not path:
            findings.append(Finding("missing", where=where))
        elif not label:
            findings.append(Finding("no-label", where=where))
        elif not label.isprintable():
            findings.append(Finding("class-name", where=where))
        else:
            items.append(Item((path,), label, patient, part(split)))
    return Layout(tuple(items), tuple(sorted({i.label for i in items})), tuple(findings))


def part(split: str) -> str:
    """Return "train", "held_out" or "" (not said) for the word a list uses.

    Raises DataError for another word.
    """
    if not split:
        return ""
    if split in _TRAIN:
        return "train"
    if split in _HELD_OUT:
        return "held_out"
    raise DataError("the list's split column may say train or test (or val, held_out)")


def _paired(source: Path) -> list[tuple[str, str]]:
    """Pair images (NIfTI, or a folder with a DICOM series) and labels by name without ending."""
    found: list[dict[str, str]] = []
    for folder in ("imagesTr", "labelsTr"):
        names = [
            path.name
            for path in (source / folder).iterdir()
            if not path.name.startswith(_HIDDEN) and path.suffix.lower() not in _BESIDE
        ]
        found.append({_stem(name): f"{folder}/{name}" for name in sorted(names)})
    images, labels = found
    return [
        (images.get(stem, f"imagesTr/{stem}.nii.gz"), labels.get(stem, f"labelsTr/{stem}.nii.gz"))
        for stem in sorted(images.keys() | labels.keys())
    ]


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def _decathlon(source: Path) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """Read `dataset.json`: class names in order of their voxel value, and pairs of paths."""
    try:
        value: Any = json.loads(read_file(source, "dataset.json", limit=LIST_LIMIT))
        names = {int(number): str(name) for number, name in value["labels"].items()}
        pairs = [(str(case["image"]), str(case["label"])) for case in value["training"]]
    except (FileRefused, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            "dataset.json is not a description in the Decathlon's form; it needs labels and "
            "training, with image and label of each case"
        ) from None
    if sorted(names) != list(range(len(names))):
        raise DataError("the labels in dataset.json are not numbered 0, 1, 2 and so on")
    if not all(name.isprintable() for name in names.values()):
        raise DataError("the labels in dataset.json are not plain text")
    cleaned = [(PurePosixPath(i).as_posix(), PurePosixPath(m).as_posix()) for i, m in pairs]
    return tuple(names[number] for number in range(len(names))), cleaned
