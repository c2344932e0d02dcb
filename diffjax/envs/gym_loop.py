"""Any Gymnasium environment with flat observations, stepped one by one: slow, and the reference of the fast ones."""

import warnings

import gymnasium
import mujoco
import numpy as np

from diffjax.envs.base import check_action, check_seeds
from diffjax.envs.locomotion import quiet_mujoco, restore_contact_margin


class GymLoop:
    """``num_envs`` environments of one id in a Python loop; see :class:`diffjax.envs.base.VectorSimulator`.

    Args:
      env_id: an id of Gymnasium with a time limit and Box spaces.
      legacy_contact_margin: see :func:`diffjax.envs.locomotion.restore_contact_margin`; MuJoCo only.
    """

    def __init__(self, env_id: str, num_envs: int, legacy_contact_margin: bool = True) -> None:
        with quiet_mujoco(), warnings.catch_warnings():
            # Gymnasium advises against every id that has a newer version; the older one is meant here.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._envs = [gymnasium.make(env_id) for _ in range(num_envs)]
        contacts = ""
        for env in self._envs:
            model = getattr(env.unwrapped, "model", None)
            if isinstance(model, mujoco.MjModel):
                contacts = f" mujoco {mujoco.__version__}, {'legacy' if legacy_contact_margin else 'current'}"
                contacts += " contact margin"
                if legacy_contact_margin:
                    restore_contact_margin(model)
        spec, observations = self._envs[0].spec, self._envs[0].observation_space
        actions = self._envs[0].action_space
        if spec is None or spec.max_episode_steps is None or not observations.shape or not actions.shape:
            raise ValueError(f"{env_id} needs a time limit and flat spaces, not {observations} and {actions}")
        self.num_envs = num_envs
        self.horizon = spec.max_episode_steps
        self.observation_dim = observations.shape[0]
        self.action_dim = actions.shape[0]
        self.version = f"gymnasium {gymnasium.__version__}{contacts}"
        self._observation = np.zeros((num_envs, self.observation_dim), np.float32)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Begin an episode per seed; see the protocol."""
        for index, seed in enumerate(check_seeds(seeds, self.num_envs)):
            self._observation[index] = self._envs[index].reset(seed=int(seed))[0]
        self._terminated[:] = False
        self._truncated[:] = False
        return self._observation.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Apply one action per environment; see the protocol."""
        action = check_action(action, self.num_envs, self.action_dim)
        reward = np.zeros(self.num_envs)
        for index in np.flatnonzero(~(self._terminated | self._truncated)):
            observation, reward[index], terminated, truncated, _ = self._envs[index].step(action[index])
            self._observation[index] = observation
            self._terminated[index] = terminated
            self._truncated[index] = truncated and not terminated
        return self._observation.copy(), reward, self._terminated.copy(), self._truncated.copy()

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
