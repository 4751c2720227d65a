"""`wardround-site ledger`: what each data set has spent of its privacy budget, and what is left.

Exit codes: 0 done; 1 it did not work, the last line says why and what to do; 2 wrong usage.
"""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wardround.client.database import open_database
from wardround.client.errors import LedgerError, SiteStateError
from wardround.client.ledger import Ledger
from wardround.client.ledger_names import delta_note, names, patients, pseudonym
from wardround.client.ledger_plot import bar, picture, sparkline
from wardround.client.ledger_statement import OUTSIDE, Statement, statements
from wardround.privacy.errors import PlanInvalid
from wardround.privacy.identity import SITE_NAME
from wardround.privacy.plan import StudyPlan, of_sensible_size, spelled
from wardround.privacy.planned import Forecast, PlannedSpend
from wardround.privacy.records import one_line

app = typer.Typer(invoke_without_command=True, add_completion=False)
budget_app = typer.Typer(no_args_is_help=True)
app.add_typer(budget_app, name="budget", help="The limits this site sets.")

out = Console(highlight=False)
note = Console(stderr=True, highlight=False)
"""For what is no answer: work that goes on, and warnings; it leaves --json alone."""
PRICING = "Adding up the privacy cost ..."
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="WARDROUND_SITE_HOME", help="The site's folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Only this data set.")]
DEFAULT_HOME = Path("site")
LARGE = 10
"""An epsilon above this is pointed out."""
_AGAINST = {"everyone": "everyone", "aggregate": "who sees only the sum"}


@app.callback()
def ledger(
    context: typer.Context,
    home: HomeOption = DEFAULT_HOME,
    dataset: DatasetOption = None,
    since: Annotated[str | None, typer.Option(help="First day, as 2026-01-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day, as 2026-12-31.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also write a picture, FILE.png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show opening, spends and closing of each data set and study."""
    if context.invoked_subcommand is not None:
        if context.get_parameter_source("home") is ParameterSource.COMMANDLINE:
            raise typer.BadParameter(f"write it after: ledger {context.invoked_subcommand} --home")
        return
    day = 86_400_000
    since_ms = _midnight(since) if since else 0
    until_ms = _midnight(until) + day if until else 2**62
    if since_ms >= until_ms:
        raise LedgerError(f"the period ends on {until}, before it begins on {since}")
    opened = open_ledger(home)
    book = opened.book()
    chosen = None if dataset is None else known(home, opened, dataset)
    with note.status(PRICING):
        found = list(statements(book, since_ms=since_ms, until_ms=until_ms, dataset=chosen))
    called = names(home)
    if plot is not None:
        picture(found, plot, called)
    if as_json:
        write_json(
            {
                "datasets": [
                    {"name": called.get(statement.dataset, "")} | statement.to_json()
                    for statement in found
                ],
                "outside_the_accountant": list(OUTSIDE),
                "suspended": book.suspended.to_json() if book.suspended else None,
            }
        )
        return
    if book.suspended:
        out.print(
            f"[bold]Suspended:[/] {book.suspended.sentence}. "
            "See: wardround-site ledger accept-restore --help"
        )
    if not found:
        out.print(
            "No budget is set"
            + (f" for {dataset}." if dataset else ".")
            + " Set one with: wardround-site ledger budget set DATASET --epsilon E --delta D",
            soft_wrap=True,
        )
    for statement in found:
        show(statement, called.get(statement.dataset, ""))
    if found:
        out.print("Outside the accountant (it bounds none of these):")
        for line in OUTSIDE:
            _indented("-", line)
    if plot is not None:
        out.print(f"Picture: {plot}")


@budget_app.command("set")
def budget_set(
    dataset: Annotated[str, typer.Argument(help="The data set, as `data list` has it.")],
    epsilon: Annotated[str, typer.Option(help="The most it may ever spend.")],
    delta: Annotated[str, typer.Option(help="At this delta; well under 1 / patients.")],
    study: Annotated[
        str | None, typer.Option(help="Only for this study, by its id; else in total.")
    ] = None,
    shared_noise: Annotated[
        bool,
        typer.Option(
            "--against-aggregate",
            help="Keep it against the coordinator and the plan's colluders only, so that noise "
            "shared between sites counts. Without it: against everyone.",
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Set the budget of a data set, or of one study on it. Nobody but this site can."""
    if study is not None and not SITE_NAME.fullmatch(study):  # it would bound nothing
        raise LedgerError(f"{study[:40]!r} is no study's id: a-z, 0-9, inner hyphens, at most 32")
    opened = open_ledger(home)
    entry = opened.set_budget(
        known(home, opened, dataset),
        number(epsilon, "--epsilon"),
        number(delta, "--delta"),
        study=study,
        audience="aggregate" if shared_noise else "everyone",
    )
    whose = f"study {study} on {dataset}" if study else dataset
    out.print(f"Budget of {whose}: epsilon {entry.epsilon} at delta {entry.delta}")
    if said := delta_note(Decimal(entry.delta), patients(home, entry.dataset)):
        out.print(said)
    if Decimal(entry.epsilon) > LARGE:
        out.print(
            f"An epsilon above {LARGE} promises little: what is seen may be e^{LARGE}, some "
            "22,000, times as likely with one patient's data as without."
        )
    with note.status(PRICING):
        accounts = opened.book().accounts(entry.dataset, study or "")
    if not accounts:
        out.print(f"{dataset} itself has no budget yet; without one nothing is trained on it.")
        return
    account = accounts[-1]  # the study's comes last, after that of the data set
    if account.held.value > Decimal(entry.epsilon):
        out.print(f"{account.held.text} is spent or reserved: nothing more will be.")
    elif account.held.value:
        out.print(f"{account.held.text} of it is spent or reserved, {account.left} left")


@app.command()
def forecast(
    plan: Annotated[Path, typer.Argument(help="The study plan, a TOML file.")],
    dataset: Annotated[str, typer.Argument(help="The data set it would train on.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Say what a plan would cost of what is left."""
    planned = PlannedSpend.of_plan(read_plan(plan))
    opened = open_ledger(home)
    with note.status(PRICING):
        found = forecast_of(home, opened, planned, dataset)
    if as_json:
        write_json(found.to_json())
    else:
        out.print(replace(found, dataset=dataset).sentence)


@app.command()
def release(
    reservation: Annotated[str, typer.Argument(help="Its id, as `ledger` shows it.")],
    reason: Annotated[str, typer.Option(help="How you know that nothing left the site.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Give back what a round that was cut off holds: only where nothing of it left the site."""
    open_ledger(home).release(reservation, _reason(reason))
    out.print(f"Reservation {reservation} is released")


@app.command("accept-restore")
def accept_restore(
    reason: Annotated[str, typer.Option(help="Why the older copy is in use; kept for ever.")],
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Even where the log does not say what was lost.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Go on with a database restored from an older copy, after the log has shown it to be old.

    The spends this site has signed into the log, and the ledger lacks, count as spent from now on.
    """
    entry = open_ledger(home).accept_restore(_reason(reason), unknown=unknown)
    after = f"; the ledger goes on after entry {entry.seen}" if entry.seen else ""
    out.print(f"Accepted. {len(entry.lost)} spends from the log count again{after}.")
    out.print("Budgets are not in the log: see that they are what you last set.")


def show(statement: Statement, name: str) -> None:
    """Print the account of one data set, which the site calls `name`, within 80 columns."""
    account, budget = statement.account, statement.account.budget
    against = _AGAINST[budget.audience]
    out.print(
        f"[bold]{name or statement.dataset}[/]" + f" ({statement.dataset})" * bool(name) + "\n"
        f"epsilon at delta {budget.delta}, against {against}"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("day", "study", "run"):
        table.add_column(name, overflow="fold")
    for name in ("rounds", "steps", "epsilon"):
        table.add_column(name, justify="right")
    table.add_row("", "opening", "", "", "", f"{statement.opening.value:.4f}")
    for line in statement.lines:
        table.add_row(
            _day(line.last_ms), line.study, line.run[:20], str(line.rounds), str(line.steps),
            f"{line.epsilon_after:.4f}",
        )  # fmt: skip
    table.add_row("", "closing", "", "", "", f"[bold]{statement.closing.value:.4f}[/]")
    if statement.open_reservations:
        table.add_row("", "held for open rounds", "", "", "", f"{account.held.value:.4f}")
    table.add_row("", "budget", "", "", "", f"{Decimal(budget.epsilon):.4f}")
    table.add_row("", "left", "", "", "", f"{account.left:.4f}")
    out.print(table)
    out.print(bar(account, min(48, max(8, out.width - 32))))
    if len(statement.curve) > 1:
        values = [value for _, value in statement.curve]
        out.print(f"over time {sparkline(values, min(60, max(8, out.width - 11)))}")
    then = sorted({line.delta for line in statement.lines} - {budget.delta})
    if then:
        _indented(f"the days' epsilons are as recorded then, some at delta {', '.join(then)}")
    for part in statement.studies:
        limit = f" of {part.budget.epsilon}" if part.budget else ""
        _indented(
            f"study {part.study}: {part.opening.value:.4f} -> {part.closing.value:.4f}{limit}"
            f" at delta {spelled(part.closing.delta)}"
            + f", against {_AGAINST[part.closing.audience]}"
            * (part.closing.audience != budget.audience),
        )
    for id, run, round in statement.open_reservations:
        _indented(f"open: {id} (run {run}, round {round}) counts as spent until decided")
    if (other := statement.otherwise) is not None:
        _indented(f"noise was shared: {other.value:.4f} against {_AGAINST[other.audience]}")
    if statement.lost:
        _indented(f"{statement.lost} spends were restored from the log")
    claim = statement.closing
    if claim.unit:
        _indented(
            f"unit {claim.unit}, neighbours {claim.relation}, sampling {claim.sampling}, "
            f"{claim.accountant} ({claim.version}), Renyi ceiling {claim.ceiling}",
        )
    out.print()


def _indented(*columns: str) -> None:
    """Print one entry of a list; where it needs more lines, they stand under its text."""
    grid = Table.grid(*columns, padding=(0, 1))
    grid.columns[-1].overflow = "fold"
    grid.add_row(*map(Text, columns))
    out.print(Padding(grid, (0, 0, 0, 2), expand=False))


def forecast_of(home: Path, ledger: Ledger, planned: PlannedSpend, dataset: str) -> Forecast:
    """What a planned study would cost on `dataset`; says so where the ledger is suspended."""
    if suspended := ledger.book().suspended:
        note.print(f"Suspended: {suspended.sentence}; nothing is trained until it is decided.")
    return ledger.forecast(
        planned.events_per_round(),
        known(home, ledger, dataset),
        planned.study,
        rounds=planned.rounds,
    )


def known(home: Path, ledger: Ledger, dataset: str) -> str:
    """The pseudonym of `dataset`; LedgerError where the site has none that is called so."""
    return pseudonym(home, dataset, frozenset(name for name, _ in ledger.book().budgets))


def open_ledger(home: Path) -> Ledger:
    """Open the ledger in the site's folder; SiteStateError where there is none."""
    path = home / "site.sqlite3"
    if path.is_file():
        with note.status("Opening the ledger; this waits while another program writes ..."):
            return Ledger(open_database(path))
    if not (home / "site.toml").is_file():
        raise SiteStateError(
            f"there is no site in {home}; give its folder with --home, or: wardround-site init"
        )
    if not (home / "coordinator.json").is_file():
        raise SiteStateError("the ledger begins when the site joins: wardround-site join TOKEN")
    raise SiteStateError(
        f"{path} is gone, and with it the ledger; bring back its newest copy. Without one, "
        "wardround-site status makes a new one, and takes from the log what was spent"
    )


def read_plan(path: Path) -> StudyPlan:
    """Read a plan file; PlanInvalid for one that is missing or not valid."""
    try:
        return StudyPlan.from_toml(path.read_text("utf-8"))
    except OSError as error:
        raise PlanInvalid(f"cannot read the plan {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PlanInvalid(f"{path} is no text; give the plan's TOML file") from None


def number(text: str, option: str) -> Decimal:
    """Read a decimal from the command line; LedgerError names the option."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise LedgerError(f"{option} must be a number, not {text!r}") from None
    if not value.is_finite() or value < 0:
        raise LedgerError(f"{option} must be zero or more, not {text}")
    if not of_sensible_size(value) or len(value.as_tuple().digits) > 18:
        raise LedgerError(f"{option} {text[:60]} is out of every sensible range")
    return value


def write_json(value: object) -> None:
    """Print `value` for machines."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _reason(text: str) -> str:
    """Read a reason that the ledger keeps; LedgerError where there is none."""
    if not text.strip() or one_line(text) != text.strip():
        raise LedgerError("--reason is one line that says why, at most 500 letters, no < or >")
    return text.strip()


def _midnight(day: str) -> int:
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        raise LedgerError(f"{day!r} is no day; write it as 2026-01-31") from None


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")
