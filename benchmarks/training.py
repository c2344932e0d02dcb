"""Measure what one update costs: time, work and memory of every method, for one run and for many.

The program is the one that trains: minibatches gathered from data on the device, random numbers, the update, for each
number of --runs mapped over seeds, which learn from --tasks data sets in turn. Data are synthetic. Chunks of updates of
all these numbers take turns, round by round; times and their ratios to the first number's are medians over the rounds.
Beside them stands one run trained as published programs do: rows chosen by NumPy, one call per update, its metrics read
back. Work is that of the update's matrix products, and its share is of what the machine's best float32 product reaches
at the precision chosen. Copies of the data are counted in the compiled program of the most runs. Writes
OUT/training.csv and OUT/training.json, anew after every method.

examples:
  python benchmarks/training.py --out=runs/training
  python benchmarks/training.py --out=runs/dac --methods=dac --runs=1,4,16,64,256 --rounds=9 --plot=scaling.png
  python benchmarks/training.py --out=runs/chains --methods=dac,dql --grid diffusion_steps=5,20,50,100 --plot=chains.png
  python benchmarks/training.py --out=runs/claims --methods=dtql,idql --runs=1
  python benchmarks/training.py --out=runs/small --preset=quick --task=pendulum-mixed
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from diffjax.errors import UserError
from diffjax.experiment.settings import parse_setting
from diffjax.files import writable
from diffjax.launch import benchmark, cli
from diffjax.launch.benchmark import Case
from diffjax.measure import ceilings, programs, training
from diffjax.measure.training import Cost, Trainer
from diffjax.results.pictures import COLORS, add_legend, check_plot, log_scale, panel_grid, style, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "training"


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    benchmark.define_flags(values)
    benchmark.define_haste_flags(values)
    benchmark.define_resume(values)
    flags.DEFINE_string("runs", "1,4", "N,N,...: Runs side by side, each compared with the first.", flag_values=values)
    flags.DEFINE_integer(
        "tasks", 1, "Data sets, held by one program, that the runs learn from in turn.", 1, flag_values=values
    )
    flags.DEFINE_integer(
        "rounds", 5, "Rounds, in which each number of runs is timed once.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float(
        "seconds",
        1.0,
        "Least time that a chunk of updates of the first number of runs takes.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "transitions", 1_000_000, "Transitions of each synthetic data set.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_bool(
        "as_published", True, "Time one run by a loop on the host too, with NumPy's minibatches.", flag_values=values
    )
    cli.define_path(
        values,
        "plot",
        "FILE: Draw run-updates per second over runs, or time over the one setting of --grid that is a number, as "
        "FILE.png, FILE.svg or FILE.pdf (needs matplotlib).",
    )


def print_tables(rows: Sequence[Cost], notes: Sequence[str]) -> None:
    """Time; then work and memory."""
    digits = benchmark.digits
    benchmark.print_table(
        "Time of one update of all runs",
        ("method", "runs", "ms", "ratio", "run-updates/s", "published ms", "gain", "cold s", "warm s"),
        [
            (
                row.label,
                str(row.runs),
                *map(digits, (row.ms_per_update, row.ratio, row.run_updates_per_s, row.published_ms, row.gain)),
                *map(digits, (row.first_update_cold_s, row.first_update_warm_s)),
            )
            for row in rows
        ],
    )
    print()
    benchmark.print_table(
        "Work and memory (MiB)",
        ("method", "runs", "GFLOP", "% of ceiling", "moved", "% of copy", "arguments", "temporaries", "peak", "copies"),
        [
            (
                row.label,
                str(row.runs),
                *map(digits, (row.gflop_per_update, 100 * row.ceiling_share, row.dot_mib, 100 * row.copy_share)),
                *map(digits, (row.arguments_mib, row.temporary_mib, row.peak_mib, row.data_copies)),
            )
            for row in rows
        ],
    )
    print("\n" + "\n".join(f"- {note}" for note in notes))


def notes_of(args: flags.FlagValues, data_mib: float, counts: Sequence[int], gflop_per_s: float) -> list[str]:
    """What the columns mean."""
    return [
        f"synthetic data, {args.tasks} x {args.transitions:,} transitions, {data_mib:.1f} MiB each; copies: how often "
        f"the program of {max(counts)} runs holds them",
        f"ratio: to the first number of runs, median over {args.rounds} rounds",
        "published: one run, NumPy's minibatches, a call per update, metrics read back; gain: run-updates/s against it",
        "first update: states made, programs traced, compiled and run once; warm: from a persistent cache",
        f"GFLOP: matrix products of one update of one run; ceiling: {gflop_per_s:,.0f} GFLOP/s, the best float32 "
        f"product at precision {args.matmul_precision}; moved: what these products read and write; XLA's own counts in "
        "the CSV have the body of a loop once",
    ]


def chain_points(rows: Sequence[Cost]) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """The one gridded name whose values are numbers, and per method and phase (value, ms) of the fewest runs."""
    settings = [parse_setting(row.setting) for row in rows]
    names = {name for setting in settings for name, value in setting.items() if value.replace(".", "", 1).isdigit()}
    if len(names) != 1:
        return "", {}
    (name,) = names
    least = min(row.runs for row in rows)
    found: dict[str, list[tuple[float, float]]] = {}
    for row, setting in zip(rows, settings, strict=True):
        if name in setting and row.runs == least:
            label = row.label.replace(f" {row.setting}", "")
            found.setdefault(label, []).append((float(setting[name]), row.ms_per_update))
    return name, {label: sorted(points) for label, points in found.items() if len(points) > 1}


def cost_figure(rows: Sequence[Cost]) -> "Figure":
    """Time over the one gridded setting that is a number where there is one, else run-updates per second over runs."""
    name, lines = chain_points(rows)
    least = min(row.runs for row in rows)
    across, up = name, f"ms per update of {'one run' if least == 1 else f'{least} runs'}"
    if not lines:
        across, up = "runs side by side", "run-updates per second"
        lines = {label: [] for label in dict.fromkeys(row.label for row in rows)}
        for row in rows:
            lines[row.label].append((row.runs, row.run_updates_per_s))
    figure, (axis,) = panel_grid(1, height=4.4)
    for number, (label, points) in enumerate(lines.items()):
        color, dash = COLORS[number % len(COLORS)], ("-", "--", ":", "-.")[number // len(COLORS) % 4]
        axis.plot(*zip(*points, strict=True), dash, color=color, marker="o", markersize=4, label=label)
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    log_scale(axis, min(xs) / 1.2, max(xs) * 1.2)
    log_scale(axis, min(ys) / 1.3, max(ys) * 1.3, "y")
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.grid(color="#dddddd")
    axis.set_axisbelow(True)
    add_legend(figure, "method")
    return figure


def main(args: flags.FlagValues) -> None:
    """Check everything, measure the ceilings and every phase of every method, print, write."""
    counts = benchmark.parse_numbers("runs", args.runs, "1,4")
    if args.tasks > min(counts):
        raise UserError(
            f"--tasks={args.tasks} are more than {min(counts)} runs learn from; name as many in --runs at least"
        )
    cases = benchmark.chosen_cases(args, lambda case: case.method.phases)
    if args.plot is not None:
        check_plot(args.plot)
    folder = benchmark.prepare(args, NAME)
    specs = {case.spec: None for case in cases}
    data = {
        spec: [training.synthetic_data(spec, args.transitions, seed) for seed in range(args.tasks)] for spec in specs
    }
    facts: dict[str, Any] = {
        "preset": args.preset,
        "task": args.task,
        "matmul_precision": args.matmul_precision,
        "transitions": args.transitions,
    }
    rows = benchmark.kept(args, folder, NAME, Cost, facts)
    there = {row.label for row in rows}
    phases = {label: chosen for label, chosen in training.phases_of(cases).items() if label not in there}

    def trainers_of(chosen: tuple[Case, int]) -> list[Trainer]:
        case, phase = chosen
        is_started = args.compile_jobs == 1
        return [Trainer(case, phase, data[case.spec], runs, runs == max(counts), is_started) for runs in counts]

    with benchmark.Measuring(1 + len(phases), args.budget_s) as measuring:
        best = ceilings.measure(measuring)
        data_mib = training.num_bytes(next(iter(data.values()))[0]) / programs.MIB
        notes = notes_of(args, data_mib, counts, best.gflop_per_s)
        facts |= {"ceilings": best._asdict()}
        for label, trainers in benchmark.compiled_ahead(trainers_of, phases, args.compile_jobs, measuring):
            case, _ = phases[label]
            found = training.measure(
                case, trainers, best, args.seconds, args.rounds, args.matmul_precision, args.as_published
            )
            times = ", ".join(f"{row.runs} runs {benchmark.digits(row.ms_per_update)}" for row in found)
            measuring.done(f"{label}: ms per update: {times}")
            rows += found
            benchmark.write_results(folder, NAME, rows, cases, [*notes, *measuring.skipped], facts)
    benchmark.write_results(folder, NAME, rows, cases, [*notes, *measuring.skipped], facts)
    print_tables(rows, [*notes, *measuring.skipped])
    if args.plot is not None:
        with style("plot"), writable(args.plot, "plot"):
            write_figure(cost_figure(rows), args.plot)
    print(f"written to {folder / NAME}.csv and .json")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
