"""Plain behaviour cloning: a deterministic tanh policy fitted to the data's actions, the floor of every table.

One update step: Adam on ``mean (max_action tanh(pi_theta(s)) - a)^2``. Three hidden layers of 256 with ReLU.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, descend, learner
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


def policy(actor: Params, hyper: Hyper, observation: jax.Array, action_dim: int) -> jax.Array:
    """``max_action * tanh(pi_theta(s))``."""
    network = MLP(hyper.hidden_dims, action_dim, nn.relu, TORCH)
    return hyper.max_action * jnp.tanh(network.apply(actor, observation))


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    network = MLP(hyper.hidden_dims, spec.action_dim, nn.relu, TORCH)
    return State(learner(network.init(key, jnp.zeros(spec.observation_dim))))


def no_draws(key: jax.Array, spec: Spec, hyper: Hyper) -> None:
    """Nothing here is random."""
    return None


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
    grads, metrics = jax.grad(actor_loss, has_aux=True)(state.actor.params, hyper, batch)
    actor, norm = descend(state.actor, grads, hyper.actor_lr)
    return State(actor), weigh(metrics | {"actor/grad_norm": norm})


def act_from_draws(draws: None, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The policy's action."""
    last_bias = state.actor.params["params"][f"layer_{len(hyper.hidden_dims)}"]["bias"]
    return policy(state.actor.params, hyper, observation, last_bias.shape[-1])


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    return ActingCost(1, 1, "deterministic")


METHOD = Method(
    hyper=Hyper,
    num_batches=1,
    init=init,
    phases=(Phase("main", no_draws, update),),
    draw_action=no_draws,
    act_from_draws=act_from_draws,
    cost=cost,
)
