"""Samplers: transition rules that turn noise into samples, given a denoiser.

Every random number is an argument (:class:`ChainNoise`); :func:`draw_chain_noise` is the thin wrapper that holds a key.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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

    Raises:
      ValueError: for another name.
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


class Transition(NamedTuple):
    """Coefficients of a step of a chain, or of several."""

    time_index: jax.Array
    coef_x0: jax.Array
    coef_xt: jax.Array
    std: jax.Array

    def mean(self, x_0: jax.Array, x: jax.Array) -> jax.Array:
        """``coef_x0_i x_0 + coef_xt_i x``; of several steps for several samples."""
        coef_x0, coef_xt = (jnp.expand_dims(c, range(c.ndim, x.ndim)) for c in (self.coef_x0, self.coef_xt))
        return coef_x0 * x_0 + coef_xt * x


def transitions(schedule: DiscreteSchedule, variance: Variance, index: jax.Array | np.ndarray) -> Transition:
    """The coefficients of steps ``index (...)``."""
    arrays = schedule.posterior_coef_x0, schedule.posterior_coef_xt, transition_std(schedule, variance)
    return Transition(jnp.asarray(index), *(jnp.asarray(array[index]) for array in arrays))


def _downwards(schedule: DiscreteSchedule) -> np.ndarray:
    return np.arange(schedule.num_steps, dtype=np.int32)[::-1]


def _clipped(x: jax.Array, bound: jax.Array | float | None) -> jax.Array:
    return x if bound is None else jnp.clip(x, -bound, bound)


def _moved(
    x: jax.Array, denoiser: Denoiser | LearnedDenoiser, at: Transition, z: jax.Array, clip: jax.Array | float | None
) -> jax.Array:
    """One step of the ancestral chain."""
    found = denoiser(x, at.time_index)
    x_0, own_std = (found[0], jnp.exp(0.5 * found[1])) if isinstance(found, tuple) else (found, 1.0)
    return at.mean(_clipped(x_0, clip), x) + at.std * own_std * z


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

    def step(x: jax.Array, inputs: tuple[Transition, jax.Array]) -> tuple[jax.Array, jax.Array]:
        at, z = inputs
        x = _clipped(_moved(x, denoiser, at, temperature * z, clip), state_clip)
        return x, x

    order = np.append(_downwards(schedule), np.zeros(repeats, np.int32))
    _, states = jax.lax.scan(step, noise.start, (transitions(schedule, variance, order), noise.steps))
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
        x_0 = _clipped(denoiser(x, index), clip)
        x = jnp.sqrt(previous) * x_0 + jnp.sqrt(1.0 - previous) * epsilon_from_x0(schedule, x, index, x_0)
        return x, x

    index = jnp.arange(schedule.num_steps)[::-1]
    _, states = jax.lax.scan(step, start, (index, jnp.asarray(schedule.alpha_bar_prev[::-1])))
    return jnp.concatenate([start[None], states])


STRENGTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "variance": np.exp,
    "std": lambda log_variance: np.exp(0.5 * log_variance),
    "none": np.ones_like,
}
"""What a guide's gradient is multiplied with, of the posterior's log variance."""


class Guide(NamedTuple):
    """Ascent on a value before every step of a chain: ``steps`` times ``x <- x + scale strength_i grad value(x, i)``.

    ``value(x, index)`` maps samples to one number each. Below index ``stop`` nothing is moved.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    steps: int
    scale: jax.Array | float
    stop: int
    strength: str  # of ``STRENGTHS``


def guided_chain(
    denoiser: Denoiser,
    schedule: DiscreteSchedule,
    noise: ChainNoise,
    guide: Guide,
    *,
    clip: jax.Array | float | None,
    constrain: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """:func:`ancestral_chain` with posterior variance and a guide; and the values ``(T, ...)`` of each step.

    The value of a step is that before the last move of its guide, so the last one is of the samples before their last
    denoising. Source: Janner et al. 2022 (Diffuser), arXiv 2205.09991, diffuser/sampling/functions.py.
    """
    strength = STRENGTHS[guide.strength](schedule.posterior_log_variance)
    chex.assert_shape(noise.steps, (schedule.num_steps, *noise.start.shape))

    def pushed(x: jax.Array, index: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.vjp(lambda x: guide.value(x, index), x)
        return constrain(x + guide.scale * factor * gradient(jnp.ones_like(value))[0]), value

    def guided(x: jax.Array, inputs: tuple[Transition, jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        at, z, factor = inputs
        value = jnp.zeros(())
        for _ in range(guide.steps):  # no loop in a loop, of which ONNX's converter mistakes the shapes
            x, value = pushed(x, at.time_index, factor)
        x = constrain(_moved(x, denoiser, at, z, clip))
        return x, (x, value)

    def judged(x: jax.Array, inputs: tuple[Transition, jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        at, z, _ = inputs
        after = constrain(_moved(x, denoiser, at, z, clip))
        return after, (after, guide.value(x, at.time_index))

    x = start = constrain(noise.start)
    steps = transitions(schedule, "posterior", _downwards(schedule))
    inputs = steps, noise.steps, jnp.asarray(strength)[steps.time_index]
    moving = max(schedule.num_steps - guide.stop, 0) if guide.steps else 0
    found = []
    for step, part in ((guided, slice(moving)), (judged, slice(moving, schedule.num_steps))):
        if len(range(schedule.num_steps)[part]):
            x, passed = jax.lax.scan(step, x, jax.tree.map(lambda leaf, part=part: leaf[part], inputs))
            found.append(passed)
    states, values = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    return jnp.concatenate([start[None], states]), values
