"""Diffusion-QL (Wang et al. 2022, arXiv 2208.06193), the base on which DiffCPS and DiffPoGAN are built.

One update step, in the published order (authors' agents/ql_diffusion.py):

1. critic: ``y = r + discount * not_done * min_j Q'_j(s', a')``, ``a'`` from the target actor; Adam on
   ``mse(Q_1, y) + mse(Q_2, y)``.
2. actor: ``L = L_d + eta * L_q`` with the critic just updated: ``L_d`` the denoising loss (eq. 2),
   ``L_q = -mean Q_i(s, a_0) / sg(mean |Q_j(s, a_0)|)`` at one full-chain sample (eq. 3), ``i`` by a fair coin.
3. target actor (every 5th step from step 1000), then target critic.

Where the paper and the authors' code differ, this follows the code: the denominator of ``L_q`` is taken at new actions
and not at the data's; the learning rate "decays" by 0.1 % over a run (:func:`diffusion_policy.block_cosine`).
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax.diffusion.samplers import ChainNoise
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import Method, Metrics, Phase, Scalars, traced, weigh
from diffjax.nn.learners import descend
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(dp.Hyper):
    """Diffusion-QL's own hyper-parameter."""

    eta: float = traced(1.0, at_least=0.0)  # weight of the Q term


class State(NamedTuple):
    """What Diffusion-QL learns."""

    core: dp.Core


class Draws(NamedTuple):
    """Random numbers of one update."""

    next_action: ChainNoise
    policy: dp.PolicyDraws


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    return State(dp.init_core(key, spec, hyper))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    next_key, policy_key = jax.random.split(key)
    return Draws(dp.draw_next_action(next_key, spec, hyper), dp.draw_policy(policy_key, spec, hyper))


def actor_loss(
    actor: Params, critic: Params, draws: dp.PolicyDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``L_d + eta * L_q``."""
    bc = jnp.mean(dp.denoising_loss(actor, draws.denoising, hyper, batch))
    q, _ = dp.q_term(actor, critic, draws.chain, draws.coin, hyper, batch.observation)
    loss = bc + hyper.eta * q
    return loss, {"actor/loss": loss, "actor/bc": bc, "actor/q": q}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critic, actor and targets."""
    (batch,), core = batches, state.core
    next_action = dp.sample_next_actions(core.target_actor, draws.next_action, batch.next_observation, hyper)
    target = dp.critic_target(core.target_critic, next_action, hyper, batch)
    return update_towards(target, draws, step, state, hyper, batch)


def update_towards(
    target: jax.Array, draws: Draws, step: jax.Array, state: State, hyper: Hyper, batch: Batch
) -> tuple[State, Metrics]:
    """The update for given targets ``y`` of the critics, ``(batch,)``; a bandit's are its rewards."""
    core = state.core
    critic, critic_metrics = dp.update_critic(core.critic, target, step, hyper, batch)

    grads, metrics = jax.grad(actor_loss, has_aux=True)(core.actor.params, critic.params, draws.policy, hyper, batch)
    rate = hyper.actor_lr * dp.block_cosine(step, hyper.lr_decay_epochs)
    actor, norm = descend(core.actor, grads, rate, hyper.max_grad_norm)

    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    return State(core), weigh(critic_metrics | metrics | {"actor/grad_norm": norm})


METHOD = Method(
    hyper=Hyper,
    num_batches=1,
    init=init,
    phases=(Phase("main", draw, update),),
    draw_action=dp.draw_action,
    act_from_draws=dp.act_from_draws,
    cost=dp.cost,
)
