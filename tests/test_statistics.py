"""Statistics against numbers worked out by hand, against SciPy, and against what must hold of any scores."""

import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from diffjax.errors import UserError
from diffjax.results.statistics import (
    METRICS,
    Interval,
    Metric,
    Scores,
    bootstrap_interval,
    holm,
    improvement_interval,
    iqm,
    mean,
    median,
    near_best,
    optimality_gap,
    probability_of_improvement,
    profile_band,
    run_score_profile,
    significantly_worse,
    spread,
    t_interval,
    welch_p,
)

# The two methods of the tests of Agarwal et al.: four and three seeds (columns) of two tasks.
X = {"hopper": np.array([1, 2, 1, 2]), "walker2d": np.array([2, 2, 1, 1])}
Y = {"hopper": np.array([1, 2, 3]), "walker2d": np.array([1, 2, 3])}
RAGGED = {"hopper": np.array([0.0, 100.0]), "walker2d": np.array([10.0, 20.0, 60.0])}

SCORE = st.floats(-50, 200, allow_subnormal=False)
TASKS = st.sampled_from(["antmaze", "halfcheetah", "hopper", "kitchen", "walker2d"])
SEEDS = st.lists(SCORE, min_size=1, max_size=6).map(np.array)
SCORES = st.dictionaries(TASKS, SEEDS, min_size=1)
REPEATED_SCORES = st.dictionaries(TASKS, st.lists(SCORE, min_size=2, max_size=6).map(np.array), min_size=1)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal_scores(rng: np.random.Generator, tasks: int, seeds: int) -> dict[str, np.ndarray]:
    return {f"task {index}": rng.normal(60, 10, seeds) for index in range(tasks)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("std", 10.0), ("population-std", math.sqrt(200 / 3)), ("standard-error", 10 / math.sqrt(3))],
)
def test_spreads(name: str, expected: float) -> None:
    assert spread([90, 100, 110], name) == pytest.approx(expected, rel=1e-14)
    assert spread([0.1, 0.1, 0.1], name) == 0
    assert spread([90], name) is None


@given(REPEATED_SCORES)
def test_spreads_of_any_scores(scores: Scores) -> None:
    for values in scores.values():
        assert spread(values) == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-12)
        assert spread(values, "population-std") == pytest.approx(np.std(values), rel=1e-9, abs=1e-12)
        assert spread(values, "standard-error") == pytest.approx(scipy.stats.sem(values), rel=1e-9, abs=1e-12)


def test_unknown_spread() -> None:
    with pytest.raises(UserError, match=r"unknown spread 'standard-eror'; did you mean standard-error\?"):
        spread([1, 2], "standard-eror")


@pytest.mark.parametrize("metric", [mean, median, iqm])
def test_aggregates_of_agarwal(metric: Metric) -> None:
    assert metric(X) == 1.5
    assert metric(Y) == 2


def test_aggregates_by_hand() -> None:
    scores = {
        "antmaze": np.array([0.0, 0.0, 60.0, 20.0]),  # mean 20
        "hopper": np.array([90.0, 100.0, 110.0, 100.0]),  # mean 100
        "walker2d": np.array([30.0, 30.0, 50.0, 10.0]),  # mean 30
    }
    assert mean(scores) == 50
    assert median(scores) == 30
    assert iqm(scores) == pytest.approx((20 + 30 + 30 + 50 + 60 + 90) / 6)  # without 0 0 10 and 100 100 110
    assert optimality_gap(scores) == pytest.approx((320 + 10 + 280) / 12)
    assert optimality_gap(scores, gamma=50.0) == pytest.approx((130 + 0 + 80) / 12)


def test_tasks_weigh_the_same_whatever_their_seeds() -> None:
    assert mean(RAGGED) == pytest.approx((50 + 30) / 2)
    assert median(RAGGED) == pytest.approx((50 + 30) / 2)
    assert optimality_gap(RAGGED) == pytest.approx((50 + 70) / 2)
    # As 0 0 0 100 100 100 and 10 10 20 20 60 60: without the three lowest and the three highest.
    assert iqm(RAGGED) == pytest.approx((10 + 10 + 20 + 20 + 60 + 60) / 6)
    assert iqm({"hopper": np.array([4.0]), "walker2d": np.array([1.0, 2.0])}) == pytest.approx((2 + 4) / 2)


@given(seeds=st.integers(1, 7), tasks=st.integers(1, 7), seed=st.integers(0, 99))
def test_iqm_is_the_trimmed_mean(seeds: int, tasks: int, seed: int) -> None:
    scores = normal_scores(generator(seed), tasks, seeds)
    pooled = np.concatenate(list(scores.values()))
    assert iqm(scores) == pytest.approx(scipy.stats.trim_mean(pooled, proportiontocut=0.25), rel=1e-12)


@given(SCORES)
def test_iqm_of_unequal_seeds_is_the_trimmed_mean_of_copies(scores: Scores) -> None:
    copies = [np.repeat(values, 60 // len(values)) for values in scores.values()]  # 60: the lcm of 1 to 6
    common = math.lcm(*(len(values) for values in scores.values()))
    copies = [values[:: 60 // common] for values in copies]
    expected = scipy.stats.trim_mean(np.concatenate(copies), proportiontocut=0.25)
    assert iqm(scores) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(SCORES)
def test_aggregates_lie_among_the_scores(scores: Scores) -> None:
    pooled = np.concatenate(list(scores.values()))
    for metric in (mean, median, iqm):
        assert pooled.min() - 1e-9 <= metric(scores) <= pooled.max() + 1e-9
    assert optimality_gap(scores) >= 0
    assert optimality_gap(scores) >= 100 - mean(scores) - 1e-9  # what is beyond 100 makes up for nothing


@given(SCORES, st.randoms(use_true_random=False))
def test_aggregates_know_no_order(scores: Scores, random: Random) -> None:
    items = [(task, np.array(random.sample(list(values), len(values)))) for task, values in scores.items()]
    random.shuffle(items)
    for metric in METRICS.values():
        assert metric(dict(items)) == pytest.approx(metric(scores), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("metric", [*METRICS.values(), lambda scores: run_score_profile(scores, np.arange(5.0))])
@pytest.mark.parametrize("seeds", [(4, 4), (2, 5)])
def test_leading_axes_are_repetitions(metric: Metric, seeds: tuple[int, int]) -> None:
    scores = dict(zip(("hopper", "walker2d"), (generator(n).uniform(0, 5, size=(3, n)) for n in seeds), strict=True))
    each = [metric({task: values[index] for task, values in scores.items()}) for index in range(3)]
    np.testing.assert_allclose(metric(scores), np.stack(each), rtol=1e-13)


def test_profiles_by_hand() -> None:
    thresholds = np.array([-1, 0, 15, 20, 50, 100])  # exactly at a threshold is not above it
    runs = run_score_profile(RAGGED, thresholds)
    np.testing.assert_allclose(runs, [1, (1 / 2 + 1) / 2, (1 / 2 + 2 / 3) / 2, (1 / 2 + 1 / 3) / 2, 5 / 12, 0])


@given(REPEATED_SCORES)
def test_profiles_fall_from_one_to_zero(scores: Scores) -> None:
    thresholds = np.linspace(-51, 201, 30)
    band = profile_band(generator(), scores, thresholds, repetitions=20)
    np.testing.assert_array_equal(band.estimate, run_score_profile(scores, thresholds))
    for curve in band:
        assert curve.shape == thresholds.shape
        assert curve[0] == pytest.approx(1)
        assert curve[-1] == 0
        assert (np.diff(curve) <= 1e-12).all()
    assert (band.low <= band.high).all()


def test_a_profile_s_band_is_its_interval_at_each_threshold() -> None:
    thresholds = np.array([15.0, 50.0])
    band = profile_band(generator(), RAGGED, thresholds)
    for index, threshold in enumerate(thresholds):
        expected = bootstrap_interval(generator(), RAGGED, lambda s, t=threshold: run_score_profile(s, t[None])[..., 0])
        assert Interval(band.estimate[index], band.low[index], band.high[index]) == pytest.approx(expected)


def test_probability_of_improvement_by_hand() -> None:
    assert probability_of_improvement(X, Y) == pytest.approx(1 / 3)
    assert probability_of_improvement({"hopper": np.array([1, 2])}, {"hopper": np.array([1, 2])}) == 0.5
    assert probability_of_improvement({"hopper": np.array([2, 3])}, {"hopper": np.array([1])}) == 1


@given(SCORES, SEEDS)
def test_probability_of_improvement_is_mann_whitney_s(x: Scores, other: np.ndarray) -> None:
    y = {task: np.append(other, values[0]) for task, values in x.items()}  # with a tie at least
    forth, back = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert forth + back == pytest.approx(1)
    u = [scipy.stats.mannwhitneyu(x[task], y[task]).statistic / (len(x[task]) * len(y[task])) for task in x]
    assert forth == pytest.approx(np.mean(u))


def test_comparisons_name_the_tasks_left_out() -> None:
    x = {"antmaze": np.array([50.0, 60.0]), "hopper": np.array([3.0, 4.0]), "kitchen": np.array([1.0])}
    y = {"walker2d": np.array([9.0]), "hopper": np.array([1.0, 2.0]), "antmaze": np.array([70.0, 80.0])}
    found = improvement_interval(generator(), x, y)
    assert found.interval.estimate == 0.5
    assert found.interval.low <= 0.5 <= found.interval.high
    assert found.tasks == ("antmaze", "hopper")
    assert found.left_out == ("kitchen", "walker2d")
    with pytest.raises(UserError, match="no task to compare on: one has kitchen, the other walker2d"):
        improvement_interval(generator(), {"kitchen": x["kitchen"]}, {"walker2d": y["walker2d"]})


def test_bootstrap_of_two_seeds_by_hand() -> None:
    # The mean of two draws from 0 and 1 is 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4.
    scores = {"hopper": np.array([0.0, 1.0])}
    assert bootstrap_interval(generator(), scores) == (0.5, 0, 1)
    assert bootstrap_interval(generator(), scores, confidence=0.6) == (0.5, 0, 1)
    assert bootstrap_interval(generator(), scores, confidence=0.4) == (0.5, 0.5, 0.5)


def test_bootstrap_resamples_within_tasks() -> None:
    scores = {"hopper": np.array([0, 0, 0]), "walker2d": np.array([100, 100])}
    for metric in (mean, median, optimality_gap):
        assert bootstrap_interval(generator(), scores, metric) == (50, 50, 50)


@pytest.mark.parametrize("metric", [np.mean, np.median])
def test_bootstrap_agrees_with_scipy_s(metric: Callable[..., np.ndarray]) -> None:
    values = generator(1).normal(60, 10, 9)
    expected = scipy.stats.bootstrap(
        (values,), metric, n_resamples=20_000, method="percentile", rng=generator(2)
    ).confidence_interval
    found = bootstrap_interval(
        generator(3), {"hopper": values}, lambda s: metric(s["hopper"], axis=-1), repetitions=20_000
    )
    assert found == pytest.approx((metric(values), *expected), abs=0.3)


@given(REPEATED_SCORES, st.sampled_from([mean, median, iqm]), st.floats(0.5, 4), st.floats(-100, 100))
def test_intervals_nest_repeat_and_follow_the_scale(scores: Scores, metric: Metric, scale: float, shift: float) -> None:
    wide, narrow = (bootstrap_interval(generator(5), scores, metric, c, repetitions=50) for c in (0.99, 0.5))
    assert wide == bootstrap_interval(generator(5), scores, metric, 0.99, repetitions=50)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    pooled = np.concatenate(list(scores.values()))
    assert pooled.min() - 1e-9 <= wide.low
    assert wide.high <= pooled.max() + 1e-9
    moved = {task: scale * values + shift for task, values in scores.items()}
    expected = scale * np.array(wide) + shift
    assert bootstrap_interval(generator(5), moved, metric, 0.99, repetitions=50) == pytest.approx(expected, abs=1e-6)


def test_repetitions_are_drawn_in_full_whatever_their_number() -> None:
    sizes: list[int] = []

    def metric(scores: Scores) -> np.ndarray:
        sizes.extend(scores["hopper"].shape[:-1])
        return mean(scores)

    bootstrap_interval(generator(), RAGGED, metric, repetitions=2345)
    assert sum(sizes) == 2345


@pytest.mark.parametrize("metric", [mean, iqm])
def test_coverage_of_bootstrap_intervals(metric: Metric) -> None:
    rng = generator(7)
    found = [bootstrap_interval(rng, normal_scores(rng, 10, 10), metric, repetitions=500) for _ in range(500)]
    assert 0.90 < np.mean([interval.low <= 60 <= interval.high for interval in found]) < 0.96


def test_coverage_of_cells_intervals_with_few_seeds() -> None:
    """With three seeds Student's interval keeps its word and the bootstrap's does not, as the docstrings say."""
    rng = generator(8)
    cells = rng.normal(60, 10, size=(1000, 3))
    students = [t_interval(values) for values in cells]
    percentiles = [bootstrap_interval(rng, {"hopper": values}, repetitions=300) for values in cells]
    assert 0.93 < np.mean([found is not None and found.low <= 60 <= found.high for found in students]) < 0.97
    assert 0.65 < np.mean([found.low <= 60 <= found.high for found in percentiles]) < 0.80


def test_t_interval_by_hand() -> None:
    # t(0.975, 4) = 2.776445; the standard error of 1 .. 5 is sqrt(2.5 / 5).
    half = 2.7764451051977987 * math.sqrt(0.5)
    assert t_interval([1, 2, 3, 4, 5]) == pytest.approx((3, 3 - half, 3 + half), rel=1e-12)
    assert t_interval([7.0, 7.0]) == (7, 7, 7)
    assert t_interval([7.0]) is None
    # Of Cauchy's distribution, which two seeds have, the quantile at p is tan(π (p - 1/2)).
    half = math.tan(math.pi * 0.45)
    assert t_interval([-1.0, 1.0], confidence=0.9) == pytest.approx((0, -half, half), rel=1e-12)


@given(st.integers(2, 9), st.integers(2, 9), st.floats(0.01, 100), st.integers(0, 99))
def test_welch_s_p_is_scipy_s(n: int, m: int, scale: float, seed: int) -> None:
    rng = generator(seed)
    x, y = rng.normal(60, 10, n), rng.normal(50, 10 * scale, m)
    assert welch_p(x, y) == pytest.approx(scipy.stats.ttest_ind(x, y, equal_var=False).pvalue, rel=1e-8)
    assert welch_p(x, y) == pytest.approx(welch_p(y, x), rel=1e-12)


def test_welch_s_p_at_its_edges() -> None:
    assert welch_p([1.0], [1.0, 2.0]) is None
    assert welch_p([1.0, 2.0], [1.0]) is None
    assert welch_p([0.1, 0.1, 0.1], [0.1, 0.1]) == 1
    assert welch_p([0.1, 0.1, 0.1], [0.2, 0.2]) == 0
    # One without spread: the one-sample test, here t = 1 with one degree of freedom.
    assert welch_p([0.0, 2.0], [0.0, 0.0, 0.0]) == pytest.approx(0.5)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1, max(p_values) * len(p_values))
    assert min(holm(p_values)) == pytest.approx(min(1, min(p_values) * len(p_values)))


def test_significantly_worse_by_hand() -> None:
    best = [99.0, 100.0, 101.0, 100.0]
    bad, close = [50.0, 51.0, 49.0], [100.0, 98.0, 101.0]
    assert significantly_worse([bad, None, best, close, [10.0]]) == [True, None, False, False, None]
    assert significantly_worse([bad, [200.0], best]) == [None, False, None]  # nothing to test the best one with
    assert significantly_worse([best, best]) == [False, False]
    assert significantly_worse([None, None]) == [None, None]
    assert significantly_worse([]) == []


def test_more_columns_make_a_mark_harder_to_get() -> None:
    best, worse = [10.0, 11.0, 12.0], [8.0, 9.0, 9.5]
    p = welch_p(best, worse)
    assert p is not None
    assert 0.025 < p < 0.05
    assert significantly_worse([best, worse]) == [False, True]
    assert significantly_worse([best, worse, [10.0, 10.5, 11.5]]) == [False, False, False]
    assert significantly_worse([best, worse, [10.0, 10.5, 11.5]], alpha=0.1) == [False, True, False]


def test_near_best_by_hand() -> None:
    assert near_best([100.0, 95.0, 94.9, None]) == [True, True, False, False]
    assert near_best([-10.0, -10.5, -10.6]) == [True, True, False]
    assert near_best([0.0, -0.1, 0.0]) == [True, False, True]
    assert near_best([100.0, 90.0], share=0.1) == [True, True]
    assert near_best([None, None]) == [False, False]


@given(st.lists(st.none() | SCORE, max_size=6))
def test_the_best_is_near_the_best(means: list[float | None]) -> None:
    near = near_best(means)
    known = [value for value in means if value is not None]
    for value, bold in zip(means, near, strict=True):
        assert bold or value is None or value < max(known)
        assert not bold or value is not None


def test_refusals() -> None:
    single = {"hopper-medium-v2": np.array([1.0, 2.0]), "halfcheetah-medium-v2": np.array([1.0])}
    thresholds = np.arange(3.0)
    for attempt in (
        lambda: bootstrap_interval(generator(), single),
        lambda: profile_band(generator(), single, thresholds),
        lambda: improvement_interval(generator(), single, single),
    ):
        with pytest.raises(UserError, match=r"^an interval needs at least two seeds; halfcheetah-medium-v2 has one$"):
            attempt()
    with pytest.raises(UserError, match="two seeds; hopper, kitchen have one"):
        bootstrap_interval(generator(), {"hopper": np.array([1.0]), "kitchen": np.array([1.0])})
    with pytest.raises(UserError, match="0 repetitions make no interval"):
        bootstrap_interval(generator(), RAGGED, repetitions=0)
    for confidence in (0.0, 1.0, 95.0, math.nan):
        for refused in (
            lambda c=confidence: bootstrap_interval(generator(), RAGGED, confidence=c),
            lambda c=confidence: t_interval([1, 2], c),
            lambda c=confidence: significantly_worse([[1, 2]], c),
        ):
            with pytest.raises(UserError, match="give one between 0 and 1"):
                refused()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_not_trimmed(broken: float) -> None:
    scores = {"hopper": np.array([1.0, 2.0]), "kitchen": np.array([broken, 1.0])}
    for metric in METRICS.values():
        with pytest.raises(UserError, match="kitchen: a score is not finite"):
            metric(scores)
    with pytest.raises(UserError, match="kitchen: a score is not finite"):
        probability_of_improvement(scores, scores)
    with pytest.raises(UserError, match="a cell: a score is not finite"):
        spread([1.0, broken])


def test_nothing_has_no_statistics() -> None:
    with pytest.raises(UserError, match="give those of at least one task"):
        iqm({})
    with pytest.raises(UserError, match="hopper: no scores to aggregate"):
        mean({"hopper": np.array([])})
    with pytest.raises(UserError, match="a cell: no scores to aggregate"):
        t_interval([])
