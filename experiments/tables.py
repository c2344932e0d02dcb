"""Make score tables, and a picture of the learning curves, from results folders.

A row is a task with the data that was learned from; a column is a method, and a setting of its own where a
grid was trained. A cell is mean ± standard deviation over seeds of the normalised score, in three blocks:
the mean of the last k evaluations, the last evaluation, and the best over training (an oracle).

examples:
  python experiments/tables.py --runs=runs/mini
  python experiments/tables.py --runs=runs/hopper,runs/walker --format=latex --out=table.tex
  python experiments/tables.py --runs=runs/mini --format=csv --out=table.csv --plot=curves.png
"""

import sys
from pathlib import Path

from absl import flags

from diffjax import cli
from diffjax.errors import UserError
from diffjax.results import curves, formats, tables
from diffjax.results.folder import find_folders, read_results, writable, write_text


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string(
        "runs",
        None,
        "DIR[,DIR]: Results folders, or folders with results somewhere below; nothing in them is changed.",
        flag_values=values,
    )
    flags.DEFINE_enum("format", "markdown", tuple(formats.FORMATS), "How the table is written.", flag_values=values)
    flags.DEFINE_integer(
        "last",
        5,
        "k: How many evaluations the mean of the last k takes.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "FILE: Where the table is written; the terminal if not given.", flag_values=values)
    flags.DEFINE_string(
        "plot",
        None,
        "FILE: Draw the learning curves as FILE.png, FILE.svg or FILE.pdf (needs matplotlib).",
        flag_values=values,
    )


def main(args: flags.FlagValues) -> None:
    """Read the folders, make the table, draw the curves; write nothing before all of it is made."""
    for name in ("out", "plot"):
        _check_file(name, args[name].value)
    if args.plot is not None:
        curves.check_plot_path(args.plot)
    folders = find_folders(cli.parse_list("runs", args.runs))
    table = tables.build_table(map(read_results, folders), last=args.last)
    text = formats.render(table, args.format)
    if args.plot is not None:
        with writable(args.plot, "plot"):
            curves.plot_curves(table, args.plot)
    if args.out is None:
        print(text, end="")
    else:
        with writable(args.out):
            write_text(args.out, text)


def _check_file(flag: str, file: str | None) -> None:
    if file is None:
        return
    if not file or Path(file).is_dir():
        raise UserError(f"--{flag}={file} is a folder; name a file")
    if not Path(file).parent.is_dir():
        raise UserError(f"--{flag}={file}: the folder {Path(file).parent} does not exist; make it first")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("runs",)))
