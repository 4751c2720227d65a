"""Three sites that answer in capitals: `sites.py HOME COORDINATOR`. Each has its own SuperNode."""

import contextlib
import logging
import sys
import threading
import time
from pathlib import Path

from wardround.client.runner import RunnerConfig, SiteRunner
from wardround.client.supernode import SuperNodeConfig, SuperNodeProcess

SITES = ("east", "north", "south")


def main(home: Path, coordinator: str) -> None:
    with contextlib.ExitStack() as stack:
        nodes = {}
        for site in SITES:
            config = SuperNodeConfig(
                coordinator, home / "ca.crt", home / f"{site}.key", home / f"flower-{site}"
            )
            nodes[site] = stack.enter_context(SuperNodeProcess(config))

            def answer(
                kind: str, body: bytes, payload: bytes | None, site: str = site
            ) -> tuple[str, bytes, bytes | None]:
                with (home / "calls.txt").open("a") as calls:
                    calls.write(f"{site} {body.decode()}\n")
                return kind, site.upper().encode() + body, payload

            runner = SiteRunner(RunnerConfig(nodes[site].address, config.secret), answer)
            threading.Thread(
                target=runner.run_forever, kwargs={"signals": False}, daemon=True
            ).start()
        while True:
            lines = [f"{site} {node.pid}" for site, node in nodes.items()]
            (home / "pids.tmp").write_text("\n".join(lines))
            (home / "pids.tmp").rename(home / "pids.txt")
            time.sleep(0.1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="sites %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    main(Path(sys.argv[1]), sys.argv[2])
