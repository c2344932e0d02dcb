"""``--dry_run``: what a training would cost on this machine, said and not done."""

import os
from typing import TYPE_CHECKING

from absl import flags

from diffjax.clock import duration
from diffjax.launch.benchmark import print_table
from diffjax.launch.progress import TrainingProgress
from diffjax.words import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffjax.experiment.forecast import Forecasts
    from diffjax.experiment.plan import Experiment


def define_dry_run(values: flags.FlagValues) -> None:
    """The flag of launchers that begin trainings."""
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Say what it would cost on this machine (runs, programs, time, memory, disk; with --resume what is skipped), "
        "after a measurement of some seconds for each method; write nothing.",
        flag_values=values,
    )


def foretell(experiments: "Sequence[Experiment]", progress: TrainingProgress) -> None:
    """Measures, of which nothing that is compiled is kept, and prints what is to come."""
    import jax

    from diffjax.experiment.forecast import forecast

    jax.config.update("jax_enable_compilation_cache", False)
    found = forecast(experiments, progress)
    progress.doing("")
    show(found)


def show(found: "Forecasts") -> None:
    """The forecasts on standard output."""
    from diffjax.training.memory import size

    lines = [
        (
            one.name,
            f"{one.runs:,}",
            f"{one.at_once:,}",
            f"{one.updates:,}",
            f"{one.evaluations:,}",
            _between(one.seconds),
            size(one.memory),
            size(one.disk),
        )
        for one in found.programs
    ]
    programs = found.programs
    low, high = (sum(one.seconds[end] for one in programs) for end in (0, 1))
    if lines:
        disk, memory = sum(one.disk for one in programs), max(one.memory for one in programs)
        total = f"{sum(one.runs for one in programs):,}"
        lines.append(("all, one after the other", total, "", "", "", _between((low, high)), size(memory), size(disk)))
        columns = ("program", "runs", "at once", "updates", "evaluations", "time", "memory", "disk")
        print_table(f"{count(len(programs), 'program')} on {size(found.device_memory)} of memory", columns, lines)
    if found.finished:
        print(f"finished, to be skipped: {', '.join(found.finished)}")
    for note in _notes(found) if lines else ():
        print(f"- {note}")


def _between(seconds: tuple[float, float]) -> str:
    low, high = map(duration, seconds)
    return low if low == high else f"{low} to {high}"


def _notes(found: "Forecasts") -> list[str]:
    """What the numbers are and are not."""
    from diffjax.experiment.forecast import ROWS_MEANT

    notes = [
        "updates and evaluations: of each run; at once: runs on the devices side by side; disk: checkpoints and rows",
        "time: from the fastest to the slowest of a few short measurements, and a compilation; saving, heat and other "
        "work on this machine come on top, so that half as much again is no surprise",
        "evaluations are counted at full length; episodes that end early take less",
    ]
    cores = os.cpu_count() or 1
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 1.5 * cores:
        notes.append(f"this machine is busy (load {load:.0f} on {count(cores, 'core')}): it measures slow now")
    others = sorted({one.measured for one in found.programs if not one.name.startswith(one.measured)})
    if others:
        notes.append(
            f"a program that was not measured takes the times of its method on another task: {', '.join(others)}"
        )
    if found.is_synthetic:
        notes.append(f"memory for {ROWS_MEANT:,} transitions: the data themselves were not read")
    return notes
