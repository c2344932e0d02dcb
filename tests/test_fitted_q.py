"""Fitted Q evaluation against values known by hand, and as a user runs it."""

import csv
from pathlib import Path

import numpy as np
import pytest
from launcher_tools import launch, refused

import diffjax as dj
from diffjax.assess.fitted_q import Settings, scaling, split
from diffjax.data.arrays import load_arrays

DISCOUNT = 0.5


def ladder(trajectories: int = 40) -> dict[str, np.ndarray]:
    """Two steps: at -1 without reward to 1, there the action is the reward, and the end."""
    rows = 2 * trajectories
    odd = np.arange(rows) % 2 == 1
    action = np.random.default_rng(0).uniform(-1, 1, (rows, 1))
    return {
        "observations": np.where(odd, 1.0, -1.0)[:, None],
        "actions": action,
        "rewards": np.where(odd, action[:, 0], 0.0),
        "terminals": odd,
        "timeouts": np.zeros(rows, bool),
    }


def write(path: Path, **changes: np.ndarray) -> Path:
    np.savez(path, **(ladder() | changes))
    return path


def test_trajectories_are_split_whole():
    dataset = load_arrays(ladder())
    parts = split(dataset, Settings(held_out=0.25, discount=DISCOUNT))
    assert (parts.trajectories, len(parts.start)) == (30, 10)
    assert np.all(parts.start == -1.0)
    last = parts.held_out.reward[parts.held_out.observation[:, 0] == 1]
    assert np.sort(parts.returns).tolist() == pytest.approx(np.sort(DISCOUNT * last).tolist(), abs=1e-6)
    few = split(dataset, Settings(held_out=0.25, transitions=8))
    assert (few.trajectories, len(few.fitted.reward), len(few.start)) == (4, 8, 10)
    found = scaling(parts.fitted, DISCOUNT)
    assert found.low == pytest.approx(min(parts.fitted.reward) / (1 - DISCOUNT) / found.value)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies of one data set that say what they were shown: +0.5 everywhere, and -0.5."""
    folder = tmp_path_factory.mktemp("fqe")
    for name, action in (("up", 0.5), ("down", -0.5)):
        data = write(folder / f"{name}.npz", actions=np.full((80, 1), action))
        settings = {"steps": 400, "eval_interval": 400, "hidden_dims": (16,), "batch_size": 16, "actor_lr": 1e-2}
        dj.train("bc", "two-steps", dataset=data, episodes=0, out=folder / name, progress=False, **settings)
    write(folder / "ladder.npz")
    return folder


@pytest.mark.slow
def test_policies_are_worth_what_they_do(runs):
    """V = discount * action of the last step: 0.25 and -0.25."""
    out = runs / "judged"
    flags = (f"--run={runs / 'up'},{runs / 'down'}", "--offline", f"--dataset={runs / 'ladder.npz'}")
    run = launch("experiments/evaluate.py", *flags, f"--discount={DISCOUNT}", "--fit_steps=800", f"--out={out}")
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()[1:3]
    assert float(first.split()[0]) == pytest.approx(0.25, abs=0.05)
    assert float(second.split()[0]) == pytest.approx(-0.25, abs=0.05)
    assert "It ranks policies of one data set and is no score." in run.stdout
    with open(out / "fitted_q.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["held_out"], row["fit_steps"]) for row in rows] == [("two-steps", "8", "800")] * 2
    assert float(rows[0]["td_error"]) < 0.1
    refused(launch("experiments/evaluate.py", *flags, f"--out={out}"), "fitted_q.csv is there already")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--offline", "--episodes=3"], ["--offline asks no simulator", "--episodes"]),
        (["--dataset=x.npz", "--out=out"], ["--dataset names trajectories for --offline"]),
        (["--offline", "--dataset=nowhere.npz"], ["nowhere.npz: no such file"]),
        (["--offline", "--discount=1"], ["--discount"]),
        (["--offline", "--held_out=1"], ["trajectories; at least two are needed, one to hold out"]),
        (["--out=out"], ["task two-steps has no simulator", "--offline"]),
    ],
)
def test_a_mistake_is_one_line(runs, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    run = launch("experiments/evaluate.py", f"--run={runs / 'up'}", *flags)
    assert run.returncode == 2
    assert all(word in run.stderr.splitlines()[-1] for word in words), run.stderr
    assert list(tmp_path.iterdir()) == []
