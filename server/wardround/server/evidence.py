"""Writing the evidence bundle from the database."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select

from wardround.privacy import canonical
from wardround.privacy.bundle import (
    CHECKPOINTS,
    COLUMNS,
    ENTRIES,
    FORMAT,
    MANIFEST,
    PROJECTIONS,
    BundleWriter,
)
from wardround.privacy.canonical import Json
from wardround.privacy.events import from_leaf
from wardround.privacy.verify.projections import Projection
from wardround.server.blobs import BlobStore, uploads
from wardround.server.database import READ_ONLY
from wardround.server.errors import LogDamaged
from wardround.server.models import CheckpointRow, CosignatureRow, LogEntry

_PAGE = 2000


def write_bundle(
    engine: Engine,
    path: Path,
    run: str | None = None,
    blobs: BlobStore | None = None,
    size: int | None = None,
) -> Path:
    """Write the evidence bundle to `path`, which must not exist; return it.

    It holds the log up to its newest checkpoint (or that of `size`), whole, whatever the `run`: a
    log cannot be checked in part. `run` says which run's retained uploads go along (None: those of
    all). Raises LogDamaged when no checkpoint was signed yet.
    """
    with engine.connect().execution_options(**READ_ONLY) as connection:
        if size is None:
            size = connection.scalar(select(func.max(CheckpointRow.size)))
        if size is None:
            raise LogDamaged("no checkpoint was signed yet; append and sign first")
        first = connection.scalar(select(CheckpointRow.note).where(CheckpointRow.size == size))
        manifest: dict[str, Json] = {
            "format": FORMAT,
            "origin": str(first).split("\n", 1)[0],
            "run": run,
            "size": size,
        }
        with BundleWriter(path) as bundle:
            bundle.add(MANIFEST, [canonical.dumps(manifest)])
            bundle.add_lines(ENTRIES, (row.leaf for row in _rows(connection, size)))
            bundle.add_lines(COLUMNS, (_columns(row) for row in _rows(connection, size)))
            bundle.add_lines(CHECKPOINTS, _notes(connection, size))
            projection = Projection()
            for row in _rows(connection, size):
                projection.add(row.idx, from_leaf(row.leaf))
            bundle.add(PROJECTIONS, [canonical.dumps(projection.to_json())])
            if blobs is not None:
                kept = {
                    digest
                    for update in uploads(engine, run)
                    for digest in (update.digest, update.header_digest)
                    if digest in blobs
                }
                for digest in sorted(kept):
                    bundle.add(f"blobs/{digest}", [blobs.get(digest)])
    return path


@dataclass(frozen=True, slots=True)
class _Row:
    idx: int
    ts_ms: int
    kind: str
    run_id: str
    round: int
    site_id: str
    actor: str
    leaf: bytes


def _rows(connection: Connection, size: int) -> Iterator[_Row]:
    columns = [getattr(LogEntry, name) for name in _Row.__slots__]
    for start in range(0, size, _PAGE):
        query = select(*columns).where(
            LogEntry.idx >= start, LogEntry.idx < min(size, start + _PAGE)
        )
        for row in connection.execute(query.order_by(LogEntry.idx)):
            yield _Row(*row)


def _columns(row: _Row) -> bytes:
    """The columns as the database has them, right or wrong."""
    parts: list[Json] = [
        row.idx,
        row.ts_ms,
        row.kind,
        row.run_id,
        row.round,
        row.site_id,
        row.actor,
    ]
    return canonical.dumps(parts)


def newest_cosigned(engine: Engine, sites: int) -> int | None:
    """Return the size of the newest checkpoint that `sites` witnesses cosigned; None for none."""
    query = (
        select(CosignatureRow.size)
        .group_by(CosignatureRow.size)
        .having(func.count() >= sites)
        .order_by(CosignatureRow.size.desc())
        .limit(1)
    )
    with engine.connect().execution_options(**READ_ONLY) as connection:
        return connection.scalar(query)


def _notes(connection: Connection, size: int) -> Iterator[bytes]:
    lines: dict[int, list[str]] = {}
    for row in connection.execute(
        select(CosignatureRow.size, CosignatureRow.line).order_by(
            CosignatureRow.size, CosignatureRow.site
        )
    ):
        lines.setdefault(row.size, []).append(row.line)
    query = select(CheckpointRow.size, CheckpointRow.note).where(CheckpointRow.size <= size)
    query = query.order_by(CheckpointRow.size)
    for row in connection.execute(query):
        yield canonical.dumps(row.note + "".join(lines.get(row.size, [])))
