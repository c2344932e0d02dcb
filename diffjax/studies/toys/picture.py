"""A figure as a picture: the data, and each arm's samples on each problem."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffjax.results.pictures import BLUE, VERMILION, new_figure, style, write_figure
from diffjax.studies.toys.clouds import Problem
from diffjax.studies.toys.figures import Figure
from diffjax.studies.toys.training import Panel, grid_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture
    from matplotlib.lines import Line2D

_SAMPLE, _BEST, _DATA, _CRITIC = VERMILION, BLUE, "#B8B8B8", "#606060"
_ACROSS = 3  # panels in a line of a figure with one problem


def draw_figure(figure: Figure, panels: list[Panel], subtitle: str, paths: list[Path]) -> None:
    """Write one picture in the formats of ``paths``, each whole or not at all.

    Raises:
      UserError: without matplotlib.
    """
    with style("format"):
        picture = _picture(figure, panels, subtitle)
        for path in paths:
            write_figure(picture, path)


def _picture(figure: Figure, panels: list[Panel], subtitle: str) -> "Picture":
    columns = [problem.name for problem in figure.problems]
    rows = ["data", *(arm.name for arm in figure.arms)]
    single = len(columns) == 1  # one problem: the arms side by side
    across = min(len(rows), _ACROSS) if single else len(columns)
    down = -(-len(rows) // across) if single else len(rows)
    picture = new_figure(2.9 * across + 0.4, 2.9 * down + 1.3)
    axes = picture.subplots(down, across, squeeze=False)
    grid = axes.reshape(-1, 1) if single else axes
    for axis in axes.flatten():
        axis.set_axis_off()
    critics = {panel.problem.name: panel.values for panel in panels if panel.values is not None}
    found = {(panel.arm.name, panel.problem.name): panel for panel in panels}
    for column, problem in enumerate(figure.problems):
        _draw_data(grid[0, column], problem, figure.frame)
        grid[0, column].set_title("data" if single else problem.name)
        for row, arm in enumerate(figure.arms, start=1):
            panel = found.get((arm.name, problem.name))
            if panel is not None:
                _draw_samples(grid[row, column], panel, figure, critics.get(problem.name))
            if single:
                grid[row, column].set_title(arm.name)
    if not single:
        for row, name in enumerate(rows):
            grid[row, 0].set_axis_on()
            grid[row, 0].set_ylabel(name)
    picture.suptitle(f"{figure.title}\n{subtitle}; axes: the two coordinates of an action", fontsize=11)
    picture.legend(handles=_key(figure, bool(critics)), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return picture


def _has_best(problem: Problem) -> bool:
    """Whether some actions are better than others of their kind."""
    return len(problem.best) < len(problem.centers) or not len(problem.centers)


def _key(figure: Figure, has_critic: bool) -> "list[Line2D]":
    """What the colours mean."""
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5}
    found = [
        Line2D([], [], color=_DATA, label="data", **dot),
        Line2D([], [], color=_SAMPLE, label="samples", **dot),
    ]
    if any(map(_has_best, figure.problems)):
        star = dot | {"marker": "*", "markersize": 9}
        found.insert(0, Line2D([], [], color="#21918c", label="data: the brighter, the better", **dot))
        found.append(Line2D([], [], color=_BEST, label="best action", **star))
    if has_critic:
        found.append(Line2D([], [], color=_CRITIC, linestyle="--", linewidth=0.8, label="level of the critic"))
    return found


def _prepare(axis: "Axes", frame: float) -> None:
    axis.set_axis_on()
    axis.set_xlim(-frame, frame)
    axis.set_ylim(-frame, frame)
    axis.set_aspect("equal")
    axis.tick_params(labelsize=7)


def _draw_data(axis: "Axes", problem: Problem, frame: float) -> None:
    _prepare(axis, frame)
    reward = problem.true_reward(problem.action)
    axis.scatter(
        problem.action[:, 0], problem.action[:, 1], c=reward, s=2, cmap="viridis", linewidths=0, rasterized=True
    )
    if _has_best(problem):
        axis.scatter(
            problem.best[:, 0], problem.best[:, 1], marker="*", s=70, color=_BEST, edgecolors="white", linewidths=0.5
        )


def _draw_samples(axis: "Axes", panel: Panel, figure: Figure, critic: np.ndarray | None) -> None:
    _prepare(axis, figure.frame)
    if critic is not None:
        axis.contour(grid_axis(), grid_axis(), critic, levels=8, colors=_CRITIC, linestyles="--", linewidths=0.6)
    axis.scatter(
        panel.problem.action[:, 0], panel.problem.action[:, 1], s=2, color=_DATA, linewidths=0, rasterized=True
    )
    if panel.failed:
        axis.text(0.5, 0.5, "failed", transform=axis.transAxes, ha="center", va="center", color=_SAMPLE)
        return
    shown = panel.samples[: figure.shown]
    if outside := int(np.sum(np.abs(shown).max(axis=1) > figure.frame)):
        remark = f"{outside} of {len(shown)} beyond the frame, drawn on it"
        axis.text(0.5, 0.02, remark, transform=axis.transAxes, ha="center", va="bottom", fontsize=7, color=_SAMPLE)
    samples = np.clip(shown, -0.97 * figure.frame, 0.97 * figure.frame)
    axis.scatter(
        samples[:, 0], samples[:, 1], s=7 if figure.shown <= 100 else 3, color=_SAMPLE, linewidths=0, rasterized=True
    )
