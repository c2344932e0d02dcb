"""Variants for what the papers leave open: a learned covariance, and how far bounds lie from what they bound."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher_tools import launch, refused
from method_tools import SPEC, fresh_state, random_batches, tiny

from diffjax.diffusion.denoisers import add_noise
from diffjax.diffusion.schedules import discrete_schedule
from diffjax.methods import diffusion_policy as dp


@pytest.fixture(scope="module")
def learned():
    """DiffCPS with a learned covariance: hyper-parameters, actor, draws, minibatch."""
    method, hyper = tiny("diffcps", "default", covariance="learned")
    actor = fresh_state(method, hyper).core.actor.params
    (batch,) = random_batches(method, hyper)
    return hyper, actor, method.phases[0].draw(jax.random.key(3), SPEC, hyper).policy, batch


def test_the_bound_teaches_the_variance_alone(learned):
    """With the mean held, the loss is the simple one plus what reaches the second half of the outputs only."""
    hyper, actor, draws, batch = learned
    last = max(actor["params"]["trunk"])
    both = lambda hyper: jax.grad(  # noqa: E731
        lambda actor: jnp.mean(dp.denoising_loss(actor, draws.denoising, hyper, batch))
    )(actor)["params"]["trunk"][last]["bias"]
    with_bound = both(hyper)
    prediction = dp.predict(
        actor,
        hyper,
        add_noise(
            discrete_schedule(hyper.schedule, hyper.diffusion_steps),
            batch.action,
            draws.denoising.time_index,
            draws.denoising.noise,
        ),
        draws.denoising.time_index,
        batch.observation,
    )
    simple = jnp.mean((prediction - draws.denoising.noise) ** 2)
    found = jnp.mean(dp.denoising_loss(actor, draws.denoising, hyper, batch))
    assert abs(float(found - simple)) > 1e-6
    by_hand = jnp.mean(2 * (prediction - draws.denoising.noise), axis=0) / 2  # of the mean over batch and 2 dimensions
    np.testing.assert_allclose(with_bound[:2], by_hand, atol=1e-6)
    assert np.all(np.abs(with_bound[2:]) > 0)


def test_a_learned_covariance_changes_samples_and_not_the_number_of_calls(learned):
    hyper, actor, draws, batch = learned
    action = dp.sample_actions(actor, draws.chain, hyper, batch.observation)
    assert action.shape == batch.action.shape
    assert np.all(np.abs(action) <= hyper.max_action)
    shifted = jax.tree.map(jnp.copy, actor)
    last = max(shifted["params"]["trunk"])
    shifted["params"]["trunk"][last]["bias"] = shifted["params"]["trunk"][last]["bias"].at[2:].add(1.0)
    other = dp.sample_actions(shifted, draws.chain, hyper, batch.observation)
    assert float(jnp.max(jnp.abs(other - action))) > 1e-3
    assert dp.cost(hyper) == dp.cost(hyper.replace(covariance="fixed"))


def test_the_bounds_are_measured_from_the_command_line(tmp_path):
    asked = ["--steps=2,4", "--std=0.2,1", "--samples=500"]
    run = launch("experiments/bound.py", *asked, f"--out={tmp_path / 'out'}")
    assert run.returncode == 0, run.stderr
    rows = list(csv.DictReader((tmp_path / "out/bound.csv").open()))
    assert [(row["schedule"], float(row["std"]), int(row["steps"])) for row in rows] == [
        ("vp", 0.2, 2), ("vp", 0.2, 4), ("vp", 1.0, 2), ("vp", 1.0, 4)
    ]  # fmt: skip
    assert all(abs(float(row["best"])) < 0.1 for row in rows)
    assert all(float(row["posterior"]) > 0.3 for row in rows[:2])
    assert (tmp_path / "out/bound.png").stat().st_size > 10_000
    refused(launch("experiments/bound.py", *asked, f"--out={tmp_path / 'out'}"), "holds results already")


@pytest.mark.parametrize(
    ("flag", "words"), [("--std=0,1", "positive"), ("--steps=2.5", "number"), ("--schedule=x", "schedule")]
)
def test_bad_questions_about_bounds(tmp_path, flag, words):
    refused(launch("experiments/bound.py", flag, f"--out={tmp_path / 'out'}"), words)
    assert not (tmp_path / "out").exists()
