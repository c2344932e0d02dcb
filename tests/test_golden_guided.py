"""QGPO and SfBC against numbers recorded from their authors' programs.

A recipe per method says how a recording's hyper-parameters, networks and draws are called here. What both programs have
in common (schedule, solver, score network, behaviour loss) is looked at by the same checks.
"""

import functools
import math
import pathlib
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipes import (
    Recipe,
    check_initial_shapes,
    fresh_state,
    hyper_of,
    prove,
    spec_of,
    take_step,
    twins_from,
    twins_to,
)
from golden_tools import Golden, in_trunk, layers, parametrized, per_state, plain

from diffjax import losses
from diffjax.data.hdf5 import load_hdf5
from diffjax.data.rewards import corl_locomotion, iql_antmaze
from diffjax.data.trajectories import apply_rule
from diffjax.data.transitions import Transitions
from diffjax.diffusion.dpm_solver import second_orders, third_orders
from diffjax.diffusion.objectives import TimeDraws, noised
from diffjax.diffusion.schedules import scales
from diffjax.experiment.settings import resolve
from diffjax.methods import qgpo, score_policy, sfbc
from diffjax.methods.candidates import ActionDraws, num_uniforms
from diffjax.methods.score_policy import SCHEDULE, TIME_END
from diffjax.nn import score
from diffjax.nn.learners import learner
from diffjax.training.batches import all_rows, prepare, whole_data
from diffjax.types import Batch, Spec

Tree = Any

SAMPLES, RETURNS = 1e-4, 1e-3  # relative bounds of samples, and of planned returns


def trained_part(recorded: Tree) -> Tree:
    """The parameters of a score network; its frequencies are none."""
    return plain({name: layer for name, layer in recorded.items() if name != "fourier"})


def embedded(recorded: Tree) -> Tree:
    """The parameters of a guidance network."""
    trunk = {name: layer for name, layer in recorded.items() if name.startswith("layer_")}
    return {"params": {"embed": recorded["embed"]} | in_trunk(trunk)["params"]}


def with_frequency(network: Tree, frequency: jax.Array) -> Tree:
    """A network in the recorded layout."""
    return layers(network) | {"fourier": {"W": frequency}}


class Guided(Recipe):
    """What the recordings of both methods share."""

    orders: Any
    plan: Any
    module: Any  # the behaviour model

    def shared(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Hyper-parameters of both."""
        assert recorded["fourier_dim"] == score.FEATURES
        assert recorded["fourier_scale"] == score.FREQUENCY_STD
        return {
            "discount": recorded["discount"],
            "alpha": recorded["alpha"],
            "actor_lr": recorded["behaviour_lr"],
            "critic_lr": recorded["critic_lr"],
            "support_actions": recorded["M"],
            "support_steps": recorded["steps_list"][0],
            "sampler_steps": recorded["steps_list"][0],
            "behavior_batch_size": recorded["batch"],
        }


class QGPO(Guided):
    """Where the recordings of QGPO meet our functions."""

    module = staticmethod(lambda hyper, spec: score_policy.network(hyper, spec.action_dim))

    method = qgpo.METHOD
    orders, plan = staticmethod(second_orders), staticmethod(qgpo.plan)
    step_bound = 2e-5
    gradient_bound = 1e-4

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        widths = recorded["widths_here"]
        value = widths["256 (q0, qt)"]
        return self.shared(recorded) | {
            "q_alpha": recorded["q_alpha"],
            "guidance_lr": recorded["qt_lr"],
            "time_min": recorded["t_min"],
            "behavior_hidden_dims": (widths["512"], widths["256 (score)"], widths["128"]),
            "hidden_dims": (value,) * 3,
            "guidance_hidden_dims": (value,) * 4,
        }

    def state_from(self, nets: Tree) -> qgpo.State:
        return qgpo.State(
            behavior=learner(trained_part(nets["score"])),
            frequency=nets["score"]["fourier"]["W"],
            critic=learner(twins_from(nets["q0"])),
            target_critic=twins_from(nets["q0_target"]),
            guidance=learner(embedded(nets["qt"])),
            guidance_frequency=nets["qt"]["fourier"]["W"],
        )

    def nets(self, state: qgpo.State) -> Tree:
        """All networks in the recorded layout."""
        return {
            "score": with_frequency(state.behavior.params, state.frequency),
            "q0": twins_to(state.critic.params),
            "q0_target": twins_to(state.target_critic),
            "qt": with_frequency(state.guidance.params, state.guidance_frequency),
        }

    def batches(self, golden: Golden, at: str) -> tuple[Batch, ...]:
        read = lambda name: jnp.asarray(golden[f"{at}/{name}"])  # noqa: E731
        support = qgpo.Support(read("support_actions"), read("support_next_actions"))
        ended = 1.0 - read("done")
        return (Batch(read("obs"), read("actions"), read("rewards"), read("next_obs"), ended, labels=support),)

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update: of the critic where it learns, and of the guidance."""
        seen = self.of_critic(before, hyper, batch) | {"q0/loss": metrics["critic/loss"].total}
        guidance = self.of_guidance("cep", draws, before, after.target_critic, hyper, batch)
        return (
            seen
            | {f"cep/{name}": value for name, value in guidance.items()}
            | {"cep/loss": metrics["guidance/loss"].total}
        )

    def of_critic(self, state: qgpo.State, hyper: Any, batch: Batch) -> Tree:
        """What the critic's loss is made of."""
        energy = qgpo.energies(state.target_critic, hyper, batch.next_observation, batch.labels.next_action)
        q1, q2 = qgpo.critics(hyper).apply(state.critic.params, batch.action, batch.observation)
        return {
            "q0/next_q": energy,
            "q0/next_weights": jax.nn.softmax(hyper.q_alpha * energy, axis=-1),
            "q0/next_v": losses.softmax_mean(energy, hyper.q_alpha),
            "q0/target_q": qgpo.critic_target(energy, hyper, batch),
            "q0/current_q1": q1,
            "q0/current_q2": q2,
        }

    def of_guidance(
        self, kind: str, draws: TimeDraws, state: qgpo.State, target: Tree, hyper: Any, batch: Batch
    ) -> Tree:
        """What the guidance's loss is made of."""
        energy = qgpo.energies(target, hyper, batch.observation, batch.labels.action)
        action = batch.labels.action if kind == "cep" else batch.action
        time, x = noised(SCHEDULE, action, draws, hyper.time_min)
        per_row = (time[:, None], batch.observation[:, None]) if kind == "cep" else (time, batch.observation)
        of_kind = (
            {"label": jax.nn.softmax(hyper.alpha * energy, axis=-1)}
            if kind == "cep"
            else {"data_q_alpha_minus_baseline": qgpo.regression_label(target, energy, hyper, batch)}
        )
        return of_kind | {
            "t": time,
            "energy": energy,
            "noisy_actions": x,
            "qt": qgpo.energy_at(state.guidance.params, state.guidance_frequency, hyper, x, *per_row),
        }


class SfBC(Guided):
    """Where the recordings of SfBC meet our functions."""

    module = staticmethod(lambda hyper, spec: sfbc.network(hyper, spec.action_dim))

    method = sfbc.METHOD
    orders, plan = staticmethod(third_orders), staticmethod(sfbc.plan)
    step_bound = 2e-5
    gradient_bound = 1e-4

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        assert recorded["normalise_return"] == 1
        assert recorded["t_end_sampling"] == TIME_END
        widths = recorded["widths_here"]
        narrow, wide = widths["critic 256/512"]
        large, middle, first = widths["small score 512/256/224"]
        return self.shared(recorded) | {
            "time_min": recorded["t_min_training"],
            "behavior_hidden_dims": (widths["512 (score)"], widths["256 (score)"], widths["128"]),
            "small_hidden_dims": (first, large, middle, middle, middle),
            "hidden_dims": {"small": (narrow, narrow), "large": (wide, narrow, narrow)}[recorded["critic_type"]],
            "candidates": recorded["n_candidates"],
            "renewal_interval": 1_000,
        }

    def state_from(self, nets: Tree) -> sfbc.State:
        behavior, frequency = trained_part(nets["score"]), nets["score"]["fourier"]["W"]
        return sfbc.State(
            learner(behavior), frequency, learner(plain(nets["q"])), jax.tree.map(jnp.copy, plain(nets["q"]))
        )

    def nets(self, state: sfbc.State) -> Tree:
        """All networks in the recorded layout."""
        return {"score": with_frequency(state.behavior.params, state.frequency), "q": layers(state.critic.params)}

    def batches(self, golden: Golden, at: str) -> tuple[Batch, ...]:
        read = lambda name: jnp.asarray(golden[f"{at}/{name}"])  # noqa: E731
        target = read("returns")  # standardised already
        labels = sfbc.Labels(target[:, None, None], target, jnp.zeros_like(target), jnp.ones_like(target))
        observation, nothing = read("obs"), jnp.zeros_like(target)
        return (Batch(observation, read("actions"), nothing, observation, nothing, labels=labels),)

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        return {"loss": metrics["critic/loss"].total}


def plain_batch(golden: Golden, at: str) -> Batch:
    """States and actions, which is all that the behaviour model learns from."""
    observation, action = (jnp.asarray(golden[f"{at}/{name}"]) for name in ("obs", "actions"))
    nothing = jnp.zeros(len(observation))
    return Batch(observation, action, nothing, observation, nothing)


def times(golden: Golden, at: str) -> TimeDraws:
    """The draws recorded at ``at``."""
    return TimeDraws(*(jnp.asarray(golden[f"{at}/draws/{name}"]) for name in ("u", "noise")))


def check_schedule(recipe: Guided, golden: Golden) -> None:
    """Schedule, grids and lists of orders; the recording's float32 loses digits near time 0."""
    time = golden["schedule/t"].astype(np.float64)
    log_alpha = SCHEDULE.log_alpha(time)
    alpha, sigma = (np.asarray(x) for x in scales(jnp.asarray(log_alpha, jnp.float32)))
    half_log_snr = log_alpha - 0.5 * np.log(-np.expm1(2.0 * log_alpha))
    ours = {"alpha": alpha, "std": sigma, "log_alpha": log_alpha, "lambda": half_log_snr}
    ours["inverse_lambda"] = SCHEDULE.time(half_log_snr)
    bound = np.where(time < 1e-3, 1e-2, np.where(time < 1e-2, 2e-4, 1e-5))
    for name, value in ours.items():
        recorded = golden[f"schedule/{name}"]
        assert np.all(np.abs(value - recorded) <= bound * (1 + np.abs(recorded))), name
    for number, steps in enumerate(golden.hyper["steps_list"]):
        golden.equal(f"schedule/orders_n{number}", recipe.orders(steps))
        golden.close(f"schedule/timesteps_n{number}", np.linspace(1.0, TIME_END, steps + 1))


def check_score_network(recipe: Guided, golden: Golden) -> None:
    """Time features and noise prediction of the behaviour model."""
    hyper, nets = hyper_of(recipe, golden), golden.tree("params")["score"]
    module = recipe.module(hyper, spec_of(golden))

    @jax.jit
    def forward(params: Tree, frequency: jax.Array, x: jax.Array, time: jax.Array, observation: jax.Array) -> Tree:
        features = score.fourier_features(time, frequency)
        head, seen = module.apply(params, x, features, observation, capture_intermediates=True)
        return {
            "fourier_phase": score.phases(time, frequency),
            "fourier_features": features,
            "time_embedding": seen["intermediates"]["embed"]["__call__"][0],
            "score_unnormalised": head,
            "eps": score_policy.predicted_noise(params, frequency, module, x, time, observation),
        }

    x, time, observation = (jnp.asarray(golden[name]) for name in ("forward/x_t", "forward/t", "batch/obs"))
    found = forward(trained_part(nets), nets["fourier"]["W"], x, time, observation)
    for name, value in found.items():
        if f"forward/{name}" in golden:
            golden.close(f"forward/{name}", value)
    check_score(golden, "forward/score", found["eps"])


def check_score(golden: Golden, key: str, noise: jax.Array) -> None:
    """The score, ``-epsilon / sigma``; near time 0 the division magnifies what the program's float32 loses of sigma."""
    time = golden["forward/t"]
    _, sigma = scales(SCHEDULE.log_alpha(jnp.asarray(time)))
    recorded, bound = golden[key], np.where(time < 1e-2, 3e-4, 1e-5)[:, None]
    assert np.all(np.abs(-noise / sigma[:, None] - recorded) <= bound * (1 + np.abs(recorded))), key


cloning_gradient = jax.jit(jax.grad(score_policy.behavior_loss, has_aux=True), static_argnums=2)


def check_behavior_loss(recipe: Guided, golden: Golden) -> None:
    """The denoising loss and its gradient."""
    hyper, nets = hyper_of(recipe, golden), golden.tree("params")["score"]
    draws, batch = times(golden, "losses/behaviour"), plain_batch(golden, "batch")
    golden.close("losses/behaviour/t", noised(SCHEDULE, batch.action, draws, hyper.time_min).time)
    module = recipe.module(hyper, spec_of(golden))
    gradient, found = cloning_gradient(trained_part(nets), nets["fourier"]["W"], module, draws, hyper, batch)
    golden.close("losses/behaviour/loss", found["behavior/loss"])
    golden.gradients("losses/behaviour/grads/score", layers(gradient), recipe.gradient_bound)


def check_behavior_training(recipe: Guided, golden: Golden) -> None:
    """The whole updates of the behaviour model, by the method's own phase."""
    hyper, state = hyper_of(recipe, golden), fresh_state(recipe, golden.tree("params"))
    update = jax.jit(recipe.method.phases[0].update)
    for number, at in enumerate(golden.steps("train_behaviour")):
        draws, batch = times(golden, at), plain_batch(golden, f"{at}/batch")
        golden.close(f"{at}/t", noised(SCHEDULE, batch.action, draws, hyper.time_min).time)
        state, metrics = update(draws, number, state, hyper, (batch,))
        golden.close(f"{at}/loss", metrics["behavior/loss"].total)
        nets = recipe.nets(state)["score"]
        stored = golden.tree(f"{at}/params")["score"]
        golden.trees(f"{at}/params/score", {name: nets[name] for name in stored}, recipe.step_bound)
        np.testing.assert_array_equal(nets["fourier"]["W"], golden["params/score/fourier/W"])


def check_samples(golden: Golden, at: str, solution: Any, repeats: int) -> None:
    """Every evaluation of the solver, and the samples; rows of a state are consecutive in the recording."""
    rows = lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1]) if repeats > 1 else x  # noqa: E731
    golden.close(f"{at}/t", solution.time)
    golden.close(f"{at}/x", rows(solution.x), SAMPLES)
    golden.close(f"{at}/eps", rows(solution.epsilon), SAMPLES)
    golden.close(f"{at}/action", solution.sample, SAMPLES)


def sampled(golden: Golden, at: str, repeats: int) -> tuple[jax.Array, jax.Array]:
    """The noise and the states from which the samples at ``at`` are made."""
    noise, observation = jnp.asarray(golden[f"{at}/x_T"]), jnp.asarray(golden["sampler/obs"])
    return (per_state(noise, repeats), observation[:, None]) if repeats > 1 else (noise, observation)


@functools.partial(jax.jit, static_argnames=("recipe", "golden_spec"))
def behaved(recipe: Guided, golden_spec: Spec, state: Any, hyper: Any, start: jax.Array, observation: jax.Array) -> Any:
    """Samples of the behaviour model, with every evaluation."""
    given = (
        state.behavior.params,
        state.frequency,
        recipe.module(hyper, golden_spec),
        recipe.plan(hyper.support_steps),
    )
    return score_policy.behavior_actions(*given, start, observation)


def by_formula(shapes: Tree, prefix: str, index: dict[str, int]) -> Tree:
    """Parameters at published widths, by the recording's formula."""

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = "/".join([prefix, *(key.key for key in path)])
        k, j = index[name], np.arange(shape.shape[-1])
        if name.endswith("bias"):
            return jnp.asarray(0.1 * np.cos(0.53 * j + 0.29 * k), jnp.float32)
        i = np.arange(shape.shape[0])[:, None]
        return jnp.asarray(1.2 * np.sin(0.37 * i + 0.73 * j + 0.11 * k) / math.sqrt(shape.shape[0]), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


WIDE_FREQUENCY = jnp.asarray(30 * np.sin(1.7 * np.arange(score.NUM_FREQUENCIES) + 0.3), jnp.float32)


def wide(golden: Golden, module: Any, prefix: str, inputs: tuple[jax.Array, ...], to_params: Any = plain) -> jax.Array:
    """What a network of the published width puts out on the recorded inputs."""
    shapes = layers(jax.eval_shape(module.init, jax.random.key(0), *inputs))
    params = to_params(by_formula(shapes, prefix, golden.info["full_width_index"]))
    return jax.jit(module.apply)(params, *inputs)


def wide_inputs(golden: Golden) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Noisy action, time features, observation."""
    features = score.fourier_features(jnp.asarray(golden["forward/t"]), WIDE_FREQUENCY)
    return jnp.asarray(golden["forward/x_t"]), features, jnp.asarray(golden["batch/obs"])


# QGPO


def check_qgpo_networks(recipe: QGPO, golden: Golden) -> None:
    """Critics, guidance and guided noise."""
    hyper, state = hyper_of(recipe, golden), fresh_state(recipe, golden.tree("params"))
    (batch,) = recipe.batches(golden, "batch")

    @jax.jit
    def forward(state: qgpo.State, hyper: Any, batch: Batch, x: jax.Array, time: jax.Array) -> Tree:
        q, target = (
            qgpo.critics(hyper).apply(params, batch.action, batch.observation)
            for params in (state.critic.params, state.target_critic)
        )
        given = (state.guidance.params, state.guidance_frequency, hyper)
        return {
            "q1": q[0],
            "q2": q[1],
            "q_min": losses.ensemble_min(q),
            "q1_target": target[0],
            "q2_target": target[1],
            "qt_fourier_features": score.fourier_features(time, state.guidance_frequency),
            "qt": qgpo.energy_at(*given, x, time, batch.observation),
            "guidance": hyper.guidance_scale * qgpo.energy_slope(state, hyper, x, time, batch.observation),
            "eps_guided": qgpo.guided_noise(state, hyper, x, time, batch.observation),
        }

    golden.close("forward/guidance_scales", golden.hyper["guidance_scales"])
    x, time = jnp.asarray(golden["forward/x_t"]), jnp.asarray(golden["forward/t"])
    for number, scale in enumerate(golden.hyper["guidance_scales"]):
        for name, value in forward(state, hyper.replace(guidance_scale=scale), batch, x, time).items():
            suffix = f"_w{number}" if name in ("guidance", "eps_guided") else ""
            golden.close(f"forward/{name}{suffix}", value)


def check_qgpo_samples(recipe: QGPO, golden: Golden) -> None:
    """Support actions and the policy's actions, with every evaluation; and the action that is taken."""
    state, spec = fresh_state(recipe, golden.tree("params")), spec_of(golden)
    policy = jax.jit(qgpo.sample)
    act = jax.jit(jax.vmap(qgpo.act, in_axes=(0, None, None, None, 0)), static_argnums=1)
    for number, steps in enumerate(golden.hyper["steps_list"]):
        hyper, at = (
            hyper_of(recipe, golden).replace(support_steps=steps, sampler_steps=steps),
            f"sampler/support_n{number}",
        )
        assert golden[f"{at}/guidance_scale"] == 0
        repeats = golden[f"{at}/action"].shape[1]
        check_samples(golden, at, behaved(recipe, spec, state, hyper, *sampled(golden, at, repeats)), repeats)
        for place, scale in enumerate(golden.hyper["guidance_scales"]):
            at = f"sampler/eval_n{number}_w{place}"
            if f"{at}/x_T" in golden:
                golden.close(f"{at}/guidance_scale", scale)
                guided, (start, observation) = hyper.replace(guidance_scale=scale), sampled(golden, at, 1)
                check_samples(golden, at, policy(start, state, guided, observation), 1)
                if number == 0:
                    acted = act(start, spec, state, guided, observation)
                    np.testing.assert_allclose(acted, np.clip(golden[f"{at}/action"], -1, 1), atol=SAMPLES)


def check_support_labels(recipe: QGPO, golden: Golden) -> None:
    """The labels are the samples of the behaviour model at states and next states, in the order of rows."""
    hyper, state, spec = hyper_of(recipe, golden), fresh_state(recipe, golden.tree("params")), spec_of(golden)
    at = "sampler/support_n0"
    start, observation = sampled(golden, at, golden[f"{at}/action"].shape[1])
    batch = Batch(observation[:, 0], start[:, 0], jnp.zeros(len(start)), observation[::-1, 0], jnp.zeros(len(start)))
    found = jax.jit(qgpo.support, static_argnums=1)(qgpo.Support(start, start[::-1]), spec, state, hyper, batch, None)
    golden.close(f"{at}/action", found.action, SAMPLES)
    golden.close(f"{at}/action", found.next_action[::-1], SAMPLES)


def check_qgpo_losses(recipe: QGPO, golden: Golden) -> None:
    """Q step and guidance step, and the two options of the latter."""
    hyper, state = hyper_of(recipe, golden), fresh_state(recipe, golden.tree("params"))
    (batch,) = recipe.batches(golden, "batch")

    @jax.jit
    def critic_step(state: qgpo.State, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        seen = recipe.of_critic(state, hyper, batch)
        given = (state.critic.params, seen["q0/target_q"], hyper, batch)
        gradient, found = jax.grad(qgpo.critic_loss, has_aux=True)(*given)
        return twins_to(gradient), seen | {"q0/loss": found["critic/loss"]}

    @functools.partial(jax.jit, static_argnums=0)
    def guidance_step(kind: str, draws: TimeDraws, state: qgpo.State, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        seen = recipe.of_guidance(kind, draws, state, state.target_critic, hyper, batch)
        loss = qgpo.contrastive_loss if kind == "cep" else qgpo.regression_loss
        label = seen["energy"] if kind == "cep" else seen["data_q_alpha_minus_baseline"]
        given = (state.guidance.params, state.guidance_frequency, label, draws, hyper, batch)
        gradient, found = jax.grad(loss, has_aux=True)(*given)
        return layers(gradient), seen | {"loss": found["guidance/loss"]}

    gradient, seen = critic_step(state, hyper, batch)
    golden.gradients("losses/q0/grads/q0", gradient, recipe.gradient_bound)
    for name, value in seen.items():
        golden.close(f"losses/{name}", value)
    for kind in ("cep", "mse", "emse"):
        at, chosen, draws = f"losses/{kind}", hyper.replace(guidance_loss=kind), times(golden, f"losses/{kind}")
        gradient, seen = guidance_step(kind, draws, state, chosen, batch)
        for name, value in seen.items():
            golden.close(f"{at}/{name}", value)
        if kind == "cep":  # a softmax ignores shifts: this gradient is 0, and rounding in both programs
            last, stored = gradient[last_layer(hyper)], golden.tree(f"{at}/grads/qt")[last_layer(hyper)]
            assert np.max(np.abs([last["bias"], stored["bias"]])) <= 1e-4 * np.max(np.abs(stored["kernel"]))
            last["bias"] = stored["bias"]
        golden.gradients(f"{at}/grads/qt", gradient, recipe.gradient_bound)
        wanted = jax.eval_shape(lambda key, chosen=chosen: qgpo.draw(key, spec_of(golden), chosen), jax.random.key(0))
        assert jax.tree.map(jnp.shape, draws) == jax.tree.map(jnp.shape, wanted)


def last_layer(hyper: Any) -> str:
    """The guidance's."""
    return f"layer_{len(hyper.guidance_hidden_dims)}"


def check_qgpo_training(recipe: QGPO, golden: Golden) -> None:
    """The whole updates: while the critic learns, and after it was frozen.

    The guidance is known up to a number, and its last bias moves by what rounding made of a gradient that is 0.
    """
    hyper = hyper_of(recipe, golden)
    for scenario, first in (("train", 0), ("train_qt_only", hyper.critic_steps)):
        state = fresh_state(recipe, golden.tree("params"))
        for number, at in enumerate(golden.steps(scenario)):
            draws, before = times(golden, f"{at}/cep"), state
            batches = recipe.batches(golden, f"{at}/batch")
            state, metrics, seen = take_step(recipe, draws, first + number, before, hyper, batches)
            learns = metrics["critic/loss"].weight == 1
            assert learns == (scenario == "train")
            if not learns:
                jax.tree.map(np.testing.assert_array_equal, state.critic, before.critic)
                jax.tree.map(np.testing.assert_array_equal, state.target_critic, before.target_critic)
                seen = {name: value for name, value in seen.items() if name.startswith("cep/")}
            shifted = golden[f"{at}/cep/qt"]
            golden.close(f"{at}/cep/t", seen["cep/t"])
            centred = seen.pop("cep/qt")
            error = (centred - jnp.mean(centred)) - (shifted - np.mean(shifted))
            assert np.max(np.abs(error)) <= 2e-5 * (1 + np.max(np.abs(shifted)))
            for name, value in seen.items():
                golden.close(f"{at}/{name}", value)
            nets, stored = recipe.nets(state), golden.tree(f"{at}/params")
            nets["qt"][last_layer(hyper)]["bias"] = stored["qt"][last_layer(hyper)]["bias"]
            golden.trees(f"{at}/params", {name: nets[name] for name in stored}, recipe.step_bound)


def check_qgpo_widths(recipe: QGPO, golden: Golden) -> None:
    """All networks at the published widths."""
    hyper, inputs = qgpo.Hyper(), wide_inputs(golden)
    head = wide(golden, recipe.module(hyper, spec_of(golden)), "score", inputs)
    golden.close("full_width/score_unnormalised", head)
    check_score(golden, "full_width/score", -head)
    golden.close("full_width/qt", wide(golden, qgpo.guidance_network(hyper), "qt", inputs, embedded))
    data = (jnp.asarray(golden["batch/actions"]), jnp.asarray(golden["batch/obs"]))
    for number in (1, 2):
        q = wide(golden, qgpo.critics(hyper).module, f"q0/q{number}", data)
        golden.close(f"full_width/q{number}", q[:, 0])


def check_qgpo_rewards(recipe: QGPO, golden: Golden) -> None:
    """Rewards as the program scales them, and the range by which it does."""

    def data(reward: np.ndarray) -> Transitions:
        rows = len(reward)
        terminal, nothing = golden["rewards/terminals"], np.zeros((rows + 1, 1), np.float32)
        flags = [np.append(flag, True) for flag in (terminal, terminal)]
        return Transitions(
            nothing, nothing, np.append(reward, 0).astype(np.float32), *flags, np.arange(rows, dtype=np.int32)
        )

    raw = golden["rewards/raw"]
    scale, shift = corl_locomotion(data(raw))
    golden.close("rewards/locomotion", scale * raw + shift)
    least, most = golden["rewards/return_range_cap5"].astype(np.float64)
    assert corl_locomotion(data(raw), 5)[0] == pytest.approx(5 / (most - least), rel=1e-5)
    scale, shift = iql_antmaze(data(raw))
    golden.close("rewards/antmaze", scale * golden["rewards/antmaze_raw"] + shift)
    assert resolve("qgpo", "hopper-medium-v2").protocol.reward == corl_locomotion.__name__
    assert resolve("qgpo", "antmaze-umaze-v2").protocol.reward == iql_antmaze.__name__


# SfBC


def small_state(golden: Golden, recipe: SfBC) -> sfbc.State:
    """The recorded state with the small score network."""
    nets = golden.tree("params")
    return fresh_state(recipe, nets | {"score": nets["score_small"]})


def check_small_network(recipe: SfBC, golden: Golden) -> None:
    """The small score network: output, loss, gradient and samples."""
    hyper, state = hyper_of(recipe, golden).replace(score_network="small"), small_state(golden, recipe)
    module = sfbc.network(hyper, spec_of(golden).action_dim)
    spec, draws = spec_of(golden), times(golden, "losses/behaviour_small")
    given = (state.behavior.params, state.frequency, module)
    x, time, observation = (jnp.asarray(golden[name]) for name in ("forward/x_t", "forward/t", "batch/obs"))
    noise = jax.jit(score_policy.predicted_noise, static_argnums=2)(*given, x, time, observation)
    golden.close("forward/eps_small", noise)
    check_score(golden, "forward/score_small", noise)
    batch = plain_batch(golden, "batch")
    golden.close("losses/behaviour_small/t", noised(SCHEDULE, batch.action, draws, hyper.time_min).time)
    gradient, found = cloning_gradient(*given, draws, hyper, batch)
    golden.close("losses/behaviour_small/loss", found["behavior/loss"])
    golden.gradients("losses/behaviour_small/grads/score_small", layers(gradient), recipe.gradient_bound)
    at = "sampler/score_small_n0"
    repeats = golden[f"{at}/action"].shape[1]
    check_samples(golden, at, behaved(recipe, spec, state, hyper, *sampled(golden, at, repeats)), repeats)


def check_sfbc_samples(recipe: SfBC, golden: Golden) -> None:
    """Samples of the behaviour model with every evaluation, and the critic at them."""
    state, spec = fresh_state(recipe, golden.tree("params")), spec_of(golden)
    for number, steps in enumerate(golden.hyper["steps_list"]):
        hyper, at = (
            hyper_of(recipe, golden).replace(support_steps=steps, sampler_steps=steps),
            f"sampler/score_n{number}",
        )
        action = jnp.asarray(golden[f"{at}/action"])
        start, observation = sampled(golden, at, action.shape[1])
        check_samples(golden, at, behaved(recipe, spec, state, hyper, start, observation), action.shape[1])
        golden.close(f"{at}/q", sfbc.q_value(state.critic.params, hyper, observation, action))


def check_critic(recipe: SfBC, golden: Golden) -> None:
    """The critic, its loss and gradient; its whole updates; and its way back to the first weights."""
    hyper, state = hyper_of(recipe, golden), fresh_state(recipe, golden.tree("params"))
    (batch,) = recipe.batches(golden, "batch")
    golden.close("forward/q", sfbc.q_value(state.critic.params, hyper, batch.observation, batch.action))
    gradient, found = jax.grad(sfbc.critic_loss, has_aux=True)(state.critic.params, hyper, batch)
    golden.close("losses/critic/loss", found["critic/loss"])
    golden.gradients("losses/critic/grads/q", layers(gradient), recipe.gradient_bound)
    for scenario, interval in (("train", hyper.renewal_interval), ("train_reset", 1)):
        state, often = fresh_state(recipe, golden.tree("params")), hyper.replace(renewal_interval=interval)
        for number, at in enumerate(golden.steps(scenario)):
            (batch,) = recipe.batches(golden, f"train/{at.rpartition('/')[2]}/batch")
            state, _, seen = take_step(recipe, None, number, state, often, (batch,))
            golden.close(f"{at}/loss", seen["loss"])
            golden.trees(f"{at}/params", {"q": recipe.nets(state)["q"]}, recipe.step_bound)
    # What the renewal found and what it left behind.
    golden.trees("train_reset/at_renewal/params", golden.tree("train_reset/step1/params"), 0.0)
    golden.trees("train_reset/after_reset/params", {"q": layers(state.first_critic)}, 0.0)


def check_selection(recipe: SfBC, golden: Golden) -> None:
    """Candidates, probabilities, drawn indices and the action of every rule."""
    state, spec = fresh_state(recipe, golden.tree("params")), spec_of(golden)
    observation = jnp.asarray(golden["sampler/obs"])
    for at in golden.groups("eval/", depth=2):
        candidates, averaged, alpha, is_weighted, replaces = golden[f"{at}/settings"].tolist()
        hyper = hyper_of(recipe, golden).replace(
            candidates=int(candidates),
            averaged=int(averaged),
            selection_alpha=alpha,
            weighted_mean=bool(is_weighted),
            with_replacement=bool(replaces),
        )
        used = golden[f"{at}/uniform_f64"]
        uniform = np.zeros((len(used), num_uniforms(int(averaged))), np.float32)
        uniform[:, : used.shape[1]] = np.where(used < 0, 0.0, used)  # -1 where nothing was drawn
        noise = per_state(jnp.asarray(golden[f"{at}/x_T"]), int(candidates))

        @jax.jit
        def decide(noise: jax.Array, uniform: jax.Array, observed: jax.Array, hyper: Any = hyper) -> Any:
            action = sfbc.sample(noise, state, hyper, observed)
            logits = sfbc.selection_logits(sfbc.q_value(state.critic.params, hyper, observed, action), hyper)
            index = sfbc.selected(uniform, hyper, logits)
            chosen = sfbc.choose(ActionDraws(noise, uniform), state, hyper, observed)
            acted = sfbc.act(ActionDraws(noise, uniform), spec, state, hyper, observed)
            return action, jax.nn.softmax(logits), index, jax.nn.softmax(logits[index]), chosen, acted

        action, probability, index, weight, chosen, acted = jax.vmap(decide)(noise, jnp.asarray(uniform), observation)
        golden.close(f"{at}/candidates", action, SAMPLES)
        recorded = jnp.asarray(golden[f"{at}/candidates"])
        golden.close(f"{at}/q", sfbc.q_value(state.critic.params, hyper, observation[:, None], recorded))
        golden.close(f"{at}/probs", probability, RETURNS)  # exponentials of 100 times the critic
        golden.equal(f"{at}/index", index)
        golden.close(f"{at}/weights", weight, RETURNS)
        golden.close(f"{at}/action", chosen, SAMPLES)
        np.testing.assert_allclose(acted, np.clip(golden[f"{at}/action"], -1, 1), atol=SAMPLES)
    published = resolve("sfbc", "hopper-medium-v2").hyper
    assert golden["eval/published_locomotion/settings"].tolist() == [
        published.candidates,
        published.averaged,
        published.selection_alpha,
        0,
        0,
    ]
    assert golden["eval/published_other/settings"].tolist()[1] == resolve("sfbc", "antmaze-umaze-v2").hyper.averaged


RULES = {"locomotion": "hopper-medium-v2", "antmaze": "antmaze-umaze-v2", "maze2d": "maze2d-umaze-v1"}


def epoch_rows(rows: int, least: int) -> int:
    """Rows of one of the program's epochs: whole passes over the data, as many as come nearest to ``least`` rows.

    The table's numbers of steps are those of such epochs over data that hold ``least`` rows.
    """
    return max(round(least / rows), 1) * rows


def check_planning(folder: pathlib.Path, recipe: SfBC, golden: Golden) -> None:
    """The data as the program sees them, the returns to go, and two renewals of the targets."""
    hyper, state, spec = hyper_of(recipe, golden), fresh_state(recipe, golden.tree("params")), spec_of(golden)
    make_labels = jax.jit(sfbc.labels, static_argnums=1)
    for kind, task in RULES.items():
        at = f"planning/{kind}"
        with h5py.File(folder / f"{golden.name}_{kind}.hdf5", "w") as file:
            for key in golden.keys(f"{at}/raw/"):
                file[key.rpartition("/")[2]] = golden[key]
        recorded = load_hdf5(str(folder / f"{golden.name}_{kind}.hdf5")).transitions
        data = apply_rule(resolve("sfbc", task).protocol.trajectories, recorded)
        usable, part = prepare(data, recipe.method.view)
        row, device = usable.row, jax.tree.map(jnp.asarray, usable)
        for name, array in {
            "states": data.observation,
            "actions": data.action,
            "rewards": data.reward,
            "done": data.end,
            "is_finished": data.terminal,
        }.items():
            golden.equal(f"{at}/{name}", array[row])
        length = epoch_rows(len(row), golden.hyper["sample_per_epoch"])
        assert golden[f"{at}/epoch_length"] == length

        noise = np.zeros((len(data.reward), hyper.support_actions, spec.action_dim), np.float32)
        noise[row] = per_state(golden[f"{at}/support_x_T"], hyper.support_actions)
        rows, batch = all_rows(device, part), whole_data(device, part)
        held = make_labels(jnp.asarray(noise), spec, state, hyper, batch, rows)
        golden.close(f"{at}/support_actions", held.support[row], SAMPLES)
        check_targets(
            golden,
            held,
            row,
            {
                "returns": f"{at}/returns_0_f64",
                "mean": f"{at}/mean_0_f64",
                "std": f"{at}/std_0_f64",
                "target": f"{at}/critic_target_0",
            },
        )
        # From the recorded actions: the critic is steep, and so are the programs' own differences.
        exact = np.array(held.support)
        exact[row] = golden[f"{at}/support_actions"]
        held = held._replace(support=jnp.asarray(exact))
        for number in (1, 2):
            here = f"{at}/round{number}"
            critic = plain(golden.tree(f"{here}/params/q"))
            renewing = state._replace(critic=learner(critic))
            q = sfbc.q_value(critic, hyper, jnp.asarray(data.observation[row])[:, None], held.support[row])
            golden.close(f"{here}/q_values", q)
            held = make_labels(None, spec, renewing, hyper, batch._replace(labels=held), rows)
            check_targets(
                golden,
                held,
                row,
                {
                    "returns": f"{here}/returns_f64",
                    "mean": f"{here}/mean_f64",
                    "std": f"{here}/std_f64",
                    "target": f"{here}/critic_target",
                },
            )


def check_targets(golden: Golden, held: sfbc.Labels, row: np.ndarray, names: dict[str, str]) -> None:
    """Returns, their statistics and the critic's targets."""
    golden.close(names["returns"], held.returns[row], RETURNS)
    golden.close(names["mean"], held.mean[row[0]], RETURNS)
    golden.close(names["std"], held.std[row[0]], RETURNS)
    golden.close(names["target"], sfbc.critic_target(held)[row], RETURNS)


def check_sfbc_widths(recipe: SfBC, golden: Golden) -> None:
    """All networks at the published widths."""
    hyper, spec, inputs = sfbc.Hyper(), spec_of(golden), wide_inputs(golden)
    golden.close("full_width/eps", -wide(golden, sfbc.network(hyper, spec.action_dim), "score", inputs))
    other = sfbc.network(hyper.replace(score_network="small"), spec.action_dim)
    golden.close("full_width/eps_small", -wide(golden, other, "score_small", inputs))
    data = (jnp.asarray(golden["batch/obs"]), jnp.asarray(golden["batch/actions"]))
    for name, task in {"q_small": "hopper-medium-v2", "q_large": "antmaze-large-play-v2"}.items():
        critic = sfbc.critic_network(resolve("sfbc", task).hyper)
        golden.close(f"full_width/{name}", wide(golden, critic, name, data)[:, 0])


COMMON = (check_initial_shapes, check_schedule, check_score_network, check_behavior_loss, check_behavior_training)
OF_QGPO = (
    *COMMON,
    check_qgpo_networks,
    check_qgpo_samples,
    check_support_labels,
    check_qgpo_losses,
    check_qgpo_training,
    check_qgpo_widths,
    check_qgpo_rewards,
)
OF_SFBC = (
    *COMMON,
    check_small_network,
    check_sfbc_samples,
    check_critic,
    check_selection,
    check_sfbc_widths,
)
GUIDED, SELECTING = QGPO(), SfBC()


@parametrized(("qgpo_gym", "qgpo_antmaze"), slow=("qgpo_antmaze",))
def test_recorded_numbers_of_qgpo(name: str) -> None:
    prove(name, GUIDED, OF_QGPO)


@parametrized(("sfbc_gym", "sfbc_antmaze"), slow=("sfbc_antmaze",))
def test_recorded_numbers_of_sfbc(name: str, tmp_path: pathlib.Path) -> None:
    prove(name, SELECTING, (*OF_SFBC, functools.partial(check_planning, tmp_path)))


def test_steps_are_those_of_the_epochs() -> None:
    """The table's numbers: 600 epochs of 4e6 rows for the behaviour model, 199 of the critic, 100 before a renewal."""
    for task, least in (("hopper-medium-v2", 1_000_000), ("antmaze-umaze-v2", 2_000_000)):
        hyper, protocol, *_ = resolve("sfbc", task)
        per_epoch = math.ceil(epoch_rows(least, least) / hyper.batch_size)
        assert (protocol.steps, hyper.renewal_interval) == (199 * per_epoch, 100 * per_epoch)
        behavior = math.ceil(epoch_rows(4_000_000, 4_000_000) / hyper.behavior_batch_size)
        assert protocol.phase_steps["behavior"] == 600 * behavior
