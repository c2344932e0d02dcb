"""Runs that do not fit on the devices all at once: parts of them take turns, the others wait in host memory."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.methods.base import Metrics
from diffjax.training.program import Program, RunSetup, TrainState, join_runs


class Turns(NamedTuple):
    """A program that holds ``at_once`` runs on the devices, used for more of them; takes its place in training.

    Every part is as long as the first, padded with copies of its last run, so that one compiled program serves all. To
    whoever evaluates, records or resumes, all runs stand at one step.
    """

    program: Program
    at_once: int

    def place(self, tree: Any) -> Any:
        """Arrays with the run axis stay in host memory."""
        return tree

    def from_host(self, tree: Any) -> Any:
        """Arrays with the run axis that come from elsewhere; they stay in host memory too."""
        return tree

    def replicate(self, tree: Any) -> Any:
        """Arrays that every device needs whole."""
        return self.program.replicate(tree)

    def init(self, setup: RunSetup, data: Transitions) -> TrainState:
        """As :meth:`Program.init`, of arrays of NumPy."""
        return join_runs([part.on_host(self.program.init(part.of(setup), data)) for part in self._parts(setup)])

    def advance(
        self, phase: int, state: TrainState, start: int, stop: int, setup: RunSetup, data: Transitions
    ) -> tuple[TrainState, Metrics]:
        """As :meth:`Program.advance`, one part after the other."""
        found = []
        for part in self._parts(setup):
            own = self.program.place(part.of(state))
            found.append(
                part.on_host(self.program.advance(phase, own, start, stop, self.program.place(part.of(setup)), data))
            )
        return join_runs(found)

    def _parts(self, setup: RunSetup) -> "Iterator[_Part]":
        runs = setup.data.offset.shape[0]
        for first in range(0, runs, self.at_once):
            yield _Part(first, min(first + self.at_once, runs), self.at_once)


class _Part(NamedTuple):
    first: int
    last: int
    size: int  # of the program

    def of(self, tree: Any) -> Any:
        """These runs of a tree with the run axis of all, on the device."""

        def padded(leaf: Any) -> jax.Array:
            own = jnp.asarray(leaf[self.first : self.last])
            missing = self.size - own.shape[0]
            return jnp.concatenate([own, *[own[-1:]] * missing]) if missing else own

        return jax.tree.map(padded, tree)

    def on_host(self, tree: Any) -> Any:
        """A tree with the run axis of this part as arrays of NumPy, without padding."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: self.last - self.first], tree)
