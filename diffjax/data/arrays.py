"""Arrays in memory in D4RL's layout, and several episodes put one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffjax.data.layout import read_layout
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


def load_arrays(
    arrays: Mapping[str, Any],
    source: str = "arrays in memory",
    spec: Spec | None = None,
    horizon: int | None = None,
) -> Dataset:
    """A data set of arrays by the names of D4RL's layout; rule and checks are those of `read_layout`.

    A value may be a mapping of arrays: they are put side by side, in the order of their names.

    Raises:
      UserError: names the array and its defect.
    """
    flat = {name: side_by_side(source, name, value) for name, value in arrays.items()}

    def metadata(key: str) -> Any:
        return arrays.get(f"metadata/{key}")

    return read_layout(source, lambda key: _found(flat, key), metadata, lambda: list(flat), spec, horizon)


def _found(arrays: Mapping[str, np.ndarray], key: str) -> MemoryArray | None:
    return MemoryArray(arrays[key]) if key in arrays else None


def side_by_side(source: str, name: str, value: Any) -> np.ndarray:
    """An array, or several by name as one: their rows side by side, in the order of the names.

    Raises:
      UserError: they have not as many rows, or more than two axes.
    """
    if not isinstance(value, Mapping):
        return np.asarray(value)
    if not value:
        raise UserError(f"{source}: {name!r} holds nothing")
    parts = [side_by_side(source, f"{name}/{key}", value[key]) for key in sorted(value)]
    for key, part in zip(sorted(value), parts, strict=True):
        if part.ndim not in (1, 2):
            raise UserError(
                f"{source}: {name}/{key} has shape {part.shape}; rows of numbers are needed, so leave pictures out"
            )
        if len(part) != len(parts[0]):
            raise UserError(f"{source}: {name}/{key} has {len(part)} rows, {name}/{min(value)} {len(parts[0])}")
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def end_to_end(source: str, episodes: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> dict[str, np.ndarray]:
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
