"""DAC against the numbers recorded from the authors' program."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from golden_tools import (
    Golden,
    account,
    assert_absolute,
    changed,
    cosine_factor,
    layers,
    load,
    noise_network,
    plain,
    stack,
)

from diffjax import losses
from diffjax.diffusion.denoisers import add_noise, at_index, epsilon_denoiser, x0_from_epsilon
from diffjax.diffusion.objectives import DenoisingDraws
from diffjax.diffusion.samplers import ChainNoise, ancestral, chain, ddim
from diffjax.diffusion.schedules import discrete_schedule
from diffjax.methods import dac
from diffjax.methods.candidates import selection_logits
from diffjax.nn.learners import learner, polyak
from diffjax.nn.networks import sinusoidal
from diffjax.types import Batch, Spec

NAMES = ("dac_gym", "dac_antmaze")
NETWORKS = {"actor": noise_network, "actor_target": noise_network, "critic": plain, "critic_target": plain}


def hyper_of(golden: Golden, scenario: str = "train", **changes: Any) -> dac.Hyper:
    """The recording's hyper-parameters; EMA thresholds and the clip norm are those of ``scenario``."""
    recorded = golden.hyper
    return dac.Hyper(
        discount=recorded["discount"],
        tau=recorded["ema_tau"],
        rho=recorded["rho"],
        eta=recorded["eta"],
        eta_lr=recorded["eta_lr"],
        eta_min=recorded["eta_min"],
        eta_max=recorded["eta_max"],
        bc_threshold=recorded["bc_threshold"],
        actor_lr=recorded["actor_lr"],
        critic_lr=recorded["critic_lr"],
        lr_decay_steps=float(recorded["lr_decay_steps"]),
        max_grad_norm=float(golden[f"{scenario}/clip_grad_norm"]),
        # Theirs is the last step that does not fire, ours the first one that may.
        ema_start=int(golden[f"{scenario}/step_start_ema"]) + 1,
        ema_interval=int(golden[f"{scenario}/update_ema_every"]),
        guidance=recorded["Q_guidance"],
        ensemble_target=recorded["q_tar"],
        sample_target="max" if recorded["maxQ"] else "mean",
        num_critics=recorded["num_qs"],
        target_samples=recorded["num_q_samples"],
        candidates=recorded["num_action_samples"],
        diffusion_steps=recorded["T"],
        schedule=recorded["beta_schedule"],
        hidden_dims=(recorded["hidden"],) * 3,
        batch_size=recorded["batch"],
    ).replace(**changes)


def actor_hyper_of(golden: Golden, **changes: Any) -> dac.Hyper:
    """The same without the critic's reduction over samples: both recordings share one actor program."""
    return hyper_of(golden, sample_target=dac.Hyper().sample_target, **changes)


def state_of(golden: Golden) -> dac.State:
    """The recorded initial state with fresh optimisers."""
    nets = {name: convert(golden.tree(f"params/{name}")) for name, convert in NETWORKS.items()}
    return dac.State(
        learner(nets["actor"]),
        nets["actor_target"],
        learner(nets["critic"]),
        nets["critic_target"],
        jnp.asarray(golden["params/eta"]),
    )


def networks_of(state: dac.State) -> dict[str, Any]:
    """The networks of a state by their recorded names."""
    return {
        "actor": state.actor.params,
        "actor_target": state.target_actor,
        "critic": state.critic.params,
        "critic_target": state.target_critic,
    }


def draws_of(golden: Golden, critic: str, actor: str, **others: jax.Array | ChainNoise) -> dac.Draws:
    """Recorded draws of one update; recorded time steps count from 1."""
    target = golden.chain_noise(f"{critic}/target_", golden.hyper["num_q_samples"])
    denoising = DenoisingDraws(jnp.asarray(golden[f"{actor}/t"]) - 1, jnp.asarray(golden[f"{actor}/noise"]))
    return dac.Draws(target, denoising, **{"chain": None, "mixing": None} | others)


def loss_draws(golden: Golden, **others: Any) -> dac.Draws:
    """Draws of everything below ``losses``."""
    return draws_of(golden, "losses/critic/draws", "losses/actor/draws", **others)


def check_shapes(golden: Golden) -> None:
    """What no hyper-parameter of ours says (time features, depth, constants) is as in the recording."""
    hyper, recorded = hyper_of(golden), golden.hyper
    spec = Spec(recorded["obs_dim"], recorded["act_dim"])
    fresh = jax.eval_shape(lambda key: dac.init(key, spec, hyper), jax.random.key(0))
    expected = jax.tree.map(jnp.shape, networks_of(state_of(golden)))
    assert jax.tree.map(jnp.shape, networks_of(fresh)) == expected
    assert recorded["clip_sampler"]
    assert [recorded[name] for name in ("adam_b1", "adam_b2", "adam_eps", "EPS")] == [0.9, 0.999, 1e-8, 1e-6]


def check_schedules(golden: Golden) -> None:
    for label in golden.groups("schedule/", depth=2):
        steps = int(golden[f"{label}/n_timesteps"])
        schedule = discrete_schedule(label.split("/")[1].split("_")[0], steps)
        # The recorded arrays begin with the clean sample at t = 0.
        golden.close(f"{label}/betas", [0, *schedule.beta])
        golden.close(f"{label}/alphas", [1, *(1 - schedule.beta)])
        golden.close(f"{label}/alphas_bar", [1, *schedule.alpha_bar])


def check_forward(golden: Golden) -> None:
    hyper, batch, nets = actor_hyper_of(golden), golden.batch("batch"), networks_of(state_of(golden))
    x, time = jnp.asarray(golden["forward/x_t"]), jnp.asarray(golden["forward/t"])
    features = sinusoidal(time, golden.hyper["time_dim"], cos_first=True)
    golden.close("forward/time_embedding_sinusoidal", features)
    for name in ("actor", "actor_target"):
        epsilon = jax.jit(dac.predict_noise)(nets[name], hyper, x, time - 1, batch.observation)
        golden.close(f"forward/{name}_eps", epsilon)
    for name in ("critic", "critic_target"):
        q = jax.jit(dac.q_values)(nets[name], hyper, batch.observation, batch.action)
        golden.close(f"forward/{name}_q", q)


@jax.jit
def chain_parts(actor: Any, noise: ChainNoise, hyper: dac.Hyper, observation: jax.Array) -> dict[str, jax.Array]:
    """Everything that is recorded of a reverse chain."""
    schedule = discrete_schedule(hyper.schedule, hyper.diffusion_steps)

    def predict(x: jax.Array, index: jax.Array) -> jax.Array:
        return dac.predict_noise(actor, hyper, x, index, observation)

    states = chain(epsilon_denoiser(predict, schedule), ancestral(schedule, "beta"), noise, clip=hyper.max_action)
    index = jnp.arange(hyper.diffusion_steps)[::-1]
    epsilon = jax.vmap(predict)(states[:-1], index)
    x_0 = jax.vmap(lambda x, i, e: x0_from_epsilon(schedule, x, i, e))(states[:-1], index, epsilon)
    return {
        "t": index + 1,
        "chain": states,
        "eps": epsilon,
        "x0_hat_clipped": jnp.clip(x_0, -hyper.max_action, hyper.max_action),
        "action": dac.sample_actions(actor, noise, hyper, observation),
    }


def check_sampler(golden: Golden) -> None:
    hyper, batch, nets = actor_hyper_of(golden), golden.batch("batch"), networks_of(state_of(golden))
    for name in ("actor", "actor_target"):
        noise = golden.chain_noise(f"sampler/{name}/")
        for part, value in chain_parts(nets[name], noise, hyper, batch.observation).items():
            golden.close(f"sampler/{name}/{part}", value)


def check_ddim_option(golden: Golden) -> None:
    """The repository's deterministic sampler, which nothing there uses: it clips each new state and no ``x_0``."""
    hyper, batch, nets = actor_hyper_of(golden), golden.batch("batch"), networks_of(state_of(golden))
    schedule, start = (
        discrete_schedule(hyper.schedule, hyper.diffusion_steps),
        jnp.asarray(golden["sampler/ddim_option/x_T"]),
    )
    predict = lambda x, index: dac.predict_noise(nets["actor"], hyper, x, index, batch.observation)  # noqa: E731
    noise, denoiser = ChainNoise(start, jnp.zeros((0, *start.shape))), epsilon_denoiser(predict, schedule)
    states = chain(denoiser, ddim(schedule), noise, clip=None, state_clip=hyper.max_action)
    golden.close("sampler/ddim_option/action", states[-1])


critic_loss = jax.jit(dac.critic_loss)


@jax.jit
def critic_parts(state: dac.State, draws: dac.Draws, hyper: dac.Hyper, batch: Batch) -> tuple[Any, Any]:
    """Everything that is recorded of the critic's loss, and its gradient."""
    observation = batch.next_observation[:, None]
    next_action = dac.sample_actions(state.target_actor, draws.next_action, hyper, observation)
    next_q = dac.q_values(state.target_critic, hyper, observation, next_action)
    target = dac.critic_target(draws, state, hyper, batch)
    loss = lambda critic: dac.critic_loss(critic, target, hyper, batch)[0]  # noqa: E731
    value, grads = jax.value_and_grad(loss)(state.critic.params)
    return {
        "next_actions": next_action.reshape(-1, next_action.shape[-1]),
        "next_q": next_q.reshape(hyper.num_critics, -1),
        "target_q": target,
        "loss": value,
    }, grads


def check_critic_loss(golden: Golden) -> None:
    hyper, batch, state = hyper_of(golden), golden.batch("batch"), state_of(golden)
    parts, grads = critic_parts(state, loss_draws(golden), hyper, batch)
    for name, value in parts.items():
        golden.close(f"losses/critic/{name}", value)
    golden.gradients("losses/critic/grads/critic", layers(grads))


def check_target_rules(golden: Golden) -> None:
    """Every pair of a reduction over samples and a rule over the ensemble."""
    hyper, batch, state = hyper_of(golden), golden.batch("batch"), state_of(golden)
    next_q = jnp.asarray(golden["losses/critic/next_q"]).reshape(hyper.num_critics, -1, hyper.target_samples)
    for label in golden.groups("losses_q_tar/", depth=2):
        ensemble, sample = label.split("/")[1].rsplit("_", 1)
        uniforms = f"{label}/uniforms"
        mixing = jnp.asarray(golden[uniforms]) if uniforms in golden else None
        values = losses.SAMPLE_REDUCTIONS[sample](next_q)
        next_value = losses.ENSEMBLE_REDUCTIONS[ensemble](values, hyper.rho, mixing)
        target = losses.td_target(batch.reward, hyper.discount, batch.not_done, next_value)
        golden.close(f"{label}/target_q", target)
        loss, _ = critic_loss(state.critic.params, target, hyper, batch)
        golden.close(f"{label}/loss", loss)


@jax.jit
def actor_parts(
    state: dac.State, draws: dac.Draws, hyper: dac.Hyper, batch: Batch
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Everything that is recorded of the actor's loss, and the gradients of its parts."""
    schedule = discrete_schedule(hyper.schedule, hyper.diffusion_steps)
    index, noise = draws.denoising
    x = add_noise(schedule, batch.action, index, noise)
    value = lambda action: dac.q_values(state.target_critic, hyper, batch.observation, action)  # noqa: E731
    guidance = losses.q_guidance(value, x, value(batch.action))

    def terms(actor: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        loss, metrics = dac.actor_loss(actor, state.target_critic, state.eta, draws, hyper, batch)
        return {"actor": loss, "bc": metrics["actor/bc"], "guidance": metrics["actor/guidance"]}, metrics

    grads, metrics = jax.jacrev(terms, has_aux=True)(state.actor.params)
    return {
        "noisy_actions": x,
        "noise_level": jnp.sqrt(1.0 - at_index(schedule.alpha_bar, index, 1)),
        "Q_grad": guidance.gradient,
        "Q_norm": guidance.scale,
        "eta_before": state.eta,
        "eta_after": dac.ascend_eta(state.eta, metrics["actor/bc"], hyper),
    } | metrics, grads


def check_actor_loss(golden: Golden) -> None:
    hyper, batch, state = actor_hyper_of(golden), golden.batch("batch"), state_of(golden)
    parts, grads = actor_parts(state, loss_draws(golden), hyper, batch)
    for name in ("noisy_actions", "noise_level", "Q_grad", "Q_norm"):
        golden.close(f"losses/actor/{name}", parts[name])
    for name in ("eta_before", "eta_after"):
        golden.absolute(f"losses/actor/{name}", parts[name], 1e-6)
    for name, metric in (("actor", "actor/loss"), ("bc", "actor/bc"), ("guidance", "actor/guidance")):
        golden.close(f"losses/{name}/loss", parts[metric])
        golden.gradients(f"losses/{name}/grads/actor", layers(grads[name]))


@jax.jit
def guidance_parts(
    state: dac.State, draws: dac.Draws, hyper: dac.Hyper, batch: Batch
) -> tuple[dict[str, jax.Array], Any]:
    """Metrics of the actor's loss and the gradient of its guidance term."""

    def guidance(actor: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        _, metrics = dac.actor_loss(actor, state.target_critic, state.eta, draws, hyper, batch)
        return metrics["actor/guidance"], metrics

    (_, metrics), grads = jax.value_and_grad(guidance, has_aux=True)(state.actor.params)
    return metrics, grads


def check_other_guidance(golden: Golden) -> None:
    batch, state = golden.batch("batch"), state_of(golden)
    for label in golden.groups("losses_guidance/", depth=2):
        guidance = label.split("/")[1]
        chain = golden.chain_noise(f"{label}/") if guidance == "denoised" else None
        hyper = actor_hyper_of(golden, guidance=guidance)
        parts, grads = guidance_parts(state, loss_draws(golden, chain=chain), hyper, batch)
        golden.close(f"{label}/loss", parts["actor/loss"])
        golden.close(f"{label}/guidance_loss", parts["actor/guidance"])
        golden.gradients(f"{label}/grads_guidance/actor", layers(grads))


def check_eta(golden: Golden) -> None:
    for row in golden["eta_update/rows_threshold_lr_eta0_min_max_bcloss_eta1"]:
        threshold, rate, eta, lowest, highest, bc, expected = row
        hyper = hyper_of(golden, bc_threshold=threshold, eta_lr=rate, eta_min=lowest, eta_max=highest)
        found = dac.ascend_eta(jnp.asarray(eta), jnp.asarray(bc), hyper)
        assert_absolute(found, expected, f"{golden.name}: eta {row.tolist()}", 1e-6)


update = jax.jit(dac.update)
critic_target = jax.jit(dac.critic_target)

METRICS = {
    "metrics/critic_loss": "critic/loss",
    "metrics/actor_loss": "actor/loss",
    "metrics/bc_loss": "actor/bc",
    "metrics/guidance_loss": "actor/guidance",
    "metrics/Q_norm": "actor/q_scale",
    "metrics/Q_grad_abs": "actor/q_gradient",
    "grad_norm_before_clip/critic": "critic/grad_norm",
    "grad_norm_before_clip/actor": "actor/grad_norm",
}


def check_training(golden: Golden) -> None:
    """Whole updates, our own state carried from step to step."""
    for scenario in golden.scenarios():
        hyper, state, recorded = hyper_of(golden, scenario), state_of(golden), golden.tree("params")
        start = int(golden[f"{scenario}/step_counter_at_start"])
        for number, at in enumerate(golden.steps(scenario)):
            counter = int(golden[f"{at}/counter"])
            assert counter == start + number, f"{at}/counter"
            if start:
                # Their optimisers count from zero wherever the EMA counter starts: rates come ready.
                factor = cosine_factor(number, golden.hyper["lr_decay_steps"])
                hyper = hyper_of(
                    golden,
                    scenario,
                    actor_lr=golden.hyper["actor_lr"] * factor,
                    critic_lr=golden.hyper["critic_lr"] * factor,
                    lr_decay_steps=0.0,
                )
            draws, batch = draws_of(golden, f"{at}/draws", f"{at}/draws"), golden.batch(f"{at}/batch")
            golden.close(f"{at}/critic_target_q", critic_target(draws, state, hyper, batch))
            before = state.target_actor
            state, metrics = update(draws, counter, state, hyper, (batch,))

            for name, metric in METRICS.items():
                golden.close(f"{at}/{name}", metrics[metric].total)
            golden.absolute(f"{at}/metrics/eta", metrics["dual/eta"].total, 1e-6)
            golden.absolute(f"{at}/eta_after", state.eta, 1e-6)
            if f"{at}/params/eta" in golden:
                golden.absolute(f"{at}/params/eta", state.eta, 1e-6)
            golden.equal(f"{at}/ema_updated", changed(before, state.target_actor))

            ours = networks_of(state)
            stored = {name for name in NETWORKS if golden.keys(f"{at}/params/{name}/")}
            for name in stored:
                golden.trees(f"{at}/params/{name}", layers(ours[name]), 2e-5)
            # An average of recorded parameters is known more closely than our own.
            moved = bool(golden[f"{at}/ema_updated"])
            for name, rate in (("actor", hyper.tau * moved), ("critic", hyper.tau)):
                target = f"{name}_target"
                if name in stored:
                    average = polyak(recorded[target], golden.tree(f"{at}/params/{name}"), rate)
                    golden.trees(f"{at}/params/{target}", average, 1e-6)
                    recorded[target] = golden.tree(f"{at}/params/{target}")


@jax.jit
def decide(draws: dac.ActionDraws, state: dac.State, hyper: dac.Hyper, observation: jax.Array) -> tuple[jax.Array, ...]:
    """Candidates, their values under every critic, the logits of the choice, and the action chosen."""
    candidates = dac.sample_actions(state.actor.params, draws.chain, hyper, observation)
    q = dac.q_values(state.target_critic, hyper, observation, candidates)
    logits = selection_logits(jnp.mean(q, axis=0), hyper.temperature)
    spec = Spec(observation.shape[-1], candidates.shape[-1])
    return candidates, q, logits, dac.act(draws, spec, state, hyper, observation)


def check_evaluation(golden: Golden) -> None:
    state = state_of(golden)
    for at in golden.groups("eval/case", depth=2):
        hyper = actor_hyper_of(golden, temperature=float(golden[f"{at}/temperature"]))
        index = int(golden[f"{at}/index"])
        # The Gumbel noise of the tempered draw was not recorded: one by which the recorded index wins stands
        # for it, and its opposite must have no say where the temperature is zero.
        bonus = 1e3 if hyper.temperature > 0 else -1e3
        gumbel = jnp.zeros(hyper.candidates).at[index].set(bonus)
        draws = dac.ActionDraws(golden.chain_noise(f"{at}/"), gumbel)
        candidates, q, logits, action = decide(draws, state, hyper, jnp.asarray(golden[f"{at}/obs"]))
        golden.close(f"{at}/candidates", candidates)
        golden.close(f"{at}/q", q)
        golden.close(f"{at}/action", action)
        if f"{at}/logits" in golden:
            golden.close(f"{at}/logits", logits)
        else:
            golden.equal(f"{at}/index", jnp.argmax(logits))


def check_batched_evaluation(golden: Golden) -> None:
    hyper, state = actor_hyper_of(golden), state_of(golden)
    for at in golden.groups("eval/batch", depth=2):
        start, steps = golden.chain_noise(f"{at}/", hyper.candidates)
        decisions = []
        for i, observation in enumerate(golden[f"{at}/obs"]):
            draws = dac.ActionDraws(ChainNoise(start[i], steps[:, i]), jnp.zeros(hyper.candidates))
            decisions.append(decide(draws, state, hyper, jnp.asarray(observation)))
        candidates, q, logits, action = stack(*decisions)
        golden.close(f"{at}/candidates", candidates.reshape(-1, candidates.shape[-1]))
        golden.close(f"{at}/q_mean", jnp.mean(q, axis=1))
        golden.equal(f"{at}/index", jnp.argmax(logits, axis=-1))
        golden.close(f"{at}/action", action)


CHECKS = (
    check_shapes,
    check_schedules,
    check_forward,
    check_sampler,
    check_ddim_option,
    check_critic_loss,
    check_target_rules,
    check_actor_loss,
    check_other_guidance,
    check_eta,
    check_training,
    check_evaluation,
    check_batched_evaluation,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", NAMES)
def test_recording(name, check):
    check(load(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_number_is_looked_at(name):
    account(name, CHECKS)
