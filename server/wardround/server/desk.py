"""The coordinator's desk: its open database, log and keys, for one command."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from wardround.privacy.identity import FileSigner
from wardround.server.audit import AuditLog
from wardround.server.config import Home
from wardround.server.database import open_database
from wardround.server.enrolment import Enrolment
from wardround.server.models import Actor
from wardround.server.studies import Studies

SOFTWARE = f"wardround {version('wardround')}"


def open_log(home: Home, engine: Engine) -> AuditLog:
    """Return the coordinator's audit log; its first entry is made where there is none."""
    log = AuditLog(engine, FileSigner.load(home.log_key), home.origin)
    coordinator = FileSigner.load(home.coordinator_key).public_bytes()
    if log.begin(home.origin, SOFTWARE, coordinator):
        log.checkpoint()
    return log


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command works with."""

    home: Home
    engine: Engine
    log: AuditLog
    enrolment: Enrolment
    studies: Studies
    signer: FileSigner = field(repr=False)

    @classmethod
    @contextmanager
    def open(cls, home: Home) -> Iterator["Desk"]:
        """Open database and keys; closed when the block ends."""
        engine = open_database(home.database_url)
        try:
            log = open_log(home, engine)
            yield cls(
                home,
                engine,
                log,
                Enrolment(engine, log),
                Studies(engine, log),
                FileSigner.load(home.coordinator_key),
            )
        finally:
            engine.dispose()

    def actor(self, name: str) -> str:
        """Return the random id under which the log knows the person `name`; made at first use.

        The name stands in the actor table alone, which may be erased (GDPR Art. 17).
        """
        with Session(self.engine) as database, database.begin():
            found = database.scalars(select(Actor).where(Actor.name == name)).first()
            if found is None:
                found = Actor(
                    id=f"actor-{secrets.token_hex(6)}",
                    name=name,
                    created_ms=time.time_ns() // 1_000_000,
                )
                database.add(found)
            return found.id
