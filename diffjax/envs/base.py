"""What a simulator is: pure functions of a state, or a vector of them behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax


class PureSimulator(NamedTuple):
    """A simulator as pure functions of one state; ``jax.vmap`` makes many.

    ``reset: key -> state``, ``observe: state -> observation``,
    ``step: (state, action) -> (state, observation, reward, terminated)``. All randomness lies in ``reset``.
    ``action`` lies in [-1, 1]; an episode is cut after ``horizon`` steps by whoever runs it.
    """

    name: str
    version: str
    horizon: int
    observation_dim: int
    action_dim: int
    reset: Callable[[jax.Array], Any]
    observe: Callable[[Any], jax.Array]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array, jax.Array, jax.Array]]


class VectorSimulator(Protocol):
    """``num_envs`` episodes side by side, one per environment, stepped together.

    A finished environment (terminated, or truncated after ``horizon`` steps) stays where it is until the next
    ``reset``: it returns its last observation and flags again, with reward 0.
    """

    @property
    def num_envs(self) -> int: ...

    @property
    def horizon(self) -> int:
        """Most steps of an episode; the step that reaches it is truncated unless it terminates."""
        ...

    @property
    def observation_dim(self) -> int: ...

    @property
    def action_dim(self) -> int: ...

    @property
    def version(self) -> str:
        """Simulator name and version, as a results table records it."""
        ...

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Begin an episode per seed, ``(num_envs,)`` uint32; observations ``(num_envs, observation_dim)`` float32.

        The randomness of an episode is a function of its seed alone.
        """
        ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Apply ``action``, ``(num_envs, action_dim)``, in [-1, 1].

        Returns:
          observation ``(num_envs, observation_dim)`` float32, reward ``(num_envs,)``, terminated and truncated
          ``(num_envs,)`` bool, never both.
        """
        ...

    def close(self) -> None:
        """Release threads and memory."""
        ...


def check_action(action: np.ndarray, num_envs: int, action_dim: int) -> np.ndarray:
    """``action`` as a float32 array of shape ``(num_envs, action_dim)``; ValueError for any other shape."""
    action = np.asarray(action, np.float32)
    if action.shape != (num_envs, action_dim):
        raise ValueError(f"action has shape {action.shape}, the simulator expects {(num_envs, action_dim)}")
    return action


def check_seeds(seeds: np.ndarray, num_envs: int) -> np.ndarray:
    """``seeds`` as a uint32 array of shape ``(num_envs,)``; ValueError for any other shape."""
    seeds = np.asarray(seeds, np.uint32)
    if seeds.shape != (num_envs,):
        raise ValueError(f"seeds have shape {seeds.shape}, the simulator expects {(num_envs,)}")
    return seeds
