"""CQL, Conservative Q-Learning (Kumar et al. 2020, arXiv 2006.04779), as CORL's program has it.

One update step (algorithms/offline/cql.py), everything in it evaluated at what the step before left; ``pi`` is a normal
before a tanh, ``a_pi ~ pi(s)``, ``alpha = alpha_multiplier * exp(log_alpha)``:

1. temperature: Adam on ``-log_alpha mean (log pi(a_pi | s) - action_dim)``.
2. actor: ``L = mean (alpha log pi(a_pi | s) - min_j Q_j(s, a_pi))``.
3. critics: ``y = r + discount * not_done * min_j Q'_j(s', a')``, ``a' ~ pi(s')``, the best of several with
   ``max_target_backup``; ``L = sum_j mse(Q_j, y) + C_j``, ``C_j = cql_alpha * gap_j``,
   ``gap_j = mean clip(T logsumexp((Q_j(s, a_i) - log density(a_i)) / T) - Q_j(s, a))`` with actions ``a_i`` that are
   uniform, of ``pi(s')`` and of ``pi(s)``.
4. with ``lagrange``, ``C_j = alpha' cql_alpha (gap_j - action_gap)``, and Adam on ``-mean_j C_j`` of ``log alpha'``.
5. target critics.

Where paper and program differ: the paper was not read. Actions of ``pi(s')`` are scored at ``s``; the second critic has
three hidden layers whatever the first has; the deviation's logarithm lies on a learnt line ``multiplier * output +
offset``; in the first ``bc_steps`` the program puts the density of another sample of ``pi(s)`` in the place of ``Q``,
not that of the data's action.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods.base import Method, Metrics, Phase, Scalars, View, static, traced, weigh
from diffjax.nn.learners import Learner, copies, ema_rate, learn, learner, polyak
from diffjax.nn.networks import (
    GLOROT,
    MLP,
    ORTHOGONAL,
    ORTHOGONAL_SQRT2,
    TORCH,
    GaussianPolicy,
    Params,
    scaled_initializer,
)
from diffjax.types import Batch, Spec

ACTOR_OUTPUT, CRITIC_OUTPUT = scaled_initializer(GLOROT, 0.01), scaled_initializer(ORTHOGONAL, 0.01)
LOG_STD_OFFSET, LOG_MULTIPLIER = -1.0, 1.0  # at first
LARGEST_MULTIPLIER = 1e6


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters of CQL; plain fields are traced, ``static`` ones are not."""

    cql_alpha: float = traced(10.0, at_least=0.0)  # weight of the conservative term
    cql_temperature: float = traced(1.0, above=0.0)  # of its logsumexp
    clip_gap_min: float = traced(-math.inf, below=math.inf)  # of each state's gap
    clip_gap_max: float = traced(math.inf, above="clip_gap_min")
    action_gap: float = traced(-1.0, above=-math.inf)  # to which the multiplier alpha' holds the gap; with lagrange
    alpha_multiplier: float = traced(1.0, at_least=0.0)  # of the temperature; all of it where that is not tuned
    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)
    actor_lr: float = traced(3e-5, above=0.0)  # of the temperature too
    critic_lr: float = traced(3e-4, above=0.0)  # of the multiplier too
    max_action: float = traced(1.0, above=0.0)
    num_samples: int = static(10, at_least=1)  # actions of each kind in the conservative term
    importance_sampling: bool = static(True)  # else the data's action stands in the logsumexp, and no density
    lagrange: bool = static(False)
    max_target_backup: bool = static(False)
    backup_entropy: bool = static(False)  # the target has -alpha log pi(a' | s')
    tune_temperature: bool = static(True)
    bc_steps: int = static(0, at_least=0)  # first steps, in which the actor does not see Q
    target_interval: int = static(1, at_least=1)  # steps per step of the target critics
    batch_size: int = static(256, at_least=1)
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)  # of the policy and the second critic
    critic_layers: int = static(3, at_least=1)  # of the first critic, as wide as the first of hidden_dims
    log_std_multiplier: float = static(1.0, above=0.0)  # at first
    log_std_min: float = static(-20.0, below="log_std_max")
    log_std_max: float = static(2.0, above="log_std_min")


class State(NamedTuple):
    """What CQL learns."""

    actor: Learner
    critic: Learner  # of two trees, which may differ in depth
    target_critic: tuple[Params, ...]
    log_alpha: Learner | None  # None where the temperature is not tuned
    log_multiplier: Learner  # of alpha'; stands still without lagrange


class Draws(NamedTuple):
    """Random numbers of one update: standard normals, ``(batch, action_dim)``, or with samples on the second axis."""

    action: jax.Array
    other: jax.Array | None  # of the first ``bc_steps``
    next_action: jax.Array  # (batch, 1 or num_samples, action_dim)
    uniform: jax.Array  # (batch, num_samples, action_dim) in (-1, 1), as the next two
    following: jax.Array
    current: jax.Array


class Rivals(NamedTuple):
    """The actions that the conservative term holds against the data's: uniform, of ``pi(s')``, of ``pi(s)``."""

    action: jax.Array  # (batch, 3 num_samples, action_dim)
    log_density: jax.Array  # (batch, 3 num_samples), in units of max_action


def critics(hyper: Hyper) -> tuple[MLP, ...]:
    """Both Q networks on ``[observation, action]``."""
    depths = ((hyper.hidden_dims[0],) * hyper.critic_layers, hyper.hidden_dims)
    return tuple(MLP(dims, 1, nn.relu, ORTHOGONAL_SQRT2, output_initializer=CRITIC_OUTPUT) for dims in depths)


def q_values(critic: tuple[Params, ...], hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``Q_j(s, a)``, ``(2, ...)``; leading axes of ``observation`` broadcast against those of ``action``."""
    pairs = zip(critics(hyper), critic, strict=True)
    return jnp.stack([network.apply(params, observation, action)[..., 0] for network, params in pairs])


def actor_network(hyper: Hyper, action_dim: int) -> GaussianPolicy:
    """The policy before its tanh: mean and logarithm of the deviation."""
    return GaussianPolicy(
        action_dim,
        hyper.hidden_dims,
        TORCH,
        (hyper.log_std_min, hyper.log_std_max),
        log_std_line=(hyper.log_std_multiplier, LOG_STD_OFFSET),
        output_initializer=ACTOR_OUTPUT,
    )


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the targets start as copies."""
    actor_key, *critic_keys = jax.random.split(key, 3)
    keys_of = zip(critics(hyper), critic_keys, strict=True)
    critic = tuple(network.init(critic_key, *spec.example()) for network, critic_key in keys_of)
    actor = actor_network(hyper, spec.action_dim).init(actor_key, spec.example()[0])
    log_alpha = learner(jnp.zeros(())) if hyper.tune_temperature else None
    return State(learner(actor), learner(critic), copies(critic), log_alpha, learner(jnp.float32(LOG_MULTIPLIER)))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    keys = jax.random.split(key, 6)
    one, many = (hyper.batch_size, spec.action_dim), (hyper.batch_size, hyper.num_samples, spec.action_dim)
    targets = many if hyper.max_target_backup else (hyper.batch_size, 1, spec.action_dim)
    return Draws(
        action=jax.random.normal(keys[0], one),
        other=jax.random.normal(keys[1], one) if hyper.bc_steps else None,
        next_action=jax.random.normal(keys[2], targets),
        uniform=jax.random.uniform(keys[3], many, minval=-1.0),
        following=jax.random.normal(keys[4], many),
        current=jax.random.normal(keys[5], many),
    )


def policy(actor: Params, hyper: Hyper, observation: jax.Array, action_dim: int) -> tuple[jax.Array, jax.Array]:
    """Mean and logarithm of the deviation before the tanh, ``(..., action_dim)`` each."""
    return actor_network(hyper, action_dim).apply(actor, observation)


def sampled(actor: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Actions ``max_action tanh(mean + std noise)`` and their log-density in units of ``max_action``."""
    action, log_prob = losses.squashed_normal(*policy(actor, hyper, observation, noise.shape[-1]), noise)
    return hyper.max_action * action, log_prob


def temperature(state: State, hyper: Hyper) -> jax.Array:
    """``alpha``."""
    tuned = 1.0 if state.log_alpha is None else jnp.exp(state.log_alpha.params)
    return jnp.asarray(hyper.alpha_multiplier * tuned)


def temperature_loss(log_alpha: jax.Array, log_prob: jax.Array, action_dim: int) -> tuple[jax.Array, Scalars]:
    """``-log_alpha (log_prob - action_dim)``, ``log_prob`` the mean of ``log pi(a_pi | s)``."""
    loss = -log_alpha * (log_prob - action_dim)
    return loss, {"temperature/loss": loss}


def actor_loss(
    actor: Params,
    critic: tuple[Params, ...],
    alpha: jax.Array,
    draws: Draws,
    step: jax.Array,
    hyper: Hyper,
    batch: Batch,
) -> tuple[jax.Array, Scalars]:
    """``mean (alpha log pi(a_pi | s) - min_j Q_j(s, a_pi))``."""
    action, log_prob = sampled(actor, draws.action, hyper, batch.observation)
    value = losses.ensemble_min(q_values(critic, hyper, batch.observation, action))
    if draws.other is not None:
        _, other = sampled(actor, draws.other, hyper, batch.observation)
        value = jnp.where(step < hyper.bc_steps, other, value)
    loss = jnp.mean(alpha * log_prob - value)
    return loss, {"actor/loss": loss, "actor/log_prob": jnp.mean(log_prob)}


def next_value(
    target_critic: tuple[Params, ...], actor: Params, alpha: jax.Array, draws: Draws, hyper: Hyper, batch: Batch
) -> jax.Array:
    """``min_j Q'_j(s', a')``, of several actions at that where it is largest; ``(batch,)``."""
    observation = batch.next_observation[:, None]
    action, log_prob = sampled(actor, draws.next_action, hyper, observation)
    q = losses.ensemble_min(q_values(target_critic, hyper, observation, action))
    value = q - alpha * log_prob if hyper.backup_entropy else q
    return jnp.take_along_axis(value, jnp.argmax(q, axis=-1, keepdims=True), axis=-1)[:, 0]


def rivals(actor: Params, draws: Draws, hyper: Hyper, batch: Batch) -> Rivals:
    """Actions against which the data's are held, constant with respect to gradients."""
    following = sampled(actor, draws.following, hyper, batch.next_observation[:, None])
    current = sampled(actor, draws.current, hyper, batch.observation[:, None])
    volume = draws.uniform.shape[-1] * math.log(2.0)  # of the box
    uniform = (hyper.max_action * draws.uniform, jnp.full(draws.uniform.shape[:-1], -volume))
    found = zip(uniform, following, current, strict=True)
    return Rivals(*jax.lax.stop_gradient([jnp.concatenate(parts, axis=1) for parts in found]))


def conservative_gap(q_data: jax.Array, q_rivals: jax.Array, log_density: jax.Array, hyper: Hyper) -> jax.Array:
    """``gap_j``, ``(2,)``."""
    density = log_density if hyper.importance_sampling else None
    gap = losses.soft_maximum_gap(q_data, q_rivals, density, hyper.cql_temperature)
    return jnp.mean(jnp.clip(gap, hyper.clip_gap_min, hyper.clip_gap_max), axis=-1)


def multiplier(log_multiplier: jax.Array) -> jax.Array:
    """``alpha' = clip(exp(log alpha'), 0, 1e6)``."""
    return jnp.clip(jnp.exp(log_multiplier), 0.0, LARGEST_MULTIPLIER)


def conservative_term(gap: jax.Array, log_multiplier: jax.Array, hyper: Hyper) -> jax.Array:
    """``C_j``, of the shape of ``gap``."""
    if hyper.lagrange:
        return multiplier(log_multiplier) * hyper.cql_alpha * (gap - hyper.action_gap)
    return hyper.cql_alpha * gap


def multiplier_loss(log_multiplier: jax.Array, gap: jax.Array, hyper: Hyper) -> tuple[jax.Array, Scalars]:
    """``-mean_j C_j``, ``gap`` the mean of ``gap_j``."""
    loss = -conservative_term(gap, log_multiplier, hyper)
    return loss, {"multiplier/loss": loss, "multiplier/value": multiplier(log_multiplier)}


def critic_loss(
    critic: tuple[Params, ...], target: jax.Array, others: Rivals, log_multiplier: jax.Array, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``sum_j mse(Q_j, y) + C_j``."""
    q_data = q_values(critic, hyper, batch.observation, batch.action)
    q_rivals = q_values(critic, hyper, batch.observation[:, None], others.action)
    gap = conservative_gap(q_data, q_rivals, others.log_density, hyper)
    td = losses.squared_error(q_data, target)
    loss = jnp.sum(td + conservative_term(gap, log_multiplier, hyper))
    metrics = {"loss": loss, "td": jnp.sum(td), "gap": jnp.mean(gap), "q_mean": jnp.mean(q_data)}
    metrics |= {"target_mean": jnp.mean(target)}
    return loss, {f"critic/{name}": value for name, value in metrics.items()}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of temperature, actor, critics and multiplier, and one of the targets where it is due."""
    (batch,) = batches
    before, alpha, log_multiplier = state.actor.params, temperature(state, hyper), state.log_multiplier
    given = (state.critic.params, alpha, draws, step, hyper, batch)
    actor, metrics = learn(actor_loss, state.actor, hyper.actor_lr, *given, name="actor")
    metrics |= {"temperature/value": alpha}
    log_alpha = state.log_alpha
    if log_alpha is not None:
        given_entropy = (metrics["actor/log_prob"], batch.action.shape[-1])
        log_alpha, found = learn(temperature_loss, log_alpha, hyper.actor_lr, *given_entropy, name="temperature")
        metrics |= found

    following = next_value(state.target_critic, before, alpha, draws, hyper, batch)
    target = losses.td_target(batch.reward, hyper.discount, batch.not_done, following)
    others = rivals(before, draws, hyper, batch)
    given_target = (target, others, log_multiplier.params, hyper, batch)
    critic, found = learn(critic_loss, state.critic, hyper.critic_lr, *given_target, name="critic")
    metrics |= found
    if hyper.lagrange:
        given_gap = (metrics["critic/gap"], hyper)
        log_multiplier, found = learn(multiplier_loss, log_multiplier, hyper.critic_lr, *given_gap, name="multiplier")
        metrics |= found

    rate = ema_rate(step + 1, hyper.tau, 0, hyper.target_interval)  # the program counts from 1
    target_critic = polyak(state.target_critic, critic.params, rate)
    return State(actor, critic, target_critic, log_alpha, log_multiplier), weigh(metrics)


def act(draws: None, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The tanh of the mean."""
    return hyper.max_action * jnp.tanh(policy(state.actor.params, hyper, observation, spec.action_dim)[0])


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, view=View(observation="standardized"))
