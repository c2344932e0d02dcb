"""IQL, TD3+BC, ReBRAC and AWAC against numbers recorded from their authors' programs.

A recipe per method says how a recording's hyper-parameters, networks and draws are called here, and what is recorded of
its losses and updates. Networks are compared in the recording's layout, tensor by tensor.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import chex
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_tools import Golden, account, changed, in_trunk, layers, load, plain, stack

from diffjax import losses
from diffjax.data.hdf5 import load_hdf5
from diffjax.data.observations import STANDARD_EPSILON
from diffjax.data.rewards import dac_trajectory_ends, reward_affine
from diffjax.experiment.settings import resolve
from diffjax.methods import awac, iql, rebrac, td3_bc
from diffjax.methods.base import example_batches
from diffjax.methods.registry import METHODS
from diffjax.nn.learners import cosine_decay, learner
from diffjax.training.batches import RunData, gather_batch, prepare
from diffjax.types import Batch, Spec

Tree = Any

WEIGHT_BOUND = 1e-4  # relative, of exponentials of the advantage
STEP_BOUND = 1e-5  # networks after updates
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


class TD3BC:
    """Where the recordings of TD3+BC meet our functions."""

    method = td3_bc.METHOD
    critic_from, critic_to = staticmethod(twins_from), staticmethod(twins_to)
    by_step = ("policy_interval",)  # static, and read by updates alone

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        scaled = {name: recorded[name] * recorded["max_action"] for name in ("policy_noise", "noise_clip")}
        assert scaled == {name: pytest.approx(recorded[f"{name}_times_max_action"]) for name in scaled}
        return {
            "discount": recorded["discount"],
            "alpha": recorded["alpha"],
            "policy_noise": recorded["policy_noise"],
            "noise_clip": recorded["noise_clip"],
            "actor_lr": recorded["lr"],
            "critic_lr": recorded["lr"],
            "max_action": recorded["max_action"],
            "policy_interval": recorded["policy_freq"],
            "hidden_dims": (recorded["hidden"],) * recorded["hidden_layers"],
        }

    def state_from(self, nets: Tree) -> td3_bc.State:
        critic = self.critic_from(nets["critic"])
        target_critic = self.critic_from(nets["critic_target"])
        return td3_bc.State(learner(plain(nets["actor"])), plain(nets["actor_target"]), learner(critic), target_critic)

    def nets(self, state: td3_bc.State) -> Tree:
        """All networks in the recorded layout."""
        return {
            "actor": layers(state.actor.params),
            "actor_target": layers(state.target_actor),
            "critic": self.critic_to(state.critic.params),
            "critic_target": self.critic_to(state.target_critic),
        }

    def draws(self, golden: Golden, at: str) -> Any:
        return jnp.asarray(golden[f"{at}/draws/target_noise"])

    def batch(self, golden: Golden, at: str) -> Batch:
        return golden.batch(at)

    def forward(self, state: td3_bc.State, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss, under the recorded names."""
        pair, dim = (batch.observation, batch.action), batch.action.shape[-1]
        return {
            "forward/actor": td3_bc.policy(state.actor.params, hyper, batch.observation, dim),
            "forward/actor_target_next": td3_bc.policy(state.target_actor, hyper, batch.next_observation, dim),
            **both(td3_bc.critics(hyper).apply(state.critic.params, *pair), "forward/critic"),
            **both(td3_bc.critics(hyper).apply(state.target_critic, *pair), "forward/critic_target"),
        }

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, under the recorded names."""
        target = td3_bc.critic_target(draws, state, hyper, batch)
        critic_grads, critic = jax.grad(td3_bc.critic_loss, has_aux=True)(state.critic.params, target, hyper, batch)
        given = (state.actor.params, state.critic.params, hyper, batch)
        actor_grads, actor = jax.grad(td3_bc.actor_loss, has_aux=True)(*given)
        action = td3_bc.policy(state.actor.params, hyper, batch.observation, batch.action.shape[-1])
        return {
            "losses/critic/next_actions": td3_bc.next_actions(state.target_actor, draws, hyper, batch),
            "losses/critic/target_q": target,
            "losses/critic/loss": critic["critic/loss"],
            "losses/actor/q1": td3_bc.first_q(state.critic.params, hyper, batch.observation, action),
            "losses/actor/lambda": actor["actor/q_weight"],
            "losses/actor/bc": actor["actor/bc"],
            "losses/actor/loss": actor["actor/loss"],
        }, {
            "losses/critic/grads/critic": self.critic_to(critic_grads),
            "losses/actor/grads/actor": layers(actor_grads),
        }

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        return {
            "critic_target_q": td3_bc.critic_target(draws, before, hyper, batch),
            "metrics/critic_loss": metrics["critic/loss"].total,
            "metrics/actor_loss": metrics["actor/loss"].total,
            "metrics/bc": metrics["actor/bc"].total,
        }


class ReBRAC(TD3BC):
    method = rebrac.METHOD
    critic_from, critic_to = staticmethod(plain), staticmethod(layers)

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return {
            "actor_bc": recorded["actor_bc_coef"],
            "critic_bc": recorded["critic_bc_coef"],
            "discount": recorded["gamma"],
            "policy_noise": recorded["policy_noise"],
            "noise_clip": recorded["noise_clip"],
            "actor_lr": recorded["actor_learning_rate"],
            "critic_lr": recorded["critic_learning_rate"],
            "normalize_q": recorded["normalize_q"],
            "actor_norm": recorded["actor_ln"],
            "critic_norm": recorded["critic_ln"],
            "policy_interval": recorded["policy_freq"],
            "hidden_dims": (recorded["hidden"],) * recorded["actor_n_hiddens"],
            "critic_hidden_dims": (recorded["hidden"],) * recorded["critic_n_hiddens"],
        }

    def batch(self, golden: Golden, at: str) -> Batch:
        return golden.batch(at)._replace(next_action=jnp.asarray(golden[f"{at}/next_actions"]))

    def forward(self, state: td3_bc.State, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        pair, dim = (batch.observation, batch.action), batch.action.shape[-1]
        return {
            "forward/actor": rebrac.policy(state.actor.params, hyper, batch.observation, dim),
            "forward/actor_target_next": rebrac.policy(state.target_actor, hyper, batch.next_observation, dim),
            "forward/critic_q": rebrac.critics(hyper).apply(state.critic.params, *pair),
            "forward/critic_target_q": rebrac.critics(hyper).apply(state.target_critic, *pair),
        }

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        target = rebrac.critic_target(draws, state, hyper, batch)
        critic_grads, critic = jax.grad(rebrac.critic_loss, has_aux=True)(state.critic.params, target, hyper, batch)
        given = (state.actor.params, state.critic.params, hyper, batch)
        actor_grads, actor = jax.grad(rebrac.actor_loss, has_aux=True)(*given)
        action = rebrac.policy(state.actor.params, hyper, batch.observation, batch.action.shape[-1])
        next_action = rebrac.next_actions(state.target_actor, draws, hyper, batch)
        return {
            "losses/critic/next_actions": next_action,
            "losses/critic/bc_penalty": rebrac.penalty(next_action, batch.next_action),
            "losses/critic/next_q_min": rebrac.min_q(state.target_critic, hyper, batch.next_observation, next_action),
            "losses/critic/target_q": target,
            "losses/critic/loss": critic["critic/loss"],
            "losses/critic/q_min_mean": critic["critic/q_min"],
            "losses/actor/q": rebrac.critics(hyper).apply(state.critic.params, batch.observation, action),
            "losses/actor/lambda": actor["actor/q_weight"],
            "losses/actor/bc_mse_policy": actor["actor/bc"],
            "losses/actor/action_mse": actor["actor/bc"] / batch.action.shape[-1],
            "losses/actor/loss": actor["actor/loss"],
        }, {
            "losses/critic/grads/critic": layers(critic_grads),
            "losses/actor/grads/actor": layers(actor_grads),
        }

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        return {
            "critic_target_q": rebrac.critic_target(draws, before, hyper, batch),
            "metrics/critic_loss": metrics["critic/loss"].total,
            "metrics/q_min": metrics["critic/q_min"].total,
            "metrics/actor_loss": metrics["actor/loss"].total,
            "metrics/bc_mse_policy": metrics["actor/bc"].total,
            "metrics/action_mse": metrics["actor/bc"].total / batch.action.shape[-1],
        }


def free_normal(recorded: Tree) -> Tree:
    """Our parameters of a policy with a free deviation."""
    mean = {name: layer for name, layer in recorded.items() if name != "log_std"}
    return {"params": in_trunk(mean)["params"] | {"log_std": recorded["log_std"]}}


class IQL:
    """Where the recordings of IQL meet our functions."""

    method = iql.METHOD
    by_step = ()

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return {
            "expectile": recorded["expectile"],
            "beta": recorded["temperature"],
            "max_weight": recorded["exp_adv_max"],
            "discount": recorded["discount"],
            "value_lr": recorded["value_lr"],
            "actor_lr": recorded["actor_lr"],
            "critic_lr": recorded["critic_lr"],
            "lr_decay_steps": float(recorded["decay_steps"]),
            "dropout": recorded["dropout_rate"] or 0.0,
            "log_std_min": recorded["log_std_min"],
            "log_std_max": recorded["log_std_max"],
            "hidden_dims": (recorded["hidden"],) * recorded["hidden_layers"],
        }

    def state_from(self, nets: Tree) -> iql.State:
        return iql.State(
            learner(plain(nets["value"])),
            learner(free_normal(nets["actor"])),
            learner(twins_from(nets["critic"])),
            twins_from(nets["critic_target"]),
        )

    def nets(self, state: iql.State) -> Tree:
        """All networks in the recorded layout."""
        return {
            "value": layers(state.value.params),
            "actor": layers(state.actor.params),
            "critic": twins_to(state.critic.params),
            "critic_target": twins_to(state.target_critic),
        }

    def draws(self, golden: Golden, at: str) -> iql.Draws:
        masks = golden.keys(f"{at}/draws/dropout_keep_")
        return iql.Draws(tuple(jnp.asarray(golden[f"{at}/draws/dropout_keep_{i}"]) for i in range(len(masks))))

    def batch(self, golden: Golden, at: str) -> Batch:
        return golden.batch(at)

    def forward(self, state: iql.State, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss, under the recorded names."""
        pair, value = (batch.observation, batch.action), state.value.params
        mean, log_std = iql.policy(state.actor.params, hyper, batch.observation, batch.action.shape[-1])
        return {
            "forward/actor_mean": mean,
            "forward/actor_std": jnp.exp(log_std),
            "forward/actor_log_prob": losses.gaussian_log_prob(batch.action, mean, log_std),
            "forward/value": iql.v_value(value, hyper, batch.observation),
            "forward/value_next": iql.v_value(value, hyper, batch.next_observation),
            **both(iql.critics(hyper).apply(state.critic.params, *pair), "forward/critic"),
            **both(iql.critics(hyper).apply(state.target_critic, *pair), "forward/critic_target"),
        }

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, under the recorded names."""
        q = iql.min_q(state.target_critic, hyper, batch)
        value_grads, value = jax.grad(iql.value_loss, has_aux=True)(state.value.params, q, hyper, batch)
        advantage = q - iql.v_value(state.value.params, hyper, batch.observation)
        given = (state.actor.params, advantage, draws, hyper, batch)
        actor_grads, actor = jax.grad(iql.actor_loss, has_aux=True)(*given)
        target = iql.critic_target(state.value.params, hyper, batch)
        critic_grads, critic = jax.grad(iql.critic_loss, has_aux=True)(state.critic.params, target, hyper, batch)
        q1, q2 = jnp.mean(iql.critics(hyper).apply(state.critic.params, batch.observation, batch.action), axis=1)
        return {
            "losses/value/loss": value["value/loss"],
            "losses/value/v_mean": value["value/v_mean"],
            "losses/value/diff": advantage,
            "losses/actor/adv": advantage,
            "losses/actor/exp_adv": iql.advantage_weight(advantage, hyper),
            "losses/actor/loss": actor["actor/loss"],
            "losses/critic/loss": critic["critic/loss"],
            "losses/critic/target_q": target,
            "losses/critic/q1_mean": q1,
            "losses/critic/q2_mean": q2,
        }, {
            "losses/value/grads/value": layers(value_grads),
            "losses/actor/grads/actor": layers(actor_grads),
            "losses/critic/grads/critic": twins_to(critic_grads),
        }

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        value = after.value.params
        q1, q2 = jnp.mean(iql.critics(hyper).apply(before.critic.params, batch.observation, batch.action), axis=1)
        return {
            "lr_actor": hyper.actor_lr * cosine_decay(step, hyper.lr_decay_steps),
            "adv": iql.min_q(before.target_critic, hyper, batch) - iql.v_value(value, hyper, batch.observation),
            "critic_target_q": iql.critic_target(value, hyper, batch),
            "metrics/critic_loss": metrics["critic/loss"].total,
            "metrics/value_loss": metrics["value/loss"].total,
            "metrics/actor_loss": metrics["actor/loss"].total,
            "metrics/v": metrics["value/v_mean"].total,
            "metrics/q1": q1,
            "metrics/q2": q2,
        }


class AWAC:
    """Where the recordings of AWAC meet our functions."""

    method = awac.METHOD
    by_step = ()

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        return {
            "temperature": recorded["awac_lambda"],
            "max_weight": recorded["exp_adv_max"],
            "discount": recorded["gamma"],
            "actor_lr": recorded["learning_rate"],
            "critic_lr": recorded["learning_rate"],
            "log_std_min": recorded["log_std_min"],
            "log_std_max": recorded["log_std_max"],
            "hidden_dims": (recorded["hidden"],) * recorded["hidden_layers"],
        }

    def state_from(self, nets: Tree) -> awac.State:
        critic, target = twins_from(nets["critic"]), twins_from(nets["critic_target"])
        return awac.State(learner(free_normal(nets["actor"])), learner(critic), target)

    def nets(self, state: awac.State) -> Tree:
        """All networks in the recorded layout."""
        return {
            "actor": layers(state.actor.params),
            "critic": twins_to(state.critic.params),
            "critic_target": twins_to(state.target_critic),
        }

    def draws(self, golden: Golden, at: str) -> awac.Draws:
        return awac.Draws(*(jnp.asarray(golden[f"{at}/draws/{name}_eps"]) for name in ("target", "actor")))

    def batch(self, golden: Golden, at: str) -> Batch:
        return golden.batch(at)

    def forward(self, state: awac.State, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss, under the recorded names."""
        pair = (batch.observation, batch.action)
        mean, log_std = awac.policy(state.actor.params, hyper, batch.observation, batch.action.shape[-1])
        return {
            "forward/mean": mean,
            "forward/std": jnp.exp(log_std),
            "forward/log_prob": losses.gaussian_log_prob(batch.action, mean, log_std),
            **both(awac.critics(hyper).apply(state.critic.params, *pair), "forward/critic"),
            **both(awac.critics(hyper).apply(state.target_critic, *pair), "forward/critic_target"),
        }

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, under the recorded names."""
        actor, critic = state.actor.params, state.critic.params
        target = awac.critic_target(state.target_critic, actor, draws, hyper, batch)
        critic_grads, of_critic = jax.grad(awac.critic_loss, has_aux=True)(critic, target, hyper, batch)
        actor_grads, of_actor = jax.grad(awac.actor_loss, has_aux=True)(actor, critic, draws, hyper, batch)
        q, v = awac.advantage(critic, actor, draws, hyper, batch)
        return {
            "losses/critic/target_q": target,
            "losses/critic/loss": of_critic["critic/loss"],
            "losses/actor/policy_action": awac.sampled(actor, draws.action, hyper, batch.observation),
            "losses/actor/v": v,
            "losses/actor/q": q,
            "losses/actor/weights": awac.advantage_weight(q, v, hyper),
            "losses/actor/loss": of_actor["actor/loss"],
        }, {
            "losses/critic/grads/critic": twins_to(critic_grads),
            "losses/actor/grads/actor": layers(actor_grads),
        }

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        actor = before.actor.params
        return {
            "critic_target_q": awac.critic_target(before.target_critic, actor, draws, hyper, batch),
            "metrics/critic_loss": metrics["critic/loss"].total,
            "metrics/actor_loss": metrics["actor/loss"].total,
        }


RECIPES = {"td3bc": TD3BC(), "rebrac": ReBRAC(), "iql": IQL(), "awac": AWAC()}


def recipe_of(golden: Golden) -> Any:
    return RECIPES[golden.info["method"]]


def spec_of(golden: Golden) -> Spec:
    return Spec(golden.hyper["obs_dim"], golden.hyper["act_dim"])


def hyper_of(golden: Golden, scenario: str = "train") -> Any:
    """The recording's hyper-parameters; two scenarios have a Polyak rate and a decay of their own."""
    recorded, recipe = golden.hyper, recipe_of(golden)
    assert {name: value for name, value in FIXED.items() if recorded.get(name, value) != value} == {}
    values = recipe.hyper(recorded) | {"batch_size": recorded["batch"], "tau": recorded["tau"]}
    if scenario in ("train_tau", "train_decay"):
        values["tau"] = recorded["tau_test"]
    if scenario == "train_decay":
        values["lr_decay_steps"] = float(recorded["decay_steps_test"])
    return recipe.method.hyper(**values)


def shared_hyper(golden: Golden) -> Any:
    """:func:`hyper_of` for programs that update nothing: one compiled program serves several recordings."""
    recipe, hyper = recipe_of(golden), hyper_of(golden)
    return hyper.replace(**{name: getattr(recipe.method.hyper(), name) for name in recipe.by_step})


@functools.partial(jax.jit, static_argnames="recipe")
def fresh_state(recipe: Any, nets: Tree) -> Any:
    """Recorded networks as a state of ours, with fresh optimisers."""
    return recipe.state_from(nets)


@functools.partial(jax.jit, static_argnames="recipe")
def examine(recipe: Any, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
    """Forward passes, losses and gradients under the recorded names."""
    values, gradients = recipe.losses(draws, state, hyper, batch)
    return recipe.forward(state, hyper, batch) | values, gradients


@functools.partial(jax.jit, static_argnames="recipe")
def take_step(
    recipe: Any, draws: Any, step: Any, before: Any, hyper: Any, batch: Batch
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """One whole update by the method's own function, its metrics, and what else is recorded of it."""
    state, metrics = recipe.method.phases[0].update(draws, step, before, hyper, (batch,))
    return state, metrics, recipe.step(draws, step, before, state, hyper, batch, metrics)


def draws_of(golden: Golden, at: str) -> Any:
    """The draws of an update, of the shapes of our own."""
    recipe, hyper = recipe_of(golden), hyper_of(golden)
    draw = functools.partial(recipe.method.phases[0].draw, spec=spec_of(golden), hyper=hyper)
    draws = recipe.draws(golden, at)
    chex.assert_trees_all_equal_shapes_and_dtypes(draws, jax.eval_shape(draw, jax.random.key(0)))
    return draws


def check_initial_shapes(golden: Golden) -> None:
    """Our own initialisation has the recorded structure."""
    recipe = recipe_of(golden)
    init = functools.partial(recipe.method.init, spec=spec_of(golden), hyper=hyper_of(golden))
    expected = jax.eval_shape(recipe.state_from, golden.tree("params"))
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(init, jax.random.key(0)), expected)


def examined(golden: Golden, nets: Tree) -> tuple[dict[str, jax.Array], Tree]:
    """:func:`examine` at the recorded minibatch."""
    recipe = recipe_of(golden)
    batch = recipe.batch(golden, "batch")
    return examine(recipe, draws_of(golden, "losses"), fresh_state(recipe, nets), shared_hyper(golden), batch)


def check_losses(golden: Golden) -> None:
    """Forward passes, losses and gradients at the recorded networks."""
    values, gradients = examined(golden, golden.tree("params"))
    for key, value in values.items():
        golden.close(key, value, WEIGHT_BOUND if key.endswith(("exp_adv", "weights")) else 1e-5)
    for key, value in gradients.items():
        golden.gradients(key, value)


def check_deviation_bounds(golden: Golden) -> None:
    """IQL: the policy, and the gradient of its loss, where the deviation lies outside its bounds."""
    nets = golden.tree("params")
    nets["actor"] = nets["actor"] | {"log_std": jnp.asarray(golden["forward_bounds/log_std"])}
    values, gradients = examined(golden, nets)
    golden.close("forward_bounds/std", values["forward/actor_std"])
    golden.close("forward_bounds/log_prob", values["forward/actor_log_prob"])
    golden.gradients("losses_bounds/actor/grads/actor", gradients["losses/actor/grads/actor"])


def check_sampled_actions(golden: Golden) -> None:
    """AWAC: clipped samples of the policy and their density; and its deviation outside of its bounds."""
    actor, hyper = free_normal(golden.tree("params")["actor"]), hyper_of(golden)
    observation = jnp.asarray(golden["batch/obs"])
    action = awac.sampled(actor, jnp.asarray(golden["forward/policy_eps"]), hyper, observation)
    golden.close("forward/sampled_action", action)
    normal = awac.policy(actor, hyper, observation, action.shape[-1])
    golden.close("forward/sampled_log_prob", losses.gaussian_log_prob(action, *normal))
    beyond = {"params": actor["params"] | {"log_std": jnp.asarray(golden["forward_bounds/log_std"])}}
    golden.close("forward_bounds/std", jnp.exp(awac.policy(beyond, hyper, observation, action.shape[-1])[1]))


def check_means(golden: Golden) -> None:
    """AWAC: the mean as it was recorded, which is clipped where it acts."""
    state, hyper = fresh_state(recipe_of(golden), golden.tree("params")), hyper_of(golden)
    for at in golden.groups("eval/", depth=2):
        observation = jnp.asarray(golden[f"{at}/obs"])
        golden.close(f"{at}/action", awac.policy(state.actor.params, hyper, observation, spec_of(golden).action_dim)[0])
        acted = awac.act(None, spec_of(golden), state, hyper, observation)
        np.testing.assert_allclose(acted, np.clip(golden[f"{at}/action"], -1.0, 1.0), atol=1e-5)


def check_norm_epsilon(golden: Golden) -> None:
    """ReBRAC: critics whose first layer is so small that the LayerNorm's epsilon counts."""
    nets = golden.tree("params")
    scale = jnp.asarray(golden["forward_ln/layer_0_scale"])
    small = jax.tree.map(lambda x: scale * x, nets["critic"]["layer_0"])
    values, _ = examined(golden, nets | {"critic": nets["critic"] | {"layer_0": small}})
    golden.close("forward_ln/critic_q", values["forward/critic_q"])


def check_training(golden: Golden) -> None:
    """Three whole updates of every scenario, each from the state that the one before left."""
    for scenario in golden.scenarios():
        train(golden, scenario)


def train(golden: Golden, scenario: str) -> None:
    recipe, hyper = recipe_of(golden), hyper_of(golden, scenario)
    state = fresh_state(recipe, golden.tree("params"))
    start = int(golden[f"{scenario}/step1/counter"])
    for k, at in enumerate(golden.steps(scenario)):
        golden.equal(f"{at}/counter", start + k)
        before, batch = state, recipe.batch(golden, f"{at}/batch")
        state, metrics, seen = take_step(recipe, draws_of(golden, at), start + k, before, hyper, batch)

        acts = bool(golden[f"{at}/actor_updated"]) if f"{at}/actor_updated" in golden else True
        assert metrics["actor/loss"].weight == acts, at
        old, new = recipe.nets(before), recipe.nets(state)
        for net in {"actor", "actor_target", "critic_target"} & set(new):
            assert changed(old[net], new[net]) == acts, f"{at}: {net}"
        for name, value in seen.items():
            key = f"{at}/{name}"
            if key not in golden:  # a delayed step logs what it did, and TD3+BC's authors not all of that
                continue
            if name == "lr_actor":
                golden.absolute(key, value, 1e-10)
            else:
                golden.close(key, value)
        golden.trees(f"{at}/params", recipe.nets(state), STEP_BOUND)


def check_learning_rate(golden: Golden) -> None:
    """IQL: the decay of the actor's rate, as the update applies it.

    Adam's first step moves every parameter by about its rate, so that a rate of one shows the factor.
    """
    recipe, hyper = recipe_of(golden), hyper_of(golden).replace(actor_lr=1.0)
    state, draws = fresh_state(recipe, golden.tree("params")), draws_of(golden, "losses")
    batch = recipe.batch(golden, "batch")

    def move(step: int, period: float) -> float:
        after, _, _ = take_step(recipe, draws, step, state, hyper.replace(lr_decay_steps=period), batch)
        return float(
            jnp.max(jnp.abs(after.actor.params["params"]["log_std"] - state.actor.params["params"]["log_std"]))
        )

    factor = [move(int(k), hyper.lr_decay_steps) / move(int(k), 0.0) for k in golden["lr_schedule/k"]]
    np.testing.assert_allclose(golden["lr_schedule/lr_actor"] / golden.hyper["actor_lr"], factor, atol=1e-6)


@functools.partial(jax.jit, static_argnames=("recipe", "spec"))
def decide(recipe: Any, spec: Spec, state: Any, hyper: Any, observation: jax.Array) -> jax.Array:
    """Decisions for rows of observations."""
    return jax.vmap(lambda one: recipe.method.act(None, spec, state, hyper, one))(observation)


def check_evaluation(golden: Golden) -> None:
    """The deterministic action; and that of a sampling policy, which is the same mean and the deviation."""
    recipe, hyper = recipe_of(golden), shared_hyper(golden)
    state, cases = fresh_state(recipe, golden.tree("params")), golden.groups("eval/", depth=2)
    observation = jnp.asarray(np.stack([golden[f"{at}/obs"] for at in cases]))
    for at, action in zip(cases, decide(recipe, spec_of(golden), state, hyper, observation), strict=True):
        if f"{at}/eps" in golden:
            log_std = jnp.clip(golden.tree("params")["actor"]["log_std"], hyper.log_std_min, hyper.log_std_max)
            action = action + golden[f"{at}/temperature"] * jnp.exp(log_std) * golden[f"{at}/eps"]
            action = jnp.clip(action, -hyper.max_action, hyper.max_action)
        golden.close(f"{at}/action", action)


COMMON = (check_initial_shapes, check_losses, check_training, check_evaluation)
RECORDINGS = {
    "td3bc_gym": COMMON,
    "td3bc_scaled": COMMON,
    "td3bc_corl": COMMON,  # CORL's program: the same mathematics
    "rebrac_gym": (*COMMON, check_norm_epsilon),
    "rebrac_antmaze": (*COMMON, check_norm_epsilon),
    "rebrac_options": COMMON,
    "iql_gym": (*COMMON, check_deviation_bounds, check_learning_rate),
    "iql_antmaze": (*COMMON, check_deviation_bounds, check_learning_rate),
    "iql_adroit": (*COMMON, check_deviation_bounds, check_learning_rate),
    "awac_gym": (*COMMON[:-1], check_means, check_sampled_actions),
    "awac_antmaze": (*COMMON[:-1], check_means, check_sampled_actions),
}
UNREAD = ("bc_mse_random",)  # ReBRAC's log of uniform actions, from which nothing is learnt


@pytest.mark.parametrize(
    ("name", "check"),
    [pytest.param(name, c, id=f"{name}-{c.__name__}") for name, checks in RECORDINGS.items() for c in checks],
)
def test_recorded_numbers(name: str, check: Callable[[Golden], None]) -> None:
    check(load(name))


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_recorded_number_is_checked(name: str) -> None:
    account(name, RECORDINGS[name], UNREAD)


def test_steps_on_which_policies_move() -> None:
    """TD3+BC's authors count from 1; ReBRAC's count from 0, anew every 1000 steps."""
    spec = Spec(2, 1)

    def moves(method: Any, steps: list[int]) -> list[int]:
        hyper = method.hyper(policy_interval=3, hidden_dims=(2,), batch_size=2)
        state, draws = (make(jax.random.key(0), spec, hyper) for make in (method.init, method.phases[0].draw))
        batches = example_batches(method.view, spec, hyper.batch_size)
        weight = lambda step: method.phases[0].update(draws, step, state, hyper, batches)[1]["actor/loss"].weight  # noqa: E731
        return [step for step, moved in zip(steps, jax.jit(jax.vmap(weight))(jnp.array(steps)), strict=True) if moved]

    steps = [0, 1, 2, 3, 4, 5, 998, 999, 1000, 1001, 1002, 1003]
    assert moves(td3_bc.METHOD, steps) == [2, 5, 998, 1001]
    assert moves(rebrac.METHOD, steps) == [0, 3, 999, 1000, 1003]


def test_data_as_the_programs_see_them(tmp_path: pathlib.Path) -> None:
    """Transitions, next actions, rewards, clipped actions and observations of the authors' preprocessing."""
    golden = Golden("comparators_preprocessing")
    with h5py.File(tmp_path / "raw.hdf5", "w") as file:
        for key in golden.keys("raw/"):
            file[key.removeprefix("raw/")] = golden[key]
    data = load_hdf5(str(tmp_path / "raw.hdf5")).transitions

    def seen(name: str, task: str) -> tuple[RunData, Batch]:
        """How a method sees the data of a task, and all transitions."""
        protocol, view = resolve(name, task).protocol, METHODS[name]["default"].view
        affine = reward_affine(protocol.reward, data)
        usable, part = prepare(data, view, protocol.observation, affine, protocol.action_clip)
        on_device = jax.tree.map(jnp.asarray, usable)
        return part, gather_batch(on_device, part, jnp.arange(part.size), view)

    _, batch = seen("rebrac", "hopper-medium-v2")
    for key, value in {
        "observations": batch.observation,
        "actions": batch.action,
        "next_observations": batch.next_observation,
        "next_actions": batch.next_action,
        "rewards": batch.reward,
        "terminals": batch.not_done == 0,
    }.items():
        golden.equal(f"transitions/{key}", value)
    _, batch = seen("rebrac", "antmaze-umaze-v2")
    golden.close("rebrac/rewards_antmaze", batch.reward)

    _, batch = seen("iql", "hopper-medium-v2")
    golden.equal("iql/actions_clipped", batch.action)
    golden.equal("iql/masks", batch.not_done)
    golden.equal("iql/dones_float", dac_trajectory_ends(data))
    golden.close("iql/rewards_locomotion", batch.reward)
    _, batch = seen("iql", "antmaze-umaze-v0")
    golden.close("iql/rewards_antmaze", batch.reward)

    part, batch = seen("td3_bc", "hopper-medium-v2")
    assert golden.hyper["normalize_eps"] == STANDARD_EPSILON
    for program in ("td3bc", "corl", "rebrac"):  # ReBRAC's has the function, and no table that uses it
        golden.close(f"{program}/mean", part.observation.center)
        golden.close(f"{program}/std_plus_eps", part.observation.scale)
    for program in ("td3bc", "corl"):
        golden.close(f"{program}/obs", batch.observation)
    golden.close("td3bc/next_obs", batch.next_observation)
    golden.equal("td3bc/not_done", batch.not_done)
    golden.equal("corl/rewards_other", batch.reward)
    _, batch = seen("td3_bc", "antmaze-umaze-v2")
    golden.close("corl/rewards_antmaze", batch.reward)
    # CORL cuts trajectories after 1000 transitions, wherever those begin; no method here has its scales.
    unread = ("corl_cql", "rewards_locomotion", "rewards_locomotion_short")
    assert golden.unused(unread) == []
