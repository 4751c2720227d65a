"""The ServerApp: what Flower starts for one run. It reads the run from the coordinator's folder."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from wardround.privacy.errors import IdentityUnknown
from wardround.privacy.exchange import RUN_KEY
from wardround.server import config
from wardround.server.blobs import BlobStore
from wardround.server.desk import Desk
from wardround.server.errors import RoundAborted, RunStopped, StudyError
from wardround.server.exchange import Exchange
from wardround.server.rounds import StudyRun

app = ServerApp()
logger = logging.getLogger(__name__)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Execute the run that Flower's run names; go on where an earlier process stopped."""
    home = config.load(Path(os.environ["WARDROUND_COORDINATOR_HOME"]))
    run = context.run_config.get(RUN_KEY)
    if not isinstance(run, str):
        raise StudyError("the Flower run names no run of Wardround's")
    with Desk.open(home) as desk:
        try:
            execute(desk, grid, run)
        except (StudyError, IdentityUnknown) as error:  # trying again would change nothing
            logger.warning("run %s: %s", run, error)
            desk.studies.fail(run, str(error))


def execute(
    desk: Desk,
    grid: Grid,
    run: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Execute one run over `grid`; its outcome is in the run's record and in the log.

    `sleep` is used while sites are waited for, `clock` says for how many seconds they have been.
    """
    record = desk.studies.run(run)
    study = desk.studies.get(record.study)
    plan = study.signed_plan.open(desk.signer.public_bytes())
    federation = desk.enrolment.federation()
    started = federation.runs.get(run)
    if started is not None and started.start.plan_digest != plan.digest():
        raise StudyError("the study has another plan than the one this run began with")
    try:
        StudyRun(
            run=run,
            plan=plan,
            roster=federation.roster(plan.participants.sites),
            signer=desk.signer,
            log=desk.log,
            uploads=BlobStore(desk.home.blobs),
            models=BlobStore(desk.home.models),
            openings=desk.home.openings,
            studies=desk.studies,
            exchange=Exchange(grid, sleep=sleep, clock=clock),
            rules=desk.home.rounds,
            sleep=sleep,
            clock=clock,
        ).execute()
    except (RunStopped, RoundAborted) as error:
        logger.warning("run %s: %s", run, error)
