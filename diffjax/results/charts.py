"""Every figure as what is drawn in it: two axes, and layers from the lowest to the highest.

``diffjax.results.report.drawing`` draws a chart as SVG in a page, ``diffjax.results.plots`` as a file by matplotlib;
what a figure shows stands here alone. Colours are numbers: each of the two has its palette.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from diffjax.methods.registry import METHODS
from diffjax.results.figures import Metric, Panel, Profiles
from diffjax.results.latency import Point
from diffjax.results.tables import Column

MARKERS = ("circle", "square", "triangle", "diamond", "point-down", "plus", "cross")
LINES = ("solid", "dashed", "dash-dot", "dotted")
COLORS = 7
_MARKED = 8  # points of a line that have a marker, about


class Style(NamedTuple):
    """How a column is drawn in every figure of a page: the number of its colour, its line, its marker."""

    color: int
    line: str
    marker: str


class Axis(NamedTuple):
    """What an axis shows, and from where to where; both positive of a logarithmic one."""

    label: str
    low: float
    high: float
    is_logarithmic: bool = False

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the axis, fewer than ``most`` unless it is logarithmic."""
        return log_ticks(self.low, self.high) if self.is_logarithmic else ticks(self.low, self.high, most)


class Band(NamedTuple):
    """The area between two lines."""

    column: Column
    xs: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


class Runs(NamedTuple):
    """Thin lines, one per run."""

    column: Column
    lines: tuple[tuple[Sequence[float], Sequence[float]], ...]


class Curve(NamedTuple):
    """A line, with a marker at every so many of its points."""

    column: Column
    xs: Sequence[float]
    ys: Sequence[float]

    @property
    def marked_every(self) -> int:
        """From how many points one is marked."""
        return max(1, len(self.xs) // _MARKED)


class Reference(NamedTuple):
    """A published curve; not ``same_data``: learned from other data than the lines beside it."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    same_data: bool


class Front(NamedTuple):
    """The line that joins a Pareto front."""

    xs: Sequence[float]
    ys: Sequence[float]


class Whisker(NamedTuple):
    """An interval with its estimate, on a level of its own that the column's name stands at."""

    column: Column
    level: int
    estimate: float
    low: float
    high: float


class Mark(NamedTuple):
    """A point with a name; ``is_ringed`` stands out."""

    column: Column
    x: float
    y: float
    remark: str  # behind the column's name
    is_ringed: bool


Layer = Band | Runs | Curve | Reference | Front | Whisker | Mark


@dataclass(frozen=True)
class Chart:
    """A figure, or one panel of it; a chart of whiskers has no vertical axis."""

    title: str
    x: Axis
    y: Axis | None
    layers: tuple[Layer, ...]


def shown_at_first(layer: Layer) -> bool:
    """Whether a figure shows a layer without being asked: single runs, and what is of other data, only then."""
    return not isinstance(layer, Runs) and (not isinstance(layer, Reference) or layer.same_data)


def styles(columns: Sequence[Column]) -> dict[Column, Style]:
    """A style for each column, no two alike up to 196; the first of a method has its method's, whatever else is shown.

    Where two methods of a page share a colour or a marker, the later one of the registry gets what is free.
    """
    own = dict(zip(METHODS, _EVERY_STYLE, strict=False))
    found: dict[Column, Style] = {}

    def clashes(style: Style) -> int:
        return sum((style.color == other.color) + (style.marker == other.marker) for other in found.values())

    for method, style in own.items():
        column = next((column for column in columns if column.method == method), None)
        if column is not None and not clashes(style):
            found[column] = style
    for column in columns:
        if column not in found:
            free = [style for style in _EVERY_STYLE if style not in found.values()]
            found[column] = min(free or _EVERY_STYLE, key=clashes)
    return {column: found[column] for column in columns}


_EVERY_STYLE = tuple(
    Style(color, LINES[turn % len(LINES)], MARKERS[(color + turn) % len(MARKERS)])
    for turn, color in itertools.product(range(len(LINES) * len(MARKERS)), range(COLORS))
)
"""The first 28 differ in line or marker, seen without colours; the first 49 in colour or marker, as points."""


def learning_curves(panel: Panel) -> Chart:
    """The means over seeds in their 95 % intervals, every run, and what is published."""
    bands, runs, means = [], [], []
    for line in panel.lines:
        curve = line.curve
        if curve.low and len(curve.steps) > 1:
            bands.append(Band(line.column, curve.steps, curve.low, curve.high))
        each = ((history.steps, history.scores) for history in line.histories if len(history.steps) > 1)
        runs.append(Runs(line.column, tuple(each)))
        if curve.steps:
            means.append(Curve(line.column, curve.steps, curve.mean))
    published = []
    if (reference := panel.reference) is not None:
        published.append(Reference(reference.label, reference.steps, reference.mean, reference.same_data))
    x = Axis(panel.unit, 0, panel.limits.steps)
    y = Axis("normalised score", panel.limits.low, panel.limits.high)
    return Chart(panel.title, x, y, (*bands, *runs, *published, *means))


def performance_profiles(found: Profiles) -> Chart:
    """The fraction of runs above each score, in its bootstrap band."""
    xs = found.thresholds.tolist()
    bands = [Band(column, xs, band.low.tolist(), band.high.tolist()) for column, band in found.bands.items()]
    means = [Curve(column, xs, band.estimate.tolist()) for column, band in found.bands.items()]
    x, y = Axis("normalised score τ", xs[0], xs[-1]), Axis("fraction of runs above τ", 0, 1.02)
    return Chart(f"{found.subject} ({tasks_text(found.rows)})", x, y, (*bands, *means))


def intervals(metric: Metric) -> Chart:
    """An aggregate of every column, with its interval."""
    whiskers = [Whisker(column, level, *interval) for level, (column, interval) in enumerate(metric.intervals.items())]
    low, high = min(each.low for each in whiskers), max(each.high for each in whiskers)
    spare = 0.06 * max(high - low, 1.0)
    return Chart(f"{metric.subject}: {metric.name}", Axis("", low - spare, high + spare), None, tuple(whiskers))


def pareto(points: Sequence[Point], unlike: str) -> Chart:
    """Score against latency; a line joins the Pareto front, ``unlike`` marks what takes no part in it."""
    times, scores = [point.latency_ms for point in points], [point.score for point in points]
    spare = 0.14 * max(max(scores) - min(scores), 2.0)
    x = Axis("ms per action (batch 1, median), logarithmic", min(times) / 1.5, max(times) * 1.5, is_logarithmic=True)
    y = Axis("mean normalised score", min(scores) - spare, max(scores) + spare)
    best = sorted((point.latency_ms, point.score) for point in points if point.is_front)
    layers: list[Layer] = [Front(*_staircase(best, x.high))] if best else []
    for point in points:
        remark = "" if point.is_alike else f" {unlike}"
        layers.append(Mark(point.column, point.latency_ms, point.score, remark, point.is_front))
    return Chart("", x, y, tuple(layers))


def _staircase(front: Sequence[tuple[float, float]], end: float) -> tuple[list[float], list[float]]:
    """The best score that can be had for each latency, up to ``end``."""
    xs, ys = [front[0][0]], [front[0][1]]
    for time, score in front[1:]:
        xs += [time, time]
        ys += [ys[-1], score]
    return [*xs, end], [*ys, ys[-1]]


def tasks_text(rows: Sequence[str]) -> str:
    """``2 tasks``."""
    return f"{len(rows)} {'task' if len(rows) == 1 else 'tasks'}"


def columns_of(charts: Iterable[Chart]) -> tuple[Column, ...]:
    """The columns that some charts show, for their key."""
    layers = (layer for chart in charts for layer in chart.layers)
    return tuple(dict.fromkeys(layer.column for layer in layers if not isinstance(layer, Reference | Front)))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from ``low`` to ``high``, with fewer than ``most`` steps."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) < most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from ``low`` to ``high``, the powers alone where they span three or more.

    All whole multiples where fewer than two of those are within, round values where even these are not.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices: list[Sequence[int]] = [(1, 2, 5), range(1, 10)]
    if high / low >= 1000:
        choices.insert(0, (1,))
    for factors in choices:
        every = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in every if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) > 1:
            return found
    return ticks(low, high)


def short(value: float) -> str:
    """``500k``, ``1.5M``, ``0.05``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{unit}"
    return f"{value:.6g}"
