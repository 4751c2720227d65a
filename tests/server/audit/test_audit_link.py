"""The exchange about the log between the coordinator and one site."""

from dataclasses import replace
from pathlib import Path

import pytest
from audit_study import Study

from wardround.privacy.events import Access, Fault
from wardround.privacy.loghead import SiteHead
from wardround.server import loglink
from wardround.server.errors import CosignatureRefused, StatementRefused
from wardround.server.loglink import LogLink

ACCESS = Access("http", "GET", "/runs", "allowed", 200, "", "")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(tmp_path, sites=("a", "b", "c"))
    made.prepare()
    return made


def test_a_site_that_was_away_catches_up_in_parts(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loglink, "MAX_ENTRIES", 7)
    study.say(*[ACCESS] * 20)
    site = study.members["a"]
    for _ in range(4):
        site.sync()
    where = site.witness.position()
    assert where.mirrored == where.size == study.log.size()
    study.close()


def test_an_entry_larger_than_a_message_still_comes(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loglink, "MAX_ENTRY_BYTES", 10)
    study.say(*[Fault("", 0, 0, "", "upload", "x" * 400)] * 3)
    site = study.members["a"]
    before = site.witness.position().mirrored
    site.sync()
    assert site.witness.position().mirrored == before + 1
    study.close()


def test_a_restarted_coordinator_knows_where_the_site_stood(study: Study) -> None:
    site = study.members["a"]
    site.sync()
    study.say(ACCESS)
    fresh = LogLink(study.log, "a")
    head = fresh.head()
    assert head.since == site.witness.position().size
    site.witness.accept(head)
    study.close()


def test_a_message_lost_on_the_way_back_does_no_harm(study: Study) -> None:
    site = study.members["a"]
    site.witness.closing("run-9")
    said = site.witness.head()
    site.link.receive(said)
    size = study.log.size()
    site.link.receive(said)  # the answer was lost; the site says it again
    assert study.log.size() == size
    site.witness.accept(site.link.head())
    site.witness.require_receipts()
    study.close()


def test_a_site_speaks_for_itself_only(study: Study) -> None:
    a, b = study.members["a"], study.members["b"]
    b.witness.closing("run-9")
    with pytest.raises(StatementRefused, match="statement of b"):
        a.link.receive(replace(a.witness.head(), statements=b.witness.pending()))
    with pytest.raises(CosignatureRefused):
        a.link.receive(replace(a.witness.head(), cosignature=b.witness.head().cosignature))
    study.close()


def test_a_cosignature_of_another_size_is_refused(study: Study) -> None:
    a = study.members["a"]
    study.say(ACCESS)
    study.log.checkpoint()
    line = a.witness.head().cosignature
    with pytest.raises(CosignatureRefused):
        a.link.receive(SiteHead(study.log.size(), 0, line, ()))
    study.close()
