"""Errors of `wardround.datasets`.

WardroundError
+-- DataError                   everything about data on its way into a cohort
    +-- DeidentificationError   the folder, the profile or the key does not allow a run
    +-- Refused                 one file is not passed on; carries a reason of a fixed list
    +-- FileRefused             one file cannot be used; carries a code, never the file's name
    +-- Unusable                a data set of which nothing, or not everything asked for, is left
    +-- SchemaInvalid           a table's schema file contradicts itself or this version
    +-- CohortInvalid           a manifest that is missing, damaged, or no longer fits its files
"""

from typing import TYPE_CHECKING

from wardround.privacy.errors import WardroundError

if TYPE_CHECKING:
    from wardround.datasets.check_findings import Finding


class DataError(WardroundError):
    """Root of the errors of this package."""


class FileRefused(DataError):
    """One file (or row) cannot be used. `code` is a key of `check_findings.CATALOGUE`.

    `detail` holds numbers or fixed words only: no name, path or value from the file. `file` is
    that of `Refused`.
    """

    def __init__(self, code: str, detail: str = "", file: int | None = None) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.file = file


class Unusable(DataError):
    """Nothing of a data set can be used, or not all of it as asked; `findings` say why."""

    def __init__(self, message: str, findings: "tuple[Finding, ...]") -> None:
        super().__init__(message)
        self.findings = findings


class SchemaInvalid(DataError):
    """The schema of a table cannot be followed."""


class CohortInvalid(DataError):
    """A cohort's manifest is missing, damaged, or no longer fits the files it was made from."""


class DeidentificationError(DataError):
    """The folders, the profile or the key do not allow a de-identification run."""


class Refused(DataError):
    """One file is not passed on. The message names no file, no path, no value of the file.

    `reason` is a word of the fixed list in `wardround.datasets.deidentify.reasons`. `file` counts
    from 0 and says which of a series' files it is about, None where that is not known.
    """

    def __init__(self, reason: str, detail: str, file: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.file = file
