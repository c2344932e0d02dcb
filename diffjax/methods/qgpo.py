"""QGPO, Q-guided policy optimisation by contrastive energy prediction (Lu et al. 2023, arXiv 2304.12824).

A score network clones behaviour, in a phase of its own; then 16 actions are drawn from it at every state and every next
state of the data, once. One step of the main phase, in the published order (authors' Offline_RL_2D/train_critic.py),
with ``a_j`` the support actions of ``s`` and ``a'_j`` those of ``s'``:

1. critic, in the first half of the phase: ``e_j = min_k Q'_k(s', a'_j)``, ``v = sum_j softmax_j(q_alpha e) e_j``,
   ``y = r + discount not_done v``; Adam on ``(mse(Q_1, y) + mse(Q_2, y)) / 2``, then the target critic.
2. guidance: ``e_j = min_k Q'_k(s, a_j)`` of the target just updated, ``l = softmax(alpha e)``,
   ``x_j = alpha(t) a_j + sigma(t) z_j`` with one ``t`` per state; Adam on
   ``-mean sum_j l_j log softmax_j(f(x, t, s))``.

Acting: ``epsilon - guidance_scale sigma(t) grad_a f`` through DPM-Solver of second order in data form; one sample.

Where paper and program differ, this follows the program; the paper was not read. It is quoted with a ``q_alpha`` of 1
in locomotion and 20 in AntMaze, the program has one. The critic's loss is halved. ``alpha`` is in the labels alone, so
``f`` learns ``alpha Q``. The guidance scale is chosen at evaluation; which one a printed score belongs to is not said.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.dpm_solver import Plan, Solution, dpm_solver, second_orders
from diffjax.diffusion.objectives import TimeDraws, draw_times, noised
from diffjax.diffusion.schedules import scales
from diffjax.methods import score_policy
from diffjax.methods.base import (
    Method,
    Metrics,
    Phase,
    Relabel,
    Rows,
    Scalars,
    static,
    traced,
    weigh,
    when,
)
from diffjax.methods.score_policy import SCHEDULE, predicted_noise, support_actions
from diffjax.nn.learners import Learner, copies, learn, learner, polyak
from diffjax.nn.networks import MLP, TORCH, Ensemble, Params
from diffjax.nn.score import EnergyNetwork, draw_frequencies, fourier_features
from diffjax.types import Batch, Spec

NUM_CRITICS = 2


@flax.struct.dataclass
class Hyper(score_policy.ScoreHyper):
    """QGPO's own hyper-parameters."""

    alpha: float = traced(3.0, at_least=0.0)  # inverse temperature of the labels; the paper's beta
    q_alpha: float = traced(1.0, at_least=0.0)  # inverse temperature of the value of the next state
    tau: float = traced(0.005, above=0.0, at_most=1.0)
    critic_lr: float = traced(3e-4, above=0.0)
    guidance_lr: float = traced(3e-4, above=0.0)
    guidance_scale: float = traced(3.0, at_least=0.0, acting=True)  # 0: behaviour cloning
    critic_steps: int = static(500_000, at_least=1)  # of the main phase, in which the critic learns
    guidance_loss: str = static("cep", choices=("cep", "mse", "emse"))
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)  # of the critic
    guidance_hidden_dims: tuple[int, ...] = static((256, 256, 256, 256), at_least=1)
    batch_size: int = static(256, at_least=1)  # of the main phase


class State(NamedTuple):
    """What QGPO learns, and the frequencies of both networks' time features, which it does not."""

    behavior: Learner
    frequency: jax.Array
    critic: Learner  # leading axis 2 on every array
    target_critic: Params
    guidance: Learner
    guidance_frequency: jax.Array


class Support(NamedTuple):
    """Labels: actions of the behaviour model, ``(rows, support_actions, action_dim)``; or the noise they start from."""

    action: jax.Array
    next_action: jax.Array


def plan(evaluations: int) -> Plan:
    """The published solver: second order, data form."""
    return score_policy.solver_plan(second_orders(evaluations), "data")


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[action, observation]``."""
    return Ensemble(MLP(hyper.hidden_dims, 1, nn.relu, TORCH), NUM_CRITICS)


def guidance_network(hyper: Hyper) -> EnergyNetwork:
    """``f``."""
    return EnergyNetwork(hyper.guidance_hidden_dims)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the target starts as a copy."""
    keys = jax.random.split(key, 5)
    observation, action = spec.example()
    critic = critics(hyper).init(keys[2], action, observation)
    return State(
        behavior=learner(score_policy.init_behavior(keys[0], score_policy.network(hyper, spec.action_dim), spec)),
        frequency=draw_frequencies(keys[1]),
        critic=learner(critic),
        target_critic=copies(critic),
        guidance=learner(score_policy.init_behavior(keys[3], guidance_network(hyper), spec)),
        guidance_frequency=draw_frequencies(keys[4]),
    )


def draw_support(key: jax.Array, spec: Spec, hyper: Hyper, rows: int) -> Support:
    """Noise from which the support actions start."""
    return Support(*jax.random.normal(key, (2, rows, hyper.support_actions, spec.action_dim)))


def support(draws: Support, spec: Spec, state: State, hyper: Hyper, batch: Batch, rows: Rows) -> Support:
    """Support actions of all states and of all next states."""
    network = score_policy.network(hyper, spec.action_dim)
    given = (state.behavior.params, state.frequency, network, plan(hyper.support_steps))
    return Support(
        support_actions(*given, draws.action, batch.observation),
        support_actions(*given, draws.next_action, batch.next_observation),
    )


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> TimeDraws:
    """Random numbers of one update of the guidance: a time per state and noise per support action."""
    samples = (hyper.support_actions,) if hyper.guidance_loss == "cep" else ()
    return draw_times(key, (hyper.batch_size, *samples, spec.action_dim))


def energies(target_critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``min_k Q'_k(s, a_j)`` of several actions per state, ``(batch, samples)``."""
    return losses.ensemble_min(critics(hyper).apply(target_critic, action, observation[:, None]))


def critic_target(next_energy: jax.Array, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount not_done sum_j softmax_j(q_alpha e) e_j``, ``(batch,)``."""
    next_value = losses.softmax_mean(next_energy, hyper.q_alpha)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_value)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``(mse(Q_1, y) + mse(Q_2, y)) / 2``."""
    q = critics(hyper).apply(critic, batch.action, batch.observation)
    loss = jnp.mean(losses.squared_error(q, target))
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(q), "critic/target_mean": jnp.mean(target)}


def energy_at(
    guidance: Params, frequency: jax.Array, hyper: Hyper, action: jax.Array, time: jax.Array, observation: jax.Array
) -> jax.Array:
    """``f(a, t, s)``; leading axes broadcast."""
    return guidance_network(hyper).apply(guidance, action, fourier_features(time, frequency), observation)


def contrastive_loss(
    guidance: Params, frequency: jax.Array, energy: jax.Array, draws: TimeDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``-mean sum_j softmax_j(alpha e) log softmax_j(f(x_j, t, s))`` over the support actions."""
    time, x = noised(SCHEDULE, batch.labels.action, draws, hyper.time_min)
    found = energy_at(guidance, frequency, hyper, x, time[:, None], batch.observation[:, None])
    loss = jnp.mean(losses.soft_cross_entropy(found, nn.softmax(hyper.alpha * energy, axis=-1)))
    return loss, {"guidance/loss": loss}


def regression_loss(
    guidance: Params, frequency: jax.Array, label: jax.Array, draws: TimeDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``mean (f(x, t, s) - l)^2`` at the noised actions of the data; ``emse``: of exponentials, both clipped before.

    Options of the program of which no published number is made.
    """
    time, x = noised(SCHEDULE, batch.action, draws, hyper.time_min)
    found = energy_at(guidance, frequency, hyper, x, time, batch.observation)
    if hyper.guidance_loss == "emse":
        found, label = (jnp.exp(jnp.clip(values, -100.0, 4.5)) for values in (found, label))
    loss = jnp.mean((found - label) ** 2)
    return loss, {"guidance/loss": loss}


def regression_label(target_critic: Params, energy: jax.Array, hyper: Hyper, batch: Batch) -> jax.Array:
    """``alpha min_k Q'_k(s, a)`` at the data's actions, ``(batch,)``; ``emse``: less that at the best support one."""
    value = energies(target_critic, hyper, batch.observation, batch.action[:, None])[:, 0]
    return hyper.alpha * (value - jnp.max(energy, axis=-1) if hyper.guidance_loss == "emse" else value)


def update_critic(state: State, hyper: Hyper, batch: Batch) -> tuple[State, Scalars]:
    """One gradient step of the critic, then its target."""
    next_energy = energies(state.target_critic, hyper, batch.next_observation, batch.labels.next_action)
    target = critic_target(next_energy, hyper, batch)
    critic, metrics = learn(critic_loss, state.critic, hyper.critic_lr, target, hyper, batch, name="critic")
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)
    return state._replace(critic=critic, target_critic=target_critic), metrics


def update(
    draws: TimeDraws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of the guidance, after one of the critic as long as that learns."""
    (batch,) = batches
    state, critic_metrics = when(step < hyper.critic_steps, lambda old: update_critic(old, hyper, batch), state)
    energy = energies(state.target_critic, hyper, batch.observation, batch.labels.action)
    loss: Callable[..., tuple[jax.Array, Scalars]] = contrastive_loss
    if hyper.guidance_loss != "cep":
        loss, energy = regression_loss, regression_label(state.target_critic, energy, hyper, batch)
    given = (state.guidance_frequency, energy, draws, hyper, batch)
    guidance, metrics = learn(loss, state.guidance, hyper.guidance_lr, *given, name="guidance")
    return state._replace(guidance=guidance), critic_metrics | weigh(metrics)


def energy_slope(state: State, hyper: Hyper, action: jax.Array, time: jax.Array, observation: jax.Array) -> jax.Array:
    """``grad_a f(a_t, t, s)``, like ``action``."""
    given = (state.guidance.params, state.guidance_frequency, hyper)
    return jax.grad(lambda a: jnp.sum(energy_at(*given, a, time, observation)))(action)


def guided_noise(state: State, hyper: Hyper, action: jax.Array, time: jax.Array, observation: jax.Array) -> jax.Array:
    """``epsilon(a_t, t, s) - guidance_scale sigma(t) grad_a f(a_t, t, s)``, like ``action``."""
    network = score_policy.network(hyper, action.shape[-1])
    noise = predicted_noise(state.behavior.params, state.frequency, network, action, time, observation)
    _, sigma = scales(SCHEDULE.log_alpha(time))
    return noise - hyper.guidance_scale * sigma[..., None] * energy_slope(state, hyper, action, time, observation)


def sample(start: jax.Array, state: State, hyper: Hyper, observation: jax.Array) -> Solution:
    """Actions of the policy, like the standard normal ``start``; not clipped."""
    guided = lambda x, t: guided_noise(state, hyper, x, t, observation)  # noqa: E731
    return dpm_solver(guided, score_policy.acting_plan(hyper, plan), start)


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> jax.Array:
    """Noise from which an action starts, ``(action_dim,)``."""
    return jax.random.normal(key, (spec.action_dim,))


def act(draws: jax.Array, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One sample, clipped; the authors leave that to the simulator."""
    return score_policy.bounded(sample(draws, state, hyper, observation).sample, hyper)


METHOD = Method(
    Hyper,
    init,
    (
        score_policy.behavior_phase(),
        Phase("main", update, draw, Relabel(support, draw_support)),
    ),
    act,
    draw_action,
    lambda hyper: score_policy.acting_cost(hyper, 1, "single guided sample"),
)
