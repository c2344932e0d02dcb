"""How a table is laid out: for each protocol a block of lines and entries, published numbers beside ours, and notes.

A page is the same for every format; what a place says stands here, how it is written in ``diffjax.results.formats``.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from diffjax.errors import UserError, unknown_name
from diffjax.results import published
from diffjax.results.protocols import DEFAULT, OWN_RULES, PAPER, Protocol, chosen_protocols
from diffjax.results.tables import (
    Cell,
    Column,
    Row,
    Statistic,
    Table,
    column_label,
    column_labels,
    evaluation_rule,
    row_labels,
    statistic,
    suite_average,
)
from diffjax.settings import sisters

D4RL = "D4RL"  # "D4RL v2": data whose scores may stand beside published ones of the same version
UNTUNED, QUICK, SHORT, RUNNING, OTHER, UNKNOWN = "†", "‡", "§", "¶", "≠", "?"
LEGEND = {
    UNTUNED: ("untuned", "no published hyper-parameters for this task; the method's defaults were used."),
    QUICK: ("quick", "the preset for minutes on a CPU, not the published widths and batch sizes."),
    SHORT: ("short", "fewer than k evaluations; the mean of those there are."),
    RUNNING: ("running", "some runs have not finished; their evaluations so far."),
    OTHER: ("other data", "the published number was reached on the data named behind it, not on those of its row."),
    UNKNOWN: ("version", "which version of D4RL's data is behind the published number is not established."),
}
SPREADS = {
    "std": "sample standard deviation (ddof = 1)",
    "se": "standard error of the mean",
    "none": "",
}
BOLD = ("5%", "none")
NEAR_BEST = 0.05  # the papers' habit: bold is what reaches 95 % of the best of its line


@dataclass(frozen=True)
class Options:
    """What a page shows.

    ``baselines`` are methods of which only published numbers are shown; ``unverified`` also shows numbers that were
    only remembered; ``caption`` stands before the notes.
    """

    protocols: tuple[str, ...] = ()
    last: int = 5
    spread: str = "std"
    bold: str = "5%"
    published: bool = False
    baselines: tuple[str, ...] = ()
    unverified: bool = False

    def chosen(self) -> tuple[Protocol, ...]:
        """The protocols of the page's blocks, the headline first; the papers' own where published numbers are shown."""
        return chosen_protocols(self.protocols or ((PAPER,) * self.shows_published + DEFAULT), self.last)

    @property
    def shows_published(self) -> bool:
        return self.published or bool(self.baselines)


@dataclass(frozen=True)
class PublishedColumn:
    """The published numbers of a method."""

    method: str

    @property
    def label(self) -> str:
        return f"{self.method} (published)"


@dataclass(frozen=True)
class Entry:
    """What one place of a block says; ``mean`` is None where there is no number and ``text`` says why."""

    text: str
    mean: float | None = None
    spread: float | None = None
    spread_kind: str = ""
    seeds: int | None = None
    failed: int = 0
    running: int = 0
    marks: str = ""
    source: str = ""
    comparable: bool = True
    is_best: bool = False


@dataclass(frozen=True)
class Line:
    """A row's entries, or (``row`` None) an average's."""

    suite: str
    task: str
    data: str
    row: Row | None
    entries: tuple[Entry, ...]

    @property
    def is_average(self) -> bool:
        return self.row is None


@dataclass(frozen=True)
class Block:
    """The numbers of one protocol."""

    protocol: Protocol
    columns: tuple[Column | PublishedColumn, ...]
    header: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        return f"Normalised score, {self.protocol.title}"


@dataclass(frozen=True)
class Page:
    """Everything that a format writes."""

    table: Table
    options: Options
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


def lay_out(table: Table, options: Options = Options()) -> Page:
    """The page of a table.

    Raises:
      UserError: an option has an unknown value, or a baseline has no published number.
    """
    for name, value, known in (("spread", options.spread, SPREADS), ("bold", options.bold, BOLD)):
        if value not in known:
            raise unknown_name(name, value, known)
    blocks = tuple(_block(table, protocol, options) for protocol in options.chosen())
    return Page(table, options, blocks, tuple(_notes(table, blocks, options)))


def usual_seeds(table: Table) -> int:
    """The number of seeds of most cells; the larger where two are as common."""
    counts = Counter(len(cell.histories) for cell in table.cells.values() if cell.histories)
    return max(counts, key=lambda count: (counts[count], count), default=0)


def marks(table: Table, row: Row, column: Column, protocol: Protocol) -> str:
    """The keys of ``LEGEND`` that a cell's number carries under a protocol."""
    cell = table.cells.get((row, column))
    if cell is None or not cell.histories:
        return ""
    found = {
        UNTUNED: "untuned" in cell.tunings,
        QUICK: "quick" in cell.tunings or column.preset == "quick",
        SHORT: any(len(history.scores) < protocol.needs(history) for history in cell.histories),
        RUNNING: cell.running > 0,
    }
    return "".join(mark for mark, present in found.items() if present)


def number(value: float) -> str:
    """One decimal; no minus before zero."""
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0 turns -0.0 into 0.0


def _with_spread(mean: float, spread: float | None) -> str:
    return number(mean) if spread is None else f"{number(mean)} ± {number(spread)}"


def _spread(found: Statistic, kind: str) -> float | None:
    if found.std is None or kind == "none":
        return None
    return found.std if kind == "std" else found.std / found.seeds**0.5


def _block(table: Table, protocol: Protocol, options: Options) -> Block:
    columns: tuple[Column | PublishedColumn, ...] = table.columns
    if protocol.name == PAPER and options.shows_published:
        columns = tuple(_with_published(table.columns, options))
    names, data = column_labels(table.columns), row_labels(table.rows)
    header = tuple(column.label if isinstance(column, PublishedColumn) else names[column] for column in columns)
    lines: list[Line] = []
    for suite in table.suites:
        rows = table.suite_rows(suite)
        for row in rows:
            entries = tuple(_entry(table, row, column, protocol, options) for column in columns)
            lines.append(Line(suite, row.task, data[row], row, entries))
        for label, members in _averages(suite, rows):
            entries = tuple(_average(table, members, column, protocol, options) for column in columns)
            lines.append(Line(suite, label, _data_labels(members), None, entries))
    lines = [replace(line, entries=_bold(line.entries, options)) for line in lines]
    return Block(protocol, columns, header, tuple(lines))


def _with_published(columns: Sequence[Column], options: Options) -> Iterator[Column | PublishedColumn]:
    """Each method's own columns, then what is published of it; then the baselines."""
    shown = []
    for method, own in itertools.groupby(columns, key=lambda column: column.method):
        yield from own
        has_numbers = any(score.method == method for score in published.scores(options.unverified))
        if options.published and (has_numbers or published.reason(method)):
            shown.append(method)
            yield PublishedColumn(method)
    known = tuple(dict.fromkeys(score.method for score in published.scores(options.unverified)))
    wanted = known if options.baselines == ("all",) else options.baselines
    for method in wanted:
        if method not in known:
            raise unknown_name("baseline", method, known)
        if method not in shown:
            yield PublishedColumn(method)


def _averages(suite: str, rows: Sequence[Row]) -> list[tuple[str, tuple[Row, ...]]]:
    """The averages below a suite's rows: over all of them, and over each set of tasks that a paper averages."""
    found = [(f"{suite} average", tuple(rows))]
    by_task = {row.task: row for row in rows}
    if len(by_task) == len(rows):
        for tasks, methods in _paper_groups().items():
            if tasks < by_task.keys():
                members = tuple(row for row in rows if row.task in tasks)
                found.append((f"average of the {len(tasks)} of {', '.join(methods)}", members))
    return found


def _paper_groups() -> dict[frozenset[str], list[str]]:
    """The sets of tasks that papers average, and the methods whose papers do."""
    found: dict[frozenset[str], list[str]] = {}
    for (table, group), tasks in published.groups().items():
        methods = found.setdefault(frozenset(tasks), [])
        for average in published.averages():
            own = published.sources()[table].own
            if (average.table, average.group) == (table, group) and average.method == own and own not in methods:
                methods.append(own)
    return {tasks: methods for tasks, methods in found.items() if methods}


def _data_labels(rows: Iterable[Row]) -> str:
    return " / ".join(dict.fromkeys(row.dataset for row in rows))


def _entry(table: Table, row: Row, column: Column | PublishedColumn, protocol: Protocol, options: Options) -> Entry:
    """What stands in a row's place: a number with its spread and marks, or why there is none."""
    if isinstance(column, PublishedColumn):
        return _published_entry(row, column.method, options)
    cell = table.cells.get((row, column))
    if cell is None:
        return Entry("not run")
    counts = {"seeds": len(cell.histories), "failed": len(cell.failures), "running": cell.running}
    found = statistic(cell, protocol)
    if found is None:
        return Entry(_why_nothing(cell), **counts)
    spread = _spread(found, options.spread)
    text = _with_spread(found.mean, spread)
    if cell.failures:
        text += f" ({len(cell.failures)} of {len(cell.failures) + len(cell.histories)} failed)"
    elif found.seeds != usual_seeds(table):
        text += f" (n={found.seeds})"
    present = marks(table, row, column, protocol)
    kind = options.spread if spread is not None else ""
    return Entry(f"{text} {present}".rstrip(), found.mean, spread, kind, marks=present, **counts)


def _why_nothing(cell: Cell) -> str:
    if cell.histories:
        return "no cloning loss"
    if cell.failures:
        return f"failed: {cell.failures[0][1]}"
    return "no evaluation yet" if cell.running else "no evaluations"


def _published_entry(row: Row, method: str, options: Options) -> Entry:
    """The published number of a row's task, or of the D4RL task it stands for, marked if its data are others."""
    found = next((score for task in sisters(row.task) if (score := _score(method, task, options))), None)
    if found is None:
        return Entry("not published")
    known = found.same_version
    same_task = found.task == row.task and row.dataset.startswith(f"{D4RL} v")
    if same_task and (not known or row.dataset == f"{D4RL} {found.data_version}"):
        mark = "" if known else UNKNOWN
    else:
        mark = f"{OTHER} {D4RL} {found.data_version}" if known else f"{OTHER} {D4RL}"
    if found.verified == "no":
        mark = f"{mark} (from memory)".strip()
    return Entry(
        f"{_with_spread(found.mean, found.spread)} {mark}".rstrip(),
        found.mean,
        found.spread,
        found.spread_kind if found.spread is not None else "",
        found.seeds,
        marks="".join(character for character in mark[:1] if character in LEGEND),
        source=found.source,
        comparable=not mark.startswith(OTHER),
    )


def _score(method: str, task: str, options: Options) -> published.Score | None:
    return published.preferred(method, task, options.unverified)


def _average(
    table: Table,
    rows: Sequence[Row],
    column: Column | PublishedColumn,
    protocol: Protocol,
    options: Options,
) -> Entry:
    """The mean of the rows' means, or how many of them there are."""
    if isinstance(column, PublishedColumn):
        return _published_average(rows, column.method, options)
    mean = suite_average(table, rows, column, protocol)
    if not any((row, column) in table.cells for row in rows):
        return Entry("not run")
    if mean is None:
        scored = sum(statistic(table.cells.get((row, column)), protocol) is not None for row in rows)
        return Entry(f"{scored} of {len(rows)} rows")
    present = {mark for row in rows for mark in marks(table, row, column, protocol)}
    found = "".join(mark for mark in LEGEND if mark in present)
    return Entry(f"{number(mean)} {found}".rstrip(), mean, marks=found)


def _published_average(rows: Sequence[Row], method: str, options: Options) -> Entry:
    """The average that is printed over exactly these tasks, or else that of the numbers shown above."""
    tasks = {row.task for row in rows}
    entries = [_published_entry(row, method, options) for row in rows]
    means = [entry.mean for entry in entries if entry.mean is not None]
    kinds = list(dict.fromkeys(mark for entry in entries for mark in entry.marks))
    for average in published.averages(options.unverified):
        same = average.method == method and set(published.groups()[average.table, average.group]) == tasks
        if same and average.statistic == "mean" and (len(means) < len(rows) or _is_own(average)):
            source = published.sources()[average.table].source
            mark = UNKNOWN if UNKNOWN in kinds else ""
            return Entry(f"{number(average.value)} {mark}".rstrip(), average.value, marks=mark, source=source)
    if len(means) < len(rows):
        return Entry(f"{len(means)} of {len(rows)} rows" if means else "not published")
    mark = OTHER if OTHER in kinds else "".join(kinds)
    mean = statistics.fmean(means)
    return Entry(f"{number(mean)} {mark}".rstrip(), mean, marks=mark, comparable=mark != OTHER)


def _is_own(average: published.Average) -> bool:
    return average.printed and published.sources()[average.table].own == average.method


def _bold(entries: tuple[Entry, ...], options: Options) -> tuple[Entry, ...]:
    """The entries, the best ones marked; nothing where only one has a number, or there is nothing to compare."""
    means = [entry.mean for entry in entries if entry.mean is not None and entry.comparable]
    if options.bold == "none" or len(means) < 2:
        return entries
    best = max(means)
    enough = best - NEAR_BEST * abs(best)
    return tuple(
        replace(entry, is_best=entry.mean is not None and entry.comparable and entry.mean >= enough)
        for entry in entries
    )


def _notes(table: Table, blocks: Sequence[Block], options: Options) -> list[str]:
    """What a reader must know to trust the numbers."""
    seeds = usual_seeds(table)
    spread = f"mean ± {SPREADS[options.spread]} over {seeds} seeds"
    if seeds <= 1 or options.spread == "none":
        spread = f"the mean over {seeds} seeds" if seeds > 1 else "one seed"
    names = {block.protocol.name for block in blocks}
    entries = [entry for block in blocks for line in block.lines for entry in line.entries]
    notes = [
        f"Score 0 is a random policy, 100 an expert. A cell is {spread} unless marked with n; "
        "one seed has no ±. An average is the mean of its suite's rows above it."
    ]
    if any(entry.is_best for entry in entries):
        notes.append("Bold: within 5 % of the best number of its line.")
    if "best" in names:
        notes.append("Best over training takes each run's best evaluation: an oracle, it chooses by the simulator.")
    if PAPER in names:
        notes.append(f"Rules: {_own_rules(table)}.")
    present = {mark for entry in entries for mark in entry.marks}
    notes += [f"{mark} {name}: {text}" for mark, (name, text) in LEGEND.items() if mark in present]
    labels = dict.fromkeys(row.dataset for row in table.rows)
    if other := [label for label in labels if not label.startswith(f"{D4RL} v")]:
        notes.append(f"Data {', '.join(other)}: not {D4RL}'s, so not comparable with published D4RL scores.")
    notes += _published_notes(blocks, options)
    notes += _provenance(table)
    return notes


def _own_rules(table: Table) -> str:
    """``dac mean of last 5; dtql last evaluation``."""
    rules: dict[str, str] = {}
    for (_, column), cell in table.cells.items():
        for history in cell.histories[:1]:
            rules.setdefault(column.method, OWN_RULES[history.own_rule])
    return "; ".join(f"{method} {rule}" for method, rule in rules.items())


def _published_notes(blocks: Sequence[Block], options: Options) -> Iterator[str]:
    """Where each published column was read, and why one has nothing."""
    for block in blocks:
        for index, column in enumerate(block.columns):
            if not isinstance(column, PublishedColumn):
                continue
            entries = [line.entries[index] for line in block.lines]
            if sources := list(dict.fromkeys(entry.source for entry in entries if entry.source)):
                kinds = [kind for kind in dict.fromkeys(entry.spread_kind for entry in entries) if kind]
                seeds = dict.fromkeys(entry.seeds for entry in entries if entry.seeds)
                spread = f"; ± {' / '.join(kinds)}" if kinds else "; no spread"
                over = f" over {' / '.join(map(str, seeds))} seeds" if seeds else ""
                yield f"{column.label}: {'; '.join(sources)}{spread}{over}; {_published_rule(column, options)}."
            tasks = [line.task for line, entry in zip(block.lines, entries, strict=True) if entry.mean is None]
            reasons = [published.reason(column.method, task) for task in ("*", *tasks)]
            if any(entry.text == "not published" for entry in entries):
                for reason in dict.fromkeys(filter(None, reasons)):
                    yield f"{column.label}, not published: {reason}."


def _published_rule(column: PublishedColumn, options: Options) -> str:
    rules = dict.fromkeys(
        score.protocol for score in published.scores(options.unverified) if score.method == column.method
    )
    return "by " + " / ".join(OWN_RULES.get(rule, "a rule that is not stated") for rule in rules)


def _provenance(table: Table) -> Iterator[str]:
    """Updates, simulators, actions, failures."""
    configs = [folder.config for folder in table.folders]
    yield (
        f"Updates: {_span(config['steps'] for config in configs)}; evaluated every "
        f"{_span(config['eval_interval'] for config in configs)} updates on "
        f"{_span(config['episodes'] for config in configs)} episodes."
    )
    evaluations = [evaluation for folder in table.folders for evaluation in folder.evaluations]
    if evaluations:
        simulators = dict.fromkeys(f"{item.env} ({item.simulator})" for item in evaluations)
        yield f"Simulators: {', '.join(simulators)}."
    given = [config for config in configs if "--ref_scores" in config.get("reference", {}).get("source", "")]
    for task, reference in {config["task"]: config["reference"] for config in given}.items():
        yield f"Reference scores of {task}: {reference['min']} and {reference['max']}, {reference['source']}."
    rules: dict[str, dict[str, None]] = {}
    for item in evaluations:
        label = column_label(Column(item.method, item.variant, preset="", setting="", rule=""))
        rules.setdefault(evaluation_rule(item), {})[label] = None
    yield from (f"Actions of {', '.join(methods)}: {rule}." for rule, methods in rules.items())
    names = column_labels(table.columns)
    for (row, column), cell in table.cells.items():
        if cell.failures:
            reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in cell.failures)
            yield f"Failed: {names[column]} on {row.task}: {reasons}."


def _span(values: Iterable[int]) -> str:
    return " / ".join(str(value) for value in sorted(set(values)))
