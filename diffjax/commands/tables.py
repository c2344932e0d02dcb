"""Make score tables, figures, or a report of both as one HTML file, from results folders.

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
  python experiments/tables.py --runs=runs/mini --format=html --out=report.html --latency=runs/inference/inference.csv
  python experiments/tables.py --runs=runs/mini --published --plots=figures --style=two-column
  python experiments/tables.py --runs=runs/mini --format=npz --out=scores.npz
"""

import dataclasses
import io
import itertools
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from diffjax.errors import UserError
from diffjax.files import check_parent, writable, write_text
from diffjax.launch import cli
from diffjax.records.folder import CONFIG, STATUS, find_folders, read_results
from diffjax.results import formats, pictures, plots, tables
from diffjax.results.arrays import save_scores
from diffjax.results.latency import TradeOff, read_latencies, trade_off
from diffjax.results.latex import bibliography
from diffjax.results.layout import lay_out
from diffjax.results.page import BOLD, SPREAD_LABELS, STYLES, Options, Page
from diffjax.results.protocols import DEFAULT, PAPER, protocols
from diffjax.results.report import build
from diffjax.tasks import registry

_PIXELS = 240  # of a picture's sides
HTML, LATEX, NPZ = "html", "latex", "npz"


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string(
        "runs",
        None,
        "DIR[,DIR]: Results folders, or folders with results somewhere below; nothing in them is changed.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "format",
        None,
        (*formats.FORMATS, HTML, NPZ),
        f"How the table is written; {HTML}: a report with figures and everything the numbers depend on, in one file; "
        f"{NPZ}: the scores of every run as arrays, for diffjax.results.load_scores. Default: as wide as the "
        "terminal, and markdown where output is a file or a pipe.",
        flag_values=values,
    )
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
        "Bold: what is within 5 % of the highest number of its line, or not significantly lower (Welch's test).",
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
        "Add aggregates over tasks (mean, median, IQM, optimality gap, probability of improvement), 95 % intervals; "
        f"always with --format={HTML}.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "style",
        "free",
        list(STYLES),
        "What figures and LaTeX tables are for. "
        + "; ".join(f"{name}: {style.label}" for name, style in STYLES.items())
        + ".",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "pictures",
        False,
        f"Show each task's environment (--format={HTML}), drawn by its simulator (extra video for Pillow).",
        flag_values=values,
    )
    cli.define_path(values, "out", "FILE: Where the table is written; the terminal if not given.")
    cli.define_path(values, "bibliography", f"FILE: Where the BibTeX entries are written that --format={LATEX} cites.")
    cli.define_path(
        values, "plot", "FILE: Draw the learning curves as FILE.png, FILE.svg or FILE.pdf (needs matplotlib)."
    )
    cli.define_path(
        values, "plots", f"DIR: Draw {', '.join(plots.NAMES)}, each as .png, .svg and .pdf (needs matplotlib)."
    )
    flags.DEFINE_string(
        "latency",
        None,
        "FILE,...: What benchmarks/inference.py measured (inference.csv), to show latency against score "
        f"(--format={HTML}, --plots).",
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
        statistics=args.statistics or args.format == HTML,
        style=args.style,
    )


def main(args: flags.FlagValues) -> None:
    """Read the folders, make the table, draw the figures; nothing is written before the table is made."""
    _check_flags(args)
    latencies = read_latencies(*cli.parse_paths("latency", args.latency)) if args.latency is not None else None
    folders = find_folders(cli.parse_paths("runs", args.runs))
    options = options_from_flags(args)
    page = lay_out(tables.build_table(map(read_results, folders)), options)
    speed = trade_off(page, latencies) if latencies is not None else None
    environments = _pictures(page) if args.pictures else {}
    text = _text(page, args.format or "markdown", speed, environments) if args.format != NPZ else ""
    if args.plot is not None:
        with writable(args.plot, "plot"):
            plots.plot_curves(page.table, args.plot, args.style)
    if args.plots is not None:
        with writable(args.plots, "plots"):
            drawn = page if options.statistics else lay_out(page.table, dataclasses.replace(options, statistics=True))
            plots.plot_all(drawn, speed, args.plots)
    if args.bibliography is not None:
        with writable(args.bibliography, "bibliography"):
            write_text(args.bibliography, bibliography(page))
    if args.out is None and args.format is None and sys.stdout.isatty():
        formats.print_page(page, all_blocks=True)
    elif args.out is None:
        print(text, end="")
    else:
        with writable(args.out):
            if args.format == NPZ:
                save_scores(tables.run_scores(page.table, options.chosen()), args.out)
            else:
                write_text(args.out, text)


def _check_flags(args: flags.FlagValues) -> None:
    """That files can be written where flags say, and that no flag is without an effect."""
    given = ((name, args[name].value) for name in ("out", "plot", "bibliography"))
    files = {name: str(file) for name, file in given if file is not None}
    for name, file in files.items():
        _check_file(name, file)
    for (name, file), (other, same) in itertools.combinations(files.items(), 2):
        if Path(file).resolve() == Path(same).resolve():
            raise UserError(f"--{name} and --{other} are both {file}; name two files")
    if args.bibliography is not None and args.format != LATEX:
        raise UserError(f"--bibliography={args.bibliography} goes with --format={LATEX}; add it")
    if args.format == NPZ and args.out is None:
        raise UserError(f"--format={NPZ} is no text; name a file with --out=FILE.npz")
    if args.pictures and args.format != HTML:
        raise UserError(f"--pictures goes with --format={HTML}; add it")
    if args.style != "free" and args.format != LATEX and args.plot is None and args.plots is None:
        raise UserError(f"--style={args.style} is for --format={LATEX}, --plot and --plots; add one of them")
    _check_outside("plots", args.plots)
    if args.plot is not None:
        pictures.check_plot_path(args.plot)
    if args.plots is not None:
        plots.check_folder(args.plots)
    if args.latency is not None and args.plots is None and args.format != HTML:
        raise UserError(f"--latency={args.latency} is shown by --format={HTML} and --plots only; add one of them")


def _text(page: Page, format_name: str, speed: TradeOff | None, drawn: Mapping[str, bytes]) -> str:
    return build.render(page, speed, drawn) if format_name == HTML else formats.render(page, format_name)


def _pictures(page: Page) -> dict[str, bytes]:
    """A PNG of each known task's environment as an episode begins; what cannot be drawn is said and left out."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError('--pictures needs Pillow; install it with pip install "diffjax[video]"') from None
    from diffjax.envs.render import first_picture

    found: dict[str, bytes] = {}
    for name in dict.fromkeys(row.task for row in page.table.rows if row.task in registry.tasks()):
        task = registry.tasks()[name]
        try:
            picture = first_picture(task.env_id, task.env_kwargs, task.horizon)
        except UserError as error:
            print(f"tables.py: no picture of {name}: {error}", file=sys.stderr)
            continue
        stream = io.BytesIO()
        Image.fromarray(picture).resize((_PIXELS, _PIXELS)).quantize(64).save(stream, "png")
        found[name] = stream.getvalue()
    return found


def _check_file(flag: str, file: str) -> None:
    if not file:
        raise UserError(f"--{flag}= is empty; name a file")
    if os.path.isdir(file):
        raise UserError(f"--{flag}={file} is a folder; name a file")
    check_parent(flag, file)
    _check_outside(flag, file)


def _check_outside(flag: str, path: str | None) -> None:
    """That what is read stays as it is."""
    if path is None:
        return
    place = Path(path).resolve()
    for folder in (place, *place.parents):
        if os.path.isfile(folder / CONFIG) and os.path.isfile(folder / STATUS):
            raise UserError(f"--{flag}={path} lies in the results folder {folder}; choose a place outside")


COMMAND = cli.Command(main, define_flags, __doc__, ("runs",))
