"""Gaussian policies for bandits: maximum likelihood, the same with a Q term ("TD3+BC"), and AWR.

One update: the critics are regressed on the reward; then Adam on ``mean w (-log pi(a | s)) + eta L_q``, with
``w = min(exp((r - mean r) / temperature), 20)`` (AWR; 1 at an infinite temperature) and Diffusion-QL's ``L_q`` at one
sample of the policy. The baseline of AWR's only state is the minibatch's mean reward; the log-density is a mean over
dimensions, as all losses here are. Sources: Diffusion-QL, toy_experiments; Peng et al. 2019, arXiv 1910.00177.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, learn, learner
from diffjax.nn.networks import TORCH, GaussianPolicy, Params
from diffjax.types import Batch, Spec

MAX_WEIGHT = 20.0


@flax.struct.dataclass
class Hyper(dp.Hyper):
    """Diffusion-QL's hyper-parameters, for its critics, and the policy's own."""

    eta: float = traced(0.0, at_least=0.0)  # weight of the Q term
    temperature: float = traced(float("inf"), above=0.0)
    policy_hidden_dims: tuple[int, ...] = static((128, 128), at_least=1)


class State(NamedTuple):
    """What a Gaussian policy learns."""

    policy: Learner
    critic: Learner


class Draws(NamedTuple):
    """Random numbers of one update."""

    action: jax.Array  # (batch, action_dim) standard normal
    coin: jax.Array


def policy_network(hyper: Hyper, action_dim: int) -> GaussianPolicy:
    """Mean and logarithm of the deviation, the latter in ``[-20, 2]``."""
    return GaussianPolicy(action_dim, hyper.policy_hidden_dims, TORCH, (-20.0, 2.0))


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    policy_key, critic_key = jax.random.split(key)
    observation, action = spec.example()
    critic = dp.critics(hyper).init(critic_key, observation, action)
    return State(learner(policy_network(hyper, spec.action_dim).init(policy_key, observation)), learner(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    action_key, coin_key = jax.random.split(key)
    return Draws(
        jax.random.normal(action_key, (hyper.batch_size, spec.action_dim)),
        jax.random.uniform(coin_key),
    )


def sample_actions(policy: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``mean + std noise``, unbounded."""
    mean, log_std = policy_network(hyper, noise.shape[-1]).apply(policy, observation)
    return mean + jnp.exp(log_std) * noise


def advantage_weight(reward: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """``min(exp((r - mean r) / temperature), 20)``, ``(batch,)``."""
    return jnp.minimum(jnp.exp((reward - jnp.mean(reward)) / temperature), MAX_WEIGHT)


def policy_loss(policy: Params, critic: Params, draws: Draws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean w (-log pi) + eta L_q``."""
    mean, log_std = policy_network(hyper, batch.action.shape[-1]).apply(policy, batch.observation)
    log_prob = jnp.mean(jax.scipy.stats.norm.logpdf(batch.action, mean, jnp.exp(log_std)), axis=-1)
    nll = -jnp.mean(advantage_weight(batch.reward, hyper.temperature) * log_prob)
    action = mean + jnp.exp(log_std) * draws.action
    q = losses.normalized_q_loss(dp.q_values(critic, hyper, batch.observation, action), draws.coin)
    loss = nll + hyper.eta * q
    return loss, {"actor/loss": loss, "actor/nll": nll, "actor/q": q}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critics and policy."""
    (batch,) = batches
    critic, critic_metrics = dp.update_critic(state.critic, batch.reward, step, hyper, batch)
    given = (critic.params, draws, hyper, batch)
    policy, metrics = learn(policy_loss, state.policy, hyper.actor_lr, *given, name="actor")
    return State(policy, critic), weigh(critic_metrics | metrics)


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> jax.Array:
    """Draws of one decision."""
    return jax.random.normal(key, (spec.action_dim,))


def act(draws: jax.Array, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One sample of the policy."""
    return sample_actions(state.policy.params, draws, hyper, observation)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    return ActingCost(1, 1, "single sample")


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, draw_action, cost)
