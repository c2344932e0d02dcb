"""Sweeps on Ray and SLURM: the jobs, what is said of them, machines that are lost; the same results as here."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from launcher_tools import REPOSITORY, data_file, launch, refused
from test_hosts import alike
from test_joint import TASKS

from diffjax.commands import sweep
from diffjax.errors import Stopped, UserError
from diffjax.launch.jobs import Ended, Engine, Job, run_jobs
from diffjax.launch.stop import TRY_AGAIN

COMMON = ["--preset=quick", "--num_seeds=3", "--steps=60", "--eval_interval=20", "--episodes=2"]
COMMON += ["--set=hidden_dims=8,8", "--set=batch_size=8", f"--task={TASKS[0]}", "--methods=td3_bc,bc"]


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return [*COMMON, f"--dataset={folder / 'hopper.hdf5'}", f"--out={out}", *more]


def parsed(folder: Path, out: Path, *more: str) -> flags.FlagValues:
    values = flags.FlagValues()
    sweep.define_flags(values)
    values(["sweep.py", *arguments(folder, out, *more)])
    return values


def test_a_job_for_what_shares_programs(tmp_path):
    values = parsed(tmp_path, tmp_path / "out", "--task=halfcheetah-medium-v2", f"--task={TASKS[1]}")
    values["dataset"].value = None
    found = sweep.experiments(values)
    jobs = sweep.jobs_of(found, found)
    assert [(job.name, job.numbers) for job in jobs] == [
        ("td3_bc on 2 tasks", (0, 4)),
        ("bc on 2 tasks", (1, 5)),
        ("td3_bc on halfcheetah-medium-v2", (2,)),
        ("bc on halfcheetah-medium-v2", (3,)),
    ]
    assert [job.numbers for job in sweep.jobs_of(found, found[1::2])] == [(1, 5), (3,)]


def test_a_job_trains_its_own_and_goes_on(tmp_path):
    """In a process that knows nothing but the command line."""
    data_file(tmp_path / "hopper.hdf5")
    given = tuple(arguments(tmp_path, Path("out"), "--methods=td3_bc,bc", "--steps=4", "--eval_interval=2"))
    before = Path.cwd()
    try:
        assert sweep.train_some(given, "ray", str(tmp_path), (1,)) == Ended(0)
        assert sweep.train_some(given, "submitit", str(tmp_path), (1,)) == Ended(0)
    finally:
        os.chdir(before)
    assert [path.name for path in (tmp_path / "out" / TASKS[0]).iterdir()] == ["bc"]
    (tmp_path / "hopper.hdf5").unlink()
    try:
        ended = sweep.train_some(given, "ray", str(tmp_path), (0,))
    finally:
        os.chdir(before)
    assert ended.status == 2
    assert "hopper.hdf5" in ended.message


class Scripted(Engine):
    """Jobs end as is written for them, one at a look."""

    def __init__(self, *ends: Ended) -> None:
        self.ends = list(ends)
        self.started: list[str] = []
        self.cancelled: list[object] = []
        self.handles = itertools.count()

    def start(self, jobs: Sequence[Job]) -> list[object]:
        self.started += [job.name for job in jobs]
        return [next(self.handles) for _ in jobs]

    def ended(self, handles: Sequence[object], seconds: float) -> list[tuple[object, Ended]]:
        found = self.ends.pop(0)
        if found.status == 130:
            raise KeyboardInterrupt
        return [(handles[0], found)]

    def cancel(self, handles: Sequence[object]) -> None:
        self.cancelled += handles


def jobs(tmp_path: Path) -> list[Job]:
    return [Job("first", (0,), (tmp_path / "first",)), Job("second", (1,), (tmp_path / "second",))]


def test_jobs_out_of_time_begin_again(tmp_path):
    said: list[str] = []
    engine = Scripted(Ended(TRY_AGAIN, "stopped at step 3"), Ended(0), Ended(0))
    run_jobs(jobs(tmp_path), engine, 1, said.append)
    assert engine.started == ["first", "second", "first"]
    assert said == ["2 jobs: first, second", "first: stopped at step 3; begun again"]
    with pytest.raises(Stopped, match="second: late") as stopped:
        run_jobs(jobs(tmp_path), Scripted(Ended(0), Ended(TRY_AGAIN, "late")), 0, said.append)
    assert stopped.value.status == TRY_AGAIN


def test_a_job_that_fails_ends_no_other(tmp_path):
    said: list[str] = []
    engine = Scripted(Ended(2, "no such file"), Ended(0))
    with pytest.raises(UserError, match="1 of 2 jobs failed; first: no such file"):
        run_jobs(jobs(tmp_path), engine, 3, said.append)
    assert said[-1] == "first failed: no such file"
    assert engine.ends == []


def test_an_interrupted_sweep_asks_its_jobs_to_stop(tmp_path):
    engine = Scripted(Ended(0), Ended(130))
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs(tmp_path), engine, 3, lambda line: None)
    assert engine.cancelled == [1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--executor=rai"], ["executor", "ray"]),
        (["--slurm=partition=gpu"], ["--slurm belongs to --executor=submitit"]),
        (["--executor=submitit", "--slurm=partition"], ["is not an assignment"]),
        (["--executor=submitit", "--slurm=cluster=moon"], ["is not one of slurm, local"]),
        (["--executor=submitit", "--slurm=time=long"], ["is not a number of minutes"]),
        (["--executor=submitit", "--slurm=cluster=local", "--slurm=partition=x"], ["partition has no effect"]),
        (["--executor=ray", "--job_cpus=-1"], ["job_cpus"]),
    ],
)
def test_what_no_engine_can_do_is_refused(more, words, tmp_path):
    data_file(tmp_path / "hopper.hdf5")
    refused(launch("experiments/sweep.py", *arguments(tmp_path, tmp_path / "out", *more)), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("submitit", "submitit")])
def test_an_engine_that_is_not_installed(executor, package, tmp_path, monkeypatch):
    data_file(tmp_path / "hopper.hdf5")
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"ray": "diffjax[ray]", "submitit": "diffjax[slurm]"}[executor]
    refused(launch("experiments/sweep.py", *arguments(tmp_path, tmp_path / "out", f"--executor={executor}")), extra)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    data_file(folder / "hopper.hdf5")
    command = [sys.executable, str(REPOSITORY / "experiments/sweep.py")]
    subprocess.run([*command, *arguments(folder, folder / "whole")], check=True, capture_output=True)
    return folder / "whole"


def begin(whole: Path, out: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "experiments/sweep.py"), *arguments(whole.parent, out, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.005)


def parent_of(process: int) -> str:
    return re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0]


@pytest.mark.slow
def test_a_ray_cluster_of_several_nodes_one_of_them_lost(whole, tmp_path):
    """A job each on two nodes; one node is killed in the middle, and its job goes on on the other."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        process = begin(whole, tmp_path / "out", "--executor=ray", RAY_ADDRESS=cluster.address)
        folder = tmp_path / "out" / TASKS[0] / "td3_bc"
        wait_for(folder / "checkpoints/0/1", process)
        worker = json.loads((folder / ".writer.json").read_text())["process"]
        (lost,) = [node for node in nodes if str(node.all_processes["raylet"][0].process.pid) == parent_of(worker)]
        cluster.remove_node(lost, allow_graceful=False)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "/td3_bc: 3 complete" in err
        assert "/bc: 3 complete" in err
        assert "table written to" in out
        assert json.loads((folder / "checkpoints/0/3/record/metadata").read_text())["spent"]["updates"] == 60
    finally:
        cluster.shutdown()
    alike(tmp_path / "out", whole)
    again = begin(whole, tmp_path / "out", "--executor=ray", "--job_cpus=1000", "--resume")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 2
    assert "no node of the Ray cluster has what a job asks for (1000 CPU" in err


@pytest.mark.slow
def test_without_slurm(whole, tmp_path):
    """In a process of its own: submitit sets up the logging of whoever imports it."""
    process = begin(whole, tmp_path / "out", "--executor=submitit", PATH="/nowhere")
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "SLURM cannot be used" in err


@pytest.mark.slow
def test_submitit_on_this_machine_with_a_job_that_is_preempted(whole, tmp_path):
    """By the signal that SLURM sends before it takes a job's machine away."""
    process = begin(whole, tmp_path / "out", "--executor=submitit", "--slurm=cluster=local", "--slurm=time=10")
    folder = tmp_path / "out" / TASKS[0] / "td3_bc"
    wait_for(folder / "checkpoints/0/1", process)
    writer = json.loads((folder / ".writer.json").read_text())
    os.kill(writer["process"], signal.SIGUSR2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "td3_bc: 3 complete" in err
    assert "table written to" in out
    alike(tmp_path / "out", whole)
    logs = "".join(path.read_text() for path in (tmp_path / "out/.jobs").glob("*.err"))
    assert "bc on" in logs or "bc: " in logs


def test_numbers_of_a_shard(tmp_path: Path) -> None:
    values = parsed(tmp_path, tmp_path / "out")
    found: list[Any] = sweep.experiments(values)
    assert [job.numbers for job in sweep.jobs_of(found, sweep.shard(found, "2/2"))] == [(1,)]
