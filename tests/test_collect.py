"""Data that the program makes itself: a learner's history, the wanderer's walks, storing them once."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from diffjax.commands import collect
from diffjax.data.transitions import Dataset
from diffjax.envs import pointmaze
from diffjax.envs.pendulum import PENDULUM
from diffjax.envs.pointmaze import POINTMAZE
from diffjax.envs.thrusters import THRUSTERS
from diffjax.errors import UserError
from diffjax.launch import cli
from diffjax.studies.collect import embedded, sac, store, wanderer
from diffjax.tasks import registry as tasks
from diffjax.tasks.default_data import default_dataset
from diffjax.tasks.registry import get_task


def test_episodes_of_a_history_by_hand():
    flags = np.array([[0, 0], [1, 0], [0, 1], [0, 0]], bool)  # (terminated, truncated) of four steps
    history = sac.History(
        observation=np.array([[0.0], [1.0], [10.0], [20.0]]),
        action=np.array([[0.1], [0.2], [0.3], [0.4]]),
        reward=np.array([1.0, 2.0, 3.0, 4.0]),
        next_observation=np.array([[1.0], [2.0], [11.0], [21.0]]),
        terminated=flags[:, 0],
        truncated=flags[:, 1],
    )
    first, second, third = embedded.episodes_of(history)
    assert first.observation.tolist() == [[0.0], [1.0], [2.0]]
    assert first.action.tolist() == [[0.1], [0.2]]
    assert first.reward.tolist() == [1.0, 2.0]
    assert first.terminal
    assert second.observation.tolist() == [[10.0], [11.0]]
    assert not second.terminal
    assert third.observation.tolist() == [[20.0], [21.0]]
    assert not third.terminal


def test_chart_by_hand():
    # 0 1 2
    # 3 # 4     from 3 to 4: up, right, right, down
    maze = wanderer.chart(np.pad([[False, False, False], [False, True, False]], 1, constant_values=True))
    assert maze.number[1:3, 1:4].tolist() == [[0, 1, 2], [3, -1, 4]]
    assert maze.distance[3].tolist() == [1, 2, 3, 0, 4]
    assert [maze.towards[4, cell] for cell in (3, 0, 1, 2, 4)] == [0, 1, 2, 4, 4]
    assert maze.center[3].tolist() == [1.5, 2.5]


def test_chart_refuses_a_cell_that_cannot_be_reached():
    with pytest.raises(ValueError, match="cannot be reached"):
        wanderer.chart(np.pad([[False, True, False]], 1, constant_values=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty folder for data sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        yield


def collected(name: str) -> Dataset:
    """A task's own data set, collected once."""
    lines: list[str] = []
    dataset = default_dataset(get_task(name), store.store_dataset, lines.append)
    assert any(line.startswith("collected") for line in lines)

    def refuse(*_: object) -> None:
        raise AssertionError("collected a second time")

    again = default_dataset(get_task(name), refuse)
    assert again.fingerprint == dataset.fingerprint
    return dataset


@pytest.fixture(scope="module")
def pointmaze_data(folder: None) -> Dataset:
    return collected("pointmaze-mixed")


@pytest.fixture(scope="module")
def pendulum_data(folder: None) -> Dataset:
    return collected("pendulum-mixed")


def say_what_they_are(name: str, dataset: Dataset) -> None:
    task = get_task(name)
    assert dataset.label == "mini"
    assert dataset.source == task.data
    assert dataset.env_id == task.env_id
    assert (dataset.ref_min, dataset.ref_max) == (task.ref_min, task.ref_max)


def test_stored_data_say_what_they_are(pointmaze_data: Dataset):
    say_what_they_are("pointmaze-mixed", pointmaze_data)


@pytest.mark.slow
def test_pendulum_data_are_a_learners_history(pendulum_data: Dataset):
    dataset = pendulum_data
    say_what_they_are("pendulum-mixed", dataset)
    assert len(dataset.transitions.row) == 40_000
    assert not dataset.transitions.terminal.any()
    returns = dataset.episode_returns.reshape(4, 50)
    task = get_task("pendulum-mixed")
    assert returns[:, :5].mean() < task.ref_min + 10  # starts like the random policy
    assert returns[:, -15:].mean() > task.ref_max - 6  # ends like the expert


def test_pointmaze_data_hold_no_direct_route(pointmaze_data: Dataset):
    data = pointmaze_data.transitions
    assert len(pointmaze_data.episode_returns) == embedded.NUM_WALKS
    assert 0.1 * embedded.NUM_WALKS < data.terminal.sum() < 0.5 * embedded.NUM_WALKS
    maze = wanderer.chart(pointmaze.WALL)
    position = data.observation / pointmaze.OBSERVATION_SCALE + pointmaze.CENTER
    start, goal = (int(wanderer.cell_at(maze, jnp.asarray(place))) for place in (pointmaze.START, pointmaze.GOAL))
    cells = np.asarray(jax.vmap(lambda x: wanderer.cell_at(maze, x))(jnp.asarray(position)))
    assert (cells >= 0).all()  # nobody stands in a wall
    final = np.setdiff1d(np.arange(len(cells)), data.row)
    walks = np.split(np.arange(len(cells)), final[:-1] + 1)
    routes = []
    for walk in walks:
        at_start = np.flatnonzero(cells[walk] == start)
        if data.terminal[walk].any() and at_start.size:
            routes.append(len(walk) - 1 - at_start[-1])
    assert maze.distance[start, goal] == 10
    assert all(steps > 1.5 * 9 for steps in routes)  # the shortest path takes 9 steps


def test_pointmaze_data_replay_in_the_simulator(pointmaze_data: Dataset):
    data = pointmaze_data.transitions
    row = data.row
    state = pointmaze.State(jnp.asarray(data.observation[row] / pointmaze.OBSERVATION_SCALE + pointmaze.CENTER))
    _, observation, reward, terminal = jax.vmap(pointmaze.step)(state, jnp.asarray(data.action[row]))
    np.testing.assert_allclose(observation, data.observation[row + 1], atol=1e-4)
    # A point within rounding of the goal's edge may arrive in one and not in the other.
    assert (np.asarray(reward) != data.reward[row]).mean() < 1e-3
    assert (np.asarray(terminal) != data.terminal[row]).mean() < 1e-3


def test_wandering_is_a_function_of_its_key():
    maze = wanderer.chart(pointmaze.WALL)
    walk = jax.jit(lambda key: wanderer.wander(key, maze))
    first, again, other = (walk(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (wanderer.WALK_STEPS + 1, 2)


@pytest.mark.parametrize("simulator", [PENDULUM, POINTMAZE, THRUSTERS[0]], ids=["pendulum", "pointmaze", "thrusters"])
def test_the_random_policy_scores_nought(simulator):
    (task,) = [task for task in tasks.tasks().values() if task.env_id == simulator.name]
    returns = embedded.play(jax.random.key(7), simulator, embedded.random_policy(simulator), 300)
    deviation = max(returns.std(), np.sqrt(abs(task.ref_min)))  # of a reward that comes rarely, too
    assert abs(returns.mean() - task.ref_min) < 4 * deviation / np.sqrt(300)


def test_the_maze_controller_scores_a_hundred():
    task = get_task("pointmaze-mixed")
    scores = embedded.measure_reference_scores(task.id, lambda line: None, episodes=50, seed=0)
    assert scores.ref_max == task.ref_max == 1.0
    assert scores.ref_max_error == 0.0


def test_flights_are_of_two_kinds_and_worse_than_the_best_pilot():
    (observation, action, reward) = jax.vmap(lambda key: embedded.fly(key, THRUSTERS[0]))(
        jax.random.split(jax.random.key(0), 40)
    )
    horizon, count = THRUSTERS[0].horizon, THRUSTERS[0].action_dim
    assert (observation.shape, action.shape) == ((40, horizon + 1, 4), (40, horizon, count))
    assert np.all(np.abs(action) <= 1.0)
    power = np.mean(np.abs(action[:, :5]), axis=1).reshape(40, -1, 2).mean(axis=1)  # of either half, at the start
    assert 10 < np.sum(power[:, 0] > power[:, 1]) < 30
    task = get_task("thrusters-24-mixed")
    assert task.ref_min < np.mean(np.sum(reward, axis=1)) < 0.8 * task.ref_max
    scores = embedded.measure_reference_scores(task.id, lambda line: None, episodes=100, seed=0)
    assert scores.ref_max == pytest.approx(task.ref_max, abs=4 * scores.ref_max_error)


def test_only_some_tasks_have_data_of_their_own():
    with pytest.raises(UserError, match="pendulum-mixed, pointmaze-mixed"):
        embedded.measure_reference_scores("hopper-medium-v2", print, 2, 0)
    with pytest.raises(UserError, match="mini, wide, local"):
        store.recipe_of(get_task("hopper-medium-v2"))


def launch(*arguments: str) -> int:
    return cli.run(collect.COMMAND, ["collect.py", *arguments])


def test_command_line(capsys: pytest.CaptureFixture):
    assert launch("--help") == 0
    assert "--measure" in capsys.readouterr().out
    assert launch("--task=pointmaze-mixed", "--measure", "--episodes=20") == 0
    assert "ref_max 1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--task=pendulum-mixed", "--format=minari", "--nomeasure"),
        ("--task=pendulum-mixed", "--format=hdf5", "--out=x.hdf5", "--seed=3"),
        ("--task=pendulum-mixed", "--measure", "--episodes=5", "--seed=3"),
        (
            "--env=Hopper-v4",
            "--level=medium",
            "--policies=x",
            "--transitions=5",
            "--format=hdf5",
            "--out=x",
            "--seed=3",
        ),
        ("--env=Hopper-v4", "--learn=5", "--out=x", "--seed=3"),
    ],
)
def test_every_flag_has_a_mode_that_takes_it(arguments: tuple[str, ...]):
    values = flags.FlagValues()
    collect.define_flags(values)
    values(["collect.py", *arguments])
    collect._check_used(values, collect._chosen(values))
    assert {name for mode in collect.MODES for name in mode.uses} == set(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--task=ID or --env=ID"),
        (("--task=hopper-medium-v2",), "mini, wide, local"),
        (("--task=hopper-medium-v2", "--measure"), "pendulum-mixed, pointmaze-mixed"),
        (("--env=Hopper-v4",), "--level=NAME or --learn=STEPS"),
        (("--env=Hopper-v4", "--learn=100"), "missing --out"),
        (("--env=Hoper-v4", "--learn=100", "--out=x"), "Hoper-v4"),
        (("--task=pointmaze-mixed", "--format=hdf5"), "missing --out"),
        (("--task=pendulum-mixed", "--seed=0"), "--seed has no effect with --task=ID; it belongs to "),
        (("--task=pendulum-mixed", "--out=x.hdf5"), "--out has no effect with --task=ID; it belongs to --task=ID --f"),
        (("--task=pendulum-mixed", "--transitions=5"), "it belongs to --env=ID --level=NAME"),
        (("--task=pendulum-mixed", "--level=medium", "--format=hdf5"), "--level has no effect with --task=ID --format"),
        (("--task=pendulum-mixed", "--policies=x", "--measure"), "--policies has no effect with --task=ID --measure"),
        (("--task=pendulum-mixed", "--measure", "--format=hdf5"), "--format has no effect with --task=ID --measure"),
        (
            ("--task=pendulum-mixed", "--episodes=5"),
            "--episodes has no effect with --task=ID; it belongs to --task=ID --m",
        ),
        (("--task=pendulum-mixed", "--learn=5"), "--learn has no effect with --task=ID"),
        (("--env=Hopper-v4", "--level=medium", "--measure"), "--measure has no effect with --env=ID --level=NAME"),
        (("--env=Hopper-v4", "--learn=5", "--policies=x"), "--policies has no effect with --env=ID --learn=STEPS"),
    ],
)
def test_mistakes_on_the_command_line(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture):
    assert launch(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
