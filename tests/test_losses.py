"""Losses, targets and optimiser steps against numbers worked out by hand."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax import losses
from diffjax.nn.learners import cosine_decay, descend, ema_rate, learn, learn_each, learner, learners, polyak

VALUES = jnp.array([[1.0, 5.0], [3.0, 1.0]])  # two critics, two states


def test_returns_to_go_by_hand():
    reward, end = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]), jnp.array([False, True, False, False, True])
    np.testing.assert_allclose(losses.return_to_go(reward, end, 0.5), [2.0, 2.0, 3 + 0.5 * (4 + 2.5), 6.5, 5.0])
    np.testing.assert_allclose(losses.return_to_go(reward, end, 1.0), [3.0, 2.0, 12.0, 9.0, 5.0])


def test_td_target_stops_at_terminals_and_gradients():
    target = lambda v: losses.td_target(jnp.array([1.0, 2.0]), 0.9, jnp.array([1.0, 0.0]), v)  # noqa: E731
    np.testing.assert_allclose(target(jnp.array([10.0, 10.0])), [10.0, 2.0])
    np.testing.assert_array_equal(jax.jacobian(target)(jnp.ones(2)), np.zeros((2, 2)))


def test_td_target_refuses_to_broadcast():
    with pytest.raises(AssertionError):
        losses.td_target(jnp.ones(3), 0.9, jnp.ones(3), jnp.ones((3, 1)))


def test_squared_error_is_a_mean_per_member():
    np.testing.assert_allclose(losses.squared_error(VALUES, jnp.array([2.0, 2.0])), [5.0, 1.0])
    with pytest.raises(AssertionError):
        losses.squared_error(VALUES, jnp.ones((2, 2)))


def test_softmax_mean():
    """Weights 1/4 and 3/4 at ``alpha = ln 3``; the mean at 0, the maximum at infinity."""
    values = jnp.array([[1.0, 2.0], [5.0, 5.0]])
    np.testing.assert_allclose(losses.softmax_mean(values, math.log(3.0)), [1.75, 5.0], rtol=1e-6)
    np.testing.assert_allclose(losses.softmax_mean(values, 0.0), [1.5, 5.0])
    np.testing.assert_allclose(losses.softmax_mean(values, 1e3), [2.0, 5.0])


def test_soft_cross_entropy():
    """Of the label (1/4, 3/4) and the softmax (1/2, 1/2), and of the same as both: entropies; shifts change nothing."""
    label = jnp.array([[0.25, 0.75]])
    np.testing.assert_allclose(losses.soft_cross_entropy(jnp.array([[7.0, 7.0]]), label), [math.log(2)], rtol=1e-6)
    logits = jnp.log(label) + 5.0
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    np.testing.assert_allclose(losses.soft_cross_entropy(logits, label), [entropy], rtol=1e-6)


def test_expectile_loss():
    """``(0.7 * 1 + 0.3 * 4 + 0.3 * 0) / 3``: the smaller weight on zero and below."""
    difference = jnp.array([1.0, -2.0, 0.0])
    assert losses.expectile_loss(difference, 0.7) == pytest.approx(1.9 / 3)
    np.testing.assert_allclose(jax.grad(losses.expectile_loss)(difference, 0.7), [1.4 / 3, -1.2 / 3, 0.0], rtol=1e-6)


def test_quantile_loss():
    """``(0.7 * 1 + 0.3 * 2 + 0.3 * 0) / 3``."""
    difference = jnp.array([1.0, -2.0, 0.0])
    assert losses.quantile_loss(difference, 0.7) == pytest.approx(1.3 / 3)
    slope = jax.grad(losses.quantile_loss)(difference[:2], 0.7)
    np.testing.assert_allclose(slope, [0.35, -0.15], rtol=1e-6)


def test_exponential_loss():
    """Slopes ``min(exp(x), 6) - 1`` at ``x = 1.5``, -1 and 2, of which the last is cut."""
    difference = jnp.array([3.0, -2.0, 4.0])
    slope = np.array([math.exp(1.5) - 1, math.exp(-1) - 1, 5.0])
    assert losses.exponential_loss(difference, 0.5) == pytest.approx(np.mean(slope * [3.0, -2.0, 4.0]))
    np.testing.assert_allclose(jax.grad(losses.exponential_loss)(difference, 0.5), slope / 3, rtol=1e-6)


def test_reductions_over_samples():
    values = jnp.array([[[1.0, 3.0], [0.0, -2.0]]])
    np.testing.assert_allclose(losses.mean_over_samples(values), [[2.0, -1.0]])
    np.testing.assert_allclose(losses.max_over_samples(values), [[3.0, 0.0]])
    assert losses.SAMPLE_REDUCTIONS["mean"] is losses.mean_over_samples
    assert losses.SAMPLE_REDUCTIONS["max"] is losses.max_over_samples


def test_a_rank_over_samples_is_taken_inside_each_member():
    values = jnp.array([[[1.0, 3.0, 2.0]], [[0.0, -2.0, 5.0]]])
    np.testing.assert_array_equal(losses.largest_over_samples(values, 1), [[3.0], [5.0]])
    np.testing.assert_array_equal(losses.largest_over_samples(values, 2), [[2.0], [0.0]])


def test_lower_confidence_bound_has_the_population_deviation():
    """Means 2 and 3, deviations 1 and 2 (with one degree of freedom less: 1.41 and 2.83)."""
    np.testing.assert_allclose(losses.lower_confidence_bound(VALUES, 1.5), [0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(losses.lower_confidence_bound(VALUES, 0.0), [2.0, 3.0])


def test_rules_over_the_ensemble():
    np.testing.assert_allclose(losses.ensemble_min(VALUES), [1.0, 1.0])
    np.testing.assert_allclose(losses.convex_min_max(VALUES, 0.75), [1.5, 2.0])
    uniform = jnp.array([[0.2, 0.5], [0.6, 0.0]])
    np.testing.assert_allclose(losses.random_convex(VALUES, uniform), [2.0 / 0.800001, 2.5 / 0.500001], rtol=1e-6)
    np.testing.assert_array_equal(losses.random_convex(VALUES, jnp.zeros((2, 2))), [0.0, 0.0])


@pytest.mark.parametrize(
    ("coin", "loss", "gradient"),
    [
        # mean Q1 = 1.5, mean |Q2| = 2; mean Q2 = 1, mean |Q1| = 1.5
        (0.6, -0.75, [[-0.25, -0.25], [0.0, 0.0]]),
        (0.5, -1 / 1.5, [[0.0, 0.0], [-1 / 3, -1 / 3]]),
        (0.0, -1 / 1.5, [[0.0, 0.0], [-1 / 3, -1 / 3]]),
    ],
)
def test_normalized_q_loss_swaps_critics_with_the_coin(coin, loss, gradient):
    values = jnp.array([[1.0, 2.0], [-1.0, 3.0]])
    assert losses.normalized_q_loss(values, jnp.asarray(coin)) == pytest.approx(loss)
    np.testing.assert_allclose(jax.grad(losses.normalized_q_loss)(values, jnp.asarray(coin)), gradient, rtol=1e-6)


def test_soft_maximum_gap():
    """Densities 1/2 of values log 1 and log 3: the soft maximum is log 8; at temperature 2 the sum is of roots."""
    values, data = jnp.log(jnp.array([[[1.0, 3.0]]])), jnp.array([[0.5]])
    density = jnp.log(jnp.array([[0.5, 0.5]]))
    assert losses.soft_maximum_gap(data, values, density, 1.0) == pytest.approx(math.log(8.0) - 0.5)
    at_two = 2.0 * math.log(math.sqrt(2.0) + math.sqrt(6.0)) - 0.5
    assert losses.soft_maximum_gap(data, values, density, 2.0) == pytest.approx(at_two)


def test_soft_maximum_gap_without_densities_is_never_negative():
    """The data's own value is in the sum: log(e^5 + 1 + 3) - 5."""
    values, data = jnp.log(jnp.array([[[1.0, 3.0]]])), jnp.array([[5.0]])
    assert losses.soft_maximum_gap(data, values, None, 1.0) == pytest.approx(
        math.log(math.exp(5.0) + 4.0) - 5.0, abs=1e-6
    )
    with pytest.raises(AssertionError):
        losses.soft_maximum_gap(data[0], values, None, 1.0)


def test_q_guidance():
    """``Q_h(x) = h |x|^2``, h = 1, 3: mean gradient ``4 x``; ``mean |Q| = 2`` at the data. All of it is constant."""
    value = lambda x: jnp.array([1.0, 3.0])[:, None] * jnp.sum(x**2, axis=-1)  # noqa: E731
    data_value = jnp.array([[1.0, -2.0], [-3.0, 2.0]])
    x = jnp.array([[0.5, 0.0], [1.0, -2.0]])
    gradient, scale = losses.q_guidance(value, x, data_value)
    assert scale == 2.0
    np.testing.assert_allclose(gradient, 4 * x / 2.000001, rtol=1e-6)
    total = lambda x, data_value: jnp.sum(losses.q_guidance(value, x, data_value).gradient)  # noqa: E731
    by_x, by_data = jax.grad(total, argnums=(0, 1))(x, data_value)
    assert not by_x.any()
    assert not by_data.any()


def test_guidance_of_a_worthless_critic_is_finite():
    gradient, scale = losses.q_guidance(lambda x: 0.0 * x.T, jnp.ones((2, 1)), jnp.zeros((1, 2)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 1)))
    assert scale == 0.0


def test_guidance_loss_is_a_mean_over_states_and_dimensions():
    gradient, epsilon = jnp.array([[1.0, 2.0], [0.0, -1.0]]), jnp.array([[1.0, 1.0], [5.0, 2.0]])
    weight = jnp.array([[0.5], [2.0]])
    assert losses.guidance_loss(gradient, epsilon, weight) == pytest.approx((0.5 + 1.0 + 0.0 - 4.0) / 4)
    assert losses.guidance_loss(gradient, epsilon, jnp.ones((2, 1))) == pytest.approx(0.25)


def test_distribution_matching_pulls_from_the_fake_to_the_real():
    action = np.array([[1.0, 3.0]], np.float32)
    real, fake = np.array([[0.0, 2.0]]), np.array([[2.0, 2.0]])
    loss, gradient = jax.value_and_grad(losses.distribution_matching_loss)(action, real, fake)
    np.testing.assert_allclose(loss, 0.5 * (2**2 + 0) / 2)  # (fake - real) / mean |action - real| = (2, 0)
    np.testing.assert_allclose(gradient, [[1.0, 0.0]])


def test_tanh_gaussian_log_prob():
    """``arctanh(0.5 / 1.001) = 0.548640``; standard normal there: -1.069442. No Jacobian, no infinity at the bound."""
    one = lambda a, mean, log_std: losses.tanh_gaussian_log_prob(  # noqa: E731
        jnp.array([[a]]), jnp.array([[mean]]), jnp.array([[log_std]]), 1.0
    )[0]
    pre_tanh = math.atanh(0.5 / 1.001)
    assert one(0.5, 0.0, 0.0) == pytest.approx(-0.5 * pre_tanh**2 - 0.5 * math.log(2 * math.pi), rel=1e-6)
    assert one(0.5, 0.0, 0.0) == pytest.approx(-1.069442, abs=2e-6)
    assert one(0.0, 1.0, math.log(2.0)) == pytest.approx(-0.125 - math.log(2.0) - 0.9189385, rel=1e-6)
    bound = math.atanh(1 / 1.001)  # 3.80021
    assert one(1.0, 0.0, 0.0) == pytest.approx(-0.5 * bound**2 - 0.9189385, rel=1e-4)
    assert one(-1.0, 0.0, 0.0) == one(1.0, 0.0, 0.0)


def test_tanh_gaussian_log_prob_sums_over_dimensions_and_scales_with_the_bound():
    action = jnp.array([[1.0, 0.0]])
    log_prob = losses.tanh_gaussian_log_prob(action, jnp.zeros((1, 2)), jnp.zeros((1, 2)), 2.0)
    expected = -0.5 * math.atanh(1.0 / 2.001) ** 2 - 2 * 0.9189385
    np.testing.assert_allclose(log_prob, [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "real", "fake", "generator", "penalty"),
    [
        # at p = 1/4 with the uniform label number 1/2
        ("wgan", -0.25, 0.25, -0.25, 0.5),
        ("ga", -0.9 * math.log(0.25) - 0.1 * math.log(0.75), -math.log(0.75), -math.log(0.25), 0.0),
        ("ce", -math.log(0.25), -math.log(0.75), -0.9 * math.log(0.25) - 0.1 * math.log(0.75), 0.0),
        ("lsgan", 0.21125, 0.03125, 0.21125, 0.0),
        ("kl", -0.25, math.exp(-0.75), -0.25, 0.0),
        ("rkl", math.exp(0.25), -1.25, 1.25, 0.0),
        ("hellinger", math.exp(-0.25), math.exp(0.25) - 2, math.exp(-0.25), 0.0),
        ("tv", -0.5 * math.tanh(0.25), 0.5 * math.tanh(0.25), -0.5 * math.tanh(0.25), 0.0),
    ],
)
def test_divergences(name, real, fake, generator, penalty):
    divergence, p = losses.DIVERGENCES[name], jnp.array([0.25])
    np.testing.assert_allclose(divergence.real(p, jnp.array([0.5])), [real], rtol=1e-6)
    np.testing.assert_allclose(divergence.fake(p), [fake], rtol=1e-6)
    np.testing.assert_allclose(divergence.generator(p), [generator], rtol=1e-6)
    assert divergence.gradient_penalty == penalty


def test_there_are_eight_divergences():
    assert len(losses.DIVERGENCES) == 8


@pytest.mark.parametrize("name", sorted(losses.DIVERGENCES))
def test_divergences_survive_a_saturated_discriminator(name):
    """A sigmoid is exactly 1 from a logit of 17 on and exactly 0 below -104: values and slopes stay finite."""
    divergence = losses.DIVERGENCES[name]
    for loss in (lambda p: divergence.real(p, 0.5), divergence.fake, divergence.generator):
        value, slope = jax.vmap(jax.value_and_grad(lambda x: loss(jax.nn.sigmoid(x))))(jnp.array([-200.0, 30.0]))  # noqa: B023
        assert np.all(np.isfinite(value))
        np.testing.assert_allclose(slope, [0.0, 0.0], atol=1e-12)


def test_cross_entropy_is_floored():
    """As much as 100 for a certain error, with the label's share in ``ga``."""
    ga, certain = losses.DIVERGENCES["ga"], jnp.array([0.0, 1.0])
    np.testing.assert_allclose(ga.fake(certain), [0.0, 100.0])
    np.testing.assert_allclose(ga.generator(certain), [100.0, 0.0])
    np.testing.assert_allclose(ga.real(certain, jnp.array([0.5, 0.5])), [90.0, 10.0], rtol=1e-5)


def test_gradient_penalty_of_a_linear_discriminator():
    """Slope ``(3, 4)`` everywhere: ``(5 - 1)^2``; the slope of the second row of a product is ``2 (1, 0)``."""
    points = jnp.array([[1.0, 2.0], [0.0, -1.0], [7.0, 0.0]])
    assert losses.gradient_penalty(lambda x: x @ jnp.array([3.0, 4.0]), points) == pytest.approx(16.0)
    assert losses.gradient_penalty(lambda x: x @ jnp.array([0.6, 0.8]), points) == pytest.approx(0.0, abs=1e-10)


def test_gradient_penalty_is_a_mean_over_rows():
    """``D = x^2 / 2`` has the slope x: ``((0.5 - 1)^2 + (3 - 1)^2) / 2``."""
    points = jnp.array([[0.5], [-3.0]])
    assert losses.gradient_penalty(lambda x: 0.5 * x[:, 0] ** 2, points) == pytest.approx(2.125)


@pytest.mark.parametrize(
    ("values", "uniform", "index"),
    [
        ([0.0, 0.0], 0.0, 0),
        ([0.0, 0.0], 0.49, 0),
        ([0.0, 0.0], 0.5, 1),  # a cumulative probability equal to the number counts
        ([0.0, 0.0], 0.99999994, 1),
        ([math.log(1), math.log(2), math.log(1)], 0.24, 0),
        ([math.log(1), math.log(2), math.log(1)], 0.26, 1),
        ([math.log(1), math.log(2), math.log(1)], 0.74, 1),
        ([math.log(1), math.log(2), math.log(1)], 0.76, 2),
        ([1e4, -1e4, 0.0], 0.99, 0),  # huge values neither overflow nor underflow the choice
        ([-1e4, 1e4, 0.0], 0.0, 1),
        ([3.0], 0.7, 0),
    ],
)
def test_softmax_selection(values, uniform, index):
    chosen, probability = losses.softmax_selection(jnp.array(values), jnp.asarray(uniform))
    assert chosen == index
    assert jnp.sum(probability) == pytest.approx(1.0)


def test_softmax_selection_probabilities():
    _, probability = losses.softmax_selection(jnp.log(jnp.array([1.0, 2.0, 5.0])) + 300.0, jnp.asarray(0.0))
    np.testing.assert_allclose(probability, [0.125, 0.25, 0.625], rtol=1e-4)


@pytest.mark.parametrize("candidates", [1, 3, 50, 1024])
def test_softmax_selection_always_names_a_candidate(candidates):
    """However the cumulative probabilities round, the largest uniform number below 1 picks an existing candidate."""
    values = np.random.default_rng(0).normal(size=(200, candidates)).astype(np.float32)
    index, _ = jax.jit(jax.vmap(losses.softmax_selection, (0, None)))(values, np.float32(1 - 2.0**-24))
    assert np.all((index >= 0) & (index < candidates))


@pytest.mark.parametrize(
    ("weights", "uniform", "index"),
    [
        ([1.0, 1.0], 0.0, 1),
        ([1.0, 1.0], 0.49, 1),
        ([1.0, 1.0], 0.5, 0),  # a cumulative weight equal to the number does not count
        ([2.0, 4.0, 2.0], 0.8, 0),
        ([2.0, 4.0, 2.0], 0.7, 1),
        ([2.0, 4.0, 2.0], 0.2, 2),
        ([-1.0, -3.0], 0.9, 1),  # sums -1, -4: one of them lies below -0.4, and below -0.4 lies the other too
        ([3.0, -1.0, 2.0], 0.4, 1),  # sums 3, 2, 4: one below 2.4, in whatever place
        ([0.0, 0.0], 0.3, 0),
    ],
)
def test_weighted_selection(weights, uniform, index):
    assert losses.weighted_selection(jnp.array(weights), jnp.asarray(uniform)) == index


def test_weighted_selection_is_the_rule_of_jax():
    weights = np.random.default_rng(0).uniform(size=(200, 7)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 200)
    theirs = jax.vmap(lambda key, p: jax.random.choice(key, 7, p=p))(keys, weights)
    ours = jax.vmap(lambda key, p: losses.weighted_selection(p, jax.random.uniform(key)))(keys, weights)
    np.testing.assert_array_equal(ours, theirs)


def test_first_adam_step_has_the_length_of_the_rate():
    state = learner({"w": jnp.array([1.0, 2.0]), "b": jnp.asarray(0.0)})
    grads = {"w": jnp.array([3.0, -1e-3]), "b": jnp.asarray(0.0)}
    state, norm = descend(state, grads, 0.1)
    np.testing.assert_allclose(state.params["w"], [0.9, 2.1], rtol=1e-5)
    assert state.params["b"] == 0.0
    assert norm == pytest.approx(3.0, rel=1e-6)


def test_second_adam_step_by_hand():
    """Gradients 1, -1: moments -0.01 and 0.001999, corrected -0.01 / 0.19 and 1."""
    state = learner({"w": jnp.asarray(0.0)})
    state, _ = descend(state, {"w": jnp.asarray(1.0)}, 1.0)
    state, _ = descend(state, {"w": jnp.asarray(-1.0)}, 1.0)
    assert state.params["w"] == pytest.approx(-1.0 + 0.01 / 0.19, rel=1e-5)


def test_adam_adds_its_epsilon_outside_the_root():
    """A gradient of 1e-8 moves by half the rate; inside the root, epsilon would leave 1e-4 of it."""
    state, _ = descend(learner({"w": jnp.asarray(0.0)}), {"w": jnp.asarray(1e-8)}, 1.0)
    assert state.params["w"] == pytest.approx(-0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("bound", "factor"),
    [(1.0, 0.2), (2.5, 0.5), (5.0, 1.0), (7.0, 1.0), (0.0, 1.0), (-1.0, 1.0)],
)
def test_clipping_scales_to_the_joint_norm(bound, factor):
    """Gradients 3 and 4 of two arrays have the norm 5; the first moment holds a tenth of what Adam was given."""
    state = learner({"a": jnp.asarray(0.0), "b": jnp.zeros((1, 1))})
    grads = {"a": jnp.asarray(3.0), "b": jnp.full((1, 1), 4.0)}
    state, norm = jax.jit(descend)(state, grads, 0.1, bound)
    moment = optax.tree.get(state.opt_state, "mu")
    np.testing.assert_allclose(moment["a"], 0.3 * factor, rtol=1e-5)
    np.testing.assert_allclose(moment["b"], [[0.4 * factor]], rtol=1e-5)
    assert norm == pytest.approx(5.0)


def test_members_that_learn_apart_are_clipped_apart():
    """Gradients 3 and 0.5 of two members, at most 1 each: first moments are a tenth of 1 and of 0.5."""

    def loss(params, slope):
        return jnp.sum(params["w"] * params["slope"]) * slope, {"critic/loss": params["slope"]}

    state = learners({"w": jnp.zeros((2, 1)), "slope": jnp.array([3.0, 0.5])})
    after, metrics = learn_each(loss, state, 0.1, 1.0, clip=1.0, name="critic")
    np.testing.assert_allclose(optax.tree.get(after.opt_state, "mu")["w"][:, 0], [0.1, 0.05], rtol=1e-5)
    assert optax.tree.get(after.opt_state, "count").tolist() == [1, 1]
    assert metrics["critic/loss"] == pytest.approx(1.75)
    assert metrics["critic/grad_norm"] == pytest.approx(1.75)
    for i in range(2):  # each as if it were alone
        member = jax.tree.map(lambda x, i=i: x[i], {"w": jnp.zeros((2, 1)), "slope": jnp.array([3.0, 0.5])})
        alone, _ = learn(loss, learner(member), 0.1, 1.0, clip=1.0, name="critic")
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], after.params), alone.params)


def test_descend_of_nothing_stays():
    params = {"w": jnp.array([1.0, -2.0])}
    state, norm = descend(learner(params), {"w": jnp.zeros(2)}, 0.1, 1.0)
    np.testing.assert_array_equal(state.params["w"], params["w"])
    assert norm == 0.0


def test_weights_decay_beside_the_step_and_by_its_rate():
    """A step of 0.1 and, of every array, 0.1 * 0.5 of what was there; without gradient the latter alone."""
    params = {"w": jnp.array([1.0, -2.0]), "scale": jnp.asarray(4.0)}
    state, norm = descend(learner(params), {"w": jnp.array([3.0, 0.0]), "scale": jnp.asarray(0.0)}, 0.1, 0.0, 0.5)
    np.testing.assert_allclose(state.params["w"], [1.0 - 0.1 - 0.05, -2.0 + 0.1], rtol=1e-5)
    assert state.params["scale"] == pytest.approx(3.8)
    assert norm == pytest.approx(3.0)
    flat, start = lambda params: (0.0 * params["w"], {}), learner({"w": jnp.asarray(2.0)})
    state, metrics = learn(flat, start, 0.1, weight_decay=0.5, name="actor")
    assert state.params["w"] == pytest.approx(1.9)
    assert metrics == {"actor/grad_norm": 0.0}


@pytest.mark.parametrize(
    ("step", "decay_steps", "factor"),
    [
        (0, 8, 1.0),
        (1, 8, 0.961940),
        (2, 8, 0.853553),
        (4, 8, 0.5),
        (8, 8, 0.0),
        (9, 8, 0.0),
        (1_000_000, 2e6, 0.5),
        (0, 0.0, 1.0),
        (123, 0.0, 1.0),
        (123, -1.0, 1.0),
    ],
)
def test_cosine_decay(step, decay_steps, factor):
    assert cosine_decay(jnp.asarray(step), decay_steps) == pytest.approx(factor, abs=1e-6)


def test_polyak():
    target, online = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([3.0, 0.0])}
    np.testing.assert_allclose(polyak(target, online, 0.25)["w"], [1.5, -1.5])
    np.testing.assert_array_equal(polyak(target, online, 1.0)["w"], online["w"])


@pytest.mark.parametrize(
    ("step", "start", "interval", "fires"),
    [
        (1000, 1000, 5, True),
        (1000, 1001, 5, False),
        (1005, 1001, 5, True),
        (999, 1000, 5, False),
        (995, 1000, 5, False),
        (1001, 1000, 5, False),
        (0, 0, 1, True),
        (7, 0, 1, True),
    ],
)
def test_moving_average_fires_from_its_start_on_every_interval(step, start, interval, fires):
    rate = jax.jit(ema_rate)(step, 0.005, start, interval)
    assert rate == pytest.approx(0.005 if fires else 0.0)


@given(st.integers(0, 10_000))
def test_an_average_that_does_not_fire_stays_bit_for_bit(seed):
    generator = np.random.default_rng(seed)
    target, online = generator.normal(size=(2, 64)).astype(np.float32) * 10.0 ** generator.integers(-30, 30)
    target, online = target.astype(np.float32), online.astype(np.float32)
    after = jax.jit(lambda: polyak(target, online, ema_rate(jnp.asarray(4), 0.005, 0, 5)))()
    np.testing.assert_array_equal(np.asarray(after).view(np.uint32), target.view(np.uint32))


def test_gaussian_log_prob_sums_over_dimensions():
    """Standard scores 1 and -2 at deviations 1 and 2: -(1 + 4) / 2 - log 2 - log(2 pi)."""
    value = losses.gaussian_log_prob(jnp.array([[2.0, -3.0]]), jnp.array([[1.0, 1.0]]), jnp.log(jnp.array([1.0, 2.0])))
    np.testing.assert_allclose(value, [-2.5 - math.log(2.0) - math.log(2 * math.pi)], rtol=1e-6)


def test_squashed_normal_knows_its_density():
    """The normal's density over the slope of the tanh, summed over dimensions."""
    mean, log_std = np.array([[0.3, -1.2]]), np.array([[-0.5, 0.25]])
    noise = np.array([[1.5, -0.4]])
    raw = mean + np.exp(log_std) * noise
    density = np.exp(-0.5 * noise**2) / (np.sqrt(2 * np.pi) * np.exp(log_std)) / (1 - np.tanh(raw) ** 2)
    action, log_prob = losses.squashed_normal(*(jnp.asarray(x, jnp.float32) for x in (mean, log_std, noise)))
    np.testing.assert_allclose(action, np.tanh(raw), rtol=1e-5)
    np.testing.assert_allclose(log_prob, [np.log(density).sum()], rtol=1e-5)


def test_squashed_normal_keeps_a_density_where_the_tanh_rounds_to_one():
    """At 20 the slope is ``4 exp(-40)`` to float32's accuracy."""
    action, log_prob = losses.squashed_normal(jnp.array([20.0]), jnp.array([0.0]), jnp.array([0.0]))
    assert action == 1.0
    assert log_prob == pytest.approx(40.0 - math.log(4.0) - 0.5 * math.log(2 * math.pi))


def test_smoothed_action_clips_the_noise_and_then_the_action():
    """In units of the largest action, 2: noise 0.5 * (1, -4, 4) is clipped to (0.5, -0.75, 0.75)."""
    action, noise = jnp.array([0.0, 0.0, 1.5]), jnp.array([1.0, -4.0, 4.0])
    np.testing.assert_allclose(losses.smoothed_action(action, noise, 0.5, 0.75, 2.0), [1.0, -1.5, 2.0])


def test_gradient_penalty_of_a_flat_discriminator_has_a_finite_gradient():
    """A saturated sigmoid sends gradient 0, and the norm has no derivative there."""

    def penalty(weight: jax.Array) -> jax.Array:
        return losses.gradient_penalty(lambda x: jax.nn.sigmoid(1e6 + x @ weight), jnp.ones((3, 2)))

    value, gradient = jax.value_and_grad(penalty)(jnp.ones(2))
    assert value == 1.0
    np.testing.assert_array_equal(gradient, [0.0, 0.0])
