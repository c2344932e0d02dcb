"""D4RL's published files as data: name, address and what the arrays of each look like."""

import csv
import importlib.resources
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from diffjax.errors import unknown_name

CLASSIC_KEYS = ("observations", "actions", "rewards", "terminals")
ALL_KEYS = (*CLASSIC_KEYS, "timeouts")


class D4rlFile(NamedTuple):
    """The published file of one D4RL task: its arrays' ``shapes`` without the leading axis ``rows``."""

    task_id: str
    name: str
    url: str
    shapes: Mapping[str, tuple[int, ...]]


def _shapes(
    observation: int, action: int, keys: tuple[str, ...] = ALL_KEYS, **infos: int
) -> Mapping[str, tuple[int, ...]]:
    sizes: dict[str, tuple[int, ...]] = {"observations": (observation,), "actions": (action,)}
    return MappingProxyType(
        {key: sizes.get(key, ()) for key in keys} | {f"infos/{key}": (size,) for key, size in infos.items()}
    )


def _locomotion(observation: int, action: int, qpos: int, qvel: int) -> Mapping[str, tuple[int, ...]]:
    shapes = _shapes(observation, action, qpos=qpos, qvel=qvel)
    return MappingProxyType({**shapes, "next_observations": (observation,)})


_FAMILIES = {  # of the task's id, up to the first hyphen
    "halfcheetah": _locomotion(17, 6, 9, 9),
    "hopper": _locomotion(11, 3, 6, 6),
    "walker2d": _locomotion(17, 6, 9, 9),
    "ant": _locomotion(111, 8, 15, 14),
    "antmaze": _shapes(29, 8, goal=2),
    "maze2d": _shapes(4, 2),
    "pen": _shapes(45, 24),
    "hammer": _shapes(46, 26),
    "door": _shapes(39, 28),
    "relocate": _shapes(39, 30),
    "kitchen": _shapes(60, 9, CLASSIC_KEYS),
}


@cache
def d4rl_files() -> Mapping[str, D4rlFile]:
    """The published files by task id (D4RL, ``d4rl/infos.py`` and its generation scripts)."""
    text = (importlib.resources.files(__package__) / "d4rl_datasets.csv").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            row["env_id"]: D4rlFile(row["env_id"], row["file"], row["url"], _FAMILIES[row["env_id"].split("-")[0]])
            for row in csv.DictReader(text.splitlines())
        }
    )


def d4rl_file(task_id: str) -> D4rlFile:
    """The published file of one task.

    Raises:
      UserError: D4RL publishes none for that id; names close ones.
    """
    files = d4rl_files()
    if task_id not in files:
        raise unknown_name("D4RL data set", task_id, files)
    return files[task_id]


def d4rl_file_named(name: str) -> D4rlFile | None:
    """The published file of that file name, or None."""
    return next((file for file in d4rl_files().values() if file.name == name), None)
