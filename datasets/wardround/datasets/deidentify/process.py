"""A folder of files through the de-identifier: both cores, in order, resumable, crash-proof."""

import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from wardround.datasets.deidentify import instance
from wardround.datasets.deidentify.journal import Journal
from wardround.datasets.deidentify.profile import Profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms, key_id
from wardround.datasets.deidentify.reading import hash_file, read_content
from wardround.datasets.deidentify.report import Outcome, Report
from wardround.datasets.errors import DeidentificationError, Refused
from wardround.datasets.workers import start_worker

# Raised whenever the same input would give another result: earlier journals are then not used.
RESULT_VERSION = 4
_PART = ".wardround-"


@dataclass(frozen=True, slots=True)
class Done:
    """One file of the folder and its outcome; for the site's own eyes, it holds paths."""

    source: Path
    outcome: Outcome
    output: Path | None


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: the report that may leave, and the list of files that may not."""

    report: Report
    files: tuple[Done, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    source: Path
    output: Path
    profile: Profile
    pseudonyms: Pseudonyms
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class _Made:
    outcome: Outcome
    part: Path | None = None


@dataclass(frozen=True, slots=True)
class _Holder:
    """Whose content a UID stands for: its hash, and its task when it was done in this run."""

    sha256: str
    task: _Task | None


def deidentify_folder(
    source: Path,
    output: Path,
    *,
    profile: Profile,
    key: bytes,
    journal: Path | None = None,
    jobs: int | None = None,
    on_file: Callable[[int, int], None] | None = None,
) -> Run:
    """De-identify every file under `source` into `output`, named by new SOP Instance UID.

    `source` is only read. What cannot be passed is set aside in the report and nothing of it is
    written. `journal`: a folder, private to the site, by which an interrupted run goes on.
    `jobs`: worker processes, default one a core. `on_file(done, total)` is told of progress.

    Raises DeidentificationError when the folders do not allow a run.
    """
    source, output = source.resolve(), output.resolve()
    _check_folders(source, output)
    pseudonyms = Pseudonyms(key)
    paths = sorted(_walk(source))
    output.mkdir(parents=True, exist_ok=True)
    _remove_parts(output)
    tasks = [_Task(path, output, profile, pseudonyms) for path in paths]
    scope = f"{RESULT_VERSION}\0{profile.digest()}"
    try:
        if journal is None:
            files = tuple(_collect(tasks, None, jobs, on_file))
        else:
            with Journal(journal, output, scope, pseudonyms) as known:
                files = tuple(_collect(tasks, known, jobs, on_file))
    finally:
        _remove_parts(output)
    return Run(Report.of(profile, key_id(key), (done.outcome for done in files)), files)


def _remove_parts(output: Path) -> None:
    """Remove what an interrupted run had not yet given its name."""
    for left in output.glob(f"{_PART}*.part"):
        left.unlink(missing_ok=True)


def _check_folders(source: Path, output: Path) -> None:
    if not source.is_dir():
        raise DeidentificationError("the input is not a folder; give a folder of DICOM files")
    if output.exists() and not output.is_dir():
        raise DeidentificationError("the output is a file; give a folder")
    if source == output or source in output.parents or output in source.parents:
        raise DeidentificationError(
            "input and output folder lie inside each other; choose an output folder elsewhere, "
            "so that originals and results are never mixed"
        )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what is no folder, links included, and folders that cannot be looked into; a linked
    folder is not entered.
    """
    closed: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=closed.append, followlinks=False):
        for name in folders:
            if (Path(root) / name).is_symlink():
                yield Path(root) / name
        for name in names:
            yield Path(root) / name
    for error in closed:
        yield Path(error.filename)


def _collect(
    tasks: list[_Task],
    journal: Journal | None,
    jobs: int | None,
    on_file: Callable[[int, int], None] | None,
) -> list[Done]:
    """Give each finished file its name; of several contents with one UID see `_place`."""
    outcomes: dict[Path, Outcome] = {}
    names: dict[Path, str] = {}
    if journal is not None:
        for task in tasks:
            names[task.source] = journal.name(task.source)
            earlier = journal.get(names[task.source])
            if earlier and (
                earlier.reason or (earlier.uid and _target(task, earlier.uid).is_file())
            ):
                outcomes[task.source] = earlier
    holders = {
        outcome.uid: _Holder(outcome.sha256, None)
        for outcome in outcomes.values()
        if outcome.uid and not outcome.duplicate
    }

    def keep(task: _Task, outcome: Outcome) -> None:
        outcomes[task.source] = outcome
        if journal is not None:
            journal.put(names[task.source], outcome)

    again: list[_Task] = []
    # Closed in the end whatever happens, so that no worker writes on after an interruption.
    with closing(_run([task for task in tasks if task.source not in outcomes], jobs)) as made:
        for number, task in enumerate(tasks, 1):
            if task.source not in outcomes:
                _place(task, next(made), holders, keep, again)
            if on_file is not None:
                on_file(number, len(tasks))
    distinct = [replace(task, distinct=True) for task in again]
    with closing(_run(distinct, jobs)) as made:
        for task, result in zip(distinct, made, strict=True):
            _place(task, result, holders, keep, again)
    uids = {outcome.sha256: outcome.uid for outcome in outcomes.values() if not outcome.duplicate}
    return [_done(task, outcomes[task.source], uids) for task in tasks]


def _done(task: _Task, outcome: Outcome, uids: dict[str, str]) -> Done:
    if outcome.duplicate:
        outcome = replace(outcome, uid=uids[outcome.sha256])
    return Done(task.source, outcome, _target(task, outcome.uid) if outcome.uid else None)


def _target(task: _Task, uid: str) -> Path:
    return task.output / f"{uid}.dcm"


def _place(
    task: _Task,
    made: _Made,
    holders: dict[str, _Holder],
    keep: Callable[[_Task, Outcome], None],
    again: list[_Task],
) -> None:
    """Give a finished file its name. The same bytes twice are one.

    Of several contents under one UID, that of the smallest hash has it, whatever the files are
    called; the others are put down to be done `again` with a UID of their own, so that none is
    lost. A result of an earlier run keeps its UID.
    """
    outcome = made.outcome
    if made.part is None:
        keep(task, outcome)
        return
    holder = holders.get(outcome.uid)
    if holder is not None and holder.sha256 == outcome.sha256:
        made.part.unlink()
        keep(task, replace(outcome, duplicate=True))
        return
    if holder is not None and (holder.task is None or holder.sha256 < outcome.sha256):
        made.part.unlink()
        again.append(task)
        return
    if holder is not None and holder.task is not None:
        keep(holder.task, Outcome(""))  # no outcome: an interrupted run does this file anew
        again.append(holder.task)
    holders[outcome.uid] = _Holder(outcome.sha256, task)
    os.replace(made.part, _target(task, outcome.uid))
    keep(task, outcome)


def _run(tasks: list[_Task], jobs: int | None) -> Generator[_Made]:
    """Yield each task's result in order. A worker that dies takes only its own file with it."""
    workers = max(1, min(jobs or os.cpu_count() or 1, len(tasks)))
    waiting = deque(tasks)
    while waiting:
        with _pool(workers) as pool:
            running: deque[tuple[_Task, Future[_Made]]] = deque()
            try:
                while waiting or running:
                    while waiting and len(running) < 4 * workers:
                        running.append((waiting[0], pool.submit(_work, waiting[0])))
                        waiting.popleft()
                    made = running[0][1].result()
                    running.popleft()
                    yield made
            except BrokenProcessPool:
                suspects = [task for task, _ in running]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for task in suspects if waiting or running else ():
            yield _alone(task)


def _alone(task: _Task) -> _Made:
    with _pool(1) as pool:
        try:
            return pool.submit(_work, task).result()
        except BrokenProcessPool:
            return _Made(
                Outcome(hash_file(task.source), reason="crash", detail="a worker process ended")
            )


def _pool(workers: int) -> ProcessPoolExecutor:
    context = get_context("forkserver")
    # The script that was started is imported once, in the fork server, not once a worker.
    context.set_forkserver_preload(["__main__", instance.__name__, f"{__package__}.burned"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)


def _work(task: _Task) -> _Made:
    sha256 = ""
    try:
        content = read_content(task.source, task.profile.max_file_bytes)
        sha256 = content.sha256
        result = instance.deidentify(content, task.profile, task.pseudonyms, distinct=task.distinct)
    except Refused as refused:
        sha256 = sha256 or ("" if refused.reason == "link" else hash_file(task.source))
        return _Made(Outcome(sha256, reason=refused.reason, detail=str(refused)))
    part = task.output / f"{_PART}{secrets.token_hex(12)}.part"
    try:
        part.write_bytes(result.data)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise DeidentificationError(
            f"cannot write into the output folder: {os.strerror(error.errno or 0)}"
        ) from None
    counts = tuple(sorted(result.counts.items()))
    return _Made(Outcome(sha256, uid=result.uid, counts=counts), part)
