"""Does a picture hold burned-in text? Lines of letter-like shapes, found without reading them.

Text that a machine writes into a picture has thin strokes of one width and one brightness, in
shapes of about one height that stand on a common line. Anatomy has each of these at times, hardly
all of them in four and more neighbouring shapes.

1. At three sizes of the picture, and a small one enlarged too, bright and dark strokes are taken
   out (top-hat transform).
2. At several thresholds the connected shapes of a letter's proportions are collected.
3. Neighbours of like height are chained into lines, left to right and top to bottom.
4. Each line is measured (`MEASURES`) and weighed by a network of one hidden layer. Its numbers were
   fitted, and the three thresholds chosen, on text rendered into real slices of two parts that
   neither the tests nor the README's figures touch (benchmarks/burned_in_text.py).

No recognition, so no language, alphabet or model file. What is too small or too faint for it is
listed in the README.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    "halvings",
    "side",
)
_STROKE = 7  # pixels; a stroke of up to 5 is seen, at half size up to 10, at a quarter up to 20
_THRESHOLDS = (0.08, 0.16, 0.3, 0.5)
_LEAST_HEIGHT, _MOST_HEIGHT = 5, 48
_LEAST_SHAPES = 4
_MOST_SHAPES = 700
_HALVINGS = 2
_SMALLEST_SIDE = 24
# Letters of a picture below this are enlarged to twice their size, since they touch each other.
_SMALL_SIDE = 160


@dataclass(frozen=True, slots=True)
class Line:
    """A chain of shapes: its measures and its box (left, top, right, bottom) in full pixels."""

    measures: tuple[float, ...]
    box: tuple[int, int, int, int]


def shows_text(plane: Plane) -> bool:
    """Tell whether a grey plane (rows x columns, any range) looks as if it held a line of text."""
    return any(evidence(line.measures) > 0 for line in lines(plane))


def evidence(measures: Sequence[float] | NDArray[np.float32]) -> float:
    """Return by how much the log-odds that a line is text exceed what so many shapes must give."""
    return odds(measures) - float(network().sure[group(measures)])


def group(measures: Sequence[float] | NDArray[np.float32]) -> int:
    """Return 0, 1 or 2: four, five or more shapes. The fewer, the more often a line is chance."""
    return min(int(measures[0]), _LEAST_SHAPES + 2) - _LEAST_SHAPES


def odds(measures: Sequence[float] | NDArray[np.float32]) -> float:
    """Return the log-odds that a line is text."""
    net = network()
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
    sure: Table


@lru_cache(maxsize=1)
def network() -> _Network:
    """Return the weights and thresholds of the package's file."""
    text = resources.files(__package__).joinpath("burned_weights.txt").read_text("ascii")
    rows = [
        np.array(line.split(), np.float64) for line in text.splitlines() if not line.startswith("#")
    ]
    means, scales, *hidden, hidden_bias, output, bias, sure = rows
    return _Network(means, scales, np.array(hidden), hidden_bias, output, float(bias[0]), sure)


def lines(plane: Plane) -> Iterator[Line]:
    """Yield every chain of letter-like shapes in `plane`, text or not."""
    finite = np.isfinite(plane)
    if not finite.any():
        return
    if not finite.all():
        plane = np.where(finite, plane, plane[finite].min())
    for low, high in _windows(plane):
        image = np.clip((plane - low) / (high - low), 0, 1).astype(np.float32)
        side = min(image.shape)
        if side < _SMALL_SIDE:
            large = np.clip(ndimage.zoom(image, 2, order=3, mode="nearest"), 0, 1)
            yield from _lines_at(large, -1, side)
        for halvings in range(_HALVINGS + 1):
            yield from _lines_at(image, halvings, side)
            image = _halved(image)


def _lines_at(image: Plane, halvings: int, side: int) -> Iterator[Line]:
    """Yield the lines of `image`, a plane of least side `side` halved so often (-1: doubled)."""
    if min(image.shape) < _SMALLEST_SIDE:
        return
    for found in _lines_of(image):
        left, top, right, bottom = (round(place * 2.0**halvings) for place in found.box)
        measures = (*found.measures, float(halvings), float(np.log2(side)))
        yield Line(measures, (left, top, right, bottom))


def _windows(plane: Plane) -> Iterator[tuple[float, float]]:
    """Yield one or two grey ranges to look through, lowest and highest value."""
    low, high = (float(end) for end in np.percentile(plane, (0.5, 99.5)))
    # Text may be the few brightest or darkest pixels of all; a single hot pixel must not rule.
    low, high = (low + float(plane.min())) / 2, (high + float(plane.max())) / 2
    if high > low:
        yield low, high
    # Padding far below all tissue, or metal far above, would press the picture into few greys.
    inner = plane[(plane > plane.min()) & (plane < plane.max())]
    if inner.size:
        first, last = (float(end) for end in np.percentile(inner, (1, 99)))
        margin = (last - first) / 4
        if last > first and high - low > 8 * (last - first):
            yield first - margin, last + margin


def _halved(image: Plane) -> Plane:
    rows, columns = (side & ~1 for side in image.shape)
    even = image[:rows, :columns]
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return np.asarray(total / 4, np.float32)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The letter-like shapes of one picture at one threshold.

    `boxes` is a row of left, top, right, bottom for each; `names` their numbers in `labels`.
    """

    image: Plane
    gradient: Plane
    strokes: Plane
    mask: Mask
    labels: NDArray[np.int32]
    boxes: Table
    areas: NDArray[np.int64]
    names: NDArray[np.int64]

    def turned(self) -> "_Shapes":
        """Return the same with rows and columns exchanged."""
        return _Shapes(
            self.image.T,
            self.gradient.T,
            self.strokes.T,
            self.mask.T,
            self.labels.T,
            self.boxes[:, [1, 0, 3, 2]],
            self.areas,
            self.names,
        )

    def letters(self) -> "_Shapes":
        """Return only those of a letter's proportions, from left to right."""
        wide, high = self.boxes[:, 2] - self.boxes[:, 0], self.boxes[:, 3] - self.boxes[:, 1]
        fits = (
            (high >= _LEAST_HEIGHT)
            & (high <= _MOST_HEIGHT)
            & (wide <= 3.0 * high)
            & (self.areas >= high)
            & (self.areas <= 0.95 * wide * high + 4)
        )
        chosen = np.flatnonzero(fits)
        if len(chosen) > _MOST_SHAPES:
            chosen = chosen[np.argsort(-high[chosen])[:_MOST_SHAPES]]
        return self.some(chosen[np.argsort(self.boxes[chosen, 0])])

    def some(self, chosen: NDArray[np.intp]) -> "_Shapes":
        """Return the shapes at these places of the list."""
        return replace(
            self, boxes=self.boxes[chosen], areas=self.areas[chosen], names=self.names[chosen]
        )


def _lines_of(image: Plane) -> Iterator[Line]:
    gradient = np.hypot(ndimage.sobel(image, 0), ndimage.sobel(image, 1)) / 4
    for strokes in (
        image - ndimage.grey_opening(image, (_STROKE, _STROKE)),
        ndimage.grey_closing(image, (_STROKE, _STROKE)) - image,
    ):
        for threshold in _THRESHOLDS:
            mask = strokes > threshold
            labels, count = ndimage.label(mask, np.ones((3, 3)))
            if count < _LEAST_SHAPES:
                continue
            found = ndimage.find_objects(labels)
            boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in found], np.float64)
            areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
            names = np.arange(1, count + 1)
            shapes = _Shapes(image, gradient, strokes, mask, labels, boxes, areas, names)
            for line in _chains(shapes.letters()):
                yield line
            for line in _chains(shapes.turned().letters()):
                left, top, right, bottom = line.box
                yield Line(line.measures, (top, left, bottom, right))


def _chains(shapes: _Shapes) -> Iterator[Line]:
    if len(shapes.names) >= _LEAST_SHAPES:
        for members in _linked(shapes.boxes):
            yield _measure(shapes.some(members))


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


def _measure(shapes: _Shapes) -> Line:
    left, top, right, bottom = shapes.boxes.T
    high, wide = bottom - top, right - left
    height = float(np.median(high))
    centre = (left + right) / 2
    x0, y0, x1, y1 = (int(v) for v in (left.min(), top.min(), right.max(), bottom.max()))
    place = (slice(y0, y1), slice(x0, x1))
    window = shapes.labels[place]
    inside = np.isin(window, shapes.names)
    order = np.argsort(shapes.names)
    known = shapes.names[order]
    index = np.searchsorted(known, window[inside])
    count = len(known)
    stroke = shapes.strokes[place][inside]
    peak_bright = _peaks(shapes.image[place][inside], index, count)
    peak_stroke = _peaks(stroke, index, count)
    mean_stroke = np.bincount(index, stroke, count) / np.maximum(1, np.bincount(index, None, count))
    edge = inside & ~ndimage.binary_erosion(inside)
    perimeter = np.bincount(np.searchsorted(known, window[edge]), None, count)
    width = 2 * shapes.areas[order] / np.maximum(1, perimeter)
    contrast = float(np.median(peak_stroke))
    slope = _slope(centre, bottom)
    gaps = left[1:] - np.maximum.accumulate(right)[:-1]
    margin = max(2, int(height / 2))
    above = shapes.mask[max(0, y0 - margin) : max(0, y0 - 1), x0:x1]
    below = shapes.mask[y1 + 1 : y1 + margin, x0:x1]
    around = np.concatenate([above.ravel(), below.ravel()])
    density = float(shapes.mask[place].mean())
    edges = shapes.gradient[place][edge]
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
        float(np.median(shapes.areas / (wide * high))),
        float(np.median(wide)) / height,
        float(around.mean()) / (density + 1e-3) if around.size else 0.0,
        float(np.median(edges)) / (contrast + 0.02),
        float(np.mean((wide > 0.25 * high) & (wide < 1.3 * high))),
        float(np.log2(height)),
    )
    return Line(measures, (x0, y0, x1, y1))


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
