"""DTQL, Diffusion Trusted Q-Learning (Chen et al. 2024, arXiv 2405.19690).

A diffusion model ``D_phi`` clones behaviour but is never sampled; a one-step policy ``pi_theta`` is trained inside its
trust region. One step of the main phase, in the published order (authors' agents/dtql.py):

1. critic, IQL style: ``L_V = expectile(min_j Q_j(s, a) - V(s))``, ``y = r + discount not_done V(s')``,
   ``L = L_V + mse(Q_1, y) + mse(Q_2, y)``; one Adam.
2. behaviour model: ``L(a)``, the EDM denoising loss ``mean ((clip(D_phi(a + sigma n)) - a) / c_out)^2``.
3. policy: ``alpha L(a_theta) - mean min_j Q_j(s, a_theta) - gamma_nll mean log pi_theta(a | s)`` with the critic and
   the behaviour model just updated; ``L(a_theta)`` (trust region) is differentiated through noised input and target.
4. target critic, on every step; it only ranks candidates at evaluation.

Phase ``pretrain`` (50,000 steps before) does 2 and 1, which do not read each other; the target critic stays at its
random initialisation.

Where the paper and the authors' code differ, this follows the code: ``L_V`` uses the online critics (paper: targets);
the behaviour network's first two layers have no activation between them; the log-density omits the tanh Jacobian.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.objectives import EDMDraws
from diffjax.methods import dtql_core as core
from diffjax.methods.base import Method, Metrics, Phase, Scalars, traced, weigh
from diffjax.methods.candidates import ActionDraws
from diffjax.nn.learners import Learner, copies, cosine_decay, ema_rate, learn, learner, polyak
from diffjax.nn.networks import GaussianPolicy, Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(core.CoreHyper):
    """DTQL's own hyper-parameters."""

    gamma_nll: float = traced(0.0, at_least=0.0)  # weight of the data's log-likelihood; 0 but in the mazes
    ema_decay: float = traced(0.995, at_least=0.0, below=1.0)  # of the policy's average
    ema_start: int = traced(1000, at_least=0)
    ema_interval: int = traced(5, at_least=1)


class State(NamedTuple):
    """What DTQL learns."""

    policy: Learner
    target_policy: Params  # kept by the authors' program and never used by it
    behavior: Learner
    critic: Learner
    target_critic: core.Critic


class Draws(NamedTuple):
    """Random numbers of one update."""

    behavior: EDMDraws
    action: jax.Array  # (batch, action_dim) standard normal
    trust: EDMDraws


def policy_network(hyper: Hyper, action_dim: int) -> GaussianPolicy:
    """The one-step policy."""
    return GaussianPolicy(action_dim, hyper.hidden_dims)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the targets start as copies."""
    policy_key, behavior_key, q_key, v_key = jax.random.split(key, 4)
    observation, _ = spec.example()
    policy = policy_network(hyper, spec.action_dim).init(policy_key, observation)
    critic = core.init_critic(q_key, v_key, spec, hyper)
    behavior = core.init_behavior(behavior_key, spec, hyper)
    return State(learner(policy), copies(policy), learner(behavior), learner(critic), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one main update."""
    behavior_key, action_key, trust_key = jax.random.split(key, 3)
    return Draws(
        core.draw_levels(behavior_key, spec, hyper),
        jax.random.normal(action_key, (hyper.batch_size, spec.action_dim)),
        core.draw_levels(trust_key, spec, hyper),
    )


def policy_action(mean: jax.Array, log_std: jax.Array, noise: jax.Array, hyper: Hyper) -> jax.Array:
    """``clip(max_action tanh(mean + std noise))``."""
    action = hyper.max_action * jnp.tanh(mean + jnp.exp(log_std) * noise)
    return jnp.clip(action, -hyper.max_action, hyper.max_action)


def policy_loss(
    policy: Params, behavior: Params, critic: core.Critic, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``alpha * trust region - mean min_j Q_j + gamma_nll * negative log-likelihood``."""
    mean, log_std = policy_network(hyper, batch.action.shape[-1]).apply(policy, batch.observation)
    action = policy_action(mean, log_std, draws.action, hyper)
    trust = core.denoising_loss(behavior, draws.trust, hyper, batch.observation, action)
    q = -jnp.mean(core.min_q(critic, hyper, batch.observation, action))
    nll = -jnp.mean(losses.tanh_gaussian_log_prob(batch.action, mean, log_std, hyper.max_action))
    loss = hyper.alpha * trust + q + hyper.gamma_nll * nll
    return loss, {"actor/loss": loss, "actor/trust_region": trust, "actor/q": q, "actor/nll": nll}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critic, behaviour model, policy and targets."""
    (batch,) = batches
    decay = cosine_decay(step, hyper.lr_decay_steps)
    critic, behavior, metrics = core.update_models(draws.behavior, decay, state, hyper, batch)
    given, rate = (behavior.params, critic.params, draws, hyper, batch), hyper.actor_lr * decay
    policy, policy_metrics = learn(policy_loss, state.policy, rate, *given, name="actor")

    rate = ema_rate(step, 1.0 - hyper.ema_decay, hyper.ema_start, hyper.ema_interval)
    target_policy = polyak(state.target_policy, policy.params, rate)
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)
    return State(policy, target_policy, behavior, critic, target_critic), weigh(metrics | policy_metrics)


def sample_actions(policy: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One action of the policy per row of ``noise``; the trunk is computed once."""
    mean, log_std = policy_network(hyper, noise.shape[-1]).apply(policy, observation)
    return policy_action(mean, log_std, noise, hyper)


def act(draws: ActionDraws, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One of ``candidates`` policy samples, by :func:`dtql_core.choose`."""
    action = sample_actions(state.policy.params, draws.noise, hyper, observation)
    return core.choose(state.target_critic, draws.uniform, hyper, observation, action)


METHOD = Method(Hyper, init, (core.PRETRAIN, Phase("main", update, draw)), act, core.draw_action, core.cost)
