"""The one order in which goal environments' observations are laid flat, for simulators and stored data alike."""

from collections.abc import Mapping

import numpy as np

Goal = np.ndarray | Mapping[str, "Goal"]


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
