"""Scanning: every core, resumed where it stopped, and no file can stop it or lead it outside."""

import importlib
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.datasets import phantom, scan
from wardround.datasets.cohort_image import probe
from wardround.datasets.errors import FileRefused
from wardround.datasets.scan import Paths, Probe
from wardround.datasets.scan_guard import read_file, stamp

PROBES = """
import os
import time
from wardround.datasets.scan import Probe

def count_bytes(paths, *, root):
    return Probe(content=str((root / paths[0]).stat().st_size), shape=(1, 2))

def die_on_seven(paths):  # as a decoder in C may
    if paths[0] == "7":
        os.abort()
    return Probe(content=paths[0])

def leave_a_mark(paths, *, marks):
    time.sleep(0.1)
    (marks / f"{paths[0]} {os.getpid()}").touch()
    return Probe(content=paths[0])
"""


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that child processes can import, too."""
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "probes_of_the_test.py").write_text(PROBES)
    monkeypatch.syspath_prepend(tmp_path / "module")
    yield importlib.import_module("probes_of_the_test")
    del sys.modules["probes_of_the_test"]


def forbidden(paths: Paths) -> Probe:
    raise RuntimeError("this file had been looked at already")


def files(folder: Path, count: int) -> list[Paths]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / str(number)).write_bytes(b"x" * number)
    return [(str(number),) for number in range(count)]


def test_two_processes_give_what_one_gives(
    probes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = files(tmp_path / "in", 70)
    task = partial(probes.count_bytes, root=tmp_path / "in")
    seen: list[tuple[int, int]] = []
    here = scan.scan(tmp_path / "in", items, task, workers=1)
    monkeypatch.setattr(scan, "POOL_FROM", 10)
    there = scan.scan(
        tmp_path / "in", items, task, workers=2, progress=lambda *step: seen.append(step)
    )
    assert here == there == [Probe(content=str(n), shape=(1, 2)) for n in range(70)]
    assert seen[-1] == (70, 70)
    assert len(seen) == 3


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    """With "spawn" each process imports the main program, unless told otherwise."""
    files(tmp_path / "in", 12)
    (tmp_path / "script.py").write_text(
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from wardround.datasets import cohort_image, scan\n"
        "print('started')\n"
        "scan.POOL_FROM = 1\n"
        "probe = partial(cohort_image.probe, root=Path('in'), key=bytes(32))\n"
        "found = scan.scan(Path('in'), [(str(n),) for n in range(12)], probe, workers=2)\n"
        "print(sorted({result.refused[0] for result in found}), __file__ != '')\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "started\n['empty', 'not-an-image'] True\n"


def test_a_file_that_kills_its_reader_is_left_out_alone(
    probes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "POOL_FROM", 1)
    monkeypatch.setattr(scan, "CHUNK", 3)
    items = files(tmp_path / "in", 10)
    found = scan.scan(tmp_path / "in", items, probes.die_on_seven, workers=2)
    assert found.pop(7) == Probe(refused=("reader-died", ""))
    assert [result.content for result in found] == [str(n) for n in range(10) if n != 7]


def test_an_interrupted_scan_goes_on_where_it_stopped(probes: Any, tmp_path: Path) -> None:
    items = files(tmp_path / "in", 100)
    task = partial(probes.count_bytes, root=tmp_path / "in")
    state = tmp_path / "state"

    def interrupt(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan.scan(tmp_path / "in", items, task, state=state, workers=1, progress=interrupt)
    with state.open("ab") as file:
        file.write(b'{"paths":["99')  # torn by a power cut
    assert scan.scan(tmp_path / "in", items[:64], forbidden, state=state) == [
        task(paths) for paths in items[:64]
    ]
    everything = scan.scan(tmp_path / "in", items, task, state=state, workers=1)
    assert everything == [task(paths) for paths in items]


def test_an_interrupted_scan_in_processes_stops_soon(
    probes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "POOL_FROM", 1)
    monkeypatch.setattr(scan, "CHUNK", 1)
    items = files(tmp_path / "in", 60)
    (tmp_path / "marks").mkdir()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    task = partial(probes.leave_a_mark, marks=tmp_path / "marks")
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        scan.scan(tmp_path / "in", items, task, state=state, workers=2, progress=interrupt)
    assert len(list((tmp_path / "marks").iterdir())) < 20
    assert len(state.read_bytes().splitlines()) == 2


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # empty of one that ended
    except OSError:
        return False


def test_processes_end_with_the_one_they_work_for(probes: Any, tmp_path: Path) -> None:
    items = files(tmp_path / "in", 60)
    (tmp_path / "marks").mkdir()
    script = (
        "from functools import partial\n"
        "from pathlib import Path\n"
        "import probes_of_the_test\n"
        "from wardround.datasets import scan\n"
        "scan.POOL_FROM = scan.CHUNK = 1\n"
        "task = partial(probes_of_the_test.leave_a_mark, marks=Path('marks'))\n"
        f"scan.scan(Path('in'), {items!r}, task, workers=2)\n"
    )
    paths = os.pathsep.join([str(tmp_path / "module"), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        while not list((tmp_path / "marks").iterdir()):
            assert parent.poll() is None
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    workers = {int(mark.name.split()[1]) for mark in (tmp_path / "marks").iterdir()}
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))


@pytest.mark.parametrize("cores", [1, 2])
def test_large_items_are_handed_out_one_by_one(
    cores: int, probes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process would get all of a few dozen volumes, and its neighbour none."""
    monkeypatch.setattr(scan, "CHUNK_BYTES", 50)
    monkeypatch.setattr(scan, "POOL_FROM", 1)
    items = files(tmp_path / "in", 60)
    task = partial(probes.count_bytes, root=tmp_path / "in")
    seen: list[int] = []
    scan.scan(
        tmp_path / "in", items, task, workers=cores, progress=lambda done, _: seen.append(done)
    )
    steps = [b - a for a, b in zip([0, *seen], seen, strict=False)]
    assert max(steps) == 10  # 0 to 9 are 45 bytes
    assert sum(step == 1 for step in steps) >= 30


def test_a_file_that_changed_is_looked_at_again(probes: Any, tmp_path: Path) -> None:
    items = files(tmp_path / "in", 3)
    state = tmp_path / "state"
    task = partial(probes.count_bytes, root=tmp_path / "in")
    scan.scan(tmp_path / "in", items, task, state=state)
    (tmp_path / "in" / "1").write_bytes(b"another length")
    assert scan.scan(tmp_path / "in", items, task, state=state)[1].content == "14"
    with pytest.raises(RuntimeError):
        scan.scan(tmp_path / "in", items, forbidden, state=state, tag="other options")


notes = st.tuples(st.sampled_from(["flat", "oblique"]), st.text(max_size=5))


@given(
    st.builds(
        Probe,
        content=st.text(max_size=5),
        pixels=st.text(max_size=5),
        shape=st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
        spacing=st.lists(st.text(max_size=4), max_size=3).map(tuple),
        notes=st.lists(notes, max_size=2).map(tuple),
        refused=st.none() | notes,
    )
)
def test_a_result_is_kept_as_it_was(result: Probe) -> None:
    assert Probe.from_json(result.to_json()) == result


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"another patient")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to(tmp_path)
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "good").write_bytes(b"own")
    (inside / "link").symlink_to(inside / "good")
    for path in ("out", "up/secret", "../secret", str(tmp_path / "secret"), "loop"):
        with pytest.raises(FileRefused, match=r"^outside$"):
            read_file(inside, path, limit=100)
    assert read_file(inside, "link", limit=100) == b"own"


def test_a_folder_beside_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in-other").mkdir()
    (tmp_path / "in-other" / "x").write_bytes(b"x")
    with pytest.raises(FileRefused, match=r"^outside$"):
        read_file(tmp_path / "in", "../in-other/x", limit=100)


def test_pipes_folders_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileRefused, match=r"^not-a-file$"):
            read_file(tmp_path, name, limit=100)


def test_size_is_judged_before_reading(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(4 * 2**30)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(FileRefused, match="too-large: 4,096 MiB"):
        read_file(tmp_path, "sparse", limit=2**30)
    with pytest.raises(FileRefused, match=r"^empty$"):
        read_file(tmp_path, "empty", limit=100)
    with pytest.raises(FileRefused, match=r"^missing$"):
        read_file(tmp_path, "absent", limit=100)
    with pytest.raises(FileRefused, match=r"^unreadable$"):
        read_file(tmp_path, "n" * 300, limit=100)
    with pytest.raises(FileRefused, match=r"^unreadable$"):
        read_file(tmp_path, "a\0b", limit=100)
    assert stamp(tmp_path, "absent") == (-1, -1)
    assert stamp(tmp_path, "a\0b") == (-1, -1)


def test_pictures_are_probed_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "POOL_FROM", 1)
    folder = phantom.images(tmp_path, seed=1, patients=5)
    items = [(path.relative_to(folder).as_posix(),) for path in sorted(folder.rglob("*.png"))]
    found = scan.scan(folder, items, partial(probe, root=folder, key=bytes(32)), workers=2)
    assert all(result.shape == (64, 64) and not result.refused for result in found)
    assert len({result.pixels for result in found}) == len(items)
