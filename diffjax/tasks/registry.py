"""The tasks, as data: ``tasks.csv`` has a line for each, ``families.toml`` what those of a family have in common.

Nobody else in the program knows a task by its name.
"""

import csv
import dataclasses
import importlib.resources
import json
import tomllib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from diffjax.data.transitions import Dataset
from diffjax.envs.base import VectorSimulator
from diffjax.envs.make import make_vector
from diffjax.envs.scaled import with_bounds
from diffjax.errors import UserError, unknown_name
from diffjax.types import ActionBounds

OWN_DATA = ("mini", "wide", "local")
"""Suites whose data the program makes itself on first use."""


@dataclass(frozen=True)
class Task:
    """A simulator with reference scores, and where its data come from.

    ``ref_min`` and ``ref_max`` are the returns that score 0 and 100, ``ref_source`` says where they come from; None
    where nobody has published any. ``data`` is the Minari id of the task's data, empty for those that D4RL publishes as
    a file; ``maker`` says who makes data of the program's own, ``level`` what they consist of.
    """

    id: str
    suite: str
    family: str
    env_id: str
    observation_dim: int
    action_dim: int
    horizon: int
    ref_min: float | None
    ref_max: float | None
    ref_source: str
    data: str = ""
    maker: str = ""
    level: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    action_bounds: ActionBounds | None = None  # what a run calls -1 and 1; None: the simulator's actions are these


@dataclass(frozen=True)
class Family:
    """What the tasks of a family have in common: a title, and how their simulators differ from those of the data."""

    title: str
    differences: str


def _text(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")


def _task(row: dict[str, str]) -> Task:
    number = lambda text: float(text) if text else None  # noqa: E731
    return Task(
        id=row["id"],
        suite=row["suite"],
        family=row["family"],
        env_id=row["env_id"],
        observation_dim=int(row["observation_dim"]),
        action_dim=int(row["action_dim"]),
        horizon=int(row["horizon"]),
        ref_min=number(row["ref_min"]),
        ref_max=number(row["ref_max"]),
        ref_source=row["ref_source"],
        data=row["data"],
        maker=row["maker"],
        level=row["level"],
        env_kwargs=json.loads(row["env_kwargs"] or "{}"),
    )


@cache
def tasks() -> dict[str, Task]:
    """All tasks by id, in the order of a table."""
    return {row["id"]: _task(row) for row in csv.DictReader(_text("tasks.csv").splitlines())}


@cache
def families() -> dict[str, Family]:
    """All families by name."""
    return {name: Family(**row) for name, row in tomllib.loads(_text("families.toml")).items()}


def get_task(task_id: str) -> Task:
    """The task of that id.

    Raises:
      UserError: the id is unknown; names close ones.
    """
    if task_id not in tasks():
        raise unknown_name("task", task_id, tasks())
    return tasks()[task_id]


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
    """``num_envs`` simulators of the task side by side; their physics is imported here, not before.

    Raises:
      UserError: the task has none.
    """
    if not task.env_id:
        raise UserError(f"task {task.id} has no simulator: it was trained on data alone (--offline judges it without)")
    return with_bounds(make_vector(task.env_id, num_envs, task.env_kwargs, task.horizon), task.action_bounds)


def environment_bounds(task: Task) -> ActionBounds | None:
    """The smallest and largest actions of the task's environment; None where it sets none."""
    with closing(make_simulator(task, 1)) as simulator:
        ones = (1.0,) * simulator.action_dim
        return getattr(simulator, "action_bounds", ActionBounds(tuple(-one for one in ones), ones))


def with_references(
    task: Task, dataset: Dataset, given: tuple[float, float] | None = None, needed: bool = True
) -> Task:
    """The task with reference scores: its own, the user's, or those in the metadata of data of the same environment.

    Where they are not ``needed``, as nothing will be scored, there may be none.

    Raises:
      UserError: there are none, for a normalised score is refused, never guessed; or some are given to a task that has
        its own.
    """
    if task.ref_min is not None:
        if given is not None:
            raise UserError(f"task {task.id} has reference scores of its own; leave out --ref_scores")
        return task
    if given is not None:
        return dataclasses.replace(task, ref_min=given[0], ref_max=given[1], ref_source="given with --ref_scores")
    if dataset.ref_min is None or dataset.ref_max is None or dataset.ref_max <= dataset.ref_min:
        if not needed:
            return task
        raise UserError(
            f"task {task.id} has no reference scores, and neither has {dataset.source}: no normalised score can be "
            "given; store ref_min_score and ref_max_score in the data's metadata or give --ref_scores=MIN,MAX"
        )
    source = f"metadata of {dataset.source}"
    return dataclasses.replace(task, ref_min=dataset.ref_min, ref_max=dataset.ref_max, ref_source=source)


def normalized_score(task: Task, return_: np.ndarray | float) -> np.ndarray | float:
    """``100 (return - ref_min) / (ref_max - ref_min)``.

    Raises:
      ValueError: the task has no reference scores.
    """
    if task.ref_min is None or task.ref_max is None:
        raise ValueError(f"task {task.id} has no reference scores")
    return 100.0 * (return_ - task.ref_min) / (task.ref_max - task.ref_min)
