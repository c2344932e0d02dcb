"""Evaluation in simulators: all runs and episodes side by side."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.envs.base import VectorSimulator
from diffjax.training.program import EVALUATION_STREAM, Program, RunSetup, TrainState


class Episodes(NamedTuple):
    """Undiscounted returns and lengths of finished episodes, ``(runs, episodes)`` each."""

    returns: np.ndarray
    lengths: np.ndarray


def episode_keys(run_key: jax.Array, step: int, episodes: int) -> jax.Array:
    """Keys ``(runs, episodes)`` that depend on (seed, step, episode) alone."""

    def keys_of_run(key: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION_STREAM), step)
        return jax.vmap(lambda episode: jax.random.fold_in(key, episode))(jnp.arange(episodes))

    return jax.vmap(keys_of_run)(run_key)


def evaluate(
    program: Program,
    state: TrainState,
    setup: RunSetup,
    simulator: VectorSimulator,
    step: int,
    episodes: int,
) -> Episodes:
    """Plays ``episodes`` episodes with every run's policy, all at once.

    ``simulator`` has ``runs * episodes`` environments. Rewards after an episode's end do not count.
    """
    runs = setup.key.shape[0]
    keys = episode_keys(setup.key, step, episodes)
    seeds = jax.device_get(jax.vmap(jax.vmap(jax.random.bits))(keys)).reshape(-1)
    observation = simulator.reset(seeds)
    returns = np.zeros(runs * episodes)
    lengths = np.zeros(runs * episodes, np.int64)
    running = np.ones(runs * episodes, bool)
    keys = program.place(keys)
    for time in range(simulator.horizon):
        observed = program.place(jnp.asarray(observation).reshape(runs, episodes, -1))
        action = np.asarray(program.act(state, setup, keys, time, observed))
        action = np.clip(action.reshape(runs * episodes, -1), -1.0, 1.0)
        observation, reward, terminated, truncated = simulator.step(action)
        returns += np.where(running, reward, 0.0)
        lengths += running
        running &= ~(terminated | truncated)
        if not running.any():
            break
    return Episodes(returns.reshape(runs, episodes), lengths.reshape(runs, episodes))
