"""What a page of tables consists of: options, entries, lines, blocks; the same for every format."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from diffjax.results import published
from diffjax.results.protocols import DEFAULT, PAPER, ReportingRule, chosen_protocols
from diffjax.results.statistics import SPREADS
from diffjax.results.tables import Column, Row, Table

D4RL = "D4RL"  # "D4RL v2": data whose scores may stand beside published ones of the same version
UNTUNED, QUICK, SHORT, RUNNING, OTHER, UNKNOWN, STANDARD, DISPUTED = "†", "‡", "§", "¶", "≠", "?", "*", "~"
LEGEND = {
    STANDARD: ("published value", "what the published hyper-parameters of this task say."),
    UNTUNED: ("untuned", "no published hyper-parameters for this task; the method's defaults were used."),
    QUICK: ("quick", "the preset for minutes on a CPU, not the published widths and batch sizes."),
    SHORT: ("short", "fewer evaluations than the mean is meant for; that of those there are."),
    RUNNING: ("running", "some runs have not finished; their evaluations so far."),
    OTHER: ("other data", "the published number was reached on the data named behind it, not on those of its row."),
    DISPUTED: ("disputed", "another place prints another number for what seems to be the same; the CSV has them."),
    UNKNOWN: ("version", "which version of D4RL's data is behind the published number is not established."),
}
INTERVAL = "interval"
SPREAD_LABELS = {
    **{name: found.label for name, found in SPREADS.items()},
    INTERVAL: "half of the 95 % confidence interval by Student's t",
    "none": "",
}
BOLD = {
    "5%": (
        "Bold: at least b - 0.05 |b|, where b is the highest number of its line, before rounding. Published numbers of "
        "other data (≠) take no part, and a line with a single number has no bold."
    ),
    "significance": (
        "Bold: the highest mean of its line, and every mean that is not significantly lower: p > 0.05 in Welch's "
        "two-sided t-test over seeds against the highest, after Holm's correction over the line. Means of one seed are "
        "not tested, and not bold unless the highest; averages and published numbers take no part, and a line with a "
        "single number has no bold."
    ),
    "none": "",
}


class Style(NamedTuple):
    """What tables and figures are made for.

    ``figure_inches``: how wide figures are, None for as wide as their panels need; ``across``: how many panels stand in
    a line at most, 0 for as many as there is reason for. ``text_points``: how wide tables are, in TeX's points.
    """

    label: str
    figure_inches: float | None
    across: int
    font_points: float
    text_points: float


STYLES = {
    "free": Style("figures as wide as they need, tables that fit every page", None, 0, 11.0, 345.0),
    "one-column": Style("a paper of one column, 5.5 inches wide", 5.5, 3, 8.0, 397.0),
    "two-column": Style("a paper of two columns: figures fit one (3.25 inches), tables take both", 3.25, 2, 7.0, 487.0),
}
"""For which paper figures and LaTeX are made (``--style``); the width of ``free`` is that of LaTeX's own classes."""


@dataclass(frozen=True)
class Options:
    """What a page shows.

    ``baselines`` are methods of which only published numbers are shown; ``unverified`` also shows numbers that were
    only remembered; ``statistics`` adds aggregates over tasks with their intervals.
    """

    protocols: tuple[str, ...] = ()
    last: int = 5
    spread: str = "std"
    bold: str = "5%"
    published: bool = False
    baselines: tuple[str, ...] = ()
    unverified: bool = False
    statistics: bool = False
    style: str = "free"

    def chosen(self) -> tuple[ReportingRule, ...]:
        """The protocols of the page's blocks; the papers' own first where published numbers are shown."""
        return chosen_protocols(self.protocols or ((PAPER,) * self.shows_published + DEFAULT), self.last)

    @property
    def headline(self) -> ReportingRule:
        """By which methods are compared: the first that reads all of them alike, if there is one."""
        chosen = self.chosen()
        return next((protocol for protocol in chosen if protocol.name != PAPER), chosen[0])

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
    """What one place of a block says: the number as it is ``shown``, and a ``remark`` behind it.

    ``mean`` is None where there is no number; the remark says why. ``values`` are the numbers of the runs behind it,
    ``low`` and ``high`` the ends of its confidence interval.
    """

    shown: str = ""
    remark: str = ""
    mean: float | None = None
    spread: float | None = None
    spread_kind: str = ""
    seeds: int | None = None
    failed: int = 0
    running: int = 0
    marks: str = ""
    source: str = ""  # of a published number: the short name of what prints it, and by which rule it was taken
    rule: str = ""
    elsewhere: str = ""  # what other places print for the same
    comparable: bool = True
    is_best: bool = False
    values: Sequence[float] = ()
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """All that the place says."""
        return " ".join(filter(None, (self.shown, self.remark)))

    @property
    def citation(self) -> str:
        """What prints a published number; empty for our own."""
        return published.sources()[self.source].source if self.source else ""


LineKind = Literal["row", "average", "printed", "aggregate"]
BlockKind = Literal["scores", "aggregates", "improvement"]


@dataclass(frozen=True)
class Line:
    """Entries of a row, of an average, of what a paper prints for the line above, or of an aggregate.

    ``row`` is None unless it is a row's. ``family`` is that of the task, or of all an average's.
    """

    kind: LineKind
    suite: str
    task: str
    data: str
    row: Row | None
    entries: tuple[Entry, ...]
    family: str = ""


@dataclass(frozen=True)
class Block:
    """The numbers of one protocol: scores of tasks, or what follows from them over tasks."""

    kind: BlockKind

    title: str
    protocol: ReportingRule
    columns: tuple[Column | PublishedColumn, ...]
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    corner: tuple[str, str] = ("task", "data")
    subject: str = ""  # of aggregates: a suite, and which of its columns are left out

    @property
    def entries(self) -> Iterator[Entry]:
        return (entry for line in self.lines for entry in line.entries)

    @property
    def has_bold(self) -> bool:
        return any(entry.is_best for entry in self.entries)

    @property
    def marks(self) -> str:
        """The keys of ``LEGEND`` that its entries carry."""
        present = {mark for entry in self.entries for mark in entry.marks}
        return "".join(mark for mark in LEGEND if mark in present)


@dataclass(frozen=True)
class Page:
    """Everything that a format writes; ``caption`` says what a cell is, ``remarks`` what else a reader must know."""

    table: Table
    options: Options
    blocks: tuple[Block, ...]
    caption: str
    remarks: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """All that stands below the tables where nothing stands beside them."""
        bold = [BOLD[self.options.bold]] if any(block.has_bold for block in self.blocks) else []
        present = {mark for block in self.blocks for mark in block.marks}
        legend = (f"{mark} {meaning(mark)}" for mark in LEGEND if mark in present)
        return (self.caption, *bold, *legend, *self.remarks)


def meaning(mark: str) -> str:
    """``untuned: no published hyper-parameters ...``."""
    return ": ".join(LEGEND[mark])


def is_d4rl(data: str) -> bool:
    """Whether a data label names D4RL's own files, of whatever version."""
    return data.startswith(f"{D4RL} v")


def number(value: float) -> str:
    """One decimal; no minus before zero."""
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0 turns -0.0 into 0.0


def with_interval(estimate: float, low: float | None, high: float | None, show: Callable[[float], str] = number) -> str:
    """``45.2 [40.1, 50.3]``, or the number alone."""
    return show(estimate) if low is None or high is None else f"{show(estimate)} [{show(low)}, {show(high)}]"


def with_spread(mean: float, spread: float | None) -> str:
    """``45.2 ± 3.1``, or the mean alone."""
    return number(mean) if spread is None else f"{number(mean)} ± {number(spread)}"
