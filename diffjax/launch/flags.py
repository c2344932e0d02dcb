"""Flags that training launchers share, and how they become experiments."""

import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from diffjax.errors import UserError
from diffjax.experiment.ablations import Ablation, settings_of
from diffjax.experiment.settings import PRESETS
from diffjax.launch import cli
from diffjax.launch.compilation_cache import keep_programs
from diffjax.launch.hosts import define_hosts
from diffjax.launch.plugins import define_plugin, fingerprints
from diffjax.launch.stop import SIGNALS, Stop
from diffjax.methods.registry import METHODS
from diffjax.records.loggers import PACKAGES
from diffjax.records.schema import KEEP, LAST
from diffjax.types import ACTIONS

if TYPE_CHECKING:
    from diffjax.experiment.plan import Experiment

MOST_SEEDS = 100_000
ALL = "all"
MATMUL_PRECISIONS = ("highest", "high", "default", "bfloat16")


def chosen_methods(text: str) -> tuple[str, ...]:
    """What ``--methods`` names, ``NAME`` or ``NAME:VARIANT`` each; every method for :data:`ALL`."""
    return tuple(METHODS) if text == ALL else cli.parse_list("methods", text)


def define_choice_of_runs(values: flags.FlagValues, name: str) -> None:
    """The flag ``name`` of folders with runs, and those that choose among the runs: ``--seed`` and ``--setting``."""
    flags.DEFINE_string(
        name,
        None,
        "DIR[,DIR]: Results folders, or folders with results somewhere below; nothing in them is changed.",
        flag_values=values,
    )
    flags.DEFINE_multi_integer("seed", None, "N: Only the runs of this seed; repeatable.", flag_values=values)
    flags.DEFINE_multi_string(
        "setting",
        None,
        "TEXT: Only the runs of this setting of a grid, 'eta=0.1;rho=1'; repeatable.",
        flag_values=values,
    )


def define_training_flags(values: flags.FlagValues) -> None:
    """Flags of every launcher that trains."""
    flags.DEFINE_string(
        "dataset",
        None,
        "ID_OR_PATH: Data to learn from: a file in D4RL's layout (HDF5 or .npz), a Minari id or folder, or several "
        "joined by +. Default: the task's own, which are made on first use (mini, local), found in ~/.d4rl/datasets "
        "or downloaded.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "mirror",
        None,
        "URL_OR_DIR: Where D4RL's files are fetched from instead of their published address.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "top_percent",
        None,
        "P: Learn from the best P percent of the recorded trajectories only.",
        lower_bound=0.0,
        upper_bound=100.0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "ref_scores",
        None,
        "MIN,MAX: Returns that score 0 and 100, for a task that has no published ones.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "dataset_source",
        None,
        ["d4rl"],
        "Say d4rl if --dataset is the published D4RL file; it is then checked and labelled 'D4RL v2' or the like.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "preset",
        "paper",
        list(PRESETS),
        "Hyper-parameters: the published ones, or small networks for minutes on two cores (never for publication).",
        flag_values=values,
    )
    flags.DEFINE_integer("num_seeds", 1, "Runs per setting.", lower_bound=1, upper_bound=MOST_SEEDS, flag_values=values)
    flags.DEFINE_integer(
        "first_seed", 0, "Seed of the first run; the others count on.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "steps", None, "Updates of the main phase; default: the preset's.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "eval_interval", None, "Updates between evaluations; default: the preset's.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "episodes",
        None,
        "Episodes per evaluation and run; 0 trains without a simulator; default: the preset's.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "actions",
        None,
        list(ACTIONS[1:]),
        "What to do with actions beyond [-1, 1]: clip them, or scale them from the environment's bounds, without a "
        "simulator from the data's (undone when acting).",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "set",
        None,
        "NAME=VALUE: Another value for one hyper-parameter or protocol entry; repeatable.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "grid",
        None,
        "NAME=V1,V2: Train every value of a hyper-parameter; repeatable, all combinations are trained.",
        flag_values=values,
    )
    cli.define_path(values, "out", "DIR: Folder for the results.")
    flags.DEFINE_bool("resume", False, "Go on where an interrupted experiment in --out stopped.", flag_values=values)
    flags.DEFINE_bool(
        "strict",
        False,
        "Refuse to go on with another code, jax, simulator or device than the experiment began with.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_runs_per_program",
        0,
        "Runs on the devices at a time at most, others take turns with them; 0 for as many as fit.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overlap",
        False,
        "Evaluate while the next interval is trained, where there is memory for both; the results are the same.",
        flag_values=values,
    )
    define_max_hours(values)
    flags.DEFINE_enum(
        "keep",
        LAST,
        list(KEEP),
        "Which checkpoints stay, for policies to be read from: the last two; with them the one of each run's best "
        "evaluation; or all.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "log",
        None,
        "NAME,...: Where metrics and evaluations are also logged, one series per run: tensorboard (in --out), wandb "
        "(Weights & Biases; obeys WANDB_MODE, WANDB_PROJECT and WANDB_RUN_GROUP; a sweep's runs are tagged with the "
        "name of its --out).",
        flag_values=values,
    )
    define_hosts(values)
    define_plugin(values)
    define_matmul_precision(values)
    define_compilation_cache(values)


def define_max_hours(values: flags.FlagValues) -> None:
    """The flag that :func:`stop` reads."""
    flags.DEFINE_float(
        "max_hours",
        None,
        "H: Stop after so many hours, keep what is done and exit with status 75; --resume goes on.",
        lower_bound=0.0,
        flag_values=values,
    )


def define_matmul_precision(values: flags.FlagValues) -> None:
    """The flag of launchers and benchmarks."""
    flags.DEFINE_enum(
        "matmul_precision",
        "highest",
        list(MATMUL_PRECISIONS),
        "Precision of matrix products on accelerators, from float32 down; bfloat16 rounds what is multiplied to it.",
        flag_values=values,
    )


def define_compilation_cache(values: flags.FlagValues) -> None:
    """The flag that :func:`prepare` reads."""
    cli.define_path(
        values,
        "compilation_cache",
        "DIR: Where compiled programs are kept for the next time; default: JAX_COMPILATION_CACHE_DIR, or diffjax/jax "
        "in your folder of caches (~/.cache), at most 2 GiB. JAX_ENABLE_COMPILATION_CACHE=0 keeps none.",
    )


def prepare(args: flags.FlagValues) -> None:
    """Settings of the process that must stand before anything is compiled.

    Raises:
      UserError: for a platform that is not there.
    """
    from diffjax.numerics import check_platform

    check_platform()
    keep_programs(args.compilation_cache)


def stop(args: flags.FlagValues, signals: Sequence[signal.Signals] = SIGNALS) -> Stop:
    """What ends a training before its time: signals, and ``--max_hours`` from now on.

    Raises:
      UserError: that is no number of hours.
    """
    if args.max_hours is not None and not math.isfinite(args.max_hours):
        raise UserError(f"--max_hours={args.max_hours} is not a number of hours, such as 11.5")
    return Stop(args.max_hours, signals)


def experiment_from_flags(
    args: flags.FlagValues, method: str, variant: str, task: str, out: Path, ablation: Ablation | None = None
) -> "Experiment":
    """The experiment that the shared flags describe for one method and task; an ``ablation`` stands for a grid.

    Raises:
      UserError: for flags that contradict one another.
    """
    from diffjax.experiment.plan import Experiment

    overrides = cli.parse_settings(args.set)
    for name in ("steps", "eval_interval", "episodes", "actions"):
        value = args[name].value
        if value is not None:
            if name in overrides:
                raise UserError(f"{name} is given by both --{name} and --set; choose one")
            overrides[name] = str(value)
    if ablation is None:
        settings = cli.grid_settings(cli.parse_grid(args.grid, fixed=overrides))
    else:
        settings = settings_of(ablation, method, variant, task, args.preset)
        if args.grid:
            raise UserError(f"--ablation={ablation.name} sets the grid; leave out --grid")
        if fixed := [name for name in ablation.parameters if name in overrides]:
            raise UserError(f"--ablation={ablation.name} varies {fixed[0]}; leave out --set {fixed[0]}")
    return Experiment(
        method=method,
        variant=variant,
        task=task,
        out=out,
        preset=args.preset,
        seeds=tuple(range(args.first_seed, args.first_seed + args.num_seeds)),
        settings=settings,
        overrides=tuple(overrides.items()),
        dataset=args.dataset,
        dataset_source=args.dataset_source,
        mirror=args.mirror,
        top_percent=args.top_percent,
        ref_scores=reference_scores(args.ref_scores),
        resume=args.resume,
        strict=args.strict,
        max_runs_per_program=args.max_runs_per_program,
        overlap=args.overlap,
        matmul_precision=args.matmul_precision,
        keep=args.keep,
        log=cli.parse_list("log", args.log, PACKAGES) if args.log else (),
        ablation=ablation.name if ablation else "",
        plugins=fingerprints(args.plugin),
        flags=tuple(sys.argv[1:]),
    )


def reference_scores(text: str | None) -> tuple[float, float] | None:
    """``--ref_scores`` as two finite numbers, the smaller first.

    Raises:
      UserError: it is something else.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 0.0, -1.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--ref_scores={text} is not MIN,MAX with MIN below MAX, such as -20.3,3234.3")
    return low, high
