"""How a data set is to be read: what the person who adds it may choose."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from wardround.datasets.errors import CohortInvalid, DataError


@dataclass(frozen=True, slots=True)
class Options:
    """Choices with their defaults; the ones that reading needs later are kept in the manifest.

    `size`: fit pictures to (height, width). `spacing`: resample volumes to mm. `held_out`: share
    of patients kept for evaluation. `whole`: refuse the data set when anything is left out of it.
    `index`: the list of pictures; `schema`: the table's schema. `patient_pattern`: a regular
    expression with a group `patient`, searched in a file's path below the folder. `classes`: the
    study's classes in its order, for pictures whose folder shows others or not all, and for
    volumes without a description. `modalities`: DICOM's codes of what the study is about (CT, MR);
    DICOM files of others are left out.
    """

    size: tuple[int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    held_out: Fraction = Fraction(1, 5)
    whole: bool = False
    index: Path | None = None
    schema: Path | None = None
    patient_pattern: str | None = None
    classes: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise DataError("the held-out share is at least 0 and below 1")
        if len(set(self.classes)) != len(self.classes) or len(self.classes) == 1:
            raise DataError("classes are two or more, each named once")
        if self.size is not None and not all(8 <= n <= 8192 for n in self.size):
            raise DataError("the size is height and width, 8 to 8192 pixels each")
        if self.spacing is not None and not all(0.05 <= n <= 20 for n in self.spacing):
            raise DataError("the spacing is three numbers from 0.05 to 20 mm")

    def kept(self) -> tuple[tuple[str, str], ...]:
        """Return what reading the data later depends on, as texts for the manifest."""
        texts = {"held_out": str(self.held_out)}
        if self.size is not None:
            texts["size"] = f"{self.size[0]}x{self.size[1]}"
        if self.spacing is not None:
            texts["spacing"] = ",".join(repr(n) for n in self.spacing)
        return tuple(sorted(texts.items()))

    @classmethod
    def from_kept(cls, texts: tuple[tuple[str, str], ...]) -> "Options":
        """Read what `kept` wrote; CohortInvalid for anything else."""
        known = dict(texts)
        try:
            return cls(
                size=parse_size(known["size"]) if "size" in known else None,
                spacing=parse_spacing(known["spacing"]) if "spacing" in known else None,
                held_out=Fraction(known["held_out"]),
            )
        except (KeyError, ValueError, ZeroDivisionError, DataError):
            raise CohortInvalid("the manifest's options are damaged; add the data again") from None


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of a text such as `64x64`; DataError for anything else."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if not match:
        raise DataError("a size is written as height x width, such as 64x64")
    return int(match[1]), int(match[2])


def parse_spacing(text: str) -> tuple[float, float, float]:
    """Return the three numbers of a text such as `1,1,1.5` (mm); DataError for anything else."""
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise DataError("a spacing is written as three numbers in mm, such as 1,1,1.5") from None
    return first, second, third
