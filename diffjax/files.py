"""Files written whole or not at all, and what keeps one from being written or read said in a line."""

import csv
import errno
import io
import json
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from diffjax.errors import UserError, first_line

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_FULL_DISK_TEXT = ("No space left on device", "Disk quota exceeded")


def is_full_disk(error: BaseException) -> bool:
    """Whether the disk is full; array stores report it in their own exceptions, so the text counts too."""
    number = error.errno if isinstance(error, OSError) else None
    return number in FULL_DISK or any(text in str(error) for text in _FULL_DISK_TEXT)


def check_parent(flag: str, path: str | Path) -> None:
    """That the folder is there in which a flag's file or folder will be made.

    Raises:
      UserError: it is not, or cannot be written to.
    """
    parent = Path(path).parent
    if not os.path.isdir(parent):
        raise UserError(f"--{flag}={path}: the folder {parent} does not exist; make it first")
    if not os.access(parent, os.W_OK):
        raise UserError(f"--{flag}={path}: the folder {parent} cannot be written to; choose another")


@contextmanager
def writable(path: str | Path, flag: str = "out") -> Iterator[None]:
    """Turn what keeps ``path`` from being written into a ``UserError``; a full disk stays an ``OSError``."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another --{flag}") from None


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name in the same folder to write to; renamed to ``path`` at the end, removed on any error.

    What is no regular file (``/dev/null``, a pipe) is written to as it is: a rename would replace it.
    """
    target = Path(path)
    is_special = target.exists() and not target.is_file()
    target = target if is_special else target.resolve()
    temporary = target if is_special else target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if not is_special:
            os.replace(temporary, target)
    except BaseException as error:
        if not is_special:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)
        raise


def is_temporary(name: str) -> bool:
    """Whether a file is what :func:`whole_file` leaves behind when a program is killed."""
    return name.startswith(".") and name.endswith(".tmp")


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file, or leave what was there."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        _flush(stream)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, a line each, that end as lines do on Linux."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def rounded(row: Iterable[Any]) -> list[Any]:
    """A row whose floats are text of six significant digits."""
    return [f"{value:.6g}" if isinstance(value, float) else value for value in row]


def _open_existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def append_text(path: str | Path, text: str) -> None:
    """Append to a text file that is there and flush it to the disk.

    Raises:
      UserError: it is not there any more.
    """
    try:
        with open(path, "a", encoding="utf-8", newline="", opener=_open_existing) as stream:
            stream.write(text)
            _flush(stream)
    except FileNotFoundError:
        raise UserError(f"{path} is gone; it was there when this began") from None
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _flush(stream: TextIO) -> None:
    """To the disk, so that a checkpoint never records rows that a power cut takes away."""
    stream.flush()
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        os.fsync(stream.fileno())


def write_arrays(path: str | Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a whole ``.npz`` file of arrays and a JSON object about them, without pickles."""
    named: dict[str, Any] = {"about": np.array(json.dumps(plain(about))), **arrays}
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **named)


def read_arrays(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The object and the arrays of a file of :func:`write_arrays`; nothing pickled is loaded.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it is another file, or a damaged one; one line.
    """
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("not an .npz file")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(first_line(error)) from error
    if not isinstance(about, dict):
        raise ValueError("'about' is no object")
    return about, arrays


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write an object as a whole JSON file; see :func:`plain`."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """A value as JSON holds it: arrays and tuples as lists, non-finite floats as ``"nan"``, ``"inf"``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """The object that a JSON file holds; raises ``UserError`` for anything else."""
    try:
        content = json.loads(_read_bytes(path).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def complete_lines(path: str | Path) -> list[str]:
    """The lines that end in a newline: the last may be half written, by a run that works or was killed.

    Raises:
      UserError: the file cannot be read or is no text.
    """
    content = _read_bytes(path)
    try:
        text = content[: content.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return text.split("\n")[:-1]


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
