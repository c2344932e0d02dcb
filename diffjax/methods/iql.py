"""IQL, Implicit Q-Learning (Kostrikov et al. 2021, arXiv 2110.06169).

One update step, in the published order (authors' learner.py, critic.py, actor.py); ``q = min_j Q'_j(s, a)``:

1. value: Adam on ``mean |expectile - 1[q <= V(s)]| (q - V(s))^2``.
2. actor: ``L = -mean w log pi(a | s)``, ``w = min(exp(beta (q - V(s))), max_weight)``, with the V just updated; ``pi``
   is a normal around a tanh, its deviation a learnt vector; dropout in this loss alone. The rate falls by a cosine.
3. critic: ``y = r + discount * not_done * V(s')`` with the V just updated; Adam on ``mse(Q_1, y) + mse(Q_2, y)``.
4. target critic, on every step.

Everything follows the authors' program (revision 09d7002): ``beta``, there called temperature, multiplies the
advantage; the deviation is no function of the state; its logarithm is clipped to [-5, 2]. The paper was not compared.

Variant ``corl`` is CORL's program (revision eeeeef2, algorithms/offline/iql.py): actor and critic see V as it was
before step 1 (``simultaneous``), the critics' loss is half of that above, networks start as PyTorch's do, observations
have mean 0 and deviation 1, the deviation's logarithm is clipped to [-20, 2], and in two tasks the policy is
``deterministic``, its loss ``mean w |pi(s) - a|^2``, summed over dimensions.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods.base import Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.nn.learners import Learner, copies, cosine_decay, learn, learner, polyak
from diffjax.nn.networks import MLP, ORTHOGONAL_SQRT2, TORCH, Ensemble, GaussianPolicy, Params
from diffjax.types import Batch, Spec

NUM_CRITICS = 2
INITIALIZERS = {"orthogonal": ORTHOGONAL_SQRT2, "torch": TORCH}


@flax.struct.dataclass
class Hyper:
    """Hyper-parameters of IQL; plain fields are traced, ``static`` ones are not."""

    expectile: float = traced(0.7, above=0.0, below=1.0)
    beta: float = traced(3.0, at_least=0.0)  # inverse temperature of the advantage
    max_weight: float = traced(100.0, above=0.0)  # of the exponential of the advantage
    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)
    value_lr: float = traced(3e-4, above=0.0)
    actor_lr: float = traced(3e-4, above=0.0)
    critic_lr: float = traced(3e-4, above=0.0)
    lr_decay_steps: float = traced(1e6, at_least=0.0)  # cosine of the actor's rate to zero; 0: constant
    critic_weight: float = traced(1.0, above=0.0)  # of the critics' loss
    max_action: float = traced(1.0, above=0.0)
    batch_size: int = static(256, at_least=1)
    hidden_dims: tuple[int, ...] = static((256, 256), at_least=1)
    dropout: float = static(0.0, at_least=0.0, below=1.0)  # share of the actor's hidden units that are left out
    log_std_min: float = static(-5.0, below="log_std_max")
    log_std_max: float = static(2.0, above="log_std_min")
    initializer: str = static("orthogonal", INITIALIZERS)  # of all layers, the last ones too
    simultaneous: bool = static(False)  # actor and critic see V as it was, not as it was just updated
    deterministic: bool = static(False)  # a policy without deviation


class State(NamedTuple):
    """What IQL learns."""

    value: Learner
    actor: Learner
    critic: Learner  # leading axis 2 on every array
    target_critic: Params


class Draws(NamedTuple):
    """Random numbers of one update."""

    keep: tuple[jax.Array, ...]  # (batch, width) bool per hidden layer of the actor; empty without dropout


def value_network(hyper: Hyper) -> MLP:
    """V on the observation."""
    return MLP(hyper.hidden_dims, 1, nn.relu, INITIALIZERS[hyper.initializer])


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[observation, action]``."""
    return Ensemble(value_network(hyper), NUM_CRITICS)


def actor_network(hyper: Hyper, action_dim: int) -> GaussianPolicy | MLP:
    """The policy: the mean before its tanh, and the logarithm of the deviation if there is one."""
    initializer, bounds = INITIALIZERS[hyper.initializer], (hyper.log_std_min, hyper.log_std_max)
    if hyper.deterministic:
        return MLP(hyper.hidden_dims, action_dim, nn.relu, initializer)
    return GaussianPolicy(action_dim, hyper.hidden_dims, initializer, bounds, free_log_std=True)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the target starts as a copy."""
    value_key, actor_key, critic_key = jax.random.split(key, 3)
    observation, action = spec.example()
    value = value_network(hyper).init(value_key, observation)
    actor = actor_network(hyper, spec.action_dim).init(actor_key, observation)
    critic = critics(hyper).init(critic_key, observation, action)
    return State(learner(value), learner(actor), learner(critic), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    if hyper.dropout == 0:
        return Draws(())
    keys = jax.random.split(key, len(hyper.hidden_dims))
    shapes = [(hyper.batch_size, width) for width in hyper.hidden_dims]
    return Draws(
        tuple(jax.random.bernoulli(k, 1.0 - hyper.dropout, shape) for k, shape in zip(keys, shapes, strict=True))
    )


def v_value(value: Params, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``V(s)``, ``(...,)``."""
    return value_network(hyper).apply(value, observation)[..., 0]


def min_q(critic: Params, hyper: Hyper, batch: Batch) -> jax.Array:
    """``min_j Q_j(s, a)`` at the data's actions, ``(batch,)``."""
    return losses.ensemble_min(critics(hyper).apply(critic, batch.observation, batch.action))


def policy(
    actor: Params, hyper: Hyper, observation: jax.Array, action_dim: int, keep: tuple[jax.Array, ...] = ()
) -> tuple[jax.Array, jax.Array | None]:
    """Mean ``(..., action_dim)`` and logarithm of the deviation ``(action_dim,)`` of the action, None without one."""
    factors = tuple(mask / (1.0 - hyper.dropout) for mask in keep)
    output = actor_network(hyper, action_dim).apply(actor, observation, factors=factors)
    mean, log_std = (output, None) if hyper.deterministic else output
    return hyper.max_action * jnp.tanh(mean), log_std


def value_loss(value: Params, q: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """Expectile regression of V on ``q``, ``(batch,)``."""
    v = v_value(value, hyper, batch.observation)
    loss = losses.expectile_loss(q - v, hyper.expectile)
    return loss, {"value/loss": loss, "value/v_mean": jnp.mean(v)}


def advantage_weight(advantage: jax.Array, hyper: Hyper) -> jax.Array:
    """``w = min(exp(beta * advantage), max_weight)``."""
    return jnp.minimum(jnp.exp(hyper.beta * advantage), hyper.max_weight)


def cloning_loss(actor: Params, draws: Draws, hyper: Hyper, batch: Batch) -> jax.Array:
    """``-log pi(a | s)``, or ``|pi(s) - a|^2`` of a deterministic policy, ``(batch,)``."""
    mean, log_std = policy(actor, hyper, batch.observation, batch.action.shape[-1], draws.keep)
    if log_std is None:
        return jnp.sum((mean - batch.action) ** 2, axis=-1)
    return -losses.gaussian_log_prob(batch.action, mean, log_std)


def actor_loss(
    actor: Params, advantage: jax.Array, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``mean w l``, ``l`` the :func:`cloning_loss`."""
    weight, cloning = advantage_weight(advantage, hyper), cloning_loss(actor, draws, hyper, batch)
    loss = jnp.mean(weight * cloning)
    metrics = {"loss": loss, "bc": jnp.mean(cloning), "weight": jnp.mean(weight), "advantage": jnp.mean(advantage)}
    return loss, {f"actor/{name}": metric for name, metric in metrics.items()}


def critic_target(value: Params, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * V(s')``, ``(batch,)``."""
    next_v = v_value(value, hyper, batch.next_observation)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_v)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``critic_weight (mse(Q_1, y) + mse(Q_2, y))``."""
    q = critics(hyper).apply(critic, batch.observation, batch.action)
    loss = hyper.critic_weight * jnp.sum(losses.squared_error(q, target))
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(q), "critic/target_mean": jnp.mean(target)}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of value, actor, critic and target."""
    (batch,) = batches
    q = min_q(state.target_critic, hyper, batch)
    value, value_metrics = learn(value_loss, state.value, hyper.value_lr, q, hyper, batch, name="value")
    seen = (state.value if hyper.simultaneous else value).params

    advantage = q - v_value(seen, hyper, batch.observation)
    rate = hyper.actor_lr * cosine_decay(step, hyper.lr_decay_steps)
    actor, actor_metrics = learn(actor_loss, state.actor, rate, advantage, draws, hyper, batch, name="actor")

    target = critic_target(seen, hyper, batch)
    critic, critic_metrics = learn(critic_loss, state.critic, hyper.critic_lr, target, hyper, batch, name="critic")
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)
    return State(value, actor, critic, target_critic), weigh(value_metrics | actor_metrics | critic_metrics)


def act(draws: None, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The mean of the policy."""
    return policy(state.actor.params, hyper, observation, spec.action_dim)[0]


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act)
