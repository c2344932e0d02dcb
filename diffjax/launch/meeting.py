"""A process that meets the others of its job, says on one line of JSON which one it is, and ends."""

import json
import sys
from typing import Any

import jax


def meet(
    coordinator: str | None, num_processes: int | None, process_id: int | None, alone: bool, timeout_s: int
) -> Any:
    """Meets the others and parts again: number, how many there are, and the devices of this process.

    Args:
      alone: the process sees one device, its own; SLURM's would look for that of their own number.
    """
    jax.config.update("jax_cpu_collectives_implementation", None)  # nothing is sent around
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        local_device_ids=[0] if alone else None,
        initialization_timeout=timeout_s,
    )
    devices = jax.local_devices()
    found = {
        "process_id": jax.process_index(),
        "num_processes": jax.process_count(),
        "platform": devices[0].platform,
        "devices": [device.local_hardware_id for device in devices],
        "places": [list(getattr(device, "coords", ())) for device in devices],
    }
    jax.distributed.shutdown()
    return found


if __name__ == "__main__":
    print(json.dumps(meet(**json.loads(sys.argv[1]))))
