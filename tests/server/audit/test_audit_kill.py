"""A coordinator killed at any moment leaves a log that verifies and goes on."""

import os
import random
import signal
from pathlib import Path

from audit_study import ORIGIN
from sqlalchemy import URL, select

from wardround.privacy.events import Access, Fault
from wardround.privacy.identity import FileSigner
from wardround.privacy.notes import Note, open_checkpoint
from wardround.privacy.transparency import CompactRange, leaf_hash, root_of
from wardround.server.audit import AuditLog
from wardround.server.database import make_engine, open_database
from wardround.server.models import CheckpointRow, LogEntry

KILLS = 50
ACCESS = Access("http", "GET", "/runs", "allowed", 200, "", "")


def _work_until_killed(url: str | URL, key: FileSigner, seconds: float, shown: int) -> None:
    """In a process of its own: append, sign, show the signed note; the timer ends it anywhere."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    log = AuditLog(make_engine(url), key, ORIGIN)
    number = log.size()
    while True:
        log.append([Fault("run-1", number % 1000, 1, "", "upload", "x"), ACCESS, ACCESS])
        note = log.checkpoint()
        os.write(shown, len(note).to_bytes(4, "big") + note)
        if not signal.getitimer(signal.ITIMER_REAL)[0]:  # once all is loaded, any moment
            signal.setitimer(signal.ITIMER_REAL, seconds)
        number += 1


def _notes(data: bytes) -> list[bytes]:
    notes = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        notes.append(data[4 : 4 + size])
        data = data[4 + size :]
    return notes


def test_killed_at_fifty_random_points(database_url: str | URL, tmp_path: Path) -> None:
    key = FileSigner.generate()
    engine = open_database(database_url)
    AuditLog(engine, key, ORIGIN).begin("Operator", "wardround-0.1.0")
    engine.dispose()
    chance = random.Random(20260723)  # noqa: S311  # moments, not secrets
    shown: list[bytes] = []
    between = 0
    for kill in range(KILLS):
        pipe = tmp_path / f"shown-{kill}"
        descriptor = os.open(pipe, os.O_WRONLY | os.O_CREAT)
        child = os.fork()
        if child == 0:
            try:
                _work_until_killed(database_url, key, chance.uniform(0.0005, 0.03), descriptor)
            finally:
                os._exit(1)
        os.close(descriptor)
        chance.random()
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the worker ended by itself"
        shown += _notes(pipe.read_bytes())

        engine = make_engine(database_url)
        log = AuditLog(engine, key, ORIGIN)
        with engine.connect() as connection:
            signed = connection.scalars(select(CheckpointRow.note)).all()
            stored = connection.execute(
                select(LogEntry.leaf, LogEntry.leaf_hash).order_by(LogEntry.idx)
            ).all()
        assert (len(stored) - 1) % 3 == 0, "half a transaction stayed"
        assert all(leaf_hash(row.leaf) == row.leaf_hash for row in stored)
        hashes = [row.leaf_hash for row in stored]
        newest = max((_size(note.encode(), key) for note in signed), default=0)
        between += newest < len(stored)
        for note in [n.encode() for n in signed[-2:]] + shown[-2:]:
            checkpoint = open_checkpoint(Note.from_bytes(note), ORIGIN, key.public_bytes())
            assert root_of(hashes[: checkpoint.size]) == checkpoint.root
        log.checkpoint()
        engine.dispose()
    assert between > 0, "no kill fell between a commit and its checkpoint"
    assert len(shown) >= KILLS
    tree, roots = CompactRange(), {}
    for value in hashes:
        tree.append(value)
        roots[tree.size] = tree.root()
    for note in shown:
        checkpoint = open_checkpoint(Note.from_bytes(note), ORIGIN, key.public_bytes())
        assert roots[checkpoint.size] == checkpoint.root


def _size(note: bytes, key: FileSigner) -> int:
    return open_checkpoint(Note.from_bytes(note), ORIGIN, key.public_bytes()).size
