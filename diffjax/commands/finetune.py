r"""Go on online with trained runs: each plays in its task's simulator, and learns from what it meets and from the data.

Takes the whole state of every run of a results folder, optimisers too, and brings all of them on side by side: whole
episodes with a run's own policy, then --updates_per_step updates for each step taken, on minibatches of which
--offline_fraction is the data that the run was trained on and the rest what it met. Observations and rewards are
transformed as they were. --offline_fraction=0.5 and the updates of RLPD, 20 per step, are one published choice; 0
learns from what runs meet alone.

Writes a results folder of its own, whose steps are those of the environment, and evaluates before the first one and
every --eval_interval by the training's number of episodes. tables.py shows it beside the training's.

examples:
  python experiments/finetune.py --runs=runs/dtql --steps=20000 --eval_interval=2000 --out=runs/dtql-online
  python experiments/finetune.py --runs=runs/mini --step=best --offline_fraction=0 --out=runs/mini-online
  python experiments/finetune.py --runs=runs/dac --explore temperature=1 --set eta_lr=0 --out=runs/dac-online
  python experiments/tables.py --runs=runs/dtql,runs/dtql-online --plot=curves.png
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from diffjax.commands.evaluate import folders
from diffjax.errors import UserError
from diffjax.launch import cli
from diffjax.launch import flags as launch
from diffjax.launch.plugins import define_plugin, load_plugins
from diffjax.launch.progress import TrainingProgress
from diffjax.records.folder import read_config
from diffjax.records.schema import BEST, LAST

if TYPE_CHECKING:
    from diffjax.experiment.online_plan import GoOnline


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    launch.define_choice_of_runs(values, "runs")
    cli.define_path(values, "out", "DIR: Folder for the results; of several folders each gets its own below.")
    flags.DEFINE_string(
        "step",
        LAST,
        f"{LAST}|{BEST}|N: From which checkpoint: the newest, that of each run's best evaluation, or of N updates.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps", 250_000, "Steps of the environment that each run takes.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "eval_interval", 5_000, "Steps of the environment between evaluations.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float(
        "offline_fraction",
        0.5,
        "Share of each minibatch that is data, to the nearest row.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "updates_per_step", 1.0, "Updates per step of the environment.", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_integer(
        "capacity",
        250_000,
        "Transitions that each run keeps, the newest ones, on the device.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "episodes_per_turn",
        1,
        "Episodes that each run plays, side by side, before it learns.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "noise",
        0.0,
        "Deviation of Gaussian noise on the actions of these episodes, within [-1, 1]; for methods whose actions are "
        "not random.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "explore",
        None,
        "NAME=VALUE: Another value in these episodes for what only acting reads; repeatable.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "set",
        None,
        "NAME=VALUE: Another value for a hyper-parameter from now on; repeatable. Learning rates that fell go on as "
        "constants (lr_decay_steps=0) unless it says otherwise.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "dataset", None, "ID_OR_PATH: Where the data of the training are now; default: where they were.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("resume", False, "Go on where an interrupted --out stopped.", flag_values=values)
    launch.define_max_hours(values)
    define_plugin(values)
    launch.define_compilation_cache(values)


def requests(args: flags.FlagValues) -> "list[GoOnline]":
    """What each folder is asked for.

    Raises:
      UserError: for flags that are no values.
    """
    if not (args.step in (LAST, BEST) or args.step.isdecimal()):
        raise UserError(f"--step={args.step} is not {LAST}, {BEST} or a number of updates")
    for name in ("updates_per_step", "noise", "offline_fraction"):
        if not math.isfinite(value := getattr(args, name)):
            raise UserError(f"--{name}={value} is not a finite number")
    from diffjax.experiment.online_plan import GoOnline
    from diffjax.training.online import Rule

    found = folders("runs", args.runs, Path(args.out))
    if len(found) > 1:  # what went on already and lies beside them is passed over
        found = [(source, out) for source, out in found if read_config(source).online is None]
    changes, exploring = cli.parse_settings(args.set), cli.parse_settings(args.explore, "explore")
    return [
        GoOnline(
            source=source,
            out=out,
            rule=Rule(args.offline_fraction, args.updates_per_step, args.episodes_per_turn, args.noise),
            steps=args.steps,
            eval_interval=args.eval_interval,
            capacity=args.capacity,
            seeds=None if args.seed is None else tuple(args.seed),
            settings=None if args.setting is None else tuple(args.setting),
            step=args.step,
            changes=changes,
            exploring=exploring,
            dataset=args.dataset,
            resume=args.resume,
            flags=tuple(sys.argv[1:]),
        )
        for source, out in found
        if out is not None
    ]


def main(args: flags.FlagValues) -> None:
    """Check everything, then go on folder by folder."""
    with TrainingProgress(unit="steps", stop=launch.stop(args)) as progress:
        from diffjax.experiment.online import go_online
        from diffjax.experiment.online_plan import plan

        load_plugins(args)
        asked = requests(args)
        launch.prepare(args)
        said: list[str] = []  # once nothing can be refused any more, so that a refusal is one line
        planned = [plan(each, said.append) for each in asked]
        for line in dict.fromkeys(said):
            progress.note(line)
        for number, each in enumerate(planned, start=1):
            if len(planned) > 1:
                progress.note(f"[{number}/{len(planned)}] {each.asked.source}")
            go_online(each, progress)
    print(f"results in {args.out}")


COMMAND = cli.Command(main, define_flags, __doc__, ("runs", "out"))
