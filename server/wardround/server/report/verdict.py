"""The first page of a run report: the verdict and six short answers."""

import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

from wardround.privacy.presentation.document import (
    Answer,
    Cell,
    Facts,
    Paragraph,
    Tone,
    Verdict,
    amount,
    cell,
    code,
    moment,
    when,
    words,
)
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.wording import counted, epsilon, listing, short
from wardround.privacy.verify.findings import Verification
from wardround.server.report.gaps import Gap
from wardround.server.report.model import RunReport, SpendFacts
from wardround.server.report.spending import against_budget

MOST_SITES_IN_SHORT = 6
MOST_GAPS_IN_SHORT = 3
_WHOSE = (
    "Whoever made this report computed this verdict, with the keys they had. To depend on nobody, "
    "compute it again with keys from the sites themselves: the last section says how."
)

_DIGEST = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")  # the whole one stands in a table

_TONES = {"verified": Tone.GOOD, "incomplete": Tone.WARNING, "tampered": Tone.BAD}
_LABELS = {"verified": "Verified", "incomplete": "Incomplete", "tampered": "Tampered with"}


def verdict(report: RunReport, gaps: tuple[Gap, ...]) -> Verdict:
    """Return what the verifier found, who cosigned, and what that covers.

    Evidence that verifies may tell of what should not be, such as a budget overrun: it is not
    shown as good.
    """
    checked = report.verification
    serious = sum(1 for gap in gaps if gap.serious)
    tone = _TONES[checked.status]
    return Verdict(
        tone=Tone.WARNING if serious and tone is Tone.GOOD else tone,
        label=_LABELS[checked.status],
        headline=_headline(report, serious),
        body=(*_ended(report), *_findings(checked), *_cover(checked), words(_WHOSE)),
        facts=_facts(report),
    )


def _headline(report: RunReport, serious: int) -> str:
    checked = report.verification
    if checked.status == "tampered":
        broken = sum(1 for finding in checked.findings if finding.breaks)
        return (
            f"The evidence contradicts itself at {counted(broken, 'point')}: "
            "do not rely on this report."
        )
    by = f"cosigned by {len(checked.cosigners)} of {counted(len(checked.witnesses), 'site')}"
    if checked.status == "incomplete":
        return (
            f"Nothing in the evidence contradicts itself, but parts of it are missing; it is {by}."
        )
    if serious:
        what = counted(serious, "contradiction between entries", "contradictions between entries")
        return f"The evidence of this run verifies and is {by}, but it shows {what}."
    return f"The evidence of this run verifies and is {by}."


def _ended(report: RunReport) -> Iterator[Paragraph]:
    """Yield how a run that was not completed ended: its evidence may verify all the same."""
    outcome, reason = report.outcome, report.reason.value
    if outcome.value != "completed" and report.ended_ms is not None:
        told = f"{outcome.value}: {reason}" if reason else outcome.value
        yield words("The run was ", Cell(told, outcome.source, outcome.entries), ".")


def _findings(checked: Verification) -> Iterator[Paragraph]:
    for finding in checked.findings[:3]:
        where = "" if finding.entry is None else f" (entry {finding.entry})"
        name = f"{finding.told[:1].upper()}{finding.told[1:]}{where}"
        text = f"{name}: expected {finding.expected}; found {finding.found}."
        yield words(Cell(_DIGEST.sub(r"\1…", text), Source.VERIFIED))
    if (more := len(checked.findings) - 3) > 0:
        yield words(f"{counted(more, 'more finding')}: see findings and gaps.")


def _cover(checked: Verification) -> Iterator[Paragraph]:
    """Yield what the cosignatures cover; of evidence that contradicts itself, nothing."""
    f, n = checked.colluders_covered, len(checked.witnesses)
    if checked.status == "tampered":
        return
    if len(set(checked.cosigners)) < checked.quorum:
        yield words(
            f"The policy asks for {checked.quorum} of {n} cosignatures and the newest checkpoint "
            f"has {len(set(checked.cosigners))}: the coordinator may show others another log."
        )
    elif f is None:
        yield words(
            f"The policy asks for {checked.quorum} of {n} cosignatures. That is too few: the "
            "coordinator could show different logs to different sites even if every site is honest."
        )
    else:
        yield words(
            f"The policy asks for {checked.quorum} of {n} cosignatures. With that, two different "
            f"versions of this log cannot both be accepted unless more than {f} of the {n} sites "
            "work together with the coordinator."
        )


def _facts(report: RunReport) -> Facts:
    checked = report.verification
    cosigners = listing(checked.cosigners)
    f = checked.colluders_covered
    items: list[tuple[str, tuple[Cell, ...]]] = [
        ("Run", (code(report.run), cell(report.outcome))),
        (
            "Log covered by the checkpoint",
            (
                Cell(counted(checked.size, "entry", "entries"), Source.WITNESSED),
                Cell(checked.root, Source.WITNESSED, style="code"),
            ),
        ),
        ("Cosigned by", (Cell(cosigners, Source.VERIFIED),)),
        (
            "Quorum q, witnesses n, colluders covered f",
            (
                Cell(
                    f"q = {checked.quorum}, n = {len(checked.witnesses)}, "
                    f"f = {'none' if f is None else f}",
                    Source.VERIFIED,
                ),
            ),
        ),
        ("Study plan", (code(report.plan.digest),)),
        ("Run started", (when(report.started_ms),)),
    ]
    if report.ended_ms is not None:
        items.append(("Run ended", (when(report.ended_ms),)))
    if checked.time_ms:
        items.append(("Newest cosignature", (Cell(moment(checked.time_ms), Source.WITNESSED),)))
    return Facts(tuple(items))


def answers(report: RunReport, gaps: tuple[Gap, ...]) -> tuple[Answer, ...]:
    """Return the six answers that a reader with five minutes needs."""
    found = (
        _exchanged(report),
        _by_whom(report),
        _approved(report, gaps),
        _cost(report),
        _went_wrong(report, gaps),
        _not_shown(),
    )
    if report.verification.status != "tampered":
        return found
    return tuple(  # nothing looks good that rests on evidence which contradicts itself
        replace(one, tone=Tone.WARNING) if one.tone is Tone.GOOD else one for one in found
    )


def _exchanged(report: RunReport) -> Answer:
    size = sum(update.total_size.value for update in report.updates)
    entries = tuple(i for update in report.updates for i in update.site.entries)
    opened = {r.round.value for r in report.rounds if r.aggregate}
    trained, planned = len(opened - report.final_rounds), report.plan.rounds.value
    evaluated = bool(opened & report.final_rounds)
    return Answer(
        "What was exchanged?",
        (
            words(
                "The sites record ",
                Cell(counted(len(report.updates), "masked update"), Source.SITE, entries),
                " with ",
                Cell(amount(size), Source.SITE, entries),
                " sent to the coordinator, and the coordinator records ",
                Cell(counted(len(opened), "opened sum"), Source.COORDINATOR),
                ": ",
                Cell(f"{trained} of {counted(planned, 'training round')}", Source.COORDINATOR),
                " and ",
                Cell("1 evaluation" if evaluated else "no evaluation", Source.COORDINATOR),
                " of the final model.",
            ),
            words("Each update left its site masked: alone it reads like random numbers."),
        ),
        "exchange",
    )


def _by_whom(report: RunReport) -> Answer:
    lines: list[Paragraph] = []
    for site in report.sites[:MOST_SITES_IN_SHORT]:
        share = f"in {site.included.value} of {counted(site.invited.value, 'sum')}"
        lines.append(
            words(Cell(site.site.value, site.site.source), ": ", Cell(share, Source.COORDINATOR))
        )
    if (more := len(report.sites) - MOST_SITES_IN_SHORT) > 0:
        lines.append(words(f"And {counted(more, 'more site')}."))
    return Answer("By whom?", tuple(lines), "sites")


def _approved(report: RunReport, gaps: tuple[Gap, ...]) -> Answer:
    plan = report.plan
    agreed = sorted({a.site.value for a in report.approvals if a.same_plan.value})
    missing = [s.site.value for s in report.sites if s.site.value not in agreed]
    entries = tuple(i for a in report.approvals for i in a.site.entries)
    digest = Cell(short(plan.digest.value), plan.digest.source, plan.digest.entries, "code")
    body = [
        words("Plan ", digest, ", approved by ", Cell(listing(agreed), Source.SITE, entries), "."),
        words("Purpose: ", cell(plan.purpose)),
        words("Legal basis: ", cell(plan.legal_basis)),
    ]
    if missing:
        body.insert(
            1, words("No approval in the log: ", Cell(listing(missing), Source.VERIFIED), ".")
        )
    serious = any(gap.serious and "approval" in gap.words for gap in gaps)
    tone = Tone.BAD if serious else Tone.WARNING if missing else Tone.GOOD
    return Answer("Under which approval?", tuple(body), "approval", tone)


def _cost(report: RunReport) -> Answer:
    last: dict[tuple[str, str], SpendFacts] = {}
    for spend in report.spends:
        last[spend.site.value, spend.dataset.value] = spend
    lines = []
    for spend in list(last.values())[:MOST_SITES_IN_SHORT]:
        kept = against_budget(spend)
        lines.append(
            words(
                cell(spend.site),
                ": ε ",
                cell(kept, epsilon),
                " of ",
                cell(spend.budget, epsilon),
                f" per {spend.unit.value}, δ ",
                cell(spend.delta),
                "" if kept is spend.after else ", for those who see only the sum",
            )
        )
    over = any(Decimal(against_budget(s).value) > Decimal(s.budget.value) for s in last.values())
    if (more := len(last) - MOST_SITES_IN_SHORT) > 0:
        lines.append(words(f"And {counted(more, 'more data set')}."))
    if not lines:
        lines.append(words("No privacy spend is in the log."))
    else:
        again = sum(1 for spend in report.spends if spend.recomputed)
        told = f"{again} of {counted(len(report.spends), 'spend')}"
        lines.append(words("Computed again by the verifier: ", Cell(told, Source.VERIFIED), "."))
    lines.append(
        words("Each figure is of one data set. They are not added up: patients may be in several.")
    )
    tone = Tone.BAD if over else Tone.WARNING if not last else Tone.GOOD
    return Answer("At what privacy cost?", tuple(lines), "privacy", tone)


def _went_wrong(report: RunReport, gaps: tuple[Gap, ...]) -> Answer:
    serious = sum(1 for gap in gaps if gap.serious)
    dropped = sum(len(r.dropped) for r in report.rounds)
    aborted = sum(1 for r in report.rounds if r.outcome.value == "aborted")
    denied = sum(a.calls.value for a in report.access if a.refused)
    counts: tuple[tuple[int, str, Source], ...] = (
        (len(report.verification.findings), "finding of the verifier|findings of the verifier",
         Source.VERIFIED),
        (serious, "contradiction between entries|contradictions between entries", Source.VERIFIED),
        (len(report.faults), "fault|faults", Source.COORDINATOR),
        (aborted, "aborted attempt at a round|aborted attempts at rounds", Source.COORDINATOR),
        (dropped, "drop-out|drop-outs", Source.COORDINATOR),
        (len(report.refusals), "refusal by a site|refusals by sites", Source.SITE),
        (denied, "refused call of the API|refused calls of the API", Source.COORDINATOR),
    )  # fmt: skip
    lines = [*_ended(report)]
    lines += [
        words(Cell(counted(number, *name.split("|")), source))
        for number, name, source in counts
        if number
    ]
    if (open_points := len(gaps) - serious) > 0:
        lines.append(words(Cell(counted(open_points, "open point"), Source.VERIFIED)))
    lines += _named(gaps)
    bad = serious or report.verification.status == "tampered"
    tone = Tone.BAD if bad else Tone.WARNING if lines else Tone.GOOD
    if not lines:
        lines.append(words("Nothing is recorded."))
    return Answer("What went wrong?", tuple(lines), "findings", tone)


def _named(gaps: tuple[Gap, ...]) -> Iterator[Paragraph]:
    """Yield the first gaps in words, the same one of several subjects once."""
    subjects: dict[str, list[str]] = {}
    for gap in gaps:
        subjects.setdefault(gap.words, []).append(gap.subject)
    for told, who in list(subjects.items())[:MOST_GAPS_IN_SHORT]:
        shown = listing(who) if len(who) <= MOST_SITES_IN_SHORT else counted(len(who), "site")
        yield words(Cell(f"{shown}: {told[:1].lower()}{told[1:]}", Source.VERIFIED))
    if (more := len(subjects) - MOST_GAPS_IN_SHORT) > 0:
        yield words(f"And {more:,} more.")


def _not_shown() -> Answer:
    return Answer(
        "What does the evidence not show?",
        (
            words("Whether anything left a site on another way than the recorded one."),
            words("Whether a site's data are what it says, or its noise was really drawn."),
            words("Whether a law is met: that is for people to judge."),
        ),
        "limits",
    )
