"""Soft actor-critic and a pure simulator together inside one ``lax.scan``; one update per environment step."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.envs.base import PureSimulator
from diffjax.studies.collect import sac


class Agent(NamedTuple):
    """Learner, simulator and replay between two steps; arrays only."""

    learner: sac.Learner
    simulator_state: Any
    episode_step: jax.Array
    replay: sac.History


def policy_mean(simulator: PureSimulator, hyper: sac.Hyper, actor: sac.Params, observation: jax.Array) -> jax.Array:
    """The deterministic action ``tanh(mean)``, ``(..., observation_dim) -> (..., action_dim)``."""
    return jnp.tanh(sac.policy(actor, observation, hyper.width, simulator.action_dim)[0])


def init(key: jax.Array, simulator: PureSimulator, hyper: sac.Hyper, steps: int) -> Agent:
    """A fresh agent with room for ``steps`` steps of history."""
    learner_key, reset_key = jax.random.split(key)
    return Agent(
        learner=sac.init(learner_key, hyper, simulator.observation_dim, simulator.action_dim),
        simulator_state=simulator.reset(reset_key),
        episode_step=jnp.zeros((), jnp.int32),
        replay=sac.empty_history(steps, simulator.observation_dim, simulator.action_dim),
    )


def _interact(key: jax.Array, simulator: PureSimulator, hyper: sac.Hyper, agent: Agent, index: jax.Array) -> Agent:
    """One environment step into row ``index`` of the replay, with a reset where an episode ends."""
    uniform_key, noise_key, reset_key = jax.random.split(key, 3)
    observation = simulator.observe(agent.simulator_state)
    noise = jax.random.normal(noise_key, (simulator.action_dim,))
    distribution = sac.policy(agent.learner.actor, observation, hyper.width, simulator.action_dim)
    action = jnp.where(
        index < hyper.warmup_steps,
        jax.random.uniform(uniform_key, (simulator.action_dim,), minval=-1.0, maxval=1.0),
        losses.squashed_normal(*distribution, noise)[0],
    )
    state, next_observation, reward, terminated = simulator.step(agent.simulator_state, action)
    truncated = (agent.episode_step + 1 >= simulator.horizon) & ~terminated
    ended = terminated | truncated
    row = sac.History(observation, action, reward, next_observation, terminated, truncated)
    fresh = simulator.reset(reset_key)
    return agent._replace(
        simulator_state=jax.tree.map(partial(jnp.where, ended), fresh, state),
        episode_step=jnp.where(ended, 0, agent.episode_step + 1),
        replay=jax.tree.map(lambda all_rows, new: all_rows.at[index].set(new), agent.replay, row),
    )


@partial(jax.jit, static_argnames=("simulator", "hyper", "length", "learning"))
def advance(
    keys: jax.Array,
    agents: Agent,
    start: jax.Array,
    *,
    simulator: PureSimulator,
    hyper: sac.Hyper,
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
            if learning:
                learner = sac.learn(learn_key, hyper, agent.learner, agent.replay, index + 1)
                agent = agent._replace(learner=learner)
            return agent, None

        agent, _ = jax.lax.scan(step, agent, start + jnp.arange(length))
        return agent

    return jax.vmap(one)(keys, agents)
