"""The rows of a group of runs in the files that grow: appended, counted and summed up, cut back to what stands.

Several groups of one experiment share the files; each knows its own rows by their runs, so that one may be cut back and
the others stay.
"""

import csv
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

    def entries(self) -> dict[str, list[Any]]:
        """As a checkpoint's record holds it."""
        return {name: list(count) for name, count in zip(self._fields, self, strict=True)}


class _Lines:
    """Lines that stand in one file."""

    def __init__(self) -> None:
        self._rows, self._sum = 0, hashlib.sha256()

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._rows += 1
            self._sum.update(line.encode() + b"\n")

    @property
    def count(self) -> Count:
        return Count(self._rows, self._sum.hexdigest()[:16])


class Ledger:
    """The rows of a group of runs, as they grow."""

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._evaluations, self._metrics = _Lines(), _Lines()

    def append(self, metrics: Iterable[MetricsRecord], evaluations: Iterable[Evaluation]) -> None:
        """Appends rows and flushes them to the disk."""
        for file, lines, own in (
            (METRICS, metrics_lines(metrics), self._metrics),
            (EVALUATIONS, evaluation_lines(evaluations), self._evaluations),
        ):
            self._folder.append(file, lines)
            own.add(lines)

    @property
    def standing(self) -> Standing:
        """What stands now."""
        return Standing(self._evaluations.count, self._metrics.count)


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
    changes = []
    for file, owner_of, name, header in (
        (EVALUATIONS, _owner_of_evaluation, "evaluations", 1),
        (METRICS, _owner_of_metrics, "metrics", 0),
    ):
        path = folder.path / file
        lines = complete_lines(path)
        counts = [getattr(one, name) for one in standing]
        rows = [getattr(ledger, f"_{name}") for ledger in ledgers]
        kept = lines[:header] + _kept(path, lines, header, lambda line, of=owner_of: of(line, owner), counts, rows)  # type: ignore[misc]
        changes.append((path, lines, kept))
    for path, lines, kept in changes:
        _rewrite(path, lines, kept)
    return ledgers


def rows_of(folder: ResultsFolder, runs: Sequence[RunId]) -> tuple[int, int]:
    """Evaluations and records of metrics of some runs, whatever a checkpoint says; unreadable ones do not count."""
    owner = {_key(run): 0 for run in runs}
    counts = []
    for file, owner_of, header in ((EVALUATIONS, _owner_of_evaluation, 1), (METRICS, _owner_of_metrics, 0)):
        lines = complete_lines(folder.path / file)[header:]
        counts.append(sum(owner_of(line, owner) == 0 for line in lines))
    return counts[0], counts[1]


def prefix_standing(folder: ResultsFolder, runs: Sequence[RunId], rows: tuple[int, int]) -> Standing:
    """What stands of some runs among the first rows of the files: how older versions recorded it."""
    owner = {_key(run): 0 for run in runs}
    counts = []
    for file, owner_of, header, stop in (
        (EVALUATIONS, _owner_of_evaluation, 1, rows[0]),
        (METRICS, _owner_of_metrics, 0, rows[1]),
    ):
        lines = complete_lines(folder.path / file)[header:]
        if len(lines) < stop:
            raise UserError(
                f"{folder.path / file}: {len(lines)} rows where the checkpoint recorded {stop}; cannot resume"
            )
        counts.append(Count(sum(owner_of(line, owner) == 0 for line in lines[:stop])))
    return Standing(*counts)


def _key(run: RunId) -> Key:
    return run.seed, run.setting


def _owner_of_evaluation(line: str, owner: Mapping[Key, int]) -> int | None:
    """The group that a row is of; None of none."""
    try:
        (record,) = csv.reader([line])
        seed, setting = (record[Evaluation._fields.index(name)] for name in ("seed", "setting"))
        return owner.get((int(seed), setting))
    except (csv.Error, ValueError, IndexError):
        return None


def _owner_of_metrics(line: str, owner: Mapping[Key, int]) -> int | None:
    try:
        record = json.loads(line)
        return owner.get((record["seeds"][0], record["settings"][0]))
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _kept(
    path: Path,
    lines: Sequence[str],
    header: int,
    owner_of: Callable[[str], int | None],
    wanted: Sequence[Count],
    rows: Sequence[_Lines],
) -> list[str]:
    """The lines that stand; those after the last one that is wanted are never looked at."""
    kept = []
    for number, line in enumerate(lines[header:], start=header + 1):
        if all(own.count.rows >= count.rows for own, count in zip(rows, wanted, strict=True)):
            break
        index = owner_of(line)
        if index is None:
            raise UserError(
                f"{path} line {number} is damaged or of no run of this experiment; restore the file, or choose another "
                "--out"
            )
        if rows[index].count.rows < wanted[index].rows:
            rows[index].add([line])
            kept.append(line)
    for own, count in zip(rows, wanted, strict=True):
        if own.count.rows < count.rows:
            raise UserError(
                f"{path}: {own.count.rows} rows where the checkpoint recorded {count.rows}; restore the file, or "
                "choose another --out"
            )
        if count.checksum and own.count.checksum != count.checksum:
            raise UserError(
                f"{path}: rows differ from those that the checkpoint recorded; restore the file, or choose another "
                "--out"
            )
    return kept


def _rewrite(path: Path, lines: Sequence[str], kept: Sequence[str]) -> None:
    if lines[: len(kept)] == list(kept):
        size = sum(len(line.encode()) + 1 for line in kept)
        if os.path.getsize(path) != size:  # there is more, perhaps not even a whole line
            os.truncate(path, size)
    else:
        write_text(path, "".join(line + "\n" for line in kept))
