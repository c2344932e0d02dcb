"""Adroit, Kitchen and goal environments: D4RL's rewards and layouts, nothing left behind, life without the extra."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from diffjax.envs.adroit import TASKS, adroit
from diffjax.envs.base import VectorSimulator
from diffjax.envs.goal_observation import KITCHEN_ELEMENTS, flatten_goal_observation
from diffjax.envs.gym_loop import GymLoop
from diffjax.envs.kitchen import GOALS, OBJECT_NOISE, goal_kitchen, kitchen, make_kitchen
from diffjax.envs.kitchen import TASKS as KITCHENS
from diffjax.envs.make import known_simulators, make_vector
from diffjax.envs.robotics import import_robotics
from diffjax.errors import UserError

SEEDS = np.array([0, 12345], np.uint32)


def test_goal_observations_lie_flat_by_hand():
    flat = flatten_goal_observation(np.array([1, 2]), np.array([3, 4, 5]), np.array([6, 7]))
    assert flat.dtype == np.float32
    np.testing.assert_array_equal(flat, [1, 2, 3, 4, 5, 6, 7])
    nested = flatten_goal_observation(
        {"b": [[2.0], [20.0]], "a": [[1.0], [10.0]]}, [[3.0], [30.0]], {"a": [[4.0], [40.0]]}
    )
    np.testing.assert_array_equal(nested, [[1, 2, 3, 4], [10, 20, 30, 40]])


@pytest.mark.parametrize(
    ("env_id", "kwargs", "observation_dim", "action_dim", "horizon"),
    [
        ("AntMaze_UMaze-v4", {}, 31, 8, 700),
        ("PointMaze_Medium-v3", {"continuing_task": False}, 8, 2, 600),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["microwave", "kettle"]}, 75, 9, 280),
    ],
)
def test_goal_environments(env_id: str, kwargs: dict[str, Any], observation_dim: int, action_dim: int, horizon: int):
    envs = make_vector(env_id, 2, kwargs)
    assert (envs.observation_dim, envs.action_dim, envs.horizon) == (observation_dim, action_dim, horizon)
    first = envs.reset(SEEDS)
    assert first.shape == (2, observation_dim)
    np.testing.assert_array_equal(envs.reset(SEEDS), first)
    observation, reward, *_ = envs.step(np.ones((2, action_dim)))
    assert (observation != first).any()
    assert np.isfinite(reward).all()
    assert "gymnasium-robotics 1." in envs.version
    envs.close()


def test_goal_environments_see_their_goal():
    envs = make_vector("PointMaze_UMaze-v3", 1, {"continuing_task": False}, horizon=7)
    assert envs.horizon == 7
    first = envs.reset(SEEDS[:1])
    assert isinstance(envs, GymLoop)
    maze: Any = envs._envs[0].unwrapped
    np.testing.assert_allclose(first[0, :2], maze.data.qpos, rtol=1e-6)
    np.testing.assert_allclose(first[0, 2:4], maze.data.qpos, rtol=1e-6)
    np.testing.assert_allclose(first[0, 6:], maze.goal, rtol=1e-6)
    maze.goal = maze.data.qpos + 0.01
    *_, reward, terminated, _ = envs.step(np.zeros((1, 2)))
    assert reward[0] == 1.0
    assert terminated[0]


@pytest.mark.parametrize(
    ("task", "observation_dim", "action_dim", "horizon"),
    [("pen", 45, 24, 100), ("door", 39, 28, 200), ("hammer", 46, 26, 200), ("relocate", 39, 30, 200)],
)
def test_adroit_sizes(task: str, observation_dim: int, action_dim: int, horizon: int):
    envs = make_vector(f"d4rl/Adroit{task.capitalize()}", 1)
    assert (envs.observation_dim, envs.action_dim, envs.horizon) == (observation_dim, action_dim, horizon)
    envs.close()


# D4RL's formulas, from d4rl/hand_manipulation_suite, on MuJoCo's data.
def door_reward(model: Any, data: Any) -> float:
    handle, palm = data.site("S_handle").xpos, data.site("S_grasp").xpos
    hinge = data.joint("door_hinge").qpos[0]
    reward = -0.1 * np.linalg.norm(palm - handle) - 0.1 * (hinge - 1.57) ** 2 - 1e-5 * np.sum(data.qvel**2)
    return reward + 2 * (hinge > 0.2) + 8 * (hinge > 1.0) + 10 * (hinge > 1.35)


def hammer_reward(model: Any, data: Any) -> float:
    hammer, palm, head = data.body("Object").xpos, data.site("S_grasp").xpos, data.site("tool").xpos
    nail, goal = data.site("S_target").xpos, data.site("nail_goal").xpos
    left = np.linalg.norm(nail - goal)
    reward = -0.1 * np.linalg.norm(palm - hammer) - np.linalg.norm(head - nail) - 10 * left
    reward -= 1e-2 * np.linalg.norm(data.qvel)
    return reward + 2 * (hammer[2] > 0.04 and head[2] > 0.04) + 25 * (left < 0.02) + 75 * (left < 0.01)


def relocate_reward(model: Any, data: Any) -> float:
    ball, palm, target = data.body("Object").xpos, data.site("S_grasp").xpos, data.site("target").xpos
    left = np.linalg.norm(ball - target)
    reward = -0.1 * np.linalg.norm(palm - ball)
    if ball[2] > 0.04:
        reward += 1.0 - 0.5 * np.linalg.norm(palm - target) - 0.5 * left
    return reward + 10 * (left < 0.1) + 20 * (left < 0.05)


@pytest.mark.parametrize(
    ("task", "formula"), [("door", door_reward), ("hammer", hammer_reward), ("relocate", relocate_reward)]
)
def test_adroit_rewards_are_d4rls(task: str, formula: Any):
    envs = adroit(task, 1)
    envs.reset(SEEDS[:1])
    world: Any = envs._envs[0].unwrapped
    random = np.random.default_rng(0)
    for _ in range(30):
        _, reward, terminated, _ = envs.step(random.uniform(-1, 1, (1, envs.action_dim)))
        assert reward[0] == pytest.approx(formula(world.model, world.data), abs=1e-12)
        assert not terminated[0]


def test_a_dropped_pen_ends_the_episode():
    envs = adroit("pen", 1)
    observation = envs.reset(SEEDS[:1])
    world: Any = envs._envs[0].unwrapped
    assert observation[0, 26] == pytest.approx(world.data.body("Object").xpos[2])
    qpos = world.data.qpos.copy()
    qpos[-6] += 0.3  # the pen's first axis points down
    world.set_state(qpos, world.data.qvel.copy())
    observation, reward, terminated, truncated = envs.step(np.zeros((1, 24)))
    assert observation[0, 26] < 0.075
    assert terminated[0]
    assert not truncated[0]
    assert reward[0] < -4  # the 5 that a drop costs
    after, reward, terminated, _ = envs.step(np.ones((1, 24)))
    np.testing.assert_array_equal(after, observation)
    assert reward[0] == 0
    assert terminated[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "reference"), [("door", -56.512833), ("hammer", -274.856578), ("relocate", -6.425911)]
)
def test_random_actions_score_d4rls_ref_min(task: str, reference: float):
    episodes = 60
    envs = adroit(task, episodes)
    envs.reset(np.arange(episodes))
    random = np.random.default_rng(0)
    returns = np.sum(
        [envs.step(random.uniform(-1, 1, (episodes, envs.action_dim)))[1] for _ in range(envs.horizon)], axis=0
    )
    standard_error = returns.std() / np.sqrt(episodes)
    print(f"\n{task}: {returns.mean():.2f} ± {standard_error:.2f}")
    assert abs(returns.mean() - reference) < 4 * standard_error


@pytest.mark.parametrize("name", KITCHENS)
def test_kitchen_observation(name: str):
    envs = make_vector(f"d4rl/Kitchen{name.capitalize()}", 2)
    assert (envs.observation_dim, envs.action_dim, envs.horizon) == (60, 9, 280)
    first = envs.reset(SEEDS)
    # the start of D4RL's robot and kitchen, and noise of a tenth of the amplitudes
    np.testing.assert_allclose(
        first[:, :9], [[0.148, -1.768, 1.844, -2.477, 0.26, 0.713, 1.595, 0.048, 0.037]] * 2, atol=0.011
    )
    np.testing.assert_allclose(first[:, 9 + 14 : 9 + 17], [[-0.269, 0.35, 1.619]] * 2, atol=0.002)
    assert (first[0] != first[1])[:30].all()
    goal = np.zeros(30)
    if name == "mixed":
        goal[11:13] = -0.88, -0.01
    else:
        goal[19] = 0.37
    goal[17:19] = -0.69, -0.05
    goal[22] = -0.75
    goal[23:30] = -0.23, 0.75, 1.62, 0.99, 0, 0, -0.06
    np.testing.assert_allclose(first[:, 30:], [goal] * 2, rtol=1e-6)
    envs.close()


def test_kitchen_pays_a_task_once_and_ends_with_the_fourth():
    envs = kitchen("mixed", 1)
    envs.reset(SEEDS[:1])
    world: Any = envs._envs[0].unwrapped

    def complete(*tasks: str) -> tuple[float, bool]:
        """One step from where these tasks are complete; reward and termination."""
        for task in tasks:
            world.data.qpos[list(KITCHEN_ELEMENTS[task])] = GOALS[task]
        _, reward, terminated, _ = envs.step(np.zeros((1, 9)))
        return float(reward[0]), bool(terminated[0])

    assert complete() == (0.0, False)
    assert complete("microwave") == (1.0, False)
    assert complete("microwave", "slide cabinet") == (0.0, False)  # paid already; not among the four
    assert complete("bottom burner", "light switch") == (2.0, False)
    assert complete("kettle") == (1.0, True)
    envs.reset(SEEDS[:1])
    assert complete("microwave") == (1.0, False)  # open again


def test_kitchen_noise_has_d4rls_size():
    envs = kitchen("complete", 1)
    world: Any = envs._envs[0].unwrapped
    deviations = np.array([envs.reset(np.array([seed]))[0, 9:30] - world.data.qpos[9:] for seed in range(60)])
    np.testing.assert_array_less(np.abs(deviations).max(axis=0), 0.1 * OBJECT_NOISE + 1e-6)
    np.testing.assert_array_less(0.08 * OBJECT_NOISE, np.abs(deviations).max(axis=0))


def test_kitchen_robot_is_gymnasium_robotics_own(monkeypatch: pytest.MonkeyPatch):
    import_robotics()
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env
    from gymnasium_robotics.utils import mujoco_utils

    published = kitchen_env.FrankaRobot
    ours = make_kitchen("FrankaKitchen-v1")
    assert kitchen_env.FrankaRobot is published
    assert isinstance(ours.unwrapped, kitchen_env.KitchenEnv)

    def joint(values: str, addresses: str) -> Any:
        def read(model: Any, data: Any, name: str) -> np.ndarray:
            address = getattr(model, addresses)[model.joint(name).id]
            return getattr(data, values)[address : address + 1].copy()

        return read

    # what the functions that fail would return, for hinges and slides
    monkeypatch.setattr(mujoco_utils, "get_joint_qpos", joint("qpos", "jnt_qposadr"))
    monkeypatch.setattr(mujoco_utils, "get_joint_qvel", joint("qvel", "jnt_dofadr"))
    theirs = gymnasium.make("FrankaKitchen-v1", disable_env_checker=True)
    random = np.random.default_rng(0)
    ours.reset(seed=3)
    theirs.reset(seed=3)
    for _ in range(8):
        action = random.uniform(-1, 1, 9)
        left, right = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(left[0]["observation"], right[0]["observation"])
        assert left[1:4] == right[1:4]


@pytest.mark.parametrize(
    "make",
    [
        lambda threads: goal_kitchen(3, num_threads=threads),
        lambda threads: kitchen("partial", 3, num_threads=threads),
        lambda threads: adroit("pen", 3, num_threads=threads),
        lambda threads: adroit("hammer", 3, num_threads=threads),
    ],
)
def test_threads_change_no_bit(make: Any):
    def rollout(envs: VectorSimulator) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        first = envs.reset(np.arange(3))
        return [first, *(part for _ in range(5) for part in envs.step(random.uniform(-1, 1, (3, envs.action_dim))))]

    for left, right in zip(rollout(make(1)), rollout(make(3)), strict=True):
        np.testing.assert_array_equal(left, right)


def test_nothing_is_left_behind(tmp_path: Path):
    code = """
import numpy as np
from diffjax.envs.make import make_vector
for name in ("d4rl/AdroitHammer", "d4rl/KitchenMixed", "d4rl/Maze2D-umaze", "d4rl/AntMaze-umaze-v2", "Ant-v4"):
    envs = make_vector(name, 1)
    envs.reset(np.zeros(1))
    envs.step(np.zeros((1, envs.action_dim)))
    envs.close()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("env_id", ["d4rl/AdroitPen", "d4rl/KitchenMixed", "FrankaKitchen-v1", "AdroitHandPen-v9"])
def test_without_gymnasium_robotics(env_id: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(UserError, match=r"install diffjax\[envs\]") as caught:
        make_vector(env_id, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("d4rl/AdroitPan", {}, "unknown simulator 'd4rl/AdroitPan'; did you mean d4rl/AdroitPen"),
        ("Hoper-v4", {}, "neither Gymnasium nor gymnasium-robotics knows an environment 'Hoper-v4'"),
        ("d4rl/Maze2D-umaze", {"layout": "large"}, "d4rl/Maze2D-umaze takes no such arguments"),
        ("d4rl/AdroitPen", {"colour": 1}, "d4rl/AdroitPen takes no such arguments"),
        ("diffjax/Pendulum", {"colour": 1}, "diffjax/Pendulum takes no such arguments: colour"),
        ("Hopper-v4", {"colour": 1}, "Gymnasium cannot make Hopper-v4 with {'colour': 1}"),
        ("FrankaKitchen-v1", {"tasks_to_complete": ["sink"]}, "Gymnasium cannot make FrankaKitchen-v1"),
        ("CartPole-v1", {}, "CartPole-v1 cannot be simulated: it needs a time limit and actions that are vectors"),
    ],
)
def test_mistakes_get_one_line(env_id: str, kwargs: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        make_vector(env_id, 1, kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_table_does_not_take_goes_to_gymnasium():
    envs = make_vector("Hopper-v4", 1, {"terminate_when_unhealthy": False}, horizon=30)
    envs.reset(SEEDS[:1])
    for _ in range(30):
        *_, terminated, truncated = envs.step(np.ones((1, 3)))
    assert truncated[0]
    assert not terminated[0]


def test_every_id_of_the_table_makes_its_simulator():
    for env_id in known_simulators():
        if env_id.startswith(("d4rl/Kitchen", "Franka", "d4rl/Adroit")):  # slow to build, tested above
            continue
        envs = make_vector(env_id, 2, horizon=2)
        assert envs.horizon == 2
        assert envs.reset(SEEDS).shape == (2, envs.observation_dim)
        envs.step(np.zeros((2, envs.action_dim)))
        assert envs.step(np.zeros((2, envs.action_dim)))[3].all()
        envs.close()


def test_fixed_goals_take_their_seed():
    rewards = {seed: make_vector("d4rl/AntMaze-umaze-v0", 1, {"goal_seed": seed}) for seed in (0, 1)}
    goals = [envs._goal for envs in rewards.values()]  # type: ignore[attr-defined]
    assert (goals[0] != goals[1]).all()


def test_adroit_observations_hold_what_the_reward_needs():
    for task, (site, body) in {
        "door": ("S_grasp", None),
        "hammer": ("S_grasp", "Object"),
        "relocate": ("S_grasp", "Object"),
    }.items():
        envs = adroit(task, 1)
        observation = envs.reset(SEEDS[:1])[0]
        data = envs._envs[0].unwrapped.data  # type: ignore[attr-defined]
        other = data.body(body).xpos if body else data.site("S_handle").xpos
        palm_to_object = TASKS[task].palm_to_object
        assert palm_to_object is not None
        np.testing.assert_allclose(palm_to_object(observation), data.site(site).xpos - other, atol=1e-6)
        envs.close()
