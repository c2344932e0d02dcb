"""D4RL's files from a real server on this machine that drops, truncates, refuses, ignores and changes."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_tools import error_of
from rich.console import Console

from diffjax.data import download
from diffjax.data.d4rl_files import d4rl_files
from diffjax.data.download import datasets_folder, fetch, local_files, mirror_url, obtain_d4rl
from diffjax.data.load import load_dataset
from diffjax.types import Spec

NAME = "hopper_medium-v2.hdf5"
DELAYS = (0.0, 0.0, 0.0)


def hdf5_bytes(seed: int = 0, rows: int = 2000) -> bytes:
    random = np.random.default_rng(seed)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["observations"] = random.normal(size=(rows, 11)).astype(np.float32)
        file["actions"] = random.uniform(-1, 1, (rows, 3)).astype(np.float32)
        file["rewards"] = random.normal(size=rows).astype(np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % 100 == 99
    return buffer.getvalue()


class Server:
    """Serves ``content`` under every path; ``script`` holds one fault per request, then there are none."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"one"'
        self.last_modified: str | None = None
        self.has_ranges = True
        self.has_length = True
        self.script: list[Callable[[BaseHTTPRequestHandler], bool] | int] = []
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._http.server_address[1]}/data"
        self.url = f"{self.base}/{NAME}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        range_header = handler.headers.get("Range")
        self.requests.append((handler.path, range_header))
        fault = self.script.pop(0) if self.script else None
        limit = None
        if isinstance(fault, int) and fault < 0:
            limit = -fault
        elif isinstance(fault, int):
            handler.send_error(fault)
            return
        elif fault is not None and fault(handler):
            return
        begin = 0
        condition = handler.headers.get("If-Range")
        if range_header and self.has_ranges and condition in (self.etag, self.last_modified):
            begin = int(re.fullmatch(r"bytes=(\d+)-", range_header)[1])  # type: ignore[index]
            if begin >= len(self.content):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        else:
            handler.send_response(200)
            if self.last_modified:
                handler.send_header("Last-Modified", self.last_modified)
        if self.etag:
            handler.send_header("ETag", self.etag)
        body = self.content[begin:]
        if self.has_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:limit])


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    running = Server(hdf5_bytes())
    yield running
    running.close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(folder))
    return folder


def quiet() -> Console:
    return Console(file=io.StringIO())


def get(server: Server, cache: Path, **keywords) -> Path:
    return fetch(server.url, cache / NAME, **({"progress": quiet(), "delays_s": DELAYS, "timeout_s": 5.0} | keywords))


def stored(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def ranges(server: Server) -> list[str | None]:
    return [header for _, header in server.requests]


# The table


def test_published_files_are_those_of_the_families():
    files = d4rl_files()
    families = [task_id.split("-")[0] for task_id in files]
    assert {family: families.count(family) for family in families} == {
        "ant": 6,
        "halfcheetah": 6,
        "hopper": 6,
        "walker2d": 6,
        "antmaze": 12,
        "pen": 3,
        "hammer": 3,
        "door": 3,
        "relocate": 3,
        "kitchen": 3,
        "maze2d": 8,
    }
    assert len({file.name for file in files.values()}) == len(files)
    for task_id, file in files.items():
        assert file.task_id == task_id
        assert file.url.startswith("http://rail.eecs.berkeley.edu/datasets/offline_rl/")
        assert file.url.endswith(f"/{file.name}")


def test_shapes_of_published_files():
    files = d4rl_files()
    assert dict(files["hopper-medium-v2"].shapes) == {
        "observations": (11,),
        "actions": (3,),
        "rewards": (),
        "terminals": (),
        "timeouts": (),
        "next_observations": (11,),
        "infos/qpos": (6,),
        "infos/qvel": (6,),
    }
    assert dict(files["antmaze-umaze-v2"].shapes)["infos/goal"] == (2,)
    assert "timeouts" not in files["kitchen-mixed-v0"].shapes


# Finding and fetching


def test_the_cache_is_d4rls(cache, tmp_path, monkeypatch):
    assert datasets_folder() == cache
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets_folder() == tmp_path / ".d4rl" / "datasets"
    monkeypatch.setenv("D4RL_DATASET_DIR", "~/here")
    assert datasets_folder() == tmp_path / "here"


def test_local_files(cache):
    cache.mkdir()
    (cache / "pen-human-v1.hdf5").touch()
    (cache / NAME).mkdir()
    assert local_files(["hopper-medium-v2", "pen-human-v1"]) == {
        "hopper-medium-v2": None,
        "pen-human-v1": cache / "pen-human-v1.hdf5",
    }
    assert "did you mean hopper-medium-v2" in error_of(local_files, ["hopper-medium-v1"])


def test_a_stored_file_is_used_as_it_is(cache):
    cache.mkdir()
    (cache / NAME).write_bytes(b"anything")
    assert obtain_d4rl("hopper-medium-v2", mirror="http://127.0.0.1:9/", progress=quiet()) == cache / NAME
    assert obtain_d4rl("hopper-medium-v2", download=False) == cache / NAME


def test_without_download_a_missing_file_is_named(cache):
    message = error_of(obtain_d4rl, "hopper-medium-v2", download=False)
    assert message.startswith(f"{NAME}, D4RL's file of hopper-medium-v2, is not stored at {cache / NAME}")
    assert d4rl_files()["hopper-medium-v2"].url in message
    assert not cache.exists()


def test_from_a_mirror(server, cache):
    shown = io.StringIO()
    path = obtain_d4rl("hopper-medium-v2", mirror=server.base + "/", progress=Console(file=shown))
    assert path == cache / NAME
    assert path.read_bytes() == server.content
    assert stored(cache) == [NAME]
    assert server.requests == [(f"/data/{NAME}", None)]
    assert shown.getvalue().split() == f"{NAME}: fetching it from {server.url}".split()
    assert load_dataset(str(path), Spec(11, 3)).transitions.row.size == 1980


@pytest.mark.parametrize("as_address", [True, False])
def test_from_a_local_folder(cache, tmp_path, as_address):
    folder = tmp_path / "a mirror"
    folder.mkdir()
    (folder / NAME).write_bytes(hdf5_bytes())
    mirror = folder.as_uri() if as_address else str(folder)
    assert obtain_d4rl("hopper-medium-v2", mirror=mirror, progress=quiet()).read_bytes() == hdf5_bytes()
    assert stored(cache) == [NAME]
    message = error_of(obtain_d4rl, "hopper-expert-v2", mirror=mirror, progress=quiet())
    assert message.startswith("hopper_expert-v2.hdf5: cannot be fetched from file:///")
    assert "No such file" in message


def test_the_published_address_is_used_without_a_mirror(monkeypatch, cache):
    asked = []
    monkeypatch.setattr(download, "fetch", lambda url, path, **keywords: asked.append((url, path)) or path)
    assert obtain_d4rl("kitchen-mixed-v0") == cache / "kitchen_microwave_kettle_bottomburner_light-v0.hdf5"
    assert asked[0][0] == d4rl_files()["kitchen-mixed-v0"].url


def test_mirrors_of_other_kinds_are_refused():
    assert "mirror 's3://bucket' is unknown" in error_of(mirror_url, "s3://bucket", NAME)
    assert mirror_url("https://host/a/", NAME) == f"https://host/a/{NAME}"
    assert "malformed" in error_of(fetch, "http://[::1/x", datasets_folder() / NAME, progress=quiet())


# Dropped connections


def test_a_dropped_connection_is_taken_up_where_it_ended(server, cache):
    server.script = [-10_000, -7_000]
    shown = io.StringIO()
    assert get(server, cache, progress=Console(file=shown, width=200)).read_bytes() == server.content
    assert ranges(server) == [None, "bytes=10000-", "bytes=17000-"]
    assert stored(cache) == [NAME]
    assert shown.getvalue().count("the connection ended after 0.0 MB of 0.1 MB; trying again in 0 s") == 2


def test_last_modified_is_enough_to_go_on(server, cache):
    server.etag, server.last_modified = None, "Tue, 01 Sep 2020 00:00:00 GMT"
    server.script = [-10_000]
    assert get(server, cache).read_bytes() == server.content
    assert ranges(server) == [None, "bytes=10000-"]


def test_without_a_mark_of_the_version_it_begins_anew(server, cache):
    server.etag = None
    server.script = [-10_000]
    assert get(server, cache).read_bytes() == server.content
    assert ranges(server) == [None, None]


def test_the_next_process_goes_on(server, cache):
    server.script = [-10_000]
    message = error_of(get, server, cache, delays_s=())
    assert message.startswith(f"{NAME}: cannot be fetched from {server.url}: 1 attempts failed, the last because")
    assert f"put the file at {cache / NAME}, or give another address or folder as --mirror" in message
    assert stored(cache) == [f".{NAME}.part", f".{NAME}.part.json"]
    assert get(server, cache).read_bytes() == server.content
    assert ranges(server) == [None, "bytes=10000-"]


def test_attempts_are_finite(server, cache):
    server.script = [-100] * 50
    assert "4 attempts failed" in error_of(get, server, cache)
    assert ranges(server) == [None, "bytes=100-", "bytes=200-", "bytes=300-"]


def test_waits_between_attempts_grow(server, cache, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.script = [503] * 50
    assert "the server answers 503" in error_of(get, server, cache, delays_s=(1.0, 2.0, 4.0))
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_that_ignores_ranges(server, cache):
    server.script = [-10_000]
    server.has_ranges = False
    assert get(server, cache).read_bytes() == server.content
    assert ranges(server) == [None, "bytes=10000-"]


def test_a_server_that_hangs_up_at_once(server, cache):
    server.script = [lambda handler: True]
    assert get(server, cache).read_bytes() == server.content


def test_a_server_that_stalls(server, cache):
    over = threading.Event()
    server.script = [lambda handler: over.wait(20)]
    try:
        assert get(server, cache, timeout_s=0.2).read_bytes() == server.content
    finally:
        over.set()


def changed(server: Server) -> Callable[[BaseHTTPRequestHandler], bool]:
    def change(handler: BaseHTTPRequestHandler) -> bool:
        server.content, server.etag = hdf5_bytes(seed=1), '"two"'
        return False

    return change


def test_a_file_that_changes_between_attempts(server, cache):
    server.script = [-10_000, changed(server)]
    assert get(server, cache).read_bytes() == hdf5_bytes(seed=1)
    assert ranges(server) == [None, "bytes=10000-"]


def lying(begin: int, etag: str, total: int) -> Callable[[BaseHTTPRequestHandler], bool]:
    def answer(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        handler.send_header("ETag", etag)
        handler.send_header("Content-Length", str(total - begin))
        handler.end_headers()
        handler.wfile.write(bytes(total - begin))
        return True

    return answer


def test_a_server_that_ignores_the_condition(server, cache):
    whole = len(server.content)
    for begin, etag, total in ((10_000, '"two"', whole), (10_000, '"one"', whole + 1), (9_999, '"one"', whole)):
        server.script = [-10_000, lying(begin, etag, total)]
        server.requests.clear()
        assert get(server, cache).read_bytes() == server.content
        assert ranges(server) == [None, "bytes=10000-", None]
        (cache / NAME).unlink()


def test_a_file_that_became_shorter(server, cache):
    def shorter(handler: BaseHTTPRequestHandler) -> bool:
        server.content = hdf5_bytes(seed=1, rows=100)
        return False

    server.script = [-100_000, shorter]
    server.content = hdf5_bytes(rows=3000)
    assert get(server, cache).read_bytes() == hdf5_bytes(seed=1, rows=100)
    assert ranges(server) == [None, "bytes=100000-", None]


def test_a_part_of_another_address_is_not_continued(server, cache):
    server.script = [-10_000]
    error_of(get, server, cache, delays_s=())
    other = fetch(server.url.replace("/data/", "/other/"), cache / NAME, progress=quiet(), delays_s=DELAYS)
    assert other.read_bytes() == server.content
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"url": 1}'])
def test_a_part_whose_record_is_damaged_is_not_continued(server, cache, damage):
    cache.mkdir()
    (cache / f".{NAME}.part").write_bytes(bytes(500))
    (cache / f".{NAME}.part.json").write_text(damage)
    assert get(server, cache).read_bytes() == server.content
    assert ranges(server) == [None]


def test_a_complete_part_needs_no_server(server, cache):
    cache.mkdir()
    (cache / f".{NAME}.part").write_bytes(server.content)
    record = {"url": server.url, "etag": '"one"', "last_modified": None, "length": len(server.content)}
    (cache / f".{NAME}.part.json").write_text(json.dumps(record))
    assert get(server, cache).read_bytes() == server.content
    assert server.requests == []
    assert stored(cache) == [NAME]


# Refusals and damage


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refusals_are_one_line_at_once(server, cache, status):
    server.script = [status]
    message = error_of(obtain_d4rl, "hopper-medium-v2", mirror=server.base, progress=quiet())
    assert message.startswith(f"{NAME}: cannot be fetched from {server.url}: the server answers {status} ")
    assert f"put the file at {cache / NAME}, or give another address or folder as --mirror" in message
    assert len(server.requests) == 1
    assert stored(cache) == []


def test_a_server_that_is_down(server, cache):
    server.close()
    message = error_of(get, server, cache)
    assert message.startswith(f"{NAME}: cannot be fetched from {server.url}: the address cannot be reached (")
    assert f"put the file at {cache / NAME}" in message
    assert stored(cache) == []


def test_the_checksum_is_compared(server, cache):
    right = hashlib.sha256(server.content).hexdigest()
    assert get(server, cache, sha256=right.upper()).read_bytes() == server.content
    (cache / NAME).unlink()
    flipped = bytearray(server.content)
    flipped[50_000] ^= 1
    server.content = bytes(flipped)
    message = error_of(get, server, cache, sha256=right)
    assert f"what arrived has the SHA-256 {hashlib.sha256(flipped).hexdigest()}, not {right}" in message
    assert stored(cache) == []


@pytest.mark.parametrize("content", [b"<html>Please sign in</html>", b"", hdf5_bytes()[:30_000]])
def test_what_is_no_hdf5_file_does_not_stay(server, cache, content):
    server.content = content
    assert f"what arrived is not a sound HDF5 file (it begins with {content[:24]!r})" in error_of(get, server, cache)
    assert stored(cache) == []


def test_a_file_of_unknown_length(server, cache):
    server.has_length = False
    assert get(server, cache).read_bytes() == server.content
    (cache / NAME).unlink()
    server.script = [-10_000]  # the end of the connection is the end of the file: only HDF5 can tell
    assert "not a sound HDF5 file" in error_of(get, server, cache)


def test_a_file_that_is_too_large_for_the_disk(server, cache, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    message = error_of(get, server, cache)
    assert message == (
        f"{NAME}: needs {len(server.content) / 1e6:.1f} MB in {cache}, which has 0.0 MB left; "
        "set D4RL_DATASET_DIR to a folder with room"
    )


def test_a_cache_that_cannot_be_written(server, cache):
    cache.write_text("a file")
    message = error_of(get, server, cache)
    assert message.startswith(f"{NAME}: cannot be stored in {cache} (")
    assert server.requests == []


def test_an_interruption_keeps_what_has_arrived(server, cache, monkeypatch):
    server.script = [-10_000]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get(server, cache)
    assert stored(cache) == [f".{NAME}.part", f".{NAME}.part.json"]
    assert get(server, cache).read_bytes() == server.content
    assert ranges(server)[1] == "bytes=10000-"


def test_progress_shows_size_and_time_left(server, cache, monkeypatch):
    monkeypatch.setattr(download, "_LINE_S", 0.0)
    line = re.compile(rf"{NAME}: \d\.\d MB of 0\.1 MB, about \d+ s left")
    for terminal in (False, True):  # a terminal that cannot go back in a line gets lines too
        monkeypatch.setenv("TERM", "dumb")
        shown = io.StringIO()
        get(server, cache, progress=Console(file=shown, width=200, force_terminal=terminal, color_system=None))
        assert line.search(shown.getvalue())
        (cache / NAME).unlink()
    monkeypatch.setenv("TERM", "xterm")
    terminal = io.StringIO()
    get(server, cache, progress=Console(file=terminal, width=200, force_terminal=True, color_system=None))
    assert "left" in terminal.getvalue()
    assert "MB/s" in terminal.getvalue() or "kB" in terminal.getvalue()


# Several processes

FETCHER = """
import sys
from diffjax.data.download import obtain_d4rl
print("ready", flush=True)
sys.stdin.readline()
print(obtain_d4rl("hopper-medium-v2", mirror=sys.argv[1]))
"""


def fetcher(server: Server) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, server.base],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def started(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def test_of_two_processes_one_fetches(server, cache):
    may_answer = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> bool:
        may_answer.wait(60)
        return False

    server.script = [slow]
    first, second = fetcher(server), fetcher(server)
    errors = []
    try:
        started(first)
        while not server.requests:
            assert first.poll() is None
        started(second)
        assert second.stderr is not None
        assert "another process is fetching it; waiting for its file" in second.stderr.readline()
        may_answer.set()
        for process in (first, second):
            output, error = process.communicate(timeout=60)
            assert process.returncode == 0, error
            assert output == f"{cache / NAME}\n"
            errors.append(error)
    finally:
        for process in (first, second):
            process.kill()
    assert len(server.requests) == 1
    assert (cache / NAME).read_bytes() == server.content
    assert stored(cache) == [NAME]


def test_a_killed_process_leaves_no_lock(server, cache):
    over = threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("ETag", '"one"')
        handler.send_header("Content-Length", str(len(server.content)))
        handler.end_headers()
        handler.wfile.write(server.content[:10_000])
        handler.wfile.flush()
        over.wait(60)
        return True

    server.script = [half]
    process = fetcher(server)
    part = cache / f".{NAME}.part"
    try:
        started(process)
        while not part.exists():
            assert process.poll() is None
        os.kill(process.pid, 9)
        process.communicate()
    finally:
        over.set()
        process.kill()
    assert get(server, cache).read_bytes() == server.content
    assert stored(cache) == [NAME]
