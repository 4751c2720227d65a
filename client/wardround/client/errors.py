"""Errors of `wardround.client`.

WardroundError
+-- ClientError                 everything the site's side raises
    +-- SiteStateError          the site's folder or database is missing, locked or not this site's
    +-- ConfigInvalid           site.toml or policy.toml says something it must not
    +-- Refused                 the site refuses; carries the rule that refused
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
