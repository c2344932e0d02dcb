"""Several processes as one job: each trains runs of its own, and what they leave is what one would have left."""

import dataclasses
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_tools import timeless
from launcher_tools import REPOSITORY, data_file, mistakes
from test_joint import TASKS, kept, np_leaves, request, run

from diffjax.commands import sweep, train
from diffjax.errors import UserError
from diffjax.experiment.parts import Host, owned_runs, run_parts
from diffjax.experiment.plan import Experiment, plan
from diffjax.experiment.stored import StoredRuns
from diffjax.launch import cli, hosts
from diffjax.launch.progress import TrainingProgress
from diffjax.launch.status import report, state_of
from diffjax.records.folder import ResultsFolder, read_config, read_evaluations, read_results
from diffjax.records.schema import Resumption
from diffjax.studies.collect.store import store_dataset
from diffjax.training.checkpoints import Checkpoints

SETTINGS = ("actor_lr=0.01", "actor_lr=0.001;batch_size=8", "actor_lr=0.001")


def planned(*counts: int, **more: Any) -> list[Any]:
    return [
        plan(Experiment("bc", task, Path("x"), seeds=tuple(range(count)), **more))
        for task, count in zip(TASKS, counts, strict=False)
    ]


@pytest.mark.parametrize(("counts", "processes"), [((5,), 2), ((5, 3), 4), ((1, 1), 4), ((2, 7), 3)])
def test_every_run_has_one_owner(counts, processes):
    """Even shares, in stretches."""
    owned = owned_runs(planned(*counts), processes)
    for number, count in enumerate(counts):
        assert sorted(itertools.chain.from_iterable(own[number] for own in owned)) == list(range(count))
    shares = [sum(map(len, own)) for own in owned]
    assert max(shares) - min(shares) <= 1
    flat = list(itertools.chain.from_iterable(own[0] for own in owned))
    assert flat == sorted(flat)


def test_runs_that_are_trained_once_stay_together():
    """Two settings that only act differently, of two seeds: two trainings."""
    (one,) = [plan(Experiment("dac", TASKS[0], Path("x"), seeds=(0, 1), settings=("candidates=1", "candidates=5")))]
    assert owned_runs([one], 2) == [[(0, 2)], [(1, 3)]]


def requests(folder: Path, out: Path, **more: Any) -> list[Experiment]:
    """Of one experiment three settings in two programs; the other has the plain one."""
    first, second = (request(folder, out / task, task, seeds=(0, 1), **more) for task in TASKS)
    return [request(folder, out / TASKS[0], TASKS[0], seeds=(0, 1), settings=SETTINGS, **more), second][:2] or [first]


def by_turns(folder: Path, out: Path, processes: int, order: Sequence[int] | None = None, **more: Any) -> list[int]:
    """All processes of a job, one after the other; how many folders each saw whole."""
    return [
        len(run_parts(requests(folder, out, **more), Host(index, processes), TrainingProgress(), store_dataset))
        for index in order or range(processes)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    run(*requests(folder, folder / "whole", keep="best"))
    return folder / "whole"


def test_the_joined_folder_is_that_of_one_process(whole, tmp_path):
    """Rows, metrics and states but for the rounding of another program; the same files, checkpoints and best ones."""
    folder = whole.parent
    assert by_turns(folder, tmp_path, 3, keep="best") == [0, 1, 2]
    for task in TASKS:
        ours, theirs = read_results(tmp_path / task), read_results(whole / task)
        assert sorted(kept(tmp_path / task)) == sorted(kept(whole / task))
        assert [(row.seed, row.setting, row.step) for row in ours.evaluations] == [
            (row.seed, row.setting, row.step) for row in theirs.evaluations
        ]
        scores = ([row.score for row in found.evaluations] for found in (ours, theirs))
        np.testing.assert_allclose(*scores, rtol=0.05, atol=0.5)
        assert [(one.run, one.status) for one in ours.runs] == [(one.run, one.status) for one in theirs.runs]
        assert [(one.phase, one.step, one.runs) for one in ours.metrics] == [
            (one.phase, one.step, one.runs) for one in theirs.metrics
        ]
        for own, other in zip(ours.metrics, theirs.metrics, strict=True):
            for name, values in own.metrics.items():
                np.testing.assert_allclose(values, other.metrics[name], rtol=1e-4, atol=1e-5)
        assert ours.config.identity == theirs.config.identity
        assert ours.config.execution is not None
        assert ours.config.execution.end
        for group in (path.name for path in (whole / task / "checkpoints").iterdir()):
            pair = (Checkpoints(out / task / "checkpoints" / group) for out in (tmp_path, whole))
            first, second = pair
            with first, second:
                assert first.numbers() == second.numbers()
                number = first.numbers()[-1]
                states = (np_leaves(one._manager.restore(number)["state"]) for one in (first, second))
                for one, two in zip(*states, strict=True):
                    np.testing.assert_allclose(one, two, atol=1e-5)
                records = [one.record(number) for one in (first, second)]
                assert records[0]["best"].keys() == records[1]["best"].keys()
                assert records[0]["rows"]["evaluations"][0] == records[1]["rows"]["evaluations"][0]
        stored = StoredRuns(tmp_path / task)
        for one in stored.config.runs:
            assert stored.steps(one)[-1] == 6


def test_a_joined_folder_grows_in_one_process(whole, tmp_path):
    folder = whole.parent
    by_turns(folder, tmp_path, 2)
    longer = requests(folder, tmp_path, steps="8", resume=True)
    run(*longer)
    assert {row.step for row in read_evaluations(longer[0].out)} == {2, 4, 6, 8}
    assert read_config(longer[0].out).steps == 8
    with pytest.raises(UserError, match="was begun by one process, which has to go on with it"):
        by_turns(folder, tmp_path, 2, steps="10", resume=True)
    assert by_turns(folder, tmp_path, 2, steps="8", resume=True) == [2, 2]  # nothing is left to do


def test_a_job_goes_on_and_only_as_it_began(whole, tmp_path):
    folder = whole.parent
    assert by_turns(folder, tmp_path, 2, order=(0,)) == [0]
    lines = report(tmp_path)
    assert lines
    assert all(".parts/1-of-2: " in line and "complete" in line for line in lines)
    assert state_of(tmp_path / TASKS[0]) == "part 1-of-2: 4 complete"
    with pytest.raises(UserError, match="was begun by 2 processes; go on with as many"):
        by_turns(folder, tmp_path, 3, resume=True)
    with pytest.raises(UserError, match="was begun by 2 processes; go on with as many"):
        run(*requests(folder, tmp_path, resume=True))
    assert by_turns(folder, tmp_path, 2, resume=True)[1] == 2
    assert not list(tmp_path.rglob(".parts"))
    unfinished = tmp_path / "alone"
    one = request(folder, unfinished, TASKS[0], seeds=(0, 1))
    run(one)
    more = request(folder, unfinished, TASKS[0], seeds=(0, 1, 2), resume=True)
    with pytest.raises(UserError, match="was begun by one process"):
        run_parts([more], Host(0, 2), TrainingProgress(), store_dataset)


def test_a_join_that_was_interrupted_is_done_again(whole, tmp_path, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        by_turns(whole.parent, tmp_path, 2, order=(0,))
        real = Checkpoints.save
        calls = itertools.count()
        patch.setattr(
            Checkpoints,
            "save",
            lambda self, *given, **more: (
                interrupted() if ".parts" not in str(self._folder) and next(calls) == 1 else real(self, *given, **more)
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            by_turns(whole.parent, tmp_path, 2, order=(1,))
    assert by_turns(whole.parent, tmp_path, 2, resume=True)[1] == 2
    for task in TASKS:
        ours, theirs = read_evaluations(tmp_path / task), read_evaluations(whole / task)
        assert [(row.seed, row.setting, row.step) for row in ours] == [
            (row.seed, row.setting, row.step) for row in theirs
        ]


def test_resumptions_of_the_parts_are_joined(whole, tmp_path):
    """Of processes that went on with the same programs one, the first."""
    by_turns(whole.parent, tmp_path, 2, order=(0,))
    for part in tmp_path.rglob("1-of-2"):
        config = read_config(part)
        resumptions = tuple(Resumption(f"2026-01-0{day}T00:00:00Z", {"jax": "9"}) for day in (2, 1))
        ResultsFolder(part).write_config(dataclasses.replace(config, resumptions=resumptions))
    by_turns(whole.parent, tmp_path, 2, order=(1,))
    (one,) = read_config(tmp_path / TASKS[0]).resumptions
    assert (one.start, dict(one.versions)) == ("2026-01-01T00:00:00Z", {"jax": "9"})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_processes=2"], ["belong to --coordinator=HOST:PORT"]),
        (["--process_id=0"], ["belong to --coordinator=HOST:PORT"]),
        (["--coordinator=localhost:1"], ["--coordinator needs --num_processes=N and --process_id=I"]),
        (["--coordinator=localhost", "--num_processes=2", "--process_id=0"], ["is not HOST:PORT"]),
        (["--coordinator=localhost:99999", "--num_processes=2", "--process_id=0"], ["is not HOST:PORT"]),
        (["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"], ["is not below --num_processes=2"]),
        (["--distributed"], ["the processes of the job did not meet"]),
    ],
)
def test_impossible_jobs_are_refused(flags, words, tmp_path, capsys):
    common = ["--method=bc", f"--task={TASKS[0]}", f"--out={tmp_path / 'out'}"]
    assert cli.run(train.COMMAND, ["train.py", *common, *flags]) == 2
    said = capsys.readouterr().err
    assert len(mistakes(said)) == 1
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


def test_a_job_of_one_is_alone(monkeypatch):
    found = {"process_id": 0, "num_processes": 1, "platform": "cpu", "devices": [0], "places": [[]]}
    monkeypatch.setattr(hosts, "_meet", lambda **given: found)
    values = sweep.COMMAND.define_flags.__globals__["flags"].FlagValues()
    hosts.define_hosts(values)
    values(["sweep.py", "--distributed"])
    assert hosts.join(values) is None


def test_a_process_sees_its_own_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hosts.own_devices("cpu", [0, 1], [[], []]) == {}
    assert hosts.own_devices("gpu", [2], [[]]) == {"CUDA_VISIBLE_DEVICES": "2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert hosts.own_devices("gpu", [1], [[]]) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    places = [[0, 2, 0], [1, 2, 0], [0, 3, 0], [1, 3, 0]]
    assert hosts.own_devices("tpu", [0, 1, 2, 3], places) == {
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "2,2,1",
        "TPU_VISIBLE_CHIPS": "0,1,2,3",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }


def start(folder: Path, out: Path, processes: int, *flags: str) -> list[subprocess.Popen[str]]:
    """All processes of a real job."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    command = [sys.executable, str(REPOSITORY / "experiments/sweep.py"), f"--task={TASKS[0]}", "--methods=td3_bc,bc"]
    command += [f"--dataset={folder / 'hopper.hdf5'}", "--preset=quick", "--num_seeds=3", "--steps=60"]
    command += ["--eval_interval=20", "--episodes=2", "--set", "hidden_dims=8,8", "--set", "batch_size=8"]
    command += [f"--out={out}", f"--coordinator=localhost:{port}", f"--num_processes={processes}", *flags]
    return [
        subprocess.Popen(
            [*command, f"--process_id={number}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for number in range(processes)
    ]


def alike(ours: Path, theirs: Path) -> None:
    for method in ("td3_bc", "bc"):
        one, other = (read_results(out / TASKS[0] / method) for out in (ours, theirs))
        rows = (
            [
                row._replace(score=0, return_mean=0, return_std=0, length_mean=0, wall_time="")
                for row in found.evaluations
            ]
            for found in (one, other)
        )
        assert next(rows) == next(rows)
        scores = ([row.score for row in found.evaluations] for found in (one, other))
        np.testing.assert_allclose(*scores, rtol=0.05, atol=0.5)
        statuses = [timeless((out / TASKS[0] / method / "status.json").read_bytes()) for out in (ours, theirs)]
        assert statuses[0] == statuses[1]


@pytest.mark.slow
def test_two_and_four_real_processes_one_of_them_killed(tmp_path):
    """A job of four; a job of two of which one is killed, the other goes on to its end, and both are started again."""
    data_file(tmp_path / "hopper.hdf5")
    command = [sys.executable, str(REPOSITORY / "experiments/sweep.py"), f"--task={TASKS[0]}", "--methods=td3_bc,bc"]
    command += [f"--dataset={tmp_path / 'hopper.hdf5'}", "--preset=quick", "--num_seeds=3", "--steps=60"]
    command += ["--eval_interval=20", "--episodes=2", "--set", "hidden_dims=8,8", "--set", "batch_size=8"]
    subprocess.run([*command, f"--out={tmp_path / 'whole'}"], check=True, capture_output=True)
    for process in (four := start(tmp_path, tmp_path / "four", 4)):
        said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert len(four) == 4
    alike(tmp_path / "four", tmp_path / "whole")

    out = tmp_path / "two"
    first, second = start(tmp_path, out, 2)
    part = out / TASKS[0] / "td3_bc/.parts/2-of-2"
    deadline = time.monotonic() + 200
    while not (part / "checkpoints/0/1").is_dir() and time.monotonic() < deadline:
        assert second.poll() is None, second.communicate()
        time.sleep(0.002)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()
    said = first.communicate(timeout=200)
    assert first.returncode == 0, said
    assert "part 1-of-2 is finished" in said[0]
    assert not (out / TASKS[0] / "td3_bc/config.json").exists()
    for process in start(tmp_path, out, 2, "--resume"):
        said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    alike(out, tmp_path / "whole")
    assert (out / "table.md").read_bytes() == (tmp_path / "whole/table.md").read_bytes()
