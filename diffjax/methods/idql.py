"""IDQL, Implicit Diffusion Q-Learning (Hansen-Estruch et al. 2023, arXiv 2304.10573).

One update step, in the order of the authors' program (jaxrl5/agents/ddpm_iql_simple, revision 7582571); all three
losses see the same rows, ``q = min_j Q'_j(s, a)``:

1. actor: AdamW on ``mean_b w sum_d (epsilon(x_t, t, s) - noise)^2``, ``w = 1``, dropout in this loss alone; its rate
   falls by a cosine, its weights decay. Then the average of the actor, from the first step on.
2. value: Adam on ``mean |expectile - 1[q <= V(s)]| (q - V(s))^2``.
3. critic: ``y = r + discount * not_done * V(s')`` with the V just updated; Adam on ``mean_{j,b} (Q_j - y)^2``.
4. target critic, on every step.

Acting: ``candidates`` samples of the averaged actor, whose chain is clipped after the noise of every step, and the one
with the largest ``min_j Q'_j``.

Where paper and program differ, the paper quoted at second hand: its batches are 256 rows for the critic and 1024 for
the actor, which takes two steps per critic step; weight decay and V's LayerNorm are the program's alone. That LayerNorm
normalises the raw observation and no hidden layer, which of three numbers leaves about one. The program trains on the
first 95 % of a file's rows, here all are used; its launch script reads two settings that it does not define.

Variant ``general`` is the learner of the first release (89bb493), with other objectives of V, weights of the actor by
``q - V(s)`` with V before its step, a plain network, and the paper's implicit policy (``choice=implicit``); its
published run uses none of these. Its second actor step per update, on no rows, is left out: its loss is no number, its
gradient zero, so that it only repeats the momentum, the decay of the rate and the average.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.denoisers import epsilon_denoiser
from diffjax.diffusion.objectives import DenoisingDraws, draw_denoising, noise_matching
from diffjax.diffusion.samplers import ChainNoise, chain
from diffjax.methods import chain_policy
from diffjax.methods.base import ActingCost, Method, Metrics, Phase, Scalars, static, traced, weigh
from diffjax.methods.candidates import ActionDraws, chosen
from diffjax.nn.learners import Learner, copies, cosine_decay, learn, learner, polyak
from diffjax.nn.networks import FLAX_NORM_EPSILON, GLOROT, MLP, Ensemble, Params, chain_predictor, mish
from diffjax.nn.residual import ResidualNetwork, WaveConditioned
from diffjax.types import Batch, Spec

NUM_CRITICS = 2
PLAIN_LAYERS = 3  # hidden layers of the architecture mlp
HARD_ADVANTAGE = -0.01
ACTIVATIONS = {"silu": nn.silu, "mish": mish}
VALUE_OBJECTIVES: dict[str, Callable[..., jax.Array]] = {
    "expectile": losses.expectile_loss,
    "quantile": losses.quantile_loss,
    "exponential": losses.exponential_loss,
}


@flax.struct.dataclass
class Hyper(chain_policy.ChainHyper):
    """Hyper-parameters of IDQL; plain fields are traced, ``static`` ones are not."""

    expectile: float = traced(0.7, above=0.0, below=1.0)  # or the quantile
    discount: float = traced(0.99, at_least=0.0, at_most=1.0)
    tau: float = traced(0.005, above=0.0, at_most=1.0)  # Polyak rate of the target critic
    actor_tau: float = traced(0.001, above=0.0, at_most=1.0)  # Polyak rate of the average of the actor
    actor_lr: float = traced(3e-4, above=0.0)
    value_lr: float = traced(3e-4, above=0.0)
    critic_lr: float = traced(3e-4, above=0.0)
    lr_decay_steps: float = traced(3e6, at_least=0.0)  # cosine of the actor's rate to zero; 0: constant
    weight_decay: float = traced(1e-4, at_least=0.0)  # of the actor
    dropout: float = traced(0.1, at_least=0.0, below=1.0)  # share of a block's inputs that are left out
    max_action: float = traced(1.0, above=0.0)
    batch_size: int = static(512, at_least=1)
    critic_rows: int = static(0, at_least=0)  # the first rows of a minibatch, which V and critic see; 0: all
    hidden_dims: tuple[int, ...] = static((256, 256), at_least=1)  # of V and critics
    value_norm: bool = static(True)  # LayerNorm of the observation in V
    actor_architecture: str = static("ln_resnet", ("ln_resnet", "mlp"))
    actor_dim: int = static(256, at_least=1)  # width of the actor
    actor_blocks: int = static(3, at_least=1)  # of ln_resnet
    activation: str = static("silu", ACTIVATIONS)  # of the actor
    time_dim: int = static(128, at_least=2, multiple_of=2)  # learnt features of the time step
    condition_dims: tuple[int, ...] = static((256, 256), at_least=1)  # the two layers on them
    value_objective: str = static("expectile", VALUE_OBJECTIVES)
    actor_objective: str = static("bc", ("bc", "soft_adv", "hard_adv", "exp_adv"))
    alpha: float = traced(1.0, above=0.0)  # of the exponential value objective
    beta: float = traced(3.0, at_least=0.0)  # inverse temperature of exp_adv
    max_weight: float = traced(100.0, above=0.0)  # of exp_adv
    candidates: int = static(64, at_least=1, acting=True)
    choice: str = static("best", ("best", "implicit"), acting=True)
    clip_sampler: bool = static(True, acting=True)  # states of the ancestral chain, x_0 of others; else only its end
    extra_steps: int = static(0, at_least=0, acting=True)  # the chain's last step is taken so often again
    sampler_temperature: float = traced(1.0, at_least=0.0, acting=True)  # scales the noise of the chain's steps


@flax.struct.dataclass
class GeneralHyper(Hyper):
    """Those of the first release, where they are others."""

    weight_decay: float = traced(0.0, at_least=0.0)
    batch_size: int = static(2048, at_least=1)
    critic_rows: int = static(256, at_least=0)
    value_norm: bool = static(False)
    activation: str = static("mish", ACTIVATIONS)
    time_dim: int = static(64, at_least=2, multiple_of=2)
    condition_dims: tuple[int, ...] = static((128, 128), at_least=1)


class State(NamedTuple):
    """What IDQL learns."""

    actor: Learner
    target_actor: Params  # the average that acts
    value: Learner
    critic: Learner  # leading axis 2 on every array
    target_critic: Params


class Draws(NamedTuple):
    """Random numbers of one update."""

    denoising: DenoisingDraws
    keep: jax.Array  # (blocks, batch, actor_dim) bool; no blocks in the architecture mlp


def value_network(hyper: Hyper) -> MLP:
    """V on the observation."""
    return MLP(hyper.hidden_dims, 1, nn.relu, GLOROT, norm_input=hyper.value_norm, norm_epsilon=FLAX_NORM_EPSILON)


def critics(hyper: Hyper) -> Ensemble:
    """Both Q networks on ``[observation, action]``."""
    return Ensemble(MLP(hyper.hidden_dims, 1, nn.relu, GLOROT), NUM_CRITICS)


def actor_network(hyper: Hyper, action_dim: int) -> WaveConditioned:
    """The noise predictor, input ``[action, observation, condition]``; the time is the index ``0..T-1``."""
    activation = ACTIVATIONS[hyper.activation]
    trunk: nn.Module = ResidualNetwork(hyper.actor_dim, hyper.actor_blocks, action_dim, activation)
    if hyper.actor_architecture == "mlp":
        widths = (hyper.actor_dim,) * PLAIN_LAYERS
        trunk = MLP(widths, action_dim, activation, GLOROT, norm_input=True, norm_epsilon=FLAX_NORM_EPSILON)
    return WaveConditioned(trunk, hyper.time_dim, hyper.condition_dims, activation)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; average and target start as copies."""
    actor_key, value_key, critic_key = jax.random.split(key, 3)
    observation, action = spec.example()
    actor = actor_network(hyper, spec.action_dim).init(actor_key, action, jnp.zeros(()), observation)
    value = value_network(hyper).init(value_key, observation)
    critic = critics(hyper).init(critic_key, observation, action)
    return State(learner(actor), copies(actor), learner(value), learner(critic), copies(critic))


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    denoising_key, keep_key = jax.random.split(key)
    blocks = hyper.actor_blocks if hyper.actor_architecture == "ln_resnet" else 0
    keep = jax.random.bernoulli(keep_key, 1.0 - hyper.dropout, (blocks, hyper.batch_size, hyper.actor_dim))
    shape = (hyper.batch_size, spec.action_dim)
    return Draws(draw_denoising(denoising_key, hyper.diffusion_steps, shape), keep)


def v_value(value: Params, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``V(s)``, ``(...,)``."""
    return value_network(hyper).apply(value, observation)[..., 0]


def min_q(critic: Params, hyper: Hyper, observation: jax.Array, action: jax.Array) -> jax.Array:
    """``min_j Q_j(s, a)``, ``(...,)``; ``observation`` broadcasts against ``action``."""
    return losses.ensemble_min(critics(hyper).apply(critic, observation, action))


def actor_weight(advantage: jax.Array, hyper: Hyper) -> jax.Array:
    """Weight of each row of the actor's loss by its advantage ``q - V(s)``, ``(batch,)``."""
    weights = {
        "bc": jnp.ones_like(advantage),
        "soft_adv": losses.expectile_weight(advantage, hyper.expectile),
        "hard_adv": (advantage >= HARD_ADVANTAGE).astype(advantage.dtype),
        "exp_adv": jnp.minimum(jnp.exp(hyper.beta * advantage), hyper.max_weight),
    }
    return weights[hyper.actor_objective]


def actor_loss(
    actor: Params, advantage: jax.Array, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``mean_b w sum_d (epsilon - noise)^2``, with dropout."""
    schedule = chain_policy.schedule_of(hyper)
    action_dim = batch.action.shape[-1]
    network, factors = actor_network(hyper, action_dim), tuple(draws.keep / (1.0 - hyper.dropout))
    predict = lambda x, index: network.apply(actor, x, index, batch.observation, factors)  # noqa: E731
    error = action_dim * noise_matching(predict, schedule, batch.action, draws.denoising)
    weight = actor_weight(advantage, hyper)
    loss = jnp.mean(weight * error)
    return loss, {"actor/loss": loss, "actor/bc": jnp.mean(error), "actor/weight": jnp.mean(weight)}


def value_loss(value: Params, q: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """Regression of V on ``q``, ``(batch,)``, by its objective."""
    v = v_value(value, hyper, batch.observation)
    parameter = hyper.alpha if hyper.value_objective == "exponential" else hyper.expectile
    loss = VALUE_OBJECTIVES[hyper.value_objective](q - v, parameter)
    return loss, {"value/loss": loss, "value/v_mean": jnp.mean(v)}


def critic_target(value: Params, hyper: Hyper, batch: Batch) -> jax.Array:
    """``y = r + discount * not_done * V(s')``, ``(batch,)``."""
    next_v = v_value(value, hyper, batch.next_observation)
    return losses.td_target(batch.reward, hyper.discount, batch.not_done, next_v)


def critic_loss(critic: Params, target: jax.Array, hyper: Hyper, batch: Batch) -> tuple[jax.Array, Scalars]:
    """``mean_{j,b} (Q_j - y)^2``."""
    q = critics(hyper).apply(critic, batch.observation, batch.action)
    loss = jnp.mean(losses.squared_error(q, target))
    return loss, {"critic/loss": loss, "critic/q_mean": jnp.mean(q), "critic/target_mean": jnp.mean(target)}


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of actor, average, value, critic and target."""
    (batch,) = batches
    q = min_q(state.target_critic, hyper, batch.observation, batch.action)
    advantage = q - v_value(state.value.params, hyper, batch.observation)
    rate, given = hyper.actor_lr * cosine_decay(step, hyper.lr_decay_steps), (advantage, draws, hyper, batch)
    actor, of_actor = learn(actor_loss, state.actor, rate, *given, weight_decay=hyper.weight_decay, name="actor")
    target_actor = polyak(state.target_actor, actor.params, hyper.actor_tau)

    q, rows = jax.tree.map(lambda x: x[: hyper.critic_rows or None], (q, batch))
    value, of_value = learn(value_loss, state.value, hyper.value_lr, q, hyper, rows, name="value")
    target = critic_target(value.params, hyper, rows)
    critic, of_critic = learn(critic_loss, state.critic, hyper.critic_lr, target, hyper, rows, name="critic")
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)
    return State(actor, target_actor, value, critic, target_critic), weigh(of_actor | of_value | of_critic)


def action_chain(actor: Params, noise: ChainNoise, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """All states of the reverse chain, ``(steps + 1, *actions)``; ``observation`` broadcasts against the actions."""
    network, time = actor_network(hyper, noise.start.shape[-1]), jnp.arange(hyper.diffusion_steps)
    bound = hyper.max_action if hyper.clip_sampler else None
    is_ancestral = hyper.sampler == "ancestral"
    return chain(
        epsilon_denoiser(chain_predictor(network, actor, time, observation), chain_policy.schedule_of(hyper)),
        chain_policy.chain_of(hyper, "beta", hyper.extra_steps),
        noise,
        clip=None if is_ancestral else bound,
        state_clip=bound if is_ancestral else None,
        temperature=hyper.sampler_temperature,
    )


def sample_actions(actor: Params, noise: ChainNoise, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The ends of :func:`action_chain`, clipped; shape of ``noise.start``."""
    return jnp.clip(action_chain(actor, noise, hyper, observation)[-1], -hyper.max_action, hyper.max_action)


def implicit_weight(advantage: jax.Array, hyper: Hyper) -> jax.Array:
    """Weight of each candidate in the implicit policy of V's objective, ``(candidates,)``.

    The quantile's is divided by the advantage with its sign, and the exponential's is the same for all, as in the
    program.
    """
    expectile = losses.expectile_weight(advantage, hyper.expectile)
    quantile = expectile / advantage
    return {
        "expectile": expectile / jnp.sum(expectile),
        "quantile": quantile / jnp.sum(quantile),
        "exponential": jnp.full_like(advantage, hyper.alpha**2),
    }[hyper.value_objective]


def draw_action(key: jax.Array, spec: Spec, hyper: Hyper) -> ActionDraws:
    """Draws of one decision: ``noise`` is that of the candidates' chains."""
    chain_key, uniform_key = jax.random.split(key)
    shape = (hyper.candidates, spec.action_dim)
    noise = chain_policy.draw_chain(chain_key, hyper, shape, hyper.extra_steps)
    return ActionDraws(noise, jax.random.uniform(uniform_key))


def select(
    value: Params, target_critic: Params, draws: ActionDraws, hyper: Hyper, observation: jax.Array, action: jax.Array
) -> jax.Array:
    """Which of ``action (candidates, action_dim)`` acts: the best by ``min_j Q'_j``, or the implicit policy's."""
    q = min_q(target_critic, hyper, observation, action)
    if hyper.choice == "best":
        return jnp.argmax(q)
    weight = implicit_weight(q - v_value(value, hyper, observation), hyper)
    return losses.weighted_selection(weight, draws.uniform)


def act(draws: ActionDraws, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """The candidate of the averaged actor that :func:`select` names."""
    chex.assert_shape(observation, (spec.observation_dim,))
    action = sample_actions(state.target_actor, draws.noise, hyper, observation)
    return chosen(action, select(state.value.params, state.target_critic, draws, hyper, observation, action))


def cost(hyper: Hyper) -> ActingCost:
    """Cost of one decision."""
    rules = {"best": "largest min target Q", "implicit": f"weight of the {hyper.value_objective}"}
    rule = chain_policy.chain_selection(f"{rules[hyper.choice]} of {hyper.candidates}", hyper)
    return ActingCost(hyper.candidates, chain_policy.chain_steps(hyper) + hyper.extra_steps, rule)


METHOD = Method(Hyper, init, (Phase("main", update, draw),), act, draw_action, cost)
GENERAL = METHOD._replace(hyper=GeneralHyper)
