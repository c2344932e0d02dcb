"""``import diffjax as dj``: in memory or with a folder, on data alone or on a task."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from data_tools import random_hdf5
from launcher_tools import launch, refused

import diffjax as dj
from diffjax.errors import UserError
from diffjax.launch.plugins import ENTRY_POINTS
from diffjax.methods import bc
from diffjax.methods.registry import METHODS, TABLES
from diffjax.tasks import own
from diffjax.training.checkpoints import Checkpoints

SMALL = {"preset": "quick", "steps": 4, "eval_interval": 2, "hidden_dims": (8, 8), "batch_size": 4, "progress": False}


def arrays(rows: int = 60, size: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(rows, 3)),
        "actions": rng.uniform(-size, size, (rows, 1)),
        "rewards": rng.normal(size=rows),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % 20 == 19,
    }


def test_what_it_offers_is_said_and_imported_late():
    program = "import sys, diffjax; assert 'jax' not in sys.modules; print(*dir(diffjax))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    for name in ("METHODS", "TASKS", "evaluate", "load_dataset", "load_policy", "train", "register_task"):
        assert name in said
        assert getattr(dj, name) is not None
    assert "dac" in dj.METHODS
    assert dj.TASKS["hopper-medium-v2"].action_dim == 3
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dj.nothing  # noqa: B018


def test_a_folder_changes_no_number(tmp_path):
    """The same runs in memory and recorded; each is a policy that acts alike."""
    asked = {"dataset": dj.load_dataset(arrays()), "seeds": (3, 5), "grid": {"actor_lr": (1e-3, 1e-4)}, "episodes": 2}
    memory = dj.train("bc", "pendulum-mixed", **asked, **SMALL)
    folder = dj.train("bc", "pendulum-mixed", out=tmp_path / "out", **asked, **SMALL)
    timeless = ([row._replace(wall_time="") for row in found.evaluations] for found in (memory, folder))
    assert next(timeless) == next(timeless)
    assert len(memory.evaluations) == 2 * 4
    for ours, theirs in zip(memory.metrics, folder.metrics, strict=True):
        assert (ours.phase, ours.step, ours.runs) == (theirs.phase, theirs.step, theirs.runs)
        for name, values in ours.metrics.items():
            np.testing.assert_array_equal(np.float64(values), np.float64(theirs.metrics[name]))
    assert memory.scores == folder.scores
    for seed in (3, 5):
        ours, theirs = (runs.policy(seed, "actor_lr=0.001") for runs in (memory, folder))
        assert ours.about.score == theirs.about.score
        np.testing.assert_array_equal(ours.act(np.zeros((2, 3))), theirs.act(np.zeros((2, 3))))
    with pytest.raises(UserError, match=r"seed and setting: seed 3 \(actor_lr=0.001\), seed 5 "):
        memory.policy(3)


def test_data_alone():
    runs = dj.train("bc", dataset=arrays(size=2.0), actions="scale", **SMALL)
    assert runs.evaluations == ()
    assert runs.config.own_task is not None
    policy = runs.policy()
    assert policy.about.score is None
    assert policy.action_bounds is not None
    assert policy.act(np.zeros(3)).shape == (1,)
    with pytest.raises(UserError, match="--actions=scale"):
        dj.train("bc", dataset=arrays(size=2.0), **SMALL)
    with pytest.raises(UserError, match="name a task, or give data"):
        dj.train("bc", **SMALL)
    with pytest.raises(UserError, match="there is no simulator of own-data"):
        dj.evaluate(policy, episodes=1)


def test_an_own_task_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Interrupted before its second checkpoint and resumed, it ends where the uninterrupted one does."""
    asked = {"dataset": arrays(size=2.0), "actions": "scale", **SMALL}
    whole = dj.train("bc", "my-robot", episodes=0, out=tmp_path / "whole", **asked)
    save = Checkpoints.save

    def interrupted(self, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        save(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dj.train("bc", "my-robot", episodes=0, out=tmp_path / "parts", **asked)
    with pytest.raises(UserError, match="already holds this experiment; add --resume"):
        dj.train("bc", "my-robot", episodes=0, out=tmp_path / "parts", **asked)
    parts = dj.train("bc", "my-robot", episodes=0, out=tmp_path / "parts", resume=True, **asked)
    assert [record.step for record in parts.metrics] == [2, 4]
    observation = np.ones((2, 3))
    np.testing.assert_array_equal(parts.policy().act(observation), whole.policy().act(observation))
    with pytest.raises(UserError, match="holds another experiment"):
        dj.train("bc", "my-robot", episodes=0, out=tmp_path / "parts", resume=True, **asked | {"actions": "clip"})


def test_failed_runs_are_named():
    runs = dj.train("bc", dataset=arrays(), seeds=1, **SMALL | {"actor_lr": 1e38, "steps": 40})
    with pytest.raises(UserError, match="seed 0 failed: non-finite"):
        runs.policy()


class Line(gymnasium.Env):
    """A number that actions up to 3 move; the reward is the action that arrives."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Box(-3.0, 3.0, (1,))

    def __init__(self, start: float = 0.0):
        self.start = start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(3, self.start, np.float32), {}

    def step(self, action):
        return np.full(3, self.start, np.float32), float(action[0]), False, False, {}


def test_an_environment_of_ones_own():
    """Actions arrive in its units; a policy scores by the references that it was registered with."""
    task = dj.register_task("line", Line, horizon=4, ref_scores=(0.0, 8.0), start=0.5)
    try:
        assert (task.observation_dim, task.action_dim, task.horizon) == (3, 1, 4)
        runs = dj.train("bc", "line", dataset=arrays(size=2.5), actions="scale", episodes=2, **SMALL)
        (action,) = runs.policy().act(np.full(3, 0.5))
        played = dj.evaluate(runs.policy(), episodes=2)
        np.testing.assert_allclose(played.returns, 4 * action, rtol=1e-5)
        assert played.lengths.tolist() == [4, 4]
        assert played.score == pytest.approx(100 * 4 * action / 8, rel=1e-5)
        assert runs.evaluations[-1].score == pytest.approx(played.score, rel=1e-5)
        assert runs.evaluations[-1].actions == "scale"
        with pytest.raises(UserError, match=r"beyond the environment's bounds \(-3 to 3\)"):
            dj.train("bc", "line", dataset=arrays(size=5.0), actions="scale", episodes=2, **SMALL)
        clipped = dj.train("bc", "line", dataset=arrays(size=5.0), actions="clip", episodes=2, **SMALL)
        assert np.abs(clipped.policy().act(np.zeros(3))).max() <= 1.0
    finally:
        del own._REGISTERED["line"]


def test_any_gymnasium_id(tmp_path):
    data = str(random_hdf5(tmp_path / "data.hdf5", 3, 1))
    with pytest.raises(UserError, match="give --ref_scores=MIN,MAX"):
        dj.train("bc", "Pendulum-v1", dataset=data, episodes=1, **SMALL)
    runs = dj.train("bc", "Pendulum-v1", dataset=data, episodes=1, ref_scores=(-1500, 0), out=tmp_path / "out", **SMALL)
    assert runs.evaluations[-1].env == "Pendulum-v1"
    policy = dj.load_policy(tmp_path / "out")
    assert dj.evaluate(policy, episodes=1).lengths.tolist() == [200]
    with pytest.raises(UserError, match=r"unknown task 'NoSuchRobot-v1'.*--episodes=0"):
        dj.train("bc", "NoSuchRobot-v1", dataset=data, episodes=1, **SMALL)
    with pytest.raises(UserError, match="actions of 3 numbers, this policy 3 and 1"):
        dj.evaluate(policy, "hopper-medium-v2", episodes=1)


def test_a_method_of_ones_own():
    table = {"common": {"actor_lr": 2e-3}, "untuned": {"*": {"steps": 7, "source": "a notebook"}}}
    dj.register_method("mine", {"first": bc.METHOD, "second": bc.METHOD}, table)
    try:
        runs = dj.train("mine", dataset=arrays(), variant="second", hidden_dims=(4,), batch_size=4, progress=False)
        assert (runs.config.steps, runs.config.variant, runs.config.source) == (7, "second", "a notebook")
        assert runs.policy().about.hyper["actor_lr"] == 2e-3
        dj.register_method("mine", bc.METHOD)  # a notebook's cell runs again
        assert list(METHODS["mine"]) == ["default"]
        with pytest.raises(UserError, match="method dac is one of diffjax's own"):
            dj.register_method("dac", bc.METHOD)
        with pytest.raises(UserError, match="'my-method': a name is letters"):
            dj.register_method("my-method", bc.METHOD)
        with pytest.raises(UserError, match=r"method broken: .*main"):
            dj.register_method("broken", bc.METHOD._replace(phases=()))
        with pytest.raises(UserError, match="table of method other cannot be read"):
            dj.register_method("other", bc.METHOD, "nowhere.toml")
    finally:
        del METHODS["mine"], TABLES["mine"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no Python file"),
        ("import no_such_module\n", "plugin.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n\ndef f(:\n", "plugin.py, line 3: SyntaxError"),
        ("import diffjax\n\ndiffjax.register_method('x', None)\n", "plugin.py, line 3: TypeError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded(tmp_path: Path, content, words):
    path = tmp_path / "plugin.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words):
        dj.load_plugin(path)


class Entry:
    """An entry point of an installed package."""

    name, value = "mine", "my_package.diffjax"

    def __init__(self, works: bool):
        self.works = works

    def load(self):
        if not self.works:
            raise ImportError("no my_package")
        dj.register_method("from_a_package", bc.METHOD)


def test_installed_packages_register_theirs(monkeypatch, tmp_path):
    calls, others = [], importlib.metadata.entry_points

    def entry_points(*, group: str):
        if group != ENTRY_POINTS:
            return others(group=group)
        calls.append(group)
        return [Entry(works=len(calls) == 1)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    flags = ["--task=pendulum-mixed", "--dataset=nowhere.npz", f"--out={tmp_path / 'out'}"]
    try:
        refused(launch("experiments/train.py", "--method=from_a_package", *flags), "nowhere.npz: no such file")
    finally:
        del METHODS["from_a_package"], TABLES["from_a_package"]
    run = launch("experiments/train.py", "--method=from_a_package", *flags)
    refused(run, "plugin mine (my_package.diffjax) cannot be loaded: ImportError: no my_package")


def test_the_key_matters_and_nothing_else():
    runs = dj.train("diffusion_bc", dataset=arrays(), **SMALL)
    policy, observation = runs.policy(), np.zeros((2, 3))
    first, again, other = (policy.act(observation, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
