"""Any Gymnasium environment, stepped one by one or in Python threads: slow, and the reference of the fast ones."""

import contextlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import mujoco
import numpy as np

from diffjax.envs.base import check_action, check_seeds
from diffjax.envs.goal_observation import flatten_goal_observation, flatten_named
from diffjax.envs.mujoco_vector import Mechanics, quiet_mujoco, restore_contact_margin, usable_cpus
from diffjax.envs.robotics import require_registered
from diffjax.errors import UserError
from diffjax.types import ActionBounds

_GOAL_KEYS = {"achieved_goal", "observation", "desired_goal"}


def make_gymnasium(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """``gymnasium.make`` for the ids of Gymnasium and gymnasium-robotics, without advice on newer versions.

    Raises:
      UserError: the id is unknown, or the environment does not start with these arguments.
    """
    require_registered(env_id)
    with quiet_mujoco(), warnings.catch_warnings():
        # Gymnasium advises against every id that has a newer version; the older one is meant here.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return gymnasium.make(env_id, disable_env_checker=True, **kwargs)
        except (gymnasium.error.Error, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"Gymnasium cannot make {env_id} with {kwargs or 'no arguments'}: {reason}") from error


class GymLoop:
    """``num_envs`` environments of one id; see :class:`diffjax.envs.base.VectorSimulator`.

    Observations that are mappings come flat: goal environments' as
    :func:`diffjax.envs.goal_observation.flatten_goal_observation` lays them, others by their sorted keys. Actions go to
    the environment as they are.

    Args:
      env_id: an id of Gymnasium or gymnasium-robotics.
      kwargs: arguments of the environment.
      horizon: most steps of an episode; None: as registered.
      num_threads: steps environments at a time in Python threads; 0 for as many as the process may use. Pays where
        most of a step is spent outside of Python.
      legacy_contact_margin: see :func:`diffjax.envs.mujoco_vector.restore_contact_margin`; MuJoCo only.
      make: makes one environment from ``env_id`` and arguments, instead of :func:`make_gymnasium`.

    Raises:
      UserError: the id is unknown, the arguments are wrong, or the environment has no time limit, or spaces that are
        not flat.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        kwargs: Mapping[str, Any] | None = None,
        horizon: int | None = None,
        num_threads: int = 1,
        legacy_contact_margin: bool = True,
        make: Callable[..., gymnasium.Env] = make_gymnasium,
    ) -> None:
        arguments = dict(kwargs or {}) if horizon is None else {**(kwargs or {}), "max_episode_steps": horizon}
        self._envs = [make(env_id, **arguments) for _ in range(num_envs)]
        self.version = _version(type(self._envs[0].unwrapped).__module__.partition(".")[0])
        if self.is_mujoco:
            margin = "legacy" if legacy_contact_margin else "current"
            self.version += f", mujoco {mujoco.__version__}, {margin} contact margin"
            if legacy_contact_margin:
                for env in self._envs:
                    world: Any = env.unwrapped
                    restore_contact_margin(world.model)
        spec, actions = self._envs[0].spec, self._envs[0].action_space
        if spec is None or spec.max_episode_steps is None or not isinstance(actions, gymnasium.spaces.Box):
            raise UserError(f"{env_id} cannot be simulated: it needs a time limit and actions that are vectors")
        self.num_envs = num_envs
        self.horizon = spec.max_episode_steps
        self.observation_dim = _observation_dim(env_id, self._envs[0].observation_space)
        self.action_dim = int(np.prod(actions.shape))
        threads = min(num_threads or usable_cpus(), num_envs)
        self._threads = ThreadPoolExecutor(threads) if threads > 1 else None
        self._observation = np.zeros((num_envs, self.observation_dim), np.float32)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Begin an episode per seed; see the protocol."""
        for index, seed in enumerate(check_seeds(seeds, self.num_envs)):
            self._observation[index] = _flat(self._envs[index].reset(seed=int(seed))[0])
        self._terminated[:] = False
        self._truncated[:] = False
        return self._observation.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Apply one action per environment; see the protocol."""
        action = check_action(action, self.num_envs, self.action_dim)
        reward = np.zeros(self.num_envs)

        def step_one(index: int) -> None:
            observation, reward[index], terminated, truncated, _ = self._envs[index].step(action[index])
            self._observation[index] = _flat(observation)
            self._terminated[index] = terminated
            self._truncated[index] = truncated and not terminated

        running = np.flatnonzero(~(self._terminated | self._truncated)).tolist()
        for _ in self._threads.map(step_one, running) if self._threads else map(step_one, running):
            pass
        return self._observation.copy(), reward, self._terminated.copy(), self._truncated.copy()

    def mechanics(self, index: int) -> Mechanics:
        """The mechanics of one environment, in arrays of their own but for the model; MuJoCo only."""
        world: Any = self._envs[index].unwrapped
        data = world.data
        return Mechanics(world.model, data.qpos.copy(), data.qvel.copy(), data.ctrl.copy())

    @property
    def action_bounds(self) -> ActionBounds | None:
        """The smallest and largest actions of the environment; None where one of them is infinite."""
        space: Any = self._envs[0].action_space
        low, high = np.asarray(space.low, float).reshape(-1), np.asarray(space.high, float).reshape(-1)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return None
        return ActionBounds(tuple(low.tolist()), tuple(high.tolist()))

    @property
    def is_mujoco(self) -> bool:
        """Whether there are :meth:`mechanics`."""
        return isinstance(getattr(self._envs[0].unwrapped, "model", None), mujoco.MjModel)

    @property
    def camera(self) -> Mapping[str, Any]:
        """How the environment would have MuJoCo's camera; empty where it does not say."""
        world: Any = self._envs[0].unwrapped
        renderer = getattr(getattr(world, "robot_env", world), "mujoco_renderer", None)
        return getattr(renderer, "default_cam_config", None) or {}

    @property
    def steps_per_second(self) -> float:
        """Steps of a second of simulated time, as far as the environment says."""
        return float(self._envs[0].metadata.get("render_fps") or 20.0)

    def picture(self, index: int) -> np.ndarray:
        """One environment as it draws itself, ``(height, width, 3)`` uint8; made with ``render_mode="rgb_array"``."""
        return np.asarray(self._envs[index].render())

    def close(self) -> None:
        """Close every environment and release the threads."""
        if self._threads:
            self._threads.shutdown()
        for env in self._envs:
            env.close()


def _version(package: str) -> str:
    """Name and version of a package; the name alone of what was not installed as one."""
    name = package.replace("_", "-")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"{name} {importlib.metadata.version(package)}"
    return name


def _flat(observation: Any) -> np.ndarray:
    if isinstance(observation, Mapping) and observation.keys() != _GOAL_KEYS:
        return flatten_named(observation)
    if isinstance(observation, Mapping):
        return flatten_goal_observation(
            observation["achieved_goal"], observation["observation"], observation["desired_goal"]
        )
    return observation


def _observation_dim(env_id: str, space: gymnasium.Space) -> int:
    if not _is_flat(space):
        raise UserError(f"{env_id} cannot be simulated: its observations are neither vectors nor mappings of vectors")
    return gymnasium.spaces.flatdim(space)


def _is_flat(space: gymnasium.Space) -> bool:
    if isinstance(space, gymnasium.spaces.Dict):
        return all(map(_is_flat, space.spaces.values()))
    return isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
