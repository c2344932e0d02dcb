"""What Diffusion-QL, DiffCPS and DiffPoGAN share: nets, chain, critic step, Q term, evaluation.

Everything here follows Diffusion-QL (Wang et al. 2022, arXiv 2208.06193); its authors' files agents/diffusion.py,
agents/model.py and agents/ql_diffusion.py reappear, reformatted, in the other two programs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.bound import learned_log_variance, step_terms
from diffjax.diffusion.denoisers import Predictor, add_noise, epsilon_denoiser, x0_from_epsilon
from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising, noise_matching
from diffjax.diffusion.samplers import ChainNoise, chain, draw_chain_noise
from diffjax.methods import chain_policy
from diffjax.methods.base import ActingCost, Metrics, Scalars, static, traced, without_acting
from diffjax.methods.candidates import ActionDraws, softmax_choice, softmax_cost
from diffjax.nn.learners import Learner, copies, ema_rate, learn, learner, polyak
from diffjax.nn.networks import MLP, TORCH, Ensemble, NoiseNetwork, Params, chain_predictor, mish
from diffjax.types import Batch, Spec

NUM_CRITICS = 2
BOUND_WEIGHT = 1e-3
"""Of the variational bound beside the simple loss, where it teaches the covariance (Nichol & Dhariwal 2021, eq. 16)."""


@flax.struct.dataclass
class ActorHyper(chain_policy.ChainHyper):
    """Hyper-parameters of the diffusion policy alone; plain fields are traced, ``static`` ones are not."""

    actor_lr: float = traced(3e-4, above=0.0)
    max_action: float = traced(1.0, above=0.0)
    covariance: str = static("fixed", ("fixed", "learned"))  # of the reverse steps; the published programs fix it
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    time_dim: int = static(16, at_least=4, multiple_of=2)  # features of the time step
    batch_size: int = static(256, at_least=1)


@flax.struct.dataclass
class Hyper(ActorHyper):
    """Hyper-parameters that Diffusion-QL, DiffCPS and DiffPoGAN share."""

    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)  # Polyak rate of the target critic, every step
    critic_lr: float = traced(3e-4, above=0.0)
    max_grad_norm: float = traced(0.0, at_least=0.0)  # per network; 0 clips nothing
    ema_decay: float = traced(0.995, at_least=0.0, below=1.0)  # of the target actor
    ema_start: int = traced(1000, at_least=0)  # first step on which the target actor may move
    ema_interval: int = traced(5, at_least=1)
    lr_decay_epochs: float = traced(0.0, at_least=0.0)  # period of the cosine in 1000 steps; 0: constant rates
    max_q_backup: bool = static(False)
    target_samples: int = static(10, at_least=1)  # next actions per state under max_q_backup
    candidates: int = static(50, at_least=1, acting=True)


class Core(NamedTuple):
    """The part of the state that the three methods share."""

    actor: Learner
    target_actor: Params
    critic: Learner
    target_critic: Params


def actor_network(hyper: ActorHyper, action_dim: int) -> NoiseNetwork:
    """The noise predictor: input ``[action, time, observation]``, sines first, time index ``0..T-1``.

    With a learned covariance a second half of outputs says where the logarithm of the variance lies in its range.
    """
    order = ("action", "time", "observation")
    time_hidden_dims = (2 * hyper.time_dim, hyper.time_dim)
    outputs = action_dim if hyper.covariance == "fixed" else 2 * action_dim
    return NoiseNetwork(
        outputs, hyper.hidden_dims, TORCH, order, time_dim=hyper.time_dim, time_hidden_dims=time_hidden_dims
    )


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[observation, action]``."""
    return Ensemble(MLP(hyper.hidden_dims, 1, mish, TORCH), NUM_CRITICS)


def init_actor(key: jax.Array, spec: Spec, hyper: ActorHyper) -> Params:
    """Fresh parameters of the noise predictor."""
    observation, action = spec.example()
    return actor_network(hyper, spec.action_dim).init(key, action, jnp.zeros(()), observation)


def init_core(key: jax.Array, spec: Spec, hyper: Hyper) -> Core:
    """Fresh networks; the targets start as copies."""
    actor_key, critic_key = jax.random.split(key)
    actor = init_actor(actor_key, spec, hyper)
    critic = critics(hyper).init(critic_key, *spec.example())
    return Core(learner(actor), copies(actor), learner(critic), copies(critic))


def q_values(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Both critics, ``(2, ...)``; ``observation`` broadcasts against ``action``."""
    return critics(hyper).apply(critic, observation, action)


def predict(actor: Params, hyper: ActorHyper, x: jax.Array, index: jax.Array, observation: jax.Array) -> jax.Array:
    """The noise in ``x``, of its shape."""
    return actor_network(hyper, x.shape[-1]).apply(actor, x, index, observation)[..., : x.shape[-1]]


def denoise_and_vary(
    network: Predictor, hyper: ActorHyper, x: jax.Array, index: jax.Array, steps: int = 0
) -> tuple[jax.Array, jax.Array]:
    """``x_0`` and the learned logarithm of the variance of a reverse step, each of the shape of ``x``.

    ``network`` puts out both halves; ``steps`` are those that the chain takes, 0 for all.
    """
    schedule = chain_policy.schedule_of(hyper)
    epsilon, mix = jnp.split(network(x, index), 2, axis=-1)
    return x0_from_epsilon(schedule, x, index, epsilon), learned_log_variance(schedule, mix, index, steps)


def sample_actions(actor: Params, noise: ChainNoise, hyper: ActorHyper, observation: jax.Array) -> jax.Array:
    """Actions of the reverse chain, the ancestral one with posterior variance, and clipped ``x_0``.

    Shape of ``noise.start``, against which ``observation`` broadcasts: ``(batch, 1, observation_dim)`` for several
    samples per state. A learned covariance is that of ancestral chains; others use the denoised mean alone.
    """
    network, time = actor_network(hyper, noise.start.shape[-1]), jnp.arange(hyper.diffusion_steps)
    outputs = chain_predictor(network, actor, time, observation)
    if hyper.covariance == "learned" and hyper.sampler == "ancestral":
        learned = lambda x, index: denoise_and_vary(outputs, hyper, x, index, hyper.sampler_steps)  # noqa: E731
        action = chain(learned, chain_policy.chain_of(hyper, "learned"), noise, clip=hyper.max_action)[-1]
    else:
        predicted = lambda x, index: outputs(x, index)[..., : x.shape[-1]]  # noqa: E731
        denoiser = epsilon_denoiser(predicted, chain_policy.schedule_of(hyper))
        action = chain(denoiser, chain_policy.chain_of(hyper, "posterior"), noise, clip=hyper.max_action)[-1]
    return jnp.clip(action, -hyper.max_action, hyper.max_action)


def denoising_loss(actor: Params, draws: DenoisingDraws, hyper: ActorHyper, batch: Batch) -> jax.Array:
    """Behaviour cloning ``L_d`` per state, ``(batch,)``: the simplified DDPM loss at the data's actions.

    With a learned covariance a thousandth of the variational bound is added, whose gradient reaches the variance alone.
    """
    schedule = chain_policy.schedule_of(hyper)
    simple = noise_matching(
        lambda x, index: predict(actor, hyper, x, index, batch.observation), schedule, batch.action, draws
    )
    if hyper.covariance == "fixed":
        return simple
    x = add_noise(schedule, batch.action, draws.time_index, draws.noise)
    network = actor_network(hyper, x.shape[-1])
    both = lambda x, index: network.apply(actor, x, index, batch.observation)  # noqa: E731
    x_0, log_variance = denoise_and_vary(both, hyper, x, draws.time_index)
    clipped = jax.lax.stop_gradient(jnp.clip(x_0, -hyper.max_action, hyper.max_action))
    terms = step_terms(schedule, batch.action, x, draws.time_index, clipped, log_variance)
    return simple + BOUND_WEIGHT * schedule.num_steps * jnp.mean(terms, axis=-1)


def draw_next_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ChainNoise:
    """Chain noise for the critic's target: one action per state, or ``target_samples`` under ``max_q_backup``."""
    samples = (hyper.target_samples,) if hyper.max_q_backup else ()
    return draw_chain_noise(key, hyper.diffusion_steps, (hyper.batch_size, *samples, spec.action_dim))


def sample_next_actions(actor: Params, noise: ChainNoise, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One action per state ``(batch, action_dim)``, or ``(batch, target_samples, action_dim)``, as the noise asks."""
    if noise.start.ndim == 3:
        observation = observation[:, None]
    return sample_actions(actor, noise, without_acting(hyper), observation)


def critic_target(target_critic: Params, next_action: jax.Array, hyper: Hyper, batch: Batch) -> jax.Array:
    """``r + discount * not_done * min_j Q'_j(s', a')``, ``(batch,)``.

    Under ``max_q_backup`` the maximum over the samples is taken inside each critic, before the minimum.
    """
    if next_action.ndim == 3:
        samples = q_values(target_critic, hyper, batch.next_observation[:, None], next_action)
        next_q = losses.max_over_samples(samples)
    else:
        next_q = q_values(target_critic, hyper, batch.next_observation, next_action)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, losses.ensemble_min(next_q))


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean (Q_1 - y)^2 + mean (Q_2 - y)^2``."""
    q = q_values(critic, hyper, batch.observation, batch.action)
    loss = jnp.sum(losses.squared_error(q, target))
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(q), "critic/target_mean": jnp.mean(target)}


def update_critic(
    critic: Learner, target: jax.Array, step: jax.Array, hyper: Hyper, batch: Batch, calls_per_block: int = 1
) -> tuple[Learner, Scalars]:
    """One Adam step of both critics, clipped jointly."""
    rate = hyper.critic_lr * block_cosine(step, hyper.lr_decay_epochs, calls_per_block)
    return learn(critic_loss, critic, rate, target, hyper, batch, clip=hyper.max_grad_norm, name="critic")


def update_targets(core: Core, step: jax.Array, hyper: Hyper) -> Core:
    """Target actor on every ``ema_interval``-th step from ``ema_start``, target critic on every step.

    Until ``ema_start`` the target actor stays at its random initialisation, as in the authors' program.
    """
    rate = ema_rate(step, 1.0 - hyper.ema_decay, hyper.ema_start, hyper.ema_interval)
    return core._replace(
        target_actor=polyak(core.target_actor, core.actor.params, rate),
        target_critic=polyak(core.target_critic, core.critic.params, hyper.tau),
    )


EPOCH = 1000
BLOCK = 50 * EPOCH  # the authors step their schedulers once per evaluation block of 50 epochs


def block_cosine(step: jax.Array, period_epochs: jax.Array | float, calls_per_block: int = 1) -> jax.Array:
    """Factor of the learning rate: ``(1 + cos(pi k / period_epochs)) / 2``, ``k = calls_per_block * (step // 50000)``.

    The period counts epochs but the clock counts blocks, so that a whole run loses 0.1 %: a slip of the authors'
    programs that the published numbers contain. 1 where ``period_epochs <= 0``.
    """
    calls = calls_per_block * (step // BLOCK)
    period = jnp.asarray(period_epochs, jnp.float32)
    factor = 0.5 * (1.0 + jnp.cos(jnp.pi * calls / jnp.where(period > 0, period, 1.0)))
    return jnp.where(period > 0, factor, 1.0)


class PolicyDraws(NamedTuple):
    """Random numbers of one actor step: denoising loss, one chain per state, and the coin that picks the critic."""

    denoising: DenoisingDraws
    chain: ChainNoise
    coin: jax.Array


def draw_policy(key: jax.Array, spec: Spec, hyper: Hyper) -> PolicyDraws:
    """Draws of one actor step."""
    denoising_key, chain_key, coin_key = jax.random.split(key, 3)
    shape = (hyper.batch_size, spec.action_dim)
    return PolicyDraws(
        draw_denoising(denoising_key, hyper.diffusion_steps, shape),
        draw_chain_noise(chain_key, hyper.diffusion_steps, shape),
        jax.random.uniform(coin_key),
    )


class Draws(NamedTuple):
    """Random numbers of one update of critic and actor."""

    next_action: ChainNoise
    policy: PolicyDraws


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update of critic and actor."""
    next_key, policy_key = jax.random.split(key)
    return Draws(draw_next_action(next_key, spec, hyper), draw_policy(policy_key, spec, hyper))


def q_term(
    actor: Params, critic: Params, draws: PolicyDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """``L_q`` at one fresh action per state, with its gradient through the whole chain, and those actions."""
    action = sample_actions(actor, draws.chain, without_acting(hyper), batch.observation)
    return losses.normalized_q_loss(q_values(critic, hyper, batch.observation, action), draws.coin), action


def with_backup(update_towards: Callable[..., tuple[Any, Metrics]]) -> Callable[..., tuple[Any, Metrics]]:
    """The update whose critics learn :func:`critic_target` at next actions of the target actor.

    ``update_towards(target, draws, step, state, hyper, batch)`` is the update for given targets; a bandit's are its
    rewards. ``state`` is any tuple with a :class:`Core` called ``core``.
    """

    def update(
        draws: Draws, step: jax.Array, state: Any, hyper: Any, batches: tuple[Batch, ...]
    ) -> tuple[Any, Metrics]:
        (batch,), core = batches, state.core
        next_action = sample_next_actions(core.target_actor, draws.next_action, hyper, batch.next_observation)
        target = critic_target(core.target_critic, next_action, hyper, batch)
        return update_towards(target, draws, step, state, hyper, batch)

    return update


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ActionDraws:
    """Draws of one decision: ``noise`` is that of the candidates' chains."""
    chain_key, uniform_key = jax.random.split(key)
    noise = chain_policy.draw_chain(chain_key, hyper, (hyper.candidates, spec.action_dim))
    return ActionDraws(noise, jax.random.uniform(uniform_key))


def act(draws: ActionDraws, spec: Spec, state: Any, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """A candidate of the online actor, drawn from the softmax of its raw value, the minimum of the target critics."""
    chex.assert_shape(observation, (spec.observation_dim,))
    core = state.core
    action = sample_actions(core.actor.params, draws.noise, hyper, observation)
    value = losses.ensemble_min(q_values(core.target_critic, hyper, observation, action))
    return softmax_choice(action, value, draws.uniform)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    cost = softmax_cost(hyper.candidates, chain_policy.chain_steps(hyper))
    return cost._replace(selection=chain_policy.chain_selection(cost.selection, hyper))
