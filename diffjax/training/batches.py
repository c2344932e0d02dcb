"""What a run sees of its data: which rows it samples, how rewards, actions and observations look, and minibatches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.observations import (
    ActionTransform,
    ObservationTransform,
    action_transform,
    observation_transform,
)
from diffjax.data.transitions import (
    MAX_ROWS,
    Transitions,
    has_trajectories,
    next_observations,
    only_observed,
    trajectory_rows,
)
from diffjax.errors import UserError
from diffjax.methods.base import Rows, View
from diffjax.types import Batch


class RunData(NamedTuple):
    """A run's part of the data and how it sees them; a leaf has the leading axis ``runs`` where runs are stacked.

    A run samples the entries ``offset .. offset + size - 1`` of ``Transitions.row`` and sees the reward
    ``reward_scale * reward + reward_shift``, actions clipped to ``+-action_clip`` and then transformed where there is a
    transform, and transformed observations.
    """

    offset: jax.Array
    size: jax.Array
    reward_scale: jax.Array
    reward_shift: jax.Array
    action_clip: jax.Array
    observation: ObservationTransform
    action: ActionTransform | None = None


class Recorded(NamedTuple):
    """Transitions as they were recorded, with the action that followed where that is wanted; any leading axes."""

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    terminal: jax.Array
    next_action: jax.Array | None = None


class Prepared(NamedTuple):
    """Data with the rows that a view can sample, and a run's part of them."""

    transitions: Transitions
    part: RunData


def prepare(
    transitions: Transitions,
    view: View,
    observation: str = "",
    reward: tuple[float, float] = (1.0, 0.0),
    action_clip: float = float("inf"),
    episodes: np.ndarray | None = None,
) -> Prepared:
    """The data as a view with sizes samples them, whole.

    Args:
      observation: another transform than the view's own.
      reward: scale and shift.
      episodes: first row of each recorded trajectory and the one past its last; None: all there are. A padded view
        takes no others, so that an unfinished tail, whose end nobody knows, is left out.

    Raises:
      UserError: the data cannot give what the view asks for.
    """
    usable, seen = usable_rows(transitions, view, episodes), np.asarray(transitions.row)
    if view.padded:
        seen = np.concatenate([np.arange(*bounds) for bounds in _whole_trajectories(transitions, episodes)])
    part = RunData(
        offset=jnp.int32(0),
        size=jnp.int32(usable.size),
        reward_scale=jnp.float32(reward[0]),
        reward_shift=jnp.float32(reward[1]),
        action_clip=jnp.float32(action_clip),
        observation=jax.tree.map(
            jnp.asarray, observation_transform(observation or view.observation, transitions, seen)
        ),
        action=jax.tree.map(jnp.asarray, action_transform(view.action, transitions, seen, action_clip)),
    )
    return Prepared(transitions._replace(row=usable), part)


def join_data(prepared: Sequence[Prepared]) -> tuple[Transitions, tuple[RunData, ...]]:
    """Several data sets one after the other, those that are the same arrays once, and the part of each.

    Raises:
      UserError: together they are too large for the numbers of rows.
    """
    first_rows: dict[tuple[int, int], tuple[int, int]] = {}
    held: list[Transitions] = []
    parts = []
    rows, entries = 0, 0
    for transitions, part in prepared:
        same = id(transitions.observation), id(transitions.action)
        if same not in first_rows:
            first_rows[same] = rows, entries
            held.append(transitions._replace(row=np.asarray(transitions.row) + np.int64(rows)))
            rows, entries = rows + len(transitions.reward), entries + transitions.row.size
        parts.append(part._replace(offset=part.offset + jnp.int32(first_rows[same][1])))
    if rows > MAX_ROWS:
        raise UserError(f"the data sets of one program have {rows} rows together; at most {MAX_ROWS} are supported")
    if len(held) == 1:
        return prepared[0].transitions, tuple(parts)
    joined = jax.tree.map(lambda *arrays: np.concatenate([np.asarray(array) for array in arrays]), *held)
    return joined._replace(row=joined.row.astype(np.int32)), tuple(parts)


def usable_rows(transitions: Transitions, view: View, episodes: np.ndarray | None = None) -> np.ndarray:
    """The entries of ``row`` that a view with sizes can sample, in order, int32.

    Where the next observation is not read, the row at which a time limit cut a trajectory follows the transition before
    it, unless it only holds a last observation. A window is ``horizon`` transitions in a row of one trajectory. With
    padding one may begin at every row of a trajectory of ``length`` but those from
    ``min(length - 1, max(length, padded) - horizon)`` on (Diffuser, datasets/sequence.py, where none is longer than the
    padding). A next action is that of the next row; it is wanted of every transition whose next value counts, so the
    last one before a time limit is left out.

    Raises:
      UserError: none is left, or the data do not know what comes after a row.
    """
    row, end = np.asarray(transitions.row), np.asarray(transitions.end)
    horizon, padded = int(view.horizon), int(view.padded)
    reads_rewards = view.return_to_go or not view.next_observation  # of a whole trajectory
    needs_order = horizon > 1 or view.next_action or reads_rewards
    if needs_order and not has_trajectories(transitions):
        raise UserError(
            "this method reads what comes after a transition (windows, next actions or returns), and the data hold "
            "transitions in no order; use data in the order in which they were recorded"
        )
    if not view.next_observation:
        begins = np.zeros(len(end), bool)
        begins[row] = True
        follows = np.append(False, (begins & ~end)[:-1])
        row = np.flatnonzero(begins | (end & follows & ~only_observed(transitions)))
    if view.next_action:
        row = row[~_ends_in_nothing(transitions)[row]]
        if row.size == 0:
            raise UserError("no transition is followed by another action; this method needs the data's next action")
    if padded:
        bounds = _whole_trajectories(transitions, episodes)
        length = bounds[:, 1] - bounds[:, 0]
        count = np.minimum(length - 1, np.maximum(length, padded) - horizon)
        starts = [first + np.arange(number) for first, number in zip(bounds[:, 0], count, strict=True)]
        row = row[np.isin(row, np.concatenate([np.zeros(0, np.int64), *starts]))]
        if row.size == 0:
            raise UserError(
                f"this method learns from windows of {horizon} steps of trajectories that are filled up to {padded}, "
                f"and the longest has {length.max(initial=0)}; use longer ones, or a smaller horizon"
            )
    elif horizon > 1 and row.size:
        begins = np.zeros(len(end) + 1, bool)
        begins[row] = True
        stops = np.flatnonzero(begins[:-1] & (end | ~begins[1:]))
        left = stops[np.searchsorted(stops, row)] - row + 1  # transitions of the trajectory from here on
        if left.max() < horizon:
            raise UserError(
                f"this method learns from windows of {horizon} steps, and the longest trajectory has {left.max()} "
                "transitions; use longer trajectories, or a variant of the method with a smaller View.horizon"
            )
        row = row[left >= horizon]
    return row.astype(np.int32)


def _whole_trajectories(transitions: Transitions, episodes: np.ndarray | None) -> np.ndarray:
    """The rows of trajectories that hold an action, first and past the last ``(trajectories, 2)``; of those sampled."""
    bounds = trajectory_rows(np.asarray(transitions.end)) if episodes is None else np.asarray(episodes)
    begins = np.zeros(len(transitions.reward) + 1, np.int64)
    begins[np.asarray(transitions.row) + 1] = 1
    so_far = np.cumsum(begins)
    bounds = bounds[so_far[bounds[:, 1]] > so_far[bounds[:, 0]]]
    return np.stack([bounds[:, 0], bounds[:, 1] - only_observed(transitions)[bounds[:, 1] - 1]], axis=1)


def _ends_in_nothing(transitions: Transitions) -> np.ndarray:
    """Which rows are followed by no action of their trajectory though its value counts, ``(rows,)`` bool.

    Those that end one without a terminal, and those before a row that only holds a last observation.
    """
    before_empty = np.append(only_observed(transitions)[1:], False)
    return (np.asarray(transitions.end) | before_empty) & ~np.asarray(transitions.terminal)


def gather(
    data: Transitions,
    part: RunData,
    row: jax.Array,
    view: View,
    returns: jax.Array | None = None,
    labels: Any = None,
) -> Batch:
    """The transitions that begin at some rows, as a run sees them; the leading axes are those of ``row``."""
    inside, next_inside = _inside(data, row) if view.padded else (None, None)
    recorded = Recorded(
        _filled(data.observation[row], inside),
        _filled(data.action[row], inside),
        data.reward[row],
        _filled(jnp.asarray(next_observations(data, row)), next_inside),
        data.terminal[row],
        _filled(data.action[row + 1], next_inside) if view.next_action else None,
    )
    batch = seen(recorded, part)
    return batch._replace(
        reward=_filled(batch.reward, inside),
        not_done=_filled(batch.not_done, inside),
        return_to_go=None if returns is None else _filled(returns[row], inside),
        labels=jax.tree.map(lambda leaf: _filled(leaf[row], inside), labels),
    )


def seen(recorded: Recorded, part: RunData) -> Batch:
    """Transitions as a run sees them, whatever their leading axes."""

    def seen_action(action: jax.Array) -> jax.Array:
        clipped = jnp.clip(action, -part.action_clip, part.action_clip)
        return clipped if part.action is None else part.action(clipped)

    return Batch(
        observation=part.observation(recorded.observation),
        action=seen_action(recorded.action),
        reward=part.reward_scale * recorded.reward + part.reward_shift,
        next_observation=part.observation(recorded.next_observation),
        not_done=1.0 - recorded.terminal.astype(jnp.float32),
        next_action=None if recorded.next_action is None else seen_action(recorded.next_action),
    )


def _inside(data: Transitions, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether rows of windows ``(..., horizon)``, and the rows after them, are of the trajectory of the first one."""
    ends = jnp.cumsum(jnp.asarray(data.end)[row].astype(jnp.int32), axis=-1)
    return jnp.roll(ends, 1, axis=-1).at[..., 0].set(0) == 0, ends == 0


def _filled(values: jax.Array, inside: jax.Array | None) -> jax.Array:
    """``values (*inside.shape, ...)`` with zeros outside a trajectory."""
    if inside is None:
        return values
    return jnp.where(inside.reshape(inside.shape + (1,) * (values.ndim - inside.ndim)), values, 0)


def gather_batch(
    data: Transitions,
    part: RunData,
    position: jax.Array,
    view: View = View(),  # noqa: B008  a constant
    returns: jax.Array | None = None,
    labels: Any = None,
) -> Batch:
    """The minibatch of one run at its own positions ``(batch,)``; with a horizon ``(batch, horizon)`` rows."""
    row, horizon = data.row[part.offset + position], int(view.horizon)
    if horizon > 1:
        row = row[:, None] + jnp.arange(horizon)
    return gather(data, part, row, view, returns, labels)


def whole_data(data: Transitions, part: RunData, labels: Any = None) -> Batch:
    """All rows of the data as one batch, in order; one that begins no transition holds what stands there."""
    return gather(data, part, jnp.arange(data.reward.shape[0]), View(), labels=labels)


def all_rows(data: Transitions, part: RunData) -> Rows:
    """What the rows of the data are to a run."""
    entry = jnp.arange(data.row.shape[0])
    own = (entry >= part.offset) & (entry < part.offset + part.size)
    end = jnp.asarray(data.end)
    return Rows(end, jnp.zeros(end.shape, bool).at[data.row].max(own))
