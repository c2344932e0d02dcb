"""What a run sees of its data: rows, rewards, actions, observations, windows, returns, labels."""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.data.observations import ActionTransform, action_transform, observation_transform
from diffjax.data.transitions import Transitions
from diffjax.errors import UserError
from diffjax.methods import registry
from diffjax.methods.base import Method, Phase, Relabel, View, static, traced, weigh
from diffjax.methods.checks import check_method, check_shapes
from diffjax.nn.learners import Learner, learn, learner
from diffjax.training.batches import gather_batch, prepare, usable_rows
from diffjax.training.program import Program, RunSetup, stack_runs
from diffjax.types import Spec


def ten_rows(**changes: Any) -> Transitions:
    """Trajectories of rows 0-3 (time limit), 4-6 (terminal) and 7-9 (unfinished); the limit's row begins none."""
    fields = {
        "observation": np.arange(10, dtype=np.float32)[:, None],
        "action": np.linspace(-0.9, 0.9, 10, dtype=np.float32)[:, None],
        "reward": np.arange(10, dtype=np.float32),
        "terminal": np.arange(10) == 6,
        "end": np.isin(np.arange(10), (3, 6, 9)),
        "row": np.array([0, 1, 2, 4, 5, 6, 7, 8], np.int32),
    }
    return Transitions(**fields | changes)


def batch_of(transitions: Transitions, view: View, positions: list[int], **options: Any) -> Any:
    """The minibatch at some positions of the prepared data."""
    usable, part = prepare(transitions, view, **options)
    return gather_batch(jax.tree.map(jnp.asarray, usable), part, jnp.asarray(positions), view)


def test_a_minibatch_by_hand():
    data = ten_rows()._replace(row=np.array([0, 1, 4, 6, 8], np.int32))
    batch = batch_of(data, View(), [1, 3, 4], reward=(2.0, -1.0), action_clip=0.5)
    np.testing.assert_array_equal(batch.observation[:, 0], [1, 6, 8])
    np.testing.assert_array_equal(batch.next_observation[:, 0], [2, 7, 9])
    np.testing.assert_array_equal(batch.reward, [1, 11, 15])
    np.testing.assert_array_equal(batch.not_done, [1, 0, 1])
    np.testing.assert_allclose(batch.action[:, 0], [-0.5, 0.3, 0.5], atol=1e-6)
    assert batch.next_action is batch.return_to_go is batch.labels is None


def test_a_part_of_the_data_is_sampled_alone():
    usable, part = prepare(ten_rows(), View())
    assert int(part.size) == 8
    batch = gather_batch(jax.tree.map(jnp.asarray, usable), part._replace(offset=jnp.int32(3)), jnp.array([0, 1]))
    np.testing.assert_array_equal(batch.observation[:, 0], [4, 5])


def test_the_next_action_is_that_of_the_next_row():
    """Row 8 is the last transition of a trajectory that goes on: nothing is lost but where no action follows."""
    data, view = ten_rows(), View(next_action=True)
    assert usable_rows(data, view).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    batch = batch_of(data, view, [2, 3, 7])
    np.testing.assert_allclose(batch.next_action, data.action[[3, 5, 9]])
    limit = data._replace(row=np.arange(9, dtype=np.int32))
    assert usable_rows(limit, view).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]  # row 3 ends without a terminal
    nothing = np.isin(np.arange(10), (3, 9))  # rows that only hold a last observation, as Minari's episodes end
    held = data._replace(
        action=np.where(nothing[:, None], 0, data.action), reward=np.where(nothing, 0, data.reward).astype(np.float32)
    )
    assert usable_rows(held, view).tolist() == [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize(("horizon", "starts"), [(1, [0, 1, 2, 4, 5, 6, 7, 8]), (2, [0, 1, 4, 5, 7]), (3, [0, 4])])
def test_windows_never_cross_the_end_of_a_trajectory(horizon, starts):
    view = View(horizon=horizon)
    assert usable_rows(ten_rows(), view).tolist() == starts
    batch = batch_of(ten_rows(), view, list(range(len(starts))))
    if horizon > 1:
        expected = np.array(starts)[:, None] + np.arange(horizon)
        np.testing.assert_array_equal(batch.observation[..., 0], expected)
        np.testing.assert_array_equal(batch.next_observation[..., 0], expected + 1)
        np.testing.assert_array_equal(batch.not_done, expected != 6)


@pytest.mark.parametrize(
    ("padded", "starts"), [(3, [0]), (4, [0, 4, 7]), (5, [0, 1, 4, 5, 7, 8]), (99, [0, 1, 2, 4, 5, 7, 8])]
)
def test_padded_windows_begin_where_they_stay_within_the_padding(padded, starts):
    """Not at the last row of a trajectory, and a trajectory that is longer than the padding has none."""
    view = View(horizon=3, padded=padded)
    assert usable_rows(ten_rows(), view).tolist() == starts
    finished = np.array([[0, 4], [4, 7]])
    assert usable_rows(ten_rows(), view, finished).tolist() == [row for row in starts if row < 7]


def test_a_padded_window_by_hand():
    """It begins at row 5, the last but one of its trajectory: the third step is none, and zero as recorded."""
    data, view = ten_rows(), View(horizon=3, padded=9, next_action=True, observation="limits", action="limits")
    usable, part = prepare(data, view, reward=(2.0, -1.0), episodes=np.array([[0, 4], [4, 7]]))
    on_device, position = jax.tree.map(jnp.asarray, usable), usable.row.tolist().index(5)
    labels = {"value": jnp.arange(10.0) + 50}
    batch = gather_batch(on_device, part, jnp.array([position]), view, jnp.arange(10.0) + 20, labels)
    np.testing.assert_allclose(batch.observation[0, :, 0], (np.array([5, 6, 0]) - 3) / 3, rtol=1e-6)  # seen: 0 to 6
    np.testing.assert_allclose(batch.next_observation[0, :, 0], (np.array([6, 0, 0]) - 3) / 3, rtol=1e-6)
    half = 0.6  # the actions of rows 0 to 6 lie between -0.9 and 0.3
    np.testing.assert_allclose(batch.action[0, :, 0], (np.array([0.1, 0.3, 0]) + 0.3) / half, atol=1e-6)
    np.testing.assert_allclose(batch.next_action[0, :, 0], (np.array([0.3, 0, 0]) + 0.3) / half, atol=1e-6)
    np.testing.assert_array_equal(batch.reward[0], [9, 11, 0])
    np.testing.assert_array_equal(batch.not_done[0], [1, 0, 0])
    np.testing.assert_array_equal(batch.return_to_go[0], [25, 26, 0])
    np.testing.assert_array_equal(batch.labels["value"][0], [55, 56, 0])


class Recorded(NamedTuple):
    """A trajectory: rows with an action, whether the last one is a terminal, and whether a last observation follows."""

    length: int
    terminal: bool
    observed: bool


ROWS = 40
gather_jitted = functools.partial(jax.jit, static_argnames="view")(gather_batch)


@given(
    st.lists(st.builds(Recorded, st.integers(1, 7), st.booleans(), st.booleans()), min_size=1, max_size=5),
    st.sampled_from([(2, 4), (4, 4), (4, 9)]),
    st.integers(0, 2**31 - 1),
)
def test_padded_windows_are_those_of_trajectories_filled_up_one_by_one(trajectories, sizes, seed):
    (horizon, padded), rng = sizes, np.random.default_rng(seed)
    rows = [one.length + one.observed for one in trajectories]
    bounds = np.cumsum([0, *rows])
    observation, action = rng.normal(size=(2, ROWS, 1)).astype(np.float32)
    reward = rng.normal(size=ROWS).astype(np.float32)
    terminal, end, begins = np.zeros(ROWS, bool), np.zeros(ROWS, bool), np.zeros(ROWS, bool)
    end[ROWS - 1] = True  # of a tail that is no trajectory
    expected = []
    for first, one in zip(bounds, trajectories, strict=False):
        last = first + one.length - 1
        terminal[last] = one.terminal
        end[last + one.observed] = True
        begins[first : last + (one.terminal or one.observed)] = True
        if one.observed:
            action[last + 1], reward[last + 1] = 0, 0
        size = max(one.length, padded)
        shown = one.length + one.observed  # a last observation is shown too, with no action
        filled = [np.zeros((size + horizon, 1), np.float32) for _ in range(2)]
        for array, recorded in zip(filled, (observation, action), strict=True):
            array[:shown] = recorded[first : first + shown]
        expected += [
            np.concatenate([array[start : start + horizon] for array in filled], axis=1)
            for start in range(min(one.length - 1, size - horizon))
        ]
    data = Transitions(observation, action, reward, terminal, end, np.flatnonzero(begins).astype(np.int32))
    episodes, view = np.stack([bounds[:-1], bounds[1:]], axis=1), View(horizon=horizon, padded=padded)
    if not expected:
        with pytest.raises(UserError, match="windows of"):
            prepare(data, view, episodes=episodes)
        return
    usable, part = prepare(data, view, episodes=episodes)
    assert int(part.size) == len(expected)
    on_device = usable._replace(row=np.resize(usable.row, ROWS))  # of one shape, so that it compiles once per view
    batch = gather_jitted(jax.tree.map(jnp.asarray, on_device), part, jnp.arange(ROWS) % part.size, view=view)
    found = np.concatenate([batch.observation, batch.action], axis=-1)[: len(expected)]
    np.testing.assert_array_equal(found, np.stack(expected))


@pytest.mark.parametrize(
    ("view", "changes", "words"),
    [
        (View(horizon=9, padded=9), {}, "windows of 9 steps of trajectories that are filled up to 9, and the longest"),
        (View(horizon=4), {}, "windows of 4 steps, and the longest trajectory has 3 transitions"),
        (View(horizon=2), {"next_observation": np.zeros((10, 1), np.float32)}, "in no order"),
        (View(next_action=True), {"next_observation": np.zeros((10, 1), np.float32)}, "in no order"),
        (View(return_to_go=True), {"next_observation": np.zeros((10, 1), np.float32)}, "in no order"),
        (View(next_action=True), {"row": np.array([3], np.int32)}, "no transition is followed by another action"),
    ],
)
def test_data_that_cannot_give_what_a_method_reads(view, changes, words):
    with pytest.raises(UserError, match=words):
        prepare(ten_rows(**changes), view)


def test_observation_transforms_by_hand():
    observation = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [100.0, 9.0]], np.float32)
    data = ten_rows()._replace(observation=observation, row=np.array([0, 1, 2], np.int32))
    see = lambda name: np.asarray(observation_transform(name, data)(jnp.asarray(observation)))  # noqa: E731
    np.testing.assert_array_equal(see("raw"), observation)
    std = np.sqrt(8 / 3) + 1e-3
    np.testing.assert_allclose(see("standardized")[:3], [[-2 / std, 0], [0, 0], [2 / std, 0]], rtol=1e-6)
    np.testing.assert_allclose(see("standardized")[3, 1], 4 / 1e-3, rtol=1e-6)
    np.testing.assert_allclose(see("limits"), [[-1, 0], [0, 0], [1, 0], [49, 4]])
    np.testing.assert_allclose(see("gaussian")[:3], [[-2 / np.sqrt(8 / 3), 0], [0, 0], [2 / np.sqrt(8 / 3), 0]])
    of_all = observation_transform("limits", data, np.arange(4))
    np.testing.assert_allclose(of_all(jnp.asarray(observation))[:, 0], [-1, -0.96, -0.92, 1], rtol=1e-6)
    with pytest.raises(UserError, match="observation transform"):
        observation_transform("normalised", data)


def test_action_transforms_by_hand():
    data = ten_rows()._replace(action=np.array([[-3.0], [1.0], [0.5], *[[0.0]] * 7], np.float32))
    rows = np.arange(3)
    assert action_transform("raw", data, rows, np.inf) is None
    limits = action_transform("limits", data, rows, 1.0)  # after clipping
    np.testing.assert_allclose(limits(jnp.array([-1.0, 0.0, 1.0])), [-1.0, 0.0, 1.0])
    np.testing.assert_allclose(limits.undo(jnp.array([-3.0, 0.5, 2.0])), [-1.0, 0.5, 1.0])  # within the limits
    gaussian = action_transform("gaussian", data, rows, np.inf)
    mean, std = np.mean([-3.0, 1.0, 0.5]), np.std([-3.0, 1.0, 0.5])
    np.testing.assert_allclose(gaussian(jnp.array([1.0])), [(1 - mean) / std], rtol=1e-6)
    np.testing.assert_allclose(gaussian.undo(jnp.array([4.0])), [4 * std + mean], rtol=1e-6)


@flax.struct.dataclass
class Hyper:
    actor_lr: float = traced(0.1, above=0.0)
    discount: float = traced(0.5, at_least=0.0, at_most=1.0)
    max_action: float = traced(1.0, above=0.0)
    batch_size: int = static(4, at_least=1)
    interval: int = static(0, at_least=0)


class State(NamedTuple):
    actor: Learner


def make_method(view: View, relabel: Relabel[State, Hyper] | None = None) -> Method[State, Hyper]:
    """A policy of one number that is fitted to whatever its minibatches hold beside the data."""

    def loss(actor, batch):
        goal = batch.return_to_go if batch.labels is None else batch.labels["value"]
        goal = batch.observation[..., 0] if goal is None else goal
        return jnp.mean((actor - goal) ** 2), {"actor/loss": jnp.mean(goal)}

    def update(draws, step, state, hyper, batches):
        (batch,) = batches
        actor, metrics = learn(loss, state.actor, hyper.actor_lr, batch, name="actor")
        return State(actor), weigh(metrics)

    def act(draws, spec, state, hyper, observation):
        return jnp.full(spec.action_dim, jnp.mean(observation))

    init = lambda key, spec, hyper: State(learner(jnp.float32(0.0)))  # noqa: E731
    return Method(Hyper, init, (Phase("main", update, relabel=relabel),), act, view=view)


def run(method: Method[State, Hyper], hyper: Hyper, steps: list[int], transitions: Transitions, **options: Any) -> Any:
    """State, setup, program and mean losses after training one run to each of some steps in turn."""
    program = Program(method, Spec(1, 1), "uniform")
    usable, part = prepare(transitions, method.view, **options)
    setup, data = stack_runs([RunSetup(jax.random.key(0), part, hyper)]), program.replicate(usable)
    state, goals, start = program.init(setup, data), [], 0
    for stop in steps:
        state, sums = program.advance(0, state, start, stop, setup, data)
        goals.append(float(sums["actor/loss"].total[0]) / (stop - start))
        start = stop
    return state, setup, program, goals


def test_returns_to_go_reach_the_update():
    """One trajectory of one transition each: the return is the transformed reward."""
    data = ten_rows()._replace(end=np.ones(10, bool), terminal=np.ones(10, bool), reward=np.full(10, 3, np.float32))
    *_, goals = run(make_method(View(return_to_go=True)), Hyper(), [8], data, reward=(2.0, 1.0))
    assert goals == [pytest.approx(7.0)]


@pytest.mark.parametrize("name", ["standardized", "limits"])
def test_a_transform_reaches_updates_acting_and_checkpoints(name):
    view = View(observation=name)
    state, setup, program, goals = run(make_method(view), Hyper(), [40], ten_rows())
    raw = run(make_method(View()), Hyper(), [40], ten_rows())[3]
    transform = observation_transform(name, ten_rows())
    assert state.action is None
    assert goals[0] == pytest.approx(float(transform(jnp.float32(raw[0]))[0]), abs=1e-4)  # affine, so of the mean
    np.testing.assert_array_equal(state.observation.center[0], transform.center)
    observation = jnp.full((1, 3, 1), 2.0)
    keys = jax.random.split(jax.random.key(1), (1, 3))
    action = program.act(state.acting(setup.hyper), keys, 0, observation)
    np.testing.assert_allclose(action, np.full((1, 3, 1), float(transform(jnp.full(1, 2.0))[0])), rtol=1e-6)


def test_an_action_is_undone_when_acting():
    """The method acts with the mean of what it observed, in units of the deviation of the data's actions."""
    state, setup, program, _ = run(make_method(View(action="gaussian")), Hyper(), [2], ten_rows())
    expected = action_transform("gaussian", ten_rows(), ten_rows().row, np.inf)
    assert isinstance(state.action, ActionTransform)
    jax.tree.map(lambda ours, theirs: np.testing.assert_array_equal(ours[0], theirs), state.action, expected)
    keys, observation = jax.random.split(jax.random.key(1), (1, 3)), jnp.array([[[-1.0], [0.0], [2.0]]])
    action = program.act(state.acting(setup.hyper), keys, 0, observation)
    np.testing.assert_allclose(action[0, :, 0], np.array([-1, 0, 2]) * expected.scale + expected.center, rtol=1e-6)


def labels(draws, spec, state, hyper, batch, rows):
    """The state itself, plus 10 on rows that end a trajectory, plus the draw."""
    return {"value": state.actor.params + 10.0 * rows.end + 0.0 * batch.reward + draws}


@pytest.mark.parametrize(("interval", "relabelled"), [(0, 1), (4, 3)])
def test_labels_are_made_anew_when_the_phase_says_so(interval, relabelled):
    """12 steps in pieces of 3 and 9 or at once: the same to the bit, and made before steps 0, 4 and 8."""
    made = Relabel(labels, lambda key, spec, hyper, rows: jax.random.uniform(key), lambda hyper: hyper.interval)
    method, hyper = make_method(View(), made), Hyper(interval=interval)
    check_method("test", method)
    check_shapes("test", method, Spec(1, 1), hyper)
    data = ten_rows()._replace(end=np.zeros(10, bool))
    state, *_ = run(method, hyper, [12], data)
    pieces, *_ = run(method, hyper, [3, 12], data)
    jax.tree.map(np.testing.assert_array_equal, state, pieces)
    values, counts = np.unique(state.labels["main"]["value"], return_counts=True)
    assert counts.tolist() == [10]
    seen = {float(values[0])}
    for step in (1, 5, 9):
        seen.add(float(run(method, hyper, [step], data)[0].labels["main"]["value"][0, 0]))
    assert len(seen) == relabelled


def test_labels_see_those_that_stand():
    """The first call of a phase those of the phase before, if any; every other one its own."""

    def counted(draws, spec, state, hyper, batch, rows):
        return {"value": jnp.zeros_like(batch.reward) if batch.labels is None else batch.labels["value"] + 1.0}

    method = make_method(View(), Relabel(counted, interval=lambda hyper: hyper.interval))
    (main,) = method.phases
    method = method._replace(phases=(main._replace(name="pretrain", relabel=Relabel(counted)), main))
    check_shapes("test", method, Spec(1, 1), Hyper(interval=4))
    state, setup, program, _ = run(method, Hyper(interval=4), [8], ten_rows())
    data = program.replicate(prepare(ten_rows(), method.view).transitions)
    seen = {"pretrain": {*np.ravel(state.labels["pretrain"]["value"]).tolist()}}
    for stop in (1, 5, 9):
        state, _ = program.advance(1, state, max(stop - 4, 0), stop, setup, data)
        seen[f"main {stop}"] = {*np.ravel(state.labels["main"]["value"]).tolist()}
    assert seen == {"pretrain": {0.0}, "main 1": {1.0}, "main 5": {2.0}, "main 9": {3.0}}


def test_a_phase_may_have_minibatches_of_its_own_size():
    def update(draws, step, state, hyper, batches):
        return state, weigh({"actor/rows": jnp.float32(batches[0].reward.shape[0])})

    method = make_method(View())
    phases = (Phase("pretrain", update, batch_size=lambda hyper: 3 * hyper.batch_size), Phase("main", update))
    method = method._replace(phases=phases)
    check_shapes("test", method, Spec(1, 1), Hyper())
    _, setup, program, _ = run(make_method(View()), Hyper(), [1], ten_rows())
    program = program._replace(method=method)
    data = program.replicate(prepare(ten_rows(), method.view).transitions)
    advance = lambda phase: program.advance(phase, program.init(setup, data), 0, 1, setup, data)[1]  # noqa: E731
    assert [float(advance(phase)["actor/rows"].total[0]) for phase in (0, 1)] == [12.0, 4.0]


def test_labels_belong_to_rows():
    made = Relabel(lambda draws, spec, state, hyper, batch, rows: {"value": batch.observation[:, 0] + 100.0 * rows.end})
    *_, goals = run(make_method(View(), made), Hyper(), [400], ten_rows())
    by_hand = np.mean([0, 1, 2, 4, 5, 106, 7, 8])
    assert goals[0] == pytest.approx(by_hand, rel=0.1)
    state = run(make_method(View(), made), Hyper(), [1], ten_rows())[0]
    np.testing.assert_array_equal(state.labels["main"]["value"][0], np.arange(10) + 100 * ten_rows().end)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hyper": State}, "flax.struct.dataclass"),
        ({"phases": ()}, "phases is empty"),
        ({"phases": (Phase("train", lambda *_: None),)}, "the last one must be 'main'"),
        ({"phases": (Phase("main", lambda *_: None),) * 2}, "two phases share a name"),
        ({"view": View(observation="normal")}, "not one of raw, standardized, limits"),
        ({"view": View(action="normal")}, "View.action is 'normal', not one of raw"),
        ({"view": View(horizon=0)}, "View.horizon is 0"),
        ({"view": View(horizon=2, padded=-1)}, "View.padded is -1"),
        ({"view": View(padded=5)}, "View.padded is about windows"),
        ({"view": View(horizon="length")}, "View.horizon is 'length', which is no static field of Hyper"),
        ({"view": View(horizon="actor_lr")}, "View.horizon is 'actor_lr', which is no static field of Hyper"),
        ({"view": View(batches=0)}, "View.batches is 0"),
    ],
)
def test_a_method_that_breaks_the_contract_is_told_how(change, words):
    with pytest.raises(UserError, match=words):
        check_method("mine", make_method(View())._replace(**change))


def hyper_with(**fields: Any) -> Any:
    """A class of hyper-parameters; a field is given by its default, or by what declares it."""
    return flax.struct.dataclass(type("Mine", (), {"__annotations__": dict.fromkeys(fields, float), **fields}))


@pytest.mark.parametrize(
    ("fields", "view", "words"),
    [
        (
            {"batch_size": static(4, at_least=1)},
            View(),
            "mine: Mine has no field max_action; every method has",
        ),
        (
            {"max_action": traced(1.0, above=0.0), "batch_size": 4},
            View(),
            r"Mine.batch_size states no range",
        ),
        (
            {"max_action": traced(1.0, above=0.0), "batch_size": static(4, at_least=1)},
            View(return_to_go=True),
            r"View.return_to_go reads hyper.discount, and Mine has no such field",
        ),
    ],
)
def test_what_is_missing_from_hyper_is_named(fields, view, words):
    with pytest.raises(UserError, match=words):
        check_method("mine", make_method(view)._replace(hyper=hyper_with(**fields)))


def main_phase(update: Any, draw: Any = None) -> dict[str, Any]:
    """A change of a method's only phase."""
    return {"phases": (Phase("main", update) if draw is None else Phase("main", update, draw),)}


def reports(**metrics: Any) -> Any:
    """An update that only reports."""
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return lambda draws, step, state, hyper, batches: (state, named)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"act": lambda draws, spec, state, hyper, observation: observation[0]}, r"act returns the shape \(\) for one"),
        (
            {"act": lambda draws, spec, state, hyper, observation: observation[0, 0]},
            r"act fails on one observation",
        ),
        (main_phase(reports(Loss=jnp.zeros(()))), "metric 'Loss' is not called like critic/loss"),
        (main_phase(reports(actor__loss=jnp.zeros(()))), r"pass the metrics through weigh\(\)"),
        (main_phase(reports()), "phase main reports no metric"),
        (main_phase(reports(**weigh({"critic__loss": 0.0}))), "no phase reports critic/q_mean"),
        (main_phase(lambda draws, step, state, hyper, batches: (state.actor, weigh({"a/b": 0.0}))), "of other shapes"),
        (main_phase(lambda draws, *rest: draws.noise), r"draws None \(this Phase has no draw\): AttributeError"),
        (main_phase(lambda *_: None, lambda key, spec: None), "draw of phase main fails: TypeError"),
        (
            {"init": lambda key, spec, hyper: State(learner(x := jnp.float32(0.0))._replace(opt_state=(x, x)))},
            "array",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(change, words):
    with pytest.raises(UserError, match=words):
        check_shapes("mine", make_method(View())._replace(**change), Spec(3, 2), Hyper())


def test_a_critic_needs_a_discount():
    without = hyper_with(max_action=traced(1.0, above=0.0), batch_size=static(4, at_least=1))
    method = make_method(View())._replace(**main_phase(reports(**weigh({"critic__q_mean": 0.0}))))
    with pytest.raises(UserError, match="Mine has no field discount, though there is a critic"):
        check_shapes("mine", method, Spec(3, 2), without())


def test_a_metric_that_a_table_reads_is_asked_for():
    with pytest.raises(UserError, match="reports no metric actor/bc"):
        check_shapes("mine", make_method(View()), Spec(3, 2), Hyper(), metrics=("actor/bc",))


def test_a_broken_method_is_named_where_it_is_used(monkeypatch):
    broken = make_method(View())._replace(phases=())
    problems: dict[str, UserError] = {}
    monkeypatch.setattr(registry, "PROBLEMS", problems)
    monkeypatch.setitem(registry.METHODS, "mine", registry._registered("mine", {"default": broken}))
    with pytest.raises(UserError, match=r"method mine: Method\.phases is empty"):
        registry.get_method("mine")
    assert registry.get_method("bc")[1] == "default"
