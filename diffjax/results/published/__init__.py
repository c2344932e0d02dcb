"""Published numbers as data: what papers and their programs print, with the place that prints each.

This folder holds a line per number: ``scores.csv`` those that were read where they are printed or quoted,
``unverified.csv`` those that are only remembered, which nothing shows unless asked for. A method of this project has
the project's name (``dac``, ``iql``, ``bc``), any other the name its table gives it (``EDAC``, ``IDQL-1``).

A mean counts as read where another paper quotes it; a spread only where it was read itself. So ``dac`` and ``dtql``
have no verified spread: DAC's README prints none, and the standard deviation of ``dac_curves`` is another number, of
single evaluations instead of means of five. Figures a table prints with different rounding stay as printed. Where two
places print different numbers for what seems to be the same, both have a line, and :func:`contradictions` finds them.
"""

import csv
import fnmatch
import importlib.resources
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

VERIFIED = ("yes", "mean only", "no")  # the surest first
KINDS = ("table", "list", "rerun")  # likewise
NOTHING_READ = "no score was found that could be verified"
NOT_PUBLISHED, NOT_READABLE = "not published", "not readable"


class Source(NamedTuple):
    """A table, a figure or a text that prints numbers.

    ``own`` is the method whose paper it is, empty for others'. ``kind``, one of ``KINDS``: it is printed in a paper or
    README, in a program, or was trained anew by others with a program of theirs.
    """

    table: str
    source: str
    own: str
    kind: str
    note: str

    @property
    def reruns(self) -> bool:
        """Whether its authors trained all methods anew."""
        return self.kind == "rerun"


class Score(NamedTuple):
    """One normalised score (x 100) as ``table`` prints it.

    ``spread`` is the number after ±, ``spread_kind`` what it is: std, population std or se over seeds, unknown or none.
    ``protocol`` is how a run's number was chosen, by the rule of the method's own paper: ``last5`` or ``last10`` (means
    of so many last evaluations), ``last``, ``best`` (over training), ``offline`` (by the loss, without the simulator)
    or ``unknown``. ``data_version`` is D4RL's version behind the number, ``mixed or unknown`` where it is not
    established; ``task`` names the version the table is usually read as. ``verified``: one of ``VERIFIED``.
    """

    method: str
    task: str
    mean: float
    spread: float | None
    spread_kind: str
    seeds: int | None
    episodes: int | None
    protocol: str
    data_version: str
    table: str
    verified: str

    @property
    def source(self) -> str:
        """The citation, fit for a footnote."""
        return sources()[self.table].source

    @property
    def own(self) -> bool:
        """Whether the method's own authors print it."""
        return sources()[self.table].own == self.method

    @property
    def same_version(self) -> bool:
        """Whether the data behind the number are established to be those of ``task``."""
        return self.task.endswith(f"-{self.data_version}")


class Average(NamedTuple):
    """A ``mean`` or ``sum`` over the tasks ``groups()[table, group]``; not ``printed`` means computed from scores.

    ``protocol`` and ``data_version`` as in :class:`Score`.
    """

    method: str
    table: str
    group: str
    statistic: str
    value: float
    protocol: str
    data_version: str
    printed: bool
    verified: bool


class Ablation(NamedTuple):
    """A score of one ``setting`` in a ``study``: of a ``task``, or the mean over a ``group`` of its table."""

    study: str
    method: str
    setting: str
    task: str
    group: str
    score: float
    seeds: int | None
    table: str


class Timing(NamedTuple):
    """A duration, a rate or a ratio (empty ``unit``); ``value_max`` is the upper end where a range is given."""

    method: str
    quantity: str
    setting: str
    value: float
    value_max: float | None
    unit: str
    hardware: str
    table: str
    note: str


class Paper(NamedTuple):
    """An entry of ``papers.bib``, and the methods whose numbers it stands for, as tables call them."""

    key: str
    entry: str
    methods: tuple[str, ...]


class Curve(NamedTuple):
    """Mean and sample standard deviation (ddof = 1) of 8 seeds' scores at each evaluation, after ``steps`` updates."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@cache
def sources() -> Mapping[str, Source]:
    """What prints numbers, by its short name; of quotations, an earlier one is preferred to a later."""
    return MappingProxyType({row["table"]: Source(**row) for row in _rows("sources.csv")})


@cache
def scores(unverified: bool = False) -> tuple[Score, ...]:
    """All scores that were read, each printed place for itself; with ``unverified`` also those only remembered."""
    names = ("scores.csv", "unverified.csv") if unverified else ("scores.csv",)
    return tuple(_score(row) for name in names for row in _rows(name))


@cache
def preferred(method: str, task: str, unverified: bool = False) -> Score | None:
    """The one score to show, or None where nobody printed any.

    The surest (``VERIFIED``), of those the method's own authors', of those the surest in kind (``KINDS``), of those
    data of the task's own version, of those the first in ``sources``.
    """
    places = list(sources())
    found = [score for score in scores(unverified) if (score.method, score.task) == (method, task)]
    return min(
        found,
        key=lambda score: (
            VERIFIED.index(score.verified),
            not score.own,
            KINDS.index(sources()[score.table].kind),
            not score.same_version,
            places.index(score.table),
        ),
        default=None,
    )


@cache
def contradictions(score: Score) -> tuple[Score, ...]:
    """What other places print for the same method and task, where neither data nor rule are known to be others.

    Of what was trained anew nothing is contradicted. Numbers that differ by no more than the rounding of the shorter
    one are the same.
    """

    def may_be_one(first: str, second: str) -> bool:
        return first == second or bool({"unknown", "mixed or unknown"} & {first, second})

    return tuple(
        other
        for other in scores()
        if (other.method, other.task) == (score.method, score.task)
        and other.table != score.table
        and not (sources()[other.table].reruns or sources()[score.table].reruns)
        and may_be_one(other.data_version, score.data_version)
        and may_be_one(other.protocol, score.protocol)
        and abs(other.mean - score.mean) > max(_half_a_digit(other.mean), _half_a_digit(score.mean))
    )


def _half_a_digit(number: float) -> float:
    """Of a number as it is printed, which has at least one place (``94`` reads 94.0) or was rounded to whole ones."""
    places = 0 if number == int(number) else len(f"{number:g}".partition(".")[2])
    return 0.5 * 10.0**-places + 1e-9


@cache
def averages(unverified: bool = False) -> tuple[Average, ...]:
    """Sums and means over groups of tasks; with ``unverified`` also those only remembered."""
    found = [
        Average(
            row["method"],
            row["table"],
            row["group"],
            row["statistic"],
            float(row["value"]),
            row["protocol"],
            row["data_version"],
            row["printed"] == "yes",
            row["verified"] == "yes",
        )
        for row in _rows("averages.csv")
    ]
    return tuple(average for average in found if average.verified or unverified)


@cache
def groups() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """``(table, group)`` -> the tasks its sums and means are over, in the table's order."""
    return MappingProxyType(
        {
            (table, group): tuple(members)
            for table, named in tomllib.loads(_text("groups.toml")).items()
            for group, members in named.items()
        }
    )


def reason(method: str, task: str = "*") -> str | None:
    """Why a method has no score, on a task or (without one) on any; None where no reason is known.

    A method of which nothing was read needs no line in ``reasons.csv``.
    """
    found = _line_of_absence(method, task)
    if found is not None:
        return found["reason"]
    return None if any(score.method == method for score in scores()) else NOTHING_READ


@cache
def absence(method: str, task: str = "*") -> str:
    """What is to be said where a method has no score that was read: ``NOT_READABLE`` of a number that is printed.

    Printed is what is remembered, and what ``reasons.csv`` says was not readable; on a task that nobody prints a score
    of, nothing is.
    """
    if any((score.method, score.task) == (method, task) for score in scores(unverified=True)):
        return NOT_READABLE
    found = _line_of_absence(method, task)
    known = task == "*" or any(score.task == task for score in scores(unverified=True))
    return found["absence"] if known and found is not None else NOT_PUBLISHED


def _line_of_absence(method: str, task: str) -> Mapping[str, str] | None:
    lines = (row for row in _rows("reasons.csv") if row["method"] == method)
    return next((row for row in lines if fnmatch.fnmatchcase(task, row["tasks"])), None)


@cache
def ablations() -> tuple[Ablation, ...]:
    """Published scores of settings of a method that differ in one thing."""
    return tuple(
        Ablation(
            row["study"],
            row["method"],
            row["setting"],
            row["task"],
            row["group"],
            float(row["score"]),
            _whole(row["seeds"]),
            row["table"],
        )
        for row in _rows("ablations.csv")
    )


@cache
def timings() -> tuple[Timing, ...]:
    """Published durations, rates and ratios; of other hardware and programs, for orientation only."""
    return tuple(
        Timing(
            row["method"],
            row["quantity"],
            row["setting"],
            float(row["value"]),
            _number(row["value_max"]),
            row["unit"],
            row["hardware"],
            row["table"],
            row["note"],
        )
        for row in _rows("timings.csv")
    )


@cache
def papers() -> Mapping[str, Paper]:
    """Papers by their BibTeX key, in the order of ``papers.bib``."""
    found = []
    for entry in re.findall(r"^@.*?^}\n", _text("papers.bib"), re.DOTALL | re.MULTILINE):
        (key,) = re.findall(r"@\w+\{(\w+),", entry)
        methods = re.findall(r"^ +diffjax = \{(.*)\},\n", entry, re.MULTILINE)
        plain = re.sub(r"^ +diffjax = .*\n", "", entry, flags=re.MULTILINE)
        found.append(Paper(key, plain, tuple(methods[0].split(", ")) if methods else ()))
    return MappingProxyType({paper.key: paper for paper in found})


@cache
def key(method: str) -> str | None:
    """The BibTeX key of the paper of a method, None where there is none."""
    return next((paper.key for paper in papers().values() if method in paper.methods), None)


@cache
def dac_curves() -> Mapping[str, Curve]:
    """DAC's learning curves by task (DAC README, figures; read off the drawings, to 0.05)."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in _rows("dac_curves.csv"):
        rows.setdefault(row["task"], []).append(row)
    return MappingProxyType(
        {
            task: Curve(
                tuple(int(point["step"]) for point in points),
                tuple(float(point["mean"]) for point in points),
                tuple(float(point["std"]) for point in points),
            )
            for task, points in rows.items()
        }
    )


def _text(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(_text(name).splitlines()))


def _number(text: str) -> float | None:
    return float(text) if text else None


def _whole(text: str) -> int | None:
    return int(text) if text else None


def _score(row: dict[str, str]) -> Score:
    return Score(
        row["method"],
        row["task"],
        float(row["mean"]),
        _number(row["spread"]),
        row["spread_kind"],
        _whole(row["seeds"]),
        _whole(row["episodes"]),
        row["protocol"],
        row["data_version"],
        row["table"],
        row["verified"],
    )
