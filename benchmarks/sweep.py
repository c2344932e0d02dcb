"""Measure what programs shared by experiments are worth: the same sweep in one process, together and one by one.

Trains every method on every task of a suite twice: all experiments at once, so that those that agree in what fixes a
program share one, and each alone. Counts programs that were compiled and the seconds that they took, seconds until the
first update and of all, run-updates per second once compiled, and the share of evaluation. Nothing is kept of the runs.
Writes OUT/sweep.csv and OUT/sweep.json.

examples:
  python benchmarks/sweep.py --suite=local --methods=td3_bc --steps=2000 --out=runs/sweep
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from diffjax.errors import UserError
from diffjax.experiment.settings import PRESETS
from diffjax.launch import benchmark, cli
from diffjax.launch import flags as launch
from diffjax.launch.progress import TrainingProgress
from diffjax.methods.registry import get_method
from diffjax.tasks.registry import suite_tasks
from diffjax.training.progress import Score

if TYPE_CHECKING:
    from diffjax.experiment.plan import Experiment

NAME = "sweep"
WAYS = ("together", "one by one")
COMPILED = "/jax/core/compile/backend_compile_duration"


class Row(NamedTuple):
    """A sweep in one of the two ways."""

    way: str
    experiments: int
    runs: int
    run_updates: int
    groups: int  # of runs that trained in one program
    programs: int  # that were compiled, of all kinds
    compile_s: float
    first_update_s: float
    total_s: float
    run_updates_per_s: float  # of training alone, without what compiles
    evaluation_share: float


class Meter(TrainingProgress):
    """Takes the time of what a sweep does."""

    def __init__(self) -> None:
        super().__init__()
        self.began = self.last = time.perf_counter()
        self.first_update: float | None = None
        self.training = self.evaluating = 0.0
        self.run_updates = self.timed = 0
        self.at_once = self.groups = 0
        self.is_first = True

    def begin(self, name: str, runs: int, total: int, done: int) -> None:
        super().begin(name, runs, total, done)
        self.at_once, self.is_first, self.last = runs, True, time.perf_counter()
        self.groups += 1

    def advance(self, updates: int) -> None:
        super().advance(updates)
        now = time.perf_counter()
        if self.first_update is None:
            self.first_update = now - self.began
        self.run_updates += updates * self.at_once
        if not self.is_first:  # which compiles
            self.training += now - self.last
            self.timed += updates * self.at_once
        self.is_first, self.last = False, now

    def evaluated(self, step: int, scores: Sequence[Score], what: str = "") -> None:
        super().evaluated(step, scores, what)
        now = time.perf_counter()
        self.evaluating += now - self.last
        self.last = now


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    flags.DEFINE_string("suite", "local", "NAME: The tasks.", flag_values=values)
    flags.DEFINE_multi_string("task", None, "ID: A single task; repeatable, instead of --suite.", flag_values=values)
    flags.DEFINE_string("methods", "td3_bc,iql", "NAME[:VARIANT],...: The methods.", flag_values=values)
    flags.DEFINE_integer("num_seeds", 1, "Runs of each experiment.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", 2000, "Updates of a run.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("eval_interval", 1000, "Updates between evaluations.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("episodes", 2, "Episodes per evaluation and run.", lower_bound=0, flag_values=values)
    flags.DEFINE_enum("preset", "quick", list(PRESETS), "Hyper-parameters.", flag_values=values)
    flags.DEFINE_multi_string("set", None, "NAME=VALUE: Another value; repeatable.", flag_values=values)
    launch.define_matmul_precision(values)
    cli.define_path(values, "out", "DIR: Folder for the results.")


def experiments(args: flags.FlagValues, out: Path) -> list[Experiment]:
    """Every experiment of the sweep, checked."""
    from diffjax.experiment.plan import Experiment, plan

    tasks = tuple(args.task) if args.task else suite_tasks(args.suite)
    asked = {"steps": args.steps, "eval_interval": args.eval_interval, "episodes": args.episodes}
    overrides = cli.parse_settings(args.set)
    if named := [name for name in asked if name in overrides]:
        raise UserError(f"{named[0]} is given by --{named[0]}; leave out --set {named[0]}")
    found = []
    for task in tasks:
        for name in launch.chosen_methods(args.methods):
            method, _, variant = name.partition(":")
            get_method(method, variant)
            found.append(
                Experiment(
                    method,
                    task,
                    out / task / name,
                    variant=variant,
                    preset=args.preset,
                    seeds=tuple(range(args.num_seeds)),
                    overrides=(*overrides.items(), *((key, str(value)) for key, value in asked.items())),
                    matmul_precision=args.matmul_precision,
                )
            )
    for one in found:
        plan(one)
    return found


def measure(way: str, asked: Sequence[Experiment]) -> Row:
    """One sweep."""
    import jax

    from diffjax.experiment.run import run_experiments
    from diffjax.studies.collect.store import store_dataset

    durations: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            durations.append(duration_secs)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with Meter() as meter:
            for part in [list(asked)] if way == "together" else [[one] for one in asked]:
                run_experiments(part, meter, store_dataset)
                jax.clear_caches()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    total = time.perf_counter() - meter.began
    return Row(
        way=way,
        experiments=len(asked),
        runs=len(asked) * len(asked[0].seeds),
        run_updates=meter.run_updates,
        groups=meter.groups,
        programs=len(durations),
        compile_s=sum(durations),
        first_update_s=meter.first_update or 0.0,
        total_s=total,
        run_updates_per_s=meter.timed / meter.training if meter.training else 0.0,
        evaluation_share=meter.evaluating / total,
    )


def main(args: flags.FlagValues) -> None:
    """Measure both ways, in turn."""
    from diffjax.experiment.plan import plan
    from diffjax.experiment.prepare import obtain_dataset
    from diffjax.studies.collect.store import store_dataset

    folder = benchmark.prepare(args, NAME)
    work = folder / "work"
    for one in {one.task: one for one in experiments(args, work)}.values():  # data are there before anything is timed
        obtain_dataset(plan(one), store_dataset, lambda line: None)
    rows = []
    try:
        for way in WAYS:
            rows.append(measure(way, experiments(args, work / way.replace(" ", "_"))))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    benchmark.write_results(folder, NAME, rows, (), (), {"tasks": args.task or args.suite, "methods": args.methods})
    columns = ("", "groups", "programs", "compile s", "first update s", "run-updates/s", "evaluation", "total s")
    lines = [
        (
            row.way,
            str(row.groups),
            str(row.programs),
            benchmark.digits(row.compile_s),
            benchmark.digits(row.first_update_s),
            benchmark.digits(row.run_updates_per_s),
            f"{100 * row.evaluation_share:.0f} %",
            benchmark.digits(row.total_s),
        )
        for row in rows
    ]
    benchmark.print_table(f"{rows[0].experiments} experiments, {rows[0].runs} runs", columns, lines)
    print(f"results in {folder}")


COMMAND = cli.Command(main, define_flags, __doc__, ("out",))

if __name__ == "__main__":
    sys.exit(cli.run(COMMAND))
