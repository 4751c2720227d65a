"""What the privacy account costs in time: fifty mixed past runs, one round more, a durable round.

    python benchmarks/accounting.py

Prices start from nothing each time (the caches are emptied; the accountant's own import is left
out), in processor time of one thread, beside dp-accounting's accountant fed the same events. The
durable round is in time of the clock, as it waits for the disk. Medians of five.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from results import record

from wardround.client.database import open_database
from wardround.client.ledger import Ledger
from wardround.client.spend import Reservation
from wardround.privacy import accounting, sampled_gaussian
from wardround.privacy.accounting import ESTIMATE, PrivacyEvent, epsilon

DELTA = Decimal("1e-5")
GOAL = 2.0
TIMES = 5
CACHES = (
    accounting._bound,
    accounting._composed,
    accounting._single,
    accounting._sampled_gaussian,
    sampled_gaussian._step,
)


# Noise multipliers and sample rates of past runs that come to an epsilon of about 6: of many small
# batches, and of few large ones, as `plan suggest` proposes.
SMALL = (0.8, 1.0, 1.3, 2.0), (0.002, 0.005, 0.01, 0.02, 0.05)
LARGE = (8.0, 10.0, 12.0, 16.0), (0.05, 0.1, 0.25, 0.5)


def past_runs(
    kind: tuple[tuple[float, ...], tuple[float, ...]], count: int = 50
) -> list[PrivacyEvent]:
    """Runs of different noise, sample rate and length."""
    chance = random.Random(1)  # noqa: S311  # a benchmark's inputs, not a secret
    sigmas, rates = kind
    return [
        PrivacyEvent.gaussian(
            chance.choice(sigmas) * chance.uniform(0.9, 1.1),
            chance.choice(rates),
            chance.randint(10, 60),
            unit="patient",
            relation="add-remove",
        )
        for _ in range(count)
    ]


def seconds(
    work: Callable[[], object],
    *,
    empty: bool = False,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Median time of `work`, each from emptied caches where `empty`."""
    taken = []
    for _ in range(TIMES):
        if empty:
            for cache in CACHES:
                cache.cache_clear()
        start = clock()
        work()
        taken.append(clock() - start)
    return statistics.median(taken)


def library(runs: list[PrivacyEvent]) -> float:
    """The same account by dp-accounting's own accountant, without the Renyi ceiling."""
    accountant = PLDAccountant(value_discretization_interval=ESTIMATE)
    for run in runs:
        noise = GaussianDpEvent(float(run.sigma))
        accountant.compose(PoissonSampledDpEvent(float(run.sample_rate), noise), run.steps)
    return float(accountant.get_epsilon(float(DELTA)))


def durable_rounds(runs: list[PrivacyEvent]) -> Callable[[], None]:
    """Reserve and commit one round of a run, on a data set that has spent `runs` before."""
    folder = Path(tempfile.mkdtemp())
    ledger = Ledger(open_database(folder / "site.sqlite3"))
    ledger.set_budget("past", Decimal(20), DELTA)
    rounds = iter(range(10**6))

    def round_of(run: str, events: tuple[PrivacyEvent, ...]) -> None:
        held = ledger.reserve(run=run, study="s", dataset="past", round=next(rounds), events=events)
        if isinstance(held, Reservation):
            ledger.commit(held.id, events)

    round_of("past", tuple(runs))
    event = PrivacyEvent.gaussian(4.0, 0.25, 5, unit="patient", relation="add-remove")
    return lambda: round_of("now", (event,))


def row(
    name: str, value: float, compared_to: str, ratio: float | None, goal: float | None
) -> dict[str, object]:
    """One row of the table, in seconds."""
    return {
        "name": name,
        "value": value,
        "unit": "s",
        "compared_to": compared_to,
        "ratio": ratio,
        "goal": goal,
        "met": None if goal is None else value <= goal,
    }


def compared(runs: list[PrivacyEvent]) -> tuple[float, float]:
    """Seconds of dp-accounting's own accountant for `runs`, and of ours from nothing."""
    return seconds(lambda: library(runs)), seconds(lambda: epsilon(runs, DELTA), empty=True)


def main() -> None:
    """Measure, print and record."""
    runs, large = past_runs(SMALL), past_runs(LARGE)
    epsilon(runs, DELTA)  # imports the accountant
    plain, whole = compared(runs)
    plain_large, whole_large = compared(large)
    longer = (
        [*runs, PrivacyEvent.gaussian(4.0, 0.25, 5 * rounds, unit="patient", relation="add-remove")]
        for rounds in range(1, TIMES + 1)
    )
    one = seconds(lambda: epsilon(next(longer), DELTA))
    durable = seconds(durable_rounds(runs), clock=time.perf_counter)
    rows = [
        row("50 mixed past runs, small batches", whole, "dp-accounting", whole / plain, GOAL),
        row(
            "50 mixed past runs, large batches",
            whole_large,
            "dp-accounting",
            whole_large / plain_large,
            GOAL,
        ),
        row("one round more on them", one, "all again", one / whole, None),
        row("durable reserve and commit after them", durable, "", None, None),
    ]
    for line in rows:
        goal = "" if line["goal"] is None else f"<= {line['goal']} s"
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}x {line['compared_to']}"
        print(f"{line['name']!s:<40}{line['value']:>8.3f} s  {ratio:<28}{goal}")
    record(rows, "accounting")


if __name__ == "__main__":
    main()
