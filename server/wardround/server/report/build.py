"""Builds a run report from log entries and the verifier's outcome."""

from collections.abc import Iterable

from wardround.privacy.errors import ReportError
from wardround.privacy.events import (
    Approval,
    Closing,
    Deidentification,
    Enrol,
    Fault,
    Genesis,
    Refusal,
    Revoke,
    Rotate,
    RunEnd,
    RunStart,
    StudyPlanned,
    Update,
)
from wardround.privacy.identity import fingerprint
from wardround.privacy.presentation.charts import Presence
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.verify.findings import Verification
from wardround.server.report import model
from wardround.server.report.people import access, exports
from wardround.server.report.plan import plan_facts
from wardround.server.report.reading import Noted, Reading
from wardround.server.report.rounds import participation, round_facts, sent
from wardround.server.report.spending import spend_facts


def build_report(
    entries: Iterable[bytes], verification: Verification, run: str = ""
) -> model.RunReport:
    """Return the report of `run` (empty: the only run of the log).

    `entries` are the raw leaves of the log from index 0, as the verifier read them. Raises
    ReportError when they are not those that were verified, when the log holds no such run, or
    several and none is named.
    """
    reading = Reading.of(entries)
    _same_log(reading, verification)
    start = _start(reading, run)
    run = start.event.run
    end = next(iter(reversed(list(reading.run(RunEnd, run)))), None)
    plan = plan_facts(reading, start)
    rounds = round_facts(reading, run, verification)
    updates = _updates(reading, run)
    present = participation(rounds, start.event.participants, _refused_rounds(reading, run))
    spends = spend_facts(reading, run, verification)
    approvals = tuple(_approvals(reading, start))
    datasets = {spend.dataset.value for spend in spends}
    datasets |= {name for one in approvals for name in one.datasets.value}
    return model.RunReport(
        run=start.mark(run),
        outcome=end.mark(end.event.outcome) if end else start.mark("not ended"),
        reason=end.mark(end.event.reason) if end else start.mark(""),
        group_mode=start.mark(start.event.group_mode),
        final_model=end.mark(end.event.model_digest) if end else start.mark(""),
        software=start.mark(start.event.software),
        started_ms=start.logged_ms,
        ended_ms=end.logged_ms if end else None,
        log=_log(reading),
        verdict=Marked(verification.status, Source.VERIFIED),
        colluders_covered=Marked(verification.colluders_covered, Source.VERIFIED),
        verification=verification,
        plan=plan,
        approvals=approvals,
        refusals=tuple(_refusals(reading, start)),
        sites=tuple(_site(reading, start, site, present[site]) for site in present),
        rounds=rounds,
        updates=updates,
        participation=tuple((site, tuple(states.items())) for site, states in present.items()),
        spends=spends,
        data=tuple(_data(reading, start, datasets)),
        access=access(reading, run),
        exports=exports(reading, run),
        faults=tuple(_faults(reading, run)),
        entries=tuple(_entries(reading, start)),
    )


def _same_log(reading: Reading, verification: Verification) -> None:
    """Refuse a verdict on another log. Of evidence that contradicts itself nothing is asked."""
    size = verification.size
    if verification.status == "tampered":
        return
    if len(reading.hashes) < size or reading.root(size) != verification.root:
        raise ReportError(
            "these entries are not those that were verified; make the report from the same bundle"
        )


def _start(reading: Reading, run: str) -> Noted[RunStart]:
    starts = [noted for noted in reading.all(RunStart) if run in ("", noted.event.run)]
    if not starts:
        raise ReportError(f"the log holds no run {run!r}" if run else "the log holds no run yet")
    names = sorted({noted.event.run for noted in starts})
    if len(names) > 1:
        raise ReportError(f"the log holds {len(names)} runs; name one of: {', '.join(names[:20])}")
    return starts[0]


def _log(reading: Reading) -> model.LogFacts:
    count = len(reading.hashes)
    first = next(reading.all(Genesis), None)
    times = [leaf.ts_ms for _, leaf in reading.leaves]
    unknown: Marked[str] = Marked("", Source.COORDINATOR)
    return model.LogFacts(
        origin=first.mark(first.event.origin) if first else unknown,
        operator=first.mark(first.event.operator) if first else unknown,
        software=first.mark(first.event.software) if first else unknown,
        genesis=Marked(reading.hashes[0] if count else "", Source.VERIFIED, (0,) if count else ()),
        entries=Marked(count, Source.VERIFIED),
        first_ms=Marked(min(times, default=0), Source.COORDINATOR),
        last_ms=Marked(max(times, default=0), Source.COORDINATOR),
        unreadable=reading.unreadable,
    )


def _approvals(reading: Reading, start: Noted[RunStart]) -> Iterable[model.ApprovalFacts]:
    for noted in reading.all(Approval):
        event = noted.event
        if event.study == start.event.study:
            yield model.ApprovalFacts(
                site=noted.mark(noted.site),
                approver=noted.mark(event.approver),
                plan_digest=noted.mark(event.plan_digest),
                same_plan=noted.mark(event.plan_digest == start.event.plan_digest),
                datasets=noted.mark(event.datasets),
                epsilon_limit=noted.mark(event.epsilon_limit),
                legal_basis=noted.refer(event.legal_basis),
                dpia=noted.refer(event.dpia),
                at_ms=noted.logged_ms,
            )


def _refusals(reading: Reading, start: Noted[RunStart]) -> Iterable[model.RefusalFacts]:
    for noted in reading.all(Refusal):
        event = noted.event
        if event.run == start.event.run or (not event.run and event.study == start.event.study):
            yield model.RefusalFacts(
                site=noted.mark(noted.site),
                round=noted.mark(event.round),
                rule=noted.mark(event.rule),
                reason=noted.mark(event.reason),
                at_ms=noted.logged_ms,
            )


def _refused_rounds(reading: Reading, run: str) -> set[tuple[str, int]]:
    return {(noted.site, noted.event.round) for noted in reading.run(Refusal, run)}


def _site(
    reading: Reading, start: Noted[RunStart], site: str, states: dict[int, Presence]
) -> model.SiteFacts:
    run = start.event.run
    keys = [n for n in reading.all(Enrol) if n.event.site == site]
    newer = [n for n in reading.all(Rotate) if n.event.site == site and n.index < start.index]
    enrolled, named = keys[-1] if keys else None, (newer or keys)
    revoked = next((n for n in reading.all(Revoke) if n.event.site == site), None)
    updates = [n for n in reading.run(Update, run) if n.site == site]

    def count(state: Presence) -> Marked[int]:
        return Marked(sum(1 for one in states.values() if one is state), Source.COORDINATOR)

    return model.SiteFacts(
        site=Marked(site, Source.COORDINATOR, (start.index,)),
        organisation=enrolled.mark(enrolled.event.organisation) if enrolled else start.mark(""),
        fingerprint=_fingerprint(named[-1]) if named else start.mark("not enrolled"),
        enrolled_ms=enrolled.logged_ms if enrolled else None,
        revoked=revoked.mark(revoked.event.reason) if revoked else None,
        invited=Marked(len(states), Source.COORDINATOR),
        included=count(Presence.INCLUDED),
        dropped=count(Presence.DROPPED),
        refused=count(Presence.REFUSED),
        bytes_sent=Marked(
            sum(sent(n.event) for n in updates), Source.SITE, tuple(n.index for n in updates)
        ),
        closing=_closing(reading, run, site),
    )


def _fingerprint(noted: Noted[Enrol] | Noted[Rotate]) -> Marked[str]:
    return noted.mark(fingerprint(bytes.fromhex(noted.event.identity)))


def _closing(reading: Reading, run: str, site: str) -> model.ClosingFacts | None:
    closings = [noted for noted in reading.run(Closing, run) if noted.site == site]
    if not closings:
        return None
    noted = closings[-1]
    return model.ClosingFacts(
        last_sequence=noted.mark(noted.event.last_sequence),
        checkpoint_size=noted.mark(noted.event.checkpoint_size),
        updates=noted.mark(noted.event.updates),
        bytes_sent=noted.mark(noted.event.bytes_sent),
    )


def _updates(reading: Reading, run: str) -> tuple[model.UpdateFacts, ...]:
    confirmed = {n.site: (n.event.checkpoint_size, n.index) for n in reading.run(Closing, run)}

    def covered(noted: Noted[Update]) -> Marked[bool]:
        size, index = confirmed.get(noted.site, (0, noted.index))
        return Marked(noted.index < size, Source.SITE, (index,))

    return tuple(
        model.UpdateFacts(
            site=noted.mark(noted.site),
            round=noted.mark(noted.event.round),
            attempt=noted.mark(noted.event.attempt),
            digest=noted.mark(noted.event.digest),
            size=noted.mark(noted.event.size),
            total_size=noted.mark(sent(noted.event)),
            recipient=noted.mark(noted.event.recipient),
            encryption=noted.mark(noted.event.encryption),
            confirmed=covered(noted),
        )
        for noted in reading.run(Update, run)
    )


def _data(
    reading: Reading, start: Noted[RunStart], datasets: set[str]
) -> Iterable[model.DataFacts]:
    for noted in reading.all(Deidentification):
        event = noted.event
        if noted.site in start.event.participants and event.dataset in datasets:
            yield model.DataFacts(
                site=noted.mark(noted.site),
                dataset=noted.mark(event.dataset),
                profile=noted.mark(f"{event.profile} {event.profile_version}"),
                options=noted.mark(event.options),
                manifest=noted.mark(event.manifest_digest),
                report=noted.mark(event.report_digest),
                counts=tuple((one.name, noted.mark(one.value)) for one in event.counts),
                notes=noted.mark(event.notes),
            )


def _faults(reading: Reading, run: str) -> Iterable[model.FaultFacts]:
    for noted in reading.run(Fault, run):
        event = noted.event
        yield model.FaultFacts(
            site=noted.mark(event.site or "coordinator"),
            round=noted.mark(event.round),
            attempt=noted.mark(event.attempt),
            stage=noted.mark(event.stage),
            what=noted.mark(event.what),
            at_ms=noted.logged_ms,
        )


def _entries(reading: Reading, start: Noted[RunStart]) -> Iterable[model.EntryFacts]:
    """Yield what the report rests on: the run's entries, its study's and its sites'."""
    for index, leaf in reading.leaves:
        of_run = leaf.run == start.event.run
        of_study = not leaf.run and getattr(leaf.event, "study", "") == start.event.study
        of_sites = isinstance(leaf.event, Genesis | StudyPlanned | Deidentification) or (
            isinstance(leaf.event, Enrol | Rotate | Revoke)
            and leaf.site in start.event.participants
        )
        if of_run or of_study or of_sites:
            yield model.EntryFacts(
                index=index,
                at_ms=leaf.ts_ms,
                kind=leaf.kind,
                site=leaf.site,
                sequence=leaf.statement.sequence if leaf.statement else 0,
                leaf_hash=reading.hashes[index],
            )
