"""Charts as SVG: where each layer lies on a page's pixels."""

from collections.abc import Mapping, Sequence

from diffjax.results import charts
from diffjax.results.charts import Band, Chart, Curve, Front, Layer, Mark, Reference, Runs, Style, Whisker
from diffjax.results.report import svg
from diffjax.results.report.markup import Markup, element
from diffjax.results.report.svg import WIDTH, PixelAxis
from diffjax.results.tables import Column

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, WIDTH - 18, 8, 190
_NARROW = 290  # of figures that stand four in a line
_LEVEL = 24  # pixels from one whisker to the next
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
        class_=f"swatch s{style.color} {style.line}",
        aria_hidden="true",
    )


def name_of(column: Column, styles: Mapping[Column, Style]) -> str:
    """The class of all that shows a column: its place among the columns of the page."""
    return f"m{list(styles).index(column)}"


def _series(column: Column, styles: Mapping[Column, Style]) -> str:
    """The classes of a column's drawing: its colour, its line, and which column it is."""
    return f"s{styles[column].color} {styles[column].line} {name_of(column, styles)}"


def draw(
    chart: Chart, styles: Mapping[Column, Style], names: Mapping[Column, str], label: str, clip: str | None = None
) -> Markup:
    """A chart with both axes; ``label`` is its text alternative, ``clip`` an id that no other element has.

    With ``clip`` what reaches beyond the axes is cut off, but for the lines with markers; the program of the page finds
    the ends of both axes in the drawing.
    """
    assert chart.y is not None
    x, y = PixelAxis(chart.x, _LEFT, _RIGHT), PixelAxis(chart.y, _BOTTOM, _TOP)
    drawn = [(layer, _shape(layer, x, y, styles)) for layer in chart.layers]
    if clip is None:
        marks = [layer for layer in chart.layers if isinstance(layer, Mark)]
        return svg.picture(228, label, svg.axes(x, y), *(shape for _, shape in drawn), *_labels(marks, names, x, y))
    inside = (shape for layer, shape in drawn if not isinstance(layer, Curve))
    curves = (shape for layer, shape in drawn if isinstance(layer, Curve))
    hair = element("path", class_="hair")  # the program puts it under the pointer
    clipped = element("g", *inside, clip_path=f"url(#{clip})")
    parts = svg.clip(clip, x, y), svg.axes(x, y), clipped, element("g", *curves, class_="curves"), hair
    return svg.picture(228, label, *parts, ranges=(chart.x, chart.y))


def _shape(layer: Layer, x: PixelAxis, y: PixelAxis, styles: Mapping[Column, Style]) -> Markup:
    match layer:
        case Band(column, xs, low, high):
            shapes = [svg.band(x.pixels(xs), y.pixels(low), y.pixels(high), "band")]
        case Runs(column, lines):
            shapes = [svg.line(x.pixels(xs), y.pixels(ys), "seed") for xs, ys in lines]
        case Curve(column, xs, ys):
            marked = list(zip(x.pixels(xs), y.pixels(ys), strict=True))[:: layer.marked_every]
            shapes = [svg.line(x.pixels(xs), y.pixels(ys), "mean")]
            shapes += [svg.marker(styles[column].marker, *place, "marker") for place in marked]
        case Mark(column, time, score):
            at = x(time), y(score)
            shapes = [element("circle", cx=f"{at[0]:.1f}", cy=f"{at[1]:.1f}", r=8, class_="ring")]
            shapes = [*shapes[: layer.is_ringed], svg.marker(styles[column].marker, *at, "marker")]
        case Reference(_, xs, ys, same_data):
            return svg.line(x.pixels(xs), y.pixels(ys), "reference" if same_data else "reference other")
        case Front(xs, ys):
            return svg.line(x.pixels(xs), y.pixels(ys), "front")
        case Whisker():
            raise ValueError("a chart of whiskers has no vertical axis")
    return element("g", *shapes, class_=_series(column, styles))


def draw_whiskers(chart: Chart, styles: Mapping[Column, Style], names: Mapping[Column, str], label: str) -> Markup:
    """A chart of whiskers, each with its column's name on the left."""
    whiskers = [layer for layer in chart.layers if isinstance(layer, Whisker)]
    shown = {layer.column: _shortened(names[layer.column]) for layer in whiskers}
    left = 16 + _LETTER * max(map(len, shown.values()))
    bottom = 10 + _LEVEL * len(whiskers)
    x = PixelAxis(chart.x, left, _NARROW - 8)
    marks = chart.x.ticks()
    grid = "".join(f"M{x(value):.1f} {bottom}V4" for value in marks)
    parts = [element("path", d=grid, class_="grid")]
    parts += [svg.text(charts.short(value), x(value), bottom + 15, "middle") for value in marks]
    for layer in whiskers:
        style, at = styles[layer.column], 18 + _LEVEL * layer.level
        line = svg.line((x(layer.low), x(layer.high)), (at, at), "whisker")
        shape = svg.marker(style.marker, x(layer.estimate), at, "marker")
        parts.append(element("g", line, shape, class_=_series(layer.column, styles)))
        parts.append(svg.text(shown[layer.column], left - 8, at + 4, "end", "name"))
    return svg.picture(bottom + 22, label, *parts, width=_NARROW)


def _labels(marks: Sequence[Mark], names: Mapping[Column, str], x: PixelAxis, y: PixelAxis) -> list[Markup]:
    """Each mark's name: beside it, or somewhat lower or higher."""
    taken = [(x(mark.x) - 6, x(mark.x) + 6, y(mark.y)) for mark in marks]
    found = []
    for mark in marks:
        name = _shortened(names[mark.column]) + mark.remark
        width = _LETTER * len(name)
        choices = _places(mark, width, x, y)
        free = (place for place in choices if _is_free(*place, width, x, y, taken))
        start, level = next(free, choices[0])
        taken.append((start, start + width, level))
        found.append(svg.text(name, start, level + 4, class_="name"))
    return found


def _places(mark: Mark, width: float, x: PixelAxis, y: PixelAxis) -> list[tuple[float, float]]:
    """Where a name of some width may stand, the best place first: its start and its middle's height."""
    at, height = x(mark.x), y(mark.y)
    right, left = (at + 11, height), (at - 11 - width, height)
    around = [
        (start, height + shift) for shift in (-14, 14, -27, 27) for start in (at - width / 2, at + 6, at - 6 - width)
    ]
    if mark.is_ringed:  # its line comes from below and leaves to the right
        return [*around[:3], left, (at + 6, height + 16), *around, right]
    return [right, left, *around]


def _is_free(
    start: float,
    level: float,
    width: float,
    x: PixelAxis,
    y: PixelAxis,
    taken: Sequence[tuple[float, float, float]],
) -> bool:
    end = start + width
    inside = x.start < start and end < x.end + 8 and y.end + 4 < level < y.start - 2
    return inside and all(start > right or end < left or abs(level - row) > 11 for left, right, row in taken)


def _shortened(name: str) -> str:
    """The beginning and the end of a long name: settings of one method differ at their ends."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 3]}…{name[1 + _LONGEST // 3 - _LONGEST :]}"
