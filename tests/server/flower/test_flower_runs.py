"""Runs that end, fail, die and are dropped, each in its real process."""

import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wardround.server.runprocess import _beat, _heart_client
from wardround.server.superlink import CoordinatorLink, LinkConfig

PROGRAMS = Path(__file__).with_name("programs")
Ends = queue.Queue[tuple[str, str | None]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, certificates: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    certificates(folder)
    return folder


@pytest.fixture(scope="module")
def ends() -> Ends:
    return queue.Queue()


@pytest.fixture(scope="module")
def link(home: Path, ends: Ends) -> Iterator[CoordinatorLink]:
    config = LinkConfig(
        home=home,
        certificate=home / "tls.crt",
        private_key=home / "tls.key",
        public_port=0,
        loopback_port=0,
        serverapp="moody_app:app",
        poll_seconds=0.05,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PROGRAMS))
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setattr("wardround.server.runs.RESTART_SECONDS", (0.01,))
        patch.setattr("wardround.server.runs.FAILURES", 2)
        with CoordinatorLink(
            config, lambda record: None, on_run_end=lambda run, failure: ends.put((run, failure))
        ) as running:
            yield running


def lives(home: Path, run: str) -> list[int]:
    path = home / f"{run}.lives"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_a_run_whose_process_dies_is_started_again_and_ends(
    link: CoordinatorLink, home: Path, ends: Ends
) -> None:
    link.keep("dies-once")
    link.keep("dies-once")  # nothing happens: it is kept already
    assert ends.get(timeout=60) == ("dies-once", None)
    assert len(lives(home, "dies-once")) == 2
    end = time.monotonic() + 10
    while link.kept():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_that_fails_again_and_again_is_given_up_with_a_reason(
    link: CoordinatorLink, home: Path, ends: Ends
) -> None:
    link.keep("fails")
    run, failure = ends.get(timeout=60)
    assert run == "fails"
    assert failure is not None
    assert "exit code 1" in failure
    assert len(lives(home, "fails")) == 2


def test_a_beat_that_is_refused_interrupts_nobody(
    link: CoordinatorLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a beat is on its way when its task has just ended."""
    sent: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", sent.append)
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    for address in (link.loopback_address, "127.0.0.1:1"):
        with _heart_client(address, "0" * 64) as client:
            assert _beat(client) is False
    assert sent == []


def test_a_dropped_run_is_ended_and_not_reported_as_an_end(
    link: CoordinatorLink, home: Path, ends: Ends
) -> None:
    link.keep("sleeps")
    end = time.monotonic() + 60
    while not lives(home, "sleeps"):
        assert time.monotonic() < end
        time.sleep(0.05)
    (process,) = lives(home, "sleeps")
    link.drop("sleeps")
    assert link.kept() == frozenset()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert ends.empty()
