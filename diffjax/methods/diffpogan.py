"""DiffPoGAN, diffusion policies with generative adversarial networks (Hu et al. 2024, arXiv 2406.09089).

Variant ``code``: one update step, in the order of the authors' agents/diffpogan.py. ``D`` is the discriminator, ``c``
the negative log-likelihood of the data under a NICE flow that the program never trains:

1. real set ``R = (s, a)`` and a second minibatch; fake set ``F = (s, a_E), (s', a'_E)`` from the target actor ``E``.
2. discriminator: Adam on ``mean l_real(D(R)) + mean l_fake(D(F))`` (+ gradient penalty / 2 for ``wgan``).
3. critic, as Diffusion-QL, with the same ``a'_E``.
4. on every ``policy_interval``-th step, with the discriminator just updated and ``G = (s', a'_E), (s, a_theta)``:
   ``L = w * bc_weight * L_d + L_q + adversarial_weight * log(mean l_gen(D(G)) + likelihood_weight * c)``,
   ``w = sg(mean D(G) / mean D_old(R))``.
5. target actor and target critic, on every step.

Variant ``paper`` (a reconstruction from the abstract and second-hand accounts: the paper's text was not at hand):
critic, then policy, then discriminator, then targets; label-smoothed ``ga`` losses, no flow, no logarithm:
``L = mean_b(sg(D(s, a_theta) / D(s, a)) * bc_weight * L_d) + L_q + adversarial_weight * mean l_gen(D(s, a_theta))``.

Quirks of the code that variant ``code`` keeps: the "Wasserstein" critic ends in a sigmoid; gradient-penalty points mix
real and fake with a normal and not a uniform number; half of ``G`` carries no gradient; the logarithm is unguarded and
yields NaN where its argument is not positive; ``c`` acts as a constant; the critic's scheduler steps twice a block.

The ablations ``discriminator_weighting = False`` (``w = 1``) and ``adversarial_term = False`` leave all else of a
variant as it is; the discriminator is trained in each.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.diffusion.samplers import ChainNoise
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import Method, Metrics, Phase, Scalars, every, static, traced, weigh
from diffjax.nn.learners import Learner, descend, learner
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


def discriminator_network(hyper: Hyper) -> Discriminator:
    """The discriminator's module."""
    return Discriminator(hyper.discriminator_hidden_dims)


def flow_network(hyper: Hyper) -> NICEFlow:
    """The flow's module."""
    return NICEFlow(hyper.flow_hidden_dim, hyper.flow_couplings)


def paper_init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state of variant ``paper``."""
    core_key, discriminator_key = jax.random.split(key)
    observation, action = jnp.zeros(spec.observation_dim), jnp.zeros(spec.action_dim)
    discriminator = discriminator_network(hyper).init(discriminator_key, observation, action)
    return State(dp.init_core(core_key, spec, hyper), learner(discriminator), None)


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state of variant ``code``."""
    state_key, flow_key = jax.random.split(key)
    flow = flow_network(hyper).init(flow_key, jnp.zeros(spec.observation_dim + spec.action_dim))
    return paper_init(state_key, spec, hyper)._replace(flow=flow)


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


def judge(discriminator: Params, hyper: Hyper, samples: Samples) -> jax.Array:
    """``D(s, a)``, ``(rows,)``."""
    return discriminator_network(hyper).apply(discriminator, samples.observation, samples.action)


def negative_log_likelihood(flow: Params, hyper: Hyper, samples: Samples) -> jax.Array:
    """``c = -mean log p(s, a)`` under the untrained flow."""
    pair = jnp.concatenate(samples, axis=-1)
    density = flow_network(hyper).apply(flow, pair, method=NICEFlow.log_density)
    return -jnp.mean(density)


def discriminator_loss(
    discriminator: Params, real: Samples, fake: Samples, label: jax.Array, mixing: jax.Array, hyper: Hyper
) -> tuple[jax.Array, Scalars]:
    """``mean l_real(D(R)) + mean l_fake(D(F))``, plus the weighted gradient penalty if the divergence has one.

    Penalty points are ``mixing * real + (1 - mixing) * fake``, row by row.
    """
    divergence = losses.DIVERGENCES[hyper.divergence]
    real_loss = jnp.mean(divergence.real(judge(discriminator, hyper, real), label))
    fake_loss = jnp.mean(divergence.fake(judge(discriminator, hyper, fake)))
    loss = real_loss + fake_loss
    penalty = jnp.zeros(())
    if divergence.gradient_penalty:
        observation_dim = real.observation.shape[-1]
        real_pairs, fake_pairs = jnp.concatenate(real, axis=-1), jnp.concatenate(fake, axis=-1)
        points = mixing[:, None] * real_pairs + (1.0 - mixing[:, None]) * fake_pairs
        penalty = losses.gradient_penalty(
            lambda x: judge(discriminator, hyper, Samples(x[:, :observation_dim], x[:, observation_dim:])),
            points,
        )
        loss += divergence.gradient_penalty * penalty
    return loss, {
        "discriminator/loss": loss,
        "discriminator/real": real_loss,
        "discriminator/fake": fake_loss,
        "discriminator/penalty": penalty,
    }


def update_discriminator(
    state: Learner, real: Samples, fake: Samples, draws: Draws, hyper: Hyper
) -> tuple[Learner, Scalars]:
    """One unclipped Adam step of the discriminator."""
    grads, metrics = jax.grad(discriminator_loss, has_aux=True)(
        state.params, real, fake, draws.label, draws.mixing, hyper
    )
    state, norm = descend(state, grads, hyper.discriminator_lr)
    return state, metrics | {"discriminator/grad_norm": norm}


def actor_loss(
    actor: Params,
    critic: Params,
    discriminator: Params,
    draws: dp.PolicyDraws,
    next_action: jax.Array,
    real_mean: jax.Array,
    likelihood: jax.Array,
    hyper: Hyper,
    batch: Batch,
) -> tuple[jax.Array, Scalars]:
    """Actor loss of variant ``code``.

    Args:
      next_action: ``a'_E``, one per state; real_mean: mean ``D(R)`` before the discriminator's step; likelihood: ``c``.
    """
    bc = jnp.mean(dp.denoising_loss(actor, draws.denoising, hyper, batch))
    q, action = dp.q_term(actor, critic, draws.chain, draws.coin, hyper, batch.observation)
    judged = judge(
        discriminator,
        hyper,
        join(Samples(batch.next_observation, next_action), Samples(batch.observation, action)),
    )
    generator = jnp.mean(losses.DIVERGENCES[hyper.divergence].generator(judged))
    adversarial = jnp.zeros(())
    if hyper.adversarial_term:
        adversarial = jnp.log(generator + hyper.likelihood_weight * likelihood)
    weight = jnp.ones(())
    if hyper.discriminator_weighting:
        weight = jax.lax.stop_gradient(jnp.mean(judged) / real_mean)
    loss = weight * hyper.bc_weight * bc + q + hyper.adversarial_weight * adversarial
    return loss, {
        "actor/loss": loss,
        "actor/bc": bc,
        "actor/q": q,
        "actor/bc_weight": weight,
        "actor/generator": generator,
        "actor/adversarial": adversarial,
        "actor/judged": jnp.mean(judged),
    }


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of variant ``code``: discriminator, critic, delayed actor, targets."""
    batch, extra = batches
    core = state.core

    data = Samples(batch.observation, batch.action)
    likelihood = negative_log_likelihood(state.flow, hyper, data)
    real = join(data, Samples(extra.observation, extra.action))
    real_mean = jnp.mean(judge(state.discriminator.params, hyper, real))
    next_actions = dp.sample_next_actions(core.target_actor, draws.next_action, batch.next_observation, hyper)
    next_action = first_sample(next_actions)
    own_action = first_sample(dp.sample_next_actions(core.target_actor, draws.action, batch.observation, hyper))
    fake = join(Samples(batch.observation, own_action), Samples(batch.next_observation, next_action))
    discriminator, discriminator_metrics = update_discriminator(state.discriminator, real, fake, draws, hyper)

    target = dp.critic_target(core.target_critic, next_actions, hyper, batch)
    critic, critic_metrics = dp.update_critic(core.critic, target, step, hyper, batch, CRITIC_CALLS_PER_BLOCK)

    def update_policy(actor: Learner) -> tuple[Learner, Scalars]:
        grads, metrics = jax.grad(actor_loss, has_aux=True)(
            actor.params,
            critic.params,
            discriminator.params,
            draws.policy,
            next_action,
            real_mean,
            likelihood,
            hyper,
            batch,
        )
        rate = hyper.actor_lr * dp.block_cosine(step, hyper.lr_decay_epochs)
        actor, norm = descend(actor, grads, rate, hyper.max_grad_norm)
        return actor, metrics | {"actor/grad_norm": norm}

    actor, policy_metrics = every(hyper.policy_interval, step, update_policy, core.actor)
    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    metrics = critic_metrics | discriminator_metrics
    metrics |= {"discriminator/real_mean": real_mean, "flow/negative_log_likelihood": likelihood}
    return State(core, discriminator, state.flow), weigh(metrics) | policy_metrics


def paper_actor_loss(
    actor: Params,
    critic: Params,
    discriminator: Params,
    draws: dp.PolicyDraws,
    hyper: Hyper,
    batch: Batch,
) -> tuple[jax.Array, Scalars]:
    """Actor loss of variant ``paper``; the weight of the denoising loss is per state."""
    bc = dp.denoising_loss(actor, draws.denoising, hyper, batch)
    q, action = dp.q_term(actor, critic, draws.chain, draws.coin, hyper, batch.observation)
    judged = judge(discriminator, hyper, Samples(batch.observation, action))
    real = judge(discriminator, hyper, Samples(batch.observation, batch.action))
    weight = jax.lax.stop_gradient(judged / real) if hyper.discriminator_weighting else jnp.ones_like(bc)
    generator = jnp.mean(losses.DIVERGENCES[hyper.divergence].generator(judged))
    loss = jnp.mean(weight * hyper.bc_weight * bc) + q
    if hyper.adversarial_term:
        loss += hyper.adversarial_weight * generator
    return loss, {
        "actor/loss": loss,
        "actor/bc": jnp.mean(bc),
        "actor/q": q,
        "actor/bc_weight": jnp.mean(weight),
        "actor/generator": generator,
        "actor/judged": jnp.mean(judged),
    }


def paper_update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of variant ``paper``: critic, actor, discriminator, targets."""
    batch, extra = batches
    core = state.core

    next_actions = dp.sample_next_actions(core.target_actor, draws.next_action, batch.next_observation, hyper)
    target = dp.critic_target(core.target_critic, next_actions, hyper, batch)
    critic, critic_metrics = dp.update_critic(core.critic, target, step, hyper, batch)

    def update_policy(actor: Learner) -> tuple[Learner, Scalars]:
        grads, metrics = jax.grad(paper_actor_loss, has_aux=True)(
            actor.params, critic.params, state.discriminator.params, draws.policy, hyper, batch
        )
        rate = hyper.actor_lr * dp.block_cosine(step, hyper.lr_decay_epochs)
        actor, norm = descend(actor, grads, rate, hyper.max_grad_norm)
        return actor, metrics | {"actor/grad_norm": norm}

    actor, policy_metrics = every(hyper.policy_interval, step, update_policy, core.actor)

    real = join(Samples(batch.observation, batch.action), Samples(extra.observation, extra.action))
    own_action = first_sample(dp.sample_next_actions(core.target_actor, draws.action, batch.observation, hyper))
    fake = join(
        Samples(batch.observation, own_action),
        Samples(batch.next_observation, first_sample(next_actions)),
    )
    discriminator, discriminator_metrics = update_discriminator(state.discriminator, real, fake, draws, hyper)

    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    return State(core, discriminator, None), weigh(critic_metrics | discriminator_metrics) | policy_metrics


METHOD = Method(
    hyper=Hyper,
    num_batches=2,
    init=init,
    phases=(Phase("main", draw, update),),
    draw_action=dp.draw_action,
    act_from_draws=dp.act_from_draws,
    cost=dp.cost,
)
PAPER = METHOD._replace(init=paper_init, phases=(Phase("main", draw, paper_update),))
