"""`wardround-coordinator export`: the audit log for a FHIR repository or a SIEM.

Exit codes: 0 done; 1 it did not work, the last line says why and what to do; 2 wrong usage.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wardround.privacy.commands import operator
from wardround.privacy.errors import MalformedData
from wardround.privacy.events import Event, Export, RunStart, from_leaf
from wardround.privacy.exports import fhir_lines, siem_lines
from wardround.server import config
from wardround.server.desk import Desk
from wardround.server.errors import StudyError

PAGE = 1000
out = Console(highlight=False)
HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="WARDROUND_COORDINATOR_HOME", help="The coordinator's folder."),
]
DEFAULT_HOME = Path("coordinator")


class Format(StrEnum):
    """What reads the file: FHIR R4 AuditEvents, or ECS records; one JSON object a line."""

    FHIR = "fhir"
    SIEM = "siem"


_LINES: dict[Format, Callable[[Iterable[bytes], str, int], Iterator[bytes]]] = {
    Format.FHIR: fhir_lines,
    Format.SIEM: siem_lines,
}


def export(
    output: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    form: Annotated[Format, typer.Option("--format", help="For a FHIR server or a SIEM.")],
    study: Annotated[str, typer.Argument(help="The study's id.")] = "",
    whole: Annotated[bool, typer.Option("--all", help="The whole log, not one study.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write the log's entries of a study, or all of them, as JSON lines for another system.

    Entries that cannot be read belong to every export: none is left out silently.
    """
    if bool(study) == whole:
        raise typer.BadParameter("name a study or give --all, one of the two")
    with Desk.open(config.load(home)) as desk:
        if study and study not in desk.enrolment.federation().studies:
            raise StudyError(f"the log holds no study {study[:40]!r}; see: study list")
        size = desk.log.size()
        lines = _LINES[form]
        entries = enumerate(_leaves(desk, size))
        chosen = entries if whole else _of_study(entries, study)
        count, length, digest = _write(
            output,
            (line for index, leaf in chosen for line in lines([leaf], desk.log.origin, index)),
        )
        event = Export("log", form.value, digest, length, "", "")
        desk.log.append([event], actor=desk.actor(operator()))
    out.print(f"{output}: {count} of {size} log entries", soft_wrap=True)


def _leaves(desk: Desk, size: int) -> Iterator[bytes]:
    for start in range(0, size, PAGE):
        yield from desk.log.entries(start, min(size, start + PAGE))


def _of_study(entries: Iterable[tuple[int, bytes]], study: str) -> Iterator[tuple[int, bytes]]:
    """Give the entries that name the study or a run of it, and those that cannot be read."""
    runs: set[str] = set()
    for index, data in entries:
        try:
            event: Event = from_leaf(data).event
        except MalformedData:
            yield index, data
            continue
        if isinstance(event, RunStart) and event.study == study:
            runs.add(event.run)
        if getattr(event, "study", "") == study or getattr(event, "run", "") in runs:
            yield index, data


def _write(path: Path, lines: Iterable[bytes]) -> tuple[int, int, str]:
    """Write `lines` to the new file `path`; how many, how many bytes, and their SHA-256 in hex.

    They are written beside it and moved there, so that a SIEM never reads half a file.
    """
    if path.exists():
        raise StudyError(f"{path} exists already; give another name")
    partial = path.with_name(f"{path.name}.part")
    count, length, digest = 0, 0, hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for line in lines:
                file.write(line)
                digest.update(line)
                count, length = count + 1, length + len(line)
        os.replace(partial, path)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror}") from None
    return count, length, digest.hexdigest()
