"""The scores behind a table, run by run, as arrays in one file; to be read without anything else of diffjax."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffjax.errors import UserError
from diffjax.files import read_arrays, write_arrays

_FORMAT = "diffjax scores 1"


class CellScores(NamedTuple):
    """The runs of a method on a task.

    ``seeds``: (runs,). ``steps``: (evaluations,). ``scores``: (runs, evaluations), normalised (0 random, 100 expert),
    NaN where a run has no evaluation at a step. ``numbers``: protocol -> (runs,), NaN where it takes none.
    """

    seeds: np.ndarray
    steps: np.ndarray
    scores: np.ndarray
    numbers: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TableScores:
    """The scores of a table: cells by the labels of their column and row; failed runs have none."""

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    protocols: tuple[str, ...]
    cells: Mapping[tuple[str, str], CellScores]

    def matrices(
        self,
        protocol: str | None = None,
        *,
        methods: Collection[str] | None = None,
        tasks: Collection[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Of each method the numbers of a protocol, (runs, tasks): what rliable takes as ``score_dict``.

        Args:
          protocol: the first of the table's, unless it is given.
          methods: those to compare, all without it.
          tasks: those to compare on, all without it.

        Raises:
          UserError: a name is unknown, or a method lacks a number that another has: a matrix has no empty place.
        """
        protocol = self.protocols[0] if protocol is None else protocol
        _check_known("protocol", (protocol,), self.protocols)
        _check_known("method", methods or (), self.methods)
        _check_known("task", tasks or (), self.tasks)
        chosen = [task for task in self.tasks if tasks is None or task in tasks]
        found = {}
        for method in (method for method in self.methods if methods is None or method in methods):
            columns = []
            for task in chosen:
                cell = self.cells.get((method, task))
                numbers = cell.numbers[protocol] if cell is not None else np.array([])
                columns.append(numbers[~np.isnan(numbers)])
                if not columns[-1].size:
                    raise UserError(f"{method} has no score on {task}; name methods= or tasks= without it")
                if columns[-1].size != columns[0].size:
                    raise UserError(
                        f"{method} has {columns[0].size} runs on {chosen[0]} and {columns[-1].size} on {task}; name "
                        "methods= or tasks= without it"
                    )
            found[method] = np.stack(columns, axis=-1)
        return found


def load_scores(path: str | Path) -> TableScores:
    """The scores that ``tables.py --format=npz --out=FILE`` wrote; nothing pickled is loaded.

    Raises:
      UserError: the file cannot be read or is another one.
    """
    try:
        about, arrays = read_arrays(path)
        if about.get("format") != _FORMAT:
            raise ValueError("not written by tables.py --format=npz")
        protocols = tuple(about["protocols"])
        cells = {}
        for number, (method, task) in enumerate(about["cells"]):
            numbers = {protocol: arrays[f"{number}/numbers/{protocol}"] for protocol in protocols}
            seeds, steps, scores = (arrays[f"{number}/{name}"] for name in ("seeds", "steps", "scores"))
            cells[method, task] = CellScores(seeds, steps, scores, numbers)
        return TableScores(tuple(about["methods"]), tuple(about["tasks"]), protocols, cells)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no scores of a table ({error})") from None


def save_scores(found: TableScores, path: str | Path) -> None:
    """Write scores for :func:`load_scores`, whole or not at all."""
    about = {
        "format": _FORMAT,
        "methods": found.methods,
        "tasks": found.tasks,
        "protocols": found.protocols,
        "cells": list(found.cells),
    }
    arrays: dict[str, np.ndarray] = {}
    for number, cell in enumerate(found.cells.values()):
        arrays |= {f"{number}/{name}": getattr(cell, name) for name in ("seeds", "steps", "scores")}
        arrays |= {f"{number}/numbers/{protocol}": values for protocol, values in cell.numbers.items()}
    write_arrays(path, about, arrays)


def _check_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"no {kind} {name!r} in this file; it has {', '.join(known)}")
