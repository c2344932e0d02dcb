"""Measure what one action costs: latency, and actions per second, of every method under its paper's evaluation rule.

A call takes observations in host memory and ends when their actions are back there: it draws its random numbers,
denoises all candidates and ranks them. Parameters are freshly initialised: the time does not depend on them.
Calls vary: see the medians (p50) and, from 20 calls on, the 95th percentiles (p95); compilation is apart.
Writes OUT/inference.csv and OUT/inference.json.

examples:
  python benchmarks/inference.py --out=runs/inference
  python benchmarks/inference.py --out=runs/hopper --task=hopper-medium-v2 --methods=dac,dtql,dtql:one_action --batch=1
  python benchmarks/inference.py --out=runs/few --methods=dtql --set candidates=64 --plot=latency.png
"""

import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from diffjax.files import writable
from diffjax.launch import benchmark, cli
from diffjax.launch.benchmark import Case
from diffjax.numerics import random_key
from diffjax.results.pictures import BLUE, check_plot, log_scale, new_figure, style, write_figure
from diffjax.types import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "inference"
# States times candidates. Wider batches are mapped over slices: memory is bounded, and on a CPU activations stay in
# its caches.
ROWS_ON_CPU, ROWS_ELSEWHERE = 2048, 131_072
LEAST_CALLS = 3
LEAST_CALLS_OF_P95 = 20
NOTES = (
    "freshly initialised parameters: the time does not depend on them",
    "a call: observations in host memory to actions in host memory, random numbers drawn within",
    "slice: how many states of the batch are computed at once",
    f"p95 from {LEAST_CALLS_OF_P95} calls on; actions/s: over all calls; compilation is apart",
)


class Latency(NamedTuple):
    """A method at one batch size."""

    method: str
    variant: str
    observation_dim: int
    action_dim: int
    candidates: int
    network_evaluations: int  # per action, one after the other
    selection: str
    batch: int
    slice: int  # states computed at once
    calls: int
    p50_ms: float
    p95_ms: float | None
    actions_per_s: float
    compile_s: float | None  # None where programs were compiled side by side


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    benchmark.define_flags(values)
    benchmark.define_haste_flags(values)
    flags.DEFINE_string("batch", "1,64,1024", "N,N,...: How many states one call decides on.", flag_values=values)
    flags.DEFINE_integer("calls", 200, "Calls that are timed, after warm-up.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "rows",
        None,
        "States times candidates that are computed at once; larger batches are computed slice by slice. Default: "
        f"{ROWS_ON_CPU} on CPUs, else {ROWS_ELSEWHERE}.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "seconds",
        10.0,
        f"Time for the calls of one measurement; slow ones get fewer calls then, but {LEAST_CALLS}.",
        lower_bound=0.0,
        flag_values=values,
    )
    cli.define_path(values, "plot", "FILE: Draw the latencies as FILE.png, FILE.svg or FILE.pdf (needs matplotlib).")


def states_at_once(batch: int, candidates: int, rows: int) -> int:
    """The batch in even slices of at most ``rows`` candidates, or of one state."""
    slices = math.ceil(batch / max(1, rows // candidates))
    return math.ceil(batch / slices)


def act_program(case: Case, spec: Spec, batch: int, at_once: int) -> Any:
    """Jitted ``(state, hyper, key, number, observation (batch, observation_dim)) -> action (batch, action_dim)``."""

    def act(state: Any, hyper: Any, key: jax.Array, number: jax.Array, observation: jax.Array) -> jax.Array:
        def decide(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
            return case.method.sample_action(inputs[0], spec, state, hyper, inputs[1])

        key = jax.random.fold_in(key, number)
        if batch == 1:
            return decide((key, observation[0]))[None]
        inputs = jax.random.split(key, batch), observation
        return jax.vmap(decide)(inputs) if at_once == batch else jax.lax.map(decide, inputs, batch_size=at_once)

    return jax.jit(act)


class Actor:
    """A method with fresh parameters at one batch size, compiled."""

    def __init__(self, case: Case, spec: Spec, batch: int, rows: int) -> None:
        self.case, self.spec, self.batch = case, spec, batch
        self.cost = case.method.cost(case.hyper)
        self.at_once = states_at_once(batch, self.cost.candidates, rows)
        hyper = jax.tree.map(jnp.asarray, case.hyper)
        init_key, act_key = jax.random.split(random_key(0))
        self.arguments = case.method.init(init_key, spec, hyper), hyper, act_key
        self.observation = np.random.default_rng(0).normal(size=(batch, spec.observation_dim)).astype(np.float32)
        self.compiled, self.compile_s = benchmark.compile_program(
            act_program(case, spec, batch, self.at_once), *self.arguments, np.int32(0), self.observation
        )

    def act(self, number: int) -> np.ndarray:
        """Actions in host memory, ``(batch, action_dim)``."""
        return np.asarray(self.compiled(*self.arguments, np.int32(number), self.observation))


def measure(actor: Actor, calls: int, budget_s: float) -> Latency:
    """Warm up, and time as many calls as asked for, or as the time allows."""

    def timed(count: int) -> list[float]:
        times = []
        for number in range(count):
            start = time.perf_counter()
            actor.act(number)
            times.append(time.perf_counter() - start)
        return times

    (first,) = timed(1)
    estimate = first if first > budget_s / LEAST_CALLS else min(timed(LEAST_CALLS))
    calls = max(min(calls, LEAST_CALLS), min(calls, int(budget_s / estimate)))
    timed(calls // 10)
    times = np.array(timed(calls))
    return Latency(
        actor.case.name,
        actor.case.variant,
        actor.spec.observation_dim,
        actor.spec.action_dim,
        *actor.cost,
        actor.batch,
        actor.at_once,
        calls,
        p50_ms=1e3 * float(np.median(times)),
        p95_ms=1e3 * float(np.percentile(times, 95)) if calls >= LEAST_CALLS_OF_P95 else None,
        actions_per_s=actor.batch * calls / float(times.sum()),
        compile_s=actor.compile_s,
    )


def print_tables(labels: Sequence[str], rows: Sequence[Latency], notes: Sequence[str]) -> None:
    """The times; then what each method does for one action."""
    digits = benchmark.digits
    benchmark.print_table(
        "Latency of one call, and actions per second",
        ("method", "batch", "p50 ms", "p95 ms", "actions/s", "calls", "slice", "compile s"),
        [
            (
                label,
                str(row.batch),
                digits(row.p50_ms),
                digits(row.p95_ms),
                digits(row.actions_per_s),
                str(row.calls),
                str(row.slice),
                digits(row.compile_s),
            )
            for label, row in zip(labels, rows, strict=True)
        ],
    )
    rules = {
        label: (label, row.selection, str(row.candidates), str(row.network_evaluations))
        for label, row in zip(labels, rows, strict=True)
    }
    print()
    benchmark.print_table(
        "Evaluation rule, and network evaluations per action",
        ("method", "selection", "candidates", "evaluations"),
        rules.values(),
        text_columns=2,
    )
    print("\n" + "\n".join(f"- {note}" for note in notes))


def latency_figure(labels: Sequence[str], rows: Sequence[Latency]) -> "Figure":
    """A panel per batch size: the median of every method, with a line to the 95th percentile."""
    batches = list(dict.fromkeys(row.batch for row in rows))
    names = list(dict.fromkeys(labels))
    figure = new_figure(2.2 + 2.8 * len(batches), 1.3 + 0.36 * len(names))
    panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    for panel, batch in zip(panels, batches, strict=True):
        for label, row in zip(labels, rows, strict=True):
            if row.batch == batch:
                place = names.index(label)
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


def main(args: flags.FlagValues) -> None:
    """Check everything, measure every method at every batch size, print, write."""
    spec, batches = benchmark.task_spec(args), benchmark.parse_numbers("batch", args.batch, "1,64,1024")
    cases = benchmark.chosen_cases(
        args, lambda case: (case.method.draw_action, case.method.act, case.method.cost(case.hyper))
    )
    if args.plot is not None:
        check_plot(args.plot)
    folder = benchmark.prepare(args, NAME)
    rows_at_once = args.rows or (ROWS_ON_CPU if jax.default_backend() == "cpu" else ROWS_ELSEWHERE)
    facts = {"preset": args.preset, "task": args.task, "matmul_precision": args.matmul_precision}
    labels: list[str] = []
    rows: list[Latency] = []
    asked = {f"{case.label}, batch {batch}": (case, batch) for case in cases for batch in batches}

    def actor_of(chosen: tuple[Case, int]) -> Actor:
        case, batch = chosen
        return Actor(case, spec, batch, rows_at_once)

    with benchmark.Measuring(len(asked), args.budget_s) as measuring:
        for name, actor in benchmark.compiled_ahead(actor_of, asked, args.compile_jobs, measuring):
            row = measure(actor, args.calls, args.seconds)
            if args.compile_jobs > 1:
                row = row._replace(compile_s=None)
            measuring.done(f"{name}: {benchmark.digits(row.p50_ms)} ms")
            labels.append(actor.case.label)
            rows.append(row)
            benchmark.write_results(folder, NAME, rows, cases, [*NOTES, *measuring.skipped], facts)
    benchmark.write_results(folder, NAME, rows, cases, [*NOTES, *measuring.skipped], facts)
    print_tables(labels, rows, [*NOTES, *measuring.skipped])
    if args.plot is not None:
        with style("plot"), writable(args.plot, "plot"):
            write_figure(latency_figure(labels, rows), args.plot)
    print(f"written to {folder / NAME}.csv and .json")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
