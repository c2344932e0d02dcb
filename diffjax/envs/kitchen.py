"""FrankaKitchen: as Minari's data was made, and as D4RL defines it, both on gymnasium-robotics' model.

gymnasium-robotics 1.4 reads the robot's joints with comparisons that fail from MuJoCo 3.17 on; a robot that reads
them by address stands in for its own, with the same noise.

D4RL's (d4rl/kitchen): 60 numbers, 9 joints of the robot, 21 of the kitchen and the goal's 30, zeros but for the four
tasks; noise of a tenth of each joint's amplitude; a task is complete when its joints, as observed, are within 0.3 of
its goal, is paid 1 once, and ends the episode with the fourth. What differs from D4RL: the model file, which is
gymnasium-robotics' edition of it, and the version of MuJoCo; its contacts are as before 3.5 only between a moving and
a static part (:func:`diffjax.envs.mujoco_vector.restore_contact_margin`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from diffjax.envs.goal_observation import KITCHEN_ELEMENTS
from diffjax.envs.gym_loop import GymLoop, make_gymnasium
from diffjax.envs.robotics import import_robotics

ENV_ID = "FrankaKitchen-v1"
HORIZON = 280
ROBOT_JOINTS = 9
OBJECT_JOINTS = 21
THRESHOLD = 0.3
NOISE_RATIO = 0.1

# Values of each task's joints when it is complete.
GOALS: dict[str, tuple[float, ...]] = {
    "bottom burner": (-0.88, -0.01),
    "light switch": (-0.69, -0.05),
    "slide cabinet": (0.37,),
    "microwave": (-0.75,),
    "kettle": (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06),
}
TASKS = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}

# Amplitudes of the noise on the kitchen's joints, from the robot's configuration file in D4RL.
OBJECT_NOISE = np.repeat([0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [2, 6, 3, 3, 3, 3, 1])


@contextmanager
def _current_robot() -> Iterator[None]:
    """Kitchens made inside get a robot that works with the current MuJoCo."""
    import_robotics()
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    published: Any = kitchen_env.FrankaRobot

    class FrankaRobot(published):
        def _get_obs(self) -> np.ndarray:
            noise = self.robot_noise_ratio * self.robot_pos_noise_amp[:ROBOT_JOINTS]
            qpos = self.data.qpos[:ROBOT_JOINTS] + noise * self.np_random.uniform(-1.0, 1.0, ROBOT_JOINTS)
            noise = self.robot_noise_ratio * self.robot_vel_noise_amp[:ROBOT_JOINTS]
            qvel = self.data.qvel[:ROBOT_JOINTS] + noise * self.np_random.uniform(-1.0, 1.0, ROBOT_JOINTS)
            self._last_robot_qpos = qpos
            return np.concatenate([qpos, qvel])

    kitchen_env.FrankaRobot = FrankaRobot
    try:
        yield
    finally:
        kitchen_env.FrankaRobot = published


def make_kitchen(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """gymnasium-robotics' own kitchen, working."""
    with _current_robot():
        return make_gymnasium(env_id, **kwargs)


class D4RLKitchen(gymnasium.Wrapper):
    """The kitchen with D4RL's observation, reward and termination."""

    def __init__(self, env: gymnasium.Env, tasks: Sequence[str]) -> None:
        super().__init__(env)
        size = ROBOT_JOINTS + OBJECT_JOINTS
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2 * size,), np.float64)
        self._tasks, self._open = tuple(tasks), set(tasks)
        self._goal = np.zeros(size)
        for task in tasks:
            self._goal[list(KITCHEN_ELEMENTS[task])] = GOALS[task]

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode with all tasks open."""
        observation, info = self.env.reset(**kwargs)
        self._open = set(self._tasks)
        return self._observe(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the reward is the number of tasks that it completes."""
        original, _, _, truncated, info = self.env.step(action)
        observation = self._observe(original)
        done = {task for task in self._open if _distance(observation, task) < THRESHOLD}
        self._open -= done
        return observation, float(len(done)), not self._open, truncated, info

    def _observe(self, original: dict[str, Any]) -> np.ndarray:
        robot = original["observation"][:ROBOT_JOINTS]
        world: Any = self.unwrapped
        noise = NOISE_RATIO * OBJECT_NOISE * world.robot_env.np_random.uniform(-1.0, 1.0, OBJECT_JOINTS)
        return np.concatenate([robot, world.data.qpos[ROBOT_JOINTS:] + noise, self._goal])


def _distance(observation: np.ndarray, task: str) -> float:
    """How far the joints of a task are from its goal."""
    return float(np.linalg.norm(observation[list(KITCHEN_ELEMENTS[task])] - GOALS[task]))


def kitchen(tasks: str, num_envs: int, horizon: int | None = None, num_threads: int = 0) -> GymLoop:
    """``num_envs`` of D4RL's kitchens with the four tasks of a key of :data:`TASKS`.

    Raises:
      UserError: gymnasium-robotics is not installed.
    """

    def make(env_id: str, **kwargs: Any) -> gymnasium.Env:
        return D4RLKitchen(make_kitchen(env_id, robot_noise_ratio=NOISE_RATIO, **kwargs), TASKS[tasks])

    return GymLoop(ENV_ID, num_envs, horizon=horizon or HORIZON, num_threads=num_threads, make=make)


def goal_kitchen(num_envs: int, horizon: int | None = None, num_threads: int = 0, **kwargs: Any) -> GymLoop:
    """``num_envs`` of gymnasium-robotics' ``FrankaKitchen-v1``, with its arguments.

    Raises:
      UserError: gymnasium-robotics is not installed, or the arguments are wrong.
    """
    return GymLoop(ENV_ID, num_envs, kwargs, horizon, num_threads, make=make_kitchen)
