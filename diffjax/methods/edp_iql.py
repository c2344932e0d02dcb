"""EDP with IQL's policy improvement: no action is sampled in training (see edp.py and edp_crr.py).

One update step, in the order of the authors' program:

1. value: Adam on ``mean |expectile - 1[q <= V(s)]| (q - V(s))^2``, ``q = min_j Q'_j(s, a)``.
2. policy: ``L = bc_weight * L_bc - guidance_weight * mean w log N(a; a^, std^2)``,
   ``w = min(exp(beta (q - V(s))), max_weight)`` with the V just updated; an option of the program is a softmax over
   the batch of ``beta (q - V(s))``. ``a^`` is the action approximation, ``std`` as in edp_crr.py.
3. critics: ``y = r + discount * not_done * V(s')`` with the V just updated.
4. targets; that of the policy, which nothing reads, too.

The paper gives no expectile and temperature of other tasks than locomotion; the program has 0.7 and 3 everywhere.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising
from diffjax.methods import edp_core, edp_crr
from diffjax.methods.base import Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, learn, learner
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(edp_core.Hyper):
    """Hyper-parameters of IQL's policy improvement."""

    bc_weight: float = traced(1.0, at_least=0.0)
    expectile: float = traced(0.7, above=0.0, below=1.0)
    beta: float = traced(3.0, at_least=0.0)  # inverse temperature of the advantage
    max_weight: float = traced(100.0, above=0.0)  # of the exponential of the advantage
    value_lr: float = traced(3e-4, above=0.0)
    weighting: str = static("exp", ("exp", "softmax"))
    learn_std: bool = static(False)


class State(NamedTuple):
    """What EDP with IQL learns; the deviation stays as it is unless ``learn_std``."""

    core: edp_core.Core
    log_std: Learner
    value: Learner


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    core_key, value_key = jax.random.split(key)
    value = edp_core.value_network(hyper).init(value_key, spec.example()[0])
    return State(edp_core.init_core(core_key, spec, hyper), learner(jnp.zeros(spec.action_dim)), learner(value))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> DenoisingDraws:
    """Random numbers of one update."""
    return draw_denoising(key, hyper.diffusion_steps, (hyper.batch_size, spec.action_dim))


def v_value(value: Params, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``V(s)``, ``(...,)``."""
    return edp_core.value_network(hyper).apply(value, observation)[..., 0]


def value_loss(value: Params, q: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """Expectile regression of V on ``q``, ``(batch,)``."""
    v = v_value(value, hyper, batch.observation)
    loss = losses.expectile_loss(q - v, hyper.expectile)
    return loss, {"value/loss": loss, "value/v_mean": jnp.mean(v)}


def critic_target(value: Params, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * V(s')``, ``(batch,)``."""
    next_v = v_value(value, hyper, batch.next_observation)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_v)


def advantage_weight(advantage: jax.Array, hyper: Hyper) -> jax.Array:
    """``w`` of each row, ``(batch,)``."""
    if hyper.weighting == "softmax":
        return nn.softmax(hyper.beta * advantage)
    return jnp.minimum(jnp.exp(hyper.beta * advantage), hyper.max_weight)


def policy_loss(
    policy: edp_crr.Policy, advantage: jax.Array, draws: DenoisingDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``bc_weight * L_bc - guidance_weight * mean w log N(a; a^, std^2)``."""
    denoised = edp_core.denoise(policy.actor, draws, hyper, batch)
    log_std = edp_crr.deviation(policy.log_std, hyper.learn_std)
    log_prob = losses.gaussian_log_prob(batch.action, denoised.action, log_std)
    return edp_crr.weighted_cloning(denoised, advantage_weight(advantage, hyper), advantage, log_prob, hyper)


def update(
    draws: DenoisingDraws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of value, policy, critics and targets."""
    (batch,), old, clip = batches, state.core, hyper.max_grad_norm
    q = edp_core.min_q(old.target_critic, hyper, batch.observation, batch.action)
    value, metrics = learn(value_loss, state.value, hyper.value_lr, q, hyper, batch, clip=clip, name="value")

    advantage = q - v_value(value.params, hyper, batch.observation)
    data = (advantage, draws, hyper, batch)
    actor, log_std, policy_metrics = edp_crr.learn_policy(policy_loss, old.actor, state.log_std, step, hyper, *data)

    target = critic_target(value.params, hyper, batch)
    critic, critic_metrics = edp_core.update_critics(old.critic, target, hyper, batch)
    new = edp_core.update_targets(old._replace(actor=actor, critic=critic), step, hyper)
    return State(new, log_std, value), weigh(metrics | policy_metrics | critic_metrics)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), edp_core.act, edp_core.draw_action, edp_core.cost)
