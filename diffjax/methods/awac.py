"""AWAC, advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359), as CORL's program has it.

One update step, in CORL's order (algorithms/offline/awac.py); ``pi`` is a normal around a mean without tanh, its
deviation a learnt vector, and actions sampled from it are clipped:

1. critic: ``y = r + discount * not_done * min_j Q'_j(s', a')``, ``a' ~ pi(s')``; Adam on
   ``mse(Q_1, y) + mse(Q_2, y)``.
2. actor: ``L = -mean w log pi(a | s)``, ``w = min(exp((q - v) / temperature), max_weight)``, ``q = min_j Q_j(s, a)``
   and ``v = min_j Q_j(s, one sample)`` with the critics just updated.
3. target critic, on every step.

Where paper and program differ: the paper was not read. CORL's weights are not normalised over the batch; its critics in
the advantage are the updated ones, not their targets; the value of a state is that of one sampled action.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods.base import Method, Metrics, Phase, Scalars, View, static, traced, weigh
from diffjax.nn.learners import Learner, copies, learn, learner, polyak
from diffjax.nn.networks import MLP, TORCH, Ensemble, GaussianPolicy, Params
from diffjax.types import Batch, Spec

NUM_CRITICS = 2


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters of AWAC; plain fields are traced, ``static`` ones are not."""

    temperature: float = traced(0.3333, above=0.0)  # of the advantage; CORL's awac_lambda
    max_weight: float = traced(100.0, above=0.0)  # of the exponential of the advantage
    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)
    actor_lr: float = traced(3e-4, above=0.0)
    critic_lr: float = traced(3e-4, above=0.0)
    max_action: float = traced(1.0, above=0.0)
    batch_size: int = static(256, at_least=1)
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    log_std_min: float = static(-20.0, below="log_std_max")
    log_std_max: float = static(2.0, above="log_std_min")


class State(NamedTuple):
    """What AWAC learns."""

    actor: Learner
    critic: Learner  # leading axis 2 on every array
    target_critic: Params


class Draws(NamedTuple):
    """Random numbers of one update, ``(batch, action_dim)`` standard normals each."""

    next_action: jax.Array
    action: jax.Array


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[observation, action]``."""
    return Ensemble(MLP(hyper.hidden_dims, 1, nn.relu, TORCH), NUM_CRITICS)


def actor_network(hyper: Hyper, action_dim: int) -> GaussianPolicy:
    """The policy: mean and logarithm of the deviation."""
    bounds = (hyper.log_std_min, hyper.log_std_max)
    return GaussianPolicy(action_dim, hyper.hidden_dims, TORCH, bounds, free_log_std=True)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the target starts as a copy."""
    actor_key, critic_key = jax.random.split(key)
    critic = critics(hyper).init(critic_key, *spec.example())
    actor = actor_network(hyper, spec.action_dim).init(actor_key, spec.example()[0])
    return State(learner(actor), learner(critic), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    return Draws(*jax.random.normal(key, (2, hyper.batch_size, spec.action_dim)))


def policy(actor: Params, hyper: Hyper, observation: jax.Array, action_dim: int) -> tuple[jax.Array, jax.Array]:
    """Mean ``(..., action_dim)`` and logarithm of the deviation ``(action_dim,)``."""
    return actor_network(hyper, action_dim).apply(actor, observation)


def sampled(actor: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """Actions ``clip(mean + std noise)``, ``(batch, action_dim)``."""
    mean, log_std = policy(actor, hyper, observation, noise.shape[-1])
    return jnp.clip(mean + jnp.exp(log_std) * noise, -hyper.max_action, hyper.max_action)


def min_q(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``min_j Q_j(s, a)``, ``(batch,)``."""
    return losses.ensemble_min(critics(hyper).apply(critic, observation, action))


def critic_target(target_critic: Params, actor: Params, draws: Draws, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * min_j Q'_j(s', a')``, ``(batch,)``."""
    action = sampled(actor, draws.next_action, hyper, batch.next_observation)
    next_q = min_q(target_critic, hyper, batch.next_observation, action)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_q)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mse(Q_1, y) + mse(Q_2, y)``."""
    q = critics(hyper).apply(critic, batch.observation, batch.action)
    found = {"loss": jnp.sum(losses.squared_error(q, target)), "q_mean": jnp.mean(q), "target_mean": jnp.mean(target)}
    return found["loss"], {f"critic/{name}": metric for name, metric in found.items()}


def advantage(critic: Params, actor: Params, draws: Draws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """``q`` and ``v`` of the advantage ``q - v``, ``(batch,)`` each, constant with respect to gradients."""
    action = sampled(actor, draws.action, hyper, batch.observation)
    q = min_q(critic, hyper, batch.observation, batch.action)
    return jax.lax.stop_gradient((q, min_q(critic, hyper, batch.observation, action)))


def advantage_weight(q: jax.Array, v: jax.Array, hyper: Hyper) -> jax.Array:
    """``w = min(exp((q - v) / temperature), max_weight)``."""
    return jnp.minimum(jnp.exp((q - v) / hyper.temperature), hyper.max_weight)


def actor_loss(actor: Params, critic: Params, draws: Draws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``-mean w log pi(a | s)``."""
    weight = advantage_weight(*advantage(critic, actor, draws, hyper, batch), hyper)
    log_prob = losses.gaussian_log_prob(batch.action, *policy(actor, hyper, batch.observation, batch.action.shape[-1]))
    loss = -jnp.mean(weight * log_prob)
    return loss, {"actor/loss": loss, "actor/bc": -jnp.mean(log_prob), "actor/weight": jnp.mean(weight)}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critic, actor and target."""
    (batch,) = batches
    target = critic_target(state.target_critic, state.actor.params, draws, hyper, batch)
    critic, critic_metrics = learn(critic_loss, state.critic, hyper.critic_lr, target, hyper, batch, name="critic")
    given = (critic.params, draws, hyper, batch)
    actor, actor_metrics = learn(actor_loss, state.actor, hyper.actor_lr, *given, name="actor")
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)
    return State(actor, critic, target_critic), weigh(critic_metrics | actor_metrics)


def act(draws: None, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The mean of the policy, clipped; CORL leaves that to the environment."""
    mean, _ = policy(state.actor.params, hyper, observation, spec.action_dim)
    return jnp.clip(mean, -hyper.max_action, hyper.max_action)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, view=View(observation="standardized"))
