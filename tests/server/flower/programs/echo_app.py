"""A ServerApp that asks three sites again and again, and goes on where its last life stopped."""

import json
import os
import sys
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from wardround.privacy.exchange import RUN_KEY
from wardround.server.exchange import Exchange, Failure, Request

SITES = ("east", "north", "south")
EXCHANGES = int(os.environ.get("ECHO_EXCHANGES", "4"))
BYTES = int(os.environ.get("ECHO_BYTES", "100000"))

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    home = Path(os.environ["WARDROUND_COORDINATOR_HOME"])
    results = home / "results.jsonl"
    done = results.read_text().count("\n") if results.exists() else 0
    exchange = Exchange(grid)
    for number in range(done, EXCHANGES):
        began = time.monotonic()
        payload = os.urandom(BYTES)
        requests = {site: Request("echo", f"{number}".encode(), payload) for site in SITES}
        answers = {}
        for site, answer in exchange.ask(requests, deadline=60):
            if isinstance(answer, Failure):
                raise SystemExit(f"{site}: {answer}")
            answers[site] = f"{answer.kind} {answer.body.decode()} {len(answer.payload or b'')}"
        line = {
            "run": context.run_config[RUN_KEY],
            "number": number,
            "seconds": time.monotonic() - began,
            "answers": answers,
            "refused": sorted({"torch", "monai", "opacus"} & set(sys.modules)),
            "process": os.getpid(),
        }
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
