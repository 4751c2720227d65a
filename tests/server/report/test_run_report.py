"""What a run report says, and what it never says."""

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from html import unescape

import pytest

from wardround.privacy.errors import ReportError
from wardround.privacy.events import Access, to_leaf
from wardround.privacy.presentation.charts import Presence
from wardround.privacy.presentation.document import (
    Document,
    Figure,
    Group,
    Paragraph,
    Section,
    Tone,
)
from wardround.privacy.presentation.html import render_html
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.presentation.svg import nice_top
from wardround.privacy.presentation.wording import epsilon, listing, spans
from wardround.privacy.transparency import CompactRange, leaf_hash
from wardround.privacy.verify.findings import Finding, Verification
from wardround.server.report import RunReport, build_report
from wardround.server.report.document import run_document
from wardround.server.report.gaps import gaps
from wardround.server.report.model import AccessFacts, EntryFacts, MechanismFacts
from wardround.server.report.provisions import laws

MakeReport = Callable[..., RunReport]

NEVER_SAID = re.compile(
    r"complian|\bcompl(?:y|ies)\b|certif|tamper-?proof|anonym|no patient data|gdpr-ready|"
    r"guarantees privacy|\btotal (?:epsilon|ε)|(?:epsilon|ε) over all sites",
    re.IGNORECASE,
)


def page_text(report: RunReport) -> str:
    """Return the words of the HTML report, style sheet left out."""
    page = render_html(run_document(report))
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


# -- words that are never said ----------------------------------------------------------------


@pytest.mark.parametrize("unit", ["patient", "image"])
@pytest.mark.parametrize(
    "findings",
    [(), (Finding("signature", 30, "a signature of north", "another key"),)],
    ids=["verified", "tampered"],
)
def test_words_never_said(
    make_report: MakeReport, unit: str, findings: tuple[Finding, ...]
) -> None:
    text = page_text(make_report(unit, {"findings": findings}))
    assert NEVER_SAID.findall(text) == []
    assert "recorded egress" in text


def test_image_unit_is_never_told_per_patient(make_report: MakeReport) -> None:
    text = page_text(make_report("image"))
    assert "per patient" not in text
    assert "per image" in text
    assert "The unit of protection is one image, not one patient" in text


def test_patient_unit_is_told(report: RunReport) -> None:
    assert "ε 3.8155 S of 4 S per patient, δ 0.00001 S" in page_text(report)


def test_no_single_epsilon_over_sites(report: RunReport) -> None:
    finals = {(s.site.value, s.dataset.value): Decimal(s.after.value) for s in report.spends}
    total = epsilon(str(sum(finals.values())))
    assert len(finals) == 4
    assert total not in page_text(report)


# -- marks ------------------------------------------------------------------------------------


def bare_values(value: object, path: str = "report") -> list[str]:
    """Return the paths of values that carry no mark."""
    if isinstance(value, Marked | Verification | EntryFacts | MechanismFacts | Presence):
        return []
    if isinstance(value, AccessFacts):
        return bare_values(value.calls, path)
    if is_dataclass(value):
        return [p for f in fields(value) for p in bare_values(getattr(value, f.name), f.name)]
    if isinstance(value, tuple):
        return [p for item in value for p in bare_values(item, path)]
    return [] if value is None else [path]


def test_every_value_carries_a_mark(report: RunReport) -> None:
    # What is left bare are names of counters, plan terms and the keys of the participation map.
    assert set(bare_values(report)) <= {"details", "metrics", "counters", "counts", "participation"}


def test_marks_follow_who_signed(report: RunReport) -> None:
    assert report.spends[0].after.source is Source.SITE
    assert report.spends[0].recomputed is not None
    assert report.spends[0].recomputed.source is Source.VERIFIED
    assert report.rounds[0].outcome.source is Source.COORDINATOR
    assert report.approvals[0].legal_basis.source is Source.EXTERNAL
    assert report.plan.dpia.source is Source.EXTERNAL


def test_marked_cells_name_their_entry(report: RunReport) -> None:
    page = render_html(run_document(report))
    linked = set(re.findall(r'href="#entry-(\d+)"', page))
    listed = set(re.findall(r'id="entry-(\d+)"', page))
    assert linked
    assert linked <= listed


# -- verdict first ----------------------------------------------------------------------------


def test_verdict_comes_first_with_cosigners(report: RunReport) -> None:
    text = page_text(report)
    first = text.index("Nothing in the evidence contradicts itself")
    for later in ("In short", "Study and approvals", "Privacy cost", "Legal provisions"):
        assert first < text.rindex(later)
    assert "cosigned by 3 of 4 sites" in text
    assert "q = 3, n = 4, f = 1" in text
    assert "unless more than 1 of the 4 sites work together with the coordinator" in text
    assert "Whoever made this report computed this verdict" in text


def test_tampered_evidence_is_told_first(make_report: MakeReport) -> None:
    wrong = Finding("signature", 30, "a signature of north", "another key")
    document = run_document(make_report(verification={"findings": (wrong,)}))
    assert document.verdict.label == "Tampered with"
    assert document.verdict.headline.endswith("do not rely on this report.")
    assert "expected a signature of north" in document.verdict.body[0].parts[0].text  # type: ignore[union-attr]  # a cell
    assert Tone.GOOD not in [answer.tone for answer in document.answers]
    assert "cannot both be accepted" not in page_text(
        make_report(verification={"findings": (wrong,)})
    )


def test_evidence_that_verifies_and_shows_a_budget_overrun_is_not_shown_as_good(
    make_report: MakeReport,
) -> None:
    report = make_report(verification={"findings": ()})
    assert run_document(report).verdict.tone is Tone.GOOD
    spend = report.spends[0]
    over = replace(spend, after=replace(spend.after, value="4.1"))
    told = run_document(replace(report, spends=(over, *report.spends[1:]))).verdict
    assert told.tone is Tone.WARNING
    assert told.headline.endswith("but it shows 1 contradiction between entries.")


def test_a_pin_that_did_not_hold_is_not_called_missing(make_report: MakeReport) -> None:
    wrong = Finding("pin", None, "225 entries, root " + "ab" * 32, "root " + "cd" * 32)
    report = make_report(verification={"findings": (wrong,), "pinned": False})
    assert not any("No pinned checkpoint" in gap.words for gap in gaps(report))
    told = run_document(report).verdict.body[0].parts[0].text  # type: ignore[union-attr]  # a cell
    assert "root abababababababab…; found root cdcdcdcdcdcdcdcd…." in told


@pytest.mark.parametrize(
    ("quorum", "cosigners", "words"),
    [
        (2, ("east", "north"), "could show different logs to different sites"),
        (3, ("east",), "has 1: the coordinator may show others another log"),
        (3, ("east", "east", "east"), "has 1: the coordinator may show others another log"),
    ],
)
def test_weak_quorum_is_told(
    make_report: MakeReport, quorum: int, cosigners: tuple[str, ...], words: str
) -> None:
    report = make_report(verification={"quorum": quorum, "cosigners": cosigners})
    assert words in page_text(report)


# -- what happened ----------------------------------------------------------------------------


def test_participation(report: RunReport) -> None:
    states = {site: dict(rounds) for site, rounds in report.participation}
    assert states["east"][4] is Presence.REFUSED
    assert states["west"] == {
        1: Presence.INCLUDED,
        2: Presence.DROPPED,
        3: Presence.INCLUDED,
        4: Presence.INCLUDED,
        5: Presence.INCLUDED,
    }
    assert all(state is Presence.INCLUDED for state in states["north"].values())


def test_the_last_round_is_told_as_an_evaluation(report: RunReport) -> None:
    """A plan of four rounds opens five sums; a reader is told what the fifth is for."""
    text = page_text(report)
    assert "5 opened sums C : 4 of 4 training rounds C and 1 evaluation C of the final" in text
    assert "5 (final)" in text
    assert "Round 5 is the last: it trains nothing" in text
    assert "4 sites, 4 training rounds" in text


@pytest.mark.parametrize(
    ("round_", "words", "serious"),
    [
        (2, "1 planned training round without an opened sum.", False),
        (5, "The final model was not evaluated: no sum of a last round.", False),
    ],
)
def test_a_sum_that_is_missing(
    leaves: list[bytes], checked: Verification, round_: int, words: str, serious: bool
) -> None:
    kind, number = b'"kind":"aggregate"', f'"round":{round_},'.encode()
    fewer = [leaf for leaf in leaves if not (kind in leaf and number in leaf)]
    assert len(fewer) == len(leaves) - 1
    found = gaps(build_report(fewer, verdict_on(fewer, checked)))
    assert (words, serious) in [(gap.words, gap.serious) for gap in found]


def test_more_training_rounds_than_planned(report: RunReport) -> None:
    extra = [r for r in report.rounds if r.round.value == 4]
    again = replace(extra[0], round=replace(extra[0].round, value=6))
    found = gaps(replace(report, rounds=(*report.rounds, again)))
    assert ("1 training round more than the plan has opened a sum.", True) in [
        (gap.words, gap.serious) for gap in found
    ]


def test_calls_told_together_are_all_counted(leaves: list[bytes], checked: Verification) -> None:
    """An entry may stand for many equal calls; the report counts the calls."""
    many = Access("fleet", "POST", "/push", "accepted", 200, "site", "run-7f3a", 75)
    more = [*leaves, to_leaf(many, 1_800_000_000_000, "p-1")]
    report = build_report(more, verdict_on(more, checked))
    assert [one.calls.value for one in report.access if one.api.value == "fleet"] == [75]


def test_open_points_are_named_on_the_first_page(
    leaves: list[bytes], checked: Verification
) -> None:
    fewer = [leaf for leaf in leaves if b'"kind":"deidentification"' not in leaf]
    document = run_document(build_report(fewer, verdict_on(fewer, checked)))
    wrong = next(one for one in document.answers if one.question == "What went wrong?")
    told = " ".join(str(part) for item in wrong.body for part in item.parts)
    assert "east, north, south and west: 1 data set without a de-identification" in told
    assert wrong.tone is Tone.WARNING


def test_an_aborted_attempt_is_kept(report: RunReport) -> None:
    third = [r for r in report.rounds if r.round.value == 3]
    assert [(r.attempt.value, r.outcome.value) for r in third] == [(1, "aborted"), (2, "completed")]
    assert third[0].aggregate is None
    assert {d.site.value for d in third[0].dropped} == {"north", "west"}


def test_why_an_attempt_was_aborted_is_told(report: RunReport) -> None:
    text = page_text(report)
    assert "1 aborted attempt at a round" in text
    assert "aborted: fewer sites than the smallest cohort" in text


def test_nobody_is_in_a_sum_that_was_not_opened(report: RunReport) -> None:
    """The survivors of an attempt may be chosen, and it be aborted when too few sign them."""
    chosen = [
        replace(one, survivors=replace(one.survivors, value=("east", "north", "south")))
        if one.aggregate is None
        else one
        for one in report.rounds
    ]
    text = page_text(replace(report, rounds=tuple(chosen)))
    assert "UTC none aborted: fewer sites" in text


def test_a_run_that_was_not_completed_is_told_first(report: RunReport) -> None:
    """Its evidence may verify all the same; nobody should take that for a run that went well."""
    ended = replace(
        report,
        outcome=replace(report.outcome, value="stopped"),
        reason=replace(report.reason, value="an operator stopped it"),
    )
    document = run_document(ended)
    told = "The run was stopped: an operator stopped it."
    assert joined(document.verdict.body[0]) == told
    wrong = next(one for one in document.answers if one.question == "What went wrong?")
    assert joined(wrong.body[0]) == told


def joined(paragraph: Paragraph) -> str:
    """Return the words of a paragraph without its marks."""
    return "".join(part if isinstance(part, str) else part.text for part in paragraph.parts)


def test_nobody_is_named_who_does_not_collude(report: RunReport) -> None:
    assert "Coordinator with up to 1 site " in page_text(report)
    plan = replace(report.plan, colluders=replace(report.plan.colluders, value=0))
    assert "Coordinator with" not in page_text(replace(report, plan=plan))


def test_site_counts_bytes_as_it_signed(report: RunReport) -> None:
    for site in report.sites:
        mine = [u.total_size.value for u in report.updates if u.site.value == site.site.value]
        assert site.bytes_sent.value == sum(mine)
        if site.closing:
            assert site.closing.bytes_sent.value == sum(mine)


def test_west_did_not_confirm(report: RunReport) -> None:
    unconfirmed = {u.site.value for u in report.updates if not u.confirmed.value}
    assert unconfirmed == {"west"}


def test_open_points_of_the_example(report: RunReport) -> None:
    found = [(gap.subject, gap.serious) for gap in gaps(report)]
    assert found == [("west", False)]


def test_every_figure_holds_its_numbers_as_a_table(report: RunReport) -> None:
    figures = list(find_figures(run_document(report)))
    assert [f.caption.split(",")[0] for f in figures] == [
        "Participation of each site in each round",
        "Bytes sent by the sites",
        "Epsilon spent per site and round",
    ]
    assert len(figures[2].charts) == 4
    for figure in figures:
        assert figure.table.rows
        assert all(chart.description for chart in figure.charts)


def find_figures(document: Document) -> list[Figure]:
    """Return every figure of a document."""

    def inside(part: object) -> list[Figure]:
        if isinstance(part, Figure):
            return [part]
        if isinstance(part, Section | Group):
            return [figure for block in part.blocks for figure in inside(block)]
        return []

    return [figure for section in document.sections for figure in inside(section)]


def verdict_on(leaves: list[bytes], checked: Verification) -> Verification:
    """Return the same verdict, on other leaves."""
    tree = CompactRange()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return replace(checked, size=tree.size, root=tree.root().hex())


# -- what cannot be reported, or must be pointed at -----------------------------------------------


def test_a_run_that_is_not_there(leaves: list[bytes], checked: Verification) -> None:
    with pytest.raises(ReportError, match="no run 'run-other'"):
        build_report(leaves, checked, "run-other")
    with pytest.raises(ReportError, match="no run yet"):
        build_report(leaves[:8], verdict_on(leaves[:8], checked))


def test_a_log_without_the_plan(leaves: list[bytes], checked: Verification) -> None:
    without = [leaf for leaf in leaves if b'"kind":"study_plan"' not in leaf]
    with pytest.raises(ReportError, match="does not hold"):
        build_report(without, verdict_on(without, checked))


def test_a_verdict_on_another_log_is_refused(leaves: list[bytes], checked: Verification) -> None:
    """Someone shows a clean verdict beside entries that were never verified."""
    other = [*leaves[:40], *leaves[41:], leaves[40]]
    for shown in (other, leaves[:-1]):
        with pytest.raises(ReportError, match="not those that were verified"):
            build_report(shown, checked)


def test_an_unreadable_entry_is_reported_not_fatal(
    leaves: list[bytes], checked: Verification
) -> None:
    damaged = [*leaves[:30], b'{"kind": "update"}', *leaves[31:]]
    report = build_report(damaged, verdict_on(damaged, checked))
    assert report.log.unreadable == (30,)
    assert any("not in the form of this log" in gap.words for gap in gaps(report))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (b'"kind":"approval"', "without a signed approval"),
        (b'"kind":"privacy_spend"', "No privacy spend is logged"),
        (b'"kind":"closing"', "No closing statement"),
        (b'"kind":"deidentification"', "1 data set without a de-identification statement"),
        (b'"kind":"run_end"', "has no end entry"),
        (b'"kind":"update"', "closing statement counts"),
    ],
)
def test_what_is_missing_is_pointed_at(
    leaves: list[bytes], checked: Verification, kind: bytes, words: str
) -> None:
    fewer = [leaf for leaf in leaves if kind not in leaf]
    report = build_report(fewer, verdict_on(fewer, checked))
    assert any(words in gap.words for gap in gaps(report)), gaps(report)


def test_a_tail_without_checkpoint_and_no_pin(leaves: list[bytes], make_report: MakeReport) -> None:
    report = make_report(verification={"size": len(leaves) - 3, "pinned": False})
    found = " ".join(gap.words for gap in gaps(report))
    assert "newest 3 entries are in no checkpoint" in found
    assert "No pinned checkpoint" in found


def test_uncomputed_epsilon_is_pointed_at(make_report: MakeReport) -> None:
    report = make_report(verification={"recomputed": (), "replayed": frozenset()})
    found = [gap.words for gap in gaps(report)]
    assert sum(int(words.split()[0]) for words in found if "not computed again" in words) == len(
        report.spends
    )
    assert any("5 sums were not added up again" in words for words in found)


# -- wording and law --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exact", "shown"),
    [
        ("0", "0"),
        ("1.23401", "1.2341"),
        ("3.99990001", "4"),
        ("0.00001", "1.00e-5"),
        ("12", "12"),
        ("inf", "unbounded"),
        ("", "–"),
    ],
)
def test_epsilon_is_never_shown_smaller(exact: str, shown: str) -> None:
    assert epsilon(exact) == shown


def test_small_wording() -> None:
    assert listing([]) == "none"
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert spans([1, 2, 3, 5, 7, 8]) == "1–3, 5, 7–8"
    assert [nice_top(v) for v in (0, 0.3, 4.3, 21, 999)] == [1, 0.5, 5, 25, 1000]


def test_provisions_say_both_sides_with_a_date(report: RunReport) -> None:
    sections = {section.id for section in run_document(report).sections}
    text = page_text(report)
    numbers = [p.number for law in laws() for p in law.provisions]
    for wanted in ("164.308", "164.312", "164.514", "Art. 5", "Art. 25", "Art. 30", "Art. 32",
                   "Art. 35", *(f"Art. {n}" for n in range(10, 16))):  # fmt: skip
        assert any(number.startswith(wanted) for number in numbers), wanted
    for law in laws():
        assert f"{law.name}, as of {law.as_of.isoformat()}" in text
        for provision in law.provisions:
            assert provision.evidence.strip()
            assert provision.not_evidence.strip()
            assert set(provision.see) <= sections
