"""A problem with a known answer: every method that improves on its data must find it, and imitation must not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_tools import tiny

from diffjax.data.transitions import Transitions
from diffjax.training.program import Program, RunSetup, stack_setups
from diffjax.types import Spec

SPEC = Spec(observation_dim=1, action_dim=1)
BEST = 0.5
RUNS, EPISODES = 2, 64


def bandit() -> Transitions:
    """One-step episodes: uniform actions, reward ``-(a - 0.5)^2``."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (4000, 1)).astype(np.float32)
    return Transitions(
        observation=rng.uniform(-1, 1, (4001, 1)).astype(np.float32),
        action=np.concatenate([action, np.zeros((1, 1), np.float32)]),
        reward=np.append(-10 * (action[:, 0] - BEST) ** 2, 0).astype(np.float32),
        terminal=np.ones(4001, bool),
        end=np.ones(4001, bool),
        row=np.arange(4000, dtype=np.int32),
    )


def mean_regret(name: str, variant: str, steps: int, **changes: object) -> np.ndarray:
    """Mean squared distance to the best action after training, per run."""
    method, hyper = tiny(name, variant, hidden_dims=(32, 32, 32), batch_size=64)
    known = {field.name for field in dataclasses.fields(hyper)}
    hyper = dataclasses.replace(hyper, **{key: value for key, value in changes.items() if key in known})
    setups = [
        RunSetup(
            jax.random.key(seed), jnp.int32(0), jnp.int32(4000), jnp.float32(1), jnp.float32(0), jnp.float32(1), hyper
        )
        for seed in range(RUNS)
    ]
    program, setup = Program(method, SPEC, "uniform"), stack_setups(setups)
    data, state = program.replicate(bandit()), program.init(setup)
    for phase in range(len(method.phases)):
        state, _ = program.advance(phase, state, 0, steps, setup, data)
    keys = jax.random.split(jax.random.key(9), (RUNS, EPISODES))
    observation = jnp.linspace(-1, 1, EPISODES)[None, :, None].repeat(RUNS, 0)
    action = program.act(state, setup, keys, 0, observation)
    return np.asarray(jnp.mean((action[..., 0] - BEST) ** 2, axis=1))


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("dac", "default"),
        ("dtql", "default"),
        ("diffcps", "default"),
        ("diffpogan", "code"),
        ("diffpogan", "paper"),
        ("dql", "default"),
    ],
)
def test_finds_the_best_action(name, variant):
    regret = mean_regret(name, variant, 1500, actor_lr=1e-3, critic_lr=3e-3, lr_decay_steps=0.0, ema_start=1)
    assert np.all(regret < 0.05), regret


def test_imitation_does_not():
    """Uniform actions leave a mean squared distance of 1/3 + 1/4."""
    assert np.all(mean_regret("diffusion_bc", "default", 1500) > 0.2)
    assert np.all(np.abs(mean_regret("bc", "default", 1500) - BEST**2) < 0.1)
