r"""Evaluate trained runs again: on other episodes, at other checkpoints, or acting in another way.

Reads the checkpoints of a results folder, finished or still in training, without changing it, and writes a results
folder of its own, which tables.py reads beside the training's. What only acting reads (how many candidates a critic
ranks, say) may be set anew; everything else is as trained.

examples:
  python experiments/evaluate.py --run=runs/dac --episodes=100 --out=runs/dac-100
  python experiments/evaluate.py --run=runs/dac --grid candidates=1,10,50 --out=runs/dac-candidates
  python experiments/evaluate.py --run=runs/mini --step=best --first_episode=1000 --out=runs/mini-best
  python experiments/tables.py --runs=runs/dac,runs/dac-candidates
  python experiments/evaluate.py --run=runs/dac --seed=0 --video=episode.mp4
"""

import sys
from pathlib import Path

from absl import flags

from diffjax.assess.episodes import ALL, Again, Plan, evaluate_again, plan
from diffjax.assess.video import check_video, film
from diffjax.errors import UserError
from diffjax.experiment.stored import BEST, LAST
from diffjax.launch import cli
from diffjax.launch import flags as launch
from diffjax.launch.plugins import define_plugin, load_plugins
from diffjax.launch.progress import TrainingProgress
from diffjax.records.folder import find_folders, read_config


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string(
        "run",
        None,
        "DIR[,DIR]: Results folders, or folders with results somewhere below; nothing in them is changed.",
        flag_values=values,
    )
    cli.define_path(values, "out", "DIR: Folder for the evaluations; of several runs each gets its own below.")
    flags.DEFINE_multi_integer("seed", None, "N: Only the runs of this seed; repeatable.", flag_values=values)
    flags.DEFINE_multi_string(
        "setting",
        None,
        "TEXT: Only the runs of this setting of a grid, 'eta=0.1;rho=1'; repeatable.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "step",
        LAST,
        f"{LAST}|{BEST}|{ALL}|N: Which checkpoints: the newest, that of each run's best evaluation, every one, or that "
        "of N updates; train with --keep=best or --keep=all to have them.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "episodes", None, "Episodes per run; default: as many as in training.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "first_episode",
        0,
        "Number of the first episode; in training they count from 0, so that a large one gives others.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "set", None, "NAME=VALUE: Another value for what only acting reads; repeatable.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "grid", None, "NAME=V1,V2: Several values of it, each a column; repeatable.", flag_values=values
    )
    cli.define_path(
        values,
        "video",
        "FILE: Film the first episode as FILE.mp4 or FILE.gif (extra video); then --out may be left out.",
    )
    define_plugin(values)
    launch.define_compilation_cache(values)


def plans(args: flags.FlagValues) -> list[Plan]:
    """What will be played, folder by folder."""
    fixed = cli.parse_settings(args.set)
    grid = {name: [value] for name, value in fixed.items()} | cli.parse_grid(args.grid, fixed=fixed)
    if not (args.step in (LAST, BEST, ALL) or args.step.isdecimal()):
        raise UserError(f"--step={args.step} is not {LAST}, {BEST}, {ALL} or a number of updates")
    found = []
    for source, out in folders(args.run, None if args.out is None else Path(args.out)):
        again = Again(
            source=source,
            out=out,
            seeds=None if args.seed is None else tuple(args.seed),
            settings=None if args.setting is None else tuple(args.setting),
            step=args.step,
            episodes=args.episodes,
            first_episode=args.first_episode,
            acting=cli.grid_settings(grid),
            flags=tuple(sys.argv[1:]),
        )
        found.append(plan(again))
    return found


def folders(text: str, out: Path | None) -> list[tuple[Path, Path | None]]:
    """Every folder of trained runs, and where its evaluations go; evaluations that lie beside them are passed over."""
    found: list[tuple[Path, Path | None]] = []
    roots = [Path(path) for path in cli.parse_paths("run", text)]
    for root in roots:
        below = find_folders([root])
        trained = [folder for folder in below if folder == root or read_config(folder).again is None]
        name = Path() if len(roots) == 1 else Path(root.resolve().name)
        found += [(folder, out and out / name / folder.relative_to(root)) for folder in trained]
    places = [place for _, place in found]
    for source, place in found:
        if place is not None and places.count(place) > 1:
            raise UserError(f"--run names several folders called {source.name}; evaluate them one by one")
    return found


def main(args: flags.FlagValues) -> None:
    """Check everything, play, record."""
    if not (args.out or args.video):
        raise UserError("missing --out=DIR: Folder for the evaluations (or --video=FILE)")
    if args.video:
        check_video(args.video)
    load_plugins(args)
    planned = plans(args)
    launch.prepare(args)
    with TrainingProgress(unit="steps") as progress:
        if args.video:
            if len(planned) > 1:
                raise UserError(f"--video shows one run; --run names {len(planned)} folders")
            played = film(planned[0], args.video, progress)
            print(f"an episode of {played.lengths[0, 0]} steps, return {played.returns[0, 0]:.6g}, in {args.video}")
        if not args.out:
            return
        for number, each in enumerate(planned, start=1):
            if len(planned) > 1:
                progress.note(f"[{number}/{len(planned)}] {each.again.source}")
            evaluate_again(each, progress)
    print(f"evaluations in {args.out}")


COMMAND = cli.Command(main, define_flags, __doc__, ("run",))
