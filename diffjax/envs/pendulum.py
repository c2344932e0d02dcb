"""Pendulum swing-up as pure functions: the dynamics and cost of Gymnasium's Pendulum-v1, cost scaled to [0, 1]."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffjax.envs.base import PureSimulator

GRAVITY = 10.0  # m / s^2
MASS = 1.0  # kg
LENGTH = 1.0  # m
TIME_STEP = 0.05  # s
MAX_SPEED = 8.0  # rad / s
MAX_TORQUE = 2.0  # N m; too weak to lift the pendulum without swinging
MAX_COST = jnp.pi**2 + 0.1 * MAX_SPEED**2 + 0.001 * MAX_TORQUE**2


class State(NamedTuple):
    """``angle`` in rad, 0 upright, any number of turns; ``angular_velocity`` in rad / s."""

    angle: jax.Array
    angular_velocity: jax.Array


def reset(key: jax.Array) -> State:
    """Angle uniform over the circle, angular velocity uniform in [-1, 1] rad / s."""
    angle_key, velocity_key = jax.random.split(key)
    return State(
        angle=jax.random.uniform(angle_key, minval=-jnp.pi, maxval=jnp.pi),
        angular_velocity=jax.random.uniform(velocity_key, minval=-1.0, maxval=1.0),
    )


def observe(state: State) -> jax.Array:
    """``(cos angle, sin angle, angular_velocity / 8)``, each in [-1, 1]."""
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.angular_velocity / MAX_SPEED])


def step(state: State, action: jax.Array) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """One step of 0.05 s (semi-implicit Euler); never terminates.

    ``velocity <- clip(velocity + (3 g / (2 l) sin angle + 3 / (m l^2) torque) dt, -8, 8)``,
    ``angle <- angle + velocity dt``, torque = 2 action. The reward is that of the state and action before the step,
    ``-(angle^2 + 0.1 velocity^2 + 0.001 torque^2) / 16.27``, angle wrapped to [-pi, pi): in [-1, 0].
    """
    torque = MAX_TORQUE * jnp.clip(action[0], -1.0, 1.0)
    wrapped = jnp.mod(state.angle + jnp.pi, 2 * jnp.pi) - jnp.pi
    cost = wrapped**2 + 0.1 * state.angular_velocity**2 + 0.001 * torque**2
    acceleration = 1.5 * GRAVITY / LENGTH * jnp.sin(state.angle) + 3.0 / (MASS * LENGTH**2) * torque
    velocity = jnp.clip(state.angular_velocity + TIME_STEP * acceleration, -MAX_SPEED, MAX_SPEED)
    state = State(angle=state.angle + TIME_STEP * velocity, angular_velocity=velocity)
    return state, observe(state), -cost / MAX_COST, jnp.zeros((), bool)


PENDULUM = PureSimulator(
    name="diffjax/Pendulum",
    version="diffjax pendulum 1",
    horizon=200,
    observation_dim=3,
    action_dim=1,
    reset=reset,
    observe=observe,
    step=step,
)
