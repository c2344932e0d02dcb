"""What QGPO and SfBC make of the data before they learn from them: returns, planned returns, support actions, rows."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import SPEC, fresh_state, tiny

from diffjax import losses
from diffjax.data.trajectories import apply_rule
from diffjax.data.transitions import Transitions
from diffjax.errors import UserError
from diffjax.methods import sfbc
from diffjax.methods.base import Rows, View
from diffjax.methods.candidates import num_uniforms, successive_indices
from diffjax.training.batches import all_rows, join_data, prepare, usable_rows, whole_data
from diffjax.training.program import Program, RunSetup, stack_runs

EPISODES = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=7)
"""Lengths of trajectories, and whether a terminal ended them; the others were cut by a time limit."""
MOST_ROWS = 42


def recorded(episodes: list[tuple[int, bool]], seed: int = 0) -> Transitions:
    """Random data of these trajectories, as a reader leaves them."""
    rng, rows = np.random.default_rng(seed), sum(length for length, _ in episodes)
    last = np.cumsum([length for length, _ in episodes]) - 1
    terminal, end = np.zeros(rows, bool), np.zeros(rows, bool)
    end[last], terminal[last] = True, [is_terminal for _, is_terminal in episodes]
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    row = np.flatnonzero(~end | terminal).astype(np.int32)
    return Transitions(
        normal(rows, SPEC.observation_dim), normal(rows, SPEC.action_dim), normal(rows), terminal, end, row
    )


def padded(transitions: Transitions, value: np.ndarray) -> tuple[jax.Array, ...]:
    """Rewards, ends and values in arrays of one length, so that all examples share a program."""
    missing = MOST_ROWS - len(transitions.reward)
    fill = lambda x, what: jnp.asarray(np.append(x, np.full(missing, what, x.dtype)))  # noqa: E731
    return fill(transitions.reward, 0), fill(transitions.end, True), fill(value, 0)


returns_of, planned_of = jax.jit(losses.return_to_go), jax.jit(losses.planned_return)


@given(EPISODES, st.floats(0.0, 1.0), st.integers(0, 9))
def test_returns_and_planned_returns_against_a_loop_over_each_trajectory(episodes, discount, seed):
    data = recorded(episodes, seed)
    value = np.random.default_rng(seed + 99).normal(size=len(data.reward)).astype(np.float32)
    expected, planned = np.zeros(len(value)), np.zeros(len(value))
    for i in reversed(range(len(value))):
        after = (0.0, 0.0) if data.end[i] else (expected[i + 1], planned[i + 1])
        expected[i] = data.reward[i] + discount * after[0]
        planned[i] = max(data.reward[i] + discount * after[1], value[i])
    reward, end, floor = padded(data, value)
    found = returns_of(reward, end, discount)[: len(value)], planned_of(reward, end, floor, discount)[: len(value)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], planned, rtol=1e-4, atol=1e-5)


def test_planned_returns_by_hand():
    """A row whose value is above its return lifts all rows before it, but none of another trajectory."""
    reward, end = jnp.array([1.0, 0.0, 2.0, 4.0]), jnp.array([False, False, True, True])
    value = jnp.array([0.0, 6.0, 1.0, -1.0])
    np.testing.assert_allclose(losses.planned_return(reward, end, value, 0.5), [4.0, 6.0, 2.0, 4.0])


@functools.cache
def planner() -> Any:
    """SfBC, small, and its labels with and without labels before."""
    method, hyper = tiny("sfbc", "default", support_actions=3, discount=0.9)
    make = jax.jit(sfbc.labels, static_argnums=1)
    return hyper, fresh_state(method, hyper), make


def rows_of(data: Transitions, view: View) -> tuple[Transitions, Any, Rows]:
    usable, part = prepare(data, view)
    on_device = jax.tree.map(jnp.asarray, usable)
    return usable, whole_data(on_device, part), all_rows(on_device, part)


@settings(max_examples=15)
@given(EPISODES.filter(lambda episodes: any(length > 1 or is_terminal for length, is_terminal in episodes)))
def test_labels_of_any_trajectories(episodes):
    """SfBC's labels against a loop: first the returns to go, then the planned ones; and whose rows count."""
    hyper, state, make = planner()
    # Trajectories of nothing but an end follow, so that all examples share a program.
    data = recorded([*episodes, *[(1, False)] * (MOST_ROWS - sum(length for length, _ in episodes))])
    usable, batch, rows = rows_of(data, sfbc.METHOD.view)
    np.testing.assert_array_equal(np.flatnonzero(rows.sampled), usable.row)
    starts = np.append(True, data.end[:-1])
    np.testing.assert_array_equal(rows.sampled, ~starts | ~data.end | data.terminal)  # all but lone cut rows
    noise = jax.random.normal(jax.random.key(1), (MOST_ROWS, 3, SPEC.action_dim))
    first = make(noise, SPEC, state, hyper, batch, rows)
    np.testing.assert_allclose(first.returns, losses.return_to_go(batch.reward, rows.end, 0.9), rtol=1e-5)
    mine = np.asarray(first.returns, np.float64)[usable.row]
    np.testing.assert_allclose(first.mean, np.full(MOST_ROWS, mine.mean()), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first.std, np.full(MOST_ROWS, mine.std()), rtol=1e-4, atol=1e-6)
    second = make(None, SPEC, state, hyper, batch._replace(labels=first), rows)
    np.testing.assert_array_equal(second.support, first.support)
    q = np.asarray(sfbc.q_value(state.critic.params, hyper, batch.observation[:, None], first.support), np.float64)
    weight = np.exp(hyper.alpha * q)
    value = (weight / weight.sum(1, keepdims=True) * q).sum(1) * mine.std() + mine.mean()
    planned = np.zeros(MOST_ROWS)
    for i in reversed(range(MOST_ROWS)):
        following = 0.0 if data.end[i] else planned[i + 1]
        planned[i] = max(data.reward[i] + 0.9 * following, value[i])
    np.testing.assert_allclose(second.returns, planned, rtol=1e-3, atol=1e-4)


def test_each_of_several_runs_has_the_statistics_of_its_own_rows():
    """Two data sets joined in one program: labels of a run know its own rows alone."""
    hyper, state, make = planner()
    prepared = [prepare(recorded([(5, True), (4, False)], seed), sfbc.METHOD.view) for seed in (1, 2)]
    joined, parts = join_data(prepared)
    on_device = jax.tree.map(jnp.asarray, joined)
    noise = jnp.zeros((len(joined.reward), 3, SPEC.action_dim))
    for number, (alone, part) in enumerate(zip(prepared, parts, strict=True)):
        rows = all_rows(on_device, part)
        np.testing.assert_array_equal(np.flatnonzero(rows.sampled), alone.transitions.row + 9 * number)
        found = make(noise, SPEC, state, hyper, whole_data(on_device, part), rows)
        own = losses.return_to_go(jnp.asarray(alone.transitions.reward), jnp.asarray(alone.transitions.end), 0.9)
        np.testing.assert_allclose(found.mean[0], np.mean(own), rtol=1e-5)
        np.testing.assert_allclose(found.returns[9 * number : 9 * number + 9], own, rtol=1e-5)


@pytest.mark.parametrize("name", ["qgpo", "sfbc"])
def test_support_actions_stay_and_targets_are_renewed(name):
    """In the program: support actions are drawn once; SfBC's returns are renewed and its critic starts anew."""
    method, hyper = tiny(name, "default", hidden_dims=(8,), behavior_hidden_dims=(8,), support_actions=2)
    if name == "sfbc":
        hyper = dataclasses.replace(hyper, renewal_interval=4)
    usable, part = prepare(recorded([(5, True), (4, False)]), method.view)
    setup = stack_runs([RunSetup(jax.random.key(seed), part, hyper) for seed in range(2)])
    program = Program(method, SPEC, "uniform")
    data = program.replicate(usable)
    state, _ = program.advance(0, program.init(setup, data), 0, 2, setup, data)
    state, _ = program.advance(1, state, 0, 3, setup, data)
    before = jax.tree.map(np.asarray, state.labels["main"])
    state, _ = program.advance(1, state, 3, 5, setup, data)
    after = jax.tree.map(np.asarray, state.labels["main"])
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[0][0], before[0][1])  # each run has its own
    if name == "qgpo":
        np.testing.assert_array_equal(before.next_action, after.next_action)
        return
    assert np.all(np.any(before.returns != after.returns, axis=1))
    # One update after the renewal, every weight is a step of Adam away from its first value.
    moved = jax.tree.map(
        lambda new, old: np.max(np.abs(new - old)), state.method.critic.params, state.method.first_critic
    )
    assert max(jax.tree.leaves(moved)) <= 1.01 * hyper.critic_lr


def test_rows_without_a_next_observation():
    """Where it is not read, the row that a time limit cut is sampled too, unless it only holds a last observation."""
    data = recorded([(3, False), (2, True), (1, False), (2, False)])
    view = View(next_observation=False)
    assert usable_rows(data, View()).tolist() == [0, 1, 3, 4, 6]
    assert usable_rows(data, view).tolist() == [0, 1, 2, 3, 4, 6, 7]
    data.action[2], data.reward[2] = 0.0, 0.0
    assert usable_rows(data, view).tolist() == [0, 1, 3, 4, 6, 7]
    with pytest.raises(UserError, match="in no order"):
        prepare(data._replace(next_observation=data.observation), view)


def test_trajectories_as_the_program_takes_them():
    data = recorded([(4, True), (5, True), (6, False), (7, False)])
    found = apply_rule("sfbc_antmaze", data)
    assert np.flatnonzero(found.end).tolist() == [3, 8, 13, 14, 20, 21]
    assert usable_rows(found, View(next_observation=False)).tolist() == [*range(4, 9), *range(9, 14), *range(15, 21)]
    assert apply_rule("", data) is data
    whole = apply_rule("sfbc_maze2d", data)
    assert np.flatnonzero(whole.end).tolist() == [20, 21]
    assert usable_rows(whole, View(next_observation=False)).tolist() == list(range(21))
    # Of the two rewarded places only the second is the goal; the first ended nothing.
    data.reward[:], data.observation[:, :2] = 0.0, 0.0
    data.reward[[3, 8]], data.observation[8, :2] = 1.0, (19.5, 20.0)
    data.observation[3, :2] = (19.5, 18.0)
    defect = apply_rule("sfbc_antmaze_medium_play", data)
    assert np.flatnonzero(defect.reward).tolist() == np.flatnonzero(defect.terminal).tolist() == [8]
    assert np.flatnonzero(defect.end).tolist() == [8, 13, 14, 20, 21]
    with pytest.raises(UserError, match="in no order"):
        apply_rule("sfbc_antmaze", data._replace(next_observation=data.observation))


@given(st.integers(1, 5), st.integers(0, 99))
def test_successive_choice_against_numpy(count, seed):
    """The same indices in the same order as NumPy's own choice makes of the same uniform numbers."""
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(6, 0.5)).astype(np.float32)
    uniform = rng.random(num_uniforms(count)).astype(np.float32)
    if np.sum(probability > 1e-6) < count:
        return

    left, found = list(uniform), []
    while len(found) < count:
        drawn, left = left[: count - len(found)], left[count - len(found) :]
        p = probability.astype(np.float64)
        p[found] = 0
        places = np.searchsorted(np.cumsum(p) / p.sum(), drawn, side="right")
        found += list(dict.fromkeys(places.tolist()))
    assert chosen_of(count)(jnp.asarray(probability), jnp.asarray(uniform)).tolist() == found


@functools.cache
def chosen_of(count: int) -> Any:
    return jax.jit(lambda probability, uniform: successive_indices(probability, uniform, count))


def test_successive_choice_takes_what_is_nearly_impossible_last():
    probability = jnp.array([0.7, 0.3 - 1e-6, 1e-6])
    uniform = jax.random.uniform(jax.random.key(0), (200, num_uniforms(3)))
    index = np.asarray(jax.vmap(lambda one: successive_indices(probability, one, 3))(uniform))
    np.testing.assert_array_equal(np.sort(index, axis=1), np.tile(np.arange(3), (200, 1)))
    assert np.all(index[:, 2] == 2)
    assert 0.6 < np.mean(index[:, 0] == 0) < 0.8
