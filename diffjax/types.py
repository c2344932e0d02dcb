"""The shapes that everything else agrees on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import jax

OBSERVATIONS = ("raw", "standardized", "limits", "gaussian")
"""How a run sees its observations, and its actions: as recorded, with mean 0 and deviation 1 (``gaussian``: to the
last digit, where ``standardized`` adds a small number), or within ``[-1, 1]``."""


ACTIONS = ("", "clip", "scale")
"""How a run learns its data's actions: as recorded, cut to ``[-1, 1]``, or scaled to it from their own units."""


SAMPLINGS = ("uniform", "shuffled")
"""How the rows of minibatches are chosen: with replacement, or by shuffled passes without."""


class ActionBounds(NamedTuple):
    """The smallest and the largest action in its own units, per dimension, that a run calls -1 and 1."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def in_units(self, action: Any) -> Any:
        """``(low + high) / 2 + (high - low) / 2 * action`` for actions within [-1, 1], ``(..., action_dim)``."""
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        return (low + high) / 2 + (high - low) / 2 * action


class Spec(NamedTuple):
    """Sizes of a task; static everywhere."""

    observation_dim: int
    action_dim: int

    def example(self) -> tuple[jax.Array, jax.Array]:
        """Zeros ``(observation_dim,)`` and ``(action_dim,)``, from which networks learn their sizes."""
        import jax.numpy as jnp

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
