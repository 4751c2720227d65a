"""A site whose database is replaced by an older copy: the log shows it, and an operator decides."""

import json
import shutil
import sqlite3
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from deploy.local import LocalFederation
from tests.system.conftest import make_plan
from tests.system.test_reports_cli import type_in
from tests.system.test_study_in_process import reasons, spends

from wardround.client import cli as site_cli
from wardround.client.errors import LedgerRolledBack
from wardround.client.round import RoundHandler
from wardround.client.site import Site
from wardround.client.trainer import Trainer
from wardround.privacy.conversation import Kind
from wardround.privacy.events import Access


def test_a_site_with_an_older_database_spends_nothing_until_its_operator_decides(
    federation: LocalFederation,
) -> None:
    federation.approve(make_plan())
    site = federation.sites["north"]
    old = backup(site)
    assert federation.run("findings").status == "completed"
    paid = spends(federation)
    spent = closing_epsilon(federation)

    # The machine breaks; the newest backup is from before the run.
    bring_back(old, site)
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


def test_an_older_database_is_noticed_by_what_the_site_cosigned_though_nothing_was_spent(
    federation: LocalFederation,
) -> None:
    federation.approve(make_plan())
    site = federation.sites["north"]
    old = backup(site)
    (dataset, study), budget = next(iter(site.ledger.book().budgets.items()))
    site.ledger.set_budget(dataset, Decimal(0), Decimal(budget.delta), study=study)
    federation.desk.log.append([Access("other", "GET", "other", "refused", 404, "", "")])
    site.sync()

    bring_back(old, site)  # and with it the budget of before
    with Site.open(site.home, site.link) as restored:
        federation.grid.replace("north", RoundHandler(restored.home, restored))
        with pytest.raises(LedgerRolledBack, match="this site has cosigned"):
            restored.sync()
        assert federation.run("findings").status == "failed"
        assert spends(federation) == []
        arguments = ("ledger", "accept-restore", "--reason", "a broken disk")
        accepted = type_in(site_cli.app, *arguments, "--home", str(site.home.folder))
        assert "see that they are what you last set" in accepted.output
        restored.sync()
        assert federation.run("findings").status == "completed"


class Restored:
    """A site that is backed up before its second task, and brought back before its third."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self.site, self.stack, self.tasks = site, stack, 0
        self.handler = RoundHandler(site.home, site)

    def __call__(
        self, kind: str, body: bytes, payload: bytes | None
    ) -> tuple[str, bytes, bytes | None]:
        self.tasks += kind == Kind.TASK
        if kind == Kind.TASK and self.tasks == 2:
            self.old = backup(self.site)
        if kind == Kind.TASK and self.tasks == 3:
            bring_back(self.old, self.site)
            again = self.stack.enter_context(Site.open(self.site.home, self.site.link))
            self.handler = RoundHandler(again.home, again)
        return self.handler(kind, body, payload)


def test_a_site_brought_back_in_the_middle_of_a_run_trains_no_further(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = Trainer.train

    def remember(self: Trainer, vector: np.ndarray) -> tuple[np.ndarray, int]:
        trained.append("")
        return train(self, vector)

    monkeypatch.setattr(Trainer, "train", remember)
    federation.approve(make_plan(rounds=3))
    site = federation.sites["north"]
    with ExitStack() as stack:
        federation.grid.replace("north", Restored(site, stack))
        outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "restored from an older copy" in reasons(federation)
    assert [round for name, round in spends(federation) if name == "north"] == [1, 2]
    assert len(trained) == 3 + 3 + 2


def backup(site: Site) -> Path:
    """A copy of the site's database as it stands."""
    old = site.home.folder.parent / "old.sqlite3"
    old.touch(mode=0o600)
    with (
        closing(sqlite3.connect(site.home.database)) as live,
        closing(sqlite3.connect(old)) as kept,
    ):
        live.backup(kept)
    return old


def bring_back(old: Path, site: Site) -> None:
    """The machine broke: `old` takes the place of the site's database."""
    site.engine.dispose()
    for beside in site.home.folder.glob("site.sqlite3*"):
        beside.unlink()
    shutil.copy(old, site.home.database)


def closing_epsilon(federation: LocalFederation) -> str:
    """What the site's data set has spent, as its operator is told."""
    home = federation.folder / "north"
    typed = type_in(site_cli.app, "ledger", "--home", str(home), "--json")
    assert typed.exit_code == 0, typed.exception
    (account,) = json.loads(typed.output)["datasets"]
    return str(account["closing"])
