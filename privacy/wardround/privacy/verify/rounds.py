"""The rules of one run's rounds: what may stand where, and what must agree with what."""

from dataclasses import dataclass, field
from typing import TypeAlias

from wardround.privacy.events import (
    Aggregated,
    RecoveryShare,
    RoundEnd,
    RoundStart,
    RunEnd,
    RunStart,
    Survivors,
    Update,
)
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.model_steps import ModelSteps

InRound: TypeAlias = RoundStart | Update | Survivors | RecoveryShare | Aggregated | RoundEnd


@dataclass(slots=True)
class Attempt:
    """One attempt at a round, from its start to its end."""

    start: RoundStart
    entry: int
    uploads: dict[str, Update] = field(default_factory=dict)
    survivors: Survivors | None = None
    shares: dict[str, RecoveryShare] = field(default_factory=dict)
    aggregate: tuple[int, Aggregated] | None = None


@dataclass(slots=True)
class Run:
    """One run, from its start to its end; attempts that are over are dropped."""

    start: RunStart
    entry: int
    book: str = ""
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    done: dict[tuple[int, int], set[str]] = field(default_factory=dict)  # who uploaded
    latest: tuple[int, int] = (0, 0)  # round and attempt
    opened: int = 0  # the newest round whose sum was opened
    model: str = ""
    steps: ModelSteps | None = None  # in group mode
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)  # site: updates, bytes
    trained: dict[tuple[str, int], int] = field(default_factory=dict)  # (site, round): entry
    paid: set[tuple[str, int]] = field(default_factory=set)  # (site, round)
    closed: set[str] = field(default_factory=set)
    end: RunEnd | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened sum with all that it was made of: what replaying needs."""

    entry: int
    run: RunStart
    book: str
    attempt: Attempt
    aggregate: Aggregated


@dataclass(slots=True)
class Rounds:
    """The rounds of all runs. `opened` is kept only when asked for: it grows with the log."""

    findings: Findings
    keep_opened: bool = False
    first_opened: int | None = None
    blobs: dict[str, int | None] = field(default_factory=dict)  # of the bundle: who names it
    opened: list[Opened] = field(default_factory=list)

    def add(self, index: int, run: Run, site: str, event: InRound) -> None:
        """Check the next entry of an open run."""
        if isinstance(event, RoundStart):
            self._start(index, run, event)
            return
        place = event.round, event.attempt
        attempt = run.attempts.get(place)
        if attempt is None and place in run.done and isinstance(event, Update | RecoveryShare):
            self._late(index, run, site, event)
            return
        if attempt is None:
            what = f"round {event.round} attempt {event.attempt} of {event.run} is open"
            self.findings.add("round", index, what, event.kind)
            return
        match event:
            case Update():
                self._update(index, run, attempt, site, event)
            case Survivors():
                self._survivors(index, run, attempt, event)
            case RecoveryShare():
                self._share(index, attempt, site, event)
            case Aggregated():
                self._aggregate(index, run, attempt, event)
            case RoundEnd():
                self._end(index, attempt, event)
                del run.attempts[place]
                run.done[place] = set(attempt.uploads)

    def _late(self, index: int, run: Run, site: str, event: Update | RecoveryShare) -> None:
        """What a site said of an attempt that went on without it, handed in when it was back."""
        if not isinstance(event, Update):
            return
        uploaded = run.done[event.round, event.attempt]
        if site in uploaded:
            self.findings.add("round", index, f"one update of {site}", "another one")
        uploaded.add(site)
        self._sent(index, run, site, event)

    def _start(self, index: int, run: Run, event: RoundStart) -> None:
        """A round is tried until its sum opens, once; the last of a run only evaluates."""
        place, last = (event.round, event.attempt), run.start.rounds + 1
        if place <= run.latest or event.attempt < 1:
            self.findings.add("round", index, "a new attempt", f"round {place[0]} once more")
        if event.round != run.opened + 1 or event.round > last:
            self.findings.add("round", index, _next(run.opened, last), f"round {event.round}")
        purpose = "evaluate" if event.round == last else "train"
        if event.purpose != purpose:
            self.findings.add("round", index, f"a round to {purpose}", event.purpose)
        if event.model_size != 4 * run.start.dimension:
            self.findings.add(
                "round", index, f"a model of {4 * run.start.dimension} bytes", f"{event.model_size}"
            )
        strangers = set(event.invited) - set(run.start.participants)
        if strangers:
            self.findings.add(
                "round", index, "participants of the run", ", ".join(sorted(strangers))
            )
        if run.model and event.model_digest != run.model:
            self.findings.add("model", index, run.model, event.model_digest)
        if run.steps:
            run.steps.start(index, event)
        run.latest = max(run.latest, place)
        run.attempts[place] = Attempt(event, index)

    def _update(self, index: int, run: Run, attempt: Attempt, site: str, event: Update) -> None:
        if site not in attempt.start.invited:
            self.findings.add("round", index, "an invited site", site)
        if site in attempt.uploads:
            self.findings.add("round", index, f"one update of {site}", "another one")
            return
        if event.model_digest != attempt.start.model_digest:
            self.findings.add("model", index, attempt.start.model_digest, event.model_digest)
        self._context(index, attempt, event.context)
        attempt.uploads[site] = event
        self._sent(index, run, site, event)
        # A site pays once for a round, however many attempts at it send the same update.
        if attempt.start.purpose == "train" and (site, event.round) not in run.paid:
            run.trained.setdefault((site, event.round), index)

    def _sent(self, index: int, run: Run, site: str, event: Update) -> None:
        form, said = (run.start.dimension, run.start.ring_bits), (event.dimension, event.ring_bits)
        if form != said:
            self.findings.add("round", index, _form(*form), _form(*said))
        if site in run.closed:
            self.findings.add("closing", index, f"nothing more of {site}", event.kind)
        count, size = run.sent.get(site, (0, 0))
        for blob in (event.digest, event.header_digest):
            if blob in self.blobs:
                self.blobs[blob] = index
        run.sent[site] = count + 1, size + _bytes(event)

    def _survivors(self, index: int, run: Run, attempt: Attempt, event: Survivors) -> None:
        silent = set(event.survivors) - attempt.uploads.keys()
        if silent:
            self.findings.add("aggregate", index, "sites that uploaded", ", ".join(sorted(silent)))
        fewest = max(run.start.min_cohort, run.start.threshold)
        if len(set(event.survivors)) < fewest:
            self.findings.add(
                "aggregate", index, f"at least {fewest} sites", f"{len(set(event.survivors))}"
            )
        away = sorted(set(attempt.start.invited) - set(event.survivors))
        dropped = sorted(one.site for one in event.dropped)
        if dropped != away:
            self.findings.add("round", index, f"dropped: {_names(away)}", _names(dropped))
        if attempt.survivors is not None:
            self.findings.add("aggregate", index, "one set of survivors", "a second one")
        self._context(index, attempt, event.context)
        attempt.survivors = event

    def _share(self, index: int, attempt: Attempt, site: str, event: RecoveryShare) -> None:
        if site not in attempt.uploads:
            self.findings.add("round", index, "shares of a site that uploaded", site)
        if site in attempt.shares:
            self.findings.add("round", index, f"one set of shares of {site}", "another one")
        self._context(index, attempt, event.context)
        attempt.shares[site] = event

    def _aggregate(self, index: int, run: Run, attempt: Attempt, event: Aggregated) -> None:
        self._context(index, attempt, event.context)
        if event.round <= run.opened:
            # The difference of two sums of one round would show the sites that only one holds.
            self.findings.add("aggregate", index, f"one sum of round {event.round}", "another one")
        if attempt.survivors is None or event.survivors != attempt.survivors.survivors:
            self.findings.add("aggregate", index, "the logged survivors", "another set")
        named = {part.site: (part.digest, part.size) for part in event.uploads}
        sent = {
            site: (attempt.uploads[site].digest, attempt.uploads[site].size)
            for site in event.survivors
            if site in attempt.uploads
        }
        if named != sent or len(named) != len(event.uploads):
            wrong = sorted(s for s in named.keys() | sent.keys() if named.get(s) != sent.get(s))
            self.findings.add(
                "aggregate",
                index,
                "the digests of the updates as the sites signed them",
                f"others for {', '.join(wrong)}",
            )
        if len(attempt.shares) < run.start.threshold:
            self.findings.add(
                "aggregate",
                index,
                f"shares of {run.start.threshold} sites",
                f"{len(attempt.shares)}",
            )
        attempt.aggregate = index, event
        if run.steps:
            run.steps.opened(index, event)
        elif not event.model_digest:
            self.findings.add("model", index, "the model that the sum led to", "none")
        run.model = event.model_digest
        run.opened = max(run.opened, event.round)
        if self.first_opened is None:
            self.first_opened = index
        if self.keep_opened:
            self.opened.append(Opened(index, run.start, run.book, attempt, event))

    def _end(self, index: int, attempt: Attempt, event: RoundEnd) -> None:
        outcome = "aborted" if attempt.aggregate is None else "completed"
        if event.outcome != outcome:
            opened = "no opened sum" if attempt.aggregate is None else "an opened sum"
            self.findings.add("aggregate", index, f"{outcome}, with {opened}", event.outcome)
        summed = attempt.aggregate[1].survivors if attempt.aggregate else ()
        joined = set(event.joined)
        if not set(summed) <= joined <= attempt.uploads.keys():
            self.findings.add("round", index, f"joined: {_names(summed)}", _names(event.joined))
        least = sum(_bytes(attempt.uploads[site]) for site in summed if site in attempt.uploads)
        if event.bytes_up < least:
            self.findings.add("round", index, f"at least {least} bytes sent", f"{event.bytes_up}")

    def _context(self, index: int, attempt: Attempt, context: str) -> None:
        """Everything in an attempt is of one context, which the first upload names."""
        for update in attempt.uploads.values():
            if update.context != context:
                self.findings.add("round", index, f"context {update.context}", context)
            break


def _bytes(event: Update) -> int:
    return event.size + event.header_size + event.boxes_size


def _next(opened: int, last: int) -> str:
    return f"round {opened + 1}" if opened < last else f"no round after {last}"


def _form(dimension: int, ring_bits: int) -> str:
    return f"{dimension} numbers of {ring_bits} bits"


def _names(sites: tuple[str, ...] | list[str]) -> str:
    return ", ".join(sites)[:300] or "nobody"
