"""Diffuser: planning with diffusion (Janner et al. 2022, arXiv 2205.09991), the authors' program after its repair.

A plan is a window of ``horizon`` steps, each ``[action, observation]``, both normalised; after an episode's end it goes
on with rows that are zero before the normalisation. A U-Net denoises plans, a value net says of a noisy plan what
return it begins. The phases; the authors' programs train the nets apart, and neither reads the other:

``value``: ``x_i = sqrt(alpha_bar_i) x_0 + sqrt(1 - alpha_bar_i) noise``, its first observation replaced by the data's;
   Adam on ``mean (V(x_i, i) - R)^2``, ``R = sum_k discount^k r_k`` to the end of the episode, of whose last reward
   ``termination_penalty`` is taken where it ended by terminating; then the average of the weights, as below.
``main``: the same ``x_i``; the U-Net predicts ``x_0``, and the first observation of that is replaced too; Adam on the
   mean squared error, where actions of the first step weigh ``action_weight``; then the average of the weights, on
   every ``ema_interval``-th step: a copy before step ``ema_copies``, later ``ema_decay old + (1 - ema_decay) new``.

Acting, anew on every step, with the averages: ``candidates`` plans from noise; before each of the denoising steps
``guide_steps`` times ``x <- x + guide_scale posterior_variance_i grad V(x, i)``, not below index ``guide_stop``; the
first observation is always the one seen. The first action of the plan whose value was largest before its last
denoising.

Where paper and program differ, this follows the program: the U-Net predicts the plan and not the noise; the guide's
gradient is scaled by the variance (before the repair of October 2022 by its root: ``guide_strength = "std"``); the
published value discount is 0.997, the training program's default 0.99; actions are un-normalised and left to the
environment to clip. Two minibatches of 32 whose halved losses' gradients are added are one of 64 here.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.denoisers import Denoiser, epsilon_denoiser
from diffjax.diffusion.objectives import TARGETS, DenoisingDraws, constrained_error, constrained_noise, draw_denoising
from diffjax.diffusion.samplers import STRENGTHS, ChainNoise, Guide, draw_chain_noise, guided_chain
from diffjax.diffusion.schedules import DiscreteSchedule, discrete_schedule
from diffjax.methods.base import (
    ActingCost,
    Method,
    Metrics,
    Phase,
    Relabel,
    Rows,
    Scalars,
    View,
    sampled_by,
    static,
    traced,
    weigh,
)
from diffjax.methods.candidates import chosen
from diffjax.nn.learners import Learner, copies, ema_rate, learn, learner, polyak
from diffjax.nn.networks import Params
from diffjax.nn.temporal_unet import TemporalUNet, TemporalValue
from diffjax.types import Batch, Spec

ERRORS = {"l2": jnp.square, "l1": jnp.abs}


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters of Diffuser; plain fields are traced, ``static`` ones are not."""

    discount: float = traced(0.997, at_least=0.0, at_most=1.0)
    termination_penalty: float = traced(100.0, at_least=0.0)
    action_weight: float = traced(10.0, above=0.0)
    loss_discount: float = traced(1.0, above=0.0, at_most=1.0)  # weights of later steps, relative to their mean
    actor_lr: float = traced(2e-4, above=0.0)
    value_lr: float = traced(2e-4, above=0.0)
    ema_decay: float = traced(0.995, at_least=0.0, below=1.0)
    ema_copies: int = traced(2000, at_least=0)  # updates of which the average is a copy
    ema_interval: int = traced(10, at_least=1)
    max_action: float = traced(float("inf"), above=0.0)  # of normalised actions
    batch_size: int = static(64, at_least=1)
    horizon: int = static(32, at_least=2)  # of a plan
    max_path_length: int = static(1000, at_least=1)  # to which episodes are filled up
    diffusion_steps: int = static(20, at_least=1)
    dim: int = static(32, at_least=8, multiple_of=8)  # channels; each level's are a multiple
    dim_mults: tuple[int, ...] = static((1, 2, 4, 8), at_least=1)
    value_dim_mults: tuple[int, ...] = static((1, 2, 4, 8), at_least=1)
    attention: bool = static(False)
    prediction: str = static("x0", TARGETS)
    error: str = static("l2", ERRORS)
    clip_denoised: bool = static(False)  # to +-1, the range of data between limits
    candidates: int = static(64, at_least=1, acting=True)
    sampler_steps: int = static(0, at_least=0, at_most="diffusion_steps", acting=True)  # of the chain; 0: all
    guide_steps: int = static(2, at_least=0, acting=True)
    guide_scale: float = traced(0.1, at_least=0.0, acting=True)
    guide_stop: int = static(2, at_least=0, acting=True)
    guide_strength: str = static("variance", STRENGTHS, acting=True)


class State(NamedTuple):
    """What Diffuser learns, and the averages that act."""

    planner: Learner
    target_planner: Params
    value: Learner
    target_value: Params


def planner_network(hyper: Hyper) -> TemporalUNet:
    """The network that denoises plans."""
    return TemporalUNet(hyper.dim, hyper.dim_mults, hyper.attention)


def value_network(hyper: Hyper) -> TemporalValue:
    """The network that puts a value on noisy plans."""
    return TemporalValue(hyper.dim, hyper.value_dim_mults)


def schedule_of(hyper: Hyper) -> DiscreteSchedule:
    """The cosine schedule."""
    return discrete_schedule("cosine", hyper.diffusion_steps)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the averages start as copies."""
    planner_key, value_key = jax.random.split(key)
    example = jnp.zeros((hyper.horizon, spec.action_dim + spec.observation_dim)), jnp.zeros(())
    planner = planner_network(hyper).init(planner_key, *example)
    value = value_network(hyper).init(value_key, *example)
    return State(learner(planner), copies(planner), learner(value), copies(value))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> DenoisingDraws:
    """Random numbers of one update of either network."""
    shape = (hyper.batch_size, hyper.horizon, spec.action_dim + spec.observation_dim)
    return draw_denoising(key, hyper.diffusion_steps, shape)


def plans_of(batch: Batch) -> jax.Array:
    """The data's windows as plans, ``(batch, horizon, action_dim + observation_dim)``."""
    return jnp.concatenate([batch.action, batch.observation], axis=-1)


def inpaint(plan: jax.Array, observations: Mapping[int, jax.Array]) -> jax.Array:
    """Plans ``(..., horizon, channels)`` with the observations of some steps, ``(..., observation_dim)``, set."""
    for step, observation in observations.items():
        plan = plan.at[..., step, plan.shape[-1] - observation.shape[-1] :].set(observation)
    return plan


def loss_weights(spec: Spec, hyper: Hyper, observation_weight: jax.Array | float = 1.0) -> jax.Array:
    """Weights of a plan's errors, ``(horizon, channels)``.

    ``loss_discount^t``, divided by its mean, times the observation's own weights; but for the actions of step 0
    ``action_weight``.
    """
    discounts = hyper.loss_discount ** jnp.arange(hyper.horizon)
    channels = jnp.ones(spec.action_dim + spec.observation_dim).at[spec.action_dim :].multiply(observation_weight)
    weights = (discounts / jnp.mean(discounts))[:, None] * channels
    return weights.at[0, : spec.action_dim].set(hyper.action_weight)


def plan_loss(
    planner: Params, draws: DenoisingDraws, hyper: Hyper, batch: Batch, observation_weight: jax.Array | float = 1.0
) -> tuple[jax.Array, Scalars]:
    """The weighted mean error of the denoised plans, over all their numbers."""
    plan, spec = plans_of(batch), Spec(batch.observation.shape[-1], batch.action.shape[-1])
    known = {0: batch.observation[:, 0]}
    predict = functools.partial(planner_network(hyper).apply, planner)
    error = ERRORS[hyper.error](
        constrained_error(predict, schedule_of(hyper), plan, draws, lambda x: inpaint(x, known), hyper.prediction)
    )
    loss = jnp.mean(error * loss_weights(spec, hyper, observation_weight))
    return loss, {"actor/bc": loss, "actor/first_action": jnp.mean(error[:, 0, : spec.action_dim])}


def noisy_values(value: Params, draws: DenoisingDraws, hyper: Hyper, batch: Batch) -> jax.Array:
    """``V(x_i, i)`` of the data's windows, noised, ``(batch,)``."""
    known = {0: batch.observation[:, 0]}
    x = constrained_noise(schedule_of(hyper), plans_of(batch), draws, lambda x: inpaint(x, known))
    return value_network(hyper).apply(value, x, draws.time_index)


def value_loss(value: Params, draws: DenoisingDraws, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean (V(x_i, i) - R)^2``, or the mean absolute error."""
    found, target = noisy_values(value, draws, hyper, batch), batch.labels[:, 0]
    chex.assert_equal_shape([found, target])
    loss = jnp.mean(ERRORS[hyper.error](found - target))
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(found), "critic/target_mean": jnp.mean(target)}


def averaged(average: Params, online: Params, step: jax.Array, hyper: Hyper) -> Params:
    """The average after an update: a copy at first, later moved, on every ``ema_interval``-th step."""
    rate = jnp.where(step < hyper.ema_copies, 1.0, 1.0 - hyper.ema_decay)
    return polyak(average, online, ema_rate(step, rate, 0, hyper.ema_interval))


def update_value(
    draws: DenoisingDraws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of the value net."""
    (batch,) = batches
    value, metrics = learn(value_loss, state.value, hyper.value_lr, draws, hyper, batch, name="critic")
    target_value = averaged(state.target_value, value.params, step, hyper)
    return state._replace(value=value, target_value=target_value), weigh(metrics)


def update(
    draws: DenoisingDraws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of the U-Net."""
    (batch,) = batches
    planner, metrics = learn(plan_loss, state.planner, hyper.actor_lr, draws, hyper, batch, name="actor")
    target_planner = averaged(state.target_planner, planner.params, step, hyper)
    return state._replace(planner=planner, target_planner=target_planner), weigh(metrics)


def returns(draws: None, spec: Spec, state: State, hyper: Hyper, batch: Batch, rows: Rows) -> jax.Array:
    """``R`` of every row of the data, ``(rows,)``."""
    penalty = hyper.termination_penalty * (1.0 - batch.not_done)
    return losses.return_to_go(batch.reward - penalty, rows.end, hyper.discount)


def denoiser_of(planner: Params, hyper: Hyper) -> Denoiser:
    """What the U-Net makes of noisy plans."""
    predict = functools.partial(planner_network(hyper).apply, planner)
    return predict if hyper.prediction == "x0" else epsilon_denoiser(predict, schedule_of(hyper))


def make_plans(
    planner: Params, value: Params, noise: ChainNoise, hyper: Hyper, known: Mapping[int, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """All states ``(steps + 1, *plans)`` of chains that agree with the known observations, values ``(steps, ...)``."""
    guide = Guide(
        functools.partial(value_network(hyper).apply, value),
        hyper.guide_steps,
        hyper.guide_scale,
        hyper.guide_stop,
        hyper.guide_strength,
    )
    return guided_chain(
        denoiser_of(planner, hyper),
        schedule_of(hyper),
        noise,
        guide,
        clip=1.0 if hyper.clip_denoised else None,
        constrain=lambda x: inpaint(x, known),
        steps=hyper.sampler_steps,
    )


def acting_steps(hyper: Hyper) -> int:
    """How many denoising steps make a plan."""
    return hyper.sampler_steps or hyper.diffusion_steps


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ChainNoise:
    """Draws of one decision."""
    shape = (hyper.candidates, hyper.horizon, spec.action_dim + spec.observation_dim)
    return draw_chain_noise(key, acting_steps(hyper), shape)


def first_action(plans: jax.Array, value: jax.Array, spec: Spec, hyper: Hyper) -> jax.Array:
    """The first action of the best of ``plans (candidates, horizon, channels)``, by ``value (candidates,)``."""
    action = chosen(plans[:, 0, : spec.action_dim], jnp.argmax(value))
    return jnp.clip(action, -hyper.max_action, hyper.max_action)


def act(draws: ChainNoise, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The first action of the plan with the largest value, of those that begin at the observation."""
    chex.assert_shape(observation, (spec.observation_dim,))
    chain, values = make_plans(state.target_planner, state.target_value, draws, hyper, {0: observation})
    return first_action(chain[-1], values[-1], spec, hyper)


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision; a guide's gradient counts as an evaluation."""
    rule = f"largest value of {hyper.candidates} guided plans"
    steps = acting_steps(hyper)
    if steps != hyper.diffusion_steps:
        rule = sampled_by(rule, "ancestral", steps)
    return ActingCost(hyper.candidates, steps * (1 + hyper.guide_steps), rule)


VIEW = View(horizon="horizon", padded="max_path_length", observation="gaussian", action="gaussian")
PHASES = (Phase("value", update_value, draw, Relabel(returns)), Phase("main", update, draw))
METHOD = Method(Hyper, init, PHASES, act, draw_action, cost, VIEW)
