"""Diffusion models by themselves: published constants, exact oracles, finite differences."""

import math

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.diffusion.bound import gaussian_kl, learned_log_variance, step_terms
from diffjax.diffusion.denoisers import (
    add_noise,
    at_index,
    edm_denoiser,
    edm_scales,
    epsilon_denoiser,
    epsilon_from_x0,
    gaussian_epsilon,
    v_denoiser,
    x0_from_epsilon,
)
from diffjax.diffusion.dpm_solver import dpm_solver, dpm_solver_plan, heun_plan, second_orders, third_orders
from diffjax.diffusion.flow import FlowDraws, draw_flow, euler_path, flow_matching, heun_path, interpolate
from diffjax.diffusion.objectives import (
    DenoisingDraws,
    EDMDraws,
    TimeDraws,
    constrained_error,
    constrained_noise,
    draw_denoising,
    draw_edm,
    draw_times,
    edm_matching,
    noise_matching,
    noised,
    score_matching,
)
from diffjax.diffusion.samplers import (
    STRENGTHS,
    ChainNoise,
    Guide,
    ancestral,
    chain,
    ddim,
    dpmpp2m,
    draw_chain_noise,
    guided_chain,
    transition_std,
    transitions,
)
from diffjax.diffusion.schedules import (
    DiscreteSchedule,
    bound_weights,
    cosine_betas,
    discrete_schedule,
    elbo_sigma,
    interpolated_vp,
    linear_betas,
    linear_vp,
    log_logistic_sigma,
    respaced,
    scaled_linear_betas,
    scales,
    steps_taken,
    vp_betas,
)
from diffjax.studies.bound_gap import measure

VP = discrete_schedule("vp", 5)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (VP.beta, [0.195875, 0.458818, 0.635781, 0.754878, 0.835031]),
        (1 - VP.beta, [0.804125, 0.541182, 0.364219, 0.245122, 0.164969]),
        (VP.alpha_bar, [0.804125, 0.435178, 0.158500, 0.038852, 0.006409]),
        (VP.alpha_bar_prev, [1, 0.804125, 0.435178, 0.158500, 0.038852]),
        (np.sqrt(VP.alpha_bar), [0.896730, 0.659680, 0.398121, 0.197109, 0.080058]),
        (np.sqrt(1 - VP.alpha_bar), [0.442577, 0.751546, 0.917333, 0.980382, 0.996790]),
        (VP.posterior_coef_x0, [1, 0.728435, 0.498410, 0.312681, 0.165654]),
        (VP.posterior_coef_xt, [0, 0.255116, 0.405078, 0.433466, 0.392901]),
        (VP.posterior_variance, [0, 0.159114, 0.426742, 0.660907, 0.807766]),
        (VP.posterior_log_variance[:1], [math.log(1e-20)]),
        (transition_std(VP, "posterior"), [0, 0.398890, 0.653255, 0.812962, 0.898758]),
        (transition_std(VP, "beta"), [0, 0.677361, 0.797359, 0.868837, 0.913801]),
    ],
)
def test_vp_of_five_steps(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=6e-7, rtol=1e-6)


def test_vp_turns_noise_into_samples_by_the_published_factors():
    """``x_0 = sqrt(1 / alpha_bar) x - sqrt(1 / alpha_bar - 1) epsilon``."""
    index, one, zero = jnp.arange(5), jnp.ones((5, 1)), jnp.zeros((5, 1))
    of_x = x0_from_epsilon(VP, one, index, zero)[:, 0]
    of_epsilon = x0_from_epsilon(VP, zero, index, one)[:, 0]
    np.testing.assert_allclose(of_x, [1.11516, 1.51589, 2.51180, 5.07334, 12.4909], rtol=5e-6)
    np.testing.assert_allclose(of_epsilon, [-0.49355, -1.13926, -2.30416, -4.97381, -12.4508], rtol=2e-5)


@given(st.integers(1, 300))
def test_vp_ends_at_the_same_noise_for_every_number_of_steps(steps):
    assert np.prod(1.0 - vp_betas(steps)) == pytest.approx(math.exp(-5.05), rel=1e-12)
    assert discrete_schedule("vp", steps).alpha_bar[-1] == pytest.approx(math.exp(-5.05), rel=2e-5)


def test_linear_betas_by_hand():
    np.testing.assert_allclose(linear_betas(3), [1e-4, 0.01005, 0.02])


def test_scaled_linear_betas_are_those_of_a_thousand_steps_rescaled():
    np.testing.assert_allclose(scaled_linear_betas(1000), linear_betas(1000), rtol=1e-12)
    np.testing.assert_allclose(scaled_linear_betas(25)[[0, 12, 24]], [0.004, 0.402, 0.8], rtol=1e-12)


def test_weights_of_the_variational_bound_by_hand():
    """``beta`` 0.5 and 0.5 have ``alpha_bar`` 0.5 and 0.25: ``0.5 / (2 * 0.5 * 0.5) = 1`` and ``0.5 / 0.75``."""
    schedule = discrete_schedule("vp", 2)._replace(
        beta=np.full(2, 0.5, np.float32), alpha_bar=np.array([0.5, 0.25], np.float32)
    )
    np.testing.assert_allclose(bound_weights(schedule), [1.2, 0.8], rtol=1e-6)


def test_continuous_schedule_through_a_discrete_one():
    """``log alpha`` at 1/2 and 1 is half that of ``alpha_bar``; between and beyond on the same line."""
    schedule = discrete_schedule("vp", 2)._replace(alpha_bar=np.exp(np.array([-2.0, -6.0], np.float32)))
    continuous = interpolated_vp(schedule)
    time = np.array([0.5, 0.75, 1.0, 1.1, 0.4])
    log_alpha = continuous.log_alpha(time)
    np.testing.assert_allclose(log_alpha, [-1.0, -2.0, -3.0, -3.4, -0.6], rtol=1e-6)
    np.testing.assert_allclose(continuous.time(log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))), time, rtol=1e-6)


def test_cosine_betas_by_hand():
    """Angles of T = 2: ``(0.008, 0.508, 1.008) / 1.008 * pi / 2``; the last ratio would leave 1, above the bound."""
    middle = math.cos(0.508 / 1.008 * math.pi / 2) ** 2
    first = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    np.testing.assert_allclose(cosine_betas(2), [1 - middle / first, 0.999], rtol=1e-12)


@pytest.mark.parametrize("name", ["vp", "linear", "cosine"])
@given(steps=st.integers(1, 60))
def test_schedules_are_consistent(name, steps):
    schedule = discrete_schedule(name, steps)
    assert schedule.num_steps == steps
    chex.assert_shape(list(schedule), (steps,))
    chex.assert_type(list(schedule), np.float32)
    assert np.all((schedule.beta > 0) & (schedule.beta < 1))
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    # The posterior mean of a noiseless pair lies on the forward path: c0 + ct sqrt(abar) = sqrt(abar_prev).
    mean = schedule.posterior_coef_x0 + schedule.posterior_coef_xt * np.sqrt(schedule.alpha_bar)
    np.testing.assert_allclose(mean, np.sqrt(schedule.alpha_bar_prev), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "steps"), [("sigmoid", 5), ("vp", 0), ("scaled_linear", 20)])
def test_impossible_schedules_are_refused(name, steps):
    with pytest.raises(ValueError, match="schedule"):
        discrete_schedule(name, steps)


def test_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="none of posterior, beta, learned"):
        transition_std(VP, "fixed")


def test_indices_pick_per_row():
    values = np.array([10.0, 20.0, 30.0])
    np.testing.assert_array_equal(at_index(values, jnp.array([2, 0]), 3), [[[30.0]], [[10.0]]])
    assert at_index(values, jnp.asarray(1), 2) == 20.0


def test_forward_process_by_hand():
    x_0, noise = jnp.array([[0.5, -1.0], [0.2, 0.0]]), jnp.array([[1.0, 2.0], [-1.0, 0.0]])
    expected = [
        [0.659680 * 0.5 + 0.751546, -0.659680 + 0.751546 * 2.0],
        [0.080058 * 0.2 - 0.996790, 0.0],
    ]
    np.testing.assert_allclose(add_noise(VP, x_0, jnp.array([1, 4]), noise), expected, atol=2e-6)


@pytest.mark.parametrize("parametrisation", ["epsilon", "v"])
def test_a_perfect_network_recovers_the_clean_sample(parametrisation):
    x_0, noise = jax.random.normal(jax.random.key(0), (2, 5, 3))
    index = jnp.arange(5)
    x = add_noise(VP, x_0, index, noise)
    alpha_bar = jnp.asarray(VP.alpha_bar)[:, None]
    velocity = jnp.sqrt(alpha_bar) * noise - jnp.sqrt(1 - alpha_bar) * x_0
    make, output = {"epsilon": (epsilon_denoiser, noise), "v": (v_denoiser, velocity)}[parametrisation]
    np.testing.assert_allclose(make(lambda x, index: output, VP)(x, index), x_0, atol=2e-5)


def test_noise_that_goes_with_a_clean_sample():
    x, index, noise = jnp.array([[0.3, -2.0], [1.0, 0.0]]), jnp.array([0, 4]), jnp.array([[1.0, 0.5], [-1.0, 2.0]])
    x_0 = x0_from_epsilon(VP, x, index, noise)
    np.testing.assert_allclose(epsilon_from_x0(VP, x, index, x_0), noise, atol=1e-5)


def test_v_and_epsilon_denoisers_agree_on_any_network():
    """``epsilon = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x`` says the same about the clean sample."""
    x, v = jax.random.normal(jax.random.key(1), (2, 5, 3))
    index, alpha_bar = jnp.arange(5), jnp.asarray(VP.alpha_bar)[:, None]
    epsilon = jnp.sqrt(alpha_bar) * v + jnp.sqrt(1 - alpha_bar) * x
    by_v = v_denoiser(lambda x, index: v, VP)(x, index)
    by_epsilon = epsilon_denoiser(lambda x, index: epsilon, VP)(x, index)
    np.testing.assert_allclose(by_v, by_epsilon, atol=2e-5)


@pytest.mark.parametrize(
    ("sigma", "c_skip", "c_out", "c_in", "c_noise"),
    [
        (0.1, 0.961538, 0.098058, 1.961161, -0.575646),
        (0.5, 0.5, 0.353553, 1.414214, -0.173287),
        (1.0, 0.2, 0.447214, 0.894427, 0.0),
        (5.0, 0.009901, 0.497519, 0.199007, 0.402359),
    ],
)
def test_edm_scales(sigma, c_skip, c_out, c_in, c_noise):
    np.testing.assert_allclose(edm_scales(jnp.asarray(sigma), 0.5), (c_skip, c_out, c_in, c_noise), atol=6e-7)


def test_edm_denoiser_scales_what_enters_and_leaves_the_network():
    """At sigma 1, data deviation 1/2: ``0.2 x + 0.447214 (10 * 0.894427 x + 0)``, since ``ln 1 = 0``."""
    denoise = edm_denoiser(lambda x, level: 10.0 * x + level[..., None], 0.5)
    np.testing.assert_allclose(denoise(jnp.array([[1.0, -2.0]]), jnp.array([1.0])), [[4.2, -8.4]], rtol=1e-6)
    # At sigma 5 the level ln(5) / 4 enters through c_out = 0.497519.
    expected = 0.009901 * 2.0 + 0.497519 * (10 * 0.199007 * 2.0 + 0.402359)
    np.testing.assert_allclose(denoise(jnp.array([2.0]), jnp.asarray(5.0)), [expected], rtol=1e-5)


def ancestral_chain(denoiser, schedule, noise, *, variance, repeats=0, **options):
    """All states of the ancestral chain over every step."""
    return chain(denoiser, ancestral(schedule, variance, repeats=repeats), noise, **options)


def ancestral_sample(*arguments, **options):
    return ancestral_chain(*arguments, **options)[-1]


def without_noise(start):
    """What a chain takes that adds no noise."""
    return ChainNoise(start, jnp.zeros((0, *start.shape)))


def chain_std(schedule, variance, std):
    """Deviation of the sample when ``x_0 ~ N(0, std^2)`` is denoised exactly and nothing is clipped.

    The chain is then linear in its independent standard normal numbers: the squares of its derivatives add up.
    """
    denoiser = epsilon_denoiser(gaussian_epsilon(schedule, std), schedule)
    sample = lambda noise: ancestral_sample(denoiser, schedule, noise, variance=variance, clip=None)  # noqa: E731
    noise = ChainNoise(jnp.zeros(()), jnp.zeros(schedule.num_steps))
    return math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.jit(jax.grad(sample))(noise)))


@pytest.mark.parametrize(("std", "expected"), [(0.5, 0.2954), (0.25, 0.1051), (0.1, 0.0196)])
def test_five_steps_shrink_a_gaussian_to_the_known_deviation(std, expected):
    assert chain_std(VP, "posterior", std) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("name", ["vp", "linear", "cosine"])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_gaussian_chain_against_the_recursion_of_its_variance(name, variance):
    """``var <- (c0 k + ct)^2 var + std_i^2`` where ``k x`` is the posterior mean of the clean sample."""
    schedule, std = discrete_schedule(name, 7), 0.3
    beta, alpha_bar, previous = (np.float64(x) for x in schedule[:3])
    added = np.sqrt(beta * (1 - previous) / (1 - alpha_bar) if variance == "posterior" else beta)
    total = 1.0
    for i in reversed(range(7)):
        k = np.sqrt(alpha_bar[i]) * std**2 / (alpha_bar[i] * std**2 + 1 - alpha_bar[i])
        gain = (beta[i] * np.sqrt(previous[i]) * k + (1 - previous[i]) * np.sqrt(1 - beta[i])) / (1 - alpha_bar[i])
        total = gain**2 * total + (added[i] ** 2 if i else 0.0)
    assert chain_std(schedule, variance, std) == pytest.approx(math.sqrt(total), rel=1e-3)


def test_many_steps_sample_the_gaussian_itself():
    assert chain_std(discrete_schedule("vp", 1000), "posterior", 0.5) == pytest.approx(0.5, rel=1e-2)


def test_clipped_gaussian_chain_by_monte_carlo():
    noise = draw_chain_noise(jax.random.key(0), 5, (200_000,))
    denoiser = epsilon_denoiser(gaussian_epsilon(VP, 0.5), VP)
    sample = jax.jit(lambda noise: ancestral_sample(denoiser, VP, noise, variance="posterior", clip=1.0))(noise)
    assert np.std(sample) == pytest.approx(0.2946, abs=2e-3)  # four standard errors
    assert np.mean(sample) == pytest.approx(0.0, abs=3e-3)
    assert np.max(np.abs(sample)) <= 1.0


def test_deterministic_chain_of_a_gaussian_scales_as_its_marginals():
    """The chain of many exact steps takes ``x`` to ``x std / sqrt(alpha_bar_T std^2 + 1 - alpha_bar_T)``."""
    schedule, std = discrete_schedule("scaled_linear", 1000), 0.5
    denoiser = epsilon_denoiser(gaussian_epsilon(schedule, std), schedule)
    start = jnp.array([-1.5, 0.4])
    states = jax.jit(lambda x: chain(denoiser, ddim(schedule), without_noise(x), clip=None))(start)
    assert states.shape == (1001, 2)
    np.testing.assert_array_equal(states[0], start)
    last = schedule.alpha_bar[-1]
    np.testing.assert_allclose(states[-1], start * std / math.sqrt(last * std**2 + 1 - last), rtol=1e-2)


def test_deterministic_chain_by_hand():
    """A clean sample of 3, clipped to 1: ``epsilon = (x - sqrt(ab) 1) / sqrt(1 - ab)``, and the end is the sample."""
    schedule, start = discrete_schedule("vp", 2), jnp.array([2.0])
    says = lambda x, index: 3.0 * jnp.ones_like(x)  # noqa: E731
    states = chain(says, ddim(schedule), without_noise(start), clip=1.0)
    late, early = float(schedule.alpha_bar[1]), float(schedule.alpha_bar[0])
    epsilon = (2.0 - math.sqrt(late)) / math.sqrt(1 - late)
    np.testing.assert_allclose(states[1], [math.sqrt(early) + math.sqrt(1 - early) * epsilon], rtol=1e-5)
    np.testing.assert_allclose(states[2], [1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("trained", "steps", "taken"),
    [
        (5, 0, [0, 1, 2, 3, 4]),
        (5, 1, [4]),
        (5, 2, [0, 4]),
        (5, 3, [0, 2, 4]),
        (5, 4, [0, 1, 3, 4]),  # 4/3 and 8/3
        (4, 3, [0, 2, 3]),  # a half goes upwards
        (1000, 5, [0, 250, 500, 749, 999]),  # 249.75, 499.5, 749.25
        (1, 1, [0]),
    ],
)
def test_fewer_steps_are_spread_evenly(trained, steps, taken):
    assert steps_taken(trained, steps).tolist() == taken


@given(st.integers(1, 200), st.data())
def test_steps_that_are_taken_are_different_ones(trained, data):
    steps = data.draw(st.integers(1, trained))
    taken = steps_taken(trained, steps)
    assert len(set(taken.tolist())) == steps
    assert taken[-1] == trained - 1


@pytest.mark.parametrize("steps", [6, -1])
def test_more_steps_than_were_trained_are_refused(steps):
    with pytest.raises(ValueError, match="of 5 that were trained; 1 to 5"):
        steps_taken(5, steps)


def test_the_schedule_of_fewer_steps_by_hand():
    """Of ``alpha_bar = 0.8, 0.6, 0.3`` the first and the last: ``beta = 0.2`` and ``1 - 0.3 / 0.8``."""
    schedule = by_alpha_bar(0.8, 0.6, 0.3)
    shorter = respaced(schedule, 2)
    np.testing.assert_allclose(shorter.alpha_bar, [0.8, 0.3], rtol=1e-6)
    np.testing.assert_allclose(shorter.alpha_bar_prev, [1.0, 0.8], rtol=1e-6)
    np.testing.assert_allclose(shorter.beta, [0.2, 0.625], rtol=1e-6)
    np.testing.assert_allclose(shorter.posterior_variance, [0.0, 0.625 * 0.2 / 0.7], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(shorter.posterior_coef_x0, [1.0, 0.625 * 0.8**0.5 / 0.7], rtol=1e-6)
    np.testing.assert_allclose(shorter.posterior_coef_xt, [0.0, 0.2 * 0.375**0.5 / 0.7], rtol=1e-6)
    assert respaced(schedule, 3) is schedule
    at = ancestral(schedule, "beta", steps=2)
    np.testing.assert_array_equal(at.time_index, [2, 0])
    np.testing.assert_allclose(at.std, [0.625**0.5, 0.0], rtol=1e-6)


def by_alpha_bar(*alpha_bar):
    """A schedule of which nothing else is read."""
    alpha_bar = np.array(alpha_bar, np.float32)
    previous = np.append(np.float32(1.0), alpha_bar[:-1])
    return DiscreteSchedule(1 - alpha_bar / previous, alpha_bar, previous, *[np.full_like(alpha_bar, np.nan)] * 4)


def test_ddim_coefficients_by_hand():
    """From ``alpha_bar`` 0.36 to 0.64, and to 1: ``sigma^2 = eta^2 (0.36 / 0.64) (1 - 0.5625) = 0.24609375 eta^2``."""
    schedule = by_alpha_bar(0.64, 0.36)
    for eta, squared in ((None, 0.0), (0.0, 0.0), (1.0, 0.24609375), (0.5, 0.24609375 / 4)):
        at = ddim(schedule, eta)
        kept = math.sqrt(0.36 - squared) / 0.8
        np.testing.assert_array_equal(at.time_index, [1, 0])
        np.testing.assert_allclose(at.coef_xt, [kept, 0.0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(at.coef_x0, [0.8 - 0.6 * kept, 1.0], rtol=1e-5)
        if eta is None:
            assert at.std is None
        else:
            np.testing.assert_allclose(at.std, [math.sqrt(squared), 0.0], rtol=1e-5, atol=1e-7)


def test_dpmpp2m_coefficients_by_hand():
    """Odds ``alpha^2 / sigma^2`` of 1/4, 1, 4, 64: ``lambda`` steps by ln 2, ln 2 and 2 ln 2, so ``1/(2r)`` is 1/2, 1.

    ``sigma' / sigma``: sqrt(1/2 / (4/5)), sqrt(1/5 / (1/2)), sqrt(1/65 / (1/5)); the weight is the rest to ``alpha'``.
    """
    schedule = by_alpha_bar(64 / 65, 4 / 5, 1 / 2, 1 / 5)
    at = dpmpp2m(schedule)
    shrink = [math.sqrt(5 / 8), math.sqrt(2 / 5), math.sqrt(1 / 13), 0.0]
    ends, begins = (1 / 2, 4 / 5, 64 / 65, 1.0), (1 / 5, 1 / 2, 4 / 5, 64 / 65)
    weight = np.sqrt(ends) - np.array(shrink) * np.sqrt(begins)
    slope = np.array([0.0, 0.5, 1.0, 0.0])
    assert at.std is None
    np.testing.assert_array_equal(at.time_index, [3, 2, 1, 0])
    np.testing.assert_allclose(at.coef_xt, shrink, rtol=1e-5)
    np.testing.assert_allclose(at.coef_x0, weight * (1 + slope), rtol=1e-5)
    np.testing.assert_allclose(at.coef_before, -weight * slope, rtol=1e-5)


def test_dpmpp2m_uses_the_clean_sample_of_the_step_before():
    """A denoiser that says its index: the recurrence by its own coefficients, the clipped samples 1, 1, 1, 0."""
    schedule = by_alpha_bar(64 / 65, 4 / 5, 1 / 2, 1 / 5)
    says = lambda x, index: index * jnp.ones_like(x)  # noqa: E731
    states = chain(says, dpmpp2m(schedule), without_noise(jnp.array([2.0])), clip=1.0)
    at, x, before = dpmpp2m(schedule), 2.0, 0.0
    for place, x_0 in enumerate([1.0, 1.0, 1.0, 0.0]):
        x = at.coef_xt[place] * x + at.coef_x0[place] * x_0 + at.coef_before[place] * before
        before = x_0
        np.testing.assert_allclose(states[place + 1], [x], rtol=1e-5, atol=1e-7)
    assert states[-1] == 0.0  # the last step ends at its clean sample


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.4])
def test_one_step_of_dpmpp2m_is_one_of_ddim(steps, clip):
    """Of two as well: the first has no predecessor, and the last goes to the clean sample."""
    denoiser, start = epsilon_denoiser(gaussian_epsilon(VP, 0.5), VP), jnp.array([0.3, -1.7])
    first, second = (
        chain(denoiser, rule(VP, steps=steps), without_noise(start), clip=clip) for rule in (ddim, dpmpp2m)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    assert first.shape == (steps + 1, 2)


@pytest.mark.parametrize("steps", [0, 3])
def test_ddim_with_all_noise_anew_is_the_ancestral_chain(steps):
    """``eta = 1`` has the posterior's variance, whichever steps are taken."""
    schedule = discrete_schedule("vp", 7)
    noise = draw_chain_noise(jax.random.key(0), steps or 7, (4, 2))
    denoiser = epsilon_denoiser(gaussian_epsilon(schedule, 0.5), schedule)
    expected = chain(denoiser, ancestral(schedule, "posterior", steps), noise, clip=0.8)
    np.testing.assert_allclose(chain(denoiser, ddim(schedule, 1.0, steps), noise, clip=0.8), expected, atol=2e-6)
    halfway = chain(denoiser, ddim(schedule, 0.5, steps), noise, clip=0.8)
    assert np.max(np.abs(halfway - expected)) > 0.05


def test_a_rule_refuses_noise_that_it_does_not_add():
    noise = draw_chain_noise(jax.random.key(0), 5, (2,))
    with pytest.raises(AssertionError):
        chain(lambda x, index: x, dpmpp2m(VP), noise, clip=None)


FINE = discrete_schedule("vp", 4096)


def log_odds_steps(count):
    """``count`` levels of ``FINE`` at nearly equal distances of ``lambda``, from odds of 1/20 to 20, as a schedule.

    Between levels so far from both ends no constant is all but 0 or 1, and 4096 levels leave the distances even.
    """
    half_log_snr = 0.5 * np.log(FINE.alpha_bar / (1.0 - FINE.alpha_bar.astype(np.float64)))
    wanted = np.linspace(0.5 * math.log(20), -0.5 * math.log(20), count + 1)
    place = np.argmin(np.abs(half_log_snr[:, None] - wanted), axis=0)
    return by_alpha_bar(*FINE.alpha_bar[place])


def measured_slope(errors, counts):
    """The exponent of an error that falls as a power of the number of steps."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize(("rule", "order"), [(ddim, 1), (dpmpp2m, 2)])
def test_chains_converge_to_the_gaussian_flow_with_their_order(rule, order):
    """Between two levels of noise a Gaussian's flow scales with the deviation of its marginal.

    The last step, to the clean sample, is left out: its length does not fall with the number of steps. In float32 an
    error of 1e-6 is rounding, and those here are above 1e-4.
    """
    std, start, counts, errors = 0.25, 1.3, (16, 32), []
    for count in counts:
        schedule = log_odds_steps(count)
        denoiser = epsilon_denoiser(gaussian_epsilon(schedule, std), schedule)
        states = chain(denoiser, rule(schedule), without_noise(jnp.asarray(start)), clip=None)
        early, late = np.sqrt(schedule.alpha_bar[[-1, 0]].astype(np.float64) * (std**2 - 1) + 1)
        errors.append(abs(float(states[-2]) / (start * late / early) - 1))
    assert errors[-1] > 1e-4
    assert measured_slope(errors, counts) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("rule", "rows"), [("ddim", 3), ("dpmpp2m", 0)])
def test_gradients_flow_through_other_chains(rule, rows):
    """By the weights of a network, by the start, the noise and eta, against central differences in float64."""
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        given = tuple(jnp.asarray(generator.normal(size=size)) for size in ((3, 2), 2, (rows, 2)))

        def value(flat):
            (weights, start, added), eta = unravel(flat)

            def predict(x, index):
                return gaussian_epsilon(VP, 0.5)(x, index) + 0.2 * jnp.tanh(jnp.append(x, 0.3 * index) @ weights)

            steps = ddim(VP, eta, steps=3) if rule == "ddim" else dpmpp2m(VP, steps=4)
            states = chain(epsilon_denoiser(predict, VP), steps, ChainNoise(start, added), clip=None)
            return jnp.sum(jnp.sin(states[-1] * jnp.array([1.0, -2.0])))

        flat, unravel = jax.flatten_util.ravel_pytree((given, jnp.asarray(0.6)))
        value = jax.jit(value)
        differences = [(value(flat + step) - value(flat - step)) / 2e-6 for step in 1e-6 * jnp.eye(len(flat))]
        gradient = jax.grad(value)(flat)
        np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7)
        assert np.all(np.isfinite(gradient))
        assert gradient[:8].all()


def test_chain_uses_its_noise_in_order():
    """A denoiser that always says 0 leaves ``x <- ct_i x + std_i z``; the last noise is drawn but never added."""
    noise = draw_chain_noise(jax.random.key(0), 5, (2, 3))
    states = ancestral_chain(lambda x, index: jnp.zeros_like(x), VP, noise, variance="beta", clip=None)
    assert states.shape == (6, 2, 3)
    x = expected = noise.start
    for state, i, z in zip(states, [4, 3, 2, 1, 0], noise.steps, strict=False):
        np.testing.assert_allclose(state, expected, atol=1e-6)
        x = expected
        expected = VP.posterior_coef_xt[i] * x + (math.sqrt(VP.beta[i]) if i else 0.0) * z
    np.testing.assert_array_equal(states[5], np.zeros((2, 3)))


def test_chain_tells_the_denoiser_where_it_is():
    """The clean sample said at index 0 is the result; it is clipped where a bound is given."""
    noise = draw_chain_noise(jax.random.key(0), 5, (3,))
    says = lambda x, index: jnp.where(index == 0, 3.0, -100.0) * jnp.ones_like(x)  # noqa: E731
    for clip, expected in ((None, 3.0), (4.0, 3.0), (0.5, 0.5)):
        sample = ancestral_sample(says, VP, noise, variance="posterior", clip=clip)
        np.testing.assert_allclose(sample, [expected] * 3, rtol=1e-6)


def test_chain_clips_states_behind_their_noise_and_repeats_its_end():
    """A denoiser that says ``x + 1``: ``x <- clip(c0 (x + 1) + ct x + temperature std z)``; at index 0, ``c0`` is 1."""
    noise = draw_chain_noise(jax.random.key(0), 7, (50,))
    states = ancestral_chain(
        lambda x, index: x + 1.0, VP, noise, variance="beta", clip=None, state_clip=1.5, temperature=0.5, repeats=2
    )
    assert states.shape == (8, 50)
    x = expected = np.asarray(noise.start)
    for state, i, z in zip(states, [4, 3, 2, 1, 0, 0, 0, None], [*noise.steps, None], strict=True):
        np.testing.assert_allclose(state, expected, atol=1e-6)
        if i is not None:
            x, added = expected, 0.5 * math.sqrt(VP.beta[i]) if i else 0.0
            free = VP.posterior_coef_x0[i] * (x + 1) + VP.posterior_coef_xt[i] * x + added * np.asarray(z)
            expected = np.clip(free, -1.5, 1.5)
    assert np.max(np.abs(noise.start)) > 1.5  # the start is not clipped
    assert np.any(np.abs(np.asarray(states[1:5])) == 1.5)


def test_transitions_of_several_steps_are_those_of_several_samples():
    at = transitions(VP, "posterior", np.array([4, 0]))
    mean = at.mean(jnp.ones((2, 3)), jnp.full((2, 3), 2.0))
    by_hand = VP.posterior_coef_x0[[4, 0]] + 2 * VP.posterior_coef_xt[[4, 0]]
    np.testing.assert_allclose(mean, np.repeat(by_hand[:, None], 3, axis=1), rtol=1e-6)
    np.testing.assert_allclose(at.std, [np.exp(0.5 * VP.posterior_log_variance[4]), 0], rtol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.4])
def test_a_chain_with_a_guide_that_takes_no_step_is_the_plain_one(clip):
    noise = draw_chain_noise(jax.random.key(0), 5, (3, 2))
    denoiser = epsilon_denoiser(gaussian_epsilon(VP, 0.5), VP)
    guide = Guide(lambda x, index: jnp.sum(x, axis=-1) + index, steps=0, scale=1.0, stop=0, strength="variance")
    chain, values = guided_chain(denoiser, VP, noise, guide, clip=clip, constrain=lambda x: x)
    np.testing.assert_allclose(
        chain, ancestral_chain(denoiser, VP, noise, variance="posterior", clip=clip), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(values, np.sum(chain[:-1], axis=-1) + np.arange(5)[::-1, None], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("stop", [0, 2, 9])
def test_a_guide_climbs_before_every_step(strength, stop):
    """Against the recursion by hand: a quadratic value whose slope is ``2 - x``, and the first number is known."""
    noise = draw_chain_noise(jax.random.key(0), 5, (3, 2))
    guide = Guide(lambda x, index: jnp.sum(2 * x - x**2 / 2, axis=-1), 2, 0.3, stop, strength)
    chain, values = guided_chain(
        lambda x, index: 0.5 * x, VP, noise, guide, clip=None, constrain=lambda x: x.at[..., 0].set(1.0)
    )
    variance = np.exp(VP.posterior_log_variance)
    factor = {"variance": variance, "std": np.sqrt(variance), "none": np.ones(5)}[strength]
    x = np.array(noise.start)
    x[:, 0] = 1
    for place, i in enumerate(range(4, -1, -1)):
        np.testing.assert_allclose(chain[place], x, rtol=1e-4, atol=1e-5)
        for _ in range(2):
            value = np.sum(2 * x - x**2 / 2, axis=-1)
            x[:, 1] += 0.3 * factor[i] * (2 - x[:, 1]) * (i >= stop)
        np.testing.assert_allclose(values[place], value, rtol=1e-4, atol=1e-5)
        mean = (0.5 * VP.posterior_coef_x0[i] + VP.posterior_coef_xt[i]) * x
        x = mean + np.sqrt(variance[i]) * (i > 0) * np.asarray(noise.steps[place])
        x[:, 0] = 1
    np.testing.assert_allclose(chain[-1], x, rtol=1e-4, atol=1e-5)


def test_chain_refuses_noise_of_another_length():
    noise = draw_chain_noise(jax.random.key(0), 4, (3,))
    with pytest.raises(AssertionError):
        ancestral_chain(lambda x, index: x, VP, noise, variance="beta", clip=None)


@pytest.mark.parametrize("clip", [None, 0.3])
def test_gradients_flow_through_the_whole_chain(clip):
    """Reverse-mode derivatives by weights and noise against central differences in float64."""
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        weights = jnp.asarray(generator.normal(size=(3, 2)))
        noise = ChainNoise(jnp.asarray(generator.normal(size=2)), jnp.asarray(generator.normal(size=(5, 2))))

        def chain(weights, noise):
            def predict(x, index):
                return gaussian_epsilon(VP, 0.5)(x, index) + 0.2 * jnp.tanh(jnp.append(x, 0.3 * index) @ weights)

            return ancestral_chain(epsilon_denoiser(predict, VP), VP, noise, variance="posterior", clip=clip)

        flat, unravel = jax.flatten_util.ravel_pytree((weights, noise))
        value = jax.jit(lambda flat: jnp.sum(jnp.sin(chain(*unravel(flat))[-1] * jnp.array([1.0, -2.0]))))
        steps = 1e-6 * jnp.eye(len(flat))
        differences = [(value(flat + step) - value(flat - step)) / 2e-6 for step in steps]
        gradient = jax.jit(jax.grad(value))(flat)
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)
        assert not gradient[-2:].any()  # the last noise is never added
        if clip is None:
            assert gradient[:-2].all()
        else:  # one coordinate ends on its bound, the other inside
            saturated = jnp.abs(chain(weights, noise)[-1]) > clip - 1e-6
            assert saturated.tolist() == [True, False]


def test_no_gradient_where_the_clip_saturates():
    noise = ChainNoise(jnp.asarray(0.3), jnp.zeros(5))
    sample = lambda scale: ancestral_sample(  # noqa: E731
        lambda x, index: scale * jnp.ones_like(x), VP, noise, variance="posterior", clip=1.0
    )
    assert jax.grad(sample)(2.0) == 0.0
    assert jax.grad(sample)(0.5) == pytest.approx(1.0)


def test_noise_matching_by_hand():
    """A network that says 0 loses the mean square of the noise; one that knows the noise loses nothing."""
    draws = DenoisingDraws(jnp.array([0, 4]), jnp.array([[1.0, 3.0], [0.0, -2.0]]))
    x_0 = jnp.array([[0.1, 0.2], [0.3, 0.4]])
    silent = noise_matching(lambda x, index: jnp.zeros_like(x), VP, x_0, draws)
    np.testing.assert_allclose(silent, [5.0, 2.0])

    def knowing(x, index):
        alpha_bar = at_index(VP.alpha_bar, index, 2)
        return (x - jnp.sqrt(alpha_bar) * x_0) / jnp.sqrt(1 - alpha_bar)

    np.testing.assert_allclose(noise_matching(knowing, VP, x_0, draws), [0.0, 0.0], atol=1e-12)


def test_flow_matching_by_hand():
    """The line from 2 to 4 has the velocity 2 and, at a quarter, the place 2.5; the mean is over dimensions."""
    draws = FlowDraws(jnp.array([[2.0, 0.0], [1.0, 1.0]]), jnp.array([0.25, 1.0]))
    x_1 = jnp.array([[4.0, 1.0], [0.0, 3.0]])
    np.testing.assert_allclose(interpolate(x_1, draws), [[2.5, 0.25], [0.0, 3.0]])
    np.testing.assert_allclose(flow_matching(lambda x, time: jnp.zeros_like(x), x_1, draws), [2.5, 2.5])
    np.testing.assert_allclose(flow_matching(lambda x, time: x + time[:, None], x_1, draws), [0.40625, 4.0])
    np.testing.assert_allclose(flow_matching(lambda x, time: x_1 - draws.start, x_1, draws), [0.0, 0.0])


def test_euler_steps_by_hand():
    """``dx/dt = x + t`` in two steps: ``x + x / 2``, then ``x + (x + 0.5) / 2``; many steps come to ``2 e - 2``."""
    velocity = lambda x, time: x + time  # noqa: E731
    path = euler_path(velocity, jnp.array([1.0, 2.0]), 2)
    np.testing.assert_allclose(path, [[1.0, 2.0], [1.5, 3.0], [2.5, 4.75]])
    assert euler_path(velocity, jnp.asarray(1.0), 2000)[-1] == pytest.approx(2 * math.e - 2, rel=1e-3)


def test_heun_steps_by_hand():
    """``dx/dt = x + t`` in two steps: the slopes 1 and, at Euler's point 1.5, 2; then Euler's ``x + (x + 0.5) / 2``."""
    velocity = lambda x, time: x + time  # noqa: E731
    np.testing.assert_allclose(heun_path(velocity, jnp.array([1.0]), 2)[:, 0], [1.0, 1.75, 2.875])
    np.testing.assert_array_equal(heun_path(velocity, jnp.array([1.0]), 1), euler_path(velocity, jnp.array([1.0]), 1))


@pytest.mark.parametrize(("path", "order", "counts"), [(euler_path, 1, (32, 64)), (heun_path, 2, (16, 32))])
def test_flows_converge_with_their_order(path, order, counts):
    """``dx/dt = x + t`` from 1 ends at ``2 e - 2``."""
    errors = [abs(float(path(lambda x, t: x + t, jnp.asarray(1.0), n)[-1]) - 2 * math.e + 2) for n in counts]
    assert errors[-1] > 1e-4
    assert measured_slope(errors, counts) == pytest.approx(order, abs=0.15)


def test_flow_of_a_gaussian_ends_in_it():
    """The exact velocity from ``N(0, 1)`` to ``N(0, std^2)`` scales each start by ``std``."""
    std = 0.3

    def velocity(x, time):
        return x * (time * std**2 - (1 - time)) / ((1 - time) ** 2 + time**2 * std**2)

    start = jnp.linspace(-2.0, 2.0, 5)
    np.testing.assert_allclose(jax.jit(lambda x: euler_path(velocity, x, 4000)[-1])(start), std * start, atol=1e-3)


@pytest.mark.parametrize("target", ["x0", "epsilon"])
def test_what_is_known_of_a_sample_is_set_and_costs_nothing(target):
    x_0, noise = np.array([[0.5, -1.0], [0.2, 0.4]], np.float32), np.array([[1.0, 2.0], [-1.0, 0.5]], np.float32)
    draws = DenoisingDraws(jnp.array([0, 4]), jnp.asarray(noise))
    known = lambda x: x.at[:, 0].set(7.0)  # noqa: E731
    alpha_bar = VP.alpha_bar[[0, 4]]
    second = np.sqrt(alpha_bar) * x_0[:, 1] + np.sqrt(1 - alpha_bar) * noise[:, 1]
    x = constrained_noise(VP, jnp.asarray(x_0), draws, known)
    np.testing.assert_allclose(x, np.stack([[7, 7], second], axis=1), rtol=1e-6)
    predict = lambda x, index: 2 * x + index[:, None]  # noqa: E731
    error = constrained_error(predict, VP, jnp.asarray(x_0), draws, known, target)
    goal = x_0 if target == "x0" else noise
    expected = np.stack([7 - goal[:, 0], 2 * second + [0, 4] - goal[:, 1]], axis=1)
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    slope = jax.grad(lambda c: jnp.sum(constrained_error(lambda x, i: c * x, VP, x_0, draws, known, target)[:, 0]))(1.0)
    assert slope == 0


def test_edm_matching_by_hand():
    """``1 / c_out^2`` is 8 at sigma 1/2 and 5 at sigma 1, for data of deviation 1/2."""
    draws = EDMDraws(jnp.array([0.5, 1.0]), jnp.zeros((2, 2)))
    x_0 = jnp.array([[0.5, 0.0], [1.0, -1.0]])
    silent = edm_matching(lambda x, sigma: jnp.zeros_like(x), x_0, draws, 0.5, 1.0)
    np.testing.assert_allclose(silent, [8 * 0.125, 5 * 1.0], rtol=1e-6)
    shouting = edm_matching(lambda x, sigma: jnp.full_like(x, 9.0), x_0, draws, 0.5, 1.0)
    np.testing.assert_allclose(shouting, [8 * 0.625, 5 * 2.0], rtol=1e-6)


def test_edm_matching_noises_its_input():
    draws = EDMDraws(jnp.array([2.0]), jnp.array([[1.0, -3.0]]))
    seen = []
    edm_matching(lambda x, sigma: seen.append((x, sigma)) or x, jnp.array([[0.5, 0.5]]), draws, 0.5, 1.0)
    np.testing.assert_allclose(seen[0][0], [[2.5, -5.5]])
    np.testing.assert_allclose(seen[0][1], [2.0])


def test_edm_matching_sends_gradient_through_target_and_unclipped_output():
    """``8 (clip(k x) - x)^2`` at sigma 1/2 without noise: slope ``16 (k - 1)^2 x``, or ``-16 (1 - x)`` when clipped."""
    draws = EDMDraws(jnp.array([0.5]), jnp.zeros((1, 1)))

    def slope(k, x):
        loss = lambda x: jnp.sum(edm_matching(lambda y, sigma: k * y, x, draws, 0.5, 1.0))  # noqa: E731
        return jax.grad(loss)(jnp.array([[x]]))[0, 0]

    assert slope(0.5, 0.5) == pytest.approx(16 * 0.25 * 0.5)
    assert slope(10.0, 0.5) == pytest.approx(-16 * 0.5)


def log_logistic_inverse(uniform, low, high, data):
    """The truncated law inverted in float64."""
    uniform = np.asarray(uniform, np.float64)
    cdf = lambda sigma: 1 / (1 + (data / sigma) ** 2)  # noqa: E731
    v = cdf(low) + uniform * (cdf(high) - cdf(low))
    return data * np.sqrt(v / (1 - v))


TAILS = [0.0, 2.0**-24, 2.0**-20, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 2.0**-20, 1 - 2.0**-24]


def test_noise_levels_in_single_precision_keep_both_tails():
    uniform = np.array([*TAILS, *np.random.default_rng(0).random(1000)], np.float32)
    sigma = jax.jit(log_logistic_sigma)(uniform, 0.002, 80.0, 0.5)
    assert sigma.dtype == jnp.float32
    np.testing.assert_allclose(sigma, log_logistic_inverse(uniform, 0.002, 80.0, 0.5), rtol=3e-6)


def test_noise_levels_in_double_precision():
    uniform = np.concatenate([TAILS, np.random.default_rng(1).random(1000)])
    with jax.enable_x64(True):
        sigma = jax.jit(log_logistic_sigma)(uniform, 0.002, 80.0, 0.5)
        assert sigma.dtype == jnp.float64
        np.testing.assert_allclose(sigma, log_logistic_inverse(uniform, 0.002, 80.0, 0.5), rtol=1e-10)


@given(data=st.floats(0.1, 2.0), low=st.floats(1e-3, 0.5), high=st.floats(2.0, 1e3), uniform=st.floats(0, 1, width=32))
def test_noise_levels_stay_between_their_bounds(data, low, high, uniform):
    """Bounds in units of the data's deviation."""
    uniform = jnp.asarray([0.0, uniform, 1.0], jnp.float32)
    sigma = jax.jit(log_logistic_sigma)(uniform, low * data, high * data, data)
    np.testing.assert_allclose(sigma[::2], [low * data, high * data], rtol=2e-5)
    assert sigma[0] <= sigma[1] <= sigma[2]


def test_median_noise_level_is_the_deviation_of_the_data():
    uniform = np.linspace(0, 1, 10_001, dtype=np.float32)
    assert np.median(jax.jit(log_logistic_sigma)(uniform, 0.002, 80.0, 0.5)) == pytest.approx(0.5, rel=1e-4)


def test_draws_follow_their_laws():
    chain = draw_chain_noise(jax.random.key(0), 3, (4000, 2))
    assert chain.start.shape == (4000, 2)
    assert chain.steps.shape == (3, 4000, 2)
    numbers = np.concatenate([chain.start[None], chain.steps]).reshape(4, -1)
    np.testing.assert_allclose(np.mean(numbers, axis=1), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(numbers), np.eye(4), atol=0.06)

    denoising = draw_denoising(jax.random.key(1), 3, (6000, 2))
    assert denoising.noise.shape == (6000, 2)
    np.testing.assert_allclose(np.bincount(denoising.time_index, minlength=3), 2000, atol=150)
    assert np.std(denoising.noise) == pytest.approx(1.0, abs=0.03)

    flow = draw_flow(jax.random.key(3), (6000, 2))
    assert flow.start.shape == (6000, 2)
    assert flow.time.shape == (6000,)
    assert np.std(flow.start) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(np.quantile(flow.time, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.025)

    edm = draw_edm(jax.random.key(2), (6000, 2), "edm", 0.002, 80.0, 0.5)
    assert edm.noise.shape == (6000, 2)
    assert edm.sigma.shape == (6000,)
    assert np.all((edm.sigma >= 0.00199) & (edm.sigma <= 80.1))
    # c_skip = sd^2 / (sigma^2 + sd^2) is uniform under this law
    quantiles = np.quantile(0.25 / (np.asarray(edm.sigma) ** 2 + 0.25), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.025)


def test_levels_of_the_bound_weigh_as_the_bound_does():
    """For ``x_0 ~ N(0, s^2)`` the bound's integral of the best denoiser's error is known in closed form."""
    low, high, data, std = 0.01, 20.0, 0.5, 0.3
    uniform = (jnp.arange(20_000) + 0.5) / 20_000
    sigma = np.asarray(jax.jit(elbo_sigma)(uniform, low, high, data), np.float64)
    ends = jax.jit(elbo_sigma)(jnp.array([0.0, 1.0]), low, high, data)
    np.testing.assert_allclose(ends, [low, high], rtol=1e-3)
    assert np.all(np.diff(sigma) > 0)
    error = std**2 * sigma**2 / (std**2 + sigma**2)
    loss = np.mean(error / np.asarray(edm_scales(jnp.asarray(sigma, jnp.float32), data).c_out) ** 2)
    share = lambda level, own: level**2 / (level**2 + own**2)  # noqa: E731
    bound = 0.5 * np.log(share(high, data) / share(low, data)) * loss
    assert bound == pytest.approx(0.5 * np.log(share(high, std) / share(low, std)), rel=1e-4)


def test_learned_variances_lie_between_the_posteriors_and_beta():
    schedule = discrete_schedule("vp", 5)
    index = jnp.array([0, 1, 4])
    at = lambda mix: np.exp(learned_log_variance(schedule, jnp.full((3, 2), mix), index))  # noqa: E731
    np.testing.assert_allclose(at(-1.0)[1:, 0], schedule.posterior_variance[[1, 4]], rtol=1e-5)
    np.testing.assert_allclose(at(-1.0)[0], schedule.posterior_variance[1], rtol=1e-5)  # not the 0 of index 0
    np.testing.assert_allclose(at(1.0)[:, 1], schedule.beta[[0, 1, 4]], rtol=1e-5)
    np.testing.assert_allclose(at(0.0)[2], np.sqrt(schedule.beta[4] * schedule.posterior_variance[4]), rtol=1e-5)
    one = discrete_schedule("vp", 1)
    np.testing.assert_allclose(np.exp(learned_log_variance(one, jnp.zeros(2), jnp.int32(0))), one.beta[0], rtol=1e-5)


@pytest.mark.parametrize(("mix", "variance"), [(-1.0, "posterior"), (1.0, "beta")])
def test_a_learned_variance_at_an_end_of_its_range_is_that_chain(mix, variance):
    schedule = discrete_schedule("vp", 4)
    noise = draw_chain_noise(jax.random.key(0), 4, (6, 2))
    denoise = epsilon_denoiser(gaussian_epsilon(schedule, 0.7), schedule)
    learned = lambda x, index: (denoise(x, index), learned_log_variance(schedule, jnp.full_like(x, mix), index))  # noqa: E731
    found = ancestral_sample(learned, schedule, noise, variance="learned", clip=0.8)
    np.testing.assert_allclose(
        found, ancestral_sample(denoise, schedule, noise, variance=variance, clip=0.8), atol=1e-6
    )


@pytest.mark.parametrize(("mix", "variance"), [(-1.0, "posterior"), (1.0, "beta")])
def test_a_learned_variance_of_fewer_steps_is_that_of_their_schedule(mix, variance):
    noise = draw_chain_noise(jax.random.key(0), 3, (4,))
    denoiser = epsilon_denoiser(gaussian_epsilon(VP, 0.5), VP)

    def learned(x, index):
        return denoiser(x, index), learned_log_variance(VP, jnp.full_like(x, mix), index, steps=3)

    found = chain(learned, ancestral(VP, "learned", steps=3), noise, clip=1.0)
    expected = chain(denoiser, ancestral(VP, variance, steps=3), noise, clip=1.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("stop", [0, 2, 3])
def test_a_guide_of_fewer_steps_stops_at_the_trained_index(stop):
    """Of 5 steps 4, 2 and 0 are taken; those below ``stop`` are not moved: values of a guide that counts its moves."""
    noise = draw_chain_noise(jax.random.key(0), 3, (2,))
    guide = Guide(lambda x, index: jnp.sum(x) * 0.0 + index, 1, 1.0, stop, "none")
    denoiser = lambda x, index: 0.5 * x  # noqa: E731
    states, values = guided_chain(denoiser, VP, noise, guide, clip=None, constrain=lambda x: x, steps=3)
    np.testing.assert_allclose(values, [4.0, 2.0, 0.0])
    np.testing.assert_allclose(
        states, chain(denoiser, ancestral(VP, "posterior", steps=3), noise, clip=None), rtol=1e-5
    )
    pushing = guide._replace(value=lambda x, index: jnp.sum(x))
    pushed, _ = guided_chain(denoiser, VP, noise, pushing, clip=None, constrain=lambda x: x, steps=3)
    moved = [i >= stop for i in (4, 2, 0)]
    at, x = ancestral(VP, "posterior", steps=3), np.asarray(noise.start)
    for place, is_moved in enumerate(moved):
        x = x + is_moved
        x = (0.5 * at.coef_x0[place] + at.coef_xt[place]) * x + at.std[place] * noise.steps[place]
        np.testing.assert_allclose(pushed[place + 1], x, rtol=1e-4, atol=1e-5)


def test_gaussian_divergence_by_hand():
    # ln(2) + (1 + 1) / (2 * 4) - 1/2
    np.testing.assert_allclose(gaussian_kl(1.0, 0.0, 0.0, np.log(4.0)), np.log(2.0) + 0.25 - 0.5, rtol=1e-6)
    np.testing.assert_allclose(gaussian_kl(0.3, -1.0, 0.3, -1.0), 0.0, atol=1e-7)


def test_the_least_noisy_term_is_the_density_of_the_sample():
    schedule = discrete_schedule("vp", 3)
    x_0, x, denoised = jnp.array([[0.5, -0.5]]), jnp.array([[9.0, 9.0]]), jnp.array([[0.1, -0.5]])
    found = step_terms(schedule, x_0, x, jnp.array([0]), denoised, jnp.log(jnp.array([[0.04, 0.04]])))
    density = lambda distance: 0.5 * (np.log(2 * np.pi * 0.04) + distance**2 / 0.04)  # noqa: E731
    np.testing.assert_allclose(found, [[density(0.4), density(0.0)]], rtol=1e-5)


@pytest.mark.parametrize("name", ["vp", "cosine"])
def test_a_gaussians_bound_is_its_entropy_at_the_best_variances(name):
    """Every reverse step of Gaussian data is Gaussian; beta is its variance where the data have deviation 1."""
    samples = 4000
    narrow, unit = (measure(jax.random.key(1), samples, name, 4, std) for std in (0.2, 1.0))
    assert narrow.entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 0.04))
    for found in (narrow.best, unit.best, unit.beta):
        assert abs(found) < 0.03
    assert unit.beta == pytest.approx(unit.best, abs=1e-5)
    assert narrow.posterior > 0.3 < narrow.beta
    assert unit.posterior > 0.3


LINEAR_VP = linear_vp()


def half_log_snr(time):
    log_alpha = LINEAR_VP.log_alpha(np.asarray(time, np.float64))
    return log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))


def test_linear_vp_by_hand():
    """``beta(t) = 0.1 + 19.9 t``, whose integral to 1 is 10.05 and to 1/2 is 2.5375; ``alpha^2 = exp(-integral)``."""
    np.testing.assert_allclose(LINEAR_VP.log_alpha(np.array([0.0, 0.5, 1.0])), [0.0, -1.26875, -5.025], rtol=1e-12)
    alpha, sigma = scales(jnp.array([0.0, -1.26875, -5.025]))
    np.testing.assert_allclose(alpha, [1.0, 0.2811827, 0.0065716], rtol=1e-5)
    np.testing.assert_allclose(sigma, [0.0, 0.9596544, 0.9999784], rtol=1e-6)
    # Where alpha is nearly 1, sigma^2 = 2 |log alpha| to first order; 1 - alpha^2 in float32 would be 4e-3 off.
    np.testing.assert_allclose(scales(jnp.float32(-5e-7))[1], 1e-3, rtol=1e-6)


@given(st.floats(1e-5, 1.0))
def test_linear_vp_finds_the_time_of_a_noise_level(time):
    assert LINEAR_VP.time(half_log_snr(time)) == pytest.approx(time, rel=1e-9)


def test_published_lists_of_orders():
    assert third_orders(15) == (3, 3, 3, 3, 2, 1)
    assert third_orders(13) == (3, 3, 3, 3, 1)
    assert third_orders(11) == (3, 3, 3, 2)
    assert second_orders(15) == (2, 2, 2, 2, 2, 2, 2, 1)
    assert second_orders(10) == (2, 2, 2, 2, 1, 1)


@given(st.integers(1, 50))
def test_orders_take_all_evaluations(evaluations):
    for orders in (second_orders(evaluations), third_orders(evaluations)):
        assert sum(orders) == evaluations
        assert min(orders) >= 1


def solver_plan(orders, form, end=1e-3):
    return dpm_solver_plan(LINEAR_VP, np.linspace(1.0, end, sum(orders) + 1), orders, form)


def gaussian_score(std):
    """The exact noise predictor of ``x_0 ~ N(0, std^2)``: ``epsilon = x sigma / (alpha^2 std^2 + sigma^2)``."""

    def predict(x, time):
        alpha, sigma = scales(LINEAR_VP.log_alpha(time))
        return x * sigma / (alpha**2 * std**2 + sigma**2)

    return predict


def gaussian_flow(std, start, end=1e-3):
    """Where the exact reverse flow takes ``start``: deviations scale with that of the marginal."""
    alpha, sigma = np.exp(LINEAR_VP.log_alpha(end)), np.sqrt(-np.expm1(2 * LINEAR_VP.log_alpha(end)))
    alpha_1, sigma_1 = np.exp(-5.025), np.sqrt(-np.expm1(-10.05))
    return start * np.hypot(alpha * std, sigma) / np.hypot(alpha_1 * std, sigma_1)


@pytest.mark.parametrize("form", ["noise", "data"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_solver_converges_to_the_gaussian_flow_with_its_order(form, order):
    """From 0.8 to 0.2, where the step of lambda falls like that of t: half of it divides the error by 2^order."""
    start = jnp.array([1.3])
    alphas, sigmas = scales(jnp.asarray(LINEAR_VP.log_alpha(np.array([0.2, 0.8])), jnp.float32))
    late, early = jnp.hypot(alphas * 0.5, sigmas)
    exact, errors = start * late / early, []
    for steps in (4, 8):
        grid = np.linspace(0.8, 0.2, steps * order + 1)
        plan = dpm_solver_plan(LINEAR_VP, grid, (order,) * steps, form)
        errors.append(float(jnp.abs(dpm_solver(gaussian_score(0.5), plan, start).sample - exact)[0]))
    assert errors[0] / errors[1] > 2**order * 0.7
    assert errors[0] < 0.1


@pytest.mark.parametrize(("name", "order", "counts"), [("euler", 1, (32, 64)), ("heun", 2, (16, 32))])
def test_solvers_of_the_ratio_converge_with_their_order(name, order, counts):
    """Of ``sigma / alpha``, from 0.8 to 0.2 as above."""
    scales_of = lambda t: np.exp(LINEAR_VP.log_alpha(t))  # noqa: E731
    late, early = (np.sqrt(scales_of(t) ** 2 * (0.25 - 1) + 1) for t in (0.2, 0.8))
    errors = []
    for count in counts:
        grid = np.linspace(0.8, 0.2, count + 1)
        euler = dpm_solver_plan(LINEAR_VP, grid, (1,) * count, "noise")
        plan = euler if name == "euler" else heun_plan(LINEAR_VP, grid)
        assert len(plan.time) == (count if name == "euler" else 2 * count - 1)
        sample = dpm_solver(gaussian_score(0.5), plan, jnp.array([1.3])).sample[0]
        errors.append(abs(float(sample) / (1.3 * late / early) - 1))
    assert errors[-1] > 1e-5
    assert measured_slope(errors, counts) == pytest.approx(order, abs=0.2)


def test_heun_step_by_hand():
    """``epsilon = x``: ``(alpha_t / alpha_s) x + alpha_t (s_t - s_s) (e_0 + e_1) / 2`` with ``s = sigma / alpha``."""
    grid = np.array([0.8, 0.5, 0.2])
    alpha = np.exp(LINEAR_VP.log_alpha(grid))
    ratio = np.sqrt(1 - alpha**2) / alpha
    euler = alpha[1] / alpha[0] + alpha[1] * (ratio[1] - ratio[0])
    heun = alpha[1] / alpha[0] + alpha[1] * (ratio[1] - ratio[0]) * (1 + euler) / 2
    last = alpha[2] / alpha[1] + alpha[2] * (ratio[2] - ratio[1])
    solution = dpm_solver(lambda x, time: x, heun_plan(LINEAR_VP, grid), jnp.array([1.0]))
    np.testing.assert_allclose(solution.time, [0.8, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(solution.x[:, 0], [1.0, euler, heun], rtol=1e-5)
    np.testing.assert_allclose(solution.sample, [heun * last], rtol=1e-5)


@pytest.mark.parametrize(("orders_of", "form"), [(third_orders, "noise"), (second_orders, "data")])
@pytest.mark.parametrize(("std", "bound"), [(0.3, 0.01), (1.0, 0.002)])
def test_published_solvers_sample_a_gaussian(orders_of, form, std, bound):
    """The published 15 evaluations are a quarter off for a narrow Gaussian, most of it in the last step of order 1."""
    start = jnp.linspace(-2.0, 2.0, 6).reshape(2, 3)
    errors = []
    for evaluations in (15, 60, 240):
        sample = dpm_solver(gaussian_score(std), solver_plan(orders_of(evaluations), form), start).sample
        errors.append(float(jnp.max(jnp.abs(sample / gaussian_flow(std, start) - 1))))
    assert errors[0] < 0.25
    assert errors[1] < errors[0] / 4
    assert errors[2] < bound


@pytest.mark.parametrize("orders", [(1,), (2,), (3,), (3, 2, 1)])
def test_each_form_is_exact_where_its_model_is_constant(orders):
    """Constant noise ``e``: ``x_t = alpha_t (x_s - sigma_s e) / alpha_s + sigma_t e``. A constant sample ends there."""
    start, constant = jnp.array([0.7, -1.5]), jnp.array([0.4, 2.0])
    log_alpha = LINEAR_VP.log_alpha(np.array([1e-3, 1.0]))
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    grid = np.linspace(1.0, 1e-3, sum(orders) + 1)
    noise = dpm_solver(lambda x, time: constant, dpm_solver_plan(LINEAR_VP, grid, orders, "noise"), start).sample
    exact = alpha[0] * (start - sigma[1] * constant) / alpha[1] + sigma[0] * constant
    np.testing.assert_allclose(noise, exact, rtol=2e-5)

    def towards(x, time):
        alpha, sigma = scales(LINEAR_VP.log_alpha(time))
        return (x - alpha * constant) / sigma

    data = dpm_solver(towards, dpm_solver_plan(LINEAR_VP, grid, orders, "data"), start).sample
    # The interpolation x_t = alpha_t c + (sigma_t / sigma_s) (x_s - alpha_s c) is the exact flow towards c.
    exact = alpha[0] * constant + sigma[0] / sigma[1] * (start - alpha[1] * constant)
    np.testing.assert_allclose(data, exact, rtol=2e-5)


@pytest.mark.parametrize("form", ["noise", "data"])
def test_third_order_is_exact_where_the_model_is_linear_in_lambda(form):
    """Noise form, ``epsilon = lambda``: ``x_t = alpha_t (x_s/alpha_s - int e^-l l dl)``; data form with ``e^l``."""
    ends = half_log_snr([0.9, 0.3])
    log_alpha = LINEAR_VP.log_alpha(np.array([0.9, 0.3]))
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))

    def predict(x, time):
        alpha, sigma = scales(LINEAR_VP.log_alpha(time))
        level = jnp.log(alpha / sigma)
        return jnp.full_like(x, level) if form == "noise" else (x - alpha * level) / sigma

    if form == "noise":
        integral = -np.exp(-ends[1]) * (ends[1] + 1) + np.exp(-ends[0]) * (ends[0] + 1)
        exact = alpha[1] * (0.7 / alpha[0] - integral)
    else:
        integral = np.exp(ends[1]) * (ends[1] - 1) - np.exp(ends[0]) * (ends[0] - 1)
        exact = sigma[1] * (0.7 / sigma[0] + integral)
    plan = dpm_solver_plan(LINEAR_VP, np.linspace(0.9, 0.3, 4), (3,), form)
    assert float(dpm_solver(predict, plan, jnp.array(0.7)).sample) == pytest.approx(exact, rel=2e-5)


def test_second_order_noise_step_by_hand():
    """``x = 2``, ``epsilon = x + t``, from 1 over 0.5 to 0.1, with the formula written out."""
    time = np.array([1.0, 0.5, 0.1])
    alpha = np.exp(LINEAR_VP.log_alpha(time))
    sigma = np.sqrt(1 - alpha**2)
    level = np.log(alpha / sigma)
    h = level[2] - level[0]
    r = (level[1] - level[0]) / h
    first = 3.0
    inside = alpha[1] / alpha[0] * 2.0 - sigma[1] * (np.exp(r * h) - 1) * first
    second = inside + 0.5
    slope = sigma[2] * (np.exp(h) - 1) * (second - first) / (2 * r)
    sample = alpha[2] / alpha[0] * 2.0 - sigma[2] * (np.exp(h) - 1) * first - slope
    solution = dpm_solver(lambda x, t: x + t, dpm_solver_plan(LINEAR_VP, time, (2,), "noise"), jnp.array(2.0))
    np.testing.assert_allclose(solution.sample, sample, rtol=1e-5)
    np.testing.assert_allclose(solution.x, [2.0, inside], rtol=1e-5)
    np.testing.assert_allclose(solution.epsilon, [first, second], rtol=1e-5)
    np.testing.assert_allclose(solution.time, [1.0, 0.5], rtol=1e-6)


def test_solver_tells_the_predictor_where_it_is():
    plan = solver_plan((3, 2, 1), "noise")
    np.testing.assert_allclose(plan.time, np.linspace(1.0, 1e-3, 7)[:-1], rtol=1e-6)
    at_times = dpm_solver(lambda x, time: time * x, plan, jnp.ones(2)).sample
    levels = {"twice": 2 * plan.time}
    by_levels = dpm_solver(lambda x, at: 0.5 * at["twice"] * x, plan, jnp.ones(2), levels).sample
    np.testing.assert_allclose(by_levels, at_times)


@pytest.mark.parametrize(("orders", "form"), [((4,), "noise"), ((1, 2), "noise"), ((2, 2), "score")])
def test_impossible_plans_are_refused(orders, form):
    with pytest.raises(ValueError, match=r"orders|form"):
        dpm_solver_plan(LINEAR_VP, np.linspace(1.0, 0.1, 5), orders, form)


def test_score_matching_by_hand():
    """``t = 0.5 (1 - 0.2) + 0.2 = 0.6``; a time is shared by the samples of a row; errors are summed."""
    draws = TimeDraws(jnp.array([0.5]), jnp.array([[[1.0, -1.0], [0.0, 2.0]]]))
    x_0 = jnp.array([[[0.5, 0.5], [1.0, 0.0]]])
    log_alpha = -0.25 * 19.9 * 0.36 - 0.5 * 0.1 * 0.6
    alpha, sigma = math.exp(log_alpha), math.sqrt(1 - math.exp(2 * log_alpha))
    time, x = noised(LINEAR_VP, x_0, draws, 0.2)
    assert float(time[0]) == pytest.approx(0.6)
    np.testing.assert_allclose(x, alpha * x_0 + sigma * draws.noise, rtol=1e-5)
    one = TimeDraws(draws.uniform, draws.noise[:, 0])
    loss = score_matching(lambda x, time: jnp.full_like(x, time[0]), LINEAR_VP, x_0[:, 0], one, 0.2)
    np.testing.assert_allclose(loss, [(0.6 - 1) ** 2 + (0.6 + 1) ** 2], rtol=1e-5)
    drawn = draw_times(jax.random.key(0), (4000, 3, 2))
    assert drawn.uniform.shape == (4000,)
    assert float(jnp.mean(drawn.uniform)) == pytest.approx(0.5, abs=0.02)
    assert float(jnp.std(drawn.noise)) == pytest.approx(1.0, abs=0.02)
