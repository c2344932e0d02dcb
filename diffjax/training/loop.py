"""Training as a sequence of intervals: what stands at the end of each is the caller's to evaluate, record and keep."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.methods.base import Metrics
from diffjax.training.program import NEVER, RunSetup, TrainState, add_metrics, pieces
from diffjax.training.progress import Progress

PIECES = 20  # calls of the program per interval: progress is shown and Ctrl-C heard between them


class Advances(Protocol):
    """What trains runs: a program, or turns of one."""

    def advance(
        self, phase: int, state: TrainState, start: int, stop: int, setup: RunSetup, data: Transitions
    ) -> tuple[TrainState, Metrics]:
        """Steps ``start .. stop - 1`` of a phase; the old state is consumed."""


class Position(NamedTuple):
    """How far training has come: ``step`` updates of a phase, all phases before it whole."""

    phase: int = 0
    step: int = 0


class Partial(NamedTuple):
    """How far an interval has come that was begun and not ended, with the sums of its metrics."""

    step: int
    sums: Metrics


class Interval(NamedTuple):
    """What some updates of one phase left behind."""

    phase: int
    start: int  # updates of the phase before it
    stop: int  # and after it
    step: int  # how far it has come; less than ``stop`` only of one that ended early
    is_main: bool  # of the phase in which runs are evaluated
    is_last: bool  # nothing is to come
    state: TrainState
    sums: Metrics  # sums with weights, (runs,) each
    is_whole: bool = True

    @property
    def bad_steps(self) -> list[int]:
        """Of each run the first step of this interval with a non-finite number, or ``NEVER``."""
        return np.asarray(self.state.first_bad_step).tolist()


def updates_done(lengths: Sequence[int], position: Position) -> int:
    """Updates of all phases that stand at a position."""
    return sum(lengths[: position.phase]) + position.step


def bounds(lengths: Sequence[int], interval: int, position: Position = Position()) -> list[tuple[int, int, int]]:  # noqa: B008
    """``(phase, start, stop)`` of every interval still to come; the last of a phase may be shorter."""
    found = []
    for phase in range(position.phase, len(lengths)):
        start = position.step if phase == position.phase else 0
        stops = [*range(interval, lengths[phase], interval), lengths[phase]]
        edges = [start, *(stop for stop in stops if stop > start)]
        found += [(phase, first, last) for first, last in itertools.pairwise(edges)]
    return found


def intervals(
    program: Advances,
    state: TrainState,
    setup: RunSetup,
    data: Transitions,
    lengths: Sequence[int],
    interval: int,
    position: Position,
    progress: Progress,
    partial: Partial | None = None,
) -> Iterator[Interval]:
    """Trains on from a position, an interval at a time; a state that was given out is consumed by the next one.

    Where the progress wants to stop, the last one is not whole; with that ``partial`` it goes on to the same numbers.

    Args:
      lengths: updates of each phase; the last one is the main phase.
      interval: updates between evaluations.
    """
    for phase, start, stop in bounds(lengths, interval, position):
        is_main = phase == len(lengths) - 1
        is_last = is_main and stop == lengths[phase]
        if partial is None:
            state = state._replace(first_bad_step=jnp.full_like(state.first_bad_step, NEVER))
        sums = None if partial is None else partial.sums
        done = start if partial is None else partial.step
        partial = None
        for first, last in pieces(start, stop, PIECES):
            if first < done:
                continue
            state, piece = program.advance(phase, state, first, last, setup, data)
            sums = add_metrics(sums, piece)
            jax.block_until_ready(sums)
            progress.advance(last - first)
            if last < stop and progress.stop_status() is not None:
                yield Interval(phase, start, stop, last, is_main, is_last, state, sums, is_whole=False)
                return
        assert sums is not None
        yield Interval(phase, start, stop, stop, is_main, is_last, state, sums)
