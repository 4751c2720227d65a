"""What `serve` carries out of what was decided elsewhere, and that one site's matter stays so."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from tests.server.newcomer import newcomer

from wardround.privacy.events import Access, Event, Fault, from_leaf
from wardround.server import config, service
from wardround.server.access import AccessRecord
from wardround.server.desk import Desk
from wardround.server.errors import FlowerRefused
from wardround.server.operations import RunRecord
from wardround.server.service import Service


class Link:
    """Stands for the SuperLink: who is let in, which runs are kept alive."""

    def __init__(self) -> None:
        self.nodes: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}
        self.kept: list[str] = []

    def register_node(self, public_key: bytes, name: str) -> int:
        if name in self.refused:
            raise FlowerRefused(self.refused[name])
        self.nodes[name] = public_key
        return len(self.nodes)

    def unregister_node(self, name: str) -> None:
        self.nodes.pop(name, None)

    def registered(self) -> dict[str, bytes]:
        return dict(self.nodes)

    def keep(self, run: str) -> None:
        self.kept.append(run)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A coordinator with three enrolled sites and a run that was asked for."""
    home = config.create(
        tmp_path / "coordinator",
        origin="service.example/wardround",
        host="127.0.0.1",
        bind="127.0.0.1",
        port=9443,
        internal_port=9440,
    )
    with Desk.open(home) as opened:
        for site in ("north", "south", "west"):
            newcomer(opened, site).join()
        with Session(opened.engine) as database, database.begin():
            database.add(
                RunRecord(
                    run="shapes-1",
                    study="shapes",
                    status="running",
                    round=2,
                    **dict.fromkeys(("stage", "model", "optimiser", "note"), ""),
                    **dict.fromkeys(("created_ms", "updated_ms"), 0),
                    attempt=1,
                    aggregator=b"",
                )
            )
        yield opened


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def served(desk: Desk, link: Link, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service, without its network."""
    monkeypatch.setattr(service, "CoordinatorLink", lambda *_arguments: link)
    made = Service(desk.home)
    yield made
    made._enrolment._engine.dispose()


def events(desk: Desk, kind: type[Event]) -> list[Event]:
    leaves = map(from_leaf, desk.log.entries(0, desk.log.size()))
    return [leaf.event for leaf in leaves if isinstance(leaf.event, kind)]


def test_enrolled_sites_are_let_in_with_the_key_that_is_in_the_log(
    served: Service, link: Link, desk: Desk
) -> None:
    served._reconcile()
    sites = desk.enrolment.federation().sites
    assert link.nodes == {name: keys.supernode for name, keys in sites.items()}
    assert link.kept == ["shapes-1"]


def test_a_revoked_site_is_shut_out_and_a_new_one_let_in(
    served: Service, link: Link, desk: Desk
) -> None:
    served._reconcile()
    desk.enrolment.revoke("south", "key lost", "officer")
    newcomer(desk, "east").join()
    served._reconcile()
    assert set(link.nodes) == {"east", "north", "west"}


def test_a_site_whose_key_changed_while_nobody_served_is_let_in_with_its_new_one(
    served: Service, link: Link, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    served._reconcile()
    link.nodes["south"] = b"an older key"
    monkeypatch.setattr(served, "_loop", lambda: None)
    served._ready()
    served._reconcile()
    assert link.nodes["south"] == desk.enrolment.federation().sites["south"].supernode


def test_a_site_that_flower_does_not_take_holds_up_nobody_and_is_told_of_once(
    served: Service, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    link.refused["north"] = "the SuperNode key of north was shut out before"
    with caplog.at_level(logging.WARNING):
        served._reconcile()
        served._reconcile()
    assert set(link.nodes) == {"south", "west"}
    assert link.kept == ["shapes-1", "shapes-1"]
    assert [record.message for record in caplog.records] == [
        "north cannot be let in: the SuperNode key of north was shut out before"
    ]
    del link.refused["north"]
    served._reconcile()
    assert "north" in link.nodes


def test_a_run_that_flower_gave_up_is_failed_and_in_the_log(served: Service, desk: Desk) -> None:
    served._on_run_end("shapes-1", "its ServerApp failed\n(exit code 1)")
    run = desk.studies.run("shapes-1")
    assert (run.status, run.note) == ("failed", "its ServerApp failed (exit code 1)")
    assert desk.studies.unfinished() == []
    (fault,) = events(desk, Fault)
    assert isinstance(fault, Fault)
    assert (fault.run, fault.round, fault.stage, fault.what) == (
        *("shapes-1", 2, "process"),
        run.note,
    )


@pytest.mark.parametrize("status", ["completed", "stopped", "failed"])
def test_a_run_that_said_itself_how_it_ended_is_left_as_it_is(
    served: Service, desk: Desk, status: str
) -> None:
    with desk.studies.editing("shapes-1") as row:
        row.status = status
    served._on_run_end("shapes-1", None)
    assert desk.studies.run("shapes-1").status == status
    assert events(desk, Fault) == []


def test_a_call_is_logged_without_what_could_be_in_its_path(served: Service, desk: Desk) -> None:
    record = AccessRecord("fleet", "POST", "/v1/fleet/pull-messages", "refused", 401, None, None, 3)
    served._on_access(record)
    served._on_access(AccessRecord("control", "POST", "other", "accepted", 200, "operator", "anna"))
    assert events(desk, Access) == [
        Access("fleet", "POST", "/v1/fleet/pull-messages", "refused", 401, "", "", 3),
        Access("control", "POST", "other", "accepted", 200, "operator", "", 1),
    ]
