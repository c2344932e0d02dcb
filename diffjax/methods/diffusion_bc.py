"""Diffusion behaviour cloning: Diffusion-QL's noise network and its denoising loss alone.

One update step: Adam on ``L_d`` (Diffusion-QL, eq. 2), no average, no clipping; one sample per action.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising
from diffjax.diffusion.samplers import ChainNoise, draw_chain_noise
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, weigh
from diffjax.nn.learners import Learner, descend, learner
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec

Hyper = dp.ActorHyper


class State(NamedTuple):
    """What diffusion behaviour cloning learns."""

    actor: Learner


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    return State(learner(dp.init_actor(key, spec, hyper)))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> DenoisingDraws:
    """Random numbers of one update."""
    return draw_denoising(key, hyper.diffusion_steps, (hyper.batch_size, spec.action_dim))


def actor_loss(actor: Params, draws: DenoisingDraws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``L_d``."""
    loss = jnp.mean(dp.denoising_loss(actor, draws, hyper, batch))
    return loss, {"actor/bc": loss}


def update(
    draws: DenoisingDraws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step."""
    (batch,) = batches
    grads, metrics = jax.grad(actor_loss, has_aux=True)(state.actor.params, draws, hyper, batch)
    actor, norm = descend(state.actor, grads, hyper.actor_lr)
    return State(actor), weigh(metrics | {"actor/grad_norm": norm})


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ChainNoise:
    """Draws of one decision."""
    return draw_chain_noise(key, hyper.diffusion_steps, (spec.action_dim,))


def act_from_draws(draws: ChainNoise, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One sample of the chain."""
    return dp.sample_actions(state.actor.params, draws, hyper, observation)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    return ActingCost(1, hyper.diffusion_steps, "single sample")


METHOD = Method(
    hyper=Hyper,
    num_batches=1,
    init=init,
    phases=(Phase("main", draw, update),),
    draw_action=draw_action,
    act_from_draws=act_from_draws,
    cost=cost,
)
