"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860).

One update step, in the published order (authors' TD3_BC.py); observations have mean 0 and deviation 1:

1. critic: ``y = r + discount * not_done * min_j Q'_j(s', a')``, ``a'`` the target actor's action plus clipped noise;
   Adam on ``mse(Q_1, y) + mse(Q_2, y)``.
2. actor, on every 2nd step from the second on, with the critic just updated:
   ``L = -lambda mean Q_1(s, pi(s)) + mean_{b,d} (pi(s) - a)^2``, ``lambda = alpha / sg(mean |Q_1(s, pi(s))|)``.
3. both targets, on the steps of the actor alone.

Everything follows the authors' program (revision 8791ad7); the paper was not compared with it. CORL's second program
(revision eeeeef2) is the same mathematics with one optimiser per critic and the same settings in the tasks of both, so
that it is no variant; the tasks that it alone has are in the same table.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods.base import Method, Metrics, Phase, Scalars, View, every, static, traced, weigh
from diffjax.nn.learners import Learner, copies, learn, learner, polyak
from diffjax.nn.networks import MLP, TORCH, Ensemble, Params
from diffjax.types import Batch, Spec

NUM_CRITICS = 2


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters of TD3+BC; plain fields are traced, ``static`` ones are not."""

    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)  # Polyak rate of both targets
    alpha: float = traced(2.5, at_least=0.0)  # weight of the normalised Q term
    policy_noise: float = traced(0.2, at_least=0.0)  # of target actions, in units of max_action
    noise_clip: float = traced(0.5, at_least=0.0)  # likewise
    actor_lr: float = traced(3e-4, above=0.0)
    critic_lr: float = traced(3e-4, above=0.0)
    max_action: float = traced(1.0, above=0.0)
    policy_interval: int = static(2, at_least=1)  # critic steps per step of actor and targets
    hidden_dims: tuple[int, ...] = static((256, 256), at_least=1)
    batch_size: int = static(256, at_least=1)


class State(NamedTuple):
    """What TD3+BC learns."""

    actor: Learner
    target_actor: Params
    critic: Learner  # leading axis 2 on every array
    target_critic: Params


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[observation, action]``."""
    return Ensemble(MLP(hyper.hidden_dims, 1, nn.relu, TORCH), NUM_CRITICS)


def actor_network(hyper: Hyper, action_dim: int) -> MLP:
    """The policy before its tanh."""
    return MLP(hyper.hidden_dims, action_dim, nn.relu, TORCH)


def policy(actor: Params, hyper: Hyper, observation: jax.Array, action_dim: int) -> jax.Array:
    """``pi(s) = max_action * tanh(...)``."""
    return hyper.max_action * jnp.tanh(actor_network(hyper, action_dim).apply(actor, observation))


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the targets start as copies."""
    actor_key, critic_key = jax.random.split(key)
    observation, action = spec.example()
    actor = actor_network(hyper, spec.action_dim).init(actor_key, observation)
    critic = critics(hyper).init(critic_key, observation, action)
    return State(learner(actor), copies(actor), learner(critic), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> jax.Array:
    """Standard normal noise of the target actions, ``(batch, action_dim)``."""
    return jax.random.normal(key, (hyper.batch_size, spec.action_dim))


def next_actions(target_actor: Params, noise: jax.Array, hyper: Hyper, batch: Batch) -> jax.Array:
    """Smoothed actions of the target actor, ``(batch, action_dim)``."""
    action = policy(target_actor, hyper, batch.next_observation, noise.shape[-1])
    return losses.smoothed_action(action, noise, hyper.policy_noise, hyper.noise_clip, hyper.max_action)


def critic_target(noise: jax.Array, state: State, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * min_j Q'_j(s', a')``, ``(batch,)``."""
    next_action = next_actions(state.target_actor, noise, hyper, batch)
    next_q = losses.ensemble_min(critics(hyper).apply(state.target_critic, batch.next_observation, next_action))
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_q)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mse(Q_1, y) + mse(Q_2, y)``."""
    q = critics(hyper).apply(critic, batch.observation, batch.action)
    loss = jnp.sum(losses.squared_error(q, target))
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(q), "critic/target_mean": jnp.mean(target)}


def first_q(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``Q_1(s, a)``, ``(...,)``."""
    first = jax.tree.map(lambda x: x[0], critic)
    return critics(hyper).module.apply(first, observation, action)[..., 0]


def actor_loss(actor: Params, critic: Params, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``-lambda mean Q_1(s, pi(s)) + mean_{b,d} (pi(s) - a)^2``."""
    action = policy(actor, hyper, batch.observation, batch.action.shape[-1])
    q = first_q(critic, hyper, batch.observation, action)
    weight = hyper.alpha / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
    bc = jnp.mean((action - batch.action) ** 2)
    loss = bc - weight * jnp.mean(q)
    return loss, {"actor/loss": loss, "actor/bc": bc, "actor/q_mean": jnp.mean(q), "actor/q_weight": weight}


def update(
    draws: jax.Array, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of the critic and, where it is due, of actor and targets."""
    (batch,) = batches
    target = critic_target(draws, state, hyper, batch)
    critic, metrics = learn(critic_loss, state.critic, hyper.critic_lr, target, hyper, batch, name="critic")

    def update_policy(state: State) -> tuple[State, Scalars]:
        actor, metrics = learn(actor_loss, state.actor, hyper.actor_lr, critic.params, hyper, batch, name="actor")
        target_actor = polyak(state.target_actor, actor.params, hyper.tau)
        target_critic = polyak(state.target_critic, critic.params, hyper.tau)
        return State(actor, target_actor, critic, target_critic), metrics

    # The authors count from 1.
    state, policy_metrics = every(hyper.policy_interval, step + 1, update_policy, state._replace(critic=critic))
    return state, weigh(metrics) | policy_metrics


def act(draws: None, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The policy's action."""
    return policy(state.actor.params, hyper, observation, spec.action_dim)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, view=View(observation="standardized"))
