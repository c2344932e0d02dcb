"""HDF5 files in D4RL's layout (see `diffjax.data.layout`): D4RL's own, and anybody's."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffjax.data.d4rl_files import d4rl_file_named
from diffjax.data.layout import KNOWN_ALGORITHMS, own_label, read_layout
from diffjax.data.transitions import Dataset, check_readable, one_line
from diffjax.errors import UserError
from diffjax.types import Spec


def load_hdf5(source: str, spec: Spec | None = None, horizon: int | None = None) -> Dataset:
    """Read one file; its rule and checks are those of `read_layout`.

    Raises:
      UserError: names the file and its defect.
    """
    with _Opened(source) as file:
        return read_layout(
            source,
            find=lambda key: _find(source, file, key),
            metadata=lambda key: _metadata(file, key),
            found=lambda: list(file),
            spec=spec,
            horizon=horizon,
        )


def check_opens(source: str) -> None:
    """Make sure that a file is HDF5 and that its table of contents can be read.

    Raises:
      UserError: names the file and its defect.
    """
    with _Opened(source) as file:
        file.visit(lambda name: None)


def d4rl_label(source: str, task_id: str | None = None) -> str:
    """``"D4RL v2"`` (or v0, v1) for a file that agrees with a published one in name, keys and shapes.

    ``task_id``, where given, is the task that it must belong to.

    Raises:
      UserError: says in what the file differs.
    """
    path = Path(source).expanduser()
    published = d4rl_file_named(path.name)
    if published is None:
        raise UserError(f"{source}: not the name of a D4RL file; leave out the dataset source 'd4rl'")
    if task_id is not None and task_id != published.task_id:
        raise UserError(f"{source}: this is D4RL's file of {published.task_id}, not of {task_id}")
    with _Opened(source) as file:
        label = own_label(lambda key: _metadata(file, key))
        found = {key: file.get(key) for key in published.shapes}
        shapes = {
            key: item.shape[1:]
            for key, item in found.items()
            if isinstance(item, h5py.Dataset) and item.shape is not None
        }
    if label in KNOWN_ALGORITHMS.values():
        defect = f"its own metadata call it {label!r}"
    elif missing := published.shapes.keys() - shapes.keys():
        defect = f"it lacks {', '.join(map(repr, sorted(missing)))}"
    # Old files store vectors as (rows, 1).
    elif wrong := [key for key, shape in published.shapes.items() if (shapes[key] or (1,)) != (shape or (1,))]:
        defect = f"rows of {wrong[0]!r} have shape {shapes[wrong[0]]}, not {published.shapes[wrong[0]]}"
    else:
        return f"D4RL {published.task_id.rpartition('-')[2]}"
    raise UserError(
        f"{source}: is not D4RL's file of {published.task_id}: {defect}; leave out the dataset source 'd4rl'"
    )


class _Opened:
    """An open HDF5 file; what HDF5 raises inside the ``with`` becomes a `UserError` that names the file."""

    def __init__(self, source: str) -> None:
        self._source = source
        path = Path(source).expanduser()
        check_readable(source, path, "an HDF5 file in D4RL's layout")
        if not h5py.is_hdf5(path):
            raise UserError(f"{source}: is not an HDF5 file; an HDF5 file in D4RL's layout is needed")
        try:
            # Every chunk is read once; a cache would only hold some megabytes of each array for good.
            self._file = h5py.File(path, "r", rdcc_nbytes=0)
        except OSError as error:
            raise self._damaged(error) from error

    def __enter__(self) -> h5py.File:
        return self._file

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._file.close()
        if isinstance(error, (OSError, RuntimeError)):
            raise self._damaged(error) from error
        if isinstance(error, MemoryError):
            raise UserError(f"{self._source}: does not fit into memory ({one_line(error)})") from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self._source}: is a damaged or truncated HDF5 file ({one_line(error)}); copy it again")


class _Array:
    """An array of an open HDF5 file."""

    def __init__(self, item: h5py.Dataset) -> None:
        self._item = item
        self.shape: tuple[int, ...] | None = item.shape
        self.dtype: np.dtype = item.dtype

    def read(self) -> np.ndarray:
        return self._item[()]

    def read_float32(self) -> np.ndarray:
        # HDF5 converts block by block into the array that is kept; `read` would first hold a float64 copy.
        values = np.empty(self._item.shape, np.float32)
        self._item.read_direct(values)
        return values


def _find(source: str, file: h5py.File, key: str) -> _Array | None:
    link = file.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise UserError(f"{source}: {key!r} is a link into another file ({link.filename}); store the array itself")
    item = file.get(key)
    if item is None and isinstance(link, h5py.SoftLink):
        raise UserError(f"{source}: {key!r} is a link to {link.path!r}, which does not exist; store the array itself")
    if item is None:
        if "episode_0" in file:
            raise UserError(f"{source}: is in Minari's layout; give the data set's Minari id or its folder")
        return None
    if not isinstance(item, h5py.Dataset):
        raise UserError(f"{source}: {key!r} is a group; an array is needed")
    if item.is_virtual or item.external:
        raise UserError(f"{source}: the values of {key!r} lie in other files; store the array itself")
    try:
        array = _Array(item)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {key!r} has a dtype without NumPy equivalent; float32 is right") from error
    if not _is_written(item):
        raise UserError(f"{source}: {key!r} was never written to its end; make the file again")
    return array


def _is_written(item: h5py.Dataset) -> bool:
    # HDF5 reads what was never written as zeros, without a word.
    if not item.size:
        return True
    if item.chunks is None:
        return item.id.get_storage_size() > 0
    needed = np.prod([-(-length // chunk) for length, chunk in zip(item.shape, item.chunks, strict=True)])
    return item.id.get_num_chunks() >= needed


def _metadata(file: h5py.File, key: str) -> Any:
    item = file.get(f"metadata/{key}")
    return item[()] if isinstance(item, h5py.Dataset) and item.shape == () else None
