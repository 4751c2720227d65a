"""The audit log: durable appends against bare inserts, a million entries verified, proofs.

    python benchmarks/audit_log.py [--entries 1000000] [--postgres URL]

The million entries are those of a long run: in each round ten sites state an update, a privacy
spend and their shares (30 signed entries), the coordinator logs five of its own, and 65 calls of
its API. Times are CPU seconds of this one process where only the
processor counts (verification on one core, proofs), wall-clock where the disk does (appends) and
where several processes work (verification of every signature).

An append and a bare insert take turns, so that whatever else the disk does hits both alike; a
short round of turns gives one ratio, and the median over the rounds is the figure, with quartiles.
"""

import argparse
import hashlib
import itertools
import os
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from results import record
from sqlalchemy import Engine, insert

from wardround.privacy import canonical
from wardround.privacy.bundle import (
    CHECKPOINTS,
    COLUMNS,
    ENTRIES,
    FORMAT,
    MANIFEST,
    PROJECTIONS,
    Bundle,
    BundleWriter,
)
from wardround.privacy.events import (
    Access,
    Aggregated,
    Approval,
    Counter,
    Enrol,
    Event,
    Genesis,
    Mechanism,
    PrivacySpend,
    RecoveryShare,
    RoundEnd,
    RoundStart,
    RunStart,
    SiteDigest,
    StudyPlanned,
    Survivors,
    Update,
    from_leaf,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.notes import Checkpoint, cosign, log_id, sign_checkpoint, witness_name
from wardround.privacy.statements import FIRST, Body, Statement, sign
from wardround.privacy.transparency import CompactRange, leaf_hash, verify_inclusion
from wardround.privacy.verify import Policy, verify, write_policy
from wardround.privacy.verify.projections import Projection, columns
from wardround.server.audit import AuditLog
from wardround.server.database import make_engine, open_database
from wardround.server.models import CheckpointRow, LogEntry

ORIGIN = "wardround.example/bench"
ACCESS = Access("http", "GET", "/runs", "allowed", 200, "auditor", "run-1")
H = "ab" * 32
PLANNED = 1_000_000  # rounds; no log here holds so many
ROUNDS = 60
TURNS = 8


def turn_about(one: Callable[[], object], two: Callable[[], object]) -> tuple[float, float]:
    """Seconds that each takes for `TURNS` calls, called in turn, the first to go changing too."""
    seconds = [0.0, 0.0]
    for turn in range(TURNS):
        for which in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (one, two)[which]()
            seconds[which] += time.perf_counter() - start
    return seconds[0], seconds[1]


def appends(url: str, engine: Engine, rows: list[dict[str, object]], database: str) -> None:
    """Appends against a bare insert of the same row into a table without triggers."""
    log = AuditLog(engine, FileSigner.generate(), ORIGIN)
    log.begin("Operator", "wardround-0.1.0")
    leaf = to_leaf(ACCESS, 1_800_000_000_000)
    row = {
        "ts_ms": 1, "kind": "access", "run_id": "run-1", "round": 0, "site_id": "",
        "actor": "", "leaf": leaf, "leaf_hash": leaf_hash(leaf),
        "subtrees": bytes(32),
    }  # fmt: skip
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE bare AS SELECT * FROM log_entry WHERE 1 = 0")
        connection.exec_driver_sql("CREATE UNIQUE INDEX bare_idx ON bare (idx)")
    table = LogEntry.__table__.to_metadata(LogEntry.metadata.__class__(), name="bare")  # type: ignore[attr-defined]  # a Table
    place = 0

    def bare(count: int) -> None:
        nonlocal place
        with engine.begin() as connection:
            connection.execute(insert(table), [{"idx": place + n, **row} for n in range(count)])
        place += count

    for count in (1, 10):
        batch = [ACCESS] * count
        turn_about(partial(log.append, batch), partial(bare, count))  # caches are warm afterwards
        rounds = [
            turn_about(partial(log.append, batch), partial(bare, count)) for _ in range(ROUNDS)
        ]
        ours, theirs = (
            TURNS * count / statistics.median(pair[which] for pair in rounds) for which in (0, 1)
        )
        low, ratio, high = statistics.quantiles((their / our for our, their in rounds), n=4)
        whole = sum(pair[1] for pair in rounds) / sum(pair[0] for pair in rounds)
        rows.append(
            {
                "name": f"durable appends, {database}, {count} a transaction",
                "value": round(ours),
                "unit": "entries/s",
                "compared_to": f"bare insert, same database, turn about: {theirs:.0f}/s; ratio in "
                f"half of {ROUNDS} rounds {low:.2f} to {high:.2f}, of all time {whole:.2f}",
                "ratio": round(ratio, 2),
                "goal": "ratio >= 0.7" if count == 10 else "",
                "met": ratio >= 0.7 if count == 10 else None,
            }
        )


class Million:
    """A log of many entries: ten sites, one run, as many rounds as it takes."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.log = FileSigner.generate()
        self.id = log_id(ORIGIN, self.log.public_bytes())
        self.sites = {
            f"site-{n}": (FileSigner.generate(), FileSigner.generate()) for n in range(10)
        }
        self.last = dict.fromkeys(self.sites, (0, FIRST))

    def roster(self) -> Roster:
        return Roster(
            tuple(
                SiteKeys(site, identity.public_bytes(), witness.public_bytes(), site.encode())
                for site, (identity, witness) in sorted(self.sites.items())
            )
        )

    def say(self, site: str, event: Event, now: int) -> bytes:
        sequence, previous = self.last[site]
        body = Body(event.to_json())
        made = Statement(self.id, site, sequence + 1, previous, now, event.kind, body)
        envelope = sign(made, self.sites[site][0])
        self.last[site] = sequence + 1, envelope.digest()
        return statement_leaf(envelope, now)

    def leaves(self) -> Iterator[bytes]:
        for index, leaf in enumerate(self._leaves()):
            if index == self.entries:
                return
            yield leaf

    def _leaves(self) -> Iterator[bytes]:
        now, names = 1_800_000_000_000, tuple(sorted(self.sites))
        key = self.log.public_bytes().hex()
        yield to_leaf(Genesis(ORIGIN, key, "", "Operator", "wardround-0.1.0"), now)
        roster = self.roster()
        for keys in roster.sites:
            values = keys.identity.hex(), keys.witness.hex(), keys.supernode.hex()
            yield self.say(keys.site, Enrol(keys.site, *values, "H", "w-1"), now)
        yield to_leaf(
            StudyPlanned(
                "study", H, "", "", "Title", "research", "", "", "task", "model", names, PLANNED,
                "mode", "patient", "add-remove", "1", "1", "0.1", "8", "0.00001", False, 7, 3, 7,
            ),
            now,
        )  # fmt: skip
        for site in names:
            yield self.say(site, Approval("study", H, "o", ("cohort",), "", "", "", "", ""), now)
        digest = roster.digest()
        yield to_leaf(
            RunStart(
                "run-1", "study", H, digest, H, "", names, PLANNED, 100, 32, 7, 3, 7, False, (),
                "w-1",
            ),
            now,
        )  # fmt: skip
        for number in itertools.count(1):
            now += 1000
            yield from self._round(number, now, names)

    def _round(self, number: int, now: int, names: tuple[str, ...]) -> Iterator[bytes]:
        at = "run-1", number, 1
        yield to_leaf(RoundStart(*at, "train", H, 400, names), now)
        uploads = []
        for site in names:
            digest = hashlib.sha256(f"{site} {number}".encode()).hexdigest()
            uploads.append(SiteDigest(site, digest, 400))
            sent = Update(*at, H, H, digest, 400, H, 900, 800, 100, 32, "coordinator", "secagg")
            yield self.say(site, sent, now)
            made = Mechanism("gaussian", "1", "0.1", 20, "patient", "add-remove", "poisson")
            before, after = f"{(number - 1) / 10**4:.4f}", f"{number / 10**4:.4f}"
            spent = PrivacySpend(
                "run-1", "study", number, 1, "cohort", "patient", "add-remove", "1", (made,),
                "0.00001", before, after, "", "200", "PLD", "dp-accounting 0.6.0", number, "", (),
            )  # fmt: skip
            yield self.say(site, spent, now)
        yield to_leaf(Survivors(*at, H, names, H, ()), now)
        for site in names:
            yield self.say(site, RecoveryShare(*at, H, "ab" * 500), now)
        counters = (Counter("correct", 700), Counter("evaluated", 900))
        total = Aggregated(*at, H, H, 400, tuple(uploads), names, 10, counters, H)
        yield to_leaf(total, now)
        yield to_leaf(RoundEnd(*at, "completed", "", names, 21_000, 4000), now)
        for _ in range(65):
            yield to_leaf(ACCESS, now, "actor-1")


def lay_down(many: Million, folder: Path) -> tuple[Path, Path, str]:
    """Write the log as a bundle and as a database; return both and the policy."""
    path = folder / "log.db"
    open_database(f"sqlite:///{path}").dispose()
    tree, projection = CompactRange(), Projection()
    entries, lines = folder / "entries", folder / "columns"
    with sqlite3.connect(path) as connection, entries.open("wb") as one, lines.open("wb") as two:
        connection.execute("PRAGMA synchronous=OFF")
        for index, data in enumerate(many.leaves()):
            leaf, digest = from_leaf(data), leaf_hash(data)
            connection.execute(
                "INSERT INTO log_entry VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    index, leaf.ts_ms, leaf.kind, leaf.run, leaf.round, leaf.site, leaf.actor,
                    data, digest, b"".join(tree.append(digest)),
                ),
            )  # fmt: skip
            projection.add(index, leaf)
            one.write(data + b"\n")
            two.write(columns(index, leaf) + b"\n")
    note = sign_checkpoint(Checkpoint(ORIGIN, tree.size, tree.root()), many.log)
    cosigned = note.to_bytes().decode() + "".join(
        cosign(note.text, witness_name(ORIGIN, site), witness, 2_000_000_000).line()
        for site, (_, witness) in many.sites.items()
    )
    engine = make_engine(f"sqlite:///{path}")
    with engine.begin() as database:
        row = {"size": tree.size, "root": tree.root(), "note": note.to_bytes().decode()}
        database.execute(insert(CheckpointRow), row)
    engine.dispose()
    manifest = {"format": FORMAT, "origin": ORIGIN, "run": None, "size": tree.size}
    bundle = folder / "bundle.zip"
    with BundleWriter(bundle) as writer:
        writer.add(MANIFEST, [canonical.dumps(manifest)])
        for name, source in ((ENTRIES, entries), (COLUMNS, lines)):
            with source.open("rb") as file:
                writer.add(name, iter(lambda file=file: file.read(2**20), b""))  # type: ignore[misc]  # a default
        writer.add_lines(CHECKPOINTS, [canonical.dumps(cosigned)])
        writer.add(PROJECTIONS, [canonical.dumps(projection.to_json())])
    entries.unlink()
    lines.unlink()
    policy = write_policy(ORIGIN, many.log.public_bytes(), many.roster(), 7)
    return bundle, path, policy


def verification(bundle_path: Path, policy: str, total: int, rows: list[dict[str, object]]) -> None:
    """Verify the bundle; the memory is this process's peak, with the making of the log in it."""
    start = time.process_time()
    checked(bundle_path, policy, total)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    million = seconds * 1_000_000 / total
    rows += [
        {
            "name": f"verify {total:,} entries (3 of 10 signed by sites; one checkpoint, ten "
            "cosignatures), one core",
            "value": round(seconds, 1), "unit": "s CPU", "compared_to": "", "ratio": None,
            "goal": "under 60 s for 1,000,000", "met": million < 60,
        },
        {
            "name": f"memory to verify {total:,} entries",
            "value": round(peak, 2), "unit": "GiB", "compared_to": "", "ratio": None,
            "goal": "under 1 GB", "met": peak < 0.93,
        },
    ]  # fmt: skip
    cores = os.cpu_count() or 1
    for jobs in sorted({1, cores}):
        clock = time.process_time if jobs == 1 else time.perf_counter
        start = clock()
        checked(bundle_path, policy, total, every_signature=True, jobs=jobs)
        rows.append(
            {
                "name": f"verify {total:,} entries and every signature, {jobs} of {cores} cores",
                "value": round(clock() - start, 1), "unit": "s CPU" if jobs == 1 else "s",
                "compared_to": "", "ratio": None, "goal": "", "met": None,
            }
        )  # fmt: skip


def checked(path: Path, policy: str, total: int, **options: bool | int) -> None:
    """Verify the benchmark's own log, which must hold."""
    with Bundle(path) as bundle:
        result = verify(bundle, Policy.from_text(policy), **options)  # type: ignore[arg-type]  # a flag and a number
    if any(finding.breaks for finding in result.findings) or result.size != total:
        raise SystemExit(f"the benchmark's own log does not verify: {result.findings[:3]}")


def proofs(path: Path, many: Million, rows: list[dict[str, object]]) -> None:
    """Inclusion proofs of entries all over the log, each from the database and checked."""
    engine = make_engine(f"sqlite:///{path}")
    log = AuditLog(engine, many.log, ORIGIN)
    size = log.size()
    root = Checkpoint.from_text(log.checkpoint().decode().partition("\n\n")[0] + "\n").root
    times = []
    for number in range(300):
        index = number * 7919 * 31 % size
        tries = []
        for _ in range(3):  # the best of three: other processes share this processor
            start = time.perf_counter()
            proof = log.inclusion(index, size)
            tries.append(time.perf_counter() - start)
        times.append(min(tries))
        verify_inclusion(index, size, leaf_hash(log.entries(index, index + 1)[0]), proof, root)
    engine.dispose()
    worst = statistics.quantiles(times, n=100)[98] * 1000
    rows.append(
        {
            "name": f"inclusion proof of any of {size:,} entries, 99th percentile",
            "value": round(worst, 2), "unit": "ms",
            "compared_to": f"median {statistics.median(times) * 1000:.2f} ms", "ratio": None,
            "goal": "under 10 ms", "met": worst < 10,
        }
    )  # fmt: skip


def main() -> None:
    """Run everything, print and record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--postgres", help="URL of an empty PostgreSQL database")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = Million(options.entries)
        bundle, path, policy = lay_down(many, folder)
        verification(bundle, policy, options.entries, rows)
        proofs(path, many, rows)
        engine = open_database(f"sqlite:///{folder}/append.db")
        appends("", engine, rows, "SQLite")
        engine.dispose()
        if options.postgres:
            engine = open_database(options.postgres)
            appends("", engine, rows, "PostgreSQL")
            engine.dispose()
    record(rows, "audit log")
    for row in rows:
        print(f"{row['name']}: {row['value']} {row['unit']}  {row['compared_to']}  "
              f"{row['ratio'] or ''}  goal {row['goal'] or '-'}  met {row['met']}")  # fmt: skip


if __name__ == "__main__":
    main()
