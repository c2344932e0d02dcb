"""Learning curves as a file: normalised score against updates, one panel per row of a table, one line per column."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffjax.errors import UserError
from diffjax.results.figures import Panel, Style, panels, styles
from diffjax.results.pictures import add_legend, check_plot_path, line_style, panel_grid, style, write_figure
from diffjax.results.tables import Column, Table, table_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REFERENCE = "#555555"


def plot_curves(table: Table, path: str | Path) -> None:
    """Write the learning curves as PNG, SVG or PDF: mean over seeds in its 95 % interval.

    Raises ``UserError`` for another ending, without matplotlib, or if no run has been evaluated.
    """
    check_plot_path(path)
    with style("plot"):
        figure = curves_figure(table)
        if figure is None:
            raise UserError("no run has been evaluated yet, so there is no curve to plot")
        write_figure(figure, path)


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
