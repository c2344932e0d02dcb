"""Noise schedules: discrete (vp, linear, cosine) and continuous (VP with a linear rate or through a discrete one, EDM).

A discrete schedule of ``T`` steps is a set of ``(T,)`` float32 arrays; index ``0`` is the least noisy step. The arrays
are constants of the program: they are made in NumPy from static arguments, betas in float64 and everything derived
from them in float32, the precision in which the authors' programs derive them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion import SCHEDULES

LOG_VARIANCE_FLOOR = 1e-20


class DiscreteSchedule(NamedTuple):
    """Coefficients of a ``T``-step discrete diffusion; every field has shape ``(T,)``.

    Forward process: ``x_i = sqrt(alpha_bar_i) x_0 + sqrt(1 - alpha_bar_i) noise``.
    Posterior mean: ``posterior_coef_x0 * x_0 + posterior_coef_xt * x_i``; its variance is ``posterior_variance``.
    """

    beta: np.ndarray
    alpha_bar: np.ndarray
    alpha_bar_prev: np.ndarray
    posterior_variance: np.ndarray
    posterior_log_variance: np.ndarray
    posterior_coef_x0: np.ndarray
    posterior_coef_xt: np.ndarray

    @property
    def num_steps(self) -> int:
        """Number of diffusion steps ``T``."""
        return self.beta.shape[0]


def vp_betas(num_steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> np.ndarray:
    """Variance-preserving betas, ``(T,)`` float64.

    ``beta_i = 1 - exp(-beta_min / T - (beta_max - beta_min) (2 i - 1) / (2 T^2))``, ``i = 1..T``; the product of all
    ``1 - beta_i`` is ``exp(-(beta_min + beta_max) / 2)`` for every ``T``.
    Source: Diffusion-QL, agents/helpers.py; DAC, diffusions/utils.py (the same formula).
    """
    i = np.arange(1, num_steps + 1)
    return 1.0 - np.exp(-beta_min / num_steps - 0.5 * (beta_max - beta_min) * (2 * i - 1) / num_steps**2)


def linear_betas(num_steps: int, beta_start: float = 1e-4, beta_end: float = 2e-2) -> np.ndarray:
    """Betas equally spaced from ``beta_start`` to ``beta_end``, ``(T,)`` float64; not rescaled for small ``T``.

    Source: Diffusion-QL, agents/helpers.py.
    """
    return np.linspace(beta_start, beta_end, num_steps)


def scaled_linear_betas(num_steps: int) -> np.ndarray:
    """Betas equally spaced from ``0.1 / T`` to ``20 / T``, ``(T,)`` float64: those of 1000 linear steps, rescaled.

    Source: EDP, diffusion/diffusion.py (there called linear).

    Raises:
      ValueError: for 20 steps or fewer, where the last beta is no longer below 1.
    """
    if num_steps <= 20:
        raise ValueError(f"schedule scaled_linear needs more than 20 steps, not {num_steps}")
    return np.linspace(0.1 / num_steps, 20.0 / num_steps, num_steps)


def cosine_betas(num_steps: int, offset: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Cosine betas, ``(T,)`` float64.

    ``alpha_bar(x) = cos^2(((x / (T + 1)) + s) / (1 + s) * pi / 2)`` at ``T + 1`` points from 0 to ``T + 1``,
    ``beta_i = clip(1 - alpha_bar_i / alpha_bar_{i-1}, 0, max_beta)``.
    Source: Diffusion-QL, agents/helpers.py (the spacing ``(T + 1) / T`` is the authors').
    """
    x = np.linspace(0, num_steps + 1, num_steps + 1)
    alpha_bar = np.cos(((x / (num_steps + 1)) + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, max_beta)


BETAS = dict(zip(SCHEDULES, (vp_betas, linear_betas, scaled_linear_betas, cosine_betas), strict=True))


def discrete_schedule(name: str, num_steps: int) -> DiscreteSchedule:
    """The schedule called ``name``, one of :data:`BETAS`, with ``num_steps`` steps.

    Raises:
      ValueError: for another name, or fewer steps than that schedule needs: at least one.
    """
    if name not in BETAS:
        raise ValueError(f"schedule {name!r} is none of {', '.join(sorted(BETAS))}")
    if num_steps < 1:
        raise ValueError(f"a schedule needs at least one step, not {num_steps}")
    beta = BETAS[name](num_steps).astype(np.float32)
    return _derived(beta, np.cumprod(np.float32(1.0) - beta, dtype=np.float32))


def steps_taken(num_steps: int, steps: int = 0) -> np.ndarray:
    """Which of ``num_steps`` trained steps a chain of ``steps`` takes, rising ``(steps,)``; all of them for 0.

    Evenly spaced from the first to the last, ``i (T - 1) / (steps - 1)`` rounded, halves upwards; a single step is the
    noisiest. Of 5: ``4``, ``0 4``, ``0 2 4``, ``0 1 3 4``, all.

    Raises:
      ValueError: for more steps than were trained, or a negative number.
    """
    if not 0 <= steps <= num_steps:
        raise ValueError(f"{steps} steps of {num_steps} that were trained; 1 to {num_steps} can be taken, 0 takes all")
    steps = steps or num_steps
    if steps == 1:
        return np.array([num_steps - 1], np.int32)
    return ((2 * np.arange(steps) * (num_steps - 1) + steps - 1) // (2 * (steps - 1))).astype(np.int32)


def respaced(schedule: DiscreteSchedule, steps: int) -> DiscreteSchedule:
    """The schedule that has :func:`steps_taken` alone: its ``alpha_bar`` are theirs, the rest follows from them.

    ``beta = 1 - alpha_bar / alpha_bar_prev``, where ``alpha_bar_prev`` is that of the step below among those taken.
    Source: Nichol & Dhariwal 2021, arXiv 2102.09672, section 4.
    """
    taken = steps_taken(schedule.num_steps, steps)
    if len(taken) == schedule.num_steps:
        return schedule
    alpha_bar = schedule.alpha_bar[taken]
    ratio = alpha_bar.astype(np.float64) / np.append(1.0, alpha_bar[:-1])
    return _derived((1.0 - ratio).astype(np.float32), alpha_bar)


def _derived(beta: np.ndarray, alpha_bar: np.ndarray) -> DiscreteSchedule:
    """What follows from both, in float32."""
    one = np.float32(1.0)
    alpha_bar_prev = np.concatenate([np.ones(1, np.float32), alpha_bar[:-1]])
    posterior_variance = beta * (one - alpha_bar_prev) / (one - alpha_bar)
    return DiscreteSchedule(
        beta=beta,
        alpha_bar=alpha_bar,
        alpha_bar_prev=alpha_bar_prev,
        posterior_variance=posterior_variance,
        posterior_log_variance=np.log(np.clip(posterior_variance, np.float32(LOG_VARIANCE_FLOOR), None)),
        posterior_coef_x0=beta * np.sqrt(alpha_bar_prev) / (one - alpha_bar),
        posterior_coef_xt=(one - alpha_bar_prev) * np.sqrt(one - beta) / (one - alpha_bar),
    )


def elbo_sigma(
    uniform: jax.Array, sigma_min: jax.Array | float, sigma_max: jax.Array | float, sigma_data: jax.Array | float
) -> jax.Array:
    """Noise levels under which EDM's loss is the variational bound of ``[sigma_min, sigma_max]``, by inversion.

    The bound weighs ``||D(x) - x_0||^2`` with ``-d(1 / sigma^2) / d sigma / 2 = sigma^-3``, EDM's loss with
    ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2``. Their quotient is the density of a uniform ``ln F``,
    ``F = sigma^2 / (sigma^2 + sigma_data^2)``; the bound is ``ln(F_max / F_min) / 2`` times the loss's sum over dims.

    Args:
      uniform: numbers in ``[0, 1)``, any shape.
    Source: Kingma & Gao 2023, arXiv 2303.00848, eq. 8, for the weights of EDM (Karras et al. 2022, table 1).
    """
    log_share = lambda sigma: -jnp.log1p((sigma_data / jnp.asarray(sigma, uniform.dtype)) ** 2)  # noqa: E731
    low, high = log_share(sigma_min), log_share(sigma_max)
    return sigma_data / jnp.sqrt(jnp.expm1(-(low + uniform * (high - low))))


def bound_weights(schedule: DiscreteSchedule) -> np.ndarray:
    """``beta / (2 (1 - alpha_bar) alpha)``, ``(T,)``, to mean 1: what the variational bound weighs noise errors with.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 12 with ``sigma^2 = beta``; EDP, diffusion/diffusion.py.
    """
    one = np.float32(1.0)
    weight = schedule.beta / (2 * (one - schedule.alpha_bar) * (one - schedule.beta))
    return schedule.num_steps * weight / np.sum(weight)


class ContinuousSchedule(NamedTuple):
    """A variance-preserving diffusion in continuous time: ``x_t = alpha(t) x_0 + sigma(t) noise``.

    ``log_alpha(t)`` gives the logarithm of ``alpha``, and ``sigma = sqrt(1 - alpha^2)``; ``time`` inverts
    ``lambda(t) = log alpha - log sigma``, half the logarithm of the signal-to-noise ratio.
    """

    log_alpha: Callable[[Any], Any]
    time: Callable[[np.ndarray], np.ndarray]


def scales(log_alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``alpha`` and ``sigma = sqrt(1 - alpha^2)``, which keeps its digits where ``alpha`` is nearly 1."""
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha))


def linear_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> ContinuousSchedule:
    """The VP diffusion whose rate ``beta(t)`` grows linearly over ``[0, 1]``.

    ``log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2``; with
    ``c = 2 (beta_max - beta_min) log(1 + exp(-2 lambda))`` its time is
    ``t = c / ((sqrt(beta_min^2 + c) + beta_min) (beta_max - beta_min))``.
    Source: Song et al. 2021, arXiv 2011.13456, appendix C; QGPO and SfBC, diffusion_SDE/schedule.py.
    """
    growth = beta_max - beta_min

    def time(half_log_snr: np.ndarray) -> np.ndarray:
        c = 2.0 * growth * np.logaddexp(0.0, -2.0 * half_log_snr)
        return c / ((np.sqrt(beta_min**2 + c) + beta_min) * growth)

    return ContinuousSchedule(lambda t: -0.25 * growth * t**2 - 0.5 * beta_min * t, time)


def interpolated_vp(schedule: DiscreteSchedule) -> ContinuousSchedule:
    """The continuous diffusion through a discrete one: ``log alpha`` is linear between those at ``t = (i + 1) / T``.

    Beyond them it goes on as in the outer pieces, so that before ``1 / T`` it may exceed 0, where no ``sigma`` exists.
    Source: Lu et al. 2022, arXiv 2206.00927, appendix D; EDP, diffusion/dpm_solver.py.
    """
    times = np.arange(1, schedule.num_steps + 1) / schedule.num_steps
    log_alphas = 0.5 * np.log(schedule.alpha_bar.astype(np.float64))

    def through(x: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        piece = np.clip(np.searchsorted(places, x) - 1, 0, len(places) - 2)
        slope = np.diff(values) / np.diff(places)
        return values[piece] + slope[piece] * (x - places[piece])

    def time(half_log_snr: np.ndarray) -> np.ndarray:
        return through(-0.5 * np.logaddexp(0.0, -2.0 * half_log_snr), log_alphas[::-1], times[::-1])

    return ContinuousSchedule(lambda t: through(t, times, log_alphas), time)


def log_logistic_sigma(
    uniform: jax.Array, sigma_min: jax.Array | float, sigma_max: jax.Array | float, sigma_data: jax.Array | float
) -> jax.Array:
    """Noise levels of a log-logistic law truncated to ``[sigma_min, sigma_max]``, by inversion.

    ``F(sigma) = sigma^2 / (sigma^2 + sigma_data^2)`` (location ``ln sigma_data``, scale 1/2),
    ``v = F(sigma_min) + uniform (F(sigma_max) - F(sigma_min))``, ``sigma = sigma_data sqrt(v / (1 - v))``.
    ``1 - v`` is built from the complementary uniform, so that float32 keeps both tails.

    Args:
      uniform: numbers in ``[0, 1)``, any shape.
    Source: DTQL, diffusion/utils.py.
    """
    sigma_min, sigma_max, sigma_data = (jnp.asarray(s, uniform.dtype) for s in (sigma_min, sigma_max, sigma_data))
    data_variance = sigma_data**2
    low_total, high_total = sigma_min**2 + data_variance, sigma_max**2 + data_variance
    low, complement_high = sigma_min**2 / low_total, data_variance / high_total
    width = data_variance * (sigma_max**2 - sigma_min**2) / low_total / high_total
    log_odds = jnp.log(low + uniform * width) - jnp.log(complement_high + (1.0 - uniform) * width)
    return sigma_data * jnp.exp(0.5 * log_odds)


NOISE_LAWS = {"edm": log_logistic_sigma, "elbo": elbo_sigma}
