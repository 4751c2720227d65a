"""The parts of a run report on the study, who agreed to it, and the sites."""

from wardround.privacy.presentation.document import (
    Cell,
    Facts,
    Section,
    Table,
    amount,
    cell,
    code,
    columns,
    number,
    when,
)
from wardround.privacy.presentation.marks import Source
from wardround.privacy.presentation.wording import (
    counted,
    epsilon,
    grouped,
    listing,
    or_dash,
    pseudonym,
    yes,
)
from wardround.server.report.model import RunReport


def approval_section(report: RunReport) -> Section:
    """Return the study, its plan, and who agreed to it or refused."""
    plan = report.plan
    facts = Facts(
        (
            ("Study", (cell(plan.study), cell(plan.title))),
            ("Purpose", (cell(plan.purpose),)),
            ("Legal basis (reference)", (cell(plan.legal_basis),)),
            ("Impact assessment (reference)", (cell(plan.dpia, lambda t: t or "none named"),)),
            ("Plan digest", (code(plan.digest),)),
            ("Sites the plan asks", (cell(plan.participants, listing),)),
            (
                "Protection of updates",
                (
                    Cell(
                        f"opened with the help of {counted(plan.threshold.value, 'site')}, never "
                        f"over fewer than {counted(plan.min_cohort.value, 'site')}; holds against "
                        f"the coordinator together with {_colluders(plan.colluders.value)}",
                        plan.threshold.source,
                        plan.threshold.entries,
                    ),
                ),
            ),
        )
    )
    agreed = Table(
        "Approvals, signed by the sites",
        columns(
            "Site", "Approved by", "This plan", "Data sets", "#Own limit of ε", "Legal basis",
            "Impact assessment", "Logged",
        ),
        tuple(
            (
                cell(a.site),
                cell(a.approver),
                cell(a.same_plan, yes),
                cell(a.datasets, lambda names: ", ".join(map(pseudonym, names))),
                number(a.epsilon_limit, epsilon),
                cell(a.legal_basis, or_dash),
                cell(a.dpia, or_dash),
                when(a.at_ms),
            )
            for a in report.approvals
        ),
        "No site's approval is in the log.",
    )  # fmt: skip
    refused = Table(
        "Refusals, signed by the sites",
        columns("Site", "Concerns", "Rule of its policy", "Reason", "Logged"),
        tuple(
            (
                cell(r.site),
                cell(r.round, lambda n: f"round {n}" if n else "the study"),
                cell(r.rule),
                cell(r.reason),
                when(r.at_ms),
            )
            for r in report.refusals
        ),
        "No site refused.",
    )
    return Section("approval", "Study and approvals", (facts, agreed, refused))


def _colluders(count: int) -> str:
    return f"up to {counted(count, 'site')}" if count else "no site"


def sites_section(report: RunReport) -> Section:
    """Return each site's keys and part in the run."""
    who = Table(
        "Sites of the run and their keys",
        columns("Site", "Organisation", "Fingerprint of its identity key", "Enrolled", "Revoked"),
        tuple(
            (
                cell(s.site),
                cell(s.organisation),
                code(s.fingerprint),
                when(s.enrolled_ms) if s.enrolled_ms else Cell("no entry", Source.VERIFIED),
                cell(s.revoked, lambda reason: f"yes: {reason}")
                if s.revoked
                else Cell("no", Source.VERIFIED),
            )
            for s in report.sites
        ),
    )
    did = Table(
        "What each site did, in numbers of rounds, and what it sent",
        columns("Site", "#Invited", "#In the sum", "#Dropped out", "#Refused", "#Sent"),
        tuple(
            (
                cell(s.site),
                number(s.invited),
                number(s.included),
                number(s.dropped),
                number(s.refused),
                number(s.bytes_sent, amount),
            )
            for s in report.sites
        ),
    )
    closed = Table(
        "Closing statements: how far each site confirms the log",
        columns("Site", "#Statements before it", "#Entries confirmed", "#Updates", "#Sent, bytes"),
        tuple(
            (
                cell(s.site),
                number(s.closing.last_sequence, grouped),
                number(s.closing.checkpoint_size, grouped),
                number(s.closing.updates, grouped),
                number(s.closing.bytes_sent, grouped),
            )
            for s in report.sites
            if s.closing
        ),
        "No site has closed the run.",
    )
    return Section("sites", "Sites", (who, did, closed))


def summary(report: RunReport) -> Cell:
    """Return one line on the run: sites and rounds."""
    rounds = report.plan.rounds
    text = f"{counted(len(report.sites), 'site')}, {counted(rounds.value, 'training round')}"
    return Cell(text, rounds.source, rounds.entries)
