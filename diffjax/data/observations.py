"""How a run sees its observations: an affine map per dimension, made from the data that it learns from."""

from typing import NamedTuple

import jax
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


def observation_transform(name: str, transitions: Transitions) -> ObservationTransform:
    """The transform of that name, made from the observations that begin a transition.

    ``raw``: as recorded. ``standardized``: mean 0 and deviation 1 (population deviation plus 1e-3; TD3+BC, utils.py).
    ``limits``: the smallest and the largest value of each dimension become -1 and 1, a constant one 0 (Diffuser).
    Statistics are computed in float64.

    Raises:
      UserError: the name is unknown.
    """
    if name not in OBSERVATIONS:
        raise unknown_name("observation transform", name, OBSERVATIONS)
    dim = transitions.observation.shape[1]
    if name == "raw":
        return ObservationTransform(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    observation = np.asarray(transitions.observation)[np.asarray(transitions.row)]
    if name == "standardized":
        center = observation.mean(axis=0, dtype=np.float64)
        scale = observation.std(axis=0, dtype=np.float64) + STANDARD_EPSILON
    else:
        low, high = observation.min(axis=0).astype(np.float64), observation.max(axis=0).astype(np.float64)
        center, scale = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    return ObservationTransform(center.astype(np.float32), scale.astype(np.float32))
