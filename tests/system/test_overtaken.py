"""A site hears of the log in two ways: what comes late by one is no log that went back."""

from deploy.local import LocalFederation
from tests.system.conftest import make_plan

from wardround.client.round import RoundHandler
from wardround.client.site import Site
from wardround.privacy.events import Access, Fault, PrivacySpend


def test_requests_that_are_overtaken_by_a_sync_every_time_cost_nothing(
    federation: LocalFederation,
) -> None:
    federation.approve(make_plan(rounds=1))
    site = federation.sites["south"]
    log = federation.desk.log
    handler = RoundHandler(site.home, site)
    asked = 0

    with Site.open(site.home, site.link) as watching:  # as `start` does beside the runner

        def overtaken(
            kind: str, body: bytes, payload: bytes | None
        ) -> tuple[str, bytes, bytes | None]:
            nonlocal asked
            asked += 1
            log.append([Access("other", "GET", "other", "refused", 404, "", "")])
            log.checkpoint()
            watching.sync()
            return handler(kind, body, payload)

        federation.grid.replace("south", overtaken)
        outcome = federation.run("findings")

    assert (outcome.status, outcome.note) == ("completed", "")
    events = [leaf.event for leaf in federation.leaves()]
    assert not [event for event in events if isinstance(event, Fault)]
    assert sum(isinstance(event, PrivacySpend) for event in events) == 3
    assert site.witness.refused() == ()
    assert asked == 10  # hello, book, two rounds of three, close twice: each asked once
