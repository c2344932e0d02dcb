"""Soft actor-critic: the agent that makes data where there is none.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018), with the temperature learnt: a tanh-Gaussian
policy, two critics, two hidden ReLU layers each.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffjax import losses

Params = Any


class Hyper(NamedTuple):
    """Constants of one agent; ``warmup_steps`` are taken uniformly at random, without updates."""

    width: int
    batch_size: int
    warmup_steps: int
    lr: float
    discount: float
    tau: float


class MLP(nn.Module):
    """Two hidden ReLU layers."""

    width: int
    out_dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``(..., in_dim) -> (..., out_dim)``."""
        x = nn.relu(nn.Dense(self.width)(x))
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.out_dim)(x)


class History(NamedTuple):
    """Steps that an agent took, leading axis ``steps``, in order; arrays of NumPy or jax.

    ``next_observation`` is the one before the automatic reset; ``truncated`` marks the horizon.
    """

    observation: Any
    action: Any
    reward: Any
    next_observation: Any
    terminated: Any
    truncated: Any


class Learner(NamedTuple):
    """What is learnt; arrays only."""

    actor: Params
    critic: Params
    target_critic: Params
    log_temperature: jax.Array
    optimizer: optax.OptState


def empty_history(steps: int, observation_dim: int, action_dim: int) -> History:
    """Room for ``steps`` steps."""
    return History(
        observation=jnp.zeros((steps, observation_dim)),
        action=jnp.zeros((steps, action_dim)),
        reward=jnp.zeros(steps),
        next_observation=jnp.zeros((steps, observation_dim)),
        terminated=jnp.zeros(steps, bool),
        truncated=jnp.zeros(steps, bool),
    )


def init(key: jax.Array, hyper: Hyper, observation_dim: int, action_dim: int) -> Learner:
    """A fresh learner."""
    actor_key, critic_key = jax.random.split(key)
    actor = MLP(hyper.width, 2 * action_dim).init(actor_key, jnp.zeros((1, observation_dim)))
    pair = jnp.zeros((1, observation_dim + action_dim))
    critic = jax.vmap(lambda k: MLP(hyper.width, 1).init(k, pair))(jax.random.split(critic_key))
    log_temperature = jnp.zeros(())
    return Learner(
        actor=actor,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic),
        log_temperature=log_temperature,
        optimizer=optax.adam(hyper.lr).init((actor, critic, log_temperature)),
    )


def policy(actor: Params, observation: jax.Array, width: int, action_dim: int) -> tuple[jax.Array, jax.Array]:
    """Mean and log standard deviation, in [-5, 2], of the action before the tanh, ``(..., action_dim)`` each."""
    mean, log_std = jnp.split(MLP(width, 2 * action_dim).apply(actor, observation), 2, axis=-1)
    return mean, jnp.clip(log_std, -5.0, 2.0)


def update(noise: jax.Array, next_noise: jax.Array, hyper: Hyper, learner: Learner, batch: History) -> Learner:
    """One gradient step of critics, actor and temperature.

    Args:
      noise, next_noise: standard normal, of the shape of ``batch.action``.
    """
    action_dim = batch.action.shape[-1]

    def values(critic: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        pair = jnp.concatenate([observation, action], axis=-1)
        return jax.vmap(lambda params: MLP(hyper.width, 1).apply(params, pair)[..., 0])(critic)

    def sample(actor: Params, observation: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return losses.squashed_normal(*policy(actor, observation, hyper.width, action_dim), noise)

    temperature = jnp.exp(learner.log_temperature)
    next_action, next_log_prob = sample(learner.actor, batch.next_observation, next_noise)
    next_value = jnp.min(values(learner.target_critic, batch.next_observation, next_action), axis=0)
    target = batch.reward + hyper.discount * ~batch.terminated * (next_value - temperature * next_log_prob)

    def loss(params: tuple[Params, Params, jax.Array]) -> jax.Array:
        actor, critic, log_temperature = params
        critic_loss = jnp.mean((values(critic, batch.observation, batch.action) - target) ** 2)
        action, log_prob = sample(actor, batch.observation, noise)
        value = jnp.min(values(jax.lax.stop_gradient(critic), batch.observation, action), axis=0)
        actor_loss = jnp.mean(temperature * log_prob - value)
        # The target entropy of the paper: minus the action's dimension.
        surplus = jax.lax.stop_gradient(log_prob) - action_dim
        return critic_loss + actor_loss - log_temperature * jnp.mean(surplus)

    params = (learner.actor, learner.critic, learner.log_temperature)
    updates, optimizer = optax.adam(hyper.lr).update(jax.grad(loss)(params), learner.optimizer, params)
    actor, critic, log_temperature = optax.apply_updates(params, updates)
    target_critic = optax.incremental_update(critic, learner.target_critic, hyper.tau)
    return Learner(actor, critic, target_critic, log_temperature, optimizer)


def learn(key: jax.Array, hyper: Hyper, learner: Learner, replay: History, filled: jax.Array) -> Learner:
    """One :func:`update` on rows drawn from the first ``filled`` of the replay."""
    rows_key, noise_key, next_noise_key = jax.random.split(key, 3)
    rows = jax.random.randint(rows_key, (hyper.batch_size,), 0, filled)
    batch = jax.tree.map(lambda x: x[rows], replay)
    noise = jax.random.normal(noise_key, batch.action.shape)
    return update(noise, jax.random.normal(next_noise_key, batch.action.shape), hyper, learner, batch)
