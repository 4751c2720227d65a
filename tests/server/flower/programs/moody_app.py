"""A ServerApp that behaves as the name of its run says."""

import os
import signal
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from wardround.privacy.exchange import RUN_KEY
from wardround.server.errors import RoundAborted

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    run = str(context.run_config[RUN_KEY])
    home = Path(os.environ["WARDROUND_COORDINATOR_HOME"])
    with (home / f"{run}.lives").open("a") as lives:
        lives.write(f"{os.getpid()}\n")
    if run == "fails":
        raise RoundAborted("too few sites")
    if run == "sleeps":
        time.sleep(600)
    if run == "dies-once" and len((home / f"{run}.lives").read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
