"""DAC, Diffusion Actor-Critic (Fang et al. 2024, arXiv 2405.20555).

One update step, in the published order (authors' agents/dac.py); ``Q_h`` is an ensemble of critics:

1. critic: ``target_samples`` next actions from the target actor; reduced over samples inside each target critic
   (mean, or max), then over the ensemble: ``V(s') = mean_h v_h - rho std_h v_h`` (LCB);
   ``y = r + discount not_done V(s')``; Adam on ``mean_{h,b} (Q_h - y)^2``.
2. target critic, on every step.
3. actor: ``L = eta L_BC + mean(sqrt(1 - alpha_bar_t) g epsilon_theta)`` (soft guidance), ``L_BC`` the denoising loss,
   ``g = grad_x mean_h Q'_h(s, x_t) / (mean |Q'_h(s, a)| + 1e-6)`` at the noisy action, with the target just updated.
4. dual ascent: ``eta <- clip(eta + eta_lr clip(L_BC - bc_threshold, -1, 1), eta_min, eta_max)``; ``eta_lr = 0`` fixes
   it.
5. target actor, on every 5th step from step 1001.

Where the paper and the authors' code differ, this follows the code: the reverse chain adds ``sqrt(beta_t) z`` and not
the posterior's noise; the squared loss is a mean over dimensions, so that ``bc_threshold = 1`` hardly binds and ``eta``
falls to 1e-3; ``L_BC`` in step 4 is the one just minimised, of the actor as it was. A minibatch comes from shuffled
passes; the short batch at the end of a pass is dropped (authors: kept).
"""

from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.denoisers import add_noise, at_index, epsilon_denoiser
from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising
from diffjax.diffusion.samplers import ChainNoise, chain, draw_chain_noise
from diffjax.methods import chain_policy
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, static, traced, weigh, without_acting
from diffjax.methods.candidates import tempered_choice
from diffjax.nn.learners import Learner, copies, cosine_decay, ema_rate, learn, learner, polyak
from diffjax.nn.networks import GLOROT, MLP, Ensemble, NoiseNetwork, Params, chain_predictor, mish
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(chain_policy.ChainHyper):
    """Hyper-parameters of DAC; plain fields are traced, ``static`` ones are not."""

    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)  # Polyak rate of the target critic and of the target actor
    rho: float = traced(1.0, at_least=0.0)  # width of the lower confidence bound; mixing weight of the convex target
    eta: float = traced(1.0, at_least=0.0)  # initial weight of behaviour cloning
    eta_lr: float = traced(1e-3, at_least=0.0)  # 0 keeps eta
    eta_min: float = traced(1e-3, at_least=0.0, at_most="eta_max")
    eta_max: float = traced(100.0, above=0.0)
    bc_threshold: float = traced(1.0, at_least=0.0)
    actor_lr: float = traced(3e-4, above=0.0)
    critic_lr: float = traced(3e-4, above=0.0)
    lr_decay_steps: float = traced(2e6, at_least=0.0)  # cosine to zero; 0 keeps the rates constant
    max_grad_norm: float = traced(1.0, at_least=0.0)  # joint over all critics
    ema_start: int = traced(1001, at_least=0)
    ema_interval: int = traced(5, at_least=1)
    max_action: float = traced(1.0, above=0.0)
    temperature: float = traced(0.0, at_least=0.0, acting=True)  # of the choice among candidates; 0 takes the best
    guidance: str = static("soft", ("soft", "hard", "denoised"))
    ensemble_target: str = static("lcb", ("lcb", "min", "convex", "rand_convex"))
    sample_target: str = static("mean", losses.SAMPLE_REDUCTIONS)
    num_critics: int = static(10, at_least=1)
    target_samples: int = static(10, at_least=1)
    candidates: int = static(10, at_least=1, acting=True)
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    batch_size: int = static(256, at_least=1)


class State(NamedTuple):
    """What DAC learns."""

    actor: Learner
    target_actor: Params
    critic: Learner  # leading axis num_critics on every array
    target_critic: Params
    eta: jax.Array


class Draws(NamedTuple):
    """Random numbers of one update."""

    next_action: ChainNoise
    denoising: DenoisingDraws
    chain: ChainNoise | None  # for denoised guidance
    mixing: jax.Array | None  # (num_critics, batch) uniform, for the rand_convex target


def actor_network(hyper: Hyper, action_dim: int) -> NoiseNetwork:
    """The noise predictor: input ``[observation, action, time]``, cosines first, time ``1..T``."""
    order = ("observation", "action", "time")
    return NoiseNetwork(action_dim, hyper.hidden_dims, GLOROT, order, time_hidden_dims=(32, 32), cos_first=True)


def critics(hyper: Hyper) -> Ensemble:
    """The ensemble of Q networks on ``[observation, action]``."""
    return Ensemble(MLP(hyper.hidden_dims, 1, mish, GLOROT), hyper.num_critics)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the targets start as copies."""
    actor_key, critic_key = jax.random.split(key)
    observation, action = spec.example()
    actor = actor_network(hyper, spec.action_dim).init(actor_key, action, jnp.zeros(()), observation)
    critic = critics(hyper).init(critic_key, observation, action)
    return State(learner(actor), copies(actor), learner(critic), copies(critic), jnp.asarray(hyper.eta, jnp.float32))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    next_key, denoising_key, chain_key, mixing_key = jax.random.split(key, 4)
    shape = (hyper.batch_size, spec.action_dim)
    next_shape = (hyper.batch_size, hyper.target_samples, spec.action_dim)
    mixing_shape = (hyper.num_critics, hyper.batch_size)
    return Draws(
        draw_chain_noise(next_key, hyper.diffusion_steps, next_shape),
        draw_denoising(denoising_key, hyper.diffusion_steps, shape),
        draw_chain_noise(chain_key, hyper.diffusion_steps, shape) if hyper.guidance == "denoised" else None,
        jax.random.uniform(mixing_key, mixing_shape) if hyper.ensemble_target == "rand_convex" else None,
    )


def q_values(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """All critics, ``(num_critics, ...)``; ``observation`` broadcasts against ``action``."""
    return critics(hyper).apply(critic, observation, action)


def predict_noise(actor: Params, hyper: Hyper, x: jax.Array, index: jax.Array, observation: jax.Array) -> jax.Array:
    """``epsilon_theta(x, s, t)``; the network counts time from 1, the schedule's index from 0."""
    return actor_network(hyper, x.shape[-1]).apply(actor, x, index + 1, observation)


def sample_actions(actor: Params, noise: ChainNoise, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """Actions of the reverse chain, the ancestral one with variance ``beta_t``, and clipped ``x_0``.

    Shape of ``noise.start``.
    """
    network, time = actor_network(hyper, noise.start.shape[-1]), jnp.arange(1, hyper.diffusion_steps + 1)
    predicted = chain_predictor(network, actor, time, observation)
    denoiser = epsilon_denoiser(predicted, chain_policy.schedule_of(hyper))
    return chain(denoiser, chain_policy.chain_of(hyper, "beta"), noise, clip=hyper.max_action)[-1]


def critic_target(draws: Draws, state: State, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * V(s')``, ``(batch,)``, shared by all members."""
    observation = batch.next_observation[:, None]
    next_action = sample_actions(state.target_actor, draws.next_action, without_acting(hyper), observation)
    samples = q_values(state.target_critic, hyper, observation, next_action)
    values = losses.SAMPLE_REDUCTIONS[hyper.sample_target](samples)
    next_value = losses.ENSEMBLE_REDUCTIONS[hyper.ensemble_target](values, hyper.rho, draws.mixing)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_value)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean_{h,b} (Q_h(s, a) - y)^2``."""
    q = q_values(critic, hyper, batch.observation, batch.action)
    loss = jnp.mean(losses.squared_error(q, target))
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(q), "critic/target_mean": jnp.mean(target)}


def guide(
    actor: Params, target_critic: Params, x: jax.Array, epsilon: jax.Array, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """Guidance term of the actor loss: ``soft``, ``hard`` (weight 1) or ``denoised`` (``-mean Q`` of a full sample).

    Args:
      x: noisy actions; epsilon: the noise predicted there.
    """
    value = lambda action: q_values(target_critic, hyper, batch.observation, action)  # noqa: E731
    guidance = losses.q_guidance(value, x, value(batch.action))
    if draws.chain is not None:
        action = sample_actions(actor, draws.chain, without_acting(hyper), batch.observation)
        loss = -jnp.mean(value(action)) / (guidance.scale + 1e-6)
    else:
        alpha_bar = chain_policy.schedule_of(hyper).alpha_bar
        soft = jnp.sqrt(1.0 - at_index(alpha_bar, draws.denoising.time_index, x.ndim))
        weight = {"soft": soft, "hard": jnp.ones_like(soft)}[hyper.guidance]
        loss = losses.guidance_loss(guidance.gradient, epsilon, weight)
    return loss, {
        "actor/guidance": loss,
        "actor/q_scale": guidance.scale,
        "actor/q_gradient": jnp.mean(jnp.abs(guidance.gradient)),
    }


def actor_loss(
    actor: Params, target_critic: Params, eta: jax.Array, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``eta * L_BC + guidance``."""
    chex.assert_equal_shape([batch.action, draws.denoising.noise])
    schedule = chain_policy.schedule_of(hyper)
    index, noise = draws.denoising
    x = add_noise(schedule, batch.action, index, noise)
    epsilon = predict_noise(actor, hyper, x, index, batch.observation)
    bc = jnp.mean((epsilon - noise) ** 2)
    guidance, metrics = guide(actor, target_critic, x, epsilon, draws, hyper, batch)
    loss = eta * bc + guidance
    return loss, metrics | {"actor/loss": loss, "actor/bc": bc}


def ascend_eta(eta: jax.Array, bc: jax.Array, hyper: Hyper) -> jax.Array:
    """``clip(eta + eta_lr * clip(bc - bc_threshold, -1, 1), eta_min, eta_max)``; unchanged where ``eta_lr`` is 0."""
    moved = eta + hyper.eta_lr * jnp.clip(bc - hyper.bc_threshold, -1.0, 1.0)
    return jnp.where(jnp.asarray(hyper.eta_lr) > 0, jnp.clip(moved, hyper.eta_min, hyper.eta_max), eta)


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critics, actor, dual variable and targets."""
    (batch,) = batches
    return update_towards(critic_target(draws, state, hyper, batch), draws, step, state, hyper, batch)


def update_towards(
    target: jax.Array, draws: Draws, step: jax.Array, state: State, hyper: Hyper, batch: Batch
) -> tuple[State, Metrics]:
    """The update for given targets ``y`` of the critics, ``(batch,)``; a bandit's are its rewards."""
    decay, clip = cosine_decay(step, hyper.lr_decay_steps), hyper.max_grad_norm
    given = (hyper.critic_lr * decay, target, hyper, batch)
    critic, critic_metrics = learn(critic_loss, state.critic, *given, clip=clip, name="critic")
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)

    data = (hyper.actor_lr * decay, target_critic, state.eta, draws, hyper, batch)
    actor, actor_metrics = learn(actor_loss, state.actor, *data, clip=clip, name="actor")
    eta = ascend_eta(state.eta, actor_metrics["actor/bc"], hyper)

    rate = ema_rate(step, hyper.tau, hyper.ema_start, hyper.ema_interval)
    target_actor = polyak(state.target_actor, actor.params, rate)
    metrics = critic_metrics | actor_metrics | {"dual/eta": state.eta}
    return State(actor, target_actor, critic, target_critic, eta), weigh(metrics)


class ActionDraws(NamedTuple):
    """Random numbers of one decision."""

    chain: ChainNoise
    gumbel: jax.Array  # (candidates,), used only at a positive temperature


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ActionDraws:
    """Draws of one decision."""
    chain_key, gumbel_key = jax.random.split(key)
    noise = chain_policy.draw_chain(chain_key, hyper, (hyper.candidates, spec.action_dim))
    return ActionDraws(noise, jax.random.gumbel(gumbel_key, (hyper.candidates,)))


def act(draws: ActionDraws, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The candidate with the largest mean over the target critics (no lower bound at action time)."""
    chex.assert_shape(observation, (spec.observation_dim,))
    action = sample_actions(state.actor.params, draws.chain, hyper, observation)
    value = jnp.mean(q_values(state.target_critic, hyper, observation, action), axis=0)
    return tempered_choice(action, value, draws.gumbel, hyper.temperature)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    rule = chain_policy.chain_selection(f"argmax of mean target Q over {hyper.candidates}", hyper)
    return ActingCost(hyper.candidates, chain_policy.chain_steps(hyper), rule)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, draw_action, cost)
