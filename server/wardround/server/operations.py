"""Tables the coordinator works with from day to day; the truth for outsiders is the log.

Nothing here is evidence. If these tables are lost, the log still says who is enrolled, what was
agreed and what was done; they hold what must be kept *besides*: secrets of join tokens (hashed),
requests that wait for an officer, and how far each run is.
"""

from sqlalchemy import BigInteger, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from wardround.server.models import Base


class JoinRequest(Base):
    """A join token that was made, and what a site sent with it.

    `secret_hash` is the SHA-256 (hex) of the token's secret; `envelope` the site's enrolment
    statement once it came; `status` one of offered, pending, approved, refused.
    """

    __tablename__ = "join_request"
    id: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(index=True)
    secret_hash: Mapped[str] = mapped_column(unique=True)
    expires_ms: Mapped[int] = mapped_column(BigInteger)
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[str]


class RunRecord(Base):
    """One run of a study and its checkpoint: what a restarted coordinator goes on from.

    `status`: requested, running, stopping, completed, stopped, failed. `round` is the last done
    round, `attempt` the newest attempt at the one after it. `model` and `optimiser` are digests in
    the store of models: the model after `round`, and the state its optimiser goes on from; in
    group mode they are empty, since only the sites have them.
    `pending` is what they become once the log holds the round after. `aggregator` is the
    protocol's saved state of the set-up.
    """

    __tablename__ = "run"
    run: Mapped[str] = mapped_column(primary_key=True)
    study: Mapped[str] = mapped_column(index=True)
    status: Mapped[str]
    stage: Mapped[str]
    round: Mapped[int]
    attempt: Mapped[int]
    model: Mapped[str]
    optimiser: Mapped[str]
    pending: Mapped[str] = mapped_column(default="")
    aggregator: Mapped[bytes] = mapped_column(LargeBinary)
    note: Mapped[str]
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class OpeningRecord(Base):
    """In group mode: an opened sum that the sites are to read, kept until all of them have.

    `message` is R7, `vector` the digest of the sum, still under the group masks, in the run's
    store of openings.
    """

    __tablename__ = "opening"
    run: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    message: Mapped[bytes] = mapped_column(LargeBinary)
    vector: Mapped[str]
