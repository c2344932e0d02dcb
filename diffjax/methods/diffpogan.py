"""DiffPoGAN, diffusion policies with generative adversarial networks (Hu et al. 2024, arXiv 2406.09089).

One update step, in the order of the authors' agents/diffpogan.py (variant ``code``; ``paper`` is the module
:mod:`diffpogan_paper`). ``D`` is the discriminator, ``c`` the negative log-likelihood of the data under
a NICE flow that the program never trains:

1. real set ``R = (s, a)`` and a second minibatch; fake set ``F = (s, a_E), (s', a'_E)`` from the target actor ``E``.
2. discriminator: Adam on ``mean l_real(D(R)) + mean l_fake(D(F))`` (+ gradient penalty / 2 for ``wgan``).
3. critic, as Diffusion-QL, with the same ``a'_E``.
4. on every ``policy_interval``-th step, with the discriminator just updated and ``G = (s', a'_E), (s, a_theta)``:
   ``L = w * bc_weight * L_d + L_q + adversarial_weight * log(mean l_gen(D(G)) + likelihood_weight * c)``,
   ``w = sg(mean D(G) / mean D_old(R))``.
5. target actor and target critic, on every step.

Quirks of the code that are kept: the "Wasserstein" critic ends in a sigmoid; gradient-penalty points mix
real and fake with a normal and not a uniform number; half of ``G`` carries no gradient; the logarithm is unguarded and
yields NaN where its argument is not positive; ``c`` acts as a constant; the critic's scheduler steps twice a block.

The ablations ``discriminator_weighting = False`` (``w = 1``) and ``adversarial_term = False`` leave all else of a
variant as it is; the discriminator is trained in each.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.samplers import ChainNoise
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import Method, Metrics, Phase, Scalars, View, every, static, traced, weigh
from diffjax.nn.learners import Learner, learn, learner
from diffjax.nn.networks import Discriminator, NICEFlow, Params
from diffjax.types import Batch, Spec

CRITIC_CALLS_PER_BLOCK = 2


@flax.struct.dataclass
class Hyper(dp.Hyper):
    """DiffPoGAN's own hyper-parameters."""

    bc_weight: float = traced(0.05, at_least=0.0)  # kl_alpha in the authors' code
    adversarial_weight: float = traced(0.01, at_least=0.0)  # gama
    likelihood_weight: float = traced(0.05, at_least=0.0)  # mle_beta
    discriminator_lr: float = traced(3e-5, above=0.0)  # dis_lr
    divergence: str = static("wgan", losses.DIVERGENCES)  # f_div
    discriminator_weighting: bool = static(True)  # False (ablation): L_d weighs bc_weight, whatever D says
    adversarial_term: bool = static(True)  # False (ablation): the policy's loss has no generator term
    policy_interval: int = static(2, at_least=1)
    discriminator_hidden_dims: tuple[int, ...] = static((400, 300), at_least=1)
    flow_hidden_dim: int = static(750, at_least=1)
    flow_couplings: int = static(4, at_least=1)


class State(NamedTuple):
    """What DiffPoGAN learns."""

    core: dp.Core
    discriminator: Learner
    flow: Params | None  # never trained; None in variant ``paper``


class Draws(NamedTuple):
    """Random numbers of one update."""

    label: jax.Array  # (2 batch,) uniform, for label smoothing
    next_action: ChainNoise
    action: ChainNoise  # of the target actor at s
    mixing: jax.Array  # (2 batch,) standard normal, for the gradient penalty
    policy: dp.PolicyDraws


class Samples(NamedTuple):
    """State-action pairs that a discriminator judges; leading axis ``rows``."""

    observation: jax.Array
    action: jax.Array


class Sets(NamedTuple):
    """The discriminator's real and fake set, and the target actor's next actions, of which the fake set has the first.

    ``next_actions`` is ``(batch, action_dim)``, or ``(batch, target_samples, action_dim)`` under ``max_q_backup``.
    """

    real: Samples
    fake: Samples
    next_actions: jax.Array


def discriminator_network(hyper: Hyper) -> Discriminator:
    """The discriminator's module."""
    return Discriminator(hyper.discriminator_hidden_dims)


def flow_network(hyper: Hyper) -> NICEFlow:
    """The flow's module."""
    return NICEFlow(hyper.flow_hidden_dim, hyper.flow_couplings)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state."""
    state_key, flow_key = jax.random.split(key)
    core_key, discriminator_key = jax.random.split(state_key)
    discriminator = discriminator_network(hyper).init(discriminator_key, *spec.example())
    flow = flow_network(hyper).init(flow_key, jnp.concatenate(spec.example()))
    return State(dp.init_core(core_key, spec, hyper), learner(discriminator), flow)


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one update."""
    label_key, next_key, action_key, mixing_key, policy_key = jax.random.split(key, 5)
    return Draws(
        jax.random.uniform(label_key, (2 * hyper.batch_size,)),
        dp.draw_next_action(next_key, spec, hyper),
        dp.draw_next_action(action_key, spec, hyper),
        jax.random.normal(mixing_key, (2 * hyper.batch_size,)),
        dp.draw_policy(policy_key, spec, hyper),
    )


def first_sample(action: jax.Array) -> jax.Array:
    """The first of several sampled actions per state, as the discriminator gets it; ``(batch, action_dim)``."""
    return action[:, 0] if action.ndim == 3 else action


def join(first: Samples, second: Samples) -> Samples:
    """Rows of both sets, in order."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), first, second)


def draw_sets(draws: Draws, core: dp.Core, hyper: Hyper, batch: Batch, extra: Batch) -> Sets:
    """What the discriminator judges, ``extra`` being the second minibatch."""
    next_actions = dp.sample_next_actions(core.target_actor, draws.next_action, hyper, batch.next_observation)
    actions = dp.sample_next_actions(core.target_actor, draws.action, hyper, batch.observation)
    fake = Samples(batch.observation, first_sample(actions))
    next_fake = Samples(batch.next_observation, first_sample(next_actions))
    real = join(Samples(batch.observation, batch.action), Samples(extra.observation, extra.action))
    return Sets(real, join(fake, next_fake), next_actions)


def judge(discriminator: Params, hyper: Hyper, samples: Samples) -> jax.Array:
    """``D(s, a)``, ``(rows,)``."""
    return discriminator_network(hyper).apply(discriminator, samples.observation, samples.action)


def negative_log_likelihood(flow: Params, hyper: Hyper, samples: Samples) -> jax.Array:
    """``c = -mean log p(s, a)`` under the untrained flow."""
    pair = jnp.concatenate(samples, axis=-1)
    density = flow_network(hyper).apply(flow, pair, method=NICEFlow.log_density)
    return -jnp.mean(density)


def discriminator_loss(
    discriminator: Params, draws: Draws, hyper: Hyper, real: Samples, fake: Samples
) -> tuple[jax.Array, Scalars]:
    """``mean l_real(D(R)) + mean l_fake(D(F))``, plus the weighted gradient penalty if the divergence has one.

    Penalty points are ``mixing * real + (1 - mixing) * fake``, row by row.
    """
    divergence = losses.DIVERGENCES[hyper.divergence]
    real_loss = jnp.mean(divergence.real(judge(discriminator, hyper, real), draws.label))
    fake_loss = jnp.mean(divergence.fake(judge(discriminator, hyper, fake)))
    loss = real_loss + fake_loss
    penalty = jnp.zeros(())
    if divergence.gradient_penalty:
        mixing, observation_dim = draws.mixing[:, None], real.observation.shape[-1]
        points = mixing * jnp.concatenate(real, axis=-1) + (1.0 - mixing) * jnp.concatenate(fake, axis=-1)
        penalty = losses.gradient_penalty(
            lambda x: judge(discriminator, hyper, Samples(x[:, :observation_dim], x[:, observation_dim:])), points
        )
        loss += divergence.gradient_penalty * penalty
    metrics = {"loss": loss, "real": real_loss, "fake": fake_loss, "penalty": penalty}
    return loss, {f"discriminator/{name}": value for name, value in metrics.items()}


def actor_terms(
    actor: Params, critic: Params, draws: dp.PolicyDraws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, jax.Array, Samples]:
    """``L_d`` per state, ``L_q``, and the pairs ``(s, a_theta)`` at which it was taken."""
    bc = dp.denoising_loss(actor, draws.denoising, hyper, batch)
    q, action = dp.q_term(actor, critic, draws, hyper, batch)
    return bc, q, Samples(batch.observation, action)


def actor_loss(
    actor: Params,
    critic: Params,
    discriminator: Params,
    next_action: jax.Array,
    real_mean: jax.Array,
    likelihood: jax.Array,
    draws: dp.PolicyDraws,
    hyper: Hyper,
    batch: Batch,
) -> tuple[jax.Array, Scalars]:
    """Adaptive cloning, Q, and the generator term.

    Args:
      next_action: ``a'_E``, one per state; real_mean: mean ``D(R)`` before the discriminator's step; likelihood: ``c``.
    """
    bc, q, own = actor_terms(actor, critic, draws, hyper, batch)
    bc = jnp.mean(bc)
    judged = judge(discriminator, hyper, join(Samples(batch.next_observation, next_action), own))
    generator = jnp.mean(losses.DIVERGENCES[hyper.divergence].generator(judged))
    adversarial, weight = jnp.zeros(()), jnp.ones(())
    if hyper.adversarial_term:
        adversarial = jnp.log(generator + hyper.likelihood_weight * likelihood)
    if hyper.discriminator_weighting:
        weight = jax.lax.stop_gradient(jnp.mean(judged) / real_mean)
    loss = weight * hyper.bc_weight * bc + q + hyper.adversarial_weight * adversarial
    metrics = {"loss": loss, "bc": bc, "q": q, "bc_weight": weight, "generator": generator}
    metrics |= {"adversarial": adversarial, "judged": jnp.mean(judged)}
    return loss, {f"actor/{name}": value for name, value in metrics.items()}


def delayed_actor(loss: Any, step: jax.Array, actor: Learner, hyper: Hyper, *arguments: Any) -> tuple[Learner, Metrics]:
    """A step of the actor down ``loss(actor, *arguments)``, on every ``policy_interval``-th step."""

    def update_actor(actor: Learner) -> tuple[Learner, Scalars]:
        rate = hyper.actor_lr * dp.block_cosine(step, hyper.lr_decay_epochs)
        return learn(loss, actor, rate, *arguments, clip=hyper.max_grad_norm, name="actor")

    return every(hyper.policy_interval, step, update_actor, actor)


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step: discriminator, critic, delayed actor, targets."""
    (batch, extra), core = batches, state.core
    sets = draw_sets(draws, core, hyper, batch, extra)
    likelihood = negative_log_likelihood(state.flow, hyper, Samples(batch.observation, batch.action))
    real_mean = jnp.mean(judge(state.discriminator.params, hyper, sets.real))

    data, rate = (draws, hyper, sets.real, sets.fake), hyper.discriminator_lr
    discriminator, metrics = learn(discriminator_loss, state.discriminator, rate, *data, name="discriminator")
    target = dp.critic_target(core.target_critic, sets.next_actions, hyper, batch)
    critic, critic_metrics = dp.update_critic(core.critic, target, step, hyper, batch, CRITIC_CALLS_PER_BLOCK)
    given = (critic.params, discriminator.params, first_sample(sets.next_actions), real_mean, likelihood)
    actor, actor_metrics = delayed_actor(actor_loss, step, core.actor, hyper, *given, draws.policy, hyper, batch)

    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    metrics |= critic_metrics
    metrics |= {"discriminator/real_mean": real_mean, "flow/negative_log_likelihood": likelihood}
    return State(core, discriminator, state.flow), weigh(metrics) | actor_metrics


METHOD = Method(Hyper, init, (Phase("main", update, draw),), dp.act, dp.draw_action, dp.cost, View(batches=2))
