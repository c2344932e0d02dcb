"""Data sets as flat arrays: the types, and the checks that every reader shares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from diffjax.errors import UserError
from diffjax.types import ActionBounds, Spec

if TYPE_CHECKING:
    import jax

Array: TypeAlias = "np.ndarray | jax.Array"

HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
NPZ_SUFFIX = ".npz"
JOIN = "+"
MAX_ACTION = 1.0  # every task's actions lie in [-1, 1] per dimension
ACTION_TOLERANCE = 1e-5  # how far outside a stored action may lie
OVERSHOOT = 0.05  # up to here it was meant to be within and noise or rounding was added
MAX_ROWS = np.iinfo(np.int32).max  # `Transitions.row` is int32
MAX_WHOLE_NUMBER = 1 << 24  # float32 holds all whole numbers up to here
CHECK_ROWS = 1 << 16  # rows examined at a time, so that a check needs no second copy of a large array


class Transitions(NamedTuple):
    """One data set as flat arrays (NumPy on the host, jax on the device).

    ``observation (rows, observation_dim)``, ``action (rows, action_dim)`` and ``reward (rows,)`` are float32,
    the reward raw as recorded; ``terminal (rows,)`` is bool and true only where the environment itself ended
    the episode, never at a time limit. ``end (rows,)`` bool is true on the last row of each recorded trajectory,
    whatever ended it, and on the last row of all. ``row (size,)`` int32 lists the rows that begin a transition.

    The next observation of row ``i`` is ``observation[i + 1]``, and ``next_observation`` is None; or, of rows that were
    recorded in no order, ``next_observation[i]``, float32 like ``observation``. Such rows have no trajectories: each
    is marked as an end.
    """

    observation: Array
    action: Array
    reward: Array
    terminal: Array
    end: Array
    row: Array
    next_observation: Array | None = None


@dataclass(frozen=True)
class Dataset:
    """A checked data set and where it comes from.

    ``label`` is what a table calls it; ``source`` is the path or Minari id that the user gave;
    ``fingerprint`` is `fingerprint` of the arrays; ``episode_returns (episodes,)`` float64 are the
    undiscounted returns of the recorded trajectories (a terminal or a time limit ends one; an unfinished tail
    counts only where it is all there is) and ``episode_rows (episodes, 2)`` int64 the first row of each and the one
    past its last; ``ref_min`` and ``ref_max`` are the reference returns of the data
    set's own metadata and ``env_id`` the environment it names, each None where it names none. ``notes`` say what a
    reader had to decide. Rows in no order have no trajectories: both arrays of episodes are empty then.
    ``largest_action`` is the largest size that an action had as recorded and ``largest_at`` says where;
    ``action_bounds`` are what was scaled to [-1, 1], if anything.
    """

    transitions: Transitions
    label: str
    source: str
    fingerprint: str
    episode_returns: np.ndarray
    episode_rows: np.ndarray
    ref_min: float | None = None
    ref_max: float | None = None
    env_id: str | None = None
    notes: tuple[str, ...] = ()
    largest_action: float = 0.0
    largest_at: str = ""
    action_bounds: ActionBounds | None = None


def make_dataset(
    transitions: Transitions,
    source: str,
    label: str,
    locate: Callable[[int], str],
    is_finished: bool = True,
    ref_min: float | None = None,
    ref_max: float | None = None,
    env_id: str | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Check the values of ``transitions`` and name them.

    ``locate`` says in words what a row is; ``is_finished`` that the last trajectory was recorded to its end.

    Raises:
      UserError: a value is not finite, or there is no transition.
    """
    reward, end = np.asarray(transitions.reward), np.asarray(transitions.end)
    action = np.asarray(transitions.action)
    check_values(source, np.asarray(transitions.observation), action, reward, locate)
    largest, row = largest_action(action)
    if transitions.row.size == 0:
        raise UserError(f"{source}: holds no transition; two successive rows of one episode are needed")
    episodes = max(1, int(end.sum()) - (not is_finished)) if has_trajectories(transitions) else 0
    return Dataset(
        transitions=transitions,
        label=label,
        source=source,
        fingerprint=fingerprint(transitions),
        episode_returns=trajectory_returns(reward, end)[:episodes],
        episode_rows=trajectory_rows(end)[:episodes],
        ref_min=ref_min,
        ref_max=ref_max,
        env_id=env_id,
        notes=notes,
        largest_action=largest,
        largest_at=locate(row),
    )


def fingerprint(transitions: Transitions) -> str:
    """First 16 hexadecimal digits of the SHA-256 over shape, dtype and bytes of the arrays that training reads.

    In order: observation, action, reward, terminal, row, and next_observation where it is stored.
    """
    digest = hashlib.sha256()
    arrays = (transitions.observation, transitions.action, transitions.reward, transitions.terminal, transitions.row)
    for leaf in (*arrays, transitions.next_observation):
        if leaf is None:
            continue
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def next_observations(transitions: Transitions, row: Array) -> Array:
    """The next observations of the transitions that ``row (n,)`` begins, ``(n, observation_dim)``."""
    if transitions.next_observation is None:
        return transitions.observation[row + 1]
    return transitions.next_observation[row]


def has_trajectories(transitions: Transitions) -> bool:
    """Whether the rows are in time order, so that trajectories are known."""
    return transitions.next_observation is None


def only_observed(transitions: Transitions) -> np.ndarray:
    """Rows that only hold a last observation: no transition, zero action and reward, ``(rows,)`` bool.

    Readers append them where a file's last next observation is known.
    """
    begins = np.zeros(len(transitions.reward), bool)
    begins[np.asarray(transitions.row)] = True
    is_zero = ~np.asarray(transitions.action).any(axis=1) & (np.asarray(transitions.reward) == 0)
    return np.asarray(transitions.end) & ~begins & is_zero


def trajectory_returns(reward: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Undiscounted returns ``sum_i r_i`` of consecutive trajectories, float64.

    ``reward (n,)``; ``end (n,)`` bool marks the last row of a trajectory; rows after the last mark form one
    more, unfinished trajectory.
    """
    return np.add.reduceat(np.asarray(reward), trajectory_rows(end)[:, 0], dtype=np.float64)


def trajectory_rows(end: np.ndarray) -> np.ndarray:
    """First row of each trajectory and the one past its last, ``(trajectories, 2)`` int64; ``end`` as above."""
    bounds = np.concatenate([[0], np.flatnonzero(end) + 1, [len(end)]])
    rows = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return rows[rows[:, 0] < len(end)]


def check_sizes(source: str, observation_dim: int, action_dim: int, spec: Spec | None) -> None:
    """Compare the sizes of a data set with the task's.

    Raises:
      UserError: they differ; says so where observations and actions are exchanged.
    """
    found = f"{source}: observations have size {observation_dim} and actions {action_dim}"
    if observation_dim < 1 or action_dim < 1:
        raise UserError(f"{found}; both need at least 1")
    if spec is None or (observation_dim, action_dim) == (spec.observation_dim, spec.action_dim):
        return
    needed = f"the task needs {spec.observation_dim} and {spec.action_dim}"
    if (action_dim, observation_dim) == (spec.observation_dim, spec.action_dim):
        raise UserError(f"{found}, but {needed}: the two arrays are exchanged")
    raise UserError(f"{found}, but {needed}: this is the data of another robot")


def check_rows(source: str, rows: int) -> None:
    """Refuse more rows than `Transitions.row` can index.

    Raises:
      UserError: names their number.
    """
    if rows > MAX_ROWS:
        raise UserError(f"{source}: holds {rows} rows; at most {MAX_ROWS} are supported")


def check_numbers(source: str, key: str, dtype: np.dtype, flags: bool = False) -> None:
    """Refuse arrays that do not hold real numbers (``flags``: or truth values).

    Raises:
      UserError: names the array and its dtype.
    """
    if dtype.kind not in ("fiub" if flags else "fiu"):
        right = "bool or numbers" if flags else "float32"
        raise UserError(f"{source}: {key!r} has dtype {dtype}; {right} is needed")


def check_values(
    source: str,
    observation: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    locate: Callable[[int], str],
) -> None:
    """Refuse values that are not finite.

    Raises:
      UserError: names the array and, in the words of ``locate``, the first row.
    """
    _check_finite(source, "observations", observation, locate)
    _check_finite(source, "actions", action, locate)
    _check_finite(source, "rewards", reward, locate)


def check_whole_numbers(source: str, key: str, values: np.ndarray, dtype: np.dtype) -> None:
    """Refuse whole numbers, stored as ``dtype``, that float32 cannot hold: -1 that was stored as 4294967295, say.

    Raises:
      UserError: names the array and the first row.
    """
    if dtype.kind not in "iu" or (values.max() <= MAX_WHOLE_NUMBER and values.min() >= -MAX_WHOLE_NUMBER):
        return
    values = values.reshape(len(values), -1)
    row = int((np.abs(values.astype(np.float64)) > MAX_WHOLE_NUMBER).any(axis=1).argmax())
    worst = values[row][np.abs(values[row].astype(np.float64)).argmax()]
    raise UserError(
        f"{source}: {key!r} holds {worst:.10g} at row {row}, stored as {dtype}; whole numbers up to "
        f"{MAX_WHOLE_NUMBER} fit float32 (a negative number stored without sign?)"
    )


def as_flags(source: str, key: str, values: np.ndarray) -> np.ndarray:
    """Truth values of a recorded array of 0 and 1, ``(rows,)`` bool.

    Raises:
      UserError: a value is neither 0 nor 1.
    """
    values = values.reshape(-1)
    if values.dtype == np.bool_:
        return values
    flags = values == 1
    wrong = ~flags & (values != 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{source}: {key!r} holds {values[row]:g}, first at row {row}; 0 or 1 is needed")
    return flags


def check_readable(source: str, path: Path, right: str) -> None:
    """Make sure that ``path`` is a file that may be read; ``right`` says what file is wanted.

    Raises:
      UserError: says what it is instead.
    """
    if path.is_dir():
        raise UserError(f"{source}: is a folder; give the path of {right}")
    if not path.exists():
        raise UserError(f"{source}: no such file; give the path of {right}")
    if not path.is_file():
        raise UserError(f"{source}: is no regular file; give the path of {right}")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); give a file that you may read") from error


def one_line(error: object) -> str:
    """The text of an error of another library, on one line."""
    return " ".join(str(error).split())


def _check_finite(source: str, key: str, array: np.ndarray, locate: Callable[[int], str]) -> None:
    for begin in range(0, len(array), CHECK_ROWS):
        finite = np.isfinite(array[begin : begin + CHECK_ROWS])
        if not finite.all():
            bad = finite.reshape(len(finite), -1).all(axis=1).argmin()
            raise UserError(
                f"{source}: {key!r} holds NaN or infinity (in float32), first at {locate(begin + int(bad))}; "
                "every value must be finite"
            )


def largest_action(action: np.ndarray) -> tuple[float, int]:
    """The largest size of a number of ``action (rows, action_dim)``, and its row."""
    largest, where = 0.0, 0
    for begin in range(0, len(action), CHECK_ROWS):
        size = np.abs(action[begin : begin + CHECK_ROWS]).max(axis=1)
        if size.max() > largest:
            largest, where = float(size.max()), begin + int(size.argmax())
    return largest, where


def check_action_range(source: str, largest: float, where: str) -> None:
    """Refuse actions whose largest size, found at ``where``, is above 1.

    Raises:
      UserError: says what would be right.
    """
    if largest > MAX_ACTION + ACTION_TOLERANCE:
        remedy = "--actions=scale learns them in units of their own, --actions=clip cuts them"
        if largest <= MAX_ACTION + OVERSHOOT:
            remedy = "--actions=clip cuts them"
        raise UserError(f"{source}: 'actions' reach {largest:.6g} in size at {where}; [-1, 1] is learned: {remedy}")
