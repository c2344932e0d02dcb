"""DTQL against the numbers recorded from the authors' program."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_tools import (
    Golden,
    account,
    changed,
    in_trunk,
    layers,
    load,
    noise_network,
    plain,
    stack,
)

from diffjax import losses
from diffjax.diffusion.denoisers import edm_scales
from diffjax.diffusion.objectives import EDMDraws
from diffjax.diffusion.schedules import log_logistic_sigma
from diffjax.methods import dtql
from diffjax.methods import dtql_core as core
from diffjax.methods.candidates import ActionDraws
from diffjax.nn.learners import cosine_decay, learner, polyak
from diffjax.nn.networks import sinusoidal
from diffjax.types import Batch, Spec

NAMES = ("dtql_gym", "dtql_antmaze")
SIGMA_LAW = "log-logistic(loc=log sigma_data, scale=0.5) truncated to [sigma_min, sigma_max]"


def hyper_of(golden: Golden, scenario: str = "train", **changes: Any) -> dtql.Hyper:
    """The recording's hyper-parameters; EMA thresholds are those of ``scenario``.

    Only decisions need the number of candidates; without it both recordings share one program for everything else.
    """
    recorded = golden.hyper
    return dtql.Hyper(
        discount=recorded["discount"],
        tau=recorded["tau"],
        alpha=recorded["alpha"],
        gamma_nll=recorded["gamma"],
        expectile=recorded["expectile"],
        actor_lr=recorded["lr"],
        critic_lr=recorded["critic_lr"],
        lr_decay_steps=float(recorded["lr_maxt"]) if recorded["lr_decay"] else 0.0,
        ema_decay=recorded["ema_decay"],
        ema_start=int(golden[f"{scenario}/step_start_ema"]),
        ema_interval=int(golden[f"{scenario}/update_ema_every"]),
        sigma_min=float(recorded["sigma_min"]),
        sigma_max=float(recorded["sigma_max"]),
        sigma_data=float(recorded["sigma_data"]),
        max_action=float(recorded["max_action"]),
        hidden_dims=(recorded["hidden"],) * 3,
        batch_size=recorded["batch"],
    ).replace(**changes)


def critic_from(tree: Any) -> core.Critic:
    """Recorded critic networks as ours."""
    return core.Critic(plain(stack(tree["q1"], tree["q2"])), plain(tree["v"]))


def critic_to(critic: core.Critic) -> dict[str, Any]:
    """Our critic networks in the recorded layout."""
    twins = {f"q{i + 1}": jax.tree.map(lambda x, i=i: x[i], layers(critic.q)) for i in range(core.NUM_CRITICS)}
    return twins | {"v": layers(critic.v)}


def state_of(golden: Golden) -> dtql.State:
    """The recorded initial state with fresh optimisers."""
    nets = golden.tree("params")
    return dtql.State(
        learner(in_trunk(nets["policy"])),
        in_trunk(nets["policy_ema"]),
        learner(noise_network(nets["bc_actor"])),
        learner(critic_from(nets["critic"])),
        critic_from(nets["critic_target"]),
    )


def networks_to(state: dtql.State) -> dict[str, Any]:
    """The networks of a state in the recorded layout."""
    return {
        "policy": layers(state.policy.params),
        "policy_ema": layers(state.target_policy),
        "bc_actor": layers(state.behavior.params),
        "critic": critic_to(state.critic.params),
        "critic_target": critic_to(state.target_critic),
    }


def levels_of(golden: Golden, at: str, name: str) -> EDMDraws:
    """Recorded noise levels and noises of one denoising loss."""
    return EDMDraws(jnp.asarray(golden[f"{at}/{name}_sigma"]), jnp.asarray(golden[f"{at}/{name}_noise"]))


def draws_of(golden: Golden, at: str) -> dtql.Draws:
    """Recorded draws of one update."""
    action = jnp.asarray(golden[f"{at}/policy_eps"])
    return dtql.Draws(levels_of(golden, at, "bc"), action, levels_of(golden, at, "distill"))


def check_shapes(golden: Golden) -> None:
    """What no hyper-parameter of ours says (time features, depth, constants) is as in the recording."""
    hyper, recorded = hyper_of(golden), golden.hyper
    spec = Spec(recorded["obs_dim"], recorded["act_dim"])
    fresh = jax.eval_shape(lambda key: dtql.init(key, spec, hyper), jax.random.key(0))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, state_of(golden))
    assert recorded["sigma_sampling"] == SIGMA_LAW
    assert [recorded[name] for name in ("adam_b1", "adam_b2", "adam_eps")] == [0.9, 0.999, 1e-8]


def check_schedule(golden: Golden) -> None:
    sigma = jnp.asarray(golden["schedule/sigma"])
    for name, value in edm_scales(sigma, hyper_of(golden).sigma_data)._asdict().items():
        golden.close(f"schedule/{name}", value)


def check_noise_levels(golden: Golden) -> None:
    """Every recorded uniform number, in the double precision of the authors' program."""
    hyper, suffix = hyper_of(golden), "u_f64"
    for key in [key for key in golden.keys("") if key.endswith(suffix)]:
        with jax.enable_x64(True):
            uniform = jnp.asarray(golden[key])
            sigma = log_logistic_sigma(uniform, hyper.sigma_min, hyper.sigma_max, hyper.sigma_data)
        assert sigma.dtype == jnp.float64
        expected = golden[key.removesuffix(suffix) + "sigma"]
        np.testing.assert_allclose(sigma, expected, rtol=1e-6, err_msg=key)


@jax.jit
def behavior_parts(
    behavior: Any, draws: EDMDraws, hyper: dtql.Hyper, observation: jax.Array, action: jax.Array
) -> dict[str, jax.Array]:
    """Everything that is recorded of the denoising loss."""
    x = action + draws.sigma[:, None] * draws.noise
    scales = edm_scales(draws.sigma, hyper.sigma_data)
    network = core.behavior_network(hyper, action.shape[-1])
    denoised = core.denoise(behavior, hyper, x, draws.sigma, observation)
    return {
        "x_noisy": x,
        "c_noise": scales.c_noise,
        "time_embedding": network.apply(behavior, scales.c_noise, method="embed_time"),
        "network_output": network.apply(behavior, scales.c_in[:, None] * x, scales.c_noise, observation),
        "denoised_clipped": jnp.clip(denoised, -hyper.max_action, hyper.max_action),
        "loss": core.denoising_loss(behavior, draws, hyper, observation, action),
    }


def check_behavior(golden: Golden) -> None:
    hyper, batch, behavior = hyper_of(golden), golden.batch("batch"), state_of(golden).behavior.params
    draws = EDMDraws(jnp.asarray(golden["forward/sigma"]), jnp.asarray(golden["forward/noise"]))
    parts = behavior_parts(behavior, draws, hyper, batch.observation, batch.action)
    features = sinusoidal(parts["c_noise"], golden.hyper["time_embed_dim"], cos_first=False)
    golden.close("forward/time_embedding_sinusoidal", features)
    for name, value in parts.items():
        golden.close(f"forward/{name}", value)


def check_critic(golden: Golden) -> None:
    hyper, batch, state = hyper_of(golden), golden.batch("batch"), state_of(golden)
    for name, critic in {"critic": state.critic.params, "critic_target": state.target_critic}.items():
        q1, q2 = jax.jit(core.q_values)(critic, hyper, batch.observation, batch.action)
        golden.close(f"forward/{name}_q1", q1)
        golden.close(f"forward/{name}_q2", q2)
        golden.close(f"forward/{name}_v", jax.jit(core.v_value)(critic, hyper, batch.observation))


@jax.jit
def policy_parts(
    policy: Any, noise: jax.Array, hyper: dtql.Hyper, observation: jax.Array, action: jax.Array
) -> dict[str, jax.Array]:
    """Everything that is recorded of the policy."""
    mean, log_std = dtql.policy_network(hyper, action.shape[-1]).apply(policy, observation)
    log_prob = losses.tanh_gaussian_log_prob(action, mean, log_std, hyper.max_action)
    return {
        "mean": mean,
        "std": jnp.exp(log_std),
        "log_prob_of_batch_actions": log_prob,
        "action": dtql.policy_action(mean, log_std, noise, hyper),
    }


def check_policy(golden: Golden) -> None:
    hyper, batch, policy = hyper_of(golden), golden.batch("batch"), state_of(golden).policy.params
    noise = jnp.asarray(golden["sampler/policy_eps"])
    # Large observations drive the log-deviation into its bounds; the key says how large.
    for prefix in {key.removesuffix("mean") for key in golden.keys("forward/policy_") if key.endswith("mean")}:
        factor = re.search(r"obs_times_(\d+)", prefix)
        scaled = batch.observation * (float(factor[1]) if factor else 1.0)
        parts = policy_parts(policy, noise, hyper, scaled, batch.action)
        for name in ("mean", "std", "log_prob_of_batch_actions"):
            golden.close(prefix + name, parts[name])
    parts = policy_parts(policy, noise, hyper, batch.observation, batch.action)
    golden.close("sampler/policy_action", parts["action"])
    edge = jnp.asarray(golden["forward/edge_actions"])
    observation, noise = batch.observation[: len(edge)], noise[: len(edge)]
    parts = policy_parts(policy, noise, hyper, observation, edge)
    golden.close("forward/edge_actions_log_prob", parts["log_prob_of_batch_actions"])


@jax.jit
def critic_parts(critic: core.Critic, hyper: dtql.Hyper, batch: Batch) -> tuple[dict[str, jax.Array], Any]:
    """Everything that is recorded of the critic's loss, and its gradient."""
    q = core.q_values(critic, hyper, batch.observation, batch.action)
    grads, metrics = jax.grad(core.critic_loss, has_aux=True)(critic, hyper, batch)
    return {
        "q": losses.ensemble_min(q),
        "v": core.v_value(critic, hyper, batch.observation),
        "current_q1": q[0],
        "current_q2": q[1],
        "next_v": core.v_value(critic, hyper, batch.next_observation),
        "target_q": core.critic_target(critic, hyper, batch),
        "value_loss": metrics["critic/value_loss"],
        "loss": metrics["critic/loss"],
    }, grads


def check_critic_loss(golden: Golden) -> None:
    hyper, batch, state = hyper_of(golden), golden.batch("batch"), state_of(golden)
    parts, grads = critic_parts(state.critic.params, hyper, batch)
    for name, value in parts.items():
        golden.close(f"losses/critic/{name}", value)
    golden.gradients("losses/critic/grads/critic", critic_to(grads))


behavior_gradient = jax.jit(jax.grad(core.denoising_loss))


def check_behavior_loss(golden: Golden) -> None:
    hyper, batch, behavior = hyper_of(golden), golden.batch("batch"), state_of(golden).behavior.params
    arguments = behavior, levels_of(golden, "losses/draws", "bc"), hyper, batch.observation, batch.action
    parts = behavior_parts(*arguments)
    golden.close("losses/bc/loss", parts["loss"])
    golden.close("losses/bc/network_output", parts["network_output"])
    golden.close("losses/bc/denoised", parts["denoised_clipped"])
    golden.gradients(
        "losses/bc/grads/bc_actor",
        layers(behavior_gradient(*arguments)),
    )


@jax.jit
def policy_gradients(
    state: dtql.State, draws: dtql.Draws, hyper: dtql.Hyper, batch: Batch
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """The terms of the policy's loss by their recorded names, and the gradient of each."""

    def terms(policy: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        loss, metrics = dtql.policy_loss(policy, state.behavior.params, state.critic.params, draws, hyper, batch)
        named = {
            "policy": loss,
            "distill": metrics["actor/trust_region"],
            "q": metrics["actor/q"],
            "gamma": metrics["actor/nll"],
        }
        return named, named

    grads, values = jax.jacrev(terms, has_aux=True)(state.policy.params)
    return values, grads


def nll_factor(golden: Golden, hyper: dtql.Hyper) -> float:
    """1 if the recording holds the likelihood term bare, gamma if weighted, 0 if the program leaves it out.

    Which of the two it is shows in the recording itself: the policy's loss is the sum of its weighted terms.
    """
    if hyper.gamma_nll == 0:
        return 0.0
    total, trust, q, term = (float(golden[f"losses/{name}/loss"]) for name in ("policy", "distill", "q", "gamma"))
    share = total - hyper.alpha * trust - q
    return hyper.gamma_nll if abs(share - term) < abs(share - hyper.gamma_nll * term) else 1.0


def check_policy_loss(golden: Golden) -> None:
    hyper, batch, state = hyper_of(golden), golden.batch("batch"), state_of(golden)
    draws = draws_of(golden, "losses/draws")
    policy, behavior = state.policy.params, state.behavior.params
    action = policy_parts(policy, draws.action, hyper, batch.observation, batch.action)["action"]
    golden.close("losses/policy/new_action", action)
    arguments = behavior, draws.trust, hyper, batch.observation, action
    golden.close("losses/policy/denoised", behavior_parts(*arguments)["denoised_clipped"])
    discarded = behavior_gradient(*arguments)
    golden.gradients("losses/distill/grads_discarded/bc_actor", layers(discarded))

    values, grads = policy_gradients(state, draws, hyper, batch)
    for name in ("policy", "distill", "q"):
        golden.close(f"losses/{name}/loss", values[name])
        golden.gradients(f"losses/{name}/grads/policy", layers(grads[name]))
    factor = nll_factor(golden, hyper)
    golden.close("losses/gamma/loss", factor * values["gamma"])
    if factor:
        golden.gradients("losses/gamma/grads/policy", jax.tree.map(lambda g: factor * g, layers(grads["gamma"])))


update = jax.jit(dtql.update)
critic_target = jax.jit(core.critic_target)

METRICS = {
    "critic_loss": "critic/loss",
    "bc_loss": "behavior/loss",
    "actor_loss": "actor/loss",
    "distill_loss": "actor/trust_region",
    "ql_loss": "actor/q",
}


def check_training(golden: Golden) -> None:
    """Whole updates, our own state carried from step to step."""
    for scenario in golden.scenarios():
        hyper, state, recorded = hyper_of(golden, scenario), state_of(golden), golden.tree("params")
        start = int(golden[f"{scenario}/step_counter_at_start"])
        for number, at in enumerate(golden.steps(scenario)):
            counter = int(golden[f"{at}/counter"])
            assert counter == start + number, f"{at}/counter"
            decay_steps = hyper_of(golden).lr_decay_steps
            rates = {
                "bc_actor": golden.hyper["lr"],
                "policy": golden.hyper["lr"],
                "critic": golden.hyper["critic_lr"],
            }
            for name, rate in rates.items():
                expected = golden[f"{at}/lr/{name}"]
                np.testing.assert_allclose(rate * cosine_decay(number, decay_steps), expected, rtol=1e-6)
            if start:
                # Their schedules count from zero wherever the EMA counter starts: rates come ready.
                hyper = hyper.replace(
                    actor_lr=float(golden[f"{at}/lr/policy"]),
                    critic_lr=float(golden[f"{at}/lr/critic"]),
                    lr_decay_steps=0.0,
                )
            draws, batch = draws_of(golden, f"{at}/draws"), golden.batch(f"{at}/batch")
            golden.close(f"{at}/critic_target_q", critic_target(state.critic.params, hyper, batch))
            before = state.target_policy
            state, metrics = update(draws, counter, state, hyper, (batch,))

            for name, metric in METRICS.items():
                golden.close(f"{at}/metrics/{name}", metrics[metric].total)
            golden.close(f"{at}/metrics/gamma_loss", nll_factor(golden, hyper) * metrics["actor/nll"].total)
            golden.equal(f"{at}/ema_updated", changed(before, state.target_policy))

            ours = networks_to(state)
            stored = {name for name in ours if golden.keys(f"{at}/params/{name}/")}
            for name in stored:
                golden.trees(f"{at}/params/{name}", ours[name], 2e-5)
            # An average of recorded parameters is known more closely than our own.
            moved = bool(golden[f"{at}/ema_updated"])
            averages = {
                "policy_ema": ("policy", (1 - hyper.ema_decay) * moved),
                "critic_target": ("critic", hyper.tau),
            }
            for target, (name, rate) in averages.items():
                if target in stored:
                    average = polyak(recorded[target], golden.tree(f"{at}/params/{name}"), rate)
                    golden.trees(f"{at}/params/{target}", average, 1e-6)
                    recorded[target] = golden.tree(f"{at}/params/{target}")


pretrain = jax.jit(core.pretrain)


def check_pretraining(golden: Golden) -> None:
    hyper, state = hyper_of(golden), state_of(golden)
    untouched = state
    for step, at in enumerate(golden.steps("pretrain")):
        draws = core.PretrainDraws(levels_of(golden, f"{at}/draws", "bc"))
        state, _ = pretrain(draws, step, state, hyper, (golden.batch(f"{at}/batch"),))
        ours = networks_to(state)
        for name in ("bc_actor", "critic"):
            golden.trees(f"{at}/params/{name}", ours[name], 2e-5)
    rest = lambda state: (state.policy, state.target_policy, state.target_critic)  # noqa: E731
    assert not changed(rest(untouched), rest(state))


@jax.jit
def decide(draws: ActionDraws, state: dtql.State, hyper: dtql.Hyper, observation: jax.Array) -> dict[str, jax.Array]:
    """Everything that is recorded of one decision."""
    candidates = dtql.sample_actions(state.policy.params, draws.noise, hyper, observation)
    q = core.min_q(state.target_critic, hyper, observation, candidates)
    index, probs = losses.softmax_selection(q, draws.uniform)
    spec = Spec(observation.shape[-1], candidates.shape[-1])
    action = dtql.act(draws, spec, state, hyper, observation)
    return {"candidates": candidates, "q": q, "probs": probs, "index": index, "action": action}


def check_evaluation(golden: Golden) -> None:
    hyper, state = hyper_of(golden, candidates=golden.hyper["repeats"]), state_of(golden)
    for at in golden.groups("eval/", depth=2):
        noise, uniform = jnp.asarray(golden[f"{at}/eps"]), jnp.asarray(golden[f"{at}/uniform"])
        parts = decide(ActionDraws(noise, uniform), state, hyper, jnp.asarray(golden[f"{at}/obs"]))
        golden.equal(f"{at}/index", parts.pop("index"))
        for name, value in parts.items():
            golden.close(f"{at}/{name}", value)


CHECKS = (
    check_shapes,
    check_schedule,
    check_noise_levels,
    check_behavior,
    check_critic,
    check_policy,
    check_critic_loss,
    check_behavior_loss,
    check_policy_loss,
    check_training,
    check_pretraining,
    check_evaluation,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", NAMES)
def test_recording(name, check):
    check(load(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_number_is_looked_at(name):
    account(name, CHECKS)
