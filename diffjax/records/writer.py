"""One writer per results folder: a lock for the life of its process, or on file systems without locks its heartbeat."""

import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from diffjax.errors import UserError
from diffjax.files import writable, write_json
from diffjax.locks import NoLocks, try_lock

LOCK, WRITER = ".lock", ".writer.json"
HIDDEN = (LOCK, WRITER)
"""Files of a folder that is being written to."""
BEAT_S, DEAD_S = 10.0, 60.0


class Taken(UserError):
    """Another process writes to the folder."""


class Writer(NamedTuple):
    """Who writes to a folder, or did when it ended; ``news`` is how far it had come when it last said so."""

    process: int
    host: str
    since: str
    news: str = ""

    @property
    def words(self) -> str:
        """On one line."""
        return f"process {self.process} on {self.host} since {self.since}"


@contextmanager
def only_writer(folder: Path, note: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """While this process alone writes to a folder, which is made, and goes again if nothing comes to stand in it.

    What it gives takes news of how far the work has come, for those who look on.

    Raises:
      Taken: another process writes to it.
      UserError: it cannot be made.
    """
    made = []
    with writable(folder):
        for missing in (folder, *folder.parents):
            if missing.exists():
                break
            made.append(missing)
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            try:
                with writable(folder):
                    is_ours = stack.enter_context(try_lock(folder / LOCK))
            except NoLocks:
                note(f"{folder}: this file system has no locks; {WRITER}, touched every {BEAT_S:.0f} s, stands for one")
                is_ours = _claims(folder)
            if not is_ours:
                raise Taken(f"{folder} is being written to by {_words(folder)}; wait for it, or choose another --out")
            signature = _signature_now()
            with writable(folder):
                _sign(folder, signature)
            stack.callback((folder / WRITER).unlink, missing_ok=True)
            stack.enter_context(_heartbeat(folder / WRITER))
            yield lambda news: _sign(folder, signature._replace(news=news))
    finally:
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def writer_of(folder: Path) -> Writer | None:
    """Who writes to a folder at this moment, from any machine that sees it; None for nobody."""
    signed = last_writer(folder)
    if signed is None or not _beats(folder):
        return None
    if signed.host == socket.gethostname():
        try:
            os.kill(signed.process, 0)
        except ProcessLookupError:
            return None
        except OSError:  # it is another user's
            pass
    return signed


def _signature_now() -> Writer:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Writer(os.getpid(), socket.gethostname(), now)


def _sign(folder: Path, signature: Writer) -> None:
    write_json(folder / WRITER, signature._asdict())


def last_writer(folder: Path) -> Writer | None:
    """Who writes to a folder, or was killed while writing and could not take its name away."""
    try:
        content = json.loads((folder / WRITER).read_text())
        return Writer(int(content["process"]), str(content["host"]), str(content["since"]), str(content["news"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _words(folder: Path) -> str:
    signed = last_writer(folder)
    return "another process" if signed is None else signed.words


def _beats(folder: Path) -> bool:
    """Whether a heartbeat is young; the clock is the file system's own where it can be written to."""
    probe = folder / f".{os.getpid()}.tmp"
    now = time.time()
    with suppress(OSError):
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    try:
        return now - (folder / WRITER).stat().st_mtime < DEAD_S
    except OSError:
        return False


def _claims(folder: Path) -> bool:
    """Whether nobody else's heart beats; of several that sign in one moment the last one stays."""
    if _beats(folder):
        return False
    ours = _signature_now()
    _sign(folder, ours)
    time.sleep(0.1)
    return last_writer(folder) == ours


@contextmanager
def _heartbeat(file: Path) -> Iterator[None]:
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(BEAT_S):
            with suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
