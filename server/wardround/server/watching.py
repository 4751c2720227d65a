"""Following a run for a person at a terminal: a line for each round, read from the log."""

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.text import Text

from wardround.privacy.events import (
    Evaluation,
    Fault,
    PrivacySpend,
    RoundEnd,
    RoundStart,
    RunStart,
    Update,
    from_leaf,
)
from wardround.privacy.presentation.document import amount
from wardround.server.desk import Desk

_COLUMNS = (("round", 5), ("sites in sum", 26), ("model before", 14), ("epsilon", 8), ("sent", 8))


class Watch:
    """What has happened in a run since the last look."""

    def __init__(self, desk: Desk, run: str) -> None:
        self._desk = desk
        self._run = run
        self._next = 0
        self._metric = "(too few)"
        self._epsilon = 0.0
        self._doing = "waiting for the coordinator to begin"
        self._began = 0
        self._final = False
        self._updates: set[str] = set()

    def header(self) -> Text:
        """The heading of the lines."""
        heads = [f"{name:<{width}}" for name, width in _COLUMNS]
        return Text("  ".join([*heads, "time"]), style="bold")

    def doing(self) -> str:
        """What the run is doing now, in a few words."""
        return self._doing

    def lines(self) -> Iterator[Text]:
        """Give the lines of what is new."""
        size = self._desk.log.size()
        for data in self._desk.log.entries(self._next, size):
            leaf = from_leaf(data)
            if leaf.run == self._run:
                yield from self._line(leaf.event, leaf.site, leaf.ts_ms)
        self._next = size

    def _line(self, event: object, site: str, ts_ms: int) -> Iterator[Text]:
        if isinstance(event, RunStart) and event.group_mode:
            self._metric = "hidden"  # the sites read it: wardround-site study show
        elif isinstance(event, RoundStart):
            self._began, self._updates, self._final = ts_ms, set(), event.purpose == "evaluate"
            word = "evaluating" if event.purpose == "evaluate" else "training"
            self._doing = f"round {event.round}: {len(event.invited)} sites are {word}"
        elif isinstance(event, PrivacySpend):
            self._epsilon = max(self._epsilon, float(event.epsilon_study or event.epsilon_after))
        elif isinstance(event, Update):
            self._updates.add(site)
            self._doing = f"round {event.round}: {len(self._updates)} masked updates have arrived"
        elif isinstance(event, Evaluation):
            shown = ", ".join(f"{m.name} {float(m.value):.3f}" for m in event.metrics)
            self._metric = shown or "(too few)"
        elif isinstance(event, Fault):
            who = event.site or "coordinator"
            yield Text(f"  {_clock(ts_ms)}  {who}: {event.what}", style="yellow")
        elif isinstance(event, RoundEnd):
            yield self._round(event, ts_ms)

    def _round(self, event: RoundEnd, ts_ms: int) -> Text:
        if event.outcome != "completed":
            return Text(f"{event.round:<5}  tried again: {event.reason}", style="yellow")
        cells = (
            "final" if self._final else str(event.round),
            ", ".join(event.joined),
            self._metric,
            f"{self._epsilon:.2f}",
            amount(event.bytes_up // max(1, len(event.joined))),
        )
        row = [f"{cell:<{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True)]
        return Text("  ".join([*row, f"{(ts_ms - self._began) / 1000:.0f} s"]))


def _clock(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%H:%M:%S")
