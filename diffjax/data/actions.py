"""Actions within [-1, 1], as every method learns them: as recorded, clipped, or scaled from their own units."""

from dataclasses import replace

import numpy as np

from diffjax.data.transitions import Dataset, check_action_range, fingerprint, only_observed
from diffjax.errors import UserError, unknown_name
from diffjax.types import ACTIONS, ActionBounds

_NEARLY = 1e-4  # of a half range: by how much data may exceed the environment's bounds, in rounding


def fit_actions(dataset: Dataset, how: str, bounds: ActionBounds | None = None) -> Dataset:
    """The data set with actions within [-1, 1].

    Empty: as recorded, and refused where they are larger. ``clip``: what is larger is cut. ``scale``: ``bounds``, or
    where there are none the smallest and largest action of the data, become -1 and 1 per dimension; a dimension that
    never changes becomes 0. What scaling undoes is the data set's ``action_bounds``.

    Raises:
      UserError: an action is out of range, or beyond the environment's bounds.
    """
    if how not in ACTIONS:
        raise unknown_name("way of actions:", how, ACTIONS[1:])
    if not how:
        check_action_range(dataset.source, dataset.largest_action, dataset.largest_at)
        return dataset
    transitions = dataset.transitions
    action, is_real = np.array(transitions.action), ~only_observed(transitions)
    if how == "clip":
        cut = (np.abs(action) > 1).any(axis=1)
        note = f"actions clipped to [-1, 1] in {int(cut.sum()):,} of {len(action):,} rows"
        return _with(dataset, np.clip(action, -1, 1), None, note)
    seen = ActionBounds(*(tuple(edge(action[is_real], axis=0).tolist()) for edge in (np.min, np.max)))
    chosen = seen if bounds is None else bounds
    low, high = np.array(chosen.low, np.float32), np.array(chosen.high, np.float32)
    half = np.where(high > low, (high - low) / 2, 1).astype(np.float32)
    scaled = (action - (low + high) / 2) / half
    if (largest := np.abs(scaled[is_real]).max()) > 1 + _NEARLY:
        raise UserError(
            f"{dataset.source}: actions lie between {min(seen.low):.6g} and {max(seen.high):.6g}, beyond the "
            f"environment's bounds ({min(chosen.low):.6g} to {max(chosen.high):.6g}) by {largest - 1:.3g} half ranges; "
            "--actions=clip cuts them"
        )
    scaled = np.where(is_real[:, None], np.clip(scaled, -1, 1), 0)
    whose = "the data's" if bounds is None else "the environment's"
    note = f"actions scaled to [-1, 1] from {whose} bounds, {_text(chosen.low)} to {_text(chosen.high)}"
    return _with(dataset, scaled, chosen, note)


def _with(dataset: Dataset, action: np.ndarray, bounds: ActionBounds | None, note: str) -> Dataset:
    transitions = dataset.transitions._replace(action=action.astype(np.float32))
    return replace(
        dataset,
        transitions=transitions,
        fingerprint=fingerprint(transitions),
        action_bounds=bounds,
        notes=(*dataset.notes, note),
    )


def _text(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
