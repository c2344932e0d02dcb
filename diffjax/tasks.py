"""The tasks: simulator, sizes, horizon and reference scores of each, as data; nobody else knows their names."""

import csv
import importlib.resources
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from diffjax.data.minari_store import minari_exists
from diffjax.data.transitions import Dataset, load_dataset
from diffjax.envs.base import PureSimulator, VectorSimulator
from diffjax.envs.jax_vector import JaxVector
from diffjax.envs.pendulum import PENDULUM
from diffjax.envs.pointmaze import POINTMAZE
from diffjax.errors import UserError, unknown_name
from diffjax.types import Spec


@dataclass(frozen=True)
class Task:
    """A simulator with reference scores; learning it needs data, which only some tasks bring along.

    ``ref_min`` and ``ref_max`` are the returns that score 0 and 100, ``ref_source`` says where they come from.
    ``default_dataset`` is the Minari id of data that the program makes itself on first use.
    """

    id: str
    suite: str
    env_id: str
    observation_dim: int
    action_dim: int
    horizon: int
    ref_min: float
    ref_max: float
    ref_source: str
    default_dataset: str | None = None


_ROBOTS = {"halfcheetah": ("HalfCheetah-v4", 17, 6), "hopper": ("Hopper-v4", 11, 3), "walker2d": ("Walker2d-v4", 17, 6)}
_LEVELS = {
    "medium": "locomotion",
    "medium-replay": "locomotion",
    "medium-expert": "locomotion",
    "random": "locomotion-other",
    "expert": "locomotion-other",
    "full-replay": "locomotion-other",
}
"""Data sets of each robot; suite ``locomotion`` holds those that the papers' tables report."""


@cache
def reference_scores() -> dict[str, tuple[float, float]]:
    """D4RL's ``(ref_min, ref_max)`` by id, for all of its tasks (d4rl/infos.py)."""
    text = (importlib.resources.files("diffjax") / "reference_scores.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["env_id"]: (float(row["ref_min"]), float(row["ref_max"])) for row in rows}


def _d4rl_task(task_id: str, suite: str, env_id: str, observation_dim: int, action_dim: int, horizon: int) -> Task:
    ref_min, ref_max = reference_scores()[task_id]
    source = "D4RL, d4rl/infos.py"
    return Task(task_id, suite, env_id, observation_dim, action_dim, horizon, ref_min, ref_max, source)


def _mini_task(
    task_id: str, simulator: PureSimulator, ref_min: float, ref_max: float, expert: str, dataset: str
) -> Task:
    sizes = (simulator.observation_dim, simulator.action_dim, simulator.horizon)
    source = (
        f"measured: mean return over 1000 episodes of the uniform-random policy and of {expert} "
        f"(python -m diffjax.collect.embedded --task={task_id} --measure)"
    )
    return Task(task_id, "mini", simulator.name, *sizes, ref_min, ref_max, source, dataset)


# Whoever changes a simulator or a recipe gives the data set its next version: stored ones are not made again.
_MINI = (
    _mini_task(
        "pendulum-mixed",
        PENDULUM,
        ref_min=-76.1,
        ref_max=-9.2,
        expert="the best of four SAC agents after 20000 steps",
        dataset="diffjax/pendulum/mixed-v0",
    ),
    _mini_task(
        "pointmaze-mixed",
        POINTMAZE,
        ref_min=0.004,
        ref_max=1.0,
        expert="a controller that walks the shortest path",
        dataset="diffjax/pointmaze/mixed-v0",
    ),
)


@cache
def tasks() -> dict[str, Task]:
    """All tasks that can be run, by id, in the order of a table."""
    locomotion = [
        _d4rl_task(f"{robot}-{level}-v2", suite, *simulator, horizon=1000)
        for level, suite in _LEVELS.items()
        for robot, simulator in _ROBOTS.items()
    ]
    return {task.id: task for task in (*_MINI, *locomotion)}


def get_task(task_id: str) -> Task:
    """The task of that id.

    Raises:
      UserError: the id is unknown (names close ones), has no simulator here, or no reference scores.
    """
    known = tasks()
    if task_id in known:
        return known[task_id]
    if task_id in reference_scores():
        raise UserError(f"task {task_id!r} of D4RL has no simulator here; one of: {', '.join(known)}")
    raise unknown_name("task", task_id, known)


def suites() -> tuple[str, ...]:
    """The names of all suites."""
    return tuple(dict.fromkeys(task.suite for task in tasks().values()))


def suite_tasks(suite: str) -> tuple[str, ...]:
    """The ids of a suite's tasks, in the order of a table.

    Raises:
      UserError: the suite is unknown.
    """
    if suite not in suites():
        raise unknown_name("suite", suite, suites())
    return tuple(task.id for task in tasks().values() if task.suite == suite)


def make_simulator(task: Task, num_envs: int) -> VectorSimulator:
    """``num_envs`` simulators of the task side by side; their physics is imported here, not before."""
    return _SIMULATORS[task.env_id](num_envs)


def normalized_score(task: Task, return_: np.ndarray | float) -> np.ndarray | float:
    """``100 (return - ref_min) / (ref_max - ref_min)``."""
    return 100.0 * (return_ - task.ref_min) / (task.ref_max - task.ref_min)


def to_stderr(line: str) -> None:
    """Show one line of progress."""
    print(line, file=sys.stderr, flush=True)


def default_dataset(task: Task, progress: Callable[[str], None] = to_stderr) -> Dataset:
    """The task's own data, collected and stored as a local Minari data set on first use.

    Args:
      progress: takes a line of text now and then.

    Raises:
      UserError: the task has no data of its own, or it cannot be stored.
    """
    if task.default_dataset is None:
        raise UserError(f"task {task.id} brings no data along; give --dataset=FILE.hdf5 or --dataset=MINARI_ID")
    if not minari_exists(task.default_dataset):
        from diffjax.collect.embedded import store_dataset

        store_dataset(task, progress)
    return load_dataset(task.default_dataset, Spec(task.observation_dim, task.action_dim), task.suite)


def _locomotion(env_id: str, num_envs: int) -> VectorSimulator:
    from diffjax.envs.make import make_vector

    return make_vector(env_id, num_envs)


_SIMULATORS: dict[str, Callable[[int], VectorSimulator]] = {
    PENDULUM.name: partial(JaxVector, PENDULUM),
    POINTMAZE.name: partial(JaxVector, POINTMAZE),
    **{env_id: partial(_locomotion, env_id) for env_id, _, _ in _ROBOTS.values()},
}
