"""FQL and IFQL against numbers recorded from their authors' programs.

There one optimiser moves all networks by the gradient of a sum of losses; the logs' gradient is that of all of them.
"""

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
    prove,
    shared_hyper,
    spec_of,
)
from golden_tools import Golden, layers, parametrized, plain

from diffjax import losses
from diffjax.diffusion.flow import FlowDraws, euler_path
from diffjax.methods import flow_policy as fp
from diffjax.methods import fql, ifql
from diffjax.nn.learners import learner
from diffjax.types import Batch

Tree = Any
CHAIN_BOUND = 4e-5


def gradient_logs(*gradients: Tree) -> dict[str, jax.Array]:
    """What the programs log of all gradients: the largest and smallest number, and the sum of the arrays' norms."""
    leaves = jax.tree.leaves(gradients)
    return {
        "metrics/grad_max": functools.reduce(jnp.maximum, (jnp.max(x) for x in leaves)),
        "metrics/grad_min": functools.reduce(jnp.minimum, (jnp.min(x) for x in leaves)),
        "metrics/grad_norm": jnp.sum(jnp.stack([jnp.linalg.norm(x.ravel()) for x in leaves])),
    }


def flow_draws(golden: Golden, at: str) -> FlowDraws:
    return FlowDraws(jnp.asarray(golden[f"{at}/draws/x_0"]), jnp.asarray(golden[f"{at}/draws/t"])[:, 0])


class OfFlows(Recipe):
    """What the recordings of both methods share."""

    step_bound = 3e-5
    gradient_bound = 3e-5
    steps_field = "flow_steps"

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        assert recorded["actor_hidden_dims"] == recorded["value_hidden_dims"]
        return {
            "discount": recorded["discount"],
            "actor_lr": recorded["lr"],
            "critic_lr": recorded["lr"],
            "hidden_dims": tuple(recorded["actor_hidden_dims"]),
            "actor_norm": recorded["actor_layer_norm"],
            "critic_norm": recorded["layer_norm"],
            self.steps_field: recorded["flow_steps"],
        }

    def forward(self, state: Any, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """The critics under the recorded names."""
        pair = (batch.observation, batch.action)
        return {
            "forward/critic_q": fp.q_values(state.critic.params, hyper, *pair),
            "forward/critic_target_q": fp.q_values(state.target_critic, hyper, *pair),
        }


class FQL(OfFlows):
    """Where the recordings of FQL meet our functions."""

    method = fql.METHOD
    bounds = (("target_q", 2e-5), ("grad_norm", 2e-5))

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        own = {"alpha": recorded["alpha"], "aggregation": recorded["q_agg"]}
        return super().hyper(recorded) | own | {"normalize_q": recorded["normalize_q_loss"]}

    def state_from(self, nets: Tree) -> fql.State:
        names = ("actor_onestep_flow", "actor_bc_flow", "critic")
        return fql.State(*(learner(plain(nets[name])) for name in names), plain(nets["critic_target"]))

    def nets(self, state: fql.State) -> Tree:
        """All networks in the recorded layout."""
        return {
            "actor_onestep_flow": layers(state.actor.params),
            "actor_bc_flow": layers(state.flow.params),
            "critic": layers(state.critic.params),
            "critic_target": layers(state.target_critic),
        }

    def draws(self, golden: Golden, at: str) -> fql.Draws:
        """Of a whole update; those of the losses alone are recorded in two places."""
        critic, actor = (at, at) if at.startswith("train") else ("losses/critic_mean", "losses/actor")
        return fql.Draws(
            jnp.asarray(golden[f"{critic}/draws/next_action_noise"]),
            flow_draws(golden, actor),
            jnp.asarray(golden[f"{actor}/draws/distill_noise"]),
            jnp.asarray(golden[f"{actor}/draws/mse_noise"]),
        )

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, whatever the recording's own options."""
        values, gradients = {}, {}
        actor, flow, critic = state.actor.params, state.flow.params, state.critic.params
        for name in fql.AGGREGATIONS:
            at, own = f"losses/critic_{name}", hyper.replace(aggregation=name)
            target = fql.critic_target(state.target_critic, actor, draws, own, batch)
            gradient, found = jax.grad(fql.critic_loss, has_aux=True)(critic, target, own, batch)
            next_action = fql.policy(actor, draws.next_action, own, batch.next_observation)
            values |= {f"{at}/{each}": found[f"critic/{each}"] for each in ("loss", "q_mean", "q_max", "q_min")}
            values |= {f"{at}/next_actions": next_action, f"{at}/target_q": target}
            values[f"{at}/next_q"] = fp.q_values(state.target_critic, own, batch.next_observation, next_action)
            gradients[f"{at}/grads/critic"] = layers(gradient)
        flow_gradient, of_flow = jax.grad(fp.flow_loss, has_aux=True)(flow, draws.flow, hyper, batch)
        target = fp.flow_actions(flow, draws.action, hyper, batch.observation, hyper.flow_steps)
        for name, normalized in (("actor", False), ("actor_normalized", True)):
            at, own = f"losses/{name}", hyper.replace(normalize_q=normalized)
            gradient, found = jax.grad(fql.actor_loss, has_aux=True)(actor, flow, critic, draws, own, batch)
            values |= {
                f"{at}/loss": of_flow["actor/bc"] + found["actor/loss"],
                f"{at}/bc_flow_loss": of_flow["actor/bc"],
                f"{at}/distill_loss": found["actor/distill"],
                f"{at}/mse": found["actor/mse"],
                f"{at}/q": found["actor/q"],
                f"{at}/q_loss": found["actor/q_loss"],
                f"{at}/distill_target": target,
            }
            gradients[f"{at}/grads/actor_bc_flow"] = layers(flow_gradient)
            gradients[f"{at}/grads/actor_onestep_flow"] = layers(gradient)
        return values, gradients

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        actor, flow, critic = before.actor.params, before.flow.params, before.critic.params
        target = fql.critic_target(before.target_critic, actor, draws, hyper, batch)
        gradients = (
            jax.grad(fql.critic_loss, has_aux=True)(critic, target, hyper, batch)[0],
            jax.grad(fp.flow_loss, has_aux=True)(flow, draws.flow, hyper, batch)[0],
            jax.grad(fql.actor_loss, has_aux=True)(actor, flow, critic, draws, hyper, batch)[0],
        )
        named = {"distill_loss": "distill", "mse": "mse", "q": "q", "q_loss": "q_loss", "bc_flow_loss": "bc"}
        return {
            "metrics/actor_actor_loss": metrics["actor/bc"].total + metrics["actor/loss"].total,
            **{f"metrics/actor_{name}": metrics[f"actor/{own}"].total for name, own in named.items()},
            "metrics/critic_critic_loss": metrics["critic/loss"].total,
            **{f"metrics/critic_{name}": metrics[f"critic/{name}"].total for name in ("q_mean", "q_max", "q_min")},
            **gradient_logs(gradients),
        }


class IFQL(OfFlows):
    """Where the recordings of IFQL meet our functions."""

    steps_field = "sampler_steps"

    method = ifql.METHOD

    def hyper(self, recorded: dict[str, Any]) -> dict[str, Any]:
        own = {"expectile": recorded["expectile"], "value_lr": recorded["lr"], "candidates": recorded["num_samples"]}
        return super().hyper(recorded) | own

    def state_from(self, nets: Tree) -> ifql.State:
        names = ("value", "critic", "actor_flow")
        return ifql.State(*(learner(plain(nets[name])) for name in names), plain(nets["critic_target"]))

    def nets(self, state: ifql.State) -> Tree:
        """All networks in the recorded layout."""
        return {
            "value": layers(state.value.params),
            "critic": layers(state.critic.params),
            "actor_flow": layers(state.flow.params),
            "critic_target": layers(state.target_critic),
        }

    def draws(self, golden: Golden, at: str) -> FlowDraws:
        return flow_draws(golden, at if at.startswith("train") else f"{at}/actor")

    def forward(self, state: Any, hyper: Any, batch: Batch) -> dict[str, jax.Array]:
        """Networks without a loss, but the flow's, under the recorded names."""
        value = state.value.params
        return super().forward(state, hyper, batch) | {
            "forward/value_v": ifql.v_value(value, hyper, batch.observation),
            "forward/value_v_next": ifql.v_value(value, hyper, batch.next_observation),
        }

    def losses(self, draws: Any, state: Any, hyper: Any, batch: Batch) -> tuple[dict[str, jax.Array], Tree]:
        """Losses and what they are made of, and the gradients, under the recorded names."""
        q = losses.ensemble_min(fp.q_values(state.target_critic, hyper, batch.observation, batch.action))
        target = ifql.critic_target(state.value.params, hyper, batch)
        value_grads, value = jax.grad(ifql.value_loss, has_aux=True)(state.value.params, q, hyper, batch)
        critic_grads, critic = jax.grad(ifql.critic_loss, has_aux=True)(state.critic.params, target, hyper, batch)
        flow_grads, flow = jax.grad(fp.flow_loss, has_aux=True)(state.flow.params, draws, hyper, batch)
        return {
            "losses/value/loss": value["value/loss"],
            **{f"losses/value/{name}": value[f"value/{name}"] for name in ("v_mean", "v_max", "v_min")},
            "losses/value/q_min": q,
            "losses/critic/loss": critic["critic/loss"],
            "losses/critic/target_q": target,
            "losses/actor/loss": flow["actor/bc"],
        }, {
            "losses/value/grads/value": layers(value_grads),
            "losses/critic/grads/critic": layers(critic_grads),
            "losses/actor/grads/actor_flow": layers(flow_grads),
        }

    def step(self, draws: Any, step: Any, before: Any, after: Any, hyper: Any, batch: Batch, metrics: Any) -> Tree:
        """What is recorded of an update besides its networks."""
        named = {"value_loss": "loss", "v_mean": "v_mean", "v_max": "v_max", "v_min": "v_min"}
        values, gradients = self.losses(draws, before, hyper, batch)
        return {
            "metrics/actor_actor_loss": metrics["actor/bc"].total,
            **{f"metrics/value_{name}": metrics[f"value/{own}"].total for name, own in named.items()},
            "metrics/critic_critic_loss": metrics["critic/loss"].total,
            # Of the critics' targets, though they are called the critics' own.
            "metrics/critic_q_mean": metrics["critic/target_mean"].total,
            "metrics/critic_q_max": jnp.max(values["losses/critic/target_q"]),
            "metrics/critic_q_min": jnp.min(values["losses/critic/target_q"]),
            **gradient_logs(gradients),
        }


class Fast:
    """Ten times the rate, and ten times its errors."""

    step_bound = 3e-4


class FastFQL(Fast, FQL):
    """FQL's."""


class FastIFQL(Fast, IFQL):
    """IFQL's."""


@functools.partial(jax.jit, static_argnames="num_steps")
def flowed(flow: Tree, hyper: Any, start: jax.Array, observation: jax.Array, num_steps: int) -> tuple[jax.Array, ...]:
    """All states of the flow, the velocity at each but the last, and the actions."""
    velocity = fp.velocity(flow, hyper, observation, start.shape[-1])
    states = euler_path(velocity, start, num_steps)
    found = jax.vmap(velocity)(states[:-1], jnp.arange(num_steps) / num_steps)
    return states[:-1], found, fp.flow_actions(flow, start, hyper, observation, num_steps)


def check_flows(recipe: Recipe, golden: Golden) -> None:
    """The velocity, and every recorded chain of Euler's method."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden)
    given = (jnp.asarray(golden["forward/x_t"]), jnp.asarray(golden["forward/t"])[:, 0])
    velocity = fp.velocity(state.flow.params, hyper, jnp.asarray(golden["batch/obs"]), spec_of(golden).action_dim)
    golden.close("forward/flow_velocity", jax.jit(velocity)(*given))
    for at in (at for at in golden.groups("sampler/", depth=2) if at.split("/")[1].startswith("flow")):
        steps = golden.hyper["flow_steps_test" if at.endswith("other_steps") else "flow_steps"]
        observation = jnp.asarray(golden[f"{at}/obs" if f"{at}/obs" in golden else "batch/obs"])
        start = jnp.asarray(golden[f"{at}/x_0"])
        states, found, action = flowed(state.flow.params, hyper, start, observation, steps)
        golden.close(f"{at}/t", jnp.arange(steps) / steps)
        golden.close(f"{at}/chain_before_each_step", states, CHAIN_BOUND)
        golden.close(f"{at}/velocity", found, CHAIN_BOUND)
        golden.close(f"{at}/action", action, CHAIN_BOUND)


def check_one_step_policy(recipe: Recipe, golden: Golden) -> None:
    """FQL: the policy of one step before and behind its clip, and its decisions."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden)
    observation, noise = jnp.asarray(golden["batch/obs"]), jnp.asarray(golden["sampler/onestep/noise"])
    unclipped = fql.proposal(state.actor.params, jnp.asarray(golden["forward/x_t"]), hyper, observation)
    golden.close("forward/onestep_action_unclipped", unclipped)
    golden.close("sampler/onestep/action", fql.policy(state.actor.params, noise, hyper, observation))
    act = jax.vmap(lambda noise, one: fql.act(noise, spec_of(golden), state, hyper, one))
    given = (jnp.asarray(golden["evaluation/noise"]), jnp.asarray(golden["evaluation/obs"]))
    golden.close("evaluation/action", jax.jit(act)(*given))


@functools.partial(jax.jit, static_argnames="spec")
def decided(state: ifql.State, spec: Any, hyper: Any, noise: jax.Array, observation: jax.Array) -> dict[str, Any]:
    """IFQL's decisions for rows of observations, and what they are made of."""

    def one(noise: jax.Array, observation: jax.Array) -> dict[str, Any]:
        candidates = fp.flow_actions(state.flow.params, noise, hyper, observation, hyper.sampler_steps)
        worth = lambda critic: losses.ensemble_min(fp.q_values(critic, hyper, observation, candidates))  # noqa: E731
        action = ifql.act(noise, spec, state, hyper, observation)
        return {
            "candidates": candidates,
            "q": worth(state.critic.params),
            "action": action,
            "index": jnp.argmin(jnp.sum(jnp.abs(candidates - action), axis=-1)),
            "index_if_target_critic": jnp.argmax(worth(state.target_critic)),
        }

    return jax.vmap(one)(noise, observation)


def check_choices(recipe: Recipe, golden: Golden) -> None:
    """IFQL: the candidates, what each is worth, and which of them is the action."""
    state, hyper = fresh_state(recipe, golden.tree("params")), shared_hyper(recipe, golden)
    given = (jnp.asarray(golden[f"evaluation/{name}"]) for name in ("x_0", "obs"))
    found = decided(state, spec_of(golden), hyper, *given)
    for name in ("index", "index_if_target_critic"):
        golden.equal(f"evaluation/{name}", found[name])
    for name in ("candidates", "q", "action"):
        golden.close(f"evaluation/{name}", found[name], 1e-5 if name == "q" else CHAIN_BOUND)


BOTH = (check_initial_shapes, check_training)
OF_FQL = (*BOTH, check_losses, check_flows, check_one_step_policy)
RECORDINGS = {
    "fql_antmaze": (FQL(), OF_FQL),
    "fql_adroit": (FQL(), OF_FQL),
    "fql_normalized": (FQL(), OF_FQL),
    "fql_fast": (FastFQL(), BOTH),
    "ifql_antmaze": (IFQL(), (*BOTH, check_losses, check_flows, check_choices)),
    "ifql_fast": (FastIFQL(), BOTH),
}


@parametrized(RECORDINGS, slow=("fql_adroit", "fql_normalized"))
def test_recorded_numbers(name: str) -> None:
    prove(name, *RECORDINGS[name])
