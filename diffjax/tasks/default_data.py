"""Where a task's data come from when the user names none."""

import sys
from collections.abc import Callable

from diffjax.data.d4rl_files import d4rl_files
from diffjax.data.download import obtain_d4rl
from diffjax.data.minari_folders import minari_exists
from diffjax.data.transitions import Dataset
from diffjax.tasks.registry import OWN_DATA, Task
from diffjax.types import Spec

Progress = Callable[[str], None]
"""Takes a line of text now and then."""
MakeData = Callable[[Task, Progress], None]
"""Makes a task's own data and stores them where :func:`default_dataset` looks for them."""


def to_stderr(line: str) -> None:
    """Show one line of progress."""
    print(line, file=sys.stderr, flush=True)


def default_dataset(
    task: Task,
    make: MakeData,
    progress: Progress = to_stderr,
    mirror: str | None = None,
    report: Progress | None = None,
) -> Dataset:
    """The task's data: made and stored on first use, D4RL's published file, or a Minari data set.

    D4RL's file is looked for in D4RL's own cache and else fetched, from ``mirror`` if one is given.

    Args:
      make: makes the data of a task that has its own (:func:`diffjax.studies.collect.store.store_dataset`).
      progress: takes a line of text now and then.
      report: takes what :func:`diffjax.data.load.load_dataset` says of what was read.

    Raises:
      UserError: the data cannot be made, stored or fetched.
    """
    from diffjax.data.load import load_dataset

    spec = Spec(task.observation_dim, task.action_dim)
    if task.suite in OWN_DATA:
        if not minari_exists(task.data):
            make(task, progress)
        return load_dataset(task.data, spec, task.suite, horizon=task.horizon, report=report)
    if task.id in d4rl_files():
        path = str(obtain_d4rl(task.id, mirror))
        return load_dataset(path, spec, horizon=task.horizon, dataset_source="d4rl", task_id=task.id, report=report)
    return load_dataset(task.data, spec, horizon=task.horizon, report=report)
