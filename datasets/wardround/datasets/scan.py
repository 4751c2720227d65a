"""Looking at every file of a data set: on all cores, shown as it goes, resumed where it stopped.

The work on one item (a picture, or a volume and its label) is a function handed in; here is what
surrounds it. Results are appended to a state file as they come, so a scan of 10,000 files that is
interrupted goes on from there. A decoder in C that crashes takes its process with it; the items it
held are then tried alone, and the one that kills its process again is left out as such.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

from wardround.datasets.scan_guard import stamp
from wardround.datasets.workers import start_worker
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData

# A process is handed this many items, or bytes, at once: so much may be lost or waited for when a
# scan is interrupted, and progress moves in such steps.
CHUNK = 32
CHUNK_BYTES = 4 * 2**20
# Starting two processes takes a second of CPU, as long as a thousand small files; from here on they
# are started all the same, since a decoder that crashes then takes only its own process with it.
POOL_FROM = 400
POOL_FROM_BYTES = 64 * 2**20

Paths: TypeAlias = tuple[str, ...]
Note: TypeAlias = tuple[str, str]
Stamps: TypeAlias = tuple[tuple[int, int], ...]
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """What one item turned out to be. Hashes are SHA-256 in hex; no patient's name and no pixel is
    kept.

    `content` is of the bytes, `pixels` of shape, type and decoded values (equal for the same
    picture in two file formats). `orientation` and `spacing` (mm) are those of the file.
    `patient` is a pseudonym, when the file itself says who it shows. `modality` is DICOM's code.
    `notes` and `refused` are (code, detail); `part` is the file of a series that was refused, ""
    when it is no series.
    """

    content: str = ""
    pixels: str = ""
    shape: tuple[int, ...] = ()
    orientation: str = ""
    spacing: tuple[str, ...] = ()
    patient: str = ""
    modality: str = ""
    notes: tuple[Note, ...] = ()
    refused: Note | None = None
    part: str = field(default="", repr=False)

    def to_json(self) -> dict[str, canonical.Json]:
        """Return the canonical-JSON object of this result."""
        return {
            "content": self.content,
            "pixels": self.pixels,
            "shape": list(self.shape),
            "orientation": self.orientation,
            "spacing": list(self.spacing),
            "patient": self.patient,
            "modality": self.modality,
            "notes": [list(note) for note in self.notes],
            "refused": list(self.refused) if self.refused else None,
            "part": self.part,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Probe":
        """Read what `to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        refused = value["refused"]
        return cls(
            content=str(value["content"]),
            pixels=str(value["pixels"]),
            shape=tuple(int(n) for n in value["shape"]),
            orientation=str(value["orientation"]),
            spacing=tuple(str(n) for n in value["spacing"]),
            patient=str(value["patient"]),
            modality=str(value["modality"]),
            notes=tuple((str(code), str(detail)) for code, detail in value["notes"]),
            refused=None if refused is None else (str(refused[0]), str(refused[1])),
            part=str(value["part"]),
        )


Prober: TypeAlias = Callable[[Paths], Probe]
Rounds: TypeAlias = Generator[list[tuple[Paths, Probe]]]


@dataclass(slots=True)
class _State:
    """Results so far, in a file of mode 0600 (it holds file names) inside the site's folder."""

    path: Path | None
    tag: str
    known: dict[Paths, tuple[Stamps, Probe]] = field(default_factory=dict)

    def load(self) -> None:
        if self.path is None:
            return
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        if not lines or lines[0] != self._first():
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._first() + b"\n")
            return
        for line in lines[1:]:
            try:
                value = json.loads(line)
                stamps = tuple((int(size), int(time)) for size, time in value["stamps"])
                paths = tuple(str(path) for path in value["paths"])
                self.known[paths] = (stamps, Probe.from_json(value["probe"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line torn by the interruption: its item is looked at again

    def add(self, results: Iterable[tuple[Paths, Probe]], stamps: Mapping[Paths, Stamps]) -> None:
        if self.path is None:
            return
        with self.path.open("ab") as file:
            for paths, probe in results:
                line: canonical.Json = {
                    "paths": list(paths),
                    "stamps": [list(each) for each in stamps[paths]],
                    "probe": probe.to_json(),
                }
                try:
                    file.write(canonical.dumps(line) + b"\n")
                except MalformedData:  # a time of change beyond 63 bits: not worth remembering
                    continue

    def _first(self) -> bytes:
        return b"wardround/v2/scan " + self.tag.encode()


def scan(
    root: Path,
    items: Sequence[Paths],
    probe: Prober,
    *,
    tag: str = "",
    state: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Probe]:
    """Return one Probe an item, in order of `items`.

    `probe` must be picklable (a top-level function or a partial of one) and must not raise.
    `state` is the file in which results are kept; they are taken up again when `tag` (a digest of
    the options), path, size and time of change are the same. `workers` None means every core.
    `progress` is called with (done, total).
    """
    kept = _State(state, hashlib.sha256(f"{root.resolve()}\0{tag}".encode()).hexdigest())
    kept.load()
    # Taken before anything is read: a file that changes later is looked at again next time.
    stamps = {paths: tuple(stamp(root, path) for path in paths) for paths in items}
    results: dict[Paths, Probe] = {}
    for paths in items:
        known = kept.known.get(paths)
        if known is not None and known[0] == stamps[paths]:
            results[paths] = known[1]
    rest = [paths for paths in dict.fromkeys(items) if paths not in results]
    cores = workers if workers is not None else (os.cpu_count() or 1)
    sizes = {paths: sum(max(length, 0) for length, _ in stamps[paths]) for paths in rest}
    much = len(rest) >= POOL_FROM or sum(sizes.values()) >= POOL_FROM_BYTES
    rounds = _in_processes if cores > 1 and much else _here
    # Closed when interrupted, too: otherwise its processes end when this generator is forgotten.
    with closing(rounds(probe, _chunks(rest, sizes), cores)) as done_chunks:
        for done in done_chunks:
            kept.add(done, stamps)
            results.update(done)
            if progress is not None:
                progress(len(results), len(items))
    return [results[paths] for paths in items]


def _chunks(items: Sequence[Paths], sizes: Mapping[Paths, int]) -> list[list[Paths]]:
    chunks: list[list[Paths]] = []
    held = 0
    for paths in items:
        if not chunks or len(chunks[-1]) >= CHUNK or held + sizes[paths] > CHUNK_BYTES:
            chunks.append([])
            held = 0
        chunks[-1].append(paths)
        held += sizes[paths]
    return chunks


def _here(probe: Prober, chunks: Sequence[Sequence[Paths]], cores: int) -> Rounds:
    for chunk in chunks:
        yield _chunk(probe, chunk)


def _in_processes(probe: Prober, chunks: Sequence[Sequence[Paths]], cores: int) -> Rounds:
    open_chunks = set(range(len(chunks)))
    try:
        with _pool(cores) as pool:
            try:
                with _starting():
                    futures: dict[Future[list[tuple[Paths, Probe]]], int] = {
                        pool.submit(_chunk, probe, chunk): number
                        for number, chunk in enumerate(chunks)
                    }
                for future in as_completed(futures):
                    done = future.result()
                    open_chunks.discard(futures[future])
                    yield done
            finally:
                # Else an interrupted scan would go on to its end, and nothing would be kept of it.
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool:
        for number in sorted(open_chunks):
            yield _alone(probe, chunks[number])


def _alone(probe: Prober, items: Sequence[Paths]) -> list[tuple[Paths, Probe]]:
    """Look at `items` in a process of their own; when it dies, at each of them in its own."""
    try:
        with _pool(1) as pool:
            with _starting():
                future = pool.submit(_chunk, probe, items)
            return future.result()
    except BrokenProcessPool:
        if len(items) == 1:
            return [(items[0], Probe(refused=("reader-died", "")))]
        return [result for paths in items for result in _alone(probe, [paths])]


def _pool(cores: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=start_worker)


@contextmanager
def _starting() -> Iterator[None]:
    """Start processes that neither import the calling program nor hear of Ctrl-C.

    They need nothing of it, and a script or notebook without an `if __name__` guard would be run
    once more in each of them. They inherit what signals are held back, and so have no traceback
    to show while they still load. Processes start at the first submit.
    """
    main = sys.modules["__main__"].__dict__
    kept: dict[str, object] = {n: main[n] for n in ("__file__", "__spec__") if n in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        main.update(kept)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chunk(probe: Prober, items: Sequence[Paths]) -> list[tuple[Paths, Probe]]:
    return [(paths, probe(paths)) for paths in items]
