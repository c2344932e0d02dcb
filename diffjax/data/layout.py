"""D4RL's layout in whatever container: the checks of its five arrays, and the rule that makes transitions of them.

Required are ``observations (rows, observation_dim)``, ``actions (rows, action_dim)``, ``rewards (rows,)``,
``terminals (rows,)``; and ``timeouts (rows,)``, in all but the oldest files, which need the task's horizon instead.
Time runs along the rows, one episode after the other. One-dimensional arrays may be stored as ``(rows, 1)``, numbers
in any real dtype whose values float32 can hold. Other names that mean the same are read too: `NAMES`, and for the flags
`diffjax.data.flags`, which also reads ``masks``.

``next_observations (rows, observation_dim)``, where stored, is compared with the following row (`diffjax.data.order`):
equal, it is not kept; unequal at some rows, trajectories end there; unequal nearly everywhere, the rows are in no
order, and it is kept as a second array. Nothing else is read, but for
``metadata/{algorithm, env_id, ref_min_score, ref_max_score}``.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from diffjax.data.d4rl_files import ALL_KEYS
from diffjax.data.flags import FLAG_KEYS, check_flag_keys, read_flags
from diffjax.data.order import Borders, Unordered, judge_order, with_borders
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

NEXT = "next_observations"
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "observations": ("observations", "observation", "obs"),
        "actions": ("actions", "action", "acts", "act"),
        "rewards": ("rewards", "reward", "rews", "rew"),
        NEXT: (NEXT, "next_observation", "next_obs", "obs_next"),
    }
)
_REQUIRED = ("observations", "actions", "rewards")
_MANY_ZERO_ROWS = 2  # at a file's end: a single one may be a robot at rest


MAPPINGS = frozenset(name for key in ("observations", NEXT) for name in NAMES[key])
"""The names under which several arrays by name are put side by side."""


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


class SideBySide:
    """Several arrays by name, ``(rows,)`` or ``(rows, size)`` each, as one: side by side, in the order of their names.

    Raises:
      UserError: there is none, they have not as many rows, or one has more axes.
    """

    def __init__(self, source: str, key: str, parts: Mapping[str, StoredArray]) -> None:
        if not parts:
            raise UserError(f"{source}: {key!r} holds nothing; an array or several by name are needed")
        self.parts = {name: parts[name] for name in sorted(parts)}
        rows, widths = {}, {}
        for name, part in self.parts.items():
            if part.shape is None or len(part.shape) not in (1, 2):
                raise UserError(
                    f"{source}: {key}/{name} has shape {part.shape}; rows of numbers are needed, no pictures"
                )
            check_numbers(source, f"{key}/{name}", part.dtype)
            rows[name], widths[name] = part.shape[0], int(np.prod(part.shape[1:]))
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise UserError(f"{source}: the arrays of {key!r} differ in length ({counts})")
        self.shape: tuple[int, ...] | None = (next(iter(rows.values())), sum(widths.values()))
        self.dtype = np.result_type(*(part.dtype for part in self.parts.values()))
        self.order = ", ".join(f"{name} ({width})" for name, width in widths.items())

    def read(self) -> np.ndarray:
        """The whole array as stored."""
        return self._joined([part.read() for part in self.parts.values()])

    def read_float32(self) -> np.ndarray:
        """The whole array as float32."""
        return self._joined([part.read_float32() for part in self.parts.values()])

    def _joined(self, arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def order_notes(order: str) -> tuple[str, ...]:
    """What is said of observations that stand side by side; nothing of one array."""
    return (f"observations are {order}, side by side in this order",) if order else ()


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
    is the file's last row; terminal rows stay, as what follows them is masked (D4RL, ``d4rl/__init__.py``). Stored next
    observations that are not those of the following row change that as `with_borders` says, or make every row a
    transition. ``find`` and ``metadata`` give an array and a scalar of the file by key, or None; ``found`` lists the
    file's keys for the message where one is missing. The label is the file's own ``metadata/algorithm``, never D4RL's.

    Raises:
      UserError: names the file and its defect.
    """
    arrays = stored_arrays(source, find, found)
    observation_dim, action_dim = _check_shapes(source, {key: array.shape for key, array in arrays.items()})
    for key, array in arrays.items():
        check_numbers(source, key, array.dtype, flags=key in FLAG_KEYS)
    check_sizes(source, observation_dim, action_dim, spec)
    flags = read_flags({key: as_flags(source, key, arrays[key].read()) for key in arrays if key in FLAG_KEYS})
    observation = _read_floats(source, "observations", arrays)
    own_next = _own_next(source, arrays, observation, flags.end)
    if flags.timeout is None and own_next is None:
        if horizon is None:
            raise UserError(
                f"{source}: has no 'timeouts'; the horizon of its task is needed to know where episodes end"
            )
        limits = horizon_timeouts(flags.terminal, horizon)
        flags = flags._replace(timeout=limits, end=flags.end | limits)
    end = flags.end.copy()
    end[-1] = True
    transitions = Transitions(
        observation=observation,
        action=_read_floats(source, "actions", arrays),
        reward=_read_floats(source, "rewards", arrays).reshape(-1),
        terminal=flags.terminal,
        end=end,
        row=transition_rows(np.zeros_like(end) if flags.timeout is None else flags.timeout),
    )
    _check_filled(source, transitions)
    locate: Callable[[int], str] = "row {}".format
    notes: tuple[str, ...] = ()
    if own_next is not None:
        transitions, locate, notes = _with_own_next(transitions, *own_next)
    notes = (*order_notes(getattr(arrays["observations"], "order", "")), *notes)
    return make_dataset(
        transitions,
        source=source,
        label=own_label(metadata),
        locate=locate,
        is_finished=bool(flags.end[-1]) or own_next is not None,
        ref_min=_number(metadata("ref_min_score")),
        ref_max=_number(metadata("ref_max_score")),
        env_id=_text(metadata("env_id")),
        notes=notes,
    )


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


def stored_arrays(
    source: str, find: Callable[[str], StoredArray | None], found: Callable[[], list[str]]
) -> dict[str, StoredArray]:
    """The arrays of a file that are read, by the first of their names.

    Raises:
      UserError: one is missing, or there under two names.
    """
    arrays = {}
    for key, names in (*NAMES.items(), *FLAG_KEYS.items()):
        stored = {name: array for name in names if (array := find(name)) is not None}
        if len(stored) > 1:
            raise UserError(f"{source}: has both {' and '.join(map(repr, stored))}, which mean the same; leave one")
        if stored:
            (arrays[key],) = stored.values()
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing == ["rewards"]:
        raise UserError(
            f"{source}: has no 'rewards'; add one number per row by the rule of your task, or zeros for a method that "
            "only clones (--method=bc; --set reward=raw where a reward transform is set)"
        )
    if missing:
        keys = found()
        others = ", ".join(map(repr, keys[:10])) or "nothing"
        raise UserError(f"{source}: has no {missing[0]!r}; {', '.join(ALL_KEYS)} are needed, found {others}")
    check_flag_keys(source, arrays.keys() & FLAG_KEYS.keys(), found)
    return arrays


def _own_next(
    source: str, arrays: Mapping[str, StoredArray], observation: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, Borders | Unordered] | None:
    """The file's next observations and where they differ from the following rows; None where nowhere."""
    if NEXT not in arrays:
        return None
    stored, needed = arrays[NEXT].dtype, arrays["observations"].dtype
    if stored.kind != "f" and needed.kind == "f":
        raise UserError(f"{source}: {NEXT!r} has dtype {stored}; that of 'observations', {needed}, is needed")
    following = _read_floats(source, NEXT, arrays)
    precision = max(_precision(arrays[key].dtype) for key in ("observations", NEXT))
    order = judge_order(source, observation, following, end, precision)
    return None if order is None else (following, order)


def _with_own_next(
    transitions: Transitions, following: np.ndarray, order: Borders | Unordered
) -> tuple[Transitions, Callable[[int], str], tuple[str, ...]]:
    """Transitions with their own next observations, words for each of their rows, and what was done."""
    if isinstance(order, Borders):
        transitions, rows = with_borders(transitions, following, order.border)
        note = (
            f"trajectories end at {int(order.border.sum())} rows that only 'next_observations' marks, as it is not the "
            f"following row's observation (kept in {len(rows) - len(following)} rows more)"
        )
        return transitions, lambda row: f"row {rows[row]}", (note,)
    # What follows a terminal is masked, but NaN would pass the mask.
    masked = np.asarray(transitions.terminal) & ~order.is_usable
    following[masked] = np.asarray(transitions.observation)[masked]
    transitions = transitions._replace(
        end=np.ones(len(following), bool),
        row=np.flatnonzero(order.is_usable | masked).astype(np.int32),
        next_observation=following,
    )
    note = (
        "rows are in no order: each row's own 'next_observations' is used "
        f"(a second array of {following.nbytes / 1e6:.3g} MB), and there are no trajectories"
    )
    return transitions, "row {}".format, (note,)


def _check_filled(source: str, transitions: Transitions) -> None:
    is_zero = transitions.reward == 0
    for array in (transitions.action, transitions.observation):
        if is_zero[-_MANY_ZERO_ROWS:].all():
            is_zero &= ~np.asarray(array).any(axis=1)
    if is_zero.all():
        raise UserError(f"{source}: observations, actions and rewards are zero in every row; nothing was filled in")
    rows, empty = len(is_zero), int(is_zero[::-1].argmin())
    if empty >= _MANY_ZERO_ROWS:
        raise UserError(
            f"{source}: the last {empty} of {rows} rows are zero in observations, actions and rewards, as in a file "
            f"made in advance and filled in part; keep the first {rows - empty} of every array ([:{rows - empty}])"
        )


def _precision(dtype: np.dtype) -> float:
    return max(float(np.finfo(dtype if dtype.kind == "f" else np.float32).eps), float(np.finfo(np.float32).eps))


def _check_shapes(source: str, shapes: Mapping[str, tuple[int, ...] | None]) -> tuple[int, int]:
    """The sizes of an observation and of an action."""
    checked: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        if key in ("observations", "actions", NEXT):
            fits, right = shape is not None and len(shape) == 2, f"(rows, {key.removeprefix('next_')[:-1]}_dim)"
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
    if NEXT in checked and checked[NEXT] != checked["observations"]:
        raise UserError(f"{source}: {NEXT!r} has shape {checked[NEXT]}; {checked['observations']} is needed")
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
