"""Soft actor-critic as it collects data: a function of its seed, its history, its densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.envs import pendulum
from diffjax.envs.pendulum import PENDULUM
from diffjax.studies.collect import sac, sac_pure

SMALL = sac.Hyper(width=8, batch_size=8, warmup_steps=20, lr=1e-3, discount=0.99, tau=0.01)
STEPS = 420


def advance(seed: int, pieces: tuple[int, ...]) -> sac_pure.Agent:
    """Two small agents in the pendulum: warm-up, then ``pieces`` of learning."""
    keys = jax.random.split(jax.random.key(seed), 2)
    agents = jax.vmap(lambda key: sac_pure.init(key, PENDULUM, SMALL, STEPS))(keys)
    start = 0
    for piece in (SMALL.warmup_steps, *pieces):
        learning = start >= SMALL.warmup_steps
        agents = sac_pure.advance(
            keys, agents, jnp.int32(start), simulator=PENDULUM, hyper=SMALL, length=piece, learning=learning
        )
        start += piece
    return agents


@pytest.fixture(scope="module")
def agents() -> sac_pure.Agent:
    return advance(0, (200, 200))


@pytest.mark.slow
def test_sac_is_a_function_of_its_seed(agents: sac_pure.Agent):
    jax.tree.map(np.testing.assert_array_equal, agents.replay, advance(0, (200, 200)).replay)
    other = advance(1, (200, 200))
    assert not np.allclose(agents.replay.action, other.replay.action)
    assert not np.allclose(agents.replay.action[0], agents.replay.action[1])


@pytest.mark.slow
def test_cutting_sac_into_pieces_changes_nothing(agents: sac_pure.Agent):
    whole = advance(0, (400,))
    # Two programs: equal while rounding errors have had no time to grow.
    np.testing.assert_allclose(whole.replay.action[:, :120], agents.replay.action[:, :120], atol=1e-3)


@pytest.mark.slow
def test_history_is_what_the_simulator_does(agents: sac_pure.Agent):
    history = jax.tree.map(np.asarray, agents.replay)
    assert np.flatnonzero(history.truncated[0]).tolist() == [199, 399]
    assert not history.terminated.any()
    inside = ~history.truncated[:, :-1]
    np.testing.assert_allclose(history.next_observation[:, :-1][inside], history.observation[:, 1:][inside], atol=1e-6)
    cos, sin, velocity = np.moveaxis(history.observation, -1, 0)
    state = pendulum.State(jnp.arctan2(sin, cos), velocity * pendulum.MAX_SPEED)
    step = jax.vmap(jax.vmap(pendulum.step))
    _, observation, reward, _ = step(state, jnp.asarray(history.action))
    np.testing.assert_allclose(observation, history.next_observation, atol=1e-5)
    np.testing.assert_allclose(reward, history.reward, atol=1e-5)


@pytest.mark.slow
def test_warm_up_is_uniform_and_does_not_learn():
    keys = jax.random.split(jax.random.key(0), 64)
    fresh = jax.vmap(lambda key: sac_pure.init(key, PENDULUM, SMALL, 20))(keys)
    warm = sac_pure.advance(keys, fresh, jnp.int32(0), simulator=PENDULUM, hyper=SMALL, length=20, learning=False)
    jax.tree.map(np.testing.assert_array_equal, warm.learner, fresh.learner)
    action = np.sort(np.asarray(warm.replay.action).reshape(-1))
    ideal = np.linspace(-1, 1, action.size)
    assert np.abs(action - ideal).max() < 2 * 1.95 / np.sqrt(action.size)  # Kolmogorov-Smirnov, 0.1 %
