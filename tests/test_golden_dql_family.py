"""Diffusion-QL, DiffCPS and DiffPoGAN against numbers recorded from their authors' programs.

A recipe per method says how a recording's hyper-parameters, networks, draws and metrics are called here. Each
check takes one recording; networks are compared in the recording's layout, tensor by tensor.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_tools import Golden, account, assert_close, assert_trees, changed, load, marks, parametrized, stack

from diffjax import losses
from diffjax.diffusion.denoisers import add_noise, at_index, epsilon_denoiser, x0_from_epsilon
from diffjax.diffusion.objectives import DenoisingDraws
from diffjax.diffusion.samplers import ChainNoise, ancestral, chain
from diffjax.diffusion.schedules import discrete_schedule
from diffjax.methods import diffcps, diffpogan, dql
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.candidates import ActionDraws
from diffjax.methods.diffpogan import Samples, judge
from diffjax.nn.learners import learner
from diffjax.nn.networks import NICEFlow, sinusoidal
from diffjax.types import Batch, Spec

STEP_BOUND = 2e-5  # networks after updates
EXACT_BOUND = 1e-6  # moving averages of recorded networks, and lambda

Tree = Any
Batches = tuple[Batch, ...]


def actor_from(recorded: Tree) -> Tree:
    """Our parameters of a noise predictor."""
    time = {layer: value for layer, value in recorded.items() if layer.startswith("time_")}
    trunk = {layer: value for layer, value in recorded.items() if layer.startswith("layer_")}
    return {"params": time | {"trunk": trunk}}


def actor_to(params: Tree) -> Tree:
    """The recorded layout of a noise predictor."""
    time = {layer: value for layer, value in params["params"].items() if layer != "trunk"}
    return time | params["params"]["trunk"]


def critic_from(recorded: Tree) -> Tree:
    """Our parameters of the twin critics."""
    return {"params": stack(recorded["q1"], recorded["q2"])}


def critic_to(params: Tree) -> Tree:
    """The recorded layout of the twin critics."""
    heads = jax.tree.map(np.asarray, params["params"])
    return {f"q{i + 1}": jax.tree.map(lambda x, i=i: x[i], heads) for i in range(dp.NUM_CRITICS)}


def discriminator_from(recorded: Tree) -> Tree:
    """Our parameters of the discriminator."""
    return {"params": {"trunk": recorded}}


def discriminator_to(params: Tree) -> Tree:
    """The recorded layout of the discriminator."""
    return params["params"]["trunk"]


def flow_from(recorded: Tree) -> Tree:
    """Our parameters of the flow."""
    couplings = {name: layers for name, layers in recorded.items() if name != "log_scale"}
    shifts = {f"{name}_{layer}": x for name, layers in couplings.items() for layer, x in layers.items()}
    return {"params": shifts | {"log_scale": recorded["log_scale"]}}


def core_from(nets: Tree) -> dp.Core:
    """Networks and targets with fresh optimisers."""
    return dp.Core(
        learner(actor_from(nets["actor"])),
        actor_from(nets["actor_ema"]),
        learner(critic_from(nets["critic"])),
        critic_from(nets["critic_target"]),
    )


def core_to(core: dp.Core) -> Tree:
    """The recorded layout of networks and targets."""
    return {
        "actor": actor_to(core.actor.params),
        "actor_ema": actor_to(core.target_actor),
        "critic": critic_to(core.critic.params),
        "critic_target": critic_to(core.target_critic),
    }


class DiffusionQL:
    """Where the recordings of Diffusion-QL meet our functions; the other two methods build on it."""

    method = dql.METHOD
    rates = ("actor_lr", "critic_lr")  # those that decay
    rate_columns = ("actor", "critic")
    terms = ("actor/bc", "actor/q", "actor/loss")  # those with a recorded gradient
    duals = ()  # recorded names of dual variables, which have a bound of their own

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return {"eta": recorded["eta"]}

    def state_from(self, nets: Tree) -> Any:
        return dql.State(core_from(nets))

    def nets(self, state: Any) -> Tree:
        """What an update moves, in the recorded layout."""
        return core_to(state.core)

    def draws(self, golden: Golden, at: str, policy: dp.PolicyDraws, repeats: int | None) -> Any:
        return dp.Draws(golden.chain_noise(f"{at}/draws/target_", repeats), policy)

    def batches(self, golden: Golden, at: str) -> Batches:
        return (golden.batch(f"{at}batch"),)

    def judged(self, draws: Any, state: Any, hyper: Any, batches: Batches) -> Any:
        """What the actor's loss needs and does not depend on the actor."""

    def actor_loss(self, actor: Tree, judged: Any, policy: dp.PolicyDraws, state: Any, hyper: Any, batch: Batch) -> Any:
        return dql.actor_loss(actor, state.core.critic.params, policy, hyper, batch)

    def metrics(self, m: dict[str, jax.Array], hyper: Any) -> dict[str, jax.Array]:
        """Our metrics under the recorded names."""
        return {
            "metrics/bc_loss": m["actor/bc"],
            "metrics/ql_loss": m["actor/q"],
            "metrics/actor_loss": m["actor/loss"],
            "metrics/critic_loss": m["critic/loss"],
            "grad_norm_before_clip/actor": m["actor/grad_norm"],
            "grad_norm_before_clip/critic": m["critic/grad_norm"],
        }

    def observe(self, draws: Any, state: Any, hyper: Any, batches: Batches) -> dict[str, jax.Array]:
        """Recorded quantities of a step that are no metrics of ours, from the state before it."""
        batch, core = batches[0], state.core
        action = dp.sample_next_actions(core.target_actor, draws.next_action, hyper, batch.next_observation)
        return {"critic_target_q": dp.critic_target(core.target_critic, action, hyper, batch)}


class DiffCPS(DiffusionQL):
    method = diffcps.METHOD
    rates = (*DiffusionQL.rates, "lambda_lr")
    rate_columns = (*DiffusionQL.rate_columns, "lambda")
    duals = ("lambda", "metrics/Lambda")

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return {
            "kappa": recorded["target_kl"],
            "lambda_init": recorded["LA"],
            "lambda_min": float(recorded["LA_min"]),
            "lambda_max": float(recorded["LA_max"]),
            "lambda_lr": recorded["lambda_lr"],
            "policy_interval": recorded["policy_freq"],
        }

    def state_from(self, nets: Tree) -> Any:
        return diffcps.State(core_from(nets), learner(nets["lambda"]))

    def nets(self, state: Any) -> Tree:
        return core_to(state.core) | {"lambda": state.multiplier.params}

    def draws(self, golden: Golden, at: str, policy: dp.PolicyDraws, repeats: int | None) -> Any:
        return dp.Draws(golden.chain_noise(f"{at}/draws/target_", repeats), policy)

    def actor_loss(self, actor: Tree, judged: Any, policy: dp.PolicyDraws, state: Any, hyper: Any, batch: Batch) -> Any:
        return diffcps.actor_loss(actor, state.core.critic.params, state.multiplier.params, policy, hyper, batch)

    def metrics(self, m: dict[str, jax.Array], hyper: Any) -> dict[str, jax.Array]:
        return {
            "metrics/kl_loss": m["actor/bc"],
            "metrics/actor_loss": m["actor/loss"],
            "metrics/critic_loss": m["critic/loss"],
            "metrics/Lambda": m["dual/lambda"],
            "grad_norm_before_clip/actor": m["actor/grad_norm"],
            "grad_norm_before_clip/critic": m["critic/grad_norm"],
            "grad_norm_before_clip/lambda": m["dual/grad_norm"],
        }


def smoothed_cross_entropy(scores: jax.Array, label: jax.Array) -> jax.Array:
    """What DiffPoGAN's authors log as ``real_loss`` under every divergence."""
    return jnp.mean(losses.DIVERGENCES["ga"].real(scores, label))


class Judged(NamedTuple):
    """DiffPoGAN's real and fake pairs of one step, and what is known of the real ones beforehand."""

    real: Samples
    real_score: jax.Array
    fake: Samples
    next_fake: Samples
    likelihood: jax.Array

    def all_fakes(self) -> Samples:
        """The discriminator's fake set."""
        return diffpogan.join(self.fake, self.next_fake)


class DiffPoGAN(DiffusionQL):
    method = diffpogan.METHOD
    terms = (*DiffusionQL.terms, "actor/generator")
    rate_columns = (*DiffusionQL.rate_columns, "lambda")  # the program carries an idle multiplier along
    duals = ("lambda",)

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return {
            "bc_weight": recorded["kl_alpha"],
            "adversarial_weight": recorded["gama"],
            "likelihood_weight": recorded["mle_beta"],
            "discriminator_lr": recorded["dis_lr"],
            "divergence": recorded["f_div"],
            "policy_interval": recorded["policy_freq"],
            "discriminator_hidden_dims": tuple(recorded["discriminator_hidden"]),
            "flow_hidden_dim": recorded["flow_hidden"],
            "flow_couplings": recorded["flow_couplings"],
        }

    def state_from(self, nets: Tree) -> Any:
        discriminator = learner(discriminator_from(nets["discriminator"]))
        return diffpogan.State(core_from(nets), discriminator, flow_from(nets["flow"]))

    def nets(self, state: Any) -> Tree:
        return core_to(state.core) | {"discriminator": discriminator_to(state.discriminator.params)}

    def draws(self, golden: Golden, at: str, policy: dp.PolicyDraws, repeats: int | None) -> Any:
        return diffpogan.Draws(
            label=jnp.asarray(golden[f"{at}/draws/real_label_uniform"])[:, 0],
            next_action=golden.chain_noise(f"{at}/draws/target_", repeats),
            action=golden.chain_noise(f"{at}/draws/fake_", repeats),
            mixing=jnp.asarray(golden[f"{at}/draws/gp_alpha"])[:, 0],
            policy=policy,
        )

    def batches(self, golden: Golden, at: str) -> Batches:
        batch = golden.batch(f"{at}batch")
        names = {"observation": "obs", "action": "actions"}
        extra = {field: jnp.asarray(golden[f"{at}ex_batch/{name}"]) for field, name in names.items()}
        return batch, batch._replace(**extra)  # the rest of the second batch is never read

    def judged(self, draws: Any, state: Any, hyper: Any, batches: Batches) -> Judged:
        batch, extra = batches
        actor, data = state.core.target_actor, Samples(batch.observation, batch.action)
        own = dp.sample_next_actions(actor, draws.action, hyper, batch.observation)
        next_action = dp.sample_next_actions(actor, draws.next_action, hyper, batch.next_observation)
        real = diffpogan.join(data, Samples(extra.observation, extra.action))
        return Judged(
            real,
            judge(state.discriminator.params, hyper, real),
            Samples(batch.observation, diffpogan.first_sample(own)),
            Samples(batch.next_observation, diffpogan.first_sample(next_action)),
            diffpogan.negative_log_likelihood(state.flow, hyper, data),
        )

    def actor_loss(self, actor: Tree, judged: Any, policy: dp.PolicyDraws, state: Any, hyper: Any, batch: Batch) -> Any:
        critic, discriminator = state.core.critic.params, state.discriminator.params
        real_mean, next_action = jnp.mean(judged.real_score), judged.next_fake.action
        return diffpogan.actor_loss(
            actor, critic, discriminator, next_action, real_mean, judged.likelihood, policy, hyper, batch
        )

    def metrics(self, m: dict[str, jax.Array], hyper: Any) -> dict[str, jax.Array]:
        sum_of_losses = m["actor/generator"] + hyper.likelihood_weight * m["flow/negative_log_likelihood"]
        return {
            "metrics/kl_loss": m["actor/bc"],
            "metrics/q_loss": m["actor/q"],
            "metrics/g_loss": m["actor/generator"],
            "metrics/log_li": m["flow/negative_log_likelihood"],
            "metrics/generator_loss": sum_of_losses,
            "metrics/gen_loss": sum_of_losses,
            "metrics/gen_loss_log": hyper.adversarial_weight * m["actor/adversarial"],
            "metrics/mlt": m["actor/bc_weight"],
            "metrics/mlt_fix": m["actor/bc_weight"],
            "metrics/mltall": hyper.bc_weight * m["actor/bc_weight"],
            "metrics/c_fake_ac": m["actor/judged"],
            "metrics/real_ac": m["discriminator/real_mean"],
            "metrics/discriminator_loss": m["discriminator/loss"],
            "metrics/actor_loss": m["actor/loss"],
            "metrics/critic_loss": m["critic/loss"],
            "grad_norm_before_clip/actor": m["actor/grad_norm"],
            "grad_norm_before_clip/critic": m["critic/grad_norm"],
        }

    def observe(self, draws: Any, state: Any, hyper: Any, batches: Batches) -> dict[str, jax.Array]:
        judged = self.judged(draws, state, hyper, batches)
        fake_score = judge(state.discriminator.params, hyper, judged.all_fakes())
        return super().observe(draws, state, hyper, batches) | {
            "metrics/fake_ac": jnp.mean(fake_score),
            "metrics/real_loss": smoothed_cross_entropy(judged.real_score, draws.label),
        }


RECIPES = {"dql": DiffusionQL(), "diffcps": DiffCPS(), "diffpogan": DiffPoGAN()}


def recipe_of(golden: Golden) -> Any:
    return RECIPES[golden.info["method"]]


def spec_of(golden: Golden) -> Spec:
    return Spec(golden.hyper["obs_dim"], golden.hyper["act_dim"])


def hyper_of(golden: Golden, scenario: str = "train") -> Any:
    """The recording's hyper-parameters, with the clip norm and the averaging thresholds of ``scenario``."""
    recorded, recipe = golden.hyper, recipe_of(golden)
    hidden_layers = len(golden.groups("params/actor/layer_", depth=3)) - 1
    return recipe.method.hyper(
        discount=recorded["discount"],
        tau=recorded["tau"],
        actor_lr=recorded["lr"],
        critic_lr=recorded["critic_lr"],
        max_grad_norm=float(golden[f"{scenario}/grad_norm"]),
        ema_decay=recorded["ema_decay"],
        ema_start=int(golden[f"{scenario}/step_start_ema"]),
        ema_interval=int(golden[f"{scenario}/update_ema_every"]),
        max_action=recorded["max_action"],
        max_q_backup=recorded["max_q_backup"],
        target_samples=recorded["max_q_samples"],
        diffusion_steps=recorded["n_timesteps"],
        schedule=recorded["beta_schedule"],
        hidden_dims=(recorded["hidden"],) * hidden_layers,
        batch_size=recorded["batch"],
        candidates=recorded["n_eval_candidates"],
        **recipe.hyper(recorded),
    )


def shared_hyper(golden: Golden) -> Any:
    """:func:`hyper_of` for programs that sample no next action: one compiled program serves both variants."""
    return hyper_of(golden).replace(max_q_backup=False, target_samples=1)


@functools.partial(jax.jit, static_argnames="recipe")
def fresh_state(recipe: Any, nets: Tree) -> Any:
    """Recorded networks as a state of ours, with fresh optimisers."""
    return recipe.state_from(nets)


def policy_draws(golden: Golden, at: str, coin: Any) -> dp.PolicyDraws:
    """The draws of an actor step."""
    denoising = DenoisingDraws(
        jnp.asarray(golden[f"{at}/draws/bc_t"], jnp.int32), jnp.asarray(golden[f"{at}/draws/bc_noise"])
    )
    return dp.PolicyDraws(denoising, golden.chain_noise(f"{at}/draws/actor_"), jnp.asarray(coin))


def draws_of(golden: Golden, at: str, policy: dp.PolicyDraws | None, hyper: Any) -> Any:
    """The draws of an update, of the shapes of our own; zeros where no actor step was recorded."""
    recipe = recipe_of(golden)
    draw = functools.partial(recipe.method.phases[0].draw, spec=spec_of(golden), hyper=hyper)
    shapes = jax.eval_shape(draw, jax.random.key(0))
    if policy is None:
        policy = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes.policy)
    repeats = hyper.target_samples if hyper.max_q_backup else None
    draws = recipe.draws(golden, at, policy, repeats)
    chex.assert_trees_all_equal_shapes_and_dtypes(draws, shapes)
    return draws


def check_initial_shapes(golden: Golden) -> None:
    """Our own initialisation has the recorded structure."""
    recipe = recipe_of(golden)
    init = functools.partial(recipe.method.init, spec=spec_of(golden), hyper=hyper_of(golden))
    expected = jax.eval_shape(recipe.state_from, golden.tree("params"))
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(init, jax.random.key(0)), expected)


def check_schedules(golden: Golden) -> None:
    for at in golden.groups("schedule/", depth=2):
        name = at.split("/")[1].split("_")[0]
        s = discrete_schedule(name, int(golden[f"{at}/n_timesteps"]))
        for key, values in {
            "betas": s.beta,
            "alphas_bar": s.alpha_bar,
            "alphas_bar_prev": s.alpha_bar_prev,
            "sqrt_alphas_bar": np.sqrt(s.alpha_bar),
            "sqrt_one_minus_alphas_bar": np.sqrt(1 - s.alpha_bar),
            "sqrt_recip_alphas_bar": np.sqrt(1 / s.alpha_bar),
            "sqrt_recipm1_alphas_bar": np.sqrt(1 / s.alpha_bar - 1),
            "posterior_variance": s.posterior_variance,
            "posterior_log_variance_clipped": s.posterior_log_variance,
            "posterior_mean_coef_x0": s.posterior_coef_x0,
            "posterior_mean_coef_xt": s.posterior_coef_xt,
        }.items():
            golden.close(f"{at}/{key}", values)


@jax.jit
def forward_passes(nets: Tree, x: jax.Array, t: jax.Array, noise: jax.Array, hyper: Any, batch: Batch) -> Tree:
    """Networks, forward process and posterior under the recorded names."""
    core = core_from(nets)
    network = dp.actor_network(hyper, x.shape[-1])
    epsilon = network.apply(core.actor.params, x, t, batch.observation)
    schedule = discrete_schedule(hyper.schedule, hyper.diffusion_steps)
    x_0 = x0_from_epsilon(schedule, x, t, epsilon)
    clipped = jnp.clip(x_0, -hyper.max_action, hyper.max_action)
    coef_x0 = at_index(schedule.posterior_coef_x0, t, x.ndim)
    coef_xt = at_index(schedule.posterior_coef_xt, t, x.ndim)
    critics = {"critic": core.critic.params, "critic_target": core.target_critic}
    q = {name: dp.q_values(p, hyper, batch.observation, batch.action) for name, p in critics.items()}
    return {
        "time_embedding_sinusoidal": sinusoidal(t, network.time_dim, network.cos_first),
        "time_embedding": network.apply(core.actor.params, t, method="embed_time"),
        "actor_eps": epsilon,
        "actor_ema_eps": network.apply(core.target_actor, x, t, batch.observation),
        "x0_hat_unclipped": x_0,
        "posterior_mean": coef_x0 * clipped + coef_xt * x,
        "posterior_log_variance": jnp.asarray(schedule.posterior_log_variance)[t],
        "q_sample_x_t": add_noise(schedule, batch.action, t, noise),
        **{f"{name}_q{i + 1}": values[i] for name, values in q.items() for i in range(dp.NUM_CRITICS)},
        **{f"{name}_q_min": losses.ensemble_min(values) for name, values in q.items()},
    }


def check_forward(golden: Golden) -> None:
    x, noise = jnp.asarray(golden["forward/x_t"]), jnp.asarray(golden["forward/q_sample_noise"])
    t = jnp.asarray(golden["forward/t"], jnp.int32)
    values = forward_passes(golden.tree("params"), x, t, noise, shared_hyper(golden), golden.batch("batch"))
    for key, value in values.items():
        golden.close(f"forward/{key}", value)


@jax.jit
def sample(actor: Tree, noise: Any, hyper: Any, observation: jax.Array) -> tuple[jax.Array, ...]:
    """States of the reverse chain, network outputs along it, and the action."""
    schedule = discrete_schedule(hyper.schedule, hyper.diffusion_steps)
    network = dp.actor_network(hyper, noise.start.shape[-1])
    predict = lambda x, index: network.apply(actor, x, index, observation)  # noqa: E731
    steps = ancestral(schedule, "posterior")
    states = chain(epsilon_denoiser(predict, schedule), steps, noise, clip=hyper.max_action)
    epsilon = jax.vmap(predict)(states[:-1], jnp.arange(hyper.diffusion_steps)[::-1])
    return states, epsilon, dp.sample_actions(actor, noise, hyper, observation)


def check_sampler(golden: Golden) -> None:
    hyper, observation = shared_hyper(golden), jnp.asarray(golden["batch/obs"])
    for at in golden.groups("sampler/", depth=2):
        actor = actor_from(golden.tree(f"params/{at.split('/')[1]}"))
        chain, epsilon, action = sample(actor, golden.chain_noise(f"{at}/"), hyper, observation)
        golden.close(f"{at}/chain", chain)
        golden.close(f"{at}/eps", epsilon)
        golden.close(f"{at}/action", action)


@functools.partial(jax.jit, static_argnames="recipe")
def actor_terms(recipe: Any, judged: Any, policy: Any, state: Any, hyper: Any, batch: Batch) -> Tree:
    """All terms of the actor's loss."""
    return recipe.actor_loss(state.core.actor.params, judged, policy, state, hyper, batch)[1]


def differentiate(terms: Callable[[Tree], Tree], weights: dict[str, Any], params: Tree) -> tuple[Tree, Tree]:
    """All terms, and the gradient of their weighted sum: with traced weights, one program for every term."""

    def objective(params: Tree) -> tuple[jax.Array, Tree]:
        values = terms(params)
        return sum(weight * values[name] for name, weight in weights.items()), values

    (_, values), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return values, grads


@functools.partial(jax.jit, static_argnames="recipe")
def actor_gradient(
    recipe: Any, weights: Any, judged: Any, policy: Any, state: Any, hyper: Any, batch: Batch
) -> tuple[Tree, Tree]:
    """:func:`differentiate` the actor's loss."""
    terms = lambda actor: recipe.actor_loss(actor, judged, policy, state, hyper, batch)[1]  # noqa: E731
    return differentiate(terms, weights, state.core.actor.params)


def one_of(names: tuple[str, ...], chosen: str) -> dict[str, float]:
    """Weights that choose one term."""
    return {name: float(name == chosen) for name in names}


@functools.partial(jax.jit, static_argnames="recipe")
def judged_of(recipe: Any, draws: Any, state: Any, hyper: Any, batches: Batches) -> Any:
    return recipe.judged(draws, state, hyper, batches)


@jax.jit
def critic_losses(draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[Tree, Tree]:
    """What the critic's loss is made of, and its gradient."""
    core = state.core
    action = dp.sample_next_actions(core.target_actor, draws.next_action, hyper, batch.next_observation)
    target = dp.critic_target(core.target_critic, action, hyper, batch)
    new_action = dp.sample_actions(core.actor.params, draws.policy.chain, hyper, batch.observation)
    critic = core.critic.params
    (loss, _), grads = jax.value_and_grad(dp.critic_loss, has_aux=True)(critic, target, hyper, batch)
    current = dp.q_values(critic, hyper, batch.observation, batch.action)
    new = dp.q_values(critic, hyper, batch.observation, new_action)
    return {
        "critic/next_actions": action.reshape(-1, action.shape[-1]),
        "critic/target_q": target,
        "critic/current_q1": current[0],
        "critic/current_q2": current[1],
        "critic/loss": loss,
        "actor/new_action": new_action,
        "actor/q1_new": new[0],
        "actor/q2_new": new[1],
    }, grads


def losses_setting(golden: Golden, coin: str) -> tuple[Any, Any, Any, Batches]:
    """Draws, state, hyper-parameters and minibatches at which the recorded losses were taken."""
    recipe, hyper = recipe_of(golden), hyper_of(golden)
    draws = draws_of(golden, "losses", policy_draws(golden, "losses", golden[f"losses/coin_{coin}"]), hyper)
    return draws, fresh_state(recipe, golden.tree("params")), hyper, recipe.batches(golden, "")


def check_losses(golden: Golden) -> None:
    """Losses of critic and actor, with their gradients."""
    recipe = recipe_of(golden)
    draws, state, hyper, batches = losses_setting(golden, "hi")
    values, grads = critic_losses(draws, state, hyper, batches[0])
    for key, value in values.items():
        golden.close(f"losses/{key}", value)
    golden.gradients("losses/critic/grads/critic", critic_to(grads))

    for side in ("hi", "lo"):
        draws, state, hyper, batches = losses_setting(golden, side)
        judged = judged_of(recipe, draws, state, hyper, batches)
        setting = judged, draws.policy, state, shared_hyper(golden), batches[0]
        for at, term in {"bc": "actor/bc", f"q_{side}": "actor/q", f"actor_{side}": "actor/loss"}.items():
            values, grads = actor_gradient(recipe, one_of(recipe.terms, term), *setting)
            golden.close(f"losses/{at}/loss", values[term])
            golden.gradients(f"losses/{at}/grads/actor", actor_to(grads))


def check_multiplier(golden: Golden) -> None:
    """DiffCPS: the multiplier's loss and slope, also where the multiplier lies outside its bounds."""
    draws, state, _, (batch,) = losses_setting(golden, "hi")
    hyper = shared_hyper(golden)
    loss_and_slope = jax.jit(jax.value_and_grad(diffcps.multiplier_loss, has_aux=True))
    for at, value in {
        "losses/lambda": golden["params/lambda"],
        "losses/lambda_below": golden["losses/lambda_below/lambda"],
        "losses/lambda_above": golden["losses/lambda_above/lambda"],
    }.items():
        multiplier = jnp.asarray(value)
        moved = state._replace(multiplier=state.multiplier._replace(params=multiplier))
        terms = actor_terms(recipe_of(golden), None, draws.policy, moved, hyper, batch)
        (loss, _), slope = loss_and_slope(multiplier, terms["actor/bc"], hyper)
        golden.gradients(f"{at}/grads", {"lambda": slope})
        if at == "losses/lambda":
            golden.close(f"{at}/loss", loss)
        else:
            golden.close(f"{at}/lambda_loss", loss)
            golden.close(f"{at}/actor_loss", terms["actor/loss"])


@jax.jit
def adversary_passes(judged: Judged, label: jax.Array, chain: ChainNoise, state: Any, hyper: Any, batch: Batch) -> Tree:
    """What discriminator and flow make of the recorded batches, under the recorded names."""
    flow, score = diffpogan.flow_network(hyper), functools.partial(judge, state.discriminator.params, hyper)
    pair = jnp.concatenate([batch.observation, batch.action], axis=-1)
    z, log_det = flow.apply(state.flow, pair)
    action = dp.sample_actions(state.core.actor.params, chain, hyper, batch.observation)
    generated = diffpogan.join(judged.next_fake, Samples(batch.observation, action))
    return {
        "forward/discriminator": score(Samples(batch.observation, batch.action)),
        "forward/flow_z": z,
        "forward/flow_log_det": log_det,
        "forward/flow_log_density": flow.apply(state.flow, pair, method=NICEFlow.log_density),
        "forward/flow_nll_over_batch": judged.likelihood,
        "losses/discriminator/true_samples": jnp.concatenate(judged.real, axis=-1),
        "losses/discriminator/fake_samples1": jnp.concatenate(judged.fake, axis=-1),
        "losses/discriminator/fake_samples2": jnp.concatenate(judged.next_fake, axis=-1),
        "losses/discriminator/real_ac": judged.real_score,
        "losses/discriminator/fake_ac": score(judged.all_fakes()),
        "losses/discriminator/real_loss": smoothed_cross_entropy(judged.real_score, label),
        "losses/generator/c_fake_ac": score(generated),
        "losses/generator/log_li": judged.likelihood,
    }


DISCRIMINATOR_TERMS = tuple(f"discriminator/{term}" for term in ("loss", "real", "fake", "penalty"))


@jax.jit
def discriminator_gradient(
    weights: Any, judged: Judged, label: jax.Array, mixing: jax.Array, discriminator: Tree, hyper: Any
) -> tuple[Tree, Tree]:
    """:func:`differentiate` the discriminator's loss."""
    fake = judged.all_fakes()
    draws = diffpogan.Draws(label, None, None, mixing, None)
    terms = lambda params: diffpogan.discriminator_loss(params, draws, hyper, judged.real, fake)[1]  # noqa: E731
    return differentiate(terms, weights, discriminator)


def check_adversary(golden: Golden) -> None:
    """DiffPoGAN: flow, discriminator and generator, with the gradients of their losses."""
    recipe = recipe_of(golden)
    draws, state, hyper, batches = losses_setting(golden, "hi")
    judged = judged_of(recipe, draws, state, hyper, batches)
    hyper = shared_hyper(golden)
    for key, value in adversary_passes(judged, draws.label, draws.policy.chain, state, hyper, batches[0]).items():
        golden.close(key, value)

    adversary = judged, draws.label, draws.mixing, state.discriminator.params, hyper
    for key, name in {
        "d_loss": "discriminator/loss",
        "d_loss_real": "discriminator/real",
        "d_loss_fake": "discriminator/fake",
        "gradient_penalty": "discriminator/penalty",
    }.items():
        terms, grads = discriminator_gradient(one_of(DISCRIMINATOR_TERMS, name), *adversary)
        golden.close(f"losses/discriminator/{key}", terms[name])
        at = "discriminator" if key == "d_loss" else f"discriminator_{key}"
        golden.gradients(f"losses/{at}/grads/discriminator", discriminator_to(grads))

    weights = one_of(recipe.terms, "actor/generator")
    terms, grads = actor_gradient(recipe, weights, judged, draws.policy, state, hyper, batches[0])
    for key, value in {
        "g_loss": terms["actor/generator"],
        "generator_loss": terms["actor/generator"] + hyper.likelihood_weight * judged.likelihood,
        "log_generator_loss_times_gama": hyper.adversarial_weight * terms["actor/adversarial"],
        "bc_weight": hyper.bc_weight * terms["actor/bc_weight"],
    }.items():
        golden.close(f"losses/generator/{key}", value)
    golden.gradients("losses/generator/grads/actor", actor_to(grads))


def check_divergences(golden: Golden) -> None:
    """DiffPoGAN: the divergences that the published runs do not use."""
    recipe = recipe_of(golden)
    draws, state, hyper, batches = losses_setting(golden, "hi")
    judged = judged_of(recipe, draws, state, hyper, batches)
    policy = policy_draws(golden, "losses_f_div", golden["losses_f_div/draws/coin"])
    for at in golden.groups("losses_f_div/", depth=2):
        divergence = at.split("/")[1]
        if divergence == "draws":
            continue
        hyper = shared_hyper(golden).replace(divergence=divergence)
        weights = one_of(DISCRIMINATOR_TERMS, "discriminator/loss")
        terms, grads = discriminator_gradient(
            weights, judged, draws.label, draws.mixing, state.discriminator.params, hyper
        )
        golden.close(f"{at}/d_loss", terms["discriminator/loss"])
        golden.close(f"{at}/d_loss_real", terms["discriminator/real"])
        golden.close(f"{at}/d_loss_fake", terms["discriminator/fake"])
        golden.gradients(f"{at}/grads_d/discriminator", discriminator_to(grads))
        setting = judged, policy, state, hyper, batches[0]
        if golden.keys(f"{at}/grads_g/"):
            terms, grads = actor_gradient(recipe, one_of(recipe.terms, "actor/generator"), *setting)
            golden.gradients(f"{at}/grads_g/actor", actor_to(grads))
        else:
            terms = actor_terms(recipe, *setting)
        golden.close(f"{at}/g_loss", terms["actor/generator"])
        golden.close(f"{at}/actor_loss", terms["actor/loss"])


@functools.partial(jax.jit, static_argnames="recipe")
def take_step(
    recipe: Any, draws: Any, step: Any, state: Any, hyper: Any, batches: Any
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """One whole update by the method's own function, and what else a recording tells of it."""
    seen = recipe.observe(draws, state, hyper, batches)
    state, metrics = recipe.method.phases[0].update(draws, step, state, hyper, batches)
    return state, metrics, seen


update_targets = jax.jit(dp.update_targets)


def check_training(golden: Golden) -> None:
    """Three whole updates of every scenario, each from the state that the one before left."""
    for scenario in golden.scenarios():
        train(golden, scenario)


def train(golden: Golden, scenario: str) -> None:
    recipe, hyper = recipe_of(golden), hyper_of(golden, scenario)
    recorded = golden.tree("params")
    state = fresh_state(recipe, recorded)
    for k, at in enumerate(golden.steps(scenario)):
        step = int(golden[f"{scenario}/step_counter_at_start"]) + k
        golden.equal(f"{at}/counter", step)
        acts = bool(golden[f"{at}/actor_updated"])
        policy = policy_draws(golden, at, golden[f"{at}/draws/coin"]) if acts else None
        draws, batches = draws_of(golden, at, policy, hyper), recipe.batches(golden, f"{at}/")
        before = state
        state, metrics, seen = take_step(recipe, draws, step, state, hyper, batches)

        golden.equal(f"{at}/actor_updated", changed(before.core.actor.params, state.core.actor.params))
        golden.equal(f"{at}/ema_updated", changed(before.core.target_actor, state.core.target_actor))
        assert metrics["actor/loss"].weight == acts

        for name, value in (seen | recipe.metrics({m: metrics[m].total for m in metrics}, hyper)).items():
            key = f"{at}/{name}"
            if key not in golden:  # a delayed step logs only what it did
                assert not acts, key
            elif name in recipe.duals:
                golden.absolute(key, value, EXACT_BOUND)
            else:
                golden.close(key, value)

        ours = recorded | recipe.nets(state)
        for net in golden.groups(f"{at}/params/", depth=4):
            name = net.split("/")[-1]
            bound = EXACT_BOUND if name in recipe.duals else STEP_BOUND
            assert_trees(ours[name], golden.tree(f"{at}/params")[name], f"{golden.name}: {net}", bound)

        previous, recorded = recorded, recorded | golden.tree(f"{at}/params")
        targets = {name: previous[name] for name in ("actor_ema", "critic_target")}
        recomputed = core_to(update_targets(core_from(recorded | targets), step, hyper))
        for name in targets:
            if golden.keys(f"{at}/params/{name}/"):
                golden.trees(f"{at}/params/{name}", recomputed[name], EXACT_BOUND)


def check_learning_rates(golden: Golden) -> None:
    """Decay of the learning rates, one row per block, as the update applies it.

    Adam's first step moves every parameter by about its rate, so that rates of one show the factor.
    """
    recipe, interval = recipe_of(golden), golden.hyper.get("policy_freq", 1)
    draws, state, hyper, batches = losses_setting(golden, "hi")
    hyper = hyper.replace(**dict.fromkeys(recipe.rates, 1.0))
    names = ("lr", "critic_lr", "lambda_lr")
    base = np.asarray([golden.hyper[name] for name in names if name in golden.hyper])

    def moves(block: int, period: float) -> list[float]:
        step = -(-block * dp.BLOCK // interval) * interval  # the block's first step that moves the actor
        after, _, _ = take_step(recipe, draws, step, state, hyper.replace(lr_decay_epochs=period), batches)
        old, new = recipe.nets(state), recipe.nets(after)
        return [largest_change(old[net], new[net]) if net in new else 1.0 for net in recipe.rate_columns]

    for key in golden.keys("lr_decay/"):
        period = float(re.search(r"_Tmax(\d+)$", key)[1])
        factors = [np.divide(moves(block, period), moves(block, 0.0)) for block in range(len(golden[key]))]
        assert_close(factors, golden[key] / base, f"{golden.name}: {key}", scale=1e-6)


def largest_change(before: Tree, after: Tree) -> float:
    """The largest absolute difference between two trees."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


@jax.jit
def decide(draws: ActionDraws, state: Any, hyper: Any, observation: jax.Array) -> dict[str, jax.Array]:
    """One decision by the published rule, and the steps towards it."""
    core = state.core
    action = dp.sample_actions(core.actor.params, draws.noise, hyper, observation)
    value = losses.ensemble_min(dp.q_values(core.target_critic, hyper, observation, action))
    index, probability = losses.softmax_selection(value, draws.uniform)
    spec = Spec(observation.shape[-1], action.shape[-1])
    return {
        "candidates": action,
        "q": value,
        "probs": probability,
        "index": index,
        "action": dp.act(draws, spec, state, hyper, observation),
    }


def check_evaluation(golden: Golden) -> None:
    recipe, hyper = recipe_of(golden), shared_hyper(golden)
    state = fresh_state(recipe, golden.tree("params"))
    draw = functools.partial(recipe.method.draw_action, spec=spec_of(golden), hyper=hyper)
    for at in golden.groups("eval/", depth=2):
        draws = ActionDraws(golden.chain_noise(f"{at}/"), jnp.asarray(golden[f"{at}/uniform"]))
        chex.assert_trees_all_equal_shapes_and_dtypes(draws, jax.eval_shape(draw, jax.random.key(0)))
        seen = decide(draws, state, hyper, jnp.asarray(golden[f"{at}/obs"]))
        golden.equal(f"{at}/index", seen.pop("index"))
        for name, value in seen.items():
            golden.close(f"{at}/{name}", value)


COMMON = (
    check_initial_shapes,
    check_schedules,
    check_learning_rates,
    check_forward,
    check_sampler,
    check_losses,
    check_training,
    check_evaluation,
)
CHECKS: dict[str, tuple[Callable[[Golden], None], ...]] = {
    "dql": COMMON,
    "diffcps": (*COMMON, check_multiplier),
    "diffpogan": (*COMMON, check_adversary, check_divergences),
}
RECORDINGS = {f"{method}_{variant}": CHECKS[method] for method in CHECKS for variant in ("gym", "antmaze")}


SLOW = ("diffcps_antmaze", "diffpogan_antmaze")
"""What of their own these have over ``dql_antmaze`` is in the other recording of the method."""


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, id=f"{name}-{check.__name__}", marks=marks(name, SLOW))
        for name, checks in RECORDINGS.items()
        for check in checks
    ],
)
def test_recorded_numbers(name: str, check: Callable[[Golden], None]) -> None:
    check(load(name))


@parametrized(RECORDINGS, slow=SLOW)
def test_every_recorded_number_is_checked(name: str) -> None:
    account(name, RECORDINGS[name])
