"""The variational bound of a discrete diffusion: what a reverse chain of Gaussian steps says of data, in nats.

``-log p(x_0) <= E[sum_i L_i] + L_T`` with reverse steps ``p(x_{i-1} | x_i) = N(mean_i, variance_i)`` (Ho et al. 2020,
arXiv 2006.11239, eq. 5): ``L_i = KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i))``, at the least noisy step
``-log p(x_0 | x_1)``, and ``L_T = KL(q(x_T | x_0) || N(0, 1))``. Everything is per dimension.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.denoisers import at_index
from diffjax.diffusion.schedules import DiscreteSchedule, respaced, steps_taken


def log_variance_range(schedule: DiscreteSchedule) -> tuple[np.ndarray, np.ndarray]:
    """The logarithms of the posterior variance and of beta, ``(T,)``, between which the best variance lies.

    The posterior variance of index 0 is 0; that of index 1 takes its place, or beta's where there is none (Nichol &
    Dhariwal 2021, arXiv 2102.09672, eq. 15).
    """
    low, high = schedule.posterior_log_variance, np.log(schedule.beta)
    first = low[1:2] if schedule.num_steps > 1 else high[:1]
    return np.concatenate([first, low[1:]]), high


def learned_log_variance(schedule: DiscreteSchedule, mix: jax.Array, index: jax.Array, steps: int = 0) -> jax.Array:
    """``v log beta + (1 - v) log posterior variance``, ``v = (mix + 1) / 2``; shape of ``mix``, a network's output.

    ``index`` is that of a trained step; of a chain that takes ``steps`` of them the range is its own.
    """
    places = np.searchsorted(steps_taken(schedule.num_steps, steps), np.arange(schedule.num_steps))
    bounds = (bound[places] for bound in log_variance_range(respaced(schedule, steps)))
    low, high = (at_index(bound, index, mix.ndim) for bound in bounds)
    share = (mix + 1.0) / 2.0
    return share * high + (1.0 - share) * low


def reverse_mean(schedule: DiscreteSchedule, x_0: jax.Array, x: jax.Array, index: jax.Array) -> jax.Array:
    """``coef_x0_i x_0 + coef_xt_i x_i``, shape of ``x``: the mean of the posterior, or of a reverse step if denoised.

    Source: Ho et al. 2020 (DDPM), arXiv 2006.11239, eq. 7.
    """
    coef_x0 = at_index(schedule.posterior_coef_x0, index, x.ndim)
    return coef_x0 * x_0 + at_index(schedule.posterior_coef_xt, index, x.ndim) * x


def gaussian_kl(
    mean: jax.Array, log_variance: jax.Array, other_mean: jax.Array, other_log_variance: jax.Array
) -> jax.Array:
    """``KL(N(mean, variance) || N(other_mean, other_variance))``, elementwise."""
    ratio = jnp.exp(log_variance - other_log_variance)
    distance = (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance + ratio + distance - 1.0)


def step_terms(
    schedule: DiscreteSchedule,
    x_0: jax.Array,
    x: jax.Array,
    index: jax.Array,
    denoised: jax.Array,
    log_variance: jax.Array,
) -> jax.Array:
    """``L_i`` per dimension, shape of ``x_0``; ``index`` a scalar or the leading axes of ``x_0``."""
    mean = reverse_mean(schedule, denoised, x, index)
    posterior = at_index(schedule.posterior_log_variance, index, x.ndim)
    divergence = gaussian_kl(reverse_mean(schedule, x_0, x, index), posterior, mean, log_variance)
    reconstruction = 0.5 * (log_variance + np.log(2 * np.pi) + (x_0 - mean) ** 2 * jnp.exp(-log_variance))
    first = index.reshape(index.shape + (1,) * (x.ndim - index.ndim)) == 0
    return jnp.where(first, reconstruction, divergence)


def prior_term(schedule: DiscreteSchedule, x_0: jax.Array) -> jax.Array:
    """``L_T`` per dimension, shape of ``x_0``."""
    alpha_bar = jnp.asarray(schedule.alpha_bar[-1])
    nothing = jnp.zeros_like(x_0)
    return gaussian_kl(jnp.sqrt(alpha_bar) * x_0, nothing + jnp.log(1.0 - alpha_bar), nothing, nothing)
