"""How far the bounds that diffusion policies are trained with lie above the entropy of data whose denoiser is known.

DiffCPS constrains ``KL(behaviour || policy)``, whose cross-entropy it replaces by the variational bound and the bound
by the simple denoising loss. For actions ``x_0 ~ N(0, std^2)`` the best denoiser is known, and so is what each step
loses: ``entropy <= cross-entropy <= bound``, in nats per dimension. Where every reverse step has its best variance, all
three are one, but for the prior.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.bound import log_variance_range, prior_term, step_terms
from diffjax.diffusion.denoisers import add_noise, epsilon_denoiser, gaussian_epsilon
from diffjax.diffusion.schedules import DiscreteSchedule, discrete_schedule


class Gap(NamedTuple):
    """What stands between the entropy of ``N(0, std^2)`` and what is minimised in its place, nats per dimension.

    ``posterior``, ``beta`` and ``best`` are bounds minus entropy with that variance of the reverse steps; ``standard
    _error`` is that of ``posterior``; ``simple`` is the denoising loss of the best denoiser, in squared units of noise.
    """

    schedule: str
    steps: int
    std: float
    entropy: float
    posterior: float
    beta: float
    best: float
    standard_error: float
    simple: float


def best_log_variance(schedule: DiscreteSchedule, std: float) -> np.ndarray:
    """The logarithm of ``Var(x_{i-1} | x_i)``, ``(T,)``, for ``x_0 ~ N(0, std^2)``.

    The posterior's variance plus what its mean varies with ``x_0``: ``coef_x0^2 Var(x_0 | x_i)`` (Bao et al. 2022,
    arXiv 2201.06503, theorem 1).
    """
    alpha_bar = schedule.alpha_bar.astype(np.float64)
    unknown = std**2 * (1.0 - alpha_bar) / (alpha_bar * std**2 + 1.0 - alpha_bar)
    return np.log(schedule.posterior_variance + schedule.posterior_coef_x0.astype(np.float64) ** 2 * unknown)


def measure(key: jax.Array, samples: int, schedule_name: str, steps: int, std: float) -> Gap:
    """The gap of one schedule, by the mean over as many ``samples``; those of a shorter chain are the longer one's."""
    draws = jnp.stack([jax.random.normal(jax.random.fold_in(key, index), (samples,)) for index in range(steps + 1)], 1)
    return gap_of(draws, schedule_name, steps, std)


def gap_of(draws: jax.Array, schedule_name: str, steps: int, std: float) -> Gap:
    """:func:`measure` with ``draws (samples, steps + 1)``, standard normal: the actions', then each step's."""
    schedule = discrete_schedule(schedule_name, steps)
    predict = gaussian_epsilon(schedule, std)
    denoise = epsilon_denoiser(predict, schedule)
    x_0 = std * draws[:, 0]
    log_variances = jnp.stack([*log_variance_range(schedule), best_log_variance(schedule, std)]).astype(jnp.float32)
    entropy = 0.5 * np.log(2.0 * np.pi * np.e * std**2)

    def of_step(index: jax.Array) -> tuple[jax.Array, ...]:
        x = add_noise(schedule, x_0, index, draws[:, index + 1])
        denoised = denoise(x, index)
        terms = [step_terms(schedule, x_0, x, index, denoised, value) for value in log_variances[:, index]]
        return (*terms, (predict(x, index) - draws[:, index + 1]) ** 2)

    *found, simple = jax.lax.map(of_step, jnp.arange(steps))
    bounds = [np.asarray(jnp.sum(terms, axis=0) + prior_term(schedule, x_0), np.float64) for terms in found]
    # A sample's own share of the entropy is taken off it, which leaves the noise of the gap alone.
    own = 0.5 * (np.log(2.0 * np.pi * std**2) + np.asarray(draws[:, 0], np.float64) ** 2)
    posterior, beta, best = (bound - own for bound in bounds)
    return Gap(
        schedule_name,
        steps,
        std,
        float(entropy),
        posterior=float(posterior.mean()),
        beta=float(beta.mean()),
        best=float(best.mean()),
        standard_error=float(posterior.std(ddof=1) / np.sqrt(len(posterior))),
        simple=float(jnp.mean(simple)),
    )
