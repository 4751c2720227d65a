"""One word of an honest log changed, and every site has cosigned it: the entries contradict it.

The coordinator here is as strong as it can be: it signs every checkpoint anew, makes columns and
summary fit, and every site's witness key signs along. Where a site's own statement is changed, that
site colludes. So only what the entries say of each other can show it.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from audit_forger import Forger, found
from audit_study import Evidence, Study

from wardround.privacy import canonical
from wardround.privacy.events import (
    Enrol,
    Mechanism,
    PrivacySpend,
    Refusal,
    Restored,
    Revoke,
    Update,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import FileSigner
from wardround.privacy.statements import Body, sign
from wardround.privacy.transparency import leaf_hash, root_of


@pytest.fixture
def forger(study: Study, evidence: Evidence) -> Forger:
    return Forger(study, evidence)


@pytest.mark.parametrize(
    ("kind", "round_", "field", "value", "check"),
    [
        ("round_end", 1, "outcome", "aborted", "aggregate"),
        ("round_end", 1, "outcome", "Completed", "aggregate"),
        ("round_end", 2, "joined", ["a", "b"], "round"),
        ("round_end", 2, "joined", ["a", "b", "c", "d"], "round"),
        ("round_end", 1, "bytes_up", 1, "round"),
        ("run_end", 0, "outcome", "finished", "run"),
        ("run_end", 0, "outcome", "stopped", "model"),
        ("run_end", 0, "rounds", 2, "run"),
        ("run_end", 0, "rounds", 4, "run"),
        ("run_start", 0, "rounds", 3, "round"),
        ("key_book", 0, "book_digest", "0" * 64, "run"),
        ("key_book", 0, "size", 1, "run"),
        ("key_book", 0, "sites", ["a", "b", "c"], "run"),
        ("key_book", 0, "run", "run-9", "run"),
        ("round_start", 1, "purpose", "evaluate", "round"),
        ("round_start", 3, "purpose", "train", "round"),
        ("round_start", 1, "model_size", 1, "round"),
        ("survivors", 2, "dropped", [], "round"),
        (
            *("survivors", 1, "dropped"),
            [{"site": "a", "stage": "upload", "reason": "no answer"}],
            "round",
        ),
    ],
)
def test_what_the_coordinator_says_of_a_run_and_its_own_entries_contradict(
    forger: Forger, tmp_path: Path, kind: str, round_: int, field: str, value: object, check: str
) -> None:
    at = forger.find(kind, round=round_)
    forger.edit(at, **{field: value})
    result = forger.rederive().seal().verify(tmp_path)
    assert any(f.breaks and f.check == check and f.entry is not None for f in result.findings)
    if kind != "run_start":
        assert found(result, check, at)


@pytest.mark.parametrize(("field", "value"), [("size", 1), ("headers_digest", "0" * 64)])
def test_what_only_adding_up_again_shows(
    forger: Forger, tmp_path: Path, field: str, value: object
) -> None:
    at = forger.find("aggregate", round=1)
    forger.edit(at if field == "size" else forger.find("survivors", round=1), **{field: value})
    result = forger.rederive().seal().verify(tmp_path, replay=True)
    assert found(result, "replay", at)


def test_another_model_than_the_sum_led_to(forger: Forger, tmp_path: Path) -> None:
    """The coordinator hands out a model of its own making, and all it says agrees with it."""
    other = "ab" * 32
    at = forger.find("aggregate", round=3)
    forger.edit(at, model_digest=other)
    forger.edit(forger.find("run_end"), model_digest=other)
    forger.rederive().seal()
    assert not found(forger.verify(tmp_path), "model")
    (tmp_path / "forged.zip").unlink()
    result = forger.verify(tmp_path, replay=True)
    assert [f.entry for f in result.findings if f.check == "model"] == [at]
    assert len(result.remade) == 2


def test_a_first_model_that_is_not_the_plans(tmp_path: Path) -> None:
    """From the first task on, everyone is sent another model, and everything agrees with it."""
    study = Study(tmp_path)
    study.vector = study.vector + 1
    study.run_all()
    forger = Forger(study, study.evidence())
    result = forger.verify(tmp_path, pins=[forger.evidence.pin], replay=True)
    study.close()
    at = forger.find("round_start", round=1)
    assert [(f.check, f.entry) for f in result.findings] == [("model", at)]


def test_a_second_sum_of_one_round(forger: Forger, tmp_path: Path) -> None:
    """The difference of two sums would show the updates that only one of them holds."""
    start, end = forger.find("round_start", round=1), forger.find("round_end", round=1)
    again = [
        canonical.dumps(
            {**value, "event": {**value["event"], "attempt": 2}}  # type: ignore[dict-item]  # an event
        )
        for at in (start, end)
        if (value := canonical.loads_object(forger.leaves[at]))
    ]
    at = end + 1
    times = [forger.leaf(end).ts_ms] * 2
    forger.leaves[at:at] = again
    for place, ts_ms in enumerate(times):
        forger.stamp(at + place, ts_ms)
    result = forger.rederive().seal().verify(tmp_path)
    assert found(result, "round", at)


def test_an_aggregate_repeated(forger: Forger, tmp_path: Path) -> None:
    at = forger.find("aggregate", round=1)
    forger.leaves.insert(at + 1, forger.leaves[at])
    assert found(forger.rederive().seal().verify(tmp_path), "aggregate", at + 1)


def test_a_run_begun_although_a_site_took_its_approval_back(forger: Forger, tmp_path: Path) -> None:
    """The site's refusal stands in the log, after its approval and before the run."""
    digest = forger.study.plan.digest()
    refusal = Refusal("study-1", digest, "", 0, 0, "purpose", "the board withdrew")
    at = forger.say(forger.find("run_start"), "b", refusal)
    result = forger.rederive().seal().verify(tmp_path)
    assert [(f.entry, f.expected) for f in result.findings if f.check == "approval"] == [
        (at + 1, "b approved the plan")
    ]


def test_a_refusal_of_one_round_takes_back_no_approval(forger: Forger, tmp_path: Path) -> None:
    digest = forger.study.plan.digest()
    refusal = Refusal("study-1", digest, "run-0", 1, 1, "budget", "spent")
    forger.say(forger.find("run_start"), "b", refusal)
    assert not found(forger.rederive().seal().verify(tmp_path), "approval")


SPEND = Mechanism("gaussian", "1.1", "0.05", 20, "patient", "add-remove", "poisson")


@pytest.mark.parametrize(
    "changes",
    [
        {"mechanisms": (replace(SPEND, noise_multiplier="11"),)},
        {"mechanisms": (replace(SPEND, sample_rate="0.001"),)},
        {"mechanisms": (replace(SPEND, steps=1),)},
        {"mechanisms": ()},
        {"unit": "image"},
        {"relation": "replace-one"},
        {"clip": "0.5"},
        {"study": "study-2"},
        {"dataset": "cohort-2"},
        {"run": "run-2"},
    ],
    ids=str,
)
def test_a_spend_for_a_training_that_was_not_planned(
    forger: Forger, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Its epsilon may be right for what it says; but that is not what the plan has a site do."""
    at = forger.find("privacy_spend", "b", 1)
    event = forger.leaf(at).event
    assert isinstance(event, PrivacySpend)
    forger.restate(at, replace(event, **changes))  # type: ignore[arg-type]  # fields by name
    assert found(forger.rederive().seal().verify(tmp_path), "spend", at)


@pytest.mark.parametrize(
    "mechanisms",
    [
        (replace(SPEND, noise_multiplier="999999", steps=10**9),),
        (replace(SPEND, steps=2**62),),
        tuple(replace(SPEND, noise_multiplier=f"1.{n + 1}") for n in range(100)),
    ],
    ids=["steps", "most steps", "kinds"],
)
def test_a_spend_that_no_machine_could_price(
    forger: Forger, tmp_path: Path, mechanisms: tuple[Mechanism, ...]
) -> None:
    at = forger.find("privacy_spend", "b", 1)
    event = forger.leaf(at).event
    assert isinstance(event, PrivacySpend)
    forger.restate(at, replace(event, mechanisms=mechanisms))
    result = forger.rederive().seal().verify(tmp_path, recompute=True)
    assert found(result, "epsilon", at)
    assert at not in dict(result.recomputed)


@pytest.mark.parametrize(
    "changes",
    [{"mechanisms": (replace(SPEND, noise_multiplier="1e-300"),)}, {"delta": "1e-999"}],
    ids=["noise", "delta"],
)
def test_a_spend_of_numbers_beyond_all_floats(
    forger: Forger, tmp_path: Path, changes: dict[str, object]
) -> None:
    at = forger.find("privacy_spend", "b", 1)
    event = forger.leaf(at).event
    assert isinstance(event, PrivacySpend)
    forger.restate(at, replace(event, **changes))  # type: ignore[arg-type]  # fields by name
    assert found(forger.rederive().seal().verify(tmp_path, recompute=True), "epsilon", at)


@pytest.mark.parametrize("changes", [{"dimension": 41}, {"ring_bits": 16}], ids=str)
def test_an_update_of_another_form(forger: Forger, tmp_path: Path, changes: dict[str, int]) -> None:
    at = forger.find("update", "b", 1)
    event = forger.leaf(at).event
    assert isinstance(event, Update)
    forger.restate(at, replace(event, **changes))  # type: ignore[arg-type]  # fields by name
    assert found(forger.rederive().seal().verify(tmp_path), "round", at)


def test_shares_of_a_site_that_sent_no_update(forger: Forger, tmp_path: Path) -> None:
    """Site d was away in round 2."""
    share = forger.leaf(forger.find("recovery_share", "a", 2)).event
    at = forger.say(forger.find("aggregate", round=2), "d", share)
    assert found(forger.rederive().seal().verify(tmp_path), "round", at)


@pytest.mark.parametrize("lie", ["", "from", "to", "root"])
def test_a_restore_that_took_back_something_else(forger: Forger, tmp_path: Path, lie: str) -> None:
    size = len(forger.leaves)
    event = Restored(
        size if lie == "from" else size - 1,
        size + 1 if lie == "to" else size,
        "0" * 64 if lie == "root" else root_of(map(leaf_hash, forger.leaves)).hex(),
        "b",
        "disk failed",
    )
    forger.leaves.append(to_leaf(event, forger.leaf(-1).ts_ms))
    times = {size + 1: forger.times(-1)}
    hashes = [leaf_hash(data) for data in forger.leaves]
    forger.notes.append(forger.note(size + 1, root_of(hashes), times[size + 1], "abcd"))
    result = forger.rederive().verify(tmp_path)
    assert found(result, "root", size) is bool(lie)


def test_a_witness_key_that_was_given_up_counts_no_more(forger: Forger, tmp_path: Path) -> None:
    """Site d's keys were stolen and replaced; the thief goes on cosigning with the old one."""
    member, roster = forger.study.members["d"], forger.study.roster
    identity, witness = FileSigner.generate(), FileSigner.generate()
    ts_ms, size = forger.leaf(-1).ts_ms, len(forger.leaves)
    forger.leaves.append(to_leaf(Revoke("d", roster["d"].identity.hex(), "stolen", 0), ts_ms))
    last = forger.leaf(forger.find("closing", "d"))
    assert last.statement is not None
    assert last.envelope is not None
    keys = identity.public_bytes().hex(), witness.public_bytes().hex()
    enrol = Enrol("d", *keys, "ff", "Hospital", "wardround-0.1.0")
    said = replace(
        last.statement,
        sequence=last.statement.sequence + 1,
        previous=last.envelope.digest(),
        kind="enrol",
        event=Body(enrol.to_json()),
    )
    forger.leaves.append(statement_leaf(sign(said, identity), ts_ms))
    root = root_of(map(leaf_hash, forger.leaves))
    forger.notes.append(forger.note(size + 2, root, forger.times(-1), "abcd"))
    assert member.key.public_bytes() == roster["d"].witness
    result = forger.rederive().verify(tmp_path, policy=_with(forger, "d", identity, witness))
    assert found(result, "revoked", size + 1)
    assert result.cosigners == ("a", "b", "c")


def _with(forger: Forger, site: str, identity: FileSigner, witness: FileSigner) -> str:
    """The auditor's policy with a second line for a site that was enrolled again."""
    from audit_study import ORIGIN

    from wardround.privacy.verify import site_line

    line = site_line(ORIGIN, site, identity.public_bytes(), witness.public_bytes())
    return f"{forger.evidence.policy}{line}\n"


def test_times_that_no_calendar_writes(forger: Forger, tmp_path: Path) -> None:
    """A report of such an entry, or cosignature, could not be made."""
    value = canonical.loads_object(forger.leaves[-1])
    forger.leaves[-1] = canonical.dumps({**value, "ts_ms": 2**53})
    late = {**forger.times(-1), "a": 2**62}
    forger.notes[-1] = forger.note(
        len(forger.leaves), root_of(map(leaf_hash, forger.leaves)), late, "abcd"
    )
    result = forger.verify(tmp_path)
    assert found(result, "entry", len(forger.leaves) - 1)
    assert found(result, "cosignature", len(forger.leaves) - 1)
    assert result.cosigners == ("b", "c", "d")


def test_a_log_without_entries(forger: Forger, tmp_path: Path) -> None:
    forger.leaves, forger.notes = [], []
    assert found(forger.rederive().verify(tmp_path), "genesis")


@pytest.mark.parametrize("change", [{"extra": None}, {"extra": {}}], ids=str)
def test_a_summary_with_another_table(
    forger: Forger, tmp_path: Path, change: dict[str, canonical.Json]
) -> None:
    value = canonical.loads_object(forger.projections)
    forger.projections = canonical.dumps({**value, **change})
    assert found(forger.verify(tmp_path), "projection")


def test_a_summary_in_which_one_is_true(forger: Forger, tmp_path: Path) -> None:
    text = forger.projections.decode()
    assert '"genesis":1' in text
    forger.projections = text.replace('"genesis":1', '"genesis":true').encode()
    assert found(forger.verify(tmp_path), "projection")


def test_a_summary_too_long_to_be_one_is_not_read(forger: Forger, tmp_path: Path) -> None:
    value = canonical.loads_object(forger.projections)
    forger.projections = canonical.dumps({**value, "extra": ["0" * 1000] * 3000})
    result = forger.verify(tmp_path)
    assert any("projections.json has" in f.found for f in result.findings)
