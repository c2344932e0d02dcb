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

from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import Method, Metrics, Phase, Scalars, traced, weigh
from diffjax.nn.learners import learn
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(dp.Hyper):
    """Diffusion-QL's own hyper-parameter."""

    eta: float = traced(1.0, at_least=0.0)  # weight of the Q term


class State(NamedTuple):
    """What Diffusion-QL learns."""

    core: dp.Core


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    return State(dp.init_core(key, spec, hyper))


def actor_loss(
    actor: Params, critic: Params, draws: dp.PolicyDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``L_d + eta * L_q``."""
    bc = jnp.mean(dp.denoising_loss(actor, draws.denoising, hyper, batch))
    q, _ = dp.q_term(actor, critic, draws, hyper, batch)
    loss = bc + hyper.eta * q
    return loss, {"actor/loss": loss, "actor/bc": bc, "actor/q": q}


def update_towards(
    target: jax.Array, draws: dp.Draws, step: jax.Array, state: State, hyper: Hyper, batch: Batch
) -> tuple[State, Metrics]:
    """One gradient step of critic, actor and targets, for given targets ``y`` of the critics, ``(batch,)``."""
    core = state.core
    critic, critic_metrics = dp.update_critic(core.critic, target, step, hyper, batch)
    rate, clip = hyper.actor_lr * dp.block_cosine(step, hyper.lr_decay_epochs), hyper.max_grad_norm
    actor, metrics = learn(
        actor_loss, core.actor, rate, critic.params, draws.policy, hyper, batch, clip=clip, name="actor"
    )
    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    return State(core), weigh(critic_metrics | metrics)


update = dp.with_backup(update_towards)

METHOD = Method(Hyper, init, (Phase("main", update, dp.draw),), dp.act, dp.draw_action, dp.cost)
