"""Flow matching: a velocity field carries noise at time 0 along straight lines to samples at time 1.

A velocity is a function ``(x, time) -> dx/dtime``; ``time`` is a scalar or has the leading axes of ``x``.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


class FlowDraws(NamedTuple):
    """Random numbers of a flow-matching loss: noise ``start`` like the samples and ``time (batch,)`` in ``[0, 1)``."""

    start: jax.Array
    time: jax.Array


def draw_flow(key: jax.Array, shape: tuple[int, ...]) -> FlowDraws:
    """Standard normal noise of ``shape``, and uniform times for its leading axis."""
    start_key, time_key = jax.random.split(key)
    return FlowDraws(jax.random.normal(start_key, shape), jax.random.uniform(time_key, shape[:1]))


def interpolate(x_1: jax.Array, draws: FlowDraws) -> jax.Array:
    """The point ``(1 - time) start + time x_1`` of each straight line, shape of ``x_1``."""
    chex.assert_equal_shape([x_1, draws.start])
    time = draws.time[..., None]
    return (1.0 - time) * draws.start + time * x_1


def flow_matching(velocity: Velocity, x_1: jax.Array, draws: FlowDraws) -> jax.Array:
    """``mean_dims (velocity(x_t, t) - (x_1 - start))^2`` on the line from ``start`` to ``x_1``, ``(batch,)``.

    Source: Lipman et al. 2022, arXiv 2210.02747, and Liu et al. 2022, arXiv 2209.03003; FQL, agents/fql.py.
    """
    error = velocity(interpolate(x_1, draws), draws.time) - (x_1 - draws.start)
    return jnp.mean(error**2, axis=-1)


def euler_path(velocity: Velocity, start: jax.Array, num_steps: int) -> jax.Array:
    """All states of Euler's method, ``(num_steps + 1, *samples)``: the start first, the sample last.

    ``x <- x + velocity(x, i / num_steps) / num_steps`` for ``i = 0..num_steps - 1``. Nothing is clipped.
    """

    def step(x: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x + velocity(x, time) / num_steps
        return x, x

    _, states = jax.lax.scan(step, start, jnp.arange(num_steps) / num_steps)
    return jnp.concatenate([start[None], states])


def heun_path(velocity: Velocity, start: jax.Array, num_steps: int) -> jax.Array:
    """All states of Heun's method, as :func:`euler_path`, whose steps are corrected to the mean of both ends' velocity.

    The last step is Euler's, as in Karras et al. 2022, arXiv 2206.00364, algorithm 1: ``2 num_steps - 1`` evaluations.
    """

    def step(x: jax.Array, times: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        time, following = times
        first = velocity(x, time)
        second = velocity(x + first / num_steps, following)
        x = x + (first + second) / (2 * num_steps)
        return x, x

    times = jnp.arange(num_steps) / num_steps
    before, states = jax.lax.scan(step, start, (times[:-1], times[1:]))
    last = before + velocity(before, times[-1]) / num_steps
    return jnp.concatenate([start[None], states, last[None]])


PATHS = {"euler": euler_path, "heun": heun_path}
"""Solvers of the flow's equation."""
