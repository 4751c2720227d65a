"""Errors of `wardround.privacy`, and the root of every error in Wardround.

WardroundError                  what a person is shown, one line: what happened and what to do
+-- PrivacyError                everything this package raises
    +-- MalformedData           bytes or text that are not in the one accepted form
    +-- KeyFileError            a key file that is missing, too open, or locked
    +-- SignatureInvalid        a signature that does not verify
    +-- IdentityUnknown         a site that is not in the roster
    +-- PlanInvalid             a study plan that contradicts itself or the rules
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
