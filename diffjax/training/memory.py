"""What a training program takes of the devices' memory, by the compiler's own analysis, and how many runs fit."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.training.program import Program, RunSetup
from diffjax.words import count

HOST_SHARE = 0.9  # of the host's memory, where the host is the device: the rest is the simulators'
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MemoryUse(NamedTuple):
    """Bytes of each device that a program takes while ``runs`` runs are on the devices, and what a device has."""

    runs: int
    state: int  # parameters, moments, and all else that training changes
    data: int  # the data sets and what the runs are trained with
    temporaries: int
    limit: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.data + self.temporaries

    @property
    def words(self) -> str:
        """On one line."""
        parts = f"{size(self.state)} of state, {size(self.data)} of data, {size(self.temporaries)} of temporaries"
        devices = jax.local_devices()[0].device_kind
        return f"{count(self.runs, 'run')} at once: {parts}; {size(self.limit)} on each device ({devices})"


def size(number: int) -> str:
    """Bytes, readable."""
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"


def device_memory() -> int:
    """Bytes of a local device, or its part of the host's memory where the host is the device."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return int(HOST_SHARE * host_memory()) // len(jax.local_devices())


def host_memory() -> int:
    """Bytes that this process may use of the host's."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in _CGROUP_LIMITS:  # of a container
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return min(limits)


def memory_use(
    program: Program, runs: int, phases: Sequence[int], setup: RunSetup, data: Transitions, limit: int
) -> MemoryUse:
    """Compiles the programs of some phases for so many runs, which training will find compiled.

    Args:
      setup: of all runs; only shapes are read.
    """
    state = size_of(program.state_shapes(runs, setup, data)) // program.devices
    arguments = size_of(data) + size_of(setup) * runs // (setup.data.offset.shape[0] * program.devices)
    temporaries = 0
    for phase in phases:
        found = program.compiled(phase, runs, setup, data).memory_analysis()
        if found is not None:
            fresh = found.output_size_in_bytes - found.alias_size_in_bytes  # results that take no argument's place
            temporaries = max(temporaries, found.temp_size_in_bytes + max(fresh, 0))
    return MemoryUse(runs, state, arguments, temporaries, limit)


def fit(
    program_for: Callable[[int], Program],
    runs: int,
    phases: Sequence[int],
    setup: RunSetup,
    data: Transitions,
    limit: int,
) -> MemoryUse:
    """The memory for ``runs`` runs at once, or where they do not fit for as many as do; one at least.

    Of fewer than all as few as make as many turns, since every turn is padded to the longest. Temporaries are of one
    run, whatever their number, where a device takes them one by one.
    """
    total = setup.data.offset.shape[0]
    while True:
        runs = -(-total // -(-total // runs))
        program = program_for(runs)
        use = memory_use(program, runs, phases, setup, data, limit)
        if use.total <= limit or runs == 1:
            return use
        fixed = use.data + (use.temporaries if program.takes_one_by_one else 0)
        room = (limit - fixed) / (use.total - fixed)
        runs = max(1, min(runs - 1, round(runs * room)))


def size_of(tree: Any) -> int:
    """Bytes of arrays, or of arrays of these shapes."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def _size(leaf: Any) -> int:
    try:
        itemsize = np.dtype(leaf.dtype).itemsize
    except TypeError:  # of a key
        itemsize = 8
    return int(np.prod(leaf.shape, dtype=object)) * itemsize
