"""Observations of goal environments as one flat array."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffjax.envs.goal_observation import KITCHEN_ELEMENTS, flatten_goal_observation, flatten_named

GOAL_KEYS = frozenset({"achieved_goal", "desired_goal", "observation"})

KITCHEN_GOAL_SIZE = 30


def flatten_kitchen_observation(observation: np.ndarray, desired: Mapping[str, np.ndarray]) -> np.ndarray:
    """D4RL's Kitchen observation ``(..., 60)``: robot positions (9), object positions (21), goal (30).

    ``observation (..., 59)`` holds positions and velocities (9 + 9) of the robot, then of the objects (21 + 20);
    ``desired`` the goal ``(..., n)`` of each task to be done. The goal is zero at every other element.

    Raises:
      KeyError: a task is unknown.
      ValueError: an array has another size.
    """
    if observation.shape[-1] != 59:
        raise ValueError(f"Kitchen observations have size {observation.shape[-1]}; 59 is needed")
    goal = np.zeros((*observation.shape[:-1], KITCHEN_GOAL_SIZE), observation.dtype)
    for task, values in desired.items():
        if np.shape(values)[-1] != len(KITCHEN_ELEMENTS[task]):
            raise ValueError(
                f"the goal of {task!r} has size {np.shape(values)[-1]}; {len(KITCHEN_ELEMENTS[task])} is needed"
            )
        goal[..., KITCHEN_ELEMENTS[task]] = values
    return np.concatenate([observation[..., 0:9], observation[..., 18:39], goal], axis=-1)


def flatten_observation(observation: Any) -> Any:
    """An observation as it is if it is an array; that of a goal environment flattened, Kitchen's as D4RL's.

    Any other mapping is laid flat by its sorted keys.

    Raises:
      KeyError, ValueError: the arrays do not fit together.
    """
    if not isinstance(observation, Mapping):
        return observation
    if observation.keys() != GOAL_KEYS:
        return flatten_named(observation)
    if isinstance(observation["desired_goal"], Mapping):
        return flatten_kitchen_observation(observation["observation"], observation["desired_goal"])
    return flatten_goal_observation(
        observation["achieved_goal"], observation["observation"], observation["desired_goal"]
    )
