"""Any pure simulator as a vector simulator: reset and step mapped over environments and compiled."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.envs.base import PureSimulator, check_action, check_seeds
from diffjax.numerics import random_key


class Running(NamedTuple):
    """All environments at one time, leading axis ``num_envs``."""

    state: Any
    observation: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    time: jax.Array


@partial(jax.jit, static_argnames="simulator")
def _reset(seeds: jax.Array, simulator: PureSimulator) -> Running:
    state = jax.vmap(lambda seed: simulator.reset(random_key(seed)))(seeds)
    flags = jnp.zeros(seeds.shape, bool)
    return Running(state, jax.vmap(simulator.observe)(state), flags, flags, jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames="simulator")
def _step(running: Running, action: jax.Array, simulator: PureSimulator) -> tuple[Running, jax.Array]:
    time = running.time + 1

    finished = running.terminated | running.truncated
    state, observation, reward, terminated = jax.vmap(simulator.step)(running.state, action)

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(finished.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    truncated = ~terminated & (time >= simulator.horizon)
    running = Running(
        state=jax.tree.map(keep, running.state, state),
        observation=keep(running.observation, observation),
        terminated=keep(running.terminated, terminated),
        truncated=keep(running.truncated, truncated),
        time=time,
    )
    return running, jnp.where(finished, 0.0, reward)


class JaxVector:
    """``num_envs`` copies of a pure simulator; see :class:`diffjax.envs.base.VectorSimulator`."""

    def __init__(self, simulator: PureSimulator, num_envs: int, horizon: int | None = None) -> None:
        if horizon is not None:
            simulator = simulator._replace(horizon=horizon)
        self.name = simulator.name
        self.num_envs = num_envs
        self.horizon = simulator.horizon
        self.observation_dim = simulator.observation_dim
        self.action_dim = simulator.action_dim
        self.version = simulator.version
        self._simulator = simulator
        self._running: Running | None = None

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Begin an episode per seed; see the protocol."""
        self._running = _reset(check_seeds(seeds, self.num_envs), self._simulator)
        return np.asarray(self._running.observation)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Apply one action per environment; see the protocol."""
        if self._running is None:
            raise RuntimeError("step() before reset()")
        action = check_action(action, self.num_envs, self.action_dim)
        self._running, reward = _step(self._running, action, self._simulator)
        observation, terminated, truncated = self._running[1:4]
        return np.asarray(observation), np.asarray(reward), np.asarray(terminated), np.asarray(truncated)

    def state(self, index: int) -> Any:
        """The state of one environment."""
        if self._running is None:
            raise RuntimeError("state() before reset()")
        return jax.tree.map(lambda leaf: np.asarray(leaf[index]), self._running.state)

    def close(self) -> None:
        """Nothing is held."""
