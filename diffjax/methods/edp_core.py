"""What EDP's three learners share: nets, action approximation, samplers, critic step, policy's target, evaluation.

Everything here follows Kang et al. 2023, arXiv 2305.20081 (authors' diffusion/dql.py, diffusion/nets.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffjax import losses
from diffjax.diffusion.denoisers import add_noise, epsilon_denoiser, epsilon_from_x0, x0_from_epsilon
from diffjax.diffusion.dpm_solver import Plan, Solution, dpm_solver, dpm_solver_plan, third_orders
from diffjax.diffusion.objectives import DenoisingDraws
from diffjax.diffusion.samplers import ChainNoise, chain, draw_chain_noise
from diffjax.diffusion.schedules import BETAS, DiscreteSchedule, interpolated_vp
from diffjax.errors import UserError
from diffjax.methods import chain_policy
from diffjax.methods.base import ActingCost, Scalars, static, traced
from diffjax.methods.candidates import gumbel_choice, softmax_cost
from diffjax.nn.learners import Learner, copies, ema_rate, learn_each, learner, learners, polyak
from diffjax.nn.networks import FLAX_NORM_EPSILON, LECUN, MLP, Ensemble, NoiseNetwork, Params, mish
from diffjax.types import Batch, Spec

NUM_CRITICS = 2


SAMPLERS = ("dpm", *chain_policy.SAMPLERS)


@flax.struct.dataclass
class Hyper(chain_policy.ChainHyper):
    """Hyper-parameters that EDP's learners share; plain fields are traced, ``static`` ones are not."""

    guidance_weight: float = traced(1.0, at_least=0.0)  # of the guiding loss beside behaviour cloning
    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)  # of the target critics, and of the target policy where it moves
    actor_lr: float = traced(3e-4, above=0.0)
    critic_lr: float = traced(3e-4, above=0.0)
    lr_decay_steps: float = traced(0.0, at_least=0.0)  # cosine of the policy's rate to zero; 0: constant
    max_grad_norm: float = traced(5.0, at_least=0.0)  # of each network by itself, both critics apart; 0 clips nothing
    ema_start: int = traced(1001, at_least=0)  # first update, counted from 1, after which the target policy may move
    ema_interval: int = traced(5, at_least=1)
    max_action: float = traced(1.0, above=0.0)
    diffusion_steps: int = static(1000, at_least=2)
    schedule: str = static("scaled_linear", BETAS)
    target_sampler: str = static("dpm", SAMPLERS)  # of the next actions of the critics' targets
    target_steps: int = static(15, at_least=1)  # evaluations of the network by dpm; the others take diffusion_steps
    sampler: str = static("dpm", SAMPLERS, acting=True)  # sampler_steps=0: target_steps of dpm, all of others
    end_time: float = static(1e-3, above=0.0, below=1.0)  # at which dpm stops, in units of all diffusion steps
    candidates: int = static(10, at_least=1, acting=True)
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    actor_layer_norm: bool = static(False)
    critic_layer_norm: bool = static(False)
    batch_size: int = static(256, at_least=1)


class Core(NamedTuple):
    """The part of the state that the learners share."""

    actor: Learner
    target_actor: Params
    critic: Learner  # leading axis 2 on every array, of the optimiser too
    target_critic: Params


def actor_network(hyper: Hyper, action_dim: int) -> NoiseNetwork:
    """The noise predictor: input ``[observation, action, time]``, cosines first, time index ``0..T-1``."""
    return NoiseNetwork(
        action_dim,
        hyper.hidden_dims,
        LECUN,
        input_order=("observation", "action", "time"),
        cos_first=True,
        time_endpoint=False,
        layer_norm=hyper.actor_layer_norm,
        norm_epsilon=FLAX_NORM_EPSILON,
    )


def value_network(hyper: Hyper) -> MLP:
    """One critic on ``[observation, action]``, or V on the observation."""
    return MLP(hyper.hidden_dims, 1, mish, LECUN, layer_norm=hyper.critic_layer_norm, norm_epsilon=FLAX_NORM_EPSILON)


def q_values(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Both critics, ``(2, ...)``; ``observation`` broadcasts against ``action``."""
    return Ensemble(value_network(hyper), NUM_CRITICS).apply(critic, observation, action)


def min_q(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``min_j Q_j(s, a)``, ``(...,)``."""
    return losses.ensemble_min(q_values(critic, hyper, observation, action))


def init_core(key: jax.Array, spec: Spec, hyper: Hyper) -> Core:
    """Fresh networks; the targets start as copies."""
    actor_key, critic_key = jax.random.split(key)
    observation, action = spec.example()
    actor = actor_network(hyper, spec.action_dim).init(actor_key, action, jnp.zeros(()), observation)
    critic = Ensemble(value_network(hyper), NUM_CRITICS).init(critic_key, observation, action)
    return Core(learner(actor), copies(actor), learners(critic), copies(critic))


class Denoised(NamedTuple):
    """One pass of the noise predictor at a noised action of the data."""

    epsilon: jax.Array  # (batch, action_dim)
    error: jax.Array  # (batch,): mean squared error of the noise, of which behaviour cloning is the mean
    action: jax.Array  # (batch, action_dim): the action approximation, for the guiding loss


def denoise(actor: Params, draws: DenoisingDraws, hyper: Hyper, batch: Batch) -> Denoised:
    """Behaviour cloning and action approximation from the same index, noise and pass.

    ``a^ = clip(sqrt(1 / alpha_bar_t) x_t - sqrt(1 / alpha_bar_t - 1) epsilon(x_t, s, t))``, through which gradients
    flow where the clip does not saturate.
    """
    chex.assert_equal_shape([batch.action, draws.noise])
    schedule = chain_policy.schedule_of(hyper)
    x = add_noise(schedule, batch.action, draws.time_index, draws.noise)
    epsilon = actor_network(hyper, x.shape[-1]).apply(actor, x, draws.time_index, batch.observation)
    action = x0_from_epsilon(schedule, x, draws.time_index, epsilon)
    error = jnp.mean((epsilon - draws.noise) ** 2, axis=-1)
    return Denoised(epsilon, error, jnp.clip(action, -hyper.max_action, hyper.max_action))


def solver_times(start: float, end: float, orders: tuple[int, ...]) -> np.ndarray:
    """Falling times of a solver, in float32: steps of equal length per evaluation, each divided equally in itself.

    The authors' array library divides by multiplying with the rounded reciprocal, and what is truncated later depends
    on that last bit.
    """
    one = np.float32(1.0)

    def divided(first: np.float32, last: np.float32, intervals: int) -> np.ndarray:
        share = np.arange(intervals, dtype=np.float32) * (one / np.float32(intervals))
        return np.append(first * (one - share) + last * share, last)

    outer = divided(np.float32(start), np.float32(end), sum(orders))[np.cumsum([0, *orders])]
    pieces = [divided(outer[i], outer[i + 1], order)[:-1] for i, order in enumerate(orders)]
    return np.concatenate([*pieces, outer[-1:]])


class Levels(NamedTuple):
    """What the predictor gets at each evaluation of the solver, ``(evaluations,)``."""

    time: jax.Array  # of the network, in steps, no whole number
    step: jax.Array  # the time truncated: the step whose coefficients bound the clean action


def as_trained(hyper: Hyper) -> Hyper:
    """The same with the sampler of the targets in the place of that of acting."""
    steps = hyper.target_steps if hyper.target_sampler == "dpm" else 0
    return hyper.replace(sampler=hyper.target_sampler, sampler_steps=steps, ddim_eta=0.0)  # type: ignore[attr-defined]


def evaluations(hyper: Hyper) -> int:
    """How often the network is evaluated for a sample."""
    return hyper.sampler_steps or (hyper.target_steps if hyper.sampler == "dpm" else hyper.diffusion_steps)


def solver_plan(hyper: Hyper) -> tuple[Plan, Levels]:
    """DPM-Solver's steps from time 1 to ``end_time`` in the noise form, order 3 wherever the evaluations allow it.

    Raises:
      UserError: the end lies before the first diffusion step, where the schedule that goes on there has no noise.
    """
    if hyper.end_time * hyper.diffusion_steps < 1.0 - 1e-6:
        raise UserError(f"sampler=dpm ends at {hyper.end_time}; diffusion_steps must be at least {1 / hyper.end_time}")
    orders = third_orders(evaluations(hyper))
    times = solver_times(1.0, hyper.end_time, orders)
    steps = np.float32(hyper.diffusion_steps)
    time = (times[:-1] - np.float32(1.0) / steps) * steps
    schedule = interpolated_vp(chain_policy.schedule_of(hyper))
    plan = dpm_solver_plan(schedule, times.astype(np.float64), orders, "noise")
    return plan, Levels(jnp.asarray(time), jnp.asarray(time.astype(np.int32)))


def solve(predict: Callable[..., jax.Array], start: jax.Array, schedule: DiscreteSchedule, hyper: Hyper) -> Solution:
    """DPM-Solver's way from ``start``; every prediction is clipped to one whose clean action is within bounds.

    The sample itself is clipped by nothing.
    """

    def bounded(x: jax.Array, at: Any) -> jax.Array:
        x_0 = x0_from_epsilon(schedule, x, at.step, predict(x, at.time))
        return epsilon_from_x0(schedule, x, at.step, jnp.clip(x_0, -hyper.max_action, hyper.max_action))

    plan, levels = solver_plan(hyper)
    return dpm_solver(bounded, plan, start, levels)


def sample_actions(actor: Params, noise: ChainNoise, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """Actions by the configured sampler, of the shape of ``noise.start``; those of ``dpm`` may leave the bounds.

    ``observation`` broadcasts against the actions: ``(batch, 1, observation_dim)`` for several samples per state.
    """
    schedule = chain_policy.schedule_of(hyper)
    network = actor_network(hyper, noise.start.shape[-1])
    predict = lambda x, time: network.apply(actor, x, time, observation)  # noqa: E731
    if hyper.sampler == "dpm":
        return solve(predict, noise.start, schedule, hyper).sample
    denoiser = epsilon_denoiser(predict, schedule)
    return chain(denoiser, chain_policy.chain_of(hyper, "posterior"), noise, clip=hyper.max_action)[-1]


def draw_sampling(key: jax.Array, hyper: Hyper, shape: tuple[int, ...]) -> ChainNoise:
    """Random numbers of the configured sampler; of ``dpm`` the start alone."""
    return draw_chain_noise(key, 0, shape) if hyper.sampler == "dpm" else chain_policy.draw_chain(key, hyper, shape)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean (Q(s, a) - y)^2`` of one critic."""
    q = value_network(hyper).apply(critic, batch.observation, batch.action)[..., 0]
    loss = jnp.mean((q - target) ** 2)
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(q), "critic/target_mean": jnp.mean(target)}


def update_critics(critic: Learner, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[Learner, Scalars]:
    """One Adam step of each critic by itself."""
    data = (hyper.critic_lr, target, hyper, batch)
    return learn_each(critic_loss, critic, *data, clip=hyper.max_grad_norm, name="critic")


def update_targets(core: Core, step: jax.Array, hyper: Hyper) -> Core:
    """Target critics on every step, the target policy on every ``ema_interval``-th from ``ema_start``, from 1."""
    rate = ema_rate(step + 1, hyper.tau, hyper.ema_start, hyper.ema_interval)
    return core._replace(
        target_actor=polyak(core.target_actor, core.actor.params, rate),
        target_critic=polyak(core.target_critic, core.critic.params, hyper.tau),
    )


class ActionDraws(NamedTuple):
    """Random numbers of one decision: of the candidates' samples, and ``(candidates,)`` that choose."""

    sampling: ChainNoise
    gumbel: jax.Array


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ActionDraws:
    """Draws of one decision."""
    sampling_key, gumbel_key = jax.random.split(key)
    sampling = draw_sampling(sampling_key, hyper, (hyper.candidates, spec.action_dim))
    return ActionDraws(sampling, jax.random.gumbel(gumbel_key, (hyper.candidates,)))


def act(draws: ActionDraws, spec: Spec, state: Any, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """A candidate of the online policy, drawn from the softmax of the online critics' minimum at temperature 1.

    It is ranked as it was sampled and clipped afterwards, which the authors leave to the simulator.
    """
    chex.assert_shape(observation, (spec.observation_dim,))
    action = sample_actions(state.core.actor.params, draws.sampling, hyper, observation)
    value = min_q(state.core.critic.params, hyper, observation, action)
    return jnp.clip(gumbel_choice(action, value, draws.gumbel), -hyper.max_action, hyper.max_action)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    cost, trained = softmax_cost(hyper.candidates, evaluations(hyper), "min Q"), as_trained(hyper)
    if (hyper.sampler, evaluations(hyper)) == (trained.sampler, evaluations(trained)):
        return cost
    return cost._replace(selection=chain_policy.named_sampler(cost.selection, hyper, evaluations(hyper)))
