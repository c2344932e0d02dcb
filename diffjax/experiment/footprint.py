"""The memory that training needs for certain, so that what can never fit is refused before anything is written."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from diffjax.errors import UserError
from diffjax.experiment.plan import Group, Plan
from diffjax.methods.base import example_batches
from diffjax.methods.checks import example_labels
from diffjax.numerics import random_key
from diffjax.training.batches import Prepared
from diffjax.training.flops import inner_programs
from diffjax.training.memory import device_memory, host_memory, size, size_of
from diffjax.words import count


class Footprint(NamedTuple):
    """Bytes that a group takes at least, by what for; a compiled step takes more."""

    device: dict[str, int]  # for one run at a time
    host: dict[str, int]  # for all


def check_footprint(plan: Plan, data: Iterable[Prepared], updates: Iterable[ClosedJaxpr]) -> None:
    """That every group of an experiment can be trained, a run at a time if need be.

    Args:
      data: of each group.
      updates: the programs of the first group's phases, of one run.

    Raises:
      UserError: one cannot; says what takes most.
    """
    largest_array = max(map(_largest_operation, updates), default=0)
    for group, prepared in zip(plan.groups, data, strict=True):
        found = footprint(plan, group, prepared, largest_array)
        largest_array = 0
        for parts, there in ((found.device, device_memory()), (found.host, host_memory())):
            if (needed := sum(parts.values())) > there:
                largest, _ = max(parts.items(), key=lambda part: part[1])
                raise UserError(
                    f"{plan.experiment.method} on {plan.task.id} needs at least {size(needed)}, and there are "
                    f"{size(there)}; most is for {largest} ({size(parts[largest])})"
                )


def footprint(plan: Plan, group: Group, data: Prepared, largest_operation: int = 0) -> Footprint:
    """What a group takes; ``largest_operation`` is that of an update's results that takes most."""
    runs, spec = len(group.trained), plan.spec
    hyper = group.trained[0].hyper
    state = size_of(jax.eval_shape(lambda: plan.method.init(random_key(0), spec, hyper)))
    view, largest_batch = plan.method.view.sized(hyper), max(phase.batch_size(hyper) for phase in plan.method.phases)
    batches = size_of(jax.eval_shape(lambda: example_batches(view, spec, largest_batch)))
    of_row = [
        size_of(example_labels(plan.method, number, spec, hyper))
        for number, phase in enumerate(plan.method.phases)
        if phase.relabel is not None
    ]
    rows = data.transitions.reward.shape[0]
    labels = {"the labels of all rows": rows * sum(of_row)} if of_row else {}
    # Observations and actions of one step, in the simulator and on the device, and the simulator's own state.
    episode = 4 * (4 * (spec.observation_dim + spec.action_dim)) + 1024
    held = {"the data": size_of(data.transitions)}
    arrays = {"one update's arrays (batch_size, hidden_dims)": max(largest_operation, batches)}
    episodes = {"the episodes of an evaluation": runs * plan.protocol.episodes * episode}
    return Footprint(
        {"1 run": state, **labels, **held, **arrays},
        {count(runs, "run"): runs * state, **held, **episodes},
    )


def _largest_operation(program: ClosedJaxpr) -> int:
    """Bytes of the results that the most demanding operation of a program leaves."""
    return max((sum(size_of(result.aval) for result in one.outvars) for one in _operations(program.jaxpr)), default=0)


def _operations(program: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in program.eqns:
        programs = list(inner_programs(equation.params))
        for one in programs:
            yield from _operations(one.jaxpr)
        if not programs:
            yield equation
