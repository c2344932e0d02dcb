"""How a run sees its observations and actions: affine maps per dimension, made from the data that it learns from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Array, Transitions
from diffjax.errors import unknown_name
from diffjax.types import OBSERVATIONS

STANDARD_EPSILON = 1e-3  # added to the deviation: a dimension that hardly varies is not blown up


class ObservationTransform(NamedTuple):
    """``(observation - center) / scale``, ``(observation_dim,)`` float32 each."""

    center: Array
    scale: Array

    def __call__(self, observation: jax.Array) -> jax.Array:
        """The observation as networks see it; any leading axes."""
        return (observation - self.center) / self.scale


class ActionTransform(NamedTuple):
    """``(action - center) / scale``, ``(action_dim,)`` float32 each, and back from within ``+-bound``."""

    center: Array
    scale: Array
    bound: Array

    def __call__(self, action: jax.Array) -> jax.Array:
        """The action as networks see it; any leading axes."""
        return (action - self.center) / self.scale

    def undo(self, action: jax.Array) -> jax.Array:
        """The action of networks as the data have it; any leading axes."""
        return jnp.clip(action, -self.bound, self.bound) * self.scale + self.center


def observation_transform(name: str, transitions: Transitions, rows: np.ndarray | None = None) -> ObservationTransform:
    """The transform of that name, made from the observations of some rows; None: those that begin a transition.

    ``raw``: as recorded. ``standardized``: mean 0 and deviation 1 (population deviation plus 1e-3; TD3+BC, utils.py).
    ``gaussian``: the same without the 1e-3, a constant dimension 0 (Diffuser, GaussianNormalizer). ``limits``: the
    smallest and the largest value of each dimension become -1 and 1, a constant one 0 (Diffuser, LimitsNormalizer).
    Statistics are computed in float64.

    Raises:
      UserError: the name is unknown.
    """
    rows = np.asarray(transitions.row) if rows is None else rows
    return ObservationTransform(*_center_and_scale(name, np.asarray(transitions.observation), rows))


def action_transform(name: str, transitions: Transitions, rows: np.ndarray, clip: float) -> ActionTransform | None:
    """The transform of that name, made from the actions of some rows cut to ``+-clip``; None for ``raw``.

    Names as in :func:`observation_transform`. What is undone is cut to the limits where there are any.
    """
    if name == "raw":
        return None
    center, scale = _center_and_scale(name, np.clip(np.asarray(transitions.action), -clip, clip), rows)
    return ActionTransform(center, scale, np.array(1.0 if name == "limits" else np.inf, np.float32))


def _center_and_scale(name: str, values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if name not in OBSERVATIONS:
        raise unknown_name("observation transform", name, OBSERVATIONS)
    dim = values.shape[1]
    if name == "raw":
        return np.zeros(dim, np.float32), np.ones(dim, np.float32)
    values = values[rows]
    if name == "limits":
        low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
        center, scale = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    else:
        center, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        scale = deviation + STANDARD_EPSILON if name == "standardized" else np.where(deviation > 0, deviation, 1.0)
    return center.astype(np.float32), scale.astype(np.float32)
