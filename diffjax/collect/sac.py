"""Soft actor-critic inside one ``lax.scan``, for collecting data in pure simulators.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018), with the temperature learnt: a tanh-Gaussian
policy, two critics, one gradient step per environment step.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffjax.envs.base import PureSimulator

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
    """Every step an agent took, leading axis ``steps``, in order.

    ``next_observation`` is the one before the automatic reset; ``truncated`` marks the horizon.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Agent(NamedTuple):
    """Learner, simulator and replay between two steps; arrays only."""

    actor: Params
    critic: Params
    target_critic: Params
    log_temperature: jax.Array
    optimizer: optax.OptState
    simulator_state: Any
    episode_step: jax.Array
    replay: History


def policy_mean(simulator: PureSimulator, hyper: Hyper, actor: Params, observation: jax.Array) -> jax.Array:
    """The deterministic action ``tanh(mean)``, ``(..., observation_dim) -> (..., action_dim)``."""
    mean, _ = jnp.split(MLP(hyper.width, 2 * simulator.action_dim).apply(actor, observation), 2, axis=-1)
    return jnp.tanh(mean)


def _sample(mlp: MLP, actor: Params, observation: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A tanh-Gaussian action and its log-probability, from standard normal ``noise``."""
    mean, log_std = jnp.split(mlp.apply(actor, observation), 2, axis=-1)
    log_std = jnp.clip(log_std, -5.0, 2.0)
    raw = mean + jnp.exp(log_std) * noise
    log_normal = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    log_slope = 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))
    return jnp.tanh(raw), jnp.sum(log_normal - log_slope, axis=-1)


def init(key: jax.Array, simulator: PureSimulator, hyper: Hyper, steps: int) -> Agent:
    """A fresh agent with room for ``steps`` steps of history."""
    actor_key, critic_key, reset_key = jax.random.split(key, 3)
    observation = jnp.zeros((1, simulator.observation_dim))
    action = jnp.zeros((1, simulator.action_dim))
    actor = MLP(hyper.width, 2 * simulator.action_dim).init(actor_key, observation)
    pair = jnp.concatenate([observation, action], axis=-1)
    critic = jax.vmap(lambda k: MLP(hyper.width, 1).init(k, pair))(jax.random.split(critic_key))
    log_temperature = jnp.zeros(())
    return Agent(
        actor=actor,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic),
        log_temperature=log_temperature,
        optimizer=optax.adam(hyper.lr).init((actor, critic, log_temperature)),
        simulator_state=simulator.reset(reset_key),
        episode_step=jnp.zeros((), jnp.int32),
        replay=History(
            observation=jnp.zeros((steps, simulator.observation_dim)),
            action=jnp.zeros((steps, simulator.action_dim)),
            reward=jnp.zeros(steps),
            next_observation=jnp.zeros((steps, simulator.observation_dim)),
            terminated=jnp.zeros(steps, bool),
            truncated=jnp.zeros(steps, bool),
        ),
    )


def _interact(key: jax.Array, simulator: PureSimulator, hyper: Hyper, agent: Agent, index: jax.Array) -> Agent:
    """One environment step into row ``index`` of the replay, with a reset where an episode ends."""
    uniform_key, noise_key, reset_key = jax.random.split(key, 3)
    observation = simulator.observe(agent.simulator_state)
    mlp = MLP(hyper.width, 2 * simulator.action_dim)
    noise = jax.random.normal(noise_key, (simulator.action_dim,))
    action = jnp.where(
        index < hyper.warmup_steps,
        jax.random.uniform(uniform_key, (simulator.action_dim,), minval=-1.0, maxval=1.0),
        _sample(mlp, agent.actor, observation, noise)[0],
    )
    state, next_observation, reward, terminated = simulator.step(agent.simulator_state, action)
    truncated = (agent.episode_step + 1 >= simulator.horizon) & ~terminated
    ended = terminated | truncated
    row = History(observation, action, reward, next_observation, terminated, truncated)
    fresh = simulator.reset(reset_key)
    return agent._replace(
        simulator_state=jax.tree.map(partial(jnp.where, ended), fresh, state),
        episode_step=jnp.where(ended, 0, agent.episode_step + 1),
        replay=jax.tree.map(lambda all_rows, new: all_rows.at[index].set(new), agent.replay, row),
    )


def _learn(key: jax.Array, simulator: PureSimulator, hyper: Hyper, agent: Agent, index: jax.Array) -> Agent:
    """One gradient step of critics, actor and temperature on replay rows ``0..index``."""
    rows_key, noise_key, next_noise_key = jax.random.split(key, 3)
    rows = jax.random.randint(rows_key, (hyper.batch_size,), 0, index + 1)
    batch = jax.tree.map(lambda x: x[rows], agent.replay)
    noise = jax.random.normal(noise_key, batch.action.shape)
    next_noise = jax.random.normal(next_noise_key, batch.action.shape)
    mlp = MLP(hyper.width, 2 * simulator.action_dim)

    def values(critic: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        pair = jnp.concatenate([observation, action], axis=-1)
        return jax.vmap(lambda params: MLP(hyper.width, 1).apply(params, pair)[..., 0])(critic)

    temperature = jnp.exp(agent.log_temperature)
    next_action, next_log_prob = _sample(mlp, agent.actor, batch.next_observation, next_noise)
    next_value = jnp.min(values(agent.target_critic, batch.next_observation, next_action), axis=0)
    target = batch.reward + hyper.discount * ~batch.terminated * (next_value - temperature * next_log_prob)

    def loss(params: tuple[Params, Params, jax.Array]) -> jax.Array:
        actor, critic, log_temperature = params
        critic_loss = jnp.mean((values(critic, batch.observation, batch.action) - target) ** 2)
        action, log_prob = _sample(mlp, actor, batch.observation, noise)
        value = jnp.min(values(jax.lax.stop_gradient(critic), batch.observation, action), axis=0)
        actor_loss = jnp.mean(temperature * log_prob - value)
        # The target entropy of the paper: minus the action's dimension.
        surplus = jax.lax.stop_gradient(log_prob) - simulator.action_dim
        return critic_loss + actor_loss - log_temperature * jnp.mean(surplus)

    params = (agent.actor, agent.critic, agent.log_temperature)
    updates, optimizer = optax.adam(hyper.lr).update(jax.grad(loss)(params), agent.optimizer, params)
    actor, critic, log_temperature = optax.apply_updates(params, updates)
    return agent._replace(
        actor=actor,
        critic=critic,
        target_critic=optax.incremental_update(critic, agent.target_critic, hyper.tau),
        log_temperature=log_temperature,
        optimizer=optimizer,
    )


@partial(jax.jit, static_argnames=("simulator", "hyper", "length", "learning"))
def advance(
    keys: jax.Array,
    agents: Agent,
    start: jax.Array,
    *,
    simulator: PureSimulator,
    hyper: Hyper,
    length: int,
    learning: bool,
) -> Agent:
    """Steps ``start .. start + length - 1`` of several agents at once.

    Args:
      keys: one key per agent; step ``i`` uses ``fold_in(key, i)``, so cutting a run into pieces changes nothing.
      agents: leading axis ``agents``.
    """

    def one(agent_key: jax.Array, agent: Agent) -> Agent:
        def step(agent: Agent, index: jax.Array) -> tuple[Agent, None]:
            interact_key, learn_key = jax.random.split(jax.random.fold_in(agent_key, index))
            agent = _interact(interact_key, simulator, hyper, agent, index)
            return (_learn(learn_key, simulator, hyper, agent, index) if learning else agent), None

        agent, _ = jax.lax.scan(step, agent, start + jnp.arange(length))
        return agent

    return jax.vmap(one)(keys, agents)
