"""EDP, efficient diffusion policies (Kang et al. 2023, arXiv 2305.20081), with TD3's policy improvement.

One update step, in the order of the authors' program (diffusion/dql.py, revision b019648); ``a^`` is the action that
one pass of the noise predictor at a noised action of the data implies (:func:`edp_core.denoise`):

1. critics: ``y = r + discount * not_done * min_j Q'_j(s', a')``, ``a'`` a full sample of the target policy; under
   ``max_q_backup`` several clipped samples, of whose values the largest inside each critic counts. Each critic has an
   Adam step and a clip of its own.
2. policy: ``L = L_bc - guidance_weight * alpha mean Q_i(s, a^) / sg(mean |Q_i(s, a^)|)`` with the critics as they were
   before step 1, ``i`` by a fair coin; ``L_bc`` is the denoising loss of the same pass. No chain is differentiated.
3. target critics, with the new critics, and on every 5th update from the 1005th the target policy.

``edp_crr.py`` and ``edp_iql.py`` have the other two policy improvements of the paper, as variants of this method.

Where paper and program differ: the paper's settings are the default, because its tables were made with them: 1000
diffusion steps and third-order DPM-Solver with 15 evaluations, 10 candidates, gradients clipped to 5 on locomotion and
half the updates elsewhere. The paper was read in a third party's extraction, which has its tables of locomotion alone;
clipping norms of other tasks are the program's. What the program runs without flags is the variant ``code``: 100 steps
and the ancestral chain, 50 candidates, 2000 epochs everywhere, clipping norms that it takes from Diffusion-QL's table;
of that table it reads nothing else, so that ``alpha`` is 2 and ``max_q_backup`` off on every task. Both rescale the
linear betas by the number of steps. The solver bounds each prediction with the coefficients of a truncated step
(:func:`edp_core.solver_times`); its samples may leave the bounds and enter the critics' targets as they are.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising
from diffjax.diffusion.samplers import ChainNoise
from diffjax.methods import edp_core as core
from diffjax.methods.base import Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import cosine_decay, learn
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class BackupHyper(core.Hyper):
    """Hyper-parameters of a critic that learns from samples of the target policy."""

    max_q_backup: bool = static(False)
    target_samples: int = static(10, at_least=1)  # next actions per state under max_q_backup
    target_rank: int = static(1, at_least=1, at_most="target_samples")  # of the value among them: 1 is the largest


@flax.struct.dataclass
class Hyper(BackupHyper):
    """The hyper-parameter of TD3's policy improvement."""

    alpha: float = traced(2.0, at_least=0.0)  # weight of the normalised Q


class State(NamedTuple):
    """What EDP with TD3 learns."""

    core: core.Core


class Draws(NamedTuple):
    """Random numbers of one update; ``coin`` picks the critic that guides."""

    next_action: ChainNoise
    denoising: DenoisingDraws
    coin: jax.Array


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    return State(core.init_core(key, spec, hyper))


def draw_next_action(key: jax.Array, spec: Spec, hyper: BackupHyper) -> ChainNoise:
    """Noise for the critics' target: one action per state, or ``target_samples`` under ``max_q_backup``."""
    samples = (hyper.target_samples,) if hyper.max_q_backup else ()
    return core.draw_sampling(key, core.as_trained(hyper), (hyper.batch_size, *samples, spec.action_dim))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    next_key, denoising_key, coin_key = jax.random.split(key, 3)
    denoising = draw_denoising(denoising_key, hyper.diffusion_steps, (hyper.batch_size, spec.action_dim))
    return Draws(draw_next_action(next_key, spec, hyper), denoising, jax.random.uniform(coin_key))


def next_actions(target_actor: Params, noise: ChainNoise, hyper: BackupHyper, batch: Batch) -> jax.Array:
    """Samples of the target policy, as ``noise`` asks for; several per state are clipped, a single one is not."""
    trained = core.as_trained(hyper)
    if noise.start.ndim == 2:
        return core.sample_actions(target_actor, noise, trained, batch.next_observation)
    action = core.sample_actions(target_actor, noise, trained, batch.next_observation[:, None])
    return jnp.clip(action, -hyper.max_action, hyper.max_action)


def critic_target(target_critic: Params, next_action: jax.Array, hyper: BackupHyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * min_j Q'_j(s', a')``, ``(batch,)``."""
    if next_action.ndim == 3:
        samples = core.q_values(target_critic, hyper, batch.next_observation[:, None], next_action)
        next_q = losses.ensemble_min(losses.largest_over_samples(samples, hyper.target_rank))
    else:
        next_q = core.min_q(target_critic, hyper, batch.next_observation, next_action)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_q)


def actor_loss(actor: Params, critic: Params, draws: Draws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``L_bc - guidance_weight * alpha mean Q_i(s, a^) / sg(mean |Q_i(s, a^)|)``."""
    denoised = core.denoise(actor, draws.denoising, hyper, batch)
    first, second = core.q_values(critic, hyper, batch.observation, denoised.action)
    q = jnp.where(draws.coin > 0.5, first, second)
    weight = hyper.alpha / jax.lax.stop_gradient(jnp.mean(jnp.abs(q)))
    bc, guidance = jnp.mean(denoised.error), -weight * jnp.mean(q)
    loss = bc + hyper.guidance_weight * guidance
    return loss, {"actor/loss": loss, "actor/bc": bc, "actor/guidance": guidance, "actor/q_weight": weight}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critics, policy and targets."""
    (batch,), old = batches, state.core
    next_action = next_actions(old.target_actor, draws.next_action, hyper, batch)
    target = critic_target(old.target_critic, next_action, hyper, batch)
    critic, metrics = core.update_critics(old.critic, target, hyper, batch)

    rate = hyper.actor_lr * cosine_decay(step, hyper.lr_decay_steps)
    data = (old.critic.params, draws, hyper, batch)
    actor, actor_metrics = learn(actor_loss, old.actor, rate, *data, clip=hyper.max_grad_norm, name="actor")
    new = core.update_targets(old._replace(actor=actor, critic=critic), step, hyper)
    return State(new), weigh(metrics | actor_metrics)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), core.act, core.draw_action, core.cost)
