"""A site's report over a period, made from a study that really ran."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from wardround.client.database import session
from wardround.client.errors import LogRefused
from wardround.client.ledger import Ledger
from wardround.client.site_report import SiteReport, build_site_report, write_site_report
from wardround.client.site_report.document import site_document
from wardround.client.spend import Reservation
from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.errors import ReportError
from wardround.privacy.events import Refusal
from wardround.privacy.loghead import LogHead
from wardround.privacy.presentation.html import render_html
from wardround.privacy.presentation.marks import Source

# The study's clock starts on 15 January 2027; ten years hold everything.
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2030, 1, 1, tzinfo=UTC)


def load_study() -> Any:
    """Return the module of the study that the tests of the audit log play."""
    path = Path(__file__).parent.parent / "server" / "audit" / "audit_study.py"
    spec = importlib.util.spec_from_file_location("site_report_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A study run to its end; site a keeps a ledger with a budget and two rounds."""
    made = load_study().Study(tmp_path_factory.mktemp("study"))
    made.run_all()
    yield made
    made.close()


@pytest.fixture(scope="module")
def ledger(study: Any) -> Ledger:
    """The ledger of site a."""
    ledger = Ledger(study.members["a"].witness.engine, clock=study.clock)
    ledger.set_budget("cohort-1", Decimal(8), Decimal("1e-5"))
    event = PrivacyEvent.gaussian(1.1, 0.05, 20, unit="patient", relation="add-remove")
    for number in (1, 2):
        held = ledger.reserve(
            run="run-1", study="study-1", dataset="cohort-1", round=number, events=[event]
        )
        assert isinstance(held, Reservation)
        ledger.commit(held.id, [event])
    return ledger


@pytest.fixture(scope="module")
def report(study: Any, ledger: Ledger) -> SiteReport:
    """The report of site a over everything."""
    return build_site_report(study.members["a"].witness, ledger, START, END)


def page_text(report: SiteReport) -> str:
    """Return the words of a report's page."""
    page = render_html(site_document(report))
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


def test_all_is_held_and_in_order(report: SiteReport) -> None:
    document = site_document(report)
    assert document.verdict.label == "In order"
    assert report.chain.problems == ()
    assert report.chain.receipts.value == report.chain.statements.value == len(report.egress)


def test_egress_lists_every_update_with_digest_and_size(study: Any, report: SiteReport) -> None:
    updates = [one for one in report.egress if one.kind.value == "update"]
    assert [one.round.value for one in updates] == [1, 2, 3]
    for one in updates:
        known = study.uploads[one.round.value]["a"]
        assert one.digest.value == known.digest
        assert one.size.value > known.size
        assert one.recipient.value == "coordinator"
        assert one.encryption.value == "wardround-secagg-1"
        assert one.digest.source is Source.SITE
        assert one.entry.value > 0


def test_shared_noise_has_both_epsilons(study: Any) -> None:
    ledger = Ledger(study.members["b"].witness.engine, clock=study.clock)
    ledger.set_budget("shared", Decimal(3), Decimal("1e-5"), audience="aggregate")
    event = PrivacyEvent.gaussian(3, 0.5, 1, unit="patient", relation="add-remove", honest=4)
    held = ledger.reserve(run="r", study="s", dataset="shared", round=1, events=[event])
    ledger.commit(held.id, [event])
    report = build_site_report(study.members["b"].witness, ledger, START, END)
    (account,) = report.accounts
    for_all, for_the_sum = (
        epsilon([event], Decimal("1e-5"), audience=audience)
        for audience in ("everyone", "aggregate")
    )
    assert (account.closing.value, account.otherwise.value) == (for_the_sum.text, for_all.text)
    assert account.sampling.value == "poisson"
    assert "Closing ε against everyone" in page_text(report)


def test_run_and_decisions(report: SiteReport) -> None:
    (run,) = report.runs
    assert (run.run.value, run.outcome.value, run.updates.value) == ("run-1", "completed", 3)
    assert run.closed.value
    assert [one.decision.value for one in report.decisions] == ["approved"]
    assert report.decisions[0].reason.source is Source.EXTERNAL  # it refers to a legal basis
    assert "study-1 – – –" in page_text(report)  # and none is named
    assert [key.step.value for key in report.keys] == ["enrolled"]


def test_account_of_the_data_set(ledger: Ledger, report: SiteReport) -> None:
    (account,) = report.accounts
    spent = list(ledger.book().spent.values())
    assert account.opening.value == "0"
    assert account.closing.value == spent[-1].committed.epsilon_after
    assert account.closing.source is Source.VERIFIED
    assert [(s.rounds.value, s.steps.value) for s in account.spends] == [(2, 40)]
    assert len(account.curve.value) == 2
    assert "per patient" in page_text(report)


def test_words_never_said(report: SiteReport) -> None:
    said = page_text(report)
    never = r"complian|\bcompl(?:y|ies)\b|certif|tamper-?proof|anonym|no patient data"
    assert re.findall(never, said, re.IGNORECASE) == []
    assert "recorded egress" in said


def test_a_period_cuts_statements_not_the_chain(study: Any, ledger: Ledger) -> None:
    witness = study.members["a"].witness
    times = [one.at_ms.value for one in build_site_report(witness, None, START, END).egress]
    middle = datetime.fromtimestamp(times[len(times) // 2] / 1000, UTC)
    before = build_site_report(witness, ledger, START, middle)
    after = build_site_report(witness, ledger, middle, END)
    assert len(before.egress) + len(after.egress) == len(times)
    assert before.chain.statements.value == after.chain.statements.value == len(times)
    assert before.accounts[0].closing.value == "0"
    assert after.accounts[0].opening.value == "0"
    assert after.accounts[0].closing.value != "0"
    none = build_site_report(witness, ledger, END, END + timedelta(days=1))
    assert none.egress == ()
    assert "Nothing left the site in this period" in page_text(none)


@pytest.mark.parametrize(
    ("start", "end", "match"),
    [
        (END, START, "is empty"),
        (START, START, "is empty"),
        (START.replace(tzinfo=None), END, "time zone"),
    ],
)
def test_period_must_make_sense(study: Any, start: datetime, end: datetime, match: str) -> None:
    with pytest.raises(ReportError, match=match):
        build_site_report(study.members["a"].witness, None, start, end)


def test_all_formats_are_written(report: SiteReport, tmp_path: Path) -> None:
    paths = write_site_report(report, tmp_path)
    assert [path.name for path in paths] == [
        "site-report.html",
        "site-report.json",
        "site-report.pdf",
    ]
    value = json.loads(paths[1].read_bytes())
    assert value["kind"] == "Site report"
    assert value["report"]["site"] == {"value": "a", "source": "S", "entries": []}


# -- attacks --------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Any]:
    """A study that has only been prepared: enrolments, a plan, approvals."""
    made = load_study().Study(tmp_path)
    made.prepare()
    yield made
    made.close()


def test_statement_without_receipt_is_open(small: Any) -> None:
    witness = small.members["b"].witness
    witness.statement(Refusal("study-1", "", "", 0, 0, "budget", "too dear"))
    report = build_site_report(witness, None, START, END)
    assert site_document(report).verdict.label == "Open"
    assert report.egress[-1].entry.value == -1
    assert "no receipt" in page_text(report)
    assert wrong(report) == ("warning", ["1 statement without a receipt", "1 refusal by this site"])


def test_what_went_wrong_is_answered_for_less_than_contradictions(report: SiteReport) -> None:
    """A run that was stopped and a refusal are no attack, but they went wrong."""
    (run,) = report.runs
    decision = report.decisions[0]
    refused = replace(decision, decision=replace(decision.decision, value="refused"))
    changed = replace(
        report,
        runs=(replace(run, outcome=replace(run.outcome, value="stopped")),),
        decisions=(decision, refused),
    )
    assert wrong(report) == ("good", ["Nothing is recorded."])
    assert wrong(changed) == ("warning", ["1 run not completed", "1 refusal by this site"])


def wrong(report: SiteReport) -> tuple[str, list[str]]:
    """Return the tone and the lines of the answer to what went wrong."""
    answers = site_document(report).answers
    answer = next(one for one in answers if one.question == "What went wrong?")
    lines = [item.parts[0] for item in answer.body]
    return answer.tone.value, [one if isinstance(one, str) else one.text for one in lines]


def test_statement_removed_from_the_database_is_found(small: Any) -> None:
    witness = small.members["b"].witness
    with session(witness.engine) as database:
        database.execute(text("DELETE FROM witness_statement WHERE sequence = 1"))
    report = build_site_report(witness, None, START, END)
    problems = [problem.value for problem in report.chain.problems]
    assert problems == [
        "statement 1 is missing; 2 follows",
        "the log holds a statement of this site that it did not make",
    ]
    assert site_document(report).verdict.label == "Contradiction"


def test_statement_in_the_sites_name_by_a_stolen_key_is_found(small: Any) -> None:
    """Someone with the site's identity key states something behind the site's back."""
    thief, victim = small.members["a"], small.members["b"]
    with session(victim.witness.engine) as database:
        database.execute(text("DELETE FROM witness_statement WHERE sequence = 3"))
    report = build_site_report(victim.witness, None, START, END)
    assert [problem.value for problem in report.chain.problems] == [
        "the log holds a statement of this site that it did not make"
    ]
    assert build_site_report(thief.witness, None, START, END).chain.problems == ()


def test_statement_with_another_signature_is_found(small: Any) -> None:
    mine, other = small.members["b"].witness, small.members["c"].witness
    with session(other.engine) as database:
        stolen = database.execute(
            text("SELECT envelope FROM witness_statement WHERE sequence = 2")
        ).scalar_one()
    with session(mine.engine) as database:
        database.execute(
            text("UPDATE witness_statement SET envelope = :e WHERE sequence = 2"), {"e": stolen}
        )
    report = build_site_report(mine, None, START, END)
    problems = " | ".join(problem.value for problem in report.chain.problems)
    assert "does not name the one before it" in problems
    assert "signed by a key that is not this site's" in problems
    assert "not at the place of its receipt" in problems


def test_refused_checkpoint_is_told_first(small: Any) -> None:
    witness = small.members["b"].witness
    good = witness.head()
    head = small.members["b"].heads[-1]
    forged = LogHead(small.members["a"].heads[0].note, good.size, (), good.mirrored, (), (), ())
    assert forged.note != head.note
    with pytest.raises(LogRefused):
        witness.accept(forged)
    report = build_site_report(witness, None, START, END)
    assert len(report.refused) == 1
    document = site_document(report)
    assert document.verdict.label == "Contradiction"
    assert "a checkpoint was refused" in page_text(report).lower()
