"""Compiled programs are kept where the user may look for them, within bounds, and nothing depends on it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from diffjax.launch.compilation_cache import LARGEST, SHORTEST_S, keep_programs, make_ready, own_folder

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)
TWICE = """
import sys
import jax, jax.numpy as jnp
from diffjax.launch.compilation_cache import keep_programs

keep_programs(None)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
found = []
for _ in range(2):
    found.append(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.linspace(0, 1, 64).reshape(8, 8)).tobytes())
    jax.clear_caches()
assert found[0] == found[1]
print(events.count("cache_hits") >= 1, jax.config.values["jax_compilation_cache_dir"])
"""


@pytest.fixture
def options(monkeypatch):
    """JAX as it is when nobody has said anything of its cache."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    for name in OPTIONS:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    yield lambda: tuple(jax.config.values[name] for name in OPTIONS)
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-W", "error:Error:UserWarning", "-c", TWICE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    hit, folder = done.stdout.split()
    assert hit == "True"
    programs = list(Path(folder).glob("*-cache"))
    assert tmp_path in Path(folder).parents
    assert Path(folder).stat().st_mode & 0o77 == 0
    programs[0].with_name(programs[0].name.replace("-cache", "-atime")).unlink()  # as if killed while it was written
    assert make_ready(Path(folder))
    assert sorted(Path(folder).glob("*-cache")) == sorted(programs[1:])


def test_the_users_own_words_come_first(options, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs(None)
    assert options() == (str(own_folder()), LARGEST, True, SHORTEST_S)
    jax.config.update("jax_compilation_cache_dir", "theirs")
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    keep_programs(None)
    assert options() == ("theirs", -1, True, 7.0)
    keep_programs(str(tmp_path / "named"))
    assert options() == (str(tmp_path / "named"), -1, True, SHORTEST_S)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "9")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 9.0)
    keep_programs(str(tmp_path / "named"))
    assert options()[3] == 9.0


def test_none_where_it_is_not_wanted_or_cannot_be(options, monkeypatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs(None)
    assert options() == (None, -1, True, 1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "filelock", None)
    keep_programs(None)
    assert options()[0] is None
    monkeypatch.undo()
    jax.config.update("jax_enable_compilation_cache", False)
    keep_programs(str(tmp_path))
    assert options()[0] is None


def test_folders(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # counts for nothing
    monkeypatch.setenv("HOME", "/nobody")
    folder = own_folder()
    assert folder is not None
    assert folder.is_relative_to("/nobody")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert own_folder() == folder
