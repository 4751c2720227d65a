"""What can be wrong with a file or a data set, said in plain words with what to do about it.

A finding is shown to the person at the site's terminal, with the file's name; everything kept or
sent (manifest, log, report) takes `code` and numbers only. `where` is therefore no part of repr.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["left out", "warning", "note"]

_OUT: Level = "left out"
_WARN: Level = "warning"
_NOTE: Level = "note"

CATALOGUE: dict[str, tuple[Level, str, str]] = {
    # Files as such
    "empty": (_OUT, "the file is empty (zero bytes)", "export it again"),
    "no-files": (_OUT, "a folder without files, where a series was expected", "export it again"),
    "encrypted": (_OUT, "the file is encrypted", "decrypt it first"),
    "too-large": (_OUT, "the file is too large to be one of these", "check what was exported"),
    "outside": (
        _OUT,
        "a link that leads out of the folder or nowhere",
        "copy the file itself here",
    ),
    "linked-folder": (
        _OUT,
        "a link to a folder, which is not entered",
        "copy the folder itself here",
    ),
    "locked-folder": (
        _OUT,
        "this account may not look into the folder",
        "give it read permission",
    ),
    "not-a-file": (_OUT, "not an ordinary file (a pipe, device or folder)", "remove it"),
    "unreadable": (_OUT, "this account may not read the file", "give it read permission"),
    "missing": (_OUT, "the file is not there", "put it back, or correct the list that names it"),
    "changed": (_OUT, "the file changed while it was read", "wait for the export to end"),
    "reader-died": (_OUT, "reading the file ended the reading process", "export it again"),
    # Images and volumes
    "not-an-image": (_OUT, "not an image of a kind this version reads", "see datasets/README.md"),
    "not-a-volume": (_OUT, "not a NIfTI volume of numbers", "convert it to .nii or .nii.gz"),
    "truncated": (_OUT, "the file ends too early or is damaged", "export it again"),
    "bomb": (_OUT, "the file unpacks to far more than an image holds", "do not trust its source"),
    "several-frames": (_OUT, "several pictures in one file", "export one file a picture"),
    "bad-pixels": (_OUT, "pixels that are not numbers (NaN or infinite)", "export it again"),
    "flat": (_WARN, "all pixels have one value", "look whether the picture is blank"),
    "size-differs": (_OUT, "its size differs from most pictures", "give --size to fit them all"),
    "four-dimensional": (_OUT, "more or fewer than three dimensions", "export one volume a file"),
    "no-geometry": (_WARN, "the header does not say how the patient lies", "export with geometry"),
    "bad-geometry": (_OUT, "spacing or orientation in the header is impossible", "export it again"),
    "oblique": (_NOTE, "slices lie oblique to the body; kept as they lie", "nothing"),
    "orientation-mixed": (_NOTE, "volumes lie in different orientations; all turned to RAS", "-"),
    "spacing-mixed": (_WARN, "voxel spacing differs between volumes", "give --spacing in mm"),
    "label-missing": (_OUT, "a volume without its label file, or the reverse", "add the other"),
    "label-shape": (_OUT, "image and label differ in size or place", "export both from one tool"),
    "label-values": (_OUT, "the label holds values that are not classes", "correct the label"),
    "label-empty": (_WARN, "the label marks nothing", "look whether that is right"),
    "dicom-refused": (
        _OUT,
        "a DICOM file that cannot be used",
        "put that right and export it again",
    ),
    "wrong-modality": (_OUT, "of another modality than the study's", "see --modality"),
    "modality-differs": (
        _WARN,
        "of another modality than most",
        "if it does not belong here, say which do with --modality",
    ),
    # Who and what
    "no-label": (_OUT, "no class is known for it", "add it to the list"),
    "class-name": (_OUT, "the name of its class is not plain text", "rename the class"),
    "class-unknown": (_OUT, "its class is not one of the study's", "correct it or --classes"),
    "no-patient": (_OUT, "its patient is not known", "give --patient-pattern or a list"),
    "duplicate": (_OUT, "the same picture of the same patient twice; one is kept", "nothing"),
    "duplicate-patient": (_OUT, "the same picture under two patients; all left out", "correct it"),
    "duplicate-label": (_OUT, "the same picture under two classes; all left out", "correct it"),
    # Rows of a table
    "row-cells": (_OUT, "the row has more or fewer cells than the header", "export it again"),
    "value-range": (_OUT, "a value outside the range the schema gives", "correct value or schema"),
    "value-type": (_OUT, "a value of another type than the schema says", "correct value or schema"),
    "value-category": (_OUT, "a category that the schema does not list", "agree on a new schema"),
    "row-class": (_OUT, "the row does not say the outcome", "fill it in, or leave it out"),
    "row-patient": (_OUT, "the row does not say whose it is", "fill it in, or leave it out"),
    "value-missing": (_OUT, "a value is missing and the schema asks for whole rows", "nothing"),
    # The data set as a whole
    "patients-unknown": (
        _WARN,
        "patients cannot be told from file names; each file counts as one patient",
        "give --patient-pattern or a list, else privacy is promised to a picture, not a patient",
    ),
    "rows-unknown": (
        _WARN,
        "no column says whose row it is; each row counts as one patient",
        "name it in the schema, [table] patient, else privacy is promised to a row, not a patient",
    ),
    "split-patient": (
        _WARN,
        "the list puts one patient into two parts; all of it goes to training",
        "correct the list",
    ),
    "one-class": (_WARN, "only one class is here", "the site can take part; it cannot test alone"),
    "few-patients": (
        _WARN,
        "very few patients",
        "privacy noise will outweigh what so few can teach; evaluation figures will be coarse",
    ),
    "not-deidentified": (
        _WARN,
        "images that the de-identification run beside them did not write",
        "run data deidentify on all of them; until then no statement says they are de-identified",
    ),
    "no-held-out": (_WARN, "nothing could be held out for evaluation", "add patients"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `detail` has numbers and fixed words. `where`, and `twin` (the file that has
    the same picture), are for the site's own eyes.
    """

    code: str
    detail: str = ""
    where: str = field(default="", repr=False, compare=False)
    twin: str = field(default="", repr=False, compare=False)

    @property
    def level(self) -> Level:
        """Whether the file was left out, may need a look, or is merely mentioned."""
        return CATALOGUE[self.code][0]

    @property
    def what(self) -> str:
        """Plain words: what is wrong."""
        text = CATALOGUE[self.code][1]
        return f"{text} ({self.detail})" if self.detail else text

    @property
    def do(self) -> str:
        """Plain words: what to do."""
        return CATALOGUE[self.code][2]

    def to_json(self) -> dict[str, str]:
        """Return it for the site's own terminal (`--json`); holds the file's name."""
        twin = {"twin": shown(self.twin)} if self.twin else {}
        return {
            "level": self.level,
            "code": self.code,
            "where": shown(self.where),
            **twin,
            "what": self.what,
            "do": self.do,
        }


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Return how often each code was found: what may be kept, logged and reported."""
    return dict(sorted(Counter(finding.code for finding in findings).items()))


def shown(text: str) -> str:
    """Return a file name fit for a terminal: control and undecodable characters become `?`."""
    return "".join(c if c.isprintable() else "?" for c in text)
