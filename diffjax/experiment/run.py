"""One experiment: a method on a task, all its runs, from data to evaluated and recorded results."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.filters import top_percent
from diffjax.data.load import load_dataset
from diffjax.data.rewards import reward_affine
from diffjax.data.transitions import Dataset, Transitions
from diffjax.envs.base import VectorSimulator
from diffjax.experiment.plan import Experiment, Group, Plan, phase_lengths, plan
from diffjax.experiment.provenance import describe
from diffjax.methods.base import Metrics
from diffjax.records.folder import Evaluation, ResultsFolder, Rows, RunStatus, open_folder, read_status
from diffjax.records.loggers import LoggedRun, Loggers
from diffjax.tasks.default_data import MakeData, default_dataset
from diffjax.tasks.registry import make_simulator, normalized_score, with_references
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.evaluation import Episodes, evaluate
from diffjax.training.program import (
    NEVER,
    Program,
    RunSetup,
    TrainState,
    add_metrics,
    mean_metrics,
    pieces,
    run_sharding,
    stack_setups,
)
from diffjax.training.progress import Progress

PIECES = 20  # calls of the program per evaluation interval: progress is shown and Ctrl-C heard between them


def obtain_dataset(plan: Plan, make_data: MakeData, report: Callable[[str], None]) -> Dataset:
    """The data set that the user named, or the task's own; ``report`` takes a line about it, and warnings.

    Raises:
      UserError: if it cannot be had or does not fit the task.
    """
    experiment = plan.experiment
    if experiment.dataset is None:
        dataset = default_dataset(plan.task, make_data, mirror=experiment.mirror, report=report)
    else:
        dataset = load_dataset(
            experiment.dataset,
            plan.spec,
            horizon=plan.task.horizon,
            dataset_source=experiment.dataset_source,
            task_id=plan.task.id,
            report=report,
        )
    return dataset if experiment.top_percent is None else top_percent(dataset, experiment.top_percent)


def run_experiment(experiment: Experiment, progress: Progress, make_data: MakeData) -> ResultsFolder:
    """Trains and evaluates all runs of an experiment and records them in its folder.

    ``make_data`` makes the data of a task that has its own and none stored yet.

    Raises:
      UserError: for any mistake in the request, the data or the folder; nothing is overwritten then.
    """
    planned = plan(experiment)
    read: list[str] = []  # shown once nothing is left to refuse: a refusal is one line
    dataset = obtain_dataset(planned, make_data, read.append)
    planned = planned._replace(task=with_references(planned.task, dataset, experiment.ref_scores))
    runs_at_once = max(len(group.trained) for group in planned.groups)
    simulator = make_simulator(planned.task, runs_at_once * planned.protocol.episodes)
    config = describe(planned, dataset, simulator.version)
    simulator.close()
    folder = open_folder(experiment.out, config, experiment.resume)
    for line in read:
        progress.note(line)
    with jax.default_matmul_precision(experiment.matmul_precision):
        _Recorder(planned, dataset, folder, config, progress).train()
    return folder


class _Position(NamedTuple):
    """How far a group has come: ``phase`` and ``step`` within it, the checkpoint's number, why trainings failed."""

    phase: int
    step: int
    number: int
    failures: dict[int, str]


class _Machine(NamedTuple):
    """Everything that trains a group and lets it act; ``acting`` has a setup per round."""

    program: Program
    data: Transitions
    acting: tuple[RunSetup, ...]

    @property
    def setup(self) -> RunSetup:
        """What is trained with: training reads nothing in which the rounds differ."""
        return self.acting[0]


class _Recorder:
    """Trains the groups of an experiment in order and keeps its folder true.

    Order at the end of each evaluation interval: evaluate, append rows, write status, save the checkpoint, which
    records how many rows stand. What lies beyond the checkpoint is cut on resume.
    """

    def __init__(
        self,
        planned: Plan,
        dataset: Dataset,
        folder: ResultsFolder,
        config: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.plan = planned
        self.dataset = dataset
        self.folder = folder
        self.config = config
        self.progress = progress
        self.lengths = phase_lengths(planned.method, planned.protocol)
        self.status = {run[:2]: run.status for run in read_status(folder.path)}

    def train(self) -> None:
        """Trains what is not yet trained; rows that no checkpoint vouches for are cut first."""
        experiment = self.plan.experiment
        self.folder.truncate(self.committed_rows())
        for index, group in enumerate(self.plan.groups):
            machine = self.assemble(group)
            name = f"{self.plan.task.id} {experiment.method}"
            if experiment.variant:
                name += f" ({self.plan.variant})"
            with self.checkpoints(index) as checkpoints:
                state, position = self.begin(machine, checkpoints)
                done = sum(self.lengths[: position.phase]) + position.step
                self.progress.begin(name, len(group.trained), sum(self.lengths), done)
                with self.loggers(group, done) as loggers:
                    self.train_group(group, machine, state, position, checkpoints, loggers)
        self.progress.end()

    def loggers(self, group: Group, done: int) -> Loggers:
        """The loggers of a group; none for one that has nothing left to train."""
        names = self.plan.experiment.log if done < sum(self.lengths) else ()
        hyper = self.config["hyper"]
        runs = [LoggedRun(run.seed, run.setting, hyper[run.setting]) for run in group.runs]
        phases = dict(zip((phase.name for phase in self.plan.method.phases), self.lengths, strict=True))
        return Loggers(names, self.folder, self.config, runs, phases)

    def checkpoints(self, index: int) -> Checkpoints:
        """The checkpoints of a group."""
        return Checkpoints(self.folder.checkpoints / str(index))

    def committed_rows(self) -> Rows:
        """Rows of the folder that stood when the newest checkpoint was made."""
        rows = Rows(0, 0)
        for index in range(len(self.plan.groups)):
            with self.checkpoints(index) as checkpoints:
                number = checkpoints.latest()
                if number is not None:
                    rows = Rows(*checkpoints.record(number)["rows"])
        return rows

    def assemble(self, group: Group) -> _Machine:
        """Arrays and program of a group."""
        planned, protocol = self.plan, self.plan.protocol
        scale, shift = reward_affine(protocol.reward, self.dataset.transitions)
        program = Program(planned.method, planned.spec, protocol.sampling, run_sharding(len(group.trained)))

        def setup(hypers: tuple[Any, ...]) -> RunSetup:
            single = [
                RunSetup(
                    key=jax.random.key(run.seed),
                    offset=jnp.int32(0),
                    size=jnp.int32(self.dataset.transitions.row.size),
                    reward_scale=jnp.float32(scale),
                    reward_shift=jnp.float32(shift),
                    action_clip=jnp.float32(protocol.action_clip),
                    hyper=hyper,
                )
                for run, hyper in zip(group.trained, hypers, strict=True)
            ]
            return program.place(stack_setups(single))

        acting = tuple(setup(one.hyper) for one in group.rounds)
        return _Machine(program, program.replicate(self.dataset.transitions), acting)

    def begin(self, machine: _Machine, checkpoints: Checkpoints) -> tuple[TrainState, _Position]:
        """A fresh state, or the newest checkpoint's."""
        state = machine.program.init(machine.setup)
        number = checkpoints.latest()
        if number is None:
            return state, _Position(0, 0, 0, {})
        state, record = checkpoints.restore(number, state)
        failures = {int(number): reason for number, reason in record["failures"].items()}
        return state, _Position(record["phase"], record["step"], number, failures)

    def train_group(
        self,
        group: Group,
        machine: _Machine,
        state: TrainState,
        position: _Position,
        checkpoints: Checkpoints,
        loggers: Loggers,
    ) -> None:
        """Runs a group to its end."""
        protocol = self.plan.protocol
        last_phase = len(self.lengths) - 1
        remaining = list(self.intervals(position))
        self.update_status(group, position.failures, complete=not remaining)
        simulator = make_simulator(self.plan.task, len(group.trained) * protocol.episodes)
        try:
            for phase, start, stop in remaining:
                failed = position.failures
                if len(failed) == len(group.trained):
                    break
                state, sums = self.advance(machine, phase, state, start, stop)
                failed = failed | self.new_failures(group, phase, state, failed)
                metrics, rows = self.append_metrics(group, phase, stop, sums), []
                if phase == last_phase:
                    played = self.play(group, machine, state, simulator, stop)
                    rows = self.append_evaluations(group, stop, played, failed, simulator)
                loggers.add(metrics, rows)
                self.update_status(group, failed, phase == last_phase and stop == self.lengths[phase])
                position = _Position(phase, stop, position.number + 1, failed)
                record = {
                    "phase": phase,
                    "step": stop,
                    "rows": list(self.folder.rows()),
                    "failures": {str(number): reason for number, reason in failed.items()},
                }
                checkpoints.save(position.number, state, record)
        finally:
            simulator.close()

    def intervals(self, position: _Position) -> Iterator[tuple[int, int, int]]:
        """(phase, start, stop) of every evaluation interval still to come."""
        interval = self.plan.protocol.eval_interval
        for phase in range(position.phase, len(self.lengths)):
            start = position.step if phase == position.phase else 0
            stops = [*range(interval, self.lengths[phase], interval), self.lengths[phase]]
            bounds = [start, *(stop for stop in stops if stop > start)]
            yield from ((phase, first, last) for first, last in itertools.pairwise(bounds))

    def advance(
        self, machine: _Machine, phase: int, state: TrainState, start: int, stop: int
    ) -> tuple[TrainState, Metrics]:
        """One evaluation interval, in pieces between which progress is shown."""
        state = state._replace(first_bad_step=jnp.full_like(state.first_bad_step, NEVER))
        sums: Metrics | None = None
        for first, last in pieces(start, stop, PIECES):
            state, piece = machine.program.advance(phase, state, first, last, machine.setup, machine.data)
            sums = add_metrics(sums, piece)
            jax.block_until_ready(sums)
            self.progress.advance(last - first)
        assert sums is not None
        return state, sums

    def play(
        self, group: Group, machine: _Machine, state: TrainState, simulator: VectorSimulator, step: int
    ) -> Episodes:
        """Episodes of all runs, ``(runs, episodes)``: every training plays once for each way of acting."""
        episodes = self.plan.protocol.episodes
        returns = np.zeros((len(group.runs), episodes))
        lengths = np.zeros((len(group.runs), episodes), np.int64)
        for acting, setup in zip(group.rounds, machine.acting, strict=True):
            played = evaluate(machine.program, state, setup, simulator, step, episodes)
            for run in acting.runs:
                returns[run] = played.returns[group.training[run]]
                lengths[run] = played.lengths[group.training[run]]
        return Episodes(returns, lengths)

    def new_failures(self, group: Group, phase: int, state: TrainState, failed: dict[int, str]) -> dict[int, str]:
        """Trainings that met a non-finite number in this interval, with the reason; each is said aloud."""
        name = self.plan.method.phases[phase].name
        failures = {}
        for number, step in enumerate(np.asarray(state.first_bad_step).tolist()):
            if number not in failed and step != NEVER:
                failures[number] = f"non-finite loss or parameter at {name} step {step}"
                run = group.trained[number]
                setting = f" ({run.setting})" if run.setting else ""
                self.progress.note(f"seed {run.seed}{setting} failed: {failures[number]}; the others go on")
        return failures

    def append_metrics(self, group: Group, phase: int, step: int, sums: Metrics) -> dict[str, Any]:
        """One record per interval: means over its updates, one value per run."""
        means = mean_metrics(sums)
        record = {
            "phase": self.plan.method.phases[phase].name,
            "step": step,
            "seeds": [run.seed for run in group.runs],
            "settings": [run.setting for run in group.runs],
            "metrics": {name: values[list(group.training)] for name, values in means.items()},
        }
        self.folder.append_metrics([record])
        return record

    def append_evaluations(
        self,
        group: Group,
        step: int,
        played: Episodes,
        failed: dict[int, str],
        simulator: VectorSimulator,
    ) -> list[Evaluation]:
        """One row per run that has not failed."""
        planned, experiment = self.plan, self.plan.experiment
        scores = np.array([normalized_score(planned.task, value) for value in played.returns.mean(axis=1)])
        rows = []
        for index, run in enumerate(group.runs):
            if group.training[index] in failed:
                scores[index] = np.nan
                continue
            cost = planned.method.cost(run.hyper)
            rows.append(
                Evaluation(
                    method=experiment.method,
                    variant=planned.variant,
                    preset=experiment.preset,
                    tuning=planned.tuning,
                    task=planned.task.id,
                    dataset=self.dataset.label,
                    dataset_fingerprint=self.dataset.fingerprint,
                    env=planned.task.env_id,
                    simulator=simulator.version,
                    seed=run.seed,
                    setting=run.setting,
                    step=step,
                    episodes=played.returns.shape[1],
                    return_mean=float(played.returns[index].mean()),
                    return_std=float(played.returns[index].std()),
                    length_mean=float(played.lengths[index].mean()),
                    score=float(scores[index]),
                    candidates=cost.candidates,
                    network_evaluations=cost.network_evaluations,
                    selection=cost.selection,
                )
            )
        self.folder.append_evaluations(rows)
        self.progress.evaluated(step, scores)
        return rows

    def update_status(self, group: Group, failed: dict[int, str], complete: bool) -> None:
        """Rewrites ``status.json``."""
        for index, run in enumerate(group.runs):
            reason = failed.get(group.training[index])
            status = f"failed: {reason}" if reason else ("complete" if complete else "running")
            self.status[run.seed, run.setting] = status
        self.folder.write_status(RunStatus(seed, setting, status) for (seed, setting), status in self.status.items())
