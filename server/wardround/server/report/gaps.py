"""Looks for what a report's entries leave open or contradict, beyond the verifier's findings."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from wardround.privacy.presentation.wording import counted
from wardround.server.report.model import RunReport, SiteFacts, SpendFacts
from wardround.server.report.spending import against_budget


@dataclass(frozen=True, slots=True)
class Gap:
    """One open point: whom it concerns, what it is, and whether it contradicts a claim."""

    subject: str
    words: str
    serious: bool
    entries: tuple[int, ...] = ()


def gaps(report: RunReport) -> tuple[Gap, ...]:
    """Return every open point, the serious ones first."""
    found = [*_of_log(report), *_of_run(report)]
    for site in report.sites:
        found += _of_site(report, site)
    for spend in report.spends:
        found += _of_spend(spend)
    return tuple(sorted(found, key=lambda gap: not gap.serious))


def _of_log(report: RunReport) -> Iterator[Gap]:
    verification, log = report.verification, report.log
    found = verification.findings
    if log.unreadable:
        words = f"{len(log.unreadable)} entries are not in the form of this log."
        yield Gap("log", words, True, log.unreadable[:20])
    if (tail := log.entries.value - verification.size) > 0:
        yield Gap("log", f"The newest {tail} entries are in no checkpoint yet.", False)
    if not verification.pinned and not any(f.check == "pin" and f.breaks for f in found):
        words = "No pinned checkpoint was given: entries cut off the end of the log together with "
        yield Gap("log", words + "their checkpoints would not be seen.", False)


def _of_run(report: RunReport) -> Iterator[Gap]:
    if report.ended_ms is None:
        yield Gap("run", "The run has no end entry: it goes on, or stopped without notice.", False)
    done = {r.round.value for r in report.rounds if r.aggregate}
    missing = report.plan.rounds.value - len(done - report.final_rounds)
    if missing > 0:
        words = f"{counted(missing, 'planned training round')} without an opened sum."
        yield Gap("run", words, False)
    if missing < 0:
        words = f"{counted(-missing, 'training round')} more than the plan has opened a sum."
        yield Gap("run", words, True)
    if not done & report.final_rounds:
        yield Gap("run", "The final model was not evaluated: no sum of a last round.", False)
    unplayed = [r for r in report.rounds if r.aggregate and not r.aggregate.replayed]
    if unplayed:
        words = f"{len(unplayed)} sums were not added up again from the masked updates."
        yield Gap("run", words, False)
    for facts in report.rounds:
        if facts.aggregate and len(facts.survivors.value) < report.plan.min_cohort.value:
            words = f"Round {facts.round.value} opened a sum over fewer sites than the plan allows."
            yield Gap("run", words, True, facts.survivors.entries)


def _of_site(report: RunReport, site: SiteFacts) -> Iterator[Gap]:
    name = site.site.value
    updates = [one for one in report.updates if one.site.value == name]
    approvals = [a for a in report.approvals if a.site.value == name and a.same_plan.value]
    if updates and not approvals:
        words = "Sent updates without a signed approval of this plan in the log."
        yield Gap(name, words, True, updates[0].digest.entries)
    elif updates and min(a.site.entries for a in approvals) > updates[0].site.entries:
        words = "Its approval entered the log after its first update."
        yield Gap(name, words, True, updates[0].digest.entries)
    if site.revoked is not None:
        yield Gap(name, "Its keys were revoked.", True, site.revoked.entries)
    yield from _of_closing(site, updates_seen=len(updates))
    spent = {one.round.value for one in report.spends if one.site.value == name}
    trained = {r.round.value for r in report.rounds if r.purpose.value == "train"}
    sent = {one.round.value for one in updates} & trained
    if unpaid := sorted(sent - spent):
        words = f"No privacy spend is logged for its updates of rounds {_list(unpaid)}."
        yield Gap(name, words, True)
    left = [one for one in report.spends if one.site.value == name and one.recomputed is None]
    if left:
        words = f"{counted(len(left), 'privacy spend')} not computed again."
        yield Gap(name, words, False, tuple(i for one in left for i in one.after.entries))
    prepared = {d.dataset.value for d in report.data if d.site.value == name}
    used = {s.dataset.value for s in report.spends if s.site.value == name}
    if lacking := sorted(used - prepared):
        words = f"{counted(len(lacking), 'data set')} without a de-identification statement."
        yield Gap(name, words, False)


def _of_closing(site: SiteFacts, updates_seen: int) -> Iterator[Gap]:
    name, closing = site.site.value, site.closing
    if closing is None:
        words = "No closing statement: it does not confirm that all it said is in the log."
        yield Gap(name, words, False)
        return
    if closing.updates.value != updates_seen:
        words = f"Its closing statement counts {closing.updates.value} updates; "
        yield Gap(name, words + f"the log holds {updates_seen}.", True, closing.updates.entries)
    if closing.bytes_sent.value != site.bytes_sent.value:
        words = f"Its closing statement counts {closing.bytes_sent.value} bytes sent; "
        words += f"its updates in the log add up to {site.bytes_sent.value}."
        yield Gap(name, words, True, closing.bytes_sent.entries)


def _of_spend(spend: SpendFacts) -> Iterator[Gap]:
    name, entries = spend.site.value, spend.after.entries
    where = f"round {spend.round.value}, data set {spend.dataset.value}"
    before, after = Decimal(spend.before.value), Decimal(spend.after.value)
    if Decimal(against_budget(spend).value) > Decimal(spend.budget.value):
        yield Gap(name, f"Epsilon is above the data set's budget ({where}).", True, entries)
    if after < before:
        yield Gap(name, f"Epsilon falls, which a ledger never does ({where}).", True, entries)


def _list(values: list[int]) -> str:
    return ", ".join(str(value) for value in values[:12]) + (" …" if len(values) > 12 else "")
