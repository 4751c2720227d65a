"""Real processes: a coordinator, three sites, a killed SuperNode, a killed coordinator."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wardround.client.supernode import create_node_key

PROGRAMS = Path(__file__).with_name("programs")
SITES = ("east", "north", "south")
EXCHANGES = 8
PATIENCE_SECONDS = 120.0


class World:
    """The processes and the folder in which they leave what they saw."""

    def __init__(self, home: Path, ports: tuple[int, int]) -> None:
        self.home = home
        self.public, self.loopback = ports
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {
            "PYTHONPATH": str(PROGRAMS),
            "PYTHONWARNINGS": "ignore",
            "ECHO_EXCHANGES": str(EXCHANGES),
            "CONNECTION_WATCH": str(home / "connections.txt"),
        }

    def start_coordinator(self) -> subprocess.Popen[bytes]:
        return self._start("coordinator.py", str(self.public), str(self.loopback))

    def start_sites(self) -> subprocess.Popen[bytes]:
        return self._start("sites.py", f"127.0.0.1:{self.public}")

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{program}-{len(self.running)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / program), str(self.home), *arguments],
            env=self.environment,
            stdout=log,
            stderr=log,
        )
        log.close()
        self.running.append(process)
        return process

    def results(self) -> list[dict[str, object]]:
        path = self.home / "results.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def supernode(self, site: str) -> int:
        lines = (self.home / "pids.txt").read_text().splitlines()
        return int(dict(line.split() for line in lines)[site])

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > end:
                logs = [path.read_text()[-3000:] for path in sorted(self.home.glob("*.log"))]
                pytest.fail("waited too long; the logs say:\n" + "\n---\n".join(logs))
            time.sleep(0.05)

    def clear(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def world(certified: Path, ports: tuple[int, int]) -> Iterator[World]:
    for site in SITES:
        (certified / f"{site}.pub").write_bytes(create_node_key(certified / f"{site}.key"))
    (certified / "keep.txt").touch()
    made = World(certified, ports)
    yield made
    made.clear()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_survives_a_killed_supernode_and_a_killed_coordinator(world: World) -> None:
    coordinator = world.start_coordinator()
    sites = world.start_sites()
    world.wait_for(lambda: len(world.results()) >= 2)

    killed = world.supernode("north")
    os.kill(killed, signal.SIGKILL)
    before = len(world.results())
    world.wait_for(lambda: len(world.results()) >= before + 2)
    assert world.supernode("north") != killed

    coordinator.kill()
    coordinator.wait()
    orphan = int(str(world.results()[-1]["process"]))
    world.wait_for(lambda: not is_alive(orphan))
    assert len(world.results()) < EXCHANGES, "it was to be killed in the middle"
    again = world.start_coordinator()
    world.wait_for((world.home / "ended.txt").exists)

    assert (world.home / "ended.txt").read_text() == "run-1 None"
    results = world.results()
    assert [line["number"] for line in results] == list(range(EXCHANGES))
    assert {line["run"] for line in results} == {"run-1"}
    for number, line in enumerate(results):
        assert line["answers"] == {site: f"echo {site.upper()}{number} 100000" for site in SITES}
        assert line["refused"] == [], "the ServerApp's process loaded a training library"
    assert len({line["process"] for line in results}) == 2

    again.send_signal(signal.SIGTERM)
    assert again.wait(30) == 0
    sites.terminate()
    sites.wait(30)
    world.wait_for(lambda: not any(is_alive(world.supernode(site)) for site in SITES))

    records = [json.loads(line) for line in (world.home / "access.jsonl").read_text().splitlines()]
    replies = [each for each in records if each["path_class"] == "/v1/fleet/push-messages"]
    assert {(each["outcome"], each["role"]) for each in replies} >= {("accepted", "site")}
    assert len({each["actor"] for each in replies if each["outcome"] == "accepted"}) == len(SITES)

    seen = (world.home / "connections.txt.seen").read_text().split()
    assert len(set(seen)) >= 2 + 2 + len(SITES) + 1, "the watch is to be in every process"
    assert not (world.home / "connections.txt").exists(), (
        world.home / "connections.txt"
    ).read_text()
