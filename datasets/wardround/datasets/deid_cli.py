"""The command `wardround-site data deidentify`: DICOM in, DICOM without names out."""

import csv
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from wardround.datasets.deidentified import RECORDS, Deidentified, default_key_path
from wardround.privacy.errors import WardroundError

if TYPE_CHECKING:
    from wardround.datasets.deidentify import Report, Run

_SHOW_AFTER_SECONDS = 2.0


def deidentify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder of DICOM files; only read.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the results.")],
    profile: Annotated[
        Path | None, typer.Option(help="TOML file of options; default: Basic Profile alone.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report (JSON): counts, no names.")
    ] = None,
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="Write input,output (CSV) for the site's own eyes; mode 0600."),
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(help="Write input,sha256,reason (CSV) of files set aside; mode 0600."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Key file; made on first use, mode 0600.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=64, help="Worker processes; default: one a core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """De-identify a folder of DICOM files (PS3.15 Annex E), originals untouched.

    Results are named by their new SOP Instance UID. Files that cannot be made safe are set aside:
    nothing of them is written, the report lists them by SHA-256 and reason. A record of the run is
    left beside the key, for `data add` to find.

    Exit codes: 0 the run is complete (files set aside included), 1 it could not be done,
    2 wrong usage.
    """
    errors = Console(stderr=True)
    try:
        _check_places(source, output, (report, map_file, quarantine), key, errors)
        key_path = key if key is not None else default_key_path()
        run = _run(source, output, profile, key_path, jobs, errors)
        _record(run, key_path.parent)
        if report is not None:
            _write(report, json.dumps(run.report.to_json(), indent=2, sort_keys=True) + "\n")
        if map_file is not None:
            _write(map_file, _map_rows(run), private=True)
        if quarantine is not None:
            _write(quarantine, _quarantine_rows(run), private=True)
    except WardroundError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    except OSError as error:
        errors.print(f"error: {error.strerror or 'cannot read or write'}", markup=False)
        raise typer.Exit(1) from None
    if as_json:
        sys.stdout.write(json.dumps(run.report.to_json(), sort_keys=True) + "\n")
    else:
        _show(run.report, Console(), named=quarantine is not None)


def _check_places(
    source: Path,
    output: Path,
    lists: tuple[Path | None, ...],
    key: Path | None,
    errors: Console,
) -> None:
    """See before a long run that the files to write have a place, and not among the originals.

    `lists` are the report, then the two that name patients' files.
    """
    from wardround.datasets.errors import DeidentificationError

    source, output = source.resolve(), output.resolve()
    folders = [None if file is None else file.resolve().parent for file in (*lists, key)]
    for folder in folders:
        if folder is not None and (folder == source or source in folder.parents):
            raise DeidentificationError(
                "a file to write lies in the input folder, which is only read; choose another place"
            )
    for folder in folders[: len(lists)]:
        if folder is not None and folder != output and not folder.is_dir():
            raise DeidentificationError("the folder of a file to write does not exist; make it")
    if any(folder is not None and output in (folder, *folder.parents) for folder in folders[1:]):
        errors.print(
            "The key or a list that names patients' files will lie in the output folder: "
            "take it out before the folder is handed on.",
            style="yellow",
            highlight=False,
        )


def _run(
    source: Path,
    output: Path,
    profile: Path | None,
    key_path: Path,
    jobs: int | None,
    errors: Console,
) -> "Run":
    # Imported late: pydicom and scipy would slow down every other command of the site.
    from wardround.datasets.deidentify import Profile, deidentify_folder, load_profile, open_key

    chosen = load_profile(profile) if profile is not None else Profile()
    fresh = not key_path.exists()
    secret = open_key(key_path, create=True)
    if fresh:
        errors.print(
            "A new key was made. Keep a copy in a safe place: only with it do later files of the "
            "same patients get the same pseudonyms.",
            highlight=False,
        )
    with _progress(errors) as on_file:
        return deidentify_folder(
            source,
            output,
            profile=chosen,
            key=secret,
            journal=key_path.parent / "deidentify-journal",
            jobs=jobs,
            on_file=on_file,
        )


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show a bar once a run has taken two seconds."""
    columns = (
        TextColumn("de-identifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    begun = time.monotonic()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("files", visible=False)

        def on_file(done: int, total: int) -> None:
            late = time.monotonic() - begun > _SHOW_AFTER_SECONDS
            bar.update(task, completed=done, total=total, visible=late)

        yield on_file


def _record(run: "Run", folder: Path) -> None:
    written = dict.fromkeys(done.output for done in run.files if done.output is not None)
    Deidentified.of(run.report.to_json(), written).save(folder / RECORDS)


def _map_rows(run: "Run") -> str:
    rows: list[tuple[str, ...]] = [("input", "output")]
    rows += [(str(done.source), str(done.output)) for done in run.files if done.output is not None]
    return _csv(rows)


def _quarantine_rows(run: "Run") -> str:
    rows: list[tuple[str, ...]] = [("input", "sha256", "reason")]
    rows += [
        (str(done.source), done.outcome.sha256, done.outcome.reason)
        for done in run.files
        if done.outcome.reason
    ]
    return _csv(rows)


def _csv(rows: list[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(path: Path, content: str, *, private: bool = False) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        file.write(content)


def _show(report: "Report", console: Console, *, named: bool) -> None:
    from wardround.datasets.deidentify import REASONS

    aside = len(report.quarantined)
    console.print(
        f"{report.passed} files written, {report.duplicates} duplicates, {aside} set aside",
        highlight=False,
    )
    if report.actions:
        table = Table("action", "attributes", title="What was done", title_justify="left")
        for action, count in report.actions:
            table.add_row(action.replace("_", " "), str(count))
        console.print(table)
    if aside:
        table = Table("files", "set aside because", title="Quarantine", title_justify="left")
        for reason, count in report.reasons().items():
            table.add_row(str(count), REASONS[reason])
        console.print(table)
        if not named:
            console.print("Which files: --quarantine FILE lists them by name.", highlight=False)


def main() -> None:
    """Run the command alone, without a site: `python -m wardround.datasets.deid_cli IN OUT`."""
    # Typer's own way to show an unforeseen error prints local variables: values of patients' files.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(deidentify)
    app()


if __name__ == "__main__":
    main()
