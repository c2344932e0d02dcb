"""Problems with known answers, which every method of the registry must find: four of them side by side in one program.

States say which problem's part of the data they are from, actions are one of two, and a reward may ask for the better.

- ``endless``: reward 1 on every step, time limits only. ``V = 1 / (1 - discount)``.
- ``terminal``: the same, but every step ends the episode. ``V = 1``.
- ``chain``: from state -1 without reward to state 1, there reward 1 and the end. ``V`` is ``discount`` and 1.
- ``modes``: time limits only, actions at -0.5 and 0.5 as often, reward 10 at 0.5 alone. ``Q`` is on average between
  what the data's policy earns and what the better mode does.

A method that learns from windows sees the problems whose trajectories are long enough: the first and the last; where
trajectories are filled up those of two steps, too, from the first of them.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import MOSTLY_SLOW, tiny

from diffjax.data.transitions import Transitions
from diffjax.methods.base import MEAN_VALUE, Method, without_acting
from diffjax.methods.registry import METHODS
from diffjax.training.batches import prepare
from diffjax.training.program import Program, RunSetup, _advance, mean_metrics, stack_runs
from diffjax.types import Spec

SPEC = Spec(observation_dim=1, action_dim=1)
PROBLEMS = ("endless", "terminal", "chain", "modes")
ROWS = 400  # of each problem
STEPS, LAST = 500, 100  # updates, and those whose metrics are read
DISCOUNT, MODE, BEST = 0.5, 0.5, 10.0
EPISODES = 64
QUICK = {"discount": DISCOUNT, "tau": 0.02, "ema_start": 1, "lr_decay_steps": 0.0, "actor_lr": 1e-3}
QUICK |= {"critic_lr": 3e-3, "value_lr": 3e-3, "termination_penalty": 0.0}
QUICK |= {"value_norm": False}  # a LayerNorm of the observation leaves nothing of the one number that it is here


def problems() -> Transitions:
    """All problems one after the other; the last row of an endless or chained episode only ends the one before."""
    rng, place = np.random.default_rng(0), np.arange(ROWS)
    odd = place % 2 == 1
    state = {"endless": rng.uniform(-1, 1, ROWS), "terminal": rng.uniform(-1, 1, ROWS)}
    state |= {"chain": np.where(odd, 1.0, -1.0), "modes": rng.uniform(-1, 1, ROWS)}
    action = {name: rng.uniform(-1, 1, ROWS) for name in PROBLEMS} | {"modes": np.where(odd, MODE, -MODE)}
    reward = {name: np.ones(ROWS) for name in PROBLEMS} | {"chain": odd, "modes": BEST * odd}
    never = np.zeros(ROWS, bool)
    terminal = {"endless": never, "terminal": ~never, "chain": odd, "modes": never}
    joined = lambda values: np.concatenate([values[name] for name in PROBLEMS]).astype(np.float32)  # noqa: E731
    end = joined(terminal).astype(bool)
    for first in (0, 3 * ROWS):  # time limits of the endless problems, whose rows begin no transition
        end[first + 99 : first + ROWS : 100] = True
    row = np.flatnonzero(~(end & ~joined(terminal).astype(bool)))
    return Transitions(
        observation=np.append(joined(state), 0).astype(np.float32)[:, None],
        action=np.append(joined(action), 0).astype(np.float32)[:, None],
        reward=np.append(joined(reward), 0).astype(np.float32),
        terminal=np.append(joined(terminal), 1).astype(bool),
        end=np.append(end, True),
        row=row.astype(np.int32),
    )


class Learned(NamedTuple):
    """What a method made of each problem: mean values on its data (None without a critic), and actions."""

    value: dict[str, float] | None
    action: dict[str, np.ndarray]
    compiled_once: bool  # the program of each phase


class Trained(NamedTuple):
    """A method after training on the problems that it can see, a run each."""

    program: Program
    problems: tuple[str, ...]
    state: Any
    setup: RunSetup
    metrics: dict[str, np.ndarray]
    compiled: int  # programs


@functools.cache
def trained(method: Method[Any, Any], hyper: Any) -> Trained:
    """A method trained on all problems at once."""
    view = method.view.sized(hyper)
    usable, part = prepare(problems(), view, "raw")
    bounds = np.searchsorted(usable.row, ROWS * np.arange(len(PROBLEMS) + 1))
    sizes = dict(zip(PROBLEMS, itertools.pairwise(bounds.tolist()), strict=True))
    seen = {name: pair for name, pair in sizes.items() if pair[1] > pair[0]}
    long_enough = ("endless", "chain", "modes") if view.padded else ("endless", "modes")
    assert tuple(seen) == (PROBLEMS if view.horizon == 1 else long_enough)
    parts = [part._replace(offset=jnp.int32(first), size=jnp.int32(last - first)) for first, last in seen.values()]
    setup = stack_runs([RunSetup(jax.random.key(number), own, hyper) for number, own in enumerate(parts)])
    program = Program(method, SPEC, "uniform")
    data = program.replicate(usable)
    state, compiled = program.init(setup, data), _advance._cache_size()
    metrics: dict[str, np.ndarray] = {}
    for phase in range(len(method.phases)):
        state, _ = program.advance(phase, state, 0, STEPS - LAST, setup, data)
        state, sums = program.advance(phase, state, STEPS - LAST, STEPS, setup, data)
        metrics |= mean_metrics(sums)
    return Trained(program, tuple(seen), state, setup, metrics, _advance._cache_size() - compiled)


@functools.cache
def learned(name: str, variant: str) -> Learned:
    """What a method made of the problems; variants that only act differently are trained once."""
    method, hyper = tiny(name, variant, hidden_dims=(32, 32), batch_size=32)
    known = {field.name for field in dataclasses.fields(hyper)}
    hyper = dataclasses.replace(hyper, **{key: value for key, value in QUICK.items() if key in known})
    found = trained(method, without_acting(hyper))
    runs = len(found.problems)
    acting = stack_runs([RunSetup(jax.random.key(number), found.setup.data, hyper) for number in range(runs)])
    keys = jax.random.split(jax.random.key(9), (runs, EPISODES))
    observation = jnp.linspace(-1, 1, EPISODES)[None, :, None].repeat(runs, 0)
    action = np.asarray(found.program.act(found.state.acting(acting.hyper), keys, 0, observation))[..., 0]
    value = found.metrics.get(MEAN_VALUE)
    by_problem = lambda values: dict(zip(found.problems, values, strict=True))  # noqa: E731
    compiled_once = found.compiled == len(method.phases)
    return Learned(None if value is None else by_problem(value.tolist()), by_problem(action), compiled_once)


@pytest.mark.parametrize(("name", "variant"), MOSTLY_SLOW)
def test_values_are_those_of_the_problem(name, variant):
    """Where there is a critic; a method without one imitates, which the next test looks at."""
    value = learned(name, variant).value
    if value is None:
        assert not {"critic_lr", "expectile"} & {field.name for field in dataclasses.fields(tiny(name, variant)[1])}
        return
    chain = DISCOUNT if METHODS[name][variant].view.padded else (1 + DISCOUNT) / 2
    expected = {"endless": 1 / (1 - DISCOUNT), "terminal": 1.0, "chain": chain}
    assert {name: value[name] for name in expected if name in value} == pytest.approx(
        {name: expected[name] for name in expected if name in value}, rel=0.1
    )
    as_the_data, at_best = (BEST * (0.5 + DISCOUNT * share / (1 - DISCOUNT)) for share in (0.5, 1.0))
    assert 0.9 * as_the_data < value["modes"] < 1.1 * at_best


@pytest.mark.parametrize(("name", "variant"), MOSTLY_SLOW)
def test_a_state_goes_on_in_the_program_that_made_it(name, variant):
    """A fresh state and a trained one are of the same types."""
    assert learned(name, variant).compiled_once


@pytest.mark.parametrize(("name", "variant"), MOSTLY_SLOW)
def test_the_better_mode_is_chosen_and_imitation_keeps_both(name, variant):
    """With a critic actions lie on the better side; without, they have the data's mean."""
    found = learned(name, variant)
    action = found.action["modes"]
    if found.value is None:
        assert abs(np.mean(action)) < 0.15, np.mean(action)
        return
    assert np.mean(action > 0) > 0.9, action


def test_only_a_diffusion_model_keeps_modes_apart():
    """A regression answers with the mean of both; samples of a diffusion model are of either side, some at the mode."""
    assert np.all(np.abs(learned("bc", "default").action["modes"]) < MODE / 2)
    action = learned("diffusion_bc", "default").action["modes"]
    assert 0.2 < np.mean(action > 0) < 0.8
    assert np.quantile(np.abs(action), 0.9) > 0.8 * MODE
