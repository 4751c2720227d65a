"""The parts of a run report on data, model, access, findings, limits, and its log entries."""

from wardround.privacy.presentation.document import (
    Bullets,
    Cell,
    Column,
    Facts,
    Group,
    Section,
    Table,
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
from wardround.privacy.presentation.wording import attempt, counted, grouped, or_dash, tally
from wardround.server.report.gaps import Gap
from wardround.server.report.model import RunReport

FILE_COUNTS = ("files_seen", "files_written", "duplicates", "quarantined")


def data_section(report: RunReport) -> Section:
    """Return what the sites state about the preparation of their data, and who states nothing."""
    prepared = {(d.site.value, d.dataset.value) for d in report.data}
    used = {(a.site.value, name) for a in report.approvals for name in a.datasets.value}
    used |= {(s.site.value, s.dataset.value) for s in report.spends}
    silent = Cell("no de-identification statement", Source.VERIFIED)
    dash = Cell("–")
    stated = Table(
        "De-identification of the data sets of this run, as the sites state it",
        columns(
            "Site", "Data set", "Profile", "Options",
            "#Files seen", "#Written", "#Duplicates", "#Set aside",
        ),
        tuple(
            (
                cell(d.site),
                code(d.dataset),
                cell(d.profile),
                cell(d.options, lambda names: ", ".join(names).replace("_", " ") or "none"),
                *(
                    number(dict(d.counts)[name], grouped) if name in dict(d.counts) else dash
                    for name in FILE_COUNTS
                ),
            )
            for d in report.data
        )
        + tuple(
            (Cell(site, Source.COORDINATOR), Cell(dataset, Source.SITE, (), "code"), silent)
            + (dash,) * 5
            for site, dataset in sorted(used - prepared)
        ),
        "No de-identification statement is in the log, and no data set is named.",
    )  # fmt: skip
    done = Table(
        "What the de-identifier did, in attributes, and why it set files aside",
        columns("Site", "Counts", "Remarks", "Report (digest)", "Manifest (digest)"),
        tuple(
            (
                cell(d.site),
                Cell(
                    tally((name, n) for name, n in d.counts if name not in FILE_COUNTS) or "none",
                    Source.SITE,
                    d.site.entries,
                ),
                cell(d.notes, or_dash),
                code(d.report),
                code(d.manifest),
            )
            for d in report.data
        ),
        "No de-identification statement is in the log.",
    )
    reading = Facts(
        (
            (
                "Evidence of",
                (
                    Cell(
                        "which profile and options the site says its software applied to the files "
                        "of this data set, and what it counted; the digests bind the site to one "
                        "report and one list of files"
                    ),
                ),
            ),
            (
                "Not evidence of",
                (
                    Cell(
                        "that nobody can be recognised in the data, which never left the site; "
                        "that the software missed nothing; that a data set without a statement "
                        "holds identifiers"
                    ),
                ),
            ),
        )
    )
    return Section("data", "Data preparation", (stated, done, reading))


def model_section(report: RunReport) -> Section:
    """Return the model card."""
    plan = report.plan
    card = Facts(
        (
            ("Task", (cell(plan.task),)),
            ("Model", (cell(plan.model),)),
            *((term, (cell(text),)) for term, text in plan.details),
            ("Final model digest", (code(report.final_model),)),
            ("Intended use", (cell(plan.purpose),)),
            ("Trained by", (cell(report.software),)),
        )
    )
    names = sorted({name for r in report.rounds for name, _ in r.metrics})
    scores = Table(
        "Held-out evaluation over all sites together, of the model each round began with",
        (Column("Round"), *(Column(name, numeric=True) for name in names)),
        tuple(
            (
                cell(r.round, lambda n: attempt(n, final=n in report.final_rounds)),
                *(
                    number(dict(r.metrics)[name]) if name in dict(r.metrics) else Cell("–")
                    for name in names
                ),
            )
            for r in report.rounds
            if r.metrics
        ),
        "Hidden from the coordinator and the log (group mode): each site reads it."
        if report.group_mode.value
        else "No evaluation is in the log.",
    )
    limits = Group(
        "Limits of this model",
        (
            Bullets(
                (
                    words(
                        "It was evaluated on data held out at the same sites. How it does "
                        "elsewhere, or in groups of patients, is not known from this run."
                    ),
                    words("It has been trained for research; nothing here clears it for care."),
                    words(
                        "Whoever holds the model can query it without end; the privacy figures "
                        "above hold for that too, what is listed as outside them does not."
                    ),
                )
            ),
        ),
    )
    return Section("model", "Model card", (card, scores, limits))


def access_section(report: RunReport) -> Section:
    """Return calls of the coordinator's API and what was handed out."""
    calls = Table(
        "Calls of the coordinator's interfaces for this run or for no particular run",
        columns("Interface", "Call", "Role", "Outcome (status)", "#Calls", "#Different actors"),
        tuple(
            (
                cell(a.api),
                cell(a.what),
                cell(a.role, lambda role: role or "none"),
                cell(a.outcome),
                number(a.calls),
                number(a.actors),
            )
            for a in report.access
        ),
        "No access is in the log.",
    )
    handed = Table(
        "Exports",
        columns("What", "Digest", "#Size", "Recipient", "Handed out by", "When"),
        tuple(
            (
                cell(e.what),
                code(e.digest),
                number(e.size, amount),
                cell(e.recipient, lambda t: t or "not named"),
                code(e.actor),
                when(e.at_ms),
            )
            for e in report.exports
        ),
        "Nothing was handed out, as far as the log tells.",
    )
    who = words(
        "People appear as random identifiers. The table that links them to names is kept by the "
        "coordinator, outside the log, and can be erased."
    )
    return Section("access", "Access and exports", (who, calls, handed))


def findings_section(report: RunReport, gaps: tuple[Gap, ...]) -> Section:
    """Return findings of the verifier, contradictions and open points, and recorded faults."""
    found = Table(
        "Findings of the verifier",
        columns("What is wrong", "Entry", "Expected", "Found", "Kind"),
        tuple(
            (
                Cell(f.told, Source.VERIFIED),
                Cell("whole log" if f.entry is None else str(f.entry), Source.VERIFIED),
                Cell(f.expected, Source.VERIFIED),
                Cell(f.found, Source.VERIFIED),
                Cell("contradiction" if f.breaks else "missing", Source.VERIFIED),
            )
            for f in report.verification.findings
        ),
        "None.",
    )
    opened = Table(
        "Contradictions and open points seen in the entries",
        columns("Concerns", "What", "Kind"),
        tuple(
            (
                Cell(g.subject, Source.VERIFIED, g.entries),
                Cell(g.words, Source.VERIFIED),
                Cell("contradiction" if g.serious else "open point", Source.VERIFIED),
            )
            for g in gaps
        ),
        "None.",
    )
    faults = Table(
        "Faults recorded by the coordinator",
        columns("Round", "Site", "Stage", "What happened", "When"),
        tuple(
            (
                Cell(
                    attempt(
                        f.round.value, f.attempt.value, final=f.round.value in report.final_rounds
                    ),
                    f.round.source,
                    f.round.entries,
                ),
                cell(f.site),
                cell(f.stage),
                cell(f.what),
                when(f.at_ms),
            )
            for f in report.faults
        ),
        "None.",
    )
    return Section("findings", "Findings and gaps", (found, opened, faults))


def limits_section(report: RunReport) -> Section:
    """Return what a reader must not conclude."""
    del report
    return Section(
        "limits",
        "What this evidence does not show",
        (
            Bullets(
                tuple(
                    words(text)
                    for text in (
                        "That nothing else left a site. It shows the recorded egress: what sites "
                        "signed that they sent. A site's own network records can add to that.",
                        "That a site trained on the data it names, or drew the noise it states. "
                        "The verifier recomputes what stated parameters cost; it does not see the "
                        "training.",
                        "That values marked C are true. They are what the coordinator says; "
                        "cosignatures only fix that it cannot later say otherwise.",
                        "How much of one patient is protected where the unit is an image, or where "
                        "a patient's data are at several sites.",
                        "That people read the documents that values marked X refer to.",
                        "That a law is met. The provisions below name what this evidence can "
                        "support; the judgement is for people.",
                        "What happened after the newest checkpoint.",
                    )
                )
            ),
        ),
    )


def entries_section(report: RunReport) -> Section:
    """Return the log entries behind the report and how to check them without anyone's word."""
    log = report.log
    how = Group(
        "How to check this report yourself",
        (
            words(
                "Ask for the evidence bundle and run ",
                Cell(
                    "wardround-verify bundle.zip --policy policy.txt --pin site.pin --replay "
                    "--recompute-epsilon",
                    style="code",
                ),
                " with a policy of keys, and a pinned checkpoint, that you got from the sites, not "
                "from the bundle or the coordinator. It ends "
                "with 0 when the evidence verifies, 1 when it contradicts itself, 2 when parts "
                "are missing.",
            ),
        ),
    )
    facts = Facts(
        (
            ("Log", (cell(log.origin),)),
            ("Operator", (cell(log.operator),)),
            ("First entry (genesis)", (code(log.genesis),)),
            ("Entries read", (cell(log.entries, lambda n: f"{n:,}"),)),
            ("Time of entries", (when(log.first_ms), when(log.last_ms))),
        )
    )
    listed = Table(
        f"{counted(len(report.entries), 'log entry', 'log entries')} behind this report",
        columns("Entry", "Time", "Kind", "Signed by", "#Statement", "Leaf hash"),
        tuple(
            (
                Cell(str(e.index), Source.VERIFIED, (e.index,)),
                Cell(moment(e.at_ms), Source.COORDINATOR),
                Cell(e.kind.replace("_", " "), Source.COORDINATOR),
                Cell(e.site if e.sequence else "–", Source.VERIFIED),
                Cell(str(e.sequence) if e.sequence else "–", Source.VERIFIED, (), "number"),
                Cell(e.leaf_hash, Source.VERIFIED, (), "code"),
            )
            for e in report.entries
        ),
        anchors=tuple(e.index for e in report.entries),
    )
    return Section("entries", "Log entries and how to check them", (how, facts, listed))
