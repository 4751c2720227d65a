"""`wardround-site data`: data sets of this site: add, list, check, show.

Exit codes: 0 done; 1 it did not work, or `check` found files that cannot be used; 2 wrong usage.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bar

from wardround.datasets import cohort as cohorts
from wardround.datasets.check_findings import shown
from wardround.datasets.cohort import Cohort
from wardround.datasets.cohort_options import Options, parse_size, parse_spacing
from wardround.datasets.data_shown import out, show_findings, show_list, show_summary
from wardround.datasets.deid_cli import deidentify
from wardround.datasets.errors import DataError, Unusable
from wardround.datasets.manifest import KINDS
from wardround.datasets.scan import Progress
from wardround.privacy.identity import read_private

KEY_FILE = "data.key"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="WARDROUND_SITE_HOME", help="The site's folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
KindOption = Annotated[
    str, typer.Option(help=f"One of {', '.join(KINDS)}; guessed when not given.")
]
SizeOption = Annotated[
    str, typer.Option(help="Fit pictures to height x width, such as 64x64.", metavar="HxW")
]
SpacingOption = Annotated[
    str, typer.Option(help="Resample volumes to this spacing in mm.", metavar="X,Y,Z")
]
HeldOutOption = Annotated[
    str, typer.Option(help="Share of patients kept for evaluation.", metavar="SHARE")
]
IndexOption = Annotated[
    Path | None, typer.Option(help="List of pictures: CSV with path,label,patient[,split].")
]
SchemaOption = Annotated[
    Path | None, typer.Option(help="Schema of a table; else schema.toml beside it.")
]
PatternOption = Annotated[
    str,
    typer.Option(help="Regular expression with (?P<patient>...), searched in each file's path."),
]
ClassesOption = Annotated[
    str, typer.Option(help="The study's classes in its order.", metavar="NAME,NAME,...")
]
ModalityOption = Annotated[
    str, typer.Option(help="DICOM's codes of what the study is about.", metavar="CT,MR,...")
]
DEFAULT_HOME = Path("site")


@app.command()
def add(
    source: Annotated[Path, typer.Argument(help="Folder of pictures or volumes, or a table.")],
    name: Annotated[str, typer.Option(help="What to call the data set here.")],
    home: HomeOption = DEFAULT_HOME,
    kind: KindOption = "",
    size: SizeOption = "",
    spacing: SpacingOption = "",
    held_out: HeldOutOption = "0.2",
    index: IndexOption = None,
    schema: SchemaOption = None,
    patient_pattern: PatternOption = "",
    classes: ClassesOption = "",
    modality: ModalityOption = "",
    whole: Annotated[bool, typer.Option("--whole", help="Refuse if a file is left out.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace one of this name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add a data set: look at every file, leave out what cannot be used, write the manifest.

    The files stay where they are and are not changed. An interrupted run goes on where it stopped.
    """
    options = _options(
        size, spacing, held_out, index, schema, patient_pattern, classes, modality, whole
    )
    key = _key(home)
    with _explained(as_json), _resumable(), _progress() as progress:
        cohort = cohorts.add(
            source,
            home,
            name,
            kind or guess_kind(source),
            key=key,
            options=options,
            replace=replace,
            progress=progress,
        )
    if as_json:
        _json(cohort.summary())
        return
    show_findings(cohort.findings)
    show_summary(cohort)


@app.command(name="list")
def list_data(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the data sets of this site."""
    summaries: list[dict[str, object]] = []
    unusable: dict[str, str] = {}
    for name in cohorts.names(home):
        try:
            summaries.append(dict(Cohort.load(home, name).summary()))
        except DataError as error:  # the others are there all the same
            unusable[name] = str(error)
    if as_json:
        _json([*summaries, *({"name": name, "error": unusable[name]} for name in unusable)])
    else:
        show_list(summaries, unusable)
    if unusable:
        raise typer.Exit(1)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A folder, a table, or a data set's name.")],
    home: HomeOption = DEFAULT_HOME,
    kind: KindOption = "",
    size: SizeOption = "",
    spacing: SpacingOption = "",
    held_out: HeldOutOption = "0.2",
    index: IndexOption = None,
    schema: SchemaOption = None,
    patient_pattern: PatternOption = "",
    classes: ClassesOption = "",
    modality: ModalityOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong, in which file, and what to do; change nothing.

    For a data set that was added: whether every file is still the one that was added.
    """
    if _is_name(target):
        _check_added(Cohort.load(home, target), as_json)
        return
    source = Path(target)
    options = _options(
        size, spacing, held_out, index, schema, patient_pattern, classes, modality, False
    )
    with _explained(as_json), _progress() as progress:
        cohort = cohorts.look(
            source, kind or guess_kind(source), options=options, progress=progress
        )
    if as_json:
        _json([finding.to_json() for finding in cohort.findings])
    else:
        show_findings(cohort.findings)
        show_summary(cohort)
    if any(finding.level == "left out" for finding in cohort.findings):
        raise typer.Exit(1)


@app.command()
def show(
    target: Annotated[str, typer.Argument(help="A data set's name, or a folder.")],
    home: HomeOption = DEFAULT_HOME,
    kind: KindOption = "",
    classes: ClassesOption = "",
    file: Annotated[Path | None, typer.Option("--out", help="PNG file to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a contact sheet with histograms (PNG) and print the counts."""
    from wardround.datasets import contact_sheet

    if _is_name(target):
        cohort = Cohort.load(home, target)
        sheet = file or home / "datasets" / target / "sheet.png"
    else:
        source = Path(target)
        with _explained(as_json), _progress() as progress:
            options = Options(classes=_listed(classes))
            cohort = cohorts.look(
                source, kind or guess_kind(source), options=options, progress=progress
            )
        if file is None:
            raise DataError("say where the sheet of a folder should go: --out FILE.png")
        sheet = file
    try:
        contact_sheet.save(cohort, sheet)
    except OSError as error:
        raise DataError(f"the sheet cannot be written: {error.strerror}") from None
    if as_json:
        _json({**cohort.summary(), "sheet": str(sheet)})
        return
    show_summary(cohort)
    out.print(f"Contact sheet (patients' pictures, keep it here): {escape(str(sheet))}")


@app.command()
def scaling(
    model: Annotated[Path, typer.Argument(help="The model (.npz) of a tabular-moments study.")],
    schema: Annotated[Path, typer.Argument(help="The schema that its sites shared.")],
) -> None:
    """Print what to put into a schema for a scaling that is common to all sites."""
    import numpy as np

    from wardround.datasets.tabular_moments import scaler, schema_lines
    from wardround.datasets.tabular_schema import Schema

    try:
        shared = Schema.from_toml(schema.read_text(encoding="utf-8"))
        with np.load(model, allow_pickle=False) as arrays:
            mean = arrays["mean"]
    except (ValueError, KeyError, EOFError):
        raise DataError(
            f"{model.name} is not the model of a tabular-moments study; write it with: "
            "wardround-coordinator study model"
        ) from None
    sys.stdout.write(schema_lines(scaler(mean, shared), shared))


def guess_kind(source: Path) -> str:
    """Return the kind of task that `source` looks like; DataError when it is not there."""
    if source.is_file():
        return "tabular"
    if not source.is_dir():
        raise DataError("there is no such folder or table")
    if (source / "dataset.json").is_file() or (source / "imagesTr").is_dir():
        return "segmentation-3d"
    return "image-classification-2d"


def _options(
    size: str,
    spacing: str,
    held_out: str,
    index: Path | None,
    schema: Path | None,
    patient_pattern: str,
    classes: str,
    modality: str,
    whole: bool,
) -> Options:
    try:
        share = Fraction(held_out)
    except (ValueError, ZeroDivisionError):
        raise DataError("the held-out share is a number such as 0.2") from None
    return Options(
        size=parse_size(size) if size else None,
        spacing=parse_spacing(spacing) if spacing else None,
        held_out=share,
        whole=whole,
        index=index,
        schema=schema,
        patient_pattern=patient_pattern or None,
        classes=_listed(classes),
        modalities=_listed(modality),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _key(home: Path) -> bytes:
    if not (home / KEY_FILE).exists():
        raise DataError("there is no site here; run: wardround-site init NAME, or give --home")
    return read_private(home / KEY_FILE)


def _is_name(target: str) -> bool:
    """A name of a data set, unless a folder or file of that name lies here."""
    return "/" not in target and not Path(target).exists()


def _check_added(cohort: Cohort, as_json: bool) -> None:
    damaged = 0
    samples = [s for part in ("train", "held_out") for s in cohort.samples(part)]
    with _progress() as progress:
        for done, sample in enumerate(samples, start=1):
            try:
                cohort.read(sample)
            except DataError:
                damaged += 1
                if not as_json:
                    out.print(f"[yellow]changed[/]  {escape(shown(', '.join(sample.paths)))}")
            progress(done, len(samples))
    if as_json:
        _json({"samples": len(samples), "changed": damaged, "digest": cohort.digest()})
    elif damaged:
        out.print(f"{damaged} of {len(samples)} are gone or changed; add the data set again.")
    else:
        out.print(f"All {len(samples)} samples are as they were added.")
    if damaged:
        raise typer.Exit(1)


@contextmanager
def _explained(as_json: bool) -> Iterator[None]:
    """Show why nothing can be used, file by file, before the error itself is."""
    try:
        yield
    except Unusable as error:
        if as_json:
            _json([finding.to_json() for finding in error.findings])
        else:
            show_findings(error.findings)
        raise


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; the same command goes on where it stopped.\n")
        raise


@contextmanager
def _progress() -> Iterator[Progress]:
    """Give a function that shows a bar on the terminal once the work has lasted two seconds."""
    started = time.monotonic()
    bar = Bar(console=Console(stderr=True), transient=True)
    task = bar.add_task("Looking at files", total=None)
    shown = False

    def step(done: int, total: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - started > 2:
            bar.start()
            shown = True
        bar.update(task, completed=done, total=total)

    try:
        yield step
    finally:
        if shown:
            bar.stop()


def _json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


app.command(name="deidentify")(deidentify)
