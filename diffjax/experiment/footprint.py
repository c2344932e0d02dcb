"""The memory that training needs for certain, so that what can never fit is refused before anything is written."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from diffjax.errors import UserError
from diffjax.experiment.plan import Group, Plan
from diffjax.methods.base import example_batches
from diffjax.numerics import random_key
from diffjax.training.batches import Prepared
from diffjax.training.flops import inner_programs

GIB = 2**30


def check_footprint(plan: Plan, data: Prepared, updates: Iterable[ClosedJaxpr]) -> None:
    """That every group of an experiment can fit; ``updates`` are the programs of the first group's phases, of one run.

    Raises:
      UserError: one cannot; says what takes most.
    """
    largest_array = max(map(_largest_operation, updates), default=0)
    for group in plan.groups:
        parts = footprint(plan, group, data, largest_array)
        largest_array = 0
        needed, there = sum(parts.values()), memory() * len(jax.local_devices())
        if needed > there:
            largest = max(parts, key=lambda name: parts[name])
            raise UserError(
                f"{plan.experiment.method} on {plan.task.id} needs at least {needed / GIB:,.1f} GiB, and there are "
                f"{there / GIB:,.1f}; most is for {largest} ({parts[largest] / GIB:,.1f} GiB)"
            )


def footprint(plan: Plan, group: Group, data: Prepared, largest_operation: int = 0) -> dict[str, int]:
    """Bytes that a group takes at least, by what for; a compiled step takes more."""
    runs, spec = len(group.trained), plan.spec
    hyper = group.trained[0].hyper
    state = jax.eval_shape(lambda: plan.method.init(random_key(0), spec, hyper))
    batches = jax.eval_shape(lambda: example_batches(plan.method.view, spec, hyper.batch_size))
    # Observations and actions of one step, in the simulator and on the device, and the simulator's own state.
    episode = 4 * (4 * (spec.observation_dim + spec.action_dim)) + 1024
    return {
        f"{runs} run{'s' * (runs > 1)}": runs * _bytes(state),
        "the data": _bytes(data.transitions),
        "one update's arrays (batch_size, hidden_dims)": runs * max(largest_operation, _bytes(batches)),
        "the episodes of an evaluation": runs * plan.protocol.episodes * episode,
    }


def memory() -> int:
    """Bytes of a device, or of the host where that is the device."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(jax.local_devices())


def _bytes(tree: Any) -> int:
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def _size(leaf: Any) -> int:
    try:
        itemsize = np.dtype(leaf.dtype).itemsize
    except TypeError:  # of a key
        itemsize = 8
    return int(np.prod(leaf.shape, dtype=object)) * itemsize


def _largest_operation(program: ClosedJaxpr) -> int:
    """Bytes of the results that the most demanding operation of a program leaves."""
    return max((sum(_size(result.aval) for result in one.outvars) for one in _operations(program.jaxpr)), default=0)


def _operations(program: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in program.eqns:
        programs = list(inner_programs(equation.params))
        for one in programs:
            yield from _operations(one.jaxpr)
        if not programs:
            yield equation
