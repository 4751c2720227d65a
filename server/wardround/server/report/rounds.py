"""Reads the rounds of a run for its report: who was in which sum, and what it led to."""

from collections import Counter
from collections.abc import Sequence

from wardround.privacy.events import (
    Aggregated,
    Evaluation,
    ModelStep,
    RoundEnd,
    RoundStart,
    Survivors,
    Update,
)
from wardround.privacy.presentation.charts import Presence
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.verify.findings import Verification
from wardround.server.report.model import AggregateFacts, DroppedFacts, RoundFacts
from wardround.server.report.reading import Noted, Reading


def sent(update: Update) -> int:
    """Return the bytes a site sent with an update: masked vector, header and sealed shares."""
    return update.size + update.header_size + update.boxes_size


def round_facts(reading: Reading, run: str, verification: Verification) -> tuple[RoundFacts, ...]:
    """Return every attempt at every round of `run`, in the order of the log."""
    chosen = {_key(n.event): n for n in reading.run(Survivors, run)}
    sums = {_key(n.event): n for n in reading.run(Aggregated, run)}
    steps = list(reading.run(ModelStep, run))
    ends = {_key(n.event): n for n in reading.run(RoundEnd, run)}
    scores = {n.event.round: n for n in reading.run(Evaluation, run)}
    facts = []
    for start in reading.run(RoundStart, run):
        key = _key(start.event)
        survivors, aggregate, end = chosen.get(key), sums.get(key), ends.get(key)
        score = scores.get(start.event.round) if aggregate else None
        facts.append(
            RoundFacts(
                round=start.mark(start.event.round),
                attempt=start.mark(start.event.attempt),
                purpose=start.mark(start.event.purpose),
                started_ms=start.logged_ms,
                model_digest=start.mark(start.event.model_digest),
                invited=start.mark(start.event.invited),
                survivors=survivors.mark(survivors.event.survivors)
                if survivors
                else start.mark(()),
                dropped=_dropped(survivors),
                aggregate=_aggregate(aggregate, steps, verification) if aggregate else None,
                outcome=end.mark(end.event.outcome) if end else start.mark("not ended"),
                reason=end.mark(end.event.reason) if end else start.mark(""),
                bytes_up=end.mark(end.event.bytes_up) if end else start.mark(0),
                bytes_down=end.mark(end.event.bytes_down) if end else start.mark(0),
                metrics=tuple((m.name, score.mark(m.value)) for m in score.event.metrics)
                if score
                else (),
            )
        )
    return tuple(facts)


def participation(
    rounds: Sequence[RoundFacts], sites: Sequence[str], refused: set[tuple[str, int]]
) -> dict[str, dict[int, Presence]]:
    """Return, per site, what it did in each round it was invited to, over all attempts.

    The sum counts most: a site that fell away in a first attempt and is in the second attempt's
    sum took part.
    """
    found: dict[str, dict[int, Presence]] = {site: {} for site in sites}
    for facts in rounds:
        number = facts.round.value
        dropped = {one.site.value for one in facts.dropped}
        for site in facts.invited.value:
            states = found.setdefault(site, {})
            if facts.aggregate and site in facts.survivors.value:
                states[number] = Presence.INCLUDED
            elif states.get(number) is Presence.INCLUDED:
                continue
            elif (site, number) in refused:
                states[number] = Presence.REFUSED
            elif site in dropped:
                states[number] = Presence.DROPPED
            else:
                states.setdefault(number, Presence.ABSENT)
    return found


def _key(event: RoundStart | Survivors | Aggregated | RoundEnd) -> tuple[int, int]:
    return event.round, event.attempt


def _dropped(survivors: Noted[Survivors] | None) -> tuple[DroppedFacts, ...]:
    if survivors is None:
        return ()
    return tuple(
        DroppedFacts(
            survivors.mark(one.site), survivors.mark(one.stage), survivors.mark(one.reason)
        )
        for one in survivors.event.dropped
    )


def _aggregate(
    noted: Noted[Aggregated], steps: Sequence[Noted[ModelStep]], verification: Verification
) -> AggregateFacts:
    event, replayed = noted.event, noted.index in verification.replayed
    return AggregateFacts(
        digest=noted.mark(event.digest),
        weight=noted.mark(event.weight),
        model_digest=_next_model(noted, steps, verification),
        counters=tuple((one.name, noted.mark(one.value)) for one in event.counters),
        replayed=Marked(True, Source.VERIFIED, (noted.index,)) if replayed else None,
    )


def _next_model(
    noted: Noted[Aggregated], steps: Sequence[Noted[ModelStep]], verification: Verification
) -> Marked[str]:
    """Return the model's digest as made again, else as the coordinator logged it, or most sites."""
    if noted.index in verification.remade:
        return Marked(noted.event.model_digest, Source.VERIFIED, (noted.index,))
    if noted.event.model_digest:
        return noted.mark(noted.event.model_digest)
    taken = [step for step in steps if step.event.context == noted.event.context]
    votes = Counter(step.event.model_digest for step in taken)
    digest = max(votes, key=lambda one: votes[one], default="")
    entries = tuple(step.index for step in taken if step.event.model_digest == digest)
    return Marked(digest, Source.SITE, entries)
