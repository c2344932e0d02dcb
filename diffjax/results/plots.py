"""Charts as files for papers, by matplotlib: learning curves, profiles, intervals, latency against score."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diffjax.errors import UserError
from diffjax.files import check_parent
from diffjax.results import charts, figures
from diffjax.results.charts import Band, Chart, Curve, Front, Layer, Mark, Reference, Runs, Style, Whisker
from diffjax.results.latency import TradeOff
from diffjax.results.page import OTHER, STYLES, Page
from diffjax.results.page import Style as PaperStyle
from diffjax.results.pictures import (
    FORMATS,
    add_legend,
    add_title,
    check_matplotlib,
    check_plot_path,
    drawn,
    line_style,
    log_scale,
    marker_style,
    panel_grid,
    style,
    wrapped,
    write_figure,
    write_picture,
)
from diffjax.results.tables import Column, Table, table_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, PROFILES, AGGREGATES, PARETO = NAMES = ("learning-curves", "performance-profiles", "aggregates", "latency")
_REFERENCE, _FRONT = "#555555", "#999999"


def check_folder(path: str) -> None:
    """Raises ``UserError`` for what cannot be a folder of figures, or without matplotlib."""
    if not path or (Path(path).exists() and not Path(path).is_dir()):
        raise UserError(f"--plots={path} is {'a file' if path else 'empty'}; name a folder")
    check_parent("plots", path)
    check_matplotlib("plots")


def plot_curves(table: Table, path: str | Path, look: str = "free") -> None:
    """Write the learning curves as PNG, SVG or PDF, for one of ``STYLES``.

    Raises ``UserError`` for another ending, without matplotlib, or if no run has been evaluated.
    """
    check_plot_path(path)
    with style("plot", STYLES[look].font_points):
        figure = curves_figure(table, STYLES[look])
        if figure is None:
            raise UserError("no run has been evaluated yet, so there is no curve to plot")
        write_figure(figure, path)


def plot_all(page: Page, trade_off: TradeOff | None, path: str | Path) -> list[Path]:
    """Write every figure that there are numbers for, in each of ``FORMATS``; returns the files.

    Raises ``UserError`` without matplotlib, or if there is nothing to draw.
    """
    look = STYLES[page.options.style]
    with style("plots", look.font_points):
        found: dict[str, Figure | None] = {
            CURVES: curves_figure(page.table, look),
            PROFILES: profiles_figure(page),
            AGGREGATES: aggregates_figure(page),
            PARETO: pareto_figure(page, trade_off) if trade_off is not None else None,
        }
        pictures = {
            f"{name}.{format_name}": drawn(figure, format_name)
            for name, figure in found.items()
            if figure is not None
            for format_name in FORMATS
        }
    if not pictures:
        raise UserError("no run has been evaluated yet, so there is nothing to plot")
    folder = Path(path)
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        write_picture(picture, folder / name)
    return [folder / name for name in pictures]


def curves_figure(table: Table, look: PaperStyle) -> "Figure | None":
    """A panel of learning curves per row, None where no run has been evaluated."""
    return _figure(
        [charts.learning_curves(panel) for panel in figures.panels(table)],
        table,
        look,
        "mean over seeds in its 95 % interval by Student's t",
    )


def profiles_figure(page: Page) -> "Figure | None":
    """A panel of performance profiles per suite, None where no suite has two seeds of every column."""
    return _figure(
        [charts.performance_profiles(each) for each in figures.profiles(page)],
        page.table,
        STYLES[page.options.style],
        f"{page.options.headline.title}; band: 95 % at each τ, bootstrap over seeds",
    )


def pareto_figure(page: Page, trade_off: TradeOff) -> "Figure | None":
    """Mean score against latency, None where no method has both."""
    if not trade_off.points:
        return None
    notes = [charts.tasks_text(trade_off.rows), page.options.headline.title]
    notes += ["black edge: on the Pareto front"] if any(point.is_front for point in trade_off.points) else []
    notes += [f"{OTHER} timed otherwise than scored"] if not all(point.is_alike for point in trade_off.points) else []
    look = STYLES[page.options.style]
    return _figure([charts.pareto(trade_off.points, OTHER)], page.table, look, "; ".join(notes))


def aggregates_figure(page: Page) -> "Figure | None":
    """Each aggregate of each suite as intervals, None where there is none."""
    found = [charts.intervals(metric) for metric in figures.metrics(page)]
    if not found:
        return None
    names, looks = table_labels(page.table), charts.styles(page.table.columns)
    look = STYLES[page.options.style]
    across = min(look.across, 2) or 4  # of four metrics, so that the panels of a line have the same columns
    most = max(len(chart.layers) for chart in found)
    height = look.font_points * (0.11 + 0.024 * most)
    figure, places = panel_grid(len(found), across, height, look.figure_inches)
    for number, (place, chart) in enumerate(zip(places, found, strict=True)):
        _draw(place, chart, names, looks)
        place.set_ylim(len(chart.layers) - 0.4, -0.6)
        labels = [names[column] for column in charts.columns_of([chart])]
        place.set_yticks(range(len(chart.layers)), labels if number % across == 0 else [""] * len(labels))
        add_title(figure, place, chart.title)
        place.grid(axis="x", alpha=0.3)
    label = f"normalised score, {page.options.headline.title}; 95 % interval by a bootstrap over seeds"
    figure.supxlabel(wrapped(figure, label), fontsize="medium")
    return figure


def _figure(found: list[Chart], table: Table, look: PaperStyle, note: str) -> "Figure | None":
    """Charts of one kind as panels with their vertical label on the left and one legend, None without a chart."""
    if not found:
        return None
    across = look.across or 3
    height = 3.4 if look.figure_inches is None else 0.3 + 0.75 * look.figure_inches / max(1.5, min(across, len(found)))
    figure, places = panel_grid(len(found), across, height, look.figure_inches)
    names, looks = table_labels(table), charts.styles(table.columns)
    for number, (place, chart) in enumerate(zip(places, found, strict=True)):
        assert chart.y is not None
        _draw(place, chart, names, looks)
        place.set_ylim(chart.y.low, chart.y.high)
        place.set_yticks(chart.y.ticks(most=7), map(charts.short, chart.y.ticks(most=7)))
        place.set_xlabel(chart.x.label)
        if number % across == 0:
            place.set_ylabel(chart.y.label)
        add_title(figure, place, chart.title)
        place.grid(alpha=0.3)
    add_legend(figure, note)
    return figure


def _draw(place: "Axes", chart: Chart, names: Mapping[Column, str], looks: Mapping[Column, Style]) -> None:
    """The layers of a chart that are shown without being asked for, and its horizontal axis."""
    for layer in filter(charts.shown_at_first, chart.layers):
        _draw_layer(place, layer, names, looks)
    if chart.x.is_logarithmic:
        log_scale(place, chart.x.low, chart.x.high)
    else:
        place.set_xlim(chart.x.low, chart.x.high)
        place.set_xticks(chart.x.ticks(), map(charts.short, chart.x.ticks()))


def _draw_layer(place: "Axes", layer: Layer, names: Mapping[Column, str], looks: Mapping[Column, Style]) -> None:
    match layer:
        case Band(column, xs, low, high):
            place.fill_between(xs, low, high, color=line_style(looks[column])["color"], alpha=0.15, linewidth=0)
        case Runs(column, lines):
            for xs, ys in lines:
                place.plot(xs, ys, color=line_style(looks[column])["color"], linewidth=0.8, alpha=0.65)
        case Curve(column, xs, ys):
            place.plot(xs, ys, **line_style(looks[column]), markevery=layer.marked_every, label=names[column])
        case Reference(label, xs, ys):
            place.plot(xs, ys, color=_REFERENCE, linestyle="--", label=label)
        case Front(xs, ys):
            place.plot(xs, ys, color=_FRONT, linewidth=1.4)
        case Whisker(column, level, estimate, low, high):
            look = marker_style(looks[column])
            place.plot([low, high], [level, level], color=look["color"], linewidth=2.2)
            edge = {"markersize": 1.6 * look["markersize"], "markeredgecolor": "white", "markeredgewidth": 0.5}
            place.plot(estimate, level, **look | edge, linestyle="none")
        case Mark(column, time, score, remark, is_ringed):
            look = marker_style(looks[column])
            look |= {"markersize": 2 * look["markersize"]}
            look |= {"markeredgecolor": "black", "markeredgewidth": 1.4} if is_ringed else {}
            place.plot(time, score, **look, linestyle="none", label=names[column] + remark)
