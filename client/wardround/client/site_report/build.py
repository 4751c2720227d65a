"""Builds a site's report over a period."""

from collections.abc import Iterator
from datetime import datetime

from wardround.client.ledger import Ledger
from wardround.client.ledger_statement import OUTSIDE
from wardround.client.site_report import model
from wardround.client.site_report.accounts import account_facts
from wardround.client.site_report.chain import check_chain
from wardround.client.site_report.sources import Said, Seen, Sources, read_sources
from wardround.client.witness import Witness
from wardround.privacy.errors import ReportError
from wardround.privacy.events import (
    Approval,
    Closing,
    Deidentification,
    Enrol,
    RecoveryShare,
    Refusal,
    Revoke,
    Rotate,
    RunEnd,
    RunStart,
    Update,
)
from wardround.privacy.identity import fingerprint
from wardround.privacy.presentation.marks import Marked, Source


def build_site_report(
    witness: Witness, ledger: Ledger | None, start: datetime, end: datetime
) -> model.SiteReport:
    """Return the report of `witness.site` over [start, end).

    `start` and `end` must know their time zone. Without a `ledger` there are no accounts. Raises
    ReportError when the period is empty or a time lacks its zone.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise ReportError("start and end of a report need a time zone, such as UTC")
    since, until = _ms(start), _ms(end)
    if since >= until:
        raise ReportError(f"the period from {start} to {end} is empty")
    sources = read_sources(witness)
    said = [one for one in sources.said if since <= one.statement.time_ms < until]
    position = witness.position()
    accounts = account_facts(ledger, since, until) if ledger else ()
    return model.SiteReport(
        site=Marked(witness.site, Source.SITE),
        organisation=_organisation(sources),
        start_ms=since,
        end_ms=until,
        made_ms=witness.clock(),
        log=model.LogFacts(
            origin=Marked(witness.origin, Source.WITNESSED),
            mirrored=Marked(position.mirrored, Source.VERIFIED),
            witnessed=Marked(position.size, Source.WITNESSED),
            root=Marked(position.root.hex(), Source.WITNESSED),
            unreadable=sources.unreadable,
        ),
        keys=tuple(_keys(witness, sources)),
        decisions=tuple(_decisions(said)),
        runs=tuple(_runs(witness, sources, since, until)),
        egress=tuple(map(_egress, said)),
        chain=check_chain(witness, sources),
        accounts=accounts,
        checkpoints=_checkpoints(sources, since, until),
        refused=tuple(
            model.RefusedFacts(Marked(at_ms, Source.SITE), Marked(reason, Source.SITE))
            for at_ms, reason, _ in witness.refused()
            if since <= at_ms < until
        ),
        data=tuple(_data(said)),
        unstated=tuple(_unstated(sources, accounts)),
        outside=OUTSIDE,
    )


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _organisation(sources: Sources) -> Marked[str]:
    found = [one for one in sources.said if isinstance(one.event, Enrol)]
    last = found[-1] if found else None
    if last is None or not isinstance(last.event, Enrol):
        return Marked("", Source.SITE)
    return last.mark(last.event.organisation)


def _keys(witness: Witness, sources: Sources) -> Iterator[model.KeyFacts]:
    """Yield the whole life of the site's keys: without its beginning a period cannot be read."""
    for said in sources.said:
        if isinstance(said.event, Enrol | Rotate):
            rotated = isinstance(said.event, Rotate)
            yield model.KeyFacts(
                step=said.mark("replaced" if rotated else "enrolled"),
                fingerprint=said.mark(fingerprint(bytes.fromhex(said.event.identity))),
                reason=said.mark(said.event.reason if isinstance(said.event, Rotate) else ""),
                at_ms=said.mark(said.statement.time_ms),
            )
    for seen in sources.seen:
        event = seen.leaf.event
        if isinstance(event, Revoke) and event.site == witness.site:
            yield model.KeyFacts(
                step=seen.mark("revoked"),
                fingerprint=seen.mark(fingerprint(bytes.fromhex(event.identity))),
                reason=seen.mark(event.reason),
                at_ms=seen.mark(seen.leaf.ts_ms),
            )


def _decisions(said: list[Said]) -> Iterator[model.DecisionFacts]:
    for one in said:
        event = one.event
        if isinstance(event, Approval):
            told, run, number, reason = "approved", "", 0, event.legal_basis
            source = Source.EXTERNAL
        elif isinstance(event, Refusal):
            told, run, number, source = "refused", event.run, event.round, Source.SITE
            reason = f"{event.rule}: {event.reason}"
        else:
            continue
        yield model.DecisionFacts(
            decision=one.mark(told),
            study=one.mark(event.study),
            run=one.mark(run),
            round=one.mark(number),
            reason=Marked(reason, source, one.mark(reason).entries),
            at_ms=one.mark(one.statement.time_ms),
        )


def _runs(witness: Witness, sources: Sources, since: int, until: int) -> Iterator[model.RunFacts]:
    ends = {s.leaf.run: s for s in sources.seen if isinstance(s.leaf.event, RunEnd)}
    for seen in sources.seen:
        event = seen.leaf.event
        if not isinstance(event, RunStart) or witness.site not in event.participants:
            continue
        end = ends.get(event.run)
        if seen.leaf.ts_ms >= until or (end and end.leaf.ts_ms < since):
            continue
        mine = [one for one in sources.said if getattr(one.event, "run", "") == event.run]
        yield _run(seen, event, end, mine)


def _run(seen: Seen, event: RunStart, end: Seen | None, mine: list[Said]) -> model.RunFacts:
    updates = [one.event for one in mine if isinstance(one.event, Update)]
    outcome = end.leaf.event if end else None
    return model.RunFacts(
        run=seen.mark(event.run),
        study=seen.mark(event.study),
        started_ms=seen.mark(seen.leaf.ts_ms),
        outcome=end.mark(outcome.outcome)
        if end and isinstance(outcome, RunEnd)
        else seen.mark("not ended"),
        updates=Marked(len(updates), Source.SITE),
        bytes_sent=Marked(sum(u.size + u.header_size + u.boxes_size for u in updates), Source.SITE),
        refusals=Marked(sum(isinstance(one.event, Refusal) for one in mine), Source.SITE),
        closed=Marked(any(isinstance(one.event, Closing) for one in mine), Source.SITE),
    )


def _egress(said: Said) -> model.EgressFacts:
    event = said.event
    size, digest = len(said.envelope.to_bytes()), said.envelope.digest()
    recipient, encryption = "coordinator, for the log", "not recorded"
    if isinstance(event, Update):
        size += event.size + event.header_size + event.boxes_size
        digest, recipient, encryption = event.digest, event.recipient, event.encryption
    elif isinstance(event, RecoveryShare):
        size += len(event.shares) // 2
    return model.EgressFacts(
        sequence=said.mark(said.statement.sequence),
        at_ms=said.mark(said.statement.time_ms),
        kind=said.mark(event.kind),
        run=said.mark(str(getattr(event, "run", ""))),
        round=said.mark(int(getattr(event, "round", 0))),
        digest=said.mark(digest),
        size=said.mark(size),
        recipient=said.mark(recipient),
        encryption=said.mark(encryption),
        entry=Marked(-1 if said.entry is None else said.entry, Source.VERIFIED),
    )


def _checkpoints(sources: Sources, since: int, until: int) -> model.CheckpointFacts:
    sizes = [size for size, at_ms in sources.cosigned if since <= at_ms < until]
    return model.CheckpointFacts(
        cosigned=Marked(len(sizes), Source.WITNESSED),
        first_size=Marked(min(sizes, default=0), Source.WITNESSED),
        last_size=Marked(max(sizes, default=0), Source.WITNESSED),
    )


def _unstated(sources: Sources, accounts: tuple[model.AccountFacts, ...]) -> Iterator[Marked[str]]:
    stated = {s.event.dataset for s in sources.said if isinstance(s.event, Deidentification)}
    for name in sorted({account.dataset.value for account in accounts} - stated):
        yield Marked(name, Source.SITE)


def _data(said: list[Said]) -> Iterator[model.DataFacts]:
    for one in said:
        event = one.event
        if isinstance(event, Deidentification):
            yield model.DataFacts(
                dataset=one.mark(event.dataset),
                profile=one.mark(f"{event.profile} {event.profile_version}"),
                options=one.mark(event.options),
                manifest=one.mark(event.manifest_digest),
                report=one.mark(event.report_digest),
                counts=tuple((count.name, one.mark(count.value)) for count in event.counts),
                at_ms=one.mark(one.statement.time_ms),
            )
