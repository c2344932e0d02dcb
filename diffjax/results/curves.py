"""Learning curves as a file: normalised score against updates, one panel per row of a table, one line per column."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffjax.errors import UserError
from diffjax.results.figures import MARKERS, Panel, Style, panels, styles
from diffjax.results.folder import whole_file
from diffjax.results.tables import Column, Table, table_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito's palette, told apart with every kind of colour vision; its yellow is too faint for a line.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = {"solid": "-", "dashed": "--", "dash-dot": "-.", "dotted": ":"}
_SHAPES = dict(zip(MARKERS, ("o", "s", "^", "D", "v", "P", "X"), strict=True))
_REFERENCE = "#555555"
_RC: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "diffjax",
}


def check_plot_path(path: str | Path) -> str:
    """The format a file name asks for; raises ``UserError`` if it is none of ``FORMATS``."""
    suffix = Path(path).suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise UserError(f"--plot={path} does not end in {', '.join('.' + name for name in FORMATS)}")
    return suffix


def plot_curves(table: Table, path: str | Path) -> None:
    """Write the learning curves as PNG, SVG or PDF: mean over seeds in its 95 % interval.

    Raises ``UserError`` for another ending, without matplotlib, or if no run has been evaluated.
    """
    format_name = check_plot_path(path)
    with style("plot"):
        figure = curves_figure(table)
        if figure is None:
            raise UserError("no run has been evaluated yet, so there is no curve to plot")
        picture = drawn(figure, format_name)
    write_picture(picture, path)


def style(flag: str) -> Any:
    """The style of every file, as a context; raises ``UserError`` that names the flag without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(f'--{flag} needs matplotlib; install it with pip install "diffjax[plots]"') from None
    return matplotlib.rc_context(_RC)


def drawn(figure: "Figure", format_name: str) -> bytes:
    """A figure as the content of a file, which depends on nothing but the figure."""
    picture = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format_name)
    figure.savefig(picture, format=format_name, dpi=160, metadata=undated)
    return picture.getvalue()


def write_picture(picture: bytes, path: str | Path) -> None:
    """Write a whole picture, or leave what was there."""
    with whole_file(path) as temporary:
        temporary.write_bytes(picture)


def line_style(found: Style) -> dict[str, Any]:
    """A column's line, in matplotlib's words."""
    return {"color": _COLORS[found.color], "linestyle": _LINES[found.line], "linewidth": 1.8} | marker_style(found)


def marker_style(found: Style) -> dict[str, Any]:
    """A column's marker, in matplotlib's words."""
    return {"color": _COLORS[found.color], "marker": _SHAPES[found.marker], "markersize": 4}


def panel_grid(count: int, most: int = 3, height: float = 3.4) -> "tuple[Figure, list[Axes]]":
    """A figure with so many panels, at most ``most`` in a line, and room for a legend below."""
    from matplotlib.figure import Figure

    across = min(most, count)
    down = -(-count // across)
    figure = Figure(figsize=(max(5.2, 4.4 * across), height * down + 0.8), layout="constrained")
    found = figure.subplots(down, across, squeeze=False).flatten()
    for panel in found[count:]:
        panel.set_axis_off()
    return figure, list(found[:count])


def add_legend(figure: "Figure", title: str) -> None:
    """One legend for all panels, below them."""
    lines = {line.get_label(): line for panel in figure.axes for line in panel.get_lines()}
    shown = {str(name): line for name, line in lines.items() if not str(name).startswith("_")}
    across = max(2, int(figure.get_figwidth() / 2.2))
    ncols = min(len(shown), across)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=ncols, frameon=False, title=title)


def curves_figure(table: Table) -> "Figure | None":
    """The learning curves, None where no run has been evaluated."""
    found = panels(table)
    if not found:
        return None
    figure, places = panel_grid(len(found))
    names, looks = table_labels(table), styles(table.columns)
    for place, panel in zip(places, found, strict=True):
        _draw(place, panel, names, looks)
    figure.supylabel("normalised score", fontsize=11)
    add_legend(figure, "mean over seeds in its 95 % interval")
    return figure


def _draw(place: "Axes", panel: Panel, names: dict[Column, str], looks: dict[Column, Style]) -> None:
    """One panel; a published curve is shown where it was learned from the same data."""
    from matplotlib.ticker import EngFormatter

    for line in panel.lines:
        look, curve = line_style(looks[line.column]), line.curve
        if curve.low:
            place.fill_between(curve.steps, curve.low, curve.high, color=look["color"], alpha=0.15, linewidth=0)
        place.plot(curve.steps, curve.mean, **look, markevery=max(1, len(curve.steps) // 8), label=names[line.column])
    if panel.reference is not None and panel.reference.same_data:
        reference = panel.reference
        place.plot(reference.steps, reference.mean, color=_REFERENCE, linestyle="--", label=reference.label)
    place.set_xlim(0, panel.limits.steps)
    place.set_ylim(panel.limits.low, panel.limits.high)
    place.set_title(panel.title, fontsize=11)
    place.grid(alpha=0.3)
    place.set_xlabel("updates")
    place.xaxis.set_major_formatter(EngFormatter(sep=""))  # 500k, 1M
