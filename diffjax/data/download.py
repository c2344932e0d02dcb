"""D4RL's published files: found in D4RL's own cache, or fetched into it once.

The cache is the folder that D4RL itself uses: the environment variable D4RL_DATASET_DIR, or ``~/.d4rl/datasets``.
A file comes from its published address or from a mirror, and appears there whole or not at all. While it is being
fetched its beginning lies in ``.NAME.part``, with what the server said of the file in ``.NAME.part.json``, so that
the next attempt, or the next process, goes on where the last one stopped.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from diffjax.data.d4rl_files import d4rl_file
from diffjax.data.transitions import one_line
from diffjax.errors import UserError
from diffjax.locks import NoLocks, try_lock
from diffjax.version import __version__

DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # waits between attempts; there is one attempt more
TIMEOUT_S = 30.0  # without a byte, after which a connection counts as dropped
_BLOCK = 1 << 18
_POLL_S = 0.1
_LINE_S = 15.0  # between lines of progress where output is no terminal
_SCHEMES = ("http", "https", "file")


def datasets_folder() -> Path:
    """The folder of D4RL's files."""
    folder = os.environ.get("D4RL_DATASET_DIR")
    return Path(folder).expanduser() if folder else Path.home() / ".d4rl" / "datasets"


def local_files(task_ids: Iterable[str]) -> dict[str, Path | None]:
    """Where each task's published file lies, None where it is not stored.

    Raises:
      UserError: D4RL publishes no file for an id.
    """
    paths = {task_id: datasets_folder() / d4rl_file(task_id).name for task_id in task_ids}
    return {task_id: path if path.is_file() else None for task_id, path in paths.items()}


def obtain_d4rl(
    task_id: str,
    mirror: str | None = None,
    download: bool = True,
    progress: Console | None = None,
    sha256: str | None = None,
) -> Path:
    """The path of D4RL's file of one task, fetched if it is not stored yet.

    ``mirror`` replaces the published address: the base address or the local folder in which the file lies under its
    published name. ``progress`` is where a bar with the time left is drawn, standard error unless given. ``sha256``
    is compared with what was fetched; D4RL publishes none.

    Raises:
      UserError: D4RL has no file for that id, it is not stored and ``download`` is false, or it cannot be fetched:
        names the file, the address, and the path where it may be put by hand.
    """
    file = d4rl_file(task_id)
    path = datasets_folder() / file.name
    if path.is_file():
        return path
    url = file.url if mirror is None else mirror_url(mirror, file.name)
    if not download:
        raise UserError(
            f"{file.name}, D4RL's file of {task_id}, is not stored at {path}; it is published at {file.url}"
        )
    return fetch(url, path, sha256=sha256, progress=progress)


def mirror_url(mirror: str, name: str) -> str:
    """The address of file ``name`` under a base address (http, https, file) or in a local folder.

    Raises:
      UserError: the address is of another kind.
    """
    scheme, is_address, _ = mirror.partition("://")
    if not is_address:
        return (Path(mirror).expanduser().absolute() / name).as_uri()
    if scheme.lower() not in _SCHEMES:
        raise UserError(f"mirror {mirror!r} is unknown; give an address that begins with http(s):// or a local folder")
    return f"{mirror.rstrip('/')}/{urllib.parse.quote(name)}"


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    progress: Console | None = None,
    delays_s: Sequence[float] = DELAYS_S,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch an HDF5 file from ``url`` to ``path``; return ``path``.

    Of several processes one fetches, the others wait and use its file. Dropped connections are taken up again where
    they ended (HTTP Range), ``len(delays_s)`` times; from the beginning if the server cannot, or if the file changed
    meanwhile. Size, SHA-256 (where given) and HDF5's own structure are checked before the file appears.

    Raises:
      UserError: one line with file, address, and what to do instead.
    """
    transfer = _Transfer(url, path, sha256, progress or Console(stderr=True), tuple(delays_s), timeout_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, transfer.note):
            if not path.is_file():
                transfer.run()
    except OSError as error:
        raise UserError(
            f"{path.name}: cannot be stored in {path.parent} ({error.strerror or one_line(error)}); "
            "set D4RL_DATASET_DIR to a folder with room that you may write"
        ) from error
    return path


@dataclass(frozen=True)
class _Version:
    """What a server says of a file."""

    url: str
    etag: str | None
    last_modified: str | None
    length: int | None

    @property
    def condition(self) -> str | None:
        """The value of If-Range; None if the server gives nothing by which to tell a changed file."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def continues(self, other: "_Version") -> bool:
        """Whether it can be the same file; a partial answer may leave out what the first one said."""
        return self.length == other.length and all(
            mine in (None, theirs)
            for mine, theirs in ((self.etag, other.etag), (self.last_modified, other.last_modified))
        )


class _Dropped(Exception):
    """A connection ended early, or the server was busy: worth another attempt."""


class _Transfer:
    """One file on its way from ``url`` to ``path``; whoever runs it holds the lock."""

    def __init__(
        self, url: str, path: Path, sha256: str | None, console: Console, delays_s: tuple[float, ...], timeout_s: float
    ) -> None:
        self._url, self._path, self._sha256 = url, path, sha256
        self._console, self._delays_s, self._timeout_s = console, delays_s, timeout_s
        self._has_answered = False
        self._part = path.with_name(f".{path.name}.part")
        self._version_file = path.with_name(f".{path.name}.part.json")

    def note(self, text: str) -> None:
        self._console.print(f"{self._path.name}: {text}", highlight=False, soft_wrap=True, markup=False)

    def run(self) -> None:
        self.note(f"fetching it from {self._url}")
        with _Bar(self._path.name, self._console) as bar:
            for delay in (*self._delays_s, None):
                try:
                    self._receive(bar)
                    break
                except _Dropped as dropped:
                    if delay is None:
                        raise self._failed(
                            f"{len(self._delays_s) + 1} attempts failed, the last because {dropped}",
                            "try again later, what has arrived is kept; or ",
                        ) from dropped
                    self.note(f"{dropped}; trying again in {delay:g} s")
                    time.sleep(delay)
        self._check()
        os.replace(self._part, self._path)
        self._version_file.unlink(missing_ok=True)

    def _receive(self, bar: "_Bar") -> None:
        """One attempt: all that is still missing of the file."""
        version, have = self._kept()
        if version is not None and have == version.length:
            return
        try:
            request = urllib.request.Request(self._url, headers=_headers(version, have))
            response = urllib.request.urlopen(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, have)
            return
        except urllib.error.URLError as error:
            # A server that never answered will not in a minute either.
            if self._has_answered or isinstance(error.reason, (ConnectionResetError, BrokenPipeError)):
                raise _Dropped(f"the connection failed ({one_line(error.reason)})") from error
            raise self._failed(f"the address cannot be reached ({one_line(error.reason)})") from error
        except (http.client.InvalidURL, ValueError) as error:
            raise self._failed(f"the address is malformed ({one_line(error)})") from error
        except (http.client.HTTPException, OSError) as error:
            raise _Dropped(f"the server hung up ({one_line(error) or type(error).__name__})") from error
        self._has_answered = True
        with response:
            found, begin = _described(self._url, response)
            if begin and not (begin == have and version is not None and found.continues(version)):
                self._forget()
                raise _Dropped("the file on the server changed")
            self._write(response, found, begin, bar)

    def _write(self, response: Any, version: _Version, begin: int, bar: "_Bar") -> None:
        if begin == 0:
            self._start(version)
        free = shutil.disk_usage(self._path.parent).free
        if version.length is not None and version.length - begin > free:
            raise UserError(
                f"{self._path.name}: needs {_megabytes(version.length - begin)} in {self._path.parent}, which has "
                f"{_megabytes(free)} left; set D4RL_DATASET_DIR to a folder with room"
            )
        done = begin
        bar.begin(done, version.length)
        with self._part.open("ab") as part:
            while block := self._block(response):
                part.write(block)
                done += len(block)
                bar.update(done)
        if version.length is not None and done < version.length:
            raise _Dropped(f"the connection ended after {_megabytes(done)} of {_megabytes(version.length)}")
        if version.length is not None and done > version.length:
            self._forget()
            raise _Dropped(f"the server sent {done} bytes of {version.length}")

    def _block(self, response: Any) -> bytes:
        try:
            return response.read1(_BLOCK)
        except (http.client.HTTPException, OSError) as error:
            raise _Dropped(f"the connection broke ({one_line(error) or type(error).__name__})") from error

    def _refused(self, error: urllib.error.HTTPError, have: int) -> None:
        said = f"the server answers {error.code} {error.reason}"
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            self._forget()
            raise _Dropped("the file on the server changed") from error
        if error.code >= 500 or error.code in (http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS):
            raise _Dropped(said) from error
        raise self._failed(said) from error

    def _kept(self) -> tuple[_Version | None, int]:
        """What is left of an earlier attempt, as far as it can be continued."""
        try:
            have = self._part.stat().st_size
            version = _Version(**json.loads(self._version_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None, 0
        is_usable = version.url == self._url and version.condition is not None and 0 < have <= (version.length or 0)
        return (version, have) if is_usable else (None, 0)

    def _start(self, version: _Version) -> None:
        # In this order, so that no beginning of one file is ever taken for that of another.
        self._forget()
        self._version_file.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._version_file.unlink(missing_ok=True)

    def _check(self) -> None:
        from diffjax.data.hdf5 import check_opens

        if self._sha256 is not None:
            with self._part.open("rb") as part:
                found = hashlib.file_digest(part, "sha256").hexdigest()
            if found != self._sha256.lower():
                self._forget()
                raise self._failed(f"what arrived has the SHA-256 {found}, not {self._sha256.lower()}")
        try:
            check_opens(str(self._part))
        except UserError as error:
            with self._part.open("rb") as part:
                begin = part.read(24)
            self._forget()
            raise self._failed(f"what arrived is not a sound HDF5 file (it begins with {begin!r})") from error

    def _failed(self, why: str, first: str = "") -> UserError:
        return UserError(
            f"{self._path.name}: cannot be fetched from {self._url}: {why}; {first}put the file at {self._path}, "
            "or give another address or folder as --mirror"
        )


class _Bar:
    """How far a transfer is: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_interactive,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None)
        self._begun = self._shown = time.monotonic()
        self._before = 0
        self._total: int | None = None

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begin(self, done: int, total: int | None) -> None:
        """A connection stands: ``done`` bytes of ``total`` are there already."""
        self._begun, self._before, self._total = time.monotonic(), done, total
        self._bar.reset(self._task, total=total, completed=done)

    def update(self, done: int) -> None:
        self._bar.update(self._task, completed=done)
        now = time.monotonic()
        if self._console.is_interactive or now - self._shown < _LINE_S:
            return
        self._shown = now
        rate = (done - self._before) / max(now - self._begun, 1e-9)
        left = f", about {(self._total - done) / rate:.0f} s left" if self._total and rate else ""
        of = f" of {_megabytes(self._total)}" if self._total else ""
        self._console.print(f"{self._name}: {_megabytes(done)}{of}{left}", highlight=False, soft_wrap=True)


def _headers(version: _Version | None, have: int) -> Mapping[str, str]:
    headers = {"User-Agent": f"diffjax/{__version__}", "Accept-Encoding": "identity"}
    if version is not None and version.condition is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.condition}
    return headers


def _described(url: str, response: Any) -> tuple[_Version, int]:
    """The file that a response holds, and the byte of it with which the response begins (-1: it does not say)."""
    headers = response.headers
    length = headers.get("Content-Length", "")
    begin, total = 0, int(length) if length.isdecimal() else None
    if response.status == http.client.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", "").strip())
        begin, total = (int(match[1]), int(match[2])) if match else (-1, None)
    return _Version(url, headers.get("ETag"), headers.get("Last-Modified"), total), begin


@contextmanager
def _locked(path: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of ``path``; where the file system has none, whoever is last puts its whole file in place."""
    lock = path.with_name(f".{path.name}.lock")
    has_waited = False
    while True:
        with ExitStack() as stack:
            try:
                is_ours = stack.enter_context(try_lock(lock))
            except NoLocks:
                is_ours = True
            if is_ours:
                yield
                return
        if not has_waited:
            note("another process is fetching it; waiting for its file")
            has_waited = True
        time.sleep(_POLL_S)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
