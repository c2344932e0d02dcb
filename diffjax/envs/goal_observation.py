"""The one order in which goal environments' observations are laid flat, for simulators and stored data alike."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

Goal = np.ndarray | Mapping[str, "Goal"]

KITCHEN_ELEMENTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "bottom burner": (11, 12),
        "top burner": (15, 16),
        "light switch": (17, 18),
        "slide cabinet": (19,),
        "hinge cabinet": (20, 21),
        "microwave": (22,),
        "kettle": (23, 24, 25, 26, 27, 28, 29),
    }
)
"""Places of each task's joints in D4RL's Kitchen: in its observation and, the same, in its goal of 30 numbers
(D4RL, d4rl/kitchen/kitchen_envs.py)."""


def flatten_goal_observation(achieved: Goal, observation: np.ndarray, desired: Goal) -> np.ndarray:
    """``achieved, observation, desired`` along the last axis, float32; leading axes are kept.

    Mazes so have the robot's (x, y) first, as D4RL's observations do, then what else it feels, then the goal, which
    moves and must be seen. Goals that are mappings (FrankaKitchen: a goal per object) are laid out in the order of
    their sorted keys.
    """
    return np.concatenate([_flat(achieved), _flat(observation), _flat(desired)], axis=-1, dtype=np.float32)


def _flat(goal: Goal) -> np.ndarray:
    if isinstance(goal, Mapping):
        return np.concatenate([_flat(goal[name]) for name in sorted(goal)], axis=-1)
    return np.asarray(goal)
