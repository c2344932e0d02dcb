"""Judging samples: how they lie to the data of a cloud and to its reward."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from diffjax.studies.toys.clouds import Problem
from diffjax.studies.toys.figures import Figure
from diffjax.studies.toys.training import FRESH_STREAM, Panel, figure_key

MODE_SHARE = 0.25  # of an even share of the samples, from which a mode counts as covered


class Numbers(NamedTuple):
    """One row of ``numbers.csv``: how the samples of one panel lie to the data and to the reward.

    What depends on the samples is NaN, and ``modes_covered`` None, where they are not finite.
    """

    figure: str
    problem: str
    method: str
    preset: str
    steps: int
    seed: int
    samples: int
    radius: float  # the cloud's own deviation
    in_support: float  # share of samples with an action of the data within the radius
    distance_to_data: float  # mean distance to the nearest action of the data
    distance_to_best: float  # mean distance to the nearest best centre (action of the data where it has no centres)
    at_best: float  # share of samples within three radii of it
    modes_covered: int | None  # centres with at least a quarter of an even share of the samples within three radii
    modes: int
    mean_reward: float  # true, without noise
    reward_at_best: float

    @property
    def failed(self) -> bool:
        """Whether training met a non-finite number."""
        return self.modes_covered is None


def distances(points: np.ndarray, others: np.ndarray, chunk: int = 200) -> np.ndarray:
    """Distance of each point to the nearest of ``others``, ``(points,)``."""
    pieces = [points[start : start + chunk] for start in range(0, len(points), chunk)]
    return np.concatenate([np.linalg.norm(p[:, None] - others[None], axis=-1).min(axis=1) for p in pieces])


def in_support(problem: Problem, samples: np.ndarray) -> float:
    """Share of the samples with an action of the data within the cloud's own deviation."""
    return float(np.mean(distances(samples, problem.action) <= problem.noise_std))


def modes_covered(problem: Problem, samples: np.ndarray) -> int:
    """Centres with at least a quarter of an even share of the samples within three deviations."""
    if not len(problem.centers):
        return 0
    distance = np.linalg.norm(samples[:, None] - problem.centers[None], axis=-1)
    own = distance.argmin(axis=1)
    close = distance.min(axis=1) <= 3.0 * problem.noise_std
    counts = np.bincount(own[close], minlength=len(problem.centers))
    return int(np.sum(counts >= MODE_SHARE * len(samples) / len(problem.centers)))


def judge(
    figure: Figure, problem: Problem, method: str, steps: int, preset: str, seed: int, samples: np.ndarray
) -> Numbers:
    """The numbers of one panel."""
    nan = float("nan")
    row = Numbers(
        figure=figure.name,
        problem=problem.name,
        method=method,
        preset=preset,
        steps=steps,
        seed=seed,
        samples=len(samples),
        radius=problem.noise_std,
        in_support=nan,
        distance_to_data=nan,
        distance_to_best=nan,
        at_best=nan,
        modes_covered=None,
        modes=len(problem.centers),
        mean_reward=nan,
        reward_at_best=float(problem.true_reward(problem.best).max()),
    )
    if not np.isfinite(samples).all():
        return row
    to_best = distances(samples, problem.best)
    return row._replace(
        in_support=in_support(problem, samples),
        distance_to_data=float(distances(samples, problem.action).mean()),
        distance_to_best=float(to_best.mean()),
        at_best=float(np.mean(to_best <= 3.0 * problem.noise_std)),
        modes_covered=modes_covered(problem, samples),
        mean_reward=float(problem.true_reward(samples).mean()),
    )


def judge_all(figure: Figure, panels: list[Panel], preset: str, seed: int, num_samples: int) -> Iterator[Numbers]:
    """A row for fresh draws of each cloud, then one per panel."""
    fresh = figure.draw_problems(figure_key(seed, FRESH_STREAM))
    chooser = np.random.default_rng(seed)
    for problem, other in zip(figure.problems, fresh, strict=True):
        chosen = chooser.choice(len(other.action), min(num_samples, len(other.action)), replace=False)
        yield judge(figure, problem, "data", 0, preset, seed, other.action[chosen])
    for panel in panels:
        yield judge(figure, panel.problem, panel.arm.name, panel.arm.steps, preset, seed, panel.samples)
