"""Training the arms of a figure with the same program as any benchmark task, and judging their samples."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.toys.clouds import FAMILIES, Problem
from diffjax.toys.figures import Arm, Figure
from diffjax.training.program import NEVER, Program, RunSetup, TrainState, stack_setups
from diffjax.types import Spec

PIECES = 50  # calls of the program per arm: progress is shown and Ctrl-C heard between them
GRID_LIMIT, GRID_SIZE = 1.5, 100
DATA_STREAM, TRAIN_STREAM, SAMPLE_STREAM, FRESH_STREAM = range(4)
MODE_SHARE = 0.25  # of an even share of the samples, from which a mode counts as covered


class Listener(Protocol):
    """Who is told how training goes (:class:`diffjax.progress.TrainingProgress`)."""

    def begin(self, name: str, runs: int, total: int, done: int) -> None:
        """An arm starts."""

    def advance(self, updates: int) -> None:
        """Updates took place."""

    def rate(self) -> str:
        """Updates per second so far."""

    def note(self, text: str) -> None:
        """A line for the user."""


class Panel(NamedTuple):
    """One arm trained on one problem."""

    problem: Problem
    arm: Arm
    samples: np.ndarray  # (samples, 2); NaN where training met a non-finite number
    values: np.ndarray | None  # (GRID_SIZE, GRID_SIZE), rows along the second coordinate


class Numbers(NamedTuple):
    """One row of ``numbers.csv``: how the samples of one panel lie to the data and to the reward."""

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
    modes_covered: int  # centres with at least a quarter of an even share of the samples within three radii
    modes: int
    mean_reward: float  # true, without noise
    best_reward: float


def figure_key(seed: int, stream: int) -> jax.Array:
    """The key of one purpose."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def as_transitions(figure: Figure, problems: tuple[Problem, ...]) -> tuple[Transitions, list[int]]:
    """The data of several problems as one, and where each begins; the only state is zero."""
    action = np.concatenate([problem.action for problem in problems])
    reward = np.concatenate([problem.reward for problem in problems])
    rows = len(action)
    offsets = np.cumsum([0, *(len(problem.action) for problem in problems[:-1])]).tolist()
    data = Transitions(
        observation=np.zeros((rows + 1, figure.observation_dim), np.float32),
        action=action,
        reward=reward,
        terminal=np.full(rows, figure.one_step),
        row=np.arange(rows, dtype=np.int32),
    )
    return data, offsets


def train_arm(figure: Figure, arm: Arm, seed: int, num_samples: int, listener: Listener) -> list[Panel]:
    """Trains one arm on its problems side by side and samples the policies."""
    problems = figure.problems_of(arm)
    data, offsets = as_transitions(figure, problems)
    key = figure_key(seed, TRAIN_STREAM)
    setups = [
        RunSetup(
            jax.random.fold_in(key, number),
            jnp.int32(offset),
            jnp.int32(len(problem.action)),
            jnp.float32(1.0),
            jnp.float32(0.0),
            jnp.float32(np.inf),
            arm.adapt(problem, arm.hyper),
        )
        for number, (problem, offset) in enumerate(zip(problems, offsets, strict=True))
    ]
    spec = Spec(figure.observation_dim, 2)
    program, setup = Program(arm.method, spec, arm.sampling), stack_setups(setups)
    state = _train(program, setup, program.replicate(data), figure.name, arm, listener)

    acting = setup._replace(
        hyper=stack_setups([run._replace(hyper=dataclasses.replace(run.hyper, **arm.acting)) for run in setups]).hyper
    )
    keys = jax.random.split(figure_key(seed, SAMPLE_STREAM), (len(problems), num_samples))
    observation = jnp.zeros((len(problems), num_samples, figure.observation_dim))
    samples = np.array(program.act(state, acting, keys, 0, observation))
    panels = []
    for number, problem in enumerate(problems):
        bad = int(state.first_bad_step[number])
        if bad != NEVER:
            listener.note(f"{figure.name}: {arm.name} on {problem.name}: not finite from update {bad} on")
            samples[number] = np.nan
        values = None
        if arm.value is not None and bad == NEVER:
            trained = jax.tree.map(lambda leaf, i=number: leaf[i], state.method)
            values = _value_grid(arm, trained, setups[number].hyper)
        panels.append(Panel(problem, arm, samples[number], values))
    return panels


def _train(program: Program, setup: RunSetup, data: Transitions, name: str, arm: Arm, listener: Listener) -> TrainState:
    state = program.init(setup)
    main = len(arm.method.phases) - 1  # nothing is pretrained
    listener.begin(f"{name}: {arm.name}", len(setup.offset), arm.steps, 0)
    bounds = np.unique(np.linspace(0, arm.steps, PIECES + 1).round().astype(int)).tolist()
    for start, stop in itertools.pairwise(bounds):
        state, _ = program.advance(main, state, start, stop, setup, data)
        jax.block_until_ready(state)
        listener.advance(stop - start)
    listener.note(f"{name}: {arm.name}: {arm.steps} updates, {listener.rate()}")
    return state


def grid_axis() -> np.ndarray:
    """Coordinates at which critics are drawn, ``(GRID_SIZE,)``."""
    return np.linspace(-GRID_LIMIT, GRID_LIMIT, GRID_SIZE, dtype=np.float32)


def _value_grid(arm: Arm, state: Any, hyper: Any) -> np.ndarray:
    assert arm.value is not None
    first, second = np.meshgrid(grid_axis(), grid_axis())
    return np.asarray(arm.value(state, hyper, jnp.stack([first, second], axis=-1)))


def train_figure(figure: Figure, seed: int, num_samples: int, listener: Listener) -> list[Panel]:
    """All panels, arm by arm."""
    return [panel for arm in figure.arms for panel in train_arm(figure, arm, seed, num_samples, listener)]


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
    to_data, to_best = distances(samples, problem.action), distances(samples, problem.best)
    return Numbers(
        figure=figure.name,
        problem=problem.name,
        method=method,
        preset=preset,
        steps=steps,
        seed=seed,
        samples=len(samples),
        radius=problem.noise_std,
        in_support=in_support(problem, samples),
        distance_to_data=float(to_data.mean()),
        distance_to_best=float(to_best.mean()),
        at_best=float(np.mean(to_best <= 3.0 * problem.noise_std)),
        modes_covered=modes_covered(problem, samples),
        modes=len(problem.centers),
        mean_reward=float(problem.true_reward(samples).mean()),
        best_reward=float(problem.true_reward(problem.best).max()),
    )


def judge_all(figure: Figure, panels: list[Panel], preset: str, seed: int, num_samples: int) -> Iterator[Numbers]:
    """A row for fresh draws of each cloud, then one per panel."""
    fresh = FAMILIES[figure.name](figure_key(seed, FRESH_STREAM))
    chooser = np.random.default_rng(seed)
    for problem, other in zip(figure.problems, fresh, strict=True):
        chosen = chooser.choice(len(other.action), min(num_samples, len(other.action)), replace=False)
        yield judge(figure, problem, "data", 0, preset, seed, other.action[chosen])
    for panel in panels:
        yield judge(figure, panel.problem, panel.arm.name, panel.arm.steps, preset, seed, panel.samples)
