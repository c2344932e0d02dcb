"""The contract of a method, and what every method needs to keep it."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax.ranges import Bound, Range, check_fields
from diffjax.types import Batch, Spec

State = Any
Hyper = Any
Draws = Any
Scalars = dict[str, jax.Array]


def static(
    default: Any,
    choices: Iterable[str] = (),
    *,
    acting: bool = False,
    above: Bound = None,
    at_least: Bound = None,
    below: Bound = None,
    at_most: Bound = None,
    multiple_of: int | None = None,
) -> Any:
    """A hyper-parameter that fixes shapes or branches: one compiled program per value.

    ``choices`` are the values that a name may take; bounds, of a number or of each of a tuple, and ``acting`` as in
    :func:`traced`.
    """
    limits = Range(above, at_least, below, at_most, multiple_of)
    metadata = {"choices": tuple(choices), "acting": acting} | ({"range": limits} if limits != Range() else {})
    return flax.struct.field(pytree_node=False, default=default, metadata=metadata)


def traced(
    default: float,
    *,
    acting: bool = False,
    above: Bound = None,
    at_least: Bound = None,
    below: Bound = None,
    at_most: Bound = None,
) -> Any:
    """A hyper-parameter that is an array of the program: one compiled program for all values.

    A bound is a number or the name of another field. ``acting``: only the choice of an action reads it, no update does,
    so that runs that differ in nothing else are trained once.
    """
    return flax.struct.field(
        default=default, metadata={"acting": acting, "range": Range(above, at_least, below, at_most)}
    )


def check_hyper(hyper: Hyper) -> None:
    """That every hyper-parameter, a plain number or name, is what its field asks for.

    Raises:
      UserError: for the first that is not; it names the value and what would be right.
    """
    check_fields(hyper)


def acting_values(hyper: Hyper) -> dict[str, Any]:
    """The hyper-parameters that only the choice of an action reads."""
    names = [field.name for field in dataclasses.fields(hyper) if field.metadata.get("acting")]
    return {name: getattr(hyper, name) for name in names}


def without_acting(hyper: Hyper) -> Hyper:
    """Hyper-parameters with the defaults of those that only the choice of an action reads."""
    fields = dataclasses.fields(hyper)
    return dataclasses.replace(hyper, **{field.name: field.default for field in fields if field.metadata.get("acting")})


class Weighted(NamedTuple):
    """A metric of one update: ``total`` counts ``weight`` times (0 in a skipped branch, else 1)."""

    total: jax.Array
    weight: jax.Array


Metrics = dict[str, Weighted]


class Phase(NamedTuple):
    """One stage of training; its step counter starts from 0.

    ``draw(key, spec, hyper)`` makes every random number of one update as one tree;
    ``update(draws, step, state, hyper, batches)`` is one published gradient step, in the published order.
    """

    name: str
    draw: Callable[[jax.Array, Spec, Hyper], Draws]
    update: Callable[[Draws, jax.Array, State, Hyper, tuple[Batch, ...]], tuple[State, Metrics]]


class ActingCost(NamedTuple):
    """What one action costs under an evaluation rule."""

    candidates: int
    network_evaluations: int  # sequential passes through the policy's network; the critic's ranking pass is not counted
    selection: str


class Method(NamedTuple):
    """A method as pure functions of arrays; state holds arrays only.

    ``init(key, spec, hyper)`` makes a state whose targets are copies, never aliases. ``act_from_draws(draws, state,
    hyper, observation)`` maps one observation ``(observation_dim,)`` to one action ``(action_dim,)`` by the paper's own
    evaluation rule; map it over episodes and runs.
    """

    hyper: type
    num_batches: int
    init: Callable[[jax.Array, Spec, Hyper], State]
    phases: tuple[Phase, ...]
    draw_action: Callable[[jax.Array, Spec, Hyper], Draws]
    act_from_draws: Callable[[Draws, State, Hyper, jax.Array], jax.Array]
    cost: Callable[[Hyper], ActingCost]

    def act(self, key: jax.Array, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
        """One action for one observation: :attr:`act_from_draws` behind a key."""
        return self.act_from_draws(self.draw_action(key, spec, hyper), state, hyper, observation)


def weigh(metrics: Scalars, weight: jax.Array | float = 1.0) -> Metrics:
    """Scalars of one update as weighted metrics."""
    return {
        name: Weighted(jnp.asarray(value, jnp.float32), jnp.asarray(weight, jnp.float32))
        for name, value in metrics.items()
    }


def every(
    interval: int, step: jax.Array, update: Callable[[State], tuple[State, Scalars]], state: State
) -> tuple[State, Metrics]:
    """``update(state)`` on steps divisible by ``interval``, as a real branch; else the state as it was.

    The predicate depends on ``step`` alone, so that mapping over runs leaves it a scalar and the branch a branch. A
    skipped branch returns zero metrics with weight 0.
    """
    if interval == 1:
        state, metrics = update(state)
        return state, weigh(metrics)
    shapes = jax.eval_shape(update, state)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    due = step % interval == 0
    state, metrics = jax.lax.cond(due, update, lambda s: (s, zeros), state)
    return state, weigh(metrics, due)
