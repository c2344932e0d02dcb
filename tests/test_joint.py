"""Several experiments in one program: each as if it were alone, whenever the program is interrupted."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from data_tools import random_hdf5, timeless
from test_results import contents

from diffjax.envs.base import VectorSimulator
from diffjax.envs.make import make_vector
from diffjax.envs.side_by_side import SideBySide
from diffjax.errors import Stopped, UserError
from diffjax.experiment import run as experiment
from diffjax.experiment.joint import Member, members_of, program_of, rounds
from diffjax.experiment.plan import Experiment, plan
from diffjax.experiment.prepare import Ready, make_ready, obtain_dataset
from diffjax.launch.progress import TrainingProgress
from diffjax.records.folder import read_evaluations, read_metrics, read_status
from diffjax.studies.collect.store import store_dataset
from diffjax.tasks.registry import get_task
from diffjax.training import program as program_module
from diffjax.training.batches import join_data
from diffjax.training.checkpoints import Checkpoints

TASKS = ("hopper-medium-v2", "hopper-medium-replay-v2")
OVERRIDES = (("steps", "6"), ("eval_interval", "2"), ("episodes", "1"), ("hidden_dims", "4"), ("batch_size", "4"))


def request(
    folder: Path, out: Path, task: str, method: str = "bc", steps: str = "6", interval: str = "2", **changes: Any
) -> Experiment:
    """An experiment on a data set of the task's own."""
    data = folder / f"{task}.hdf5"
    if not data.exists():
        found = get_task(task)
        random_hdf5(data, found.observation_dim, found.action_dim, seed=len(task))
    overrides = tuple((dict(OVERRIDES) | {"steps": steps, "eval_interval": interval}).items())
    return Experiment(method, task, out, preset="quick", overrides=overrides, dataset=str(data), **changes)


def run(*experiments: Experiment) -> None:
    experiment.run_experiments(experiments, TrainingProgress(), store_dataset)


def ready(asked: Experiment) -> Ready:
    planned = plan(asked)
    return make_ready(planned, obtain_dataset(planned, store_dataset, lambda line: None), lambda line: None)


def kept(out: Path) -> dict[str, bytes]:
    """Every file that grows, and the status."""
    return {name: timeless(content) for name, content in contents(out).items() if "checkpoints" not in name}


def test_two_tasks_in_one_program_are_each_as_alone(tmp_path):
    """Walker2d and HalfCheetah, of one size, with different simulators and lengths of episodes."""
    tasks = ("walker2d-medium-v2", "halfcheetah-medium-v2")
    steps = {"steps": "50", "interval": "50", "seeds": (0, 1)}
    before = program_module._advance._cache_size()
    run(*(request(tmp_path, tmp_path / "joint" / task, task, **steps, settings=("actor_lr=0.01", "actor_lr=0.001"))
          for task in tasks))  # fmt: skip
    assert program_module._advance._cache_size() == before + 1
    for task in tasks:
        alone, joint = tmp_path / "alone" / task, tmp_path / "joint" / task
        run(request(tmp_path, alone, task, **steps, settings=("actor_lr=0.01", "actor_lr=0.001")))
        ours, theirs = read_evaluations(joint), read_evaluations(alone)
        assert [row._replace(score=0, return_mean=0, return_std=0, length_mean=0, wall_time="") for row in ours] == [
            row._replace(score=0, return_mean=0, return_std=0, length_mean=0, wall_time="") for row in theirs
        ]
        np.testing.assert_allclose([row.score for row in ours], [row.score for row in theirs], rtol=0.05, atol=0.5)
        for own, other in zip(read_metrics(joint), read_metrics(alone), strict=True):
            assert own.runs == other.runs
            for name, values in own.metrics.items():
                np.testing.assert_allclose(values, other.metrics[name], rtol=1e-4, atol=1e-5)
        with Checkpoints(joint / "checkpoints" / "0") as first, Checkpoints(alone / "checkpoints" / "0") as second:
            number = max(first.numbers())
            pairs = zip(*(np_leaves(one._manager.restore(number)["state"]) for one in (first, second)), strict=True)
            assert max(float(np.max(np.abs(one - other))) for one, other in pairs) < 1e-5


def np_leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def test_runs_end_at_their_own_step(tmp_path):
    lengths = dict(zip(TASKS, ("4", "6"), strict=True))
    run(*(request(tmp_path, tmp_path / "joint" / task, task, steps=steps) for task, steps in lengths.items()))
    for task, steps in lengths.items():
        joint, alone = tmp_path / "joint" / task, tmp_path / "alone" / task
        run(request(tmp_path, alone, task, steps=steps))
        assert [row.step for row in read_evaluations(joint)] == list(range(2, int(steps) + 1, 2))
        assert [one.status for one in read_status(joint)] == ["complete"]
        assert sorted(kept(joint)) == sorted(kept(alone))


def interrupted_at(monkeypatch: pytest.MonkeyPatch, call: int, before: bool) -> None:
    """Ends the process, as far as a test can, just before or after a checkpoint is written."""
    save, calls = Checkpoints.save, itertools.count(1)

    def saving(self: Checkpoints, *arguments: Any) -> None:
        last = next(calls) == call
        if not (last and before):
            save(self, *arguments)
        if last:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", saving)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("call", [1, 2, 3, 5, 6])
def test_an_interrupted_program_goes_on_to_the_bit(tmp_path, tmp_path_factory, monkeypatch, call, before):
    """Also where one experiment's checkpoint of an interval stands and the other's does not."""
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole"
    requests = lambda out, **more: [request(folder, out / task, task, seeds=(0, 1), **more) for task in TASKS]  # noqa: E731
    if not whole.exists():
        run(*requests(whole))
    with monkeypatch.context() as patch:
        interrupted_at(patch, call, before)
        with pytest.raises(KeyboardInterrupt):
            run(*requests(tmp_path / "out"))
    run(*requests(tmp_path / "out", resume=True))
    for task in TASKS:
        ours, theirs = kept(tmp_path / "out" / task), kept(whole / task)
        assert ours == theirs | {"config.json": ours["config.json"]}
        one, other = (Checkpoints(out / task / "checkpoints" / "0") for out in (tmp_path / "out", whole))
        with one, other:
            assert one.numbers() == other.numbers() == [2, 3]
            pairs = zip(*(np_leaves(each._manager.restore(3)["state"]) for each in (one, other)), strict=True)
            assert all(np.array_equal(first, second) for first, second in pairs)


class Asked(TrainingProgress):
    """Asks to stop when it is looked at for the n-th time."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.looks = itertools.count(1)
        self.after = after

    def stop_status(self) -> int | None:
        return 143 if next(self.looks) >= self.after else None


@pytest.mark.parametrize("after", [1, 30, 60])
def test_a_program_that_is_asked_to_stop_goes_on_to_the_bit(tmp_path, tmp_path_factory, after):
    """In the middle of an interval or of its episodes, twice in a row, with the metrics of the whole interval."""
    folder, steps = tmp_path_factory.getbasetemp(), {"steps": "60", "interval": "30"}
    requests = lambda out, **more: [  # noqa: E731
        request(folder, out / task, task, seeds=(0, 1), **steps, **more) for task in TASKS
    ]
    whole = folder / "whole60"
    if not whole.exists():
        run(*requests(whole))
    for resume, looks in ((False, after), (True, min(after, 4))):
        with pytest.raises(Stopped, match="stopped") as stopped:
            experiment.run_experiments(requests(tmp_path, resume=resume), Asked(looks), store_dataset)
        assert stopped.value.status == 143
    run(*requests(tmp_path, resume=True))
    for task in TASKS:
        ours, theirs = kept(tmp_path / task), kept(whole / task)
        assert ours == theirs | {"config.json": ours["config.json"]}
        assert sorted(path.name for path in (tmp_path / task / "checkpoints").iterdir()) == ["0"]
        one, other = (Checkpoints(out / task / "checkpoints" / "0") for out in (tmp_path, whole))
        with one, other:
            pairs = zip(*(np_leaves(each._manager.restore(2)["state"]) for each in (one, other)), strict=True)
            assert all(np.array_equal(first, second) for first, second in pairs)


def test_what_is_finished_is_not_trained_again(tmp_path):
    first, second = (request(tmp_path, tmp_path / task, task) for task in TASKS)
    run(first)
    before = contents(first.out)
    stamps = {path: path.stat().st_mtime_ns for path in first.out.rglob("*") if path.is_file()}
    resumed = [request(tmp_path, one.out, one.task, resume=True) for one in (first, second)]
    run(*resumed)
    assert contents(first.out) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [one.status for one in read_status(second.out)] == ["complete"]


def test_a_finished_experiment_without_checkpoints_is_finished(tmp_path):
    asked = request(tmp_path, tmp_path / "out", TASKS[0])
    run(asked)
    shutil.rmtree(asked.out / "checkpoints")
    before = kept(asked.out)
    run(request(tmp_path, asked.out, TASKS[0], resume=True))
    assert kept(asked.out) == before


def test_an_unfinished_one_without_checkpoints_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2, before=False)
        with pytest.raises(KeyboardInterrupt):
            run(request(tmp_path, tmp_path / "out", TASKS[0]))
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    before = kept(tmp_path / "out")
    with pytest.raises(UserError, match="no checkpoint to go on from; bring"):
        run(request(tmp_path, tmp_path / "out", TASKS[0], resume=True))
    assert kept(tmp_path / "out") == before


def members(*readies: Ready) -> tuple[tuple[Member, ...], ...]:
    found: dict[Any, list[Member]] = {}
    for member in (member for ready in readies for member in members_of(ready)):
        found.setdefault(program_of(member), []).append(member)
    return tuple(map(tuple, found.values()))


def test_groups_that_share_a_program(tmp_path):
    """By static hyper-parameters, sizes, and ends of intervals."""
    make = lambda task, **more: ready(request(tmp_path, tmp_path / "out", task, **more))  # noqa: E731
    hopper, replay = (make(task) for task in TASKS)
    (both,) = members(hopper, replay)
    assert [member.name for member in both] == [f"{task} bc" for task in TASKS]
    assert len(members(hopper, make("halfcheetah-medium-v2"))) == 2
    assert len(members(hopper, make(TASKS[1], steps="8"))) == 1
    assert len(members(hopper, make(TASKS[1], steps="7"))) == 2
    assert len(members(hopper, make(TASKS[1], method="td3_bc"))) == 2
    first, second = members(make(TASKS[0], settings=("batch_size=4", "batch_size=8")), replay)
    assert ([len(first), len(second)]) == [2, 1]


def test_data_are_held_once(tmp_path):
    (hopper,), (replay,) = (ready(request(tmp_path, tmp_path / "out", task)).data for task in TASKS)
    same, (first, again) = join_data([hopper, hopper])
    assert same is hopper.transitions
    assert (int(first.offset), int(again.offset)) == (0, 0)
    both, parts = join_data([hopper, replay, hopper])
    sizes = [len(one.transitions.row) for one in (hopper, replay)]
    assert [int(part.offset) for part in parts] == [0, sizes[0], 0]
    assert [int(part.size) for part in parts] == [*sizes, sizes[0]]
    rows = len(hopper.transitions.reward)
    np.testing.assert_array_equal(both.observation[rows:], replay.transitions.observation)
    np.testing.assert_array_equal(both.row[sizes[0] :], replay.transitions.row + rows)
    assert both.row.dtype == np.int32


def test_runs_act_side_by_side_where_only_traced_values_differ(tmp_path):
    """Temperatures of different tasks go together; a training that acts in two ways does so in two rounds."""
    common = {"method": "dac"}
    first = ready(request(tmp_path, tmp_path / "out", TASKS[0], settings=("temperature=0", "temperature=1"), **common))
    second = ready(request(tmp_path, tmp_path / "out", TASKS[1], settings=("temperature=2", "candidates=3"), **common))
    (both,) = members(first, second)
    found = rounds(both, {0, 1}, 4)
    assert [[(one.member, one.run, one.training) for one in each.played] for each in found] == [
        [(0, 0, 0), (1, 0, 1)],
        [(0, 1, 0)],
        [(1, 1, 1)],
    ]
    assert [hyper.temperature for hyper in found[0].hyper] == [0.0, 2.0]
    assert [[one.member for one in each.played] for each in rounds(both, {1}, 4)] == [[1], [1]]


def test_simulators_side_by_side():
    """Each as alone, also after the shorter one has ended."""
    names, counts = ("Hopper-v4", "Hopper-v4"), (2, 3)
    horizons = (5, 9)
    make = lambda: [make_vector(name, count, horizon=horizon)  # noqa: E731
                    for name, count, horizon in zip(names, counts, horizons, strict=True)]  # fmt: skip
    alone, together = make(), make()
    joint: VectorSimulator = SideBySide(together)
    assert (joint.num_envs, joint.horizon, joint.version) == (5, 9, alone[0].version)
    seeds = np.arange(5, dtype=np.uint32)
    parts: Sequence[slice] = (slice(0, 2), slice(2, 5))
    seen = [one.reset(seeds[part]) for one, part in zip(alone, parts, strict=True)]
    np.testing.assert_array_equal(joint.reset(seeds), np.concatenate(seen))
    rng = np.random.default_rng(0)
    for _ in range(9):
        action = rng.uniform(-1, 1, (5, 3))
        apart = [one.step(action[part]) for one, part in zip(alone, parts, strict=True)]
        for mine, theirs in zip(joint.step(action), zip(*apart, strict=True), strict=True):
            np.testing.assert_array_equal(mine, np.concatenate(theirs))
    for one in (joint, *alone, *together):
        one.close()
