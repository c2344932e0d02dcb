"""What a loaded data set holds, in one line, and what of it is implausible, a line each.

A jump is judged by the usual step: the median, over a sample of transitions, of the step's length and of its size in
each dimension. The thresholds lie between what robots do within an episode and what a reset does: in 1.5 million
transitions of hopper, halfcheetah, walker2d, pen and door no step within an episode was 13 times the usual one by both
measures, and none that was longer than the usual one led to within 0.03 of it of the first observation, while most
resets of hopper and walker2d did.
"""

from collections.abc import Iterator

import numpy as np

from diffjax.data.transitions import CHECK_ROWS, Dataset, Transitions, has_trajectories, next_observations

JUMP = 25.0  # times the usual step, in length and in the median dimension
HOME = 0.03  # usual steps from the first observation: where only a reset leads in one long step
HOME_DIMS = 8  # from how many dimensions on that is no coincidence
_SAMPLE = 20_000
_UNRELATED = 0.9  # of the distance to a random row's observation
_MOST = 0.5
_MANY_ZERO_ROWS = 2
_HALF, _LONG = 0.25, 10  # about half of the episodes; rows of an episode that is no accident


def summary(dataset: Dataset) -> str:
    """Transitions, episodes, returns, ends and rewards of a data set, and what its reader decided, in one line."""
    data = dataset.transitions
    reward, terminal = np.asarray(data.reward)[data.row], np.asarray(data.terminal)
    parts = [f"{data.row.size:,} transitions"]
    if has_trajectories(data):
        returns, first, last = dataset.episode_returns, dataset.episode_rows[:, 0], dataset.episode_rows[:, 1] - 1
        limits = int((~(terminal[last] | terminal[np.maximum(last - 1, first)])).sum())
        parts += [
            f"{len(returns):,} episodes",
            f"returns {returns.mean():.5g} (min {returns.min():.5g}, max {returns.max():.5g})",
            f"{int(terminal.sum()):,} terminals",
            f"{limits:,} time limits" if np.asarray(data.end)[:-1].any() else "no end before the last row",
        ]
    else:
        parts += [f"{int(terminal[data.row].sum()):,} terminals"]
    parts += [f"rewards {reward.min():.5g} to {reward.max():.5g}", *dataset.notes]
    return f"{dataset.source}: {dataset.label!r}, {'; '.join(parts)}"


def implausible(dataset: Dataset, horizon: int | None = None) -> Iterator[str]:
    """What of a data set can hardly be meant, a line each; ``horizon`` is the largest number of steps per episode."""
    data, source = dataset.transitions, dataset.source
    if has_trajectories(data):
        yield from (f"{source}: {text}" for text in _endings(data, horizon))
    row, terminal = np.asarray(data.row), np.asarray(data.terminal)
    if (terminal[row] & ~np.asarray(data.end)[row]).sum() > _MOST * row.size:
        yield f"{source}: most transitions are terminal though their trajectory goes on; 'masks' is 0 on terminal rows"
    if (zeros := _zero_transitions(data)) >= _MANY_ZERO_ROWS:
        yield f"{source}: {zeros} transitions are zero in observation, action and reward, as rows never filled in are"
    if not has_trajectories(data) and not _follow(data):
        yield (
            f"{source}: 'next_observations' lie as far from 'observations' as those of other rows do; each must be "
            "the observation one step later"
        )


def unmarked_jumps(transitions: Transitions) -> np.ndarray:
    """Rows ``(n,)`` in time order after which the observation jumps as in a reset although nothing marks an end."""
    observation = np.asarray(transitions.observation)
    row = np.asarray(transitions.row)
    row = row[~np.asarray(transitions.terminal)[row]]
    sample = row[:: max(1, len(row) // _SAMPLE)]
    step = np.abs(observation[sample + 1] - observation[sample])
    length = np.linalg.norm(step, axis=1)
    moves = step.max(axis=0, initial=0) > 0
    if not moves.any():
        return row[:0]
    usual_length = np.median(length[length > 0])
    usual = np.array([np.median(column[column > 0]) for column in step[:, moves].T])
    found = [row[:0]]
    for begin in range(0, len(row), CHECK_ROWS):
        part = row[begin : begin + CHECK_ROWS]
        ratio = np.linalg.norm(observation[part + 1] - observation[part], axis=1) / usual_length
        least = np.where(_is_home(observation, part + 1, usual_length), 1, JUMP)
        is_long = ratio > least
        part, least = part[is_long], least[is_long]
        typical = np.median(np.abs(observation[part + 1] - observation[part])[:, moves] / usual, axis=1)
        found.append(part[typical > least])
    jumps = np.concatenate(found)
    # One way home alone may be the way to the file's own first row.
    return (
        jumps if len(jumps) > 1 or not len(jumps) or not _is_home(observation, jumps + 1, usual_length)[0] else row[:0]
    )


def _is_home(observation: np.ndarray, row: np.ndarray, usual_length: float) -> np.ndarray:
    if observation.shape[1] < HOME_DIMS:
        return np.zeros(len(row), bool)
    return np.linalg.norm(observation[row] - observation[0], axis=1) < HOME * usual_length


def _endings(data: Transitions, horizon: int | None) -> Iterator[str]:
    end = np.asarray(data.end)
    jumps = unmarked_jumps(data)
    is_late = end[jumps + 1] & (jumps + 2 < len(end))  # the last row is an end, marked or not
    if is_late.any():
        yield (
            f"{int(is_late.sum())} marked ends stand on an episode's first row (the observation jumps before them, "
            f"first after row {jumps[is_late][0]}), not on its last: shift the flags by one, numpy.roll(flags, -1)"
        )
    if not is_late.all():
        jumps = jumps[~is_late]
        yield (
            f"the observation jumps as in a reset at {len(jumps)} rows, first after row {jumps[0]}, where nothing "
            "marks an end; mark the row before each reset in 'timeouts'"
        )
    last = np.flatnonzero(end)
    first = np.concatenate([[0], last[:-1] + 1])
    rows = last - first + 1
    single = (rows == 1).mean()
    if abs(single - 0.5) < _HALF and np.median(rows[rows > 1]) >= _LONG:
        yield (
            f"{int((rows == 1).sum())} of {len(rows)} episodes are single rows; a flag on an episode's first row "
            "instead of its last does that: numpy.roll(flags, -1) shifts flags by one"
        )
    begins = np.zeros(len(end), np.int64)
    begins[data.row] = 1
    steps = np.add.reduceat(begins, first)
    ended = np.asarray(data.terminal)[last]
    if horizon is not None and (at_limit := int((ended & (rows == horizon)).sum())) > max(1, _MOST * ended.sum()):
        yield (
            f"{at_limit} episodes end as terminal after exactly {horizon} steps, the task's horizon; if these are time "
            "limits, store them in 'timeouts' and not in 'terminals'"
        )
    # Data may be recorded under a longer limit (D4RL's Maze2D); then most episodes are longer.
    if horizon is not None and steps.max() > horizon and (len(steps) == 1 or np.median(steps) <= horizon):
        yield (
            f"an episode has {steps.max()} steps, more than the task's horizon of {horizon}; mark its time limits in "
            "'timeouts'"
        )


def _zero_transitions(data: Transitions) -> int:
    row = np.asarray(data.row)
    row = row[np.asarray(data.reward)[row] == 0]
    row = row[~np.asarray(data.action)[row].any(axis=1)]
    return int((~np.asarray(data.observation)[row].any(axis=1)).sum())


def _follow(data: Transitions) -> bool:
    row = np.asarray(data.row)
    sample = row[:: max(1, len(row) // _SAMPLE)]
    observation, following = np.asarray(data.observation)[sample], np.asarray(next_observations(data, sample))
    other = np.roll(observation, len(sample) // 2, axis=0)
    step, distance = (np.median(np.linalg.norm(following - one, axis=1)) for one in (observation, other))
    return bool(step <= _UNRELATED * distance)
