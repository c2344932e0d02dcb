"""Data of robots: learning goes on where it stopped, levels are chosen by score, episodes replay in the simulator."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.data.d4rl_writer import write_hdf5
from diffjax.data.hdf5 import load_hdf5
from diffjax.envs.make import make_vector
from diffjax.errors import UserError
from diffjax.studies.collect import robots, sac, sac_robots, store
from diffjax.studies.collect.policies import Policy, act, load_policy, save_policy
from diffjax.types import Spec

SMALL = sac.Hyper(width=8, batch_size=8, warmup_steps=50, lr=1e-3, discount=0.99, tau=0.01)


def learn(out: Path, steps: int) -> None:
    sac_robots.learn(
        lambda num_envs: make_vector("Hopper-v4", num_envs),
        "Hopper-v4",
        3,
        steps,
        out,
        lambda line: None,
        SMALL,
        snapshot_steps=100,
    )


def policy(step: int, return_: float, key: int = 0) -> Policy:
    params = sac.MLP(8, 6).init(jax.random.key(key), jnp.zeros((1, 11)))
    return Policy(params, {"env": "Hopper-v4", "step": step, "return": return_})


@pytest.mark.slow
def test_learning_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn(tmp_path / "whole", 200)
    calls = 0

    def stop_after_first(out: Path, scores: list[sac_robots.Score]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        original(out, scores)

    original = sac_robots._write_scores
    monkeypatch.setattr(sac_robots, "_write_scores", stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", 200)
    monkeypatch.undo()
    learn(tmp_path / "cut", 200)
    for name in ("0000100.npz", "0000200.npz"):
        first, second = (load_policy(tmp_path / folder / "policies" / name) for folder in ("whole", "cut"))
        jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
        assert first.about == second.about
    assert (tmp_path / "whole" / "scores.csv").read_text() == (tmp_path / "cut" / "scores.csv").read_text()
    with (tmp_path / "cut" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["100", "200"]
    about = load_policy(tmp_path / "cut" / "policies" / "0000200.npz").about
    assert about["env"] == "Hopper-v4"
    assert about["seed"] == 3
    assert f"{about['return']:.1f}" == rows[1]["return"]


def test_learning_does_not_go_on_in_another_folder(tmp_path: Path):
    learn(tmp_path, 100)
    with pytest.raises(UserError, match=r"holds the learning of .*'steps': 100.*choose another folder"):
        learn(tmp_path, 200)
    with pytest.raises(UserError, match="103 steps are not a multiple of 5"):
        learn(tmp_path / "odd", 103)
    assert not (tmp_path / "odd").exists()


def test_policies_keep_their_weights_and_their_story(tmp_path: Path):
    saved = policy(30, 12.5)
    save_policy(tmp_path / "p.npz", saved)
    loaded = load_policy(tmp_path / "p.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, saved.params)
    assert loaded.about == saved.about
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_damaged_policies_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no such policy"):
        load_policy(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(UserError, match=f"{name}: is not a policy file"):
            load_policy(tmp_path / name)


def test_acting_by_the_mean_and_by_sampling():
    params = policy(0, 0.0).params
    observation = np.linspace(-1, 1, 22, dtype=np.float32).reshape(2, 11)
    mean, log_std = sac.policy(params, jnp.asarray(observation), 8, 3)
    key = jax.random.key(1)
    action = act(key, params, observation, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(action[0], np.tanh(mean[0]), rtol=1e-6)
    noise = jax.random.normal(key, (2, 3))
    np.testing.assert_allclose(action[1], np.tanh(mean[1] + np.exp(log_std[1]) * noise[1]), rtol=1e-5)


def test_levels_are_chosen_by_score():
    policies = [policy(1, 50.0), policy(2, 320.0), policy(3, 900.0), policy(4, 300.0)]
    assert robots.expert(policies).about["step"] == 3
    assert robots.medium(policies).about["step"] == 4
    steps = lambda level: [  # noqa: E731
        (part.policy and part.policy.about["step"], part.transitions) for part in robots.parts_of(level, policies, 100)
    ]
    assert steps("random") == [(None, 100)]
    assert steps("medium") == [(4, 100)]
    assert steps("expert") == [(3, 100)]
    assert steps("medium-expert") == [(4, 100), (3, 100)]
    assert steps("medium-replay") == [(None, 20), (1, 20), (2, 20), (3, 20), (4, 20)]
    late = policy(5, 10.0)  # newer than the medium one: only in full
    policies.append(late)
    assert steps("medium-replay") == [(None, 20), (1, 20), (2, 20), (3, 20), (4, 20)]
    assert [step for step, _ in steps("full-replay")] == [None, 1, 2, 3, 4, 5]
    assert robots.medium(policies[:3]).about["step"] == 2


def test_unknown_levels_and_environments(tmp_path: Path):
    with pytest.raises(UserError, match="medum"):
        robots.recipe("Hopper-v4", "medum")
    with pytest.raises(UserError, match="has no policy of Hopper-v4"):
        robots.recipe("Hopper-v4", "medium", tmp_path)


def test_episodes_replay_in_the_simulator_and_survive_hdf5(tmp_path: Path):
    save_policy(tmp_path / "1.npz", policy(1, 10.0))
    recipe = robots.recipe("Hopper-v4", "medium-expert", tmp_path, transitions=150)
    lines: list[str] = []
    episodes = recipe.collect(jax.random.key(0), lines.append)
    assert len(lines) == 2
    assert 300 <= sum(len(episode.reward) for episode in episodes) < 300 + 2 * 1000
    simulator = make_vector("Hopper-v4", 1)
    for episode in episodes[:2]:
        assert episode.terminal
        observation = simulator.reset(np.array([episode.seed]))
        np.testing.assert_array_equal(observation[0], episode.observation[0])
        for step, action in enumerate(episode.action):
            observation, reward, terminated, _ = simulator.step(action[None])
            np.testing.assert_array_equal(observation[0], episode.observation[step + 1])
            assert np.float32(reward[0]) == episode.reward[step]
        assert terminated[0]
    simulator.close()
    write_hdf5(tmp_path / "d.hdf5", episodes, env_id="Hopper-v4", algorithm="a", ref_min=1.0, provenance={"seed": 0})
    data = load_hdf5(str(tmp_path / "d.hdf5"), Spec(11, 3))
    assert (data.label, data.env_id, data.ref_min, data.ref_max) == ("a", "Hopper-v4", 1.0, None)
    np.testing.assert_allclose(data.episode_returns, [episode.reward.sum() for episode in episodes], rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.npz", "d.hdf5"]


def test_what_is_stored_is_refused_before_anything_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    save_policy(tmp_path / "1.npz", policy(1, 10.0))
    recipe = robots.recipe("Hopper-v4", "medium", tmp_path, transitions=20)
    store.store_minari("my/hopper-v0", recipe, lambda line: None)
    lines: list[str] = []
    with pytest.raises(UserError, match="my/hopper-v0: is already stored"):
        store.store_minari("my/hopper-v0", recipe, lines.append)
    with pytest.raises(UserError, match="my_hopper"):
        store.store_minari("my_hopper", recipe, lines.append)
    assert not lines


def test_collecting_is_a_function_of_its_key(tmp_path: Path):
    save_policy(tmp_path / "1.npz", policy(1, 10.0))
    recipe = robots.recipe("Hopper-v4", "medium", tmp_path, transitions=50)
    first, second, other = (recipe.collect(jax.random.key(seed), lambda line: None) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0].action, second[0].action)
    assert not np.array_equal(first[0].action[0], other[0].action[0])


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["Hopper-v4", "HalfCheetah-v4", "Walker2d-v4"])
def test_policies_that_come_along_are_worth_what_they_say(env_id: str):
    policies = robots.policies_of(env_id)
    assert len(policies) >= 10
    assert all(policy.about["command"].startswith("python experiments/collect.py") for policy in policies)
    simulator = make_vector(env_id, 20)
    for chosen in (robots.medium(policies), robots.expert(policies)):
        episodes = robots.roll_out(jax.random.key(5), simulator, robots.part_action(robots.Part(chosen, 1), 3), 5000)
        returns = np.array([episode.reward.sum() for episode in episodes])
        assert len(returns) >= 5
        error = np.hypot(
            returns.std(ddof=1) / len(returns) ** 0.5, chosen.about["return_std"] / sac_robots.EPISODES**0.5
        )
        assert abs(returns.mean() - chosen.about["return"]) < 4 * error
    simulator.close()
    assert robots.expert(policies).about["return"] > 2 * robots.medium(policies).about["return"]
