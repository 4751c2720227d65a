"""Opened sums in group mode, kept until every site of the run has read them.

They wear masks under a key that only the sites have: kept here, they say no more than uploads do.
"""

from dataclasses import dataclass

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from wardround.privacy.secagg.codec import encode
from wardround.privacy.secagg.messages import Opening
from wardround.privacy.secagg.segments import Ring
from wardround.server.blobs import BlobStore
from wardround.server.database import READ_ONLY
from wardround.server.errors import BlobMissing
from wardround.server.operations import OpeningRecord


@dataclass(frozen=True, slots=True)
class Openings:
    """The openings of one run; `vectors` is this run's own store."""

    engine: Engine
    run: str
    vectors: BlobStore

    def keep(self, opening: Opening, vector: Ring) -> None:
        """Keep the opening of a round; a second of the same round takes the first one's place."""
        name = self.vectors.put(vector.data)
        row = OpeningRecord(
            run=self.run, round=opening.task.round, message=encode(opening), vector=name
        )
        with Session(self.engine) as database, database.begin():
            database.merge(row)

    def get(self, number: int) -> tuple[bytes, bytes]:
        """Return message R7 of a round and the vector that goes with it; BlobMissing if gone."""
        with Session(self.engine.execution_options(**READ_ONLY)) as database:
            row = database.get(OpeningRecord, (self.run, number))
            if row is None:
                raise BlobMissing(f"the opened sum of round {number} is not kept (any more)")
            return row.message, self.vectors.get(row.vector)

    def drop(self, before: int) -> None:
        """Forget the openings of the rounds below `before`."""
        mine = OpeningRecord.run == self.run
        with Session(self.engine) as database, database.begin():
            database.execute(delete(OpeningRecord).where(mine, OpeningRecord.round < before))
            kept = set(database.scalars(select(OpeningRecord.vector).where(mine)))
        self.vectors.keep_only(kept)
