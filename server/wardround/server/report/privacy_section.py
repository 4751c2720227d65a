"""The part of a run report on what the run cost in privacy, per site and data set."""

import math
from collections.abc import Callable
from itertools import groupby
from typing import TypeAlias

from wardround.privacy.presentation.charts import Line
from wardround.privacy.presentation.document import (
    Block,
    Cell,
    Facts,
    Figure,
    Group,
    Note,
    Section,
    Table,
    Tone,
    cell,
    columns,
    number,
    words,
)
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.svg import nice_top
from wardround.privacy.presentation.wording import epsilon, listing, pseudonym
from wardround.server.report.model import MechanismFacts, RunReport, SpendFacts, Text

Spends: TypeAlias = tuple[SpendFacts, ...]
Reader: TypeAlias = Callable[[SpendFacts], list[str]]


def privacy_section(report: RunReport) -> Section:
    """Return parameters, spends and recomputation, each of one data set of one site."""
    blocks: list[Block] = [
        words(
            "Epsilon (ε) bounds how much one unit's presence can change what leaves a site; "
            "smaller is stronger. Figures are shown to four decimals, rounded up; the JSON beside "
            "this report has them in full. Each holds for one data set at one site, over all its "
            "studies. There is no figure over sites, because the same patient may be at several."
        )
    ]
    accounts = tuple(
        tuple(group)
        for _, group in groupby(report.spends, lambda s: (s.site.value, s.dataset.value))
    )
    if not accounts:
        words_ = words("The log holds no privacy spend for this run: nothing is claimed.")
        blocks.append(Note(Tone.WARNING, "No privacy spend", (words_,)))
        return Section("privacy", "Privacy cost", tuple(blocks))
    if any(spend.unit.value != "patient" for spend in report.spends):
        blocks.append(_unit_note(report))
    blocks.append(_figure(accounts))
    blocks.append(_outside(report))
    blocks += [
        Group(f"{a[0].site.value}: data set {a[0].dataset.value}", _account(a)) for a in accounts
    ]
    return Section("privacy", "Privacy cost", tuple(blocks))


def _unit_note(report: RunReport) -> Note:
    units = sorted({s.unit.value for s in report.spends} - {"patient"})
    return Note(
        Tone.WARNING,
        f"The unit of protection is one {listing(units)}, not one patient",
        (
            words(
                f"A figure per {listing(units)} says less about a patient with several of them. "
                "Read no figure of this kind as one of a patient."
            ),
        ),
    )


def _figure(accounts: tuple[Spends, ...]) -> Figure:
    values = [_float(s.after) for a in accounts for s in a]
    values += [_float(a[-1].budget) for a in accounts]
    top = nice_top(1.08 * max((v for v in values if math.isfinite(v)), default=1.0))
    table = Table(
        "Epsilon by site and round",
        columns(
            "Site", "Data set", "Round", "#ε before", "#ε after", "#ε after, recomputed",
            "#Budget", "Per", "#Ledger entry",
        ),
        tuple(_row(spend) for account in accounts for spend in account),
    )  # fmt: skip
    charts = tuple(_chart(account, _alone(accounts, account[0]), top) for account in accounts)
    return Figure("Epsilon spent per site and round, against its budget", charts, table)


def _chart(account: Spends, alone: bool, top: float) -> Line:
    """Return the panel of one account; figures without bound are told, not drawn."""
    first, last = account[0], account[-1]
    unit, budget = last.unit.value, epsilon(last.budget.value)
    drawn = [(first.round.value - 1, _float(first.before))]
    drawn += [(s.round.value, _float(s.after)) for s in account]
    return Line(
        title=last.site.value if alone else f"{last.site.value}, {pseudonym(last.dataset.value)}",
        description=f"Epsilon per {unit} goes from {epsilon(first.before.value)} before the run to "
        f"{epsilon(last.after.value)} after round {last.round.value}; the budget is {budget}.",
        points=tuple((x, y) for x, y in drawn if math.isfinite(y)),
        limit=_float(last.budget) if math.isfinite(_float(last.budget)) else None,
        limit_label=f"budget {budget}",
        x_label="Round (0: before the run)",
        y_label=f"ε per {unit}",
        top=top,
    )


def _float(text: Text) -> float:
    return float(text.value)


def _alone(accounts: tuple[Spends, ...], spend: SpendFacts) -> bool:
    return sum(1 for a in accounts if a[0].site.value == spend.site.value) == 1


def _row(spend: SpendFacts) -> tuple[Cell, ...]:
    return (
        cell(spend.site),
        cell(spend.dataset, pseudonym),
        cell(spend.round),
        number(spend.before, epsilon),
        number(spend.after, epsilon),
        number(spend.recomputed, epsilon)
        if spend.recomputed
        else Cell("not done", Source.VERIFIED),
        number(spend.budget, epsilon),
        cell(spend.unit),
        number(spend.ledger_sequence),
    )


def _account(account: Spends) -> tuple[Block, ...]:
    first, last = account[0], account[-1]
    steps = sum(m.steps for s in account for m in s.mechanisms.value)
    entries = tuple(i for s in account for i in s.mechanisms.entries)
    return (
        Facts(
            (
                ("Unit of protection", (cell(last.unit),)),
                ("Neighbouring relation", (cell(last.relation),)),
                ("Clipping norm", (_all(account, lambda s: [s.clip.value]),)),
                (
                    "Noise multiplier σ",
                    (_all(account, lambda s: [m.noise_multiplier for m in s.mechanisms.value]),),
                ),
                ("Mechanism", (_all(account, lambda s: [m.kind for m in s.mechanisms.value]),)),
                (
                    "Sampling really used",
                    (_all(account, lambda s: [_sampling(m) for m in s.mechanisms.value]),),
                ),
                ("Noisy steps in this run", (Cell(f"{steps:,}", Source.SITE, entries),)),
                ("δ", (cell(last.delta),)),
                ("Accountant", (_all(account, lambda s: [s.accountant.value]),)),
                ("ε before this run", (cell(first.before, epsilon),)),
                ("ε after this run", (cell(last.after, epsilon),)),
                (
                    "ε after this run, recomputed",
                    (
                        cell(last.recomputed, epsilon)
                        if last.recomputed
                        else Cell("not done", Source.VERIFIED),
                    ),
                ),
                ("ε of this study alone", (cell(last.study, epsilon),)),
                ("Budget of the data set", (cell(last.budget, epsilon),)),
                (
                    "ε for those who see only the sum, with noise shared between sites",
                    (
                        cell(
                            last.shared_noise, lambda e: epsilon(e) if e else "noise is not shared"
                        ),
                    ),
                ),
            )
        ),
    )


def _sampling(mechanism: MechanismFacts) -> str:
    return f"{mechanism.sampling}, rate {mechanism.sample_rate}"


def _all(account: Spends, read: Reader) -> Cell:
    """Return the different values that `read` finds over the account, in order."""
    found = dict.fromkeys(value for spend in account for value in read(spend))
    entries = tuple(spend.mechanisms.entries[0] for spend in account if spend.mechanisms.entries)
    return Cell(", then ".join(found) or "none", Source.SITE, entries)


def _outside(report: RunReport) -> Table:
    found: dict[tuple[str, str], list[int]] = {}
    for spend in report.spends:
        for release in spend.outside.value:
            found.setdefault((spend.site.value, release), []).extend(spend.outside.entries)
    return Table(
        "Releases outside the accountant: what left a site and no ε covers",
        columns("Site", "What was released", "#Rounds"),
        tuple(
            (
                Cell(site, Source.SITE, tuple(entries)),
                Cell(release, Source.SITE),
                Cell(str(len(entries)), Source.SITE, (), "number"),
            )
            for (site, release), entries in found.items()
        ),
        "The sites name none. Sizes, times and who took part are always visible.",
    )
