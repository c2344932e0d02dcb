"""What a method must provide, checked in plain words: by name where it is registered, by shape where it is planned."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from diffjax.errors import UserError, first_line
from diffjax.methods.base import (
    HYPER_FIELDS,
    MAIN,
    MEAN_VALUE,
    Hyper,
    Method,
    Rows,
    State,
    View,
    Weighted,
    example_batches,
    labelling_phase,
)
from diffjax.types import OBSERVATIONS, Batch, Spec

METRIC_NAME = re.compile(r"[a-z]+/[a-z_]+")


def example_labels(method: Method[State, Hyper], phase: int, spec: Spec, hyper: Hyper) -> Any:
    """Shapes of the labels of one row that a phase's minibatches hold; None without any.

    Raises:
      UserError: the labels' leading axis is not that of the data.
    """
    labelling = labelling_phase(method, phase)
    if labelling is None or (relabel := labelling.relabel) is None:
        return None
    before = method.phases.index(labelling) - 1
    held = example_labels(method, before, spec, hyper) if before >= 0 else None
    rows = 7

    def labels() -> Any:
        key = jax.random.key(0)
        (batch,) = example_batches(View(), spec, rows, held)
        state = method.init(key, spec, hyper)
        draws, never = relabel.draw(key, spec, hyper, rows), jnp.zeros(rows, bool)
        return relabel.labels(draws, spec, state, hyper, batch, Rows(never, ~never))

    found = jax.eval_shape(labels)
    for leaf in jax.tree.leaves(found):
        if leaf.shape[:1] != (rows,):
            raise UserError(f"labels of shape {leaf.shape} for {rows} rows of data; their leading axis is the rows")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), found)


def check_method(name: str, method: Method[State, Hyper]) -> None:
    """That a method is what the registry takes; looks at names only and computes nothing.

    Raises:
      UserError: it is not; says in words what is missing and where it belongs.
    """

    def require(fact: bool, problem: str) -> None:
        if not fact:
            raise UserError(f"method {name}: {problem}")

    require(dataclasses.is_dataclass(method.hyper), "Method.hyper must be a flax.struct.dataclass")
    hyper = method.hyper.__name__
    fields = {field.name: field for field in dataclasses.fields(cast(Any, method.hyper))}
    for needed in HYPER_FIELDS:
        require(needed in fields, f"{hyper} has no field {needed}; every method has one")
    for field in fields.values():
        where = f"{hyper}.{field.name}"
        require(field.default is not dataclasses.MISSING, f"{where} has no default; give the published value")
        states_range = isinstance(field.default, bool) or "range" in field.metadata or field.metadata.get("choices")
        require(bool(states_range), f"{where} states no range; give traced(...) or static(...) its bounds")
    require(bool(method.phases), "Method.phases is empty; give at least Phase('main', update)")
    names = [phase.name for phase in method.phases]
    require(names[-1] == MAIN, f"the last phase is called {names[-1]!r}; the last one must be {MAIN!r}")
    require(len(set(names)) == len(names), f"two phases share a name: {', '.join(names)}")
    view = method.view
    require(view.batches >= 1, f"View.batches is {view.batches}; at least 1")
    for size, value, least, words in (
        ("horizon", view.horizon, 1, "1: transitions"),
        ("padded", view.padded, 0, "0: no padding"),
    ):
        if isinstance(value, str):
            is_static = value in fields and not fields[value].metadata.get("pytree_node", True)
            require(is_static, f"View.{size} is {value!r}, which is no static field of {hyper}")
        else:
            require(value >= least, f"View.{size} is {value}; at least {least} ({words})")
    require(view.padded == 0 or view.horizon != 1, "View.padded is about windows; give View.horizon as well")
    for seen in ("observation", "action"):
        name = getattr(view, seen)
        require(name in OBSERVATIONS, f"View.{seen} is {name!r}, not one of {', '.join(OBSERVATIONS)}")
    fits = not view.return_to_go or "discount" in fields
    require(fits, f"View.return_to_go reads hyper.discount, and {hyper} has no such field")


def check_shapes(
    name: str, method: Method[State, Hyper], spec: Spec, hyper: Hyper, metrics: Iterable[str] = ()
) -> tuple[ClosedJaxpr, ...]:
    """That a method fits together: states keep their shapes, an action has its own, metrics are there. Only traces.

    Args:
      metrics: names that the main phase must record.

    Returns:
      the update of each phase, of one run.

    Raises:
      UserError: something does not; says what it is and what would be right.
    """
    key = jax.random.key(0)

    def said(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call's result; an error in it is said with what it was called on."""
        try:
            return call(*arguments)
        except Exception as error:
            raise UserError(f"method {name}: {what}: {type(error).__name__}: {first_line(error)}") from error

    def trace(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        return said(what, jax.eval_shape, call, *arguments)

    def require(fact: bool, problem: str) -> None:
        if not fact:
            raise UserError(f"method {name}: {problem}")

    def shapes(tree: Any) -> list[Any]:
        return [(path, x.shape, jnp.dtype(x.dtype)) for path, x in jax.tree_util.tree_leaves_with_path(tree)]

    init = jax.make_jaxpr(lambda key: method.init(key, spec, hyper), return_shape=True)
    program, state = said("init fails", init, key)
    _check_no_alias(name, program, state)
    reported: set[str] = set()
    updates: list[ClosedJaxpr] = []
    main: dict[str, Any] = {}
    for index, phase in enumerate(method.phases):
        labels = example_labels(method, index, spec, hyper)
        batches = jax.eval_shape(
            lambda phase=phase, labels=labels: example_batches(
                method.view.sized(hyper), spec, phase.batch_size(hyper), labels
            )
        )
        draws = trace(f"draw of phase {phase.name} fails", lambda phase=phase: phase.draw(key, spec, hyper))
        what = f"update of phase {phase.name} fails on {_described(batches)}, draws {_drawn(draws)}"
        update = jax.make_jaxpr(
            lambda draws, state, batches, phase=phase: phase.update(draws, jnp.int32(0), state, hyper, batches),
            return_shape=True,
        )
        program, (after, main) = said(what, update, draws, state, batches)
        updates.append(program)
        require(shapes(after) == shapes(state), f"phase {phase.name} returns a state of other shapes than init made")
        require(bool(main), f"phase {phase.name} reports no metric")
        for metric, value in main.items():
            right = "a part, a slash, a quantity, in small letters"
            require(bool(METRIC_NAME.fullmatch(metric)), f"metric {metric!r} is not called like critic/loss: {right}")
            is_weighted = isinstance(value, Weighted) and value.total.shape == value.weight.shape == ()
            require(is_weighted, f"metric {metric} is no weighted scalar; pass the metrics through weigh()")
        reported |= main.keys()
    for metric in metrics:
        require(metric in main, f"the main phase reports no metric {metric}, which its table's selection rule reads")
    has_discount = hasattr(hyper, "discount")
    has_critic = any(metric.startswith("critic/") for metric in reported)
    require(has_discount or not has_critic, f"{type(hyper).__name__} has no field discount, though there is a critic")
    require(MEAN_VALUE in reported or not has_critic, f"no phase reports {MEAN_VALUE}, the mean of its critics")

    observation = jnp.zeros(spec.observation_dim)
    what = f"act fails on one observation of shape {observation.shape}"
    action = trace(
        what,
        lambda state, observation: method.sample_action(key, spec, state, hyper, observation),
        state,
        observation,
    )
    right = f"({spec.action_dim},) is right"
    require(action.shape == (spec.action_dim,), f"act returns the shape {action.shape} for one observation; {right}")
    return tuple(updates)


def _check_no_alias(name: str, program: ClosedJaxpr, state: Any) -> None:
    """That no two leaves of a fresh state are one array, which a program that consumes its state could not take."""
    first: dict[int, str] = {}
    for output, (path, _) in zip(program.jaxpr.outvars, jax.tree_util.tree_leaves_with_path(state), strict=True):
        where = jax.tree_util.keystr(path)
        if id(output) in first:
            raise UserError(f"method {name}: init makes {where} and {first[id(output)]} one array; use copies(...)")
        first[id(output)] = where


def _described(batches: tuple[Batch, ...]) -> str:
    rows = batches[0].observation.shape[:-1]
    return f"{len(batches)} minibatch{'es' if len(batches) > 1 else ''} with leading axes {rows}"


def _drawn(draws: Any) -> str:
    return "None (this Phase has no draw)" if draws is None else f"of type {type(draws).__name__}"
