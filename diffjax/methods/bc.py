"""Plain behaviour cloning: a deterministic tanh policy fitted to the data's actions, the floor of every table.

One update step: Adam on ``mean (max_action tanh(pi_theta(s)) - a)^2``. Three hidden layers of 256 with ReLU.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax.methods.base import Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, learn, learner
from diffjax.nn.networks import MLP, TORCH, Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters of behaviour cloning."""

    actor_lr: float = traced(3e-4, above=0.0)
    max_action: float = traced(1.0, above=0.0)
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    batch_size: int = static(256, at_least=1)


class State(NamedTuple):
    """What behaviour cloning learns."""

    actor: Learner


def network(hyper: Hyper, action_dim: int) -> MLP:
    """The policy before its tanh."""
    return MLP(hyper.hidden_dims, action_dim, nn.relu, TORCH)


def policy(actor: Params, hyper: Hyper, observation: jax.Array, action_dim: int) -> jax.Array:
    """``max_action * tanh(pi_theta(s))``."""
    return hyper.max_action * jnp.tanh(network(hyper, action_dim).apply(actor, observation))


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    observation, _ = spec.example()
    return State(learner(network(hyper, spec.action_dim).init(key, observation)))


def actor_loss(actor: Params, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """Mean squared error of the action."""
    action = policy(actor, hyper, batch.observation, batch.action.shape[-1])
    loss = jnp.mean((action - batch.action) ** 2)
    return loss, {"actor/loss": loss}


def update(
    draws: None, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step."""
    (batch,) = batches
    actor, metrics = learn(actor_loss, state.actor, hyper.actor_lr, hyper, batch, name="actor")
    return State(actor), weigh(metrics)


def act(draws: None, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The policy's action."""
    return policy(state.actor.params, hyper, observation, spec.action_dim)


METHOD = Method(Hyper, init, (Phase("main", update),), act)
