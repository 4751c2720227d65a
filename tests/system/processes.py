"""Looking at and killing real processes: a federation's own, by way of /proc."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

PROC = Path("/proc")
PATIENCE_SECONDS = 300.0
"""How long anything may take on a machine that does much else; nothing waits as long by itself."""
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
NOWHERE = {"00000000", "0" * 32}
"""Addresses as /proc/net has them: the remote end of a socket that only listens."""


class TooLate(AssertionError):
    """Something did not happen in time."""


def wait_for(what: str, condition: Callable[[], bool], logs: Path) -> None:
    """Poll until `condition` holds; TooLate shows the ends of the processes' logs in `logs`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            ends = [f"{path.name}:\n{path.read_text()[-2000:]}" for path in logs.glob("*.log")]
            raise TooLate(f"waited too long for {what}\n" + "\n".join(ends))
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """A living process and all below it, parents first."""
    found = [pid] if is_alive(pid) else []
    for parent in found:
        found += _children(parent)
    return found


def kill_family(process: Popen[bytes], logs: Path) -> list[int]:
    """SIGKILL a process and all below it, and wait until none is left; gives their ids."""
    pids = family(process.pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_for("killed processes to end", lambda: not any(map(is_alive, pids)), logs)
    return pids


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def libraries(pid: int) -> set[str]:
    """The names of the shared libraries that a process has loaded."""
    lines = (PROC / str(pid) / "maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]).name for line in lines if ".so" in line}


def command(pid: int) -> str:
    """The command line of a process."""
    return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def sockets_off_loopback(pid: int) -> list[str]:
    """Each TCP or UDP socket of a process with an end that is not on loopback, as the kernel's."""
    own = set()
    for entry in (PROC / str(pid) / "fd").iterdir():
        try:
            own.add(os.readlink(entry))
        except FileNotFoundError:  # closed since
            continue
    return [line for line in _foreign_sockets() if f"socket:[{line.split()[9]}]" in own]


def _foreign_sockets() -> Iterator[str]:
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            local, remote = (part.split(":")[0] for part in line.split()[1:3])
            if local not in LOOPBACK or remote not in LOOPBACK | NOWHERE:
                yield line


def _children(pid: int) -> list[int]:
    children = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                state, parent = _stat(int(entry.name))
            except OSError:  # it has ended since
                continue
            if parent == pid and state not in "ZX":
                children.append(int(entry.name))
    return children


def _stat(pid: int) -> tuple[str, int]:
    """State letter and parent of a process."""
    state, parent = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)
