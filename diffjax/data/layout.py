"""D4RL's layout in whatever container: the checks of its five arrays, and the rule that makes transitions of them.

Required are ``observations (rows, observation_dim)``, ``actions (rows, action_dim)``, ``rewards (rows,)``,
``terminals (rows,)``; and ``timeouts (rows,)``, in all but the oldest files, which need the task's horizon instead.
Time runs along the rows, one episode after the other. One-dimensional arrays may be stored as ``(rows, 1)``, numbers
in any real dtype whose values float32 can hold. Nothing else is read, but for
``metadata/{algorithm, env_id, ref_min_score, ref_max_score}``.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from diffjax.data.d4rl_files import ALL_KEYS, CLASSIC_KEYS
from diffjax.data.transitions import (
    Dataset,
    Transitions,
    as_flags,
    check_numbers,
    check_rows,
    check_sizes,
    check_whole_numbers,
    make_dataset,
)
from diffjax.errors import UserError
from diffjax.types import Spec

KNOWN_ALGORITHMS = {"published policy snapshot rollouts": "snapshot"}  # metadata/algorithm -> table label
UNLABELLED = "unlabelled"

_FLAGS = ("terminals", "timeouts")


class StoredArray(Protocol):
    """An array still in its file."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Its shape, None for HDF5's null data space."""

    @property
    def dtype(self) -> np.dtype:
        """Its dtype as stored."""

    def read(self) -> np.ndarray:
        """The whole array as stored."""

    def read_float32(self) -> np.ndarray:
        """The whole array as float32; what is too large becomes infinity."""


def read_layout(
    source: str,
    find: Callable[[str], StoredArray | None],
    metadata: Callable[[str], Any],
    found: Callable[[], list[str]],
    spec: Spec | None = None,
    horizon: int | None = None,
) -> Dataset:
    """Check the arrays of one file and make transitions of them by the rule of ``d4rl.qlearning_dataset``.

    Row ``i`` begins a transition, with next observation ``observations[i + 1]``, unless ``timeouts[i]`` or it
    is the file's last row; terminal rows stay, as what follows them is masked (D4RL, ``d4rl/__init__.py``). ``find``
    and ``metadata`` give an array and a scalar of the file by key, or None; ``found`` lists the file's keys for the
    message where one is missing. The label is the file's own ``metadata/algorithm``, never D4RL's.

    Raises:
      UserError: names the file and its defect.
    """
    arrays = _required(source, find, found)
    if (timeouts := find("timeouts")) is not None:
        arrays["timeouts"] = timeouts
    elif horizon is None:
        raise UserError(f"{source}: has no 'timeouts'; the horizon of its task is needed to know where episodes end")
    observation_dim, action_dim = _check_shapes(source, {key: array.shape for key, array in arrays.items()})
    for key, array in arrays.items():
        check_numbers(source, key, array.dtype, flags=key in _FLAGS)
    check_sizes(source, observation_dim, action_dim, spec)
    terminal = as_flags(source, "terminals", arrays["terminals"].read())
    if "timeouts" in arrays:
        timeout = as_flags(source, "timeouts", arrays["timeouts"].read())
    else:
        assert horizon is not None
        timeout = horizon_timeouts(terminal, horizon)
    transitions = Transitions(
        observation=_read_floats(source, "observations", arrays),
        action=_read_floats(source, "actions", arrays),
        reward=_read_floats(source, "rewards", arrays).reshape(-1),
        terminal=terminal,
        end=_with_last(terminal | timeout),
        row=transition_rows(timeout),
    )
    return make_dataset(
        transitions,
        source=source,
        label=own_label(metadata),
        locate="row {}".format,
        is_finished=bool(terminal[-1] | timeout[-1]),
        ref_min=_number(metadata("ref_min_score")),
        ref_max=_number(metadata("ref_max_score")),
        env_id=_text(metadata("env_id")),
    )


def _with_last(end: np.ndarray) -> np.ndarray:
    end[-1] = True
    return end


def transition_rows(timeout: np.ndarray) -> np.ndarray:
    """Rows ``(size,)`` int32 that begin a transition: all but those at time limits and the last."""
    return np.arange(len(timeout) - 1, dtype=np.int32)[~timeout[:-1]]


def horizon_timeouts(terminal: np.ndarray, horizon: int) -> np.ndarray:
    """Time limits of a file without them: each ``horizon``-th row since an episode's start, ``(rows,)`` bool.

    In an episode that follows a terminal, D4RL's own loop counts from 1 and so drops the last row but one and
    joins the last to the next episode's reset; here every episode counts from 0.
    """
    index = np.arange(len(terminal))
    starts = np.concatenate([[True], terminal[:-1]])
    start = np.maximum.accumulate(np.where(starts, index, 0))
    return (index - start) % horizon == horizon - 1


def own_label(metadata: Callable[[str], Any]) -> str:
    """What the file itself says it is, up to the first bracket, comma or semicolon: a table has little room.

    Anyone can write that text, so it never earns D4RL's name.
    """
    algorithm = _text(metadata("algorithm")) or UNLABELLED
    if algorithm.casefold().startswith("d4rl"):
        return UNLABELLED
    return KNOWN_ALGORITHMS.get(algorithm, re.split(r"[(,;]", algorithm)[0].strip() or UNLABELLED)


def _required(
    source: str, find: Callable[[str], StoredArray | None], found: Callable[[], list[str]]
) -> dict[str, StoredArray]:
    arrays = {}
    for key in CLASSIC_KEYS:
        array = find(key)
        if array is None:
            others = ", ".join(map(repr, found()[:10])) or "nothing"
            raise UserError(f"{source}: has no {key!r}; {', '.join(ALL_KEYS)} are needed, found {others}")
        arrays[key] = array
    return arrays


def _check_shapes(source: str, shapes: Mapping[str, tuple[int, ...] | None]) -> tuple[int, int]:
    """The sizes of an observation and of an action."""
    checked: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        if key in ("observations", "actions"):
            fits, right = shape is not None and len(shape) == 2, f"(rows, {key[:-1]}_dim)"
        else:
            fits, right = shape is not None and shape[1:] in ((), (1,)) and len(shape) > 0, "(rows,)"
        if shape is None or not fits:
            raise UserError(f"{source}: {key!r} has shape {shape}; {right} is needed")
        checked[key] = shape
    rows = checked["rewards"][0]
    for key in ("observations", "actions"):
        first, second = checked[key]
        if first != rows and second == rows:
            raise UserError(
                f"{source}: {key!r} has shape {(first, second)}, its axes exchanged; {(second, first)} is needed"
            )
    if any(shape[0] != rows for shape in checked.values()):
        lengths = ", ".join(f"{key} {shape[0]}" for key, shape in checked.items())
        raise UserError(f"{source}: the arrays differ in length ({lengths}); all must have the same")
    if rows < 2:
        raise UserError(f"{source}: holds {rows} rows; at least 2 are needed")
    check_rows(source, rows)
    return checked["observations"][1], checked["actions"][1]


def _read_floats(source: str, key: str, arrays: Mapping[str, StoredArray]) -> np.ndarray:
    values = arrays[key].read_float32()
    check_whole_numbers(source, key, values, arrays[key].dtype)
    return values


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (np.floating, np.integer)) and np.isfinite(value) else None
