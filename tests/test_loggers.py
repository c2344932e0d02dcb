"""Loggers: event files and a stand-in for Weights & Biases hold exactly the rows of the results folder."""

import itertools
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from data_tools import error_of, random_hdf5
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from diffjax.experiment import run as experiment
from diffjax.experiment import trainer
from diffjax.experiment.plan import Experiment
from diffjax.launch.progress import TrainingProgress
from diffjax.records.folder import METRICS, ResultsFolder, metrics_lines, read_config, read_evaluations, read_metrics
from diffjax.records.loggers import Loggers, check_loggers
from diffjax.records.schema import Config, MetricsRecord
from diffjax.studies.collect.store import store_dataset
from diffjax.tasks.registry import get_task
from diffjax.training.checkpoints import Checkpoints

Curve = list[tuple[int, float]]
TASK = "pendulum-mixed"
SETTINGS = ("actor_lr=0.001", "actor_lr=0.0001")
RUNS = {(seed, setting): f"{setting};seed={seed}" for setting in SETTINGS for seed in (0, 1)}


def events(folder: Path) -> dict[str, Curve]:
    """All scalars of the event files in a folder, parsed as the format is defined: length, crc, message, crc."""
    curves: dict[str, Curve] = {}
    for path in sorted(folder.glob("events.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                if value.tag.startswith("_hparams_/"):
                    continue
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def expected(folder: Path, seed: int, setting: str) -> dict[str, Curve]:
    """The same from the folder's own files."""
    curves: dict[str, Curve] = {}
    run = read_config(folder).run(seed, setting)
    for record in read_metrics(folder):
        for name, values in record.metrics.items():
            curves.setdefault(name, []).append((record.step, pytest.approx(values[record.runs.index(run)])))
    for row in read_evaluations(folder):
        if row.run == run:
            for name in ("score", "return_mean", "return_std", "length_mean"):
                curves.setdefault(f"evaluation/{name}", []).append((row.step, pytest.approx(getattr(row, name))))
    return curves


def interrupt(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Interrupts the second interval while its episodes are played, or between its last row and its checkpoint."""
    owner, name = {"playing": (trainer, "evaluate"), "saving": (Checkpoints, "save")}[place]
    function, calls = getattr(owner, name), itertools.count(1)

    def stopping(*args: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return function(*args)

    monkeypatch.setattr(owner, name, stopping)


at_both_places = pytest.mark.parametrize("place", ["playing", "saving"])


@pytest.fixture(scope="module")
def pendulum_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = get_task(TASK)
    return random_hdf5(tmp_path_factory.mktemp("data") / "tiny.hdf5", task.observation_dim, task.action_dim)


def train(path: Path, out: Path, *log: str, **changes: Any) -> None:
    overrides = {"steps": "6", "eval_interval": "2", "episodes": "2", "hidden_dims": "8", "batch_size": "8"}
    wanted = Experiment(
        "bc", TASK, out, preset="quick", seeds=(0, 1), settings=SETTINGS, overrides=tuple(overrides.items()),
        dataset=str(path), log=log, **changes,
    )  # fmt: skip
    experiment.run_experiment(wanted, TrainingProgress(), store_dataset)


@at_both_places
def test_tensorboard_holds_every_run_once_also_after_an_interruption(pendulum_file, tmp_path, monkeypatch, place):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, place)
        with pytest.raises(KeyboardInterrupt):
            train(pendulum_file, out, "tensorboard")
    before = events(out / "tensorboard" / "actor_lr=0.001;seed=0")
    logged = [2] if place == "playing" else [2, 4]  # step 4 has no checkpoint either way
    assert all([step for step, _ in curve] == logged for curve in before.values())
    train(pendulum_file, out, "tensorboard", resume=True)
    assert sorted(path.name for path in (out / "tensorboard").iterdir()) == sorted(RUNS.values())
    for (seed, setting), name in RUNS.items():
        curves = events(out / "tensorboard" / name)
        assert curves == expected(out, seed, setting)
        assert [step for step, _ in curves["evaluation/score"]] == [2, 4, 6]
        assert len(curves) > 5
    # Nothing is left to train: what stands is not touched, and no logger is opened.
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("events.*")}
    train(pendulum_file, out, "tensorboard", resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("events.*")} == stamps


def test_tensorboard_knows_the_hyper_parameters(pendulum_file, tmp_path):
    out = tmp_path / "out"
    train(pendulum_file, out, "tensorboard", sweep="night")
    for (seed, setting), name in RUNS.items():
        (path,) = (out / "tensorboard" / name).glob("events.*")
        found, content, place = {}, path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    found[value.tag] = HParamsPluginData.FromString(value.metadata.plugin_data.content)
        hyper = found["_hparams_/session_start_info"].session_start_info.hparams
        assert hyper["actor_lr"].number_value == float(setting.partition("=")[2])
        assert (hyper["seed"].number_value, hyper["task"].string_value) == (seed, TASK)
        assert (hyper["hidden_dims"].string_value, hyper["sweep"].string_value) == ("[8]", "night")
        shown = [one.name.tag for one in found["_hparams_/experiment"].experiment.metric_infos]
        assert shown == ["evaluation/score", "evaluation/return_mean"]


class FakeRun:
    """A run as Weights & Biases keeps it: what was logged stays, across processes too."""

    def __init__(self, store: dict[int, dict[str, float]], settings: dict[str, Any]) -> None:
        self.store = store
        self.settings = settings
        self.resumed = bool(store)
        self.step = max(store) + 1 if store else 0
        self.axes: dict[str, str] = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        if step_metric:
            self.axes[name] = step_metric

    def log(self, values: dict[str, float], step: int) -> None:
        assert not self.finished
        assert step >= max(self.store, default=0), "a step that goes back is dropped by the service"
        row = self.store.setdefault(step, {})
        shared = row.keys() & values.keys() - {"step", "pretrain/step"}
        assert not shared, f"{shared} twice at step {step}"
        row |= values

    def finish(self) -> None:
        self.finished = True


class FakeWandb(SimpleNamespace):
    """In place of the package."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__(stores={}, runs=[], refuse="")

    def init(self, **settings: Any) -> FakeRun:
        if self.refuse:
            raise self.Error(self.refuse)
        assert "mode" not in settings, "WANDB_MODE decides"
        run = FakeRun(self.stores.setdefault(settings["id"], {}), settings)
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


@at_both_places
def test_wandb_has_one_run_per_seed_and_setting_and_no_step_twice(pendulum_file, tmp_path, wandb, monkeypatch, place):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(patch, place)
        with pytest.raises(KeyboardInterrupt):
            train(pendulum_file, out, "wandb")
    assert all(run.finished for run in wandb.runs)
    train(pendulum_file, out, "wandb", resume=True)
    assert len(wandb.runs) == 8
    assert len(wandb.stores) == 4
    assert [run.resumed for run in wandb.runs] == [False] * 4 + [True] * 4
    for run, (seed, setting) in zip(wandb.runs[4:], RUNS, strict=True):
        assert run.settings["project"] == "diffjax"
        assert run.settings["name"] == f"bc {TASK} {setting};seed={seed}"
        assert run.settings["config"]["hyper"]["actor_lr"] == float(setting.partition("=")[2])
        assert (run.settings["config"]["seed"], run.settings["config"]["setting"]) == (seed, setting)
        assert run.settings["resume"] == "allow"
        assert run.axes == {"*": "step"}
        curves: dict[str, Curve] = {}
        for step, row in run.store.items():
            assert row.pop("step") == step
            for name, value in row.items():
                curves.setdefault(name, []).append((step, value))
        assert curves == expected(out, seed, setting)


def test_wandb_groups_and_sweeps(tmp_path, wandb, monkeypatch):
    folder, described = folder_of_two_phases(tmp_path / "run")
    for name in ("WANDB_RUN_GROUP", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)

    def opened(sweep: str) -> dict[str, Any]:
        with Loggers(["wandb"], folder, described, described.runs, {"pretrain": 20, "main": 2000}, sweep):
            return wandb.runs[-1].settings

    alone, (run,) = opened(""), described.runs
    assert alone["group"].startswith(f"{run.task} {run.method} ")
    assert (alone["tags"], alone["job_type"], alone["config"]["sweep"]) == (None, None, "")
    monkeypatch.setenv("WANDB_RUN_GROUP", "night")
    monkeypatch.setenv("WANDB_TAGS", "mine,yours")
    found = opened("a" * 70)
    assert found["group"] == "night"
    assert found["tags"] == ["mine", "yours", "a" * 64]
    assert (found["job_type"], found["config"]["sweep"]) == ("a" * 64, "a" * 70)


def test_wandb_is_never_touched_unless_asked_for(pendulum_file, tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    train(pendulum_file, tmp_path / "out")
    assert wandb.runs == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "checkpoints", "config.json", "evaluations.csv", "metrics.jsonl", "status.json",
    ]  # fmt: skip


def test_a_refusal_of_the_service_is_one_line(pendulum_file, tmp_path, wandb):
    wandb.refuse = "api_key not configured.\nUse wandb login"
    message = error_of(train, pendulum_file, tmp_path / "out", "wandb")
    assert "api_key not configured. Use wandb login" in message
    assert "WANDB_MODE=offline" in message


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_names_its_extra_before_anything_is_written(
    pendulum_file, tmp_path, monkeypatch, name, package
):
    monkeypatch.setitem(sys.modules, package, None)
    message = error_of(train, pendulum_file, tmp_path / "out", name)
    assert message == f"--log={name} needs the package {package}; install the extra: pip install 'diffjax[{name}]'"
    assert not (tmp_path / "out").exists()


def test_an_unknown_logger():
    assert "did you mean tensorboard" in error_of(check_loggers, ["tensorbord"])


def folder_of_two_phases(path: Path) -> tuple[ResultsFolder, Config]:
    """A folder in which a method with two phases has come to its first main interval."""
    from test_results import config, evaluation

    from diffjax.records.folder import open_folder

    described = config(seeds=[3], settings=[""], hyper={"": {"eta": 1.0}})
    folder = open_folder(path, described)
    for phase, step, loss in (("pretrain", 10, 3.0), ("pretrain", 20, 2.0), ("main", 1000, float("nan"))):
        metrics = {"critic/loss": [loss], "behavior/loss": [step / 10]}
        folder.append(METRICS, metrics_lines([MetricsRecord(phase, step, described.runs, metrics)]))
    folder.append_evaluations([evaluation(seed=3)])
    return folder, described


def test_phases_before_the_main_one_have_steps_of_their_own(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    folder, described = folder_of_two_phases(tmp_path / "run")
    runs, phases = described.runs, {"pretrain": 20, "main": 2000}
    with Loggers(["tensorboard", "wandb"], folder, described, runs, phases) as loggers:
        loggers.add(MetricsRecord("main", 2000, runs, {"critic/loss": [0.5]}), [])
    assert events(folder.path / "tensorboard" / "seed=3") == {
        "pretrain/critic/loss": [(10, 3.0), (20, 2.0)],
        "pretrain/behavior/loss": [(10, 1.0), (20, 2.0)],
        "critic/loss": [(2000, 0.5)],  # that of step 1000 is not a number
        "behavior/loss": [(1000, 100.0)],
        "evaluation/score": [(1000, 37.5)],
        "evaluation/return_mean": [(1000, 1200.5)],
        "evaluation/return_std": [(1000, 3.25)],
        "evaluation/length_mean": [(1000, 400.0)],
    }
    (fake,) = wandb.runs
    assert fake.settings["project"] == "mine"
    assert fake.axes == {"*": "step", "pretrain/*": "pretrain/step"}
    assert fake.store[10] == {"pretrain/critic/loss": 3.0, "pretrain/behavior/loss": 1.0, "pretrain/step": 10}
    assert fake.store[1020] == {
        "behavior/loss": 100.0, "step": 1000, "evaluation/score": 37.5, "evaluation/return_mean": 1200.5,
        "evaluation/return_std": 3.25, "evaluation/length_mean": 400.0,
    }  # fmt: skip
    assert fake.store[2020] == {"critic/loss": 0.5, "step": 2000}


def test_rows_of_other_runs_are_left_out(tmp_path):
    folder, described = folder_of_two_phases(tmp_path / "run")
    with Loggers(["tensorboard"], folder, described, [described.run(4, "")], {"pretrain": 20, "main": 2000}):
        pass
    assert events(folder.path / "tensorboard" / "seed=4") == {}
