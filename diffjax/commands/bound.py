r"""Measure how far the bounds that diffusion policies are trained with lie above the entropy of Gaussian actions.

DiffCPS constrains KL(behaviour || policy) by way of the variational bound and its simple loss. For actions N(0, std^2)
the best denoiser is known, so what is lost is measured, not estimated: bound minus entropy, in nats per dimension, with
the reverse steps' variance at the posterior's, at beta, or at its best. Writes OUT/bound.csv and OUT/bound.png.

examples:
  python experiments/bound.py --out=runs/bound
  python experiments/bound.py --schedule=vp --steps=5,10,20,50 --std=0.1,0.5 --samples=100000 --out=runs/vp
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from absl import flags

from diffjax.diffusion import SCHEDULES
from diffjax.errors import UserError
from diffjax.files import csv_text, rounded, writable, write_text
from diffjax.launch import cli
from diffjax.results.charts import LINES, MARKERS, Style
from diffjax.results.pictures import (
    INSTALL,
    add_legend,
    can_draw,
    line_style,
    log_scale,
    panel_grid,
    style,
    write_figure,
)

if TYPE_CHECKING:
    from diffjax.studies.bound_gap import Gap

Number = TypeVar("Number", int, float)
TABLE, PICTURE = "bound.csv", "bound.png"
VARIANCES = ("posterior", "beta", "best")


def define_flags(values: flags.FlagValues) -> None:
    """Define this launcher's flags."""
    flags.DEFINE_string(
        "schedule", "vp", f"NAME[,NAME]: Schedules, of {', '.join(SCHEDULES)}; or all.", flag_values=values
    )
    flags.DEFINE_string("steps", "5,10,20,50,100", "T,...: Numbers of diffusion steps.", flag_values=values)
    flags.DEFINE_string("std", "0.1,0.5,1", "STD,...: Standard deviations of the actions.", flag_values=values)
    flags.DEFINE_integer("samples", 20_000, "Actions that a mean is over.", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the actions and their noise.", lower_bound=0, flag_values=values)
    cli.define_path(values, "out", "DIR: Folder for the results.")


def main(args: flags.FlagValues) -> None:
    """Measure, print, write and draw."""
    from diffjax.numerics import check_platform, pinned, random_key
    from diffjax.studies.bound_gap import Gap, measure

    schedules = SCHEDULES if args.schedule == "all" else cli.parse_list("schedule", args.schedule, SCHEDULES)
    steps, stds = _numbers("steps", args.steps, int), _numbers("std", args.std, float)
    out = Path(args.out)
    if (out / TABLE).exists():
        raise UserError(f"{out} holds results already; choose another --out")
    check_platform()
    asked = itertools.product(schedules, stds, steps)
    with pinned():
        key = random_key(args.seed)
        gaps = [measure(key, args.samples, schedule, count, std) for schedule, std, count in asked]
    print(_table(gaps))
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / TABLE, csv_text([Gap._fields, *map(rounded, gaps)]))
        if can_draw():
            _draw(gaps, out / PICTURE)
    print(f"results in {out}")
    if not can_draw():
        print(f"no picture without matplotlib; {INSTALL}")


def _numbers(flag: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    """Positive numbers of a list.

    Raises:
      UserError: one is none.
    """
    found = []
    for part in cli.parse_list(flag, text):
        try:
            found.append(kind(part))
        except ValueError:
            raise UserError(f"--{flag}={text}: {part} is not a number") from None
        if not 0 < found[-1] < float("inf"):
            raise UserError(f"--{flag}={text}: {part} is not a positive number")
    return sorted(set(found))


def _table(gaps: Sequence[Gap]) -> str:
    heads = (*(f"gap {name}" for name in VARIANCES), "± se", "L_simple")
    lines = [f"{'schedule':9}{'std':>6}{'T':>6}{'entropy':>10}" + "".join(f"{head:>15}" for head in heads)]
    for gap in gaps:
        values = (*(getattr(gap, name) for name in VARIANCES), gap.standard_error, gap.simple)
        numbers = "".join(f"{value:15.4f}" for value in values)
        lines.append(f"{gap.schedule:9}{gap.std:6g}{gap.steps:6}{gap.entropy:10.4f}{numbers}")
    return "\n".join(lines)


def _draw(gaps: Sequence[Gap], path: Path) -> None:
    """A panel per schedule and deviation: the gap over the number of steps."""
    panels: dict[tuple[str, float], list[Gap]] = {}
    for gap in gaps:
        panels.setdefault((gap.schedule, gap.std), []).append(gap)
    with style("out"):
        figure, axes = panel_grid(len(panels))
        for axis, ((schedule, std), found) in zip(axes, panels.items(), strict=False):
            counts = [gap.steps for gap in found]
            for place, name in enumerate(VARIANCES):
                drawn = line_style(Style(place, LINES[place], MARKERS[place]))
                axis.plot(counts, [getattr(gap, name) for gap in found], label=f"variance: {name}", **drawn)
            axis.set_title(f"{schedule}, std {std:g}")
            axis.set_xlabel("diffusion steps")
            axis.set_ylabel("bound - entropy [nats per dimension]")
            axis.axhline(0.0, color="#B8B8B8", linewidth=0.8, zorder=0)
            log_scale(axis, min(counts) * 0.9, max(counts) * 1.1)
        add_legend(figure, "")
        write_figure(figure, path)


COMMAND = cli.Command(main, define_flags, __doc__, ("out",))
