"""`wardround-site start`: the supervised SuperNode and the runner of the locally installed app."""

import fcntl
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wardround.client.config import Home
from wardround.client.errors import ClientError, SiteStateError
from wardround.client.round import RoundHandler
from wardround.client.runner import RunnerConfig, SiteRunner
from wardround.client.site import Site
from wardround.client.supernode import SuperNodeConfig, SuperNodeProcess, new_secret
from wardround.privacy.errors import WardroundError

SYNC_SECONDS = 10.0

logger = logging.getLogger(__name__)


def serve(home: Home) -> None:
    """Run the site until SIGINT or SIGTERM; the SuperNode is started again whenever it ends.

    Raises SiteStateError while another process serves the same site.
    """
    with _alone(home):
        _serve(home)


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Hold the site's lock, which ends with the process.

    Two at work could be given one round each to train: two updates would leave for one spend.
    """
    with (home.folder / "start.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SiteStateError(
                "this site is at work already, in another process; stop that one first"
            ) from None
        yield


def _serve(home: Home) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    secret = new_secret()
    config = SuperNodeConfig(
        coordinator=home.pins().url.removeprefix("https://"),
        authority=home.ca_certificate,
        key=home.supernode_key,
        flower_home=home.folder / "flower",
        secret=secret,
        runtime_port=home.port,
    )
    stopped = threading.Event()
    with Site.open(home) as site, SuperNodeProcess(config) as node:
        watcher = threading.Thread(target=_watch, args=(home, stopped), daemon=True)
        watcher.start()
        logger.info("site %s is at work for %s", home.name, site.pins.url)
        try:
            SiteRunner(RunnerConfig(node.address, secret), RoundHandler(home, site)).run_forever()
        finally:
            stopped.set()
    logger.info("site %s has stopped", home.name)


def _watch(home: Home, stopped: threading.Event) -> None:
    """Witness the log between runs too, so that a log which goes back or forks is noticed."""
    with Site.open(home) as site:
        while True:
            try:
                site.sync()
            except ClientError as error:
                logger.warning("%s", error)
            except WardroundError as error:
                logger.error("%s", error)
            if stopped.wait(SYNC_SECONDS):
                return
