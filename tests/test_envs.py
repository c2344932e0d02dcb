"""Simulators: hand-checked physics, Gymnasium as the oracle, walls that hold, one seed one episode."""

import warnings
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.envs import pendulum, pointmaze, thrusters
from diffjax.envs.base import PureSimulator, VectorSimulator
from diffjax.envs.gym_loop import GymLoop
from diffjax.envs.jax_vector import JaxVector
from diffjax.envs.locomotion import ROBOTS
from diffjax.envs.make import make_vector
from diffjax.envs.pendulum import PENDULUM
from diffjax.envs.pointmaze import POINTMAZE
from diffjax.envs.thrusters import THRUSTERS

SEEDS = np.array([0, 1, 12345, 2**32 - 1], np.uint32)


def test_pendulum_first_step_by_hand():
    state = pendulum.State(jnp.float32(np.pi / 2), jnp.float32(1.0))
    state, observation, reward, terminated = pendulum.step(state, jnp.array([0.5]))
    # torque 1: acceleration 15 sin(pi/2) + 3 = 18, velocity 1 + .05 * 18 = 1.9, angle pi/2 + .05 * 1.9
    np.testing.assert_allclose(state.angular_velocity, 1.9, rtol=1e-6)
    np.testing.assert_allclose(state.angle, np.pi / 2 + 0.095, rtol=1e-6)
    np.testing.assert_allclose(observation, [np.cos(np.pi / 2 + 0.095), np.sin(np.pi / 2 + 0.095), 1.9 / 8], atol=1e-6)
    # cost (pi/2)^2 + .1 + .001 = 2.5684011, its maximum pi^2 + 6.4 + .004 = 16.2736044
    np.testing.assert_allclose(reward, -2.5684011 / 16.2736044, rtol=1e-6)
    assert not terminated


def test_pendulum_angle_wraps_in_the_cost_only():
    state = pendulum.State(jnp.float32(2 * np.pi + 0.1), jnp.float32(0.0))
    state, _, reward, _ = pendulum.step(state, jnp.array([0.0]))
    np.testing.assert_allclose(reward, -0.01 / 16.2736044, rtol=1e-3)
    assert state.angle > 6.0


def test_pendulum_is_gymnasiums():
    oracle = gymnasium.make("Pendulum-v1").unwrapped
    oracle.reset(seed=0)
    action = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 1)).astype(np.float32)
    oracle.state = np.array([3.0, -0.5])
    state = pendulum.State(jnp.float32(3.0), jnp.float32(-0.5))
    for a in action[:50]:
        observation, reward, *_ = oracle.step(2 * a)
        state, ours, our_reward, _ = pendulum.step(state, jnp.asarray(a))
        np.testing.assert_allclose(ours * np.array([1, 1, 8]), observation, atol=2e-4)
        np.testing.assert_allclose(our_reward * pendulum.MAX_COST, reward, atol=2e-3)


@pytest.mark.parametrize(
    ("simulator", "least", "most"),
    [(PENDULUM, -1.0, 0.0), (POINTMAZE, 0.0, 1.0), (THRUSTERS[0], -0.25, 1.0)],
    ids=["pendulum", "pointmaze", "thrusters"],
)
def test_rewards_stay_within_their_bounds(simulator: PureSimulator, least: float, most: float):
    envs = JaxVector(simulator, 4)
    envs.reset(SEEDS)
    random = np.random.default_rng(0)
    for _ in range(simulator.horizon):
        _, reward, *_ = envs.step(random.uniform(-1, 1, (4, simulator.action_dim)))
        assert ((reward >= least) & (reward <= most)).all()


@pytest.mark.parametrize("count", [24, 50, 100])
def test_thrusters_push_by_hand(count: int):
    """Along x with least effort ``a_k = cos(2 pi k / n)`` is all of the force; opposite thrusters push nothing."""
    along = jnp.cos(2 * jnp.pi * jnp.arange(count) / count)
    np.testing.assert_allclose(thrusters.force(along), [thrusters.FORCE, 0.0], atol=1e-4)
    np.testing.assert_allclose(thrusters.force(jnp.ones(count)), 0.0, atol=1e-4)
    state, observation, reward, terminated = thrusters.step(
        thrusters.State(jnp.array([-1.0, 0.5]), jnp.array([0.0, 1.0])), along
    )
    velocity = np.array([0.4, 1.0 - 0.05])
    position = np.array([-1.0, 0.5]) + 0.1 * velocity
    np.testing.assert_allclose(observation, [*position, *velocity / 2], rtol=1e-4)
    assert reward == pytest.approx(1 / (1 + 4 * np.sum(position**2)) - 0.25 / 2, rel=1e-4)
    assert not terminated
    edge = thrusters.State(jnp.array([thrusters.AREA, 0.0]), jnp.array([3.0, 0.0]))
    state, *_ = thrusters.step(edge, jnp.zeros(count))
    np.testing.assert_array_equal(state.position, [thrusters.AREA, 0.0])
    np.testing.assert_array_equal(state.velocity, [0.0, 0.0])


def test_pointmaze_moves_and_slides_by_hand():
    start = pointmaze.State(jnp.asarray(pointmaze.START))
    state, observation, reward, terminated = pointmaze.step(start, jnp.array([0.25, 0.0]))
    moved = pointmaze.START + np.array([0.25 * pointmaze.STEP_LENGTH, 0.0])
    np.testing.assert_allclose(state.position, moved, rtol=1e-6)
    np.testing.assert_allclose(observation, pointmaze.OBSERVATION_SCALE * (moved - pointmaze.CENTER), rtol=1e-6)
    assert reward == 0.0
    assert not terminated
    # The start cell has walls above and to the left: the point stops just before them.
    state = start
    for _ in range(3):
        state, _, reward, _ = pointmaze.step(state, jnp.array([-1.0, -1.0]))
        assert reward == 0.0
    np.testing.assert_allclose(state.position, np.floor(pointmaze.START) + pointmaze.MARGIN, rtol=1e-6)


def test_pointmaze_ends_at_the_goal():
    near = pointmaze.State(jnp.asarray(pointmaze.GOAL) - jnp.array([0.9, 0.0]))
    state, _, reward, terminated = pointmaze.step(near, jnp.array([1.0, 0.0]))
    assert terminated
    assert reward == 1.0
    assert np.linalg.norm(state.position - pointmaze.GOAL) <= pointmaze.GOAL_RADIUS


def test_pointmaze_is_closed():
    wall = pointmaze.WALL
    assert wall[0].all()
    assert wall[-1].all()
    assert wall[:, 0].all()
    assert wall[:, -1].all()
    assert pointmaze.STEP_LENGTH < 1.0


_walk = jax.jit(
    lambda position, actions: jax.lax.scan(
        lambda state, action: (lambda out: (out[0], out[0].position))(pointmaze.step(state, action)),
        pointmaze.State(position),
        actions,
    )[1]
)
_FREE = np.argwhere(~pointmaze.WALL)


@given(
    cell=st.integers(0, len(_FREE) - 1),
    offset=st.tuples(st.integers(2, 998), st.integers(2, 998)),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1.0, 1e6]),
)
def test_walls_hold(cell: int, offset: tuple[int, int], seed: int, size: float):
    start = _FREE[cell][::-1] + np.array(offset) / 1000  # anywhere in a free cell
    corners = np.random.default_rng(seed).integers(-1, 2, (40, 2))
    inside = np.random.default_rng(seed).uniform(-1, 1, (40, 2))
    actions = size * np.concatenate([corners, inside]).astype(np.float32)
    path = np.asarray(_walk(jnp.asarray(start, jnp.float32), jnp.asarray(actions)))
    column, row = np.floor(path).astype(int).T
    assert not pointmaze.WALL[row, column].any()
    assert (np.abs(np.diff(path, axis=0)) <= pointmaze.STEP_LENGTH + 1e-5).all()


def rollout(envs: VectorSimulator, steps: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Observations, rewards, terminations and truncations under fixed random actions, leading axis steps."""
    random = np.random.default_rng(seed)
    actions = random.uniform(-1, 1, (steps, len(SEEDS), envs.action_dim))
    first = envs.reset(SEEDS)
    outputs = [envs.step(action) for action in actions]
    observation, *rest = (np.stack(parts) for parts in zip(*outputs, strict=True))
    return np.concatenate([first[None], observation]), *rest


def test_time_limit_truncates_and_does_not_terminate():
    envs = make_vector("HalfCheetah-v4", 1)
    envs.reset(SEEDS[:1])
    for _ in range(999):
        _, _, terminated, truncated = envs.step(np.zeros((1, 6)))
        assert not truncated[0]
    _, _, terminated, truncated = envs.step(np.zeros((1, 6)))
    assert truncated[0]
    assert not terminated[0]


def make(kind: str, num_envs: int) -> VectorSimulator:
    """A simulator in which random actions end an episode soon, or at all."""
    if kind == "hopper":
        return make_vector("Hopper-v4", num_envs)
    if kind == "hopper loop":
        return GymLoop("Hopper-v4", num_envs)
    return JaxVector({"pendulum": PENDULUM, "pointmaze": POINTMAZE}[kind], num_envs)


@pytest.mark.parametrize("kind", ["hopper", "hopper loop", "pendulum", "pointmaze"])
def test_a_finished_environment_stays(kind: str):
    envs = make(kind, len(SEEDS))
    steps = 80 if kind.startswith("hopper") else envs.horizon + 5
    observation, reward, terminated, truncated = rollout(envs, steps)
    assert not (terminated & truncated).any()
    assert (terminated | truncated)[-1].all()
    for env in range(len(SEEDS)):
        last = int((terminated | truncated)[:, env].argmax())
        final = observation[last + 1, env]
        np.testing.assert_array_equal(observation[last + 1 :, env], np.tile(final, (steps - last, 1)))
        np.testing.assert_array_equal(reward[last + 1 :, env], 0.0)
        assert (terminated | truncated)[last:, env].all()


@pytest.mark.parametrize("kind", ["hopper", "pendulum", "pointmaze"])
def test_an_episode_is_a_function_of_its_seed_alone(kind: str):
    together = make(kind, len(SEEDS))
    alone = make(kind, 1)
    first = together.reset(SEEDS)
    assert first.dtype == np.float32
    assert len(np.unique(first, axis=0)) == len(SEEDS)
    for env, seed in enumerate(SEEDS):
        np.testing.assert_allclose(alone.reset(np.array([seed])), first[env : env + 1], rtol=1e-6, atol=1e-7)
    together.step(np.zeros((len(SEEDS), together.action_dim)))
    np.testing.assert_array_equal(together.reset(SEEDS), first)


@pytest.mark.parametrize("kind", ["hopper", "hopper loop", "pendulum", "pointmaze"])
def test_wrong_shapes_are_refused(kind: str):
    envs = make(kind, 2)
    with pytest.raises(ValueError, match=r"seeds have shape \(3,\)"):
        envs.reset(np.arange(3))
    envs.reset(np.arange(2))
    with pytest.raises(ValueError, match="action has shape"):
        envs.step(np.zeros((2, envs.action_dim + 1)))


def test_making_simulators_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env_id in ROBOTS:
            slow = GymLoop(env_id, 1)
            slow.reset(np.arange(1))
            slow.close()
            fast = make_vector(env_id, 2)
            fast.reset(np.arange(2))
            fast.step(np.full((2, fast.action_dim), np.nan))  # MuJoCo warns of that
            fast.close()
    assert list(tmp_path.iterdir()) == []
    written = capfd.readouterr()
    assert "deprecated" not in written.err + written.out
