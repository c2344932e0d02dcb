"""Axes, lines and markers as SVG. Colours and fonts are the style sheet's: ``s0`` is the class of the first column."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffjax.results.charts import Axis, short
from diffjax.results.report.markup import Markup, element

WIDTH = 360
"""Of every figure, in pixels of a small telephone, so that letters keep their size there."""
_MARKERS = {
    "circle": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "square": "M-3-3h6v6h-6z",
    "triangle": "M0-4l4 7h-8z",
    "diamond": "M0-4.5l4 4.5l-4 4.5l-4-4.5z",
    "point-down": "M0 4l4-7h-8z",
    "plus": "M-1.5-4h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
    "cross": "M-4-2.5l1.5-1.5l2.5 2.5l2.5-2.5l1.5 1.5l-2.5 2.5l2.5 2.5l-1.5 1.5l-2.5-2.5l-2.5 2.5l-1.5-1.5l2.5-2.5z",
}


@dataclass(frozen=True)
class PixelAxis:
    """An axis on pixels from ``start`` to ``end``."""

    axis: Axis
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high = self.axis.low, self.axis.high
        if self.axis.is_logarithmic:
            share = math.log(value / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def pixels(self, values: Sequence[float]) -> list[float]:
        """The pixels of some values."""
        return list(map(self, values))


def picture(
    height: float, label: str, *children: Markup, width: float = WIDTH, ranges: Sequence[Axis] | None = None
) -> Markup:
    """A drawing whose text alternative is ``label``; its numbers stand beside it.

    ``ranges``: what its x and its y axis show, for a program that draws it nearer.
    """
    box = f"0 0 {_px(width)} {_px(height)}"
    ends = " ".join(f"{end:g}" for axis in ranges for end in (axis.low, axis.high)) if ranges is not None else None
    return element("svg", *children, viewBox=box, role="img", aria_label=label, data_ranges=ends)


def axes(x: PixelAxis, y: PixelAxis) -> Markup:
    """Grid lines, their values, and what the axes show."""
    bottom, left = y.start, x.start
    grid, texts = [], []
    for value in x.axis.ticks():
        at = _px(x(value))
        grid.append(f"M{at} {_px(bottom)}V{_px(y.end)}")
        texts.append(element("text", short(value), x=at, y=_px(bottom + 15), text_anchor="middle"))
    for value in y.axis.ticks(most=7):
        at = _px(y(value))
        grid.append(f"M{_px(left)} {at}H{_px(x.end)}")
        texts.append(element("text", short(value), x=_px(left - 6), y=_px(y(value) + 4), text_anchor="end"))
    middle, center = (x.start + x.end) / 2, (y.start + y.end) / 2
    texts.append(element("text", x.axis.label, x=_px(middle), y=_px(bottom + 31), text_anchor="middle", class_="axis"))
    turned = f"translate(12 {_px(center)}) rotate(-90)"
    texts.append(element("text", y.axis.label, transform=turned, text_anchor="middle", class_="axis"))
    frame = f"M{_px(left)} {_px(y.end)}V{_px(bottom)}H{_px(x.end)}"
    lines = [element("path", d="".join(grid), class_="grid"), element("path", d=frame, class_="frame")]
    return element("g", *lines, *texts, aria_hidden="true", class_="axes")


def line(xs: Sequence[float], ys: Sequence[float], class_: str) -> Markup:
    """A line through pixels."""
    return element("path", d="M" + _points(xs, ys), class_=class_)


def band(xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], class_: str) -> Markup:
    """The area between two lines."""
    forth, back = _points(xs, highs), _points(xs[::-1], lows[::-1])
    return element("path", d=f"M{forth}L{back}z", class_=class_)


def marker(shape: str, x: float, y: float, class_: str) -> Markup:
    """One of ``diffjax.results.charts.MARKERS`` at a pixel."""
    return element("path", d=_MARKERS[shape], transform=f"translate({_px(x)} {_px(y)})", class_=class_)


def text(content: str, x: float, y: float, anchor: str = "start", class_: str | None = None) -> Markup:
    """Text at a pixel."""
    return element("text", content, x=_px(x), y=_px(y), text_anchor=anchor, class_=class_)


def clip(name: str, x: PixelAxis, y: PixelAxis) -> Markup:
    """What of a drawing is seen: the rectangle between two axes, as a clip path called ``name``."""
    shape = element("rect", x=_px(x.start), y=_px(y.end), width=_px(x.end - x.start), height=_px(y.start - y.end))
    return element("clipPath", shape, id=name)


def _points(xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in zip(xs, ys, strict=True))


def _px(value: float) -> str:
    """A tenth of a pixel, in as few letters as can be."""
    return f"{round(value, 1) + 0.0:g}"
