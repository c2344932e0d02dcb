"""How a table is laid out: for each protocol a block of lines and entries, published numbers beside ours, and notes.

What a place says stands here, how it is written in ``diffjax.results.formats``.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from diffjax.errors import UserError, unknown_name
from diffjax.experiment.settings import stands_for
from diffjax.results.aggregates import aggregate_blocks
from diffjax.results.notes import caption, remarks
from diffjax.results.page import (
    BOLD,
    INTERVAL,
    LEGEND,
    QUICK,
    RUNNING,
    SHORT,
    SPREAD_LABELS,
    STANDARD,
    STYLES,
    UNTUNED,
    Block,
    Entry,
    Line,
    Options,
    Page,
    PublishedColumn,
    number,
    with_spread,
)
from diffjax.results.protocols import PAPER, ReportingRule
from diffjax.results.published_columns import (
    chosen_baselines,
    paper_groups,
    published_average,
    published_entry,
    reported_lines,
    with_published,
)
from diffjax.results.statistics import near_best, significantly_worse, spread, t_interval
from diffjax.results.tables import CLONING_LOSS, Cell, Column, Row, Table, average, row_labels, table_labels, values_of
from diffjax.tasks.registry import tasks


def lay_out(table: Table, options: Options) -> Page:
    """The page of a table.

    Raises:
      UserError: an option has an unknown value, or a baseline has no published number.
    """
    checked = (
        ("spread", options.spread, SPREAD_LABELS),
        ("bold", options.bold, BOLD),
        ("style", options.style, STYLES),
    )
    for name, value, known in checked:
        if value not in known:
            raise unknown_name(name, value, known)
    chosen = options.chosen()
    _check_published(table, options)
    blocks = [_block(table, protocol, options) for protocol in chosen]
    if options.statistics:
        blocks += [found for suite in table.suites for found in aggregate_blocks(table, suite, options.headline)]
    return Page(table, options, tuple(blocks), caption(table, options), tuple(remarks(table, blocks, options)))


def _check_published(table: Table, options: Options) -> None:
    """That everything asked for will be seen."""
    chosen_baselines(options)
    if options.unverified and not options.shows_published:
        raise UserError("--unverified chooses among published numbers; add --published or --baselines")
    if options.baselines and table.ablation is not None:
        raise UserError("--baselines: the table of an ablation compares settings of its method; leave it out")
    if options.shows_published and PAPER not in {protocol.name for protocol in options.chosen()}:
        raise UserError(f"published numbers stand in the block {PAPER}; add it to --protocol")


def _block(table: Table, protocol: ReportingRule, options: Options) -> Block:
    columns: tuple[Column | PublishedColumn, ...] = table.columns
    if protocol.name == PAPER and options.shows_published and not table.ablation:
        columns = tuple(with_published(table.columns, options))
    names, data = table_labels(table), row_labels(table.rows)
    header = tuple(column.label if isinstance(column, PublishedColumn) else names[column] for column in columns)
    lines: list[Line] = []
    for suite in table.suites:
        rows = table.suite_rows(suite)
        for row in rows:
            entries = tuple(_entry(table, row, column, protocol, options) for column in columns)
            family = _family(row.task)
            lines.append(Line("row", suite, row.task, data[row], row, entries, family))
            if protocol.name == PAPER:
                lines += reported_lines(table, (row,), options, family)
        for label, members in _averages(suite, rows):
            entries = tuple(_average(table, members, column, protocol, options) for column in columns)
            families = {_family(row.task) for row in members}
            family = min(families) if len(families) == 1 else ""
            lines.append(Line("average", suite, label, _data_labels(members), None, entries, family))
            if protocol.name == PAPER:
                lines += reported_lines(table, members, options, family)
    lines = [replace(line, entries=_bold(line.entries, options)) for line in lines]
    subject = table.ablation.title if table.ablation else "Normalised score"
    return Block("scores", f"{subject}, {protocol.title}", protocol, columns, header, tuple(lines))


def _averages(suite: str, rows: Sequence[Row]) -> list[tuple[str, tuple[Row, ...]]]:
    """The averages below a suite's rows: over all of them, each family, and each set of tasks that a paper averages."""
    if len(rows) == 1:
        return []
    found = [(f"{suite} average", tuple(rows))]
    by_family: dict[str, list[Row]] = {}
    for row in rows:
        by_family.setdefault(_family(row.task), []).append(row)
    found += [
        (f"average of {family}", tuple(members))
        for family, members in by_family.items()
        if family and 1 < len(members) < len(rows)
    ]
    by_task = {row.task: row for row in rows}
    if len(by_task) == len(rows):
        for group, methods in paper_groups().items():
            if group < by_task.keys():
                members = tuple(row for row in rows if row.task in group)
                found.append((f"average of the {len(group)} tasks of {', '.join(methods)}", members))
    return found


def _family(task: str) -> str:
    """The family of a task, or of the D4RL task it stands for; empty if nobody knows it."""
    known = [tasks()[name].family for name in stands_for(task) if name in tasks()]
    return known[-1] if known else ""


def _data_labels(rows: Iterable[Row]) -> str:
    return " / ".join(dict.fromkeys(row.dataset for row in rows))


def _entry(
    table: Table, row: Row, column: Column | PublishedColumn, protocol: ReportingRule, options: Options
) -> Entry:
    """What stands in a row's place: a number with its spread and marks, or why there is none."""
    if isinstance(column, PublishedColumn):
        return published_entry(row, column.method, options)
    cell = table.cells.get((row, column))
    if cell is None:
        return Entry(remark="not run")
    values = values_of(cell, protocol)
    entry = Entry(
        remark=_why_nothing(cell),
        seeds=len(cell.histories),
        failed=len(cell.failures),
        running=cell.running,
        values=values,
    )
    if not values:
        return entry
    mean, width = statistics.fmean(values), _spread(values, options.spread)
    count = ""
    if cell.failures:
        count = f"({len(cell.failures)} of {len(cell.failures) + len(cell.histories)} failed)"
    elif len(values) != table.usual_seeds:
        count = f"(n={len(values)})"
    present = _marks(table, row, column, protocol)
    kind = options.spread if width is not None else ""
    return replace(
        entry,
        shown=with_spread(mean, width),
        remark=f"{count} {present}".strip(),
        mean=mean,
        spread=width,
        spread_kind=kind,
        marks=present,
    )


def _why_nothing(cell: Cell) -> str:
    if cell.histories:
        return f"no {CLONING_LOSS} recorded"
    if cell.failures:
        return f"failed: {cell.failures[0].reason}"
    return "no evaluation yet"


def _spread(values: Sequence[float], kind: str) -> float | None:
    """What stands behind ±, or None of a single seed."""
    if kind == "none":
        return None
    if kind == INTERVAL:
        interval = t_interval(values)
        return None if interval is None else interval.high - interval.estimate
    return spread(values, kind)


def _marks(table: Table, row: Row, column: Column, protocol: ReportingRule) -> str:
    """The keys of ``LEGEND`` that a cell's number carries under a protocol."""
    cell = table.cells.get((row, column))
    if cell is None or not cell.histories:
        return ""
    standard = table.published_columns.get(row.task)
    found = {
        STANDARD: standard is not None
        and (standard.method, standard.variant, standard.label) == (column.method, column.variant, column.setting),
        UNTUNED: "untuned" in cell.tunings,
        QUICK: "quick" in cell.tunings or column.preset == "quick",
        SHORT: any(len(history.scores) < protocol.needs(history) for history in cell.histories),
        RUNNING: cell.running > 0,
    }
    return "".join(mark for mark, present in found.items() if present)


def _average(
    table: Table,
    rows: Sequence[Row],
    column: Column | PublishedColumn,
    protocol: ReportingRule,
    options: Options,
) -> Entry:
    """The mean of the rows' means, or how many of them there are."""
    if isinstance(column, PublishedColumn):
        return published_average(rows, column.method, options)
    mean = average(table, rows, column, protocol)
    if not any((row, column) in table.cells for row in rows):
        return Entry(remark="not run")
    if mean is None:
        scored = sum(bool(values_of(table.cells.get((row, column)), protocol)) for row in rows)
        return Entry(remark=f"{scored} of {len(rows)} rows")
    present = {mark for row in rows for mark in _marks(table, row, column, protocol)}
    found = "".join(mark for mark in LEGEND if mark in present)
    return Entry(number(mean), found, mean, marks=found)


def _bold(entries: tuple[Entry, ...], options: Options) -> tuple[Entry, ...]:
    """The entries, the best ones marked; nothing where only one has a number, or there is nothing to compare."""
    means = [entry.mean if entry.comparable else None for entry in entries]
    runs = [entry.values or None for entry in entries]
    if options.bold == "none" or sum(known is not None for known in (means if options.bold == "5%" else runs)) < 2:
        return entries
    best = near_best(means) if options.bold == "5%" else [found is False for found in significantly_worse(runs)]
    return tuple(replace(entry, is_best=is_best) for entry, is_best in zip(entries, best, strict=True))
