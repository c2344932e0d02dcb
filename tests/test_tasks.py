"""The registry: which tasks there are, that their numbers are D4RL's, and that mistakes are answered in one line."""

import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.tasks import (
    default_dataset,
    get_task,
    make_simulator,
    normalized_score,
    reference_scores,
    suite_tasks,
    suites,
    tasks,
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
    assert suites() == ("mini", "locomotion", "locomotion-other", "local")
    assert suite_tasks("mini") == ("pendulum-mixed", "pointmaze-mixed")
    members = [task for suite in suites() for task in suite_tasks(suite)]
    assert sorted(members) == sorted(tasks())
    assert len(members) == 2 + 3 * 6 + 3 * 5


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


def test_reference_table():
    table = reference_scores()
    assert len(table) == 59
    assert table["pen-human-v1"] == (96.262799, 3076.8331017826877)
    assert table["maze2d-umaze-v1"] == (23.85, 161.86)
    assert all(low < high for low, high in table.values())


def test_normalized_score_by_hand():
    # 100 (4810 + 280.178953) / (12135 + 280.178953)
    assert normalized_score(get_task("halfcheetah-medium-v2"), 4810.0) == pytest.approx(40.99964, abs=1e-4)
    hopper = get_task("hopper-medium-v2")
    np.testing.assert_allclose(normalized_score(hopper, np.array([-20.272305, 3234.3])), [0, 100], atol=1e-12)


@pytest.mark.parametrize("task_id", [*suite_tasks("mini"), *suite_tasks("locomotion")[:3]])
def test_simulators_have_the_sizes_of_their_tasks(task_id: str):
    task = get_task(task_id)
    simulator = make_simulator(task, 2)
    assert simulator.num_envs == 2
    assert simulator.horizon == task.horizon
    assert simulator.action_dim == task.action_dim
    assert simulator.reset(np.arange(2)).shape == (2, task.observation_dim)
    assert simulator.version
    simulator.close()


def test_every_task_has_a_simulator_of_a_known_size():
    sizes = {"HalfCheetah-v4": (17, 6, 1000), "Hopper-v4": (11, 3, 1000), "Walker2d-v4": (17, 6, 1000)}
    for task in tasks().values():
        if task.suite != "mini":
            assert (task.observation_dim, task.action_dim, task.horizon) == sizes[task.env_id]
            assert task.env_id.split("-")[0].lower() == task.id.split("-")[0]


@pytest.mark.parametrize(
    ("task_id", "hint"),
    [
        ("hopper-medum-v2", "hopper-medium-v2"),  # close to a known one
        ("hopper-medium-v9", "hopper-medium-v2"),  # no reference scores: refused, not guessed
        ("door-human-v1", "no simulator"),  # reference scores, but nothing to run
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


def test_a_task_without_data_of_its_own_asks_for_some():
    with pytest.raises(UserError, match="--dataset"):
        default_dataset(get_task("hopper-medium-v2"))
