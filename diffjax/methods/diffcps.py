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

from diffjax.diffusion.samplers import ChainNoise
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import Method, Metrics, Phase, Scalars, every, static, traced, weigh
from diffjax.nn.learners import Learner, descend, learner
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


class Draws(NamedTuple):
    """Random numbers of one update."""

    next_action: ChainNoise
    policy: dp.PolicyDraws


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; ``lambda = lambda_init``."""
    return State(dp.init_core(key, spec, hyper), learner(jnp.asarray(hyper.lambda_init, jnp.float32)))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    next_key, policy_key = jax.random.split(key)
    return Draws(dp.draw_next_action(next_key, spec, hyper), dp.draw_policy(policy_key, spec, hyper))


def actor_loss(
    actor: Params, critic: Params, multiplier: jax.Array, draws: dp.PolicyDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``sg(clip(lambda, lambda_min, lambda_max)) * L_c + L_q``."""
    bc = jnp.mean(dp.denoising_loss(actor, draws.denoising, hyper, batch))
    q, _ = dp.q_term(actor, critic, draws.chain, draws.coin, hyper, batch.observation)
    loss = jax.lax.stop_gradient(jnp.clip(multiplier, hyper.lambda_min, hyper.lambda_max)) * bc + q
    return loss, {"actor/loss": loss, "actor/bc": bc, "actor/q": q}


def multiplier_loss(multiplier: jax.Array, bc: jax.Array, hyper: Hyper) -> jax.Array:
    """``(kappa - sg(L_c)) * lambda``: a violated constraint raises ``lambda``."""
    return (hyper.kappa - jax.lax.stop_gradient(bc)) * multiplier


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critic, delayed actor and multiplier, and targets."""
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

    def update_policy(learners: tuple[Learner, Learner]) -> tuple[tuple[Learner, Learner], Scalars]:
        actor, multiplier = learners
        decay = dp.block_cosine(step, hyper.lr_decay_epochs)
        grads, metrics = jax.grad(actor_loss, has_aux=True)(
            actor.params, critic.params, multiplier.params, draws.policy, hyper, batch
        )
        actor, norm = descend(actor, grads, hyper.actor_lr * decay, hyper.max_grad_norm)
        slope = jax.grad(multiplier_loss)(multiplier.params, metrics["actor/bc"], hyper)
        multiplier, slope_norm = descend(multiplier, slope, hyper.lambda_lr * decay, hyper.max_grad_norm)
        metrics |= {"actor/grad_norm": norm, "dual/grad_norm": slope_norm, "dual/lambda": multiplier.params}
        return (actor, multiplier), metrics

    (actor, multiplier), policy_metrics = every(
        hyper.policy_interval, step, update_policy, (core.actor, state.multiplier)
    )
    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    return State(core, multiplier), weigh(critic_metrics) | policy_metrics


METHOD = Method(
    hyper=Hyper,
    num_batches=1,
    init=init,
    phases=(Phase("main", draw, update),),
    draw_action=dp.draw_action,
    act_from_draws=dp.act_from_draws,
    cost=dp.cost,
)
