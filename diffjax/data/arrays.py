"""Arrays in memory in D4RL's layout, and several episodes put one after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffjax.data.layout import SideBySide, StoredArray, read_layout, stored_arrays
from diffjax.data.transitions import Dataset
from diffjax.errors import UserError
from diffjax.types import Spec


class MemoryArray:
    """An array in memory as :class:`~diffjax.data.layout.StoredArray`."""

    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)
        self.shape: tuple[int, ...] | None = self._array.shape
        self.dtype = self._array.dtype

    def read(self) -> np.ndarray:
        return self._array

    def read_float32(self) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.array(self._array, np.float32, order="C")


Episode = dict[str, np.ndarray]
"""A recording by the names of D4RL's layout, as stored; observations that were stored by name are side by side."""


def find_array(source: str, arrays: Mapping[str, Any], key: str) -> StoredArray | None:
    """An array of a mapping by its key, or the mapping of arrays that stands there, side by side."""
    value = arrays.get(key)
    if isinstance(value, Mapping):
        return SideBySide(source, key, {name: MemoryArray(array) for name, array in _flat(value).items()})
    return None if value is None else MemoryArray(value)


def _flat(arrays: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in arrays.items():
        found |= _flat(value, f"{above}{name}/") if isinstance(value, Mapping) else {above + name: value}
    return found


def load_arrays(
    arrays: Mapping[str, Any],
    source: str = "arrays in memory",
    spec: Spec | None = None,
    horizon: int | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set of arrays by the names of D4RL's layout; rule and checks are those of `read_layout`.

    A value may be a mapping of arrays: they are put side by side, in the order of their names.

    Raises:
      UserError: names the array and its defect.
    """
    find = lambda key: find_array(source, arrays, key)  # noqa: E731
    dataset = read_layout(source, find, lambda key: arrays.get(f"metadata/{key}"), lambda: list(arrays), spec, horizon)
    return replace(dataset, notes=(*notes, *dataset.notes))


def read_episode(
    source: str, find: Callable[[str], StoredArray | None], found: Callable[[], list[str]]
) -> tuple[Episode, str]:
    """The arrays of one recording, and in which order its observations stand side by side, if they do.

    Raises:
      UserError: one is missing, or there under two names.
    """
    arrays = stored_arrays(source, find, found)
    return {key: array.read() for key, array in arrays.items()}, getattr(arrays["observations"], "order", "")


def end_to_end(source: str, episodes: Sequence[tuple[str, Episode]]) -> Episode:
    """Recordings one after the other as one, by the names of D4RL's layout; each ends a trajectory.

    ``episodes`` have names for messages. Where a recording's last row is no terminal, it becomes a time limit.

    Raises:
      UserError: they hold different arrays, or rows of different sizes.
    """
    (first_name, first), *others = episodes
    for name, arrays in others:
        if different := sorted(arrays.keys() ^ first.keys()):
            raise UserError(f"{source}: {different[0]!r} is in one of {first_name} and {name}, and not in the other")
        for key in first:
            if arrays[key].shape[1:] != first[key].shape[1:]:
                raise UserError(
                    f"{source}: rows of {key!r} have shape {first[key].shape[1:]} in {first_name} and "
                    f"{arrays[key].shape[1:]} in {name}"
                )
    joined = {key: np.concatenate([arrays[key] for _, arrays in episodes]) for key in first}
    rows = [len(next(iter(arrays.values()))) for _, arrays in episodes]
    last = np.cumsum(rows) - 1
    if "masks" not in joined:
        limits = joined.get("timeouts", np.zeros(sum(rows), bool)).reshape(-1).astype(bool)
        is_terminal = joined.get("terminals", np.zeros(sum(rows), bool)).reshape(-1).astype(bool)
        limits[last] = ~is_terminal[last]
        joined["timeouts"] = limits
    elif not {"terminals", "timeouts", "dones", "valids"} & joined.keys():
        ends = np.zeros(sum(rows), bool)
        ends[last] = True
        joined["dones"] = ends
    return joined
