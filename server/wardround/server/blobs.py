"""Ciphertexts beside the database, each under the SHA-256 of its bytes.

The log holds digest and size; the bytes are needed only to add a round up again, and go after
some rounds. A file appears under its name complete and durable, or not at all.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from wardround.privacy.events import Update, from_leaf
from wardround.server.database import READ_ONLY
from wardround.server.errors import BlobMissing
from wardround.server.models import LogEntry

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlobStore:
    """A folder of blobs, mode 0700; made when it is missing."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, data: bytes | memoryview) -> str:
        """Keep `data`; return its SHA-256 (hex). Durable when it returns."""
        digest = hashlib.sha256(data).hexdigest()
        target = self._path(digest)
        if target.exists():
            return digest
        target.parent.mkdir(mode=0o700, exist_ok=True)
        partial = target.parent / f".{secrets.token_hex(8)}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        for folder in (target.parent, self.folder):
            _sync(folder)
        return digest

    def get(self, digest: str) -> bytes:
        """Return a blob, its bytes checked; BlobMissing when it is not here or damaged."""
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise BlobMissing(f"the blob {digest[:16]} is not kept (any more)") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise BlobMissing(f"the blob {digest[:16]} is damaged; restore it from a backup")
        return data

    def __contains__(self, digest: str) -> bool:
        return self._path(digest).exists()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in sorted(self.folder.glob("??/*")) if path.name[0] != ".")

    def keep_only(self, digests: Collection[str]) -> int:
        """Delete all other blobs, and what a crash left half written; return how many went."""
        gone = 0
        for path in sorted(self.folder.glob("??/*")):
            if path.name not in digests:
                path.unlink(missing_ok=True)
                gone += 1
        return gone

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise BlobMissing("a blob is named by 64 hexadecimal digits")
        return self.folder / digest[:2] / digest


def uploads(engine: Engine, run: str | None = None) -> Iterator[Update]:
    """Give the logged uploads, of one run or of all, in the order of the log."""
    query = select(LogEntry.leaf).where(LogEntry.kind == Update.kind).order_by(LogEntry.idx)
    if run is not None:
        query = query.where(LogEntry.run_id == run)
    with engine.connect().execution_options(**READ_ONLY) as connection:
        for data in connection.scalars(query):
            event = from_leaf(data).event
            if isinstance(event, Update):
                yield event


def expire(engine: Engine, blobs: BlobStore, rounds: int) -> int:
    """Delete the blobs of all but the last `rounds` rounds of each run; return how many went."""
    found = list(uploads(engine))
    newest: dict[str, int] = {}
    for update in found:
        newest[update.run] = max(newest.get(update.run, 0), update.round)
    kept = {
        digest
        for update in found
        if update.round > newest[update.run] - rounds
        for digest in (update.digest, update.header_digest)
    }
    return blobs.keep_only(kept)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
