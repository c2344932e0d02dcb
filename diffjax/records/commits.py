"""The rows of a group of runs in the files that grow: appended, counted and summed up, cut back to what stands.

Several groups of one experiment share the files; each knows its own rows by their runs, so that one may be cut back and
the others stay.
"""

import csv
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffjax.errors import UserError
from diffjax.files import complete_lines, write_text
from diffjax.records.entries import is_a
from diffjax.records.folder import EVALUATIONS, METRICS, ResultsFolder, evaluation_lines, metrics_lines
from diffjax.records.schema import Evaluation, MetricsRecord, RunId

Key = tuple[int, str]
"""Seed and setting: what tells a run from the others of its folder."""


class Count(NamedTuple):
    """How many rows of a file stand, and a checksum over their lines; empty where an older version made none."""

    rows: int = 0
    checksum: str = ""


class Standing(NamedTuple):
    """What a checkpoint says of the rows of its runs."""

    evaluations: Count = Count()
    metrics: Count = Count()

    @classmethod
    def of(cls, content: Any) -> "Standing | None":
        """What a checkpoint's record holds; None for anything else."""
        if not isinstance(content, Mapping) or content.keys() != set(cls._fields):
            return None
        counts = [content[name] for name in cls._fields]
        for count in counts:
            if not (isinstance(count, list) and len(count) == 2 and is_a(int, count[0]) and is_a(str, count[1])):
                return None
        return cls(*(Count(*count) for count in counts))

    @property
    def rows(self) -> tuple[int, int]:
        """How many of each."""
        return self.evaluations.rows, self.metrics.rows

    def entries(self) -> dict[str, list[Any]]:
        """As a checkpoint's record holds it."""
        return {name: list(count) for name, count in zip(self._fields, self, strict=True)}


class _Lines:
    """Lines that stand in one file."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = hashlib.sha256()

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.rows += 1
            self._sum.update(line.encode() + b"\n")

    @property
    def count(self) -> Count:
        return Count(self.rows, self._sum.hexdigest()[:16])


class Ledger:
    """The rows of a group of runs, as they grow."""

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self.evaluations, self.metrics = _Lines(), _Lines()

    def append(self, metrics: Iterable[MetricsRecord], evaluations: Iterable[Evaluation]) -> None:
        """Appends rows and flushes them to the disk."""
        for file, lines, own in (
            (METRICS, metrics_lines(metrics), self.metrics),
            (EVALUATIONS, evaluation_lines(evaluations, self._folder.columns), self.evaluations),
        ):
            self._folder.append(file, lines)
            own.add(lines)

    @property
    def standing(self) -> Standing:
        """What stands now."""
        return Standing(self.evaluations.count, self.metrics.count)


def read_ledgers(
    folder: ResultsFolder, groups: Sequence[Sequence[RunId]], wanted: Sequence[Standing | None]
) -> tuple[Ledger, ...]:
    """Cuts the rows of every group back to what is wanted of it (None: to nothing) and goes on from there.

    Raises:
      UserError: rows that should stand are missing or were changed. Nothing is touched then.
    """
    owner = {_key(run): index for index, runs in enumerate(groups) for run in runs}
    standing = [one or Standing() for one in wanted]
    ledgers = tuple(Ledger(folder) for _ in groups)
    evaluations = _Cut(
        folder.path / EVALUATIONS,
        1,
        [one.evaluations for one in standing],
        [ledger.evaluations for ledger in ledgers],
        functools.partial(_owner_of_evaluation, owner),
    )
    metrics = _Cut(
        folder.path / METRICS,
        0,
        [one.metrics for one in standing],
        [ledger.metrics for ledger in ledgers],
        functools.partial(_owner_of_metrics, owner),
    )
    for cut in [(evaluations.path, *_kept(evaluations)), (metrics.path, *_kept(metrics))]:  # all is read before
        _rewrite(*cut)
    return ledgers


def rows_of(folder: ResultsFolder, runs: Sequence[RunId], first: tuple[int, int] | None = None) -> Standing:
    """How many rows there are of some runs, whatever a checkpoint says; unreadable ones do not count.

    Args:
      first: only among so many first rows of each file, evaluations and metrics: how older versions recorded it.

    Raises:
      UserError: a file has fewer rows.
    """
    owner = {_key(run): 0 for run in runs}
    evaluations, metrics = first or (None, None)
    return Standing(
        _count(folder.path / EVALUATIONS, 1, functools.partial(_owner_of_evaluation, owner), evaluations),
        _count(folder.path / METRICS, 0, functools.partial(_owner_of_metrics, owner), metrics),
    )


OwnerOf = Callable[[str], int | None]
"""From a line to the group that it is of; None of none."""


def _count(path: Path, header: int, owner_of: OwnerOf, first: int | None) -> Count:
    lines = complete_lines(path)[header:]
    if first is not None and len(lines) < first:
        raise UserError(f"{path}: {len(lines)} rows where the checkpoint recorded {first}; cannot resume")
    return Count(sum(owner_of(line) is not None for line in lines[:first]))


class _Cut(NamedTuple):
    """What is to stand of a file: so many rows of each group, which are added to what the group has."""

    path: Path
    header: int
    wanted: Sequence[Count]
    rows: Sequence[_Lines]
    owner_of: OwnerOf


def _key(run: RunId) -> Key:
    return run.seed, run.setting


def _owner_of_evaluation(owner: Mapping[Key, int], line: str) -> int | None:
    try:
        (record,) = csv.reader([line])
        seed, setting = (record[Evaluation._fields.index(name)] for name in ("seed", "setting"))
        return owner.get((int(seed), setting))
    except (csv.Error, ValueError, IndexError):
        return None


def _owner_of_metrics(owner: Mapping[Key, int], line: str) -> int | None:
    try:
        record = json.loads(line)
        return owner.get((record["seeds"][0], record["settings"][0]))
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _kept(cut: _Cut) -> tuple[list[str], list[str]]:
    """All whole lines, and those that stand; what follows the last one that is wanted is never looked at."""
    path, header = cut.path, cut.header
    pairs = list(zip(cut.rows, cut.wanted, strict=True))
    lines = complete_lines(path)
    kept = lines[:header]
    for number, line in enumerate(lines[header:], start=header + 1):
        if all(own.rows >= count.rows for own, count in pairs):
            break
        index = cut.owner_of(line)
        if index is None:
            raise UserError(
                f"{path} line {number} is damaged or of no run of this experiment; restore the file, or choose another "
                "--out"
            )
        own, count = pairs[index]
        if own.rows < count.rows:
            own.add([line])
            kept.append(line)
    for own, count in pairs:
        if own.rows < count.rows:
            raise UserError(
                f"{path}: {own.rows} rows where the checkpoint recorded {count.rows}; restore the file, or choose "
                "another --out"
            )
        if count.checksum and own.count.checksum != count.checksum:
            raise UserError(
                f"{path}: rows differ from those that the checkpoint recorded; restore the file, or choose another "
                "--out"
            )
    return lines, kept


def _rewrite(path: Path, lines: Sequence[str], kept: Sequence[str]) -> None:
    if lines[: len(kept)] == kept:
        size = sum(len(line.encode()) + 1 for line in kept)
        if os.path.getsize(path) != size:  # there is more, perhaps not even a whole line
            os.truncate(path, size)
    else:
        write_text(path, "".join(line + "\n" for line in kept))
