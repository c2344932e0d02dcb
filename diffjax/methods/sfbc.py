"""SfBC, selecting from behaviour candidates (Chen et al. 2022, arXiv 2209.14548).

A score network clones behaviour, in a phase of its own; then 16 actions ``a_ij`` are drawn from it at every state of
the data, once. One step of the main phase: Adam on ``mean (Q(s, a) - (R - mean) / max(std, 0.1))^2``, where ``R`` are
at first the returns to go, and ``mean`` and ``std`` those of ``R`` over the data. Every ``renewal_interval`` steps
(authors' train_critic.py and dataset/dataset.py):

1. ``v_i = sum_j softmax_j(alpha Q(s_i, a_ij)) Q(s_i, a_ij)``, ``V_i = v_i std + mean``;
2. ``R_i = max(r_i + discount R_{i+1}, V_i)`` backwards within each trajectory; new ``mean`` and ``std``;
3. the critic goes back to its first random weights, with a fresh optimiser.

Acting: 32 samples of DPM-Solver of third order in noise form; ``y = 100 Q``, capped at the 4th largest plus 40; 4 of
them drawn from ``softmax(y)`` without replacement, of which the action is the mean (1 outside of locomotion).

Where paper and program differ, this follows the program; the paper was not read. Its recursion is quoted as
``r_i + discount max(R_{i+1}, V_{i+1})``; here the target of a poor action is lifted to the value of its state.
``alpha`` acts on standardised values. Nothing follows a time limit: ``R`` ends there with the last reward.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.dpm_solver import Plan, third_orders
from diffjax.methods import score_policy
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Relabel, Rows, Scalars, View, static, traced, weigh
from diffjax.methods.candidates import ActionDraws, num_uniforms, softmax_indices, successive_indices
from diffjax.methods.score_policy import STATES_AT_ONCE, behavior_actions, support_actions
from diffjax.nn.learners import Learner, copies, learn, learner
from diffjax.nn.networks import MLP, TORCH, Params
from diffjax.nn.score import SmallScoreNetwork, draw_frequencies
from diffjax.types import Batch, Spec

LEAST_STD = 0.1  # by which targets are divided
CAP = 40.0  # of the logits of candidates, above the last that is to be drawn


@flax.struct.dataclass
class Hyper(score_policy.ScoreHyper):
    """SfBC's own hyper-parameters."""

    time_min: float = traced(1e-5, above=0.0, below=1.0)
    alpha: float = traced(20.0, at_least=0.0)  # inverse temperature of the planned values
    critic_lr: float = traced(1e-3, above=0.0)
    selection_alpha: float = traced(100.0, at_least=0.0, acting=True)  # inverse temperature of the selection
    candidates: int = static(32, at_least=1, acting=True)
    averaged: int = static(1, at_least=1, at_most="candidates", acting=True)  # how many of them the action is made of
    weighted_mean: bool = static(False, acting=True)  # by the softmax of their values
    with_replacement: bool = static(False, acting=True)
    renewal_interval: int = static(24_500, at_least=1)  # updates from one set of targets to the next
    score_network: str = static("large", choices=("large", "small"))
    small_hidden_dims: tuple[int, ...] = static((224, 512, 256, 256, 256), at_least=1)  # of the small score network
    hidden_dims: tuple[int, ...] = static((256, 256), at_least=1)  # of the critic
    batch_size: int = static(4096, at_least=1)


class State(NamedTuple):
    """What SfBC learns; the frequencies of the time features and the critic's first weights stay."""

    behavior: Learner
    frequency: jax.Array
    critic: Learner
    first_critic: Params


class Labels(NamedTuple):
    """Of each row: its support actions ``(rows, support_actions, action_dim)`` and the return that is to be learnt.

    ``mean`` and ``std`` are those of all returns, the same on every row.
    """

    support: jax.Array
    returns: jax.Array
    mean: jax.Array
    std: jax.Array


def network(hyper: Hyper, action_dim: int) -> nn.Module:
    """The behaviour model."""
    if hyper.score_network == "small":
        return SmallScoreNetwork(action_dim, hyper.small_hidden_dims)
    return score_policy.network(hyper, action_dim)


def plan(evaluations: int) -> Plan:
    """The published solver: third order, noise form."""
    return score_policy.solver_plan(third_orders(evaluations), "noise")


def critic_network(hyper: Hyper) -> MLP:
    """``Q`` on ``[observation, action]``."""
    return MLP(hyper.hidden_dims, 1, nn.silu, TORCH)


def q_value(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``Q(s, a)`` in units of standardised returns, ``(...,)``; leading axes broadcast."""
    return critic_network(hyper).apply(critic, observation, action)[..., 0]


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    behavior_key, frequency_key, critic_key = jax.random.split(key, 3)
    critic = critic_network(hyper).init(critic_key, *spec.example())
    behavior = score_policy.init_behavior(behavior_key, network(hyper, spec.action_dim), spec)
    return State(learner(behavior), draw_frequencies(frequency_key), learner(critic), copies(critic))


def draw_support(key: jax.Array, spec: Spec, hyper: Hyper, rows: int) -> jax.Array:
    """Noise from which the support actions start."""
    return jax.random.normal(key, (rows, hyper.support_actions, spec.action_dim))


def planned_values(critic: Params, hyper: Hyper, support: jax.Array, observation: jax.Array) -> jax.Array:
    """``v = sum_j softmax_j(alpha Q(s, a_j)) Q(s, a_j)`` of each state, ``(rows,)``; some states at a time."""

    def at_state(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        return losses.softmax_mean(q_value(critic, hyper, *row), hyper.alpha)

    return jax.lax.map(at_state, (observation, support), batch_size=STATES_AT_ONCE)


def labelled(support: jax.Array, returns: jax.Array, rows: Rows) -> Labels:
    """Labels with the mean and the population deviation of the returns of the rows that are sampled."""
    count = jnp.sum(rows.sampled)
    over_rows = lambda values: jnp.sum(jnp.where(rows.sampled, values, 0.0)) / count  # noqa: E731
    mean = over_rows(returns)
    std = jnp.sqrt(over_rows((returns - mean) ** 2))
    return Labels(support, returns, jnp.full_like(returns, mean), jnp.full_like(returns, std))


def labels(draws: jax.Array, spec: Spec, state: State, hyper: Hyper, batch: Batch, rows: Rows) -> Labels:
    """Support actions and returns to go at first, then planned returns."""
    if batch.labels is None:
        given = (state.behavior.params, state.frequency, network(hyper, spec.action_dim), plan(hyper.support_steps))
        support = support_actions(*given, draws, batch.observation)
        return labelled(support, losses.return_to_go(batch.reward, rows.end, hyper.discount), rows)
    support, _, mean, std = batch.labels
    value = planned_values(state.critic.params, hyper, support, batch.observation) * std + mean
    return labelled(support, losses.planned_return(batch.reward, rows.end, value, hyper.discount), rows)


def critic_target(labels: Labels) -> jax.Array:
    """``(R - mean) / max(std, 0.1)``."""
    return (labels.returns - labels.mean) / jnp.maximum(labels.std, LEAST_STD)


def critic_loss(critic: Params, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean (Q(s, a) - target)^2``; its metrics are in the units of rewards."""
    q = q_value(critic, hyper, batch.observation, batch.action)
    loss = jnp.mean((q - critic_target(batch.labels)) ** 2)
    return loss, {
        "critic/loss": loss,
        "critic/q_mean": jnp.mean(q * jnp.maximum(batch.labels.std, LEAST_STD) + batch.labels.mean),
        "critic/target_mean": jnp.mean(batch.labels.returns),
    }


def update(
    draws: None, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of the critic, from its first weights where the targets are new."""
    (batch,) = batches
    is_renewed = step % hyper.renewal_interval == 0
    critic = jax.tree.map(lambda new, old: jnp.where(is_renewed, new, old), learner(state.first_critic), state.critic)
    critic, metrics = learn(critic_loss, critic, hyper.critic_lr, hyper, batch, name="critic")
    return state._replace(critic=critic), weigh(metrics)


def sample(start: jax.Array, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """Actions of the behaviour model, like the standard normal ``start``; not clipped."""
    solver = score_policy.acting_plan(hyper, plan)
    given = (state.behavior.params, state.frequency, network(hyper, start.shape[-1]), solver)
    return behavior_actions(*given, start, observation).sample


def selection_logits(q: jax.Array, hyper: Hyper) -> jax.Array:
    """``y = selection_alpha Q`` of candidates, capped so that in float32 none of the best has weight zero."""
    y = hyper.selection_alpha * q
    return jnp.minimum(y, jax.lax.top_k(y, hyper.averaged)[0][-1] + CAP)


def selected(uniform: jax.Array, hyper: Hyper, logits: jax.Array) -> jax.Array:
    """Which candidates an action is made of, ``(averaged,)``."""
    if hyper.with_replacement:
        return softmax_indices(logits, uniform[: hyper.averaged])
    return successive_indices(nn.softmax(logits), uniform, hyper.averaged)


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ActionDraws:
    """Noise ``(candidates, action_dim)`` and the uniform numbers of the selection."""
    noise_key, uniform_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (hyper.candidates, spec.action_dim))
    return ActionDraws(noise, jax.random.uniform(uniform_key, (num_uniforms(hyper.averaged),)))


def choose(draws: ActionDraws, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The action before it is clipped."""
    candidates = sample(draws.noise, state, hyper, observation)
    q = q_value(state.critic.params, hyper, observation, candidates)
    logits = selection_logits(q, hyper)
    index = selected(draws.uniform, hyper, logits)
    if hyper.weighted_mean:
        return nn.softmax(logits[index]) @ candidates[index]
    return jnp.mean(candidates[index], axis=0)


def act(draws: ActionDraws, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The mean of the drawn candidates, clipped; the authors leave that to the simulator."""
    return score_policy.bounded(choose(draws, state, hyper, observation), hyper)


def cost(hyper: Hyper) -> ActingCost:
    """The cost of one decision."""
    rule = f"mean of {hyper.averaged} by softmax of Q over {hyper.candidates}"
    return score_policy.acting_cost(hyper, hyper.candidates, rule)


METHOD = Method(
    Hyper,
    init,
    (
        score_policy.behavior_phase(network),
        Phase("main", update, relabel=Relabel(labels, draw_support, lambda hyper: hyper.renewal_interval)),
    ),
    act,
    draw_action,
    cost,
    View(next_observation=False),
)
