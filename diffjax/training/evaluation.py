"""Evaluation in simulators: all runs and episodes side by side."""

from collections.abc import Callable, Iterator
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


class Taken(NamedTuple):
    """A step of environments side by side, each ``(environments, ...)``; ``running`` before it, ``terminated`` after.

    Of an environment that is not running nothing counts.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    terminated: np.ndarray
    running: np.ndarray


Policy = Callable[[jax.Array, np.ndarray], tuple[np.ndarray, jax.Array]]
"""From the step within the episode and observations ``(environments, observation_dim)`` to actions in [-1, 1].

With them comes the next step. It never leaves the device, so that one transfer goes up for each step and one down.
"""


def episode_keys(
    run_key: jax.Array, step: jax.Array | int, episodes: int, first: int = 0, stream: int = EVALUATION_STREAM
) -> jax.Array:
    """Keys ``(runs, episodes)`` that depend on (seed, stream, step, number of the episode) alone.

    ``step`` is one number or one per run; episodes are numbered from ``first``.
    """

    def keys_of_run(key: jax.Array, step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(key, stream), step)
        return jax.vmap(lambda episode: jax.random.fold_in(key, episode))(first + jnp.arange(episodes))

    return jax.vmap(keys_of_run)(run_key, jnp.broadcast_to(jnp.asarray(step, jnp.int32), run_key.shape))


def episode_seeds(keys: jax.Array) -> np.ndarray:
    """What a simulator begins the episodes of some keys ``(runs, episodes)`` with, ``(runs * episodes,)`` uint32."""
    return jax.device_get(jax.vmap(jax.vmap(jax.random.bits))(keys)).reshape(-1)


def policy_of(keys: jax.Array, program: Program, acting: Acting) -> Policy:
    """Every run's own policy in as many environments as it has keys, ``(runs, episodes)``."""
    runs, episodes = keys.shape
    placed = program.place(keys)  # padded, as what comes back then is

    def policy(time: jax.Array, observation: np.ndarray) -> tuple[np.ndarray, jax.Array]:
        observed = program.place(observation.reshape(runs, episodes, -1))
        acted, following = program.act_next(acting, placed, program.replicate(time), observed)
        action = np.asarray(acted)[:runs]
        return np.clip(action.reshape(runs * episodes, -1), -1.0, 1.0), following

    return policy


def play(policy: Policy, simulator: VectorSimulator, seeds: np.ndarray, running: np.ndarray) -> Iterator[Taken]:
    """Every step of an episode per environment, until the last of those that are ``running`` at first has ended."""
    observation, time = simulator.reset(seeds), jnp.zeros((), jnp.int32)
    for _ in range(simulator.horizon):
        action, time = policy(time, observation)
        following, reward, terminated, truncated = simulator.step(action)
        yield Taken(observation, action, reward, following, terminated, running)
        observation, running = following, running & ~(terminated | truncated)
        if not running.any():
            break


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
    returns = np.zeros(runs * episodes)
    lengths = np.zeros(runs * episodes, np.int64)
    steps = play(policy_of(keys, program, acting), simulator, episode_seeds(keys), np.ones(runs * episodes, bool))
    for time, taken in enumerate(steps, start=1):
        returns += np.where(taken.running, taken.reward, 0.0)
        lengths += taken.running
        stepped(time)
    return Episodes(returns.reshape(runs, episodes), lengths.reshape(runs, episodes))
