"""A program run as published ones are: its loops are Python's, and every iteration is a dispatch of its own.

The papers' programs act in a loop on the host: one call per step of the reverse chain and one for what comes before and
after, arrays staying on the device in between. A method does not say where its chain is, and need not: whatever solver
it takes, the chain is a ``scan`` of the program that acts. So the program is traced and cut at its scans; what lies
between two of them is compiled by itself, a scan's body too, and Python calls them one after the other. What is
computed is the same to rounding, of any method, and a method without a chain is one call.

What this leaves out of the published cost: within a step everything is fused, where programs that run operation by
operation launch each alone. The gain over such programs is larger than over this.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from diffjax.training.flops import inner_programs


class Row(NamedTuple):
    """An element of an array that a loop runs over; taken by the program that reads it."""

    whole: Any
    index: Any


class Stack(NamedTuple):
    """What a loop gave, an array per iteration; stacked by the program that reads it."""

    parts: tuple[Any, ...]


Values = dict[Var, Any]


class Segment(NamedTuple):
    """Operations that are one dispatch."""

    reads: tuple[Var, ...]
    writes: tuple[Var, ...]
    call: Callable[[list[Any]], list[Any]]

    @property
    def dispatches(self) -> int:
        """Calls of compiled programs."""
        return 1

    def run(self, values: Values) -> None:
        """Computes what it writes."""
        values.update(zip(self.writes, self.call([values[variable] for variable in self.reads]), strict=True))


class Loop(NamedTuple):
    """A scan."""

    equation: JaxprEqn
    body: "Plan"

    @property
    def dispatches(self) -> int:
        """Calls of compiled programs."""
        return int(self.equation.params["length"]) * self.body.dispatches

    def run(self, values: Values) -> None:
        """Runs the body as often as the scan says."""
        params = self.equation.params
        inputs = [_read(values, atom) for atom in self.equation.invars]
        first, past = params["num_consts"], params["num_consts"] + params["num_carry"]
        constants, carry, rows = inputs[:first], inputs[first:past], inputs[past:]
        order = range(params["length"])
        given = []
        for index in reversed(order) if params["reverse"] else order:
            outputs = self.body.run([*constants, *carry, *(_row(whole, index) for whole in rows)])
            carry = outputs[: params["num_carry"]]
            given.append(outputs[params["num_carry"] :])
        if params["reverse"]:
            given.reverse()
        stacks = [Stack(parts) for parts in zip(*given, strict=True)]
        values.update(zip(self.equation.outvars, [*carry, *stacks], strict=True))


class Inner(NamedTuple):
    """A function that has loops within."""

    equation: JaxprEqn
    body: "Plan"

    @property
    def dispatches(self) -> int:
        """Calls of compiled programs."""
        return self.body.dispatches

    def run(self, values: Values) -> None:
        """Calls it."""
        outputs = self.body.run([_read(values, atom) for atom in self.equation.invars])
        values.update(zip(self.equation.outvars, outputs, strict=True))


Step = Segment | Loop | Inner


class Plan(NamedTuple):
    """A program in pieces, in order."""

    program: ClosedJaxpr
    steps: tuple[Step, ...]

    @property
    def dispatches(self) -> int:
        """Calls of compiled programs."""
        return sum(step.dispatches for step in self.steps)

    @property
    def outputs(self) -> list[Var]:
        """The variables among its outputs."""
        return [atom for atom in self.program.jaxpr.outvars if isinstance(atom, Var)]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs for some inputs."""
        program, constants = self.program.jaxpr, self.program.consts
        values: Values = dict(zip([*program.constvars, *program.invars], [*constants, *inputs], strict=True))
        for step in self.steps:
            step.run(values)
        return [_read(values, atom) for atom in program.outvars]


class HostLoop:
    """A function as a loop on the host, for arguments of these shapes; ``dispatches`` a call.

    ``while`` loops, whose length only the device knows, stay on the device.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self._tree = jax.tree.structure(shapes)
        self._plan = _plan(program)
        self._finish = jax.jit(lambda outputs: [_value(output) for output in outputs])
        ends_in_parts = not _in_parts(self._plan).isdisjoint(self._plan.outputs)
        self.dispatches = self._plan.dispatches + ends_in_parts

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        outputs = self._plan.run(jax.tree.leaves(arguments))
        if any(isinstance(output, Row | Stack) for output in outputs):
            outputs = self._finish(outputs)
        return jax.tree.unflatten(self._tree, outputs)


def _plan(program: ClosedJaxpr) -> Plan:
    """Cuts a program at its loops; operations that nothing reads are left out."""
    needed = set(Plan(program, ()).outputs)
    steps: list[Step] = []
    for piece in reversed(_pieces(program.jaxpr.eqns)):
        made = _variables(variable for equation in piece for variable in equation.outvars)
        writes = tuple(variable for variable in made if variable in needed)
        if not writes:
            continue
        reads = tuple(variable for variable in _variables(_inputs(piece)) if variable not in made)
        needed |= set(reads)
        steps.append(_step(program.jaxpr, piece, reads, writes))
    return Plan(program, tuple(reversed(steps)))


def _in_parts(plan: Plan) -> set[Var]:
    """The variables of a plan that are arrays of several iterations, not yet stacked."""
    found: set[Var] = set()
    for step in plan.steps:
        if isinstance(step, Loop):
            found |= set(step.equation.outvars[step.equation.params["num_carry"] :])
        elif isinstance(step, Inner):
            inner = _in_parts(step.body)
            pairs = zip(step.equation.outvars, step.body.program.jaxpr.outvars, strict=True)
            found |= {variable for variable, own in pairs if isinstance(own, Var) and own in inner}
    return found


def _pieces(equations: Iterable[JaxprEqn]) -> list[list[JaxprEqn]]:
    """Equations with loops within alone, those between together."""
    grouped = itertools.groupby(enumerate(equations), lambda one: one[0] if _has_loop(one[1]) else -1)
    return [[equation for _, equation in group] for _, group in grouped]


def _step(program: Jaxpr, piece: list[JaxprEqn], reads: tuple[Var, ...], writes: tuple[Var, ...]) -> Step:
    first = piece[0]
    if _has_loop(first):
        body = _plan(next(inner_programs(first.params)))
        return Loop(first, body) if first.primitive.name == "scan" else Inner(first, body)
    part = program.replace(constvars=(), invars=reads, outvars=writes, eqns=piece)
    return Segment(
        reads, writes, jax.jit(lambda inputs: jax.core.eval_jaxpr(part, (), *(_value(given) for given in inputs)))
    )


def _has_loop(equation: JaxprEqn) -> bool:
    """Whether an equation is a scan, or a call of a function that has one."""
    if equation.primitive.name == "scan":
        return equation.params["length"] > 0
    inner = list(inner_programs(equation.params))
    is_call = len(inner) == 1 and len(inner[0].in_avals) == len(equation.invars)
    return is_call and equation.primitive.name != "while" and any(map(_has_loop, inner[0].eqns))


def _inputs(piece: Iterable[JaxprEqn]) -> Iterator[Any]:
    return (atom for equation in piece for atom in equation.invars if not isinstance(atom, Literal))


def _variables(found: Iterable[Any]) -> dict[Var, None]:
    """Variables once each, in order."""
    return dict.fromkeys(found)


def _read(values: Values, atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else values[atom]


def _row(whole: Any, index: int) -> Any:
    return whole.parts[index] if isinstance(whole, Stack) else Row(whole, np.int32(index))


def _value(given: Any) -> Any:
    """An array, whatever stands for it."""
    if isinstance(given, Row):
        return jax.lax.dynamic_index_in_dim(_value(given.whole), given.index, keepdims=False)
    return jnp.stack([_value(part) for part in given.parts]) if isinstance(given, Stack) else given
