"""What one update costs: time, work and memory of a phase of a method, for any number of runs and several data sets."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.experiment.plan import phase_lengths
from diffjax.launch import benchmark
from diffjax.launch.benchmark import Case
from diffjax.losses import return_to_go
from diffjax.measure import programs
from diffjax.measure.ceilings import Ceilings
from diffjax.methods.base import labelling_phase
from diffjax.numerics import random_key
from diffjax.training.batches import Prepared, join_data, prepare, whole_data
from diffjax.training.flops import by_step, dot_bytes, dot_flops, period, update_program
from diffjax.training.program import Program, RunSetup, TrainState, run_sharding, stack_runs, update_run
from diffjax.types import Batch, Spec

FLOP_STEPS = 60  # over which work is counted: a multiple of every interval of delayed updates up to 6


class Cost(NamedTuple):
    """A phase of a method at one number of runs side by side; ``label`` is how tables call it."""

    label: str
    method: str
    variant: str
    setting: str
    task: str
    phase: str
    phase_updates: int  # that the preset asks for
    observation_dim: int
    action_dim: int
    batch_size: int
    matmul_precision: str
    runs: int
    tasks: int  # data sets that the runs learn from
    devices: int  # that the runs are split over
    updates: int  # per chunk
    rounds: int
    ms_per_update: float  # of all runs
    ratio: float  # to the time with the first number of runs
    updates_per_s: float  # of each run
    run_updates_per_s: float  # of all runs together
    published_ms: float | None  # of an update of one run by a loop on the host
    gain: float | None  # run-updates/s against those of this loop
    first_update_cold_s: float | None  # None where programs were compiled side by side, as the next two
    first_update_warm_s: float | None
    compile_s: float | None
    gflop_per_update: float  # matrix products of one run, mean over delayed updates
    xla_gflop: float | None
    dot_mib: float  # operands and results of these products
    xla_mib: float | None
    ceiling_share: float
    copy_share: float
    gflop_per_s: float  # of the best product in the same process
    copy_gb_per_s: float
    data_mib: float
    arguments_mib: float
    temporary_mib: float
    peak_mib: float
    peak_source: str
    data_copies: float | None  # arguments and temporaries; with the most runs


def synthetic_data(spec: Spec, transitions: int, seed: int = 0) -> Transitions:
    """Normal observations and rewards, uniform actions; one transition in a hundred is terminal."""
    rng = np.random.default_rng(seed)
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


class Trainer:
    """A number of runs of one phase, compiled, that goes on by chunks.

    They learn from the data sets in turn, which lie one after the other in one buffer.
    """

    def __init__(
        self, case: Case, phase: int, data: Sequence[Transitions], runs: int, copies: bool, is_started: bool
    ) -> None:
        self.phase, self.runs, self.tasks = phase, runs, len(data)
        self.program = Program(case.method, case.spec, case.protocol.sampling, run_sharding(runs))
        held, parts = join_data(prepared(case, data))
        setups = [RunSetup(random_key(seed), parts[seed % len(parts)], case.hyper) for seed in range(runs)]
        self.setup = self.program.place(stack_runs(setups))
        self.data = self.program.replicate(held)
        self.peak_before = programs.device_peak()
        self.compile_s: list[float] = []

        def start() -> tuple[Any, TrainState]:
            state = self.program.init(self.setup, self.data)
            compiled, taken = self._compile(state, self.data)
            self.compile_s.append(taken)
            return compiled, compiled(state, np.int32(0), np.int32(1), self.setup, self.data)[0]

        self.starts = programs.Starts()
        (self.compiled, self.state), self.starts = programs.started(start) if is_started else (start(), self.starts)
        self.step = 1
        self.data_copies = self._data_copies() if copies else None

    def _compile(self, state: Any, data: Any) -> tuple[Any, float]:
        """The program for this data, or data of these shapes."""
        bounds = np.int32(0), np.int32(0)
        return benchmark.compile_program(advance, self.program, self.phase, state, *bounds, self.setup, data)

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
        grown, now = (programs.analysis(one) for one in (self._compile(self.state, doubled)[0], self.compiled))
        growth = grown.arguments_mib + grown.temporary_mib - now.arguments_mib - now.temporary_mib
        return programs.MIB * growth / num_bytes(self.data)


def prepared(case: Case, data: Sequence[Transitions]) -> list[Prepared]:
    """The data sets as a method's runs see them."""
    view = case.method.view.sized(case.hyper)
    return [prepare(one, view, case.protocol.observation, action_clip=case.protocol.action_clip) for one in data]


def num_bytes(data: Transitions) -> int:
    """Size of the data."""
    return sum(array.nbytes for array in jax.tree.leaves(data))


_update = jax.jit(update_run, static_argnums=(0, 1), donate_argnums=3)


class HostTrainer:
    """One run trained as published programs do: rows chosen and copied by NumPy, a call per update, metrics read.

    The data lie in host memory as a run sees them; a minibatch goes to the device for every update, and the update's
    metrics come back before the next begins.
    """

    def __init__(self, trainer: Trainer, case: Case) -> None:
        self.program, self.phase = trainer.program._replace(sharding=None), trainer.phase
        self.view = case.method.view.sized(case.hyper)
        self.batch_size = case.method.phases[self.phase].batch_size(case.hyper)
        one = jax.tree.map(lambda leaf: leaf[:1], trainer.setup)
        self.run = jax.tree.map(lambda leaf: leaf[0], one)
        state = self.program.init(one, trainer.data)
        self.state = jax.tree.map(lambda leaf: leaf[0], state.method)
        labelling = labelling_phase(case.method, self.phase)
        labels = labelling and jax.tree.map(lambda leaf: leaf[0], state.labels[labelling.name])
        whole = whole_data(trainer.data, self.run.data, labels)
        if self.view.return_to_go:
            whole = whole._replace(return_to_go=return_to_go(whole.reward, trainer.data.end, self.run.hyper.discount))
        if self.view.next_action:
            whole = whole._replace(next_action=jnp.roll(whole.action, -1, axis=0))
        self.whole: Batch = jax.device_get(whole)
        self.rows = np.asarray(trainer.data.row)[: int(self.run.data.size)]
        self.rng = np.random.default_rng(0)
        self.step = 0
        self.train(1)  # compiles

    def train(self, updates: int) -> float:
        """The next so many updates; seconds that they took."""
        begin = time.perf_counter()
        for _ in range(updates):
            batches = tuple(self._batch() for _ in range(self.view.batches))
            step = np.int32(self.step)
            self.state, metrics = _update(self.program, self.phase, step, self.state, self.run, batches)
            jax.device_get(metrics)
            self.step += 1
        return time.perf_counter() - begin

    def _batch(self) -> Batch:
        row = self.rows[self.rng.integers(0, self.rows.size, self.batch_size)]
        if self.view.horizon != 1:
            row = row[:, None] + np.arange(self.view.horizon)
        return jax.tree.map(lambda leaf: leaf[row], self.whole)


def host_trainer(trainer: Trainer, case: Case) -> HostTrainer | None:
    """One run of a phase by a loop on the host; None where windows may run past their trajectories."""
    return None if trainer.program.method.view.sized(case.hyper).padded else HostTrainer(trainer, case)


def measure(
    case: Case,
    trainers: Sequence[Trainer],
    ceilings: Ceilings,
    seconds: float,
    rounds: int,
    precision: str,
    as_published: bool,
) -> list[Cost]:
    """Warm up, and time all numbers of runs of one phase in turns, and one run by a loop on the host."""
    first = trainers[0]
    spec, phase = case.spec, first.phase
    program = update_program(case.method, phase, spec, case.hyper)
    flops, moved = (by_step(count, program, FLOP_STEPS) for count in (dot_flops, dot_bytes))
    gflop, gb, cycle = 1e-9 * sum(flops) / len(flops), 1e-9 * sum(moved) / len(moved), period(flops)
    for trainer in trainers:
        trainer.train(cycle)
    updates = _updates(first.train, cycle, seconds)
    host = host_trainer(first, case) if as_published else None
    of_host = 0 if host is None else _updates(host.train, cycle, seconds)
    turns: list[list[float]] = []
    published: list[float] = []
    for _ in range(rounds):
        turns.append([trainer.train(updates) / updates for trainer in trainers])
        if host is not None:
            published.append(host.train(of_host) / of_host)
    times = np.array(turns)
    published_s = float(np.median(published)) if published else None
    rows = []
    for number, trainer in enumerate(trainers):
        taken = float(np.median(times[:, number]))
        said = programs.analysis(trainer.compiled)
        rate = trainer.runs / taken
        rows.append(
            Cost(
                label=label_of(case, phase),
                method=case.name,
                variant=case.variant,
                setting=case.setting,
                task=case.task,
                phase=case.method.phases[phase].name,
                phase_updates=phase_lengths(case.method, case.protocol)[phase],
                observation_dim=spec.observation_dim,
                action_dim=spec.action_dim,
                batch_size=case.hyper.batch_size,
                matmul_precision=precision,
                runs=trainer.runs,
                tasks=trainer.tasks,
                devices=trainer.program.devices,
                updates=updates,
                rounds=rounds,
                ms_per_update=1e3 * taken,
                ratio=float(np.median(times[:, number] / times[:, 0])),
                updates_per_s=1 / taken,
                run_updates_per_s=rate,
                published_ms=None if published_s is None else 1e3 * published_s,
                gain=None if published_s is None else rate * published_s,
                first_update_cold_s=trainer.starts.cold_s,
                first_update_warm_s=trainer.starts.warm_s,
                compile_s=None if trainer.starts.cold_s is None else trainer.compile_s[0],
                gflop_per_update=gflop,
                xla_gflop=said.gflop,
                dot_mib=1e9 * gb / programs.MIB,
                xla_mib=said.mib,
                ceiling_share=gflop * rate / (ceilings.gflop_per_s * trainer.program.devices),
                copy_share=gb * rate / (ceilings.copy_gb_per_s * trainer.program.devices),
                gflop_per_s=ceilings.gflop_per_s,
                copy_gb_per_s=ceilings.copy_gb_per_s,
                data_mib=num_bytes(trainer.data) / programs.MIB,
                arguments_mib=said.arguments_mib,
                temporary_mib=said.temporary_mib,
                **programs.peak(trainer.peak_before, said)._asdict(),
                data_copies=trainer.data_copies,
            )
        )
    return rows


def _updates(train: Callable[[int], float], cycle: int, seconds: float) -> int:
    """Updates, a multiple of the cycle, that take so many seconds at least."""
    updates = cycle
    while (taken := train(updates)) < seconds:  # the next length aims above the least time
        updates += cycle * max(1, int(min(1.2 * seconds / taken - 1.0, 9.0) * updates / cycle))
    return updates


def phases_of(cases: Sequence[Case]) -> dict[str, tuple[Case, int]]:
    """Every phase of some methods, by its name."""
    return {label_of(case, phase): (case, phase) for case in cases for phase in range(len(case.method.phases))}


def label_of(case: Case, phase: int) -> str:
    """A phase as tables call it: as its method, unless that has several."""
    phases = case.method.phases
    return case.label if len(phases) == 1 else f"{case.label} {phases[phase].name}"
