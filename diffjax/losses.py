"""Losses and targets of offline reinforcement learning as pure functions of arrays. Knows nothing of a method.

Critic values of an ensemble have the shape ``(num_critics, batch)``, or ``(num_critics, batch, samples)`` for several
sampled actions per state.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp


def td_target(reward: jax.Array, discount: jax.Array | float, not_done: jax.Array, next_value: jax.Array) -> jax.Array:
    """``reward + discount * not_done * next_value``, ``(batch,)``, constant with respect to gradients."""
    chex.assert_equal_shape([reward, not_done, next_value])
    return jax.lax.stop_gradient(reward + discount * not_done * next_value)


def return_to_go(reward: jax.Array, end: jax.Array, discount: jax.Array | float) -> jax.Array:
    """``R_i = reward_i + discount R_{i+1}`` within each trajectory, ``(rows,)``; ``end`` marks the last row of one."""

    def after(later: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return row[0] * later[0], row[1] + row[0] * later[1]

    factor = jnp.where(end, 0.0, discount).astype(reward.dtype)
    return jax.lax.associative_scan(after, (factor, reward), reverse=True)[1]


def planned_return(reward: jax.Array, end: jax.Array, value: jax.Array, discount: jax.Array | float) -> jax.Array:
    """``R_i = max(reward_i + discount R_{i+1}, value_i)`` within each trajectory, ``(rows,)``; ``end`` as above.

    Maps ``R -> max(a R + b, c)`` with ``a >= 0`` are closed under composition, so all rows are done at once.
    Source: SfBC, dataset/dataset.py (the paper's recursion is another).
    """
    chex.assert_equal_shape([reward, end, value])

    def after(later: tuple[jax.Array, ...], row: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        slope, shift, floor = row
        return slope * later[0], shift + slope * later[1], jnp.maximum(shift + slope * later[2], floor)

    factor = jnp.where(end, 0.0, discount).astype(reward.dtype)
    _, shift, floor = jax.lax.associative_scan(after, (factor, reward, value), reverse=True)
    return jnp.maximum(shift, floor)


def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """``mean_batch (prediction - target)^2`` per ensemble member, ``(num_critics,)``; ``target (batch,)``."""
    chex.assert_rank([prediction, target], [2, 1])
    return jnp.mean((prediction - target) ** 2, axis=-1)


def expectile_weight(difference: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """``|expectile - 1[difference <= 0]|``, elementwise. Source: IQL, as :func:`expectile_loss`."""
    return jnp.where(difference > 0, expectile, 1.0 - expectile)


def expectile_loss(difference: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """``mean |expectile - 1[difference <= 0]| difference^2``.

    Source: Kostrikov et al. 2021 (IQL), arXiv 2110.06169, eq. 5.
    """
    return jnp.mean(expectile_weight(difference, expectile) * difference**2)


def quantile_loss(difference: jax.Array, quantile: jax.Array | float) -> jax.Array:
    """``mean |quantile - 1[difference <= 0]| |difference|``.

    Source: Hansen-Estruch et al. 2023 (IDQL), arXiv 2304.10573; its first release.
    """
    return jnp.mean(expectile_weight(difference, quantile) * jnp.abs(difference))


def exponential_loss(difference: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """``mean (sg(min(exp(alpha difference), 6)) - 1) difference``: by its gradient a linear exponential loss, capped.

    Source: Hansen-Estruch et al. 2023 (IDQL), arXiv 2304.10573; its first release.
    """
    slope = jax.lax.stop_gradient(jnp.minimum(jnp.exp(alpha * difference), 6.0) - 1.0)
    return jnp.mean(slope * difference)


def mean_over_samples(values: jax.Array) -> jax.Array:
    """Mean over the samples inside each member, ``(num_critics, batch, samples)`` to ``(num_critics, batch)``."""
    return jnp.mean(values, axis=-1)


def max_over_samples(values: jax.Array) -> jax.Array:
    """Maximum over the samples, shapes as :func:`mean_over_samples`."""
    return jnp.max(values, axis=-1)


def largest_over_samples(values: jax.Array, rank: int) -> jax.Array:
    """The ``rank``-th largest of the samples, 1 is the maximum; shapes as :func:`mean_over_samples`. Source: EDP."""
    return jnp.sort(values, axis=-1)[..., -rank]


SAMPLE_REDUCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mean": mean_over_samples,
    "max": max_over_samples,
}


def softmax_mean(values: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """``sum_j softmax_j(alpha v) v_j`` over the last axis: a maximum softened, or the mean where ``alpha`` is 0.

    Source: QGPO, eq. for the Q target; SfBC, dataset/dataset.py.
    """
    return jnp.sum(nn.softmax(alpha * values, axis=-1) * values, axis=-1)


def soft_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """``-sum_j label_j log softmax_j(logits)`` over the last axis."""
    chex.assert_equal_shape([logits, label])
    return -jnp.sum(label * nn.log_softmax(logits, axis=-1), axis=-1)


def lower_confidence_bound(values: jax.Array, rho: jax.Array | float) -> jax.Array:
    """``mean_h - rho std_h`` over the members, population standard deviation: ``(num_critics, ...)`` to ``(...)``.

    Source: Fang et al. 2024 (DAC), arXiv 2405.20555, the target by a lower confidence bound.
    """
    return jnp.mean(values, axis=0) - rho * jnp.std(values, axis=0)


def ensemble_min(values: jax.Array) -> jax.Array:
    """Minimum over the members, ``(num_critics, ...)`` to ``(...)``. Source: TD3, arXiv 1802.09477."""
    return jnp.min(values, axis=0)


def convex_min_max(values: jax.Array, rho: jax.Array | float) -> jax.Array:
    """``rho min_h + (1 - rho) max_h``, ``(num_critics, ...)`` to ``(...)``. Source: DAC, agents/dac.py (``convex``)."""
    return rho * jnp.min(values, axis=0) + (1.0 - rho) * jnp.max(values, axis=0)


def random_convex(values: jax.Array, uniform: jax.Array) -> jax.Array:
    """Convex mixture with weights ``uniform / (sum_h uniform + 1e-6)``, ``(num_critics, ...)`` to ``(...)``.

    Source: DAC, agents/dac.py (``rand_convex``).
    """
    chex.assert_equal_shape([values, uniform])
    weight = uniform / (jnp.sum(uniform, axis=0) + 1e-6)
    return jnp.sum(weight * values, axis=0)


ENSEMBLE_REDUCTIONS: dict[str, Callable[..., jax.Array]] = {
    "lcb": lambda values, rho, uniform: lower_confidence_bound(values, rho),
    "min": lambda values, rho, uniform: ensemble_min(values),
    "convex": lambda values, rho, uniform: convex_min_max(values, rho),
    "rand_convex": lambda values, rho, uniform: random_convex(values, uniform),
}
"""By name, ``(values (num_critics, batch), rho, uniform of that shape or None) -> (batch,)``."""


def normalized_q_loss(values: jax.Array, coin: jax.Array) -> jax.Array:
    """Policy improvement by one of two critics, normalised by the other: ``-mean Q_i / sg(mean |Q_j|)``.

    ``(i, j) = (0, 1)`` where ``coin > 0.5``, else ``(1, 0)``. ``values`` is ``(2, batch)`` at sampled actions.
    Source: Wang et al. 2022 (Diffusion-QL), agents/ql_diffusion.py.
    """
    chex.assert_shape(values, (2, None))
    first, second = jnp.where(coin > 0.5, values, values[::-1])
    return -jnp.mean(first) / jax.lax.stop_gradient(jnp.mean(jnp.abs(second)))


class Guidance(NamedTuple):
    """Normalised critic gradient at the noisy action, ``(batch, action_dim)``, and the normaliser ``mean |Q|``."""

    gradient: jax.Array
    scale: jax.Array


def soft_maximum_logits(
    data_value: jax.Array, values: jax.Array, log_density: jax.Array | None, temperature: jax.Array | float
) -> jax.Array:
    """What the soft maximum of :func:`soft_maximum_gap` is over, ``(num_critics, batch, samples)``, or one more."""
    if log_density is None:
        return jnp.concatenate([data_value[..., None], values], axis=-1) / temperature
    return (values - log_density) / temperature


def soft_maximum_gap(
    data_value: jax.Array, values: jax.Array, log_density: jax.Array | None, temperature: jax.Array | float
) -> jax.Array:
    """``T logsumexp_i((Q(s, a_i) - log density(a_i)) / T) - Q(s, a)``, ``(num_critics, batch)``.

    Without densities the data's own value is one of those in the sum. No logarithm of the number of samples is taken
    off. Source: Kumar et al. 2020 (CQL), arXiv 2006.04779, eq. 4.

    Args:
      data_value: the critics at the data's actions ``a``, ``(num_critics, batch)``.
      values: the critics at sampled actions ``a_i``, ``(num_critics, batch, samples)``.
      log_density: of these, ``(batch, samples)``, or None.
    """
    chex.assert_equal_shape_prefix([data_value, values], 2)
    logits = soft_maximum_logits(data_value, values, log_density, temperature)
    return temperature * nn.logsumexp(logits, axis=-1) - data_value


def q_guidance(value: Callable[[jax.Array], jax.Array], noisy_action: jax.Array, data_value: jax.Array) -> Guidance:
    """``grad_x mean_h Q_h(s, x) / (mean_{h,b} |Q_h(s, a)| + 1e-6)`` at the noisy action ``x``; a constant.

    Args:
      value: ``x -> (num_critics, batch)``.
      data_value: the critics at the data's own actions, ``(num_critics, batch)``.
    Source: DAC, agents/dac.py.
    """
    gradient = jax.grad(lambda x: jnp.sum(jnp.mean(value(x), axis=0)))(noisy_action)
    scale = jnp.mean(jnp.abs(data_value))
    return Guidance(jax.lax.stop_gradient(gradient / (scale + 1e-6)), scale)


def guidance_loss(gradient: jax.Array, epsilon: jax.Array, weight: jax.Array) -> jax.Array:
    """``mean_{b,d} weight * gradient * epsilon``; soft guidance weighs with ``sqrt(1 - alpha_bar)``, hard with 1."""
    chex.assert_equal_shape([gradient, epsilon])
    return jnp.mean(weight * gradient * epsilon)


def distribution_matching_loss(action: jax.Array, real: jax.Array, fake: jax.Array) -> jax.Array:
    """``mean 1/2 (a - sg(a - (D_fake - D_real) / mean_d |a - D_real|))^2`` over batch and dimensions.

    Its gradient in ``a`` is that of the KL divergence between the policy's and the data's noised densities, scaled per
    sample. ``real`` and ``fake`` are what the data's and the policy's diffusion model make of the noised action.
    Source: Yin et al. 2023 (DMD), arXiv 2311.18828, eq. 7-8; DTQL, agents/dql_kl.py.
    """
    chex.assert_equal_shape([action, real, fake])
    # A generator may hit the bound of a clipped model exactly.
    scale = jnp.maximum(jnp.mean(jnp.abs(action - real), axis=-1, keepdims=True), 1e-8)
    target = jax.lax.stop_gradient(action - (fake - real) / scale)
    return 0.5 * jnp.mean((action - target) ** 2)


def gaussian_log_prob(action: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """``sum_d log N(a_d; mean_d, std_d)``, ``(...,)``; ``log_std`` broadcasts against the others."""
    return jnp.sum(jax.scipy.stats.norm.logpdf(action, mean, jnp.exp(log_std)), axis=-1)


def squashed_normal(mean: jax.Array, log_std: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``tanh(x)``, ``x = mean + std noise``, and its log-density ``(...,)``, from standard normal ``noise``.

    ``sum_d (log N(x_d; mean_d, std_d) - log(1 - tanh(x_d)^2))``, the last as ``2 (log 2 - x - softplus(-2 x))``, which
    no rounding of the tanh spoils. Source: Haarnoja et al. 2018 (SAC), arXiv 1801.01290.
    """
    raw = mean + jnp.exp(log_std) * noise
    log_normal = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi)
    log_slope = 2.0 * (jnp.log(2.0) - raw - nn.softplus(-2.0 * raw))
    return jnp.tanh(raw), jnp.sum(log_normal - log_slope, axis=-1)


def smoothed_action(
    action: jax.Array,
    noise: jax.Array,
    scale: jax.Array | float,
    noise_clip: jax.Array | float,
    max_action: jax.Array | float,
) -> jax.Array:
    """``clip(a + clip(scale noise, -+noise_clip), -+max_action)``: the target policy's action, smoothed.

    ``scale`` and ``noise_clip`` are in units of ``max_action``. Source: Fujimoto et al. 2018 (TD3), arXiv 1802.09477.
    """
    chex.assert_equal_shape([action, noise])
    disturbance = max_action * jnp.clip(scale * noise, -noise_clip, noise_clip)
    return jnp.clip(action + disturbance, -max_action, max_action)


def tanh_gaussian_log_prob(
    action: jax.Array, mean: jax.Array, log_std: jax.Array, max_action: jax.Array | float
) -> jax.Array:
    """``sum_d log N(arctanh(a_d / (max_action + 1e-3)); mean_d, std_d)``, ``(batch,)``.

    Without the tanh Jacobian, as the authors have it: it depends on the action alone. Source: DTQL, agents/dtql.py.
    """
    chex.assert_equal_shape([action, mean, log_std])
    return gaussian_log_prob(jnp.arctanh(action / (max_action + 1e-3)), mean, log_std)


def _floored_log(x: jax.Array) -> jax.Array:
    """``log x``, and -100 with slope 0 at ``x = 0``, which a saturated sigmoid reaches in float32."""
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), -100.0)


def _cross_entropy(probability: jax.Array, label: jax.Array | float) -> jax.Array:
    """Binary cross entropy; logarithms floored at -100 as in the authors' library."""
    return -(label * _floored_log(probability) + (1.0 - label) * _floored_log(1.0 - probability))


class Divergence(NamedTuple):
    """An adversarial divergence: per-sample losses of discriminator outputs ``p`` in ``(0, 1)``.

    ``real(p, uniform)`` may use a uniform number per sample (label smoothing); the policy minimises ``generator``.
    """

    real: Callable[[jax.Array, jax.Array], jax.Array]
    fake: Callable[[jax.Array], jax.Array]
    generator: Callable[[jax.Array], jax.Array]
    gradient_penalty: float = 0.0


DIVERGENCES: dict[str, Divergence] = {
    "wgan": Divergence(lambda p, u: -p, lambda p: p, lambda p: -p, gradient_penalty=0.5),
    "ga": Divergence(
        lambda p, u: _cross_entropy(p, 0.8 + 0.2 * u),
        lambda p: _cross_entropy(p, 0.0),
        lambda p: _cross_entropy(p, 1.0),
    ),
    "ce": Divergence(
        lambda p, u: _cross_entropy(p, 1.0),
        lambda p: _cross_entropy(p, 0.0),
        lambda p: _cross_entropy(p, 0.9),
    ),
    "lsgan": Divergence(lambda p, u: 0.5 * (p - 0.9) ** 2, lambda p: 0.5 * p**2, lambda p: 0.5 * (p - 0.9) ** 2),
    "kl": Divergence(lambda p, u: -p, lambda p: jnp.exp(p - 1.0), lambda p: -p),
    "rkl": Divergence(lambda p, u: jnp.exp(p), lambda p: -p - 1.0, lambda p: p + 1.0),
    "hellinger": Divergence(lambda p, u: jnp.exp(-p), lambda p: jnp.exp(p) - 2.0, lambda p: jnp.exp(-p)),
    "tv": Divergence(lambda p, u: -0.5 * jnp.tanh(p), lambda p: 0.5 * jnp.tanh(p), lambda p: -0.5 * jnp.tanh(p)),
}
"""The eight of DiffPoGAN, agents/diffpogan.py (``f_div``)."""


def gradient_penalty(discriminate: Callable[[jax.Array], jax.Array], points: jax.Array) -> jax.Array:
    """``mean (||grad_x D(x)||_2 - 1)^2`` over rows of ``points``. Source: Gulrajani et al. 2017, arXiv 1704.00028."""
    gradient = jax.grad(lambda x: jnp.sum(discriminate(x)))(points)
    # A saturated discriminator has gradient 0, where the norm's own derivative is taken as 0 (as the authors' library
    # does) and not as 0 / 0.
    square = jnp.sum(gradient**2, axis=-1)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return jnp.mean((norm - 1.0) ** 2)


def softmax_selection(values: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index drawn from ``softmax(values)`` by inversion, and the probabilities ``(candidates,)``.

    The index is the number of cumulative probabilities that do not exceed ``uniform`` in ``[0, 1)``.
    """
    probability = nn.softmax(values)
    index = jnp.sum(jnp.cumsum(probability) <= uniform)
    return jnp.minimum(index, values.shape[0] - 1), probability


def weighted_selection(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Index drawn in proportion to ``weights (candidates,)``, which need not add up to 1, by inversion.

    The index is the number of cumulative weights below ``(1 - uniform)`` times their sum, ``uniform`` in ``[0, 1)``:
    the rule by which JAX chooses, for weights of any sign.
    """
    cumulative = jnp.cumsum(weights)
    index = jnp.sum(cumulative < (1.0 - uniform) * cumulative[-1])
    return jnp.minimum(index, weights.shape[0] - 1)
