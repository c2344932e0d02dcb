"""Policies: read from folders and files, they act as the run did that they are of."""

import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher_tools import data_file, launch
from method_tools import MOSTLY_SLOW, SPEC, TINY
from policy_tools import untrained

from diffjax import policy
from diffjax.errors import UserError
from diffjax.experiment.rows import best_evaluations
from diffjax.methods.base import no_draws
from diffjax.records.folder import read_evaluations
from diffjax.tasks.registry import get_task, make_simulator
from diffjax.training.evaluation import episode_keys, evaluate
from diffjax.training.program import Program

KEY = jax.random.key(3)


@pytest.mark.parametrize(("name", "variant"), MOSTLY_SLOW)
def test_a_saved_policy_acts_as_before(name, variant, tmp_path):
    ours = untrained(name, variant)
    observation = np.random.default_rng(0).normal(size=(3, SPEC.observation_dim))
    action = ours.act(observation, KEY)
    assert (action.shape, action.dtype) == ((3, SPEC.action_dim), np.float32)
    assert np.all(np.abs(action) <= 1.0)
    ours.save(tmp_path / "policy.npz")
    theirs = policy.load(tmp_path / "policy.npz")
    assert theirs.about == ours.about
    np.testing.assert_array_equal(theirs.act(observation, KEY), action)
    with zipfile.ZipFile(tmp_path / "policy.npz") as file:
        names = file.namelist()
    assert any("params" in name for name in names)
    assert not any("opt_state" in name or "target" in name.split("/")[1:2] for name in names)
    assert ours.is_random == (ours.method.draw_action is not no_draws)
    if ours.is_random:
        with pytest.raises(UserError, match="give a key"):
            ours.act(observation)
    else:
        np.testing.assert_array_equal(ours.act(observation), action)


def test_one_observation_and_a_batch():
    """A policy of one network: the transform, the network, the bounds, by hand."""
    ours = untrained("bc", "default")
    observation = np.random.default_rng(0).normal(size=(4, SPEC.observation_dim)).astype(np.float32)
    seen = (observation - np.arange(5)) / 2.0
    expected = jax.vmap(lambda o: ours.method.act(None, SPEC, ours.acting.state, ours.acting.hyper, o))(seen)
    np.testing.assert_allclose(ours.act(observation), expected, atol=1e-6)
    np.testing.assert_allclose(ours.act(observation[2]), expected[2], atol=1e-6)
    with pytest.raises(UserError, match=r"shape \(4, 3\); this policy acts on \(5,\) or \(batch, 5\)"):
        ours.act(observation[:, :3])


def test_another_way_of_acting():
    ours = untrained("dac", "default")
    alone = ours.with_acting(candidates=1, temperature=0.5)
    assert (ours.acting.hyper.candidates, alone.acting.hyper.candidates) == (TINY["candidates"], 1)
    assert alone.about.hyper["candidates"] == 1
    assert alone.about.score is None  # that of another way
    assert alone.act(np.zeros(5), KEY).shape == (SPEC.action_dim,)
    with pytest.raises(UserError, match=r"'eta'; one of: candidates, ddim_eta, sampler, sampler_steps, temperature"):
        ours.with_acting(eta=0.1)
    with pytest.raises(UserError, match="candidates=0 is out of range"):
        ours.with_acting(candidates=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings in two groups, two seeds each, three evaluations, all checkpoints."""
    folder = tmp_path_factory.mktemp("policy")
    train(folder, "out", "--keep=all")
    return folder / "out"


def train(folder: Path, out: str, *more: str) -> str:
    data = folder / "hopper.hdf5"
    run = launch(
        "experiments/train.py",
        "--method=td3_bc",
        "--task=hopper-medium-v2",
        f"--dataset={data if data.exists() else data_file(data)}",
        f"--out={folder / out}",
        *("--preset=quick", "--steps=6", "--eval_interval=2", "--episodes=2", "--num_seeds=2"),
        *("--set", "batch_size=8", "--grid", "hidden_dims=8,16"),
        *more,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


def test_a_policy_of_a_folder_scores_as_its_row_says(runs):
    """The episodes of an evaluation, played again from its checkpoint."""
    for row in read_evaluations(runs):
        ours = policy.load(runs, seed=row.seed, setting=row.setting, step=row.step)
        assert (ours.about.score, ours.about.episodes, ours.about.step) == (row.score, 2, row.step)
        assert ours.about.hyper["hidden_dims"] == [int(row.setting.partition("=")[2])]
        program = Program(ours.method, ours.spec, "uniform")
        acting = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], ours.acting)
        simulator = make_simulator(get_task(row.task), 2)
        keys = episode_keys(jax.random.key(row.seed)[None], row.step, 2)
        played = evaluate(keys, program, acting, simulator)
        assert played.returns.mean() == pytest.approx(row.return_mean, rel=1e-5)
        first = simulator.reset(np.zeros(2, np.uint32))[0]
        assert np.abs(ours.act(first)).max() <= 1.0
        simulator.close()


def test_which_run_and_which_step(runs):
    with pytest.raises(UserError, match="holds several runs; choose a seed: 0, 1"):
        policy.load(runs)
    with pytest.raises(UserError, match="choose a setting: 'hidden_dims=8', 'hidden_dims=16'"):
        policy.load(runs, seed=1)
    with pytest.raises(UserError, match="has no seed 2, only 0, 1"):
        policy.load(runs, seed=2, setting="hidden_dims=8")
    with pytest.raises(UserError, match="keeps no checkpoint of step 3, only of 2, 4, 6"):
        policy.load(runs, seed=1, setting="hidden_dims=8", step=3)
    assert policy.load(runs, seed=1, setting="hidden_dims=8").about.step == 6
    best = policy.load(runs, seed=1, setting="hidden_dims=16", step="best").about
    rows = [row for row in read_evaluations(runs) if (row.seed, row.setting) == (1, "hidden_dims=16")]
    assert best.score == max(row.score for row in rows)


def test_what_is_kept(tmp_path):
    """The checkpoint of each run's best evaluation stays beside the newest two."""
    said = train(tmp_path, "best", "--keep=best", "--steps=12")
    assert "--keep=best: up to 4 checkpoints of 0." in said
    rows = read_evaluations(tmp_path / "best")
    for group, width in enumerate((8, 16)):
        stand = {int(path.name) for path in (tmp_path / "best" / "checkpoints" / str(group)).iterdir()}
        best = set()
        for seed in (0, 1):
            own = [row for row in rows if row.seed == seed and row.setting == f"hidden_dims={width}"]
            best.add(max(own, key=lambda row: row.score).step // 2)
        assert stand == {5, 6} | best
    train(tmp_path, "last")
    assert {path.name for path in (tmp_path / "last" / "checkpoints" / "0").iterdir()} == {"2", "3"}


def test_the_best_of_each_run():
    found = best_evaluations({}, np.array([1.0, 5.0, np.nan]), 3)
    assert found == {0: (1.0, 3), 1: (5.0, 3)}
    assert best_evaluations(found, np.array([2.0, 5.0, -1.0]), 4) == {0: (2.0, 4), 1: (5.0, 3), 2: (-1.0, 4)}


def test_files_that_are_none(tmp_path, runs):
    ours = untrained("bc", "default")
    path = tmp_path / "policy.npz"
    for name, content, words in (
        ("text.npz", b"hello", "not an .npz file"),
        ("config.json", b"{}", "not an .npz file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            policy.load(tmp_path / name)
    ours.save(path)
    (tmp_path / "half.npz").write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match="no policy's file, or is damaged"):
        policy.load(tmp_path / "half.npz")
    np.savez(tmp_path / "pickled.npz", about=np.array([{}], object))
    with pytest.raises(UserError, match="no policy's file, or is damaged"):
        policy.load(tmp_path / "pickled.npz")
    with np.load(path) as file:
        arrays = dict(file)
    newer = json.loads(str(arrays["about"])) | {"format_version": 2}
    np.savez(tmp_path / "newer.npz", **arrays | {"about": np.array(json.dumps(newer))})
    with pytest.raises(UserError, match="format_version is 2"):
        policy.load(tmp_path / "newer.npz")
    np.savez(tmp_path / "other.npz", **arrays | {"state/actor/params/params/layer_9/bias": np.zeros(3)})
    with pytest.raises(UserError, match=r"state of .*bc is another there \(see .*layer_9"):
        policy.load(tmp_path / "other.npz")
    with pytest.raises(UserError, match="holds one policy; leave out seed"):
        policy.load(path, seed=0)
    with pytest.raises(UserError, match="neither a results folder"):
        policy.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="does not exist"):
        ours.save(tmp_path / "no" / "where.npz")
