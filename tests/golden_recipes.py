"""How one method is proven on its recordings: a recipe of what is called how, and the checks that all recipes share."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import chex
import jax
from golden_tools import Golden, account, changed, in_trunk, stack

from diffjax.methods.base import Method
from diffjax.types import Batch, Spec

Tree = Any
Check = Callable[["Recipe", Golden], None]

FIXED = {"adam_b1": 0.9, "adam_b2": 0.999, "adam_eps": 1e-8, "num_critics": 2, "layer_norm_eps": 1e-6}


def twins_from(recorded: Tree) -> Tree:
    """Our parameters of critics that are recorded one by one."""
    return {"params": stack(recorded["q1"], recorded["q2"])}


def twins_to(params: Tree) -> Tree:
    """The recorded layout of critics that are recorded one by one."""
    return {f"q{i + 1}": jax.tree.map(lambda x, i=i: x[i], params["params"]) for i in range(2)}


def both(values: jax.Array, at: str) -> dict[str, jax.Array]:
    """Values of two critics under the recorded names."""
    return {f"{at}_q1": values[0], f"{at}_q2": values[1]}


def free_normal(recorded: Tree) -> Tree:
    """Our parameters of a policy with a free deviation."""
    mean = {name: layer for name, layer in recorded.items() if name != "log_std"}
    return {"params": in_trunk(mean)["params"] | {"log_std": recorded["log_std"]}}


class Recipe:
    """Where the recordings of a method meet our functions; a subclass fills in what is not shared.

    Names are those under which a recording holds something (``losses/critic/loss``), relative to a training step in
    :meth:`step`.
    """

    method: Method[Any, Any]
    by_step: tuple[str, ...] = ()  # hyper-parameters that are static, and read by updates alone
    phase: int = -1  # of the method, whose update is recorded
    step_bound: float = 1e-5  # of networks after updates
    bounds: tuple[tuple[str, float], ...] = ()  # relative, of results whose name ends so; 1e-5 for all others
    gradient_bound: float = 2e-5  # relative to a tensor's largest
    gradient_floor: float = 1e-2  # a tensor's largest counts as at least this share of its network's

    def __eq__(self, other: object) -> bool:
        """Recipes of a kind share what is compiled."""
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Our hyper-parameters, but for batch size and Polyak rate."""
        raise NotImplementedError

    def scenario_hyper(self, golden: Golden, scenario: str) -> dict[str, Any]:
        """Those in which a training scenario differs."""
        return {"tau": golden.hyper["tau_test"]} if scenario == "train_tau" else {}

    def state_from(self, nets: Tree) -> Any:
        """Recorded networks as a state of ours, with fresh optimisers."""
        raise NotImplementedError

    def nets(self, state: Any) -> Tree:
        """All networks that an update moves, in the recorded layout."""
        raise NotImplementedError

    def draws(self, golden: Golden, at: str) -> Any:
        """The draws of the update recorded at ``at``."""
        return None

    def batches(self, golden: Golden, at: str) -> tuple[Batch, ...]:
        """The minibatches recorded below ``at``."""
        return (golden.batch(at),)

    def forward(self, state: Any, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss."""
        return {}

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of; and the gradients."""
        raise NotImplementedError

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        return {}

    def check_step(self, golden: Golden, at: str, before: Tree, after: Tree, metrics: Any) -> None:
        """What else holds of one update; networks in the recorded layout."""


def bound_of(recipe: Recipe, key: str) -> float:
    """The relative bound of a recorded result."""
    return next((bound for end, bound in recipe.bounds if key.endswith(end)), 1e-5)


def spec_of(golden: Golden) -> Spec:
    return Spec(golden.hyper["obs_dim"], golden.hyper["act_dim"])


def hyper_of(recipe: Recipe, golden: Golden, scenario: str = "train") -> Any:
    """The recording's hyper-parameters, as a training scenario changes them."""
    recorded = golden.hyper
    assert {name: value for name, value in FIXED.items() if recorded.get(name, value) != value} == {}
    values = {"tau": recorded["tau"]} if "tau" in recorded and hasattr(recipe.method.hyper(), "tau") else {}
    values |= recipe.hyper(recorded) | {"batch_size": recorded["batch"]}
    return recipe.method.hyper(**values | recipe.scenario_hyper(golden, scenario))


def shared_hyper(recipe: Recipe, golden: Golden) -> Any:
    """:func:`hyper_of` for programs that update nothing: one compiled program serves several recordings."""
    hyper = hyper_of(recipe, golden)
    return hyper.replace(**{name: getattr(recipe.method.hyper(), name) for name in recipe.by_step})


@functools.partial(jax.jit, static_argnames="recipe")
def fresh_state(recipe: Recipe, nets: Tree) -> Any:
    """Recorded networks as a state of ours, with fresh optimisers."""
    return recipe.state_from(nets)


@functools.partial(jax.jit, static_argnames="recipe")
def examine(recipe: Recipe, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
    """Forward passes, losses and gradients under the recorded names."""
    values, gradients = recipe.losses(draws, state, hyper, batch)
    return recipe.forward(state, hyper, batch) | values, gradients


@functools.partial(jax.jit, static_argnames="recipe")
def take_step(
    recipe: Recipe, draws: Any, step: Any, before: Any, hyper: Any, batches: tuple[Batch, ...]
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """One whole update by the method's own function, its metrics, and what else is recorded of it."""
    state, metrics = recipe.method.phases[recipe.phase].update(draws, step, before, hyper, batches)
    return state, metrics, recipe.step(draws, step, before, state, hyper, batches[0], metrics)


def draws_of(recipe: Recipe, golden: Golden, at: str) -> Any:
    """The draws of an update, of the shapes of our own."""
    hyper = hyper_of(recipe, golden)
    draw = functools.partial(recipe.method.phases[recipe.phase].draw, spec=spec_of(golden), hyper=hyper)
    draws = recipe.draws(golden, at)
    chex.assert_trees_all_equal_shapes_and_dtypes(draws, jax.eval_shape(draw, jax.random.key(0)))
    return draws


def check_initial_shapes(recipe: Recipe, golden: Golden) -> None:
    """Our own initialisation has the recorded structure."""
    init = functools.partial(recipe.method.init, spec=spec_of(golden), hyper=hyper_of(recipe, golden))
    expected = jax.eval_shape(recipe.state_from, golden.tree("params"))
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(init, jax.random.key(0)), expected)


def examined(recipe: Recipe, golden: Golden, nets: Tree) -> tuple[dict[str, jax.Array], Tree]:
    """:func:`examine` at the recorded minibatch."""
    batch, hyper = recipe.batches(golden, "batch")[0], shared_hyper(recipe, golden)
    return examine(recipe, draws_of(recipe, golden, "losses"), fresh_state(recipe, nets), hyper, batch)


def check_losses(recipe: Recipe, golden: Golden) -> None:
    """Forward passes, losses and gradients at the recorded networks."""
    values, gradients = examined(recipe, golden, golden.tree("params"))
    for key, value in values.items():
        golden.close(key, value, bound_of(recipe, key))
    for key, value in gradients.items():
        golden.gradients(key, value, recipe.gradient_bound, recipe.gradient_floor)


def check_training(recipe: Recipe, golden: Golden) -> None:
    """The whole updates of every scenario, each from the state that the one before left."""
    for scenario in golden.scenarios():
        train(recipe, golden, scenario)


def train(recipe: Recipe, golden: Golden, scenario: str) -> None:
    """The updates of one scenario, from the recorded networks and fresh optimisers."""
    hyper, state = hyper_of(recipe, golden, scenario), fresh_state(recipe, golden.tree("params"))
    counted = f"{scenario}/step1/counter" in golden
    start = int(golden[f"{scenario}/step1/counter"]) if counted else 0
    for k, at in enumerate(golden.steps(scenario)):
        if counted:
            golden.equal(f"{at}/counter", start + k)
        before, draws, batches = state, draws_of(recipe, golden, at), recipe.batches(golden, f"{at}/batch")
        state, metrics, seen = take_step(recipe, draws, start + k, before, hyper, batches)
        recipe.check_step(golden, at, recipe.nets(before), recipe.nets(state), metrics)
        for name, value in seen.items():
            if f"{at}/{name}" in golden:  # a delayed step logs what it did, and some programs not all of that
                golden.close(f"{at}/{name}", value, bound_of(recipe, name))
        nets = recipe.nets(state)
        if golden.keys(f"{at}/params/"):  # some steps keep only some networks, or none
            stored = {name: nets[name] for name in golden.tree(f"{at}/params")}
            golden.trees(f"{at}/params", stored, recipe.step_bound)


def moved(before: Tree, after: Tree) -> dict[str, bool]:
    """Which networks an update changed, by a bit at least."""
    return {name: changed(before[name], after[name]) for name in after}


@functools.partial(jax.jit, static_argnames=("recipe", "spec"))
def decide(recipe: Recipe, spec: Spec, state: Any, hyper: Any, observation: jax.Array) -> jax.Array:
    """Decisions of a policy without draws for rows of observations."""
    return jax.vmap(lambda one: recipe.method.act(None, spec, state, hyper, one))(observation)


def prove(name: str, recipe: Recipe, checks: Iterable[Check], exempt: tuple[str, ...] = ()) -> None:
    """All checks of a recording, and that they looked at every result in it but the exempt ones."""
    account(name, [functools.partial(check, recipe) for check in checks], exempt)
