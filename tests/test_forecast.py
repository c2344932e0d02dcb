"""What --dry_run says of a training: the arithmetic by hand, and that nothing is written."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from launcher_tools import launch, refused

from diffjax.experiment import forecast, run
from diffjax.experiment.joint import members_of
from diffjax.experiment.plan import Experiment, plan
from diffjax.experiment.prepare import make_ready
from diffjax.records.folder import CONFIG, STATUS

SPEED = forecast.Speed("measured", 2, 10.0, ((0.01, 0.02),), (0.1, 0.3), 50, 1000, 500, 0)


def asked(out: Path, **more) -> Experiment:
    overrides = {"steps": "100", "eval_interval": "40", "episodes": "0", "hidden_dims": "8", "batch_size": "4"}
    return Experiment("bc", "pendulum-mixed", out, preset="quick", overrides=tuple(overrides.items()), **more)


@pytest.fixture
def few_rows(monkeypatch):
    monkeypatch.setattr(forecast, "ROWS", 1000)


def test_the_arithmetic(tmp_path, few_rows):
    """Six runs on a CPU take three times as long as the two that were measured."""
    planned = plan(asked(tmp_path / "x", seeds=(0, 1, 2), settings=("actor_lr=1e-3", "actor_lr=1e-4")))
    (member,) = members_of(make_ready(planned, forecast._data(planned), lambda line: None))
    found = forecast._forecast([(member, run.what_is_left(planned))], SPEED)
    assert (found.runs, found.at_once, found.updates, found.evaluations) == (6, 6, 100, 3)
    played = 6 * 3 * 50 / 2
    assert found.seconds == pytest.approx((10 + 300 * 0.01 + played * 0.1, 10 + 300 * 0.02 + played * 0.3))
    row = 4 * (planned.spec.observation_dim + planned.spec.action_dim + 1) + 2  # floats and two flags
    data = forecast.ROWS_MEANT * (row + 4)
    assert found.memory - 6 * 1500 == pytest.approx(data, rel=1e-2)
    assert found.disk == 6 * 2 * 1000 + 18 * forecast.ROW_BYTES
    assert found.measured == "measured"


def test_what_is_left_of_a_folder(tmp_path, monkeypatch):
    """Of finished runs nothing; of those that were interrupted what comes after their last evaluation."""
    planned = plan(asked(tmp_path, seeds=(0, 1, 2), settings=("actor_lr=1e-3", "actor_lr=1e-4")))
    assert run.what_is_left(planned) == run.Left(((6, 6),), (100,))
    for name in (CONFIG, STATUS):
        (tmp_path / name).touch()
    runs = [SimpleNamespace(seed=one.seed, setting=one.setting) for group in planned.groups for one in group.runs]
    states = ["complete", "failed", "running", "running", "running", "running"]
    statuses = [SimpleNamespace(run=one, state=state) for one, state in zip(runs, states, strict=True)]
    rows = [SimpleNamespace(run=runs[0], step=100), SimpleNamespace(run=runs[2], step=40)]
    monkeypatch.setattr(run, "read_status", lambda out: statuses)
    monkeypatch.setattr(run, "read_evaluations", lambda out: rows)
    assert run.what_is_left(planned) == run.Left(((4, 4),), (60,))
    assert run._updates(planned) == 240
    statuses[2:] = [SimpleNamespace(run=one.run, state="complete") for one in statuses[2:]]
    assert run._updates(planned) == 0


def test_runs_that_only_act_differently_are_trained_once(tmp_path):
    settings = ("candidates=2", "candidates=4")
    planned = plan(Experiment("dac", "pendulum-mixed", tmp_path, preset="quick", seeds=(0, 1), settings=settings))
    assert run.what_is_left(planned).groups == ((4, 2),)


@pytest.mark.slow
def test_a_dry_run_writes_nothing(tmp_path):
    out = tmp_path / "x"
    arguments = ["--task=pendulum-mixed", "--preset=quick", "--steps=20", "--eval_interval=10", "--episodes=1"]
    done = launch("experiments/train.py", "--method=bc", *arguments, "--num_seeds=2", "--dry_run", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 program on ")
    assert "pendulum-mixed bc" in done.stdout
    assert not out.exists()
    trained = launch("experiments/train.py", "--method=bc", *arguments, f"--out={out}")
    assert trained.returncode == 0, trained.stderr
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = launch("experiments/train.py", "--method=bc", *arguments, "--dry_run", "--resume", f"--out={out}")
    assert again.stdout == "finished, to be skipped: pendulum-mixed bc\n"
    refused(launch("experiments/train.py", "--method=bc", *arguments, "--dry_run", f"--out={out}"), "add --resume")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
