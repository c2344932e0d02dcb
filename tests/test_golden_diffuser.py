"""Diffuser against numbers recorded from its authors' program: data, both nets, losses, sampling, training.

The value net's recordings are in files of their own, and its weights are read from there where plans are guided.
Weights are compared in the recording's layout, which is that of our networks.
"""

import functools
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from golden_tools import Golden, account, assert_absolute, load, parametrized

from diffjax.data.arrays import load_arrays
from diffjax.data.transitions import Dataset
from diffjax.diffusion.objectives import DenoisingDraws, constrained_noise
from diffjax.diffusion.samplers import ChainNoise, transitions
from diffjax.methods import diffuser
from diffjax.methods.base import View
from diffjax.nn.learners import learner
from diffjax.nn.networks import sinusoidal
from diffjax.training.batches import Prepared, all_rows, gather_batch, prepare, whole_data
from diffjax.types import Batch, Spec

Tree = Any

SAMPLE_BOUND = 1e-4  # relative: a chain of twenty denoising steps, some guided
GRADIENT_BOUND = 1e-4  # relative to a tensor's largest
STEP_BOUND = 2e-5  # of weights after updates, relative to 1 + |weight|
# Here the value net's last norm sees two numbers per group, which it makes +-1: its gradient is all but zero.
ILL_CONDITIONED, ILL_GRADIENT_BOUND, ILL_STEP_BOUND = "mid1/res/", 5e-3, 1e-3

FIXED = {"groups": 8, "norm_eps": 1e-5, "attention_heads": 4, "attention_head_dim": 32}
FIXED |= {"adam_b1": 0.9, "adam_b2": 0.999, "adam_eps": 1e-8}


def spec_of(golden: Golden) -> Spec:
    return Spec(golden.hyper["obs_dim"], golden.hyper["act_dim"])


def hyper_of(golden: Golden, **changes: Any) -> diffuser.Hyper:
    """The recording's hyper-parameters."""
    recorded = golden.hyper
    assert {name: recorded[name] for name in FIXED} == FIXED
    return diffuser.Hyper(
        discount=recorded["value_discount"],
        termination_penalty=-recorded["termination_penalty"],
        action_weight=recorded["action_weight"],
        loss_discount=recorded["loss_discount"],
        actor_lr=recorded["lr"],
        value_lr=recorded["lr"],
        ema_decay=recorded["ema_decay"],
        batch_size=recorded["batch"] * recorded["gradient_accumulate_every"],
        horizon=recorded["horizon"],
        max_path_length=recorded["max_path_length"],
        diffusion_steps=recorded["n_diffusion_steps"],
        dim=recorded["dim"],
        dim_mults=tuple(recorded["dim_mults"]),
        value_dim_mults=tuple(recorded["value_dim_mults"]),
        attention=recorded["attention"],
        prediction="epsilon" if recorded["predict_epsilon"] else "x0",
        clip_denoised=recorded["clip_denoised"],
        candidates=recorded["n_plans"],
        guide_steps=recorded["n_guide_steps"],
        guide_scale=recorded["scale"],
        guide_stop=recorded["t_stopgrad"],
    ).replace(**changes)


def network(golden: Golden, name: str) -> Tree:
    """Recorded weights of a network as our parameters."""
    return {"params": golden.tree(f"params/{name}")}


def value_of(golden: Golden) -> Tree:
    """The value net that belongs to a recording of the U-Net."""
    return network(load(golden.name.replace("diffuser_", "diffuser_value_")), "value")


def close_to_largest(golden: Golden, key: str, values: Any, scale: float = 1e-5) -> None:
    """Values of the value net, whose last layer was enlarged: relative to the largest of their kind.

    A small one is the difference of large ones.
    """
    unit = 1.0 + float(np.max(np.abs(golden[key])))
    golden.absolute(key, values, scale * unit, "value", unit)


def windows(golden: Golden, at: str) -> Batch:
    """The recorded windows below ``at``, with their values where there are any."""
    plan, dim = jnp.asarray(golden[f"{at}/trajectories"]), spec_of(golden).action_dim
    plan = plan.reshape(-1, *plan.shape[-2:])  # minibatches of one update one after the other
    nothing = jnp.zeros(plan.shape[:-1])
    labels = None
    if f"{at}/values" in golden:
        labels = nothing.at[:, 0].set(golden[f"{at}/values"].reshape(-1))
    if f"{at}/conditions_0" in golden:
        golden.equal(f"{at}/conditions_0", plan[:, 0, dim:])
    return Batch(plan[..., dim:], plan[..., :dim], nothing, plan[..., dim:], nothing, labels=labels)


def denoising(golden: Golden, at: str) -> DenoisingDraws:
    """The draws of a loss."""
    time, noise = jnp.asarray(golden[f"{at}/draws/t"]), jnp.asarray(golden[f"{at}/draws/noise"])
    return DenoisingDraws(time.reshape(-1), noise.reshape(-1, *noise.shape[-2:]))


def flat(tree: Tree) -> dict[str, Any]:
    """Arrays by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def check_weights(golden: Golden, at: str, params: Tree) -> None:
    """Weights after an update, of the layers that were recorded."""
    found = flat(params["params"])
    for name, expected in flat(golden.tree(at)).items():
        bound = ILL_STEP_BOUND if name.startswith(ILL_CONDITIONED) else STEP_BOUND
        golden.close(f"{at}/{name}", found[name], bound)
        chex.assert_equal_shape([found[name], expected])


def check_gradients(golden: Golden, at: str, gradients: Tree) -> None:
    """All gradients of a loss, each relative to its own largest."""
    expected, found = flat(golden.tree(at)), flat(gradients["params"])
    assert found.keys() == expected.keys()
    network_largest = max(float(np.max(np.abs(leaf))) for leaf in expected.values())
    for name, leaf in expected.items():
        largest = max(float(np.max(np.abs(leaf))), 1e-2 * network_largest)
        bound = ILL_GRADIENT_BOUND if name.startswith(ILL_CONDITIONED) else GRADIENT_BOUND
        assert_absolute(found[name], leaf, f"{golden.name}: {at}/{name}", bound * largest, "gradient", largest)


def recorded_data(golden: Golden) -> Dataset:
    """The recorded file, as our reader understands it."""
    return load_arrays({key.rpartition("/")[2]: golden[key] for key in golden.keys("data/raw/")})


def seen(golden: Golden, **changes: str) -> tuple[Prepared, Batch]:
    """How the method sees the recorded data, and all windows with the values of their steps."""
    hyper, data = hyper_of(golden), recorded_data(golden)
    view: View = diffuser.METHOD.view.sized(hyper)._replace(**changes)
    prepared = prepare(data.transitions, view, episodes=data.episode_rows)
    on_device = jax.tree.map(jnp.asarray, prepared.transitions)
    rows = whole_data(on_device, prepared.part)
    values = diffuser.returns(None, spec_of(golden), None, hyper, rows, all_rows(on_device, prepared.part))
    return prepared, gather_batch(on_device, prepared.part, jnp.arange(prepared.part.size), view, labels=values)


def check_data(golden: Golden) -> None:
    """Which windows there are, padded and normalised, and the return of each."""
    data, (prepared, batch) = recorded_data(golden), seen(golden)
    start = prepared.transitions.row
    episode = np.searchsorted(data.episode_rows[:, 1], start, side="right")
    first = start - data.episode_rows[episode, 0]
    golden.equal("data/indices", np.stack([episode, first, first + golden.hyper["horizon"]], axis=1))
    golden.equal("data/length", start.size)
    plan, items = diffuser.plans_of(batch), golden["data/items"]
    golden.close("data/trajectories", plan[items])
    golden.close("data/conditions_0", batch.observation[items, 0])
    golden.close("data/values", batch.labels[:, 0])
    for name, transform in (("observations", prepared.part.observation), ("actions", prepared.part.action)):
        golden.close(f"data/gaussian/{name}/mean", transform.center)
        golden.close(f"data/gaussian/{name}/std", transform.scale)

    prepared, batch = seen(golden, observation="limits", action="limits")
    golden.close("data/trajectories_limits", diffuser.plans_of(batch)[items])
    for name, transform in (("observations", prepared.part.observation), ("actions", prepared.part.action)):
        golden.close(f"data/limits/{name}/min", transform.center - transform.scale)
        golden.close(f"data/limits/{name}/max", transform.center + transform.scale)
    undone = prepared.part.action.undo(jnp.asarray(golden["data/limits_unnormalize_in"]))
    golden.close("data/limits_unnormalize_out", undone)


def check_initial_shapes(golden: Golden) -> None:
    """Our own networks have the recorded structure."""
    init = functools.partial(diffuser.init, spec=spec_of(golden), hyper=hyper_of(golden))
    state, shapes = jax.eval_shape(init, jax.random.key(0)), functools.partial(jax.tree.map, jnp.shape)
    names = {"unet": state.planner.params, "unet_ema": state.target_planner, "value": state.value.params}
    for name in {key.split("/")[1] for key in golden.keys("params/")}:
        assert shapes(names[name]) == shapes(network(golden, name)), name


def check_schedule(golden: Golden) -> None:
    """Coefficients of the diffusion, and the weights of its loss."""
    hyper = hyper_of(golden)
    schedule = diffuser.schedule_of(hyper)
    for name, values in {
        "betas": schedule.beta,
        "alphas_bar": schedule.alpha_bar,
        "alphas_bar_prev": schedule.alpha_bar_prev,
        "sqrt_alphas_bar": np.sqrt(schedule.alpha_bar),
        "sqrt_one_minus_alphas_bar": np.sqrt(1 - schedule.alpha_bar),
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "posterior_mean_coef_x0": schedule.posterior_coef_x0,
        "posterior_mean_coef_xt": schedule.posterior_coef_xt,
        "loss_weights": diffuser.loss_weights(spec_of(golden), hyper),
    }.items():
        golden.close(f"schedule/{name}", values)


@functools.partial(jax.jit, static_argnums=0)
def forward(structure: Any, unet: Tree, average: Tree, value: Tree, x: jax.Array, time: jax.Array) -> dict[str, Any]:
    """Both nets at the same noisy plans; of the U-Net what every module puts out, too."""
    hyper = diffuser.Hyper(**dict(structure))
    planner = diffuser.planner_network(hyper)
    found, states = planner.apply(unet, x, time, capture_intermediates=True, mutable=["intermediates"])
    of_value = lambda x: diffuser.value_network(hyper).apply(value, x, time)  # noqa: E731
    return {
        "unet": found,
        "unet_ema": planner.apply(average, x, time),
        "inside": states["intermediates"],
        "value": of_value(x),
        "guide_gradient": jax.grad(lambda x: jnp.sum(of_value(x)))(x),
    }


SHAPING = ("dim", "dim_mults", "value_dim_mults", "attention")


def check_forward(golden: Golden) -> None:
    """Both nets, the U-Net's inner layers, the gradient of the guide, and a step of the chain."""
    hyper = hyper_of(golden)
    x, time = jnp.asarray(golden["forward/x_t"]), jnp.asarray(golden["forward/t"])
    structure = tuple((name, getattr(hyper, name)) for name in SHAPING)
    found = forward(structure, network(golden, "unet"), network(golden, "unet_ema"), value_of(golden), x, time)
    golden.close("forward/time_embedding_sinusoidal", sinusoidal(time, hyper.dim, cos_first=False))
    golden.close("forward/time_embedding", found["inside"]["time_1"]["__call__"][0])
    for name in ("unet", "unet_ema"):
        golden.close(f"forward/{name}", found[name])
    for name in ("value", "guide_value"):
        close_to_largest(golden, f"forward/{name}", found["value"])
    largest = float(np.max(np.abs(golden["forward/guide_gradient"])))
    golden.absolute("forward/guide_gradient", found["guide_gradient"], GRADIENT_BOUND * largest, "gradient", largest)
    for key in golden.keys("forward/inside/"):
        level, _, block = key.rpartition("/")[2].partition("_")
        golden.close(key, jnp.swapaxes(found["inside"][level][block]["__call__"][0], -1, -2))
    schedule = diffuser.schedule_of(hyper)
    golden.close("forward/posterior_mean", transitions(schedule, "posterior", time).mean(found["unet"], x))
    golden.close("forward/posterior_log_variance", schedule.posterior_log_variance[time])


@functools.partial(jax.jit, static_argnames=("with_gradients",))
def of_plans(
    params: Tree, draws: DenoisingDraws, hyper: Any, batch: Batch, weight: Any = 1.0, with_gradients: bool = False
) -> tuple[jax.Array, dict[str, jax.Array], Tree]:
    """The U-Net's loss, what it reports, and its gradients where they are asked for."""
    if with_gradients:
        (loss, found), gradients = jax.value_and_grad(diffuser.plan_loss, has_aux=True)(
            params, draws, hyper, batch, weight
        )
        return loss, found, gradients
    return *diffuser.plan_loss(params, draws, hyper, batch, weight), None


def noisy(golden: Golden, at: str, draws: DenoisingDraws, batch: Batch) -> None:
    """The noised windows, whose first observation is the data's."""
    known = lambda x: diffuser.inpaint(x, {0: batch.observation[:, 0]})  # noqa: E731
    x = constrained_noise(diffuser.schedule_of(hyper_of(golden)), diffuser.plans_of(batch), draws, known)
    golden.close(f"{at}/x_noisy", x)


def check_plan_losses(golden: Golden) -> None:
    """The published loss with its gradients, and its options: noise prediction, absolute errors, other weights."""
    hyper, batch, unet = hyper_of(golden), windows(golden, "batch"), network(golden, "unet")
    weights, dim = golden["losses/option_weighted/loss_weights"], spec_of(golden).action_dim
    own = jnp.asarray(weights[1, dim:] / weights[1, 0])  # of each observation, relative to the actions of the same step
    discounted = hyper.replace(loss_discount=float(weights[2, 0] / weights[1, 0]))
    golden.close("losses/option_weighted/loss_weights", diffuser.loss_weights(spec_of(golden), discounted, own))
    options: Mapping[str, tuple[diffuser.Hyper, Any]] = {
        "diffusion": (hyper, jnp.ones(own.shape)),
        "option_weighted": (discounted, own),
        "option_eps_l2": (hyper.replace(prediction="epsilon"), jnp.ones(own.shape)),
        "option_x0_l1": (hyper.replace(error="l1"), jnp.ones(own.shape)),
    }
    for name, (changed, weight) in options.items():
        at = f"losses/{name}"
        draws = denoising(golden, at)
        noisy(golden, at, draws, batch)
        gradients_recorded = bool(golden.keys(f"{at}/grads/"))
        loss, found, gradients = of_plans(unet, draws, changed, batch, weight, gradients_recorded)
        golden.close(f"{at}/loss", loss)
        # The program logs the unweighted error of the first actions, divided by their weight.
        golden.close(f"{at}/info/a0_loss", found["actor/first_action"] / changed.action_weight)
        if gradients_recorded:
            check_gradients(golden, f"{at}/grads/unet", gradients)


@jax.jit
def of_values(
    params: Tree, draws: DenoisingDraws, hyper: Any, batch: Batch
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array, Tree]:
    """The value net's loss, what it reports, its values, and the gradients."""
    (loss, found), gradients = jax.value_and_grad(diffuser.value_loss, has_aux=True)(params, draws, hyper, batch)
    return loss, found, diffuser.noisy_values(params, draws, hyper, batch), gradients


def check_value_losses(golden: Golden) -> None:
    """The value net's loss with its gradients, and with absolute errors; what the program logs of its values."""
    hyper, batch, params = hyper_of(golden), windows(golden, "batch"), network(golden, "value")
    target = np.asarray(batch.labels[:, 0])
    for name, changed in {"value": hyper, "option_value_l1": hyper.replace(error="l1")}.items():
        at = f"losses/{name}"
        draws = denoising(golden, at)
        noisy(golden, at, draws, batch)
        loss, found, values, gradients = of_values(params, draws, changed, batch)
        golden.close(f"{at}/loss", loss)
        close_to_largest(golden, f"{at}/pred", values)
        unit = 1.0 + float(np.max(np.abs(values)))
        golden.absolute(f"{at}/info/mean_pred", found["critic/q_mean"], 1e-5 * unit, "value", unit)
        golden.close(f"{at}/info/mean_targ", found["critic/target_mean"])
        for kind, numbers in (("pred", np.asarray(values)), ("targ", target)):
            golden.absolute(f"{at}/info/min_{kind}", numbers.min(), 1e-5 * unit, "value", unit)
            golden.absolute(f"{at}/info/max_{kind}", numbers.max(), 1e-5 * unit, "value", unit)
        golden.close(f"{at}/info/corr", np.corrcoef(values, target)[0, 1])
        if golden.keys(f"{at}/grads/"):
            check_gradients(golden, f"{at}/grads/value", gradients)


make_plans = jax.jit(diffuser.make_plans)


def chains(golden: Golden, at: str, hyper: diffuser.Hyper, known: dict[int, jax.Array]) -> tuple[Any, Any]:
    """All states of the recorded plans, and their values."""
    noise = ChainNoise(jnp.asarray(golden[f"{at}/x_T"]), jnp.asarray(golden[f"{at}/z"]))
    chain, values = make_plans(network(golden, "unet"), value_of(golden), noise, hyper, known)
    golden.close(f"{at}/chain", chain, SAMPLE_BOUND)
    return chain, values


STRENGTHS = {"guided_main": "variance", "guided_locomotion": "std", "guided_one_step_no_std": "none"}


def check_sampling(golden: Golden) -> None:
    """Guided plans of both branches, their ranking and the action; plans without a guide, and between two ends."""
    spec, hyper, prepared = spec_of(golden), hyper_of(golden), seen(golden)[0]
    observation = prepared.part.observation(jnp.asarray(golden["sampler/obs_raw"]))
    golden.close("sampler/obs_normalised", observation)
    for name, strength in STRENGTHS.items():
        at = f"sampler/{name}"
        steps, scale, stop, is_scaled = (float(number) for number in golden[f"{at}/settings"])
        assert bool(is_scaled) == (strength != "none")
        changed = hyper.replace(
            guide_steps=int(steps), guide_scale=scale, guide_stop=int(stop), guide_strength=strength
        )
        chain, values = chains(golden, at, changed, {0: observation})
        close_to_largest(golden, f"{at}/values_per_step", values, SAMPLE_BOUND)
        order = np.argsort(-values[-1])
        plan = chain[-1][order]
        close_to_largest(golden, f"{at}/values_sorted", values[-1][order], SAMPLE_BOUND)
        golden.close(f"{at}/trajectories_sorted", plan, SAMPLE_BOUND)
        action, seen_as = prepared.part.action, prepared.part.observation
        golden.close(f"{at}/plan_actions", action.undo(plan[..., : spec.action_dim]), SAMPLE_BOUND)
        observed = plan[..., spec.action_dim :] * seen_as.scale + seen_as.center
        golden.close(f"{at}/plan_observations", observed, SAMPLE_BOUND)
        first = diffuser.first_action(chain[-1], values[-1], spec, changed)
        golden.close(f"{at}/action", action.undo(first), SAMPLE_BOUND)
    unguided = hyper.replace(guide_steps=0)
    chains(golden, "sampler/unguided", unguided, {0: observation})
    at = "sampler/goal_inpainting"
    ends = {0: golden[f"{at}/conditions_0"], hyper.horizon - 1: golden[f"{at}/conditions_last"]}
    chains(golden, at, unguided.replace(clip_denoised=True), {row: jnp.asarray(end) for row, end in ends.items()})


@functools.partial(jax.jit, static_argnames=("phase",))
def updated(phase: int, draws: Any, step: Any, state: Any, hyper: Any, batch: Batch) -> Any:
    """A whole update."""
    return diffuser.METHOD.phases[phase].update(draws, step, state, hyper, (batch,))[0]


def of_minibatches(golden: Golden, draws: DenoisingDraws, batch: Batch) -> list[tuple[DenoisingDraws, Batch]]:
    """The minibatches whose gradients the program adds up to one update."""
    count = golden.hyper["gradient_accumulate_every"]
    parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), (draws, batch))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], parts) for i in range(count)]


def check_training(golden: Golden) -> None:
    """Whole updates of every scenario, the first from the recorded weights with fresh optimisers."""
    is_value = bool(golden.keys("params/value/"))
    name = "value" if is_value else "unet"
    start, average = network(golden, name), network(golden, name if is_value else "unet_ema")
    loss = diffuser.value_loss if is_value else diffuser.plan_loss
    loss = jax.jit(loss)
    fresh = jax.jit(lambda params: learner(params))
    for scenario in golden.scenarios():
        first = int(golden[f"{scenario}/step_counter_at_start"])
        hyper = hyper_of(
            golden,
            ema_copies=int(golden[f"{scenario}/step_start_ema"]),
            ema_interval=int(golden[f"{scenario}/update_ema_every"]),
        )
        nothing = (None, None)
        pair = (fresh(start), average)
        for k, at in enumerate(golden.steps(scenario)):
            draws, batch = denoising(golden, at), windows(golden, f"{at}/batch")
            parts = of_minibatches(golden, draws, batch)
            losses = [loss(pair[0].params, *part[:1], hyper, *part[1:])[0] / len(parts) for part in parts]
            golden.close(f"{at}/loss_over_accumulation", jnp.stack(losses), 2e-5 if k else 1e-5)
            state = diffuser.State(*(nothing + pair if is_value else pair + nothing))
            state = updated(0 if is_value else 1, draws, jnp.int32(first + k), state, hyper, batch)
            pair = (state.value, state.target_value) if is_value else (state.planner, state.target_planner)
            check_weights(golden, f"{at}/params/{name}", pair[0].params)
            check_weights(golden, f"{at}/params/{name}_ema", pair[1])


OF_PLANS = (check_data, check_initial_shapes, check_schedule, check_forward, check_plan_losses, check_sampling)
RECORDINGS = {
    "diffuser_gym": (*OF_PLANS, check_training),
    "diffuser_halfcheetah": (*OF_PLANS, check_training),
    "diffuser_value_gym": (check_initial_shapes, check_value_losses, check_training),
    "diffuser_value_halfcheetah": (check_initial_shapes, check_value_losses, check_training),
}


@parametrized(RECORDINGS, slow=("diffuser_gym", "diffuser_halfcheetah", "diffuser_value_halfcheetah"))
def test_recorded_numbers(name: str) -> None:
    account(name, RECORDINGS[name])
