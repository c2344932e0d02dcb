"""Score tables as a pure function of results folders: one row per task and data set, one column per method.

Papers report different numbers of one training run, so a table has a labelled block for each: the mean of the
last k evaluations (the headline), the last evaluation, and the best evaluation over training, which is an
oracle. A cell is the mean and the sample standard deviation over seeds of that number.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from diffjax.errors import UserError
from diffjax.results.folder import Evaluation, Results, first_difference

COMPARABLE = "D4RL v2"  # the data label whose scores may stand beside published ones
UNTUNED, QUICK, SHORT, RUNNING = "†", "‡", "§", "¶"
LEGEND = {
    UNTUNED: ("untuned", "no published hyper-parameters for this task; the method's defaults were used."),
    QUICK: ("quick", "the preset for minutes on a CPU, not the published widths and batch sizes."),
    SHORT: ("short", "fewer than k evaluations; the mean of those there are."),
    RUNNING: ("running", "some runs have not finished; their evaluations so far."),
}


class Protocol(NamedTuple):
    """How one number is taken from a run's evaluations."""

    name: str
    label: str
    select: Callable[[Sequence[float]], float]  # scores, oldest first -> score


class Column(NamedTuple):
    """A method as a table distinguishes it; ``rule`` is empty unless runs were evaluated by several rules."""

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


class History(NamedTuple):
    """The evaluations of one run, oldest first; at least one."""

    seed: int
    steps: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """What is known of one method on one task. Failed runs count as failures and enter no mean."""

    histories: tuple[History, ...] = ()
    failures: tuple[tuple[int, str], ...] = ()  # seed, reason
    running: int = 0
    tunings: frozenset[str] = frozenset()


class Statistic(NamedTuple):
    """Mean and sample standard deviation (ddof = 1) over ``seeds`` values; one value has no deviation."""

    mean: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class Table:
    """Rows (tasks of one suite together), columns, and what is known where they meet."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Row, Column], Cell]
    last: int
    notes: tuple[str, ...]

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The blocks of the table, the headline first."""
        return protocols(self.last)

    @property
    def suites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.suite for row in self.rows))


_Named = TypeVar("_Named", Row, Column)


def protocols(last: int) -> tuple[Protocol, ...]:
    """The three published ways to take one number from a run: mean of last k (DAC), last (DTQL), best."""
    return (
        Protocol(
            f"mean of last {last}",
            f"mean of last k evaluations (k={last}, headline)",
            lambda scores: statistics.fmean(scores[-last:]),
        ),
        Protocol("last", "last evaluation", lambda scores: scores[-1]),
        Protocol("best over training (oracle)", "best over training (oracle)", max),
    )


def summarize(values: Sequence[float]) -> Statistic:
    """Mean and sample standard deviation; ``values`` must not be empty."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(statistics.fmean(values), std, len(values))


def statistic(cell: Cell | None, protocol: Protocol) -> Statistic | None:
    """A cell's statistic over its seeds, or None where no run has a number."""
    if cell is None or not cell.histories:
        return None
    return summarize([protocol.select(history.scores) for history in cell.histories])


def suite_average(table: Table, suite: str, column: Column, protocol: Protocol) -> float | None:
    """The mean of a suite's task means, or None where a task has none: other tasks, another average."""
    found = [statistic(table.cells.get((row, column)), protocol) for row in table.rows if row.suite == suite]
    means = [item.mean for item in found if item is not None]
    return statistics.fmean(means) if len(means) == len(found) else None


def build_table(results: Iterable[Results], last: int = 5) -> Table:
    """The table of some results folders; rows and columns in the order of first appearance.

    Folders of one method on one task with different seeds make one cell.

    Raises ``UserError`` if two folders give one cell the same seed or differ in what makes seeds comparable.
    """
    folders = list(results)
    cells: dict[tuple[Row, Column], Cell] = {}
    origins: dict[tuple[Row, Column], Results] = {}
    for folder in folders:
        for (row, column), cell in _cells(folder).items():
            where = (row, column)
            if where in cells:
                _check_same_experiment(origins[where], folder)
                _check_new_seeds(cells[where], cell, row, column, folder)
                cell = _merge(cells[where], cell)
            cells[where] = cell
            origins.setdefault(where, folder)
    if not cells:
        raise UserError("no results to make a table of; name folders that hold runs")
    rows = _grouped(row for row, _ in cells)
    columns = _grouped(column for _, column in cells)
    table = Table(rows, columns, cells, last, ())
    return replace(table, notes=tuple(_notes(table, folders)))


def column_labels(columns: Sequence[Column]) -> dict[Column, str]:
    """``dac``, ``diffpogan (paper)``, ``dac (eta=0.1)``; the preset where only it tells two columns apart."""
    sharing = Counter(column._replace(preset="") for column in columns)
    return {
        column: _label(column if sharing[column._replace(preset="")] > 1 else column._replace(preset=""))
        for column in columns
    }


def row_labels(rows: Sequence[Row]) -> dict[Row, str]:
    """The data label of each row, with its fingerprint where two data sets of a task share a label."""
    sharing = Counter(row[:3] for row in rows)
    return {row: f"{row.dataset} #{row.fingerprint[:8]}" if sharing[row[:3]] > 1 else row.dataset for row in rows}


def _label(column: Column) -> str:
    variant = "" if column.variant == "default" else column.variant
    details = (variant, column.preset, column.setting.replace(";", ", "), column.rule)
    inside = ", ".join(detail for detail in details if detail)
    return f"{column.method} ({inside})" if inside else column.method


def _rule(row: Evaluation) -> str:
    return f"{row.selection}; candidates {row.candidates}, network evaluations {row.network_evaluations}"


def _cells(results: Results) -> dict[tuple[Row, Column], Cell]:
    """The cells of one folder: one per setting, and per evaluation rule if there are several."""
    config = results.config
    row = Row(config["suite"], config["task"], config["dataset"]["label"], config["dataset"]["fingerprint"])
    rules = list(dict.fromkeys(map(_rule, results.evaluations))) or [""]
    evaluations: dict[tuple[int, str, str], list[Evaluation]] = {}
    for evaluation in results.evaluations:
        evaluations.setdefault((evaluation.seed, evaluation.setting, _rule(evaluation)), []).append(evaluation)
    cells: dict[tuple[Row, Column], Cell] = {}
    for run in results.runs:
        for rule in rules:
            column = Column(
                config["method"],
                config["variant"],
                config["preset"],
                run.setting,
                rule if len(rules) > 1 else "",
            )
            found = sorted(evaluations.get((run.seed, run.setting, rule), ()), key=lambda item: item.step)
            cell = _run_cell(run.seed, run.status, found)
            cells[row, column] = _merge(cells.get((row, column), Cell()), cell)
    return cells


def _run_cell(seed: int, status: str, evaluations: Sequence[Evaluation]) -> Cell:
    """What one run adds to its cell."""
    tunings = frozenset(item.tuning for item in evaluations)
    broken = [item.step for item in evaluations if not math.isfinite(item.score)]
    if status.startswith("failed: "):
        return Cell(failures=((seed, status.removeprefix("failed: ")),), tunings=tunings)
    if broken:
        return Cell(failures=((seed, f"non-finite score at step {broken[0]}"),), tunings=tunings)
    history = History(seed, tuple(item.step for item in evaluations), tuple(item.score for item in evaluations))
    return Cell(histories=(history,) if evaluations else (), running=int(status == "running"), tunings=tunings)


def _merge(first: Cell, second: Cell) -> Cell:
    return Cell(
        first.histories + second.histories,
        first.failures + second.failures,
        first.running + second.running,
        first.tunings | second.tunings,
    )


def _check_same_experiment(first: Results, second: Results) -> None:
    shared = ("steps", "eval_interval", "episodes", "hyper")
    old, new = ({name: folder.config[name] for name in shared} for folder in (first, second))
    found = first_difference(old, new)
    if found is not None:
        raise UserError(
            f"{first.path} and {second.path} hold {first.config['method']} on {first.config['task']} with "
            f"{found.name} {found.old} and {found.new}; make a table of each, or train them as one --grid"
        )


def _check_new_seeds(known: Cell, added: Cell, row: Row, column: Column, folder: Results) -> None:
    def seeds(cell: Cell) -> set[int]:
        return {history.seed for history in cell.histories} | {seed for seed, _ in cell.failures}

    if twice := seeds(known) & seeds(added):
        raise UserError(
            f"{folder.path}: seed {min(twice)} of {column.method} on {row.task} is in another folder too; "
            "name only one of the two in --runs"
        )


def _grouped(items: Iterable[_Named]) -> tuple[_Named, ...]:
    """Items in order of appearance, but those that share the first one or two fields brought together."""
    order = list(dict.fromkeys(items))
    first: dict[tuple[str, ...], int] = {}
    for index, item in enumerate(order):
        first.setdefault(item[:1], index)
        first.setdefault(item[:2], index)
    return tuple(sorted(order, key=lambda item: (first[item[:1]], first[item[:2]])))


def usual_seeds(table: Table) -> int:
    """The number of seeds of most cells; the larger where two are as common."""
    counts = Counter(len(cell.histories) for cell in table.cells.values() if cell.histories)
    return max(counts, key=lambda count: (counts[count], count), default=0)


def marks(table: Table, row: Row, column: Column, protocol: Protocol) -> str:
    """The keys of ``LEGEND`` that a cell's number carries under a protocol."""
    cell = table.cells.get((row, column))
    if cell is None or not cell.histories:
        return ""
    short = any(len(history.scores) < table.last for history in cell.histories)
    found = {
        UNTUNED: "untuned" in cell.tunings,
        QUICK: "quick" in cell.tunings or column.preset == "quick",
        SHORT: short and protocol.name == table.protocols[0].name,
        RUNNING: cell.running > 0,
    }
    return "".join(mark for mark, present in found.items() if present)


def _notes(table: Table, folders: Sequence[Results]) -> list[str]:
    """What a reader must know to trust the numbers."""
    seeds = usual_seeds(table)
    spread = f"mean ± sample standard deviation (ddof = 1) over {seeds} seeds" if seeds > 1 else "one seed"
    notes = [
        f"Score 0 is a random policy, 100 an expert. A cell is {spread} unless marked with n; "
        "one seed has no ±. An average is the mean of its suite's rows above it.",
        "Best over training takes each run's best evaluation: an oracle, it chooses by the simulator.",
    ]
    present = {mark for row, column in table.cells for mark in marks(table, row, column, table.protocols[0])}
    notes += [f"{mark} {name}: {text}" for mark, (name, text) in LEGEND.items() if mark in present]
    if other := [label for label in dict.fromkeys(row.dataset for row in table.rows) if label != COMPARABLE]:
        notes.append(f"Data {', '.join(other)}: not {COMPARABLE}, so not comparable with published D4RL scores.")
    notes.append(
        f"Updates: {_span(folder.config['steps'] for folder in folders)}; evaluated every "
        f"{_span(folder.config['eval_interval'] for folder in folders)} updates on "
        f"{_span(folder.config['episodes'] for folder in folders)} episodes."
    )
    evaluations = [evaluation for folder in folders for evaluation in folder.evaluations]
    if evaluations:
        simulators = dict.fromkeys(f"{item.env} ({item.simulator})" for item in evaluations)
        notes.append(f"Simulators: {', '.join(simulators)}.")
    rules: dict[str, dict[str, None]] = {}
    for item in evaluations:
        label = _label(Column(item.method, item.variant, preset="", setting="", rule=""))
        rules.setdefault(_rule(item), {})[label] = None
    notes += [f"Actions of {', '.join(methods)}: {rule}." for rule, methods in rules.items()]
    names = column_labels(table.columns)
    for (row, column), cell in table.cells.items():
        if cell.failures:
            reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in cell.failures)
            notes.append(f"Failed: {names[column]} on {row.task}: {reasons}.")
    return notes


def _span(values: Iterable[int]) -> str:
    return " / ".join(str(value) for value in sorted(set(values)))
