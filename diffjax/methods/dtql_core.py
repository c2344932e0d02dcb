"""What DTQL and its KL baseline share: critics, behaviour model, pretraining, choice among candidates.

Everything here follows Chen et al. 2024, arXiv 2405.19690 (authors' agents/dtql.py; agents/dql_kl.py repeats it).
"""

from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.denoisers import edm_denoiser
from diffjax.diffusion.objectives import EDMDraws, draw_edm, edm_matching
from diffjax.diffusion.schedules import NOISE_LAWS
from diffjax.methods.base import ActingCost, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.methods.candidates import ActionDraws, softmax_choice, softmax_cost
from diffjax.nn.learners import Learner, learn
from diffjax.nn.networks import MLP, TORCH, Ensemble, NoiseNetwork, Params, mish
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
    noise_law: str = static("edm", NOISE_LAWS)  # elbo: levels under which the loss is a bound of the log-likelihood
    max_action: float = traced(1.0, above=0.0)
    clip_denoised: bool = static(True)  # bounds D_phi by max_action; off in the toy experiments
    candidates: int = static(1024, at_least=1, acting=True)
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    behavior_hidden_dims: tuple[int, ...] = static((), at_least=1)  # of the behaviour model; empty: hidden_dims
    time_dim: int = static(16, at_least=4, multiple_of=2)  # features of the noise level
    batch_size: int = static(256, at_least=1)


class Critic(NamedTuple):
    """Parameters of the Q networks and of V."""

    q: Params  # leading axis 2
    v: Params


class PretrainDraws(NamedTuple):
    """Random numbers of one pretraining update."""

    behavior: EDMDraws


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


def q_networks(hyper: CoreHyper) -> Ensemble:
    """Both Q networks, with LayerNorm."""
    return Ensemble(MLP(hyper.hidden_dims, 1, mish, TORCH, layer_norm=True), NUM_CRITICS)


def v_network(hyper: CoreHyper) -> MLP:
    """The V network, without LayerNorm."""
    return MLP(hyper.hidden_dims, 1, mish, TORCH)


def init_behavior(key: jax.Array, spec: Spec, hyper: CoreHyper) -> Params:
    """Fresh parameters of ``F_phi``."""
    observation, action = spec.example()
    return behavior_network(hyper, spec.action_dim).init(key, action, jnp.zeros(()), observation)


def init_critic(q_key: jax.Array, v_key: jax.Array, spec: Spec, hyper: CoreHyper) -> Critic:
    """Fresh parameters of both Q networks and V."""
    observation, action = spec.example()
    return Critic(q_networks(hyper).init(q_key, observation, action), v_network(hyper).init(v_key, observation))


def draw_levels(key: jax.Array, spec: Spec, hyper: CoreHyper) -> EDMDraws:
    """Noise levels and noise of one denoising loss."""
    shape = (hyper.batch_size, spec.action_dim)
    return draw_edm(key, shape, hyper.noise_law, hyper.sigma_min, hyper.sigma_max, hyper.sigma_data)


def draw_pretrain(key: jax.Array, spec: Spec, hyper: CoreHyper) -> PretrainDraws:
    """Random numbers of one pretraining update."""
    return PretrainDraws(draw_levels(key, spec, hyper))


def q_values(critic: Critic, hyper: CoreHyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Both Q networks, ``(2, ...)``; ``observation`` broadcasts against ``action``."""
    return q_networks(hyper).apply(critic.q, observation, action)


def min_q(critic: Critic, hyper: CoreHyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``min_j Q_j(s, a)``, ``(...,)``."""
    return losses.ensemble_min(q_values(critic, hyper, observation, action))


def v_value(critic: Critic, hyper: CoreHyper, observation: jax.Array) -> jax.Array:
    """``V(s)``, ``(...,)``."""
    return v_network(hyper).apply(critic.v, observation)[..., 0]


def denoise(behavior: Params, hyper: CoreHyper, x: jax.Array, sigma: jax.Array, observation: jax.Array) -> jax.Array:
    """``D_phi(x, sigma, s)``, not yet clipped."""
    network = behavior_network(hyper, x.shape[-1])
    predict = lambda scaled, level: network.apply(behavior, scaled, level, observation)  # noqa: E731
    return edm_denoiser(predict, hyper.sigma_data)(x, sigma)


def denoised_bound(hyper: CoreHyper) -> jax.Array | float:
    """What ``D_phi`` is clipped to."""
    return hyper.max_action if hyper.clip_denoised else jnp.inf


def denoising_loss(
    behavior: Params, draws: EDMDraws, hyper: CoreHyper, observation: jax.Array, action: jax.Array
) -> jax.Array:
    """``L(a)``: behaviour cloning at the data's actions, trust region at the policy's."""
    denoiser = lambda x, sigma: denoise(behavior, hyper, x, sigma, observation)  # noqa: E731
    return jnp.mean(edm_matching(denoiser, action, draws, hyper.sigma_data, denoised_bound(hyper)))


def behavior_loss(behavior: Params, draws: EDMDraws, hyper: CoreHyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``L(a)`` at the minibatch's actions."""
    loss = denoising_loss(behavior, draws, hyper, batch.observation, batch.action)
    return loss, {"behavior/loss": loss}


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
    metrics = {"loss": loss, "value_loss": value_loss, "q_mean": jnp.mean(q), "v_mean": jnp.mean(v)}
    return loss, {f"critic/{name}": value for name, value in metrics.items()}


def update_models(
    draws: EDMDraws, decay: jax.Array | float, state: Any, hyper: CoreHyper, batch: Batch
) -> tuple[Learner, Learner, Scalars]:
    """One unclipped Adam step of the critics (both Q and V) and of the behaviour model, independent of each other.

    ``state`` is any tuple with the learners ``behavior`` and ``critic``; ``decay`` multiplies their rates.
    """
    critic, critic_metrics = learn(critic_loss, state.critic, hyper.critic_lr * decay, hyper, batch, name="critic")
    rate = hyper.actor_lr * decay
    behavior, behavior_metrics = learn(behavior_loss, state.behavior, rate, draws, hyper, batch, name="behavior")
    return critic, behavior, critic_metrics | behavior_metrics


def pretrain(
    draws: PretrainDraws, step: jax.Array, state: Any, hyper: CoreHyper, batches: tuple[Batch, ...]
) -> tuple[Any, Metrics]:
    """One pretraining step of behaviour model and critic; policy and targets stay."""
    (batch,) = batches
    critic, behavior, metrics = update_models(draws.behavior, 1.0, state, hyper, batch)
    return state._replace(behavior=behavior, critic=critic), weigh(metrics)


PRETRAIN: Phase[Any, Any] = Phase("pretrain", pretrain, draw_pretrain)


def draw_action(key: jax.Array, spec: Spec, hyper: CoreHyper) -> ActionDraws:
    """Draws of one decision: ``noise (candidates, action_dim)`` is standard normal."""
    noise_key, uniform_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (hyper.candidates, spec.action_dim))
    return ActionDraws(noise, jax.random.uniform(uniform_key))


def choose(
    target_critic: Critic, uniform: jax.Array, hyper: CoreHyper, observation: jax.Array, action: jax.Array
) -> jax.Array:
    """One of the candidates, drawn from the softmax of its value; a single candidate is not ranked."""
    chex.assert_rank(observation, 1)
    if hyper.candidates == 1:
        return action[0]
    return softmax_choice(action, min_q(target_critic, hyper, observation, action), uniform)


def cost(hyper: CoreHyper) -> ActingCost:
    """Cost of one decision."""
    return softmax_cost(hyper.candidates, 1)
