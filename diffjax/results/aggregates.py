"""What follows from a suite's numbers over its tasks: aggregates and probabilities of improvement, with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffjax.results.page import Block, Entry, Line, with_interval
from diffjax.results.protocols import ReportingRule
from diffjax.results.statistics import (
    METRICS,
    REPETITIONS,
    Interval,
    Scores,
    bootstrap_interval,
    improvement_interval,
)
from diffjax.results.tables import Cell, Column, Row, Table, row_labels, table_labels, values_of

_FEW = 3  # columns that a title names
AGGREGATES = {
    "mean": "mean",
    "median": "median",
    "iqm": "interquartile mean (IQM)",
    "optimality-gap": "optimality gap (lower is better)",
}


@dataclass(frozen=True)
class Shared:
    """What columns can be compared by: their numbers on the rows of a suite on which each of them has two seeds.

    ``removed`` are the suite's other rows, each with what the columns lack there. ``left_out`` are columns that have
    two seeds somewhere, but on fewer rows than these.
    """

    suite: str
    scores: Mapping[Column, Scores]
    removed: Mapping[Row, str]
    left_out: tuple[str, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that all columns have, as text."""
        return tuple(next(iter(self.scores.values())))

    @property
    def over(self) -> str:
        """Of how many of the suite's rows."""
        return f"{len(self.rows)} of {len(self.rows) + len(self.removed)} rows"

    @property
    def title(self) -> str:
        """The suite, and which of its columns are left out, or which are not where those are many."""
        if len(self.left_out) > _FEW:
            kept = "column" if len(self.scores) == 1 else f"{len(self.scores)} columns"
            return f"{self.suite}, the {kept} with the most rows"
        return f"{self.suite}, without {' and '.join(self.left_out)}" if self.left_out else self.suite


def shared_scores(table: Table, suite: str, protocol: ReportingRule) -> tuple[Shared, ...]:
    """All columns of a suite on the rows that they share, and those with the most rows alone if they share more.

    A column counts that has two seeds on a row of the suite. Empty where nothing is shared.
    """
    rows = table.suite_rows(suite)
    numbers = {
        column: {row: values_of(table.cells.get((row, column)), protocol) for row in rows} for column in table.columns
    }
    counts = {column: sum(len(numbers[column][row]) > 1 for row in rows) for column in table.columns}
    every = [column for column in table.columns if counts[column]]
    fullest = [column for column in every if counts[column] == max(counts.values())]
    names, data = table_labels(table), row_labels(table.rows)
    labels = {row: f"{row.task} ({data[row]})" for row in rows}

    def shared(columns: Sequence[Column]) -> Shared:
        kept = [row for row in rows if all(len(numbers[column][row]) > 1 for column in columns)]
        removed = {row: _lacks(table, row, columns, numbers) for row in rows if row not in kept}
        scores = {column: {labels[row]: np.array(numbers[column][row]) for row in kept} for column in columns if kept}
        return Shared(suite, scores, removed, tuple(names[column] for column in every if column not in columns))

    of_all, of_fullest = shared(every), shared(fullest)
    found = (of_all, of_fullest) if len(of_fullest.removed) < len(of_all.removed) else (of_all,)
    return tuple(each for each in found if each.scores)


def _lacks(
    table: Table, row: Row, columns: Sequence[Column], numbers: Mapping[Column, Mapping[Row, Sequence[float]]]
) -> str:
    """Which columns have no two numbers on a row, and why."""
    names = table_labels(table)
    found: dict[str, list[str]] = {}
    for column in columns:
        if len(numbers[column][row]) < 2:
            reason = _lack(table.cells.get((row, column)), len(numbers[column][row]))
            found.setdefault(reason, []).append(names[column])
    return ", ".join(f"{', '.join(lacking)} {reason}" for reason, lacking in found.items())


def _lack(cell: Cell | None, numbers: int) -> str:
    """Why a cell has no two numbers."""
    if cell is None:
        return "not run"
    if numbers:
        return "with one seed"
    return "failed" if cell.failures and not cell.histories else "without a number"


def aggregate_blocks(table: Table, suite: str, protocol: ReportingRule) -> Iterator[Block]:
    """A suite's aggregates over its tasks, and how probably a run of one column beats one of another."""
    for shared in shared_scores(table, suite, protocol):
        yield from _blocks(table, shared, protocol)


def _blocks(table: Table, shared: Shared, protocol: ReportingRule) -> Iterator[Block]:
    suite, scores, names = shared.suite, shared.scores, table_labels(table)
    columns, data = tuple(scores), shared.over
    header = tuple(names[column] for column in columns)

    def entry(found: Interval) -> Entry:
        return Entry(with_interval(*found), mean=found.estimate, low=found.low, high=found.high)

    def metric(name: str) -> Line:
        intervals = [bootstrap_interval(generator(), scores[column], METRICS[name]) for column in columns]
        return Line("aggregate", suite, AGGREGATES[name], data, None, tuple(map(entry, intervals)))

    def improvement(better: Column, worse: Column) -> Entry:
        if better == worse:
            return Entry(remark="–")
        found = improvement_interval(generator(), scores[better], scores[worse]).interval
        return entry(Interval(*(100 * value for value in found)))

    title = f"{shared.title}, {protocol.title}"
    lines = tuple(metric(name) for name in METRICS)
    corner = "aggregate", "over"
    block = Block(
        "aggregates", f"Aggregates [95 % interval], {title}", protocol, columns, header, lines, corner, shared.title
    )
    yield block
    if len(columns) > 1:
        lines = tuple(
            Line(
                "aggregate", suite, f"{names[row]} beats", data, None,
                tuple(improvement(row, column) for column in columns),
            )
            for row in columns
        )  # fmt: skip
        title = f"Probability of improvement [95 % interval], {title}"
        yield replace(block, kind="improvement", title=title, lines=lines, corner=("probability, %", "over"))


def generator() -> np.random.Generator:
    """The random numbers of one interval, always the same."""
    return np.random.default_rng(0)


def aggregate_notes(table: Table, blocks: Sequence[Block]) -> Iterator[str]:
    """How intervals were made, and which suites and columns have none."""
    protocol = next((block.protocol for block in blocks if block.kind == "aggregates"), None)
    if protocol is not None:
        yield (
            f"Aggregates and profiles are by {protocol.title}. Aggregates weigh every task alike; intervals by "
            f"{REPETITIONS:,} repetitions of a bootstrap over seeds within each task, too narrow with few seeds. The "
            "optimality gap is what runs lack to 100. The probability of improvement is that of a run of the line "
            "against one of the column on the same task, ties counted half."
        )
    names = table_labels(table)
    for suite in table.suites:
        found = shared_scores(table, suite, protocol) if protocol is not None else ()
        if not found:
            yield no_intervals(suite)
            continue
        yield from (note for shared in found for note in _removed(table, shared))
        counted = {names[column] for column in found[0].scores} | set(found[0].left_out)
        present = [
            column for column in table.columns if any((row, column) in table.cells for row in table.suite_rows(suite))
        ]
        if lacking := [names[column] for column in present if names[column] not in counted]:
            yield f"Aggregates of {suite} leave out {', '.join(lacking)}: no task with two seeds."


def _removed(table: Table, shared: Shared) -> Iterator[str]:
    """Which rows aggregates are not over, and which cells took them out."""
    labels = row_labels(table.rows)
    if shared.removed:
        reasons = "; ".join(f"{row.task} ({labels[row]}): {lacks}" for row, lacks in shared.removed.items())
        yield f"Aggregates of {shared.title} are over {shared.over}, not over {reasons}."
    if len(shared.left_out) > _FEW:
        yield f"Aggregates of {shared.title} leave out {', '.join(shared.left_out)}."


def lacking_seeds(table: Table, suite: str, protocol: ReportingRule) -> str:
    """Which columns of a suite have two seeds on how many of its rows."""
    rows, names = table.suite_rows(suite), table_labels(table)
    counts = {
        names[column]: sum(len(values_of(table.cells.get((row, column)), protocol)) > 1 for row in rows)
        for column in table.columns
        if any((row, column) in table.cells for row in rows)
    }
    found = ", ".join(f"{name} on {count} of {len(rows)}" for name, count in counts.items())
    return f"Rows of {suite} with two seeds: {found}."


def no_intervals(suite: str) -> str:
    """Why a suite has no aggregates."""
    return f"No intervals for {suite}: no task has two seeds of every column."
