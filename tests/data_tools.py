"""What the tests of data sets share."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffjax.errors import UserError


def error_of(call, *args, **kwargs) -> str:
    """The one line with which a call refuses."""
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    message = str(raised.value)
    assert "\n" not in message
    return message


def random_hdf5(
    path: Path, observation_dim: int, action_dim: int, rows: int = 200, horizon: int = 50, seed: int = 0
) -> Path:
    """A file in D4RL's layout with random transitions; every episode ends by the time limit."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(rows, observation_dim)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (rows, action_dim)).astype(np.float32)
        file["rewards"] = rng.normal(size=rows).astype(np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % horizon == horizon - 1
    return path


def timeless(content: bytes) -> bytes:
    """A file without the times of day in it."""
    return re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"TIME", content)
