"""D4RL's HDF5 layout: flat arrays over time, episodes one after the other.

Required at the root: ``observations (rows, observation_dim)``, ``actions (rows, action_dim)``,
``rewards (rows,)``, ``terminals (rows,)``; and ``timeouts (rows,)``, in all but the oldest files, which need
the task's horizon instead. One-dimensional arrays may be stored as ``(rows, 1)``. Nothing else is read, but
for ``metadata/{algorithm, env_id, ref_min_score, ref_max_score}``.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from diffjax.data.transitions import (
    Dataset,
    Transitions,
    as_flags,
    check_numbers,
    check_rows,
    check_sizes,
    make_dataset,
    one_line,
)
from diffjax.errors import UserError
from diffjax.types import Spec

KNOWN_ALGORITHMS = {"published policy snapshot rollouts": "snapshot"}  # metadata/algorithm -> table label
UNLABELLED = "unlabelled"

_FLAGS = ("terminals", "timeouts")
_CLASSIC = ("observations", "actions", "rewards", "terminals")
_WITH_TIMEOUTS = (*_CLASSIC, "timeouts")

_LOCOMOTION = {  # sizes of observation, action, qpos, qvel
    "halfcheetah": (17, 6, 9, 9),
    "hopper": (11, 3, 6, 6),
    "walker2d": (17, 6, 9, 9),
    "ant": (111, 8, 15, 14),
}
_LEVELS = ("random", "medium", "expert", "medium_replay", "full_replay", "medium_expert")
_ADROIT = {"pen": (45, 24), "hammer": (46, 26), "door": (39, 28), "relocate": (39, 30)}
_ANTMAZE = {
    "u-maze_noisy_multistart_False_multigoal_False": "umaze",
    "u-maze_noisy_multistart_True_multigoal_True": "umaze-diverse",
    "big-maze_noisy_multistart_True_multigoal_False": "medium-play",
    "big-maze_noisy_multistart_True_multigoal_True": "medium-diverse",
    "hardest-maze_noisy_multistart_True_multigoal_False": "large-play",
    "hardest-maze_noisy_multistart_True_multigoal_True": "large-diverse",
}
_KITCHEN = {
    "mini_kitchen_microwave_kettle_light_slider-v0.hdf5": "kitchen-complete-v0",
    "kitchen_microwave_kettle_light_slider-v0.hdf5": "kitchen-partial-v0",
    "kitchen_microwave_kettle_bottomburner_light-v0.hdf5": "kitchen-mixed-v0",
}


def load_hdf5(source: str, spec: Spec | None = None, horizon: int | None = None) -> Dataset:
    """Read one file by the rule of ``d4rl.qlearning_dataset`` (D4RL, ``d4rl/__init__.py``).

    Row ``i`` begins a transition, with next observation ``observations[i + 1]``, unless ``timeouts[i]`` or it
    is the file's last row; terminal rows stay, as what follows them is masked. The label is the file's own
    ``metadata/algorithm``, never D4RL's (see `d4rl_label`).

    Raises:
      UserError: names the file and its defect.
    """
    with _Opened(source) as file:
        arrays = {key: _find(source, file, key) for key in _CLASSIC}
        if "timeouts" in file:
            arrays["timeouts"] = _find(source, file, "timeouts")
        elif horizon is None:
            raise UserError(
                f"{source}: has no 'timeouts'; the horizon of its task is needed to know where episodes end"
            )
        _check_shapes(source, {key: array.shape for key, array in arrays.items()})
        for key, array in arrays.items():
            check_numbers(source, key, array.dtype, flags=key in _FLAGS)
        check_sizes(source, arrays["observations"].shape[1], arrays["actions"].shape[1], spec)
        terminal = as_flags(source, "terminals", arrays["terminals"][()])
        if "timeouts" in arrays:
            timeout = as_flags(source, "timeouts", arrays["timeouts"][()])
        else:
            assert horizon is not None
            timeout = horizon_timeouts(terminal, horizon)
        transitions = Transitions(
            observation=_read_floats(arrays["observations"]),
            action=_read_floats(arrays["actions"]),
            reward=_read_floats(arrays["rewards"]).reshape(-1),
            terminal=terminal,
            row=transition_rows(timeout),
        )
        return make_dataset(
            transitions,
            source=source,
            label=_own_label(file),
            end=terminal | timeout,
            locate="row {}".format,
            ref_min=_metadata_number(file, "ref_min_score"),
            ref_max=_metadata_number(file, "ref_max_score"),
            env_id=_metadata_text(file, "env_id"),
        )


def transition_rows(timeout: np.ndarray) -> np.ndarray:
    """Rows ``(size,)`` int32 that begin a transition: all but those at time limits and the last."""
    return np.flatnonzero(~timeout[:-1]).astype(np.int32)


def horizon_timeouts(terminal: np.ndarray, horizon: int) -> np.ndarray:
    """Time limits of a file without them: each ``horizon``-th row since an episode's start, ``(rows,)`` bool.

    In an episode that follows a terminal, D4RL's own loop counts from 1 and so drops the last row but one and
    joins the last to the next episode's reset; here every episode counts from 0.
    """
    index = np.arange(len(terminal))
    starts = np.concatenate([[True], terminal[:-1]])
    start = np.maximum.accumulate(np.where(starts, index, 0))
    return (index - start) % horizon == horizon - 1


class D4rlFile(NamedTuple):
    """The published file of one D4RL task: its arrays' ``shapes`` without the leading axis ``rows``."""

    task_id: str
    shapes: dict[str, tuple[int, ...]]


def d4rl_label(source: str, task_id: str | None = None) -> str:
    """``"D4RL v2"`` (or v0, v1) for a file that agrees with a published one in name, keys and shapes.

    ``task_id``, where given, is the task that it must belong to.

    Raises:
      UserError: says in what the file differs.
    """
    path = Path(source).expanduser()
    published = d4rl_file(path.name)
    if published is None:
        raise UserError(f"{source}: not the name of a D4RL file; leave out the dataset source 'd4rl'")
    if task_id is not None and task_id != published.task_id:
        raise UserError(f"{source}: this is D4RL's file of {published.task_id}, not of {task_id}")
    with _Opened(source) as file:
        own_label = _own_label(file)
        found = {key: file.get(key) for key in published.shapes}
        shapes = {
            key: item.shape[1:]
            for key, item in found.items()
            if isinstance(item, h5py.Dataset) and item.shape is not None
        }
    if own_label in KNOWN_ALGORITHMS.values():
        defect = f"its own metadata call it {own_label!r}"
    elif missing := published.shapes.keys() - shapes.keys():
        defect = f"it lacks {', '.join(map(repr, sorted(missing)))}"
    # Old files store vectors as (rows, 1).
    elif wrong := [key for key, shape in published.shapes.items() if (shapes[key] or (1,)) != (shape or (1,))]:
        defect = f"rows of {wrong[0]!r} have shape {shapes[wrong[0]]}, not {published.shapes[wrong[0]]}"
    else:
        return f"D4RL {published.task_id.rpartition('-')[2]}"
    raise UserError(
        f"{source}: is not D4RL's file of {published.task_id}: {defect}; leave out the dataset source 'd4rl'"
    )


def d4rl_file(name: str) -> D4rlFile | None:
    """The published D4RL file of that name, or None (D4RL, ``d4rl/infos.py`` and its generation scripts)."""
    if match := re.fullmatch(rf"({'|'.join(_LOCOMOTION)})_({'|'.join(_LEVELS)})-v2\.hdf5", name):
        observation, action, qpos, qvel = _LOCOMOTION[match[1]]
        shapes = _shapes(_WITH_TIMEOUTS, observation, action)
        shapes |= {"next_observations": (observation,), "infos/qpos": (qpos,), "infos/qvel": (qvel,)}
        return D4rlFile(f"{match[1]}-{match[2].replace('_', '-')}-v2", shapes)
    if match := re.fullmatch(rf"({'|'.join(_ADROIT)})-(human|cloned|expert)-v1\.hdf5", name):
        return D4rlFile(f"{match[1]}-{match[2]}-v1", _shapes(_WITH_TIMEOUTS, *_ADROIT[match[1]]))
    if match := re.fullmatch(rf"Ant_maze_({'|'.join(_ANTMAZE)})_sparse(_fixed)?\.hdf5", name):
        shapes = _shapes(_WITH_TIMEOUTS, 29, 8) | {"infos/goal": (2,)}
        return D4rlFile(f"antmaze-{_ANTMAZE[match[1]]}-{'v2' if match[2] else 'v0'}", shapes)
    if match := re.fullmatch(r"maze2d-(?:(open)|(umaze|medium|large))-(sparse|dense)(-v1)?\.hdf5", name):
        maze, version = (match[1], "v0") if match[1] else (match[2], "v1")
        if (version == "v1") == bool(match[4]):
            dense = "-dense" if match[3] == "dense" else ""
            return D4rlFile(f"maze2d-{maze}{dense}-{version}", _shapes(_WITH_TIMEOUTS, 4, 2))
    if name in _KITCHEN:
        return D4rlFile(_KITCHEN[name], _shapes(_CLASSIC, 60, 9))
    return None


def _shapes(keys: tuple[str, ...], observation: int, action: int) -> dict[str, tuple[int, ...]]:
    sizes: dict[str, tuple[int, ...]] = {"observations": (observation,), "actions": (action,)}
    return {key: sizes.get(key, ()) for key in keys}


class _Opened:
    """An open HDF5 file; what HDF5 raises inside the ``with`` becomes a `UserError` that names the file."""

    def __init__(self, source: str) -> None:
        self._source = source
        path = Path(source).expanduser()
        _check_path(source, path)
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise self._damaged(error) from error

    def __enter__(self) -> h5py.File:
        return self._file

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._file.close()
        if isinstance(error, (OSError, RuntimeError)):
            raise self._damaged(error) from error
        if isinstance(error, MemoryError):
            raise UserError(f"{self._source}: does not fit into memory ({one_line(error)})") from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self._source}: is a damaged or truncated HDF5 file ({one_line(error)}); copy it again")


def _check_path(source: str, path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{source}: is a folder; give the path of an HDF5 file")
    if not path.exists():
        raise UserError(f"{source}: no such file; give the path of an HDF5 file in D4RL's layout")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); give a file that you may read") from error
    if not h5py.is_hdf5(path):
        raise UserError(f"{source}: is not an HDF5 file; an HDF5 file in D4RL's layout is needed")


def _find(source: str, file: h5py.File, key: str) -> h5py.Dataset:
    item = file.get(key)
    if isinstance(item, h5py.Dataset):
        try:
            _ = item.dtype
        except (TypeError, ValueError) as error:
            raise UserError(f"{source}: {key!r} has a dtype without NumPy equivalent; float32 is right") from error
        return item
    if item is not None:
        raise UserError(f"{source}: {key!r} is a group; an array is needed")
    if "episode_0" in file:
        raise UserError(f"{source}: is in Minari's layout; give the data set's Minari id or its folder")
    found = ", ".join(map(repr, list(file)[:10])) or "nothing"
    raise UserError(f"{source}: has no {key!r}; {', '.join(_CLASSIC)} are needed, found {found}")


def _check_shapes(source: str, shapes: dict[str, tuple[int, ...] | None]) -> None:
    rows: dict[str, int] = {}
    for key, shape in shapes.items():
        if key in ("observations", "actions"):
            fits, right = shape is not None and len(shape) == 2, f"(rows, {key[:-1]}_dim)"
        else:
            fits, right = shape is not None and shape[1:] in ((), (1,)) and len(shape) > 0, "(rows,)"
        if not fits:
            raise UserError(f"{source}: {key!r} has shape {shape}; {right} is needed")
        assert shape is not None
        rows[key] = shape[0]
    needed = rows["rewards"]
    for key in ("observations", "actions"):
        first, second = shapes[key] or (0, 0)
        if first != needed and second == needed:
            raise UserError(
                f"{source}: {key!r} has shape {(first, second)}, its axes exchanged; {(second, first)} is needed"
            )
    if len(set(rows.values())) > 1:
        lengths = ", ".join(f"{key} {length}" for key, length in rows.items())
        raise UserError(f"{source}: the arrays differ in length ({lengths}); all must have the same")
    if needed < 2:
        raise UserError(f"{source}: holds {needed} rows; at least 2 are needed")
    check_rows(source, needed)


def _read_floats(array: h5py.Dataset) -> np.ndarray:
    # HDF5 converts block by block into the array that is kept; `array[()]` would first hold a float64 copy.
    values = np.empty(array.shape, np.float32)
    array.read_direct(values)
    return values


def _own_label(file: h5py.File) -> str:
    algorithm = _metadata_text(file, "algorithm") or UNLABELLED
    # Anyone can write this text; D4RL's name is earned by `d4rl_label` alone.
    if algorithm.casefold().startswith("d4rl"):
        return UNLABELLED
    return KNOWN_ALGORITHMS.get(algorithm, algorithm)


def _metadata(file: h5py.File, key: str) -> Any:
    item = file.get(f"metadata/{key}")
    return item[()] if isinstance(item, h5py.Dataset) and item.shape == () else None


def _metadata_text(file: h5py.File, key: str) -> str | None:
    value = _metadata(file, key)
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _metadata_number(file: h5py.File, key: str) -> float | None:
    value = _metadata(file, key)
    return float(value) if isinstance(value, (np.floating, np.integer)) and np.isfinite(value) else None
