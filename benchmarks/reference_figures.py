"""Table and plot of the reference figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Okabe and Ito's colours; marker, line and fill differ too, for grey paper.
STYLES = (
    ("o", "-", "#0072B2"),
    ("s", "--", "#D55E00"),
    ("^", ":", "#000000"),
    ("D", "-.", "#009E73"),
)


@dataclass(frozen=True, slots=True)
class Score:
    """Mean and sample standard deviation of accuracy over the seeds; the learning rate chosen."""

    mean: float
    spread: float
    lr: str


Scores = Mapping[tuple[str, str], Score]


def table(scores: Scores, ways: Sequence[str], across: Sequence[str]) -> str:
    """A Markdown table: ways down, epsilons across; percent, and the learning rate chosen."""
    lines = [
        "| epsilon of each site | " + " | ".join(across) + " |",
        "|---" * (len(across) + 1) + "|",
    ]
    for way in ways:
        cells = [scores.get((way, target)) for target in across]
        shown = [
            "" if s is None else f"{100 * s.mean:.1f} ± {100 * s.spread:.1f} ({s.lr})"
            for s in cells
        ]
        lines.append(f"| {way} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def put_table(document: Path, name: str, text: str) -> None:
    """Put `text` between the two comments that mark the place of table `name` in `document`.

    Raises ValueError when the document has no such place.
    """
    opening, closing = f"<!-- table {name} -->\n", "<!-- end -->"
    before, found, after = document.read_text(encoding="utf-8").partition(opening)
    _, end, rest = after.partition(closing)
    if not (found and end):
        raise ValueError(f"{document} has no place for table {name}: add {opening}{closing}")
    document.write_text(before + opening + text + end + rest, encoding="utf-8")


def plot(scores: Scores, ways: Sequence[str], across: Sequence[str], path: Path) -> None:
    """The curve of accuracy over epsilon, as SVG: above what is near, below what is far."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same words and marks in the same bytes each time.
    matplotlib.rcParams.update({"svg.hashsalt": "wardround", "font.size": 11})
    figure, (high, low) = pyplot.subplots(
        2, sharex=True, figsize=(7.5, 5.4), height_ratios=(3, 1), layout="constrained"
    )
    for index, way in enumerate(ways):
        known = [(i, scores[way, t]) for i, t in enumerate(across) if (way, t) in scores]
        marker, line, colour = STYLES[index]
        for axes in (high, low):
            axes.errorbar(
                # Side by side, so that no error bar hides another.
                [i + 0.05 * (index - 1) for i, _ in known],
                [100 * s.mean for _, s in known],
                [100 * s.spread for _, s in known],
                marker=marker,
                linestyle=line,
                color=colour,
                markerfacecolor="white" if index % 2 else colour,
                capsize=3,
                label=way,
            )
    values = [100 * s.mean for s in scores.values()]
    lowest = min(100 * (s.mean - s.spread) for (way, _), s in scores.items() if way != ways[-1])
    high.set_ylim(lowest - 0.5, 100.2)
    low.set_ylim(min(values) - 6, max(100 * scores[ways[-1], t].mean for t in across) + 6)
    low.set_xticks(range(len(across)), across)
    low.set_xlabel("epsilon of each site, delta 1e-5 (none: without clip and noise)")
    low.text(0.01, 0.8, "another scale", transform=low.transAxes, fontsize=9)
    figure.supylabel("test accuracy, %")
    high.set_title("MedNIST over four label-skewed sites")
    for axes in (high, low):
        axes.grid(alpha=0.3)
    high.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})
