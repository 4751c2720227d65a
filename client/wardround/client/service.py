"""`wardround-site start`: the supervised SuperNode and the runner of the locally installed app."""

import logging
import threading

from wardround.client.config import Home
from wardround.client.errors import ClientError
from wardround.client.round import RoundHandler
from wardround.client.runner import RunnerConfig, SiteRunner
from wardround.client.site import Site
from wardround.client.supernode import SuperNodeConfig, SuperNodeProcess, new_secret
from wardround.privacy.errors import WardroundError

SYNC_SECONDS = 10.0

logger = logging.getLogger(__name__)


def serve(home: Home) -> None:
    """Run the site until SIGINT or SIGTERM; the SuperNode is started again whenever it ends."""
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
