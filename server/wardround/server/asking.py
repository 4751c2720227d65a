"""Asking the sites of a run: what each answers, what it says to the log, and who falls away."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from wardround.privacy.conversation import Answer, Ask, Kind
from wardround.privacy.errors import PrivacyError, WardroundError
from wardround.privacy.events import Fault, Refusal
from wardround.privacy.records import one_line
from wardround.server.audit import AuditLog
from wardround.server.exchange import Exchange, Failure, Reply, Request
from wardround.server.loglink import LogLink


@dataclass(slots=True)
class Traffic:
    """Bytes of payload and body of one attempt."""

    up: int = 0
    down: int = 0


@dataclass(slots=True)
class Asking:
    """Asks the sites of one run; `deadline` is in seconds.

    `why` tells of each site that fell away from this attempt at which stage and for what reason,
    `refused` names those that refused by a rule of their own.
    """

    run: str
    log: AuditLog
    exchange: Exchange
    deadline: float
    round: int = 0
    attempt: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    why: dict[str, tuple[str, str]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    _links: dict[str, LogLink] = field(default_factory=dict)

    def begin(self, number: int, attempt: int) -> None:
        """Begin an attempt at round `number`: nobody has fallen away, nothing was sent."""
        self.round, self.attempt = number, attempt
        self.traffic, self.why = Traffic(), {}

    def reasons(self) -> str:
        """Return who fell away and why, in one line."""
        return "; ".join(f"{site}: {text}" for site, (_, text) in sorted(self.why.items()))

    def ask(
        self,
        kind: Kind,
        parts: Mapping[str, Mapping[str, bytes]],
        stage: str,
        payload: bytes | None = None,
        seconds: float | None = None,
    ) -> Iterator[tuple[str, Answer, bytes | None]]:
        """Ask sites and yield each good answer as it comes; log what each site says."""
        requests = {
            site: Request(kind, Ask(self.run, part, self._link(site).head()).to_bytes(), payload)
            for site, part in parts.items()
        }
        self.traffic.down += sum(len(r.body) + len(r.payload or b"") for r in requests.values())
        for site, reply in self.exchange.ask(requests, seconds or self.deadline):
            if isinstance(reply, Failure):
                self.drop(site, stage, reply.detail)
                continue
            self.traffic.up += len(reply.body) + len(reply.payload or b"")
            answer = self._read(site, stage, reply)
            if answer is None:
                continue
            if answer.refusal:
                self.drop(site, stage, answer.refusal)
                continue
            yield site, answer, reply.payload

    def _read(self, site: str, stage: str, reply: Reply) -> Answer | None:
        """Read an answer and take in what the site says to the log; None when it does not hold."""
        if reply.kind == "error":
            self.drop(site, stage, reply.body.decode("utf-8", "replace"))
            return None
        try:
            answer = Answer.from_bytes(reply.body)
            if answer.head is not None:
                self._link(site).receive(answer.head)
                if any(e.statement().kind == Refusal.kind for e in answer.head.statements):
                    self.refused.add(site)  # by a rule of its own: asking again is of no use
        except WardroundError as error:
            self.drop(site, stage, str(error))
            return None
        return answer

    @contextmanager
    def taking(self, site: str, stage: str) -> Iterator[None]:
        """Feed one answer to the protocol; a site that deviates drops out of the attempt."""
        try:
            yield
        except (PrivacyError, ValueError) as error:
            self.drop(site, stage, str(error))

    def drop(self, site: str, stage: str, why: str) -> None:
        """Note that a site has fallen away from this attempt, at which stage and why."""
        self.why[site] = (stage, one_line(why))
        self.fault(site, stage, why)

    def fault(self, site: str, stage: str, what: str) -> None:
        """Log one line about what went wrong; `site` is empty for the coordinator itself."""
        place = (self.round, self.attempt)
        self.log.append([Fault(self.run, *place, site, stage, one_line(what))])

    def _link(self, site: str) -> LogLink:
        if site not in self._links:
            self._links[site] = LogLink(self.log, site)
        return self._links[site]
