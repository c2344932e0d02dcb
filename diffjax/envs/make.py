"""Simulators by id: one table, and Gymnasium's environments for every other id.

==============================================  ====================================================================
``Hopper-v4, HalfCheetah-v4, Walker2d-v4``      Gymnasium's, in native threads
``Ant-v4``                                      likewise; takes ``use_contact_forces``
``d4rl/Ant``                                    ``Ant-v4`` with contact forces, the 111 numbers of D4RL
``d4rl/AntMaze-{umaze,medium,large}-v2``        a goal per episode
``d4rl/AntMaze-{umaze,medium,large}-v0``        one goal for all episodes; takes ``goal_seed``
``d4rl/Maze2D-{open,umaze,medium,large}``       sparse reward
``d4rl/Maze2D-{open,...}-dense``                dense reward
``d4rl/Adroit{Pen,Door,Hammer,Relocate}``       D4RL's rewards, terminations and horizons
``d4rl/Kitchen{Complete,Partial,Mixed}``        D4RL's observation, tasks and reward
``FrankaKitchen-v1``                            gymnasium-robotics', repaired; takes its arguments
``diffjax/Pendulum, diffjax/PointMaze``         the embedded simulators
``diffjax/Thrusters-{24,50,100}``               likewise, with as many action dimensions
any other id of Gymnasium, gymnasium-robotics   in a Python loop, with the environment's arguments
==============================================  ====================================================================
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from operator import attrgetter, methodcaller
from types import MappingProxyType
from typing import Any

from diffjax.envs.base import PureSimulator, VectorSimulator
from diffjax.errors import UserError, unknown_name

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})
_OWN = ("d4rl/", "diffjax/")  # beginnings of the ids that mean nothing to Gymnasium

Maker = Callable[[int, int | None, Mapping[str, Any]], VectorSimulator]
"""From ``num_envs``, ``horizon`` and the caller's arguments; physics is imported when it is called."""


class _WrongArguments(Exception):
    """The maker does not take these arguments."""


def make_vector(
    env_id: str, num_envs: int, kwargs: Mapping[str, Any] = NO_ARGUMENTS, horizon: int | None = None
) -> VectorSimulator:
    """``num_envs`` simulators of an id side by side.

    Args:
      kwargs: arguments of the environment, as ``gymnasium.make`` or the table's line takes them. What the table does
        not take of Gymnasium's own arguments goes to Gymnasium.
      horizon: most steps of an episode; None: the environment's own.

    Raises:
      UserError: the id or an argument is unknown, or gymnasium-robotics is needed and missing.
    """
    maker = _MAKERS.get(env_id)
    if maker is not None:
        try:
            return maker(num_envs, horizon, kwargs)
        except _WrongArguments as error:
            if env_id.startswith(_OWN):
                raise UserError(f"simulator {env_id} takes no such arguments: {error}") from None
    elif env_id.startswith(_OWN):
        raise unknown_name("simulator", env_id, _MAKERS)
    return _gymnasium(env_id, num_envs, horizon, kwargs)


def _call(module: str, function: str, arguments: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Any:
    target = getattr(importlib.import_module(f"diffjax.envs.{module}"), function)
    try:
        inspect.signature(target).bind(**arguments, **kwargs)
    except TypeError as error:
        raise _WrongArguments(error) from None
    return target(**arguments, **kwargs)


def _mujoco(module: str, function: str, **arguments: Any) -> Maker:
    """A vector of the ``MujocoEnvironment`` that the function returns."""

    def make(num_envs: int, horizon: int | None, kwargs: Mapping[str, Any]) -> VectorSimulator:
        from diffjax.envs.mujoco_vector import MujocoVector

        return MujocoVector(_call(module, function, arguments, kwargs), num_envs, horizon)

    return make


def _loop(module: str, function: str, **arguments: Any) -> Maker:
    """The loop that the function returns."""

    def make(num_envs: int, horizon: int | None, kwargs: Mapping[str, Any]) -> VectorSimulator:
        return _call(module, function, {"num_envs": num_envs, "horizon": horizon, **arguments}, kwargs)

    return make


def _jax(module: str, find: Callable[[Any], PureSimulator]) -> Maker:
    """A vector of the simulator that is found in the module."""

    def make(num_envs: int, horizon: int | None, kwargs: Mapping[str, Any]) -> VectorSimulator:
        if kwargs:
            raise _WrongArguments(", ".join(kwargs))
        from diffjax.envs.jax_vector import JaxVector

        return JaxVector(find(importlib.import_module(f"diffjax.envs.{module}")), num_envs, horizon)

    return make


def _gymnasium(env_id: str, num_envs: int, horizon: int | None, kwargs: Mapping[str, Any]) -> VectorSimulator:
    from diffjax.envs.gym_loop import GymLoop

    return GymLoop(env_id, num_envs, kwargs, horizon)


_LAYOUTS = ("umaze", "medium", "large")

_MAKERS: dict[str, Maker] = {
    "diffjax/Pendulum": _jax("pendulum", attrgetter("PENDULUM")),
    "diffjax/PointMaze": _jax("pointmaze", attrgetter("POINTMAZE")),
    **{f"diffjax/Thrusters-{count}": _jax("thrusters", methodcaller("thrusters", count)) for count in (24, 50, 100)},
    **{name: _mujoco("locomotion", "planar", env_id=name) for name in ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4")},
    "Ant-v4": _mujoco("locomotion", "ant"),
    "d4rl/Ant": _mujoco("locomotion", "ant", use_contact_forces=True),
    **{f"d4rl/AntMaze-{name}-v2": _mujoco("antmaze", "antmaze", layout=name) for name in _LAYOUTS},
    **{f"d4rl/AntMaze-{name}-v0": _mujoco("antmaze", "antmaze_fixed_goal", layout=name) for name in _LAYOUTS},
    **{f"d4rl/Maze2D-{name}": _mujoco("maze2d", "maze2d", layout=name, dense=False) for name in ("open", *_LAYOUTS)},
    **{
        f"d4rl/Maze2D-{name}-dense": _mujoco("maze2d", "maze2d", layout=name, dense=True)
        for name in ("open", *_LAYOUTS)
    },
    **{
        f"d4rl/Adroit{task.capitalize()}": _loop("adroit", "adroit", task=task)
        for task in ("pen", "door", "hammer", "relocate")
    },
    **{
        f"d4rl/Kitchen{name.capitalize()}": _loop("kitchen", "kitchen", tasks=name)
        for name in ("complete", "partial", "mixed")
    },
    "FrankaKitchen-v1": _loop("kitchen", "goal_kitchen"),
}


def known_environment(env_id: str) -> bool:
    """Whether the table, Gymnasium or gymnasium-robotics (where it is installed) knows an id."""
    if env_id in _MAKERS or env_id.startswith(_OWN):
        return env_id in _MAKERS
    from diffjax.envs.robotics import require_registered

    try:
        require_registered(env_id)
    except UserError:
        return False
    return True


def simulator_version(env_id: str) -> str:
    """What a results table records of the simulator of an id.

    Raises:
      UserError: as `make_vector`.
    """
    simulator = make_vector(env_id, 1)
    try:
        return simulator.version
    finally:
        simulator.close()


def known_simulators() -> tuple[str, ...]:
    """The ids of the table; Gymnasium knows more."""
    return tuple(_MAKERS)
