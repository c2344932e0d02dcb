"""Several data sets as one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffjax.data.transitions import Dataset, Transitions, check_rows, fingerprint, has_trajectories
from diffjax.errors import UserError


def join_datasets(datasets: Sequence[Dataset]) -> Dataset:
    """The data sets one after the other; no episode crosses a seam.

    No seam needs a mark: the last row of a data set begins no transition that reads the row after it. If one of them
    holds rows in no order, the whole stores every next observation and has no trajectories. Label, reference returns
    and environment are those that all share; otherwise the labels are joined by ``+`` and the rest is None. The
    fingerprint is that of the whole.

    Raises:
      UserError: the data sets differ in size or in their environment's name, or hold too many rows together.
    """
    first = datasets[0]
    source = "+".join(dataset.source for dataset in datasets)
    for dataset in datasets[1:]:
        if _sizes(dataset) != _sizes(first):
            raise UserError(
                f"{source}: observations and actions have sizes {_sizes(first)} in {first.source} and "
                f"{_sizes(dataset)} in {dataset.source}; only data of one robot can be joined"
            )
        if len({_robot(part.env_id) for part in (first, dataset) if part.env_id}) > 1:
            raise UserError(
                f"{source}: {first.source} is data of {first.env_id} and {dataset.source} of {dataset.env_id}; "
                "only data of one robot can be joined"
            )
    lengths = [len(dataset.transitions.reward) for dataset in datasets]
    check_rows(source, sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
    parts = [dataset.transitions for dataset in datasets]
    begins = zip((part.row for part in parts), offsets, strict=True)
    transitions = Transitions(
        observation=np.concatenate([part.observation for part in parts]),
        action=np.concatenate([part.action for part in parts]),
        reward=np.concatenate([part.reward for part in parts]),
        terminal=np.concatenate([part.terminal for part in parts]),
        end=np.concatenate([part.end for part in parts]),
        row=np.concatenate([row + offset.astype(np.int32) for row, offset in begins]),
    )
    is_ordered = all(map(has_trajectories, parts))
    if not is_ordered:
        transitions = transitions._replace(
            end=np.ones(sum(lengths), bool),
            next_observation=np.concatenate([_stored_next(part) for part in parts]),
        )
    largest = max(datasets, key=lambda dataset: dataset.largest_action)
    labels = {dataset.label for dataset in datasets}
    episodes = list(zip(datasets, offsets, strict=True)) if is_ordered else []
    return Dataset(
        transitions=transitions,
        label=first.label if len(labels) == 1 else "+".join(dataset.label for dataset in datasets),
        source=source,
        fingerprint=fingerprint(transitions),
        episode_returns=np.concatenate([np.zeros(0), *(dataset.episode_returns for dataset, _ in episodes)]),
        episode_rows=np.concatenate(
            [np.zeros((0, 2), np.int64), *(dataset.episode_rows + offset for dataset, offset in episodes)]
        ),
        ref_min=_shared([dataset.ref_min for dataset in datasets]),
        ref_max=_shared([dataset.ref_max for dataset in datasets]),
        env_id=_shared([dataset.env_id for dataset in datasets]),
        largest_action=largest.largest_action,
        largest_at=f"{largest.largest_at} of {largest.source}",
        notes=tuple(f"{dataset.source}: {note}" for dataset in datasets for note in dataset.notes),
    )


def _stored_next(part: Transitions) -> np.ndarray:
    if part.next_observation is not None:
        return np.asarray(part.next_observation)
    following = np.roll(part.observation, -1, axis=0)
    following[-1] = part.observation[-1]  # begins no transition
    return following


def _sizes(dataset: Dataset) -> tuple[int, int]:
    return dataset.transitions.observation.shape[1], dataset.transitions.action.shape[1]


def _robot(env_id: str | None) -> str:
    return (env_id or "").rpartition("-v")[0] or env_id or ""


def _shared(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None
