"""The numbers behind the figures of a page: learning curves, performance profiles, intervals.

How they are shown stands in ``diffjax.results.charts``.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffjax.experiment.settings import stands_for
from diffjax.results import published
from diffjax.results.aggregates import generator, shared_scores
from diffjax.results.page import D4RL, Page
from diffjax.results.protocols import History
from diffjax.results.statistics import Band, Interval, profile_band, t_interval
from diffjax.results.tables import Column, Row, Table, row_labels

ONLINE_STEPS = "steps of the environment"
_THRESHOLDS = 101
_LEAST_HEIGHT = 4.0  # of a panel of learning curves, in score: noise around a constant must not fill it


class LearningCurve(NamedTuple):
    """The mean over runs at the steps that every run was evaluated at, with its 95 % interval.

    ``low`` and ``high`` are empty of a single run.
    """

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Line(NamedTuple):
    """A column's learning curve and the runs behind it."""

    column: Column
    histories: tuple[History, ...]
    curve: LearningCurve


class Reference(NamedTuple):
    """DAC's published curve; ``same_data`` tells whether it was learned from the row's own data."""

    label: str
    same_data: bool
    steps: tuple[int, ...]
    mean: tuple[float, ...]


class Limits(NamedTuple):
    """What a panel shows: updates, or what else steps are, from 0 to ``steps``, scores from ``low`` to ``high``."""

    steps: int
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """The learning curves of a row; ``reference`` ends where the longest run does."""

    row: Row
    data: str
    lines: tuple[Line, ...]
    reference: Reference | None
    limits: Limits
    unit: str  # of its steps

    @property
    def title(self) -> str:
        return f"{self.row.task} ({self.data})"


@dataclass(frozen=True)
class Profiles:
    """The fraction of runs above each threshold, over the rows where all columns have two seeds.

    ``subject``: of which suite, and without which columns.
    """

    subject: str
    rows: tuple[str, ...]
    thresholds: np.ndarray
    bands: dict[Column, Band]


@dataclass(frozen=True)
class Metric:
    """An aggregate: of each column an interval. ``subject``: of which suite, and without which columns."""

    suite: str
    subject: str
    name: str
    over: str
    intervals: dict[Column, Interval]


def learning_curve(histories: Sequence[History]) -> LearningCurve:
    """The mean over some runs, and its interval by Student's t where there are two."""
    scores = [dict(zip(history.steps, history.scores, strict=True)) for history in histories]
    steps = sorted(set(scores[0]).intersection(*scores[1:]))
    columns = [[run[step] for run in scores] for step in steps]
    intervals = [found for column in columns if (found := t_interval(column)) is not None]
    return LearningCurve(
        tuple(steps),
        tuple(map(statistics.fmean, columns)),
        tuple(interval.low for interval in intervals),
        tuple(interval.high for interval in intervals),
    )


def panels(table: Table) -> tuple[Panel, ...]:
    """A panel for each row with an evaluation."""
    labels = row_labels(table.rows)
    found = []
    for row in table.rows:
        cells = {column: table.cells.get((row, column)) for column in table.columns}
        lines = tuple(
            Line(column, cell.histories, learning_curve(cell.histories))
            for column, cell in cells.items()
            if cell is not None and cell.histories
        )
        if lines:
            last = max(step for line in lines for history in line.histories for step in history.steps)
            reference = _reference(row, last)
            limits, unit = _limits(lines, reference, last), _unit(table, row)
            found.append(Panel(row, labels[row], lines, reference, limits, unit))
    return tuple(found)


def _unit(table: Table, row: Row) -> str:
    """What the steps of a row's runs are."""
    configs = [folder.config for folder in table.folders if folder.config.task == row.task]
    kinds = {config.online is not None for config in configs}
    if kinds == {True}:
        return ONLINE_STEPS
    return f"updates (online: {ONLINE_STEPS})" if True in kinds else "updates"


def _reference(row: Row, last: int) -> Reference | None:
    """DAC's published curve of the row's task, or of the D4RL task it stands for, up to the step ``last``."""
    curves = published.dac_curves()
    task = next((task for task in stands_for(row.task) if task in curves), None)
    if task is None:
        return None
    data = f"{D4RL} {task.rpartition('-')[2]}"
    score = published.preferred("dac", task)
    same = task == row.task and row.dataset == data and score is not None and score.same_version
    points = [point for point in zip(curves[task].steps, curves[task].mean, strict=True) if point[0] <= last]
    label = "dac (published)" if same else f"dac (published), other data: {data}"
    return Reference(label, same, *(tuple(values) for values in zip(*points, strict=True))) if len(points) > 1 else None


def _limits(lines: Sequence[Line], reference: Reference | None, last: int) -> Limits:
    """Room for every run; for an interval of few seeds, which may be many times wider, only some."""
    scores = [score for line in lines for history in line.histories for score in history.scores]
    scores += reference.mean if reference else ()
    low, high = min(scores), max(scores)
    spare = max(high - low, _LEAST_HEIGHT) / 5
    ends = [end for line in lines for end in (*line.curve.low, *line.curve.high)]
    low, high = max(min([low, *ends]), low - spare), min(max([high, *ends]), high + spare)
    lack = max(0.0, _LEAST_HEIGHT - (high - low)) / 2
    margin = 0.04 * max(high - low, _LEAST_HEIGHT)
    return Limits(last, low - lack - margin, high + lack + margin)


def profiles(page: Page) -> tuple[Profiles, ...]:
    """The performance profiles of each suite, by the page's headline protocol."""
    found = []
    for suite in page.table.suites:
        for shared in shared_scores(page.table, suite, page.options.headline):
            scores = shared.scores
            values = np.concatenate([run for tasks in scores.values() for run in tasks.values()])
            low, high = min(0.0, values.min()), max(values.max(), 1.0)
            thresholds = np.linspace(low, high + 0.02 * (high - low), _THRESHOLDS)
            bands = {column: profile_band(generator(), tasks, thresholds) for column, tasks in scores.items()}
            found.append(Profiles(shared.title, shared.rows, thresholds, bands))
    return tuple(found)


def metrics(page: Page) -> tuple[Metric, ...]:
    """The aggregates that a page with statistics has."""
    found = []
    for block in page.blocks:
        for line in block.lines if block.kind == "aggregates" else ():
            intervals = {
                column: Interval(entry.mean, entry.low, entry.high)
                for column, entry in zip(block.columns, line.entries, strict=True)
                if isinstance(column, Column)
                and entry.mean is not None
                and entry.low is not None
                and entry.high is not None
            }
            found.append(Metric(line.suite, block.subject, line.task, line.data, intervals))
    return tuple(found)
