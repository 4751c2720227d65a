"""A site's report over a period as a document: first what left the site and whether all is held."""

from datetime import UTC, datetime
from typing import TypeAlias

from wardround.client.site_report.model import SiteReport
from wardround.client.site_report.sections import (
    data_section,
    decisions_section,
    egress_section,
    keys_section,
    limits_section,
    log_section,
    over_budget,
    privacy_section,
)
from wardround.privacy.presentation.document import (
    Answer,
    Cell,
    Document,
    Facts,
    Paragraph,
    Tone,
    Verdict,
    amount,
    cell,
    moment,
    words,
)
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.wording import counted, epsilon, pseudonym

Counted: TypeAlias = tuple[int, str, Source]
"""A number, what it counts as "one|many", and who says so."""

LEGEND = (
    (Source.SITE, "Signed by this site, or from its own privacy ledger."),
    (Source.COORDINATOR, "Asserted by the coordinator in the log."),
    (Source.WITNESSED, "In a checkpoint that this site cosigned."),
    (Source.VERIFIED, "Checked or computed again when this report was made."),
    (Source.EXTERNAL, "Refers to a document that people keep elsewhere; not checked here."),
)


def site_document(report: SiteReport) -> Document:
    """Return the document of a site's report, ready for `presentation`."""
    period = f"{moment(report.start_ms)} to {moment(report.end_ms)}"
    return Document(
        kind="Site report",
        title=Cell(f"{report.site.value}: what left, under which decision, at what cost"),
        subtitle=(cell(report.organisation), f", {period}, made by the site itself."),
        at=datetime.fromtimestamp(report.made_ms // 1000, UTC),
        verdict=_verdict(report),
        answers=(
            _left(report),
            _decided(report),
            _cost(report),
            _held(report),
            _wrong(report),
            _not_shown(),
        ),
        sections=(
            egress_section(report),
            decisions_section(report),
            privacy_section(report),
            log_section(report),
            keys_section(report),
            data_section(report),
            limits_section(report),
        ),
        entries=frozenset(),
        legend=LEGEND,
    )


def _verdict(report: SiteReport) -> Verdict:
    waiting = report.chain.statements.value - report.chain.receipts.value
    over = over_budget(report)
    broken = [
        *(problem.value for problem in report.chain.problems),
        *(f"a checkpoint was refused: {one.reason.value}" for one in report.refused),
        *(f"data set {name} is over its budget" for name in over),
    ]
    if report.log.unreadable:
        broken.append(f"{counted(len(report.log.unreadable), 'entry', 'entries')} of the log "
                      "cannot be read")  # fmt: skip
    if broken:
        tone, label = Tone.BAD, "Contradiction"
        headline = f"{counted(len(broken), 'point needs', 'points need')} attention now."
    elif waiting:
        tone, label = Tone.WARNING, "Open"
        headline = (
            f"{counted(waiting, 'statement')} of this site: the log has not yet been shown to "
            "hold them."
        )
    else:
        tone, label = Tone.GOOD, "In order"
        headline = (
            "Everything this site said is in the log it witnesses, in an unbroken chain, and no "
            "budget is overrun."
        )
    body = tuple(words(Cell(f"{text[:1].upper()}{text[1:]}.", Source.VERIFIED)) for text in broken)
    return Verdict(tone, label, headline, body[:5], _facts(report))


def _facts(report: SiteReport) -> Facts:
    chain, points = report.chain, report.checkpoints
    return Facts(
        (
            ("Site", (cell(report.site),)),
            ("Log witnessed", (cell(report.log.origin),)),
            ("Statements ever made", (cell(chain.statements),)),
            ("Of these proven to be in the log", (cell(chain.receipts),)),
            ("Checkpoints cosigned in the period", (cell(points.cosigned),)),
            ("Entries witnessed", (cell(report.log.witnessed),)),
        )
    )


def _left(report: SiteReport) -> Answer:
    updates = [one for one in report.egress if one.kind.value == "update"]
    size = sum(one.size.value for one in report.egress)
    return Answer(
        "What left this site?",
        (
            words(
                Cell(counted(len(updates), "masked update"), Source.SITE),
                " and ",
                Cell(counted(len(report.egress) - len(updates), "other statement"), Source.SITE),
                ", ",
                Cell(amount(size), Source.SITE),
                " in all: the recorded egress.",
            ),
        ),
        "egress",
    )


def _decided(report: SiteReport) -> Answer:
    approved = sum(1 for one in report.decisions if one.decision.value == "approved")
    refused = len(report.decisions) - approved
    return Answer(
        "Under which decisions?",
        (
            words(Cell(counted(approved, "study plan approved", "study plans approved"),
                       Source.SITE)),
            words(Cell(counted(refused, "refusal"), Source.SITE)),
            words(Cell(counted(len(report.runs), "run"), Source.COORDINATOR), " named this site"),
        ),
        "decisions",
    )  # fmt: skip


def _cost(report: SiteReport) -> Answer:
    lines: list[Paragraph] = []
    for account in report.accounts[:6]:
        per = f" per {account.unit.value}" if account.unit.value else ""
        lines.append(
            words(
                cell(account.dataset, pseudonym),
                ": ε ",
                cell(account.closing, epsilon),
                " of ",
                cell(account.budget, epsilon),
                f"{per}, δ ",
                cell(account.delta),
            )
        )
    if not lines:
        lines.append(words("No data set has a budget."))
    tone = Tone.BAD if over_budget(report) else Tone.GOOD if report.accounts else Tone.NEUTRAL
    return Answer("At what privacy cost?", tuple(lines), "privacy", tone)


def _held(report: SiteReport) -> Answer:
    chain = report.chain
    whole = chain.receipts.value == chain.statements.value and not chain.problems
    return Answer(
        "Does the log hold what this site said?",
        (
            words(
                cell(chain.receipts, lambda n: f"{n:,}"),
                " of ",
                cell(chain.statements, lambda n: f"{n:,}"),
                " statements are proven to be in it.",
            ),
        ),
        "log",
        Tone.GOOD if whole else Tone.WARNING,
    )


def _wrong(report: SiteReport) -> Answer:
    waiting = report.chain.statements.value - report.chain.receipts.value
    refusals = sum(1 for one in report.decisions if one.decision.value == "refused")
    going = ("completed", "not ended")
    unfinished = sum(1 for run in report.runs if run.outcome.value not in going)
    serious: tuple[Counted, ...] = (
        (len(report.chain.problems), "break in the chain|breaks in the chain", Source.VERIFIED),
        (len(report.refused), "checkpoint refused|checkpoints refused", Source.VERIFIED),
        (len(over_budget(report)), "data set over budget|data sets over budget", Source.VERIFIED),
        (len(report.log.unreadable), "unreadable entry|unreadable entries", Source.VERIFIED),
    )
    others: tuple[Counted, ...] = (
        (waiting, "statement without a receipt|statements without a receipt", Source.VERIFIED),
        (unfinished, "run not completed|runs not completed", Source.COORDINATOR),
        (refusals, "refusal by this site|refusals by this site", Source.SITE),
    )
    lines = [
        words(Cell(counted(number, *name.split("|")), source))
        for number, name, source in (*serious, *others)
        if number
    ]
    bad = any(number for number, _, _ in serious)
    tone = Tone.BAD if bad else Tone.WARNING if lines else Tone.GOOD
    section = "decisions" if lines and not bad and not waiting else "log"
    told = tuple(lines) or (words("Nothing is recorded."),)
    return Answer("What went wrong?", told, section, tone)


def _not_shown() -> Answer:
    return Answer(
        "What does this report not show?",
        (
            words("Whether anything left on another way than the recorded one."),
            words("What other sites sent: each makes its own report."),
        ),
        "limits",
    )
