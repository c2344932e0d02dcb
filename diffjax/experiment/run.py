"""One experiment: a method on a task, all its runs, from data to evaluated and recorded results."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from diffjax.data.filters import top_percent
from diffjax.data.load import load_dataset
from diffjax.data.rewards import reward_affine
from diffjax.data.transitions import Dataset, Transitions
from diffjax.envs.base import VectorSimulator
from diffjax.experiment import rows
from diffjax.experiment.plan import Experiment, Group, Plan, phase_lengths, plan
from diffjax.experiment.provenance import describe, request
from diffjax.methods.base import CLONING_LOSS
from diffjax.methods.checks import check_shapes
from diffjax.numerics import check_platform, pinned, random_key
from diffjax.records.folder import ResultsFolder, Rows, check_folder, open_folder, read_status
from diffjax.records.loggers import Loggers
from diffjax.records.schema import Config, RunId, RunStatus
from diffjax.tasks.default_data import MakeData, default_dataset
from diffjax.tasks.registry import make_simulator, with_references
from diffjax.training.batches import Prepared, prepare
from diffjax.training.checkpoints import KEPT, Checkpoints
from diffjax.training.evaluation import Episodes, episode_keys, evaluate
from diffjax.training.loop import Interval, Position, bounds, intervals, updates_done
from diffjax.training.program import Program, RunSetup, TrainState, run_sharding, stack_setups
from diffjax.training.progress import Progress


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


@pinned()
def run_experiment(experiment: Experiment, progress: Progress, make_data: MakeData) -> ResultsFolder:
    """Trains and evaluates all runs of an experiment and records them in its folder.

    ``make_data`` makes the data of a task that has its own and none stored yet.

    Raises:
      UserError: for any mistake in the request, the data or the folder; nothing is written then.
    """
    planned = plan(experiment)
    check_platform()
    check_folder(experiment.out, request(planned), experiment.resume)
    about_data: list[str] = []  # said once nothing can be refused any more, so that a refusal is one line
    dataset = obtain_dataset(planned, make_data, about_data.append)
    planned = planned._replace(task=with_references(planned.task, dataset, experiment.ref_scores))
    protocol = planned.protocol
    reward = reward_affine(protocol.reward, dataset.transitions)
    data = prepare(dataset.transitions, planned.method.view, protocol.observation, reward, protocol.action_clip)
    runs_at_once = max(len(group.trained) for group in planned.groups)
    simulator = make_simulator(planned.task, runs_at_once * protocol.episodes)
    config = describe(planned, dataset, simulator.version)
    simulator.close()
    check_networks(planned)
    folder = open_folder(experiment.out, config, experiment.resume)
    for line in about_data:
        progress.note(line)
    with jax.default_matmul_precision(experiment.matmul_precision):
        _Recorder(planned, data, folder, config, progress).train()
    return folder


def check_networks(plan: Plan) -> None:
    """That the method fits together and the networks of every group can be made; shapes only."""
    metrics = (CLONING_LOSS,) if plan.protocol.selection == "offline" else ()
    first, *others = (group.runs[0].hyper for group in plan.groups)
    check_shapes(plan.experiment.method, plan.method, plan.spec, first, metrics)
    for hyper in others:
        jax.eval_shape(lambda hyper=hyper: plan.method.init(random_key(0), plan.spec, hyper))


class _Group(NamedTuple):
    """A group with everything that trains it and lets it act; ``acting`` has a setup per round."""

    group: Group
    runs: tuple[RunId, ...]
    program: Program
    data: Transitions
    acting: tuple[RunSetup, ...]

    @property
    def setup(self) -> RunSetup:
        """What is trained with: training reads nothing in which the rounds differ."""
        return self.acting[0]


class _Saved(NamedTuple):
    """What a checkpoint's record says: where training stands, its number, failures, the best evaluations."""

    position: Position = Position()
    number: int = 0
    failed: rows.Failures = MappingProxyType({})
    best: rows.Best = MappingProxyType({})


class _Recorder:
    """Trains the groups of an experiment in order and keeps its folder true.

    What lies beyond the newest checkpoint, which records how many rows stand, is cut on resume.
    """

    def __init__(
        self,
        planned: Plan,
        data: Prepared,
        folder: ResultsFolder,
        config: Config,
        progress: Progress,
    ) -> None:
        self.plan = planned
        self.data = data
        self.folder = folder
        self.config = config
        self.progress = progress
        self.lengths = phase_lengths(planned.method, planned.protocol)
        self.status = dict(read_status(folder.path))

    def train(self) -> None:
        """Trains what is not yet trained; rows that no checkpoint vouches for are cut first."""
        experiment = self.plan.experiment
        self.folder.truncate(self.committed_rows())
        for index, group in enumerate(self.plan.groups):
            assembled = self.assemble(group)
            name = f"{self.plan.task.id} {experiment.method}"
            if experiment.variant:
                name += f" ({self.plan.variant})"
            with self.checkpoints(index) as checkpoints:
                state, saved = self.begin(assembled, checkpoints)
                done = updates_done(self.lengths, saved.position)
                self.progress.begin(name, len(group.trained), sum(self.lengths), done)
                with self.loggers(assembled, done) as loggers:
                    self.train_group(assembled, state, saved, checkpoints, loggers)
        self.progress.end()

    def train_group(
        self, assembled: _Group, state: TrainState, saved: _Saved, checkpoints: Checkpoints, loggers: Loggers
    ) -> None:
        """Runs a group to its end: evaluate, rows, log, status, checkpoint, again and again."""
        group, runs, protocol = assembled.group, assembled.runs, self.plan.protocol
        failed, number, best = saved.failed, saved.number, saved.best
        is_done = not bounds(self.lengths, protocol.eval_interval, saved.position)
        self.write_status(rows.statuses(runs, group, failed, is_done))
        if is_done or len(failed) == len(group.trained):
            return
        self.say_what_is_kept(state, len(runs))
        with closing(make_simulator(self.plan.task, len(group.trained) * protocol.episodes)) as simulator:
            for interval in self.intervals(assembled, state, saved.position):
                phase = self.plan.method.phases[interval.phase].name
                found = rows.new_failures(phase, interval, failed)
                self.say(group, found)
                failed = {**failed, **found}

                number += 1
                metrics, evaluations = rows.metrics_record(phase, runs, group, interval), []
                if interval.is_main:
                    played = self.play(assembled, interval, simulator)
                    is_failed = [number in failed for number in group.training]
                    scores = np.where(is_failed, np.nan, rows.scores_of(self.plan.task, played))
                    steps = [interval.stop] * len(runs)
                    evaluations = rows.evaluation_rows(
                        self.config, self.plan.method, simulator.version, group.runs, steps, played, scores
                    )
                    best = rows.best_evaluations(best, scores, number)
                self.folder.append_metrics([metrics])
                if interval.is_main:
                    self.folder.append_evaluations(evaluations)
                    self.progress.evaluated(interval.stop, scores)
                loggers.add(metrics, evaluations)
                self.write_status(rows.statuses(runs, group, failed, interval.is_last))
                record = {
                    "phase": interval.phase,
                    "step": interval.stop,
                    "rows": list(self.folder.rows()),
                    "failures": {str(training): reason for training, reason in failed.items()},
                    "best": {str(run): list(one) for run, one in best.items()},
                }
                checkpoints.save(number, interval.state, record, self.kept(best))  # the commit point
                if len(failed) == len(group.trained):
                    break

    def intervals(self, assembled: _Group, state: TrainState, position: Position) -> Iterator[Interval]:
        """The intervals of a group still to come."""
        interval, program = self.plan.protocol.eval_interval, assembled.program
        return intervals(
            program, state, assembled.setup, assembled.data, self.lengths, interval, position, self.progress
        )

    def assemble(self, group: Group) -> _Group:
        """Arrays and program of a group."""
        planned = self.plan
        program = Program(planned.method, planned.spec, planned.protocol.sampling, run_sharding(len(group.trained)))

        def setup(hypers: tuple[Any, ...]) -> RunSetup:
            runs = zip(group.trained, hypers, strict=True)
            return program.place(
                stack_setups([RunSetup(random_key(run.seed), self.data.part, hyper) for run, hyper in runs])
            )

        runs = tuple(self.config.run(run.seed, run.setting) for run in group.runs)
        acting = tuple(setup(one.hyper) for one in group.rounds)
        return _Group(group, runs, program, program.replicate(self.data.transitions), acting)

    def begin(self, assembled: _Group, checkpoints: Checkpoints) -> tuple[TrainState, _Saved]:
        """A fresh state, or the newest checkpoint's."""
        state = assembled.program.init(assembled.setup, assembled.data)
        number = checkpoints.latest()
        if number is None:
            return state, _Saved()
        state, record = checkpoints.restore(number, state)
        failed = {int(training): reason for training, reason in record["failures"].items()}
        best = {int(run): rows.BestEvaluation(*one) for run, one in record.get("best", {}).items()}
        return state, _Saved(Position(record["phase"], record["step"]), number, failed, best)

    def play(self, assembled: _Group, interval: Interval, simulator: VectorSimulator) -> Episodes:
        """Episodes of all runs, ``(runs, episodes)``: every training plays once for each way of acting."""
        group, episodes = assembled.group, self.plan.protocol.episodes
        keys = episode_keys(assembled.setup.key, interval.stop, episodes)
        returns = np.zeros((len(group.runs), episodes))
        lengths = np.zeros((len(group.runs), episodes), np.int64)
        for acting, setup in zip(group.rounds, assembled.acting, strict=True):
            played = evaluate(keys, assembled.program, interval.state.acting(setup.hyper), simulator)
            for run in acting.runs:
                returns[run] = played.returns[group.training[run]]
                lengths[run] = played.lengths[group.training[run]]
        return Episodes(returns, lengths)

    def kept(self, best: rows.Best) -> set[int] | None:
        """The checkpoints to keep beside the newest two; None for all."""
        if self.plan.experiment.keep == "all":
            return None
        return {one.checkpoint for one in best.values()} if self.plan.experiment.keep == "best" else set()

    def say_what_is_kept(self, state: TrainState, runs: int) -> None:
        """The room that checkpoints take, where more than two are kept."""
        keep = self.plan.experiment.keep
        if keep == "last":
            return
        intervals = len(bounds(self.lengths, self.plan.protocol.eval_interval))
        count = intervals if keep == "all" else min(intervals, KEPT + runs)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20
        most = "" if keep == "all" else "up to "
        self.progress.note(
            f"--keep={keep}: {most}{count} checkpoints of {size:,.1f} MiB, {count * size:,.1f} MiB on disk"
        )

    def say(self, group: Group, failures: rows.Failures) -> None:
        """Failures, aloud."""
        for training, reason in failures.items():
            run = group.trained[training]
            setting = f" ({run.setting})" if run.setting else ""
            self.progress.note(f"seed {run.seed}{setting} failed: {reason}; the others go on")

    def write_status(self, changed: Mapping[RunId, str]) -> None:
        """Rewrites ``status.json``."""
        self.status |= changed
        self.folder.write_status(RunStatus(run, state) for run, state in self.status.items())

    def loggers(self, assembled: _Group, done: int) -> Loggers:
        """The loggers of a group; none for one that has nothing left to train."""
        names = self.plan.experiment.log if done < sum(self.lengths) else ()
        phases = dict(zip((phase.name for phase in self.plan.method.phases), self.lengths, strict=True))
        return Loggers(names, self.folder, self.config, assembled.runs, phases)

    def checkpoints(self, index: int) -> Checkpoints:
        """The checkpoints of a group."""
        return Checkpoints(self.folder.checkpoints / str(index))

    def committed_rows(self) -> Rows:
        """Rows of the folder that stood when the newest checkpoint was made."""
        committed = Rows(0, 0)
        for index in range(len(self.plan.groups)):
            with self.checkpoints(index) as checkpoints:
                number = checkpoints.latest()
                if number is not None:
                    committed = Rows(*checkpoints.record(number)["rows"])
        return committed
