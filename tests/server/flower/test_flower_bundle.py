"""The bundle, the import guard, the access log and Flower's switches."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.common.config import get_fab_config, get_metadata_from_config

from wardround.privacy import quiet
from wardround.privacy.exchange import FAB_SHA256, RUN_KEY
from wardround.server.access import AccessLog, AccessRecord
from wardround.server.fab import PYPROJECT, build_fab, fab_digest

REPOSITORY = Path(__file__).resolve().parents[3]


def test_bundle_is_the_one_that_sites_accept() -> None:
    assert fab_digest() == FAB_SHA256
    assert build_fab() == build_fab()


def test_bundle_is_the_text_that_people_can_read() -> None:
    text = (REPOSITORY / "deploy" / "flower_app" / "pyproject.toml").read_text()
    assert text == PYPROJECT


def test_flower_accepts_the_bundle() -> None:
    config = get_fab_config(build_fab())
    assert get_metadata_from_config(config) == ("wardround/wardround", "1.0.0")
    assert config["tool"]["flwr"]["app"]["config"] == {RUN_KEY: ""}


GUARDED = """
import importlib, sys
from wardround.server import guard
guard.install()
for name in ("torch", "monai.networks", "opacus", "pydicom", "nibabel", "wardround.datasets",
             "wardround.client.runner"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert "coordinator" in str(error), error
    else:
        raise SystemExit(f"{name} was loaded")
import wardround.server.superlink, wardround.server.runs, wardround.server.runprocess, json
assert not any(guard.is_refused(name) for name in sys.modules)
"""


def test_a_coordinators_process_can_load_nothing_that_reads_patient_data() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GUARDED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_guard_refuses_to_come_too_late() -> None:
    program = "import sys; sys.modules['torch'] = sys\nfrom wardround.server import guard\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "guard.install()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "torch is loaded already" in done.stderr


def test_loopback_is_exempt_from_every_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet,127.0.0.1")
    variables = quiet.environment(tmp_path)
    assert variables["NO_PROXY"] == "intranet,127.0.0.1,localhost,::1"
    assert variables["FLWR_TELEMETRY_ENABLED"] == "0"


POLL = AccessRecord("fleet", "POST", "/v1/fleet/pull-messages", "accepted", 200, "site", "17")
START = AccessRecord("control", "POST", "/v1/control/start-run", "accepted", 200, "operator", "a")
REFUSED = AccessRecord("other", "GET", "other", "refused", 404, None, None)


def test_routine_calls_are_counted_and_others_reported_at_once() -> None:
    seen: list[AccessRecord] = []
    started = threading.Event()

    def on_access(record: AccessRecord) -> None:
        seen.append(record)
        if record == START:
            started.set()

    log = AccessLog(on_access, window_seconds=1000)
    log.start()
    for _ in range(5):
        log.note(POLL)
    log.note(START)
    assert started.wait(5)
    assert seen == [START]
    log.stop()
    assert seen == [START, replace(POLL, count=5)]


def test_a_flood_of_refusals_becomes_two_records() -> None:
    seen: list[AccessRecord] = []
    log = AccessLog(seen.append, window_seconds=1000)
    log.start()
    for _ in range(10_000):
        log.note(REFUSED)
    log.stop()
    assert seen == [REFUSED, replace(REFUSED, count=9_999)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_access_log_that_cannot_write_stops_working() -> None:
    def broken(record: AccessRecord) -> None:
        raise OSError("disk full")

    log = AccessLog(broken)
    log.start()
    assert log.is_working
    log.note(START)
    log._thread.join(5)
    assert not log.is_working


def test_a_window_ends_even_while_calls_keep_coming() -> None:
    seen: list[AccessRecord] = []
    counted = threading.Event()

    def on_access(record: AccessRecord) -> None:
        seen.append(record)
        if record.path_class == POLL.path_class:
            counted.set()

    log = AccessLog(on_access, window_seconds=0.2)
    log.start()
    log.note(POLL)
    while not counted.wait(0.01):
        log.note(START)
    log.stop()
    assert POLL in seen
