"""DiffPoGAN's variant ``paper`` (Hu et al. 2024, arXiv 2406.09089).

A reconstruction from the abstract and second-hand accounts: the paper's text was not at hand. One update step: critic,
then policy, then discriminator, then targets; label-smoothed ``ga`` losses, no flow, no logarithm:
``L = mean_b(sg(D(s, a_theta) / D(s, a)) * bc_weight * L_d) + L_q + adversarial_weight * mean l_gen(D(s, a_theta))``.

All else is that of the authors' program, :mod:`diffpogan`.
"""

import jax
import jax.numpy as jnp

from diffjax import losses
from diffjax.methods import diffpogan as gan
from diffjax.methods import diffusion_policy as dp
from diffjax.methods.base import Metrics, Phase, Scalars, weigh
from diffjax.nn.learners import learn, learner
from diffjax.nn.networks import Params
from diffjax.types import Batch, Spec


def init(key: jax.Array, spec: Spec, hyper: gan.Hyper) -> gan.State:
    """Fresh state; no flow."""
    core_key, discriminator_key = jax.random.split(key)
    discriminator = gan.discriminator_network(hyper).init(discriminator_key, *spec.example())
    return gan.State(dp.init_core(core_key, spec, hyper), learner(discriminator), None)


def actor_loss(
    actor: Params, critic: Params, discriminator: Params, draws: dp.PolicyDraws, hyper: gan.Hyper, batch: Batch
) -> tuple[jax.Array, Scalars]:
    """The loss above; the weight of the denoising loss is per state."""
    bc, q, own = gan.actor_terms(actor, critic, draws, hyper, batch)
    judged = gan.judge(discriminator, hyper, own)
    real = gan.judge(discriminator, hyper, gan.Samples(batch.observation, batch.action))
    weight = jax.lax.stop_gradient(judged / real) if hyper.discriminator_weighting else jnp.ones_like(bc)
    generator = jnp.mean(losses.DIVERGENCES[hyper.divergence].generator(judged))
    loss = jnp.mean(weight * hyper.bc_weight * bc) + q
    if hyper.adversarial_term:
        loss += hyper.adversarial_weight * generator
    metrics = {"loss": loss, "bc": jnp.mean(bc), "q": q, "bc_weight": jnp.mean(weight), "generator": generator}
    metrics |= {"judged": jnp.mean(judged)}
    return loss, {f"actor/{name}": value for name, value in metrics.items()}


def update(
    draws: gan.Draws, step: jax.Array, state: gan.State, hyper: gan.Hyper, batches: tuple[Batch, ...]
) -> tuple[gan.State, Metrics]:
    """One gradient step: critic, actor, discriminator, targets."""
    (batch, extra), core = batches, state.core
    sets = gan.draw_sets(draws, core, hyper, batch, extra)
    target = dp.critic_target(core.target_critic, sets.next_actions, hyper, batch)
    critic, critic_metrics = dp.update_critic(core.critic, target, step, hyper, batch)
    given = (critic.params, state.discriminator.params)
    actor, actor_metrics = gan.delayed_actor(actor_loss, step, core.actor, hyper, *given, draws.policy, hyper, batch)

    data, rate = (draws, hyper, sets.real, sets.fake), hyper.discriminator_lr
    discriminator, metrics = learn(gan.discriminator_loss, state.discriminator, rate, *data, name="discriminator")
    core = dp.update_targets(core._replace(actor=actor, critic=critic), step, hyper)
    return gan.State(core, discriminator, None), weigh(critic_metrics | metrics) | actor_metrics


METHOD = gan.METHOD._replace(init=init, phases=(Phase("main", update, gan.draw),))
