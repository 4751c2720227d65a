"""Errors of `wardround.client`.

WardroundError
+-- ClientError                 everything the site's side raises
    +-- SiteStateError          the site's folder or database is missing, locked or not this site's
    +-- ConfigInvalid           site.toml or policy.toml says something it must not
    +-- Refused                 the site refuses; carries the rule that refused
    |   +-- BudgetExceeded      a round or plan costs more than is left, or no budget is set
    |   +-- LedgerRolledBack    the ledger is older than what this site has signed
    +-- LedgerError             the privacy ledger is used wrongly: unknown or closed reservation
        +-- LedgerDamaged       rows of the ledger were changed or are missing
    +-- TrainingRefused         training would not be private, or could not be shown to be
    |   +-- BatchCoupled        a layer or loss lets one patient change another's gradient
    |   +-- LossRefused         a loss that is not one number for each sample
    |   +-- ModuleRefused       a module that the gradient engine cannot follow
    |   +-- GradientMismatch    the self-test found wrong per-sample gradients
    |   +-- NoiseRefused        noise that would not give the guarantee
    +-- TrainingDataInvalid     samples, targets and patients that do not fit together
    +-- TaskInvalid             a task or model that this version does not know
    +-- LogRefused              the coordinator's log is not what this site can witness
        +-- ProofStale          the proof starts elsewhere than this site stands; ask again
        +-- LogWentBack         the log is smaller than what this site has witnessed
        +-- LogForked           the log contradicts what this site has witnessed
        +-- ReceiptMissing      a statement of this site is not in the log yet
"""

from wardround.privacy.errors import WardroundError


class ClientError(WardroundError):
    """Root of the errors of the site's side."""


class SiteStateError(ClientError):
    """The site's folder or database is missing, too open, or of another version."""


class ConfigInvalid(ClientError):
    """A configuration file says something it must not."""


class Refused(ClientError):
    """The site refuses to go on. `rule` names the rule that refused, in words for the log."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class TrainingRefused(ClientError):
    """Training would not be private, or could not be shown to be. The text says what to use."""


class BatchCoupled(TrainingRefused):
    """A layer or a loss through which one patient changes the gradient of another."""


class LossRefused(TrainingRefused):
    """A loss that is not one number for each sample."""


class ModuleRefused(TrainingRefused):
    """A module that the gradient engine cannot follow."""


class GradientMismatch(TrainingRefused):
    """The self-test found per-sample gradients other than those of each sample alone."""


class NoiseRefused(TrainingRefused):
    """Noise that would not give the guarantee that the plan states."""


class TrainingDataInvalid(ClientError):
    """Samples, targets and patients that do not fit together."""


class TaskInvalid(ClientError):
    """A task or model that this version does not know, or that contradicts itself."""


class BudgetExceeded(Refused):
    """A round or plan costs more privacy than is left, or no budget is set."""

    def __init__(self, message: str) -> None:
        super().__init__("privacy budget", message)


class LedgerRolledBack(Refused):
    """The ledger is older than what this site has signed; an operator must decide."""

    def __init__(self, message: str) -> None:
        super().__init__("privacy ledger", message)


class LedgerError(ClientError):
    """The privacy ledger is used wrongly: an unknown or closed reservation, an impossible value."""


class LedgerDamaged(LedgerError):
    """Rows of the ledger were changed or are missing."""


class LogRefused(ClientError):
    """The coordinator's log is not what this site can put its name under."""


class ProofStale(LogRefused):
    """The proof starts elsewhere than this site stands; ask for one from there."""


class LogWentBack(LogRefused):
    """The log is smaller than what this site has witnessed: an old copy was restored."""


class LogForked(LogRefused):
    """The log contradicts what this site has witnessed; the evidence is kept."""


class ReceiptMissing(LogRefused):
    """A statement of this site is not in the log yet; the site does not go on."""
