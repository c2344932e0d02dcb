"""DiffCPS, diffusion-based constrained policy search (He et al. 2023, arXiv 2310.05333).

One update step, in the published order (authors' agents/diffcps.py); the policy is constrained to
``L_c(theta) <= kappa``, the ELBO surrogate of ``KL(behaviour || policy) <= epsilon``:

1. critic, as Diffusion-QL.
2. on every ``policy_interval``-th step, from step 0:
   a. actor: ``L = sg(clip(lambda, lambda_min, lambda_max)) * L_c + L_q`` (``L_c`` = Diffusion-QL's ``L_d``).
   b. multiplier: Adam on ``(kappa - sg(L_c)) * lambda``, with ``L_c`` from before the actor step.
3. target actor and target critic, on every step.

Where the paper and the authors' code differ, this follows the code: next actions come from the target actor (paper:
from the policy); ``L_q`` is normalised by the other online critic (paper: the target critic); ``lambda`` is stored
unprojected and clipped only where it is used, so that it winds up below ``lambda_min`` (paper: ``max(c, lambda)``).
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import Method, Metrics, Phase, Scalars, every, static, traced, weigh
from diffjax.nn.learners import Learner, learn, learner
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(dp.Hyper):
    """DiffCPS's own hyper-parameters."""

    kappa: float = traced(0.05, at_least=0.0)  # bound of L_c, in units of the mean squared noise error per dimension
    lambda_init: float = traced(1.0, at_least=0.0)
    lambda_min: float = traced(0.0, at_least=0.0, at_most="lambda_max")
    lambda_max: float = traced(100.0, above=0.0)
    lambda_lr: float = traced(3e-5, at_least=0.0)
    policy_interval: int = static(2, at_least=1)


class State(NamedTuple):
    """What DiffCPS learns."""

    core: dp.Core
    multiplier: Learner  # the raw scalar lambda


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; ``lambda = lambda_init``."""
    return State(dp.init_core(key, spec, hyper), learner(jnp.asarray(hyper.lambda_init, jnp.float32)))


def actor_loss(
    actor: Params, critic: Params, multiplier: jax.Array, draws: dp.PolicyDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``sg(clip(lambda, lambda_min, lambda_max)) * L_c + L_q``."""
    bc = jnp.mean(dp.denoising_loss(actor, draws.denoising, hyper, batch))
    q, _ = dp.q_term(actor, critic, draws, hyper, batch)
    loss = jax.lax.stop_gradient(jnp.clip(multiplier, hyper.lambda_min, hyper.lambda_max)) * bc + q
    return loss, {"actor/loss": loss, "actor/bc": bc, "actor/q": q}


def multiplier_loss(multiplier: jax.Array, bc: jax.Array, hyper: Hyper) -> tuple[jax.Array, Scalars]:
    """``(kappa - sg(L_c)) * lambda``: a violated constraint raises ``lambda``."""
    return (hyper.kappa - jax.lax.stop_gradient(bc)) * multiplier, {}


def update_towards(
    target: jax.Array, draws: dp.Draws, step: jax.Array, state: State, hyper: Hyper, batch: Batch
) -> tuple[State, Metrics]:
    """One gradient step of critic, delayed actor and multiplier, and targets, for given ``y`` of the critics."""
    core, clip = state.core, hyper.max_grad_norm
    critic, critic_metrics = dp.update_critic(core.critic, target, step, hyper, batch)

    def update_policy(learners: tuple[Learner, Learner]) -> tuple[tuple[Learner, Learner], Scalars]:
        actor, multiplier = learners
        decay = dp.block_cosine(step, hyper.lr_decay_epochs)
        data = (critic.params, multiplier.params, draws.policy, hyper, batch)
        actor, metrics = learn(actor_loss, actor, hyper.actor_lr * decay, *data, clip=clip, name="actor")
        rate, bc = hyper.lambda_lr * decay, metrics["actor/bc"]
        multiplier, dual_metrics = learn(multiplier_loss, multiplier, rate, bc, hyper, clip=clip, name="dual")
        return (actor, multiplier), metrics | dual_metrics | {"dual/lambda": multiplier.params}

    (actor, multiplier), policy_metrics = every(
        hyper.policy_interval, step, update_policy, (core.actor, state.multiplier)
    )
    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    return State(core, multiplier), weigh(critic_metrics) | policy_metrics


update = dp.with_backup(update_towards)

METHOD = Method(Hyper, init, (Phase("main", update, dp.draw),), dp.act, dp.draw_action, dp.cost)
