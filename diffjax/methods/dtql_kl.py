"""DQL-KL, the KL baseline of DTQL (Chen et al. 2024, arXiv 2405.19690): a one-step generator by score distillation.

A generator ``G_theta(z) = F_theta(s_g z, s, s_g)``, ``s_g = 2.5``, with the network of the behaviour model but not its
preconditioning, is held near the data by the KL divergence of the noised densities (DMD, arXiv 2311.18828), for which
a second diffusion model ``D_fake`` follows the generator. One step of the main phase (authors' agents/dql_kl.py):

1. critic, 2. behaviour model: as DTQL.
3. generator: ``alpha L_KL(a_theta) - mean min_j Q_j(s, a_theta)``, ``L_KL`` pulls ``a_theta`` along
   ``(D_phi - D_fake) / mean_d |a_theta - D_phi|``, both models at one noised action.
4. fake model: the EDM denoising loss at those actions, which are constants here.
5. target critic, on every step; it only ranks candidates at evaluation.

Phase ``pretrain`` is DTQL's; generator and fake model are copies of the behaviour model when it ends.

Where the paper and the authors' code differ, this follows the code: the generator reads the raw noise level, and its
output is unbounded; only an action that is taken is clipped. Not known from either, and chosen here: step 4 comes after
step 3, the fake model starts from the behaviour model (as in DMD), and the rates of both are DTQL's ``actor_lr``.
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
from diffjax.nn.learners import Learner, copies, cosine_decay, learn, learner, polyak
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec


@flax.struct.dataclass
class Hyper(core.CoreHyper):
    """The KL baseline's own hyper-parameter."""

    generator_sigma: float = traced(2.5, above=0.0)  # scale of the generator's noise, and the level that it reads


class State(NamedTuple):
    """What the KL baseline learns."""

    generator: Learner
    behavior: Learner
    fake: Learner  # diffusion model of the generator's actions
    critic: Learner
    target_critic: core.Critic


class Draws(NamedTuple):
    """Random numbers of one update."""

    behavior: EDMDraws
    action: jax.Array  # (batch, action_dim) standard normal
    matching: EDMDraws
    fake: EDMDraws


def init(key: jax.Array, spec: Spec, hyper: Hyper) -> State:
    """Fresh state; the target critic starts as a copy."""
    generator_key, behavior_key, fake_key, q_key, v_key = jax.random.split(key, 5)
    critic = core.init_critic(q_key, v_key, spec, hyper)
    return State(
        learner(core.init_behavior(generator_key, spec, hyper)),
        learner(core.init_behavior(behavior_key, spec, hyper)),
        learner(core.init_behavior(fake_key, spec, hyper)),
        learner(critic),
        copies(critic),
    )


def draw(key: jax.Array, spec: Spec, hyper: Hyper) -> Draws:
    """Random numbers of one main update."""
    behavior_key, action_key, matching_key, fake_key = jax.random.split(key, 4)
    return Draws(
        core.draw_levels(behavior_key, spec, hyper),
        jax.random.normal(action_key, (hyper.batch_size, spec.action_dim)),
        core.draw_levels(matching_key, spec, hyper),
        core.draw_levels(fake_key, spec, hyper),
    )


def generate(generator: Params, noise: jax.Array, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """``F_theta(s_g noise, s, s_g)``, unbounded; ``observation`` broadcasts against ``noise``."""
    level = jnp.asarray(hyper.generator_sigma)
    network = core.behavior_network(hyper, noise.shape[-1])
    return network.apply(generator, level * noise, level, observation)


def kl_loss(
    action: jax.Array, behavior: Params, fake: Params, draws: EDMDraws, hyper: Hyper, observation: jax.Array
) -> jax.Array:
    """Distribution matching at one noised version of each action."""
    noisy = jax.lax.stop_gradient(action + draws.sigma[..., None] * draws.noise)
    bound = core.denoised_bound(hyper)
    real, own = (
        jnp.clip(core.denoise(model, hyper, noisy, draws.sigma, observation), -bound, bound)
        for model in (behavior, fake)
    )
    return losses.distribution_matching_loss(action, real, own)


def generator_loss(
    generator: Params, behavior: Params, fake: Params, critic: core.Critic, draws: Draws, hyper: Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """``alpha * KL - mean min_j Q_j`` at the generator's actions."""
    action = generate(generator, draws.action, hyper, batch.observation)
    kl = kl_loss(action, behavior, fake, draws.matching, hyper, batch.observation)
    q = -jnp.mean(core.min_q(critic, hyper, batch.observation, action))
    loss = hyper.alpha * kl + q
    return loss, {"actor/loss": loss, "actor/kl": kl, "actor/q": q}


def pretrain(
    draws: core.PretrainDraws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One pretraining step of DTQL; generator and fake model follow the behaviour model."""
    state, metrics = core.pretrain(draws, step, state, hyper, batches)
    generator, fake = (one._replace(params=state.behavior.params) for one in (state.generator, state.fake))
    return state._replace(generator=generator, fake=fake), metrics


def update(
    draws: Draws, step: jax.Array, state: State, hyper: Hyper, batches: tuple[Batch, ...]
) -> tuple[State, Metrics]:
    """One gradient step of critic, behaviour model, generator, fake model and target."""
    decay = cosine_decay(step, hyper.lr_decay_steps)
    rate, (batch,) = hyper.actor_lr * decay, batches
    critic, behavior, metrics = core.update_models(draws.behavior, decay, state, hyper, batch)

    given = (behavior.params, state.fake.params, critic.params, draws, hyper, batch)
    generator, generator_metrics = learn(generator_loss, state.generator, rate, *given, name="actor")
    action = generate(state.generator.params, draws.action, hyper, batch.observation)  # as the loss had them
    generated = batch._replace(action=action)
    fake, fake_metrics = learn(core.behavior_loss, state.fake, rate, draws.fake, hyper, generated, name="fake")

    metrics |= generator_metrics | {"fake/loss": fake_metrics["behavior/loss"]}
    target_critic = polyak(state.target_critic, critic.params, hyper.tau)
    return State(generator, behavior, fake, critic, target_critic), weigh(metrics)


def act(draws: ActionDraws, spec: Spec, state: State, hyper: Hyper, observation: jax.Array) -> jax.Array:
    """One of ``candidates`` clipped samples of the generator, by DTQL's rule."""
    action = generate(state.generator.params, draws.noise, hyper, observation)
    action = jnp.clip(action, -hyper.max_action, hyper.max_action)
    return core.choose(state.target_critic, draws.uniform, hyper, observation, action)


PHASES = (Phase("pretrain", pretrain, core.draw_pretrain), Phase("main", update, draw))
METHOD = Method(Hyper, init, PHASES, act, core.draw_action, core.cost)
