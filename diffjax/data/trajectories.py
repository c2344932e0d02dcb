"""What authors' programs take for trajectories, where that is another thing than what was recorded.

Each rule keeps the arrays and says anew which rows begin a transition and which end a trajectory.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from diffjax.data.transitions import Transitions, has_trajectories, trajectory_rows
from diffjax.errors import UserError

SHORTEST = 5  # rows of an AntMaze trajectory that SfBC keeps
GOAL = 19.0  # both coordinates of places that SfBC takes for the goal of antmaze-medium-play-v2


def apply_rule(name: str, transitions: Transitions) -> Transitions:
    """The data as the rule called ``name`` sees them; as they are for an empty name.

    Raises:
      UserError: the rows are in no order.
    """
    if not name:
        return transitions
    if not has_trajectories(transitions):
        raise UserError(f"the rule {name!r} says what a trajectory is, and the data hold transitions in no order")
    return TRAJECTORY_RULES[name](transitions)


def sfbc_antmaze(transitions: Transitions) -> Transitions:
    """Trajectories of fewer than 5 rows go; one that a time limit ends loses its last row."""
    end, terminal = np.asarray(transitions.end).copy(), np.asarray(transitions.terminal)
    kept = np.ones(len(end), bool)
    for first, past in trajectory_rows(end):
        if past - first < SHORTEST:
            kept[first:past] = False
        elif not terminal[past - 1]:
            end[past - 2], kept[past - 1] = True, False
    row = np.asarray(transitions.row)
    return transitions._replace(end=end, row=row[kept[row]])


def sfbc_antmaze_medium_play(transitions: Transitions) -> Transitions:
    """:func:`sfbc_antmaze` without rewards and terminals at places that are not the goal: a defect of these data."""
    place = np.asarray(transitions.observation)[:, :2]
    is_goal = np.all(place > GOAL, axis=1)
    reward = np.where(is_goal, transitions.reward, 0.0).astype(np.float32)
    terminal, end = np.asarray(transitions.terminal), np.asarray(transitions.end)
    goes_on = terminal & ~is_goal & (np.arange(len(end)) < len(end) - 1)
    return sfbc_antmaze(transitions._replace(reward=reward, terminal=terminal & is_goal, end=end & ~goes_on))


def sfbc_maze2d(transitions: Transitions) -> Transitions:
    """All rows but the last are one trajectory."""
    rows = len(transitions.reward)
    end = np.zeros(rows, bool)
    end[-2:] = True
    return transitions._replace(end=end, row=np.arange(rows - 1, dtype=np.int32))


TRAJECTORY_RULES: Mapping[str, Callable[[Transitions], Transitions]] = MappingProxyType(
    {rule.__name__: rule for rule in (sfbc_antmaze, sfbc_antmaze_medium_play, sfbc_maze2d)}
)
