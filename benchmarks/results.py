"""Where every benchmark puts its figures: one list of rows in .bench/results.json.

A row is an object with exactly name, value, unit, compared_to, ratio, goal and met. Its name
begins with its section, the benchmark; recording a section replaces what it held before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

FIELDS = ("name", "value", "unit", "compared_to", "ratio", "goal", "met")
FOLDER = Path(__file__).resolve().parent.parent / ".bench"
RESULTS = Path(os.environ.get("WARDROUND_BENCH_RESULTS", FOLDER / "results.json"))


def record(rows: Sequence[Mapping[str, object]], section: str, path: Path = RESULTS) -> None:
    """Put `rows` in place of what `path` held of `section`, and keep the other sections.

    Raises KeyError for a row that lacks one of the fields.
    """
    kept = [row for row in load(path) if not str(row["name"]).startswith(section)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps([*kept, *(_row(row, section) for row in rows)], indent=1) + "\n")
    os.replace(partial, path)


def load(path: Path = RESULTS) -> list[dict[str, object]]:
    """Return the rows recorded so far, none when there is no file."""
    known = json.loads(path.read_text()) if path.is_file() else []
    return [{name: row[name] for name in FIELDS} for row in known]


def _row(row: Mapping[str, object], section: str) -> dict[str, object]:
    made = {name: row[name] for name in FIELDS}
    if not str(made["name"]).startswith(section):
        made["name"] = f"{section}: {made['name']}"
    return made
