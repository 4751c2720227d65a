"""Does a picture hold burned-in text? Lines of letter-like shapes, found without reading them.

Text that a machine writes into a picture has thin strokes of one width and one brightness, in
shapes of about one height that stand on a common line. Anatomy has each of these at times, hardly
all of them in four and more neighbouring shapes.

1. At three sizes of the picture, bright and dark strokes are taken out (top-hat transform).
2. At several thresholds the connected shapes of a letter's proportions are collected.
3. Neighbours of like height are chained into lines, left to right and top to bottom.
4. Each line is measured (`MEASURES`) and weighed by a network of one hidden layer, whose 241
   numbers were fitted on text rendered into real slices (benchmarks/burned_in_text.py).

No recognition, so no language, alphabet or model file. What is too small or too faint for it is
listed in the README.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Table = NDArray[np.float64]

MEASURES = (
    "shapes",
    "length",
    "baseline",
    "topline",
    "height",
    "stroke",
    "stroke_spread",
    "brightness",
    "contrast",
    "flatness",
    "gap",
    "fill",
    "width",
    "clutter",
    "sharpness",
    "letters",
    "size",
)
# Log-odds above which a line counts as text; the README tells what it misses and what it alarms.
THRESHOLD = 1.5
_STROKE = 7  # pixels; a stroke of up to 5 is seen, at half size up to 10, at a quarter up to 20
_THRESHOLDS = (0.08, 0.16, 0.3, 0.5)
_LEAST_HEIGHT, _MOST_HEIGHT = 5, 48
_LEAST_SHAPES = 4
_MOST_SHAPES = 1500
_SIZES = 3
_SMALLEST_SIDE = 24


@dataclass(frozen=True, slots=True)
class Line:
    """A chain of shapes: its measures and its box (left, top, right, bottom) in full pixels."""

    measures: tuple[float, ...]
    box: tuple[int, int, int, int]


def shows_text(plane: Plane) -> bool:
    """Tell whether a grey plane (rows x columns, any range) looks as if it held a line of text."""
    return any(score(line.measures) > THRESHOLD for line in lines(plane))


def score(measures: Sequence[float] | NDArray[np.float32]) -> float:
    """Return the log-odds that a line of these measures is text."""
    net = _network()
    scaled = np.clip((np.asarray(measures) - net.means) / net.scales, -4, 4)
    return float(np.tanh(net.hidden @ scaled + net.hidden_bias) @ net.output + net.bias)


@dataclass(frozen=True, slots=True)
class _Network:
    means: Table
    scales: Table
    hidden: Table
    hidden_bias: Table
    output: Table
    bias: float


@lru_cache(maxsize=1)
def _network() -> _Network:
    text = resources.files(__package__).joinpath("burned_weights.txt").read_text("ascii")
    rows = [
        np.array(line.split(), np.float64) for line in text.splitlines() if not line.startswith("#")
    ]
    means, scales, *hidden, hidden_bias, output, bias = rows
    return _Network(means, scales, np.array(hidden), hidden_bias, output, float(bias[0]))


def lines(plane: Plane) -> Iterator[Line]:
    """Yield every chain of letter-like shapes in `plane`, text or not."""
    if not plane.size or not np.isfinite(plane).all():
        return
    low, high = (float(end) for end in np.percentile(plane, (0.5, 99.5)))
    # Text may be the few brightest or darkest pixels of all; a single hot pixel must not rule.
    low, high = (low + float(plane.min())) / 2, (high + float(plane.max())) / 2
    if high <= low:
        return
    image = np.clip((plane - low) / (high - low), 0, 1).astype(np.float32)
    for step in range(_SIZES):
        if min(image.shape) < _SMALLEST_SIDE:
            return
        for turned in (False, True):
            view = np.ascontiguousarray(image.T) if turned else image
            for found in _lines_of(view):
                left, upper, right, lower = (side << step for side in found.box)
                box = (upper, left, lower, right) if turned else (left, upper, right, lower)
                yield Line(found.measures, box)
        image = _halved(image)


def _halved(image: Plane) -> Plane:
    rows, columns = (side & ~1 for side in image.shape)
    even = image[:rows, :columns]
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return np.asarray(total / 4, np.float32)


def _lines_of(image: Plane) -> Iterator[Line]:
    gradient = np.hypot(ndimage.sobel(image, 0), ndimage.sobel(image, 1)) / 4
    for strokes in (
        image - ndimage.grey_opening(image, (_STROKE, _STROKE)),
        ndimage.grey_closing(image, (_STROKE, _STROKE)) - image,
    ):
        for threshold in _THRESHOLDS:
            mask = strokes > threshold
            if mask.any():
                yield from _chains(mask, strokes, image, gradient)


def _chains(mask: Mask, strokes: Plane, image: Plane, gradient: Plane) -> Iterator[Line]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if count < _LEAST_SHAPES:
        return
    boxes = np.array(
        [(c.start, r.start, c.stop, r.stop) for r, c in ndimage.find_objects(labels)], np.float64
    )
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    letters = (
        (high >= _LEAST_HEIGHT)
        & (high <= _MOST_HEIGHT)
        & (wide <= 3.0 * high)
        & (areas >= high)
        & (areas <= 0.95 * wide * high + 4)
    )
    chosen = np.flatnonzero(letters)
    if len(chosen) < _LEAST_SHAPES:
        return
    if len(chosen) > _MOST_SHAPES:
        chosen = chosen[np.argsort(-high[chosen])[:_MOST_SHAPES]]
    chosen = chosen[np.argsort(boxes[chosen, 0])]
    boxes, areas = boxes[chosen], areas[chosen]
    for members in _linked(boxes):
        yield _measure(
            boxes[members],
            areas[members],
            chosen[members] + 1,
            labels,
            mask,
            strokes,
            image,
            gradient,
        )


def _linked(boxes: Table) -> Iterator[NDArray[np.intp]]:
    """Chain each shape to its nearest fitting neighbour on the right."""
    left, top, right, bottom = boxes.T
    high = bottom - top
    overlap = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    gap = left[None, :] - right[:, None]
    taller = np.maximum(high[:, None], high)
    shorter = np.minimum(high[:, None], high)
    fits = (
        (overlap >= 0.6 * shorter)
        & (taller <= 1.9 * shorter)
        & (gap <= 1.1 * taller)
        & (gap >= -0.25 * taller)
        & (left[None, :] > left[:, None])
    )
    distance = np.where(fits, gap, np.inf)
    nearest = distance.argmin(axis=1)
    begin = np.flatnonzero(fits.any(axis=1))
    size = len(boxes)
    graph = coo_array((np.ones(len(begin)), (begin, nearest[begin])), shape=(size, size))
    count, member = connected_components(graph, directed=False)
    sizes = np.bincount(member, minlength=count)
    for chain in np.flatnonzero(sizes >= _LEAST_SHAPES):
        yield np.flatnonzero(member == chain)


def _measure(
    boxes: Table,
    areas: NDArray[np.int64],
    names: NDArray[np.intp],
    labels: NDArray[np.int32],
    mask: Mask,
    strokes: Plane,
    image: Plane,
    gradient: Plane,
) -> Line:
    left, top, right, bottom = boxes.T
    high, wide = bottom - top, right - left
    height = float(np.median(high))
    centre = (left + right) / 2
    box = tuple(int(v) for v in (left.min(), top.min(), right.max(), bottom.max()))
    x0, y0, x1, y1 = box
    window = labels[y0:y1, x0:x1]
    inside = np.isin(window, names)
    local = window[inside]
    index = np.searchsorted(np.sort(names), local)
    order = np.argsort(names)
    bright = image[y0:y1, x0:x1][inside]
    stroke = strokes[y0:y1, x0:x1][inside]
    count = len(names)
    peak_bright = _peaks(bright, index, count)
    peak_stroke = _peaks(stroke, index, count)
    mean_stroke = np.bincount(index, stroke, count) / np.maximum(1, np.bincount(index, None, count))
    edge = inside & ~ndimage.binary_erosion(inside)
    perimeter = np.bincount(np.searchsorted(np.sort(names), window[edge]), None, count)
    width = 2 * areas[order] / np.maximum(1, perimeter)
    contrast = float(np.median(peak_stroke))
    slope = _slope(centre, bottom)
    gaps = left[1:] - np.maximum.accumulate(right)[:-1]
    margin = max(2, int(height / 2))
    above = mask[max(0, y0 - margin) : max(0, y0 - 1), x0:x1]
    below = mask[y1 + 1 : y1 + margin, x0:x1]
    around = np.concatenate([above.ravel(), below.ravel()])
    density = float(mask[y0:y1, x0:x1].mean())
    edges = gradient[y0:y1, x0:x1][edge]
    measures = (
        min(12.0, float(count)),
        min(15.0, (x1 - x0) / height),
        _spread(bottom - slope * centre) / height,
        _spread(top - slope * centre) / height,
        _spread(high) / height,
        float(np.median(width)) / height,
        _spread(width) / float(np.median(width)),
        _spread(peak_bright) / (contrast + 0.02),
        contrast,
        float(np.median(mean_stroke / (peak_stroke + 1e-3))),
        _spread(gaps) / height,
        float(np.median(areas / (wide * high))),
        float(np.median(wide)) / height,
        float(around.mean()) / (density + 1e-3) if around.size else 0.0,
        float(np.median(edges)) / (contrast + 0.02),
        float(np.mean((wide > 0.25 * high) & (wide < 1.3 * high))),
        float(np.log2(height)),
    )
    return Line(measures, box)  # type: ignore[arg-type]  # four sides, by the tuple above


def _peaks(values: Plane, index: NDArray[np.intp], count: int) -> Table:
    peaks = np.zeros(count)
    np.maximum.at(peaks, index, values)
    return peaks


def _spread(values: Table) -> float:
    """Return the median distance from the median: one odd shape does not count."""
    return float(np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def _slope(centre: Table, bottom: Table) -> float:
    """Return the slope of the base line (Theil-Sen over neighbours), at most 0.15."""
    steps = np.diff(centre)
    usable = steps > 0
    if not usable.any():
        return 0.0
    slopes = (bottom[-1] - bottom[0]) / max(1.0, centre[-1] - centre[0])
    return float(np.clip(slopes, -0.15, 0.15))
