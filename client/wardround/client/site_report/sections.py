"""The parts of a site's report over a period."""

import math
from collections.abc import Iterable
from decimal import Decimal

from wardround.client.site_report.model import AccountFacts, SiteReport
from wardround.privacy.presentation.charts import Bars, Line
from wardround.privacy.presentation.document import (
    Block,
    Bullets,
    Cell,
    Facts,
    Figure,
    Group,
    Note,
    Section,
    Table,
    Tone,
    amount,
    cell,
    code,
    columns,
    moment,
    number,
    when,
    words,
)
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.svg import nice_top
from wardround.privacy.presentation.wording import epsilon, grouped, or_dash, pseudonym, tally


def over_budget(report: SiteReport) -> list[str]:
    """Return the data sets whose closing is above their budget."""
    return [
        account.dataset.value
        for account in report.accounts
        if Decimal(account.closing.value) > Decimal(account.budget.value)
    ]


def egress_section(report: SiteReport) -> Section:
    """Return everything that is recorded to have left the site in the period."""
    listed = Table(
        "Recorded egress of the period",
        columns(
            "No.", "When", "What", "Run, round", "Digest", "#Bytes", "Recipient", "Encryption",
            "Log entry",
        ),
        tuple(
            (
                cell(e.sequence),
                when(e.at_ms),
                cell(e.kind, lambda kind: kind.replace("_", " ")),
                Cell(_place(e.run.value, e.round.value), e.run.source, e.run.entries),
                code(e.digest),
                number(e.size, grouped),
                cell(e.recipient),
                cell(e.encryption),
                cell(e.entry, lambda index: "no receipt" if index < 0 else str(index)),
            )
            for e in report.egress
        ),
        "Nothing left the site in this period, as far as it recorded.",
        cite=False,
    )  # fmt: skip
    return Section("egress", "What left this site", (_traffic(report), listed))


def _traffic(report: SiteReport) -> Block:
    long = report.end_ms - report.start_ms > 62 * 86_400_000
    sizes: dict[str, int] = {}
    for one in report.egress:
        day = moment(one.at_ms.value)[: 7 if long else 10]
        sizes[day] = sizes.get(day, 0) + one.size.value
    name = "month" if long else "day"
    chart = Bars(
        f"Bytes sent by {name}",
        "; ".join(f"{day}: {amount(size)}" for day, size in sizes.items()) or "none",
        tuple((day if long else day[5:], float(size)) for day, size in sizes.items()),
        tuple(amount(size) for size in sizes.values()),
        name.title(),
        "Bytes",
    )
    table = Table(
        f"Bytes recorded as sent, by {name}",
        columns(name.title(), "#Bytes"),
        tuple(
            (Cell(day, Source.SITE), Cell(grouped(size), Source.SITE, (), "number"))
            for day, size in sizes.items()
        ),
        "None.",
    )
    return Figure(f"Bytes recorded as sent, by {name}", (chart,), table) if sizes else table


def decisions_section(report: SiteReport) -> Section:
    """Return approvals, refusals, and the runs that named this site."""
    decided = Table(
        "Decisions that this site signed",
        columns("When", "Decision", "Study", "Run", "Round", "Legal basis, or rule and reason"),
        tuple(
            (
                when(d.at_ms),
                cell(d.decision),
                cell(d.study),
                cell(d.run, or_dash),
                cell(d.round, lambda n: str(n) if n else "–"),
                cell(d.reason, or_dash),
            )
            for d in report.decisions
        ),
        "No decision in this period.",
    )
    runs = Table(
        "Runs that name this site",
        columns("Run", "Study", "Started", "Outcome", "#Updates", "#Sent", "#Refusals", "Closed"),
        tuple(
            (
                cell(r.run),
                cell(r.study),
                when(r.started_ms),
                cell(r.outcome),
                number(r.updates),
                number(r.bytes_sent, amount),
                number(r.refusals),
                cell(r.closed, lambda yes: "yes" if yes else "no"),
            )
            for r in report.runs
        ),
        "No run in this period.",
    )
    return Section("decisions", "Decisions and runs", (decided, runs))


def privacy_section(report: SiteReport) -> Section:
    """Return each data set's account."""
    intro = words(
        "Each account is of one data set, over all studies: opening, spends of the period, "
        "closing. Opening and closing are computed anew from the ledger's events. Epsilons do not "
        "add up. Figures are shown to four decimals, rounded up."
    )
    blocks: list[Block] = [intro]
    if any(account.unit.value == "image" for account in report.accounts):
        text = "Read no figure per image as one of a patient, who may have several."
        heading = "For some data sets the unit of protection is one image"
        blocks.append(Note(Tone.WARNING, heading, (words(text),)))
    blocks += [
        Group(f"Data set {account.dataset.value}", _account(account)) for account in report.accounts
    ]
    if not report.accounts:
        blocks.append(words("No data set has a budget, so none can be used."))
    outside = Bullets(tuple(words(text) for text in report.outside))
    blocks.append(Group("What leaves, or may leave, and no accountant covers", (outside,)))
    return Section("privacy", "Privacy accounts", tuple(blocks))


def _account(account: AccountFacts) -> tuple[Block, ...]:
    unit = account.unit.value or "unit"
    against, other = "everyone", "those who see only the sum"
    if account.against.value != "everyone":
        against, other = other, against
    shared = (
        ((f"Closing ε against {other}", (cell(account.otherwise, epsilon),)),)
        if account.otherwise.value
        else ()
    )
    facts = Facts(
        (
            ("Opening ε", (cell(account.opening, epsilon),)),
            ("Closing ε", (cell(account.closing, epsilon),)),
            ("Budget", (cell(account.budget, epsilon),)),
            ("Left, with what is held for open rounds", (cell(account.left, epsilon),)),
            ("Unit of protection", (cell(account.unit, lambda t: t or "nothing spent yet"),)),
            ("Neighbouring relation", (cell(account.relation, or_dash),)),
            ("δ", (cell(account.delta),)),
            ("Sampling", (cell(account.sampling, or_dash),)),
            ("Holds against", (Cell(against, Source.SITE),)),
            *shared,
            ("Accountant", (cell(account.accountant),)),
        )
    )
    spends = Table(
        f"Spends of the period, data set {account.dataset.value}",
        columns(
            "Last spend", "Study", "Run", "#Rounds", "#Steps", "Noise and sampling", "#ε after"
        ),
        tuple(
            (
                when(s.at_ms),
                cell(s.study),
                cell(s.run),
                number(s.rounds),
                number(s.steps, grouped),
                cell(s.mechanisms),
                number(s.after, epsilon),
            )
            for s in account.spends
        ),
        "Nothing was spent in this period.",
    )
    if len(account.curve.value) < 2:
        return facts, spends
    return facts, Figure(
        f"Epsilon per {unit} over the spends of the period, against the budget",
        (_curve(account, unit),),
        spends,
    )


def _curve(account: AccountFacts, unit: str) -> Line:
    values = [float(value) for value in account.curve.value]
    budget = float(account.budget.value)
    highest = max([budget, *(value for value in values if math.isfinite(value))])
    return Line(
        title=pseudonym(account.dataset.value),
        description=f"Epsilon per {unit} goes from {epsilon(account.opening.value)} to "
        f"{epsilon(account.closing.value)} over {len(values)} spends; "
        f"the budget is {epsilon(account.budget.value)}.",
        points=tuple((n, v) for n, v in enumerate(values, 1) if math.isfinite(v)),
        limit=budget,
        limit_label=f"budget {epsilon(account.budget.value)}",
        x_label="Spend",
        y_label=f"ε per {unit}",
        top=nice_top(highest * 1.08),
    )


def log_section(report: SiteReport) -> Section:
    """Return the check of the chain, receipts, and checkpoints cosigned and refused."""
    log, chain, points = report.log, report.chain, report.checkpoints
    facts = Facts(
        (
            ("Log", (cell(log.origin),)),
            ("Entries witnessed", (cell(log.witnessed, grouped),)),
            ("Entries in this site's copy", (cell(log.mirrored, grouped),)),
            ("Merkle root witnessed", (code(log.root),)),
            ("Statements with a receipt", (cell(chain.receipts, grouped),)),
            ("Statements in all", (cell(chain.statements, grouped),)),
            ("Checkpoints cosigned in the period", (cell(points.cosigned, grouped),)),
            ("From size, to size", (cell(points.first_size), cell(points.last_size))),
        )
    )
    broken = _list("Breaks in the chain of statements", (p.value for p in chain.problems))
    refused = Table(
        "Checkpoints refused: evidence against the log, kept whole at this site",
        columns("When", "Why"),
        tuple((when(r.at_ms), cell(r.reason)) for r in report.refused),
        "None in this period.",
    )
    return Section("log", "Statements and the log", (facts, broken, refused))


def _list(caption: str, texts: Iterable[str]) -> Table:
    rows = tuple((Cell(text, Source.VERIFIED),) for text in texts)
    return Table(caption, columns("What was found"), rows, "None.")


def keys_section(report: SiteReport) -> Section:
    """Return the life of the site's keys, from the beginning."""
    table = Table(
        "Life of this site's identity keys",
        columns("When", "Step", "Fingerprint", "Reason"),
        tuple(
            (when(k.at_ms), cell(k.step), code(k.fingerprint), cell(k.reason, or_dash))
            for k in report.keys
        ),
        "This site has not enrolled.",
    )
    return Section("keys", "Keys", (table,))


def data_section(report: SiteReport) -> Section:
    """Return the de-identification statements of the period, and what they are evidence of."""
    dash = Cell("–")
    table = Table(
        "De-identification stated in the period",
        columns("When", "Data set", "Profile", "Options", "Counts", "Report", "Manifest"),
        tuple(
            (
                when(d.at_ms),
                code(d.dataset),
                cell(d.profile),
                cell(d.options, lambda names: ", ".join(names).replace("_", " ") or "none"),
                Cell(tally(d.counts), Source.SITE, d.dataset.entries),
                code(d.report),
                code(d.manifest),
            )
            for d in report.data
        )
        + tuple(
            (dash, code(name), Cell("no de-identification statement", Source.VERIFIED), *[dash] * 4)
            for name in report.unstated
        ),
        "No de-identification statement was made in this period.",
    )
    meaning = words(
        "A statement is evidence of the profile and options that this site's software applied, and "
        "of what it counted; report and manifest are named by their SHA-256 and kept here. It is "
        "not evidence that nobody can be recognised in the data. A data set of tables, or of "
        "images made by another tool, has no statement."
    )
    return Section("data", "Data preparation", (table, meaning))


def limits_section(report: SiteReport) -> Section:
    """Return what a reader must not conclude."""
    del report
    texts = (
        "That nothing else left the site. It lists the recorded egress; the site's network "
        "records can add to that.",
        "Protocol messages that carry only keys or acknowledgements are not listed one by one.",
        "That people outside need to believe it: it is this site's own account. What it shares "
        "with the log can be checked there by others.",
        "Times are of this site's clock, for runs of the coordinator's.",
        "That a law is met: that is for people to judge.",
    )
    return Section(
        "limits", "What this report does not show", (Bullets(tuple(words(t) for t in texts)),)
    )


def _place(run: str, round_number: int) -> str:
    return f"{run}, {round_number}" if round_number else or_dash(run)
