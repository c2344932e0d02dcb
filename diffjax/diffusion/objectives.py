"""Training objectives of denoisers, one value per sample; the caller takes the mean."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from diffjax.diffusion.denoisers import Denoiser, Predictor, add_noise, edm_scales
from diffjax.diffusion.schedules import NOISE_LAWS, ContinuousSchedule, DiscreteSchedule, scales


class DenoisingDraws(NamedTuple):
    """Random numbers of a discrete denoising loss: ``time_index (batch,)`` in ``0..T-1`` and ``noise`` like ``x_0``."""

    time_index: jax.Array
    noise: jax.Array


def draw_denoising(key: jax.Array, num_steps: int, shape: tuple[int, ...]) -> DenoisingDraws:
    """Uniform step indices for the leading axis of ``shape`` and standard normal noise of ``shape``."""
    index_key, noise_key = jax.random.split(key)
    return DenoisingDraws(
        time_index=jax.random.randint(index_key, shape[:1], 0, num_steps),
        noise=jax.random.normal(noise_key, shape),
    )


def noise_matching(predict: Predictor, schedule: DiscreteSchedule, x_0: jax.Array, draws: DenoisingDraws) -> jax.Array:
    """Simplified DDPM loss ``mean_dims (predict(x_i, i) - noise)^2``, ``(batch,)``.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14, with the mean over dimensions that all the authors' programs take.
    """
    chex.assert_equal_shape([x_0, draws.noise])
    x = add_noise(schedule, x_0, draws.time_index, draws.noise)
    return jnp.mean((predict(x, draws.time_index) - draws.noise) ** 2, axis=-1)


class TimeDraws(NamedTuple):
    """Random numbers of a continuous denoising loss: ``uniform (batch,)`` in ``[0, 1)`` and ``noise`` like ``x_0``."""

    uniform: jax.Array
    noise: jax.Array


def draw_times(key: jax.Array, shape: tuple[int, ...]) -> TimeDraws:
    """Uniform numbers for the leading axis of ``shape`` and standard normal noise of ``shape``."""
    uniform_key, noise_key = jax.random.split(key)
    return TimeDraws(jax.random.uniform(uniform_key, shape[:1]), jax.random.normal(noise_key, shape))


class Noised(NamedTuple):
    """Samples on their way to noise: ``time`` as the draws have it, ``x`` like the clean ones."""

    time: jax.Array
    x: jax.Array


def noised(schedule: ContinuousSchedule, x_0: jax.Array, draws: TimeDraws, time_min: jax.Array | float) -> Noised:
    """``alpha(t) x_0 + sigma(t) noise`` at ``t = uniform (1 - time_min) + time_min``.

    ``x_0`` and the noise may have more axes than ``uniform (batch,)``: a time is shared by all of its row.
    """
    chex.assert_equal_shape([x_0, draws.noise])
    time = draws.uniform * (1.0 - time_min) + time_min
    per_row = time.reshape(time.shape + (1,) * (x_0.ndim - time.ndim))
    alpha, sigma = scales(schedule.log_alpha(per_row))
    return Noised(time, alpha * x_0 + sigma * draws.noise)


def score_matching(
    predict: Predictor,
    schedule: ContinuousSchedule,
    x_0: jax.Array,
    draws: TimeDraws,
    time_min: jax.Array | float,
) -> jax.Array:
    """``sum_dims (predict(x_t, t) - noise)^2``, ``(batch,)``: a sum, where :func:`noise_matching` has a mean.

    Source: QGPO and SfBC, diffusion_SDE/loss.py.
    """
    time, x = noised(schedule, x_0, draws, time_min)
    return jnp.sum((predict(x, time) - draws.noise) ** 2, axis=-1)


TARGETS = ("x0", "epsilon")
"""What a network predicts of a noisy sample."""


def constrained_noise(
    schedule: DiscreteSchedule, x_0: jax.Array, draws: DenoisingDraws, constrain: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """``constrain(sqrt(alpha_bar_i) x_0 + sqrt(1 - alpha_bar_i) noise)``: noisy samples of which a part is known."""
    chex.assert_equal_shape([x_0, draws.noise])
    return constrain(add_noise(schedule, x_0, draws.time_index, draws.noise))


def constrained_error(
    predict: Predictor,
    schedule: DiscreteSchedule,
    x_0: jax.Array,
    draws: DenoisingDraws,
    constrain: Callable[[jax.Array], jax.Array],
    target: str,
) -> jax.Array:
    """``constrain(predict(x_i, i)) - target`` at :func:`constrained_noise`; ``target`` is one of
    :data:`TARGETS`, the sample or the noise.

    What ``constrain`` sets of a prediction costs nothing, so that a sampler may set it too. Shape of ``x_0``.
    Source: Janner et al. 2022 (Diffuser), arXiv 2205.09991, diffuser/models/diffusion.py.
    """
    x = constrained_noise(schedule, x_0, draws, constrain)
    goal = dict(zip(TARGETS, (x_0, draws.noise), strict=True))[target]
    return constrain(predict(x, draws.time_index)) - goal


class EDMDraws(NamedTuple):
    """Random numbers of an EDM denoising loss: noise level ``sigma`` ``(batch,)`` and ``noise`` like ``x_0``."""

    sigma: jax.Array
    noise: jax.Array


def draw_edm(
    key: jax.Array, shape: tuple[int, ...], law: str, sigma_min: float, sigma_max: float, sigma_data: float
) -> EDMDraws:
    """Noise levels by a ``law`` of ``NOISE_LAWS`` for the leading axis of ``shape``, standard normal noise of it."""
    sigma_key, noise_key = jax.random.split(key)
    uniform = jax.random.uniform(sigma_key, shape[:1])
    return EDMDraws(
        sigma=NOISE_LAWS[law](uniform, sigma_min, sigma_max, sigma_data),
        noise=jax.random.normal(noise_key, shape),
    )


def edm_matching(
    denoiser: Denoiser, x_0: jax.Array, draws: EDMDraws, sigma_data: jax.Array | float, clip: jax.Array | float
) -> jax.Array:
    """EDM loss ``mean_dims ((clip(D(x_0 + sigma noise)) - x_0) / c_out)^2``, ``(batch,)``.

    The clip lies inside the loss: a saturated coordinate sends no gradient through ``D``, yet does through the target.
    Source: DTQL, diffusion/karras.py (Karras et al. 2022, eq. 2 and 8, with the authors' clip).
    """
    chex.assert_equal_shape([x_0, draws.noise])
    x = x_0 + draws.sigma[..., None] * draws.noise
    c_out = edm_scales(draws.sigma, sigma_data).c_out
    error = jnp.clip(denoiser(x, draws.sigma), -clip, clip) - x_0
    return jnp.mean((error / c_out[..., None]) ** 2, axis=-1)
