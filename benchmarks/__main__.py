"""Every benchmark, one after the other, each in a process of its own; then one table.

    python -m benchmarks [--only NAME ...] [--quick]

The rows go into .bench/results.json (with --quick, into .bench/quick.json, as such figures mean
little). The exit code is 1 when a benchmark failed; a goal that was missed is no failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmarks.results import FIELDS, FOLDER, RESULTS, load

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("WARDROUND_DATA", HERE.parent.parent / "shared" / "data"))
WIDTH = 80
COLUMNS = {
    "name": 26, "value": 8, "unit": 9, "compared_to": 13, "ratio": 6, "goal": 9, "met": 3
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A program of this folder: what it is given, what more for a quick try, what it needs."""

    name: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    needs: Path | None = None

    def command(self, quick: bool) -> list[str]:
        """The command that runs it."""
        more = self.quick if quick else ()
        return [sys.executable, str(HERE / f"{self.name}.py"), *self.arguments, *more]


ALL = (
    Benchmark("accounting"),
    Benchmark("secure_aggregation", quick=("--quick",)),
    Benchmark("private_training", quick=("--quick", "UNet 3D")),
    Benchmark("audit_log", quick=("--entries", "20000")),
    Benchmark("data_scan", quick=("--files", "600")),
    Benchmark("burned_in_text", ("measure", str(DATA)), ("--count", "100"), DATA / "mednist"),
)


def run(benchmark: Benchmark, quick: bool, results: Path, label: str, out: Console) -> bool:
    """Run one benchmark and pass on what it prints; whether it ended well."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    begun = time.monotonic()
    out.print(f"{label}  {benchmark.name}", style="bold")
    with (
        Progress(*columns, console=out, transient=True) as progress,
        subprocess.Popen(
            benchmark.command(quick),
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "WARDROUND_BENCH_RESULTS": str(results)},
        ) as process,
    ):
        progress.add_task(f"{label} {benchmark.name}")
        for line in process.stdout or ():
            out.print(Text(line.rstrip("\n")), soft_wrap=True)
    took = time.monotonic() - begun
    well = process.returncode == 0
    word = f"took {took:.0f} s" if well else f"failed with exit code {process.returncode}"
    out.print(f"{benchmark.name} {word}\n")
    return well


def table(rows: Sequence[dict[str, object]]) -> Table:
    """Return the rows as one table of at most 80 columns, a line before each benchmark's."""
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for field, width in COLUMNS.items():
        right = field in ("value", "ratio")
        made.add_column(
            field.replace("_", " "), justify="right" if right else "left", width=width,
            overflow="fold",
        )  # fmt: skip
    before = ""
    for row in rows:
        section, _, name = str(row["name"]).partition(": ")
        if section != before:
            made.add_row(Text(section, style="bold"))
            before = section
        name = textwrap.fill(name, COLUMNS["name"], initial_indent="  ", subsequent_indent="  ")
        made.add_row(Text(name), *(Text(_text(field, row[field])) for field in FIELDS[1:]))
    return made


def _text(field: str, value: object) -> str:
    if value is None:
        return ""
    if field == "met":
        return "yes" if value else "NO"
    if isinstance(value, float | int):
        short = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return f"<= {short}" if field == "goal" else short
    return str(value)


def main() -> int:
    """Run what was asked for, print the table, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=[one.name for one in ALL], metavar="NAME",
        help="only these: " + ", ".join(one.name for one in ALL),
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small sizes: for trying it out")
    chosen = parser.parse_args()
    results = FOLDER / "quick.json" if chosen.quick else RESULTS
    out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    todo = [one for one in ALL if not chosen.only or one.name in chosen.only]
    failed = []
    for number, benchmark in enumerate(todo, 1):
        label = f"{number}/{len(todo)}"
        if benchmark.needs is not None and not benchmark.needs.exists():
            out.print(f"{label}  {benchmark.name} left out: {benchmark.needs} is not here\n")
        elif not run(benchmark, chosen.quick, results, label, out):
            failed.append(benchmark.name)
    rows = load(results)
    out.print(table(rows))
    missed = sum(row["met"] is False for row in rows)
    out.print(f"\n{len(rows)} figures, {missed} goals missed; {results}", soft_wrap=True)
    if failed:
        out.print(f"failed: {', '.join(failed)}", style="bold red")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
