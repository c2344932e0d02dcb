"""Training the arms of a figure with the same program as any benchmark task, and sampling their policies."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.numerics import random_key
from diffjax.studies.toys.clouds import Problem
from diffjax.studies.toys.figures import Arm, Figure
from diffjax.training.batches import prepare
from diffjax.training.program import NEVER, Program, RunSetup, TrainState, pieces, stack_runs
from diffjax.training.progress import Progress
from diffjax.types import Spec
from diffjax.words import count

PIECES = 50  # of an arm's updates
GRID_LIMIT, GRID_SIZE = 1.5, 100
DATA_STREAM, TRAIN_STREAM, SAMPLE_STREAM, FRESH_STREAM = range(4)


class Panel(NamedTuple):
    """One arm trained on one problem."""

    problem: Problem
    arm: Arm
    samples: np.ndarray  # (samples, 2); NaN where training met a non-finite number
    values: np.ndarray | None  # (GRID_SIZE, GRID_SIZE), rows along the second coordinate

    @property
    def failed(self) -> bool:
        """Whether training met a non-finite number."""
        return not np.isfinite(self.samples).all()


def figure_key(seed: int, stream: int) -> jax.Array:
    """The key of one purpose."""
    return jax.random.fold_in(random_key(seed), stream)


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
        end=np.ones(rows, bool),
        row=np.arange(rows, dtype=np.int32),
    )
    return data, offsets


def train_arm(figure: Figure, arm: Arm, seed: int, num_samples: int, progress: Progress) -> list[Panel]:
    """Trains one arm on its problems side by side and samples the policies."""
    problems = figure.problems_of(arm)
    transitions, offsets = as_transitions(figure, problems)
    prepared = prepare(transitions, arm.method.view.sized(arm.hyper))
    key = figure_key(seed, TRAIN_STREAM)
    setups = [
        RunSetup(
            jax.random.fold_in(key, number),
            prepared.part._replace(offset=jnp.int32(offset), size=jnp.int32(len(problem.action))),
            arm.adapt(problem, arm.hyper),
        )
        for number, (problem, offset) in enumerate(zip(problems, offsets, strict=True))
    ]
    spec = Spec(figure.observation_dim, 2)
    program, setup = Program(arm.method, spec, arm.sampling), stack_runs(setups)
    state = _train(program, setup, program.replicate(prepared.transitions), figure.name, arm, progress)

    acting = stack_runs([run._replace(hyper=dataclasses.replace(run.hyper, **arm.acting)) for run in setups]).hyper
    keys = jax.random.split(figure_key(seed, SAMPLE_STREAM), (len(problems), num_samples))
    observation = jnp.zeros((len(problems), num_samples, figure.observation_dim))
    samples = np.array(program.act(state.acting(acting), keys, 0, observation))
    panels = []
    for number, problem in enumerate(problems):
        bad = int(state.first_bad_step[number])
        if bad != NEVER:
            progress.note(f"{figure.name}: {arm.name} on {problem.name}: not finite from update {bad} on")
            samples[number] = np.nan
        values = None
        if arm.value is not None and bad == NEVER:
            trained = jax.tree.map(lambda leaf, i=number: leaf[i], state.method)
            values = _value_grid(arm, trained, setups[number].hyper)
        panels.append(Panel(problem, arm, samples[number], values))
    return panels


def _train(program: Program, setup: RunSetup, data: Transitions, name: str, arm: Arm, progress: Progress) -> TrainState:
    state = program.init(setup, data)
    main = len(arm.method.phases) - 1  # nothing is pretrained
    progress.begin(f"{name}: {arm.name}", len(setup.key), arm.steps, 0)
    for start, stop in pieces(0, arm.steps, PIECES):
        state, _ = program.advance(main, state, start, stop, setup, data)
        jax.block_until_ready(state)
        progress.advance(stop - start)
    progress.note(f"{name}: {arm.name}: {count(arm.steps, 'update')}, {progress.rate()}")
    return state


def grid_axis() -> np.ndarray:
    """Coordinates at which critics are drawn, ``(GRID_SIZE,)``."""
    return np.linspace(-GRID_LIMIT, GRID_LIMIT, GRID_SIZE, dtype=np.float32)


def _value_grid(arm: Arm, state: Any, hyper: Any) -> np.ndarray:
    assert arm.value is not None
    first, second = np.meshgrid(grid_axis(), grid_axis())
    return np.asarray(arm.value(state, hyper, jnp.stack([first, second], axis=-1)))


def train_figure(figure: Figure, seed: int, num_samples: int, progress: Progress) -> list[Panel]:
    """All panels, arm by arm."""
    return [panel for arm in figure.arms for panel in train_arm(figure, arm, seed, num_samples, progress)]
