"""EDP with CRR's policy improvement: weighted likelihood around the action approximation ``a^`` (see edp.py).

One update step, in the order of the authors' program; critics and targets as in edp.py:

1. critics.
2. policy: ``L = bc_weight * L_bc - guidance_weight * mean w log p``, with the critics as they were before step 1.
   ``w = min(exp(A / temperature), max_weight)``, ``A = min_j Q_j(s, a) - V(s)``, ``V`` the mean over ``value_samples``
   unclipped draws from ``N(a^, std^2)`` of ``min_j Q_j``; ``p`` is that normal's density at the data's action.
3. targets.

``std`` is 1 in paper and program; ``learn_std`` makes it a learnt vector. Other options of the program, all off in its
runs: weights by a softmax over the batch or as 0 and 1, the largest of the samples as ``V``, and for ``log p`` the
variational bound (``elbo``) or minus a squared error (``mse``).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.denoisers import at_index
from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising
from diffjax.diffusion.samplers import ChainNoise
from diffjax.diffusion.schedules import bound_weights, discrete_schedule
from diffjax.methods import edp, edp_core
from diffjax.methods.base import Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, cosine_decay, descend, learner
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


@flax.struct.dataclass
class Hyper(edp.BackupHyper):
    """Hyper-parameters of CRR's policy improvement."""

    bc_weight: float = traced(1.0, at_least=0.0)
    temperature: float = traced(1.0, above=0.0)  # of the advantage
    max_weight: float = traced(20.0, above=0.0)  # of the exponential of the advantage
    value_samples: int = static(10, at_least=1)
    value_reduction: str = static("mean", losses.SAMPLE_REDUCTIONS)
    weighting: str = static("exp", ("exp", "softmax", "binary"))
    likelihood: str = static("mle", ("mle", "elbo", "mse"))
    learn_std: bool = static(False)


class Policy(NamedTuple):
    """Parameters of the noise predictor and the logarithm of the deviation ``(action_dim,)`` around ``a^``."""

    actor: Params
    log_std: jax.Array


class State(NamedTuple):
    """What EDP with CRR learns; the deviation stays as it is unless ``learn_std``."""

    core: edp_core.Core
    log_std: Learner


class Draws(NamedTuple):
    """Random numbers of one update."""

    next_action: ChainNoise
    denoising: DenoisingDraws
    value: jax.Array  # (value_samples, batch, action_dim)
    likelihood: jax.Array | None  # (batch, action_dim), for mse


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    return State(edp_core.init_core(key, spec, hyper), learner(jnp.zeros(spec.action_dim)))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    next_key, denoising_key, value_key, likelihood_key = jax.random.split(key, 4)
    shape = (hyper.batch_size, spec.action_dim)
    return Draws(
        edp.draw_next_action(next_key, spec, hyper),
        draw_denoising(denoising_key, hyper.diffusion_steps, shape),
        jax.random.normal(value_key, (hyper.value_samples, *shape)),
        jax.random.normal(likelihood_key, shape) if hyper.likelihood == "mse" else None,
    )


def deviation(log_std: jax.Array, learn_std: bool) -> jax.Array:
    """Logarithm of the deviation around the action approximation, ``(action_dim,)``."""
    return jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX) if learn_std else jnp.zeros_like(log_std)


def advantage(
    critic: Params, action: jax.Array, log_std: jax.Array, draws: Draws, hyper: Hyper, batch: Batch
) -> jax.Array:
    """``A = min_j Q_j(s, a) - V(s)`` around the approximations ``action``, ``(batch,)``; a constant."""
    sampled = action + jnp.exp(log_std) * draws.value
    values = edp_core.min_q(critic, hyper, batch.observation[None], sampled)
    baseline = losses.SAMPLE_REDUCTIONS[hyper.value_reduction](values.T)
    return jax.lax.stop_gradient(edp_core.min_q(critic, hyper, batch.observation, batch.action) - baseline)


def advantage_weight(advantage: jax.Array, hyper: Hyper) -> jax.Array:
    """``w`` of each row, ``(batch,)``."""
    if hyper.weighting == "softmax":
        return nn.softmax(advantage / hyper.temperature)
    if hyper.weighting == "binary":
        return (advantage > 0).astype(jnp.float32)
    return jnp.minimum(jnp.exp(advantage / hyper.temperature), hyper.max_weight)


def log_likelihood(
    denoised: edp_core.Denoised, log_std: jax.Array, draws: Draws, hyper: Hyper, batch: Batch
) -> jax.Array:
    """``log p`` of the data's actions, ``(batch,)``: of the normal, or what stands for it."""
    if hyper.likelihood == "elbo":
        weights = bound_weights(discrete_schedule(hyper.schedule, hyper.diffusion_steps))
        return -at_index(weights, draws.denoising.time_index, 1) * denoised.error
    if draws.likelihood is not None:
        sampled = denoised.action + jnp.exp(log_std) * draws.likelihood
        return -jnp.mean((sampled - batch.action) ** 2, axis=-1)
    return losses.gaussian_log_prob(batch.action, denoised.action, log_std)


def policy_loss(policy: Policy, critic: Params, draws: Draws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``bc_weight * L_bc - guidance_weight * mean w log p``."""
    denoised = edp_core.denoise(policy.actor, draws.denoising, hyper, batch)
    log_std = deviation(policy.log_std, hyper.learn_std)
    lead = advantage(critic, denoised.action, log_std, draws, hyper, batch)
    weight = advantage_weight(lead, hyper)
    log_prob = log_likelihood(denoised, log_std, draws, hyper, batch)
    return weighted_cloning(denoised, weight, lead, log_prob, hyper)


def weighted_cloning(
    denoised: edp_core.Denoised, weight: jax.Array, advantage: jax.Array, log_prob: jax.Array, hyper: Any
) -> tuple[jax.Array, Scalars]:
    """``bc_weight * L_bc - guidance_weight * mean w log p`` from its parts, ``(batch,)`` each."""
    bc, guidance = jnp.mean(denoised.error), -jnp.mean(weight * log_prob)
    loss = hyper.bc_weight * bc + hyper.guidance_weight * guidance
    found = {"loss": loss, "bc": bc, "guidance": guidance, "log_prob": jnp.mean(log_prob)}
    found |= {"weight": jnp.mean(weight), "advantage": jnp.mean(advantage)}
    return loss, {f"actor/{name}": metric for name, metric in found.items()}


def learn_policy(
    loss: Callable[..., tuple[jax.Array, Scalars]],
    actor: Learner,
    log_std: Learner,
    step: jax.Array,
    hyper: Any,
    *arguments: Any,
) -> tuple[Learner, Learner, Scalars]:
    """One step down ``loss(policy, *arguments)``; predictor and deviation have Adam and clip of their own."""
    policy = Policy(actor.params, log_std.params)
    grads, metrics = jax.grad(loss, has_aux=True)(policy, *arguments)
    rate, clip = hyper.actor_lr * cosine_decay(step, hyper.lr_decay_steps), hyper.max_grad_norm
    actor, norm = descend(actor, grads.actor, rate, clip)
    log_std, _ = descend(log_std, grads.log_std, hyper.actor_lr, clip)
    return actor, log_std, metrics | {"actor/grad_norm": norm}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critics, policy and targets."""
    (batch,), old = batches, state.core
    next_action = edp.next_actions(old.target_actor, draws.next_action, hyper, batch)
    target = edp.critic_target(old.target_critic, next_action, hyper, batch)
    critic, metrics = edp_core.update_critics(old.critic, target, hyper, batch)

    data = (old.critic.params, draws, hyper, batch)
    actor, log_std, policy_metrics = learn_policy(policy_loss, old.actor, state.log_std, step, hyper, *data)
    new = edp_core.update_targets(old._replace(actor=actor, critic=critic), step, hyper)
    return State(new, log_std), weigh(metrics | policy_metrics)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), edp_core.act, edp_core.draw_action, edp_core.cost)
