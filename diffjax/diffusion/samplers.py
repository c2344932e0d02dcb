"""Samplers: transition rules that turn noise into samples, given a denoiser.

Every random number is an argument (:class:`ChainNoise`); :func:`draw_chain_noise` is the thin wrapper that holds a key.
"""

from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.denoisers import Denoiser, LearnedDenoiser, epsilon_from_x0
from diffjax.diffusion.schedules import DiscreteSchedule

Variance = Literal["posterior", "beta", "learned"]


class ChainNoise(NamedTuple):
    """Random numbers of one reverse chain of ``T`` steps.

    ``start`` has the shape of the samples; ``steps`` is ``(T, *samples)`` in the order of use: ``steps[0]`` is added
    at the noisiest step, ``steps[T - 1]`` is drawn but never added.
    """

    start: jax.Array
    steps: jax.Array


def draw_chain_noise(key: jax.Array, num_steps: int, shape: tuple[int, ...]) -> ChainNoise:
    """Standard normal noise for a chain of ``num_steps`` steps that ends in samples of ``shape``."""
    noise = jax.random.normal(key, (num_steps + 1, *shape))
    return ChainNoise(start=noise[0], steps=noise[1:])


def transition_std(schedule: DiscreteSchedule, variance: Variance) -> np.ndarray:
    """Standard deviation of the noise added at each step, ``(T,)``, zero at index 0.

    ``posterior``: square root of the posterior variance (Diffusion-QL and its descendants).
    ``beta``: ``sqrt(beta)``, the upper bound (DAC, IDQL).
    ``learned``: ones, by which the denoiser's own is multiplied.
    """
    if variance == "learned":
        std = np.ones(schedule.num_steps, np.float32)
    elif variance == "posterior":
        std = np.exp(0.5 * schedule.posterior_log_variance)
    elif variance == "beta":
        std = np.sqrt(schedule.beta)
    else:
        raise ValueError(f"variance {variance!r} is none of posterior, beta, learned")
    return np.concatenate([np.zeros(1, np.float32), std[1:]])


def ancestral_chain(
    denoiser: Denoiser | LearnedDenoiser,
    schedule: DiscreteSchedule,
    noise: ChainNoise,
    *,
    variance: Variance,
    clip: jax.Array | float | None,
    state_clip: jax.Array | float | None = None,
    temperature: jax.Array | float = 1.0,
    repeats: int = 0,
) -> jax.Array:
    """All states of the ancestral DDPM chain, ``(T + repeats + 1, *samples)``: the start first, the sample last.

    For ``i = T-1..0``: ``x_0 = clip(denoiser(x, i))``, ``x <- coef_x0_i x_0 + coef_xt_i x + temperature std_i z``.
    With the variance ``learned`` the denoiser gives ``x_0`` and the logarithm of the step's variance. Nothing is
    detached: gradients flow through every step and, where it does not saturate, through the clip.

    Args:
      clip: bound of ``x_0`` per dimension; None for no clipping.
      state_clip: bound of each new ``x``, its noise included; None for no clipping.
      repeats: how often the step at index 0 is taken again; ``noise`` has a row for each, which is never added.
    """
    chex.assert_shape(noise.steps, (schedule.num_steps + repeats, *noise.start.shape))

    def clipped(x: jax.Array, bound: jax.Array | float | None) -> jax.Array:
        return x if bound is None else jnp.clip(x, -bound, bound)

    def step(x: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        index, z, coef_x0, coef_xt, std = inputs
        found = denoiser(x, index)
        x_0, own_std = (found[0], jnp.exp(0.5 * found[1])) if isinstance(found, tuple) else (found, 1.0)
        x = coef_x0 * clipped(x_0, clip) + coef_xt * x + temperature * std * own_std * z
        x = clipped(x, state_clip)
        return x, x

    inputs = (
        np.arange(schedule.num_steps, dtype=np.int32),
        schedule.posterior_coef_x0,
        schedule.posterior_coef_xt,
        transition_std(schedule, variance),
    )
    order = np.append(np.arange(schedule.num_steps)[::-1], np.zeros(repeats, int))
    index, coef_x0, coef_xt, std = (jnp.asarray(array[order]) for array in inputs)
    _, states = jax.lax.scan(step, noise.start, (index, noise.steps, coef_x0, coef_xt, std))
    return jnp.concatenate([noise.start[None], states])


def ancestral_sample(
    denoiser: Denoiser | LearnedDenoiser,
    schedule: DiscreteSchedule,
    noise: ChainNoise,
    *,
    variance: Variance,
    clip: jax.Array | float | None,
) -> jax.Array:
    """The last state of :func:`ancestral_chain`."""
    return ancestral_chain(denoiser, schedule, noise, variance=variance, clip=clip)[-1]


def ddim_chain(
    denoiser: Denoiser, schedule: DiscreteSchedule, start: jax.Array, *, clip: jax.Array | float | None
) -> jax.Array:
    """All states of the deterministic DDIM chain over every index, ``(T + 1, *samples)``; the start first.

    For ``i = T-1..0``: ``x_0 = clip(denoiser(x, i))``, ``epsilon`` the noise in ``x`` that goes with it,
    ``x <- sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev) epsilon``. Gradients flow through it all.

    Args:
      clip: bound of ``x_0`` per dimension; None for no clipping.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 with ``sigma = 0``.
    """

    def step(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        index, previous = inputs
        x_0 = denoiser(x, index)
        if clip is not None:
            x_0 = jnp.clip(x_0, -clip, clip)
        x = jnp.sqrt(previous) * x_0 + jnp.sqrt(1.0 - previous) * epsilon_from_x0(schedule, x, index, x_0)
        return x, x

    index = jnp.arange(schedule.num_steps)[::-1]
    _, states = jax.lax.scan(step, start, (index, jnp.asarray(schedule.alpha_bar_prev[::-1])))
    return jnp.concatenate([start[None], states])
