r"""Train several methods on several tasks, those that share a program side by side, and print the score table.

Every experiment has a results folder of its own, OUT/TASK/METHOD. An interrupted sweep goes on with --resume; finished
experiments are not repeated. The table is also written to OUT/table.md (not with --shard).

--ablation=NAME runs an ablation of a paper: it sets the methods and the grid, and the tasks unless --suite or --task
names others. All other flags (--preset, --num_seeds, --steps, --set, ...) work as ever.

examples:
  python experiments/sweep.py --suite=mini --methods=dac,dtql,diffcps,diffpogan,bc --preset=quick --num_seeds=3 \
      --out=runs/mini
  python experiments/sweep.py --task=hopper-medium-v2 --dataset=hopper_medium-v2.hdf5 --methods=dac,bc --num_seeds=5 \
      --out=runs/hopper
  python experiments/sweep.py --suite=locomotion --methods=dtql,diffpogan:paper --shard=2/4 --out=runs/cluster
  python experiments/sweep.py --ablation=dac_target --num_seeds=8 --out=runs/dac_target
  python experiments/sweep.py --ablation=diffcps_steps --suite=mini --preset=quick --num_seeds=3 --out=runs/steps
"""

import functools
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from diffjax.errors import Stopped, UserError
from diffjax.experiment import ablations
from diffjax.files import write_text
from diffjax.launch import cli, dry_run, status
from diffjax.launch import flags as launch
from diffjax.launch.hosts import join
from diffjax.launch.jobs import Ended, Job, define_jobs, run_jobs, slurm_options
from diffjax.launch.plugins import load_plugins
from diffjax.launch.progress import TrainingProgress
from diffjax.launch.ray_engine import RayEngine
from diffjax.launch.slurm_engine import SlurmEngine
from diffjax.launch.stop import SIGNALS
from diffjax.methods.registry import get_method
from diffjax.records.folder import check_folder, read_results
from diffjax.results import formats, tables
from diffjax.results.layout import lay_out
from diffjax.results.page import Options
from diffjax.tasks.registry import suite_tasks

if TYPE_CHECKING:
    from diffjax.experiment.plan import Experiment


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string("suite", None, "NAME: A set of tasks.", flag_values=values)
    flags.DEFINE_multi_string("task", None, "ID: A single task; repeatable, instead of --suite.", flag_values=values)
    flags.DEFINE_string(
        "methods",
        None,
        "NAME[:VARIANT],...: The methods, each perhaps with a variant; all for every one by its default.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "ablation", None, "NAME: An ablation of a paper, instead of --methods; listed above.", flag_values=values
    )
    launch.define_training_flags(values)
    flags.DEFINE_string(
        "shard",
        None,
        "I/N: Train only every N-th experiment, from the I-th (1 to N): one process per shard.",
        flag_values=values,
    )
    define_jobs(values)
    dry_run.define_dry_run(values)
    flags.DEFINE_bool(
        "status",
        False,
        "Say how far every experiment is, given --out alone every one that is there; train nothing.",
        flag_values=values,
    )


def chosen_tasks(args: flags.FlagValues, ablation: ablations.Ablation | None) -> tuple[str, ...]:
    """The tasks that ``--suite`` or ``--task`` name, or an ablation's own."""
    if (args.suite and args.task) or not (args.suite or args.task or ablation):
        raise UserError("name the tasks by either --suite or --task")
    if args.suite:
        tasks = suite_tasks(args.suite)
    elif args.task:
        tasks = tuple(dict.fromkeys(args.task))
    else:
        assert ablation is not None
        tasks = ablations.default_tasks(ablation)
    if args.dataset and len(tasks) > 1:
        raise UserError(f"--dataset serves one task, not {len(tasks)}; run them one by one")
    return tasks


def experiments(args: flags.FlagValues) -> "list[Experiment]":
    """Every experiment of the sweep, in order."""
    if bool(args.methods) == bool(args.ablation):
        raise UserError("name the methods by either --methods or --ablation (--help lists the ablations)")
    ablation = ablations.get_ablation(args.ablation) if args.ablation else None
    names = ablation.methods if ablation else launch.chosen_methods(args.methods)
    found = []
    for task in chosen_tasks(args, ablation):
        for name in names:
            method, _, variant = name.partition(":")
            get_method(method, variant)
            out = Path(args.out) / task.replace("/", "-") / name.replace(":", "-")
            experiment = launch.experiment_from_flags(args, method, variant, task, out, ablation)
            found.append(replace(experiment, sweep=Path(args.out).resolve().name))
    return found


def shard(found: "list[Experiment]", text: str | None) -> "list[Experiment]":
    """The experiments of shard ``i/n``."""
    if text is None:
        return found
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard={text} is not I/N with 1 <= I <= N, such as 2/4")
    return found[int(match[1]) - 1 :: int(match[2])]


def jobs_of(found: "list[Experiment]", mine: "list[Experiment]") -> list[Job]:
    """A job for the experiments that may share programs, of those that are not finished.

    Raises:
      UserError: a folder holds something else.
    """
    from diffjax.experiment.joint import together
    from diffjax.experiment.plan import plan
    from diffjax.experiment.provenance import request

    plans = [plan(experiment) for experiment in mine]
    for planned in plans:
        check_folder(planned.experiment.out, request(planned), planned.experiment.resume)
    jobs = []
    for numbers in together(plans):
        experiments = [mine[number] for number in numbers]
        tasks = len({experiment.task for experiment in experiments})
        first = experiments[0]
        method = f"{first.method}:{first.variant}" if first.variant else first.method
        where = first.task if tasks == 1 else f"{tasks} tasks"
        jobs.append(
            Job(
                f"{method} on {where}",
                tuple(found.index(experiment) for experiment in experiments),
                tuple(experiment.out for experiment in experiments),
            )
        )
    return jobs


def train_some(arguments: tuple[str, ...], executor: str, folder: str, numbers: tuple[int, ...]) -> Ended:
    """Trains the experiments of a sweep of these numbers, in a process that an engine has started.

    Args:
      folder: which relative paths are relative to.
    """
    from diffjax.experiment.run import run_experiments
    from diffjax.numerics import pinned
    from diffjax.studies.collect.store import store_dataset

    os.chdir(folder)
    values = flags.FlagValues()
    define_flags(values)
    cli.parse(values, ["sweep.py", *arguments])
    cli.quieten()
    # submitit has signals of its own, by which it queues the job again.
    stop = launch.stop(values, signals=() if executor == "submitit" else SIGNALS)
    try:
        with pinned():
            load_plugins(values)
            launch.prepare(values)
            chosen = [replace(experiments(values)[number], resume=True, flags=arguments) for number in numbers]
            with TrainingProgress(stop=stop) as progress:
                run_experiments(chosen, progress, store_dataset)
    except UserError as error:
        return Ended(cli.EXIT_USER_ERROR, str(error))
    except Stopped as error:
        return Ended(error.status, str(error))
    return Ended(0)


def checked(args: flags.FlagValues) -> "tuple[list[Experiment], list[Experiment]]":
    """Every experiment of the sweep, all of them checked, and those of this shard."""
    from diffjax.experiment.plan import plan

    found = experiments(args)
    for experiment in found:  # also what another shard will train
        plan(experiment)
    return found, shard(found, args.shard)


def show_states(args: flags.FlagValues) -> None:
    """How far every experiment is."""
    load_plugins(args)
    if args.suite or args.task or args.methods or args.ablation:
        _, mine = checked(args)
        lines = [f"{experiment.out}: {status.state_of(experiment.out)}" for experiment in mine]
    else:
        lines = status.report(Path(args.out))
    for line in lines:
        print(line)


def main(args: flags.FlagValues) -> None:
    """Check everything, train what is missing, print the table."""
    if args.status:
        show_states(args)
        return
    with TrainingProgress(stop=launch.stop(args)) as progress:
        from diffjax.experiment.parts import run_parts
        from diffjax.experiment.run import run_experiments
        from diffjax.studies.collect.store import store_dataset

        host = join(args)
        load_plugins(args)
        found, mine = checked(args)
        slurm_options(args)  # said before anything is done
        if args.dry_run:
            dry_run.foretell(mine, progress)
            return
        if args.executor != "local":
            if host is not None:
                raise UserError(f"--executor={args.executor} starts its own processes; leave out --distributed")
            work = functools.partial(train_some, tuple(sys.argv[1:]), args.executor, os.getcwd())
            engine = RayEngine(args, work) if args.executor == "ray" else SlurmEngine(args, work)
            run_jobs(jobs_of(found, mine), engine, args.job_retries, progress.note)
        else:
            launch.prepare(args)
            if host is None:
                run_experiments(mine, progress, store_dataset)
            elif len(run_parts(mine, host, progress, store_dataset)) < len(mine):
                print(f"part {host.folder} is finished; the last one joins them in {args.out}")
                return
    if args.shard is None:
        table = tables.build_table(read_results(experiment.out) for experiment in found)
        page = lay_out(table, Options())
        formats.print_page(page)
        path = Path(args.out) / "table.md"
        write_text(path, formats.render(page, "markdown"))
        print(f"table written to {path}")


def page() -> str:
    """The help page's text."""
    return f"{__doc__}\nablations:\n{ablations.listing()}"


COMMAND = cli.Command(main, define_flags, page, ("out",))
