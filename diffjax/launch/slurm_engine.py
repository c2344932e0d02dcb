"""Jobs as a SLURM job array, through submitit; a job that is preempted or out of time is queued again by itself."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from diffjax.errors import UserError, first_line
from diffjax.launch.jobs import Ended, Handle, Job, Work, slurm_options

LOGS = ".jobs"
"""Folder below ``--out`` for what submitit keeps: logs, scripts, results."""


class SlurmEngine:
    """SLURM where it is installed; ``--slurm cluster=local`` for this machine.

    Raises:
      UserError: submitit is not installed, SLURM is not there, or an option is unknown.
    """

    def __init__(self, args: flags.FlagValues, work: Work) -> None:
        options: dict[str, Any] = dict(slurm_options(args))
        cluster = options.pop("cluster", "slurm")
        if cluster not in ("slurm", "local"):
            raise UserError(f"--slurm cluster={cluster} is not one of slurm, local")
        minutes = options.pop("time", "60")
        if not minutes.isdecimal() or not int(minutes):
            raise UserError(f"--slurm time={minutes} is not a number of minutes, such as 240")
        parameters: dict[str, Any] = {"timeout_min": int(minutes), "gpus_per_node": int(args.job_gpus)}
        if cluster == "slurm":
            parameters |= {"cpus_per_task": max(1, int(args.job_cpus))}
            parameters |= {f"slurm_{name}": value for name, value in options.items()}
        elif options:
            raise UserError(f"--slurm {next(iter(options))} has no effect with cluster=local; leave it out")
        submitit = _package()
        try:
            self._executor = submitit.AutoExecutor(
                folder=Path(args.out).absolute() / LOGS,
                cluster=cluster,
                **({"slurm_max_num_timeout": args.job_retries} if cluster == "slurm" else
                   {"local_max_num_timeout": args.job_retries}),
            )  # fmt: skip
            self._executor.update_parameters(name="diffjax", **parameters)
        except (RuntimeError, NameError, ValueError) as error:
            raise UserError(f"SLURM cannot be used: {first_line(error)}") from None
        self._work = Requeued(work)

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        return list(self._executor.map_array(self._work, [job.numbers for job in jobs]))

    def ended(self, handles: Sequence[Handle], seconds: float) -> list[tuple[Handle, Ended]]:
        found: list[tuple[Handle, Ended]] = []
        deadline = time.monotonic() + seconds
        while not found:
            found = [(handle, _result(handle)) for handle in handles if handle.done()]
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        return found

    def cancel(self, handles: Sequence[Handle]) -> None:
        for handle in handles:
            handle.cancel()


class Requeued:
    """Work that is queued again where it is interrupted; it goes on from what it has written."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, numbers: tuple[int, ...]) -> Ended:
        return self._work(numbers)

    def checkpoint(self, numbers: tuple[int, ...]) -> Any:
        """What is queued next; called by submitit."""
        return _package().helpers.DelayedSubmission(self, numbers)


def _result(job: Any) -> Ended:
    error = job.exception()  # the job's own, or that it was killed
    if error is None:
        return Ended(*job.result())
    lines = [line for line in (job.stderr() or "").splitlines() if line.strip()]
    return Ended(1, f"{first_line(error)}; {lines[-1] if lines else 'no output'} (see {job.paths.stderr})")


def _package() -> ModuleType:
    try:
        import submitit
    except ImportError:
        raise UserError("--executor=submitit needs submitit; install diffjax[slurm]") from None
    return submitit
