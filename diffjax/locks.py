"""One process at a time: locks that the operating system frees when their process ends, however it ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


class NoLocks(Exception):
    """The file system has none."""


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock of a file, for as long as the context lasts; the file is removed then.

    Raises:
      NoLocks: the file system has none.
    """
    held = _acquired(path)
    try:
        yield held is not None
    finally:
        if held is not None:
            with suppress(OSError):
                path.unlink()
            held.close()


def _acquired(path: Path) -> IO[bytes] | None:
    file = path.open("ab")
    try:
        _lock(file)
        # Who held it before may have removed the file that is locked now.
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    except OSError as error:
        file.close()
        raise NoLocks(error.strerror) from None
    file.close()
    return None


def _lock(file: IO[bytes]) -> None:
    """Lock an open file, or raise if another process holds it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
