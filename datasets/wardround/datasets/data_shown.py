"""What `wardround-site data` prints for people: data sets, findings, counts.

Every text that comes from a file, a folder or a schema goes through `shown` and `escape`: none of
it may write to the terminal.
"""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wardround.datasets.check_findings import Finding, shown
from wardround.datasets.cohort import Cohort

SHOWN_FINDINGS = 10  # of one kind

out = Console(highlight=False)


def show_list(summaries: list[dict[str, object]], unusable: dict[str, str]) -> None:
    """Print a line a data set; `unusable` says by name why one cannot be opened."""
    if not summaries and not unusable:
        out.print("No data set yet. Add one: wardround-site data add FOLDER --name NAME")
        return
    table = Table("name", "kind", "patients", "samples", "in ledger and log as", box=None)
    for summary in summaries:
        table.add_row(
            *(str(summary[key]) for key in ("name", "kind", "patients", "samples")),
            str(summary["pseudonym"])[:12],
        )
    if summaries:
        out.print(table)
    for name, why in unusable.items():
        out.print(f"[red]unusable[/]  {name}: {escape(shown(why))}")


def show_findings(findings: tuple[Finding, ...]) -> None:
    """Print a line for each, and at most `SHOWN_FINDINGS` of a kind: a few hundred files of one
    trouble must not hide the one of another.
    """
    colours = {"left out": "red", "warning": "yellow", "note": "blue"}
    order = {level: place for place, level in enumerate(colours)}
    kinds: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda f: order[f.level]):
        kinds.setdefault(finding.code, []).append(finding)
    for alike in kinds.values():
        for finding in alike[:SHOWN_FINDINGS]:
            line = finding.to_json()
            where = ", as ".join(escape(path) for path in (line["where"], line.get("twin")) if path)
            where = f"{where}: " if where else ""
            what = escape(shown(finding.what))
            out.print(f"[{colours[finding.level]}]{finding.level}[/]  {where}{what}.")
            out.print(f"    {escape(finding.do)}", style="dim")
        if len(alike) > SHOWN_FINDINGS:
            more = len(alike) - SHOWN_FINDINGS
            out.print(f"    ... and {more} more like this; `data check --json` lists all")


def show_summary(cohort: Cohort) -> None:
    """Print what `Cohort.summary` counts."""
    summary = cohort.summary()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("kind", cohort.kind)
    table.add_row("patients", str(summary["patients"]))
    table.add_row("samples", str(summary["samples"]))
    units = summary["units"]
    if isinstance(units, dict) and units:
        sizes = sorted(int(size) for size in units)
        few, most = sizes[0], sizes[-1]
        table.add_row("per patient", f"{few}" if few == most else f"{few} to {most}")
    parts = summary["parts"]
    if isinstance(parts, dict):
        for part, facts in parts.items():
            if isinstance(facts, dict):
                classes = facts["classes"]
                listed = classes.items() if isinstance(classes, dict) else ()
                text = ", ".join(f"{escape(shown(name))} {count}" for name, count in listed)
                table.add_row(part.replace("_", " "), f"{facts['samples']}  {text}")
    if cohort.pseudonym:
        table.add_row("in the log as", cohort.pseudonym)
        table.add_row("manifest", cohort.digest())
        if cohort.kind != "tabular":
            table.add_row("de-identified", cohort.manifest.deidentification or "no statement")
    out.print(table)
