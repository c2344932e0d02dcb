"""IFQL, Implicit Flow Q-Learning: FQL's authors' IDQL with a flow policy (Park et al. 2025, arXiv 2502.02538).

One update step (agents/ifql.py, revision 719d044); every loss is taken at the parameters as they were before it,
``q = min_j Q'_j(s, a)``:

1. value: Adam on ``mean w (q - V(s))^2``, ``w = expectile`` where ``q >= V(s)``, else ``1 - expectile``.
2. critic: ``y = r + discount * not_done * V(s')`` with the old V; Adam on ``mse(Q_1, y) + mse(Q_2, y)``.
3. flow: Adam on flow matching at the data's actions.
4. target critic, towards the critic as it was before step 2.

Acting: ``candidates`` samples of the flow policy, and the one with the largest ``min_j Q_j`` of the online critics.

Everything follows the program; the number of candidates per task is that of the paper's table 6, read in a copy. A
difference of exactly 0, which alone tells ``>=`` from ``>``, adds nothing to loss or gradient.
"""

from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.flow import PATHS, FlowDraws, draw_flow
from diffjax.methods import flow_policy as fp
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, sampled_by, static, traced, weigh
from diffjax.methods.candidates import chosen
from diffjax.nn.learners import Learner, copies, learn, learner, polyak
from diffjax.nn.networks import MLP, Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(fp.Hyper):
    """IFQL's own hyper-parameters."""

    expectile: float = traced(0.9, above=0.0, below=1.0)
    value_lr: float = traced(3e-4, above=0.0)
    candidates: int = static(32, at_least=1, acting=True)
    sampler: str = static("euler", PATHS, acting=True)
    sampler_steps: int = static(10, at_least=1, acting=True)


class State(NamedTuple):
    """What IFQL learns."""

    value: Learner
    critic: Learner  # leading axis 2 on every array
    flow: Learner
    target_critic: Params


def value_network(hyper: Hyper) -> MLP:
    """V on the observation."""
    return fp.network(hyper, 1, hyper.critic_norm)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the target starts as a copy."""
    value_key, critic_key, flow_key = jax.random.split(key, 3)
    observation, action = spec.example()
    value = value_network(hyper).init(value_key, observation)
    critic = fp.critics(hyper).init(critic_key, observation, action)
    flow = fp.actor_network(hyper, spec.action_dim).init(flow_key, observation, action, jnp.zeros(1))
    return State(learner(value), learner(critic), learner(flow), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> FlowDraws:
    """Random numbers of one update."""
    return draw_flow(key, (hyper.batch_size, spec.action_dim))


def v_value(value: Params, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``V(s)``, ``(...,)``."""
    return value_network(hyper).apply(value, observation)[..., 0]


def value_loss(value: Params, q: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """Expectile regression of V on ``q``, ``(batch,)``."""
    v = v_value(value, hyper, batch.observation)
    found = {"loss": losses.expectile_loss(q - v, hyper.expectile), "v_mean": jnp.mean(v)}
    found |= {"v_max": jnp.max(v), "v_min": jnp.min(v)}
    return found["loss"], {f"value/{name}": metric for name, metric in found.items()}


def critic_target(value: Params, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * V(s')``, ``(batch,)``."""
    next_v = v_value(value, hyper, batch.next_observation)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_v)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mse(Q_1, y) + mse(Q_2, y)``."""
    q = fp.q_values(critic, hyper, batch.observation, batch.action)
    loss = jnp.sum(losses.squared_error(q, target))
    return loss, fp.of_critics(q, loss, target)


def update(
    draws: FlowDraws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of value, critic, flow and target, all from the old parameters."""
    (batch,) = batches
    q = losses.ensemble_min(fp.q_values(state.target_critic, hyper, batch.observation, batch.action))
    target = critic_target(state.value.params, hyper, batch)
    value, of_value = learn(value_loss, state.value, hyper.value_lr, q, hyper, batch, name="value")
    critic, of_critic = learn(critic_loss, state.critic, hyper.critic_lr, target, hyper, batch, name="critic")
    flow, of_flow = learn(fp.flow_loss, state.flow, hyper.actor_lr, draws, hyper, batch, name="flow")
    target_critic = polyak(state.target_critic, state.critic.params, hyper.tau)
    return State(value, critic, flow, target_critic), weigh(of_value | of_critic | of_flow)


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> jax.Array:
    """Draws of one decision: the noise of each candidate."""
    return jax.random.normal(key, (hyper.candidates, spec.action_dim))


def act(draws: jax.Array, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The candidate of the flow policy with the largest ``min_j Q_j``."""
    chex.assert_shape(observation, (spec.observation_dim,))
    action = fp.flow_actions(state.flow.params, draws, hyper, observation, hyper.sampler_steps, hyper.sampler)
    value = losses.ensemble_min(fp.q_values(state.critic.params, hyper, observation, action))
    return chosen(action, jnp.argmax(value))


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    rule, steps = f"largest min Q of {hyper.candidates}", hyper.sampler_steps
    if hyper.sampler == "heun":
        return ActingCost(hyper.candidates, 2 * steps - 1, sampled_by(rule, "heun", steps))
    return ActingCost(hyper.candidates, steps, rule)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, draw_action, cost)
