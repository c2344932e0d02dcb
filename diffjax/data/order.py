"""Whether the rows of a file follow one another, judged by the next observations that it stores.

Where row ``i + 1`` holds row ``i``'s next observation, nothing need be stored twice. Where it does not at some rows, a
trajectory ends there (``d4rl.qlearning_dataset`` drops the row at each time limit, so that a file made of its output
has such borders). Where it does nearly nowhere, the rows are in no order: a replay buffer.
"""

from typing import NamedTuple

import numpy as np

from diffjax.data.transitions import CHECK_ROWS, Transitions
from diffjax.errors import UserError

_NEARLY = 0.5  # of the rows that do not end a trajectory: from so many borders on the rows are in no order
_ROUNDINGS = 8  # by how many roundings of the coarser dtype two copies of one number may differ


class Borders(NamedTuple):
    """Rows in time order; at ``border (rows,)`` bool the next observation is not that of the following row."""

    border: np.ndarray


class Unordered(NamedTuple):
    """Rows in no order; ``is_usable (rows,)`` bool where the stored next observation holds something."""

    is_usable: np.ndarray


def judge_order(
    source: str, observation: np.ndarray, following: np.ndarray, end: np.ndarray, precision: float
) -> Borders | Unordered | None:
    """Compare ``following (rows, d)``, a file's next observations, with the rows after them.

    Rows of ``end (rows,)`` bool are not compared. ``precision`` is the relative rounding of the coarser dtype stored.
    None where they agree.

    Raises:
      UserError: the next observations are the observations themselves, or were never filled in.
    """
    border = ~_equal_rows(observation[1:], following[:-1], precision)
    border = np.append(border & ~end[:-1], False)
    compared = int((~end[:-1]).sum())
    if not border.any():
        return None
    if border.sum() < _NEARLY * compared:
        return Borders(border)
    filled = _filled(following)
    if filled.sum() <= _NEARLY * len(filled):
        raise UserError(
            f"{source}: 'next_observations' holds zeros or NaN at {int((~filled).sum())} of {len(filled)} rows; "
            "fill it in, or leave it out where the rows are in time order"
        )
    if _equal_rows(observation, following, precision).mean() > _NEARLY:
        raise UserError(
            f"{source}: 'next_observations' repeats 'observations' row by row; store the observation after the step, "
            "or leave it out where the rows are in time order"
        )
    return Unordered(filled)


def with_borders(transitions: Transitions, following: np.ndarray, border: np.ndarray) -> tuple[Transitions, np.ndarray]:
    """Rows in time order with a row more after each border, which holds the border's own next observation.

    So no second array is needed. Marked time limits and the file's last row, which begin no transition, are borders
    too. Where the stored next observation is empty (zeros, NaN), the row's own observation or the following row's, none
    is known: no row is added and no transition begins there.

    Returns the transitions, and the file's row of each of their rows.
    """
    observation, rows = np.asarray(transitions.observation), len(transitions.reward)
    begins = np.zeros(rows, bool)
    begins[transitions.row] = True
    end, terminal = np.asarray(transitions.end).copy(), np.asarray(transitions.terminal)
    is_known = _filled(following) & (following != observation).any(axis=1)
    is_known[:-1] &= (following[:-1] != observation[1:]).any(axis=1)
    added = np.flatnonzero((border | ~begins) & is_known)
    begins[border & ~terminal] = False
    begins[added] = True
    end[border] = True
    end[added] = False  # the row added is the trajectory's last
    at = added + 1
    widened = Transitions(
        observation=np.insert(observation, at, following[added], axis=0),
        action=np.insert(transitions.action, at, 0, axis=0),
        reward=np.insert(transitions.reward, at, 0),
        terminal=np.insert(terminal, at, False),
        end=np.insert(end, at, True),
        row=np.flatnonzero(np.insert(begins, at, False)).astype(np.int32),
    )
    return widened, np.insert(np.arange(rows), at, added)


def _equal_rows(first: np.ndarray, second: np.ndarray, precision: float) -> np.ndarray:
    equal = np.zeros(len(first), bool)
    for begin in range(0, len(first), CHECK_ROWS):
        one, other = first[begin : begin + CHECK_ROWS], second[begin : begin + CHECK_ROWS]
        with np.errstate(invalid="ignore", over="ignore"):
            bound = _ROUNDINGS * precision * (np.maximum(np.abs(one), np.abs(other)) + np.float32(1e-3))
            equal[begin : begin + CHECK_ROWS] = (np.abs(one - other) <= bound).all(axis=1)
    return equal


def _filled(following: np.ndarray) -> np.ndarray:
    return np.isfinite(following).all(axis=1) & (following != 0).any(axis=1)
