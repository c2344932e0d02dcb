"""HDF5 files in D4RL's layout (see `diffjax.data.layout`): D4RL's own, and anybody's."""

import importlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from diffjax.data.arrays import Episode, end_to_end, load_arrays, read_episode
from diffjax.data.d4rl_files import d4rl_file_named
from diffjax.data.layout import (
    KNOWN_ALGORITHMS,
    MAPPINGS,
    SideBySide,
    StoredArray,
    order_notes,
    own_label,
    read_layout,
)
from diffjax.data.transitions import Dataset, check_readable, one_line
from diffjax.errors import UserError
from diffjax.types import Spec

_DEMONSTRATION = re.compile(r"demo_\d+")


def load_hdf5(source: str, spec: Spec | None = None, horizon: int | None = None) -> Dataset:
    """Read one file; its rule and checks are those of `read_layout`.

    Raises:
      UserError: names the file and its defect.
    """
    with _Opened(source) as file:
        if is_robomimic(file):
            return load_demonstrations(source, file, spec)
        return read_layout(
            source,
            find=lambda key: _find(source, file, key),
            metadata=lambda key: _metadata(file, key),
            found=lambda: list(file),
            spec=spec,
            horizon=horizon,
        )


def is_robomimic(file: h5py.File) -> bool:
    """Whether a file holds demonstrations as robomimic stores them: groups ``data/demo_0``, ``data/demo_1``, ..."""
    data = file.get("data")
    return isinstance(data, h5py.Group) and any(_DEMONSTRATION.fullmatch(name) for name in data)


def load_demonstrations(source: str, file: h5py.File, spec: Spec | None) -> Dataset:
    """The demonstrations of a robomimic file, in the order of their numbers.

    ``obs`` are several arrays by name, put side by side; ``dones`` are terminals, as for robomimic's own learners.
    """
    data = file["data"]
    names = sorted((name for name in data if _DEMONSTRATION.fullmatch(name)), key=lambda name: int(name[5:]))
    read = {name: read_group(source, data[name], {"dones": "terminals"}) for name in names}
    parts = [(f"data/{name}", arrays) for name, (arrays, _) in read.items()]
    said = f"{len(names)} demonstrations in robomimic's layout, whose 'dones' are terminals"
    notes = (said, *order_notes(read[names[0]][1]))
    return load_arrays(end_to_end(source, parts), source, spec, notes=notes)


def read_group(
    source: str, group: h5py.Group, renamed: Mapping[str, str] = MappingProxyType({})
) -> tuple[Episode, str]:
    """The arrays of a group by the names of D4RL's layout; ``renamed`` are names that mean another one here."""

    def find(key: str) -> StoredArray | None:
        return _find(source, group, next((name for name, right in renamed.items() if right == key), key))

    return read_episode(source, find, lambda: list(group))


def read_episodes(source: str) -> tuple[Episode, str]:
    """The arrays of a whole file by the names of D4RL's layout, and the order of observations stored by name."""
    with _Opened(source) as file:
        return read_group(source, file)


def check_opens(source: str) -> None:
    """Make sure that a file is HDF5 and that its table of contents can be read.

    Raises:
      UserError: names the file and its defect.
    """
    with _Opened(source) as file:
        file.visit(lambda name: None)


def check_no_old_minari(source: str, data: Path) -> None:
    """Make sure that the folder ``data`` does not hold a Minari data set of a layout that nothing here reads.

    Raises:
      UserError: names the version of Minari that wrote it, and what to do.
    """
    path = data / "main_data.hdf5"
    if path.is_file() and not (data / "metadata.json").exists():
        with _Opened(str(path)) as file:
            if "total_episodes" in file.attrs:
                raise _minari_layout(source, file)


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


def d4rl_hint(source: str, task_id: str | None = None) -> str | None:
    """What to say if a file is D4RL's, or why it is not called so; None if it does not bear the name of one."""
    if d4rl_file_named(Path(source).name) is None:
        return None
    try:
        label = d4rl_label(source, task_id)
    except UserError as error:
        return str(error).partition(";")[0]
    return f"{source}: agrees with D4RL's file of that name; if it is that file, say --dataset_source=d4rl ({label})"


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
            raise self._unreadable(error) from error

    def __enter__(self) -> h5py.File:
        return self._file

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._file.close()
        if isinstance(error, (OSError, RuntimeError)):
            raise self._unreadable(error) from error
        if isinstance(error, MemoryError):
            raise UserError(f"{self._source}: does not fit into memory ({one_line(error)})") from error

    def _unreadable(self, error: Exception) -> UserError:
        if "unable to lock file" in str(error):
            return UserError(
                f"{self._source}: another process has it open and may be writing ({one_line(error)}); close it "
                "there, or set HDF5_USE_FILE_LOCKING=FALSE if nothing writes to it"
            )
        if "already open for" in str(error):
            return UserError(
                f"{self._source}: is being written, or its writer never closed it ({one_line(error)}); close it "
                "there, or clear the mark of a writer that died with h5clear -s"
            )
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


def leaves(group: h5py.Group, above: str = "") -> list[str]:
    """The names of all arrays of a group and of the groups in it, as ``a/b``, in alphabetical order."""
    found: list[str] = []
    for name in sorted(group):
        item = group[name]
        found += leaves(item, f"{above}{name}/") if isinstance(item, h5py.Group) else [above + name]
    return found


def _find(source: str, file: h5py.Group, key: str) -> StoredArray | None:
    link = file.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise UserError(f"{source}: {key!r} is a link into another file ({link.filename}); store the array itself")
    item = file.get(key)
    if item is None and isinstance(link, h5py.SoftLink):
        raise UserError(f"{source}: {key!r} is a link to {link.path!r}, which does not exist; store the array itself")
    if item is None:
        if "episode_0" in file:
            raise _minari_layout(source, file)
        return None
    if isinstance(item, h5py.Group) and key in MAPPINGS:
        parts = {name: _find(source, file, f"{key}/{name}") for name in leaves(item)}
        return SideBySide(source, key, {name: part for name, part in parts.items() if part is not None})
    if not isinstance(item, h5py.Dataset):
        raise UserError(f"{source}: {key!r} is a group; an array is needed")
    if item.is_virtual or item.external:
        raise UserError(f"{source}: the values of {key!r} lie in other files; store the array itself")
    try:
        array = _Array(item)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {key!r} has a dtype without NumPy equivalent; float32 is right") from error
    _check_filters(source, key, item)
    if not _is_written(item):
        raise UserError(f"{source}: {key!r} was never written to its end; make the file again")
    return array


def _minari_layout(source: str, file: h5py.File) -> UserError:
    data = Path(file.filename).absolute().parent
    if "total_episodes" not in file.attrs or (data / "metadata.json").exists():
        return UserError(f"{source}: is in Minari's layout; give the data set's Minari id or its folder, {data.parent}")
    # Before 0.5 Minari kept in attributes what is in metadata.json now.
    version = file.attrs.get("minari_version")
    name = f"Minari {version}" if isinstance(version, str) else "an old Minari"
    return UserError(
        f"{source}: was written by {name}, whose layout (no metadata.json) is not read; fetch the data set again with "
        "'minari download', or write its episodes one after the other as observations, actions, rewards, terminals and "
        "timeouts into one HDF5 file"
    )


def _check_filters(source: str, key: str, item: h5py.Dataset) -> None:
    properties = item.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        number, _, _, name = properties.get_filter(index)
        if h5py.h5z.filter_avail(number):
            continue
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")  # registers its filters
        if not h5py.h5z.filter_avail(number):
            raise UserError(
                f"{source}: {key!r} is compressed with {name.decode(errors='replace') or 'a filter'} (HDF5 filter "
                f"{number}), which is not installed; install hdf5plugin, or write it again with compression='gzip'"
            )


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
