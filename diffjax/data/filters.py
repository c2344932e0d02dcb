"""Parts of a data set, in whole episodes.

The arrays stay as they are and only the rows that begin a transition become fewer, so that every kept transition
keeps its own next observation.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diffjax.data.transitions import Dataset, fingerprint, has_trajectories
from diffjax.errors import UserError


def top_percent(dataset: Dataset, percent: float) -> Dataset:
    """The recorded trajectories with the largest returns, ``ceil(percent / 100 * episodes)`` of them.

    Of equal returns the earlier trajectory is kept. An unfinished tail is no trajectory and goes, unless ``percent``
    is 100, which changes nothing. The data of percentile behaviour cloning (Chen et al. 2021, section 5).

    Raises:
      UserError: ``percent`` is not in (0, 100], the rows are in no order, or what is kept holds no transition.
    """

    def best() -> np.ndarray:
        returns = dataset.episode_returns
        count = _part(percent, len(returns))
        return np.sort(np.argsort(-returns, kind="stable")[:count])

    return _filtered(dataset, percent, f"top {percent:g}%", best)


def first_percent(dataset: Dataset, percent: float) -> Dataset:
    """The first trajectories that together hold at least ``percent`` of all rows in trajectories.

    An unfinished tail goes, unless ``percent`` is 100, which changes nothing.

    Raises:
      UserError: ``percent`` is not in (0, 100], the rows are in no order, or what is kept holds no transition.
    """

    def leading() -> np.ndarray:
        rows = np.cumsum(dataset.episode_rows[:, 1] - dataset.episode_rows[:, 0])
        return np.arange(1 + int(np.searchsorted(rows, _part(percent, int(rows[-1])))))

    return _filtered(dataset, percent, f"first {percent:g}%", leading)


def keep_episodes(dataset: Dataset, episodes: np.ndarray, label: str) -> Dataset:
    """Only the recorded trajectories ``episodes (n,)``, ascending indices into `Dataset.episode_returns`.

    Raises:
      UserError: they hold no transition.
    """
    transitions = dataset.transitions
    kept_rows = dataset.episode_rows[episodes]
    kept = np.zeros(len(transitions.reward), bool)
    for begin, end in kept_rows:
        kept[begin:end] = True
    row = np.asarray(transitions.row)
    transitions = transitions._replace(row=row[kept[row]])
    if transitions.row.size == 0:
        raise UserError(f"{dataset.source}: {label} of it holds no transition; keep more")
    return replace(
        dataset,
        transitions=transitions,
        label=f"{dataset.label} {label}",
        fingerprint=fingerprint(transitions),
        episode_returns=dataset.episode_returns[episodes],
        episode_rows=kept_rows,
    )


def _filtered(dataset: Dataset, percent: float, label: str, choose: Callable[[], np.ndarray]) -> Dataset:
    if not 0 < percent <= 100:
        raise UserError(f"{percent:g} percent of {dataset.source} cannot be kept; more than 0 and at most 100 can")
    if percent < 100 and not has_trajectories(dataset.transitions):
        raise UserError(
            f"{dataset.source}: holds rows in no order, so its trajectories are unknown and {label} of them cannot be "
            "kept; use all of it"
        )
    return dataset if percent == 100 else keep_episodes(dataset, choose(), label)


def _part(percent: float, whole: int) -> int:
    return math.ceil(percent * whole / 100)
