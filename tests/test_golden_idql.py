"""IDQL against numbers recorded from its authors' programs: the exported learner, and that of the first release."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from golden_recipes import (
    Recipe,
    check_initial_shapes,
    check_losses,
    check_training,
    fresh_state,
    hyper_of,
    prove,
    shared_hyper,
    spec_of,
)
from golden_tools import Golden, layers, parametrized, plain

from diffjax.diffusion.objectives import DenoisingDraws
from diffjax.diffusion.samplers import ChainNoise
from diffjax.diffusion.schedules import discrete_schedule
from diffjax.methods import idql
from diffjax.methods.candidates import ActionDraws
from diffjax.nn.learners import cosine_decay, descend, learner
from diffjax.types import Batch

Tree = Any
CHAIN_BOUND = 4e-5


def score_network(recorded: Tree) -> Tree:
    """Recorded layers as the parameters of a noise predictor: those of the time apart, the others in its trunk."""
    outer = {name: layer for name, layer in recorded.items() if name.startswith(("fourier", "cond_"))}
    return {"params": outer | {"trunk": {name: layer for name, layer in recorded.items() if name not in outer}}}


class IDQL(Recipe):
    """Where the recordings of the exported learner meet our functions."""

    method = idql.METHOD
    bounds = (("lr", 1e-9),)
    step_bound = 3e-5
    gradient_bound = 3e-5

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        assert recorded["actor_layer_norm"]
        return {
            "expectile": recorded["critic_hyperparam"],
            "discount": recorded["discount"],
            "actor_tau": recorded["actor_tau"],
            "actor_lr": recorded["actor_lr"],
            "value_lr": recorded["value_lr"],
            "critic_lr": recorded["critic_lr"],
            "lr_decay_steps": float(recorded["decay_steps"]),
            "weight_decay": recorded["actor_weight_decay_used"],
            "dropout": recorded["actor_dropout_rate"],
            "hidden_dims": (recorded["hidden"],) * 2,
            "value_norm": recorded.get("value_layer_norm", False),
            "actor_dim": recorded["hidden"],
            "actor_blocks": recorded["actor_num_blocks"],
            "time_dim": recorded["time_dim"],
            "condition_dims": tuple(recorded.get("cond_hidden", (2 * recorded["time_dim"],) * 2)),
            "diffusion_steps": recorded["T"],
            "schedule": recorded["beta_schedule"],
            "extra_steps": recorded["M"],
            "candidates": recorded.get("N_eval", recorded["N"]),
        }

    def scenario_hyper(self, golden: Golden, scenario: str) -> dict[str, Any]:
        return {"lr_decay_steps": golden.hyper["lr_decay_test_steps"]} if scenario == "train_lr_decay" else {}

    def state_from(self, nets: Tree) -> idql.State:
        return idql.State(
            learner(score_network(nets["score_model"])),
            score_network(nets["score_model_target"]),
            learner(plain(nets["value"])),
            learner(plain(nets["critic"])),
            plain(nets["critic_target"]),
        )

    def nets(self, state: idql.State) -> Tree:
        """All networks in the recorded layout."""
        return {
            "score_model": layers(state.actor.params),
            "score_model_target": layers(state.target_actor),
            "value": layers(state.value.params),
            "critic": layers(state.critic.params),
            "critic_target": layers(state.target_critic),
        }

    def draws(self, golden: Golden, at: str) -> idql.Draws:
        at = at if f"{at}/draws/t" in golden else f"{at}/actor"
        index, noise, keep = (jnp.asarray(golden[f"{at}/draws/{name}"]) for name in ("t", "noise", "dropout_keep"))
        return idql.Draws(DenoisingDraws(index, noise), keep)

    def forward(self, state: idql.State, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss, but the noise predictor, under the recorded names."""
        pair, value = (batch.observation, batch.action), state.value.params
        return {
            "forward/critic_q": idql.critics(hyper).apply(state.critic.params, *pair),
            "forward/critic_target_q": idql.critics(hyper).apply(state.target_critic, *pair),
            "forward/value_v": idql.v_value(value, hyper, batch.observation),
            "forward/value_v_next": idql.v_value(value, hyper, batch.next_observation),
        }

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, under the recorded names."""
        value, q = state.value.params, idql.min_q(state.target_critic, hyper, batch.observation, batch.action)
        advantage = q - idql.v_value(value, hyper, batch.observation)
        given = (state.actor.params, advantage, draws, hyper, batch)
        actor_grads, actor = jax.grad(idql.actor_loss, has_aux=True)(*given)
        value_grads, of_value = jax.grad(idql.value_loss, has_aux=True)(value, q, hyper, batch)
        target = idql.critic_target(value, hyper, batch)
        critic_grads, critic = jax.grad(idql.critic_loss, has_aux=True)(state.critic.params, target, hyper, batch)
        return {
            "losses/actor/loss": actor["actor/loss"],
            "losses/value/loss": of_value["value/loss"],
            "losses/value/v_mean": of_value["value/v_mean"],
            "losses/value/q_min": q,
            "losses/critic/loss": critic["critic/loss"],
            "losses/critic/q_mean": critic["critic/q_mean"],
            "losses/critic/target_q": target,
        }, {
            "losses/actor/grads/score_model": layers(actor_grads),
            "losses/value/grads/value": layers(value_grads),
            "losses/critic/grads/critic": layers(critic_grads),
        }

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        return {
            "lr": hyper.actor_lr * cosine_decay(step, hyper.lr_decay_steps),
            "metrics/actor_loss": metrics["actor/loss"].total,
            "metrics/value_loss": metrics["value/loss"].total,
            "metrics/critic_loss": metrics["critic/loss"].total,
            "metrics/v": metrics["value/v_mean"].total,
            "metrics/q": metrics["critic/q_mean"].total,
        }

    def check_step(self, golden: Golden, at: str, before: Tree, after: Tree, metrics: Any) -> None:
        """Where only some layers of a network were kept."""
        check_part(golden, f"{at}/params_part", after, self.step_bound)


class FastIDQL(IDQL):
    """Ten times the rate, and ten times its errors."""

    step_bound = 3e-4


class GeneralIDQL(IDQL):
    """Where the recording of the first release's learner meets our functions."""

    method = idql.GENERAL

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return super().hyper(recorded) | {
            "actor_architecture": recorded["actor_architecture"],
            "actor_objective": recorded["actor_objective"],
            "value_objective": recorded["critic_objective"],
            "beta": recorded["policy_temperature"],
        }


def check_part(golden: Golden, prefix: str, nets: Tree, bound: float) -> None:
    """The arrays recorded below ``prefix``, of networks that have more."""
    for key in golden.keys(prefix + "/"):
        path = key.removeprefix(prefix + "/").split("/")
        golden.absolute(key, functools.reduce(lambda node, name: node[name], path, nets), bound)


def check_schedules(recipe: Recipe, golden: Golden) -> None:
    """Every schedule, at the file's number of steps and another."""
    for at in golden.groups("schedule/", depth=2):
        name, steps = at.split("/")[1].removesuffix("_other"), int(golden[f"{at}/n_timesteps"])
        schedule = discrete_schedule(name, steps)
        golden.close(f"{at}/betas", schedule.beta, 1e-6)
        golden.close(f"{at}/alphas", 1.0 - schedule.beta, 1e-6)
        golden.close(f"{at}/alphas_bar", schedule.alpha_bar, 1e-6)


@jax.jit
def predict(actor: Tree, hyper: Any, x: jax.Array, index: jax.Array, observation: jax.Array, keep: Any = None) -> Any:
    """The noise predictor's output; ``keep`` are the masks of dropout."""
    factors = () if keep is None else tuple(keep / (1.0 - hyper.dropout))
    return idql.actor_network(hyper, x.shape[-1]).apply(actor, x, index, observation, factors)


def check_noise_predictor(recipe: Recipe, golden: Golden) -> None:
    """Features of the time, and the predicted noise with and without dropout."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden)
    x, index, observation = (jnp.asarray(golden[key]) for key in ("forward/x_t", "forward/t", "batch/obs"))
    given, actor = (hyper, x, index, observation), state.actor.params
    network = idql.actor_network(hyper, x.shape[-1])
    golden.close("forward/time_features", network.apply(actor, index, method=lambda net, time: net.fourier(time)))
    golden.close("forward/score_model_eps", predict(actor, *given))
    golden.close("forward/score_model_target_eps", predict(state.target_actor, *given))
    golden.close("forward/score_model_eps_dropout", predict(actor, *given, jnp.asarray(golden["forward/dropout_keep"])))


@jax.jit
def sampled(actor: Tree, noise: ChainNoise, hyper: Any, observation: jax.Array) -> tuple[jax.Array, ...]:
    """All states of the chains but the last, and the actions."""
    states = idql.action_chain(actor, noise, hyper, observation)
    return states[:-1], idql.sample_actions(actor, noise, hyper, observation)


def check_samplers(recipe: Recipe, golden: Golden) -> None:
    """Every recorded chain: its states, the noise predicted at the recorded ones, and the action at its end."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden)
    observation, recorded = jnp.asarray(golden["batch/obs"]), golden.hyper
    cases = {
        "score_model": (state.actor.params, hyper),
        "score_model_target": (state.target_actor, hyper),
        "no_clip": (state.target_actor, hyper.replace(clip_sampler=False)),
        "repeat_last_temperature": (
            state.target_actor,
            hyper.replace(
                extra_steps=recorded["sampler_M_test"], sampler_temperature=recorded["sampler_temperature_test"]
            ),
        ),
    }
    for at in golden.groups("sampler/", depth=2):
        actor, own = cases[at.split("/")[1]]
        states, action = sampled(actor, golden.chain_noise(f"{at}/"), own, observation)
        golden.close(f"{at}/chain", jnp.concatenate([states, action[None]]), CHAIN_BOUND)
        golden.close(f"{at}/action", action, CHAIN_BOUND)
        of_step = jax.vmap(predict, (None, None, 0, 0, None))
        steps = (jnp.asarray(golden[f"{at}/{name}"]) for name in ("chain", "t"))
        x, index = steps
        golden.close(f"{at}/eps", of_step(actor, shared_hyper(recipe, golden), x[:-1], index, observation))


def check_without_dropout(recipe: Recipe, golden: Golden) -> None:
    """The actor's loss of the learner that was built without dropout."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden).replace(dropout=0.0)
    loss, metrics, gradient = weighted_loss(recipe, golden, "losses/actor_no_dropout", state, hyper)
    golden.close("losses/actor_no_dropout/loss", loss)
    if golden.keys("losses/actor_no_dropout/grads"):
        golden.gradients("losses/actor_no_dropout/grads/score_model", gradient, recipe.gradient_bound)
    if "losses/actor_no_dropout/weights_mean" in golden:
        golden.close("losses/actor_no_dropout/weights_mean", metrics["actor/weight"])


@jax.jit
def actor_examined(state: idql.State, draws: idql.Draws, hyper: Any, batch: Batch) -> Any:
    """The actor's loss as an update has it, its metrics and its gradient."""
    q = idql.min_q(state.target_critic, hyper, batch.observation, batch.action)
    advantage = q - idql.v_value(state.value.params, hyper, batch.observation)
    loss = jax.value_and_grad(idql.actor_loss, has_aux=True)
    (value, metrics), gradient = loss(state.actor.params, advantage, draws, hyper, batch)
    return value, metrics, layers(gradient)


def weighted_loss(recipe: Recipe, golden: Golden, at: str, state: Any, hyper: Any) -> Any:
    """:func:`actor_examined` at the draws below ``at``, which keep all units where no mask is recorded."""
    batch = golden.batch("batch")
    blocks = hyper.actor_blocks if hyper.actor_architecture == "ln_resnet" else 0
    keep = jnp.ones((blocks, len(batch.reward), hyper.actor_dim), bool)
    if f"{at}/draws/dropout_keep" in golden:
        keep = jnp.asarray(golden[f"{at}/draws/dropout_keep"])
    index, noise = (jnp.asarray(golden[f"{at}/draws/{name}"]) for name in ("t", "noise"))
    return actor_examined(state, idql.Draws(DenoisingDraws(index, noise), keep), hyper, batch)


@functools.partial(jax.jit, static_argnames="spec")
def decided(state: idql.State, draws: ActionDraws, spec: Any, hyper: Any, observation: jax.Array) -> dict[str, Any]:
    """Decisions for rows of observations, and what they are made of."""

    def one(draws: ActionDraws, observation: jax.Array) -> dict[str, Any]:
        candidates = idql.sample_actions(state.target_actor, draws.noise, hyper, observation)
        q = idql.min_q(state.target_critic, hyper, observation, candidates)
        v = jnp.broadcast_to(idql.v_value(state.value.params, hyper, observation), q.shape)
        weight = idql.implicit_weight(q - v, hyper)
        action = idql.act(draws, spec, state, hyper, observation)
        index = idql.select(state.value.params, state.target_critic, draws, hyper, observation, candidates)
        return {"candidates": candidates, "q": q, "v": v, "adv": q - v, "p": weight, "action": action, "index": index}

    return jax.vmap(one)(draws, observation)


def check_decisions(golden: Golden, at: str, state: Any, hyper: Any) -> None:
    """The candidates recorded below ``at``, what each is worth, and which of them is the action."""
    noise = golden.chain_noise(f"{at}/")
    uniform = jnp.asarray(golden[f"{at}/uniform"]) if f"{at}/uniform" in golden else jnp.zeros(len(noise.start))
    found = decided(state, ActionDraws(noise, uniform), spec_of(golden), hyper, jnp.asarray(golden[f"{at}/obs"]))
    golden.equal(f"{at}/index", found.pop("index"))
    for name, value in found.items():
        if f"{at}/{name}" in golden:
            golden.close(f"{at}/{name}", value, CHAIN_BOUND if name in ("candidates", "action") else 1e-5)


def check_evaluation(recipe: Recipe, golden: Golden) -> None:
    """The best candidate."""
    check_decisions(golden, "evaluation", fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden))


def with_objective(golden: Golden, at: str, hyper: Any) -> Any:
    """The hyper-parameters of the value objective recorded at ``at``, which ends in its name."""
    name, value = at.rpartition("/")[2].removeprefix("value_"), float(golden[f"{at}/critic_hyperparam"])
    field = "alpha" if name == "exponential" else "expectile"
    return hyper.replace(value_objective=name, **{field: value})


def check_implicit_policies(recipe: Recipe, golden: Golden) -> None:
    """The candidates that the implicit policies draw."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden).replace(choice="implicit")
    for at in golden.groups("evaluation_implicit/", depth=2):
        check_decisions(golden, at, state, with_objective(golden, at, hyper))


@jax.jit
def value_examined(state: idql.State, hyper: Any, batch: Batch) -> Any:
    """The value's metrics and its gradient."""
    q = idql.min_q(state.target_critic, hyper, batch.observation, batch.action)
    gradient, metrics = jax.grad(idql.value_loss, has_aux=True)(state.value.params, q, hyper, batch)
    return metrics, layers(gradient)


def check_objectives(recipe: Recipe, golden: Golden) -> None:
    """Every objective of the value, and every weight of the actor."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden)
    golden.close("losses/actor/weights_mean", 1.0)
    for at in golden.groups("losses_objective/", depth=2):
        name = at.split("/")[1]
        if name.startswith("value_"):
            metrics, gradient = value_examined(state, with_objective(golden, at, hyper), golden.batch("batch"))
            golden.close(f"{at}/loss", metrics["value/loss"])
            golden.close(f"{at}/v_mean", metrics["value/v_mean"])
            golden.gradients(f"{at}/grads/value", gradient, recipe.gradient_bound)
            continue
        own = hyper.replace(actor_objective=name.removeprefix("actor_"))
        loss, metrics, gradient = weighted_loss(recipe, golden, at, state, own)
        golden.close(f"{at}/loss", loss)
        golden.close(f"{at}/weights_mean", metrics["actor/weight"])
        if golden.keys(f"{at}/grads"):
            golden.gradients(f"{at}/grads/score_model", gradient, recipe.gradient_bound)


def check_plain_network(recipe: Recipe, golden: Golden) -> None:
    """The architecture without residual blocks."""
    hyper = shared_hyper(recipe, golden).replace(actor_architecture="mlp")
    actor = score_network(golden.tree("mlp_arch/params/score_model"))
    x, index, observation = (jnp.asarray(golden[key]) for key in ("forward/x_t", "forward/t", "batch/obs"))
    golden.close("mlp_arch/score_model_eps", predict(actor, hyper, x, index, observation))
    state = fresh_state(recipe, golden.tree("params"))._replace(actor=learner(actor))
    loss, _, gradient = weighted_loss(recipe, golden, "mlp_arch", state, hyper)
    golden.close("mlp_arch/loss", loss)
    golden.gradients("mlp_arch/grads/score_model", gradient, recipe.gradient_bound)


def check_weight_decay(recipe: Recipe, golden: Golden) -> None:
    """Steps on gradients of zero, on which the weights decay alone."""
    recorded, hyper = golden.hyper, hyper_of(recipe, golden)
    state = fresh_state(recipe, golden.tree("params")).actor
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    for k, at in enumerate(golden.steps("weight_decay_probe")):
        factor = cosine_decay(jnp.int32(k), recorded["weight_decay_probe_decay_steps"])
        rate = recorded["weight_decay_probe_lr"] * factor
        golden.close(f"{at}/lr", rate, 1e-6)
        state, _ = descend(state, zeros, rate, weight_decay=hyper.weight_decay)
        check_part(golden, f"{at}/params", layers(state.params), 1e-6)


COMMON = (
    check_initial_shapes,
    check_losses,
    check_training,
    check_schedules,
    check_noise_predictor,
    check_samplers,
    check_without_dropout,
    check_evaluation,
)
RECORDINGS = {
    "idql_gym": (IDQL(), COMMON),
    "idql_antmaze": (IDQL(), COMMON),
    "idql_general": (GeneralIDQL(), (*COMMON, check_implicit_policies, check_objectives, check_plain_network)),
    "idql_fast": (FastIDQL(), (check_initial_shapes, check_training, check_weight_decay)),
}


@parametrized(RECORDINGS, slow=("idql_antmaze", "idql_general"))
def test_recorded_numbers(name: str) -> None:
    prove(name, *RECORDINGS[name])
