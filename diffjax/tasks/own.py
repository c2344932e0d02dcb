"""Tasks that are not in the table: Gymnasium's environments, those of plugins, and robots without a simulator."""

import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

from diffjax.envs.make import known_environment, make_vector
from diffjax.errors import UserError, close_names, unknown_name
from diffjax.tasks.registry import Task, get_task, tasks

SUITE = "own"
"""Of all these tasks; their family has the same name."""
_REGISTERED: dict[str, Task] = {}
_ENVIRONMENT = re.compile(r".*-v\d+")  # Gymnasium's way of ids


def register_task(
    name: str,
    environment: str | Callable[..., Any],
    *,
    horizon: int | None = None,
    ref_scores: tuple[float, float] | None = None,
    ref_source: str = "registered with the task",
    **arguments: Any,
) -> Task:
    """Makes a task of an environment, for ``--task=NAME`` and :func:`diffjax.train`.

    Args:
      environment: an id of Gymnasium, or what makes a ``gymnasium.Env``.
      horizon: most steps of an episode; None: the environment's own.
      ref_scores: returns that score 0 and 100; without them ``--ref_scores`` is needed to train.
      arguments: the environment's.

    Raises:
      UserError: the name is taken, or the environment cannot be simulated.
    """
    if name in tasks():
        raise UserError(f"task {name} is one of diffjax's own; choose another name")
    if not isinstance(environment, str):
        environment = _registered_environment(name, environment, horizon)
    _REGISTERED[name] = _of_environment(name, environment, horizon, ref_scores, ref_source, arguments)
    return _REGISTERED[name]


def _registered_environment(name: str, make: Callable[..., Any], horizon: int | None) -> str:
    import gymnasium

    env_id = f"own/{name}" if _ENVIRONMENT.fullmatch(name) else f"own/{name}-v0"
    if env_id in gymnasium.registry:
        del gymnasium.registry[env_id]  # a notebook's cell runs again
    gymnasium.register(env_id, entry_point=make, max_episode_steps=horizon)
    return env_id


def _of_environment(
    name: str,
    env_id: str,
    horizon: int | None,
    ref_scores: tuple[float, float] | None,
    ref_source: str,
    arguments: dict[str, Any],
) -> Task:
    with closing(make_vector(env_id, 1, arguments, horizon)) as simulator:
        low, high = ref_scores or (None, None)
        return Task(
            id=name,
            suite=SUITE,
            family=SUITE,
            env_id=env_id,
            observation_dim=simulator.observation_dim,
            action_dim=simulator.action_dim,
            horizon=simulator.horizon,
            ref_min=low,
            ref_max=high,
            ref_source=ref_source if ref_scores else "",
            env_kwargs=arguments,
        )


def find_task(task_id: str, needs_simulator: bool = True) -> Task:
    """A task of the table, a registered one, an environment of Gymnasium, or else a name for data without simulator.

    Of the last, sizes are 0: the data will say them.

    Raises:
      UserError: it is none of these, or a simulator is needed.
    """
    if task_id in tasks():
        return get_task(task_id)
    if task_id in _REGISTERED:
        return _REGISTERED[task_id]
    if _ENVIRONMENT.fullmatch(task_id) and known_environment(task_id):
        return _of_environment(task_id, task_id, None, None, "", {})
    if not needs_simulator:
        return Task(task_id, SUITE, SUITE, "", 0, 0, 0, None, None, "")
    known = (*tasks(), *_REGISTERED)
    if close_names(task_id, known):
        raise unknown_name("task", task_id, known)
    raise UserError(
        f"unknown task {task_id!r}: no task of diffjax (tasks.py lists them), no environment of Gymnasium, none that a "
        "--plugin registers; to train on data without a simulator, add --episodes=0"
    )
