"""ReBRAC (Tarasov et al. 2023, arXiv 2305.09836): TD3+BC with a penalty on both sides, LayerNorm and deeper networks.

One update step, in the published order (authors' src/algorithms/rebrac.py); ``a'_data`` is the data's next action:

1. critic: ``y = r + discount * not_done * (min_j Q'_j(s', a') - critic_bc |a' - a'_data|^2)``, ``a'`` the target
   actor's action plus clipped noise, ``|.|^2`` a sum over dimensions; Adam on ``mse(Q_1, y) + mse(Q_2, y)``.
2. actor, on the first step and every 2nd one, with the critic just updated:
   ``L = mean (actor_bc |pi(s) - a|^2 - lambda min_j Q_j(s, pi(s)))``, ``lambda = 1 / sg(mean |min_j Q_j(s, pi(s))|)``.
3. on the steps of the actor alone: target critic, towards the critic just updated; target actor, towards the actor as
   it was before step 2, one step behind TD3's rule.

Everything follows the authors' program (revision 694385b), of which the last half of 3 and the counter of 2, which
starts anew every 1000 steps, may be accidents; the paper was not compared with it.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods.base import Method, Metrics, Phase, Scalars, View, every, static, traced, weigh
from diffjax.methods.td3_bc import NUM_CRITICS, State
from diffjax.nn.learners import copies, learn, learner, polyak
from diffjax.nn.networks import FLAX_NORM_EPSILON, MLP, TORCH, Ensemble, Initializer, Params, uniform_initializer
from diffjax.types import Batch, Spec

EPOCH = 1000  # updates after which the authors' counter of delayed steps starts anew
HIDDEN = Initializer(TORCH.kernel, lambda key, shape, fan_in: jnp.full(shape, 0.1))
ACTOR_OUTPUT, CRITIC_OUTPUT = uniform_initializer(1e-3), uniform_initializer(3e-3)


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters of ReBRAC; plain fields are traced, ``static`` ones are not."""

    actor_bc: float = traced(0.01, at_least=0.0)  # weight of the actor's penalty
    critic_bc: float = traced(0.01, at_least=0.0)  # weight of the penalty in the critics' target
    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    policy_noise: float = traced(0.2, at_least=0.0)  # of target actions, in units of max_action
    noise_clip: float = traced(0.5, at_least=0.0)  # likewise
    tau: float = traced(0.005, above=0.0, at_most=1.0)  # Polyak rate of both targets
    critic_lr: float = traced(1e-3, above=0.0)
    actor_lr: float = traced(1e-3, above=0.0)
    max_action: float = traced(1.0, above=0.0)
    normalize_q: bool = static(True)  # else lambda = 1
    actor_norm: bool = static(False)  # LayerNorm
    critic_norm: bool = static(True)
    policy_interval: int = static(2, at_least=1)  # critic steps per step of actor and targets
    hidden_dims: tuple[int, ...] = static((256, 256, 256), at_least=1)
    critic_hidden_dims: tuple[int, ...] = static((), at_least=1)  # empty: hidden_dims
    batch_size: int = static(1024, at_least=1)


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[observation, action]``."""
    widths = hyper.critic_hidden_dims or hyper.hidden_dims
    return Ensemble(network(widths, 1, hyper.critic_norm, CRITIC_OUTPUT), NUM_CRITICS)


def network(hidden_dims: tuple[int, ...], output_dim: int, norm: bool, output: Initializer) -> MLP:
    """Layers of an affine map, ReLU and, with ``norm``, LayerNorm; a linear output."""
    return MLP(
        hidden_dims,
        output_dim,
        nn.relu,
        HIDDEN,
        layer_norm=norm,
        norm_last=True,
        norm_epsilon=FLAX_NORM_EPSILON,
        output_initializer=output,
    )


def actor_network(hyper: Hyper, action_dim: int) -> MLP:
    """The policy before its tanh."""
    return network(hyper.hidden_dims, action_dim, hyper.actor_norm, ACTOR_OUTPUT)


def policy(actor: Params, hyper: Hyper, observation: jax.Array, action_dim: int) -> jax.Array:
    """``pi(s) = max_action * tanh(...)``."""
    return hyper.max_action * jnp.tanh(actor_network(hyper, action_dim).apply(actor, observation))


def min_q(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``min_j Q_j(s, a)``, ``(...,)``."""
    return losses.ensemble_min(critics(hyper).apply(critic, observation, action))


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the targets start as copies."""
    observation, action = spec.example()
    actor_key, critic_key = jax.random.split(key)
    critic = critics(hyper).init(critic_key, observation, action)
    actor = actor_network(hyper, spec.action_dim).init(actor_key, observation)
    return State(learner(actor), copies(actor), learner(critic), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> jax.Array:
    """Standard normal noise of the target actions, ``(batch, action_dim)``."""
    return jax.random.normal(key, (hyper.batch_size, spec.action_dim))


def penalty(action: jax.Array, data: jax.Array) -> jax.Array:
    """``|a - a_data|^2``, summed over dimensions, ``(batch,)``."""
    return jnp.sum((action - data) ** 2, axis=-1)


def next_actions(target_actor: Params, noise: jax.Array, hyper: Hyper, batch: Batch) -> jax.Array:
    """Smoothed actions of the target actor, ``(batch, action_dim)``."""
    action = policy(target_actor, hyper, batch.next_observation, noise.shape[-1])
    return losses.smoothed_action(action, noise, hyper.policy_noise, hyper.noise_clip, hyper.max_action)


def critic_target(noise: jax.Array, state: State, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * (min_j Q'_j(s', a') - critic_bc |a' - a'_data|^2)``, ``(batch,)``."""
    action, data = next_actions(state.target_actor, noise, hyper, batch), batch.next_action
    assert data is not None
    next_q = min_q(state.target_critic, hyper, batch.next_observation, action)
    value = next_q - hyper.critic_bc * penalty(action, data)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, value)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mse(Q_1, y) + mse(Q_2, y)``."""
    q = critics(hyper).apply(critic, batch.observation, batch.action)
    loss, low = jnp.sum(losses.squared_error(q, target)), jnp.mean(losses.ensemble_min(q))
    metrics = {"loss": loss, "q_mean": jnp.mean(q), "q_min": low, "target_mean": jnp.mean(target)}
    return loss, {f"critic/{name}": value for name, value in metrics.items()}


def actor_loss(actor: Params, critic: Params, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean (actor_bc |pi(s) - a|^2 - lambda min_j Q_j(s, pi(s)))``."""
    action = policy(actor, hyper, batch.observation, batch.action.shape[-1])
    q = min_q(critic, hyper, batch.observation, action)
    weight = 1.0 / jax.lax.stop_gradient(jnp.mean(jnp.abs(q))) if hyper.normalize_q else jnp.ones(())
    bc = jnp.mean(penalty(action, batch.action))
    loss = hyper.actor_bc * bc - weight * jnp.mean(q)
    return loss, {"actor/loss": loss, "actor/bc": bc, "actor/q_mean": jnp.mean(q), "actor/q_weight": weight}


def update(
    draws: jax.Array, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of the critics; where it is due, one of the actor and one of both targets."""
    (batch,) = batches
    given = (critic_target(draws, state, hyper, batch), hyper, batch)
    critic, critic_metrics = learn(critic_loss, state.critic, hyper.critic_lr, *given, name="critic")

    def update_policy(before: State) -> tuple[State, Scalars]:
        target_actor = polyak(before.target_actor, before.actor.params, hyper.tau)  # the actor as it was
        target_critic = polyak(before.target_critic, critic.params, hyper.tau)
        actor, metrics = learn(actor_loss, before.actor, hyper.actor_lr, critic.params, hyper, batch, name="actor")
        return State(actor, target_actor, critic, target_critic), metrics

    state, metrics = every(hyper.policy_interval, step % EPOCH, update_policy, state._replace(critic=critic))
    return state, weigh(critic_metrics) | metrics


def act(draws: None, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The policy's action."""
    return policy(state.actor.params, hyper, observation, spec.action_dim)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, view=View(next_action=True))
