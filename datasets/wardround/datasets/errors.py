"""Errors of `wardround.datasets`.

WardroundError
+-- DataError                   everything about data on its way into a cohort
"""

from wardround.privacy.errors import WardroundError


class DataError(WardroundError):
    """Root of the errors of this package."""
