"""Joining a coordinator: pin its keys, hand over this site's."""

from dataclasses import dataclass
from importlib.metadata import version

from wardround.client.config import Home, Pins
from wardround.client.errors import SiteStateError
from wardround.client.link import enrol, fetch_authority
from wardround.client.site import open_witness
from wardround.privacy.events import Enrol
from wardround.privacy.joining import JoinToken

SOFTWARE = f"wardround {version('wardround')}"


@dataclass(frozen=True, slots=True)
class Joined:
    """What to compare by phone."""

    url: str
    site_fingerprint: str
    coordinator_fingerprint: str


def join(home: Home, token_text: str) -> Joined:
    """Use a join token: pin what it names, and send this site's signed enrolment.

    Nothing is pinned when the coordinator is not the one the token names. Joining the same
    coordinator again with a new token sends the same enrolment again.

    Raises MalformedData for a damaged token, SiteStateError for a token of another site or when
    another coordinator is pinned, ClientError when the coordinator refuses or cannot be reached.
    """
    token = JoinToken.from_text(token_text)
    if token.site != home.name:
        raise SiteStateError(f"this token is for the site {token.site}, this one is {home.name}")
    pins = Pins(token.url, token.origin, token.log_public, token.coordinator_public)
    pinned = home.folder / "coordinator.json"
    if pinned.exists() and (home.pins().origin, home.pins().log_public) != (
        pins.origin,
        pins.log_public,
    ):
        raise SiteStateError("this site has joined another coordinator; make a new site folder")
    authority = fetch_authority(token)
    keys = home.public_keys()
    with open_witness(home, pins) as witness:
        envelope = next(iter(witness.pending()), None) or witness.statement(
            Enrol(
                site=home.name,
                identity=keys.identity.hex(),
                witness=keys.witness.hex(),
                supernode=keys.supernode.hex(),
                organisation=home.organisation,
                software=SOFTWARE,
            )
        )
    enrol(token, authority, envelope)
    home.ca_certificate.write_bytes(authority)
    pinned.write_bytes(pins.to_bytes())
    return Joined(token.url, keys.fingerprint(), token.fingerprint())
