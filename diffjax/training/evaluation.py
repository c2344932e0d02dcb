"""Evaluation in simulators: all runs and episodes side by side."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.envs.base import VectorSimulator
from diffjax.training.program import EVALUATION_STREAM, Acting, Program


class Episodes(NamedTuple):
    """Undiscounted returns and lengths of finished episodes, ``(runs, episodes)`` each."""

    returns: np.ndarray
    lengths: np.ndarray


def episode_keys(run_key: jax.Array, step: jax.Array | int, episodes: int, first: int = 0) -> jax.Array:
    """Keys ``(runs, episodes)`` that depend on (seed, step, number of the episode) alone.

    ``step`` is one number or one per run; episodes are numbered from ``first``.
    """

    def keys_of_run(key: jax.Array, step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION_STREAM), step)
        return jax.vmap(lambda episode: jax.random.fold_in(key, episode))(first + jnp.arange(episodes))

    return jax.vmap(keys_of_run)(run_key, jnp.broadcast_to(jnp.asarray(step, jnp.int32), run_key.shape))


def evaluate(
    keys: jax.Array,
    program: Program,
    acting: Acting,
    simulator: VectorSimulator,
    stepped: Callable[[int], None] = lambda time: None,
) -> Episodes:
    """Plays an episode per key, ``(runs, episodes)``, with every run's policy, all at once.

    ``simulator`` has ``runs * episodes`` environments. Rewards after an episode's end do not count. ``stepped`` is told
    after every step how many were taken.
    """
    runs, episodes = keys.shape
    seeds = jax.device_get(jax.vmap(jax.vmap(jax.random.bits))(keys)).reshape(-1)
    observation = simulator.reset(seeds)
    returns = np.zeros(runs * episodes)
    lengths = np.zeros(runs * episodes, np.int64)
    running = np.ones(runs * episodes, bool)
    keys = program.place(keys)  # padded, as what comes back then is
    for time in range(simulator.horizon):
        observed = program.place(jnp.asarray(observation).reshape(runs, episodes, -1))
        action = np.asarray(program.act(acting, keys, time, observed))[:runs]
        action = np.clip(action.reshape(runs * episodes, -1), -1.0, 1.0)
        observation, reward, terminated, truncated = simulator.step(action)
        returns += np.where(running, reward, 0.0)
        lengths += running
        running &= ~(terminated | truncated)
        stepped(time + 1)
        if not running.any():
            break
    return Episodes(returns.reshape(runs, episodes), lengths.reshape(runs, episodes))
