"""Learning curves: normalised score against updates, one panel per row of a table, one line per column."""

import io
import statistics
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffjax.errors import UserError
from diffjax.results.folder import whole_file
from diffjax.results.tables import History, Table, column_labels, row_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito's palette, told apart with every kind of colour vision; its yellow is too faint for a line.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RC: dict[Any, Any] = {
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


def curve(histories: tuple[History, ...]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps, mean, minimum and maximum over runs, at the steps that every run was evaluated at."""
    scores = [dict(zip(history.steps, history.scores, strict=True)) for history in histories]
    steps = sorted(set(scores[0]).intersection(*scores[1:]))
    columns = [[run[step] for run in scores] for step in steps]
    return steps, [statistics.fmean(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]


def plot_curves(table: Table, path: str | Path) -> None:
    """Write the learning curves as PNG, SVG or PDF: mean over seeds in a band from the worst to the best.

    Raises ``UserError`` for another ending, without matplotlib, or if no run has been evaluated.
    """
    format_name = check_plot_path(path)
    try:
        import matplotlib
    except ImportError:
        raise UserError('--plot needs matplotlib; install it with pip install "diffjax[plots]"') from None
    if not any(cell.histories for cell in table.cells.values()):
        raise UserError("no run has been evaluated yet, so there is no curve to plot")
    with matplotlib.rc_context(RC):
        picture = io.BytesIO()
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format_name)
        _figure(table).savefig(picture, format=format_name, dpi=160, metadata=undated)
    with whole_file(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _figure(table: Table) -> "Figure":
    from matplotlib.figure import Figure

    across = min(3, len(table.rows))
    down = -(-len(table.rows) // across)
    figure = Figure(figsize=(max(5.2, 4.4 * across), 3.4 * down + 0.8), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    labels = row_labels(table.rows)
    for panel, row in zip(panels, table.rows, strict=False):
        _draw(panel, table, table.rows.index(row))
        panel.set_title(f"{row.task} ({labels[row]})", fontsize=11)
    for panel in panels[len(table.rows) :]:
        panel.set_axis_off()
    figure.supylabel("normalised score", fontsize=11)
    lines = {line.get_label(): line for panel in panels for line in panel.get_lines()}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower center",
        ncols=min(len(lines), 2 * across),
        frameon=False,
        title="mean over seeds, band from worst to best",
    )
    return figure


def _draw(panel: "Axes", table: Table, index: int) -> None:
    """One panel; a column has the same colour, line and marker in all of them."""
    from matplotlib.ticker import EngFormatter

    labels = column_labels(table.columns)
    styles = zip(cycle(_COLORS), cycle(_MARKERS), strict=False)
    for number, (column, (color, marker)) in enumerate(zip(table.columns, styles, strict=False)):
        cell = table.cells.get((table.rows[index], column))
        if cell is None or not cell.histories:
            continue
        steps, mean, low, high = curve(cell.histories)
        line = _LINES[number // len(_COLORS) % len(_LINES)]
        panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        panel.plot(
            steps,
            mean,
            color=color,
            linestyle=line,
            marker=marker,
            markersize=4,
            markevery=max(1, len(steps) // 8),
            linewidth=1.8,
            label=labels[column],
        )
    panel.grid(alpha=0.3)
    panel.set_xlabel("updates")
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 500k, 1M
