"""Hopper, HalfCheetah, Walker2d and Ant as Gymnasium's ``-v4`` defines them, which D4RL's ``-v2`` data was made in.

Observations, rewards and terminations are those of Gymnasium to the bit (``gym_loop`` is the reference). The robots'
XML files are the ones in the installed Gymnasium.

Where this differs from D4RL (``-v2`` environments, MuJoCo 1.5 to 2.0): the version of MuJoCo, whose contacts are
restored as far as :func:`diffjax.envs.mujoco_vector.restore_contact_margin` can, and for Ant the Runge-Kutta step,
which turns free joints with fourth order from MuJoCo 4 on and with second order before. D4RL's Ant observes contact
forces (111 numbers: ``use_contact_forces``), which MuJoCo 2.0 left at zero; here they are the real ones, and are
charged in the reward. D4RL's ``ref_min`` of Hopper and Ant is not the return of random actions (19 and -50 here).
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from diffjax.envs.mujoco_vector import MujocoEnvironment, Start, State, quiet_mujoco
from diffjax.errors import UserError

HORIZON = 1000  # Gymnasium's time limit for all four
INFINITY = float("inf")


class Robot(NamedTuple):
    """The constants of one planar robot; ``control_cost`` times the squared norm of the action is paid."""

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

ANT_CONTROL_COST = 0.5
ANT_CONTACT_COST = 5e-4
ANT_HEIGHT_RANGE = (0.2, 1.0)  # m, inclusive
ANT_RESET_NOISE = 0.1


def load_robot(xml: str) -> Any:
    """The ``mujoco.MjModel`` of a file among Gymnasium's robots.

    Raises:
      UserError: Gymnasium or its file of the robot is missing.
    """
    spec = importlib.util.find_spec("gymnasium")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0] if folders else ".") / "envs" / "mujoco" / "assets" / xml
    if not folders or not path.is_file():
        raise UserError(f"the installed gymnasium has no {xml}; install gymnasium[mujoco]")
    with quiet_mujoco():
        return mujoco.MjModel.from_xml_path(str(path))


def planar(env_id: str) -> MujocoEnvironment:
    """A robot of :data:`ROBOTS`.

    Reward ``(x' - x) / dt + healthy_reward - control_cost |action|^2``, where ``healthy_reward`` is paid on the
    terminating step too; the observation is ``qpos[1:], clip(qvel)``.
    """
    robot = ROBOTS[env_id]
    model = load_robot(robot.xml)
    return MujocoEnvironment(
        model=model,
        frame_skip=robot.frame_skip,
        horizon=HORIZON,
        reset=partial(_planar_reset, robot, model.qpos0.copy(), model.nv),
        observe=partial(_planar_observe, robot),
        reward=partial(_planar_reward, robot, model.opt.timestep * robot.frame_skip),
        terminated=partial(_unhealthy, robot),
    )


def _planar_reset(robot: Robot, qpos0: np.ndarray, nv: int, random: np.random.Generator) -> Start:
    noise = robot.reset_noise
    qpos = qpos0 + random.uniform(-noise, noise, len(qpos0))
    if robot.normal_velocity_noise:
        return Start(qpos, noise * random.standard_normal(nv))
    return Start(qpos, random.uniform(-noise, noise, nv))


def _planar_observe(robot: Robot, state: State) -> np.ndarray:
    velocity = np.clip(state.qvel, -robot.velocity_clip, robot.velocity_clip)
    return np.concatenate([state.qpos[:, 1:], velocity], axis=1)


def _planar_reward(robot: Robot, dt: float, before: State, action: np.ndarray, after: State) -> np.ndarray:
    forward = (after.qpos[:, 0] - before.qpos[:, 0]) / dt
    cost = robot.control_cost * np.sum(np.square(action), axis=1)  # float32, as Gymnasium sums it
    return forward + (robot.healthy_reward or 0.0) - cost


def _unhealthy(robot: Robot, state: State) -> np.ndarray:
    if robot.healthy_reward is None:
        return np.zeros(len(state.qpos), bool)
    height, angle = state.qpos[:, 1], state.qpos[:, 2]
    low, high = robot.height_range
    left, right = robot.angle_range
    healthy = (low < height) & (height < high) & (left < angle) & (angle < right)
    rest = np.concatenate([state.qpos[:, 2:], state.qvel], axis=1)
    return ~(healthy & (np.abs(rest) < robot.state_limit).all(axis=1))


def ant(use_contact_forces: bool = False) -> MujocoEnvironment:
    """``Ant-v4``; observation ``qpos[2:], qvel`` and, with ``use_contact_forces``, 14 x 6 forces clipped to [-1, 1].

    Reward ``(x' - x) / dt + 1 - 0.5 |action|^2``, less ``5e-4 |forces|^2`` where they are observed. Its ``x`` is the
    torso's as MuJoCo left it, half a substep behind the state.
    """
    model = load_robot("ant.xml")
    frame_skip = 5
    return MujocoEnvironment(
        model=model,
        frame_skip=frame_skip,
        horizon=HORIZON,
        reset=partial(_ant_reset, model.qpos0.copy(), model.nv),
        observe=partial(_ant_observe, use_contact_forces),
        reward=partial(_ant_reward, use_contact_forces, model.opt.timestep * frame_skip),
        terminated=_ant_unhealthy,
        read=partial(_ant_read, model.body("torso").id),
    )


def _ant_reset(qpos0: np.ndarray, nv: int, random: np.random.Generator) -> Start:
    qpos = qpos0 + random.uniform(-ANT_RESET_NOISE, ANT_RESET_NOISE, len(qpos0))
    return Start(qpos, ANT_RESET_NOISE * random.standard_normal(nv))


def _ant_read(torso: int, data: Any) -> np.ndarray:
    """The torso's x, then the clipped forces."""
    return np.concatenate([data.xpos[torso, :1], np.clip(data.cfrc_ext, -1.0, 1.0).ravel()])


def _ant_observe(use_contact_forces: bool, state: State) -> np.ndarray:
    forces = state.reading[:, 1:] if use_contact_forces else state.reading[:, :0]
    return np.concatenate([state.qpos[:, 2:], state.qvel, forces], axis=1)


def _ant_reward(use_contact_forces: bool, dt: float, before: State, action: np.ndarray, after: State) -> np.ndarray:
    forward = (after.reading[:, 0] - before.reading[:, 0]) / dt
    cost = ANT_CONTROL_COST * np.sum(np.square(action), axis=1)  # float32, as Gymnasium sums it
    if use_contact_forces:
        cost = cost + ANT_CONTACT_COST * np.sum(np.square(after.reading[:, 1:]), axis=1)
    return forward + 1.0 - cost


def _ant_unhealthy(state: State) -> np.ndarray:
    low, high = ANT_HEIGHT_RANGE
    height = state.qpos[:, 2]
    finite = np.isfinite(state.qpos).all(axis=1) & np.isfinite(state.qvel).all(axis=1)
    return ~(finite & (low <= height) & (height <= high))
