"""A site whose database is replaced by an older copy: the log shows it, and an operator decides."""

import json
import shutil
import sqlite3
from contextlib import closing

from deploy.local import LocalFederation
from tests.system.conftest import make_plan
from tests.system.test_reports_cli import type_in
from tests.system.test_study_in_process import spends

from wardround.client import cli as site_cli
from wardround.client.round import RoundHandler
from wardround.client.site import Site


def test_a_site_with_an_older_database_spends_nothing_until_its_operator_decides(
    federation: LocalFederation,
) -> None:
    federation.approve(make_plan())
    site = federation.sites["north"]
    old = federation.folder / "old.sqlite3"
    old.touch(mode=0o600)
    with (
        closing(sqlite3.connect(site.home.database)) as live,
        closing(sqlite3.connect(old)) as kept,
    ):
        live.backup(kept)
    assert federation.run("findings").status == "completed"
    paid = spends(federation)
    spent = closing_epsilon(federation)

    # The machine breaks; the newest backup is from before the run.
    site.engine.dispose()
    for beside in site.home.folder.glob("site.sqlite3*"):
        beside.unlink()
    shutil.copy(old, site.home.database)
    assert closing_epsilon(federation) == "0"

    with Site.open(site.home, site.link) as restored:
        federation.grid.replace("north", RoundHandler(restored.home, restored))
        outcome = federation.run("findings")
        assert outcome.status == "failed"
        assert "restored from an older copy" in outcome.note
        assert spends(federation) == paid
        home = str(site.home.folder)
        assert "Suspended" in type_in(site_cli.app, "ledger", "--home", home).output
        accepted = type_in(
            site_cli.app, "ledger", "accept-restore", "--reason", "a broken disk", "--home", home
        )
        assert "2 spends from the log count again" in accepted.output
        assert closing_epsilon(federation) == spent
        assert federation.run("findings").status == "completed"
    assert len(spends(federation)) == 2 * len(paid)


def closing_epsilon(federation: LocalFederation) -> str:
    """What the site's data set has spent, as its operator is told."""
    home = federation.folder / "north"
    typed = type_in(site_cli.app, "ledger", "--home", str(home), "--json")
    assert typed.exit_code == 0, typed.exception
    (account,) = json.loads(typed.output)["datasets"]
    return str(account["closing"])
