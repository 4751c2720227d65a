"""Errors of `wardround.server`.

WardroundError
+-- ServerError                 everything the coordinator's side raises
    +-- ConfigInvalid           config.toml says something it must not
    +-- EnrolmentError          a token, a site or an approval that does not fit
    +-- StudyError              a study that is unknown or not in the state asked for
    +-- RoundAborted            a round that cannot be finished; the run may try again
"""

from wardround.privacy.errors import WardroundError


class ServerError(WardroundError):
    """Root of the errors of the coordinator's side."""


class ConfigInvalid(ServerError):
    """config.toml says something it must not."""


class EnrolmentError(ServerError):
    """A token, a site or an approval that does not fit."""


class StudyError(ServerError):
    """A study that is unknown or not in the state asked for."""


class RoundAborted(ServerError):
    """A round cannot be finished; the run may try it again."""
