"""Measure what one update costs: time, matrix-product FLOPs and memory of every method, for one run and for several.

The program is the one that trains: minibatches gathered from data on the device, random numbers, the update, for one
run and for --runs runs mapped over seeds. Data are synthetic. Chunks of updates of both alternate in pairs; times and
their ratio are medians over the pairs. FLOPs are those of the update's matrix products, and their share is of what the
machine's best float32 product reaches. Copies of the data are counted in the compiled program of --runs runs.
Writes OUT/training.csv and OUT/training.json.

examples:
  python benchmarks/training.py --out=runs/training
  python benchmarks/training.py --out=runs/dac --methods=dac --runs=8 --pairs=9
  python benchmarks/training.py --out=runs/small --preset=quick --task=pendulum-mixed
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from diffjax.data.transitions import Transitions
from diffjax.launch import benchmark, cli
from diffjax.launch.benchmark import Case
from diffjax.numerics import random_key
from diffjax.training.batches import prepare
from diffjax.training.flops import period, update_flops
from diffjax.training.program import Program, RunSetup, TrainState, run_sharding, stack_setups
from diffjax.types import Spec

NAME = "training"
FLOP_STEPS = 60  # over which FLOPs are counted: a multiple of every interval of delayed updates up to 6
SMALLEST_PRODUCT, LARGEST_PRODUCT = 256, 16_384
LONGEST_PRODUCT_S = 0.3
MIB = 2**20


class Cost(NamedTuple):
    """A phase of a method; ``_1`` is one run, ``_all`` are all runs side by side."""

    method: str
    variant: str
    phase: str
    observation_dim: int
    action_dim: int
    batch_size: int
    runs: int
    devices: int  # that the runs are split over
    updates: int  # per chunk
    pairs: int
    ms_per_update_1: float
    ms_per_update_all: float
    ratio: float  # time of an update of all runs to that of one run
    updates_per_s_1: float
    updates_per_s_all: float  # of each run
    gflop_per_update: float  # matrix products of one run, mean over delayed updates
    ceiling_share_1: float
    ceiling_share_all: float
    compile_s_1: float
    compile_s_all: float
    data_mib: float
    arguments_mib_1: float
    arguments_mib_all: float
    temporary_mib_1: float
    temporary_mib_all: float
    data_copies: float  # in the program of all runs, arguments and temporaries


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    benchmark.define_flags(values)
    flags.DEFINE_integer("runs", 4, "Runs side by side, compared with a single one.", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("pairs", 5, "Pairs of chunks that are timed.", lower_bound=1, flag_values=values)
    flags.DEFINE_float(
        "seconds", 1.0, "Least time that a chunk of updates of a single run takes.", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_integer(
        "transitions", 1_000_000, "Transitions of the synthetic data.", lower_bound=1, flag_values=values
    )


def synthetic_data(spec: Spec, transitions: int) -> Transitions:
    """Normal observations and rewards, uniform actions; one transition in a hundred is terminal."""
    rng = np.random.default_rng(0)
    rows = transitions + 1
    terminal = rng.random(rows) < 0.01
    return Transitions(
        observation=rng.standard_normal((rows, spec.observation_dim), np.float32),
        action=2.0 * rng.random((rows, spec.action_dim), np.float32) - 1.0,
        reward=rng.standard_normal(rows, np.float32),
        terminal=terminal,
        end=terminal | (np.arange(rows) == transitions),
        row=np.arange(transitions, dtype=np.int32),
    )


def matmul_ceiling(measuring: benchmark.Measuring) -> dict[int, float]:
    """GFLOP/s of square float32 products by size, on one device; sizes double as long as a product is quick."""
    found = {}
    size, elapsed = SMALLEST_PRODUCT, 0.0
    multiply = jax.jit(jnp.matmul)
    while size <= LARGEST_PRODUCT and elapsed < LONGEST_PRODUCT_S:
        left, right = jax.random.normal(random_key(0), (2, size, size))
        benchmark.seconds(lambda: multiply(left, right))  # noqa: B023  called at once
        elapsed = min(benchmark.seconds(lambda: multiply(left, right)) for _ in range(5))  # noqa: B023
        found[size] = 2e-9 * size**3 / elapsed
        size *= 2
    measuring.done(f"float32 matrix product: {max(found.values()):,.0f} GFLOP/s")
    return found


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def advance(
    program: Program,
    phase: int,
    state: TrainState,
    start: Any,
    stop: Any,
    setup: RunSetup,
    data: Transitions,
) -> tuple[TrainState, Any]:
    """``program.advance`` as one function that can be compiled ahead of time."""
    return program.advance(phase, state, start, stop, setup, data)


class Memory(NamedTuple):
    """Bytes on a device that a compiled program reads and that it needs beside."""

    arguments: int
    temporary: int


def memory(compiled: Any) -> Memory:
    """What the compiler says."""
    analysis = compiled.memory_analysis()
    return Memory(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes)


class Trainer:
    """A number of runs of one phase, compiled, that goes on by chunks."""

    def __init__(self, case: Case, phase: int, spec: Spec, data: Transitions, runs: int) -> None:
        self.phase = phase
        self.program = Program(case.method, spec, case.protocol.sampling, run_sharding(runs))
        prepared = prepare(data, case.method.view, case.protocol.observation, action_clip=case.protocol.action_clip)
        setups = [RunSetup(random_key(seed), prepared.part, case.hyper) for seed in range(runs)]
        self.setup = self.program.place(stack_setups(setups))
        self.data = self.program.replicate(prepared.transitions)
        self.state = self.program.init(self.setup, self.data)
        self.step = 0
        self.compiled, self.compile_s = self.compile(self.data)

    def compile(self, data: Any) -> tuple[Any, float]:
        """The program for this data, or data of these shapes."""
        bounds = np.int32(0), np.int32(0)
        return benchmark.compile_program(advance, self.program, self.phase, self.state, *bounds, self.setup, data)

    def train(self, updates: int) -> float:
        """The next so many updates of every run; seconds that they took."""

        def chunk() -> TrainState:
            bounds = np.int32(self.step), np.int32(self.step + updates)
            self.state, _ = self.compiled(self.state, *bounds, self.setup, self.data)
            return self.state

        taken = benchmark.seconds(chunk)
        self.step += updates
        return taken

    def data_copies(self) -> float:
        """How often the program holds the data: what its memory grows by when the data do, in units of the data."""
        sharding = None if self.program.sharding is None else jax.tree.leaves(self.data)[0].sharding
        doubled = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((2 * x.shape[0], *x.shape[1:]), x.dtype, sharding=sharding), self.data
        )
        growth = sum(memory(self.compile(doubled)[0])) - sum(memory(self.compiled))
        return growth / num_bytes(self.data)


def num_bytes(data: Transitions) -> int:
    """Size of the data."""
    return sum(array.nbytes for array in jax.tree.leaves(data))


def measure(case: Case, phase: int, spec: Spec, data: Transitions, ceiling: float, args: flags.FlagValues) -> Cost:
    """Compile one run and all runs, warm up, and time them in alternation."""
    flops = update_flops(case.method, phase, spec, case.hyper, FLOP_STEPS)
    mean_flops, cycle = sum(flops) / len(flops), period(flops)
    single = Trainer(case, phase, spec, data, 1)
    every = Trainer(case, phase, spec, data, args.runs)
    single.train(cycle)
    every.train(cycle)
    updates = cycle
    while (taken := single.train(updates)) < args.seconds:  # the next length aims above the least time
        updates += cycle * max(1, int(min(1.2 * args.seconds / taken - 1.0, 9.0) * updates / cycle))
    times = np.array([(single.train(updates), every.train(updates)) for _ in range(args.pairs)])
    one, all_ = (float(median) for median in np.median(times, axis=0) / updates)
    devices = 1 if every.program.sharding is None else every.program.sharding.num_devices
    memory_1, memory_all = memory(single.compiled), memory(every.compiled)
    return Cost(
        case.name,
        case.variant,
        case.method.phases[phase].name,
        spec.observation_dim,
        spec.action_dim,
        case.hyper.batch_size,
        args.runs,
        devices,
        updates,
        args.pairs,
        ms_per_update_1=1e3 * one,
        ms_per_update_all=1e3 * all_,
        ratio=float(np.median(times[:, 1] / times[:, 0])),
        updates_per_s_1=1 / one,
        updates_per_s_all=1 / all_,
        gflop_per_update=1e-9 * mean_flops,
        ceiling_share_1=1e-9 * mean_flops / one / ceiling,
        ceiling_share_all=1e-9 * mean_flops * args.runs / all_ / (ceiling * devices),
        compile_s_1=single.compile_s,
        compile_s_all=every.compile_s,
        data_mib=num_bytes(data) / MIB,
        arguments_mib_1=memory_1.arguments / MIB,
        arguments_mib_all=memory_all.arguments / MIB,
        temporary_mib_1=memory_1.temporary / MIB,
        temporary_mib_all=memory_all.temporary / MIB,
        data_copies=every.data_copies(),
    )


def print_tables(labels: Sequence[str], rows: Sequence[Cost], notes: Sequence[str]) -> None:
    """Time; then work and memory. Two numbers in a cell are those of one run and of all."""
    digits = benchmark.digits
    runs = rows[0].runs

    def both(one: float, all_: float) -> str:
        return f"{digits(one)} / {digits(all_)}"

    benchmark.print_table(
        f"Time of 1 run / {runs} runs side by side",
        ("method", "ms per update", "updates/s", "ratio", "compile s"),
        [
            (
                label,
                both(row.ms_per_update_1, row.ms_per_update_all),
                both(row.updates_per_s_1, row.updates_per_s_all),
                digits(row.ratio),
                both(row.compile_s_1, row.compile_s_all),
            )
            for label, row in zip(labels, rows, strict=True)
        ],
    )
    print()
    benchmark.print_table(
        f"Work and memory (MiB) of 1 run / {runs} runs",
        ("method", "GFLOP", "% of ceiling", "arguments", "temporaries", "copies"),
        [
            (
                label,
                digits(row.gflop_per_update),
                both(100 * row.ceiling_share_1, 100 * row.ceiling_share_all),
                both(row.arguments_mib_1, row.arguments_mib_all),
                both(row.temporary_mib_1, row.temporary_mib_all),
                digits(row.data_copies),
            )
            for label, row in zip(labels, rows, strict=True)
        ],
    )
    print("\n" + "\n".join(f"- {note}" for note in notes))


def main(args: flags.FlagValues) -> None:
    """Check everything, measure the ceiling and every phase of every method, print, write."""
    spec = benchmark.task_spec(args)
    cases = benchmark.chosen_cases(args, lambda case: case.method.phases)
    folder = benchmark.prepare(args, NAME)
    data = synthetic_data(spec, args.transitions)
    labels, rows = [], []
    with benchmark.Measuring(1 + sum(len(case.method.phases) for case in cases)) as measuring:
        measuring.begin("matrix products")
        ceilings = matmul_ceiling(measuring)
        ceiling = max(ceilings.values())
        for case in cases:
            for phase, (name, *_) in enumerate(case.method.phases):
                label = case.label if len(case.method.phases) == 1 else f"{case.label} {name}"
                measuring.begin(label)
                row = measure(case, phase, spec, data, ceiling, args)
                measuring.done(f"{label}: {benchmark.digits(row.ms_per_update_1)} ms per update")
                labels.append(label)
                rows.append(row)
    notes = (
        f"synthetic data, {args.transitions:,} transitions of {spec.observation_dim} + {spec.action_dim} numbers, "
        f"{num_bytes(data) / MIB:.1f} MiB; copies: how often the program of {args.runs} runs holds them",
        f"GFLOP: matrix products of one update of one run; ceiling: {ceiling:,.0f} GFLOP/s, the best float32 product",
        f"updates/s of {args.runs} runs: of each; ratio: median over {args.pairs} pairs of chunks",
    )
    print_tables(labels, rows, notes)
    facts = {
        "preset": args.preset,
        "task": args.task,
        "matmul_precision": args.matmul_precision,
        "transitions": args.transitions,
        "matmul_gflop_per_s": ceilings,
    }
    benchmark.write_results(folder, NAME, rows, cases, notes, facts)
    print(f"written to {folder / NAME}.csv and .json")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
