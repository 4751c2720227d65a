"""A data set at a glance, as one PNG: samples side by side, and histograms of what there is.

It shows patients' pictures, so it is written with mode 0600 and is for the site's own eyes. No
file name and no pseudonym stands on it.
"""

import io
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wardround.datasets.cohort import Cohort, Sample
from wardround.datasets.manifest import PARTS, Part

COLUMNS = 8
MOST_CLASSES = 12
MOST_LABELS = 200  # volumes whose label is read for the histogram of classes
COLOURS = dict(zip(PARTS, ("#0072b2", "#e69f00"), strict=True))
Thumbnail: TypeAlias = NDArray[np.float32]


def draw(cohort: Cohort) -> bytes:
    """Return the PNG: up to eight samples of each class (volumes: with their label's outline),
    then samples per class and part (volumes: in how many each class is, of 200 at most), samples
    per patient, and sizes. A table has no pictures; it has the share of missing values per column.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [] if cohort.kind == "tabular" else _rows(cohort)
    file = io.BytesIO()
    # Names of classes and columns are no formulas; a letter that the font lacks is an empty box.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(
            figsize=(11, 1.5 * len(rows) + 3.6), layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        parts: Any = figure.subfigures(2, 1, height_ratios=(max(1.5 * len(rows), 0.1), 3.3))
        upper, lower = parts
        if rows:
            _pictures(upper, cohort, rows)
        _histograms(lower, cohort)
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def save(cohort: Cohort, path: Path) -> None:
    """Write the sheet to `path`, readable by its owner alone; nothing when it cannot be drawn."""
    content = draw(cohort)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)


def _rows(cohort: Cohort) -> list[tuple[str, Sequence[Sample]]]:
    """The samples to show, by class; volumes, which have no class, in up to three rows."""
    samples = [sample for part in PARTS for sample in cohort.samples(part)]
    if cohort.kind == "segmentation-3d":
        shown = samples[: 3 * COLUMNS]
        return [("", shown[n : n + COLUMNS]) for n in range(0, len(shown), COLUMNS)]
    return [
        (name, [sample for sample in samples if sample.label == name][:COLUMNS])
        for name in cohort.classes[:MOST_CLASSES]
    ]


def _pictures(figure: Any, cohort: Cohort, rows: list[tuple[str, Sequence[Sample]]]) -> None:
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for line, (name, samples) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, sample in zip(line, samples, strict=False):
            picture, outline = _thumbnail(cohort, sample)
            axis.imshow(picture, cmap="gray", interpolation="nearest")
            if outline is not None and outline.any():
                axis.contour(outline, levels=[0.5], colors="#e69f00", linewidths=1)
        line[0].set_title(name, loc="left", fontsize=10)


def _thumbnail(cohort: Cohort, sample: Sample) -> tuple[Thumbnail, Thumbnail | None]:
    values = cohort.read(sample)[0]
    if cohort.kind != "segmentation-3d":
        return values, None
    mask = cohort.read_mask(sample)[0]
    # The slice with most of the label; feet at the bottom, as films are hung.
    best = int(np.argmax((mask > 0).sum((0, 1))))
    return np.rot90(values[:, :, best]), np.rot90((mask[:, :, best] > 0).astype(np.float32))


def _histograms(figure: Any, cohort: Cohort) -> None:
    classes, units, sizes = figure.subplots(1, 3)
    for axis in (classes, units, sizes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.yaxis.get_major_locator().set_params(integer=True)
    _classes(classes, cohort)
    entries = cohort.manifest.entries
    counts = Counter(Counter(entry.patient for entry in entries).values())
    units.bar(
        [str(n) for n in sorted(counts)], [counts[n] for n in sorted(counts)], color="#0072b2"
    )
    units.set_title("Patients by number of samples", fontsize=10)
    if cohort.schema is not None:
        columns = [column.name for column in cohort.schema.columns]
        gaps = [
            100 * float(np.mean([row.values[place] is None for row in cohort.rows.values()]))
            for place in range(len(columns))
        ]
        sizes.barh(columns, gaps, color="#0072b2")
        sizes.set_title("Missing values (%)", fontsize=10)
        sizes.set_xlim(0, max(1.0, 1.05 * max(gaps)))
        sizes.invert_yaxis()  # from top to bottom, as the schema has them
        sizes.tick_params(axis="y", labelsize=8)
    else:
        _sizes(sizes, [entry.shape for entry in entries])


def _classes(axis: Any, cohort: Cohort) -> None:
    """A bar for each class; of volumes, in how many of them the label marks it."""
    if cohort.kind == "segmentation-3d":
        names, seen, title = _marked(cohort)
    else:
        names, title = cohort.classes, "Samples per class"
        entries = cohort.manifest.entries
        seen = {part: Counter(e.label for e in entries if e.split == part) for part in PARTS}
    base = np.zeros(len(names))
    for part, counts in seen.items():
        heights = np.array([counts[name] for name in names], dtype=float)
        label = part.replace("_", " ")
        axis.bar(names, heights, bottom=base, color=COLOURS[part], label=label)
        base += heights
    axis.set_title(title, fontsize=10)
    axis.tick_params(axis="x", labelrotation=30 if len(names) > 3 else 0, labelsize=8)
    axis.set_ylim(0, 1.25 * max(1.0, base.max()))  # room for the legend above the bars
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="upper center")


def _marked(cohort: Cohort) -> tuple[tuple[str, ...], dict[Part, Counter[str]], str]:
    seen: dict[Part, Counter[str]] = {part: Counter() for part in PARTS}
    samples = [(part, sample) for part in PARTS for sample in cohort.samples(part)]
    step = -(-len(samples) // MOST_LABELS)
    looked = samples[::step]
    for part, sample in looked:
        seen[part].update(cohort.classes[value] for value in np.unique(cohort.read_mask(sample)))
    some = f", {len(looked)} of {len(samples)}" if step > 1 else ""
    return cohort.classes, seen, f"Volumes with each class{some}"


def _sizes(axis: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """A bar for each size while they are few; beyond that, how long the edges are on average."""
    counts = Counter(shapes)
    unit = "voxels" if any(len(shape) == 3 for shape in shapes) else "pixels"
    if len(counts) <= 6:
        names = ["x".join(map(str, shape)) for shape in sorted(counts)]
        axis.bar(names, [counts[shape] for shape in sorted(counts)], color="#0072b2")
        axis.tick_params(axis="x", labelrotation=30 if len(names) > 3 else 0, labelsize=8)
        axis.set_title(f"Sizes ({unit})", fontsize=10)
    else:
        edges = [float(np.prod(shape)) ** (1 / len(shape)) for shape in shapes]
        axis.hist(edges, bins=20, color="#0072b2")
        axis.set_title(f"Mean edge length ({unit})", fontsize=10)
