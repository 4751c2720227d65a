"""Errors of `wardround.privacy`, and the root of every error in Wardround.

WardroundError                  what a person is shown, one line: what happened and what to do
+-- PrivacyError                everything this package raises
    +-- MalformedData           bytes or text that are not in the one accepted form
    +-- KeyFileError            a key file that is missing, too open, or locked
    +-- SignatureInvalid        a signature that does not verify
    +-- IdentityUnknown         a site that is not in the roster
    +-- PlanInvalid             a study plan that contradicts itself or the rules
    +-- ProofInvalid            a Merkle proof that does not hold
    +-- BundleInvalid           an evidence bundle that is no zip of the accepted form
    +-- PolicyInvalid           an auditor's policy file that cannot be used
    +-- ReportError             a report that cannot be made: no such run, a library missing
    +-- AccountingError         privacy events that the accountant cannot price
        +-- AccountantMissing   the extra wardround[accounting] is not installed
    +-- SecureAggregationError  everything the protected sum raises; `site` says whose doing it was
        +-- ParametersInvalid   thresholds or encoding of a run out of bounds
        +-- MessageMalformed    bytes that are no message of this version
        +-- ContributionInvalid this site's own update cannot be encoded (NaN, too large, shape)
        +-- OutOfOrder          a step that this state of the protocol does not allow
        +-- TooFewSites         fewer sites are left than the thresholds ask for
        +-- CoordinatorBlind    group mode: the coordinator cannot decode the sum, by design
        +-- ProtocolViolation   another party's message breaks the protocol
            +-- KeysRejected        run spec, key advert, key book or confirmation
            +-- TaskRejected        a task that is stale, for others, or opens the difference rule
            +-- UploadRejected      a masked upload that does not fit its header or its context
            +-- SurvivorsRejected   a survivor set or its signatures
            +-- SharesRejected      recovery shares that are forged or do not open
            +-- AggregateRejected   an aggregate that is not the sum the sites protected
"""


class WardroundError(Exception):
    """Root of every error Wardround raises on purpose; its text is fit to show to a person."""


class PrivacyError(WardroundError):
    """Root of the errors of this package."""


class MalformedData(PrivacyError):
    """Bytes or text that are not in the one form this version accepts."""


class KeyFileError(PrivacyError):
    """A key file is missing, readable by others, or locked with another passphrase."""


class SignatureInvalid(PrivacyError):
    """A signature does not verify under the key it should have been made with."""


class IdentityUnknown(PrivacyError):
    """A name that the pinned roster does not hold."""


class PlanInvalid(PrivacyError):
    """A study plan that contradicts itself or the rules."""


class AccountingError(PrivacyError):
    """Privacy events that the accountant cannot price: a number out of range, or mixed units."""


class AccountantMissing(AccountingError):
    """The extra `wardround[accounting]` is not installed."""


class ReportError(PrivacyError):
    """A report cannot be made: what it is about is not in the log, or a library is missing."""


class ProofInvalid(PrivacyError):
    """A Merkle proof does not hold, or was asked for where none can exist."""


class BundleInvalid(PrivacyError):
    """An evidence bundle is not a zip of the accepted form and size."""


class PolicyInvalid(PrivacyError):
    """An auditor's policy file cannot be used as it is."""


class SecureAggregationError(PrivacyError):
    """Root of the errors of the protected sum. `site` names the party at fault, where one is."""

    def __init__(self, message: str, site: str | None = None) -> None:
        super().__init__(message)
        self.site = site


class ParametersInvalid(SecureAggregationError):
    """Thresholds or encoding of a run are outside the bounds the protocol needs."""


class MessageMalformed(SecureAggregationError):
    """Bytes are not the one encoding of a message of the expected type."""


class ContributionInvalid(SecureAggregationError):
    """The site's own update cannot be encoded: not finite, wrong shape, or beyond its bounds."""


class OutOfOrder(SecureAggregationError):
    """The step asked for does not follow from the state of the protocol."""


class TooFewSites(SecureAggregationError):
    """Fewer sites are left than the thresholds of the run ask for; the attempt cannot go on."""


class CoordinatorBlind(SecureAggregationError):
    """In group mode only the sites can decode the sum."""


class ProtocolViolation(SecureAggregationError):
    """Another party's message breaks the protocol; nothing was done in response to it."""


class KeysRejected(ProtocolViolation):
    """A run spec, key advert, key book or confirmation is forged, stale or not agreed by all."""


class TaskRejected(ProtocolViolation):
    """A task is stale, not for this site, or would allow two sums to be subtracted."""


class UploadRejected(ProtocolViolation):
    """A masked upload is forged, damaged, late, or contradicts another one."""


class SurvivorsRejected(ProtocolViolation):
    """A survivor set is too small, forged, not the first one, or signed by too few sites."""


class SharesRejected(ProtocolViolation):
    """Recovery shares are forged, for another set, or do not open the committed secrets."""


class AggregateRejected(ProtocolViolation):
    """An aggregate was altered, replayed or wrapped, or is not the one this site took part in."""
