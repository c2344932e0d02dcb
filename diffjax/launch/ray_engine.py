"""Jobs on a Ray cluster; every job is a task in a process of its own, begun elsewhere if its machine is lost."""

import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from absl import flags

from diffjax.errors import UserError, first_line
from diffjax.launch.jobs import Ended, Handle, Job, Work


class RayEngine:
    """A cluster that is there (``RAY_ADDRESS``, or one on this machine), else one of this machine for this sweep.

    Raises:
      UserError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, args: flags.FlagValues, work: Work) -> None:
        self._ray = ray = _package()
        try:
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level="error",
                include_dashboard=False,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster at RAY_ADDRESS: {first_line(error)}") from None
        resources = {"TPU": args.job_tpus} if args.job_tpus else {}
        asked = {"CPU": args.job_cpus, "GPU": args.job_gpus, **resources}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in asked}
            raise UserError(
                f"no node of the Ray cluster has what a job asks for ({_listed(asked)}); the largest have "
                f"{_listed(most)}; choose --job_cpus, --job_gpus, --job_tpus"
            )
        options = {"num_cpus": args.job_cpus, "num_gpus": args.job_gpus, "resources": resources}
        # A process per job, so that each compiles and holds its own alone.
        self._task = ray.remote(max_retries=args.job_retries, max_calls=1, **options)(_do)
        self._work = work

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        return [self._task.options(name=job.name).remote(self._work, job.numbers) for job in jobs]

    def ended(self, handles: Sequence[Handle], seconds: float) -> list[tuple[Handle, Ended]]:
        done, _ = self._ray.wait(list(handles), num_returns=1, timeout=seconds)
        return [(handle, self._result(handle)) for handle in done]

    def cancel(self, handles: Sequence[Handle]) -> None:
        for handle in handles:
            self._ray.cancel(handle)
        self._ray.wait(list(handles), num_returns=len(handles), timeout=30)

    def _result(self, handle: Any) -> Ended:
        try:
            return Ended(*self._ray.get(handle))
        except self._ray.exceptions.RayTaskError as error:  # an error of the program's
            raise error.as_instanceof_cause() from None
        except self._ray.exceptions.RayError as error:
            return Ended(1, f"lost more often than --job_retries allows: {first_line(error)}")


def _do(work: Work, numbers: tuple[int, ...]) -> Ended:
    return work(numbers)


def _package() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise UserError("--executor=ray needs Ray; install diffjax[ray]") from None
    return ray


def _listed(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
