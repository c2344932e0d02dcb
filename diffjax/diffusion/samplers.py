"""Samplers: transition rules that turn noise into samples, given a denoiser.

Every rule here is one recurrence, ``x <- coef_xt x + coef_x0 x_0 + coef_before x_0' + std z``, where ``x_0`` is what
the denoiser says at ``x`` and ``x_0'`` what it said one step before; a rule is a table of these coefficients
(:class:`Transition`), and :func:`chain` follows it. A chain may take fewer steps than were trained
(:func:`steps_taken`). Every random number is an argument (:class:`ChainNoise`); :func:`draw_chain_noise` is the thin
wrapper that holds a key.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.denoisers import Denoiser, LearnedDenoiser
from diffjax.diffusion.schedules import DiscreteSchedule, respaced, steps_taken

Variance = Literal["posterior", "beta", "learned"]


class ChainNoise(NamedTuple):
    """Random numbers of one reverse chain of ``T`` steps.

    ``start`` has the shape of the samples; ``steps`` is ``(T, *samples)`` in the order of use: ``steps[0]`` is added
    at the noisiest step, ``steps[T - 1]`` is drawn but never added. Of a rule without randomness ``T`` is 0.
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
    """Coefficients of a step of a chain, or of several; ``std`` is None of a rule that adds no noise.

    ``coef_before`` multiplies the clean sample of the step before; None of a rule that forgets it.
    """

    time_index: jax.Array  # of the trained steps
    coef_x0: jax.Array
    coef_xt: jax.Array
    std: jax.Array | None
    coef_before: jax.Array | None = None

    def mean(self, x_0: jax.Array, x: jax.Array) -> jax.Array:
        """``coef_x0_i x_0 + coef_xt_i x``; of several steps for several samples."""
        coef_x0, coef_xt = (jnp.expand_dims(c, range(c.ndim, x.ndim)) for c in (self.coef_x0, self.coef_xt))
        return coef_x0 * x_0 + coef_xt * x


def transitions(schedule: DiscreteSchedule, variance: Variance, index: jax.Array | np.ndarray) -> Transition:
    """The coefficients of ancestral steps ``index (...)``, each to the step below."""
    arrays = schedule.posterior_coef_x0, schedule.posterior_coef_xt, transition_std(schedule, variance)
    return Transition(jnp.asarray(index), *(jnp.asarray(array[index]) for array in arrays))


class _Way(NamedTuple):
    """The steps of a chain in the order in which it takes them; the least noisy one perhaps several times."""

    time_index: np.ndarray  # of the trained steps
    place: np.ndarray  # of those that are taken
    schedule: DiscreteSchedule  # of those that are taken


def _way(schedule: DiscreteSchedule, steps: int, repeats: int) -> _Way:
    taken = steps_taken(schedule.num_steps, steps)
    place = np.append(np.arange(len(taken), dtype=np.int32)[::-1], np.zeros(repeats, np.int32))
    return _Way(taken[place], place, respaced(schedule, steps))


def ancestral(schedule: DiscreteSchedule, variance: Variance, steps: int = 0, repeats: int = 0) -> Transition:
    """The ancestral DDPM chain: the posterior's mean at the denoised sample, and noise of ``variance``.

    Of fewer steps than were trained: the chain of the schedule that has these alone.

    Args:
      steps: how many are taken, 0 for all; repeats: how often the one at index 0 is taken again.
    Source: Ho et al. 2020, arXiv 2006.11239, eq. 7; Nichol & Dhariwal 2021, arXiv 2102.09672, section 4.
    """
    way = _way(schedule, steps, repeats)
    return transitions(way.schedule, variance, way.place)._replace(time_index=jnp.asarray(way.time_index))


def _levels(way: _Way) -> tuple[np.ndarray, np.ndarray]:
    """``alpha_bar`` at which each step begins and ends, float64."""
    alpha_bar, previous = way.schedule.alpha_bar[way.place], way.schedule.alpha_bar_prev[way.place]
    return alpha_bar.astype(np.float64), previous.astype(np.float64)


def ddim(
    schedule: DiscreteSchedule, eta: jax.Array | float | None = None, steps: int = 0, repeats: int = 0
) -> Transition:
    """DDIM: ``x <- sqrt(prev) x_0 + sqrt(1 - prev - sigma^2) epsilon + sigma z``.

    ``epsilon`` is the noise in ``x`` that goes with the (clipped) ``x_0``, and ``sigma = eta sqrt((1 - prev) / (1 -
    alpha_bar)) sqrt(1 - alpha_bar / prev)``: with ``eta`` 0 the chain is a map of its start, with 1 it is the ancestral
    one with the posterior's variance.

    Args:
      eta: may be traced; None is 0 without any noise to be drawn. steps, repeats: as in :func:`ancestral`.
    Source: Song et al. 2021, arXiv 2010.02502, eq. 12 and 16.
    """
    way = _way(schedule, steps, repeats)
    alpha_bar, previous = _levels(way)
    left, kept = 1.0 - alpha_bar, (1.0 - previous) / (1.0 - alpha_bar)
    anew = (1.0 - alpha_bar / previous) / left  # share of the noise behind the step that eta = 1 draws anew
    squared = 0.0 if eta is None else eta**2
    held = lambda array: jnp.asarray(array, jnp.float32)  # noqa: E731
    coef_xt = held(np.sqrt(kept)) * jnp.sqrt(1.0 - squared * held(anew))
    # sqrt(prev) - sqrt(alpha_bar) coef_xt, as a quotient that has no small difference of large terms.
    rise = held((previous - alpha_bar) / left) + squared * held(anew * kept * alpha_bar)
    coef_x0 = rise / (held(np.sqrt(previous)) + held(np.sqrt(alpha_bar)) * coef_xt)
    std = None if eta is None else eta * held(np.sqrt(anew * (1.0 - previous)))
    return Transition(jnp.asarray(way.time_index), coef_x0, coef_xt, std)


def dpmpp2m(schedule: DiscreteSchedule, steps: int = 0, repeats: int = 0) -> Transition:
    """DPM-Solver++(2M): a step of second order that reuses the clean sample of the step before; no noise.

    With ``lambda = log(alpha / sigma)``, ``h`` the step of ``lambda`` and ``r`` the one before divided by it:
    ``x <- (sigma' / sigma) x - alpha' (e^-h - 1) D``, ``D = (1 + 1 / (2 r)) x_0 - x_0' / (2 r)``. The first step has no
    predecessor and the last one, to the clean sample, no finite ``h``: in both ``D = x_0``, which is a step of DDIM.
    ``steps`` and ``repeats`` are as in :func:`ancestral`. Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """
    way = _way(schedule, steps, repeats)
    alpha_bar, previous = _levels(way)
    half_log_snr = 0.5 * np.log(alpha_bar / (1.0 - alpha_bar))
    slope = np.zeros(len(alpha_bar))  # 1 / (2 r)
    inner = np.flatnonzero(previous < 1.0)[1:]
    following = 0.5 * np.log(previous[inner] / (1.0 - previous[inner]))
    slope[inner] = 0.5 * (following - half_log_snr[inner]) / (half_log_snr[inner] - half_log_snr[inner - 1])
    shrink = np.sqrt((1.0 - previous) / (1.0 - alpha_bar))
    weight = np.sqrt(previous) - shrink * np.sqrt(alpha_bar)
    columns = weight * (1.0 + slope), shrink, -weight * slope
    coef_x0, coef_xt, coef_before = (jnp.asarray(column, jnp.float32) for column in columns)
    return Transition(jnp.asarray(way.time_index), coef_x0, coef_xt, None, coef_before)


def _clipped(x: jax.Array, bound: jax.Array | float | None) -> jax.Array:
    return x if bound is None else jnp.clip(x, -bound, bound)


def _moved(
    x: jax.Array,
    before: jax.Array | None,
    denoiser: Denoiser | LearnedDenoiser,
    at: Transition,
    z: jax.Array | None,
    clip: jax.Array | float | None,
) -> tuple[jax.Array, jax.Array]:
    """One step of a chain: the next state, and the clean sample that it was made of."""
    found = denoiser(x, at.time_index)
    x_0, own_std = (found[0], jnp.exp(0.5 * found[1])) if isinstance(found, tuple) else (found, 1.0)
    x_0 = _clipped(x_0, clip)
    moved = at.mean(x_0, x)
    if at.coef_before is not None and before is not None:
        moved += at.coef_before * before
    if at.std is not None and z is not None:
        moved += at.std * own_std * z
    return moved, x_0


def chain(
    denoiser: Denoiser | LearnedDenoiser,
    steps: Transition,
    noise: ChainNoise,
    *,
    clip: jax.Array | float | None,
    state_clip: jax.Array | float | None = None,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """All states of a chain, ``(steps + 1, *samples)``: the start first, the sample last.

    ``x_0 = clip(denoiser(x, i))``, then the recurrence of ``steps``; the noise is multiplied by ``temperature``. Where
    the denoiser gives ``x_0`` and the logarithm of the step's variance, ``std`` multiplies its root. Nothing is
    detached: gradients flow through every step and, where it does not saturate, through the clip.

    Args:
      noise: a row for each step, or none where ``steps`` add no noise.
      clip: bound of ``x_0`` per dimension; None for no clipping.
      state_clip: bound of each new ``x``, its noise included; None for no clipping.
    """
    rows = 0 if steps.std is None else steps.time_index.shape[0]
    chex.assert_shape(noise.steps, (rows, *noise.start.shape))

    def step(carry: tuple[jax.Array, Any], inputs: tuple[Transition, Any]) -> tuple[tuple[jax.Array, Any], jax.Array]:
        (x, before), (at, z) = carry, inputs
        x, x_0 = _moved(x, before, denoiser, at, None if z is None else temperature * z, clip)
        x = _clipped(x, state_clip)
        return (x, None if before is None else x_0), x

    before = None if steps.coef_before is None else jnp.zeros_like(noise.start)
    inputs = steps, None if steps.std is None else noise.steps
    _, states = jax.lax.scan(step, (noise.start, before), inputs)
    return jnp.concatenate([noise.start[None], states])


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
    steps: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """The chain :func:`ancestral` with posterior variance and a guide; and the values ``(steps, ...)`` of each step.

    The value of a step is that before the last move of its guide, so the last one is of the samples before their last
    denoising. ``steps`` says how many are taken, 0 for all; ``noise`` has a row for each.
    Source: Janner et al. 2022 (Diffuser), arXiv 2205.09991, diffuser/sampling/functions.py.
    """
    way = _way(schedule, steps, repeats=0)
    strength = STRENGTHS[guide.strength](way.schedule.posterior_log_variance)[way.place]
    chex.assert_shape(noise.steps, (len(way.place), *noise.start.shape))

    def pushed(x: jax.Array, index: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.vjp(lambda x: guide.value(x, index), x)
        return constrain(x + guide.scale * factor * gradient(jnp.ones_like(value))[0]), value

    def guided(x: jax.Array, inputs: tuple[Transition, jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        at, z, factor = inputs
        value = jnp.zeros(())
        for _ in range(guide.steps):  # no loop in a loop, of which ONNX's converter mistakes the shapes
            x, value = pushed(x, at.time_index, factor)
        x = constrain(_moved(x, None, denoiser, at, z, clip)[0])
        return x, (x, value)

    def judged(x: jax.Array, inputs: tuple[Transition, jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        at, z, _ = inputs
        after = constrain(_moved(x, None, denoiser, at, z, clip)[0])
        return after, (after, guide.value(x, at.time_index))

    x = start = constrain(noise.start)
    inputs = ancestral(schedule, "posterior", steps), noise.steps, jnp.asarray(strength)
    moving = int(np.sum(way.time_index >= guide.stop)) if guide.steps else 0
    found = []
    for step, part in ((guided, slice(moving)), (judged, slice(moving, None))):
        if len(way.place[part]):
            x, passed = jax.lax.scan(step, x, jax.tree.map(lambda leaf, part=part: leaf[part], inputs))
            found.append(passed)
    states, values = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    return jnp.concatenate([start[None], states]), values
