"""`make demo`: a whole federation on one machine, with the commands a person would type.

A coordinator and three hospitals, each its own processes and its own folder under .demo, each with
invented images. Everything the demo does is one of the commands it prints.

    python -m deploy.demo [--folder .demo] [--rounds 6]
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

SITES = ("charite", "karolinska", "mayo")
STUDY = "findings"
CLASSES = ("clear", "fibrosis")
# The noise is the same however many patients a site has, so more of them drown it.
PATIENTS = 600
IMAGES_PER_PATIENT = (1, 2)
# Large batches, few steps, much noise, a small network: it learns at an epsilon below 4.
TRAINING = {
    "--widths": "8,16",
    "--steps": "8",
    "--rate": "0.008",
    "--sample-rate": "0.5",
    "--noise": "3.5",
    "--epsilon": "4.0",
    "--delta": "1e-4",
}
out = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """A command of the demo did not do what it should; its own last line says why."""


class Demo:
    """One federation in one folder. Processes it started end when it is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = Path(sys.executable).parent
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}

    def run(self, program: str, *arguments: str, quiet: bool = True) -> str:
        """Type one command; return what it prints."""
        if quiet:
            out.print(f"[dim]$ {program} {' '.join(map(_shorten, arguments))}[/]")
        done = subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DemoFailed(f"{program} {arguments[0]}: {done.stdout.strip()[-800:]}")
        return done.stdout.strip()

    def show(self, program: str, *arguments: str) -> int:
        """Type one command and let it write to the terminal; return its exit code."""
        out.print(f"[dim]$ {program} {' '.join(map(_shorten, arguments))}[/]")
        return subprocess.run(
            [self.bin / program, *arguments], cwd=self.folder, env=self.environment, check=False
        ).returncode

    def start(self, name: str, program: str, *arguments: str) -> None:
        """Start a command that stays, its output in NAME.log."""
        out.print(f"[dim]$ {program} {' '.join(map(_shorten, arguments))} &[/]")
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [self.bin / program, *arguments],
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def stop(self) -> None:
        """End every process: sites first, then the coordinator."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def federation(folder: Path) -> Iterator[Demo]:
    """A fresh folder and the processes in it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    demo = Demo(folder.resolve())
    try:
        yield demo
    finally:
        demo.stop()


def free_port() -> int:
    """Return a port on loopback that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def prepare(demo: Demo, rounds: int) -> None:
    """Coordinator and sites made, joined, approved, with data, policy and an agreed plan."""
    gather(demo)
    draft(demo, rounds)
    agree(demo)


def gather(demo: Demo) -> None:
    """A coordinator that serves; sites made, joined and approved, with data and policy."""
    coordinator = ("--home", "coordinator")
    public, internal = free_port(), free_port()
    demo.run(
        *("wardround-coordinator", "init", "--host", "127.0.0.1", "--port", str(public)),
        *("--internal-port", str(internal), *coordinator),
    )
    demo.start("coordinator", "wardround-coordinator", "serve", *coordinator)
    demo.run("wardround-coordinator", "status", "--wait", "60", *coordinator)
    with ThreadPoolExecutor(len(SITES)) as hospitals:  # as if in three places at once
        for _ in hospitals.map(lambda number: prepare_site(demo, number), range(len(SITES))):
            pass


def draft(demo: Demo, rounds: int) -> None:
    """The researcher's plan, study.toml."""
    demo.run(
        *("wardround-site", "plan", "draft", "--study", STUDY, "--sites", ",".join(SITES)),
        *("--classes", ",".join(CLASSES), "--rounds", str(rounds), "--output", "study.toml"),
        *(word for option in TRAINING.items() for word in option),
        *("--title", "Findings in invented images", "--purpose", "To show a federation at work"),
        *("--legal-basis", "none needed: invented data"),
    )


def agree(demo: Demo) -> None:
    """The plan is put before the hospitals, each approves it and starts."""
    demo.run("wardround-coordinator", "study", "create", "study.toml", "--home", "coordinator")
    with ThreadPoolExecutor(len(SITES)) as hospitals:
        for _ in hospitals.map(lambda site: approve(demo, site), SITES):
            pass


def prepare_site(demo: Demo, number: int) -> None:
    """One hospital: made, joined, approved by the coordinator's officer, with data and policy."""
    site, coordinator = SITES[number], ("--home", "coordinator")
    home = ("--home", site)
    demo.run("wardround-site", "init", site, *home)
    token = demo.run("wardround-coordinator", "enrol", site, "--token-only", *coordinator)
    demo.run("wardround-site", "join", token, *home)
    demo.run("wardround-coordinator", "approve", site, "--yes", *coordinator)
    make_data(demo.folder / f"{site}-images", number)
    demo.run(
        *("wardround-site", "data", "add", f"{site}-images", "--name", "images"),
        *("--kind", "image-classification-2d", *home),
    )
    write_policy(demo.folder / site / "policy.toml")


def approve(demo: Demo, site: str) -> None:
    """The hospital's operator reads the plan, approves it and starts the site."""
    demo.run("wardround-site", "study", "approve", STUDY, "--yes", "--home", site)
    demo.start(site, "wardround-site", "start", "--home", site)


def pin(demo: Demo) -> list[str]:
    """What each hospital has of the log, in NAME.pin; return the options that name the files."""
    for site in SITES:
        demo.run("wardround-site", "log", "--pin", f"{site}.pin", "--home", site)
    return [word for site in SITES for word in ("--pin", f"{site}.pin")]


def bundle(demo: Demo, pins: list[str]) -> list[str]:
    """The study's evidence, in evidence.zip; return the command that verifies it."""
    demo.run(
        *("wardround-coordinator", "bundle", STUDY, "--output", "evidence.zip"),
        *("--policy", "policy.txt", "--home", "coordinator"),
    )
    checks = ("--replay", "--recompute-epsilon")
    return ["wardround-verify", "evidence.zip", "--policy", "policy.txt", *pins, *checks]


def make_data(folder: Path, number: int) -> None:
    """Invented images of one hospital, in one folder a class, one or two for a patient."""
    from wardround.datasets import phantom

    phantom.images(
        folder,
        seed=number,
        patients=PATIENTS,
        images_per_patient=IMAGES_PER_PATIENT,
        classes=CLASSES,
        size=32,
        scanner=number,
    )


def write_policy(path: Path) -> None:
    """What the operator of a demo site admits."""
    peers = ", ".join(f'"{site}"' for site in SITES)
    path.write_text(
        f"""\
[total]
epsilon = 8.0
delta = 1e-4

[[admit]]
task = "image-classification-2d"
data = "images"
epsilon = 4.0
delta = 1e-4
unit = "patient"
min_cohort = 3
min_patients = 20
peers = [{peers}]
shared_noise = false
expires = 2099-12-31
"""
    )


def main() -> int:
    """Run the demo; exit code 0 when the study ran and its evidence verifies."""
    parser = argparse.ArgumentParser(prog="make demo", description="A federation on this machine.")
    parser.add_argument("--folder", type=Path, default=Path(".demo"))
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its processes end with it
    coordinator = ("--home", "coordinator")
    try:
        with federation(options.folder) as demo:
            out.print("[bold]Wardround[/]: one coordinator, three hospitals, one study\n")
            prepare(demo, options.rounds)
            demo.run("wardround-coordinator", "study", "start", STUDY, *coordinator)
            if demo.show("wardround-coordinator", "study", "watch", STUDY, *coordinator) != 0:
                raise DemoFailed("the study did not end well; see the lines above")
            pins = pin(demo)
            demo.run(
                *("wardround-coordinator", "report", STUDY, "--output", "report"),
                *(*pins, *coordinator),
            )
            verify = bundle(demo, pins)
            demo.run(
                *("wardround-coordinator", "study", "model", STUDY),
                *("--output", "model.npz", *coordinator),
            )
            if demo.show(*verify) != 0:
                raise DemoFailed("the evidence does not verify; see the lines above")
            demo.show("wardround-site", "ledger", "--home", SITES[0])
    except DemoFailed as error:
        out.print(f"[bold red]The demo failed.[/] {error}", markup=True)
        out.print(f"Logs of every process are in {options.folder}/*.log")
        return 1
    except KeyboardInterrupt:
        return 130
    out.print(f"\nDone in {time.monotonic() - began:.0f} s. Look at")
    out.print(f"  {options.folder}/report/run-report.html  what an officer reads (also PDF, JSON)")
    out.print(f"  {options.folder}/evidence.zip            what an outsider verifies")
    out.print(f"  {options.folder}/model.npz               what the study was for")
    return 0


def _shorten(argument: str) -> str:
    return argument if len(argument) < 60 else argument[:24] + "..."


if __name__ == "__main__":
    sys.exit(main())
