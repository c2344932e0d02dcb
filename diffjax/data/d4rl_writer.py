"""Episodes as one HDF5 file in D4RL's layout."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffjax.data.minari_store import Episode


def write_hdf5(
    path: Path,
    episodes: Sequence[Episode],
    *,
    env_id: str,
    algorithm: str,
    ref_min: float | None = None,
    ref_max: float | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``observations, actions, rewards, terminals, timeouts`` and metadata, whole or not at all.

    The observation after an episode's last action has no row in this layout: where a time limit ended the episode,
    readers cannot use its last step.
    """
    lengths = [len(episode.reward) for episode in episodes]
    last = np.cumsum(lengths) - 1
    terminal = np.array([episode.terminal for episode in episodes])
    terminals, timeouts = np.zeros(sum(lengths), bool), np.zeros(sum(lengths), bool)
    terminals[last], timeouts[last] = terminal, ~terminal
    arrays = {
        "observations": np.concatenate([episode.observation[:-1] for episode in episodes]).astype(np.float32),
        "actions": np.concatenate([episode.action for episode in episodes]).astype(np.float32),
        "rewards": np.concatenate([episode.reward for episode in episodes]).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    metadata: dict[str, Any] = {"algorithm": algorithm, "env_id": env_id}
    references = {"ref_min_score": ref_min, "ref_max_score": ref_max}
    metadata |= {key: value for key, value in references.items() if value is not None}
    metadata["provenance"] = json.dumps(dict(provenance or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(temporary, "w") as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array, compression="gzip")
            for key, value in metadata.items():
                file[f"metadata/{key}"] = value
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
