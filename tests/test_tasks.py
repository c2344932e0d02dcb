"""The registry: which tasks there are, that their numbers are D4RL's, and that mistakes are answered in one line."""

from pathlib import Path

import h5py
import jax
import mujoco
import numpy as np
import pytest

from diffjax.data.d4rl_files import d4rl_files
from diffjax.data.transitions import Dataset, Transitions
from diffjax.errors import UserError
from diffjax.studies.collect import mazes
from diffjax.studies.collect.store import store_dataset
from diffjax.tasks.default_data import default_dataset
from diffjax.tasks.registry import (
    families,
    get_task,
    make_simulator,
    normalized_score,
    suite_tasks,
    suites,
    tasks,
    with_references,
)


def test_the_papers_nine_tasks_in_their_order():
    assert suite_tasks("locomotion") == (
        "halfcheetah-medium-v2",
        "hopper-medium-v2",
        "walker2d-medium-v2",
        "halfcheetah-medium-replay-v2",
        "hopper-medium-replay-v2",
        "walker2d-medium-replay-v2",
        "halfcheetah-medium-expert-v2",
        "hopper-medium-expert-v2",
        "walker2d-medium-expert-v2",
    )


def test_every_task_is_in_one_suite():
    assert suites() == (
        *(
            "mini",
            "wide",
            "locomotion",
            "locomotion-other",
            "antmaze",
            "antmaze-v0",
            "adroit",
            "adroit-other",
            "kitchen",
        ),
        *("maze2d", "maze2d-dense", "local"),
        *("minari-mujoco", "minari-antmaze", "minari-pointmaze", "minari-adroit", "minari-kitchen"),
    )
    assert suite_tasks("mini") == ("pendulum-mixed", "pointmaze-mixed")
    assert suite_tasks("wide") == ("thrusters-24-mixed", "thrusters-50-mixed", "thrusters-100-mixed")
    members = [task for suite in suites() for task in suite_tasks(suite)]
    assert sorted(members) == sorted(tasks())
    assert len(members) == 121
    assert suite_tasks("adroit") == ("pen-human-v1", "pen-cloned-v1")
    assert len(suite_tasks("local")) == 18


@pytest.mark.parametrize(
    ("task_id", "ref_min", "ref_max"),
    [
        ("halfcheetah-random-v2", -280.178953, 12135.0),
        ("hopper-medium-expert-v2", -20.272305, 3234.3),
        ("walker2d-full-replay-v2", 1.629008, 4592.3),
    ],
)
def test_reference_scores_are_d4rls(task_id: str, ref_min: float, ref_max: float):
    task = get_task(task_id)
    assert (task.ref_min, task.ref_max) == (ref_min, ref_max)
    assert "D4RL" in task.ref_source


def test_every_task_of_d4rl_has_its_references_and_its_file():
    published = {task.id: task for task in tasks().values() if not task.data}
    assert set(published) == set(d4rl_files()) - {"maze2d-open-v0", "maze2d-open-dense-v0"}
    assert all(task.ref_min < task.ref_max for task in published.values())
    pen, maze = published["pen-human-v1"], published["maze2d-umaze-v1"]
    assert (pen.ref_min, pen.ref_max) == (96.262799, 3076.8331017826877)
    assert (maze.ref_min, maze.ref_max) == (23.85, 161.86)


def test_local_tasks_are_scored_as_the_robots_they_are():
    for task_id in suite_tasks("local"):
        task = get_task(task_id)
        same = [other for other in tasks().values() if other.env_id == task.env_id and not other.data]
        assert same
        assert all((task.ref_min, task.ref_max) == (other.ref_min, other.ref_max) for other in same)
        assert task.horizon == same[0].horizon


def test_every_family_says_how_its_simulator_differs():
    assert {task.family for task in tasks().values()} == set(families())
    assert all(family.title and family.differences for family in families().values())


def test_minaris_own_tasks_have_no_references():
    minari = [task for task in tasks().values() if task.suite.startswith("minari")]
    assert len(minari) == 12 + 6 + 8 + 12 + 3
    assert all(task.ref_min is None and task.ref_max is None and task.data == task.id for task in minari)
    with pytest.raises(ValueError, match="no reference scores"):
        normalized_score(minari[0], 1.0)


def dataset(ref_min: float | None, ref_max: float | None) -> Dataset:
    arrays = Transitions(*(np.zeros(0) for _ in range(6)))
    fields = {"label": "x", "source": "mujoco/hopper/medium-v0", "fingerprint": "", "episode_returns": np.zeros(1)}
    return Dataset(arrays, ref_min=ref_min, ref_max=ref_max, **fields, episode_rows=np.zeros((0, 2)))


def test_references_come_from_the_data_or_not_at_all():
    task = get_task("mujoco/hopper/medium-v0")
    found = with_references(task, dataset(1.0, 3.0))
    assert (found.ref_min, found.ref_max) == (1.0, 3.0)
    assert found.ref_source == "metadata of mujoco/hopper/medium-v0"
    for references in ((None, None), (1.0, None), (3.0, 3.0)):
        with pytest.raises(UserError, match="no normalised score can be given"):
            with_references(task, dataset(*references))
    given = with_references(task, dataset(1.0, 3.0), (-5.0, 5.0))
    assert (given.ref_min, given.ref_max, given.ref_source) == (-5.0, 5.0, "given with --ref_scores")
    d4rl = get_task("hopper-medium-v2")
    assert with_references(d4rl, dataset(1.0, 3.0)) is d4rl
    with pytest.raises(UserError, match="leave out --ref_scores"):
        with_references(d4rl, dataset(1.0, 3.0), (-5.0, 5.0))


def test_normalized_score_by_hand():
    # 100 (4810 + 280.178953) / (12135 + 280.178953)
    assert normalized_score(get_task("halfcheetah-medium-v2"), 4810.0) == pytest.approx(40.99964, abs=1e-4)
    hopper = get_task("hopper-medium-v2")
    np.testing.assert_allclose(normalized_score(hopper, np.array([-20.272305, 3234.3])), [0, 100], atol=1e-12)


def one_task_per_simulator() -> list[str]:
    return list({task.env_id: task.id for task in reversed(tasks().values())}.values())


@pytest.mark.parametrize("task_id", one_task_per_simulator())
def test_simulators_have_the_sizes_of_their_tasks(task_id: str):
    task = get_task(task_id)
    simulator = make_simulator(task, 1)
    assert simulator.horizon == task.horizon
    assert simulator.action_dim == task.action_dim
    assert simulator.reset(np.arange(1)).shape == (1, task.observation_dim)
    observation, reward, terminated, truncated = simulator.step(np.zeros((1, task.action_dim), np.float32))
    assert observation.shape == (1, task.observation_dim)
    assert np.isfinite(reward).all()
    assert not terminated.any()
    assert not truncated.any()
    names_mujoco = f"mujoco {mujoco.__version__}, legacy contact margin" in simulator.version
    assert names_mujoco != simulator.version.startswith("diffjax ")  # the embedded tasks need no MuJoCo
    simulator.close()


@pytest.mark.parametrize(
    ("task_id", "hint"),
    [
        ("hopper-medum-v2", "hopper-medium-v2"),  # close to a known one
        ("hopper-medium-v9", "hopper-medium-v2"),  # no reference scores: refused, not guessed
    ],
)
def test_unknown_tasks_are_answered_in_one_line(task_id: str, hint: str):
    with pytest.raises(UserError, match=hint) as error:
        get_task(task_id)
    assert task_id in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_suite():
    with pytest.raises(UserError, match="mini"):
        suite_tasks("minni")


def test_a_d4rl_file_is_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "pen-human-v1.hdf5", "w") as file:
        file["observations"] = rng.normal(size=(50, 45)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (50, 24)).astype(np.float32)
        file["rewards"] = rng.normal(size=50).astype(np.float32)
        file["terminals"] = np.zeros(50, bool)
        file["timeouts"] = np.arange(50) % 10 == 9
    found = default_dataset(get_task("pen-human-v1"), store_dataset)
    assert found.label == "D4RL v1"
    assert found.transitions.row.size == 45


def test_a_d4rl_file_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"pen-human-v1\.hdf5") as error:
        default_dataset(get_task("pen-human-v1"), store_dataset, mirror=str(tmp_path / "mirror"))
    assert "\n" not in str(error.value)


def test_maze_data_are_walks_that_the_simulator_confirms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mazes, "NUM_ENVS", 2)
    episodes = mazes.collect(jax.random.key(0), "umaze", 600, lambda line: None)
    assert [len(episode.reward) for episode in episodes] == [300, 300]
    simulator = make_simulator(get_task("maze2d-umaze-local"), 1)
    for episode in episodes:
        np.testing.assert_array_equal(simulator.reset(np.array([episode.seed]))[0], episode.observation[0])
        for step, action in enumerate(episode.action):
            observation, reward, _, _ = simulator.step(action[None])
            np.testing.assert_array_equal(observation[0], episode.observation[step + 1])
            assert reward[0] == episode.reward[step]
    visited = np.concatenate([np.round(episode.observation[:, :2]) for episode in episodes])
    assert len(np.unique(visited, axis=0)) >= 5  # of the maze's seven cells
    simulator.close()
