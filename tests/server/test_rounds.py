"""A run whose sites do not answer as they should: who it was, what they said, and how it ends."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from tests.server.newcomer import Newcomer, newcomer

from wardround.privacy.conversation import Answer
from wardround.privacy.events import Event, Fault, Refusal, RunEnd, RunStart, from_leaf
from wardround.privacy.loghead import SiteHead
from wardround.privacy.model import TensorLayout
from wardround.privacy.plan import (
    Model,
    Participants,
    Privacy,
    SecureAggregation,
    Study,
    StudyPlan,
    Task,
    Training,
)
from wardround.privacy.statements import Body, Envelope, Statement, sign
from wardround.server import config
from wardround.server.blobs import BlobStore
from wardround.server.config import Rounds
from wardround.server.desk import Desk
from wardround.server.errors import RoundAborted, RunStopped
from wardround.server.exchange import Failure, Reason, Reply, Request
from wardround.server.operations import RunRecord
from wardround.server.rounds import StudyRun

SITES = ("north", "south", "west")
PLAN = StudyPlan(
    study=Study("shapes", "Shapes", "to test", "none"),
    task=Task("tabular", ("no", "yes"), (5,)),
    model=Model("mlp", 1, (TensorLayout("weight", (7,)),)),
    training=Training(2, "local_steps", 2, "adamw", Decimal("0.05")),
    privacy=Privacy(
        *("patient", "add-remove", Decimal(1), Decimal("1.1"), Decimal("0.25")),
        *(Decimal(3), Decimal("1e-5")),
    ),
    secure_aggregation=SecureAggregation(3, 1, 3, 500, Decimal(1)),
    participants=Participants(SITES),
)
ATTEMPTS = 3
Answering = Callable[[str, Request], Reply | Failure]


@dataclass
class Scripted:
    """Stands for the exchange with the sites: each answers by one function."""

    answering: Answering
    online: frozenset[str] = frozenset(SITES)
    asked: list[tuple[str, Request]] = field(default_factory=list)

    def nodes(self) -> frozenset[str]:
        """Who is online."""
        return self.online

    def ask(
        self, requests: Mapping[str, Request], deadline: float
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """Ask every site once."""
        assert deadline > 0
        for site, request in requests.items():
            self.asked.append((site, request))
            yield site, self.answering(site, request)


@dataclass
class Case:
    """A run that was asked for, and what became of it."""

    desk: Desk
    members: dict[str, Newcomer]
    slept: list[float] = field(default_factory=list)

    def run(self, answering: Answering, online: frozenset[str] = frozenset(SITES)) -> Scripted:
        """Execute the run to its end, which is not a good one."""
        exchange = Scripted(answering, online)
        with pytest.raises(RoundAborted):
            self.make(exchange).execute()
        return exchange

    def make(self, exchange: Scripted) -> StudyRun:
        return StudyRun(
            run="shapes-1",
            plan=PLAN,
            roster=self.desk.enrolment.federation().roster(SITES),
            signer=self.desk.signer,
            log=self.desk.log,
            uploads=BlobStore(self.desk.home.blobs),
            models=BlobStore(self.desk.home.models),
            openings=self.desk.home.openings,
            studies=self.desk.studies,
            exchange=exchange,  # type: ignore[arg-type]  # the part of it that is used
            rules=Rounds(exchange_deadline=1, patience=0, attempts=ATTEMPTS),
            sleep=self.slept.append,
        )

    def events(self, kind: type[Event]) -> list[Event]:
        leaves = map(from_leaf, self.desk.log.entries(0, self.desk.log.size()))
        return [leaf.event for leaf in leaves if isinstance(leaf.event, kind)]

    def faults(self) -> list[Fault]:
        return [event for event in self.events(Fault) if isinstance(event, Fault)]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Three enrolled sites and a run that was asked for."""
    home = config.create(
        tmp_path / "coordinator",
        origin="rounds.example/wardround",
        host="127.0.0.1",
        bind="127.0.0.1",
        port=9443,
        internal_port=9440,
    )
    with Desk.open(home) as desk:
        members = {site: newcomer(desk, site) for site in SITES}
        for member in members.values():
            member.join()
        desk.studies.create(PLAN, desk.signer, "researcher")
        with Session(desk.engine) as database, database.begin():
            database.add(
                RunRecord(
                    run="shapes-1",
                    study="shapes",
                    status="requested",
                    **dict.fromkeys(("stage", "model", "optimiser", "note"), ""),
                    **dict.fromkeys(("round", "attempt", "created_ms", "updated_ms"), 0),
                    aggregator=b"",
                )
            )
        yield Case(desk, members)


def silent(_site: str, _request: Request) -> Failure:
    return Failure(Reason.TIMEOUT, "no answer within 1 s")


def answer(**said: object) -> Reply:
    return Reply("hello", Answer(**({"parts": {}} | said)).to_bytes())  # type: ignore[arg-type]  # named by each test


def check_end(case: Case, reason: str) -> None:
    """The run's record and the log's last word say why it ended, in one line."""
    record = case.desk.studies.run("shapes-1")
    assert (record.status, record.stage) == ("failed", "over")
    assert reason in record.note
    assert "\n" not in record.note
    (end,) = case.events(RunEnd)
    assert isinstance(end, RunEnd)
    assert (end.outcome, end.reason) == ("aborted", record.note)
    assert len(case.events(RunStart)) == 1
    assert case.desk.studies.unfinished() == []


def test_a_run_without_its_sites_says_who_must_start(case: Case) -> None:
    exchange = case.run(silent, online=frozenset({"north"}))
    assert exchange.asked == []
    faults = case.faults()
    assert len(faults) == ATTEMPTS
    for fault in faults:
        assert "1 of 3 sites are online; south, west must start" in fault.what
        assert "wardround-site start" in fault.what
    check_end(case, "the sites could not agree on keys")


def test_a_site_that_does_not_answer_is_named_each_time(case: Case) -> None:
    case.run(silent)
    named = [(fault.site, fault.stage) for fault in case.faults() if fault.site]
    assert named == [(site, "set-up") for _ in range(ATTEMPTS) for site in SITES]
    check_end(case, "north: no answer within 1 s; south: no answer within 1 s")
    assert case.slept == [2.0, 4.0, 6.0]


def test_what_a_site_says_in_error_is_one_line_without_markup(case: Case) -> None:
    said = b"boom\n<script>alert(1)</script>\x1b[31m\xff"
    case.run(lambda _site, _request: Reply("error", said))
    for fault in case.faults():
        assert not set("\n<>\x1b") & set(fault.what)
    check_end(case, "boom")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff\xfe", Answer({}).to_bytes()[:-1], b'{"parts":1}']
)
def test_an_answer_that_cannot_be_read_is_a_fault_of_its_site(case: Case, body: bytes) -> None:
    case.run(lambda _site, _request: Reply("hello", body))
    assert {fault.site for fault in case.faults()} == {*SITES, ""}
    check_end(case, "north: ")


@pytest.mark.parametrize("parts", [{}, {"advert": b""}, {"advert": b"\x00" * 99}])
def test_an_answer_without_a_key_advert_is_a_fault_of_its_site(
    case: Case, parts: dict[str, bytes]
) -> None:
    case.run(lambda _site, _request: answer(parts=parts))
    assert {fault.site for fault in case.faults()} == {*SITES, ""}
    check_end(case, "the sites could not agree on keys")


def test_a_refusal_in_words_is_told_and_asked_again(case: Case) -> None:
    exchange = case.run(lambda _site, _request: answer(refusal="the disk is full"))
    assert len(exchange.asked) == ATTEMPTS * len(SITES)
    check_end(case, "west: the disk is full")


def test_a_signed_refusal_is_logged_and_ends_the_run_at_once(case: Case) -> None:
    refusal = Refusal("shapes", PLAN.digest(), "shapes-1", 0, 0, "approval", "not approved here")

    def refuse(site: str, _request: Request) -> Reply:
        member = case.members[site]
        statement = Statement(
            *(case.desk.log.log, site, 2, _enrolled(case.desk, site).digest(), 5, "refusal"),
            Body(refusal.to_json()),
        )
        head = SiteHead(0, 0, "", (sign(statement, member.identity),))
        return answer(refusal="not approved here", head=head)

    exchange = case.run(refuse)
    assert len(exchange.asked) == len(SITES)
    assert case.slept == []
    assert case.events(Refusal) == [refusal] * len(SITES)
    check_end(case, "south: not approved here")


def test_a_statement_in_another_sites_name_is_a_fault_and_not_logged(case: Case) -> None:
    refusal = Refusal("shapes", PLAN.digest(), "shapes-1", 0, 0, "approval", "no")

    def forge(site: str, _request: Request) -> Reply:
        other = SITES[SITES.index(site) - 1]
        body = Body(refusal.to_json())
        statement = Statement(case.desk.log.log, other, 2, "00" * 32, 5, "refusal", body)
        return answer(head=SiteHead(0, 0, "", (sign(statement, case.members[site].identity),)))

    case.run(forge)
    assert case.events(Refusal) == []
    check_end(case, "sends a statement of")


def test_a_site_ahead_of_the_log_tells_that_the_database_is_old(case: Case) -> None:
    case.run(lambda _site, _request: answer(head=SiteHead(10_000, 0, "", ())))
    check_end(case, "the database is an old copy")


def test_a_run_that_was_stopped_before_it_began_asks_nobody(case: Case) -> None:
    case.desk.studies.stop("shapes")
    exchange = Scripted(silent)
    with pytest.raises(RunStopped):
        case.make(exchange).execute()
    assert exchange.asked == []
    record = case.desk.studies.run("shapes-1")
    assert (record.status, record.note) == ("stopped", "an operator stopped it")
    (end,) = case.events(RunEnd)
    assert isinstance(end, RunEnd)
    assert end.outcome == "stopped"


def test_a_run_ends_once_a_site_that_it_cannot_do_without_is_revoked(case: Case) -> None:
    def revoke(site: str, request: Request) -> Failure:
        if site == "west":
            case.desk.enrolment.revoke("west", "key lost", "officer")
        return silent(site, request)

    exchange = Scripted(revoke)
    with pytest.raises(RunStopped):
        case.make(exchange).execute()
    assert len(exchange.asked) == len(SITES)
    check_end(case, "west was revoked: too few sites are left for a sum")


def test_the_coordinators_key_is_not_in_a_runs_repr(case: Case) -> None:
    assert "signer=" not in repr(case.make(Scripted(silent)))


def _enrolled(desk: Desk, site: str) -> Envelope:
    """The statement with which a site was enrolled: its first."""
    leaves = map(from_leaf, desk.log.entries(0, desk.log.size()))
    return next(leaf.envelope for leaf in leaves if leaf.site == site and leaf.envelope)
