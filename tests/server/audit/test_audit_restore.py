"""A coordinator restored from an old backup: the sites notice, their copies are the way back."""

import shutil
from pathlib import Path

import pytest
from audit_forger import Forger
from audit_study import ORIGIN, Study

from wardround.client.errors import LogForked, LogWentBack
from wardround.privacy.events import Access, Restored, from_leaf
from wardround.server.audit import AuditLog
from wardround.server.database import open_database
from wardround.server.errors import CosignatureRefused, LogDamaged
from wardround.server.loglink import LogLink

ACCESS = Access("http", "GET", "/runs", "allowed", 200, "", "")


@pytest.fixture
def restored(tmp_path: Path) -> Study:
    """A study whose coordinator went on after a backup, then came back from it."""
    study = Study(tmp_path)
    study.prepare()
    study.engine.dispose()
    shutil.copy(tmp_path / "log.db", tmp_path / "backup.db")
    study.say(ACCESS, ACCESS)
    study.sync()
    study.start_run()
    study.engine.dispose()
    study.engine = open_database(f"sqlite:///{tmp_path}/backup.db")
    study.log = AuditLog(study.engine, study.signer, ORIGIN, study.clock)
    for member in study.members.values():
        member.link = LogLink(study.log, member.name)
    return study


def test_every_site_refuses_a_log_that_went_back(restored: Study) -> None:
    for member in restored.members.values():
        before = member.witness.position()
        with pytest.raises(LogWentBack, match="restored an old copy"):
            member.witness.accept(member.link.head())
        assert member.witness.position() == before
        (_, reason, head), *_ = member.witness.refused()
        assert "restored" in reason
        assert head.note.startswith(ORIGIN)
    restored.close()


def test_the_coordinator_itself_notices_when_a_site_answers(restored: Study) -> None:
    size = restored.log.size()
    for member in restored.members.values():
        with pytest.raises(LogDamaged, match="old copy"):
            member.link.receive(member.witness.head())
    assert restored.log.size() == size
    restored.close()


def test_the_way_forward_is_a_sites_copy(restored: Study) -> None:
    lost = restored.log.size()
    source = restored.members["b"].witness
    leaves = source.entries(lost, source.position().size)
    back = restored.log.recover(source.pin(), leaves, "b", "disk failed")
    assert back == len(leaves) > 0
    event = from_leaf(restored.log.entries(restored.log.size() - 1, restored.log.size())[0]).event
    assert isinstance(event, Restored)
    assert (event.from_size, event.to_size, event.source) == (lost, lost + back, "b")
    restored.sync()
    restored.play_round(1)
    restored.play_round(2)
    restored.play_round(3, purpose="evaluate")
    restored.finish()
    evidence = restored.evidence()
    result = Forger(restored, evidence).verify(restored.folder, pins=[evidence.pin], replay=True)
    assert [f for f in result.findings if f.breaks] == []
    restored.close()


def test_a_coordinator_that_went_on_alone_has_forked_its_own_log(restored: Study) -> None:
    source = restored.members["b"].witness
    lost = restored.log.size()
    leaves = source.entries(lost, source.position().size)
    restored.say(*[ACCESS] * (len(leaves) + 3))
    restored.log.checkpoint()
    with pytest.raises(CosignatureRefused):
        restored.members["b"].link.receive(source.head())
    with pytest.raises(LogForked, match="not the one"):
        source.accept(restored.members["b"].link.head())
    with pytest.raises(LogDamaged, match="two histories"):
        restored.log.recover(source.pin(), leaves, "b", "disk failed")
    restored.close()


def test_a_copy_that_was_tampered_with_is_not_taken_back(restored: Study) -> None:
    lost = restored.log.size()
    source = restored.members["b"].witness
    leaves = list(source.entries(lost, source.position().size))
    leaves[0] = leaves[0].replace(b"allowed", b"denied")
    with pytest.raises(LogDamaged, match="does not continue"):
        restored.log.recover(source.pin(), leaves, "b", "disk failed")
    assert restored.log.size() == lost
    restored.close()
