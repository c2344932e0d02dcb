r"""Measure what one action costs: latency, throughput, work and memory of every method under its evaluation rule.

A call takes observations in host memory and ends when their actions are back there: it draws its random numbers,
denoises all candidates and ranks them. Parameters are freshly initialised, on which the time does not depend, or those
of trained runs (--runs), whose score acting in that very way is measured too (--episodes). Beside each time stands that
of the same numbers as published programs compute them: a loop on the host, one dispatch per step of the chain.
--grid varies what acting reads: candidates, sampler, its steps. Calls vary: see p50, p95 and p99.
Writes OUT/inference.csv and OUT/inference.json, anew after every measurement.

examples:
  python benchmarks/inference.py --out=runs/inference
  python benchmarks/inference.py --out=runs/hopper --task=hopper-medium-v2 --methods=dac,dtql,dtql:one_action --batch=1
  python benchmarks/inference.py --out=runs/few --methods=dtql --grid candidates=16,64,1024 --plot=latency.png
  python benchmarks/inference.py --out=runs/traded --runs=runs/mini --grid candidates=1,10,50 --episodes=20 --batch=1 \
      --plot=pareto.png
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from diffjax.errors import UserError
from diffjax.files import writable
from diffjax.launch import benchmark, cli
from diffjax.launch.flags import define_choice_of_runs
from diffjax.launch.plugins import load_plugins
from diffjax.measure import acting, ceilings
from diffjax.measure.acting import Actor, Latency, Scored, Subject
from diffjax.results.latency import pareto_front
from diffjax.results.pictures import BLUE, check_plot, log_scale, new_figure, style, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "inference"
BATCHES = "1,16,256,4096"
OF_FRESH = ("methods", "task", "observation_dim", "action_dim", "preset")  # flags that trained runs settle


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    benchmark.define_flags(values)
    benchmark.define_haste_flags(values)
    benchmark.define_resume(values)
    define_choice_of_runs(values, "runs")
    flags.DEFINE_integer(
        "episodes", 10, "Episodes per trained run that score a setting; 0: no simulator.", 0, flag_values=values
    )
    flags.DEFINE_string("batch", BATCHES, "N,N,...: How many states one call decides on.", flag_values=values)
    flags.DEFINE_integer("calls", 200, "Calls that are timed, after warm-up.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "rows",
        None,
        "States times candidates that are computed at once; larger batches are computed slice by slice. Default: "
        f"{acting.ROWS_ON_CPU} on CPUs, else {acting.ROWS_ELSEWHERE}.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "seconds",
        10.0,
        f"Time for the calls of one measurement; slow ones get fewer calls then, but {acting.LEAST_CALLS}.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "as_published", True, "Time the loop on the host too, where everything is computed twice.", flag_values=values
    )
    cli.define_path(
        values,
        "plot",
        "FILE: Draw the latencies, or scores over latency where there are scores, as FILE.png, FILE.svg or FILE.pdf "
        "(needs matplotlib).",
    )


def subjects(args: flags.FlagValues) -> list[Subject]:
    """What is measured: every fresh method chosen, or the trained runs."""
    if args.runs is None:
        for name in ("seed", "setting"):
            if args[name].present:
                raise UserError(f"--{name} chooses among trained runs; name them with --runs=DIR, or leave it out")
        cases = benchmark.chosen_cases(
            args, lambda case: (case.method.draw_action, case.method.act, case.method.cost(case.hyper))
        )
        return [acting.fresh(case) for case in cases]
    for name in OF_FRESH:
        if args[name].present:
            raise UserError(f"--runs names trained methods with all that they are; leave out --{name}")
    load_plugins(args)
    fixed = cli.parse_settings(args.set)
    grid = {name: [value] for name, value in fixed.items()} | cli.parse_grid(args.grid, fixed=fixed)
    paths, settings = cli.parse_paths("runs", args.runs), cli.grid_settings(grid)
    return acting.trained(paths, settings, args.seed, args.setting, args.matmul_precision)


def print_tables(rows: Sequence[Latency], notes: Sequence[str]) -> None:
    """The times; the work; then what each method does for one action."""
    digits = benchmark.digits
    benchmark.print_table(
        "Latency of one call, and actions per second",
        ("method", "batch", "p50 ms", "p95 ms", "p99 ms", "published ms", "gain", "actions/s", "calls", "slice"),
        [
            (
                row.label,
                str(row.batch),
                *map(digits, (row.p50_ms, row.p95_ms, row.p99_ms, row.published_ms, row.gain, row.actions_per_s)),
                str(row.calls),
                str(row.slice),
            )
            for row in rows
        ],
    )
    print()
    benchmark.print_table(
        "First call, work and memory",
        ("method", "batch", "cold s", "warm s", "GFLOP", "% of product", "MiB", "% of copy", "peak MiB"),
        [
            (
                row.label,
                str(row.batch),
                *map(digits, (row.first_call_cold_s, row.first_call_warm_s, row.gflop, 100 * row.product_share)),
                *map(digits, (row.dot_mib, 100 * row.copy_share, row.peak_mib)),
            )
            for row in rows
        ],
    )
    rules = {
        row.label: (
            row.label,
            row.selection,
            str(row.candidates),
            str(row.network_evaluations),
            str(row.published_dispatches or "-"),
            digits(row.score),
            digits(row.score_std),
        )
        for row in rows
    }
    print()
    benchmark.print_table(
        "Evaluation rule, network evaluations per action, dispatches as published, and score",
        ("method", "selection", "candidates", "evaluations", "dispatches", "score", "±"),
        rules.values(),
        text_columns=2,
    )
    print("\n" + "\n".join(f"- {note}" for note in notes))


def latency_figure(rows: Sequence[Latency]) -> "Figure":
    """A panel per batch size: the median of every method, with a line to the 95th percentile."""
    batches = list(dict.fromkeys(row.batch for row in rows))
    names = list(dict.fromkeys(row.label for row in rows))
    figure = new_figure(2.2 + 2.8 * len(batches), 1.3 + 0.36 * len(names))
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for panel, batch in zip(panels, batches, strict=True):
        for row in rows:
            if row.batch == batch:
                place = names.index(row.label)
                panel.plot([row.p50_ms, row.p95_ms or row.p50_ms], [place, place], color=BLUE, linewidth=1.5)
                panel.plot(row.p50_ms, place, "o", color=BLUE)
                panel.annotate(
                    benchmark.digits(row.p50_ms),
                    (row.p50_ms, place),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        times = [time for row in rows if row.batch == batch for time in (row.p50_ms, row.p95_ms or row.p50_ms)]
        log_scale(panel, min(times) / 1.5, max(times) * 1.5)
        panel.tick_params(axis="x", labelsize=8)
        panel.margins(y=0.12)
        panel.set_yticks(range(len(names)), names)
        panel.set_title(f"batch {batch}", fontsize=11)
        panel.set_xlabel("ms per call (line: to p95)")
        panel.grid(axis="x", color="#dddddd")
        panel.set_axisbelow(True)
    panels[0].invert_yaxis()
    return figure


def pareto_figure(points: Mapping[str, Latency]) -> "Figure":
    """Score over latency of the smallest batch, both measured; a line joins what no other point beats in both."""
    rows = list(points.values())
    places = [(row.p50_ms, row.score or 0.0) for row in rows]
    figure = new_figure(7.0, 4.6)
    panel = figure.subplots()
    front = sorted(place for place, is_front in zip(places, pareto_front(places), strict=True) if is_front)
    panel.step(*zip(*front, strict=True), where="post", color="#999999", linewidth=1.2, zorder=1)
    for (latency, score), (label, row) in zip(places, points.items(), strict=True):
        panel.errorbar(latency, score, yerr=row.score_std or None, fmt="o", color=BLUE, elinewidth=1.0, zorder=2)
        panel.annotate(label, (latency, score), xytext=(6, 5), textcoords="offset points", fontsize=8)
    times = [latency for latency, _ in places]
    log_scale(panel, min(times) / 1.5, max(times) * 4.0)
    panel.margins(y=0.12)
    panel.set_xlabel(f"ms per call of batch {rows[0].batch}, median")
    panel.set_ylabel("normalised score (bar: deviation over seeds)")
    panel.grid(color="#dddddd")
    panel.set_axisbelow(True)
    return figure


def main(args: flags.FlagValues) -> None:
    """Check everything, measure every method at every batch size, print, write."""
    batches = benchmark.parse_numbers("batch", args.batch, BATCHES)
    if args.plot is not None:
        check_plot(args.plot)
    chosen = subjects(args)
    folder = benchmark.prepare(args, NAME)
    rows_at_once = acting.rows_at_once(args.rows)
    cases = [subject.case for subject in chosen]
    facts: dict[str, Any] = {"matmul_precision": args.matmul_precision}
    facts |= {"preset": args.preset, "task": args.task} if args.runs is None else {"runs": args.runs}
    rows = benchmark.kept(args, folder, NAME, Latency, facts)
    there = {(row.label, row.batch) for row in rows}
    scores: dict[str, Scored] = {}
    asked = {
        f"{subject.case.label}, batch {batch}": (subject, batch)
        for subject in chosen
        for batch in batches
        if (subject.case.label, batch) not in there
    }

    def actor_of(one: tuple[Subject, int]) -> Actor:
        subject, batch = one
        return Actor(subject, batch, rows_at_once, args.as_published, is_started=args.compile_jobs == 1)

    with benchmark.Measuring(1 + len(asked), args.budget_s) as measuring:
        best = ceilings.measure(measuring)
        facts |= {"ceilings": best._asdict()}
        for name, actor in benchmark.compiled_ahead(actor_of, asked, args.compile_jobs, measuring):
            subject = actor.subject
            if subject.case.label not in scores:
                scores[subject.case.label] = acting.score(subject, args.episodes)
            scored = scores[subject.case.label]
            row = acting.measure(actor, best, args.calls, args.seconds, args.matmul_precision, scored)
            told = "" if row.score is None else f", score {row.score:.1f}"
            measuring.done(f"{name}: {benchmark.digits(row.p50_ms)} ms{told}")
            rows.append(row)
            notes = [*acting.notes(rows), *measuring.skipped]
            benchmark.write_results(folder, NAME, rows, cases, notes, facts)
    notes = [*acting.notes(rows), *measuring.skipped]
    benchmark.write_results(folder, NAME, rows, cases, notes, facts)
    print_tables(rows, notes)
    if args.plot is not None:
        points = acting.pareto_points(rows)
        with style("plot"), writable(args.plot, "plot"):
            write_figure(pareto_figure(points) if points else latency_figure(rows), args.plot)
    print(f"written to {folder / NAME}.csv and .json")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
