"""MuJoCo simulators: native threads against the loop, the loop against Gymnasium, contacts of old, random scores."""

from functools import partial
from pathlib import Path

import mujoco
import numpy as np
import pytest

from diffjax.envs.antmaze import antmaze, antmaze_fixed_goal
from diffjax.envs.base import VectorSimulator
from diffjax.envs.gym_loop import GymLoop
from diffjax.envs.locomotion import ant, load_robot, planar
from diffjax.envs.make import make_vector
from diffjax.envs.maze2d import maze2d
from diffjax.envs.mujoco_vector import MujocoVector, restore_contact_margin

SEEDS = np.array([0, 1, 12345, 2**32 - 1], np.uint32)
STEPS = 60

ENVIRONMENTS = {
    "Hopper-v4": partial(planar, "Hopper-v4"),
    "HalfCheetah-v4": partial(planar, "HalfCheetah-v4"),
    "Walker2d-v4": partial(planar, "Walker2d-v4"),
    "Ant-v4": ant,
    "d4rl/Ant": partial(ant, use_contact_forces=True),
    "antmaze": partial(antmaze, "medium"),
    "antmaze v0": partial(antmaze_fixed_goal, "umaze"),
    "maze2d": partial(maze2d, "large"),
    "maze2d dense": partial(maze2d, "umaze", dense=True),
}


def rollout(envs: VectorSimulator, steps: int = STEPS) -> tuple[np.ndarray, ...]:
    """Observations, rewards, terminations and truncations under fixed random actions, leading axis steps."""
    random = np.random.default_rng(0)
    first = envs.reset(SEEDS)
    outputs = [envs.step(random.uniform(-1, 1, (len(SEEDS), envs.action_dim))) for _ in range(steps)]
    observation, *rest = (np.stack(parts) for parts in zip(*outputs, strict=True))
    return np.concatenate([first[None], observation]), *rest


def assert_same_bits(ours: VectorSimulator, theirs: VectorSimulator) -> None:
    assert (ours.horizon, ours.observation_dim, ours.action_dim) == (
        theirs.horizon,
        theirs.observation_dim,
        theirs.action_dim,
    )
    for left, right in zip(rollout(ours), rollout(theirs), strict=True):
        np.testing.assert_array_equal(left, right)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("legacy", [True, False])
def test_native_threads_and_loop_agree_to_the_bit(name: str, legacy: bool):
    environment = ENVIRONMENTS[name]()
    make = partial(MujocoVector, environment, len(SEEDS), legacy_contact_margin=legacy)
    assert_same_bits(make(num_threads=2), make(native=False))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Hopper-v4", {}),
        ("HalfCheetah-v4", {}),
        ("Walker2d-v4", {}),
        ("Ant-v4", {}),
        ("Ant-v4", {"use_contact_forces": True}),
    ],
)
def test_robots_are_gymnasiums_to_the_bit(name: str, kwargs: dict[str, bool], legacy: bool):
    environment = ENVIRONMENTS["d4rl/Ant" if kwargs else name]()
    assert_same_bits(
        MujocoVector(environment, len(SEEDS), num_threads=2, legacy_contact_margin=legacy),
        GymLoop(name, len(SEEDS), kwargs, legacy_contact_margin=legacy),
    )


def test_robots_terminate_as_gymnasium_does():
    terminated = rollout(make_vector("Hopper-v4", len(SEEDS)), 80)[2]
    assert terminated[-1].all()  # random actions make a hopper fall within 80 steps
    np.testing.assert_array_equal(terminated, rollout(GymLoop("Hopper-v4", len(SEEDS)), 80)[2])


def test_ant_observes_the_forces_of_its_contacts():
    envs = make_vector("d4rl/Ant", 1)
    assert envs.observation_dim == 111
    first = envs.reset(SEEDS[:1])
    np.testing.assert_array_equal(first[0, 27:], 0.0)  # none before the first step, as in Gymnasium
    for _ in range(20):
        observation, *_ = envs.step(np.zeros((1, 8)))
    assert np.abs(observation[0, 27:]).max() == 1.0  # it stands: forces of more than 1 N, clipped


def test_an_episode_does_not_depend_on_its_company():
    for name in ("d4rl/Ant", "antmaze", "maze2d"):
        environment = ENVIRONMENTS[name]()
        together = rollout(MujocoVector(environment, len(SEEDS)), 20)
        alone = MujocoVector(environment, 1)
        random = np.random.default_rng(0)
        alone.reset(SEEDS[2:3])
        for step in range(20):
            action = random.uniform(-1, 1, (len(SEEDS), alone.action_dim))[2:3]
            observation, reward, *_ = alone.step(action)
            np.testing.assert_array_equal(observation[0], together[0][step + 1, 2])
            assert reward[0] == together[1][step, 2]


def test_another_horizon():
    envs = make_vector("HalfCheetah-v4", 2, horizon=3)
    assert envs.horizon == 3
    envs.reset(SEEDS[:2])
    truncated = [envs.step(np.zeros((2, 6)))[3].all() for _ in range(3)]
    assert truncated == [False, False, True]


def test_legacy_margin_touches_the_floor_later():
    def contacts(legacy: bool) -> int:
        model = load_robot("hopper.xml")
        if legacy:
            restore_contact_margin(model)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        foot = model.geom("foot_geom").id
        lowest = data.geom_xpos[foot][2] - model.geom_size[foot][0]
        data.qpos[1] += 0.0015 - lowest  # 1.5 mm above the floor; every margin of the file is 1 mm
        mujoco.mj_forward(model, data)
        return data.ncon

    assert contacts(legacy=True) == 0
    assert contacts(legacy=False) > 0


@pytest.mark.parametrize(
    ("moving", "static", "expected"),
    [
        ((0.01, 0.01), 0.01, (0.005, 0.005, 0.005)),  # every pair again at 0.01
        ((0.01, 0.01), 0.0, (0.005, 0.005, 0.005)),
        ((0.01, 0.0), 0.01, (0.01, 0.0, 0.0)),  # no margins give 0.01, 0.01 and 0 back: the static one yields
        ((0.0, 0.0), 0.0, (0.0, 0.0, 0.0)),
    ],
)
def test_legacy_margins_by_hand(moving: tuple[float, float], static: float, expected: tuple[float, ...]):
    bodies = "".join(f'<body><freejoint/><geom size=".1" margin="{margin}"/></body>' for margin in moving)
    floor = f'<geom type="plane" size="1 1 1" margin="{static}"/>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{bodies}{floor}</worldbody></mujoco>")
    static_first = np.argsort(model.body_weldid[model.geom_bodyid] == 0, kind="stable")
    restore_contact_margin(model)
    np.testing.assert_array_equal(model.geom_margin[static_first], expected)


def test_a_vector_leaves_the_environment_alone():
    environment = ENVIRONMENTS["maze2d"]()
    MujocoVector(environment, 1)
    np.testing.assert_array_equal(environment.model.geom_margin, 0.002)


@pytest.mark.parametrize("name", ["Ant-v4", "antmaze", "maze2d"])
@pytest.mark.parametrize("native", [True, False])
def test_bad_actions_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, native: bool):
    monkeypatch.chdir(tmp_path)
    envs = MujocoVector(ENVIRONMENTS[name](), 2, native=native)
    envs.reset(SEEDS[:2])
    envs.step(np.full((2, envs.action_dim), np.nan))  # MuJoCo warns of that
    envs.close()
    assert list(tmp_path.iterdir()) == []


def random_returns(envs: VectorSimulator, seed: int = 0) -> np.ndarray:
    """One return of the uniform-random policy per environment."""
    random = np.random.default_rng(seed)
    envs.reset(np.arange(envs.num_envs) + 1000 * seed)
    returns = np.zeros(envs.num_envs)
    for _ in range(envs.horizon):
        _, reward, terminated, truncated = envs.step(random.uniform(-1, 1, (envs.num_envs, envs.action_dim)))
        returns += reward
        if (terminated | truncated).all():
            break
    return returns


@pytest.mark.parametrize(
    ("env_id", "episodes", "reference"), [("HalfCheetah-v4", 50, -280.178953), ("Walker2d-v4", 200, 1.629008)]
)
def test_random_actions_score_d4rls_ref_min(env_id: str, episodes: int, reference: float):
    returns = random_returns(make_vector(env_id, episodes))
    standard_error = returns.std() / np.sqrt(episodes)
    assert standard_error < 15.0
    assert abs(returns.mean() - reference) < 4 * standard_error
