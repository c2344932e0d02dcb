"""What it takes to make a data set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from diffjax.data.minari_store import Episode
from diffjax.tasks.default_data import Progress as Progress

PROGRESS_S = 5.0  # between lines of progress


class Recipe(NamedTuple):
    """How a data set is made: ``algorithm`` and ``description`` in words, the simulator's version, ``provenance``."""

    env_id: str
    algorithm: str
    description: str
    simulator: str
    provenance: dict[str, Any]
    collect: Callable[[jax.Array, Progress], list[Episode]]
