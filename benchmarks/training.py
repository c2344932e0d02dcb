"""Measure what one update costs: time, matrix-product FLOPs and memory of every method, for one run and for several.

The program is the one that trains: minibatches gathered from data on the device, random numbers, the update, for each
number of --runs mapped over seeds. Data are synthetic. Chunks of updates of all these numbers take turns, round by
round; times and their ratios to the first number's are medians over the rounds. FLOPs are those of the update's matrix
products, and their share is of what the machine's best float32 product reaches at the precision chosen. Copies of the
data are counted in the compiled program of the most runs. Writes OUT/training.csv and OUT/training.json, anew after
every method.

examples:
  python benchmarks/training.py --out=runs/training
  python benchmarks/training.py --out=runs/dac --methods=dac --runs=1,8,64 --rounds=9
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
from diffjax.training.program import Program, RunSetup, TrainState, run_sharding, stack_runs
from diffjax.types import Spec

NAME = "training"
FLOP_STEPS = 60  # over which FLOPs are counted: a multiple of every interval of delayed updates up to 6
SMALLEST_PRODUCT, LARGEST_PRODUCT = 256, 16_384
LONGEST_PRODUCT_S = 0.05
MIB = 2**20


class Cost(NamedTuple):
    """A phase of a method at one number of runs side by side."""

    method: str
    variant: str
    phase: str
    observation_dim: int
    action_dim: int
    batch_size: int
    runs: int
    devices: int  # that the runs are split over
    updates: int  # per chunk
    rounds: int
    ms_per_update: float  # of all runs
    ratio: float  # to the time with the first number of runs
    updates_per_s: float  # of each run
    run_updates_per_s: float  # of all runs together
    gflop_per_update: float  # matrix products of one run, mean over delayed updates
    ceiling_share: float
    compile_s: float | None  # None where programs were compiled side by side
    data_mib: float
    arguments_mib: float
    temporary_mib: float
    data_copies: float | None  # arguments and temporaries; with the most runs


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    benchmark.define_flags(values)
    benchmark.define_haste_flags(values)
    flags.DEFINE_string("runs", "1,4", "N,N,...: Runs side by side, each compared with the first.", flag_values=values)
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

    def __init__(self, case: Case, phase: int, spec: Spec, data: Transitions, runs: int, copies: bool) -> None:
        self.phase = phase
        self.runs = runs
        self.program = Program(case.method, spec, case.protocol.sampling, run_sharding(runs))
        view = case.method.view.sized(case.hyper)
        prepared = prepare(data, view, case.protocol.observation, action_clip=case.protocol.action_clip)
        setups = [RunSetup(random_key(seed), prepared.part, case.hyper) for seed in range(runs)]
        self.setup = self.program.place(stack_runs(setups))
        self.data = self.program.replicate(prepared.transitions)
        self.state = self.program.init(self.setup, self.data)
        self.step = 0
        self.compiled, self.compile_s = self.compile(self.data)
        self.data_copies = self._data_copies() if copies else None

    @property
    def devices(self) -> int:
        """That the runs are split over."""
        return 1 if self.program.sharding is None else self.program.sharding.num_devices

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

    def _data_copies(self) -> float:
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


def measure(case: Case, trainers: Sequence[Trainer], ceiling: float, seconds: float, rounds: int) -> list[Cost]:
    """Warm up, and time all numbers of runs of one phase in turns."""
    first, *others = trainers
    spec, phase = first.program.spec, first.phase
    flops = update_flops(case.method, phase, spec, case.hyper, FLOP_STEPS)
    mean_flops, cycle = sum(flops) / len(flops), period(flops)
    for trainer in trainers:
        trainer.train(cycle)
    updates = cycle
    while (taken := first.train(updates)) < seconds:  # the next length aims above the least time
        updates += cycle * max(1, int(min(1.2 * seconds / taken - 1.0, 9.0) * updates / cycle))
    for trainer in others:
        trainer.train(cycle)
    times = np.array([[trainer.train(updates) for trainer in trainers] for _ in range(rounds)]) / updates
    rows = []
    for number, trainer in enumerate(trainers):
        taken = float(np.median(times[:, number]))
        used = memory(trainer.compiled)
        rows.append(
            Cost(
                case.name,
                case.variant,
                case.method.phases[phase].name,
                spec.observation_dim,
                spec.action_dim,
                case.hyper.batch_size,
                trainer.runs,
                trainer.devices,
                updates,
                rounds,
                ms_per_update=1e3 * taken,
                ratio=float(np.median(times[:, number] / times[:, 0])),
                updates_per_s=1 / taken,
                run_updates_per_s=trainer.runs / taken,
                gflop_per_update=1e-9 * mean_flops,
                ceiling_share=1e-9 * mean_flops * trainer.runs / taken / (ceiling * trainer.devices),
                compile_s=trainer.compile_s,
                data_mib=num_bytes(trainer.data) / MIB,
                arguments_mib=used.arguments / MIB,
                temporary_mib=used.temporary / MIB,
                data_copies=trainer.data_copies,
            )
        )
    return rows


def print_tables(labels: Sequence[str], rows: Sequence[Cost], notes: Sequence[str]) -> None:
    """Time; then work and memory."""
    digits = benchmark.digits
    benchmark.print_table(
        "Time of one update of all runs",
        ("method", "runs", "ms", "ratio", "updates/s", "run-updates/s", "compile s"),
        [
            (
                label,
                str(row.runs),
                digits(row.ms_per_update),
                digits(row.ratio),
                digits(row.updates_per_s),
                digits(row.run_updates_per_s),
                digits(row.compile_s),
            )
            for label, row in zip(labels, rows, strict=True)
        ],
    )
    print()
    benchmark.print_table(
        "Work and memory (MiB)",
        ("method", "runs", "GFLOP", "% of ceiling", "arguments", "temporaries", "copies"),
        [
            (
                label,
                str(row.runs),
                digits(row.gflop_per_update),
                digits(100 * row.ceiling_share),
                digits(row.arguments_mib),
                digits(row.temporary_mib),
                digits(row.data_copies),
            )
            for label, row in zip(labels, rows, strict=True)
        ],
    )
    print("\n" + "\n".join(f"- {note}" for note in notes))


def main(args: flags.FlagValues) -> None:
    """Check everything, measure the ceiling and every phase of every method, print, write."""
    spec, counts = benchmark.task_spec(args), benchmark.parse_numbers("runs", args.runs, "1,4")
    cases = benchmark.chosen_cases(args, lambda case: case.method.phases)
    folder = benchmark.prepare(args, NAME)
    data = synthetic_data(spec, args.transitions)
    phases = {
        case.label if len(case.method.phases) == 1 else f"{case.label} {name}": (case, phase)
        for case in cases
        for phase, (name, *_) in enumerate(case.method.phases)
    }
    notes = [
        f"synthetic data, {args.transitions:,} transitions of {spec.observation_dim} + {spec.action_dim} numbers, "
        f"{num_bytes(data) / MIB:.1f} MiB; copies: how often the program of {max(counts)} runs holds them",
        f"ratio: to the first number of runs, median over {args.rounds} rounds; updates/s: of each run",
    ]
    facts = {
        "preset": args.preset,
        "task": args.task,
        "matmul_precision": args.matmul_precision,
        "transitions": args.transitions,
    }
    labels: list[str] = []
    rows: list[Cost] = []

    def trainers_of(chosen: tuple[Case, int]) -> list[Trainer]:
        case, phase = chosen
        return [Trainer(case, phase, spec, data, runs, runs == max(counts)) for runs in counts]

    with benchmark.Measuring(1 + len(phases), args.budget_s) as measuring:
        measuring.begin("matrix products")
        ceilings = matmul_ceiling(measuring)
        notes.append(
            f"GFLOP: matrix products of one update of one run; ceiling: {max(ceilings.values()):,.0f} GFLOP/s, "
            f"the best float32 product at precision {args.matmul_precision}"
        )
        facts["matmul_gflop_per_s"] = ceilings
        for label, trainers in benchmark.compiled_ahead(trainers_of, phases, args.compile_jobs, measuring):
            found = measure(phases[label][0], trainers, max(ceilings.values()), args.seconds, args.rounds)
            if args.compile_jobs > 1:
                found = [row._replace(compile_s=None) for row in found]
            times = ", ".join(f"{row.runs} runs {benchmark.digits(row.ms_per_update)}" for row in found)
            measuring.done(f"{label}: ms per update: {times}")
            labels += [label] * len(found)
            rows += found
            benchmark.write_results(folder, NAME, rows, cases, [*notes, *measuring.skipped], facts)
    benchmark.write_results(folder, NAME, rows, cases, [*notes, *measuring.skipped], facts)
    print_tables(labels, rows, [*notes, *measuring.skipped])
    print(f"written to {folder / NAME}.csv and .json")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
