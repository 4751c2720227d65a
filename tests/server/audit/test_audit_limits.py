"""What a verifier alone cannot see: four limits, each with its remedy beside it."""

from dataclasses import replace
from pathlib import Path

import pytest
from audit_forger import Forger, found
from audit_study import Evidence, Study

from wardround.client.errors import ReceiptMissing
from wardround.privacy.events import Access, Fault, to_leaf


@pytest.fixture
def forger(study: Study, evidence: Evidence) -> Forger:
    return Forger(study, evidence)


def cut(forger: Forger, size: int) -> Forger:
    """Cut the log back to an earlier checkpoint, as if nothing had come after."""
    forger.leaves = forger.leaves[:size]
    forger.notes = [
        note for at, note in enumerate(forger.notes) if forger.checkpoint(at).size <= size
    ]
    return forger.rederive()


def only(forger: Forger, *kept: str) -> str:
    """The auditor's policy with a quorum of two of the first three sites."""
    lines = [
        line
        for line in forger.evidence.policy.splitlines()
        if not line.startswith(("site", "quorum")) or line.startswith(tuple(kept))
    ]
    return "\n".join([*lines, "quorum 2", ""])


def test_limit_1_the_tail_deleted_together_with_its_checkpoint(
    forger: Forger, tmp_path: Path
) -> None:
    sizes = sorted(forger.checkpoint(at).size for at in range(len(forger.notes)))
    end = forger.find("round_end", round=2) + 1
    cut(forger, max(size for size in sizes if size <= end))
    limit = forger.verify(tmp_path)
    assert limit.status == "incomplete", "an older, honest state of the log: nothing contradicts"
    (tmp_path / "forged.zip").unlink()

    # Remedy: a pin of any site, or of the auditor, from after that state.
    remedy = forger.verify(tmp_path, pins=[forger.evidence.pin])
    assert remedy.status == "tampered"
    assert found(remedy, "pin")
    # And the closing statements are missing, so no report of this run is complete.
    assert found(limit, "run")


def test_limit_2_two_colluders_that_also_lie_about_time(forger: Forger, tmp_path: Path) -> None:
    """The run's end is moved a day on; sites a and b sign whatever the coordinator wants.

    Anything before c's closing statement could not be moved: that names the root c witnessed.
    """
    policy = "\n".join(
        line for line in forger.evidence.policy.splitlines() if not line.startswith("site d")
    ).replace("quorum 3", "quorum 2")
    first = forger.find("run_end")
    forger.stamp(first, forger.leaf(first).ts_ms + 86_400_000)
    original = {forger.checkpoint(at).size: forger.times(at) for at in range(len(forger.notes))}
    liars = {
        size: {s: t + (86_400 if size > first else 0) for s, t in times.items() if s in "ab"}
        for size, times in original.items()
    }
    forger.rederive()
    _reseal(forger, liars)
    limit = forger.verify(tmp_path, policy=policy)
    assert not found(limit, "time")
    assert limit.status == "incomplete"
    (tmp_path / "forged.zip").unlink()

    # Remedy one: the honest site's pin is of another history.
    pin = forger.study.members["c"].witness.pin()
    assert found(forger.verify(tmp_path, policy=policy, pins=[pin]), "pin")
    (tmp_path / "forged.zip").unlink()
    # Remedy two: a quorum of all three. Without c there is none, and c tells the true time.
    strict = policy.replace("quorum 2", "quorum 3")
    assert found(forger.verify(tmp_path, policy=strict), "quorum")
    (tmp_path / "forged.zip").unlink()
    for size, times in original.items():
        liars[size] |= {s: t for s, t in times.items() if s == "c"}
    _reseal(forger, liars)
    assert found(forger.verify(tmp_path, policy=strict), "time")


def test_limit_3_a_live_split_with_one_colluder_at_two_of_three(
    forger: Forger, tmp_path: Path
) -> None:
    """Site a signs two histories, one for b and one for c: both reach two of three."""
    policy = "\n".join(
        line for line in forger.evidence.policy.splitlines() if not line.startswith("site d")
    ).replace("quorum 3", "quorum 2")
    for_b = Forger(forger.study, forger.evidence).seal(("a", "b"))
    view_b = for_b.verify(tmp_path, policy=policy)
    (tmp_path / "forged.zip").unlink()
    forger.leaves[-1] = to_leaf(
        Access("http", "GET", "/other", "allowed", 200, "", ""), forger.leaf(-1).ts_ms
    )
    view_c = forger.rederive().seal(("a", "c")).verify(tmp_path, policy=policy)
    (tmp_path / "forged.zip").unlink()
    for view in (view_b, view_c):
        assert view.status == "incomplete", "each view alone is sound"
        assert len(view.cosigners) == 2
        assert view.colluders_covered == 0, "the report says what the quorum covers"
    assert view_b.root != view_c.root

    # Remedy one: a pin of b, who saw the other history.
    pin = for_b.notes[-1].encode()
    assert found(forger.verify(tmp_path, policy=policy, pins=[pin]), "pin")
    (tmp_path / "forged.zip").unlink()
    # Remedy two: three of three covers two colluders; neither view reaches it.
    strict = policy.replace("quorum 2", "quorum 3")
    whole = forger.verify(tmp_path, policy=strict)
    assert found(whole, "quorum")
    assert whole.colluders_covered == 2


def test_limit_4_a_sites_last_statement_never_logged(
    tmp_path: Path,
) -> None:
    """The coordinator keeps back the last thing site a said; the chain that is there is whole."""
    study = Study(tmp_path)
    study.prepare()
    member = study.members["a"]
    last = member.witness.closing("run-9")
    study.say(Fault("", 0, 0, "", "upload", "nothing of interest"))
    member.link.receive(replace(member.witness.head(), statements=()))
    head = member.link.head()
    member.witness.accept(head)  # shown a newer log, without the statement
    evidence = study.evidence("without.zip")
    forger = Forger(study, evidence)
    limit = forger.verify(tmp_path, pins=[member.witness.pin()])
    assert not any(finding.breaks for finding in limit.findings)

    # Remedy: the site has no receipt, so it does not go on, and says why.
    with pytest.raises(ReceiptMissing, match="closing"):
        member.witness.require_receipts()
    # And once it had one, the receipt convicts a log that leaves the statement out.
    member.sync()
    member.witness.require_receipts()
    sequence = last.statement().sequence
    receipt = member.witness.receipt(sequence, member.heads[-1])
    (tmp_path / "forged.zip").unlink()
    assert found(forger.verify(tmp_path, receipts=[receipt]), "receipt")
    study.close()


def _reseal(forger: Forger, times: dict[int, dict[str, int]]) -> None:
    from wardround.privacy.transparency import leaf_hash, root_of

    hashes = [leaf_hash(data) for data in forger.leaves]
    forger.notes = [
        forger.note(size, root_of(hashes[:size]), signed, signed)
        for size, signed in sorted(times.items())
    ]
