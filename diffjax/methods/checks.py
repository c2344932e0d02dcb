"""What a method must provide, checked in plain words: by name where it is registered, by shape where it is planned."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp

from diffjax.methods.base import HYPER_FIELDS, MAIN, Hyper, Method, State, Weighted, example_batches
from diffjax.types import OBSERVATIONS, Spec

METRIC_NAME = re.compile(r"[a-z]+/[a-z_]+")


def example_labels(method: Method[State, Hyper], phase: int, spec: Spec, hyper: Hyper) -> Any:
    """Shapes of the labels of one row that a phase's minibatches hold; None without any.

    Raises:
      ValueError: the labels' leading axis is not that of the data.
    """
    makers = [one.relabel for one in method.phases[: phase + 1] if one.relabel is not None]
    if not makers:
        return None
    maker, rows = makers[-1], 7

    def labels() -> Any:
        key = jax.random.key(0)
        (batch,) = example_batches(method.view._replace(batches=1, horizon=1), spec, rows)
        state = method.init(key, spec, hyper)
        return maker.labels(maker.draw(key, spec, hyper, rows), spec, state, hyper, batch, jnp.zeros(rows, bool))

    found = jax.eval_shape(labels)
    for leaf in jax.tree.leaves(found):
        if leaf.shape[:1] != (rows,):
            raise ValueError(f"labels of shape {leaf.shape} for {rows} rows of data; their leading axis is the rows")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), found)


def check_method(name: str, method: Method[State, Hyper]) -> None:
    """That a method is what the registry takes; looks at names only and computes nothing.

    Raises:
      ValueError: it is not; says in words what is missing and where it belongs.
    """

    def require(fact: bool, problem: str) -> None:
        if not fact:
            raise ValueError(f"method {name}: {problem}")

    require(dataclasses.is_dataclass(method.hyper), "Method.hyper must be a flax.struct.dataclass")
    known = {field.name: field for field in dataclasses.fields(cast(Any, method.hyper))}
    for name_needed in HYPER_FIELDS:
        require(name_needed in known, f"{method.hyper.__name__} has no field {name_needed}; every method has one")
    for field in known.values():
        has_default = field.default is not dataclasses.MISSING
        require(has_default, f"{method.hyper.__name__}.{field.name} has no default; give the published value")
    require(bool(method.phases), "Method.phases is empty; give at least Phase('main', update)")
    names = [phase.name for phase in method.phases]
    require(names[-1] == MAIN, f"the last phase is called {names[-1]}; the last one must be {MAIN!r}")
    require(len(set(names)) == len(names), f"two phases share a name: {', '.join(names)}")
    view = method.view
    require(view.batches >= 1, f"View.batches is {view.batches}; at least 1")
    require(view.horizon >= 1, f"View.horizon is {view.horizon}; at least 1 (1: transitions)")
    problem = f"View.observation is {view.observation!r}, not one of {', '.join(OBSERVATIONS)}"
    require(view.observation in OBSERVATIONS, problem)
    fits = not view.return_to_go or "discount" in known
    require(fits, f"View.return_to_go reads hyper.discount, and {method.hyper.__name__} has no such field")


def check_shapes(
    name: str, method: Method[State, Hyper], spec: Spec, hyper: Hyper, metrics: Iterable[str] = ()
) -> None:
    """That a method fits together: states keep their shapes, an action has its own, metrics are there. Only traces.

    Args:
      metrics: names that the main phase must record.

    Raises:
      ValueError: something does not; says what it is and what would be right.
    """

    def problem(text: str) -> ValueError:
        return ValueError(f"method {name}: {text}")

    def shapes(tree: Any) -> list[Any]:
        return [(path, x.shape, jnp.dtype(x.dtype)) for path, x in jax.tree_util.tree_leaves_with_path(tree)]

    key = jax.random.key(0)
    state = jax.eval_shape(lambda: method.init(key, spec, hyper))
    found: dict[str, Any] = {}
    for index, phase in enumerate(method.phases):
        labels = example_labels(method, index, spec, hyper)
        batches = example_batches(method.view, spec, cast(Any, hyper).batch_size, labels)
        after, found = jax.eval_shape(
            lambda state, batches, phase=phase: phase.update(
                phase.draw(key, spec, hyper), jnp.int32(0), state, hyper, batches
            ),
            state,
            batches,
        )
        if shapes(after) != shapes(state):
            raise problem(f"phase {phase.name} returns a state of other shapes than init made")
        if not found:
            raise problem(f"phase {phase.name} reports no metric")
        for metric, value in found.items():
            if not METRIC_NAME.fullmatch(metric):
                raise problem(f"metric {metric!r} is not called like critic/loss: a part, a slash, a quantity")
            if not isinstance(value, Weighted) or value.total.shape != () or value.weight.shape != ():
                raise problem(f"metric {metric} is no weighted scalar; pass the metrics through weigh()")
    for metric in metrics:
        if metric not in found:
            raise problem(f"the main phase reports no metric {metric}, which its table's selection rule reads")
    observation = jnp.zeros(spec.observation_dim)
    action = jax.eval_shape(
        lambda state, observation: method.sample_action(key, spec, state, hyper, observation), state, observation
    )
    if action.shape != (spec.action_dim,):
        raise problem(f"act returns the shape {action.shape} for one observation; ({spec.action_dim},) is right")
