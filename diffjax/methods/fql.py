"""FQL, Flow Q-Learning (Park et al. 2025, arXiv 2502.02538): a flow policy distilled into a policy of one step.

One update step (authors' agents/fql.py, revision 719d044); every loss is taken at the parameters as they were before
it, ``mu(s, z)`` is the one-step policy:

1. critic: ``y = r + discount * not_done * agg_j Q'_j(s', clip(mu(s', z')))``; Adam on ``mean_{j,b} (Q_j - y)^2``.
2. flow: Adam on flow matching at the data's actions.
3. actor: ``L = alpha * mean (mu(s, z) - flow(s, z))^2 - lambda * mean_{j,b} Q_j(s, clip(mu(s, z)))``, ``flow`` the
   clipped end of Euler's method from the same noise; ``lambda = 1``, or ``1 / sg(mean |mean_j Q_j|)``.
4. target critic, towards the critic as it was before step 1.

Acting: ``clip(mu(s, z))`` with one fresh ``z``; the program takes a temperature and ignores it.

Where paper and program differ: the table of the paper, read in a copy, prints a tenth of the published commands' alpha
for door, hammer and relocate; the commands count here. Whether the paper's target critic follows the old critic was not
seen. Nothing is published for locomotion, kitchen and maze2d, on which the program stops.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.flow import FlowDraws, draw_flow
from diffjax.methods import flow_policy as fp
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, copies, learn, learner, polyak
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec

AGGREGATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mean": lambda values: jnp.mean(values, axis=0),
    "min": losses.ensemble_min,
}


@flax.struct.dataclass
class Hyper(fp.Hyper):
    """FQL's own hyper-parameters."""

    alpha: float = traced(10.0, at_least=0.0)  # weight of the distillation
    aggregation: str = static("mean", AGGREGATIONS)  # of the target critics
    normalize_q: bool = static(False)  # else lambda = 1
    flow_steps: int = static(10, at_least=1)  # of Euler's method


class State(NamedTuple):
    """What FQL learns."""

    actor: Learner  # the one-step policy
    flow: Learner
    critic: Learner  # leading axis 2 on every array
    target_critic: Params


class Draws(NamedTuple):
    """Random numbers of one update; noises ``(batch, action_dim)``."""

    next_action: jax.Array
    flow: FlowDraws
    action: jax.Array
    imitation: jax.Array  # of a metric alone


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the target starts as a copy."""
    actor_key, flow_key, critic_key = jax.random.split(key, 3)
    (observation, action), network = spec.example(), fp.actor_network(hyper, spec.action_dim)
    actor = network.init(actor_key, observation, action)
    flow = network.init(flow_key, observation, action, jnp.zeros(1))
    critic = fp.critics(hyper).init(critic_key, observation, action)
    return State(learner(actor), learner(flow), learner(critic), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    noise_key, flow_key = jax.random.split(key)
    shape = (hyper.batch_size, spec.action_dim)
    next_action, action, imitation = jax.random.normal(noise_key, (3, *shape))
    return Draws(next_action, draw_flow(flow_key, shape), action, imitation)


def proposal(actor: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``mu(s, z)``, shape of ``noise``; it may leave the bounds of the actions."""
    return fp.actor_network(hyper, noise.shape[-1]).apply(actor, observation, noise)


def policy(actor: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``clip(mu(s, z))``, shape of ``noise``."""
    return jnp.clip(proposal(actor, noise, hyper, observation), -hyper.max_action, hyper.max_action)


def critic_target(target_critic: Params, actor: Params, draws: Draws, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * agg_j Q'_j(s', a')``, ``(batch,)``."""
    action = policy(actor, draws.next_action, hyper, batch.next_observation)
    next_q = fp.q_values(target_critic, hyper, batch.next_observation, action)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, AGGREGATIONS[hyper.aggregation](next_q))


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean_{j,b} (Q_j - y)^2``."""
    q = fp.q_values(critic, hyper, batch.observation, batch.action)
    loss = jnp.mean(losses.squared_error(q, target))
    return loss, fp.of_critics(q, loss, target)


def actor_loss(
    actor: Params, flow: Params, critic: Params, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``alpha * L_distill + L_q``; the action is clipped in the second term alone."""
    target = fp.flow_actions(flow, draws.action, hyper, batch.observation, hyper.flow_steps)
    action = proposal(actor, draws.action, hyper, batch.observation)
    distill = jnp.mean((action - jax.lax.stop_gradient(target)) ** 2)
    clipped = jnp.clip(action, -hyper.max_action, hyper.max_action)
    q = jnp.mean(fp.q_values(critic, hyper, batch.observation, clipped), axis=0)
    scale = 1.0 / jax.lax.stop_gradient(jnp.mean(jnp.abs(q))) if hyper.normalize_q else 1.0
    q_loss = -scale * jnp.mean(q)
    loss = hyper.alpha * distill + q_loss
    imitation = jnp.mean((policy(actor, draws.imitation, hyper, batch.observation) - batch.action) ** 2)
    found = {"loss": loss, "distill": distill, "q_loss": q_loss, "q": jnp.mean(q), "mse": imitation}
    return loss, {f"actor/{name}": metric for name, metric in found.items()}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critic, flow, actor and target, all from the old parameters."""
    (batch,) = batches
    old = (state.flow.params, state.critic.params)
    target = critic_target(state.target_critic, state.actor.params, draws, hyper, batch)
    critic, of_critic = learn(critic_loss, state.critic, hyper.critic_lr, target, hyper, batch, name="critic")
    flow, of_flow = learn(fp.flow_loss, state.flow, hyper.actor_lr, draws.flow, hyper, batch, name="flow")
    actor, of_actor = learn(actor_loss, state.actor, hyper.actor_lr, *old, draws, hyper, batch, name="actor")
    target_critic = polyak(state.target_critic, state.critic.params, hyper.tau)
    return State(actor, flow, critic, target_critic), weigh(of_critic | of_flow | of_actor)


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> jax.Array:
    """Draws of one decision."""
    return jax.random.normal(key, (spec.action_dim,))


def act(draws: jax.Array, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One sample of the one-step policy."""
    chex.assert_shape(observation, (spec.observation_dim,))
    return policy(state.actor.params, draws, hyper, observation)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    return ActingCost(1, 1, "single sample")


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, draw_action, cost)
