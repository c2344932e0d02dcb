"""Simulators by the id of their environment."""

from collections.abc import Callable
from functools import partial

from diffjax.envs.base import VectorSimulator
from diffjax.envs.jax_vector import JaxVector
from diffjax.envs.pendulum import PENDULUM
from diffjax.envs.pointmaze import POINTMAZE
from diffjax.errors import unknown_name


def _locomotion(env_id: str, num_envs: int) -> VectorSimulator:
    from diffjax.envs.locomotion import LocomotionVector

    return LocomotionVector(env_id, num_envs)


_SIMULATORS: dict[str, Callable[[int], VectorSimulator]] = {
    PENDULUM.name: partial(JaxVector, PENDULUM),
    POINTMAZE.name: partial(JaxVector, POINTMAZE),
    **{env_id: partial(_locomotion, env_id) for env_id in ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4")},
}


def make_vector(env_id: str, num_envs: int) -> VectorSimulator:
    """``num_envs`` simulators side by side; their physics is imported here, not before.

    Raises:
      UserError: the id is unknown.
    """
    if env_id not in _SIMULATORS:
        raise unknown_name("environment", env_id, _SIMULATORS)
    return _SIMULATORS[env_id](num_envs)
