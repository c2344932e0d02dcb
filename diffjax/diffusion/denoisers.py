"""Denoisers: what a network's output says about the clean sample ``x_0``.

A denoiser is a function ``(x, level) -> x_0``, where ``level`` is the step index of a discrete schedule or the noise
level ``sigma`` of a continuous one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.schedules import DiscreteSchedule

Predictor = Callable[[jax.Array, jax.Array], jax.Array]
Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
LearnedDenoiser = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""Gives the logarithm of the reverse step's variance too."""


def at_index(values: jax.Array | np.ndarray, index: jax.Array, ndim: int) -> jax.Array:
    """``values (T,)`` at ``index``, with trailing axes of size one, so that it broadcasts against ``ndim`` axes."""
    picked = jnp.asarray(values)[index]
    return picked.reshape(picked.shape + (1,) * (ndim - picked.ndim)) if picked.ndim else picked


def add_noise(schedule: DiscreteSchedule, x_0: jax.Array, index: jax.Array, noise: jax.Array) -> jax.Array:
    """Forward process ``sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise``, shape of ``x_0``.

    ``index`` is a scalar or has the leading axes of ``x_0``. Source: Ho et al. 2020 (DDPM), arXiv 2006.11239, eq. 4.
    """
    alpha_bar = at_index(schedule.alpha_bar, index, x_0.ndim)
    return jnp.sqrt(alpha_bar) * x_0 + jnp.sqrt(1.0 - alpha_bar) * noise


def x0_from_epsilon(schedule: DiscreteSchedule, x: jax.Array, index: jax.Array, epsilon: jax.Array) -> jax.Array:
    """``x_0 = x / sqrt(alpha_bar) - sqrt(1 / alpha_bar - 1) epsilon``, shape of ``x``.

    Source: Ho et al. 2020 (DDPM), arXiv 2006.11239, below eq. 11.
    """
    inverse = 1.0 / at_index(schedule.alpha_bar, index, x.ndim)
    return jnp.sqrt(inverse) * x - jnp.sqrt(inverse - 1.0) * epsilon


def epsilon_from_x0(schedule: DiscreteSchedule, x: jax.Array, index: jax.Array, x_0: jax.Array) -> jax.Array:
    """The noise in ``x`` if the clean sample is ``x_0``, shape of ``x``: the inverse of :func:`x0_from_epsilon`."""
    inverse = 1.0 / at_index(schedule.alpha_bar, index, x.ndim)
    return (jnp.sqrt(inverse) * x - x_0) / jnp.sqrt(inverse - 1.0)


def epsilon_denoiser(predict: Predictor, schedule: DiscreteSchedule) -> Denoiser:
    """Denoiser of a network that predicts the noise."""
    return lambda x, index: x0_from_epsilon(schedule, x, index, predict(x, index))


def v_denoiser(predict: Predictor, schedule: DiscreteSchedule) -> Denoiser:
    """Denoiser of a network that predicts ``v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0``.

    ``x_0 = sqrt(alpha_bar) x - sqrt(1 - alpha_bar) v`` (Salimans & Ho 2022, arXiv 2202.00512, eq. 11).
    """

    def denoise(x: jax.Array, index: jax.Array) -> jax.Array:
        alpha_bar = at_index(schedule.alpha_bar, index, x.ndim)
        return jnp.sqrt(alpha_bar) * x - jnp.sqrt(1.0 - alpha_bar) * predict(x, index)

    return denoise


class EDMScales(NamedTuple):
    """EDM preconditioning at one noise level: ``D(x) = c_skip x + c_out F(c_in x, c_noise)``."""

    c_skip: jax.Array
    c_out: jax.Array
    c_in: jax.Array
    c_noise: jax.Array


def edm_scales(sigma: jax.Array, sigma_data: jax.Array | float) -> EDMScales:
    """Preconditioning scales at noise level ``sigma`` (any shape).

    ``c_skip = sd^2 / (s^2 + sd^2)``, ``c_out = s sd / sqrt(s^2 + sd^2)``, ``c_in = 1 / sqrt(s^2 + sd^2)``,
    ``c_noise = ln(s) / 4``. Source: Karras et al. 2022, arXiv 2206.00364, table 1; DTQL, diffusion/karras.py.
    """
    total = sigma**2 + sigma_data**2
    return EDMScales(
        c_skip=sigma_data**2 / total,
        c_out=sigma * sigma_data / jnp.sqrt(total),
        c_in=1.0 / jnp.sqrt(total),
        c_noise=jnp.log(sigma) / 4.0,
    )


def edm_denoiser(network: Predictor, sigma_data: jax.Array | float) -> Denoiser:
    """Denoiser ``(x, sigma) -> x_0`` of a network ``F(c_in x, c_noise)`` under EDM preconditioning.

    ``sigma`` has the shape of ``x`` without its last axis, or is a scalar.
    """

    def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
        c_skip, c_out, c_in, c_noise = edm_scales(sigma, sigma_data)
        return c_skip[..., None] * x + c_out[..., None] * network(c_in[..., None] * x, c_noise)

    return denoise


def gaussian_epsilon(schedule: DiscreteSchedule, std: float) -> Predictor:
    """The exact noise predictor when ``x_0 ~ N(0, std^2)`` per dimension: the oracle that samplers are tested with.

    ``epsilon(x, i) = x sqrt(1 - alpha_bar_i) / (alpha_bar_i std^2 + 1 - alpha_bar_i)``.
    """

    def predict(x: jax.Array, index: jax.Array) -> jax.Array:
        alpha_bar = at_index(schedule.alpha_bar, index, x.ndim)
        return x * jnp.sqrt(1.0 - alpha_bar) / (alpha_bar * std**2 + 1.0 - alpha_bar)

    return predict
