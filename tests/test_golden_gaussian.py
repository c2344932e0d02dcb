"""IQL, TD3+BC, ReBRAC, AWAC and CQL against numbers recorded from their authors' and CORL's programs.

A recipe per method says how a recording's hyper-parameters, networks and draws are called here, and what is recorded of
its losses and updates. Networks are compared in the recording's layout, tensor by tensor.
"""

import pathlib
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_recipes import (
    Recipe,
    both,
    check_initial_shapes,
    check_losses,
    check_training,
    decide,
    draws_of,
    examined,
    free_normal,
    fresh_state,
    hyper_of,
    moved,
    prove,
    shared_hyper,
    spec_of,
    take_step,
    twins_from,
    twins_to,
)
from golden_tools import Golden, in_trunk, layers, parametrized, plain

from diffjax import losses
from diffjax.data.hdf5 import load_hdf5
from diffjax.data.observations import STANDARD_EPSILON
from diffjax.data.rewards import corl_locomotion, dac_trajectory_ends, reward_affine
from diffjax.data.transitions import Transitions
from diffjax.experiment.settings import resolve
from diffjax.methods import awac, cql, iql, rebrac, td3_bc
from diffjax.methods.base import View, example_batches
from diffjax.methods.registry import METHODS
from diffjax.nn.learners import cosine_decay, learner
from diffjax.training.batches import RunData, gather_batch, prepare
from diffjax.types import Batch, Spec

Tree = Any

HEADS = ("q1", "q2")
WEIGHTS = (("exp_adv", 1e-4), ("weights", 1e-4))  # exponentials of the advantage


def line_normal(recorded: Tree) -> Tree:
    """Our parameters of a policy whose deviation lies on a learnt line."""
    line = {name: recorded[name] for name in ("log_std_multiplier", "log_std_offset")}
    trunk = {name: layer for name, layer in recorded.items() if name not in line}
    return {"params": in_trunk(trunk)["params"] | line}


def heads_to(critic: tuple[Tree, ...]) -> Tree:
    """The recorded layout of critics that may differ in depth."""
    return {head: layers(params) for head, params in zip(HEADS, critic, strict=True)}


class TD3BC(Recipe):
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

    def check_step(self, golden: Golden, at: str, before: Tree, after: Tree, metrics: Any) -> None:
        """The policy moves on its own steps, and the targets with it."""
        acts = bool(golden[f"{at}/actor_updated"])
        assert metrics["actor/loss"].weight == acts, at
        of_actor = {name: one for name, one in moved(before, after).items() if name != "critic"}
        assert set(of_actor.values()) == {acts}, at

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

    def batches(self, golden: Golden, at: str) -> tuple[Batch, ...]:
        return (golden.batch(at)._replace(next_action=jnp.asarray(golden[f"{at}/next_actions"])),)

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


class IQL(Recipe):
    """Where the recordings of IQL meet our functions."""

    method = iql.METHOD
    bounds = (*WEIGHTS, ("lr_actor", 1e-10))

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

    def scenario_hyper(self, golden: Golden, scenario: str) -> dict[str, Any]:
        if scenario != "train_decay":
            return super().scenario_hyper(golden, scenario)
        return {"tau": golden.hyper["tau_test"], "lr_decay_steps": float(golden.hyper["decay_steps_test"])}

    def state_from(self, nets: Tree) -> iql.State:
        return iql.State(
            learner(plain(nets["value"])),
            learner(free_normal(nets["actor"]) if "log_std" in nets["actor"] else plain(nets["actor"])),
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

    def forward(self, state: iql.State, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss, under the recorded names."""
        pair, value = (batch.observation, batch.action), state.value.params
        mean, log_std = iql.policy(state.actor.params, hyper, batch.observation, batch.action.shape[-1])
        normal = (
            {}
            if log_std is None
            else {
                "forward/actor_mean": mean,
                "forward/actor_std": jnp.exp(log_std),
                "forward/actor_log_prob": losses.gaussian_log_prob(batch.action, mean, log_std),
            }
        )
        return (normal or {"forward/actor": mean}) | {
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


class CorlIQL(IQL):
    """CORL's program: fewer metrics, and losses at the value from before its step."""

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        named = {
            "expectile": recorded["iql_tau"],
            "temperature": recorded["beta"],
            "value_lr": recorded["vf_lr"],
            "critic_lr": recorded["qf_lr"],
            "dropout_rate": recorded["actor_dropout"],
        }
        program = resolve("iql", "hopper-random-v2", variant="corl").hyper
        options = {name: getattr(program, name) for name in ("simultaneous", "critic_weight", "initializer")}
        return super().hyper(recorded | named) | options | {"deterministic": recorded["iql_deterministic"]}

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        values, gradients = super().losses(draws, state, hyper, batch)
        logged = ("losses/value/v_mean", "losses/value/diff", "losses/critic/q1_mean", "losses/critic/q2_mean")
        return {name: value for name, value in values.items() if name not in logged}, gradients

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        seen = super().step(draws, step, before, before, hyper, batch, metrics)
        return seen | {"metrics/q_loss": metrics["critic/loss"].total}


class CQL(Recipe):
    """Where the recordings of CQL meet our functions."""

    method = cql.METHOD
    gradient_floor = 0.1  # the conservative term all but cancels in the sum that is the last bias's gradient

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        constants = (recorded["log_std_offset_init"], recorded["log_alpha_prime_init"], recorded["target_entropy"])
        assert constants == (cql.LOG_STD_OFFSET, cql.LOG_MULTIPLIER, -recorded["act_dim"])
        assert recorded["log_alpha_init"] == 0.0
        assert recorded["q2_hidden_layers"] == recorded["actor_hidden_layers"]
        return {
            "cql_alpha": recorded["cql_alpha"],
            "cql_temperature": recorded["cql_temp"],
            "clip_gap_min": float(recorded["cql_clip_diff_min"]),
            "clip_gap_max": float(recorded["cql_clip_diff_max"]),
            "action_gap": recorded["cql_target_action_gap"],
            "alpha_multiplier": recorded["alpha_multiplier"],
            "discount": recorded["discount"],
            "tau": recorded["soft_target_update_rate"],
            "actor_lr": recorded["policy_lr"],
            "critic_lr": recorded["qf_lr"],
            "max_action": recorded["max_action"],
            "num_samples": recorded["cql_n_actions"],
            "importance_sampling": recorded["cql_importance_sample"],
            "lagrange": recorded["cql_lagrange"],
            "max_target_backup": recorded["cql_max_target_backup"],
            "backup_entropy": recorded["backup_entropy"],
            "tune_temperature": recorded["use_automatic_entropy_tuning"],
            "bc_steps": recorded["bc_steps"],
            "target_interval": recorded["target_update_period"],
            "hidden_dims": (recorded["hidden"],) * recorded["actor_hidden_layers"],
            "critic_layers": recorded["q_n_hidden_layers"],
            "log_std_multiplier": recorded["policy_log_std_multiplier"],
            "log_std_min": recorded["log_std_min"],
            "log_std_max": recorded["log_std_max"],
        }

    def state_from(self, nets: Tree) -> cql.State:
        critic, target = (tuple(plain(nets[name][head]) for head in HEADS) for name in ("critic", "critic_target"))
        log_alpha = learner(nets["log_alpha"]) if "log_alpha" in nets else None
        return cql.State(
            learner(line_normal(nets["actor"])), learner(critic), target, log_alpha, learner(nets["log_alpha_prime"])
        )

    def nets(self, state: cql.State) -> Tree:
        """All networks and scalars in the recorded layout."""
        tuned = {} if state.log_alpha is None else {"log_alpha": state.log_alpha.params}
        return tuned | {
            "actor": layers(state.actor.params),
            "critic": heads_to(state.critic.params),
            "critic_target": heads_to(state.target_critic),
            "log_alpha_prime": state.log_multiplier.params,
        }

    def draws(self, golden: Golden, at: str) -> cql.Draws:
        drawn = {name: jnp.asarray(golden[f"{at}/draws/{name}"]) for name in ("random_actions", "policy_eps")}
        drawn |= {name: jnp.asarray(golden[f"{at}/draws/{name}_eps"]) for name in ("target", "current", "next")}
        other = f"{at}/draws/bc_eps"  # drawn in the first steps alone
        return cql.Draws(
            action=drawn["policy_eps"],
            other=jnp.asarray(golden[other]) if other in golden else jnp.zeros_like(drawn["policy_eps"]),
            next_action=drawn["target"] if drawn["target"].ndim == 3 else drawn["target"][:, None],
            uniform=drawn["random_actions"],
            following=drawn["next"],
            current=drawn["current"],
        )._replace(**({} if golden.hyper["bc_steps"] else {"other": None}))

    def forward(self, state: cql.State, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss, under the recorded names."""
        pair = (batch.observation, batch.action)
        mean, log_std = cql.policy(state.actor.params, hyper, batch.observation, batch.action.shape[-1])
        still = cql.sampled(state.actor.params, jnp.zeros_like(mean), hyper, batch.observation)
        return {
            "forward/mean": mean,
            "forward/log_std": log_std,
            "forward/deterministic_action": still[0],
            "forward/deterministic_log_prob": still[1],
            **both(cql.q_values(state.critic.params, hyper, *pair), "forward/critic"),
            **both(cql.q_values(state.target_critic, hyper, *pair), "forward/critic_target"),
        }

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, under the recorded names."""
        actor, critic, alpha = state.actor.params, state.critic.params, cql.temperature(state, hyper)
        given = (actor, critic, alpha, draws, jnp.int32(hyper.bc_steps), hyper, batch)
        actor_grads, of_actor = jax.grad(cql.actor_loss, has_aux=True)(*given)
        next_value = cql.next_value(state.target_critic, actor, alpha, draws, hyper, batch)
        target = losses.td_target(batch.reward, hyper.discount, batch.not_done, next_value)
        rivals, log_multiplier = cql.rivals(actor, draws, hyper, batch), state.log_multiplier.params
        given_target = (critic, target, rivals, log_multiplier, hyper, batch)
        critic_grads, of_critic = jax.grad(cql.critic_loss, has_aux=True)(*given_target)
        q_data = cql.q_values(critic, hyper, batch.observation, batch.action)
        logged, logits = self.logged(state, of_actor["actor/log_prob"], target, rivals, hyper, batch)
        gradients = {
            "losses/critic/grads/critic": heads_to(critic_grads),
            "losses/actor/grads/actor": layers(actor_grads),
        }
        values = {f"losses/metrics/{name}": value for name, value in logged.items()}
        values |= {
            "losses/metrics/average_target_q": jnp.mean(next_value),
            "losses/metrics/policy_loss": of_actor["actor/loss"],
            "losses/critic/target_q": target,
            **dict(zip(("losses/critic/q1", "losses/critic/q2"), q_data, strict=True)),
            **both(logits, "losses/critic/logsumexp_input"),
            **both(hyper.cql_temperature * jax.nn.logsumexp(logits, axis=-1), "losses/critic/logsumexp"),
            "losses/critic/loss": of_critic["critic/loss"],
        }
        if state.log_alpha is not None:
            entropy = (state.log_alpha.params, of_actor["actor/log_prob"], batch.action.shape[-1])
            slope = jax.grad(cql.temperature_loss, has_aux=True)(*entropy)[0]
            values |= {"losses/log_alpha/grad": slope}
        if hyper.lagrange:
            slope = jax.grad(cql.multiplier_loss, has_aux=True)(log_multiplier, of_critic["critic/gap"], hyper)[0]
            values |= {"losses/log_alpha_prime/grad": slope}
        return values, gradients

    def logged(
        self, state: Any, log_prob: jax.Array, target: jax.Array, rivals: cql.Rivals, hyper: Any, batch: Batch
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """What the program logs of an update from ``state``, and what its logsumexp is over, in the program's order."""
        critic, log_multiplier = state.critic.params, state.log_multiplier.params
        q_data = cql.q_values(critic, hyper, batch.observation, batch.action)
        q_rivals = cql.q_values(critic, hyper, batch.observation[:, None], rivals.action)
        gap = cql.conservative_gap(q_data, q_rivals, rivals.log_density, hyper)
        term = cql.conservative_term(gap, log_multiplier, hyper)
        kinds = dict(zip(("rand", "next", "current"), jnp.split(q_rivals, 3, axis=-1), strict=True))
        spread = jnp.std(jnp.concatenate([q_data[..., None], q_rivals], axis=-1), axis=-1, ddof=1)
        entropy, action_dim = jnp.zeros(()), batch.action.shape[-1]
        if state.log_alpha is not None:
            entropy, _ = cql.temperature_loss(state.log_alpha.params, log_prob, action_dim)
        multiplier_loss, multiplier = jnp.zeros(()), jnp.zeros(())
        if hyper.lagrange:
            multiplier_loss, _ = cql.multiplier_loss(log_multiplier, jnp.mean(gap), hyper)
            multiplier = cql.multiplier(log_multiplier)
        of_heads = {
            "qf{}_loss": losses.squared_error(q_data, target),
            "average_qf{}": jnp.mean(q_data, axis=-1),
            "cql_std_q{}": jnp.mean(spread, axis=-1),
            "cql_q{}_rand": jnp.mean(kinds["rand"], axis=(1, 2)),
            "cql_q{}_current_actions": jnp.mean(kinds["current"], axis=(1, 2)),
            "cql_q{}_next_actions": jnp.mean(kinds["next"], axis=(1, 2)),
            "cql_min_qf{}_loss": term,
            "cql_qf{}_diff": gap,
        }
        values = {name.format(i + 1): heads[i] for name, heads in of_heads.items() for i in range(2)}
        values |= {"log_pi": log_prob, "alpha_loss": entropy, "alpha": cql.temperature(state, hyper)}
        values |= {"alpha_prime_loss": multiplier_loss, "alpha_prime": multiplier}
        density = rivals.log_density if hyper.importance_sampling else None
        logits = losses.soft_maximum_logits(q_data, q_rivals, density, hyper.cql_temperature)
        if density is None:  # the program has the data's action behind the uniform ones
            uniform = jnp.arange(hyper.num_samples + 1)
            logits = logits.at[..., uniform].set(logits[..., jnp.roll(uniform, -1)])
        return values, logits

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        actor, alpha = before.actor.params, cql.temperature(before, hyper)
        next_value = cql.next_value(before.target_critic, actor, alpha, draws, hyper, batch)
        target = losses.td_target(batch.reward, hyper.discount, batch.not_done, next_value)
        rivals, log_prob = cql.rivals(actor, draws, hyper, batch), metrics["actor/log_prob"].total
        logged, _ = self.logged(before, log_prob, target, rivals, hyper, batch)
        values = {f"metrics/{name}": value for name, value in logged.items()}
        values |= {"critic_target_q": target, "metrics/average_target_q": jnp.mean(next_value)}
        return values | {"metrics/policy_loss": metrics["actor/loss"].total}

    def check_step(self, golden: Golden, at: str, before: Tree, after: Tree, metrics: Any) -> None:
        """Targets move on their own steps; the first steps are those of the other policy loss."""
        step, recorded = int(golden[f"{at}/counter"]), golden.hyper
        golden.equal(f"{at}/bc_phase", step < recorded["bc_steps"])
        assert moved(before, after)["critic_target"] == bool(golden[f"{at}/target_updated"]), at
        logged = {"qf_loss": metrics["critic/td"].total, "diff": 2 * metrics["critic/gap"].total}
        summed = {
            "qf_loss": sum(golden[f"{at}/metrics/qf{i}_loss"] for i in (1, 2)),
            "diff": sum(golden[f"{at}/metrics/cql_qf{i}_diff"] for i in (1, 2)),
        }
        for name, value in logged.items():
            np.testing.assert_allclose(value, summed[name], rtol=2e-5, err_msg=f"{at}: {name}")


class AWAC(Recipe):
    """Where the recordings of AWAC meet our functions."""

    method = awac.METHOD
    bounds = WEIGHTS

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


def check_deviation_bounds(recipe: Recipe, golden: Golden) -> None:
    """IQL: the policy, and the gradient of its loss, where the deviation lies outside its bounds."""
    nets = golden.tree("params")
    nets["actor"] = nets["actor"] | {"log_std": jnp.asarray(golden["forward_bounds/log_std"])}
    values, gradients = examined(recipe, golden, nets)
    golden.close("forward_bounds/std", values["forward/actor_std"])
    golden.close("forward_bounds/log_prob", values["forward/actor_log_prob"])
    golden.gradients("losses_bounds/actor/grads/actor", gradients["losses/actor/grads/actor"])


def check_sampled_actions(recipe: Recipe, golden: Golden) -> None:
    """AWAC: clipped samples of the policy and their density; and its deviation outside of its bounds."""
    actor, hyper = free_normal(golden.tree("params")["actor"]), hyper_of(recipe, golden)
    observation = jnp.asarray(golden["batch/obs"])
    action = awac.sampled(actor, jnp.asarray(golden["forward/policy_eps"]), hyper, observation)
    golden.close("forward/sampled_action", action)
    normal = awac.policy(actor, hyper, observation, action.shape[-1])
    golden.close("forward/sampled_log_prob", losses.gaussian_log_prob(action, *normal))
    beyond = {"params": actor["params"] | {"log_std": jnp.asarray(golden["forward_bounds/log_std"])}}
    golden.close("forward_bounds/std", jnp.exp(awac.policy(beyond, hyper, observation, action.shape[-1])[1]))


def check_squashed_samples(recipe: Recipe, golden: Golden) -> None:
    """CQL: samples and their density, also where the deviation is bounded; values of several actions per state."""
    nets, hyper = golden.tree("params"), hyper_of(recipe, golden)
    observation = jnp.asarray(golden["batch/obs"])
    beyond = nets["actor"] | {"log_std_offset": jnp.asarray(golden["forward_bounds/log_std_offset"])}
    for at, actor in (("forward", nets["actor"]), ("forward_bounds", beyond)):
        noise = jnp.asarray(golden[f"{at}/policy_eps"])
        action, log_prob = cql.sampled(line_normal(actor), noise, hyper, observation)
        golden.close(f"{at}/action", action)
        golden.close(f"{at}/log_prob", log_prob)
    critic, actions = fresh_state(recipe, nets).critic.params, jnp.asarray(golden["forward_repeat/actions"])
    for key, value in both(cql.q_values(critic, hyper, observation[:, None], actions), "forward_repeat/critic").items():
        golden.close(key, value)


def check_means(recipe: Recipe, golden: Golden) -> None:
    """AWAC: the mean as it was recorded, which is clipped where it acts."""
    state, hyper = fresh_state(recipe, golden.tree("params")), hyper_of(recipe, golden)
    for at in golden.groups("eval/", depth=2):
        observation = jnp.asarray(golden[f"{at}/obs"])
        golden.close(f"{at}/action", awac.policy(state.actor.params, hyper, observation, spec_of(golden).action_dim)[0])
        acted = awac.act(None, spec_of(golden), state, hyper, observation)
        np.testing.assert_allclose(acted, np.clip(golden[f"{at}/action"], -1.0, 1.0), atol=1e-5)


def check_norm_epsilon(recipe: Recipe, golden: Golden) -> None:
    """ReBRAC: critics whose first layer is so small that the LayerNorm's epsilon counts."""
    nets = golden.tree("params")
    scale = jnp.asarray(golden["forward_ln/layer_0_scale"])
    small = jax.tree.map(lambda x: scale * x, nets["critic"]["layer_0"])
    values, _ = examined(recipe, golden, nets | {"critic": nets["critic"] | {"layer_0": small}})
    golden.close("forward_ln/critic_q", values["forward/critic_q"])


def check_learning_rate(recipe: Recipe, golden: Golden) -> None:
    """IQL: the decay of the actor's rate, as the update applies it.

    Adam's first step moves every parameter by about its rate, so that a rate of one shows the factor.
    """
    hyper = hyper_of(recipe, golden).replace(actor_lr=1.0)
    state, draws = fresh_state(recipe, golden.tree("params")), draws_of(recipe, golden, "losses")
    batches = recipe.batches(golden, "batch")

    def move(step: int, period: float) -> float:
        after, _, _ = take_step(recipe, draws, step, state, hyper.replace(lr_decay_steps=period), batches)
        return float(
            jnp.max(jnp.abs(after.actor.params["params"]["log_std"] - state.actor.params["params"]["log_std"]))
        )

    factor = [move(int(k), hyper.lr_decay_steps) / move(int(k), 0.0) for k in golden["lr_schedule/k"]]
    np.testing.assert_allclose(golden["lr_schedule/lr_actor"] / golden.hyper["actor_lr"], factor, atol=1e-6)


def check_evaluation(recipe: Recipe, golden: Golden) -> None:
    """The deterministic action; and that of a sampling policy, which is the same mean and the deviation."""
    hyper = shared_hyper(recipe, golden)
    state, cases = fresh_state(recipe, golden.tree("params")), golden.groups("eval/", depth=2)
    observation = jnp.asarray(np.stack([golden[f"{at}/obs"] for at in cases]))
    for at, action in zip(cases, decide(recipe, spec_of(golden), state, hyper, observation), strict=True):
        if f"{at}/eps" in golden:
            log_std = jnp.clip(golden.tree("params")["actor"]["log_std"], hyper.log_std_min, hyper.log_std_max)
            action = action + golden[f"{at}/temperature"] * jnp.exp(log_std) * golden[f"{at}/eps"]
            action = jnp.clip(action, -hyper.max_action, hyper.max_action)
        golden.close(f"{at}/action", action)


COMMON = (check_initial_shapes, check_losses, check_training)
OF_IQL = (*COMMON, check_evaluation, check_deviation_bounds, check_learning_rate)
OF_REBRAC = (*COMMON, check_evaluation, check_norm_epsilon)
OF_CQL = (*COMMON, check_evaluation, check_squashed_samples)
TD3_BC, REBRAC, IMPLICIT_Q, ADVANTAGE_WEIGHTED = TD3BC(), ReBRAC(), IQL(), AWAC()
CORL_IQL, CONSERVATIVE_Q = CorlIQL(), CQL()
RECORDINGS = {
    "td3bc_gym": (TD3_BC, (*COMMON, check_evaluation)),
    "td3bc_scaled": (TD3_BC, (*COMMON, check_evaluation)),
    "td3bc_corl": (TD3_BC, (*COMMON, check_evaluation)),  # CORL's program: the same mathematics
    "rebrac_gym": (REBRAC, OF_REBRAC),
    "rebrac_antmaze": (REBRAC, OF_REBRAC),
    "rebrac_options": (REBRAC, (*COMMON, check_evaluation)),
    "iql_gym": (IMPLICIT_Q, OF_IQL),
    "iql_antmaze": (IMPLICIT_Q, OF_IQL),
    "iql_adroit": (IMPLICIT_Q, OF_IQL),
    "iqlcorl_gym": (CORL_IQL, (*COMMON, check_evaluation)),
    "iqlcorl_antmaze": (CORL_IQL, (*COMMON, check_evaluation)),
    "iqlcorl_adroit": (CORL_IQL, (*COMMON, check_evaluation)),
    "iqlcorl_deterministic": (CORL_IQL, (*COMMON, check_evaluation)),
    "cql_gym": (CONSERVATIVE_Q, OF_CQL),
    "cql_antmaze": (CONSERVATIVE_Q, OF_CQL),
    "cql_entropy": (CONSERVATIVE_Q, OF_CQL),
    "cql_options": (CONSERVATIVE_Q, OF_CQL),
    "awac_gym": (ADVANTAGE_WEIGHTED, (*COMMON, check_means, check_sampled_actions)),
    "awac_antmaze": (ADVANTAGE_WEIGHTED, (*COMMON, check_means, check_sampled_actions)),
}
UNREAD = ("bc_mse_random",)  # ReBRAC's log of uniform actions, from which nothing is learnt


OFTEN = ("td3bc_gym", "rebrac_gym", "iql_gym", "iqlcorl_gym", "cql_gym", "awac_gym")


@parametrized(RECORDINGS, slow=RECORDINGS.keys() - OFTEN)
def test_recorded_numbers(name: str) -> None:
    prove(name, *RECORDINGS[name], exempt=UNREAD)


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


def seen_rewards(data: Transitions, affine: tuple[float, float]) -> jax.Array:
    """The rewards of all transitions as minibatches hold them."""
    usable, part = prepare(data, View(), "raw", affine)
    return gather_batch(jax.tree.map(jnp.asarray, usable), part, jnp.arange(part.size), View()).reward


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

    # CORL cuts trajectories after so many transitions, wherever those begin; its CQL scales and shifts the outcome.
    limits = {"rewards_locomotion": 1000, "rewards_locomotion_short": golden.hyper["short_max_episode_steps"]}
    affines = {name: corl_locomotion(data, limit) for name, limit in limits.items()}
    assert affines["rewards_locomotion"] == reward_affine(resolve("cql", "hopper-medium-v2").protocol.reward, data)
    of_cql = (golden.hyper["reward_scale"], golden.hyper["reward_bias"])
    if of_cql == (10.0, -5.0):
        assert reward_affine(resolve("cql", "antmaze-umaze-v2").protocol.reward, data) == of_cql
    for name, (scale, shift) in (affines | dict.fromkeys(("rewards_antmaze", "rewards_other"), (1.0, 0.0))).items():
        if name in affines:
            golden.close(f"corl/{name}", seen_rewards(data, (scale, shift)))
        golden.close(f"corl_cql/{name}", seen_rewards(data, (of_cql[0] * scale, of_cql[0] * shift + of_cql[1])))
    assert golden.unused() == []
