"""What results folders hold, cell by cell: a row per task and data set, a column per method and setting.

A cell keeps the evaluations of its runs; which number is taken from them is for a protocol to say
(``diffjax.results.protocols``), and how it is laid out for ``diffjax.results.layout``.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from diffjax.errors import UserError
from diffjax.experiment import ablations
from diffjax.records.folder import Results, first_difference
from diffjax.records.schema import Config, Evaluation, MetricsRecord, RunId, RunStatus
from diffjax.results.arrays import CellScores, TableScores
from diffjax.results.protocols import History, ReportingRule
from diffjax.tasks.registry import tasks

CLONING_LOSS = "actor/bc"  # the metric by which checkpoints are selected offline


class Column(NamedTuple):
    """A method as a table distinguishes it.

    ``rule`` is empty unless runs were evaluated by several rules, or again after their training.
    """

    method: str
    variant: str
    preset: str
    setting: str
    rule: str


class Row(NamedTuple):
    """A task with the data that was learned from."""

    suite: str
    task: str
    dataset: str
    fingerprint: str


class Failure(NamedTuple):
    """A run that has no score, and why."""

    seed: int
    reason: str


class ActionCost(NamedTuple):
    """What one action takes, and by which rule it is chosen; empty where that is not known."""

    candidates: int
    network_evaluations: int
    selection: str = ""

    def is_alike(self, other: "ActionCost") -> bool:
        """Whether both are the same as far as it is known: samplers of as many evaluations differ in the rule alone."""
        rules = self.selection, other.selection
        return self[:2] == other[:2] and (rules[0] == rules[1] or not all(rules))


@dataclass(frozen=True)
class Cell:
    """What is known of one method on one task. Failed runs count as failures and enter no mean."""

    histories: tuple[History, ...] = ()
    failures: tuple[Failure, ...] = ()
    running: int = 0
    tunings: frozenset[str] = frozenset()
    costs: frozenset[ActionCost] = frozenset()


@dataclass(frozen=True)
class Table:
    """Rows (tasks of one suite together), columns, what is known where they meet, and the folders it was read from."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Row, Column], Cell]
    folders: tuple[Results, ...] = ()

    @cached_property
    def ablation(self) -> ablations.Ablation | None:
        """The one that all folders are part of."""
        return _shared_ablation(self.folders)

    @cached_property
    def published_columns(self) -> Mapping[str, ablations.Column]:
        """Of an ablation: task -> the column with the value that is published for it, where there is one."""
        found = {}
        if self.ablation is not None:
            for task in {row.task for row in self.rows}:
                place = ablations.published_column(self.ablation, task)
                if place is not None:
                    found[task] = ablations.columns(self.ablation, task)[place]
        return found

    @cached_property
    def usual_seeds(self) -> int:
        """The number of seeds of most cells; the larger where two are as common."""
        counts = Counter(len(cell.histories) for cell in self.cells.values() if cell.histories)
        return max(counts, key=lambda count: (counts[count], count), default=0)

    @property
    def suites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.suite for row in self.rows))

    def suite_rows(self, suite: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.suite == suite)


_Named = TypeVar("_Named", Row, Column)


def values_of(cell: Cell | None, protocol: ReportingRule) -> list[float]:
    """A cell's numbers by a protocol, one per run that has one."""
    found = [protocol.select(history) for history in cell.histories] if cell else []
    return [value for value in found if value is not None]


def average(table: Table, rows: Iterable[Row], column: Column, protocol: ReportingRule) -> float | None:
    """The mean of the rows' means, or None where one has none: other tasks, another average."""
    found = [values_of(table.cells.get((row, column)), protocol) for row in rows]
    return statistics.fmean(map(statistics.fmean, found)) if found and all(found) else None


def run_scores(table: Table, protocols: Sequence[ReportingRule]) -> TableScores:
    """The scores behind a table, by the labels of its columns and rows (``maze (mini)``)."""
    names, data = table_labels(table), row_labels(table.rows)
    tasks = {row: f"{row.task} ({data[row]})" for row in table.rows}
    cells = {
        (names[column], tasks[row]): _cell_scores(cell.histories, protocols)
        for (row, column), cell in table.cells.items()
        if cell.histories
    }
    chosen = tuple(protocol.name for protocol in protocols)
    return TableScores(tuple(names[column] for column in table.columns), tuple(tasks.values()), chosen, cells)


def _cell_scores(histories: Sequence[History], protocols: Sequence[ReportingRule]) -> CellScores:
    steps = sorted({step for history in histories for step in history.steps})
    scores = np.full((len(histories), len(steps)), np.nan)
    for run, history in enumerate(histories):
        scores[run, np.searchsorted(steps, history.steps)] = history.scores
    numbers = {
        protocol.name: np.array([protocol.select(history) for history in histories], float) for protocol in protocols
    }
    seeds = np.array([history.seed for history in histories])
    return CellScores(seeds, np.array(steps), scores, numbers)


def build_table(results: Iterable[Results]) -> Table:
    """The table of some results folders; a suite's rows in the order of the tasks, all else of first appearance.

    Folders of one method on one task with different seeds make one cell.

    Raises ``UserError`` if two folders give one cell the same seed or differ in what makes seeds comparable.
    """
    folders = list(results)
    cells: dict[tuple[Row, Column], Cell] = {}
    origins: dict[tuple[Row, Column], Results] = {}
    ablation = _shared_ablation(folders)
    for folder in folders:
        for (row, column), cell in _cells(folder, ablation).items():
            where = (row, column)
            if where in cells:
                _check_same_training(origins[where], folder)
                _check_new_seeds(cells[where], cell, row, column, folder)
                cell = _merge(cells[where], cell)
            cells[where] = cell
            origins.setdefault(where, folder)
    if not cells and folders:
        raise UserError(
            f"{folders[0].path} was trained without a simulator (episodes=0), so it has no scores; evaluate.py "
            "--offline judges it by recorded trajectories"
        )
    if not cells:
        raise UserError("no results to make a table of; name folders that hold runs")
    suites = list(dict.fromkeys(row.suite for row, _ in cells))
    places = {task: place for place, task in enumerate(tasks())}
    rows = _grouped(
        sorted((row for row, _ in cells), key=lambda row: (suites.index(row.suite), places.get(row.task, len(places)))),
        lambda row: (row.suite, row.task),
    )
    columns = _grouped((column for _, column in cells), lambda column: (column.method, column.variant))
    return Table(rows, columns, cells, tuple(folders))


def table_labels(table: Table) -> dict[Column, str]:
    """What stands at the head of each column; in the table of an ablation only what it varies."""
    if table.ablation is None:
        return column_labels(table.columns)
    sharing = Counter(column.setting for column in table.columns)
    details = {column: ", ".join(filter(None, (column.preset, column.rule))) for column in table.columns}
    return {
        column: f"{column.setting} ({details[column]})" if sharing[column.setting] > 1 else column.setting
        for column in table.columns
    }


def column_labels(columns: Sequence[Column]) -> dict[Column, str]:
    """``dac``, ``diffpogan (paper)``, ``dac (eta=0.1)``; the preset where only it tells two columns apart."""
    sharing = Counter(column._replace(preset="") for column in columns)
    return {
        column: column_label(column if sharing[column._replace(preset="")] > 1 else column._replace(preset=""))
        for column in columns
    }


def row_labels(rows: Sequence[Row]) -> dict[Row, str]:
    """The data label of each row, with its fingerprint where two data sets of a task share a label."""
    sharing = Counter(row._replace(fingerprint="") for row in rows)
    return {
        row: f"{row.dataset} #{row.fingerprint[:8]}" if sharing[row._replace(fingerprint="")] > 1 else row.dataset
        for row in rows
    }


def column_label(column: Column) -> str:
    """``dac``, or ``dac (paper, eta=0.1)`` with what else is not empty."""
    variant = "" if column.variant == "default" else column.variant
    details = (variant, column.preset, column.setting.replace(";", ", "), column.rule)
    inside = ", ".join(detail for detail in details if detail)
    return f"{column.method} ({inside})" if inside else column.method


def evaluation_rule(row: Evaluation) -> str:
    """How actions were chosen, and what they cost."""
    return f"{row.selection}; candidates {row.candidates}, network evaluations {row.network_evaluations}"


def _cells(results: Results, ablation: ablations.Ablation | None) -> dict[tuple[Row, Column], Cell]:
    """The cells of one folder: one per setting, and per evaluation rule if there are several."""
    config = results.config
    if not config.episodes:
        return {}
    row = Row(config.suite, config.task, config.dataset.label, config.dataset.fingerprint)
    losses = _cloning_losses(results.metrics)
    evaluations: dict[tuple[RunId, str], list[Evaluation]] = {}
    rules: dict[str, dict[str, None]] = {}  # of each setting, in order
    for evaluation in results.evaluations:
        rule = evaluation_rule(evaluation)
        rules.setdefault(evaluation.setting, {})[rule] = None
        evaluations.setdefault((evaluation.run, rule), []).append(evaluation)
    labels = _ablation_labels(config, ablation)
    cells: dict[tuple[Row, Column], Cell] = {}
    for status in results.runs:
        run = status.run
        own_rules = rules.get(run.setting, {"": None})
        for rule in own_rules:
            column = Column(
                config.method,
                config.variant,
                config.preset,
                labels.get(run.setting, run.setting),
                ", ".join(filter(None, (config.evaluated, rule if len(own_rules) > 1 else ""))),
            )
            found = sorted(evaluations.get((run, rule), ()), key=lambda item: item.step)
            cloning = [losses.get((run, item.step), math.nan) for item in found]
            cell = _run_cell(status, config, found, cloning)
            cells[row, column] = _merge(cells.get((row, column), Cell()), cell)
    return cells


def _shared_ablation(folders: Sequence[Results]) -> ablations.Ablation | None:
    names = {folder.config.ablation for folder in folders}
    return ablations.get_ablation(min(names)) if len(names) == 1 and min(names) else None


def _ablation_labels(config: Config, ablation: ablations.Ablation | None) -> dict[str, str]:
    """The settings of a folder that is part of an ablation -> what its table calls them, the same for every task."""
    if ablation is None:
        return {}
    found = ablations.columns(ablation, config.task, config.preset)
    return {
        column.setting: column.label
        for column in found
        if (column.method, column.variant) == (config.method, config.variant)
    }


def _cloning_losses(records: Iterable[MetricsRecord]) -> dict[tuple[RunId, int], float]:
    """(run, step) -> mean behaviour-cloning loss over the updates before that step."""
    return {
        (run, record.step): value
        for record in records
        if CLONING_LOSS in record.metrics
        for run, value in zip(record.runs, record.metrics[CLONING_LOSS], strict=True)
    }


def _run_cell(
    status: RunStatus, config: Config, evaluations: Sequence[Evaluation], cloning_losses: Sequence[float]
) -> Cell:
    """What one run adds to its cell; one whose last evaluation is missing counts as failed, though it be complete."""
    known = Cell(
        tunings=frozenset(item.tuning for item in evaluations),
        costs=frozenset(ActionCost(item.candidates, item.network_evaluations, item.selection) for item in evaluations),
    )
    if (reason := _failure(status, config.steps if config.again is None else None, evaluations)) is not None:
        return replace(known, failures=(Failure(status.run.seed, reason),))
    history = History(
        status.run.seed,
        tuple(item.step for item in evaluations),
        tuple(item.score for item in evaluations),
        tuple(cloning_losses),
        config.selection,
        config.offline_rank,
    )
    return replace(known, histories=(history,) if evaluations else (), running=int(status.state == "running"))


def _failure(status: RunStatus, steps: int | None, evaluations: Sequence[Evaluation]) -> str | None:
    """Why a run's scores cannot stand beside others'; ``steps``: those that its last evaluation must have, if any."""
    if status.state == "failed":
        return status.reason
    broken = [item.step for item in evaluations if not math.isfinite(item.score)]
    if broken:
        return f"non-finite score at step {broken[0]}"
    if status.state == "complete" and not evaluations:
        return "complete, but without evaluations"
    if status.state == "complete" and steps is not None and evaluations[-1].step != steps:
        return f"complete, but its evaluations end at step {evaluations[-1].step} of {steps}"
    return None


def _merge(first: Cell, second: Cell) -> Cell:
    return Cell(
        first.histories + second.histories,
        first.failures + second.failures,
        first.running + second.running,
        first.tunings | second.tunings,
        first.costs | second.costs,
    )


def _check_same_training(first: Results, second: Results) -> None:
    """That seeds of two folders may stand in one cell: all is alike that a score depends on."""
    shared = ("steps", "eval_interval", "episodes", "protocol", "reference", "matmul_precision", "jax_options")
    settings = set(first.config.settings) & set(second.config.settings)
    old, new = (
        {name: entry for name, entry in folder.config.identity.items() if name in shared}
        | {f"hyper ({name})" if name else "hyper": folder.config.hyper[name] for name in sorted(settings)}
        for folder in (first, second)
    )
    found = first_difference(old, new)
    if found is not None:
        raise UserError(
            f"{first.path} and {second.path} hold {first.config.method} on {first.config.task} with "
            f"{found.name} {found.old} and {found.new}; make a table of each, or train them as one --grid"
        )


def _check_new_seeds(known: Cell, added: Cell, row: Row, column: Column, folder: Results) -> None:
    def seeds(cell: Cell) -> set[int]:
        return {history.seed for history in cell.histories} | {failure.seed for failure in cell.failures}

    if twice := seeds(known) & seeds(added):
        raise UserError(
            f"{folder.path}: seed {min(twice)} of {column.method} on {row.task} is in another folder too; "
            "name only one of the two in --runs"
        )


def _grouped(items: Iterable[_Named], groups: Callable[[_Named], tuple[str, str]]) -> tuple[_Named, ...]:
    """Items in order of appearance, but those of one group, and within it of one subgroup, brought together."""
    order = list(dict.fromkeys(items))
    first: dict[str | tuple[str, str], int] = {}
    for index, item in enumerate(order):
        group, subgroup = groups(item)
        first.setdefault(group, index)
        first.setdefault((group, subgroup), index)
    return tuple(sorted(order, key=lambda item: (first[groups(item)[0]], first[groups(item)])))
