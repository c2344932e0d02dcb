"""Make data sets from scratch: of the tasks that bring their own, or of a robot at a level; and learn the policies.

Policies of Hopper-v4, HalfCheetah-v4 and Walker2d-v4 come with diffjax, so that their data sets are made in less than a
minute. Levels are D4RL's: random; medium, the policy nearest to a third of the expert's return; expert; medium-replay,
a mixture of all policies up to the medium one; full-replay, of all; medium-expert. Data are stored as local Minari data
sets, or as one HDF5 file in D4RL's layout, with their whole provenance.

examples:
  python experiments/collect.py --task=hopper-medium-local
  python experiments/collect.py --task=hopper-medium-local --format=hdf5 --out=hopper_medium_local.hdf5
  python experiments/collect.py --env=Hopper-v4 --learn=400000 --out=runs/sac-hopper
  python experiments/collect.py --env=Hopper-v4 --level=medium --policies=runs/sac-hopper/policies \
      --format=hdf5 --out=my_hopper_medium.hdf5
  python experiments/collect.py --task=pendulum-mixed --measure
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from diffjax.data.minari_folders import minari_exists
from diffjax.envs.make import make_vector
from diffjax.errors import UserError
from diffjax.launch import cli
from diffjax.studies.collect import LEVELS, SEED, TRANSITIONS
from diffjax.tasks.default_data import to_stderr
from diffjax.tasks.registry import get_task


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string("task", None, "ID: A task that brings its own data: make them.", flag_values=values)
    flags.DEFINE_string("env", None, "ID: Instead of --task: a robot's environment.", flag_values=values)
    flags.DEFINE_enum("level", None, list(LEVELS), "With --env: which data.", flag_values=values)
    cli.define_path(values, "policies", "DIR: With --level: the policies; default: those of diffjax.")
    flags.DEFINE_integer(
        "transitions", TRANSITIONS, "With --level: of each policy's part.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "learn",
        None,
        "STEPS: With --env: learn for so many environment steps into --out, and go on there if stopped.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum("format", "minari", ["minari", "hdf5"], "How data are stored.", flag_values=values)
    cli.define_path(values, "out", "PATH: The HDF5 file, or the Minari id of --level, or the folder of --learn.")
    flags.DEFINE_integer(
        "seed", SEED, "Seed of everything but a task's own Minari data set.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_bool(
        "measure", False, "With --task of suite mini: measure its reference scores; store nothing.", flag_values=values
    )
    flags.DEFINE_integer("episodes", 1000, "Episodes per policy with --measure.", lower_bound=2, flag_values=values)


def _needed_out(args: flags.FlagValues, what: str) -> str:
    if not args.out:
        raise UserError(f"missing --out: {what}")
    return str(args.out)


def _measure(args: flags.FlagValues) -> None:
    from diffjax.studies.collect import embedded

    task = get_task(args.task)
    scores = embedded.measure_reference_scores(task.id, to_stderr, args.episodes, args.seed)
    print(f"{task.id}: ref_min {scores.ref_min:.3f} +- {scores.ref_min_error:.3f}, ", end="")
    print(f"ref_max {scores.ref_max:.3f} +- {scores.ref_max_error:.3f} (mean +- standard error)")


def _task_in_minari(args: flags.FlagValues) -> None:
    from diffjax.studies.collect import store

    task = get_task(args.task)
    store.recipe_of(task)  # refuses a task without data of its own
    if minari_exists(task.data):
        print(f"{task.data} is already there")
    else:
        store.store_dataset(task, to_stderr)


def _task_in_hdf5(args: flags.FlagValues) -> None:
    from diffjax.studies.collect import store

    task = get_task(args.task)
    recipe = store.recipe_of(task)
    path = Path(_needed_out(args, "the HDF5 file"))
    store.store_hdf5(path, recipe, to_stderr, task.ref_min, task.ref_max, args.seed)


def _of_level(args: flags.FlagValues) -> None:
    from diffjax.studies.collect import robots, store

    policies = Path(args.policies) if args.policies else None
    recipe = robots.recipe(args.env, args.level, policies, args.transitions)
    if args.format == "hdf5":
        store.store_hdf5(Path(_needed_out(args, "the HDF5 file")), recipe, to_stderr, seed=args.seed)
    else:
        store.store_minari(_needed_out(args, "the Minari id"), recipe, to_stderr, seed=args.seed)


def _learn(args: flags.FlagValues) -> None:
    from diffjax.studies.collect import sac_robots

    out = Path(_needed_out(args, "the folder of the policies"))
    command = f"python experiments/collect.py --env={args.env} --learn={args.learn} --seed={args.seed} --out=DIR"
    sac_robots.learn(
        lambda num_envs: make_vector(args.env, num_envs),
        args.env,
        args.seed,
        args.learn,
        out,
        to_stderr,
        about={"command": command},
    )
    print(f"policies in {out / 'policies'}, their returns in {out / 'scores.csv'}")


class Mode(NamedTuple):
    """One of the things this launcher does."""

    asked: str  # the flags that ask for it
    uses: tuple[str, ...]  # every flag that changes what it does
    run: Callable[[flags.FlagValues], None]


TASK_MINARI = Mode("--task=ID", ("task", "format"), _task_in_minari)
TASK_HDF5 = Mode("--task=ID --format=hdf5", ("task", "format", "out", "seed"), _task_in_hdf5)
MEASURE = Mode("--task=ID --measure", ("task", "measure", "episodes", "seed"), _measure)
LEVEL = Mode("--env=ID --level=NAME", ("env", "level", "policies", "transitions", "format", "out", "seed"), _of_level)
LEARN = Mode("--env=ID --learn=STEPS", ("env", "learn", "out", "seed"), _learn)
MODES = (TASK_MINARI, TASK_HDF5, MEASURE, LEVEL, LEARN)


def main(args: flags.FlagValues) -> None:
    """Collect, learn or measure."""
    mode = _chosen(args)
    _check_used(args, mode)
    from diffjax.numerics import check_platform, pinned

    check_platform()
    with pinned():
        mode.run(args)


def _chosen(args: flags.FlagValues) -> Mode:
    if bool(args.task) == bool(args.env):
        raise UserError("give either --task=ID or --env=ID")
    if args.task:
        if args.measure:
            return MEASURE
        return TASK_HDF5 if args.format == "hdf5" else TASK_MINARI
    if bool(args.level) == bool(args.learn):
        raise UserError("with --env, give either --level=NAME or --learn=STEPS")
    return LEARN if args.learn else LEVEL


def _check_used(args: flags.FlagValues, mode: Mode) -> None:
    """Raises ``UserError`` for a flag that was given (``--nomeasure`` asks for nothing) and changes nothing."""
    for name in args:
        if args[name].present and args[name].value is not False and name not in mode.uses:
            users = " or ".join(other.asked for other in MODES if name in other.uses)
            raise UserError(f"--{name} has no effect with {mode.asked}; it belongs to {users}")


COMMAND = cli.Command(main, define_flags, __doc__)
