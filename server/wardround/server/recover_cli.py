"""`wardround-coordinator recover`: the way forward after a restore from an old backup."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wardround.privacy.commands import operator
from wardround.privacy.log_copy import read_log_copy
from wardround.server import config
from wardround.server.desk import Desk
from wardround.server.errors import LogDamaged

out = Console(highlight=False)
DEFAULT_HOME = Path("coordinator")


def recover(
    copy: Annotated[Path, typer.Argument(help="A site's copy: wardround-site log --copy FILE.")],
    reason: Annotated[str, typer.Option(help="One line for the log; no person's name.")],
    home: Annotated[
        Path,
        typer.Option(
            "--home", envvar="WARDROUND_COORDINATOR_HOME", help="The coordinator's folder."
        ),
    ] = DEFAULT_HOME,
) -> None:
    """Take the entries that an old backup lacks back from a site's copy of the log.

    Do this before `serve`: whatever is signed in between makes a second history.
    """
    found = read_log_copy(copy)
    with Desk.open(config.load(home)) as desk:
        desk.actor(operator())
        size = desk.log.size()
        if size >= len(found.leaves):
            raise LogDamaged(
                f"the copy holds {len(found.leaves)} entries, this log {size}: nothing to take "
                "back; ask the site that stands furthest"
            )
        count = desk.log.recover(found.pin, found.leaves[size:], found.site, reason)
        desk.log.checkpoint()
    out.print(f"{count} entries taken back from {found.site}; the log says so. Next: serve")
