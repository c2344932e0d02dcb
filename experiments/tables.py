"""Make score tables, and pictures or a page of them, from results folders.

A row is a task with the data that was learned from; a column is a method, and a setting of its own where a grid was
trained. A cell is mean ± spread over seeds of the normalised score, in a block for each protocol, that is, for each
way of taking one number from a run: mean (of the last k evaluations), last, best (over training, an oracle), offline
(selected by the cloning loss, Diffusion-QL's rule), paper (each method's by its own paper's rule). Published numbers
stand beside the last of these. What is missing says why.

examples:
  python experiments/tables.py --runs=runs/mini
  python experiments/tables.py --runs=runs/hopper,runs/walker --published --baselines=CQL,IQL --spread=standard-error
  python experiments/tables.py --runs=runs/hopper,runs/walker --format=latex --bold=significance --out=table.tex
  python experiments/tables.py --runs=runs/mini --protocol=all --statistics --format=csv --out=t.csv --plot=curves.png
"""

import sys
from pathlib import Path

from absl import flags

from diffjax import cli
from diffjax.errors import UserError
from diffjax.results import curves, formats, tables
from diffjax.results.folder import find_folders, read_results, writable, write_text
from diffjax.results.layout import lay_out
from diffjax.results.page import BOLD, SPREAD_LABELS, Options
from diffjax.results.protocols import DEFAULT, PAPER, protocols


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string(
        "runs",
        None,
        "DIR[,DIR]: Results folders, or folders with results somewhere below; nothing in them is changed.",
        flag_values=values,
    )
    flags.DEFINE_enum("format", "markdown", tuple(formats.FORMATS), "How the table is written.", flag_values=values)
    flags.DEFINE_string(
        "protocol",
        None,
        f"NAME,...: Blocks of the table, the first is the headline: {', '.join(protocols())}, or all. Default: "
        f"{','.join(DEFAULT)}, with {PAPER} before them where published numbers are shown.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "last",
        5,
        "k: How many evaluations the mean of the last k takes.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum("spread", "std", list(SPREAD_LABELS), "What stands behind ±, over seeds.", flag_values=values)
    flags.DEFINE_enum(
        "bold",
        "5%",
        list(BOLD),
        "Bold: what is near the best of its line, or not significantly worse.",
        flag_values=values,
    )
    flags.DEFINE_bool("published", False, "Show what is published of the methods beside ours.", flag_values=values)
    flags.DEFINE_string(
        "baselines",
        None,
        "NAME,...: Also show published numbers of these methods (IQL,CQL), or all.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "unverified",
        False,
        "Also show published numbers that nobody could check, marked '(from memory)'; not for publication.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "statistics",
        False,
        "Add aggregates over tasks (mean, median, IQM, optimality gap, probability of improvement), 95 % intervals.",
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "FILE: Where the table is written; the terminal if not given.", flag_values=values)
    flags.DEFINE_string(
        "plot",
        None,
        "FILE: Draw the learning curves as FILE.png, FILE.svg or FILE.pdf (needs matplotlib).",
        flag_values=values,
    )


def options_from_flags(args: flags.FlagValues) -> Options:
    """What the flags ask a page to show."""
    return Options(
        protocols=cli.parse_list("protocol", args.protocol) if args.protocol is not None else (),
        last=args.last,
        spread=args.spread,
        bold=args.bold,
        published=args.published,
        baselines=cli.parse_list("baselines", args.baselines) if args.baselines is not None else (),
        unverified=args.unverified,
        statistics=args.statistics,
    )


def main(args: flags.FlagValues) -> None:
    """Read the folders, make the table, draw the curves; write nothing before all of it is made."""
    for name in ("out", "plot"):
        _check_file(name, args[name].value)
    if args.plot is not None:
        curves.check_plot_path(args.plot)
    folders = find_folders(cli.parse_list("runs", args.runs))
    table = tables.build_table(map(read_results, folders))
    page = lay_out(table, options_from_flags(args))
    text = formats.render(page, args.format)
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
