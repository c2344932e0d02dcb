"""Work that an engine does elsewhere: jobs that each train some experiments, and what is seen of them meanwhile."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from absl import flags

from diffjax.errors import Stopped, UserError
from diffjax.launch import cli
from diffjax.launch.status import state_of
from diffjax.launch.stop import TRY_AGAIN
from diffjax.words import count

LOOK_S = 2.0  # between looks at the jobs
SAY_S = 30.0  # between lines about an experiment that goes on


class Job(NamedTuple):
    """Experiments that share programs, by their numbers in the sweep; their folders see how far they are."""

    name: str
    numbers: tuple[int, ...]
    folders: tuple[Path, ...]


class Ended(NamedTuple):
    """How a job ended: the exit status that it would have had as a process, and what it said."""

    status: int
    message: str = ""


Work = Callable[[tuple[int, ...]], Ended]
"""Trains the experiments of these numbers, going on where they stand; goes to other machines by its name."""


Handle = Any
"""What stands for a job that runs: whatever its engine gives out."""


class Engine(Protocol):
    """What runs jobs somewhere."""

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Begins jobs."""

    def ended(self, handles: Sequence[Handle], seconds: float) -> list[tuple[Handle, Ended]]:
        """Those that have ended, after so long at most."""

    def cancel(self, handles: Sequence[Handle]) -> None:
        """Asks jobs to stop."""


def define_jobs(values: flags.FlagValues) -> None:
    """The flags of launchers that hand their work to an engine."""
    flags.DEFINE_enum(
        "executor",
        "local",
        ["local", "ray", "submitit"],
        "Where experiments run: here, on a Ray cluster (RAY_ADDRESS, else this machine), or as SLURM job arrays.",
        flag_values=values,
    )
    flags.DEFINE_float("job_cpus", 1.0, "CPU cores of a job, with an executor.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("job_gpus", 0.0, "GPUs of a job, with an executor.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("job_tpus", 0.0, "TPU chips of a job, with ray.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer(
        "job_retries",
        3,
        "How often a job is begun again whose machine was lost or whose time was over; it goes on where it stood.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "slurm",
        None,
        "NAME=VALUE: An option of SLURM for every job, such as partition=gpu or time=60 (minutes); repeatable. "
        "cluster=local runs the jobs on this machine.",
        flag_values=values,
    )


def slurm_options(args: flags.FlagValues) -> dict[str, str]:
    """``--slurm`` as names and values.

    Raises:
      UserError: they are given without SLURM, or are no assignments.
    """
    if args.slurm and args.executor != "submitit":
        raise UserError("--slurm belongs to --executor=submitit; add it or leave --slurm out")
    return cli.parse_settings(args.slurm, "slurm")


class Watch:
    """Lines about the experiments of jobs: at each change of state, and now and then of those that go on."""

    def __init__(self, jobs: Sequence[Job], say: Callable[[str], None]) -> None:
        self._folders = [folder for job in jobs for folder in job.folders]
        self._say = say
        self._states: dict[Path, str] = {}
        self._last = 0.0

    def look(self, is_over: bool = False) -> None:
        """Says what changed."""
        is_time = is_over or time.monotonic() - self._last >= SAY_S
        for folder in self._folders:
            try:
                state = state_of(folder)
            except UserError:  # it is being written
                continue
            before = self._states.get(folder, "not started")
            if state != before and (is_time or _kind(state) != _kind(before)):
                self._states[folder] = state
                self._say(f"{folder}: {state}")
        if is_time:
            self._last = time.monotonic()


def _kind(state: str) -> str:
    return state.partition(" (")[0]


def run_jobs(jobs: Sequence[Job], engine: Engine, retries: int, say: Callable[[str], None]) -> None:
    """Hands all jobs to an engine and waits for their ends; those whose time was over are begun again.

    Raises:
      UserError: a job failed for good; the others are finished then.
      Stopped: a job was asked to stop.
    """
    watch, left, failures = Watch(jobs, say), dict.fromkeys(jobs, retries), dict[Job, Ended]()
    running = dict(zip(engine.start(jobs), jobs, strict=True))
    say(f"{count(len(jobs), 'job')}: " + ", ".join(job.name for job in jobs))
    try:
        while running:
            for handle, ended in engine.ended(list(running), LOOK_S):
                job = running.pop(handle)
                if ended.status == TRY_AGAIN and left[job]:
                    left[job] -= 1
                    say(f"{job.name}: {ended.message}; begun again")
                    (again,) = engine.start([job])
                    running[again] = job
                elif ended.status:
                    failures[job] = ended
                    say(f"{job.name} failed: {ended.message}")
            watch.look()
    except BaseException:
        engine.cancel(list(running))
        raise
    watch.look(is_over=True)
    for job, ended in failures.items():
        if ended.status > 128 or ended.status == TRY_AGAIN:
            raise Stopped(f"{job.name}: {ended.message}", ended.status)
        raise UserError(f"{len(failures)} of {count(len(jobs), 'job')} failed; {job.name}: {ended.message}")
