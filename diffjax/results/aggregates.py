"""What follows from a suite's numbers over its tasks: aggregates and probabilities of improvement, with intervals."""

from collections.abc import Iterator, Sequence

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
from diffjax.results.tables import Column, Table, row_labels, table_labels, values_of

AGGREGATES = {
    "mean": "mean",
    "median": "median",
    "iqm": "interquartile mean (IQM)",
    "optimality-gap": "optimality gap (lower is better)",
}


def task_scores(table: Table, suite: str, protocol: ReportingRule) -> dict[Column, Scores]:
    """The numbers of each column with two seeds on a task of a suite, by task, of those where all of them have two."""
    rows, labels = table.suite_rows(suite), row_labels(table.rows)
    found = {
        column: {row: values_of(table.cells.get((row, column)), protocol) for row in rows} for column in table.columns
    }
    columns = [column for column, values in found.items() if any(len(values[row]) > 1 for row in rows)]
    shared = [row for row in rows if all(len(found[column][row]) > 1 for column in columns)]
    names = {row: f"{row.task} ({labels[row]})" for row in shared}
    return {column: {names[row]: np.array(found[column][row]) for row in shared} for column in columns if shared}


def aggregate_blocks(table: Table, suite: str, protocol: ReportingRule) -> Iterator[Block]:
    """A suite's aggregates over its tasks, and how probably a run of one column beats one of another."""
    scores = task_scores(table, suite, protocol)
    if not scores:
        return
    columns, names = tuple(scores), table_labels(table)
    header = tuple(names[column] for column in columns)
    shared = len(next(iter(scores.values())))
    data = f"{shared} of {len(table.suite_rows(suite))} rows"

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

    title = f"{suite}, {protocol.title}"
    lines = tuple(metric(name) for name in METRICS)
    yield Block(
        "aggregates", f"Aggregates [95 % interval], {title}", protocol, columns, header, lines, ("aggregate", "over")
    )
    if len(columns) > 1:
        lines = tuple(
            Line(
                "aggregate", suite, f"{names[row]} beats", data, None,
                tuple(improvement(row, column) for column in columns),
            )
            for row in columns
        )  # fmt: skip
        title = f"Probability of improvement [95 % interval], {title}"
        yield Block("improvement", title, protocol, columns, header, lines, ("probability, %", "over"))


def generator() -> np.random.Generator:
    """The random numbers of one interval, always the same."""
    return np.random.default_rng(0)


def aggregate_notes(table: Table, blocks: Sequence[Block]) -> Iterator[str]:
    """How intervals were made, and which suites and columns have none."""
    shown = {block.lines[0].suite: block for block in blocks if block.kind == "aggregates"}
    if shown:
        protocol = next(iter(shown.values())).protocol
        yield (
            f"Aggregates and profiles are by {protocol.title}. Aggregates weigh every task alike; intervals by "
            f"{REPETITIONS:,} repetitions of a bootstrap over seeds within each task, too narrow with few seeds. The "
            "optimality gap is what runs lack to 100. The probability of improvement is that of a run of the line "
            "against one of the column on the same task, ties counted half."
        )
    names = table_labels(table)
    for suite in table.suites:
        if suite not in shown:
            yield no_intervals(suite)
            continue
        rows = table.suite_rows(suite)
        present = [column for column in table.columns if any((row, column) in table.cells for row in rows)]
        if lacking := [names[column] for column in present if column not in shown[suite].columns]:
            yield f"Aggregates of {suite} leave out {', '.join(lacking)}: no task with two seeds."


def no_intervals(suite: str) -> str:
    """Why a suite has no aggregates."""
    return f"No intervals for {suite}: no task has two seeds of every column."
