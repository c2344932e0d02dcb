"""Measure everything that matters on a machine that is at hand for minutes: one command, stages by priority.

(device) versions, best matrix products and copy per precision; (goldens) the tests against the authors' recordings,
run on the device; (training) updates of 1, 8 and 64 runs per precision; (inference) latency per method and per choice
that acting has, such as the sampler; (runs) a real training, evaluated where there is a simulator; (grid) the time of
the Gym tasks extrapolated, with its arithmetic. Each stage has a share of the budget and writes OUT/STAGE.csv and .json
when it is done; what it had no time for is named there. OUT/table.md sums all up anew after each stage. At the end of
the budget the program ends, whatever it does then. Name OUT after day and device to keep it.

examples:
  python benchmarks/accelerator.py --out=benchmarks/results/2026-12-01_h100 --budget_s=480
  python benchmarks/accelerator.py --out=runs/few --methods=dtql,iql --precisions=highest,high --stages=training,grid
  python benchmarks/accelerator.py --out=runs/tiny --preset=quick --methods=bc --runs=1,2 --batch=1,4 --transitions=1000
"""

import dataclasses
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from absl import flags

from diffjax import library
from diffjax.errors import UserError, first_line
from diffjax.experiment.settings import resolve
from diffjax.launch import benchmark, cli
from diffjax.launch.benchmark import Case
from diffjax.launch.flags import MATMUL_PRECISIONS
from diffjax.launch.stop import TRY_AGAIN, leave
from diffjax.measure import acting, card, ceilings, training
from diffjax.measure.acting import Actor, Latency, Subject
from diffjax.measure.ceilings import Ceilings
from diffjax.measure.training import Cost, Trainer
from diffjax.numerics import matmul_precision
from diffjax.tasks.registry import Task, get_task, make_simulator, suite_tasks

METHODS_TRAINED = "dac,dtql,diffcps,diffpogan,iql,fql"
METHODS_RUN = "dtql,diffcps"
BATCHES, RUNS = "1,64,1024", "1,8,64"
# By when a stage is to be done, as a share of the budget; what is measured then, is measured to its end.
SHARES = {"device": 0.1, "goldens": 0.25, "training": 0.5, "inference": 0.7, "runs": 0.93, "grid": 1.0}
USED_BY_UPDATES = 0.6  # of a real run's time; the rest is compiling, evaluating and saving
GRID_SUITE, GRID_SEEDS, NIGHT_HOURS = "locomotion", 5, 8
TESTS = Path(__file__).parents[1] / "tests"


class Device(NamedTuple):
    """The ceilings at one precision of matrix products."""

    matmul_precision: str
    gflop_per_s: float
    copy_gb_per_s: float


class Golden(NamedTuple):
    """The tests of one file against recordings."""

    file: str
    passed: int
    failed: int
    skipped: int
    is_finished: bool
    seconds: float
    failures: str  # names of tests


class RealRun(NamedTuple):
    """A training of several seeds side by side."""

    method: str
    task: str
    dataset: str
    matmul_precision: str
    seeds: int
    updates: int
    published_updates: int
    hours: float  # with compiling, evaluating and saving
    updates_per_s: float  # of each run, without these
    evaluation_share: float
    episodes: int
    score: float | None
    score_std: float | None  # over the seeds, population


class GridTime(NamedTuple):
    """How long the Gym tasks take, extrapolated."""

    method: str
    matmul_precision: str
    runs: int
    hours: float
    arithmetic: str


class Clock:
    """The budget, from when the program began; at its end the process ends, whatever it does."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s, self._start = budget_s, time.perf_counter()
        self._timer = threading.Timer(budget_s, self._end)
        self._timer.daemon = True
        self._timer.start()

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._start

    def left_s(self, stage: str) -> float:
        """Until a stage is to be done."""
        return max(0.0, SHARES[stage] * self.budget_s - self.elapsed_s)

    def say(self, text: str) -> None:
        """A line with the time."""
        print(f"[{self.elapsed_s:.0f} of {self.budget_s:.0f} s] {text}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """All is done in time."""
        self._timer.cancel()

    def _end(self) -> None:
        self.say("the budget is spent; stages that were done are written")
        leave(TRY_AGAIN)


class Progress(benchmark.Measuring):
    """Measurements of a stage, a line each with how long the others will take at this pace."""

    def __init__(self, clock: Clock, stage: str, total: int) -> None:
        super().__init__(total, clock.left_s(stage))
        self._clock, self._stage, self._total, self._done = clock, stage, total, 0
        self._began = clock.elapsed_s

    def done(self, text: str) -> None:
        """One measurement is there."""
        self._done += 1
        pace = (self._clock.elapsed_s - self._began) / self._done
        left = min(pace * (self._total - self._done), self._clock.left_s(self._stage))
        self._clock.say(f"{self._stage} {self._done}/{self._total}, about {left:.0f} s left: {text}")


class Session(NamedTuple):
    """What all stages share."""

    args: flags.FlagValues
    folder: Path
    clock: Clock
    precisions: tuple[str, ...]  # the first one that of what is measured once
    task: Task
    found: dict[str, Any]  # rows of stages that later ones read
    ceilings: dict[str, Ceilings]  # by precision

    @property
    def precision(self) -> str:
        """That of what is measured once."""
        return self.precisions[0]

    @property
    def jobs(self) -> int:
        """Programs that are compiled side by side."""
        return int(self.args.compile_jobs)


class Stage(NamedTuple):
    """What a stage leaves."""

    rows: Sequence[NamedTuple]
    cases: Sequence[Case] = ()
    notes: Sequence[str] = ()
    facts: dict[str, Any] = {}  # noqa: RUF012  never changed


def define_flags(values: flags.FlagValues) -> None:
    """Define this benchmark's flags."""
    benchmark.define_flags(values)
    benchmark.define_haste_flags(values)
    values["budget_s"].default, values["budget_s"].value = 480.0, 480.0
    flags.DEFINE_string("stages", ",".join(SHARES), "NAME,...: Which stages.", flag_values=values)
    flags.DEFINE_string(
        "precisions",
        None,
        "NAME,...: Precisions of matrix products that are compared; all else is measured at the first. Default: "
        f"--matmul_precision, and on accelerators all of {', '.join(MATMUL_PRECISIONS)}.",
        flag_values=values,
    )
    cli.define_path(
        values, "goldens", "DIR: Recordings of the authors' programs; default: tests/goldens beside this program."
    )
    flags.DEFINE_string("runs", RUNS, "N,N,...: Runs side by side that are timed.", flag_values=values)
    flags.DEFINE_integer("transitions", 1_000_000, "Transitions of the synthetic data.", 1, flag_values=values)
    flags.DEFINE_float("seconds", 1.0, "Least time of a chunk of updates, most of the calls.", 0.0, flag_values=values)
    flags.DEFINE_string("batch", BATCHES, "N,N,...: How many states one call decides on.", flag_values=values)
    flags.DEFINE_integer("calls", 200, "Calls that are timed, after warm-up.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("run_methods", METHODS_RUN, "NAME,...: Methods that really train.", flag_values=values)
    flags.DEFINE_string(
        "dataset", None, "ID_OR_PATH: What they learn from; default: the embedded pendulum's data.", flag_values=values
    )
    flags.DEFINE_string(
        "run_task", None, "ID: Their task. Default: pendulum-mixed, with --dataset --task.", flag_values=values
    )
    flags.DEFINE_integer("run_seeds", 8, "Their runs side by side.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("run_updates", None, "Most of their updates; default: the preset's.", 1, flag_values=values)
    flags.DEFINE_integer(
        "episodes", 10, "Episodes of each run at its end; 0: no simulator.", lower_bound=0, flag_values=values
    )


def device_stage(session: Session) -> Stage:
    """Both ceilings at every precision."""
    rows = []
    with Progress(session.clock, "device", len(session.precisions)) as measuring:
        for precision in session.precisions:
            with matmul_precision(precision):
                best = ceilings.measure(measuring)
            session.ceilings[precision] = best
            rows.append(Device(precision, best.gflop_per_s, best.copy_gb_per_s))
    return Stage(rows, facts=_ceilings(session))


def golden_command(file: Path) -> list[str]:
    """How a file of tests is run, compiled as users do, several tests at a time where that can be."""
    workers = min(8, (os.cpu_count() or 1) // 2)
    at_once = ["-n", str(workers)] if workers > 1 and importlib.util.find_spec("xdist") else []
    options = ("-v", "--optimised", "-p", "no:cacheprovider", "--tb=no")
    return [sys.executable, "-m", "pytest", str(file), *options, *at_once]


def golden_stage(session: Session) -> Stage:
    """The golden tests in processes of their own, on the device of this one."""
    goldens = Path(session.args.goldens or TESTS / "goldens")
    files = sorted(TESTS.glob("test_golden_*.py"))
    if not goldens.is_dir():
        raise UserError(f"no recordings at {goldens}; name their folder with --goldens=DIR")
    if not files or importlib.util.find_spec("pytest") is None:
        raise UserError('the golden tests lie beside the sources and need pytest; install it with pip install ".[dev]"')
    variables = os.environ | {
        "DIFFJAX_GOLDENS": str(goldens.resolve()),
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),  # else the tests would take the CPU
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # beside what this process holds
        "PYTHONPATH": str(TESTS.parent),
    }
    rows, skipped = [], []
    with Progress(session.clock, "goldens", len(files)) as measuring:
        for file in files:
            if measuring.is_over():
                skipped.append(file.name)
                continue
            row = _golden(file, variables, session.clock.left_s("goldens"))
            measuring.done(f"{file.name}: {row.passed} passed, {row.failed} failed")
            rows.append(row)
    notes = [f"no time for {', '.join(skipped)}"] if skipped else []
    return Stage(rows, notes=notes, facts={"goldens": goldens.name, "platform": jax.default_backend()})


def _golden(file: Path, variables: dict[str, str], limit_s: float) -> Golden:
    begin = time.perf_counter()
    process = subprocess.Popen(
        golden_command(file),
        env=variables,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        text, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        text, _ = process.communicate()
    seconds = time.perf_counter() - begin
    found = outcomes(text)
    counted = [list(found.values()).count(word) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")]
    names = [name for name, word in found.items() if word in ("FAILED", "ERROR")]
    is_finished = process.returncode in (0, 1)
    passed, failed, errors, skipped = counted
    return Golden(file.name, passed, failed + errors, skipped, is_finished, seconds, " ".join(names))


def outcomes(text: str) -> dict[str, str]:
    """Of each test what became of it, by the lines that pytest prints with -v, in one process or several."""
    alone = re.findall(r"^\S+?::(.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE)
    by_workers = re.findall(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED) \S+?::(.+?) *$", text, re.MULTILINE)
    return dict(alone) | {name: word for word, name in by_workers}


Item = TypeVar("Item")
Made = TypeVar("Made")


def attempted(make: Callable[[Item], Made]) -> Callable[[Item], Made | RuntimeError]:
    """What is made, or why the device could not: one program that is too large takes no other with it."""

    def made(item: Item) -> Made | RuntimeError:
        try:
            return make(item)
        except RuntimeError as error:
            return error

    return made


def training_stage(session: Session) -> Stage:
    """Updates of every phase at every number of runs, one precision after the other."""
    args = session.args
    cases = benchmark.chosen_cases(args, lambda case: case.method.phases)
    counts = benchmark.parse_numbers("runs", args.runs, RUNS)
    data = {case.spec: [training.synthetic_data(case.spec, args.transitions)] for case in cases}
    phases = training.phases_of(cases)
    asked = {
        f"{label}, {precision}": (*chosen, precision)
        for precision in session.precisions
        for label, chosen in phases.items()
    }
    first = next(iter(asked))

    def trainers_of(one: tuple[Case, int, str]) -> list[Trainer]:
        case, phase, precision = one
        is_started = session.jobs == 1  # what starts drops other programs from memory
        with matmul_precision(precision):
            return [Trainer(case, phase, data[case.spec], runs, False, is_started) for runs in counts]

    rows: list[Cost] = []
    failed: list[str] = []
    with Progress(session.clock, "training", len(asked)) as measuring:
        for label, trainers in benchmark.compiled_ahead(attempted(trainers_of), asked, session.jobs, measuring):

            def measured(found: list[Trainer], label: str = label) -> list[Cost]:
                case, phase, precision = asked[label]
                with matmul_precision(precision):
                    if label == first and session.jobs > 1:  # how long a start takes is told of one
                        found[0] = Trainer(case, phase, data[case.spec], counts[0], False, True)
                    best, is_first = session.ceilings[precision], precision == session.precision
                    return training.measure(case, found, best, args.seconds, 3, precision, is_first)

            found = trainers if isinstance(trainers, RuntimeError) else attempted(measured)(trainers)
            if isinstance(found, RuntimeError):
                failed.append(f"{label}: {first_line(found)}")
                continue
            rows += found
            session.found["training"] = rows
            times = ", ".join(f"{row.runs} runs {benchmark.digits(row.run_updates_per_s)}" for row in found)
            measuring.done(f"{label}: run-updates/s: {times}")
    facts = {"preset": args.preset, "task": args.task, "transitions": args.transitions}
    return Stage(rows, cases, [*failed, *measuring.skipped], facts | _ceilings(session))


def _ceilings(session: Session) -> dict[str, Any]:
    return {"ceilings": session.ceilings[session.precision]._asdict()}


def acting_choices(args: flags.FlagValues, case: Case, task: Task) -> Iterator[Case]:
    """A method as it acts, and with every other choice by name that acting has, one at a time."""
    yield case
    for field in dataclasses.fields(case.hyper):
        if field.metadata.get("acting"):
            for choice in field.metadata.get("choices", ()):
                if choice != getattr(case.hyper, field.name):
                    try:
                        yield benchmark.make_case(args, case.name, case.variant, task, f"{field.name}={choice}")
                    except UserError:  # a choice that goes with other settings only
                        continue


def inference_stage(session: Session) -> Stage:
    """Latency of every method and choice, batch by batch."""
    args = session.args
    batches = benchmark.parse_numbers("batch", args.batch, BATCHES)
    chosen = benchmark.chosen_cases(args, lambda case: (case.method.act, case.method.cost(case.hyper)))
    cases = [one for case in chosen for one in acting_choices(args, case, session.task)]
    asked = {f"{case.label}, batch {batch}": (acting.fresh(case), batch) for batch in batches for case in cases}
    rows_at_once = acting.rows_at_once(None)

    def actor_of(one: tuple[Subject, int]) -> Actor:
        with matmul_precision(session.precision):
            return Actor(*one, rows_at_once, as_published=True, is_started=session.jobs == 1)

    rows: list[Latency] = []
    failed: list[str] = []
    best = session.ceilings[session.precision]

    def measured(actor: Actor) -> Latency:
        return acting.measure(actor, best, args.calls, args.seconds, session.precision, acting.Scored())

    with (
        matmul_precision(session.precision),
        Progress(session.clock, "inference", len(asked)) as measuring,
    ):
        for label, actor in benchmark.compiled_ahead(attempted(actor_of), asked, session.jobs, measuring):
            row = actor if isinstance(actor, RuntimeError) else attempted(measured)(actor)
            if isinstance(row, RuntimeError):
                failed.append(f"{label}: {first_line(row)}")
                continue
            rows.append(row)
            measuring.done(f"{label}: {benchmark.digits(row.p50_ms)} ms")
    notes = [*acting.notes(rows), *failed, *measuring.skipped]
    return Stage(rows, cases, notes, {"preset": args.preset, "task": args.task} | _ceilings(session))


def runs_stage(session: Session) -> Stage:
    """Real trainings, as many updates as the time that is left allows at the measured pace."""
    args, clock = session.args, session.clock
    methods = cli.parse_list("run_methods", args.run_methods)
    task = args.run_task or (args.task if args.dataset else "pendulum-mixed")
    episodes = args.episodes if args.episodes and _has_simulator(get_task(task)) else 0
    rows, notes = [], []
    with Progress(clock, "runs", len(methods)) as measuring:
        for number, method in enumerate(methods):
            share = clock.left_s("runs") / (len(methods) - number)
            planned = _planned_run(session, method, task, share * USED_BY_UPDATES)
            if planned is None:
                notes.append(f"{method}: no time for a run, or its updates were not timed")
                continue
            row = _real_run(session, method, task, episodes, planned)
            rows.append(row)
            measuring.done(f"{method}: {row.updates:,} updates, score {benchmark.digits(row.score)}")
    if not episodes:
        notes.append("not evaluated: no simulator, or --episodes=0")
    return Stage(rows, notes=notes)


class PlannedRun(NamedTuple):
    """How long a run trains; settings that keep earlier phases in proportion."""

    updates: int
    published_updates: int
    settings: dict[str, Any]


def _planned_run(session: Session, method: str, task: str, time_s: float) -> PlannedRun | None:
    """As many updates as fit into some seconds, by what an update of so many runs took or of the next more."""
    found: Sequence[Cost] = session.found.get("training", ())
    own = [row for row in found if (row.method, row.matmul_precision) == (method, session.precision)]
    many = [row.runs for row in own if row.runs >= session.args.run_seeds] or [row.runs for row in own]
    if not many:
        return None
    protocol = resolve(method, get_task(task).id, session.args.preset).protocol
    most = min(session.args.run_updates or protocol.steps, protocol.steps)
    shares = {"main": 1.0}
    for name, steps in protocol.phase_steps.items():
        shares[name] = steps if steps < 1 else steps / protocol.steps
    paces = {row.phase: 1e-3 * row.ms_per_update for row in own if row.runs == min(many)}
    if paces.keys() != shares.keys():
        return None
    updates = min(most, int(time_s / sum(share * paces[name] for name, share in shares.items())))
    settings = {f"{name}_steps": round(share * updates) for name, share in shares.items() if name != "main"}
    return PlannedRun(updates, protocol.steps, settings) if updates else None


def _real_run(session: Session, method: str, task: str, episodes: int, planned: PlannedRun) -> RealRun:
    args = session.args
    out = session.folder / "trained" / method
    begin = time.perf_counter()
    settings = cli.parse_settings(args.set) | planned.settings
    trained = library.train(
        method,
        task,
        dataset=args.dataset,
        preset=args.preset,
        seeds=args.run_seeds,
        out=out,
        matmul_precision=session.precision,
        progress=False,
        steps=planned.updates,
        eval_interval=planned.updates,
        episodes=episodes,
        **settings,
    )
    scores = list(trained.scores.values())
    execution = trained.config.execution
    assert execution is not None
    return RealRun(
        method,
        task,
        trained.config.dataset.label,
        session.precision,
        args.run_seeds,
        planned.updates,
        planned.published_updates,
        (time.perf_counter() - begin) / 3600,
        execution.updates_per_second,
        execution.evaluation_share,
        episodes,
        statistics.fmean(scores) if scores else None,
        statistics.pstdev(scores) if scores else None,
    )


def _has_simulator(task: Task) -> bool:
    try:
        with closing(make_simulator(task, 1)):
            return True
    except (UserError, ImportError):
        return False


def grid_stage(session: Session) -> Stage:
    """Hours of the Gym tasks by what updates took, every product of it written out."""
    found: Sequence[Cost] = session.found.get("training", ())
    if not found:
        raise UserError("no update was timed; the stage training comes before")
    tasks = [get_task(name) for name in suite_tasks(GRID_SUITE)]
    sizes: dict[tuple[int, int], int] = {}
    for task in tasks:
        size = task.observation_dim, task.action_dim
        sizes[size] = sizes.get(size, 0) + 1
    methods: dict[tuple[str, str], list[Cost]] = {}
    for row in found:
        methods.setdefault((row.label.removesuffix(f" {row.phase}"), row.matmul_precision), []).append(row)
    rows = []
    for (label, precision), own in methods.items():
        hours, terms = 0.0, []
        for (observed, acted), count in sizes.items():
            runs = count * GRID_SEEDS
            for phase in dict.fromkeys(row.phase for row in own):
                timed = [row for row in own if row.phase == phase]
                row = max((row for row in timed if row.runs <= runs), key=lambda row: row.runs, default=timed[0])
                hours += runs * row.phase_updates / row.run_updates_per_s / 3600
                terms.append(
                    f"{count} tasks of {observed} + {acted} x {GRID_SEEDS} seeds x {row.phase_updates:,} {phase} "
                    f"updates / {row.run_updates_per_s:,.1f} run-updates/s ({row.runs} at a time)"
                )
        arithmetic = f"{precision}: {' + '.join(terms)} = {hours:.2f} h"
        rows.append(GridTime(label, precision, len(tasks) * GRID_SEEDS, hours, arithmetic))
    first = [row for row in rows if row.matmul_precision == session.precision]
    total = sum(row.hours for row in first)
    note = (
        f"{' + '.join(row.method for row in first)} at {session.precision}: {total:.2f} h, of a night of "
        f"{NIGHT_HOURS} h; updates as those of the sizes that were timed; evaluating, compiling, saving not counted"
    )
    return Stage(rows, notes=[note])


STAGES: dict[str, Callable[[Session], Stage]] = {
    "device": device_stage,
    "goldens": golden_stage,
    "training": training_stage,
    "inference": inference_stage,
    "runs": runs_stage,
    "grid": grid_stage,
}


def main(args: flags.FlagValues) -> None:
    """Check everything, then stage by stage: measure, write, sum up."""
    stages = cli.parse_list("stages", args.stages, STAGES)
    if "device" not in stages:
        stages = ("device", *stages)
    if args.methods is None:
        args["methods"].value = METHODS_TRAINED
    benchmark.chosen_cases(args, lambda case: case.name)
    task = get_task(args.task)
    precisions = args.precisions and cli.parse_list("precisions", args.precisions, MATMUL_PRECISIONS)
    for flag, example in (("runs", RUNS), ("batch", BATCHES)):
        benchmark.parse_numbers(flag, str(args[flag].value), example)
    clock = Clock(args.budget_s)
    try:
        folder = benchmark.prepare(args, "device")
        benchmark.results_folder(args.out, [f"{name}.json" for name in stages])
        is_cpu = jax.default_backend() == "cpu"
        if not precisions:
            others = () if is_cpu else MATMUL_PRECISIONS
            precisions = tuple(dict.fromkeys((args.matmul_precision, *others)))
        if not args["compile_jobs"].present and not is_cpu:
            args["compile_jobs"].value = min(8, os.cpu_count() or 1)
        session = Session(args, folder, clock, precisions, task, {}, {})
        for name in sorted(stages, key=list(STAGES).index):
            run_stage(session, name)
        print(card.write(folder).read_text(), end="")
    finally:
        clock.stop()


def run_stage(session: Session, name: str) -> None:
    """One stage: what it leaves is written once it is done, or a line says why there is nothing."""
    clock = session.clock
    if clock.left_s(name) == 0.0:
        clock.say(f"{name}: no time left")
        return
    try:
        done = STAGES[name](session)
        facts = {"matmul_precision": session.precision, **done.facts}
        benchmark.write_results(session.folder, name, done.rows, done.cases, done.notes, facts)
    except (UserError, RuntimeError) as error:
        clock.say(f"{name}: left out: {first_line(error)}")
        return
    card.write(session.folder)
    clock.say(f"{name}: written to {session.folder / name}.json")


if __name__ == "__main__":
    sys.exit(cli.launch(main, define_flags, description=__doc__, required=("out",)))
