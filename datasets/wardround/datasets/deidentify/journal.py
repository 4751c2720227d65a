"""What was done already, so that an interrupted run goes on where it stopped.

One JSON line a file. It stands beside the key, not beside the output: it is for the site alone.
A file is known by a keyed digest of its place, size and time, never by its name.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from wardround.datasets.deidentify.pseudonyms import Pseudonyms
from wardround.datasets.deidentify.report import Outcome


class Journal:
    """The outcomes of earlier runs of one output folder under one profile and key."""

    def __init__(self, folder: Path, output: Path, scope: str, pseudonyms: Pseudonyms) -> None:
        """Open the journal for `output` in `folder`; `scope` changes whenever results would."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = pseudonyms.digest("journal", f"{output.resolve()}\0{scope}")[:16].hex()
        self._path = folder / f"{name}.jsonl"
        self._pseudonyms = pseudonyms
        self._known = dict(self._read())
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "a", encoding="ascii")
        # A line torn by a power cut must not swallow the next one.
        self._file.write("\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read(self) -> list[tuple[str, Outcome]]:
        entries = []
        try:
            lines = self._path.read_text("ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                entry = json.loads(line)
                counts = tuple((str(name), int(count)) for name, count in entry.pop("counts"))
                entries.append((str(entry.pop("file")), Outcome(**entry, counts=counts)))
            except (ValueError, KeyError, TypeError):
                continue  # a torn line: that file is simply done again
        return entries

    def name(self, path: Path) -> str:
        """Return the keyed digest by which this state of the file is known."""
        try:
            status = path.lstat()
            state = f"{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
        except OSError:
            state = "gone"  # since the folder was listed
        place = f"{path}\0{state}"
        return self._pseudonyms.digest("file", place)[:16].hex()

    def get(self, name: str) -> Outcome | None:
        """Return the outcome of an earlier run, None when there is none."""
        return self._known.get(name)

    def put(self, name: str, outcome: Outcome) -> None:
        """Write down one outcome."""
        self._known[name] = outcome
        self._file.write(json.dumps({"file": name} | asdict(outcome)) + "\n")
        self._file.flush()
