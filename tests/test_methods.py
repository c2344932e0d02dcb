"""One suite that every method of the registry passes."""

import dataclasses
import functools
import re
from typing import Any

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import ALL, SPEC, largest_difference, random_batches, tiny

from diffjax.methods.base import Method, acting_values

every_method = pytest.mark.parametrize(("name", "variant"), ALL)


@functools.cache
def started(name: str, variant: str) -> tuple[Any, Any, Any]:
    """Method, hyper-parameters and a fresh state."""
    method, hyper = tiny(name, variant)
    return method, hyper, method.init(jax.random.key(0), SPEC, hyper)


@functools.cache
def jitted(name: str, variant: str, phase: int) -> Any:
    """The jitted update of one phase: (key, step, state, hyper, batches) -> (state, metrics)."""
    method, _, _ = started(name, variant)
    part = method.phases[phase]

    def update(key, step, state, hyper, batches):
        return part.update(part.draw(key, SPEC, hyper), step, state, hyper, batches)

    return jax.jit(update)


def phases(name: str, variant: str) -> range:
    return range(len(started(name, variant)[0].phases))


@every_method
def test_state_is_arrays_and_targets_are_copies(name, variant):
    _, _, state = started(name, variant)
    leaves = jax.tree.leaves(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size > 1]
    assert len(set(pointers)) == len(pointers), "two leaves share memory: donation would fail"


@every_method
def test_seeds_start_differently_and_reproducibly(name, variant):
    method, hyper, state = started(name, variant)
    assert largest_difference(state, method.init(jax.random.key(0), SPEC, hyper)) == 0.0
    assert largest_difference(state, method.init(jax.random.key(1), SPEC, hyper)) > 1e-3


@every_method
def test_starting_calls_no_lapack(name, variant):
    """Two LAPACK calls in one program can wait for each other for ever on two CPU cores."""
    method, hyper, _ = started(name, variant)
    program = jax.jit(lambda key: method.init(key, SPEC, hyper)).lower(jax.random.key(0)).as_text()
    assert "lapack" not in program


@every_method
def test_update_keeps_shapes_and_reports_finite_metrics(name, variant):
    method, hyper, state = started(name, variant)
    for phase in phases(name, variant):
        after, metrics = jitted(name, variant, phase)(jax.random.key(1), 0, state, hyper, random_batches(method, hyper))
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        chex.assert_tree_all_finite(after)
        assert metrics
        for key, metric in metrics.items():
            assert re.fullmatch(r"[a-z]+/[a-z_]+", key)
            assert metric.total.shape == metric.weight.shape == ()
            assert float(metric.weight) in (0.0, 1.0)
        assert any(key.endswith("grad_norm") for key in metrics)


@every_method
def test_update_is_a_function_of_its_arguments(name, variant):
    method, hyper, state = started(name, variant)
    phase = len(method.phases) - 1
    update, batches = jitted(name, variant, phase), random_batches(method, hyper)
    first, _ = update(jax.random.key(1), 0, state, hyper, batches)
    again, _ = update(jax.random.key(1), 0, state, hyper, batches)
    assert largest_difference(first, again) == 0.0


def training_text(method: Method, hyper: Any) -> str:
    """Start and updates of all phases as the compiler gets them, hyper-parameters written in."""

    def train(key, state, batches):
        start = method.init(key, SPEC, hyper)
        return start, [
            phase.update(phase.draw(key, SPEC, hyper), jnp.int32(0), state, hyper, batches) for phase in method.phases
        ]

    state = jax.eval_shape(lambda key: method.init(key, SPEC, hyper), jax.random.key(0))
    return str(jax.make_jaxpr(train)(jax.random.key(0), state, random_batches(method, hyper)))


@every_method
def test_training_does_not_read_what_only_acting_reads(name, variant):
    method, hyper, _ = started(name, variant)
    acting = acting_values(hyper)
    assert ("candidates" in acting) == hasattr(hyper, "candidates")
    other = dataclasses.replace(hyper, **{key: value + 1 for key, value in acting.items()})
    assert training_text(method, other) == training_text(method, hyper)
    assert training_text(method, dataclasses.replace(hyper, actor_lr=0.123)) != training_text(method, hyper)


@every_method
def test_everything_that_should_learn_learns(name, variant):
    """Every network moves within three steps; what a step counter holds back stays bitwise."""
    method, hyper, state = started(name, variant)
    current = state
    for phase in phases(name, variant):
        for step in range(3):
            current, _ = jitted(name, variant, phase)(
                jax.random.key(step), step, current, hyper, random_batches(method, hyper, step)
            )
    still = {"target_actor", "target_policy", "flow"}  # held back for 1000 steps, or never trained

    def check(path, old, new):
        names = [str(getattr(part, "name", getattr(part, "key", part))) for part in path]
        if still.intersection(names):
            np.testing.assert_array_equal(old, new)
        elif old.ndim >= 2 and "kernel" in names:
            assert np.any(np.asarray(old) != np.asarray(new)), f"{'/'.join(names)} did not move"

    jax.tree_util.tree_map_with_path(check, state, current)


@every_method
def test_runs_side_by_side_equal_runs_alone(name, variant):
    method, hyper, _ = started(name, variant)
    phase = method.phases[-1]
    keys = jax.random.split(jax.random.key(7), 3)
    state = jax.vmap(lambda key: method.init(key, SPEC, hyper))(keys)
    batches = jax.tree.map(lambda *xs: jnp.stack(xs), *(random_batches(method, hyper, seed) for seed in range(3)))

    def update(step, key, state, batches):
        return phase.update(phase.draw(key, SPEC, hyper), step, state, hyper, batches)[0]

    together = jax.jit(jax.vmap(update, in_axes=(None, 0, 0, 0)))
    alone = jitted(name, variant, len(method.phases) - 1)
    joint = state
    single = [jax.tree.map(lambda x, i=i: x[i], state) for i in range(3)]
    for step in range(2):
        joint = together(step, keys, joint, batches)
        single = [
            alone(keys[i], step, single[i], hyper, jax.tree.map(lambda x, i=i: x[i], batches))[0] for i in range(3)
        ]
    for i in range(3):
        assert largest_difference(jax.tree.map(lambda x, i=i: x[i], joint), single[i]) < 1e-5


@every_method
def test_a_grid_of_floats_compiles_once(name, variant):
    method, hyper, state = started(name, variant)
    phase = method.phases[-1]
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(hyper, state, batches):
        return phase.update(phase.draw(jax.random.key(0), SPEC, hyper), jnp.int32(0), state, hyper, batches)[0]

    batches = random_batches(method, hyper)
    results = [
        update(scaled.replace(max_action=hyper.max_action), state, batches)  # the data's actions stay inside
        for scaled in (jax.tree.map(lambda value, f=factor: value * f, hyper) for factor in (1.0, 0.5, 0.25))
    ]
    assert largest_difference(results[0], results[1]) > 0.0


@every_method
def test_actions(name, variant):
    method, hyper, state = started(name, variant)
    observation = jax.random.normal(jax.random.key(3), (4, SPEC.observation_dim))
    act = jax.jit(lambda key, observed: method.act(key, SPEC, state, hyper, observed))
    keys = jax.random.split(jax.random.key(5), 4)
    alone = jnp.stack([act(key, observed) for key, observed in zip(keys, observation, strict=True)])
    assert alone.shape == (4, SPEC.action_dim)
    assert np.all(np.abs(np.asarray(alone)) <= 1.0)
    together = jax.jit(jax.vmap(lambda key, observed: method.act(key, SPEC, state, hyper, observed)))(keys, observation)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    cost = method.cost(hyper)
    assert cost.candidates >= 1
    assert cost.network_evaluations >= 1
    assert cost.selection


@every_method
def test_lowers_for_accelerators(name, variant):
    """Update and act export for TPU and CUDA; no such device is needed."""
    method, hyper, state = started(name, variant)
    like = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)  # noqa: E731
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    for phase in method.phases:

        def update(data, step, state, hyper, batches, phase=phase):
            draws = phase.draw(jax.random.wrap_key_data(data), SPEC, hyper)
            return phase.update(draws, step, state, hyper, batches)

        exported = jax.export.export(jax.jit(update), platforms=["tpu", "cuda"])(
            key, step, like(state), like(hyper), like(random_batches(method, hyper))
        )
        assert exported.platforms == ("tpu", "cuda")

    def act(data, state, hyper, observation):
        return method.act(jax.random.wrap_key_data(data), SPEC, state, hyper, observation)

    observation = jax.ShapeDtypeStruct((SPEC.observation_dim,), jnp.float32)
    exported = jax.export.export(jax.jit(act), platforms=["tpu", "cuda"])(key, like(state), like(hyper), observation)
    assert exported.out_avals[0].shape == (SPEC.action_dim,)


@pytest.mark.parametrize(("name", "variant"), [("diffcps", "default"), ("diffpogan", "code")])
def test_delayed_update_stays_a_branch_under_the_map_over_runs(name, variant):
    method, hyper, state = started(name, variant)
    phase = method.phases[-1]
    runs = jax.tree.map(lambda x: jnp.stack([x, x]), (state, random_batches(method, hyper)))

    def update(step, state, batches):
        draws = phase.draw(jax.random.key(0), SPEC, hyper)
        return phase.update(draws, step, state, hyper, batches)

    mapped = jax.jit(jax.vmap(update, in_axes=(None, 0, 0)))
    assert "cond[" in str(jax.make_jaxpr(mapped)(jnp.int32(0), *runs))
    _, metrics = mapped(jnp.int32(1), *runs)
    np.testing.assert_array_equal(metrics["actor/loss"].weight, [0.0, 0.0])
    np.testing.assert_array_equal(metrics["actor/loss"].total, [0.0, 0.0])
    np.testing.assert_array_equal(metrics["critic/loss"].weight, [1.0, 1.0])
