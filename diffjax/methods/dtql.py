"""DTQL, Diffusion Trusted Q-Learning (Chen et al. 2024, arXiv 2405.19690).

A diffusion model ``D_phi`` clones behaviour but is never sampled; a one-step policy ``pi_theta`` is trained inside its
trust region. One step of the main phase, in the published order (authors' agents/dtql.py):

1. critic, IQL style: ``L_V = expectile(min_j Q_j(s, a) - V(s))``, ``y = r + discount not_done V(s')``,
   ``L = L_V + mse(Q_1, y) + mse(Q_2, y)``; one Adam.
2. behaviour model: ``L(a)``, the EDM denoising loss ``mean ((clip(D_phi(a + sigma n)) - a) / c_out)^2``.
3. policy: ``alpha L(a_theta) - mean min_j Q_j(s, a_theta) - gamma_nll mean log pi_theta(a | s)`` with the critic and
   the behaviour model just updated; ``L(a_theta)`` (trust region) is differentiated through noised input and target.
4. target critic, on every step; it only ranks candidates at evaluation.

Phase ``pretrain`` (50,000 steps before) does 2 and then 1; the target critic stays at its random initialisation.

Where the paper and the authors' code differ, this follows the code: ``L_V`` uses the online critics (paper: targets);
the behaviour network's first two layers have no activation between them; the log-density omits the tanh Jacobian.
"""

from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.denoisers import edm_denoiser
from diffjax.diffusion.objectives import EDMDraws, draw_edm, edm_matching
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, cosine_decay, descend, ema_rate, learner, polyak
from diffjax.nn.networks import (
    MLP,
    TORCH,
    GaussianPolicy,
    NoiseNetwork,
    Params,
    ensemble_apply,
    ensemble_init,
    mish,
)
from diffjax.types import Batch, Spec

NUM_CRITICS = 2


@flax.struct.dataclass
class CoreHyper:
    """Hyper-parameters that DTQL and its KL baseline share; plain fields are traced, ``static`` ones are not."""

    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)
    alpha: float = traced(5.0, at_least=0.0)  # weight of what holds the policy near the data: trust region or KL
    expectile: float = traced(0.7, above=0.0, below=1.0)
    actor_lr: float = traced(3e-4, above=0.0)  # of the policy and of the diffusion models
    critic_lr: float = traced(3e-4, above=0.0)
    lr_decay_steps: float = traced(0.0, at_least=0.0)  # cosine to zero, all networks; 0: constant rates
    sigma_min: float = traced(0.002, above=0.0, below="sigma_max")
    sigma_max: float = traced(80.0, above=0.0)
    sigma_data: float = traced(0.5, above=0.0)
    max_action: float = traced(1.0, above=0.0)
    clip_denoised: bool = static(True)  # bounds D_phi by max_action; off in the toy experiments
    candidates: int = static(1024, at_least=1, acting=True)
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    behavior_hidden_dims: tuple[int, ...] = static((), at_least=1)  # of the behaviour model; empty: hidden_dims
    time_dim: int = static(16, at_least=4, multiple_of=2)  # features of the noise level
    batch_size: int = static(256, at_least=1)


@flax.struct.dataclass
class Hyper(CoreHyper):
    """DTQL's own hyper-parameters."""

    gamma_nll: float = traced(0.0, at_least=0.0)  # weight of the data's log-likelihood; 0 but in the mazes
    ema_decay: float = traced(0.995, at_least=0.0, below=1.0)  # of the policy's average
    ema_start: int = traced(1000, at_least=0)
    ema_interval: int = traced(5, at_least=1)


class Critic(NamedTuple):
    """Parameters of the Q networks and of V."""

    q: Params  # leading axis 2
    v: Params


class State(NamedTuple):
    """What DTQL learns."""

    policy: Learner
    target_policy: Params  # kept by the authors' program and never used by it
    behavior: Learner
    critic: Learner
    target_critic: Critic


class PretrainDraws(NamedTuple):
    """Random numbers of one pretraining update."""

    behavior: EDMDraws


class Draws(NamedTuple):
    """Random numbers of one update."""

    behavior: EDMDraws
    action: jax.Array  # (batch, action_dim) standard normal
    trust: EDMDraws


def behavior_network(hyper: CoreHyper, action_dim: int) -> NoiseNetwork:
    """``F_phi``: input ``[c_in action, observation, time]``, time ``c_noise``; one hidden layer more, a linear one."""
    widths = hyper.behavior_hidden_dims or hyper.hidden_dims
    return NoiseNetwork(
        action_dim,
        (widths[0], *widths),
        TORCH,
        ("action", "observation", "time"),
        time_dim=hyper.time_dim,
        time_hidden_dims=(2 * hyper.time_dim, hyper.time_dim),
        linear_first=True,
    )


def q_network(hyper: CoreHyper) -> MLP:
    """One Q network, with LayerNorm."""
    return MLP(hyper.hidden_dims, 1, mish, TORCH, layer_norm=True)


def v_network(hyper: CoreHyper) -> MLP:
    """The V network, without LayerNorm."""
    return MLP(hyper.hidden_dims, 1, mish, TORCH)


def policy_network(hyper: Hyper, action_dim: int) -> GaussianPolicy:
    """The one-step policy."""
    return GaussianPolicy(action_dim, hyper.hidden_dims)


def init_behavior(key: jax.Array, spec: Spec, hyper: CoreHyper) -> Params:
    """Fresh parameters of ``F_phi``."""
    observation, action = jnp.zeros(spec.observation_dim), jnp.zeros(spec.action_dim)
    return behavior_network(hyper, spec.action_dim).init(key, action, jnp.zeros(()), observation)


def init_critic(q_key: jax.Array, v_key: jax.Array, spec: Spec, hyper: CoreHyper) -> Critic:
    """Fresh parameters of both Q networks and V."""
    observation, action = jnp.zeros(spec.observation_dim), jnp.zeros(spec.action_dim)
    return Critic(
        ensemble_init(q_network(hyper), q_key, NUM_CRITICS, observation, action),
        v_network(hyper).init(v_key, observation),
    )


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the targets start as copies."""
    policy_key, behavior_key, q_key, v_key = jax.random.split(key, 4)
    policy = policy_network(hyper, spec.action_dim).init(policy_key, jnp.zeros(spec.observation_dim))
    critic = init_critic(q_key, v_key, spec, hyper)
    return State(
        learner(policy),
        jax.tree.map(jnp.copy, policy),
        learner(init_behavior(behavior_key, spec, hyper)),
        learner(critic),
        jax.tree.map(jnp.copy, critic),
    )


def draw_levels(key: jax.Array, spec: Spec, hyper: CoreHyper) -> EDMDraws:
    """Noise levels and noise of one denoising loss."""
    shape = (hyper.batch_size, spec.action_dim)
    return draw_edm(key, shape, hyper.sigma_min, hyper.sigma_max, hyper.sigma_data)


def draw_pretrain(key: jax.Array, spec: Spec, hyper: CoreHyper) -> PretrainDraws:
    """Random numbers of one pretraining update."""
    return PretrainDraws(draw_levels(key, spec, hyper))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one main update."""
    behavior_key, action_key, trust_key = jax.random.split(key, 3)
    return Draws(
        draw_levels(behavior_key, spec, hyper),
        jax.random.normal(action_key, (hyper.batch_size, spec.action_dim)),
        draw_levels(trust_key, spec, hyper),
    )


def q_values(critic: Critic, hyper: CoreHyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Both Q networks, ``(2, ...)``; ``observation`` broadcasts against ``action``."""
    return ensemble_apply(q_network(hyper), critic.q, observation, action)[..., 0]


def v_value(critic: Critic, hyper: CoreHyper, observation: jax.Array) -> jax.Array:
    """``V(s)``, ``(...,)``."""
    return v_network(hyper).apply(critic.v, observation)[..., 0]


def policy_action(mean: jax.Array, log_std: jax.Array, noise: jax.Array, hyper: Hyper) -> jax.Array:
    """``clip(max_action tanh(mean + std noise))``."""
    action = hyper.max_action * jnp.tanh(mean + jnp.exp(log_std) * noise)
    return jnp.clip(action, -hyper.max_action, hyper.max_action)


def denoise(behavior: Params, hyper: CoreHyper, x: jax.Array, sigma: jax.Array, observation: jax.Array) -> jax.Array:
    """``D_phi(x, sigma, s)``, not yet clipped."""
    network = behavior_network(hyper, x.shape[-1])
    predict = lambda scaled, level: network.apply(behavior, scaled, level, observation)  # noqa: E731
    return edm_denoiser(predict, hyper.sigma_data)(x, sigma)


def denoised_bound(hyper: CoreHyper) -> jax.Array | float:
    """What ``D_phi`` is clipped to."""
    return hyper.max_action if hyper.clip_denoised else jnp.inf


def denoising_loss(
    behavior: Params, action: jax.Array, draws: EDMDraws, hyper: CoreHyper, observation: jax.Array
) -> jax.Array:
    """``L(a)``: behaviour cloning at the data's actions, trust region at the policy's."""
    denoiser = lambda x, sigma: denoise(behavior, hyper, x, sigma, observation)  # noqa: E731
    return jnp.mean(edm_matching(denoiser, action, draws, hyper.sigma_data, denoised_bound(hyper)))


def critic_target(critic: Critic, hyper: CoreHyper, batch: Batch) -> jax.Array:
    """``r + discount * not_done * V(s')`` of the online V, ``(batch,)``."""
    next_v = v_value(critic, hyper, batch.next_observation)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_v)


def critic_loss(critic: Critic, hyper: CoreHyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``expectile(min_j Q_j - V) + mse(Q_1, y) + mse(Q_2, y)``, all networks online."""
    q = q_values(critic, hyper, batch.observation, batch.action)
    v = v_value(critic, hyper, batch.observation)
    value_loss = losses.expectile_loss(jax.lax.stop_gradient(losses.ensemble_min(q)) - v, hyper.expectile)
    loss = value_loss + jnp.sum(losses.squared_error(q, critic_target(critic, hyper, batch)))
    return loss, {
        "critic/loss": loss,
        "critic/value_loss": value_loss,
        "critic/q_mean": jnp.mean(q),
        "critic/v_mean": jnp.mean(v),
    }


def policy_loss(
    policy: Params, behavior: Params, critic: Critic, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``alpha * trust region - mean min_j Q_j + gamma_nll * negative log-likelihood``."""
    mean, log_std = policy_network(hyper, batch.action.shape[-1]).apply(policy, batch.observation)
    action = policy_action(mean, log_std, draws.action, hyper)
    trust = denoising_loss(behavior, action, draws.trust, hyper, batch.observation)
    q = -jnp.mean(losses.ensemble_min(q_values(critic, hyper, batch.observation, action)))
    nll = -jnp.mean(losses.tanh_gaussian_log_prob(batch.action, mean, log_std, hyper.max_action))
    loss = hyper.alpha * trust + q + hyper.gamma_nll * nll
    return loss, {"actor/loss": loss, "actor/trust_region": trust, "actor/q": q, "actor/nll": nll}


def update_critic(state: Learner, rate: jax.Array | float, hyper: CoreHyper, batch: Batch) -> tuple[Learner, Scalars]:
    """One unclipped Adam step of both Q networks and V."""
    grads, metrics = jax.grad(critic_loss, has_aux=True)(state.params, hyper, batch)
    state, norm = descend(state, grads, rate)
    return state, metrics | {"critic/grad_norm": norm}


def update_behavior(
    state: Learner, rate: jax.Array | float, draws: EDMDraws, hyper: CoreHyper, batch: Batch
) -> tuple[Learner, Scalars]:
    """One unclipped Adam step of the behaviour model."""
    loss, grads = jax.value_and_grad(denoising_loss)(state.params, batch.action, draws, hyper, batch.observation)
    state, norm = descend(state, grads, rate)
    return state, {"behavior/loss": loss, "behavior/grad_norm": norm}


def pretrain(
    draws: PretrainDraws, step: jax.Array, state: Any, hyper: CoreHyper, batches: tuple[Batch, ...]
) -> tuple[Any, Metrics]:
    """One pretraining step: behaviour model, then critic; policy and targets stay.

    ``state`` is any tuple with the learners ``behavior`` and ``critic``.
    """
    (batch,) = batches
    behavior, behavior_metrics = update_behavior(state.behavior, hyper.actor_lr, draws.behavior, hyper, batch)
    critic, critic_metrics = update_critic(state.critic, hyper.critic_lr, hyper, batch)
    return state._replace(behavior=behavior, critic=critic), weigh(behavior_metrics | critic_metrics)


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critic, behaviour model, policy and targets."""
    (batch,) = batches
    decay = cosine_decay(step, hyper.lr_decay_steps)

    critic, critic_metrics = update_critic(state.critic, hyper.critic_lr * decay, hyper, batch)
    behavior, behavior_metrics = update_behavior(state.behavior, hyper.actor_lr * decay, draws.behavior, hyper, batch)
    grads, policy_metrics = jax.grad(policy_loss, has_aux=True)(
        state.policy.params, behavior.params, critic.params, draws, hyper, batch
    )
    policy, norm = descend(state.policy, grads, hyper.actor_lr * decay)

    rate = ema_rate(step, 1.0 - hyper.ema_decay, hyper.ema_start, hyper.ema_interval)
    target_policy = polyak(state.target_policy, policy.params, rate)
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)
    metrics = critic_metrics | behavior_metrics | policy_metrics | {"actor/grad_norm": norm}
    return State(policy, target_policy, behavior, critic, target_critic), weigh(metrics)


class ActionDraws(NamedTuple):
    """Random numbers of one decision."""

    noise: jax.Array  # (candidates, action_dim) standard normal
    uniform: jax.Array


def draw_action(key: jax.Array, spec: Spec, hyper: CoreHyper) -> ActionDraws:
    """Draws of one decision."""
    noise_key, uniform_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (hyper.candidates, spec.action_dim))
    return ActionDraws(noise, jax.random.uniform(uniform_key))


def sample_actions(state: State, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One action of the policy per row of ``noise``; the trunk is computed once."""
    mean, log_std = policy_network(hyper, noise.shape[-1]).apply(state.policy.params, observation)
    return policy_action(mean, log_std, noise, hyper)


def candidate_values(critic: Critic, action: jax.Array, hyper: CoreHyper, observation: jax.Array) -> jax.Array:
    """``min_j Q_j`` of each candidate, ``(candidates,)``."""
    return losses.ensemble_min(q_values(critic, hyper, observation, action))


def rank_candidates(
    state: State, noise: jax.Array, hyper: Hyper, observation: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Candidates of the policy and the minimum of the target critics at them."""
    action = sample_actions(state, noise, hyper, observation)
    return action, candidate_values(state.target_critic, action, hyper, observation)


def select_action(
    action: jax.Array, target_critic: Critic, uniform: jax.Array, hyper: CoreHyper, observation: jax.Array
) -> jax.Array:
    """One of the candidates, drawn from the softmax of its value; a single candidate is not ranked."""
    chex.assert_rank(observation, 1)
    if hyper.candidates == 1:
        return action[0]
    index, _ = losses.softmax_selection(candidate_values(target_critic, action, hyper, observation), uniform)
    return action[index]


def act_from_draws(draws: ActionDraws, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One of ``candidates`` policy samples, by :func:`select_action`."""
    action = sample_actions(state, draws.noise, hyper, observation)
    return select_action(action, state.target_critic, draws.uniform, hyper, observation)


def cost(hyper: CoreHyper) -> ActingCost:
    """Cost of one decision."""
    rule = f"softmax of min target Q over {hyper.candidates}" if hyper.candidates > 1 else "single sample"
    return ActingCost(hyper.candidates, 1, rule)


METHOD = Method(
    hyper=Hyper,
    num_batches=1,
    init=init,
    phases=(Phase("pretrain", draw_pretrain, pretrain), Phase("main", draw, update)),
    draw_action=draw_action,
    act_from_draws=act_from_draws,
    cost=cost,
)
