"""The two shapes that everything else agrees on."""

from typing import NamedTuple

import jax


class Spec(NamedTuple):
    """Sizes of a task; static everywhere."""

    observation_dim: int
    action_dim: int


class Batch(NamedTuple):
    """A minibatch of transitions, leading axis ``batch``; float32.

    ``not_done = 1 - terminal``, where a time limit is not a terminal.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    not_done: jax.Array
