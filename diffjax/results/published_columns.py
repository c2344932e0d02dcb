"""Published numbers as columns of a page: which one stands beside a row, and how it is marked."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

from diffjax.experiment import ablations
from diffjax.experiment.settings import stands_for
from diffjax.records.schema import SELECTION_RULES
from diffjax.results import published
from diffjax.results.page import (
    D4RL,
    DISPUTED,
    OTHER,
    UNKNOWN,
    Block,
    Entry,
    Line,
    Options,
    PublishedColumn,
    is_d4rl,
    number,
    with_spread,
)
from diffjax.results.protocols import named
from diffjax.results.tables import Column, Row, Table

FROM_MEMORY = "(from memory)"
_ROUNDING = 0.06  # a mean as it is printed, against that of rounded numbers


def with_published(columns: Sequence[Column], options: Options) -> Iterator[Column | PublishedColumn]:
    """Each method's own columns, then what is published of it; then the baselines."""
    shown = []
    wanted = chosen_baselines(options)
    for method, own in itertools.groupby(columns, key=lambda column: column.method):
        yield from own
        if options.published:
            shown.append(method)
            yield PublishedColumn(method)
    yield from (PublishedColumn(method) for method in wanted if method not in shown)


def _known(options: Options) -> tuple[str, ...]:
    return tuple(dict.fromkeys(score.method for score in published.scores(options.unverified)))


def chosen_baselines(options: Options) -> tuple[str, ...]:
    """The baselines that are asked for, each with a published number.

    Raises:
      UserError: one has none.
    """
    return named(options.baselines, _known(options), "baselines", "baseline", "baseline")


def published_entry(row: Row, method: str, options: Options) -> Entry:
    """The published number of a row's task, or of the D4RL task it stands for, marked if its data are others."""
    known = (published.preferred(method, task, options.unverified) for task in stands_for(row.task))
    found = next(filter(None, known), None)
    if found is None:
        return Entry(remark=_absence(row, method))
    entry = _marked(
        found.mean,
        _data_mark(row, found.task, found.data_version),
        found.verified == "no",
        source=found.table,
        rule=found.protocol,
    )
    if others := published.contradictions(found):
        printed = "; ".join(f"{number(other.mean)} ({other.source})" for other in others)
        remark = f"{DISPUTED} {entry.remark}".strip()
        entry = replace(entry, remark=remark, marks=entry.marks + DISPUTED, elsewhere=printed)
    if found.spread is None:
        return replace(entry, seeds=found.seeds)
    shown = with_spread(found.mean, found.spread)
    return replace(entry, shown=shown, spread=found.spread, spread_kind=found.spread_kind, seeds=found.seeds)


def _absence(row: Row, method: str) -> str:
    """Why a row has no published number: it is printed but was not readable, or it is not."""
    found = {published.absence(method, task) for task in stands_for(row.task)}
    return published.NOT_READABLE if published.NOT_READABLE in found else published.NOT_PUBLISHED


def _data_mark(row: Row, task: str, version: str) -> str:
    """Nothing where both numbers are of the same data; ``≠`` and those behind the published one; ``?`` if in doubt."""
    if version.startswith("v"):
        data = f"{D4RL} {version}"
        return "" if task == row.task and row.dataset == data else f"{OTHER} {data}"
    return UNKNOWN if task == row.task and is_d4rl(row.dataset) else f"{OTHER} {D4RL}"


def _marked(mean: float, mark: str, from_memory: bool = False, source: str = "", rule: str = "") -> Entry:
    """A published number with what is to be said of its data and of how it is known."""
    return Entry(
        number(mean),
        " ".join(filter(None, (mark, FROM_MEMORY if from_memory else ""))),
        mean,
        marks=mark[:1],
        source=source,
        rule=rule,
        comparable=not mark.startswith(OTHER),
    )


def published_average(rows: Sequence[Row], method: str, options: Options) -> Entry:
    """The mean of the numbers shown above, as it is printed if it is; what is printed where none of them are."""
    entries = [published_entry(row, method, options) for row in rows]
    means = [entry.mean for entry in entries if entry.mean is not None]
    if not means:
        found = _printed_average(rows, method, options)
        if found is not None:
            return _as_entry(found, rows)
        absences = [entry.remark for entry in entries]
        return Entry(remark=published.NOT_READABLE if published.NOT_READABLE in absences else published.NOT_PUBLISHED)
    if len(means) < len(rows):
        return Entry(remark=f"{len(means)} of {len(rows)} rows")
    mean = statistics.fmean(means)
    printed = _printed_average(rows, method, options, near=mean)
    kinds = list(dict.fromkeys(mark for entry in entries for mark in entry.marks if mark != DISPUTED))
    mark = OTHER if OTHER in kinds else "".join(kinds)
    if printed is not None and mark != OTHER:
        mean = printed.value
    remembered = any(FROM_MEMORY in entry.remark for entry in entries)
    return _marked(mean, mark, remembered)


def _printed_average(
    rows: Sequence[Row], method: str, options: Options, near: float | None = None
) -> published.Average | None:
    """The mean that is printed over exactly these tasks, the surest first.

    ``near``: only one that was read and that rounds to this mean.
    """
    tasks = {row.task for row in rows}
    found = [
        printed
        for printed in published.averages(options.unverified)
        if (printed.method, printed.statistic) == (method, "mean")
        and set(published.groups()[printed.table, printed.group]) == tasks
        and (near is None or (printed.verified and abs(printed.value - near) < _ROUNDING))
    ]
    return min(found, key=lambda printed: (not printed.verified, not _is_own(printed)), default=None)


def _as_entry(printed: published.Average, rows: Sequence[Row]) -> Entry:
    """An average without the numbers behind it."""
    marks = dict.fromkeys(_data_mark(row, row.task, printed.data_version) for row in rows)
    mark = next((mark for mark in marks if mark.startswith(OTHER)), next(filter(None, marks), ""))
    return _marked(printed.value, mark, not printed.verified, source=printed.table, rule=printed.protocol)


def reported_lines(table: Table, rows: Sequence[Row], options: Options, family: str = "") -> list[Line]:
    """What the paper of an ablation prints for a row's task, or as the average of exactly these tasks."""
    if table.ablation is None or not options.published:
        return []
    tasks = {row.task for row in rows}
    if len(rows) == 1:
        scores = printed_scores(table.ablation, task=rows[0].task)
    else:
        named = {group for (_, group), members in published.groups().items() if set(members) == tasks}
        scores = printed_scores(table.ablation, group=min(named, default="none"))
    if not any(score is not None for score in scores):
        return []
    labels = [column.label for column in ablations.columns(table.ablation, rows[0].task)]
    printed = dict(zip(labels, scores, strict=True))
    mark = "" if all(is_d4rl(row.dataset) for row in rows) else f"{OTHER} {D4RL}"

    found = (printed.get(column.setting) for column in table.columns)
    entries = tuple(Entry(remark=published.NOT_PUBLISHED) if score is None else _marked(score, mark) for score in found)
    return [Line("printed", rows[0].suite, "published", D4RL, None, entries, family)]


def printed_scores(ablation: ablations.Ablation, task: str = "", group: str = "") -> tuple[float | None, ...]:
    """What the paper prints for a task, or as the mean of a group, one score per column; None where it has none."""
    printed = {
        row.setting: row.score
        for row in published.ablations()
        if (row.study, row.method, row.task, row.group) == (ablation.study, ablation.methods[0], task, group)
    }
    settings = ablation.study_settings or ("",) * len(ablations.columns(ablation, ablations.default_tasks(ablation)[0]))
    return tuple(printed.get(setting) for setting in settings)


def _is_own(average: published.Average) -> bool:
    return average.printed and published.sources()[average.table].own == average.method


def paper_groups() -> dict[frozenset[str], list[str]]:
    """The sets of tasks that papers average, and the methods whose papers do."""
    found: dict[frozenset[str], list[str]] = {}
    for (table, group), tasks in published.groups().items():
        methods = found.setdefault(frozenset(tasks), [])
        own = published.sources()[table].own
        has_own = any((item.method, item.table, item.group) == (own, table, group) for item in published.averages())
        if has_own and own not in methods:
            methods.append(own)
    return {tasks: methods for tasks, methods in found.items() if methods}


def published_notes(blocks: Sequence[Block]) -> Iterator[str]:
    """Where each published column was read, what is to be known of these places, and why one has nothing."""
    shown: dict[str, None] = {}
    for block in blocks:
        for index, column in enumerate(block.columns):
            if not isinstance(column, PublishedColumn):
                continue
            entries = [line.entries[index] for line in block.lines]
            if tables := list(dict.fromkeys(entry.source for entry in entries if entry.source)):
                kinds = [kind for kind in dict.fromkeys(entry.spread_kind for entry in entries) if kind]
                seeds = dict.fromkeys(entry.seeds for entry in entries if entry.seeds)
                shown |= dict.fromkeys(tables)
                spread = f"± {' / '.join(kinds)}" if kinds else "no spread"
                over = f" over {' / '.join(map(str, seeds))} seeds" if seeds else ""
                places = "; ".join(published.sources()[table].source for table in tables)
                rules = dict.fromkeys(entry.rule for entry in entries if entry.rule)
                chosen = " / ".join(SELECTION_RULES.get(rule, "a rule that is not stated") for rule in rules)
                yield f"{column.label}: {places}; mean{over}, {spread}; by {chosen}."
            tasks = [line.task for line, entry in zip(block.lines, entries, strict=True) if entry.mean is None]
            if any(entry.text in (published.NOT_PUBLISHED, published.NOT_READABLE) for entry in entries):
                reasons: dict[str, str] = {}
                for task in ("*", *tasks):
                    if (reason := published.reason(column.method, task)) is not None:
                        reasons.setdefault(reason, published.absence(column.method, task))
                yield from (f"{column.label}, {absence}: {reason}." for reason, absence in reasons.items())
    for source in map(published.sources().__getitem__, shown):
        if source.note:
            yield f"{source.source}: {source.note}."
