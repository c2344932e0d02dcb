"""D4RL's mazes: geometry by hand, rewards, horizons, and the scripted controller that set the reference scores."""

import mujoco
import numpy as np
import pytest

from diffjax.envs import antmaze, maze2d
from diffjax.envs.base import VectorSimulator
from diffjax.envs.make import make_vector
from diffjax.envs.mujoco_vector import MujocoVector, State
from diffjax.studies.collect.waypoints import Pursuit, WaypointPolicy, follow, plan, shortest_path

NO_READING = np.zeros((1, 0))


@pytest.mark.parametrize(
    ("layout", "goal", "horizon", "walls"),
    # rows and columns from the start cell, times 4 m; walls counted in the layouts
    [("umaze", (0, 8), 700, 18), ("medium", (20, 20), 1000, 38), ("large", (32, 24), 1000, 62)],
)
def test_antmaze_geometry(layout: str, goal: tuple[float, float], horizon: int, walls: int):
    np.testing.assert_array_equal(antmaze.goal_cell_position(layout), goal)
    model = antmaze.load_model(layout)
    boxes = [model.geom(i) for i in range(model.ngeom) if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_BOX.value]
    assert len(boxes) == walls
    for box in boxes:
        np.testing.assert_array_equal(box.size, [2, 2, 1])
        assert box.pos[2] == 1.0
    np.testing.assert_array_equal(model.geom("wall_0_0").pos, [-4, -4, 1])
    np.testing.assert_array_equal(model.geom("wall_2_3" if layout == "medium" else "wall_2_2").pos[1], 4)
    envs = make_vector(f"d4rl/AntMaze-{layout}-v2", 1)
    assert (envs.horizon, envs.observation_dim, envs.action_dim) == (horizon, 29, 8)


def test_antmaze_ant_is_d4rls():
    model = antmaze.load_model("umaze")
    assert (model.nq, model.nv, model.nu) == (15, 14, 8)
    assert model.opt.timestep == 0.02
    np.testing.assert_array_equal(model.qpos0, [0, 0, 0.75, 1, *[0] * 11])
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-30, 30]] * 8)
    joints = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, i) for i in model.actuator_trnid[:, 0]]
    assert joints == ["hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3"]
    np.testing.assert_allclose(np.rad2deg(model.joint("ankle_2").range), [-70, -30])
    np.testing.assert_allclose(np.rad2deg(model.joint("ankle_4").range), [30, 70])
    np.testing.assert_allclose(model.joint("ankle_3").axis, np.array([-1, 1, 0]) / np.sqrt(2))
    # density 5: a sphere of radius 0.25
    assert model.body("torso").mass[0] == pytest.approx(5 * 4 / 3 * np.pi * 0.25**3)


def test_antmaze_goals():
    random = np.random.default_rng(0)
    goals = np.array([antmaze.sample_goal("large", random) for _ in range(2000)]) - [32, 24]
    assert goals.min() >= 0
    assert goals.max() <= 1.5
    np.testing.assert_allclose(goals.mean(axis=0), [0.75, 0.75], atol=0.03)
    np.testing.assert_allclose(goals.var(axis=0), (1 + 0.25) / 12, rtol=0.1)


def test_antmaze_goal_per_episode_or_once():
    def goals(environment: antmaze.MujocoEnvironment) -> np.ndarray:
        return np.array([environment.reset(np.random.default_rng(seed)).goal for seed in range(4)])

    assert len(np.unique(goals(antmaze.antmaze("umaze")), axis=0)) == 4
    first = goals(antmaze.antmaze_fixed_goal("umaze"))
    assert len(np.unique(first, axis=0)) == 1
    assert (goals(antmaze.antmaze_fixed_goal("umaze", goal_seed=1)) != first).any()


def test_antmaze_start_and_observation():
    envs = make_vector("d4rl/AntMaze-large-v2", 200)
    first = envs.reset(np.arange(200))
    position, velocity = first[:, :15], first[:, 15:]
    deviation = position - np.array([0, 0, 0.75, 1, *[0] * 11])
    assert 0.099 < np.abs(deviation).max() <= 0.1 + 1e-6
    np.testing.assert_allclose(velocity.std(), 0.1, rtol=0.05)
    velocity_before = first[:, 15:17]
    observation, reward, terminated, _ = envs.step(np.zeros((200, 8)))
    assert not reward.any()
    assert not terminated.any()
    # 0.1 s later the torso is about where its velocity leads
    np.testing.assert_allclose(observation[:, :2] - first[:, :2], 0.1 * velocity_before, atol=0.1)


def test_antmaze_reward_and_end_at_the_goal():
    environment = antmaze.antmaze("umaze")
    goal = np.array([[0.3, 8.2]])
    for distance, arrived in ((0.5, True), (0.501, False)):
        qpos = environment.model.qpos0[None].copy()
        qpos[:, :2] = goal - np.array([0.0, distance])
        state = State(qpos, np.zeros((1, 14)), goal, NO_READING)
        assert environment.reward(state, np.zeros((1, 8)), state)[0] == float(arrived)
        assert environment.terminated(state)[0] == arrived


def test_antmaze_walls_hold():
    environment = antmaze.antmaze("umaze")
    envs = MujocoVector(environment, 8)
    envs.reset(np.arange(8))
    random = np.random.default_rng(0)
    for _ in range(150):
        observation, *_ = envs.step(random.choice([-1.0, 1.0], (8, 8)))
    x, y = observation[:, 0], observation[:, 1]
    assert (np.abs(observation[:, :2]).max(axis=1) > 0.3).any()  # it moves
    assert ((x > -2.1) & (x < 10.1) & (y > -2.1) & (y < 10.1)).all()


@pytest.mark.parametrize(
    ("layout", "goal", "horizon", "free"),
    [
        ("open", (2, 3), 150, 15),
        ("umaze", (1, 1), 300, 7),
        ("medium", (6, 6), 600, 26),
        ("large", (7, 9), 800, 46),
    ],
)
def test_maze2d_geometry(layout: str, goal: tuple[int, int], horizon: int, free: int):
    np.testing.assert_array_equal(maze2d.goal_position(layout), goal)
    assert len(maze2d.free_cells(layout)) == free
    model = maze2d.load_model(layout)
    assert model.ngeom - 2 == len("".join(maze2d.LAYOUTS[layout])) - free
    np.testing.assert_array_equal(model.geom("wall_1_0").pos, [2, 1, 0])
    np.testing.assert_array_equal(model.geom("wall_1_0").size, [0.5, 0.5, 0.2])
    assert (model.nq, model.nv, model.nu) == (2, 2, 2)
    for dense in ("", "-dense"):
        envs = make_vector(f"d4rl/Maze2D-{layout}{dense}", 1)
        assert (envs.horizon, envs.observation_dim, envs.action_dim) == (horizon, 4, 2)


@pytest.mark.parametrize(
    ("position", "sparse", "dense"),
    # the goal of umaze is (1, 1)
    [((1.0, 1.5), 1.0, np.exp(-0.5)), ((1.3, 1.4), 1.0, np.exp(-0.5)), ((1.0, 3.0), 0.0, np.exp(-2.0))],
)
def test_maze2d_rewards_by_hand(position: tuple[float, float], sparse: float, dense: float):
    state = State(np.array([position]), np.zeros((1, 2)), np.array([[1.0, 1.0]]), NO_READING)
    for expected, environment in ((sparse, maze2d.maze2d("umaze")), (dense, maze2d.maze2d("umaze", dense=True))):
        reward = environment.reward(state, np.zeros((1, 2)), state)[0]
        assert reward == pytest.approx(expected)
        assert not environment.terminated(state)[0]


def test_maze2d_starts_anywhere_and_moves_by_hand():
    envs = make_vector("d4rl/Maze2D-umaze", 500)
    first = envs.reset(np.arange(500))
    cells = np.rint(first[:, :2]).astype(int)
    assert len(np.unique(cells, axis=0)) == 7
    assert 0.099 < np.abs(first[:, :2] - cells).max() <= 0.1 + 1e-6
    np.testing.assert_allclose(first[:, 2:].std(), 0.1, rtol=0.1)
    # semi-implicit Euler with implicit damping: v' = (m v + h f) / (m + h d), x' = x + h v'
    mass = 1000 * 4 / 3 * np.pi * 0.1**3
    action = np.tile([0.5, -0.25], (500, 1))
    observation, *_ = envs.step(action)
    velocity = (mass * first[:, 2:] + 0.01 * 100 * action) / (mass + 0.01)
    np.testing.assert_allclose(observation[:, 2:], velocity, atol=1e-4)
    np.testing.assert_allclose(observation[:, :2], first[:, :2] + 0.01 * velocity, atol=1e-5)


def test_maze2d_velocity_is_cut_before_a_step():
    envs = make_vector("d4rl/Maze2D-open", 1)
    envs.reset(np.array([3]))
    speeds = []
    for _ in range(40):
        observation, *_ = envs.step(np.array([[0.0, 1.0]]))
        speeds.append(observation[0, 3])
    mass = 1000 * 4 / 3 * np.pi * 0.1**3
    assert max(speeds) == pytest.approx((mass * 5 + 1) / (mass + 0.01), rel=1e-5)


def test_shortest_paths_by_hand():
    # 1: G..  down the right side, and back
    assert shortest_path("umaze", (3, 1), (1, 1)) == [(3, 2), (3, 3), (2, 3), (1, 3), (1, 2), (1, 1)]
    assert shortest_path("umaze", (1, 1), (1, 1)) == [(1, 1)]
    # of two equal ways D4RL takes the one that moves along the column first, left
    assert shortest_path("open", (2, 2), (1, 1)) == [(2, 1), (1, 1)]
    with pytest.raises(ValueError, match=r"no way leads from \(0, 0\)"):
        shortest_path("umaze", (0, 0), (1, 1))


def test_waypoints_lie_before_their_cells():
    pursuit = plan("umaze", np.array([3.05, 0.96]), np.array([1.0, 1.0]), np.random.default_rng(0))
    cells = np.array([(3, 2), (3, 3), (2, 3), (1, 3), (1, 2), (1, 1)])
    shift = cells - pursuit.waypoints
    np.testing.assert_array_equal(shift[-1], 0.0)
    assert ((shift[:-1] > 0) & (shift[:-1] < 0.2)).all()
    np.testing.assert_array_equal(pursuit.previous, [3, 1])


def test_controller_by_hand():
    pursuit = Pursuit(np.array([[1.0, 2.0], [1.0, 3.0]]), 0, np.array([1.0, 1.9]))
    action, arrived, after = follow(pursuit, np.array([1.0, 1.95]), np.array([0.3, 0.2]))
    np.testing.assert_allclose(action, [-0.3, 0.3])  # 10 (0, .05) - (.3, .2)
    assert not arrived
    assert after.passed == 1  # within 0.1 of the waypoint, and slow
    action, arrived, _ = follow(after._replace(previous=np.array([1.0, 2.9])), np.array([1.0, 2.95]), np.zeros(2))
    assert arrived
    np.testing.assert_allclose(action, [0.0, 0.5])
    fast = after._replace(previous=np.array([1.0, 2.8]))
    assert not follow(fast, np.array([1.0, 2.95]), np.zeros(2))[1]  # moved 0.15 in one step


def controller_returns(layout: str, episodes: int, reuse_plan: bool) -> np.ndarray:
    """Returns of D4RL's controller, one episode after the other."""
    envs = make_vector(f"d4rl/Maze2D-{layout}", 1)
    policy = WaypointPolicy(layout, maze2d.goal_position(layout), 1, np.random.default_rng(0), reuse_plan)
    return np.array([play(envs, policy, episode) for episode in range(episodes)])


def play(envs: VectorSimulator, policy: WaypointPolicy, seed: int) -> float:
    policy.begin_episodes()
    observation = envs.reset(np.array([seed]))
    total = 0.0
    for _ in range(envs.horizon):
        observation, reward, *_ = envs.step(policy.act(observation))
        total += reward[0]
    return total


def test_the_controller_reaches_the_goal_from_everywhere():
    envs = make_vector("d4rl/Maze2D-medium", 40)
    policy = WaypointPolicy("medium", maze2d.goal_position("medium"), 40, np.random.default_rng(0))
    observation = envs.reset(np.arange(40))
    returns = np.zeros(40)
    for _ in range(envs.horizon):
        observation, reward, *_ = envs.step(policy.act(observation))
        returns += reward
    assert returns.min() > 100
    assert 380 < returns.mean() < 460  # 416 when it replans in each episode


def test_a_stale_plan_scores_less_as_d4rls_script_does():
    returns = controller_returns("medium", 20, reuse_plan=True)
    assert (returns == 0).any()  # pulled against a wall for the whole episode
    assert 150 < returns.mean() < 360  # D4RL's 277


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "stale", "replanned", "reference"),
    [("umaze", 161, 226, 161.86), ("medium", 255, 416, 277.39), ("large", 315, 549, 273.99)],
)
def test_controller_scores_of_100_episodes(layout: str, stale: float, replanned: float, reference: float):
    for reuse_plan, expected in ((True, (stale, reference)), (False, (replanned,))):
        returns = controller_returns(layout, 100, reuse_plan)
        standard_error = returns.std() / 10
        print(f"\n{layout} reuse_plan={reuse_plan}: {returns.mean():.1f} ± {standard_error:.1f}")
        for value in expected:
            assert abs(returns.mean() - value) < 4 * standard_error


@pytest.mark.parametrize(
    ("env_id", "reference"),
    # 30.4 ± 3.1 and 72.4 ± 2.9 over 400 episodes
    [("d4rl/Maze2D-umaze", 23.85), ("d4rl/Maze2D-umaze-dense", 68.537689)],
)
def test_random_actions_score_d4rls_ref_min(env_id: str, reference: float):
    envs = make_vector(env_id, 200)
    envs.reset(np.arange(200))
    random = np.random.default_rng(0)
    returns = np.sum([envs.step(random.uniform(-1, 1, (200, 2)))[1] for _ in range(envs.horizon)], axis=0)
    standard_error = returns.std() / np.sqrt(200)
    assert standard_error < 6.0
    assert abs(returns.mean() - reference) < 4 * standard_error
