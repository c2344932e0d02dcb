"""EDP, with TD3, CRR and IQL as policy improvement, against numbers recorded from its authors' program."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_recipes import (
    Recipe,
    Tree,
    check_initial_shapes,
    draws_of,
    fresh_state,
    hyper_of,
    prove,
    spec_of,
    take_step,
    twins_from,
    twins_to,
)
from golden_tools import Golden, changed, layers, noise_network, parametrized, plain

from diffjax.diffusion.denoisers import epsilon_denoiser
from diffjax.diffusion.dpm_solver import third_orders
from diffjax.diffusion.objectives import DenoisingDraws
from diffjax.diffusion.samplers import ChainNoise, ancestral, chain, ddim
from diffjax.diffusion.schedules import bound_weights, discrete_schedule, interpolated_vp, scales
from diffjax.methods import edp, edp_core, edp_crr, edp_iql
from diffjax.nn.learners import cosine_decay, learner, learners
from diffjax.nn.networks import sinusoidal
from diffjax.types import Batch

ALWAYS = {"nstep": 1, "use_pred_astart": True, "weight_decay": 0.0, "sample_logp": False}
ALWAYS |= {"crr_multi_sample_mse": False, "time_embed_size": 16}
HIDDEN_LAYERS = 3
CHAIN, SOLVER = 4e-5, 1.5e-4  # relative bounds of sampled actions
NORM = 1e-4  # of logged norms of gradients
POLICY_NORM = 3e-4  # a^ divides by sqrt(alpha_bar), down to 1/200: the recorded norms themselves are off by 1e-4
COEFFICIENT = 1.5e-4  # of schedules: 1 - alpha_bar in single precision


def schedule_name(recorded: str) -> str:
    """Our name of a schedule; theirs is always rescaled."""
    return {"linear": "scaled_linear"}.get(recorded, recorded)


def norm(tree: Tree) -> jax.Array:
    return optax.tree.norm(tree)


def means(values: jax.Array, at: str) -> dict[str, jax.Array]:
    """Means of two critics under the recorded names."""
    return {f"metrics/{at}{i + 1}": jnp.mean(values[i]) for i in range(2)}


class EDP(Recipe):
    """What the recordings of all three learners share: ``losses`` is made of ``of_critics`` and ``of_policy``."""

    of_policy_alone: tuple[str, ...] = ()  # static hyper-parameters that the critics do not read

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        assert {name: recorded[name] for name in ALWAYS} == ALWAYS
        sampler = recorded.get("sample_method", "dpm").replace("ddpm", "ancestral")
        return {
            "guidance_weight": recorded["guide_coef"],
            "discount": recorded["discount"],
            "actor_lr": recorded["lr"],
            "critic_lr": recorded["lr"],
            "lr_decay_steps": float(recorded["lr_decay_steps"]) if recorded["lr_decay"] else 0.0,
            "max_grad_norm": recorded["max_grad_norm"],
            "ema_interval": recorded["policy_tgt_freq"],
            "max_action": recorded["max_action"],
            "diffusion_steps": recorded["num_timesteps"],
            "schedule": schedule_name(recorded["schedule_name"]),
            "target_sampler": sampler,
            "target_steps": recorded["dpm_steps"],
            "sampler": sampler,
            "end_time": recorded["dpm_t_end"],
            "candidates": recorded.get("num_samples_eval", 1),
            "hidden_dims": (recorded["hidden"],) * HIDDEN_LAYERS,
            "actor_layer_norm": recorded["policy_layer_norm"],
            "critic_layer_norm": recorded["qf_layer_norm"],
        }

    def scenario_hyper(self, golden: Golden, scenario: str) -> dict[str, Any]:
        """Their optimisers count from zero wherever the update counter starts: rates come ready."""
        changes = golden.hyper["boundary_over"] if scenario == "train_ema_boundary" else {}
        known = self.hyper(golden.hyper | changes)
        return {name: known[name] for name in ("lr_decay_steps", "max_grad_norm")}

    def core_from(self, nets: Tree) -> edp_core.Core:
        """The recorded networks that all learners have."""
        critic, target = twins_from(nets), twins_from({name: nets[f"{name}_target"] for name in ("q1", "q2")})
        actor, target_actor = noise_network(nets["actor"]), noise_network(nets["actor_target"])
        return edp_core.Core(learner(actor), target_actor, learners(critic), target)

    def nets(self, state: Any) -> Tree:
        """All networks that a state holds, in the recorded layout."""
        core = state.core
        target = {f"{name}_target": net for name, net in twins_to(core.target_critic).items()}
        found = {"actor": layers(core.actor.params), "actor_target": layers(core.target_actor)}
        return found | twins_to(core.critic.params) | target

    def denoising(self, golden: Golden, at: str) -> DenoisingDraws:
        return DenoisingDraws(*(jnp.asarray(golden[f"{at}/draws/{name}"]) for name in ("t", "noise")))

    def next_action(self, golden: Golden, at: str) -> ChainNoise:
        """The noise of the critics' target."""
        return noise_of(golden, f"{at}/draws/target_")

    def of_denoised(self, actor: Tree, draws: DenoisingDraws, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """The pass that behaviour cloning and guidance share."""
        denoised = edp_core.denoise(actor, draws, hyper, batch)
        return {"pred_x0": denoised.action, "mse_per_sample": denoised.error, "eps_pred": denoised.epsilon}

    def towards(self, target: jax.Array, core: edp_core.Core, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        """What is recorded of a critic step towards given targets, and the gradients."""
        each = jax.vmap(jax.grad(edp_core.critic_loss, has_aux=True), (0, None, None, None))
        grads, metrics = each(core.critic.params, target, hyper, batch)
        q = edp_core.q_values(core.critic.params, hyper, batch.observation, batch.action)
        grads, loss = twins_to(grads), metrics["critic/loss"]
        found = {"target_q": target, "metrics/tgt_q": jnp.mean(target), **means(q, "cur_q")}
        for i, name in enumerate(("qf1", "qf2")):
            found |= {f"metrics/{name}_loss": loss[i], f"metrics/{name}_grad_norm": norm(grads[f"q{i + 1}"])}
        return found, grads

    def of_critics(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        """What is recorded of a critic step, here towards samples of the target policy, and the gradients."""
        core = state.core
        action = edp.next_actions(core.target_actor, draws.next_action, hyper, batch)
        observation = batch.next_observation.reshape(-1, *(1,) * (action.ndim - 2), batch.observation.shape[-1])
        next_q = edp_core.q_values(core.target_critic, hyper, observation, action)
        target = edp.critic_target(core.target_critic, action, hyper, batch)
        found, grads = self.towards(target, core, hyper, batch)
        found |= {"next_actions": action, "target_q1_next": next_q[0], "target_q2_next": next_q[1]}
        found["metrics/qf_loss"] = found["metrics/qf1_loss"] + found["metrics/qf2_loss"]
        return found | means(next_q, "tgt_q"), grads

    def of_policy(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        """What is recorded of all other steps, and the gradients."""
        raise NotImplementedError

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, under the recorded names."""
        critics, policy = (part(draws, state, hyper, batch) for part in (self.of_critics, self.of_policy))
        return critics[0] | policy[0], critics[1] | policy[1]

    def logged(self, metrics: dict[str, jax.Array], grads: Tree) -> dict[str, jax.Array]:
        """What is logged of a policy step in every program."""
        names = {"policy_loss": "loss", "guide_loss": "guidance", "diff_loss": "bc"}
        found = {f"metrics/{theirs}": metrics[f"actor/{ours}"] for theirs, ours in names.items()}
        return found | {"metrics/policy_grad_norm": norm(grads)}

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        nets = self.nets(after)
        sizes = {"qf1": nets["q1"], "qf2": nets["q2"], "policy": nets["actor"]}
        sizes |= {"vf": nets["v"]} if "v" in nets else {}
        found = self.step_losses(draws, before, after, hyper, batch)
        return found | {f"metrics/{name}_weight_norm": norm(net) for name, net in sizes.items()}

    def step_losses(self, draws: Any, before: Any, after: Any, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """The losses that an update from one state to another took its gradients of."""
        return self.losses(draws, before, hyper, batch)[0]


class TD3(EDP):
    """Where the recordings of EDP with TD3 meet our functions."""

    method = edp.METHOD

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return super().hyper(recorded) | backup_hyper(recorded) | {"alpha": recorded["alpha"]}

    def state_from(self, nets: Tree) -> edp.State:
        return edp.State(self.core_from(nets))

    def draws(self, golden: Golden, at: str) -> edp.Draws:
        coin = jnp.asarray(golden[f"{at}/draws/coin_uniform"])
        return edp.Draws(self.next_action(golden, at), self.denoising(golden, at), coin)

    def of_policy(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        """What is recorded of all other steps, and the gradients."""
        core = state.core
        given = (core.actor.params, core.critic.params, draws, hyper, batch)
        grads, metrics = jax.grad(edp.actor_loss, has_aux=True)(*given)
        found = self.of_denoised(core.actor.params, draws.denoising, hyper, batch) | self.logged(metrics, grads)
        return found | {"metrics/lmbda": metrics["actor/q_weight"]}, {"actor": layers(grads)}


class CRR(EDP):
    """Where the recordings of EDP with CRR meet our functions."""

    method = edp_crr.METHOD
    of_policy_alone = ("value_reduction", "weighting", "likelihood", "learn_std")

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        weighting = "softmax" if recorded["adv_norm"] else "exp" if recorded["crr_fn"] == "exp" else "binary"
        return (
            super().hyper(recorded)
            | backup_hyper(recorded)
            | {
                "bc_weight": recorded["diff_coef"],
                "temperature": recorded["crr_beta"],
                "max_weight": float(recorded["crr_ratio_upper_bound"]),
                "value_samples": recorded["sample_actions"],
                "value_reduction": recorded["crr_avg_fn"],
                "weighting": weighting,
                "likelihood": recorded["crr_weight_mode"],
                "learn_std": not recorded["fixed_std"],
            }
        )

    def state_from(self, nets: Tree) -> edp_crr.State:
        return edp_crr.State(self.core_from(nets), learner(nets["policy_dist"]["log_stds"]))

    def nets(self, state: Any) -> Tree:
        """All networks that a state holds, in the recorded layout."""
        return super().nets(state) | {"policy_dist": {"log_stds": state.log_std.params}}

    def draws(self, golden: Golden, at: str) -> edp_crr.Draws:
        likelihood = f"{at}/draws/weight_noise"
        return edp_crr.Draws(
            self.next_action(golden, at),
            self.denoising(golden, at),
            jnp.asarray(golden[f"{at}/draws/vf_noise"]),
            jnp.asarray(golden[likelihood][0]) if likelihood in golden else None,
        )

    def of_policy(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        """What is recorded of all other steps, and the gradients."""
        core = state.core
        given = (edp_crr.Policy(core.actor.params, state.log_std.params), core.critic.params, draws, hyper, batch)
        grads, metrics = jax.grad(edp_crr.policy_loss, has_aux=True)(*given)
        found = self.of_denoised(core.actor.params, draws.denoising, hyper, batch) | self.logged(metrics, grads.actor)
        names = {"lmbda": "weight", "adv": "advantage", "log_prob": "log_prob"}
        found |= {f"metrics/{theirs}": metrics[f"actor/{ours}"] for theirs, ours in names.items()}
        return found, {"actor": layers(grads.actor), "policy_dist": {"log_stds": grads.log_std}}


class IQL(CRR):
    """Where the recordings of EDP with IQL meet our functions."""

    method = edp_iql.METHOD
    of_policy_alone = ("weighting", "learn_std")

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return EDP.hyper(self, recorded) | {
            "bc_weight": recorded["diff_coef"],
            "expectile": recorded["expectile"],
            "beta": recorded["awr_temperature"],
            "value_lr": recorded["lr"],
            "weighting": "softmax" if recorded["adv_norm"] else "exp",
            "learn_std": not recorded["fixed_std"],
        }

    def state_from(self, nets: Tree) -> edp_iql.State:
        log_std = learner(nets["policy_dist"]["log_stds"])
        return edp_iql.State(self.core_from(nets), log_std, learner(plain(nets["v"])))

    def nets(self, state: Any) -> Tree:
        """All networks that a state holds, in the recorded layout."""
        return super().nets(state) | {"v": layers(state.value.params)}

    def draws(self, golden: Golden, at: str) -> DenoisingDraws:
        return self.denoising(golden, at)

    def of_critics(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        """What is recorded of a critic step, here towards V, and the gradients."""
        found, grads = self.towards(edp_iql.critic_target(state.value.params, hyper, batch), state.core, hyper, batch)
        next_v = edp_iql.v_value(state.value.params, hyper, batch.next_observation)
        return found | {"metrics/next_v": jnp.mean(next_v)}, grads

    def of_policy(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
        """What is recorded of all other steps, and the gradients."""
        core, value = state.core, state.value.params
        q = edp_core.min_q(core.target_critic, hyper, batch.observation, batch.action)
        value_grads, of_value = jax.grad(edp_iql.value_loss, has_aux=True)(value, q, hyper, batch)
        advantage = q - edp_iql.v_value(value, hyper, batch.observation)
        given = (edp_crr.Policy(core.actor.params, state.log_std.params), advantage, draws, hyper, batch)
        grads, metrics = jax.grad(edp_iql.policy_loss, has_aux=True)(*given)
        found = self.of_denoised(core.actor.params, draws, hyper, batch) | self.logged(metrics, grads.actor)
        found |= {
            "adv": advantage,
            "metrics/vf_loss": of_value["value/loss"],
            "metrics/vf_adv": jnp.mean(advantage),
            "metrics/vf_pred": of_value["value/v_mean"],
            "metrics/vf_grad": norm(value_grads),
        }
        deviation = {"log_stds": grads.log_std}
        return found, {"actor": layers(grads.actor), "v": layers(value_grads), "policy_dist": deviation}

    def step_losses(self, draws: Any, before: Any, after: Any, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """V's loss is that before its step; policy and critics have V as it is afterwards."""
        old, _ = self.of_policy(draws, before, hyper, batch)
        new, _ = self.losses(draws, before._replace(value=after.value), hyper, batch)
        return new | {name: value for name, value in old.items() if name.startswith("metrics/vf_")}


def backup_hyper(recorded: dict[str, Any]) -> dict[str, Any]:
    """Hyper-parameters of critics that learn from samples of the target policy."""
    return {
        "max_q_backup": recorded["max_q_backup"],
        "target_samples": recorded["max_q_backup_samples"],
        "target_rank": recorded["max_q_backup_topk"],
    }


def noise_of(golden: Golden, prefix: str, batch_dims: int = 0) -> ChainNoise:
    """Noise ``prefix + x_T``, and ``prefix + z`` where the sampler draws on its way; steps follow the batch's axes."""
    steps, start = f"{prefix}z", jnp.asarray(golden[f"{prefix}x_T"])
    none = jnp.zeros((*start.shape[:batch_dims], 0, *start.shape[batch_dims:]))
    return ChainNoise(start, jnp.asarray(golden[steps]) if steps in golden else none)


def network(params: Tree, hyper: Any, observation: jax.Array) -> Any:
    """The noise predictor ``(x, time) -> epsilon`` at given observations."""
    apply = edp_core.actor_network(hyper, params["params"]["trunk"]["layer_3"]["bias"].shape[-1]).apply
    return lambda x, time: apply(params, x, time, observation)


def bound_for(key: str) -> float:
    """Relative bound of a result: what stems from sampled actions has theirs."""
    if key.endswith("policy_grad_norm"):
        return POLICY_NORM
    if key.endswith("grad_norm") or key.endswith("vf_grad"):
        return NORM
    return SOLVER if "tgt_q" in key or "next" in key or "target_q" in key or "qf" in key else 2e-5


def check_schedules(recipe: EDP, golden: Golden) -> None:
    """Discrete schedules, also of other names and lengths; and the continuous one through the first."""
    for at in golden.groups("schedule/", depth=2):
        if at == "schedule/continuous":
            continue
        steps = int(golden[f"{at}/n_timesteps"])
        schedule = discrete_schedule(schedule_name(at.split("/")[1].split("_")[0]), steps)
        golden.close(f"{at}/betas", schedule.beta)
        golden.close(f"{at}/alphas_bar", schedule.alpha_bar)
        golden.close(f"{at}/posterior_variance", schedule.posterior_variance)
        log_variance = schedule.posterior_log_variance  # at index 0, where no noise is added, they repeat the next
        golden.close(f"{at}/posterior_log_variance_clipped", np.append(log_variance[1], log_variance[1:]))
        golden.close(f"{at}/coef_x0", schedule.posterior_coef_x0, COEFFICIENT)
        golden.close(f"{at}/coef_xt", schedule.posterior_coef_xt, COEFFICIENT)
        golden.close(f"{at}/normalized_ts_weights", bound_weights(schedule), COEFFICIENT)
    at, hyper = "schedule/continuous", hyper_of(recipe, golden)
    if golden.keys(at):
        schedule = interpolated_vp(discrete_schedule(hyper.schedule, hyper.diffusion_steps))
        log_alpha = schedule.log_alpha(golden[f"{at}/t"].astype(np.float64))
        sigma = np.sqrt(-np.expm1(2 * log_alpha))
        golden.close(f"{at}/log_alpha", log_alpha)
        golden.close(f"{at}/sigma", sigma, COEFFICIENT)
        np.testing.assert_allclose(scales(jnp.asarray(log_alpha))[1], sigma, rtol=1e-4)
        golden.close(f"{at}/lambda", log_alpha - np.log(sigma), 1e-3)
        golden.close(f"{at}/t_from_lambda", schedule.time(log_alpha - np.log(sigma)))


def check_forward(recipe: EDP, golden: Golden) -> None:
    """Every network by itself; V too where no learner has it."""
    nets, hyper, batch = golden.tree("params"), hyper_of(recipe, golden), golden.batch("batch")
    x, time = jnp.asarray(golden["forward/x_t"]), jnp.asarray(golden["forward/t"])
    features = sinusoidal(time, recipe_time_dim(hyper, x.shape[-1]), cos_first=True, endpoint=False)
    golden.close("forward/time_embedding_sinusoidal", features, 2e-5)
    for name in ("actor", "actor_target"):
        found = network(noise_network(nets[name]), hyper, batch.observation)(x, time)
        golden.close(f"forward/{name}_eps", found, 2e-5)
    for suffix in ("", "_target"):
        critic = twins_from({name: nets[f"{name}{suffix}"] for name in ("q1", "q2")})
        values = edp_core.q_values(critic, hyper, batch.observation, batch.action)
        for i in range(2):
            golden.close(f"forward/q{i + 1}{suffix}", values[i])
    golden.close("forward/v", edp_iql.v_value(plain(nets["v"]), hyper, batch.observation))


def recipe_time_dim(hyper: Any, action_dim: int) -> int:
    """Features of the time step that our network has."""
    return edp_core.actor_network(hyper, action_dim).time_dim


@functools.partial(jax.jit, static_argnames="hyper")
def solved(actor: Tree, noise: ChainNoise, hyper: Any, observation: jax.Array) -> Any:
    """DPM-Solver's way, and what the network said on it before anything was clipped."""
    predict = network(actor, hyper, observation)
    schedule = discrete_schedule(hyper.schedule, hyper.diffusion_steps)
    solution = edp_core.solve(predict, noise.start, schedule, hyper)
    _, levels = edp_core.solver_plan(hyper)
    raw = jax.vmap(predict)(solution.x, levels.time)
    return solution, raw, edp_core.sample_actions(actor, noise, hyper, observation)


def check_solver(golden: Golden, at: str, actor: Tree, hyper: Any, observation: jax.Array) -> None:
    """One solution: times, truncated steps, points, predictions, samples."""
    solution, raw, sample = solved(actor, noise_of(golden, f"{at}/"), hyper, observation)
    plan, levels = edp_core.solver_plan(hyper)
    orders = third_orders(edp_core.evaluations(hyper))
    golden.equal(f"{at}/orders", orders)
    golden.close(f"{at}/t_continuous", plan.time)
    golden.close(f"{at}/t_model", levels.time)
    golden.equal(f"{at}/t_index_for_clip", levels.step)
    golden.close(f"{at}/x_at_evaluations", solution.x, SOLVER)
    golden.close(f"{at}/eps_clipped", solution.epsilon, SOLVER)
    golden.close(f"{at}/eps_raw", raw, SOLVER)
    golden.close(f"{at}/action", solution.sample, SOLVER)
    np.testing.assert_array_equal(sample, solution.sample)
    times = edp_core.solver_times(1.0, hyper.end_time, orders).astype(np.float64)
    outer = np.cumsum([0, *orders])
    golden.close(f"{at}/outer_s", times[outer[:-1]])
    golden.close(f"{at}/outer_t", times[outer[1:]])
    golden.close(f"{at}/chain", np.stack([*np.asarray(solution.x)[outer[:-1]], solution.sample]), SOLVER)
    log_alpha = interpolated_vp(discrete_schedule(hyper.schedule, hyper.diffusion_steps)).log_alpha(times)
    half_log_snr = log_alpha - np.log(np.sqrt(-np.expm1(2 * log_alpha)))
    for inner in (1, 2):  # places of the inner points, 0 where a step has none
        places = [
            (half_log_snr[first + inner] - half_log_snr[first]) / (half_log_snr[first + order] - half_log_snr[first])
            if order > inner
            else 0.0
            for first, order in zip(outer, orders, strict=False)
        ]
        golden.close(f"{at}/r{inner}", places, 1e-3)


def check_solvers(recipe: EDP, golden: Golden) -> None:
    """DPM-Solver with online and target policy, and with other numbers of evaluations."""
    nets, batch, hyper = golden.tree("params"), golden.batch("batch"), hyper_of(recipe, golden)
    online = noise_network(nets["actor"])
    check_solver(golden, "sampler/dpm", online, hyper, batch.observation)
    target = noise_network(nets["actor_target"])
    check_solver(golden, "sampler/dpm_target", target, hyper, batch.next_observation)
    for i, steps in enumerate(golden.hyper.get("dpm_other_steps", ())):
        other = hyper.replace(sampler_steps=steps)
        check_solver(golden, f"sampler/dpm_other_{i}", online, other, batch.observation)


def check_solver_after_training(recipe: EDP, golden: Golden) -> None:
    """DPM-Solver with the policy that the last recorded update left, at its minibatch."""
    last = golden.steps("train")[-1]
    actor, batch = noise_network(golden.tree(f"{last}/params")["actor"]), golden.batch(f"{last}/batch")
    check_solver(golden, "sampler/dpm_target", actor, hyper_of(recipe, golden), batch.next_observation)


def check_chains(recipe: EDP, golden: Golden) -> None:
    """The ancestral and the deterministic chain: states, predictions and clean actions at the recorded steps."""
    actor, batch = noise_network(golden.tree("params")["actor"]), golden.batch("batch")
    base = hyper_of(recipe, golden)
    schedule = discrete_schedule(base.schedule, base.diffusion_steps)
    predict = network(actor, base, batch.observation)
    denoiser, bound = epsilon_denoiser(predict, schedule), base.max_action

    for name, sampler, steps in (
        ("ddpm", "ancestral", ancestral(schedule, "posterior")),
        ("ddim", "ddim", ddim(schedule)),
    ):
        at, hyper = f"sampler/{name}", base.replace(sampler=sampler, sampler_steps=0)
        noise = noise_of(golden, f"{at}/")
        states = jax.jit(lambda noise, steps: chain(denoiser, steps, noise, clip=bound))(noise, steps)
        golden.equal(f"{at}/t", np.arange(base.diffusion_steps)[::-1])
        stored = golden[f"{at}/stored_steps"]
        x, index = states[stored], jnp.asarray(golden[f"{at}/t"][stored], jnp.int32)
        golden.close(f"{at}/x_before_step", x, CHAIN)
        golden.close(f"{at}/eps", jax.vmap(predict)(x, index), CHAIN)
        x_0 = jnp.clip(jax.vmap(denoiser)(x, index), -bound, bound)
        # Where t is largest the prediction is divided by sqrt(alpha_bar).
        golden.close(f"{at}/x0_hat_clipped", x_0, 3e-4)
        golden.close(f"{at}/action", states[-1], CHAIN)
        if sampler == "ddim":  # whose eta is an argument of the program
            noise = noise._replace(steps=jnp.zeros((base.diffusion_steps, *noise.start.shape)))
        sample = jax.jit(edp_core.sample_actions)(actor, noise, hyper, batch.observation)
        np.testing.assert_allclose(sample, states[-1], atol=CHAIN)


@functools.partial(jax.jit, static_argnames=("recipe", "part"))
def examine(recipe: EDP, part: str, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
    """Losses and gradients of one part under the recorded names, relative to the case."""
    return getattr(recipe, part)(draws, state, hyper, batch)


def check_cases(recipe: EDP, golden: Golden) -> None:
    """Losses and gradients at the recorded networks, with the published options and with others."""
    state, batch, spec = fresh_state(recipe, golden.tree("params")), golden.batch("batch"), spec_of(golden)
    for case, changes in golden.hyper["loss_cases"].items():
        at = f"losses_{case}" if case else "losses"
        hyper = hyper_of(recipe, golden).replace(**recipe.hyper(golden.hyper | changes))
        draws = recipe.draws(golden, at)
        draw = functools.partial(recipe.method.phases[-1].draw, spec=spec, hyper=hyper)
        chex.assert_trees_all_equal_shapes_and_dtypes(draws, jax.eval_shape(draw, jax.random.key(0)))
        shared = hyper.replace(**{name: getattr(recipe.method.hyper(), name) for name in recipe.of_policy_alone})
        parts = examine(recipe, "of_critics", draws, state, shared, batch)
        parts = parts, examine(recipe, "of_policy", draws, state, hyper, batch)
        found, gradients = (first | second for first, second in zip(*parts, strict=True))
        for name, value in found.items():
            if f"{at}/{name}" in golden:
                golden.close(f"{at}/{name}", value, bound_for(name))
        networks = {key.split("/")[2] for key in golden.keys(f"{at}/grads/")}
        assert case or networks
        for name in networks:
            golden.gradients(f"{at}/grads/{name}", gradients[name], 3e-5)


def check_training(recipe: EDP, golden: Golden) -> None:
    """The whole updates of every scenario, each from the state that the one before left."""
    for scenario in golden.scenarios():
        train(recipe, golden, scenario)


def train(recipe: EDP, golden: Golden, scenario: str) -> None:
    """The updates of one scenario, from the recorded networks and fresh optimisers."""
    first, hyper = golden.tree("params"), hyper_of(recipe, golden, scenario)
    state, start = fresh_state(recipe, first), int(golden[f"{scenario}/step1/counter"])
    bound = 3e-5 * max(1.0, hyper.actor_lr / 3e-4)
    for k, at in enumerate(golden.steps(scenario)):
        golden.equal(f"{at}/counter", start + k)
        before, draws, batches = state, draws_of(recipe, golden, at), recipe.batches(golden, f"{at}/batch")
        ready = hyper.actor_lr * cosine_decay(jnp.int32(k), hyper.lr_decay_steps)
        decayed = hyper.replace(actor_lr=ready, lr_decay_steps=0.0)
        state, _, seen = take_step(recipe, draws, start + k, before, decayed, batches)
        if hyper.lr_decay_steps:  # the same from our own clock, which is the update's
            own, _, _ = take_step(recipe, draws, k, before, hyper, batches)
            chex.assert_trees_all_close(own.core.actor.params, state.core.actor.params, rtol=0, atol=1e-7)
        for name, value in seen.items():
            if f"{at}/{name}" in golden:
                golden.close(f"{at}/{name}", value, bound_for(name))
        nets = recipe.nets(state)
        if f"{at}/policy_target_updated" in golden:
            moved = changed(recipe.nets(before)["actor_target"], nets["actor_target"])
            golden.equal(f"{at}/policy_target_updated", moved)
        for name in golden.groups(f"{at}/params/", depth=4):
            net = name.split("/")[-1]
            golden.trees(name, nets.get(net, first[net]), bound)  # what no learner has was left as it was


def check_evaluation(recipe: EDP, golden: Golden) -> None:
    """Candidates, their values and the choice among them, of one state at a time."""
    state, hyper, spec = fresh_state(recipe, golden.tree("params")), hyper_of(recipe, golden), spec_of(golden)
    observation, gumbel = jnp.asarray(golden["evaluation/obs"]), jnp.asarray(golden["evaluation/gumbel"])
    draws = edp_core.ActionDraws(noise_of(golden, "evaluation/", batch_dims=1), gumbel)
    own = functools.partial(edp_core.draw_action, spec=spec, hyper=hyper)
    expected = jax.eval_shape(jax.vmap(own), jax.random.split(jax.random.key(0), len(gumbel)))
    chex.assert_trees_all_equal_shapes_and_dtypes(draws, expected)

    def decide(draws: edp_core.ActionDraws, observation: jax.Array) -> tuple[jax.Array, ...]:
        action = edp_core.sample_actions(state.core.actor.params, draws.sampling, hyper, observation)
        q = edp_core.min_q(state.core.critic.params, hyper, observation, action)
        return action, q, edp_core.act(draws, spec, state, hyper, observation)

    candidates, q, action = jax.jit(jax.vmap(decide))(draws, observation)
    golden.close("evaluation/candidates", candidates, SOLVER)
    golden.close("evaluation/q", q, SOLVER)
    golden.close("evaluation/probs", jax.nn.softmax(q, axis=-1), SOLVER)
    golden.equal("evaluation/index", jnp.argmax(q + gumbel, axis=-1))
    golden.close("evaluation/action", candidates[np.arange(len(q)), golden["evaluation/index"]], SOLVER)
    bounded = np.clip(golden["evaluation/action"], -hyper.max_action, hyper.max_action)
    np.testing.assert_allclose(action, bounded, atol=2 * SOLVER)


WHOLE = (check_initial_shapes, check_schedules, check_forward, check_cases, check_training, check_evaluation)
WITH_TD3, WITH_CRR, WITH_IQL = TD3(), CRR(), IQL()
RECORDINGS = {
    "edp_td3_dpm": (WITH_TD3, (*WHOLE, check_solvers)),
    "edp_td3_ddpm": (WITH_TD3, (*WHOLE, check_chains)),
    "edp_crr": (WITH_CRR, (*WHOLE, check_solvers)),
    "edp_iql": (WITH_IQL, (*WHOLE, check_solvers)),
    "edp_fast_td3": (WITH_TD3, (check_initial_shapes, check_training, check_solver_after_training)),
    "edp_fast_iql": (WITH_IQL, (check_initial_shapes, check_training)),
}


@parametrized(RECORDINGS, slow=("edp_td3_ddpm", "edp_crr"))
def test_recorded_numbers(name: str) -> None:
    prove(name, *RECORDINGS[name])
