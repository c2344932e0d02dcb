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

import sys
from pathlib import Path

from absl import flags

from diffjax import cli
from diffjax.collect import embedded, robots, sac_robots, store
from diffjax.data.minari_store import minari_exists
from diffjax.envs.make import make_vector
from diffjax.errors import UserError
from diffjax.task_data import to_stderr
from diffjax.tasks import get_task


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string("task", None, "ID: A task that brings its own data: make them.", flag_values=values)
    flags.DEFINE_string("env", None, "ID: Instead of --task: a robot's environment.", flag_values=values)
    flags.DEFINE_enum("level", None, list(robots.LEVELS), "With --env: which data.", flag_values=values)
    flags.DEFINE_string(
        "policies", None, "DIR: With --level: the policies; default: those of diffjax.", flag_values=values
    )
    flags.DEFINE_integer(
        "transitions", robots.TRANSITIONS, "With --level: of each policy's part.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "learn",
        None,
        "STEPS: With --env: learn for so many environment steps into --out, and go on there if stopped.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum("format", "minari", ["minari", "hdf5"], "How data are stored.", flag_values=values)
    flags.DEFINE_string(
        "out", None, "PATH: The HDF5 file, or the Minari id of --level, or the folder of --learn.", flag_values=values
    )
    flags.DEFINE_integer("seed", store.SEED, "Seed of everything.", lower_bound=0, flag_values=values)
    flags.DEFINE_bool(
        "measure", False, "With --task of suite mini: measure its reference scores; store nothing.", flag_values=values
    )
    flags.DEFINE_integer("episodes", 1000, "Episodes per policy with --measure.", lower_bound=2, flag_values=values)


def main(args: flags.FlagValues) -> None:
    """Collect, learn or measure."""
    if bool(args.task) == bool(args.env):
        raise UserError("give either --task=ID or --env=ID")
    if args.task:
        _of_task(args)
    elif bool(args.level) == bool(args.learn):
        raise UserError("with --env, give either --level=NAME or --learn=STEPS")
    elif args.learn:
        _learn(args)
    else:
        _of_level(args)


def _needed_out(args: flags.FlagValues, what: str) -> str:
    if not args.out:
        raise UserError(f"missing --out: {what}")
    return str(args.out)


def _of_task(args: flags.FlagValues) -> None:
    task = get_task(args.task)
    if args.measure:
        scores = embedded.measure_reference_scores(task.id, to_stderr, args.episodes, args.seed)
        print(f"{task.id}: ref_min {scores.ref_min:.3f} +- {scores.ref_min_error:.3f}, ", end="")
        print(f"ref_max {scores.ref_max:.3f} +- {scores.ref_max_error:.3f} (mean +- standard error)")
        return
    recipe = store.recipe_of(task)
    if args.format == "hdf5":
        path = Path(_needed_out(args, "the HDF5 file"))
        store.store_hdf5(path, recipe, to_stderr, task.ref_min, task.ref_max, args.seed)
    elif minari_exists(task.data):
        print(f"{task.data} is already there")
    else:
        store.store_dataset(task, to_stderr)


def _of_level(args: flags.FlagValues) -> None:
    policies = Path(args.policies) if args.policies else None
    recipe = robots.recipe(args.env, args.level, policies, args.transitions)
    if args.format == "hdf5":
        store.store_hdf5(Path(_needed_out(args, "the HDF5 file")), recipe, to_stderr, seed=args.seed)
    else:
        store.store_minari(_needed_out(args, "the Minari id"), recipe, to_stderr, seed=args.seed)


def _learn(args: flags.FlagValues) -> None:
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


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__))
