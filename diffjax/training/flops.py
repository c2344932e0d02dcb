"""Work of a program's matrix products, floating-point operations and bytes, counted from its jaxpr.

XLA's own cost analysis counts the body of a loop once and both sides of a branch; here a scan counts as often as it
runs and a branch only where it is taken.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from diffjax.methods.base import Method, example_batches
from diffjax.methods.checks import example_labels
from diffjax.numerics import random_key
from diffjax.types import Batch, Spec

Known = list[Any]  # per variable: its value where it follows from what is known, else None
Count = Callable[[JaxprEqn], int]  # what one matrix product counts


def update_flops(method: Method[Any, Any], phase: int, spec: Spec, hyper: Any, steps: int) -> list[int]:
    """FLOPs of the matrix products of one run's update, at each of the steps ``0 .. steps - 1`` of a phase."""
    return by_step(dot_flops, update_program(method, phase, spec, hyper), steps)


def by_step(count: Callable[..., int], program: ClosedJaxpr, steps: int) -> list[int]:
    """What :func:`dot_flops` or :func:`dot_bytes` counts of an update at each step."""
    return [count(program, np.int32(step)) for step in range(steps)]


def update_program(method: Method[Any, Any], phase: int, spec: Spec, hyper: Any) -> ClosedJaxpr:
    """One run's update as ``(step, draws, state, batches) -> (state, metrics)``."""
    part = method.phases[phase]

    def arguments() -> tuple[Any, ...]:
        key = random_key(0)
        labels = example_labels(method, phase, spec, hyper)
        batches = example_batches(method.view.sized(hyper), spec, part.batch_size(hyper), labels)
        return jnp.int32(0), part.draw(key, spec, hyper), method.init(key, spec, hyper), batches

    def updated(step: jax.Array, draws: Any, state: Any, batches: tuple[Batch, ...]) -> Any:
        return part.update(draws, step, state, hyper, batches)

    return jax.make_jaxpr(updated)(*jax.eval_shape(arguments))


def period(values: Sequence[int]) -> int:
    """The shortest period of a sequence; its length if it has none."""
    return next(p for p in range(1, len(values) + 1) if values[p:] == values[: len(values) - p])


def dot_flops(program: ClosedJaxpr, *leading: Any) -> int:
    """FLOPs of all ``dot_general`` of one call, a multiplication and an addition each: ``2 batch rows columns inner``.

    ``leading`` are the values of the first arguments as far as they matter to branches: a ``cond`` whose predicate
    follows from them and from constants by integer arithmetic counts the branch taken; any other its dearest branch.

    Raises:
      ValueError: for a matrix product in a loop of unknown length.
    """
    return _count(program, _dot, leading)


def dot_bytes(program: ClosedJaxpr, *leading: Any) -> int:
    """Bytes that the operands and results of all ``dot_general`` of one call hold, counted like :func:`dot_flops`.

    What they would move if nothing stayed in a cache from one product to the next.
    """
    return _count(program, _dot_bytes, leading)


def _count(program: ClosedJaxpr, count: Count, leading: Sequence[Any]) -> int:
    inputs = [*leading, *[None] * (len(program.in_avals) - len(leading))]
    return _walk(program, inputs, count)[0]


def _walk(program: ClosedJaxpr | Jaxpr, inputs: Sequence[Any], count: Count) -> tuple[int, Known]:
    """What the products of a program count and what is known of its outputs."""
    jaxpr, constants = (program.jaxpr, program.consts) if isinstance(program, ClosedJaxpr) else (program, [])
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

    def read(atoms: Sequence[Any]) -> Known:
        return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]

    total = 0
    for equation in jaxpr.eqns:
        counted, outputs = _equation(equation, read(equation.invars), count)
        values |= zip(equation.outvars, outputs, strict=True)
        total += counted
    return total, read(jaxpr.outvars)


def _equation(equation: JaxprEqn, inputs: Known, count: Count) -> tuple[int, Known]:
    params, unknown = equation.params, [None] * len(equation.outvars)
    inner = list(inner_programs(params))
    match equation.primitive.name:
        case "dot_general":
            return count(equation), unknown
        case "cond" if inputs[0] is not None:
            return _walk(params["branches"][int(inputs[0])], inputs[1:], count)
        case "cond":
            return max(_walk(branch, inputs[1:], count)[0] for branch in params["branches"]), unknown
        case "scan":
            constants = inputs[: params["num_consts"]]
            changing = [None] * (len(inputs) - len(constants))
            return params["length"] * _walk(params["jaxpr"], [*constants, *changing], count)[0], unknown
        case "while":
            if any(_opaque(program, count) for program in inner):
                raise ValueError("a matrix product in a loop of unknown length")
            return 0, unknown
        case _ if len(inner) == 1 and len(inner[0].in_avals) == len(inputs):  # jit, remat, custom derivatives
            return _walk(inner[0], inputs, count)
        case _ if inner:
            return sum(_opaque(program, count) for program in inner), unknown
    outputs = [variable.aval for variable in equation.outvars]
    if all(value is not None for value in inputs) and all(map(_is_scalar_integer, outputs)):
        result = equation.primitive.bind(*inputs, **params)
        return 0, list(result) if equation.primitive.multiple_results else [result]
    return 0, unknown


def _opaque(program: ClosedJaxpr, count: Count) -> int:
    """What the products of a program count of whose inputs nothing is known."""
    return _walk(program, [None] * len(program.in_avals), count)[0]


def inner_programs(params: dict[str, Any]) -> Iterator[ClosedJaxpr]:
    """The programs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item
            elif isinstance(item, Jaxpr) and not item.constvars:
                yield ClosedJaxpr(item, [])


def _dot(equation: JaxprEqn) -> int:
    (inner, _), _ = equation.params["dimension_numbers"]
    left: Any = equation.invars[0].aval
    out: Any = equation.outvars[0].aval
    return 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in inner)


def _dot_bytes(equation: JaxprEqn) -> int:
    arrays: list[Any] = [variable.aval for variable in (*equation.invars, *equation.outvars)]
    return sum(array.size * array.dtype.itemsize for array in arrays)


def _is_scalar_integer(aval: Any) -> bool:
    return aval.shape == () and (jnp.issubdtype(aval.dtype, jnp.integer) or aval.dtype == jnp.bool_)
