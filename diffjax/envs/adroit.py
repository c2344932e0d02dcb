"""D4RL's Adroit tasks on gymnasium-robotics' ``AdroitHand*-v1``: pen, door, hammer and relocate.

Observations and dynamics are D4RL's; restored here are the sign of the palm's distance in the reward of door, hammer
and relocate (D4RL pays -0.1 |palm - object|, gymnasium-robotics +0.1), the end of a pen episode when the pen drops
(object below 0.075 m), and the horizon of pen (100). What differs from D4RL (d4rl/hand_manipulation_suite): the
version of MuJoCo (contacts as before 3.5: all moving parts share a margin).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from diffjax.envs.gym_loop import GymLoop, make_gymnasium
from diffjax.envs.robotics import import_robotics

DROP_HEIGHT = 0.075  # m
PALM_COST = 0.1  # per m


class AdroitTask(NamedTuple):
    """``palm_to_object`` takes the vector between them, whose length the reward counts, from an observation."""

    env_id: str
    horizon: int
    palm_to_object: Callable[[np.ndarray], np.ndarray] | None = None
    terminated: Callable[[np.ndarray], bool] = lambda observation: False


TASKS = {
    "pen": AdroitTask("AdroitHandPen-v1", 100, terminated=lambda observation: bool(observation[26] < DROP_HEIGHT)),
    "door": AdroitTask("AdroitHandDoor-v1", 200, lambda observation: observation[35:38]),
    "hammer": AdroitTask("AdroitHandHammer-v1", 200, lambda observation: observation[33:36] - observation[36:39]),
    "relocate": AdroitTask("AdroitHandRelocate-v1", 200, lambda observation: observation[30:33]),
}


class D4RLReward(gymnasium.Wrapper):
    """An Adroit environment with D4RL's reward and termination."""

    def __init__(self, env: gymnasium.Env, task: AdroitTask) -> None:
        super().__init__(env)
        self._task = task

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; the reward before is gymnasium-robotics'."""
        observation, reward, _, truncated, info = self.env.step(action)
        if self._task.palm_to_object is not None:
            reward = float(reward) - 2.0 * PALM_COST * np.linalg.norm(self._task.palm_to_object(observation))
        return observation, reward, self._task.terminated(observation), truncated, info


def adroit(task: str, num_envs: int, horizon: int | None = None, num_threads: int = 0) -> GymLoop:
    """``num_envs`` environments of a task of :data:`TASKS`; most of a step is MuJoCo's, so threads pay.

    Raises:
      UserError: gymnasium-robotics is not installed.
    """
    import_robotics()
    chosen = TASKS[task]

    def make(env_id: str, **kwargs: Any) -> gymnasium.Env:
        return D4RLReward(make_gymnasium(env_id, **kwargs), chosen)

    return GymLoop(chosen.env_id, num_envs, horizon=horizon or chosen.horizon, num_threads=num_threads, make=make)
