"""The part of a run report on what the sites exchanged, round by round, and who learned what."""

from wardround.privacy.presentation.charts import Bars, Grid, Presence
from wardround.privacy.presentation.document import (
    Block,
    Cell,
    Figure,
    Group,
    Paragraph,
    Section,
    Table,
    amount,
    cell,
    code,
    columns,
    number,
    when,
    words,
)
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.presentation.wording import (
    attempt,
    counted,
    grouped,
    listing,
    spans,
    yes,
)
from wardround.server.report.model import RoundFacts, RunReport


def exchange_section(report: RunReport) -> Section:
    """Return participation, traffic, rounds and every recorded update."""
    intro = words(
        "The updates below are the recorded egress of this run: what each site signed that it "
        "sent, with digest and size. A statement tells what was sent; it cannot tell that nothing "
        "else was."
    )
    return Section(
        "exchange",
        "What was exchanged",
        (
            intro,
            _participation(report),
            _traffic(report),
            Group("Who learned what", (_learned(report),)),
            Group("Rounds", (_about_rounds(report), *_rounds(report))),
            Group("Updates", (_updates(report),)),
        ),
    )


def _participation(report: RunReport) -> Figure:
    numbers = sorted({number for _, states in report.participation for number, _ in states})
    rows = []
    for site, states in report.participation:
        by_round = dict(states)
        rows.append((site, tuple(by_round.get(n, Presence.ABSENT) for n in numbers)))
    told = "; ".join(
        f"{site}: {sum(1 for s in states if s is Presence.INCLUDED)} of {len(numbers)} in the sum"
        for site, states in rows
    )
    final = report.final_rounds
    names = tuple("final" if n in final else str(n) for n in numbers)
    chart = Grid("Participation", told, names, tuple(rows), "Round")
    table = Table(
        "Rounds of each site, by what it did in them",
        columns("Site", *(state.value for state in Presence)),
        tuple(
            (
                Cell(site, Source.COORDINATOR),
                *(
                    Cell(_rounds_of(state, numbers, states, final), Source.COORDINATOR)
                    for state in Presence
                ),
            )
            for site, states in rows
        ),
        "No round was started.",
    )
    return Figure("Participation of each site in each round", (chart,), table)


def _traffic(report: RunReport) -> Figure:
    up: dict[int, int] = {}
    entries: dict[int, list[int]] = {}
    for update in report.updates:
        up[update.round.value] = up.get(update.round.value, 0) + update.total_size.value
        entries.setdefault(update.round.value, []).extend(update.site.entries)
    recorded: dict[int, tuple[int, int]] = {}
    for facts in report.rounds:
        before = recorded.get(facts.round.value, (0, 0))
        recorded[facts.round.value] = (
            before[0] + facts.bytes_up.value, before[1] + facts.bytes_down.value,
        )  # fmt: skip
    final = report.final_rounds
    chart = Bars(
        "Bytes the sites sent per round",
        "; ".join(f"round {n}: {amount(up.get(n, 0))}" for n in recorded),
        tuple(("final" if n in final else str(n), float(up.get(n, 0))) for n in recorded),
        tuple(amount(up.get(n, 0)) for n in recorded),
        "Round",
        "Bytes",
    )
    table = Table(
        "Bytes per round",
        columns(
            "Round",
            "#Updates as the sites signed, bytes",
            "#Received in all, bytes",
            "#Sent to sites, bytes",
        ),
        tuple(
            (
                Cell(attempt(n, final=n in final), Source.COORDINATOR),
                Cell(f"{up.get(n, 0):,}", Source.SITE, tuple(entries.get(n, ())), "number"),
                Cell(f"{received:,}", Source.COORDINATOR, (), "number"),
                Cell(f"{given:,}", Source.COORDINATOR, (), "number"),
            )
            for n, (received, given) in recorded.items()
        ),
    )
    return Figure("Bytes sent by the sites, by round", (chart,), table)


def _about_rounds(report: RunReport) -> Paragraph:
    final = listing(str(n) for n in sorted(report.final_rounds))
    told = f"Round {final} is the last: it trains nothing and" if final != "none" else "A last one"
    return words(
        "Each training round opens one sum: an update of the model, and how well the model before "
        f"it did. {told} only evaluates the model that training led to. Keys are agreed once, "
        "before round 1, without a sum."
    )


def _rounds(report: RunReport) -> tuple[Block, ...]:
    rounds = Table(
        "Rounds, each attempt at them",
        columns(
            "Round", "Purpose", "Started", "In the sum", "Outcome", "#Weight, samples",
            "Added up again",
        ),
        tuple(
            (
                _attempt(report, r.round, r.attempt),
                cell(r.purpose),
                when(r.started_ms),
                cell(r.survivors, listing if r.aggregate else lambda _: "none"),
                _outcome(r),
                _samples(report, r),
                _replayed(r.aggregate.replayed is not None) if r.aggregate else Cell("–"),
            )
            for r in report.rounds
        ),
        "No round was started.",
    )  # fmt: skip
    dropped = Table(
        "Drop-outs",
        columns("Round", "Site", "Stage", "Reason"),
        tuple(
            (
                _attempt(report, r.round, r.attempt),
                cell(d.site),
                cell(d.stage),
                cell(d.reason),
            )
            for r in report.rounds
            for d in r.dropped
        ),
        "No site dropped out.",
    )
    digests = Table(
        "Opened sums and the models they led to",
        columns("Round", "Digest of the sum", "Digest of the next model"),
        tuple(
            (
                _attempt(report, r.round, r.attempt),
                code(r.aggregate.digest),
                code(r.aggregate.model_digest),
            )
            for r in report.rounds
            if r.aggregate
        ),
        "No sum was opened.",
    )
    return rounds, dropped, digests


def _outcome(facts: RoundFacts) -> Cell:
    told = ": ".join(filter(None, (facts.outcome.value, facts.reason.value)))
    return Cell(told, facts.outcome.source, facts.outcome.entries)


def _samples(report: RunReport, facts: RoundFacts) -> Cell:
    if facts.aggregate is None or facts.round.value in report.final_rounds:
        return Cell("–", facts.round.source)
    if report.group_mode.value:
        return Cell("hidden", facts.aggregate.weight.source, facts.aggregate.weight.entries)
    return number(facts.aggregate.weight, grouped)


def _learned(report: RunReport) -> Table:
    """What the protocol lets each party learn in the mode of this run."""
    who = "who took part; sizes and times"
    total = "sum of the updates, number of samples and evaluation, over the sites of each sum"
    one = "any one site's update"
    hidden = report.group_mode.value
    rows = [
        ("Coordinator", f"{who}; digests of the models" if hidden else f"{who}; {total}", one),
        ("Each site", f"{who}; {total}; the models", one),
        (
            "Whoever verifies this log",
            f"{who}; digests of sums and models"
            if hidden
            else f"{who}; with the retained uploads, what the coordinator learned",
            one,
        ),
    ]
    if colluders := report.plan.colluders.value:
        part = "of each sum, the part of all other sites together, two of them or more"
        together = f"Coordinator with up to {counted(colluders, 'site')}"
        rows.append((together, f"{who}; {part}", "any one other site's update"))
    mode = (
        "group mode: only the sites can read a sum" if hidden else "the coordinator reads the sums"
    )
    return Table(
        f"What the protocol shows to whom ({mode})",
        columns("Who", "Learns", "Does not learn"),
        tuple(
            tuple(Cell(text, report.group_mode.source, report.group_mode.entries) for text in row)
            for row in rows
        ),
        "None.",
    )


def _updates(report: RunReport) -> Table:
    return Table(
        "Every update: what a site signed that it sent",
        columns(
            "Round", "Site", "Digest of the masked vector", "#Sent", "Recipient", "Encryption",
            "Confirmed at closing",
        ),
        tuple(
            (
                _attempt(report, u.round, u.attempt),
                cell(u.site),
                code(u.digest),
                number(u.total_size, amount),
                cell(u.recipient),
                cell(u.encryption),
                cell(u.confirmed, yes),
            )
            for u in report.updates
        ),
        "No update is in the log.",
    )  # fmt: skip


def _rounds_of(
    state: Presence, numbers: list[int], states: tuple[Presence, ...], final: frozenset[int]
) -> str:
    found = [n for n, one in zip(numbers, states, strict=True) if one is state]
    parts = (
        spans([n for n in found if n not in final]),
        *(attempt(n, final=True) for n in found if n in final),
    )
    return ", ".join(filter(None, parts)) or "–"


def _attempt(report: RunReport, number: Marked[int], nth: Marked[int]) -> Cell:
    name = attempt(number.value, nth.value, final=number.value in report.final_rounds)
    return Cell(name, number.source, number.entries)


def _replayed(done: bool) -> Cell:
    return Cell("yes" if done else "no", Source.VERIFIED)
