"""Simulators of several tasks as one: each has its own part of the environments."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from diffjax.envs.base import VectorSimulator, check_action, check_seeds

Stepped = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class SideBySide:
    """Several simulators with observations and actions of one size; see :class:`diffjax.envs.base.VectorSimulator`.

    They are stepped at the same time, in threads, and only as long as an episode of theirs runs. They are not closed
    with this object: whoever made them does that.
    """

    def __init__(self, simulators: Sequence[VectorSimulator]) -> None:
        self._simulators = tuple(simulators)
        self.observation_dim, self.action_dim = simulators[0].observation_dim, simulators[0].action_dim
        self.num_envs = sum(one.num_envs for one in simulators)
        self.horizon = max(one.horizon for one in simulators)
        self.version = "; ".join(dict.fromkeys(one.version for one in simulators))
        bounds = itertools.accumulate((one.num_envs for one in simulators), initial=0)
        self._parts = [slice(first, last) for first, last in itertools.pairwise(bounds)]
        self._last: list[Stepped] = []
        self._pool = ThreadPoolExecutor(len(self._simulators))

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        seeds = check_seeds(seeds, self.num_envs)
        found = list(self._pool.map(lambda one, part: one.reset(seeds[part]), self._simulators, self._parts))
        never = [np.zeros(one.num_envs, bool) for one in self._simulators]
        self._last = [(seen, np.zeros(len(no)), no, no.copy()) for seen, no in zip(found, never, strict=True)]
        return np.concatenate(found)

    def step(self, action: np.ndarray) -> Stepped:
        action = check_action(action, self.num_envs, self.action_dim)
        self._last = list(
            self._pool.map(
                lambda one, part, last: _step(one.step, action[part], last), self._simulators, self._parts, self._last
            )
        )
        observation, reward, terminated, truncated = map(np.concatenate, zip(*self._last, strict=True))
        return observation, reward, terminated, truncated

    def close(self) -> None:
        self._pool.shutdown()


def _step(step: Callable[[np.ndarray], Stepped], action: np.ndarray, last: Stepped) -> Stepped:
    """A step; of a simulator in which no episode runs any more what a step would give."""
    observation, reward, terminated, truncated = last
    if (terminated | truncated).all():
        return observation, np.zeros_like(reward), terminated, truncated
    return step(action)
