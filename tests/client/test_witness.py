"""The site as a witness: what it signs, what it refuses, and that nothing is forgotten."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from wardround.client.database import open_database
from wardround.client.errors import (
    LogForked,
    LogRefused,
    LogWentBack,
    ProofStale,
    ReceiptMissing,
)
from wardround.client.witness import Witness
from wardround.privacy.events import (
    Access,
    Approval,
    Closing,
    Genesis,
    Mechanism,
    PrivacySpend,
    Update,
    read_event,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import FileSigner
from wardround.privacy.loghead import LogHead, Receipt, SiteHead, to_hex
from wardround.privacy.notes import (
    Checkpoint,
    Note,
    NoteSignature,
    log_id,
    sign_checkpoint,
    verify_cosignature,
    witness_name,
)
from wardround.privacy.statements import FIRST, Body, Envelope, Statement, sign
from wardround.privacy.transparency import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

ORIGIN = "wardround.example/log"
NOW = 1_800_000_000_000
ACCESS = Access("http", "GET", "/runs", "allowed", 200, "", "")
APPROVAL = Approval("study-1", "a" * 64, "officer", ("cohort",), "8", "0.00001", "", "", "")


@dataclass
class Log:
    """A coordinator's log as a plain list, honest unless a test changes it."""

    signer: FileSigner = field(default_factory=FileSigner.generate)
    origin: str = ORIGIN
    leaves: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        key = self.signer.public_bytes().hex()
        self.leaves.append(to_leaf(Genesis(self.origin, key, "", "Operator", "w-1"), NOW))

    def add(self, *envelopes: Envelope) -> None:
        self.leaves += [statement_leaf(envelope, NOW) for envelope in envelopes]

    def access(self, count: int = 1) -> None:
        self.leaves += [to_leaf(ACCESS, NOW)] * count

    def node(self, level: int, index: int) -> bytes:
        if level == 0:
            return leaf_hash(self.leaves[index])
        left, right = self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1)
        return node_hash(left, right)

    def note(self, size: int | None = None) -> str:
        size = len(self.leaves) if size is None else size
        root = root_of(leaf_hash(leaf) for leaf in self.leaves[:size])
        return sign_checkpoint(Checkpoint(self.origin, size, root), self.signer).to_bytes().decode()

    def head(
        self,
        since: int = 0,
        start: int = 0,
        end: int | None = None,
        size: int | None = None,
        receipts: Sequence[tuple[int, int]] = (),
    ) -> LogHead:
        size = len(self.leaves) if size is None else size
        end = size if end is None else end
        return LogHead(
            self.note(size),
            since,
            to_hex(consistency_proof(since, size, self.node)) if since <= size else (),
            start,
            tuple(leaf.decode() for leaf in self.leaves[start:end]),
            to_hex(consistency_proof(end, size, self.node)) if end <= size else (),
            tuple(
                Receipt(sequence, index, to_hex(inclusion_proof(index, size, self.node)))
                for sequence, index in receipts
            ),
        )


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def witness(tmp_path: Path, log: Log) -> Iterator[Witness]:
    made = make(tmp_path / "site.db", log)
    yield made
    made.engine.dispose()


def make(path: Path, log: Log, other: Witness | None = None) -> Witness:
    identity = other.identity if other else FileSigner.generate()
    key = other.witness if other else FileSigner.generate()
    public = log.signer.public_bytes()
    return Witness(open_database(path), "a", identity, key, log.origin, public, lambda: NOW)


def spend(sequence: int) -> PrivacySpend:
    made = Mechanism("gaussian", "1", "0.1", 5, "patient", "add-remove", "poisson")
    return PrivacySpend(
        "run-1", "study-1", sequence, 1, "cohort", "patient", "add-remove", "1", (made,),
        "0.00001", "0", "1", "", "8", "PLD", "1", sequence, "", (),
    )  # fmt: skip


def update(number: int) -> Update:
    return Update(
        "run-1", number, 1, "c" * 64, "d" * 64, "e" * 64, 100, "f" * 64, 20, 3, 25, 32,
        "coordinator", "secagg",
    )  # fmt: skip


def test_statements_are_numbered_chained_and_pending_until_proven(
    witness: Witness, log: Log
) -> None:
    one, two = witness.statement(APPROVAL), witness.statement(APPROVAL)
    assert (one.statement().sequence, one.statement().previous) == (1, FIRST)
    assert (two.statement().sequence, two.statement().previous) == (2, one.digest())
    assert one.statement().log == log_id(ORIGIN, log.signer.public_bytes())
    assert witness.pending() == (one, two)
    with pytest.raises(ReceiptMissing, match="statement 1"):
        witness.require_receipts()
    log.add(one)
    witness.accept(log.head())
    assert witness.pending() == (two,)
    log.add(two)
    witness.accept(log.head(since=2, start=2, receipts=[(2, 2)]))
    witness.require_receipts()


def test_the_line_is_a_cosignature_of_this_site_and_stays_the_same(
    witness: Witness, log: Log
) -> None:
    log.access(6)
    line = witness.accept(log.head())
    text = Note.from_bytes(log.note().encode()).text
    name = witness_name(ORIGIN, "a")
    signature = NoteSignature.from_line(line)
    assert verify_cosignature(text, signature, name, witness.witness.public_bytes()) == NOW // 1000
    witness.clock = lambda: NOW + 9_000_000
    assert witness.accept(log.head(since=7, start=7)) == line
    assert witness.head() == SiteHead(7, 7, line, ())
    assert witness.pin() == (log.note() + line).encode()


def test_what_was_answered_is_on_disk(tmp_path: Path, log: Log) -> None:
    first = make(tmp_path / "site.db", log)
    said = first.statement(APPROVAL)
    log.add(said)
    line = first.accept(log.head())
    first.engine.dispose()
    again = make(tmp_path / "site.db", log, first)
    assert again.head() == SiteHead(2, 2, line, ())
    assert again.statement(APPROVAL).statement().previous == said.digest()
    again.engine.dispose()


def test_a_site_that_fails_while_signing_has_said_nothing(witness: Witness, log: Log) -> None:
    class Broken:
        def public_bytes(self) -> bytes:
            return bytes(32)

        def sign(self, message: bytes) -> bytes:
            raise OSError("the token was pulled out")

    log.access(3)
    good, witness.witness = witness.witness, Broken()
    with pytest.raises(OSError, match="pulled out"):
        witness.accept(log.head())
    assert witness.position().size == witness.position().mirrored == 0
    witness.witness = good
    assert witness.accept(log.head())


def test_a_smaller_log_is_refused_and_kept(witness: Witness, log: Log) -> None:
    log.access(5)
    witness.accept(log.head())
    with pytest.raises(LogWentBack, match="has 3 entries, this site has witnessed 6"):
        witness.accept(log.head(since=3, start=3, size=3))
    ((_, reason, head),) = witness.refused()
    assert "witnessed 6" in reason
    assert head.note == log.note(3)
    assert witness.position().size == 6


def test_a_fork_is_refused_and_kept_once(witness: Witness, log: Log) -> None:
    log.access(5)
    witness.accept(log.head())
    fork = Log(log.signer)
    fork.leaves += [to_leaf(replace(ACCESS, outcome="denied"), NOW)] * 9
    for _ in range(3):
        with pytest.raises(LogForked, match="not the one this site has witnessed"):
            witness.accept(fork.head(since=6, start=6))
    ((_, _, head),) = witness.refused()
    assert head.note == fork.note()
    assert (witness.position().size, witness.position().mirrored) == (6, 6)


def test_another_root_of_the_same_size_is_a_fork(witness: Witness, log: Log) -> None:
    log.access(5)
    witness.accept(log.head())
    log.leaves[3] = to_leaf(replace(ACCESS, outcome="denied"), NOW)
    with pytest.raises(LogForked):
        witness.accept(log.head(since=6, start=6))


def test_another_key_or_origin_is_not_the_pinned_log(witness: Witness, log: Log) -> None:
    with pytest.raises(LogRefused, match="not of the pinned log"):
        witness.accept(Log().head())
    with pytest.raises(LogRefused, match="not of the pinned log"):
        witness.accept(Log(log.signer, "wardround.example/other").head())
    assert witness.refused() == ()


def test_a_log_that_begins_with_something_else_is_refused(witness: Witness, log: Log) -> None:
    log.leaves[0] = to_leaf(ACCESS, NOW)
    with pytest.raises(LogForked, match="begin with the pinned origin"):
        witness.accept(log.head())


def test_entries_that_are_not_the_checkpoints_are_refused(witness: Witness, log: Log) -> None:
    log.access(5)
    head = log.head()
    other = to_leaf(replace(ACCESS, outcome="denied"), NOW).decode()
    with pytest.raises(LogForked, match="entries are not those"):
        witness.accept(replace(head, entries=(*head.entries[:-1], other)))
    with pytest.raises(LogForked, match="cannot be read"):
        witness.accept(replace(head, entries=(*head.entries[:-1], '{"a":1,"a":2}')))
    assert witness.position().mirrored == 0


def test_a_long_log_comes_in_parts(witness: Witness, log: Log) -> None:
    said = witness.statement(APPROVAL)
    log.access(20)
    log.add(said)
    witness.accept(log.head(end=8))
    where = witness.position()
    assert (where.size, where.mirrored) == (22, 8)
    assert witness.pending() == (said,)
    with pytest.raises(ProofStale, match="holds the first 8"):
        witness.accept(log.head(since=22, start=9))
    witness.accept(log.head(since=22, start=5, end=15))
    witness.accept(log.head(since=22, start=15))
    assert witness.pending() == ()
    assert witness.entries(0, 99) == tuple(log.leaves)


def test_a_proof_from_elsewhere_is_stale_and_no_evidence(witness: Witness, log: Log) -> None:
    log.access(5)
    witness.accept(log.head())
    log.access(5)
    with pytest.raises(ProofStale, match="stands at 6"):
        witness.accept(log.head(since=3))
    assert witness.refused() == ()
    witness.accept(log.head(since=6, start=6))


def test_a_checkpoint_that_was_overtaken_on_its_way_is_no_log_that_went_back(
    witness: Witness, log: Log
) -> None:
    log.access(5)
    late = log.head(size=4, end=4)
    witness.accept(log.head())
    for asked_at in (0, 4):
        with pytest.raises(ProofStale, match="came late: this site has witnessed 6 meanwhile"):
            witness.accept(late, asked_at=asked_at)
    assert witness.refused() == ()
    with pytest.raises(LogWentBack, match="has 4 entries"):
        witness.accept(late, asked_at=5)
    assert len(witness.refused()) == 1


def test_a_statement_put_into_the_sites_mouth_is_refused(witness: Witness, log: Log) -> None:
    body = Body(APPROVAL.to_json())
    forged = Statement(
        log_id(ORIGIN, log.signer.public_bytes()), "a", 1, FIRST, NOW, "approval", body
    )
    log.add(sign(forged, FileSigner.generate()))
    with pytest.raises(LogForked, match="never signed"):
        witness.accept(log.head())


def test_a_statement_that_was_changed_is_refused(witness: Witness, log: Log) -> None:
    made = witness.statement(APPROVAL)
    other = replace(made.statement(), event=Body(replace(APPROVAL, study="study-2").to_json()))
    log.add(sign(other, witness.identity))
    with pytest.raises(LogForked, match="differs from this site's statement 1"):
        witness.accept(log.head())


def test_the_receipt_of_another_statement_is_refused(witness: Witness, log: Log) -> None:
    one, two = witness.statement(APPROVAL), witness.statement(update(1))
    log.add(one, two)
    with pytest.raises(LogForked, match="receipt does not hold"):
        witness.accept(log.head(receipts=[(2, 1)]))
    good = log.head(receipts=[(1, 1), (2, 2)])
    broken = replace(good.receipts[0], proof=("0" * 64,))
    with pytest.raises(LogForked, match="receipt does not hold"):
        witness.accept(replace(good, receipts=(broken,)))
    witness.accept(good)
    witness.check_receipt(good.receipts[1], 3)
    with pytest.raises(LogForked):
        witness.check_receipt(replace(good.receipts[1], index=1), 3)
    with pytest.raises(ProofStale):
        witness.check_receipt(good.receipts[1], 9)
    saved = witness.receipt(2, good)
    assert (saved.run, saved.round, saved.index) == ("run-1", 1, 2)
    with pytest.raises(ReceiptMissing):
        witness.receipt(3, good)


def test_a_site_restored_from_a_backup_takes_its_statements_from_the_log(
    tmp_path: Path, log: Log
) -> None:
    before = make(tmp_path / "before.db", log)
    log.add(*[before.statement(spend(n)) for n in (1, 2, 3)])
    before.accept(log.head())
    assert before.position().ledger_sequence == 3
    after = make(tmp_path / "after.db", log, before)
    assert after.position().ledger_sequence == 0
    after.accept(log.head())
    assert after.position().ledger_sequence == 3
    assert after.statement(APPROVAL).statement().sequence == 4
    for each in (before, after):
        each.engine.dispose()


def test_a_closing_statement_says_how_far_the_site_came_and_is_made_once(
    witness: Witness, log: Log
) -> None:
    log.add(witness.statement(update(1)), witness.statement(update(2)))
    witness.accept(log.head())
    closing = witness.closing("run-1")
    statement = closing.statement()
    event = read_event(statement.kind, statement.event)
    root = root_of(map(leaf_hash, log.leaves)).hex()
    assert event == Closing("run-1", 2, 3, root, 2, 2 * (100 + 20 + 3))
    assert witness.closing("run-1") == closing
    assert witness.pending() == (closing,)


def test_the_time_under_checkpoints_never_goes_back(witness: Witness, log: Log) -> None:
    witness.accept(log.head())
    log.access()
    witness.clock = lambda: NOW - 86_400_000
    line = NoteSignature.from_line(witness.accept(log.head(since=1, start=1)))
    assert int.from_bytes(line.body[:8], "big") == NOW // 1000


def test_nothing_is_pinned_before_anything_was_witnessed(witness: Witness) -> None:
    with pytest.raises(LogRefused, match="not witnessed"):
        witness.pin()
    assert witness.head() == SiteHead(0, 0, "", ())


def test_advance_takes_entries_that_go_on_from_the_copy(witness: Witness, log: Log) -> None:
    log.access(4)
    assert witness.advance(log.note().encode(), (), tuple(log.leaves))
    log.access(4)
    proof = consistency_proof(5, 9, log.node)
    assert witness.advance(log.note().encode(), proof, tuple(log.leaves[5:]))
    assert witness.position().mirrored == 9


def test_heads_travel_as_canonical_json(witness: Witness, log: Log) -> None:
    said = witness.statement(APPROVAL)
    log.add(said)
    head = log.head(receipts=[(1, 1)])
    assert LogHead.from_json(head.to_json()) == head
    witness.accept(head)
    mine = SiteHead(2, 2, witness.head().cosignature, (said,))
    assert SiteHead.from_json(mine.to_json()) == mine


def test_keys_do_not_show(witness: Witness) -> None:
    assert "Signer" not in repr(witness)


def test_a_line_of_its_own_that_it_does_not_know_tells_a_site_that_it_is_an_old_copy(
    tmp_path: Path, log: Log
) -> None:
    newer = make(tmp_path / "newer.db", log)
    log.access(5)
    line = newer.accept(log.head())
    shown, size = log.note() + line, len(log.leaves)
    older = make(tmp_path / "older.db", log, newer)
    log.access(2)
    older.accept(replace(log.head(), cosigned=shown))
    assert older.position().forgotten == size
    assert newer.position().forgotten == 0
    newer.accept(replace(log.head(since=size, start=size), cosigned=shown))
    assert newer.position().forgotten == 0  # it knows of that line


def test_a_line_in_its_name_that_it_never_wrote_is_refused(tmp_path: Path, log: Log) -> None:
    log.access(5)
    other = make(tmp_path / "other.db", log)  # of the same name, with another key
    forged = log.note() + other.accept(log.head())
    site = make(tmp_path / "site.db", log)
    for text, reason in ((forged, "is not by"), (log.note(), "no line of"), ("no note", "note")):
        with pytest.raises(LogRefused, match=f"said to have cosigned does not show it.*{reason}"):
            site.accept(replace(log.head(), cosigned=text))
    assert site.position().forgotten == 0
    site.accept(log.head())
