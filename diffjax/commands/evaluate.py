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
  python experiments/evaluate.py --run=runs/robot,runs/other --offline --dataset='held_out/*.hdf5' --out=runs/judged
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from diffjax.errors import UserError
from diffjax.launch import cli
from diffjax.launch import flags as launch
from diffjax.launch.plugins import define_plugin, load_plugins
from diffjax.launch.progress import TrainingProgress
from diffjax.records.folder import find_folders, read_config
from diffjax.records.schema import ALL, BEST, LAST

if TYPE_CHECKING:
    from diffjax.assess.episodes import Plan


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    launch.define_choice_of_runs(values, "run")
    cli.define_path(values, "out", "DIR: Folder for the evaluations; of several runs each gets its own below.")
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
    flags.DEFINE_bool(
        "offline",
        False,
        "Judge without a simulator, by fitted Q evaluation on recorded trajectories; writes fitted_q.csv to --out.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "dataset",
        None,
        "ID_OR_PATH: Trajectories for --offline, best such that no run was trained on; default: the runs' own data.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "discount", 0.99, "Of the values of --offline.", lower_bound=0.0, upper_bound=0.9999, flag_values=values
    )
    flags.DEFINE_integer("fit_steps", 20_000, "Updates of --offline.", lower_bound=1, flag_values=values)
    flags.DEFINE_float(
        "held_out",
        0.2,
        "Share of the trajectories that --offline does not fit and judges at.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    define_plugin(values)
    launch.define_compilation_cache(values)


def plans(args: flags.FlagValues) -> "list[Plan]":
    """What will be played, folder by folder."""
    from diffjax.assess.episodes import Again, plan

    fixed = cli.parse_settings(args.set)
    grid = {name: [value] for name, value in fixed.items()} | cli.parse_grid(args.grid, fixed=fixed)
    if not (args.step in (LAST, BEST, ALL) or args.step.isdecimal()):
        raise UserError(f"--step={args.step} is not {LAST}, {BEST}, {ALL} or a number of updates")
    found = []
    out_folder = None if args.out is None or args.offline else Path(args.out)
    for source, out in folders("run", args.run, out_folder):
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


def folders(flag: str, text: str, out: Path | None) -> list[tuple[Path, Path | None]]:
    """Every folder of trained runs, and where its evaluations go; evaluations that lie beside them are passed over."""
    found: list[tuple[Path, Path | None]] = []
    roots = [Path(path) for path in cli.parse_paths(flag, text)]
    for root in roots:
        below = find_folders([root])
        trained = [folder for folder in below if folder == root or read_config(folder).again is None]
        name = Path() if len(roots) == 1 else Path(root.resolve().name)
        found += [(folder, out and out / name / folder.relative_to(root)) for folder in trained]
    places = [place for _, place in found]
    for source, place in found:
        if place is not None and places.count(place) > 1:
            raise UserError(f"--{flag} names several folders called {source.name}; take them one by one")
    return found


def judge(args: flags.FlagValues, planned: "list[Plan]", progress: TrainingProgress) -> None:
    """Fitted Q evaluation of all runs, each folder on its own data."""
    from diffjax.assess import fitted_q

    settings = fitted_q.Settings(args.dataset, args.discount, args.fit_steps, args.held_out)
    estimates = fitted_q.judge(planned, settings, progress)
    if args.out:
        fitted_q.write(estimates, Path(args.out))
    by_data: dict[str, list[fitted_q.Estimate]] = {}
    for one in estimates:
        by_data.setdefault(one.dataset_fingerprint, []).append(one)
    for found in by_data.values():
        print("\n".join(fitted_q.lines(found)))


def main(args: flags.FlagValues) -> None:
    """Check everything, play, record."""
    if not (args.out or args.video or args.offline):
        raise UserError("missing --out=DIR: Folder for the evaluations (or --video=FILE, or --offline)")
    if args.offline and (args.episodes or args.first_episode or args.video):
        raise UserError("--offline asks no simulator; leave out --episodes, --first_episode and --video")
    if not args.offline and args.dataset:
        raise UserError("--dataset names trajectories for --offline; add it, or leave out --dataset")
    with TrainingProgress(unit="steps") as progress:
        from diffjax.assess import fitted_q
        from diffjax.assess.episodes import evaluate_again
        from diffjax.assess.video import check_video, film

        if args.offline and args.out:
            fitted_q.check_out(Path(args.out))
        if args.video:
            check_video(args.video)
        load_plugins(args)
        planned = plans(args)
        launch.prepare(args)
        if args.offline:
            judge(args, planned, progress)
            return
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
