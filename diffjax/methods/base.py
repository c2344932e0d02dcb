"""The contract of a method, and what every method needs to keep it."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from diffjax.ranges import Bound, Range, check_fields
from diffjax.types import Batch, Spec


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


def check_hyper(hyper: Any) -> None:
    """That every hyper-parameter, a plain number or name, is what its field asks for.

    Raises:
      UserError: for the first that is not; it names the value and what would be right.
    """
    check_fields(hyper)


def acting_values(hyper: Any) -> dict[str, Any]:
    """The hyper-parameters that only the choice of an action reads."""
    names = [field.name for field in dataclasses.fields(hyper) if field.metadata.get("acting")]
    return {name: getattr(hyper, name) for name in names}


def without_acting(hyper: Any) -> Any:
    """Hyper-parameters with the defaults of those that only the choice of an action reads."""
    fields = dataclasses.fields(hyper)
    return dataclasses.replace(hyper, **{field.name: field.default for field in fields if field.metadata.get("acting")})


class Weighted(NamedTuple):
    """A metric of one update: ``total`` counts ``weight`` times (0 in a skipped branch, else 1)."""

    total: jax.Array
    weight: jax.Array


Scalars = dict[str, jax.Array]
Metrics = dict[str, Weighted]

State = TypeVar("State")
Hyper = TypeVar("Hyper")

MAIN = "main"
"""The name of every method's last phase, in which it is evaluated."""
CLONING_LOSS = "actor/bc"
"""The metric by which the rule ``offline`` selects; reported by the main phase where a table names that rule."""
MEAN_VALUE = "critic/q_mean"
"""The metric that a method with a critic reports: the mean of its critics at the data's actions."""
HYPER_FIELDS = ("batch_size", "max_action")
"""The fields that every ``Hyper`` has: the rows of a minibatch, and the size that an action never exceeds."""


RATE_DECAY = "lr_decay_steps"
"""The field of a method whose learning rates fall to zero: after how many steps; 0 keeps them constant."""


class View(NamedTuple):
    """What one row of a minibatch is; static.

    ``batches`` independent minibatches per update; rows are transitions, or windows of ``horizon`` > 1 steps of one
    trajectory. Where ``padded`` > 0 trajectories are filled up with rows of zeros to so many (longer ones are not),
    windows may run into these rows, and begin at every row but the last from which they do not run past them.
    ``horizon`` and ``padded`` are numbers or the names of static fields of ``Hyper``. ``next_action`` and
    ``return_to_go`` (which reads ``hyper.discount``) ask for these fields of :class:`~diffjax.types.Batch`.
    ``observation`` and ``action`` are of :data:`~diffjax.types.OBSERVATIONS`, affine maps that each run makes from its
    own data and applies to minibatches and when acting: ``act`` then returns an action as minibatches hold it, and the
    run undoes the map. Where ``next_observation`` is False no update reads what was observed next, so that the row at
    which a time limit cut a trajectory is sampled too.
    """

    batches: int = 1
    horizon: int | str = 1
    padded: int | str = 0
    next_action: bool = False
    return_to_go: bool = False
    observation: str = "raw"
    action: str = "raw"
    next_observation: bool = True

    def sized(self, hyper: Any) -> "View":
        """The view with numbers for the names of fields."""
        sizes = {name: getattr(self, name) for name in ("horizon", "padded")}
        named = {name: getattr(hyper, field) for name, field in sizes.items() if isinstance(field, str)}
        return self._replace(**named)


class Rows(NamedTuple):
    """What the rows of a run's data are, ``(rows,)`` bool each: ``end`` the last of a trajectory, ``sampled`` such as
    minibatches are made of.
    """

    end: jax.Array
    sampled: jax.Array


def no_draws(key: jax.Array, spec: Spec, hyper: Any) -> None:
    """Nothing is random: the draws of a phase or a policy that needs none."""
    return None


def only_before(hyper: Any) -> int:
    """Labels are computed once, before the phase."""
    return 0


class Relabel(NamedTuple, Generic[State, Hyper]):
    """Labels per transition, computed from the state and held beside the data.

    ``labels(draws, spec, state, hyper, batch, rows)`` gets all rows of the run's data in recorded order as one batch
    and what they are (:class:`Rows`); it returns a tree of arrays with the leading axis ``rows``, of which minibatches
    of the same phase and of those after it hold their rows (``Batch.labels``). ``draw(key, spec, hyper, rows)`` makes
    its random numbers. It is called before the phase, and again before every step divisible by ``interval(hyper)``
    where that is positive; then ``batch.labels`` are those that it made before, and else those of the phase before that
    made any, or None.
    """

    labels: Callable[[Any, Spec, State, Hyper, Batch, Rows], Any]
    draw: Callable[[jax.Array, Spec, Hyper, int], Any] = lambda key, spec, hyper, rows: None
    interval: Callable[[Hyper], int] = only_before


def own_batch_size(hyper: Any) -> int:
    """The rows of a minibatch that every ``Hyper`` names."""
    return int(hyper.batch_size)


class Phase(NamedTuple, Generic[State, Hyper]):
    """One stage of training; its step counter starts from 0.

    ``update(draws, step, state, hyper, batches)`` is one published gradient step, in the published order;
    ``draw(key, spec, hyper)`` makes every random number of it as one tree. A phase before the main one is as long as
    the entry ``NAME_steps`` of the method's table says, the main one as long as ``steps``. ``batch_size(hyper)``, of
    static fields, is the number of rows of its minibatches.
    """

    name: str
    update: Callable[[Any, jax.Array, State, Hyper, tuple[Batch, ...]], tuple[State, Metrics]]
    draw: Callable[[jax.Array, Spec, Hyper], Any] = no_draws
    relabel: Relabel[State, Hyper] | None = None
    batch_size: Callable[[Hyper], int] = own_batch_size


class ActingCost(NamedTuple):
    """What one action costs under an evaluation rule."""

    candidates: int
    network_evaluations: int  # sequential passes through the policy's network; the critic's ranking pass is not counted
    selection: str


def sampled_by(selection: str, sampler: str, steps: int) -> str:
    """A rule of evaluation whose sampler is not the published one: it is named, ``..., ddim in 3 steps``."""
    return f"{selection}, {sampler} in {steps} step{'s' if steps > 1 else ''}"


def one_pass(hyper: Any) -> ActingCost:
    """The cost of a deterministic policy of one network."""
    return ActingCost(1, 1, "deterministic")


class Method(NamedTuple, Generic[State, Hyper]):
    """A method as pure functions of arrays; state holds arrays only.

    ``init(key, spec, hyper)`` makes a state whose targets are copies, never aliases. ``act(draws, spec, state, hyper,
    observation)`` maps one observation ``(observation_dim,)`` to one action ``(action_dim,)``, both as the view has
    them, by the paper's own evaluation rule; map it over episodes and runs. ``draw_action(key, spec, hyper)`` makes its
    random numbers. The last phase is called :data:`MAIN`; ``hyper`` has the fields :data:`HYPER_FIELDS`.
    :mod:`diffjax.methods.checks` checks in words what a method must provide.
    """

    hyper: type[Hyper]
    init: Callable[[jax.Array, Spec, Hyper], State]
    phases: tuple[Phase[State, Hyper], ...]
    act: Callable[[Any, Spec, State, Hyper, jax.Array], jax.Array]
    draw_action: Callable[[jax.Array, Spec, Hyper], Any] = no_draws
    cost: Callable[[Hyper], ActingCost] = one_pass
    view: View = View()

    def sample_action(
        self, key: jax.Array, spec: Spec, state: State, hyper: Hyper, observation: jax.Array
    ) -> jax.Array:
        """One action ``(action_dim,)`` for one observation ``(observation_dim,)``: :attr:`act` behind a key."""
        return self.act(self.draw_action(key, spec, hyper), spec, state, hyper, observation)


def labelling_phase(method: Method[State, Hyper], phase: int) -> Phase[State, Hyper] | None:
    """The phase whose labels the minibatches of ``phase`` hold: the last one up to it that makes any."""
    return next((one for one in reversed(method.phases[: phase + 1]) if one.relabel is not None), None)


def weigh(metrics: Scalars, weight: jax.Array | float = 1.0) -> Metrics:
    """Scalars ``()`` of one update as weighted metrics, float32."""
    return {
        name: Weighted(jnp.asarray(value, jnp.float32), jnp.asarray(weight, jnp.float32))
        for name, value in metrics.items()
    }


def every(
    interval: int, step: jax.Array, update: Callable[[State], tuple[State, Scalars]], state: State
) -> tuple[State, Metrics]:
    """``update(state)`` on steps divisible by ``interval``, as a real branch; else the state as it was.

    ``step`` counts from 0 and may be shifted where a program counts otherwise (``step + 1``, ``step % 1000``). The
    predicate depends on it alone, so that mapping over runs leaves it a scalar and the branch a branch. A skipped
    branch returns zero metrics with weight 0.
    """
    if interval == 1:
        state, metrics = update(state)
        return state, weigh(metrics)
    return when(step % interval == 0, update, state)


def when(due: jax.Array, update: Callable[[State], tuple[State, Scalars]], state: State) -> tuple[State, Metrics]:
    """:func:`every` for another predicate of the step; ``due`` is a bool scalar that no run axis is mapped over."""
    shapes = jax.eval_shape(update, state)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    state, metrics = jax.lax.cond(due, update, lambda s: (s, zeros), state)
    return state, weigh(metrics, due)


def example_batches(view: View, spec: Spec, batch_size: int, labels: Any = None) -> tuple[Batch, ...]:
    """Minibatches of zeros, of the shapes that an update gets of a sized view; ``labels`` are those of one row."""
    rows = (batch_size,) if view.horizon == 1 else (batch_size, int(view.horizon))
    observation, action = jnp.zeros((*rows, spec.observation_dim)), jnp.zeros((*rows, spec.action_dim))
    batch = Batch(
        observation,
        action,
        jnp.zeros(rows),
        observation,
        jnp.zeros(rows),
        action if view.next_action else None,
        jnp.zeros(rows) if view.return_to_go else None,
        jax.tree.map(lambda x: jnp.zeros((*rows, *x.shape), x.dtype), labels),
    )
    return (batch,) * view.batches
