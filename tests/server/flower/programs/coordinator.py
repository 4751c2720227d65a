"""A coordinator without Wardround's protocol: `coordinator.py HOME PUBLIC_PORT LOOPBACK_PORT`."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from wardround.server.access import AccessRecord
from wardround.server.plugins import hash_token
from wardround.server.superlink import CoordinatorLink, LinkConfig


def main(home: Path, public_port: int, loopback_port: int) -> None:
    records = (home / "access.jsonl").open("a")

    def on_access(record: AccessRecord) -> None:
        records.write(json.dumps(asdict(record)) + "\n")
        records.flush()

    def on_run_end(run: str, failure: str | None) -> None:
        (home / "ended.txt").write_text(f"{run} {failure}")

    config = LinkConfig(
        home=home,
        certificate=home / "tls.crt",
        private_key=home / "tls.key",
        public_port=public_port,
        loopback_port=loopback_port,
        control_tokens={"test": hash_token("wrc_test")},
        serverapp="echo_app:app",
    )
    link = CoordinatorLink(config, on_access, on_run_end=on_run_end)

    def setup() -> None:
        for name in ("east", "north", "south"):
            link.register_node((home / f"{name}.pub").read_bytes(), name)
        if (home / "keep.txt").exists():
            link.keep("run-1")

    link.serve_forever(setup)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="coordinator %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
