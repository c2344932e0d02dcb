"""Several processes as one job: who this one is, and which devices are its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from diffjax.errors import UserError

if TYPE_CHECKING:
    from diffjax.experiment.parts import Host


def define_hosts(values: flags.FlagValues) -> None:
    """The flags of launchers that several processes may run as one job."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "This is one of several processes of one job, as a TPU slice or SLURM starts them; each trains runs of its "
        "own, in an --out that all of them see.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT: The same where nothing says so by itself: where process 0 listens.",
        flag_values=values,
    )
    flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "process_id", None, "With --coordinator: which one, from 0.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_float(
        "meeting_seconds",
        300,
        "With --distributed or --coordinator: how long the processes wait for one another at the start.",
        lower_bound=1,
        upper_bound=86400,
        flag_values=values,
    )


def join(args: flags.FlagValues) -> "Host | None":
    """Which of the job's processes this one is, and none of the others' devices in sight; None for one that is alone.

    They meet through ``jax.distributed``, in a process that ends: one that dies later ends no other. Has to come before
    the first use of a device.

    Raises:
      UserError: for flags that contradict one another, or processes that do not come.
    """
    if args.coordinator is None and (args.num_processes is not None or args.process_id is not None):
        raise UserError("--num_processes and --process_id belong to --coordinator=HOST:PORT; add it or leave them out")
    if args.coordinator is None and not args.distributed:
        return None
    if args.coordinator is not None:
        if None in (args.num_processes, args.process_id):
            raise UserError("--coordinator needs --num_processes=N and --process_id=I beside it")
        name, _, port = args.coordinator.rpartition(":")
        if not (name and port.isdecimal() and int(port) < 2**16):
            raise UserError(f"--coordinator={args.coordinator} is not HOST:PORT, such as node1:9876")
        if args.process_id >= args.num_processes:
            raise UserError(f"--process_id={args.process_id} is not below --num_processes={args.num_processes}")
    found = _meet(
        coordinator=args.coordinator,
        num_processes=args.num_processes,
        process_id=args.process_id,
        alone=_sees_one(),
        timeout_s=int(args.meeting_seconds),
    )
    os.environ.update(own_devices(found["platform"], found["devices"], found["places"]))
    from diffjax.experiment.parts import Host

    host = Host(found["process_id"], found["num_processes"])
    return host if host.num_processes > 1 else None


def own_devices(platform: str, devices: Sequence[int], places: Sequence[Sequence[int]]) -> dict[str, str]:
    """The variables under which a process sees its own devices alone, as if there were no others.

    Args:
      devices: their numbers on the host.
      places: of a TPU's chips in the slice, ``(x, y, z)``.
    """
    numbers = ",".join(map(str, dict.fromkeys(devices)))
    if platform == "tpu":
        sizes = [max(axis) - min(axis) + 1 for axis in zip(*places, strict=True)]
        return {
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_CHIPS_PER_PROCESS_BOUNDS": ",".join(map(str, sizes)),
            "TPU_VISIBLE_CHIPS": numbers,
            "TPU_WORKER_ID": "0",
            "TPU_WORKER_HOSTNAMES": "localhost",
        }
    if platform in ("gpu", "cuda", "rocm"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = [visible[number] if number < len(visible) and visible[0] else str(number) for number in devices]
        return {"CUDA_VISIBLE_DEVICES": ",".join(names)}
    return {}


def _meet(**given: Any) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "diffjax.launch.meeting", json.dumps(given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    said = [line for line in done.stderr.splitlines() if line.strip()]
    raise UserError(f"the processes of the job did not meet: {said[-1] if said else f'status {done.returncode}'}")


def _sees_one() -> bool:
    names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    return any((visible := os.environ.get(name)) and "," not in visible for name in names)
