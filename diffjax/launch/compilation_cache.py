"""Where compiled programs are kept for the next time, so that the first update of the same program comes at once."""

import hashlib
import os
import platform
import sys
from pathlib import Path

LARGEST = 2 * 2**30
"""Bytes of a folder of diffjax's own; the programs that were used longest ago go first."""
SHORTEST_S = 0.5
"""What takes less to compile is compiled anew."""
ENTRY, USED, LOCK = "-cache", "-atime", ".lockfile"
"""How JAX names a program, the file written after it that says when it was used, and what it locks."""


def keep_programs(folder: str | None) -> None:
    """Keep what this process compiles from here on, and take what another has kept.

    In ``folder``, else where JAX was told to (``JAX_COMPILATION_CACHE_DIR``), else in one of the user's caches, of at
    most :data:`LARGEST` bytes; where that one cannot be made or locked, nowhere. ``JAX_ENABLE_COMPILATION_CACHE=0``
    keeps nothing. Only programs are kept, which are the same bytes as if they were compiled: no number changes.
    """
    import jax

    told = jax.config.values["jax_compilation_cache_dir"]
    if not jax.config.values["jax_enable_compilation_cache"] or (folder is None and told):
        return
    if folder is None:
        own = own_folder()
        if own is None or not make_ready(own):
            return
        folder = str(own)
        _unless_told("jax_compilation_cache_max_size", LARGEST)
    _unless_told("jax_persistent_cache_min_compile_time_secs", SHORTEST_S)
    jax.config.update("jax_compilation_cache_dir", folder)


def own_folder() -> Path | None:
    """The user's cache for programs of this kind of processor; None for a user without a home.

    XLA compiles for the very processor that it runs on, and a home may be shared by machines that differ.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        caches = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:
        caches = Path()
    if os.path.isabs(given):
        caches = Path(given)
    return caches / "diffjax" / "jax" / _processor() if caches.is_absolute() else None


def make_ready(folder: Path) -> bool:
    """Whether a folder can be written and locked; makes it, for its user alone.

    A program that was being written when its process was killed is removed: JAX would stumble over it for ever.
    """
    try:
        from filelock import FileLock

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=5):
            for entry in folder.glob(f"*{ENTRY}"):
                if not entry.with_name(entry.name.removesuffix(ENTRY) + USED).exists():
                    entry.unlink()
    except (ImportError, OSError, NotImplementedError):  # the last of a file system without locks
        return False
    return True


def _unless_told(option: str, value: float) -> None:
    import jax

    if option.upper() not in os.environ:
        jax.config.update(option, value)


def _processor() -> str:
    """Of a name and features a few digits."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    facts = {name.strip(): value for name, _, value in (line.partition(":") for line in lines)}
    told = [facts.get(name, "") for name in ("model name", "flags", "CPU part", "Features")]
    return hashlib.sha256(" ".join([platform.machine(), platform.processor(), *told]).encode()).hexdigest()[:12]
