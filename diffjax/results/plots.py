"""The figures of a report as files, for papers: learning curves, profiles, intervals, latency against score."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffjax.errors import UserError
from diffjax.files import check_parent
from diffjax.results import figures
from diffjax.results.curves import curves_figure
from diffjax.results.latency import TradeOff
from diffjax.results.page import OTHER, Page
from diffjax.results.pictures import (
    FORMATS,
    add_legend,
    check_matplotlib,
    drawn,
    line_style,
    marker_style,
    panel_grid,
    style,
    write_picture,
)
from diffjax.results.tables import table_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES, PROFILES, AGGREGATES, PARETO = NAMES = ("learning-curves", "performance-profiles", "aggregates", "latency")


def check_folder(path: str) -> None:
    """Raises ``UserError`` for what cannot be a folder of figures, or without matplotlib."""
    if not path or (Path(path).exists() and not Path(path).is_dir()):
        raise UserError(f"--plots={path} is {'a file' if path else 'empty'}; name a folder")
    check_parent("plots", path)
    check_matplotlib("plots")


def plot_all(page: Page, trade_off: TradeOff | None, path: str | Path) -> list[Path]:
    """Write every figure that there are numbers for, in each of ``FORMATS``; returns the files.

    Raises ``UserError`` without matplotlib, or if there is nothing to draw.
    """
    with style("plots"):
        found: dict[str, Figure | None] = {
            CURVES: curves_figure(page.table),
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


def profiles_figure(page: Page) -> "Figure | None":
    """A panel of performance profiles per suite, None where no suite has two seeds of every column."""
    found = figures.profiles(page)
    if not found:
        return None
    figure, places = panel_grid(len(found))
    names, looks = table_labels(page.table), figures.styles(page.table.columns)
    for place, suite in zip(places, found, strict=True):
        for column, band in suite.bands.items():
            look = line_style(looks[column])
            place.fill_between(suite.thresholds, band.low, band.high, color=look["color"], alpha=0.15, linewidth=0)
            place.plot(suite.thresholds, band.estimate, **look, markevery=12, label=names[column])
        place.set_title(f"{suite.suite} (tasks: {len(suite.rows)})", fontsize=11)
        place.set_xlabel("normalised score τ")
        place.set_xlim(suite.thresholds[0], suite.thresholds[-1])
        place.set_ylim(0, 1.02)
        place.grid(alpha=0.3)
    figure.supylabel("fraction of runs above τ", fontsize=11)
    add_legend(figure, f"{page.options.headline.title}; band: 95 % at each τ, bootstrap over seeds")
    return figure


def aggregates_figure(page: Page) -> "Figure | None":
    """Each aggregate of each suite as intervals, None where there is none."""
    found = figures.metrics(page)
    if not found:
        return None
    names, looks = table_labels(page.table), figures.styles(page.table.columns)
    most = max(len(metric.intervals) for metric in found)
    figure, places = panel_grid(len(found), most=4, height=1.3 + 0.26 * most)
    for place, metric in zip(places, found, strict=True):
        for level, (column, interval) in enumerate(metric.intervals.items()):
            look = marker_style(looks[column])
            place.plot([interval.low, interval.high], [level, level], color=look["color"], linewidth=2.6)
            place.plot(interval.estimate, level, **look, linestyle="none")
        place.set_yticks(range(len(metric.intervals)), [names[column] for column in metric.intervals])
        place.invert_yaxis()
        place.margins(y=0.15)
        place.set_title(f"{metric.suite}: {metric.name}", fontsize=10)
        place.grid(axis="x", alpha=0.3)
    told = f"normalised score, {page.options.headline.title}; 95 % interval by a bootstrap over seeds"
    figure.supxlabel(told, fontsize=11)
    return figure


def pareto_figure(page: Page, trade_off: TradeOff) -> "Figure | None":
    """Mean score against latency, None where no method has both."""
    if not trade_off.points:
        return None
    figure, (place,) = panel_grid(1)
    names, looks = table_labels(page.table), figures.styles(page.table.columns)
    front = sorted((point.latency_ms, point.score) for point in trade_off.points if point.is_front)
    if front:
        place.plot(*zip(*front, strict=True), color="#999999", linewidth=1.4, drawstyle="steps-post")
    for point in trade_off.points:
        look = marker_style(looks[point.column]) | {"markersize": 8}
        look |= {"markeredgecolor": "black", "markeredgewidth": 1.4} if point.is_front else {}
        label = names[point.column] if point.is_alike else f"{names[point.column]} {OTHER}"
        place.plot(point.latency_ms, point.score, **look, linestyle="none", label=label)
    place.set_xscale("log")
    place.margins(0.12)
    place.grid(alpha=0.3)
    place.set_xlabel("ms per action (batch 1, median)")
    place.set_ylabel("mean normalised score")
    told = [f"tasks: {len(trade_off.rows)}", page.options.headline.title]
    told += ["black edge: on the Pareto front"] if front else []
    told += [f"{OTHER} timed otherwise than scored"] if not all(point.is_alike for point in trade_off.points) else []
    add_legend(figure, "; ".join(told))
    return figure
