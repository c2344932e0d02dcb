r"""Make the papers' toy figures: clouds of two-dimensional actions, learned by the methods of this project.

Writes for each figure its pictures and NAME_samples.npz, and for all of them numbers.csv with one row per panel: share
of samples within the data's support, distance to the best actions, modes covered, true reward; no such numbers where
training met a non-finite number.

examples:
  python experiments/bandit.py --figure=all --preset=quick --out=runs/toys
  python experiments/bandit.py --figure=dac --format=png,pdf --out=runs/dac-toys
  python experiments/bandit.py --figure=dql,diffcps --steps=20000 --seed=1 --out=runs/toys-1
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from diffjax.clock import duration
from diffjax.errors import UserError
from diffjax.experiment.settings import PRESETS
from diffjax.files import csv_text, rounded, whole_file, writable, write_text
from diffjax.launch import cli
from diffjax.launch import flags as launch
from diffjax.launch.progress import TrainingProgress
from diffjax.results.pictures import FORMATS, INSTALL, can_draw
from diffjax.studies.toys import FIGURES

if TYPE_CHECKING:
    from diffjax.studies.toys.figures import Figure
    from diffjax.studies.toys.judging import Numbers
    from diffjax.studies.toys.training import Panel

NUMBERS = "numbers.csv"


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string(
        "figure", "all", f"NAME[,NAME]: Figures to make, of {', '.join(FIGURES)}; or all.", flag_values=values
    )
    flags.DEFINE_enum(
        "preset",
        "paper",
        list(PRESETS),
        "Constants: the published ones, or fewer updates for minutes on two cores; the pictures say which.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps", None, "Updates of every method; default: the preset's.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Seed of data, training and samples.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("samples", 1000, "Samples that a panel is judged by.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("format", "png", f"EXT[,EXT]: Pictures to write, of {', '.join(FORMATS)}.", flag_values=values)
    cli.define_path(values, "out", "DIR: Folder for the results.")
    launch.define_compilation_cache(values)


def main(args: flags.FlagValues) -> None:
    """Train, judge and draw figure after figure; each is written as soon as it is done."""
    from diffjax.studies.toys import picture
    from diffjax.studies.toys.figures import make_figure
    from diffjax.studies.toys.judging import judge_all
    from diffjax.studies.toys.training import DATA_STREAM, figure_key, train_figure

    names = FIGURES if args.figure == "all" else cli.parse_list("figure", args.figure, FIGURES)
    formats = cli.parse_list("format", args.format, FORMATS)
    out = Path(args.out)
    if (out / NUMBERS).exists():
        raise UserError(f"{out} holds results already; choose another --out")
    launch.prepare(args)
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
    numbers: list[Numbers] = []
    with TrainingProgress() as progress:
        for name in names:
            progress.doing(f"making {name}")
            started = time.monotonic()
            figure = make_figure(name, args.preset, figure_key(args.seed, DATA_STREAM), args.steps)
            panels = train_figure(figure, args.seed, args.samples, progress)
            progress.end()
            numbers += judge_all(figure, panels, args.preset, args.seed, args.samples)
            with writable(out):
                _write(out, figure, panels, numbers)
                if can_draw():
                    paths = [out / f"{name}.{ending}" for ending in formats]
                    picture.draw_figure(figure, panels, _subtitle(figure, args), paths)
            progress.note(f"{name}: {duration(time.monotonic() - started)}")
    print(_table(numbers))
    print(f"results in {out}")
    if not can_draw():
        print(f"no pictures without matplotlib; {INSTALL}")


def _subtitle(figure: Figure, args: flags.FlagValues) -> str:
    steps = sorted({arm.steps for arm in figure.arms})
    return f"preset {args.preset}, {' or '.join(f'{count:,}' for count in steps)} updates, seed {args.seed}"


def _write(out: Path, figure: Figure, panels: list[Panel], numbers: list[Numbers]) -> None:
    arrays = {f"{problem.name}/data": problem.action for problem in figure.problems}
    arrays |= {f"{panel.problem.name}/{panel.arm.name}": panel.samples for panel in panels}
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    with whole_file(out / f"{figure.name}_samples.npz") as temporary:
        temporary.write_bytes(content.getvalue())
    write_text(out / NUMBERS, csv_text([numbers[0]._fields, *map(rounded, numbers)]))


def _table(numbers: list[Numbers]) -> str:
    """The numbers for the terminal."""
    lines = [f"{'figure':8} {'problem':15} {'method':22} {'in support':>10} {'at best':>8} {'modes':>7} {'reward':>8}"]
    for row in numbers:
        name = f"{row.figure:8} {row.problem:15} {row.method:22}"
        if row.failed:
            lines.append(f"{name} {'failed':>10}")
            continue
        modes = f"{row.modes_covered}/{row.modes}" if row.modes else ""
        shares = f"{row.in_support:10.3f} {row.at_best:8.3f}"
        lines.append(f"{name} {shares} {modes:>7} {row.mean_reward:8.3f}")
    return "\n".join(lines)


COMMAND = cli.Command(main, define_flags, __doc__, ("out",))
