"""What Wardround puts into Flower's SuperLink: bearer tokens, and rules for nodes."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from fastapi import HTTPException, Request
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.event_log_plugin import EventLogWriterPlugin
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.supercore.auth.typing import (
    AccountAuthCredentials,
    AccountAuthLoginDetails,
    AccountInfo,
)
from flwr.supercore.event_log.typing import Actor, Event, LogEntry
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from flwr.superlink.dependencies.linkstate import get_linkstate

TOKEN_PREFIX: Final = "wrc_"  # noqa: S105  (how a token begins, not a token)
TOKEN_BYTES: Final = 32


def new_token() -> str:
    """A bearer token of 256 random bits, to be shown once."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> str:
    """The form in which a token is stored. Its 256 random bits need no salt and no stretching."""
    return hashlib.sha256(token.encode()).hexdigest()


class TokenAuthn(ControlAuthnPlugin):
    """Bearer tokens for the Control API. There is no log-in and no refresh.

    Args:
        tokens: name of each token (for the log) and its hash as `hash_token` gives it.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._tokens = dict(tokens)

    def name_of(self, token: str) -> str | None:
        """The name of a valid token, else None; every stored hash is compared."""
        given = hash_token(token)
        found = None
        for name, stored in self._tokens.items():
            if hmac.compare_digest(given, stored):
                found = name
        return found

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """There is nothing to log in to."""
        return None

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Accept a request with exactly one valid token."""
        given = [value for key, value in metadata if key == ACCESS_TOKEN_KEY]
        if len(given) != 1 or not isinstance(given[0], str) or self.name_of(given[0]) is None:
            return False, None
        # Flower's open edition knows one account, to which every run and node belongs.
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        """No token is handed out over the network."""
        return None

    def refresh_tokens(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[Sequence[tuple[str, str | bytes]] | None, AccountInfo | None]:
        """No token is renewed over the network."""
        return None, None


class NodeRules(EventLogWriterPlugin):
    """Two rules for nodes that Flower lacks. It calls this plug-in once it knows who speaks.

    * A reply whose source is not the node that speaks is refused. Flower takes the source of a
      reply from the reply itself: one site could answer in another's name.
    * A node that starts takes the place of its former life at once. Flower refuses it for as long
      as the former life counts as online, up to a minute after it was killed.

    What is logged is the matter of the listeners, which see refusals too.
    """

    def __init__(self) -> None:
        """Nothing to set up."""

    def compose_log_before_event(
        self,
        request: object,
        context: object,
        account_info: AccountInfo | None,
        method_name: str,
    ) -> LogEntry:
        """Apply the rules; raises HTTPException (403) on a forged source."""
        if isinstance(request, PushMessagesRequest):
            speaker = request.node.node_id
            sources = [message.metadata.src_node_id for message in request.messages_list]
            if len(sources) != 1 or sources[0] != speaker:
                raise HTTPException(403, "a node may reply only in its own name")
        if isinstance(request, ActivateNodeRequest) and isinstance(context, Request):
            state = get_linkstate(context)
            node_id = state.get_node_id_by_public_key(request.public_key)
            if node_id is not None:
                state.deactivate_node(node_id)
        return _entry(method_name)

    def compose_log_after_event(
        self,
        request: object,
        context: object,
        account_info: AccountInfo | None,
        method_name: str,
        response: object,
    ) -> LogEntry:
        """Nothing to check afterwards."""
        return _entry(method_name)

    def write_log(self, log_entry: LogEntry) -> None:
        """Nothing is written here."""


def _entry(method_name: str) -> LogEntry:
    return LogEntry("", Actor(None, None, ""), Event(method_name, None, None), "")
