"""Any MuJoCo model stepped for many episodes at once: in native threads, or in a Python loop with the same bits.

Acting with NumPy matrix products between steps starts BLAS threads that compete with these; act through a jitted
function, or set OPENBLAS_NUM_THREADS=1.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import mujoco
import numpy as np

from diffjax.envs.base import check_action, check_seeds

try:
    from mujoco.batch import Batch
except ImportError:  # MuJoCo < 3.17
    Batch = None


class Start(NamedTuple):
    """Where one episode begins: generalised positions and velocities, and whatever else ``reward`` needs to know."""

    qpos: np.ndarray
    qvel: np.ndarray
    goal: np.ndarray = np.zeros(0)


class State(NamedTuple):
    """Several episodes at one time, float64, leading axis episodes.

    ``reading`` is what ``MujocoEnvironment.read`` returned, of size 0 without one.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    goal: np.ndarray
    reading: np.ndarray


def _never(state: State) -> np.ndarray:
    return np.zeros(len(state.qpos), bool)


class MujocoEnvironment(NamedTuple):
    """A MuJoCo model and what makes a task of it.

    ``reset`` draws where an episode begins; ``reward`` takes the states before and after a step and the action
    between them, ``(episodes, action_dim)`` float32 in [-1, 1], of which ``action_scale`` times is the control.
    Velocities are cut to ``speed_limit`` before every step. ``read`` takes numbers from an ``MjData`` that are no
    function of the state, such as contact forces; after a step MuJoCo's ``mj_rnePostConstraint`` runs before it.
    """

    model: Any
    frame_skip: int
    horizon: int
    reset: Callable[[np.random.Generator], Start]
    observe: Callable[[State], np.ndarray]
    reward: Callable[[State, np.ndarray, State], np.ndarray]
    terminated: Callable[[State], np.ndarray] = _never
    action_scale: float = 1.0
    speed_limit: float = float("inf")
    read: Callable[[Any], np.ndarray] | None = None


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
    """Bring back the contacts of MuJoCo < 3.5, which took the larger margin of two touching geoms; now they add.

    Exact where all moving geoms share a margin that no static geom exceeds: each geom gets half of it. Otherwise the
    static geoms get 0, and two moving ones keep the sum.
    """
    moving = model.body_weldid[model.geom_bodyid] != 0
    largest = model.geom_margin.max(initial=0.0)
    if (model.geom_margin[moving] == largest).all():
        model.geom_margin[:] = largest / 2
    else:
        model.geom_margin[~moving] = 0.0


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Mechanics(NamedTuple):
    """What MuJoCo simulates one environment with, and where it stands; ``control`` is that of the last step."""

    model: Any
    qpos: np.ndarray
    qvel: np.ndarray
    control: np.ndarray


class _Physics(Protocol):
    """``qpos`` and ``qvel``, ``(num_envs, ...)``, may be written between steps; ``control`` is to be read."""

    qpos: np.ndarray
    qvel: np.ndarray
    control: np.ndarray

    def reset(self, qpos: np.ndarray, qvel: np.ndarray) -> None: ...

    def step(self, ids: np.ndarray, control: np.ndarray, frame_skip: int) -> None: ...

    def data(self, index: int) -> Any:
        """The ``MjData`` of one environment, to read."""
        ...


class _Native:
    """MuJoCo's own threads; ``keep_data`` for models whose ``MjData`` will be read."""

    def __init__(self, model: Any, num_envs: int, num_threads: int, keep_data: bool) -> None:
        self._batch = Batch(model, num_envs, num_threads, persistent=keep_data)
        self._data = mujoco.MjData(model)
        self.control = self._batch.bind("ctrl")
        self.qpos, self.qvel = self._batch.bind("qpos"), self._batch.bind("qvel")

    def reset(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        self._batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.qpos[:], self.qvel[:] = qpos, qvel
        self._batch.forward()

    def step(self, ids: np.ndarray, control: np.ndarray, frame_skip: int) -> None:
        self.control[ids] = control
        self._batch.step(ids=ids, nstep=frame_skip)

    def data(self, index: int) -> Any:
        return self._batch.get_data(index, self._data)


class _Loop:
    """One ``MjData`` after the other: slow, and the reference of the native threads."""

    def __init__(self, model: Any, num_envs: int) -> None:
        self._model = model
        self._data = [mujoco.MjData(model) for _ in range(num_envs)]
        self.qpos, self.qvel = np.zeros((num_envs, model.nq)), np.zeros((num_envs, model.nv))
        self.control = np.zeros((num_envs, model.nu))

    def reset(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        self.qpos[:], self.qvel[:] = qpos, qvel
        for index, data in enumerate(self._data):
            mujoco.mj_resetData(self._model, data)
            data.qpos[:], data.qvel[:] = qpos[index], qvel[index]
            mujoco.mj_forward(self._model, data)

    def step(self, ids: np.ndarray, control: np.ndarray, frame_skip: int) -> None:
        self.control[ids] = control
        for index, row in zip(ids, control, strict=True):
            data = self._data[index]
            data.qpos[:], data.qvel[:], data.ctrl[:] = self.qpos[index], self.qvel[index], row
            mujoco.mj_step(self._model, data, nstep=frame_skip)
            self.qpos[index], self.qvel[index] = data.qpos, data.qvel

    def data(self, index: int) -> Any:
        return self._data[index]


class MujocoVector:
    """``num_envs`` episodes of an environment; see :class:`diffjax.envs.base.VectorSimulator`. Rewards are float64.

    Args:
      horizon: another than the environment's.
      num_threads: 0 for as many as the process may use.
      legacy_contact_margin: contacts as in MuJoCo < 3.5, under which D4RL's data was made; see
        :func:`restore_contact_margin`.
      native: step in MuJoCo's threads instead of the loop; both give the same bits.
    """

    def __init__(
        self,
        environment: MujocoEnvironment,
        num_envs: int,
        horizon: int | None = None,
        num_threads: int = 0,
        legacy_contact_margin: bool = True,
        native: bool = Batch is not None,
    ) -> None:
        model = copy.copy(environment.model)
        if legacy_contact_margin:
            restore_contact_margin(model)
        self._environment, self._model = environment, model
        threads = min(num_threads or usable_cpus(), num_envs)
        keep_data = environment.read is not None
        self._physics: _Physics = _Native(model, num_envs, threads, keep_data) if native else _Loop(model, num_envs)
        start = environment.reset(np.random.default_rng(0))
        self._goal = np.tile(start.goal, (num_envs, 1))
        self._reading = np.zeros((num_envs, 0))
        self._reset_physics(np.tile(start.qpos, (num_envs, 1)), np.tile(start.qvel, (num_envs, 1)))
        self._observation = self._observe(np.arange(num_envs))
        self.num_envs = num_envs
        self.horizon = environment.horizon if horizon is None else horizon
        self.observation_dim = self._observation.shape[1]
        self.action_dim = model.nu
        margin = "legacy" if legacy_contact_margin else "current"
        self.version = f"mujoco {mujoco.__version__}, {margin} contact margin"
        self._time = 0
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Begin an episode per seed, with Gymnasium's generator of ``reset(seed=seed)``; see the protocol."""
        seeds = check_seeds(seeds, self.num_envs)
        starts = [self._environment.reset(np.random.Generator(np.random.PCG64(int(seed)))) for seed in seeds]
        qpos, qvel, self._goal = (np.stack(parts) for parts in zip(*starts, strict=True))
        self._reset_physics(qpos, qvel)
        self._time = 0
        self._terminated[:] = False
        self._truncated[:] = False
        self._observation = self._observe(np.arange(self.num_envs))
        return self._observation.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Apply one action per environment; see the protocol."""
        action = check_action(action, self.num_envs, self.action_dim)
        running = np.flatnonzero(~(self._terminated | self._truncated))
        reward = np.zeros(self.num_envs)
        if running.size:
            environment, action = self._environment, action[running]
            before = self._state(running)
            limit = environment.speed_limit
            self._physics.qvel[running] = np.clip(before.qvel, -limit, limit)
            self._physics.step(running, environment.action_scale * action, environment.frame_skip)
            self._read(running, stepped=True)
            after = self._state(running)
            reward[running] = environment.reward(before, action, after)
            self._time += 1
            self._terminated[running] = environment.terminated(after)
            if self._time >= self.horizon:
                self._truncated |= ~self._terminated
            self._observation[running] = self._observe(running)
        return self._observation.copy(), reward, self._terminated.copy(), self._truncated.copy()

    def mechanics(self, index: int) -> Mechanics:
        """The mechanics of one environment, in arrays of their own but for the model."""
        physics = self._physics
        return Mechanics(self._model, *(each[index].copy() for each in (physics.qpos, physics.qvel, physics.control)))

    def goal(self, index: int) -> np.ndarray:
        """Where one environment's episode leads, ``(2,)`` in the world's metres; of size 0 without a goal."""
        goal, model = self._goal[index], self._model
        slides = model.jnt_type[0] == mujoco.mjtJoint.mjJNT_SLIDE  # whose positions count from the body's own
        return goal + model.body_pos[1, : goal.size] if slides else goal

    @property
    def steps_per_second(self) -> float:
        """Steps of a second of simulated time."""
        return 1.0 / (self._model.opt.timestep * self._environment.frame_skip)

    def close(self) -> None:
        """Release the threads."""
        del self._physics

    def _reset_physics(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        self._physics.reset(qpos, qvel)
        self._read(np.arange(len(qpos)), stepped=False)

    def _read(self, ids: np.ndarray, stepped: bool) -> None:
        read = self._environment.read
        if read is None:
            return
        rows = []
        for index in ids:
            data = self._physics.data(int(index))
            if stepped:
                mujoco.mj_rnePostConstraint(self._model, data)
            rows.append(read(data))
        if not stepped:
            self._reading = np.zeros((len(self._goal), len(rows[0])))
        self._reading[ids] = rows

    def _state(self, ids: np.ndarray) -> State:
        return State(self._physics.qpos[ids], self._physics.qvel[ids], self._goal[ids], self._reading[ids])

    def _observe(self, ids: np.ndarray) -> np.ndarray:
        return self._environment.observe(self._state(ids)).astype(np.float32)
