"""What experiments would cost on this machine, from a short measurement of each method; nothing is written.

A method's program is compiled for a few runs on synthetic data of the task's sizes; some updates are timed, and some
steps of an evaluation. The rest is arithmetic: updates and evaluations to come, times what one takes for each run.
"""

import math
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import NamedTuple

import jax
import numpy as np

from diffjax.data.transitions import Dataset, Transitions, make_dataset
from diffjax.experiment.joint import Member, members_of, program_of, together
from diffjax.experiment.plan import Experiment, Plan, plan
from diffjax.experiment.prepare import make_ready, obtain_dataset
from diffjax.experiment.provenance import request
from diffjax.experiment.recorder import most_checkpoints
from diffjax.experiment.run import Left, what_is_left
from diffjax.methods.base import without_acting
from diffjax.numerics import check_platform, matmul_precision, pinned, random_key
from diffjax.records.folder import blocks_of, check_folder
from diffjax.tasks.registry import make_simulator
from diffjax.training.batches import join_data
from diffjax.training.evaluation import episode_keys, evaluate
from diffjax.training.memory import device_memory, fit, size_of
from diffjax.training.program import Program, RunSetup, TrainState, run_sharding, stack_runs
from diffjax.training.progress import Progress

ROWS, ROWS_MEANT = 100_000, 1_000_000
"""Of the synthetic data, and for how many the memory is said: as many as most of D4RL's files have."""
CPU_RUNS = 4  # that are measured side by side on a CPU, where the time grows with them; elsewhere all
PIECE_S, PIECES = 0.3, 5  # of updates that are timed
STEPS = 20  # of an evaluation that are timed
ROW_BYTES = 1024  # of results per run and evaluation


Range = tuple[float, float]
"""Seconds, from the fastest to the slowest that was measured."""


class Speed(NamedTuple):
    """What one update of each phase and one step of an evaluation took, with ``runs`` runs side by side."""

    name: str
    runs: int
    compiling: float
    updates: tuple[Range, ...]
    step: Range
    horizon: int  # steps of an episode at most
    state: int  # bytes for each run
    temporaries: int
    labels: int  # bytes of the state that grow with the data


class Forecast(NamedTuple):
    """What the runs that share a program will take; ``measured`` is whose updates were timed for that."""

    name: str
    runs: int
    at_once: int
    updates: int  # of each run, of all phases
    evaluations: int
    seconds: Range
    memory: int  # bytes of each device
    disk: int
    measured: str


class Forecasts(NamedTuple):
    """Of all programs; ``finished`` are experiments with nothing left to train."""

    programs: tuple[Forecast, ...]
    finished: tuple[str, ...]
    device_memory: int
    is_synthetic: bool  # some data were not read


@pinned()
def forecast(experiments: Sequence[Experiment], progress: Progress) -> Forecasts:
    """Measures, and says what is to come.

    Raises:
      UserError: for any mistake in a request or a folder that training would find without the data.
    """
    plans = [plan(experiment) for experiment in experiments]
    check_platform()
    for planned in plans:
        check_folder(planned.experiment.out, request(planned), planned.experiment.resume)
    plans = [planned.with_blocks(blocks_of(planned.experiment.out, request(planned))) for planned in plans]
    left = [what_is_left(planned) for planned in plans]
    speeds: dict[object, Speed] = {}
    found: list[Forecast] = []
    is_synthetic = False
    for numbers in together(plans):
        by_program: dict[object, list[tuple[Member, Left]]] = {}
        for number in (number for number in numbers if left[number].runs):
            progress.doing(f"checking {plans[number].name}")
            data = _data(plans[number])
            is_synthetic |= data.label == SYNTHETIC
            for member in members_of(make_ready(plans[number], data, _silent)):
                if left[number].groups[member.number][0]:
                    by_program.setdefault(program_of(member), []).append((member, left[number]))
        for members in by_program.values():
            first = members[0][0]
            kind = _kind(first)
            if kind not in speeds:
                with matmul_precision(first.ready.plan.experiment.matmul_precision):
                    speeds[kind] = measure([member for member, _ in members], progress)
                jax.clear_caches()
            found.append(_forecast(members, speeds[kind]))
    finished = tuple(planned.name for planned, one in zip(plans, left, strict=True) if not one.runs)
    return Forecasts(tuple(found), finished, device_memory(), is_synthetic)


def measure(members: Sequence[Member], progress: Progress) -> Speed:
    """Compiles the program of members for some of their runs, and times updates and an evaluation's first steps."""
    plan, lengths = members[0].ready.plan, members[0].lengths
    name, protocol = plan.name, plan.protocol
    progress.doing(f"compiling {name}")
    began = time.perf_counter()
    data, parts = join_data([member.data for member in members])
    setups = [
        RunSetup(random_key(run.seed), part, run.hyper)
        for member, part in zip(members, parts, strict=True)
        for run in member.trained
    ]
    wanted = len(setups) if jax.default_backend() != "cpu" else min(len(setups), CPU_RUNS)
    phases = [phase for phase, length in enumerate(lengths) if length]

    def program_for(runs: int) -> Program:
        return Program(plan.method, plan.spec, protocol.sampling, run_sharding(runs))

    use = fit(program_for, wanted, phases, stack_runs(setups[:wanted]), data, device_memory())
    program = program_for(use.runs)
    setup, placed = program.place(stack_runs(setups[: use.runs])), program.replicate(data)
    state = program.init(setup, placed)
    labels = size_of(state.labels) // (use.runs * program.devices)
    compiling = time.perf_counter() - began
    progress.doing(f"timing {name}")
    times: list[Range] = []
    for phase in range(len(lengths)):
        if phase not in phases:
            times.append((0.0, 0.0))
            continue
        began = time.perf_counter()
        state, taken = _timed_updates(program, phase, state, setup, placed)
        compiling += max(0.0, time.perf_counter() - began - taken[0] - PIECES * PIECE_S)
        times.append(taken[1])
    step, horizon = (0.0, 0.0), 0
    if protocol.episodes:
        acting = state.acting(setup.hyper)
        keys = episode_keys(setup.key, 0, protocol.episodes)
        with closing(make_simulator(plan.task, use.runs * protocol.episodes)) as simulator:
            seconds: list[float] = []
            last = time.perf_counter()

            def stepped(number: int) -> None:
                nonlocal last
                seconds.append(time.perf_counter() - last)
                last = time.perf_counter()
                if number > STEPS:
                    raise _Enough

            with suppress(_Enough):
                evaluate(keys[: use.runs], program, acting, simulator, stepped)
            compiling += seconds[0]
            step = (float(np.quantile(seconds[1:], 0.25)), float(np.quantile(seconds[1:], 0.75)))
            horizon = simulator.horizon
    on_device = -(-use.runs // program.devices)
    return Speed(
        name,
        use.runs,
        compiling,
        tuple(times),
        step,
        horizon,
        use.state // on_device,
        use.temporaries // on_device,
        labels,
    )


class _Enough(Exception):
    """An evaluation was timed."""


def _timed_updates(
    program: Program, phase: int, state: TrainState, setup: RunSetup, data: Transitions
) -> tuple[TrainState, tuple[float, Range]]:
    """The state after some updates, seconds before the timing that were no compilation, and seconds of one update.

    From step 1 on, so that no labels are made: that is not in it.
    """
    position, count = 1, 1

    def train(updates: int) -> float:
        nonlocal state, position
        began = time.perf_counter()
        state, sums = program.advance(phase, state, position, position + updates, setup, data)
        jax.block_until_ready(sums)
        position += updates
        return time.perf_counter() - began

    train(1)
    spent = 0.0
    while (taken := train(count)) < PIECE_S:
        spent += taken
        count = math.ceil(count * min(10.0, 1.2 * PIECE_S / max(taken, 1e-6)))
    found = [taken / count, *(train(count) / count for _ in range(PIECES - 1))]
    return state, (spent, (min(found), max(found)))


def _kind(member: Member) -> object:
    """Programs whose updates take about the same time: what matters little are the sizes of the task."""
    planned = member.ready.plan
    return (
        planned.method,
        jax.tree.structure(without_acting(member.trained[0].hyper)),
        planned.protocol.sampling,
        planned.experiment.matmul_precision,
    )


def _forecast(members: Sequence[tuple[Member, Left]], speed: Speed) -> Forecast:
    """What is to come of a program, by what was measured of one like it."""
    first, plan = members[0][0], members[0][0].ready.plan
    runs = sum(left.groups[member.number][0] for member, left in members)
    trainings = sum(left.groups[member.number][1] for member, left in members)
    of_run = speed.state + speed.temporaries + speed.labels * (ROWS_MEANT // ROWS - 1)
    data = sum(_data_bytes(member) for member, _ in members)
    devices = len(jax.local_devices()[:trainings])
    room = max(1, (device_memory() - data) // of_run) * devices
    at_once = min(trainings, room, plan.experiment.max_runs_per_program or trainings)
    is_cpu = jax.default_backend() == "cpu"
    low = high = speed.compiling
    for phase, (fast, slow) in enumerate(speed.updates):
        of_runs = sum(left.groups[member.number][1] * left.lengths[phase] for member, left in members)
        longest = max(left.lengths[phase] for _, left in members)
        # On a CPU runs take their time one by one; elsewhere they are side by side as long as they were measured so.
        passes = of_runs / speed.runs if is_cpu else longest * max(1.0, trainings / speed.runs)
        low, high = low + passes * fast, high + passes * slow
    evaluations = [math.ceil(left.lengths[-1] / plan.protocol.eval_interval) for _, left in members]
    played = sum(
        left.groups[member.number][0] * count for (member, left), count in zip(members, evaluations, strict=True)
    )
    low, high = (
        total + speed.horizon * played / speed.runs * each for total, each in zip((low, high), speed.step, strict=True)
    )
    disk = sum(
        len(member.trained) * most_checkpoints(member) * (speed.state + speed.labels * (ROWS_MEANT // ROWS - 1))
        for member, _ in members
    )
    return Forecast(
        first.name if len(members) == 1 else f"{first.name} and {len(members) - 1} more",
        runs,
        at_once,
        max(sum(left.lengths) for _, left in members),
        max(evaluations),
        (low, high),
        data + of_run * -(-at_once // devices),
        disk + played * ROW_BYTES,
        speed.name,
    )


SYNTHETIC = "synthetic"
"""The label of data that stand for those of a task."""


def _data(planned: Plan) -> Dataset:
    """The task's sizes, in rows of noise; a data set of a task without a simulator is read, for nothing else has them.

    Raises:
      UserError: that cannot be read.
    """
    if not planned.task.env_id:
        return obtain_dataset(planned, lambda task, progress: None, _silent)
    spec, horizon = planned.spec, planned.task.horizon or 1000
    rng = np.random.default_rng(0)
    end = np.arange(1, ROWS + 1) % horizon == 0
    end[-1] = True
    rows = Transitions(
        observation=rng.standard_normal((ROWS, spec.observation_dim), np.float32),
        action=2.0 * rng.random((ROWS, spec.action_dim), np.float32) - 1.0,
        reward=rng.integers(0, 2, ROWS).astype(np.float32),
        terminal=np.zeros(ROWS, bool),
        end=end,
        row=np.flatnonzero(~end).astype(np.int32),
    )
    return make_dataset(rows, SYNTHETIC, SYNTHETIC, "row {}".format)


def _data_bytes(member: Member) -> int:
    """Of a member's data, or of as many rows as they stand for."""
    scale = ROWS_MEANT // ROWS if member.ready.config.dataset.label == SYNTHETIC else 1
    return scale * size_of(member.data.transitions)


def _silent(line: str) -> None:
    """Of what was not asked for nothing is said."""
