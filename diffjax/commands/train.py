r"""Train one method on one task, all seeds and settings at once, and evaluate it.

Writes a results folder: config.json, evaluations.csv, metrics.jsonl, status.json, checkpoints.

examples:
  python experiments/train.py --method=dtql --task=pendulum-mixed --preset=quick --num_seeds=3 --out=runs/dtql
  python experiments/train.py --method=dac --task=hopper-medium-v2 --dataset=hopper_medium-v2.hdf5 \
      --dataset_source=d4rl --num_seeds=8 --out=runs/dac-hopper
  python experiments/train.py --method=diffcps --task=pendulum-mixed --preset=quick --grid kappa=0.03,0.1,0.3 \
      --num_seeds=2 --out=runs/kappa
"""

from pathlib import Path

from absl import flags

from diffjax.launch import cli, dry_run, method_page
from diffjax.launch import flags as launch
from diffjax.launch.hosts import join
from diffjax.launch.plugins import load_plugins
from diffjax.launch.progress import TrainingProgress


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string("method", None, "NAME: One of the methods.", flag_values=values)
    flags.DEFINE_string("variant", "", "NAME: Variant of the method; default: its first.", flag_values=values)
    flags.DEFINE_string("task", None, "ID: The task.", flag_values=values)
    launch.define_training_flags(values)
    dry_run.define_dry_run(values)


def main(args: flags.FlagValues) -> None:
    """Train, or say what that would cost."""
    with TrainingProgress(stop=launch.stop(args)) as progress:
        from diffjax.experiment.parts import run_parts
        from diffjax.experiment.run import run_experiment
        from diffjax.studies.collect.store import store_dataset

        host = join(args)
        load_plugins(args)
        if not args.dry_run:
            launch.prepare(args)
        experiment = launch.experiment_from_flags(args, args.method, args.variant, args.task, Path(args.out))
        if args.dry_run:
            dry_run.foretell([experiment], progress)
            return
        if host is None:
            run_experiment(experiment, progress, store_dataset)
        elif not run_parts([experiment], host, progress, store_dataset):
            print(f"part {host.folder} is finished; the last one joins them in {args.out}")
            return
    print(f"results in {args.out}")


def page() -> str:
    """The help page's text."""
    return f"{__doc__}\nmethods (--method=NAME --help lists the hyper-parameters of one):\n{method_page.listing()}"


def page_of_method(args: flags.FlagValues) -> str:
    """What ``--help`` says beside ``--method``."""
    if not args.method:
        return ""
    load_plugins(args)
    return method_page.page(args.method, args.variant, args.task or "", args.preset)


COMMAND = cli.Command(main, define_flags, page, ("method", "task", "out"), special_page=page_of_method)
