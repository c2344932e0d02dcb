"""Diffusion behaviour cloning: Diffusion-QL's noise network and its denoising loss alone.

One update step: Adam on ``L_d`` (Diffusion-QL, eq. 2), no average, no clipping; one sample per action.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising
from diffjax.diffusion.samplers import ChainNoise
from diffjax.methods import chain_policy
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, weigh
from diffjax.nn.learners import Learner, learn, learner
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
    actor, metrics = learn(actor_loss, state.actor, hyper.actor_lr, draws, hyper, batch, name="actor")
    return State(actor), weigh(metrics)


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ChainNoise:
    """Draws of one decision."""
    return chain_policy.draw_chain(key, hyper, (spec.action_dim,))


def act(draws: ChainNoise, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One sample of the chain."""
    return dp.sample_actions(state.actor.params, draws, hyper, observation)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    rule = chain_policy.chain_selection("single sample", hyper)
    return ActingCost(1, chain_policy.chain_steps(hyper), rule)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, draw_action, cost)
