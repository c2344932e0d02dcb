r"""Export a trained policy as a program that runs without diffjax.

--format=jax: StableHLO through jax.export, for CPUs, CUDA GPUs and TPUs; needs jax and flatbuffers to run.
--format=onnx: an ONNX model; runs in onnxruntime and other runtimes, without JAX.
--format=npz: the policy itself, for diffjax.policy.load.

Beside FILE.jax or FILE.onnx stands FILE.json: the inputs (observations, random numbers) and the action with their sizes
and ranges, how to load and call it, and where the policy comes from. The observations are those of the environment,
and the whole decision is in the program: chain, candidates, ranking.

examples:
  python experiments/export.py --run=runs/dac --seed=0 --format=onnx --out=policy.onnx
  python experiments/export.py --run=runs/dac --seed=0 --step=best --set candidates=1 --format=jax --out=policy.jax
"""

from absl import flags

from diffjax.errors import UserError
from diffjax.files import check_parent
from diffjax.launch import cli
from diffjax.launch.plugins import define_plugin, load_plugins
from diffjax.records.schema import BEST, LAST

FORMATS = ("jax", "onnx", "npz")
NEEDS_RUN = "a results folder, or a policy that --format=npz wrote"


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    cli.define_path(values, "run", f"DIR_OR_FILE: What to export: {NEEDS_RUN}.")
    cli.define_path(values, "out", "FILE: Where the program is written.")
    flags.DEFINE_enum("format", "jax", list(FORMATS), "What is written.", flag_values=values)
    flags.DEFINE_integer("seed", None, "Which of the folder's runs, where there are several.", flag_values=values)
    flags.DEFINE_string("setting", None, "TEXT: Likewise, of a grid: 'eta=0.1;rho=1'.", flag_values=values)
    flags.DEFINE_string(
        "step", None, f"{LAST}|{BEST}|N: Which checkpoint: the newest, of the best evaluation, or of N updates.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_multi_string(
        "set", None, "NAME=VALUE: Another value for what only acting reads; repeatable.", flag_values=values
    )
    define_plugin(values)


def main(args: flags.FlagValues) -> None:
    """Load, convert, write."""
    check_parent("out", args.out)
    if args.out.endswith(".json"):
        raise UserError(f"--out={args.out}: the description gets that name; choose another ending")
    load_plugins(args)
    from diffjax import policy
    from diffjax.export import onnx_model, stablehlo

    save = {"jax": stablehlo.save, "onnx": onnx_model.save, "npz": policy.Policy.save}[args.format]
    chosen = policy.load(args.run, args.seed, args.setting, args.step)
    acting = cli.parse_settings(args.set)
    save(chosen.with_acting(**acting) if acting else chosen, args.out)
    about = chosen.about
    score = "" if about.score is None else f", score {about.score:.1f}"
    print(f"{about.method} on {about.task}, seed {about.seed}, step {about.step}{score}: {args.out}")


COMMAND = cli.Command(main, define_flags, __doc__, ("run", "out"))
