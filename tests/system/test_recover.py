"""A coordinator restored from an old backup: noticed by the sites, and brought back from a copy."""

import shutil
from pathlib import Path

import pytest
from deploy.local import DirectLink, LocalFederation
from tests.system.conftest import make_plan
from typer.testing import CliRunner

from wardround.client.cli import app as site_app
from wardround.client.errors import LogWentBack
from wardround.privacy.errors import MalformedData
from wardround.privacy.events import Restored, from_leaf
from wardround.server import config
from wardround.server.cli import app as coordinator_app
from wardround.server.desk import Desk
from wardround.server.errors import LogDamaged
from wardround.server.loglink import LogLink


def test_entries_that_a_backup_lacks_come_back_from_a_site(
    federation: LocalFederation, tmp_path: Path
) -> None:
    home = federation.desk.home
    federation.desk.studies.create(make_plan(rounds=1), federation.desk.signer, "researcher")
    backup = tmp_path / "backup.sqlite3"
    source = home.folder / "coordinator.sqlite3"
    federation.desk.engine.dispose()
    shutil.copy(source, backup)
    kept = federation.desk.log.size()

    federation.approve(make_plan(rounds=1))
    assert federation.run("findings").status == "completed"
    for site in federation.sites.values():
        site.sync()
    newest = federation.desk.log.size()
    assert newest > kept

    federation.desk.engine.dispose()
    for leftover in home.folder.glob("coordinator.sqlite3*"):
        leftover.unlink()
    shutil.copy(backup, source)

    north = federation.sites["north"]
    with Desk.open(config.load(home.folder)) as restored:
        assert restored.log.size() == kept
        north.link = DirectLink(LogLink(restored.log, "north"))
        with pytest.raises((LogWentBack, LogDamaged)):
            north.sync()

    runner = CliRunner()
    copy = tmp_path / "north.copy"
    made = runner.invoke(site_app, ["log", "--copy", str(copy), "--home", str(north.home.folder)])
    assert made.exit_code == 0, made.output
    back = runner.invoke(
        coordinator_app,
        ["recover", str(copy), "--reason", "disk lost", "--home", str(home.folder)],
    )
    assert back.exit_code == 0, back.output
    assert f"{newest - kept} entries taken back from north" in back.output

    with Desk.open(config.load(home.folder)) as recovered:
        north.link = DirectLink(LogLink(recovered.log, "north"))
        north.sync()
        last = from_leaf(recovered.log.entries(newest, newest + 1)[0]).event
        assert isinstance(last, Restored)
        assert (last.source, last.from_size, last.to_size) == ("north", kept, newest)
    again = runner.invoke(
        coordinator_app,
        ["recover", str(copy), "--reason", "again", "--home", str(home.folder)],
    )
    assert isinstance(again.exception, LogDamaged)
    assert "nothing to take back" in str(again.exception)


def test_another_file_is_no_copy(federation: LocalFederation, tmp_path: Path) -> None:
    (tmp_path / "other").write_text('{"a":1}\n')
    folder = str(federation.desk.home.folder)
    result = CliRunner().invoke(
        coordinator_app, ["recover", str(tmp_path / "other"), "--reason", "x", "--home", folder]
    )
    assert isinstance(result.exception, MalformedData)
