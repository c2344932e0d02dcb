"""A compiled program: how long the first call takes, cold and from the cache, and what the compiler says of it."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache

Result = TypeVar("Result")
MIB = 2**20
ON_DEVICE, BY_COMPILER = "device", "compiler"


class Starts(NamedTuple):
    """Seconds until something that compiles is done; None where it was not measured."""

    cold_s: float | None = None
    warm_s: float | None = None  # in a process of its own that finds the programs in the persistent cache


def started(start: Callable[[], Result]) -> tuple[Result, Starts]:
    """What ``start`` returns, and how long it takes with an empty cache of programs and from a full one.

    It is called twice. Between the calls the programs in memory are dropped, so that the second traces anew and finds
    in a folder what the first compiled.
    """
    with _own_cache():
        jax.clear_caches()
        begin = time.perf_counter()
        jax.block_until_ready(start())
        cold = time.perf_counter() - begin
        jax.clear_caches()
        begin = time.perf_counter()
        result = start()
        jax.block_until_ready(result)
        return result, Starts(cold, time.perf_counter() - begin)


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """An empty cache of compiled programs, which holds even the smallest; the one before is in use again after it."""
    options: dict[str, Any] = {
        "jax_enable_compilation_cache": True,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with tempfile.TemporaryDirectory() as folder:
        options["jax_compilation_cache_dir"] = folder
        before = {name: jax.config.values[name] for name in options}
        try:
            for name, value in options.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


class Analysis(NamedTuple):
    """What XLA says of a compiled program; it counts the body of a loop once."""

    gflop: float | None
    mib: float | None  # accessed
    arguments_mib: float
    temporary_mib: float
    peak_mib: float  # arguments, results and temporaries, shared memory once


def analysis(compiled: Any) -> Analysis:
    """The compiler's cost and memory analyses; None for what a platform does not say."""
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    flop, accessed = cost.get("flops"), cost.get("bytes accessed")
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Analysis(
        None if flop is None else 1e-9 * flop,
        None if accessed is None else accessed / MIB,
        memory.argument_size_in_bytes / MIB,
        memory.temp_size_in_bytes / MIB,
        (held + memory.temp_size_in_bytes) / MIB,
    )


class Peak(NamedTuple):
    """The most memory that a measurement took, and who says so."""

    peak_mib: float
    peak_source: str  # ON_DEVICE: the device's own count, BY_COMPILER: of the program alone


def device_peak() -> int | None:
    """The most bytes that were in use on the first device since the process began; None where it does not count."""
    counted = jax.local_devices()[0].memory_stats()
    return None if counted is None else counted.get("peak_bytes_in_use")


def peak(before: int | None, found: Analysis) -> Peak:
    """The peak of a measurement: the device's if it rose since ``before``, as only then it is this program's own."""
    now = device_peak()
    if now is not None and before is not None and now > before:
        return Peak(now / MIB, ON_DEVICE)
    return Peak(found.peak_mib, BY_COMPILER)
