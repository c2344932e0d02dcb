"""The shapes that everything else agrees on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

OBSERVATIONS = ("raw", "standardized", "limits")
"""How a run sees its observations: as recorded, with mean 0 and deviation 1, or within ``[-1, 1]``."""


class Spec(NamedTuple):
    """Sizes of a task; static everywhere."""

    observation_dim: int
    action_dim: int

    def example(self) -> tuple[jax.Array, jax.Array]:
        """An observation and an action of zeros, from which networks learn their sizes."""
        return jnp.zeros(self.observation_dim), jnp.zeros(self.action_dim)


class Batch(NamedTuple):
    """A minibatch of transitions, leading axis ``batch``, or of windows, leading axes ``(batch, horizon)``; float32.

    ``not_done = 1 - terminal``, where a time limit is not a terminal. The last three are there where a method's view
    asks for them: the data's own next action, the discounted sum of the rewards from this step to the end of its
    recorded trajectory, and the labels that the method computed from its own state.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    not_done: jax.Array
    next_action: jax.Array | None = None
    return_to_go: jax.Array | None = None
    labels: Any = None
