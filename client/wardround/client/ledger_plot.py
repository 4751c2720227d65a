"""Pictures of the ledger: a bar and a line of text for terminals, a PNG for documents."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np

from wardround.client.errors import LedgerError
from wardround.client.ledger_statement import Statement
from wardround.privacy.budget import Account

_BLOCKS = "▁▂▃▄▅▆▇█"


def bar(account: Account, width: int = 48) -> str:
    """One line: spent, held and left of a budget, each also in words."""
    limit = Decimal(account.budget.epsilon)

    def cells(value: Decimal) -> int:
        return width if value >= limit else int(width * value / limit)

    spent, held = cells(account.spent.value), cells(account.held.value)
    return (
        "█" * spent + "▒" * (held - spent) + "░" * (width - held)
        + f" {account.held.value:.2f} of {limit}, {account.left:.2f} left"
    )  # fmt: skip


def sparkline(values: Sequence[Decimal], width: int = 60) -> str:
    """`values` (zero or more, never falling) as at most `width` block characters."""
    if len(values) > width:
        values = [values[i * (len(values) - 1) // (width - 1)] for i in range(width)]
    top = max([*values, Decimal("1e-9")])
    return "".join(
        _BLOCKS[min(len(_BLOCKS) - 1, int(value / top * len(_BLOCKS)))] for value in values
    )


def picture(statements: Sequence[Statement], path: Path, names: Mapping[str, str]) -> None:
    """Write epsilon over time, one panel for each data set, as a PNG file.

    `names` says what the site calls a data set, by its pseudonym. Raises LedgerError where
    matplotlib is missing, `path` does not end in .png, or the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise LedgerError(f"the picture is a PNG file; write its name as {path.stem or path}.png")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise LedgerError("pictures need matplotlib; run: pip install matplotlib") from None
    figure = Figure(figsize=(8, 2.6 * max(1, len(statements))), layout="constrained")
    FigureCanvasAgg(figure)
    for index, statement in enumerate(statements):
        axes = figure.add_subplot(len(statements), 1, index + 1)
        limit = float(statement.account.budget.epsilon)
        times = np.array([at for at, _ in statement.curve], dtype="datetime64[ms]")
        values = [float(value) for _, value in statement.curve]
        if times.size:
            axes.step(
                np.concatenate((times[:1], times)),
                [float(statement.opening.value), *values],
                where="post",
            )
        else:
            axes.text(0.5, 0.4, "nothing spent", transform=axes.transAxes, ha="center")
            axes.set_xticks([])
        axes.axhline(limit, linestyle="--", color="black", label=f"budget {limit:g}")
        # A budget may be set below what was spent already; the spends stay in sight.
        axes.set_ylim(0, max([limit, *values]) * 1.1 or 1)
        axes.set_ylabel(f"epsilon at delta {statement.account.budget.delta}")
        axes.set_title(names.get(statement.dataset, statement.dataset), loc="left")
        axes.legend(loc="best", frameon=False)
        axes.tick_params(axis="x", labelrotation=20)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise LedgerError(f"the picture {path} cannot be written: {error.strerror}") from None
