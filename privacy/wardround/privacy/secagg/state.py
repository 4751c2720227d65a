"""What a site must not forget: the state that is on disk before a message leaves.

The state is one message of the protocol's codec. It holds secrets: keep it in a file that only
the site's process can read.
"""

from dataclasses import dataclass, field
from typing import Annotated, Protocol, TypeAlias

from wardround.privacy.secagg.codec import Limit
from wardround.privacy.secagg.messages import (
    KeyAdvert,
    KeyBook,
    Shares,
    SurvivorSet,
    Task,
    UploadHeader,
)
from wardround.privacy.secagg.parameters import MAX_SITES, Digest, Site

Secret: TypeAlias = Annotated[bytes, Limit(0, 32)]


class Store(Protocol):
    """Where a participant's state is kept. `save` returns only when the bytes are durable."""

    def save(self, state: bytes) -> None:
        """Replace the saved state by `state`, atomically and durably."""


@dataclass(frozen=True, slots=True)
class Released:
    """A sum this site helped to open: of updates to which model, over whom, under which bound.

    Bit k of `sites` is the k-th participant; `clip` and `prior` are those of the task.
    """

    model: Digest
    sites: int
    clip: float | None
    prior: Digest | None


@dataclass(frozen=True, slots=True)
class RoundState:
    """The round at hand, from upload to release. `own_shares` are this site's own shares of its
    self mask and pair secrets; `held` those of the survivors' secrets.
    """

    task: Task
    header: UploadHeader
    own_shares: bytes = field(repr=False)
    survivors: SurvivorSet | None = None
    held: tuple[bytes, ...] = field(default=(), repr=False)
    released: Shares | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last aggregate this site accepted.

    `clip` bounded its updates, and came from the aggregate `prior` unless that is None;
    `next_clip` is what a task with this one as `prior` is bounded by.
    """

    round: int
    context: Digest
    vector: Digest
    prior: Digest | None = None
    clip: float | None = None
    next_clip: float | None = None


@dataclass(frozen=True, slots=True)
class ParticipantState:
    """Everything a site needs to go on after a crash."""

    spec: Digest
    site: Site
    advert: KeyAdvert | None = None
    private_key: Secret = field(default=b"", repr=False)
    group_share: Secret = field(default=b"", repr=False)
    book: KeyBook | None = None
    confirmed: bool = False
    roots: Annotated[tuple[Secret, ...], Limit(0, MAX_SITES)] = field(default=(), repr=False)
    roots_round: int = 0
    group_key: Secret = field(default=b"", repr=False)
    round: int = 0
    attempt: int = 0
    releases: tuple[Released, ...] = ()
    current: RoundState | None = None
    accepted: Accepted | None = None
