"""One suite that every method of the registry passes."""

import dataclasses
import functools
import itertools
import sys
from typing import Any, NamedTuple

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import ALL, EVERY, SPEC, fresh_state, initialiser, largest_difference, random_batches, tiny

from diffjax.experiment.settings import resolve
from diffjax.methods.base import CLONING_LOSS, Method, acting_values
from diffjax.methods.checks import check_shapes
from diffjax.methods.registry import get_method
from diffjax.nn.learners import Learner
from diffjax.types import Spec

every_method = pytest.mark.parametrize(("name", "variant"), EVERY)
RUNS = 2
KEY = jax.random.key(0)


class Unread:
    """Stands for a value that training must not read: it is no number, and no test of it has an answer."""

    def __bool__(self) -> bool:
        raise AssertionError("training reads what only acting reads")

    def __eq__(self, other: object) -> bool:
        # Caches of compiled programs compare what they hold; only of those who compute is it a reading.
        reader = sys._getframe(1).f_globals["__name__"]
        return other is self or (reader.startswith(READERS) and bool(self))

    def __hash__(self) -> int:  # of dataclasses that hold it
        return id(Unread)

    __index__ = __int__ = __float__ = __str__ = __bool__


UNREAD = Unread()
READERS = ("diffjax.methods", "diffjax.diffusion", "diffjax.nn", "diffjax.losses")


class Started(NamedTuple):
    """A method, small hyper-parameters, those that it is trained with, and the fresh states of two runs."""

    method: Method[Any, Any]
    hyper: Any
    trained: Any
    state: Any


def stacked(*trees: Any) -> Any:
    """Trees of equal structure with a leading axis ``runs``."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def one(tree: Any, run: int = 0) -> Any:
    """A run of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[run], tree)


def unusable_for_acting(hyper: Any) -> Any:
    """What only acting reads is no number where it is traced, and nothing that can be used where it is static."""
    traced = {field.name for field in dataclasses.fields(hyper) if field.metadata.get("pytree_node", True)}
    return hyper.replace(**{name: jnp.nan if name in traced else UNREAD for name in acting_values(hyper)})


@functools.cache
def started(name: str, variant: str) -> Started:
    """Variants that only act differently share what is compiled."""
    method, hyper = tiny(name, variant)
    trained = unusable_for_acting(hyper)
    return Started(method, hyper, trained, stacked(*(fresh_state(method, trained, seed) for seed in range(RUNS))))


@functools.cache
def traced(method: Method[Any, Any], phase: int, hyper: Any) -> jax.stages.Traced:
    """The update of a phase, mapped over runs: (step, keys, state, hyper, batches) -> (state, metrics)."""
    part = method.phases[phase]

    def update(step, key, state, hyper, batches):
        return part.update(part.draw(key, SPEC, hyper), step, state, hyper, batches)

    return jax.jit(jax.vmap(update, in_axes=(None, 0, 0, 0, 0))).trace(
        jnp.int32(0),
        jax.random.split(jax.random.key(0), RUNS),
        stacked(*[fresh_state(method, hyper)] * RUNS),
        stacked(*[hyper] * RUNS),
        stacked(*[random_batches(method, hyper, phase)] * RUNS),
    )


@functools.cache
def compiled(method: Method[Any, Any], phase: int, hyper: Any) -> jax.stages.Compiled:
    """It takes any floats for those of ``hyper``."""
    return traced(method, phase, hyper).lower().compile()


def updated(
    name: str, variant: str, phase: int, step: int = 0, state: Any = None, hypers: Any = None, seeds: Any = (0, 1)
) -> tuple[Any, Any]:
    """State and metrics of both runs after one update; a run's draws and minibatches are those of its seed."""
    method, _, hyper, fresh = started(name, variant)
    batches = stacked(*(random_batches(method, hyper, phase, 10 * step + seed) for seed in seeds))
    keys = jnp.stack([jax.random.key(10 * step + seed) for seed in seeds])
    program = compiled(method, phase, hyper)
    state = fresh if state is None else state
    return program(jnp.int32(step), keys, state, stacked(*(hypers or [hyper] * RUNS)), batches)


def halved(hyper: Any) -> Any:
    """Every float at half its value, but the bound of the actions: the data stay inside."""
    halves = jax.tree.map(lambda value: value / 2 if isinstance(value, float) else value, hyper)
    return halves.replace(max_action=hyper.max_action)


def phases(name: str, variant: str) -> range:
    return range(len(started(name, variant).method.phases))


@every_method
def test_keeps_the_contract(name, variant):
    """What a method must provide, for the sizes of a real task; its state is arrays, no two of them one."""
    method, _ = get_method(name, variant)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(started(name, variant).state))
    settings = resolve(name, "hopper-medium-v2", "paper", variant)
    metrics = (CLONING_LOSS,) if settings.protocol.selection == "offline" else ()
    check_shapes(name, method, Spec(11, 3), settings.hyper, metrics)


@every_method
def test_seeds_start_differently_and_reproducibly(name, variant):
    method, _, hyper, state = started(name, variant)
    assert largest_difference(one(state), fresh_state(method, hyper)) == 0.0
    assert largest_difference(one(state), one(state, 1)) > 1e-3


@every_method
def test_starting_calls_no_lapack(name, variant):
    """Two LAPACK calls in one program can wait for each other for ever on two CPU cores."""
    method, _, hyper, _ = started(name, variant)
    assert (
        "lapack" not in initialiser(method, SPEC, jax.tree.structure(hyper)).lower(jax.random.key(0), hyper).as_text()
    )


@every_method
def test_update_keeps_shapes_and_reports_finite_metrics(name, variant):
    state = started(name, variant).state
    for phase in phases(name, variant):
        after, metrics = updated(name, variant, phase)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        chex.assert_tree_all_finite(after)
        assert metrics
        for metric in metrics.values():
            assert metric.total.shape == metric.weight.shape == (RUNS,)
            assert set(np.asarray(metric.weight).tolist()) <= {0.0, 1.0}
        assert any(key.endswith("grad_norm") for key in metrics)


@every_method
def test_update_is_a_function_of_its_arguments(name, variant):
    phase = phases(name, variant)[-1]
    assert largest_difference(updated(name, variant, phase)[0], updated(name, variant, phase)[0]) == 0.0


@every_method
def test_a_run_is_the_same_whatever_runs_beside_it(name, variant):
    """Two updates of run 0 beside one neighbour and beside another: no number crosses the run axis."""
    phase = phases(name, variant)[-1]
    _, _, hyper, fresh = started(name, variant)
    first, second = fresh, fresh
    for step in range(2):
        first, _ = updated(name, variant, phase, step, first)
        second, _ = updated(name, variant, phase, step, second, hypers=[hyper, halved(hyper)], seeds=(0, 7))
    assert largest_difference(one(first), one(second)) == 0.0
    assert largest_difference(one(first, 1), one(second, 1)) > 0.0


@every_method
def test_a_grid_of_floats_is_one_program(name, variant):
    """Every float of the hyper-parameters is an array of the program."""
    hyper = started(name, variant).trained
    phase = phases(name, variant)[-1]
    after, _ = updated(name, variant, phase, hypers=[halved(hyper), hyper])
    assert largest_difference(one(after), one(updated(name, variant, phase)[0])) > 0.0


@pytest.mark.parametrize(("name", "variant"), [pair for pair in ALL if acting_values(tiny(*pair)[1])])
def test_training_does_not_read_what_only_acting_reads(name, variant):
    """Start and updates take for it what is no number, and what no test of has an answer."""
    chex.assert_tree_all_finite(started(name, variant).state)
    for phase in phases(name, variant):
        chex.assert_tree_all_finite(updated(name, variant, phase))


@pytest.mark.parametrize(
    "reading", ["int(x)", "float(x)", "bool(x)", "str(x)", "range(x)", "x == 1", "'ddim' == x", "x in (1, 2)", "not x"]
)
def test_a_method_that_reads_what_it_must_not_is_found(reading):
    with pytest.raises(AssertionError, match="training reads"):
        eval(reading, {"__name__": "diffjax.methods.own", "x": UNREAD})


@pytest.mark.parametrize("reading", ["x + 1", "x > 1", "{'ddim': 1}[x]", "x[0]"])
def test_a_method_that_computes_with_it_fails(reading):
    with pytest.raises((TypeError, KeyError)):
        eval(reading, {"__name__": "diffjax.methods.own", "x": UNREAD})


@every_method
def test_every_learner_learns(name, variant):
    """Every kernel of every network with an optimiser of its own moves within three steps."""
    state = current = started(name, variant).state
    for phase in phases(name, variant):
        for step in range(3):
            current, _ = updated(name, variant, phase, step, current)
    is_learner = lambda node: isinstance(node, Learner)  # noqa: E731
    pairs = zip(jax.tree.leaves(state, is_leaf=is_learner), jax.tree.leaves(current, is_leaf=is_learner), strict=True)
    learners = [(before, after) for before, after in pairs if is_learner(before)]
    assert learners
    for before, after in learners:
        moved = zip(jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(after.params), strict=True)
        for (path, old), new in moved:
            where = jax.tree_util.keystr(path)
            assert old.ndim < 3 or np.any(np.asarray(old) != np.asarray(new)), f"{where} did not move"


@every_method
def test_actions(name, variant):
    method, hyper, _, state = started(name, variant)
    observation = jax.random.normal(jax.random.key(3), (4, SPEC.observation_dim))
    keys = jax.random.split(jax.random.key(5), 4)
    large = jax.tree.map(lambda leaf: 10 * leaf, one(state))  # so that the bound of the actions is met
    act = jax.jit(jax.vmap(lambda key, observed: method.sample_action(key, SPEC, large, hyper, observed)))
    together = act(keys, observation)
    assert together.shape == (4, SPEC.action_dim)
    assert np.all(np.abs(np.asarray(together)) <= hyper.max_action)
    turned = act(keys[::-1], observation[::-1])
    np.testing.assert_allclose(turned[::-1], together, atol=1e-6)  # each episode by its own key and observation
    cost = method.cost(hyper)
    assert cost.candidates >= 1
    assert cost.network_evaluations >= 1
    assert cost.selection


def samplers_of(hyper: Any) -> tuple[str, ...]:
    """The choices of the field ``sampler``, where there is one."""
    return tuple(
        choice for field in dataclasses.fields(hyper) if field.name == "sampler" for choice in field.metadata["choices"]
    )


SAMPLED = {name: samplers_of(tiny(name, variant)[1]) for name, variant in reversed(ALL)}  # the first variant is last
FEW = ("dac", "dql", "idql", "edp", "sfbc", "ifql")  # the others act by the same functions, or by more of them


def test_who_is_sampled_how():
    """Every method that samples a noise model or a flow when acting lets the sampler be chosen."""
    chains = ("ancestral", "ddim", "dpmpp2m")
    expected = dict.fromkeys(("dac", "dql", "diffcps", "diffpogan", "diffusion_bc", "idql"), chains)
    expected |= {"edp": ("dpm", *chains), "ifql": ("euler", "heun")}
    expected |= dict.fromkeys(("qgpo", "sfbc"), ("dpm", "euler", "heun"))
    assert {name: choices for name, choices in SAMPLED.items() if choices} == expected


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name, choices in SAMPLED.items() if choices],
)
def test_every_sampler_acts(name):
    """Two steps of each: finite actions within their bounds, and other ones by each where no bound is near."""
    method, hyper, _, state = started(name, next(variant for one, variant in ALL if one == name))
    ways = {choice: hyper.replace(sampler=choice, sampler_steps=2) for choice in SAMPLED[name]}
    keys = jax.random.split(jax.random.key(5), 3)
    observation = jax.random.normal(jax.random.key(3), (3, SPEC.observation_dim))

    def act(key, observed, bound):
        bounded = [way.replace(max_action=bound) for way in ways.values()]
        return [method.sample_action(key, SPEC, one(state), way, observed) for way in bounded]

    quickly = {"xla_backend_optimization_level": 0}
    actions = jax.jit(jax.vmap(act, in_axes=(0, 0, None)), compiler_options=quickly)
    for action in actions(keys, observation, 1.0):
        assert np.all(np.abs(np.asarray(action)) <= 1.0)  # finite, too
    found = dict(zip(ways, actions(keys, observation, 1e4), strict=True))
    # Two steps of DPM-Solver++(2M) are two of DDIM; two evaluations of a solver that ends in order 1 are Euler's.
    alike = {("ddim", "dpmpp2m"), ("dpm", "euler")}
    for first, second in set(itertools.combinations(ways, 2)) - alike:
        assert largest_difference(found[first], found[second]) > 1e-4, (first, second)


@pytest.mark.parametrize(
    ("name", "changes", "evaluations", "selection"),
    [
        ("dac", {}, 5, "argmax of mean target Q over 16"),
        ("dac", {"sampler_steps": 5}, 5, "argmax of mean target Q over 16"),
        ("dac", {"sampler_steps": 3}, 3, "argmax of mean target Q over 16, ancestral in 3 steps"),
        ("dql", {"sampler": "ddim"}, 5, "softmax of min target Q over 16, ddim in 5 steps"),
        (
            "dql",
            {"sampler": "ddim", "sampler_steps": 1, "ddim_eta": 0.5},
            1,
            "softmax of min target Q over 16, ddim (eta 0.5) in 1 step",
        ),
        ("diffusion_bc", {"sampler": "dpmpp2m", "sampler_steps": 2}, 2, "single sample, dpmpp2m in 2 steps"),
        ("idql", {"sampler": "dpmpp2m", "extra_steps": 1}, 6, "largest min target Q of 16, dpmpp2m in 5 steps"),
        ("edp", {}, 15, "softmax of min Q over 16"),
        ("edp", {"sampler_steps": 10}, 10, "softmax of min Q over 16, dpm in 10 steps"),
        ("edp", {"sampler": "ddim"}, 1000, "softmax of min Q over 16, ddim in 1000 steps"),
        ("qgpo", {}, 15, "single guided sample"),
        ("qgpo", {"sampler": "heun", "sampler_steps": 8}, 15, "single guided sample, heun in 8 steps"),
        ("sfbc", {"sampler": "euler"}, 15, "mean of 4 by softmax of Q over 16, euler in 15 steps"),
        ("ifql", {"sampler_steps": 4}, 4, "largest min Q of 16"),
        ("ifql", {"sampler": "heun"}, 19, "largest min Q of 16, heun in 10 steps"),
        ("diffuser", {"sampler_steps": 5}, 15, "largest value of 16 guided plans, ancestral in 5 steps"),
    ],
)
def test_a_rule_of_evaluation_names_the_sampler_that_is_not_published(name, changes, evaluations, selection):
    method, hyper = tiny(name, next(variant for one, variant in ALL if one == name), **changes)
    cost = method.cost(hyper)
    assert (cost.network_evaluations, cost.selection) == (evaluations, selection)


def test_what_the_program_of_edp_does_is_published():
    method, hyper = tiny("edp", "code")
    assert method.cost(hyper)[1:] == (100, "softmax of min Q over 16")


@every_method
def test_lowers_for_accelerators(name, variant):
    """Updates and acting compile to TPU's and CUDA's programs as far as that goes without such a device."""
    method, hyper, trained, state = started(name, variant)
    for phase in phases(name, variant):
        lowered = traced(method, phase, trained).lower(lowering_platforms=("tpu", "cuda"))
        assert "custom_call" not in lowered.as_text()  # nothing that only some platforms have

    def act(data, state, hyper, observation):
        return method.sample_action(jax.random.wrap_key_data(data), SPEC, state, hyper, observation)

    arguments = jnp.zeros(2, jnp.uint32), one(state), jax.tree.map(jnp.asarray, hyper), jnp.zeros(SPEC.observation_dim)
    exported = jax.export.export(jax.jit(act), platforms=["tpu", "cuda"])(*arguments)
    assert exported.platforms == ("tpu", "cuda")
    assert exported.out_avals[0].shape == (SPEC.action_dim,)


@every_method
def test_a_delayed_update_is_a_branch_and_counts_nothing(name, variant):
    """Where step 0, 1 or a late one skips something, the program over runs has a branch, and the metrics weigh 0."""
    phase = phases(name, variant)[-1]
    method, _, hyper, _ = started(name, variant)
    steps = (0, 1, 10_000_001)
    metrics = [metric for step in steps for metric in updated(name, variant, phase, step)[1].values()]
    skipped = [metric for metric in metrics if not np.any(metric.weight)]
    assert all(np.all(np.asarray(metric.total) == 0.0) for metric in skipped)
    assert any(np.all(metric.weight == 1.0) for metric in metrics)
    assert ("cond[" in str(traced(method, phase, hyper).jaxpr)) == bool(skipped)
