"""Hopper, HalfCheetah and Walker2d as Gymnasium's ``-v4`` defines them, many at once in MuJoCo's native threads.

Observations, rewards and terminations are those of Gymnasium to the bit (``gym_loop`` is the reference). The robots'
XML files are the ones in the installed Gymnasium.

Acting with NumPy matrix products between steps starts BLAS threads that compete with these; act through a jitted
function, or set OPENBLAS_NUM_THREADS=1.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch

from diffjax.envs.base import check_action, check_seeds
from diffjax.errors import UserError

HORIZON = 1000  # Gymnasium's time limit for all three
INFINITY = float("inf")


class Robot(NamedTuple):
    """The constants of one ``-v4`` environment; ``control_cost`` times the squared norm of the action is paid."""

    xml: str
    frame_skip: int
    control_cost: float
    healthy_reward: float | None = None  # None: never unhealthy, never terminates
    height_range: tuple[float, float] = (-INFINITY, INFINITY)  # m, exclusive
    angle_range: tuple[float, float] = (-INFINITY, INFINITY)  # rad, exclusive
    state_limit: float = INFINITY  # of qpos[2:] and qvel, exclusive
    velocity_clip: float = INFINITY  # in the observation
    reset_noise: float = 5e-3  # qpos uniform within it, qvel too
    normal_velocity_noise: bool = False  # instead: standard deviation of qvel


ROBOTS = {
    "Hopper-v4": Robot(
        "hopper.xml",
        frame_skip=4,
        control_cost=1e-3,
        healthy_reward=1.0,
        height_range=(0.7, INFINITY),
        angle_range=(-0.2, 0.2),
        state_limit=100.0,
        velocity_clip=10.0,
    ),
    "HalfCheetah-v4": Robot(
        "half_cheetah.xml", frame_skip=5, control_cost=0.1, reset_noise=0.1, normal_velocity_noise=True
    ),
    "Walker2d-v4": Robot(
        "walker2d.xml",
        frame_skip=4,
        control_cost=1e-3,
        healthy_reward=1.0,
        height_range=(0.8, 2.0),
        angle_range=(-1.0, 1.0),
        velocity_clip=10.0,
    ),
}


@contextmanager
def quiet_mujoco() -> Iterator[None]:
    """No warnings of MuJoCo on the terminal inside; none to MUJOCO_LOG.TXT in the current folder, from now on."""
    config = mujoco.MjLogConfig.get()
    console = config.logto_console
    config.logto_file = False
    config.logto_console = False
    config.set()
    try:
        yield
    finally:
        config.logto_console = console
        config.set()


def restore_contact_margin(model: Any) -> None:
    """Set the contact margin of all static geoms to 0.

    MuJoCo >= 3.5 adds the margins of two touching geoms where older versions took the larger one. As a robot's
    geoms share one margin with the floor, a floor of margin 0 brings the old contacts back.
    """
    static = model.body_weldid[model.geom_bodyid] == 0
    model.geom_margin[static] = 0.0


def load_robot(robot: Robot, legacy_contact_margin: bool = True) -> Any:
    """The robot's ``mujoco.MjModel``.

    Raises:
      UserError: Gymnasium or its file of the robot is missing.
    """
    spec = importlib.util.find_spec("gymnasium")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0] if folders else ".") / "envs" / "mujoco" / "assets" / robot.xml
    if not folders or not path.is_file():
        raise UserError(f"the installed gymnasium has no {robot.xml}; install gymnasium[mujoco]")
    with quiet_mujoco():
        model = mujoco.MjModel.from_xml_path(str(path))
    if legacy_contact_margin:
        restore_contact_margin(model)
    return model


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LocomotionVector:
    """``num_envs`` robots; see :class:`diffjax.envs.base.VectorSimulator`. Rewards are float64.

    Args:
      env_id: a key of :data:`ROBOTS`.
      num_threads: 0 for as many as the process may use.
      legacy_contact_margin: contacts as in MuJoCo < 3.5, under which D4RL's data was made; see
        :func:`restore_contact_margin`.
    """

    def __init__(self, env_id: str, num_envs: int, num_threads: int = 0, legacy_contact_margin: bool = True) -> None:
        self._robot = ROBOTS[env_id]
        model = load_robot(self._robot, legacy_contact_margin)
        self._batch = Batch(model, num_envs, min(num_threads or usable_cpus(), num_envs))
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._qpos_start = model.qpos0.copy()
        self._dt = model.opt.timestep * self._robot.frame_skip
        self.num_envs = num_envs
        self.horizon = HORIZON
        self.observation_dim = model.nq - 1 + model.nv
        self.action_dim = model.nu
        contacts = "legacy" if legacy_contact_margin else "current"
        self.version = f"mujoco {mujoco.__version__} batch, {contacts} contact margin"
        self._time = 0
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Begin an episode per seed, with Gymnasium's noise for ``reset(seed=seed)``; see the protocol."""
        self._batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        noise = self._robot.reset_noise
        for index, seed in enumerate(check_seeds(seeds, self.num_envs)):
            random = np.random.Generator(np.random.PCG64(int(seed)))
            self._qpos[index] = self._qpos_start + random.uniform(-noise, noise, self._qpos.shape[1])
            if self._robot.normal_velocity_noise:
                self._qvel[index] = noise * random.standard_normal(self._qvel.shape[1])
            else:
                self._qvel[index] = random.uniform(-noise, noise, self._qvel.shape[1])
        self._batch.forward()
        self._time = 0
        self._terminated[:] = False
        self._truncated[:] = False
        return self._observe()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Apply one action per environment; see the protocol.

        Reward ``(x' - x) / dt + healthy_reward - control_cost |action|^2``, where ``healthy_reward`` is paid on
        the terminating step too.
        """
        action = check_action(action, self.num_envs, self.action_dim)
        running = np.flatnonzero(~(self._terminated | self._truncated))
        reward = np.zeros(self.num_envs)
        if running.size:
            x = self._qpos[running, 0]
            self._batch.ctrl[running] = action[running]
            self._batch.step(ids=running, nstep=self._robot.frame_skip)
            forward = (self._qpos[running, 0] - x) / self._dt
            # float32, as Gymnasium sums it
            cost = self._robot.control_cost * np.sum(np.square(action[running]), axis=1)
            reward[running] = forward + (self._robot.healthy_reward or 0.0) - cost
            self._time += 1
            self._terminated[running] = self._unhealthy()[running]
            if self._time >= self.horizon:
                self._truncated |= ~self._terminated
        return self._observe(), reward, self._terminated.copy(), self._truncated.copy()

    def close(self) -> None:
        """Release the threads."""
        del self._batch, self._qpos, self._qvel

    def _observe(self) -> np.ndarray:
        limit = self._robot.velocity_clip
        velocity = np.clip(self._qvel, -limit, limit)
        return np.concatenate([self._qpos[:, 1:], velocity], axis=1).astype(np.float32)

    def _unhealthy(self) -> np.ndarray:
        if self._robot.healthy_reward is None:
            return np.zeros(self.num_envs, bool)
        height, angle = self._qpos[:, 1], self._qpos[:, 2]
        low, high = self._robot.height_range
        left, right = self._robot.angle_range
        limit = self._robot.state_limit
        state = np.concatenate([self._qpos[:, 2:], self._qvel], axis=1)
        healthy = (low < height) & (height < high) & (left < angle) & (angle < right)
        return ~(healthy & (np.abs(state) < limit).all(axis=1))
