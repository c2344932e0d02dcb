"""A simulator whose actions have units of their own, behind actions within [-1, 1]."""

from typing import Any

import numpy as np

from diffjax.envs.base import VectorSimulator
from diffjax.types import ActionBounds


class ScaledActions:
    """A simulator that gets ``center + half range * action``; all else is as it is."""

    def __init__(self, simulator: VectorSimulator, bounds: ActionBounds) -> None:
        self._simulator, self._bounds = simulator, bounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._simulator, name)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Apply ``action`` within [-1, 1]; see the protocol."""
        return self._simulator.step(self._bounds.in_units(action))


def with_bounds(simulator: VectorSimulator, bounds: ActionBounds | None) -> VectorSimulator:
    """The simulator behind actions within [-1, 1]; as it is without bounds."""
    return simulator if bounds is None else ScaledActions(simulator, bounds)  # type: ignore[return-value]
