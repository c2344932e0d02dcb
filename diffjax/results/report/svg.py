"""Axes, lines and markers as SVG. Colours and fonts are the style sheet's: ``s0`` is the class of the first column."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
class Axis:
    """Values from ``low`` to ``high`` (of a logarithmic axis both positive) on pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    label: str = ""
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the axis, fewer than ``most`` unless it is logarithmic."""
        return log_ticks(self.low, self.high) if self.logarithmic else ticks(self.low, self.high, most)


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


def picture(height: float, label: str, *children: Markup, width: float = WIDTH, last: float | None = None) -> Markup:
    """A drawing whose text alternative is ``label``; its numbers stand beside it. ``last``: where its x axis ends."""
    box = f"0 0 {_px(width)} {_px(height)}"
    return element("svg", *children, viewBox=box, role="img", aria_label=label, data_last=last)


def axes(x: Axis, y: Axis) -> Markup:
    """Grid lines, their values, and what the axes show."""
    bottom, left = y.start, x.start
    grid, texts = [], []
    for value in x.ticks():
        at = _px(x(value))
        grid.append(f"M{at} {_px(bottom)}V{_px(y.end)}")
        texts.append(element("text", short(value), x=at, y=_px(bottom + 15), text_anchor="middle"))
    for value in y.ticks(most=7):
        at = _px(y(value))
        grid.append(f"M{_px(left)} {at}H{_px(x.end)}")
        texts.append(element("text", short(value), x=_px(left - 6), y=_px(y(value) + 4), text_anchor="end"))
    middle, center = (x.start + x.end) / 2, (y.start + y.end) / 2
    texts.append(element("text", x.label, x=_px(middle), y=_px(bottom + 31), text_anchor="middle", class_="axis"))
    turned = f"translate(12 {_px(center)}) rotate(-90)"
    texts.append(element("text", y.label, transform=turned, text_anchor="middle", class_="axis"))
    frame = f"M{_px(left)} {_px(y.end)}V{_px(bottom)}H{_px(x.end)}"
    lines = [element("path", d="".join(grid), class_="grid"), element("path", d=frame, class_="frame")]
    return element("g", *lines, *texts, aria_hidden="true")


def line(xs: Sequence[float], ys: Sequence[float], class_: str) -> Markup:
    """A line through pixels."""
    return element("path", d="M" + _points(xs, ys), class_=class_)


def band(xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], class_: str) -> Markup:
    """The area between two lines."""
    forth, back = _points(xs, highs), _points(xs[::-1], lows[::-1])
    return element("path", d=f"M{forth}L{back}z", class_=class_)


def marker(shape: str, x: float, y: float, class_: str) -> Markup:
    """One of ``diffjax.results.figures.MARKERS`` at a pixel."""
    return element("path", d=_MARKERS[shape], transform=f"translate({_px(x)} {_px(y)})", class_=class_)


def text(content: str, x: float, y: float, anchor: str = "start", class_: str | None = None) -> Markup:
    """Text at a pixel."""
    return element("text", content, x=_px(x), y=_px(y), text_anchor=anchor, class_=class_)


def clip(name: str, x: Axis, y: Axis) -> Markup:
    """What of a drawing is seen: the rectangle between two axes, as a clip path called ``name``."""
    shape = element("rect", x=_px(x.start), y=_px(y.end), width=_px(x.end - x.start), height=_px(y.start - y.end))
    return element("clipPath", shape, id=name)


def _points(xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in zip(xs, ys, strict=True))


def _px(value: float) -> str:
    """A tenth of a pixel, in as few letters as can be."""
    return f"{round(value, 1) + 0.0:g}"
