"""Each attack on a real bundle of a real run, and what the verifier says to it.

Where an attack can be made stronger, it is: the coordinator signs again with the log's key, makes
columns and summary fit, and has every site's witness key sign what only inner contradictions can
then show.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from audit_forger import Forger, found
from audit_study import ORIGIN, Evidence, Study

from wardround.privacy import canonical
from wardround.privacy.bundle import Bundle
from wardround.privacy.errors import BundleInvalid, PolicyInvalid
from wardround.privacy.events import (
    Access,
    Counter,
    Deidentification,
    PrivacySpend,
    Revoke,
    Update,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.notes import Note, NoteSignature
from wardround.privacy.statements import Body, Envelope, sign
from wardround.privacy.transparency import leaf_hash, root_of
from wardround.privacy.verify import Policy, checkpoints, write_policy


@pytest.fixture
def forger(study: Study, evidence: Evidence) -> Forger:
    return Forger(study, evidence)


def test_the_forger_alone_changes_nothing(forger: Forger, tmp_path: Path) -> None:
    result = forger.rederive().seal().verify(tmp_path, pins=[forger.evidence.pin], replay=True)
    assert result.findings == ()


def test_a_row_edited(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("access")
    forger.edit(at, outcome="denied")
    result = forger.rederive().verify(tmp_path)
    assert result.status == "tampered"
    assert found(result, "root")


def test_a_row_edited_and_signed_again_with_the_log_key(forger: Forger, tmp_path: Path) -> None:
    lines = [Note.from_bytes(note.encode()).signatures[1:] for note in forger.notes]
    forger.edit(forger.find("access"), outcome="denied")
    forger.rederive().seal(())
    forger.notes = [
        Note(made.text, made.signatures + old).to_bytes().decode()
        for made, old in zip(
            (Note.from_bytes(note.encode()) for note in forger.notes), lines, strict=True
        )
    ]
    result = forger.verify(tmp_path)
    assert result.status == "tampered"
    assert found(result, "cosignature")
    assert not found(result, "root")


def test_a_row_edited_signed_again_and_the_cosignatures_left_out(
    forger: Forger, tmp_path: Path
) -> None:
    forger.edit(forger.find("access"), outcome="denied")
    result = forger.rederive().seal(()).verify(tmp_path, pins=[forger.evidence.pin])
    assert result.status == "tampered"
    assert found(result, "pin")
    assert found(result, "quorum")


def test_the_tail_deleted(forger: Forger, tmp_path: Path) -> None:
    del forger.leaves[-3:]
    result = forger.rederive().verify(tmp_path)
    assert found(result, "root")
    assert result.status == "tampered"


def test_the_middle_deleted(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("update", "b", 2)
    del forger.leaves[at]
    result = forger.rederive().verify(tmp_path)
    assert found(result, "root")
    assert found(result, "sequence")


def test_entries_reordered(forger: Forger, tmp_path: Path) -> None:
    one, two = forger.find("update", "b", 1), forger.find("update", "c", 1)
    forger.leaves[one], forger.leaves[two] = forger.leaves[two], forger.leaves[one]
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "time", one + 1)
    assert found(result, "sequence")


def test_a_fork_shown_to_the_auditor(forger: Forger, tmp_path: Path) -> None:
    forger.leaves[-1] = to_leaf(
        Access("http", "GET", "/other", "allowed", 200, "", ""), forger.leaf(-1).ts_ms
    )
    forger.rederive().seal(("a", "b", "c"))
    result = forger.verify(tmp_path, pins=[forger.study.members["d"].witness.pin()])
    assert result.status == "tampered"
    assert found(result, "pin")


def test_two_roots_of_one_size(forger: Forger, tmp_path: Path) -> None:
    size = forger.checkpoint(-1).size
    forger.notes.append(forger.note(size, b"\7" * 32, {}, ()))
    result = forger.verify(tmp_path)
    assert found(result, "checkpoint", size - 1)


def test_an_entry_backdated(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("round_start", round=2)
    forger.stamp(at, forger.leaf(at).ts_ms - 86_400_000)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "time", at)


def test_a_statement_logged_before_it_was_made(forger: Forger, tmp_path: Path) -> None:
    """A whole history moved a day back: the sites' own times contradict it."""
    for at, data in enumerate(forger.leaves):
        del data
        forger.stamp(at, forger.leaf(at).ts_ms - 86_400_000)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "time", forger.find("enrol", "a"))


def test_an_entry_postdated(forger: Forger, tmp_path: Path) -> None:
    for at in range(forger.find("aggregate", round=3), len(forger.leaves)):
        forger.stamp(at, forger.leaf(at).ts_ms + 86_400_000)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "time")


def test_a_blob_swapped(forger: Forger, tmp_path: Path) -> None:
    one, two = list(forger.blobs)[:2]
    forger.blobs[one], forger.blobs[two] = forger.blobs[two], forger.blobs[one]
    result = forger.verify(tmp_path, replay=True)
    assert result.status == "tampered"
    assert found(result, "blob")


def test_an_aggregate_that_names_another_digest(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("aggregate", round=1)
    value = json.loads(forger.leaves[at])
    value["event"]["uploads"][0]["digest"] = "0" * 64
    forger.leaves[at] = canonical.dumps(value)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "aggregate", at)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", 31),
        ("digest", "0" * 64),
        ("counters", [{"name": "correct", "value": 29}, {"name": "evaluated", "value": 36}]),
    ],
)
def test_an_aggregate_that_does_not_add_up(
    forger: Forger, tmp_path: Path, field: str, value: object
) -> None:
    at = forger.find("aggregate", round=1)
    forger.edit(at, **{field: value})
    result = forger.rederive().seal().verify(tmp_path, replay=True)
    assert found(result, "replay", at)
    assert result.status == "tampered"


def test_a_forged_site_statement(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("update", "b", 1)
    event = forger.leaf(at).event
    assert isinstance(event, Update)
    forger.restate(at, replace(event, size=1), FileSigner.generate())
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "signature", at)


def test_a_forged_last_statement_of_a_site(forger: Forger, tmp_path: Path) -> None:
    """Nothing follows it that would vouch for it, so its own signature decides."""
    at = forger.find("closing", "b")
    forger.restate(at, forger.leaf(at).event, FileSigner.generate())
    assert found(forger.rederive().seal().verify(tmp_path), "signature", at)


def test_a_signature_damaged_in_the_middle_of_a_chain(forger: Forger, tmp_path: Path) -> None:
    """The statements after it vouch for its content; checking every one finds it."""
    at = forger.find("update", "b", 1)
    value = json.loads(forger.leaves[at])
    signature = value["statement"]["signatures"][0]
    signature["sig"] = "A" * 86 + "=="
    forger.leaves[at] = canonical.dumps(value)
    forger.rederive().seal()
    assert not found(forger.verify(tmp_path), "signature")
    (tmp_path / "forged.zip").unlink()
    assert found(forger.verify(tmp_path, every=True), "signature", at)


def test_an_unsigned_site_statement(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("update", "b", 1)
    leaf = forger.leaf(at)
    head = {"actor": "", "kind": "update", "ts_ms": leaf.ts_ms, "v": 1}
    forger.leaves[at] = canonical.dumps({**head, "event": leaf.event.to_json()})
    result = forger.seal().verify(tmp_path)
    assert found(result, "entry", at)


def test_a_replayed_site_statement(forger: Forger, tmp_path: Path) -> None:
    first = forger.leaf(forger.find("update", "b", 1))
    at = forger.find("update", "b", 2) + 1
    assert first.envelope is not None
    again = statement_leaf(first.envelope, forger.leaf(at - 1).ts_ms)
    forger.leaves.insert(at, again)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "sequence", at)
    assert found(result, "round", at)


def test_a_dropped_site_statement(forger: Forger, tmp_path: Path) -> None:
    del forger.leaves[forger.find("privacy_spend", "c", 1)]
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "sequence")
    assert found(result, "spend")


def test_the_receipt_of_another_round(forger: Forger, tmp_path: Path) -> None:
    member = forger.study.members["a"]
    sequence, head = next(
        (receipt.sequence, head)
        for head in member.heads
        for receipt in head.receipts
        if forger.leaf(receipt.index).kind == "update"
    )
    good = member.witness.receipt(sequence, head)
    assert not found(forger.verify(tmp_path, receipts=[good]), "receipt")
    (tmp_path / "forged.zip").unlink()
    other = replace(good, round=good.round + 1)
    assert found(forger.verify(tmp_path, receipts=[other]), "receipt")
    (tmp_path / "forged.zip").unlink()
    elsewhere = replace(good, index=good.index + 1)
    assert found(forger.verify(tmp_path, receipts=[elsewhere]), "receipt")


def test_one_witness_counted_twice(forger: Forger, tmp_path: Path) -> None:
    def twice(text: str) -> str:
        note = Note.from_bytes(text.encode())
        line = next(s for s in note.signatures if s.name.endswith("/a"))
        return Note(note.text, (note.signatures[0], line, line, line)).to_bytes().decode()

    forger.notes = [twice(text) if "/witness/a" in text else text for text in forger.notes]
    result = forger.verify(tmp_path)
    assert found(result, "cosignature")
    assert found(result, "quorum")


def test_one_key_under_two_names_in_the_policy(forger: Forger) -> None:
    policy = forger.evidence.policy
    with pytest.raises(PolicyInvalid, match="not named after"):
        Policy.from_text(policy.replace("site b identity b+", "site c identity b+"))
    sites = forger.study.roster.sites
    twice = Roster(
        (sites[0], SiteKeys("b", sites[1].identity, sites[1].witness, b"other")),
    )
    text = write_policy(ORIGIN, forger.study.signer.public_bytes(), twice, 2)
    shared = write_policy(
        ORIGIN,
        forger.study.signer.public_bytes(),
        Roster((SiteKeys("b", sites[0].identity, sites[2].witness, b"x"),)),
        1,
    )
    line = next(line for line in shared.splitlines() if line.startswith("site b"))
    with pytest.raises(PolicyInvalid, match="one key stands in the policy twice"):
        Policy.from_text(text.replace(text.splitlines()[2], line))


def test_one_key_under_two_names_in_the_log(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("enrol", "b")
    event = forger.leaf(at).event
    own = forger.study.roster["a"]
    forger.restate(at, replace(event, witness=own.witness.hex()))  # type: ignore[call-arg]  # an Enrol
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "keys", at)


def test_keys_shipped_in_the_bundle(forger: Forger, tmp_path: Path) -> None:
    """The zip format's own library refuses to write such a member, so it is added by hand."""
    import zipfile

    path = forger.write(tmp_path / "keys.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("policy.txt", forger.evidence.policy)
    with pytest.raises(BundleInvalid, match=r"policy\.txt"):
        Bundle(path)


def test_a_whole_log_of_invented_keys(
    forger: Forger, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Same names, other keys, everything consistent in itself."""
    other = Study(tmp_path_factory.mktemp("invented"))
    other.prepare()
    evidence = other.evidence()
    result = Forger(other, evidence).verify(tmp_path, policy=forger.evidence.policy)
    other.close()
    assert result.status == "tampered"
    assert {"checkpoint", "genesis", "other-log", "keys"} <= {f.check for f in result.findings}
    assert result.cosigners == ()


def test_the_time_of_a_cosignature_edited(forger: Forger, tmp_path: Path) -> None:
    note = Note.from_bytes(forger.notes[-1].encode())
    log, line, *rest = note.signatures
    later = (int.from_bytes(line.body[:8], "big") + 3600).to_bytes(8, "big")
    edited = NoteSignature(line.name, line.key_id, later + line.body[8:])
    forger.notes[-1] = Note(note.text, (log, edited, *rest)).to_bytes().decode()
    result = forger.verify(tmp_path)
    assert found(result, "cosignature", forger.checkpoint(-1).size - 1)


def test_an_old_cosignature_edited(
    forger: Forger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a long log those of old checkpoints are checked on demand."""
    monkeypatch.setattr(checkpoints, "RECENT", 2)
    note = Note.from_bytes(forger.notes[-4].encode())
    log, line, *rest = note.signatures
    edited = NoteSignature(line.name, line.key_id, bytes(8) + line.body[8:])
    forger.notes[-4] = Note(note.text, (log, edited, *rest)).to_bytes().decode()
    assert not found(forger.verify(tmp_path), "cosignature")
    (tmp_path / "forged.zip").unlink()
    assert found(forger.verify(tmp_path, every=True), "cosignature")


def test_a_witness_rolled_back(forger: Forger, tmp_path: Path) -> None:
    """Site a signs an old size a day after it signed the newest."""
    size = forger.checkpoint(-2).size
    times = forger.times(-2)
    times["a"] += 86_400
    root = root_of(leaf_hash(data) for data in forger.leaves[:size])
    forger.notes[-2] = forger.note(size, root, times, times)
    result = forger.verify(tmp_path)
    assert found(result, "witness-rollback")


def test_a_duplicate_json_key(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("access")
    forger.leaves[at] = forger.leaves[at].replace(
        b'"outcome":"allowed"', b'"outcome":"allowed","outcome":"denied"'
    )
    result = forger.seal().verify(tmp_path)
    assert found(result, "entry", at)


def test_an_uncovered_tail(forger: Forger, tmp_path: Path) -> None:
    last = forger.leaf(-1).ts_ms
    forger.leaves.append(to_leaf(Access("http", "GET", "/x", "allowed", 200, "", ""), last))
    result = forger.rederive().verify(tmp_path)
    assert found(result, "uncovered", len(forger.leaves) - 1)
    assert result.status == "tampered"


def test_another_logs_statement(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("update", "b", 1)
    leaf = forger.leaf(at)
    assert leaf.statement is not None
    moved = replace(leaf.statement, log="0" * 64)
    envelope = sign(moved, forger.study.members["b"].identity)
    forger.leaves[at] = statement_leaf(envelope, leaf.ts_ms)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "other-log", at)


def test_a_row_of_the_summary_edited(forger: Forger, tmp_path: Path) -> None:
    value = json.loads(forger.projections)
    value["spends"]["a/cohort-1"]["epsilon"] = "0.1"
    forger.projections = canonical.dumps(value)
    result = forger.verify(tmp_path)
    assert found(result, "projection")
    assert result.status == "tampered"


def test_a_column_of_the_database_edited(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("access")
    forger.columns[at] = forger.columns[at].replace(b"access", b"export")
    assert found(forger.verify(tmp_path), "columns", at)


def test_an_epsilon_understated(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("privacy_spend", "b", 2)
    event = forger.leaf(at).event
    assert isinstance(event, PrivacySpend)
    forger.restate(at, replace(event, epsilon_after=event.epsilon_before))
    forger.rederive().seal()
    assert not found(forger.verify(tmp_path), "ledger")
    (tmp_path / "forged.zip").unlink()
    assert found(forger.verify(tmp_path, recompute=True), "epsilon", at)


@pytest.mark.parametrize(
    "changes",
    [
        {"ledger_sequence": 1},
        {"epsilon_before": "0"},
        {"epsilon_after": "9.5"},
    ],
)
def test_a_ledger_that_is_not_monotone(
    forger: Forger, tmp_path: Path, changes: dict[str, object]
) -> None:
    at = forger.find("privacy_spend", "b", 2)
    event = forger.leaf(at).event
    forger.restate(at, replace(event, **changes))  # type: ignore[arg-type]  # fields by name
    assert found(forger.rederive().seal().verify(tmp_path), "ledger", at)


@pytest.mark.parametrize(
    ("written", "aside", "wrong"), [(10, 2, False), (12, 0, False), (11, 2, True), (10, 1, True)]
)
def test_deidentified_files_that_do_not_add_up(
    forger: Forger, tmp_path: Path, written: int, aside: int, wrong: bool
) -> None:
    at = forger.find("deidentification", "b")
    counts = (("files_seen", 12), ("files_written", written), ("quarantined", aside))
    event = forger.leaf(at).event
    assert isinstance(event, Deidentification)
    forger.restate(at, replace(event, counts=tuple(Counter(*count) for count in counts)))
    assert found(forger.rederive().seal().verify(tmp_path), "deidentification", at) is wrong


def test_another_report_on_the_same_files(forger: Forger, tmp_path: Path) -> None:
    """The site says a second time where the files of one manifest come from, and says otherwise."""
    at = forger.find("deidentification", "b")
    leaf = forger.leaf(at)
    assert isinstance(leaf.event, Deidentification)
    assert leaf.statement is not None
    body = Body(replace(leaf.event, report_digest="e" * 64).to_json())
    envelope = sign(replace(leaf.statement, event=body), forger.study.members["b"].identity)
    forger.leaves.insert(at + 1, statement_leaf(envelope, leaf.ts_ms))
    assert found(forger.rederive().seal().verify(tmp_path), "deidentification", at + 1)


def test_a_statement_by_a_revoked_key(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("update", "b", 2)
    key = forger.study.roster["b"].identity.hex()
    since = forger.leaf(forger.find("update", "b", 1)).ts_ms
    ts_ms = forger.leaf(at).ts_ms
    forger.leaves.insert(at, to_leaf(Revoke("b", key, "laptop stolen", since), ts_ms))
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "revoked", at + 1)
    assert found(result, "compromised", forger.find("update", "b", 1))


@pytest.mark.parametrize("text", ["x\\nentry 9: verified", "<img src=x>", "\\u001b[2J"])
def test_a_newline_or_markup_injected_in_a_field(forger: Forger, tmp_path: Path, text: str) -> None:
    at = forger.find("round_end", round=1)
    forger.leaves[at] = forger.leaves[at].replace(b'"reason":""', f'"reason":"{text}"'.encode())
    result = forger.seal().verify(tmp_path)
    assert found(result, "entry", at)
    assert all(c.isprintable() for f in result.findings for c in f.found)


def test_a_site_that_never_approved_the_plan(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("run_start")
    forger.edit(at, plan_digest="1" * 64)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "approval", at)


def test_a_round_that_starts_from_another_model(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("round_start", round=2)
    forger.edit(at, model_digest="1" * 64)
    assert found(forger.rederive().seal().verify(tmp_path), "model", at)


def test_a_statement_in_an_envelope_of_another_type(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("update", "b", 1)
    leaf = forger.leaf(at)
    assert leaf.envelope is not None
    value = json.loads(forger.leaves[at])
    value["statement"]["payloadType"] = "application/vnd.wardround.closing.v1+json"
    forger.leaves[at] = canonical.dumps(value)
    assert isinstance(leaf.envelope, Envelope)
    assert leaf.statement is not None
    assert isinstance(leaf.statement.event, Body)
    assert found(forger.seal().verify(tmp_path), "entry", at)
