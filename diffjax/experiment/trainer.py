"""The groups of an experiment, trained and evaluated interval by interval; whoever drives it keeps what it yields."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.envs.base import VectorSimulator
from diffjax.experiment import rows
from diffjax.experiment.plan import Group, phase_lengths
from diffjax.experiment.prepare import Ready
from diffjax.numerics import random_key
from diffjax.records.schema import Evaluation, MetricsRecord, RunId
from diffjax.tasks.registry import make_simulator
from diffjax.training.evaluation import Episodes, episode_keys, evaluate
from diffjax.training.loop import Interval, Position, intervals
from diffjax.training.program import Program, RunSetup, TrainState, run_sharding, stack_runs
from diffjax.training.progress import Progress


class Assembled(NamedTuple):
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


class Outcome(NamedTuple):
    """What an interval left behind, and what was found in it.

    ``failed`` are all trainings that failed so far; ``evaluations`` has a row per run that has not, and ``scores
    (runs,)`` its NaN; both are empty where nothing was evaluated.
    """

    interval: Interval
    failed: rows.Failures
    metrics: MetricsRecord
    evaluations: tuple[Evaluation, ...]
    scores: np.ndarray


class Trainer:
    """Trains the groups of an experiment."""

    def __init__(self, ready: Ready, progress: Progress) -> None:
        self.plan, self.data, self.config = ready
        self.progress = progress
        self.lengths = phase_lengths(self.plan.method, self.plan.protocol)

    @property
    def name(self) -> str:
        """What the progress calls the experiment."""
        experiment = self.plan.experiment
        name = f"{self.plan.task.id} {experiment.method}"
        return f"{name} ({self.plan.variant})" if experiment.variant else name

    def assemble(self, group: Group) -> Assembled:
        """Arrays and program of a group."""
        planned = self.plan
        program = Program(planned.method, planned.spec, planned.protocol.sampling, run_sharding(len(group.trained)))

        def setup(hypers: tuple[Any, ...]) -> RunSetup:
            runs = zip(group.trained, hypers, strict=True)
            return program.place(
                stack_runs([RunSetup(random_key(run.seed), self.data.part, hyper) for run, hyper in runs])
            )

        runs = tuple(self.config.run(run.seed, run.setting) for run in group.runs)
        acting = tuple(setup(one.hyper) for one in group.rounds)
        return Assembled(group, runs, program, program.replicate(self.data.transitions), acting)

    def outcomes(
        self, assembled: Assembled, state: TrainState, position: Position, failed: rows.Failures
    ) -> Iterator[Outcome]:
        """Trains a group on from a position; a state that was given out is consumed by the next interval.

        Ends early where every training has failed.
        """
        group, planned = assembled.group, self.plan
        with ExitStack() as stack:
            simulator = None
            if planned.protocol.episodes:
                made = make_simulator(planned.task, len(group.trained) * planned.protocol.episodes)
                simulator = stack.enter_context(closing(made))
            for interval in self._intervals(assembled, state, position):
                phase = planned.method.phases[interval.phase].name
                found = rows.new_failures(phase, interval, failed)
                self._say(group, found)
                failed = {**failed, **found}
                metrics = rows.metrics_record(phase, assembled.runs, group, interval)
                evaluations, scores = self._evaluate(assembled, interval, simulator, failed)
                yield Outcome(interval, failed, metrics, evaluations, scores)
                if len(failed) == len(group.trained):
                    return

    def show(self, outcome: Outcome) -> None:
        """The scores of an interval, or where nothing is ever evaluated its metrics."""
        if len(outcome.scores):
            self.progress.evaluated(outcome.interval.stop, outcome.scores)
        elif not self.plan.protocol.episodes:
            self.progress.note(rows.metrics_line(self.name, outcome.metrics))

    def _intervals(self, assembled: Assembled, state: TrainState, position: Position) -> Iterator[Interval]:
        interval, program = self.plan.protocol.eval_interval, assembled.program
        return intervals(
            program, state, assembled.setup, assembled.data, self.lengths, interval, position, self.progress
        )

    def _evaluate(
        self, assembled: Assembled, interval: Interval, simulator: VectorSimulator | None, failed: rows.Failures
    ) -> tuple[tuple[Evaluation, ...], np.ndarray]:
        group = assembled.group
        if simulator is None or not interval.is_main:
            return (), np.zeros(0)
        played = self._play(assembled, interval, simulator)
        is_failed = [number in failed for number in group.training]
        scores = np.where(is_failed, np.nan, rows.scores_of(self.plan.task, played))
        steps = [interval.stop] * len(group.runs)
        version = simulator.version
        found = rows.evaluation_rows(self.config, self.plan.method, version, group.runs, steps, played, scores)
        return tuple(found), scores

    def _play(self, assembled: Assembled, interval: Interval, simulator: VectorSimulator) -> Episodes:
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

    def _say(self, group: Group, failures: Mapping[int, str]) -> None:
        """Failures, aloud."""
        for training, reason in failures.items():
            run = group.trained[training]
            setting = f" ({run.setting})" if run.setting else ""
            self.progress.note(f"seed {run.seed}{setting} failed: {reason}; the others go on")
