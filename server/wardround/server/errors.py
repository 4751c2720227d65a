"""Errors of `wardround.server`.

WardroundError
+-- ServerError                 everything the coordinator's side raises
    +-- ConfigInvalid           config.toml says something it must not
    +-- EnrolmentError          a token, a site or an approval that does not fit
    +-- StudyError              a study that is unknown or not in the state asked for
    +-- RoundAborted            a round that cannot be finished; the run may try again
    +-- ModelsDiffer            group mode: the sites cannot agree on a model any more
    +-- RunStopped              an operator stopped the run
    +-- LinkError               Flower's server inside the coordinator
        +-- FlowerRefused       it said no
        +-- FlowerUnreachable   nobody answers on its loopback port
        +-- CannotListen        a port is taken, or a certificate cannot be read
    +-- AuditError              everything about the audit log
        +-- DatabaseError       the database cannot be used as it is
        +-- GuardMissing        a trigger that keeps the log append-only is gone
        +-- LogDamaged          the stored log contradicts what was signed
        +-- StatementRefused    a site's statement does not fit its chain or its key
        +-- CosignatureRefused  a cosignature that is not of this log or not of this site
        +-- BlobMissing         a blob that was never kept, or is gone after its rounds
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


class RunStopped(ServerError):
    """An operator stopped the run."""


class RoundAborted(ServerError):
    """A round cannot be finished; the run may try it again."""


class ModelsDiffer(ServerError):
    """In group mode: the sites signed different models, and no further try can mend it."""


class AuditError(ServerError):
    """Root of the errors of the audit log."""


class DatabaseError(AuditError):
    """The database cannot be used as it is."""


class GuardMissing(AuditError):
    """A trigger that keeps the log append-only is missing or changed."""


class LogDamaged(AuditError):
    """The stored log contradicts what was signed before; nothing more is signed."""


class StatementRefused(AuditError):
    """A site's statement does not verify, or does not follow the one before."""


class CosignatureRefused(AuditError):
    """A cosignature is not of this log, not of this site, or does not verify."""


class BlobMissing(AuditError):
    """A blob was never kept, or is gone after the rounds it was kept for."""


class LinkError(ServerError):
    """Something about Flower's server inside the coordinator."""


class FlowerRefused(LinkError):
    """The SuperLink refused what it was asked."""


class FlowerUnreachable(LinkError):
    """Nobody answers on the coordinator's loopback port."""


class CannotListen(LinkError):
    """A port is taken, or a certificate cannot be read."""
