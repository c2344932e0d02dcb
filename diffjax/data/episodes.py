"""Many files as one data set: a folder or a pattern of recordings, each of which ends a trajectory."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from diffjax.data import hdf5, npz
from diffjax.data.arrays import Episode, end_to_end, load_arrays
from diffjax.data.layout import order_notes
from diffjax.data.transitions import HDF5_SUFFIXES, NPZ_SUFFIX, Dataset
from diffjax.errors import UserError
from diffjax.types import Spec

_SUFFIXES = (*HDF5_SUFFIXES, NPZ_SUFFIX)
_PATTERN = re.compile(r"[*?\[]")


def is_many(source: str) -> bool:
    """Whether a source is a pattern, ``logs/*.hdf5``, or a folder of recordings."""
    path = Path(source).expanduser()
    if path.is_dir():
        is_minari = any((path / name).exists() for name in ("data", "metadata.json", "main_data.hdf5"))
        return not is_minari and any(one.suffix in _SUFFIXES for one in path.iterdir())
    return bool(_PATTERN.search(source)) and not path.exists()


def files_of(source: str) -> list[Path]:
    """The files of a folder or a pattern, numbers in their names counted as such: ``run2`` before ``run10``."""
    path = Path(source).expanduser()
    found = list(path.iterdir()) if path.is_dir() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    chosen = [one for one in found if one.is_file() and one.suffix in _SUFFIXES]
    return sorted(
        chosen, key=lambda one: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(one))]
    )


def load_episode_files(source: str, spec: Spec | None = None, horizon: int | None = None) -> Dataset:
    """The recordings of a folder or a pattern, each in D4RL's layout, one after the other.

    What a file's last row is decides how its last trajectory ended: a terminal, or else a time limit.

    Raises:
      UserError: names the file and its defect.
    """
    paths = files_of(source)
    if not paths:
        raise UserError(f"{source}: no file ending in {', '.join(_SUFFIXES)} is there")
    recordings = [(str(path), *_read(str(path))) for path in paths]
    order = _same_order(source, [(name, order) for name, _, order in recordings])
    notes = (f"{len(paths)} files, one after the other in the order of their names", *order_notes(order))
    return load_arrays(end_to_end(source, [(name, one) for name, one, _ in recordings]), source, spec, horizon, notes)


def _read(path: str) -> tuple[Episode, str]:
    return npz.read_episodes(path) if path.endswith(NPZ_SUFFIX) else hdf5.read_episodes(path)


def _same_order(source: str, orders: Sequence[tuple[str, str]]) -> str:
    first_name, first = orders[0]
    for name, order in orders:
        if order != first:
            texts = [f"{one or 'one array'} in {place}" for one, place in ((order, name), (first, first_name))]
            raise UserError(f"{source}: observations are {' and '.join(texts)}; they must agree")
    return first
