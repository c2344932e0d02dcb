"""A craft with many thrusters as pure functions: large action spaces, in which many actions do the same."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.envs.base import PureSimulator

TIME_STEP = 0.1
FORCE = 4.0  # at most, along any direction
DRAG = 0.5
AREA = 2.0  # |x|, |y| at most; a craft at the edge stops there
START = 1.5  # |x|, |y| at most, of the start
EFFORT = 0.25  # reward lost with every thruster at full power
VELOCITY_SCALE = 2.0


class State(NamedTuple):
    """``position`` relative to the goal and ``velocity``, ``(2,)`` each."""

    position: jax.Array
    velocity: jax.Array


@functools.cache
def directions(count: int) -> np.ndarray:
    """Unit vectors ``(count, 2)`` along which the thrusters push, evenly around the craft."""
    angle = 2.0 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def force(action: jax.Array) -> jax.Array:
    """What all thrusters push together, ``(2,)``: ``F 2 / n sum_k a_k u_k``, whose ``sum_k u_k u_k^T = n / 2 I``."""
    count = action.shape[-1]
    return FORCE * 2.0 / count * (jnp.clip(action, -1.0, 1.0) @ directions(count))


def reset(key: jax.Array) -> State:
    """At rest, uniform over the square of :data:`START`."""
    return State(jax.random.uniform(key, (2,), minval=-START, maxval=START), jnp.zeros(2))


def observe(state: State) -> jax.Array:
    """``(position, velocity / 2)``, ``(4,)``."""
    return jnp.concatenate([state.position, state.velocity / VELOCITY_SCALE])


def step(state: State, action: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """One step of 0.1 (semi-implicit Euler) under drag; never terminates.

    The reward is that of the state after the step, ``1 / (1 + 4 |position|^2) - 0.25 mean_k a_k^2``: thrusters that
    work against each other cost and move nothing.
    """
    velocity = state.velocity + TIME_STEP * (force(action) - DRAG * state.velocity)
    moved = state.position + TIME_STEP * velocity
    position = jnp.clip(moved, -AREA, AREA)
    state = State(position, jnp.where(moved == position, velocity, 0.0))
    reward = 1.0 / (1.0 + 4.0 * jnp.sum(position**2)) - EFFORT * jnp.mean(jnp.clip(action, -1.0, 1.0) ** 2)
    return state, observe(state), reward, jnp.zeros((), bool)


def thrusters(count: int) -> PureSimulator:
    """The craft with so many thrusters, its action dimensions."""
    return PureSimulator(
        name=f"diffjax/Thrusters-{count}",
        version="diffjax thrusters 1",
        horizon=60,
        observation_dim=4,
        action_dim=count,
        reset=reset,
        observe=observe,
        step=step,
    )


THRUSTERS = tuple(thrusters(count) for count in (24, 50, 100))
