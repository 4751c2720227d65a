"""Reads the accounts of a site's data sets over a period from its privacy ledger."""

from decimal import Decimal

from wardround.client.ledger import Ledger
from wardround.client.ledger_statement import SpendLine, Statement, statements
from wardround.client.site_report.model import AccountFacts, SpendFacts
from wardround.privacy.plan import decimal_text
from wardround.privacy.presentation.marks import Marked, Source


def account_facts(ledger: Ledger, since_ms: int, until_ms: int) -> tuple[AccountFacts, ...]:
    """Return one account per data set with a budget; prices are computed anew from the events."""
    found = statements(ledger.book(), since_ms=since_ms, until_ms=until_ms)
    return tuple(_account(statement) for statement in found)


def _account(statement: Statement) -> AccountFacts:
    account, closing = statement.account, statement.closing
    return AccountFacts(
        dataset=_site(statement.dataset),
        unit=_site(closing.unit),
        relation=_site(closing.relation),
        sampling=_site(closing.sampling),
        delta=_site(account.budget.delta),
        against=_site(account.budget.audience),
        budget=_site(account.budget.epsilon),
        opening=_again(statement.opening.text),
        closing=_again(closing.text),
        otherwise=_again(statement.otherwise.text if statement.otherwise else ""),
        held=_again(account.held.text),
        left=_again(decimal_text(account.left)),
        accountant=_again(f"{closing.accountant} {closing.version}"),
        spends=tuple(_spend(line) for line in statement.lines),
        curve=Marked(
            tuple(_text(value) for _, value in statement.curve),
            Source.SITE,
        ),
    )


def _spend(line: SpendLine) -> SpendFacts:
    return SpendFacts(
        at_ms=Marked(line.last_ms, Source.SITE),
        study=_site(line.study),
        run=_site(line.run),
        rounds=Marked(line.rounds, Source.SITE),
        steps=Marked(line.steps, Source.SITE),
        mechanisms=_site("; ".join(line.mechanisms)),
        after=_site(
            "inf" if not line.epsilon_after.is_finite() else decimal_text(line.epsilon_after)
        ),
    )


def _text(epsilon: Decimal) -> str:
    return decimal_text(epsilon) if epsilon.is_finite() else "inf"


def _site(text: str) -> Marked[str]:
    return Marked(text, Source.SITE)


def _again(text: str) -> Marked[str]:
    return Marked(text, Source.VERIFIED)
