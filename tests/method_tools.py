"""Small problems on which every method of the registry is tried."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.experiment.settings import resolve
from diffjax.methods.base import Method, View
from diffjax.methods.checks import example_labels
from diffjax.methods.registry import METHODS
from diffjax.types import Batch, Spec

SPEC = Spec(observation_dim=5, action_dim=2)
ALL = [(name, variant) for name, variants in METHODS.items() for variant in variants]
OFTEN = ("dac", "dtql", "diffcps", "diffpogan", "iql", "bc")
"""The methods with which is done on every change what takes ten seconds per method; with the others among the slow."""
MOSTLY_SLOW = [pytest.param(*pair, marks=() if pair[0] in OFTEN else pytest.mark.slow) for pair in ALL]
PAPERS = ("dac", "dtql", "diffcps", "diffpogan")
EVERY = [
    pytest.param(name, variant, marks=() if name in PAPERS or number == 0 else pytest.mark.slow)
    for name, variants in METHODS.items()
    for number, variant in enumerate(variants)
]
"""All; further variants of a comparator, which repeat most of what its first one traces and compiles, are slow."""
TINY: dict[str, Any] = {
    "hidden_dims": (16, 16),
    "discriminator_hidden_dims": (16, 16),
    "flow_hidden_dim": 16,
    "flow_couplings": 2,
    "actor_dim": 16,
    "actor_blocks": 2,
    "batch_size": 8,
    "num_critics": 3,
    "target_samples": 2,
    "candidates": 16,
    "horizon": 4,
    "dim": 8,
    "dim_mults": (1, 2),
    "value_dim_mults": (1, 8),
}


def tiny(name: str, variant: str, **changes: Any) -> tuple[Method, Any]:
    """A method and small hyper-parameters for it, as its table and variant have them otherwise."""
    method = METHODS[name][variant]
    hyper = resolve(name, "hopper-medium-v2", "paper", variant).hyper
    known = {field.name for field in dataclasses.fields(hyper)}
    keep = {"candidates"} if getattr(hyper, "candidates", 0) == 1 else set()
    values = {key: value for key, value in TINY.items() if key not in keep} | changes
    values = {key: value for key, value in values.items() if key in known}
    # What is of a part of the method: the same widths, unless it takes the whole's, and as many rows in proportion.
    for field in sorted(known - values.keys()):
        if field.endswith("_hidden_dims") and getattr(hyper, field):
            values[field] = values["hidden_dims"]
        if field.endswith("_batch_size"):
            values[field] = values["batch_size"] * getattr(hyper, field) // hyper.batch_size
    return method, dataclasses.replace(hyper, **values)


@functools.cache
def initialiser(method: Method[Any, Any], spec: Spec, structure: Any) -> Any:
    """A compiled start with hyper-parameters of one structure; without optimisation, for it runs once or twice."""
    return jax.jit(
        lambda key, hyper: method.init(key, spec, hyper), compiler_options={"xla_backend_optimization_level": 0}
    )


def fresh_state(method: Method[Any, Any], hyper: Any, seed: int = 0, spec: Spec = SPEC) -> Any:
    """A fresh state of a method."""
    return initialiser(method, spec, jax.tree.structure(hyper))(jax.random.key(seed), hyper)


def random_batch(key: jax.Array, size: int, spec: Spec = SPEC, view: View = View()) -> Batch:  # noqa: B008
    """A minibatch of random rows, as a view asks for them; labels are not there."""
    keys = jax.random.split(key, 7)
    rows = (size,) if view.horizon == 1 else (size, view.horizon)
    action = lambda key: jax.random.uniform(key, (*rows, spec.action_dim), minval=-1.0)  # noqa: E731
    return Batch(
        observation=jax.random.normal(keys[0], (*rows, spec.observation_dim)),
        action=action(keys[1]),
        reward=jax.random.normal(keys[2], rows),
        next_observation=jax.random.normal(keys[3], (*rows, spec.observation_dim)),
        not_done=jax.random.bernoulli(keys[4], 0.8, rows).astype(jnp.float32),
        next_action=action(keys[5]) if view.next_action else None,
        return_to_go=jax.random.normal(keys[6], rows) if view.return_to_go else None,
    )


@functools.cache
def shapes_of_labels(method: Method, phase: int, hyper: Any) -> Any:
    """Shapes of the labels of one row; None without any."""
    return example_labels(method, phase, SPEC, hyper)


def random_batches(method: Method, hyper: Any, phase: int = -1, seed: int = 0) -> tuple[Batch, ...]:
    """As many minibatches as one update takes; labels, where the phase has them, of their shapes."""
    shapes = shapes_of_labels(method, phase % len(method.phases), hyper)

    def random(key: jax.Array) -> Batch:
        batch = random_batch(key, method.phases[phase].batch_size(hyper), view=method.view.sized(hyper))
        rows, label_key = batch.reward.shape, jax.random.fold_in(key, 1)
        labels = jax.tree.map(lambda x: jax.random.normal(label_key, (*rows, *x.shape)).astype(x.dtype), shapes)
        return batch._replace(labels=labels)

    return tuple(map(random, jax.random.split(jax.random.key(seed), method.view.batches)))


def largest_difference(first: Any, second: Any) -> float:
    """Largest absolute difference of two trees of arrays."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)))) for a, b in pairs)
