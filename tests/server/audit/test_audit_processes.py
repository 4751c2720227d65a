"""Several processes at one log: killed at any moment, and two that append at the same time."""

import os
import random
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from audit_study import ORIGIN
from sqlalchemy import URL, Engine, select
from test_audit_log import Speaker

from wardround.privacy.events import Access, Closing, Fault, Leaf, from_leaf
from wardround.privacy.identity import FileSigner
from wardround.privacy.notes import Note, open_checkpoint
from wardround.privacy.transparency import CompactRange, leaf_hash, root_of
from wardround.server.audit import AuditLog
from wardround.server.database import make_engine, open_database
from wardround.server.errors import StatementRefused
from wardround.server.models import CheckpointRow, LogEntry

KILLS = 50
COORDINATORS, BATCHES, BATCH, STATEMENTS = 2, 15, 10, 20
ACCESS = Access("http", "GET", "/runs", "allowed", 200, "", "")
CHANCE = random.SystemRandom()


def in_a_process(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work`, given a pipe's end to write to, in a process of its own.

    Returns its id and the other end. Nothing that this process has open may be used in it.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            work(write)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    return child, read


def show(pipe: int, note: bytes) -> None:
    """Let another process have a signed note: from now on it cannot be taken back."""
    os.write(pipe, len(note).to_bytes(4, "big") + note)


def notes_in(data: bytes) -> list[bytes]:
    """The whole notes among what a process showed before it ended."""
    notes = []
    while len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
        notes.append(data[4 : 4 + size])
        data = data[4 + size :]
    return notes


def read_to_the_end(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def new_log(url: str | URL, key: FileSigner) -> None:
    engine = open_database(url)
    AuditLog(engine, key, ORIGIN).begin("Operator", "wardround-0.1.0")
    engine.dispose()


def stored(engine: Engine) -> tuple[list[Leaf], list[bytes], list[bytes]]:
    """Entries, their hashes, and the notes in the database, read without the code under test."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(LogEntry.idx, LogEntry.leaf, LogEntry.leaf_hash).order_by(LogEntry.idx)
        ).all()
        notes = connection.scalars(select(CheckpointRow.note).order_by(CheckpointRow.size)).all()
    assert [row.idx for row in rows] == list(range(len(rows)))
    assert all(leaf_hash(row.leaf) == row.leaf_hash for row in rows)
    hashes = [row.leaf_hash for row in rows]
    return [from_leaf(row.leaf) for row in rows], hashes, [note.encode() for note in notes]


def test_killed_at_fifty_random_points(database_url: str | URL) -> None:
    """SIGKILL from outside: no handler, no clean-up, wherever the process is."""
    key = FileSigner.generate()
    new_log(database_url, key)

    def work(pipe: int) -> None:
        log = AuditLog(make_engine(database_url), key, ORIGIN)
        while True:
            number = log.size() % 1000
            log.append([Fault("run-1", number, 1, "", "upload", "x"), ACCESS, ACCESS])
            show(pipe, log.checkpoint())

    shown: list[bytes] = []
    between = 0
    for _ in range(KILLS):
        child, pipe = in_a_process(work)
        first = os.read(pipe, 1)  # all is loaded: from now on, any moment
        time.sleep(CHANCE.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the process ended by itself"
        assert os.WTERMSIG(status) == signal.SIGKILL
        shown += notes_in(first + read_to_the_end(pipe))

        engine = make_engine(database_url)
        leaves, hashes, signed = stored(engine)
        assert (len(leaves) - 1) % 3 == 0, "half a transaction stayed"
        newest = max(_size(note, key) for note in signed)
        between += newest < len(leaves)
        for note in signed[-2:] + shown[-2:]:
            checkpoint = open_checkpoint(Note.from_bytes(note), ORIGIN, key.public_bytes())
            assert root_of(hashes[: checkpoint.size]) == checkpoint.root
        AuditLog(engine, key, ORIGIN).checkpoint()
        engine.dispose()
    assert between > 0, "no kill fell between a commit and its checkpoint"
    assert len(shown) >= KILLS
    _all_hold(shown, hashes, key)


def test_two_coordinators_on_one_database_do_not_interleave(
    database_url: str | URL, tmp_path: Path
) -> None:
    """Two processes append, sign, and take in the same statements of one site."""
    key, start = FileSigner.generate(), tmp_path / "start"
    new_log(database_url, key)
    site = Speaker(AuditLog(make_engine("sqlite://"), key, ORIGIN).log)
    said = [site.enrol()]
    said += [
        site.say(Closing(f"run-{number}", number, 0, "0" * 64, 0, 0))
        for number in range(1, STATEMENTS)
    ]

    def work(pipe: int) -> None:
        log = AuditLog(make_engine(database_url), key, ORIGIN)
        log.size()
        os.write(pipe, b"!")  # ready
        while not start.exists():
            time.sleep(0.0005)
        waiting = list(said)
        for number in range(BATCHES):
            fault = Fault(f"process-{os.getpid()}", number, 1, "", "upload", "x")
            log.append([fault] * BATCH)
            show(pipe, log.checkpoint())
            for envelope in waiting[:2]:
                try:
                    log.append([envelope])
                except StatementRefused:  # never: what follows is sent after what it follows
                    os._exit(2)
            del waiting[:2]
            (tmp_path / f"began-{os.getpid()}").touch()
            while number == BATCHES // 2 and len(list(tmp_path.glob("began-*"))) < COORDINATORS:
                time.sleep(0.0005)  # none ends before all have begun
            time.sleep(CHANCE.uniform(0, 0.02))  # SQLite lets one wait in vain who asks too often

    running = [in_a_process(work) for _ in range(COORDINATORS)]
    assert all(os.read(pipe, 1) == b"!" for _, pipe in running)
    start.touch()
    shown = [notes_in(read_to_the_end(pipe)) for _, pipe in running]
    for child, _ in running:
        assert os.waitpid(child, 0)[1] == 0

    engine = make_engine(database_url)
    leaves, hashes, signed = stored(engine)
    engine.dispose()
    faults = [leaf.event for leaf in leaves if isinstance(leaf.event, Fault)]
    assert len(faults) == COORDINATORS * BATCHES * BATCH
    for at in range(0, len(faults), BATCH):
        assert len({(f.run, f.round) for f in faults[at : at + BATCH]}) == 1, "batches are mixed"
    runs = [fault.run for fault in faults[::BATCH]]
    turns = sum(before != after for before, after in pairwise(runs))
    assert turns > 1, "the processes did not run at the same time"
    assert [leaf.envelope for leaf in leaves if leaf.envelope] == said
    assert len(leaves) == 1 + len(faults) + STATEMENTS
    assert all(len(notes) == BATCHES for notes in shown)
    _all_hold([*signed, *shown[0], *shown[1]], hashes, key)


def _all_hold(notes: list[bytes], hashes: list[bytes], key: FileSigner) -> None:
    """Every note that was ever signed is of the one history there is."""
    tree, roots = CompactRange(), {0: CompactRange().root()}
    for value in hashes:
        tree.append(value)
        roots[tree.size] = tree.root()
    for note in notes:
        checkpoint = open_checkpoint(Note.from_bytes(note), ORIGIN, key.public_bytes())
        assert roots[checkpoint.size] == checkpoint.root


def _size(note: bytes, key: FileSigner) -> int:
    return open_checkpoint(Note.from_bytes(note), ORIGIN, key.public_bytes()).size
