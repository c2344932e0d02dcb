"""NumPy's ``.npz`` archives in D4RL's layout (see `diffjax.data.layout`); nothing pickled is ever loaded."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.data.arrays import Episode, read_episode
from diffjax.data.layout import MAPPINGS, SideBySide, StoredArray, read_layout
from diffjax.data.transitions import Dataset, check_readable, one_line
from diffjax.errors import UserError
from diffjax.types import Spec

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_npz(source: str, spec: Spec | None = None, horizon: int | None = None) -> Dataset:
    """Read what ``np.savez(path, observations=..., actions=..., rewards=..., terminals=..., timeouts=...)`` wrote.

    Rule, checks and metadata (``**{"metadata/algorithm": "SAC"}``) are those of `read_layout`.

    Raises:
      UserError: names the file and its defect.
    """
    with _opened(source) as file:
        return read_layout(
            source,
            find=lambda key: _find(source, file, key),
            metadata=lambda key: _metadata(source, file, key),
            found=lambda: list(file),
            spec=spec,
            horizon=horizon,
        )


def read_episodes(source: str) -> tuple[Episode, str]:
    """The arrays of a whole file by the names of D4RL's layout, and the order of observations stored by name."""
    with _opened(source) as file:
        return read_episode(source, lambda key: _find(source, file, key), lambda: list(file))


@contextmanager
def _opened(source: str) -> Iterator[Any]:
    """An open archive; what reading it raises becomes a `UserError` that names the file."""
    path = Path(source).expanduser()
    check_readable(source, path, "an .npz file with D4RL's arrays")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{source}: is not an .npz file, or a truncated one; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except MemoryError as error:
        raise UserError(f"{source}: does not fit into memory ({one_line(error)})") from error
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{source}: is a damaged .npz file ({one_line(error)}); write it again") from error


class _Array:
    """An array of an open archive, of which only the header has been read."""

    def __init__(self, file: Any, key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._file, self._key = file, key
        self.shape: tuple[int, ...] | None = shape
        self.dtype = dtype

    def read(self) -> np.ndarray:
        return self._file[self._key]

    def read_float32(self) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(self.read(), np.float32)


def _find(source: str, file: Any, key: str) -> StoredArray | None:
    members = set(file.zip.namelist())
    names = {key, f"{key}.npy"} & members
    if not names and key in MAPPINGS:
        inside = sorted(name.removesuffix(".npy") for name in members if name.startswith(f"{key}/"))
        parts = {name.removeprefix(f"{key}/"): _find(source, file, name) for name in inside}
        return (
            SideBySide(source, key, {name: part for name, part in parts.items() if part is not None}) if parts else None
        )
    if not names:
        return None
    with file.zip.open(names.pop()) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise UserError(f"{source}: {key!r} is no array of numbers; float32 is needed")
        shape, _, dtype = _HEADERS[version](member)
    return _Array(file, key, shape, dtype)


def _metadata(source: str, file: Any, key: str) -> Any:
    array = _find(source, file, f"metadata/{key}")
    if array is None or array.shape != () or array.dtype.hasobject:
        return None
    return array.read()[()]
