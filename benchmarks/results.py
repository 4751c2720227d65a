"""Where every benchmark puts its figures: .bench/results.json, one list of rows.

A row is a dict with name, value, unit, compared_to, ratio, goal and met; `section` names the
benchmark. Recording a section replaces what that section held before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / ".bench" / "results.json"


def record(rows: Sequence[Mapping[str, object]], section: str, path: Path = RESULTS) -> None:
    """Merge `rows` into the results under `section`, keeping the other sections."""
    known = json.loads(path.read_text()) if path.is_file() else []
    kept = [row for row in known if row.get("section") != section]
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = [*kept, *({"section": section, **row} for row in rows)]
    path.write_text(json.dumps(merged, indent=1) + "\n")
