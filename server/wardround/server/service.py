"""`wardround-coordinator serve`: the SuperLink, Wardround's routes, and runs kept going.

What an officer or an operator decides is written to the database by another process; a loop here
carries it out within seconds: lets enrolled sites' nodes in, shuts revoked ones out, keeps every
unfinished run's process alive, also after this process was killed and started again.
"""

import logging
import threading

from wardround.privacy.errors import WardroundError
from wardround.privacy.events import Access
from wardround.server.access import AccessRecord
from wardround.server.api import make_api
from wardround.server.config import Home
from wardround.server.database import open_database
from wardround.server.desk import open_log
from wardround.server.enrolment import Enrolment
from wardround.server.errors import FlowerRefused
from wardround.server.studies import Studies
from wardround.server.superlink import CoordinatorLink, LinkConfig

POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Service:
    """The coordinator at work."""

    def __init__(self, home: Home) -> None:
        engine = open_database(home.database_url)
        self._log = open_log(home, engine)
        self._enrolment = Enrolment(engine, self._log)
        self._studies = Studies(engine, self._log)
        self._registered: dict[str, bytes] = {}
        self._refusals: dict[str, str] = {}  # what was said of a site last, to say it once
        self._stopped = threading.Event()
        self._link = CoordinatorLink(
            LinkConfig(
                home=home.folder,
                certificate=home.tls_certificate,
                private_key=home.tls_key,
                public_host=home.bind,
                public_port=home.port,
                loopback_port=home.internal_port,
            ),
            self._on_access,
            make_api(self._enrolment, home.ca_certificate.read_bytes()),
            self._on_run_end,
        )

    def serve(self) -> None:
        """Serve until SIGINT or SIGTERM."""
        self._link.serve_forever(self._ready, self._stopped)

    def _ready(self) -> None:
        """Take up where an earlier life of this process left off."""
        self._registered = self._link.registered()
        threading.Thread(target=self._loop, name="reconcile", daemon=True).start()

    def _loop(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            try:
                self._reconcile()
            except WardroundError as error:
                # The next turn tries again: the database or the SuperLink may be busy.
                logger.warning("%s", error)

    def _reconcile(self) -> None:
        enrolled = self._enrolment.federation().sites
        wanted = {site: keys.supernode for site, keys in enrolled.items()}
        for site, key in sorted(self._registered.items()):
            if wanted.get(site) != key:  # revoked, or enrolled anew with another key
                self._link.unregister_node(site)
                del self._registered[site]
        for run in self._studies.unfinished():
            self._link.keep(run.run)
        for site in sorted(wanted.keys() - self._registered.keys()):
            try:
                self._link.register_node(wanted[site], site)
            except FlowerRefused as error:  # one site's matter; the others must not wait for it
                if self._refusals.get(site) != str(error):
                    logger.warning("%s cannot be let in: %s", site, error)
                self._refusals[site] = str(error)
                continue
            self._registered[site] = wanted[site]

    def _on_access(self, record: AccessRecord) -> None:
        self._log.append(
            [
                Access(
                    api=record.api,
                    method=record.method,
                    path_class=record.path_class,
                    outcome=record.outcome,
                    status=record.status,
                    role=record.role or "",
                    run="",
                    count=record.count,
                )
            ],
            actor=record.actor or "",
        )

    def _on_run_end(self, run: str, failure: str | None) -> None:
        """Note a run whose process gave up; one that ended well has noted its end itself."""
        self._studies.fail(run, failure or "its process ended without an outcome")


def serve(home: Home) -> None:
    """Run the coordinator described by `home` until it is told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    Service(home).serve()
