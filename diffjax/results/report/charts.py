"""The figures of a page as SVG; their numbers are ``diffjax.results.figures``'."""

from collections.abc import Mapping, Sequence

from diffjax.results.figures import Line, Metric, Panel, Profiles, Style
from diffjax.results.latency import Point
from diffjax.results.page import OTHER
from diffjax.results.report import svg
from diffjax.results.report.markup import Markup, element, join
from diffjax.results.report.svg import WIDTH, Axis
from diffjax.results.tables import Column

_LEFT, _RIGHT, _TOP = 46, WIDTH - 18, 8
_NARROW = 290  # of figures that stand four in a line
_LETTER = 6.2  # pixels, about
_LONGEST = 24  # letters of a label within a figure


def swatch(style: Style) -> Markup:
    """What a legend shows before a label."""
    shape = svg.marker(style.marker, 14, 6, "marker")
    return element(
        "svg",
        svg.line((0, 28), (6, 6), "mean"),
        shape,
        viewBox="0 0 28 12",
        class_=f"swatch {series(style)}",
        aria_hidden="true",
    )


def series(style: Style) -> str:
    """The classes of a column's drawing: its colour and its line."""
    return f"s{style.color} {style.line}"


def learning_curves(panel: Panel, name: str, styles: Mapping[Column, Style], label: str) -> Markup:
    """A panel; ``name`` is an id that no other element has."""
    x = Axis(0, panel.limits.steps, _LEFT, _RIGHT, "updates")
    y = Axis(panel.limits.low, panel.limits.high, 190, _TOP, "normalised score")
    drawn = [_bands(line, x, y, styles[line.column]) for line in panel.lines]
    drawn += [_seeds(line, x, y, styles[line.column]) for line in panel.lines]
    if (reference := panel.reference) is not None:
        points = list(map(x, reference.steps)), list(map(y, reference.mean))
        drawn.append(svg.line(*points, "reference" if reference.same_data else "reference other"))
    inside = element("g", *drawn, clip_path=f"url(#{name})")
    means = [_mean(line, x, y, styles[line.column]) for line in panel.lines]
    hair = element("path", class_="hair")  # the program puts it under the pointer
    parts = svg.clip(name, x, y), svg.axes(x, y), inside, *means, hair
    return svg.picture(228, label, *parts, last=panel.limits.steps)


def _bands(line: Line, x: Axis, y: Axis, style: Style) -> Markup:
    curve = line.curve
    if not curve.low or len(curve.steps) < 2:
        return Markup()
    steps, low, high = (list(map(axis, values)) for axis, values in ((x, curve.steps), (y, curve.low), (y, curve.high)))
    return element("g", svg.band(steps, low, high, "band"), class_=series(style))


def _seeds(line: Line, x: Axis, y: Axis, style: Style) -> Markup:
    runs = [
        svg.line(list(map(x, history.steps)), list(map(y, history.scores)), "seed")
        for history in line.histories
        if len(history.steps) > 1
    ]
    return element("g", *runs, class_=series(style))


def _mean(line: Line, x: Axis, y: Axis, style: Style) -> Markup:
    if not line.curve.steps:
        return Markup()
    xs, ys = list(map(x, line.curve.steps)), list(map(y, line.curve.mean))
    every = max(1, len(xs) // 8)
    shapes = [svg.marker(style.marker, *place, "marker") for place in zip(xs[::every], ys[::every], strict=True)]
    return element("g", svg.line(xs, ys, "mean"), *shapes, class_=series(style))


def performance_profiles(found: Profiles, name: str, styles: Mapping[Column, Style], label: str) -> Markup:
    """The fraction of runs above each score, in its bootstrap band."""
    x = Axis(found.thresholds[0], found.thresholds[-1], _LEFT, _RIGHT, "normalised score τ")
    y = Axis(0, 1, 190, _TOP, "fraction of runs above τ")
    xs = list(map(x, found.thresholds))
    drawn: list[Markup] = []
    for column, bounds in found.bands.items():
        shape = svg.band(xs, list(map(y, bounds.low)), list(map(y, bounds.high)), "band")
        drawn.append(element("g", shape, class_=series(styles[column])))
    for column, bounds in found.bands.items():
        ys = list(map(y, bounds.estimate))
        every = list(zip(xs, ys, strict=True))[:: len(xs) // 8]
        shapes = [svg.marker(styles[column].marker, *place, "marker") for place in every]
        drawn.append(element("g", svg.line(xs, ys, "mean"), *shapes, class_=series(styles[column])))
    inside = element("g", *drawn, clip_path=f"url(#{name})")
    return svg.picture(228, label, svg.clip(name, x, y), svg.axes(x, y), inside)


def intervals(metric: Metric, styles: Mapping[Column, Style], names: Mapping[Column, str], label: str) -> Markup:
    """An aggregate of every column, with its interval."""
    shown = {column: _shortened(names[column]) for column in metric.intervals}
    left = 16 + _LETTER * max(map(len, shown.values()))
    ends = [end for interval in metric.intervals.values() for end in interval]
    spare = 0.06 * max(max(ends) - min(ends), 1.0)
    bottom = 10 + 24 * len(shown)
    x = Axis(min(ends) - spare, max(ends) + spare, left, _NARROW - 8)
    marks = x.ticks()
    grid = "".join(f"M{x(value):.1f} {bottom}V4" for value in marks)
    parts = [element("path", d=grid, class_="grid")]
    parts += [svg.text(svg.short(value), x(value), bottom + 15, "middle") for value in marks]
    for index, (column, interval) in enumerate(metric.intervals.items()):
        at = 18 + 24 * index
        whisker = svg.line((x(interval.low), x(interval.high)), (at, at), "whisker")
        shape = svg.marker(styles[column].marker, x(interval.estimate), at, "marker")
        parts.append(element("g", whisker, shape, class_=series(styles[column])))
        parts.append(svg.text(shown[column], left - 8, at + 4, "end", "name"))
    return svg.picture(bottom + 22, label, *parts, width=_NARROW)


def pareto(points: Sequence[Point], styles: Mapping[Column, Style], names: Mapping[Column, str], label: str) -> Markup:
    """Score against latency; a line joins those that no other beats in both."""
    times, scores = [point.latency_ms for point in points], [point.score for point in points]
    spare = 0.14 * max(max(scores) - min(scores), 2.0)
    x = Axis(min(times) / 1.5, max(times) * 1.5, _LEFT, _RIGHT, "ms per action (batch 1, median), logarithmic", True)
    y = Axis(min(scores) - spare, max(scores) + spare, 190, _TOP, "mean normalised score")
    front = sorted((point.latency_ms, point.score) for point in points if point.is_front)
    drawn = [svg.axes(x, y), *([svg.line(*_staircase(front, x, y), "front")] if front else [])]
    for point in points:
        at = x(point.latency_ms), y(point.score)
        ring = [element("circle", cx=f"{at[0]:.1f}", cy=f"{at[1]:.1f}", r=8, class_="ring")] if point.is_front else []
        shape = svg.marker(styles[point.column].marker, *at, "marker")
        drawn.append(element("g", *ring, shape, class_=series(styles[point.column])))
    return svg.picture(228, label, *drawn, join(*_labels(points, names, x, y)))


def _staircase(front: Sequence[tuple[float, float]], x: Axis, y: Axis) -> tuple[list[float], list[float]]:
    """The best score that can be had for each latency."""
    xs, ys = [x(front[0][0])], [y(front[0][1])]
    for time, score in front[1:]:
        xs += [x(time), x(time)]
        ys += [ys[-1], y(score)]
    return [*xs, x.end], [*ys, ys[-1]]


def _labels(points: Sequence[Point], names: Mapping[Column, str], x: Axis, y: Axis) -> list[Markup]:
    """Each point's name where no other name is: beside it, or somewhat lower or higher."""
    taken = [(x(point.latency_ms) - 6, x(point.latency_ms) + 6, y(point.score)) for point in points]
    found = []
    for point in points:
        name = _shortened(names[point.column]) + ("" if point.is_alike else f" {OTHER}")
        width = _LETTER * len(name)
        choices = _places(point, width, x, y)
        free = (place for place in choices if _is_free(*place, width, x, y, taken))
        start, level = next(free, choices[0])
        taken.append((start, start + width, level))
        found.append(svg.text(name, start, level + 4, class_="name"))
    return found


def _places(point: Point, width: float, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Where a name of some width may stand, the best place first: its start and its middle's height."""
    at, height = x(point.latency_ms), y(point.score)
    right, left = (at + 11, height), (at - 11 - width, height)
    around = [
        (start, height + shift) for shift in (-14, 14, -27, 27) for start in (at - width / 2, at + 6, at - 6 - width)
    ]
    if point.is_front:  # its line comes from below and leaves to the right
        return [*around[:3], left, (at + 6, height + 16), *around, right]
    return [right, left, *around]


def _is_free(
    start: float, level: float, width: float, x: Axis, y: Axis, taken: Sequence[tuple[float, float, float]]
) -> bool:
    end = start + width
    inside = x.start < start and end < x.end + 8 and y.end + 4 < level < y.start - 2
    return inside and all(start > right or end < left or abs(level - row) > 11 for left, right, row in taken)


def _shortened(name: str) -> str:
    """The beginning and the end of a long name: settings of one method differ at their ends."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 3]}…{name[1 + _LONGEST // 3 - _LONGEST :]}"
