"""Groups of experiments trained in one program, interval by interval; whoever drives it keeps what it yields."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.envs.base import VectorSimulator
from diffjax.envs.side_by_side import SideBySide
from diffjax.experiment import rows
from diffjax.experiment.joint import Member, Round, rounds
from diffjax.numerics import random_key
from diffjax.records.schema import Evaluation, MetricsRecord
from diffjax.tasks.registry import make_simulator
from diffjax.training.batches import join_data
from diffjax.training.evaluation import Episodes, episode_keys, evaluate
from diffjax.training.loop import Interval, Partial, Position, intervals
from diffjax.training.program import Program, RunSetup, TrainState, mean_metrics, run_sharding, stack_runs
from diffjax.training.progress import Progress

Tree = TypeVar("Tree")


class Outcome(NamedTuple):
    """What an interval left behind of a member, and what was found in it.

    ``failed`` are all its trainings that failed so far; ``evaluations`` has a row per run that has not, and ``scores
    (runs,)`` its NaN; both are empty where nothing was evaluated.
    """

    failed: rows.Failures
    metrics: MetricsRecord
    evaluations: tuple[Evaluation, ...]
    scores: np.ndarray
    is_last: bool  # nothing more of it is to come


class Step(NamedTuple):
    """An interval of the program, and what it was for each member that it still concerned."""

    interval: Interval
    outcomes: Mapping[int, Outcome]


class Trainer:
    """Trains members of one program side by side on its run axis."""

    def __init__(self, members: Sequence[Member], progress: Progress) -> None:
        self.members = tuple(members)
        self.progress = progress
        plan = members[0].ready.plan
        self.method, self.protocol = plan.method, plan.protocol  # of the protocol what members agree in
        self.lengths = max((member.lengths for member in members), key=lambda lengths: lengths[-1])
        self.counts = [len(member.trained) for member in members]
        bounds = itertools.accumulate(self.counts, initial=0)
        self.parts = tuple(slice(first, last) for first, last in itertools.pairwise(bounds))
        self.count = sum(self.counts)
        self.program = Program(plan.method, plan.spec, plan.protocol.sampling, run_sharding(self.count))

    @property
    def name(self) -> str:
        """What the progress calls the members."""
        first, *others = self.members
        if not others:
            return first.name
        tasks = {member.ready.plan.task.id for member in self.members}
        return f"{first.name.partition(' ')[2]} on {len(tasks)} tasks"

    def arrays(self) -> tuple[Transitions, RunSetup]:
        """The data of all members, each once, and what the runs are trained with."""
        transitions, parts = join_data([member.ready.data for member in self.members])
        setups = [
            RunSetup(random_key(run.seed), part, run.hyper)
            for member, part in zip(self.members, parts, strict=True)
            for run in member.trained
        ]
        return self.program.replicate(transitions), self.program.place(stack_runs(setups))

    def own(self, tree: Tree, number: int) -> Tree:
        """A member's part of a tree with the run axis, in host memory."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[self.parts[number]]), tree)

    def steps(
        self,
        data: Transitions,
        setup: RunSetup,
        state: TrainState,
        position: Position,
        failed: Mapping[int, rows.Failures],
        finished: frozenset[int] = frozenset(),
        partial: Partial | None = None,
    ) -> Iterator[Step]:
        """Trains on from a position; a state that was given out is consumed by the next interval.

        Ends early where every training has failed, or with an interval that is not whole where the progress wants to
        stop; ``partial`` goes on with one.

        Args:
          failed: of each member.
          finished: members that have nothing left to train, but were in the program when it began.
        """
        live = set(range(len(self.members))) - finished
        sofar = dict(failed)
        acting = rounds(self.members, live)
        with ExitStack() as stack:
            simulators = _Simulators(self.members, self.protocol.episodes, stack)
            every = self.protocol.eval_interval
            for interval in intervals(
                self.program, state, setup, data, self.lengths, every, position, self.progress, partial
            ):
                if not interval.is_whole:
                    yield Step(interval, {})
                    return
                phase = self.method.phases[interval.phase].name
                bad_steps, means = interval.bad_steps, mean_metrics(interval.sums)
                for number in live:
                    bad = bad_steps[self.parts[number]]
                    found = rows.new_failures(phase, bad, sofar[number])
                    self._say(self.members[number], found)
                    sofar[number] = {**sofar[number], **found}
                played = {}
                if interval.is_main and self.protocol.episodes:
                    try:
                        played = self._play(setup, interval, acting, simulators)
                    except _StopAsked:
                        yield Step(interval._replace(is_whole=False), {})
                        return
                outcomes = {}
                for number in sorted(live):
                    member, part = self.members[number], self.parts[number]
                    own = {name: values[part] for name, values in means.items()}
                    metrics = rows.metrics_record(phase, member.runs, member.group, interval.stop, own)
                    evaluations, scores = self._evaluations(number, interval, played.get(number), sofar, simulators)
                    is_last = interval.is_main and interval.stop == member.lengths[-1]
                    outcomes[number] = Outcome(sofar[number], metrics, evaluations, scores, is_last)
                yield Step(interval, outcomes)
                if done := {number for number, outcome in outcomes.items() if self._is_done(number, outcome)}:
                    live -= done
                    acting = rounds(self.members, live)
                if not live:
                    return

    def show(self, step: Step) -> None:
        """The scores of an interval, or where nothing is ever evaluated its metrics."""
        for number, outcome in step.outcomes.items():
            member = self.members[number]
            if len(outcome.scores):
                what = member.ready.plan.task.id if len(self.members) > 1 else ""
                self.progress.evaluated(step.interval.stop, outcome.scores, what)
            elif not self.protocol.episodes:
                self.progress.note(rows.metrics_line(member.name, outcome.metrics))

    def _is_done(self, number: int, outcome: Outcome) -> bool:
        return outcome.is_last or len(outcome.failed) == len(self.members[number].trained)

    def _heed(self, time: int) -> None:
        if self.progress.stop_status() is not None:
            raise _StopAsked

    def _play(
        self, setup: RunSetup, interval: Interval, acting: Sequence[Round], simulators: "_Simulators"
    ) -> dict[int, Episodes]:
        """Episodes ``(runs, episodes)`` of every member that is live."""
        episodes = self.protocol.episodes
        found: dict[int, Episodes] = {}
        for one in acting:
            trainings = np.array([played.training for played in one.played])
            state = interval.state if len(trainings) == self.count else self._some(interval.state, trainings)
            hyper = self.program.place(stack_runs(one.hyper))
            keys = episode_keys(setup.key[trainings], interval.stop, episodes)
            result = evaluate(keys, self.program, state.acting(hyper), simulators.of(one), self._heed)
            for place, played in enumerate(one.played):
                if played.member not in found:
                    shape = (len(self.members[played.member].group.runs), episodes)
                    found[played.member] = Episodes(np.zeros(shape), np.zeros(shape, np.int64))
                found[played.member].returns[played.run] = result.returns[place]
                found[played.member].lengths[played.run] = result.lengths[place]
        return found

    def _some(self, state: TrainState, trainings: np.ndarray) -> TrainState:
        """What acting reads of some trainings alone."""
        return self.program.place(jax.tree.map(lambda leaf: leaf[trainings], state._replace(labels={})))

    def _evaluations(
        self,
        number: int,
        interval: Interval,
        played: Episodes | None,
        failed: Mapping[int, rows.Failures],
        simulators: "_Simulators",
    ) -> tuple[tuple[Evaluation, ...], np.ndarray]:
        if played is None:
            return (), np.zeros(0)
        ready, group = self.members[number].ready, self.members[number].group
        is_failed = [training in failed[number] for training in group.training]
        scores = np.where(is_failed, np.nan, rows.scores_of(ready.plan.task, played))
        steps = [interval.stop] * len(group.runs)
        version = simulators.version(number)
        found = rows.evaluation_rows(ready.config, self.method, version, group.runs, steps, played, scores)
        return tuple(found), scores

    def _say(self, member: Member, failures: rows.Failures) -> None:
        """Failures, aloud."""
        where = f"{member.ready.plan.task.id}: " if len(self.members) > 1 else ""
        for training, reason in failures.items():
            run = member.trained[training]
            setting = f" ({run.setting})" if run.setting else ""
            self.progress.note(f"{where}seed {run.seed}{setting} failed: {reason}; the others go on")


class _StopAsked(Exception):
    """The progress wants to stop."""


class _Simulators:
    """The simulators of the members, made when they are first needed and closed with the stack."""

    def __init__(self, members: Sequence[Member], episodes: int, stack: ExitStack) -> None:
        self._members, self._episodes, self._stack = members, episodes, stack
        self._own: dict[tuple[int, int], VectorSimulator] = {}
        self._joint: dict[tuple[tuple[int, int], ...], VectorSimulator] = {}

    def of(self, one: Round) -> VectorSimulator:
        """An environment for every episode of a round."""
        members = [played.member for played in one.played]
        counts = tuple((member, len(list(same))) for member, same in itertools.groupby(members))
        if counts not in self._joint:
            each = [self._member(*pair) for pair in counts]
            self._joint[counts] = each[0] if len(each) == 1 else self._stack.enter_context(closing(SideBySide(each)))
        return self._joint[counts]

    def version(self, number: int) -> str:
        """Of a member that has played."""
        return next(one.version for (member, _), one in self._own.items() if member == number)

    def _member(self, number: int, runs: int) -> VectorSimulator:
        if (number, runs) not in self._own:
            made = make_simulator(self._members[number].ready.plan.task, runs * self._episodes)
            self._own[number, runs] = self._stack.enter_context(closing(made))
        return self._own[number, runs]
