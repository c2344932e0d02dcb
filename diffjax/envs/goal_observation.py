"""The one order in which observations that are mappings are laid flat, for simulators and stored data alike."""

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
    parts = [flatten_named(achieved), flatten_named(observation), flatten_named(desired)]
    return np.concatenate(parts, axis=-1, dtype=np.float32)


def flatten_named(observation: Goal) -> np.ndarray:
    """The arrays of a mapping, and of the mappings in it, along the last axis, in the order of their sorted keys.

    Leading axes are kept.
    """
    if isinstance(observation, Mapping):
        return np.concatenate([flatten_named(observation[name]) for name in sorted(observation)], axis=-1)
    return np.asarray(observation)
