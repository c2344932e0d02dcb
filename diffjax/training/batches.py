"""What a run sees of its data: which rows it samples, how rewards, actions and observations look, and minibatches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.observations import ObservationTransform, observation_transform
from diffjax.data.transitions import MAX_ROWS, Transitions, has_trajectories, next_observations, only_observed
from diffjax.errors import UserError
from diffjax.methods.base import View
from diffjax.types import Batch


class RunData(NamedTuple):
    """A run's part of the data and how it sees them; a leaf has the leading axis ``runs`` where runs are stacked.

    A run samples the entries ``offset .. offset + size - 1`` of ``Transitions.row`` and sees the reward
    ``reward_scale * reward + reward_shift``, actions clipped to ``+-action_clip``, and transformed observations.
    """

    offset: jax.Array
    size: jax.Array
    reward_scale: jax.Array
    reward_shift: jax.Array
    action_clip: jax.Array
    observation: ObservationTransform


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
) -> Prepared:
    """The data as a view samples them, whole.

    Args:
      observation: another transform than the view's own.
      reward: scale and shift.

    Raises:
      UserError: the data cannot give what the view asks for.
    """
    part = RunData(
        offset=jnp.int32(0),
        size=jnp.int32(0),
        reward_scale=jnp.float32(reward[0]),
        reward_shift=jnp.float32(reward[1]),
        action_clip=jnp.float32(action_clip),
        observation=jax.tree.map(jnp.asarray, observation_transform(observation or view.observation, transitions)),
    )
    usable = transitions._replace(row=usable_rows(transitions, view))
    return Prepared(usable, part._replace(size=jnp.int32(usable.row.size)))


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


def usable_rows(transitions: Transitions, view: View) -> np.ndarray:
    """The entries of ``row`` that a view can sample, in order, int32.

    A window is ``horizon`` transitions in a row of one trajectory. A next action is that of the next row; it is wanted
    of every transition whose next value counts, so the last one before a time limit is left out.

    Raises:
      UserError: none is left, or the data do not know what comes after a row.
    """
    row, end = np.asarray(transitions.row), np.asarray(transitions.end)
    needs_order = view.horizon > 1 or view.next_action or view.return_to_go
    if needs_order and not has_trajectories(transitions):
        raise UserError(
            "this method reads what comes after a transition (windows, next actions or returns), and the data hold "
            "transitions in no order; use data in the order in which they were recorded"
        )
    if view.next_action:
        row = row[~_ends_in_nothing(transitions)[row]]
        if row.size == 0:
            raise UserError("no transition is followed by another action; this method needs the data's next action")
    if view.horizon > 1 and row.size:
        begins = np.zeros(len(end) + 1, bool)
        begins[row] = True
        stops = np.flatnonzero(begins[:-1] & (end | ~begins[1:]))
        left = stops[np.searchsorted(stops, row)] - row + 1  # transitions of the trajectory from here on
        if left.max() < view.horizon:
            raise UserError(
                f"this method learns from windows of {view.horizon} steps, and the longest trajectory has {left.max()} "
                "transitions; use longer trajectories, or a variant of the method with a smaller View.horizon"
            )
        row = row[left >= view.horizon]
    return row.astype(np.int32)


def _ends_in_nothing(transitions: Transitions) -> np.ndarray:
    """Which rows are followed by no action of their trajectory though its value counts, ``(rows,)`` bool.

    Those that end one without a terminal, and those before a row that only holds a last observation.
    """
    before_empty = np.append(only_observed(transitions)[1:], False)
    return (np.asarray(transitions.end) | before_empty) & ~np.asarray(transitions.terminal)


def return_to_go(reward: jax.Array, end: jax.Array, discount: jax.Array | float) -> jax.Array:
    """``R_i = reward_i + discount R_{i+1}`` within each trajectory, ``(rows,)``; ``end`` marks the last row of one."""

    def after(later: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return row[0] * later[0], row[1] + row[0] * later[1]

    factor = jnp.where(end, 0.0, discount).astype(reward.dtype)
    return jax.lax.associative_scan(after, (factor, reward), reverse=True)[1]


def gather(
    data: Transitions,
    part: RunData,
    row: jax.Array,
    view: View,
    returns: jax.Array | None = None,
    labels: Any = None,
) -> Batch:
    """The transitions that begin at some rows, as a run sees them; the leading axes are those of ``row``."""
    recorded = Recorded(
        data.observation[row],
        data.action[row],
        data.reward[row],
        jnp.asarray(next_observations(data, row)),
        data.terminal[row],
        data.action[row + 1] if view.next_action else None,
    )
    return seen(recorded, part)._replace(
        return_to_go=None if returns is None else returns[row],
        labels=jax.tree.map(lambda leaf: leaf[row], labels),
    )


def seen(recorded: Recorded, part: RunData) -> Batch:
    """Transitions as a run sees them, whatever their leading axes."""
    clip = part.action_clip
    following = recorded.next_action
    return Batch(
        observation=part.observation(recorded.observation),
        action=jnp.clip(recorded.action, -clip, clip),
        reward=part.reward_scale * recorded.reward + part.reward_shift,
        next_observation=part.observation(recorded.next_observation),
        not_done=1.0 - recorded.terminal.astype(jnp.float32),
        next_action=None if following is None else jnp.clip(following, -clip, clip),
    )


def gather_batch(
    data: Transitions,
    part: RunData,
    position: jax.Array,
    view: View = View(),  # noqa: B008  a constant
    returns: jax.Array | None = None,
    labels: Any = None,
) -> Batch:
    """The minibatch of one run at its own positions ``(batch,)``; with a horizon ``(batch, horizon)`` rows."""
    row = data.row[part.offset + position]
    if view.horizon > 1:
        row = row[:, None] + jnp.arange(view.horizon)
    return gather(data, part, row, view, returns, labels)


def whole_data(data: Transitions, part: RunData) -> Batch:
    """All rows of the data as one batch, in order; one that begins no transition holds what stands there."""
    return gather(data, part, jnp.arange(data.reward.shape[0]), View())
