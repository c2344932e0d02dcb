"""Groups of experiments trained in one program, interval by interval; whoever drives it keeps what it yields."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Transitions
from diffjax.envs.base import VectorSimulator
from diffjax.envs.side_by_side import SideBySide
from diffjax.experiment import rows
from diffjax.experiment.joint import Member, Round, rounds
from diffjax.numerics import matmul_precision, pinned, random_key
from diffjax.records.schema import Evaluation, MetricsRecord
from diffjax.tasks.registry import make_simulator
from diffjax.training.batches import join_data
from diffjax.training.evaluation import Episodes, episode_keys, evaluate
from diffjax.training.loop import Interval, Partial, Position, intervals
from diffjax.training.memory import MemoryUse, device_memory, fit
from diffjax.training.program import Program, RunSetup, TrainState, mean_metrics, run_sharding, stack_runs
from diffjax.training.progress import Progress, Score
from diffjax.training.turns import Turns

Tree = TypeVar("Tree")
Result = TypeVar("Result")


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


@dataclasses.dataclass
class Spent:
    """Seconds of a program by what for, and its updates; ``runs`` is how many shared it."""

    training: float = 0.0
    evaluating: float = 0.0
    saving: float = 0.0
    updates: int = 0
    runs: int = 0

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.training + self.evaluating + self.saving

    def __add__(self, later: "Spent") -> "Spent":
        return Spent(
            self.training + later.training,
            self.evaluating + later.evaluating,
            self.saving + later.saving,
            self.updates + later.updates,
            later.runs or self.runs,
        )


class _Awaited(NamedTuple):
    """An interval that was trained, and what is still to be known of it."""

    interval: Interval
    live: frozenset[int]
    failed: Mapping[int, rows.Failures]
    means: Mapping[str, np.ndarray]
    played: "Callable[[], dict[int, Episodes]]"


class Trainer:
    """Trains members of one program side by side on its run axis, once :meth:`load` has put them on the devices."""

    memory: MemoryUse
    program: Program  # of as many runs as are on the devices at a time
    training: Program | Turns
    data: Transitions
    setup: RunSetup

    def __init__(self, members: Sequence[Member], progress: Progress) -> None:
        self.members = tuple(members)
        self.progress = progress
        plan = members[0].ready.plan
        self.method, self.protocol = plan.method, plan.protocol  # of the protocol what members agree in
        self._precision = plan.experiment.matmul_precision
        self._overlaps = False
        self.lengths = max((member.lengths for member in members), key=lambda lengths: lengths[-1])
        self.counts = [len(member.trained) for member in members]
        bounds = itertools.accumulate(self.counts, initial=0)
        self.parts = tuple(slice(first, last) for first, last in itertools.pairwise(bounds))
        self.count = sum(self.counts)
        self.spent = Spent(runs=self.count)
        self.runs_at_once = self.count  # on the devices; known to be fewer once they were loaded

    @property
    def name(self) -> str:
        """What the progress calls the members."""
        first, *others = self.members
        if not others:
            return first.name
        tasks = {member.ready.plan.task.id for member in self.members}
        return f"{first.name.partition(' ')[2]} on {len(tasks)} tasks"

    def load(self, first_phase: int = 0, most: int = 0, overlap: bool = False) -> None:
        """Compiles the program for as many runs as fit, and puts data and setups where they are needed.

        Args:
          first_phase: those before it have been trained.
          most: runs on the devices at a time at most; 0 for as many as fit.
          overlap: evaluate an interval while the next one is trained, where there is memory for both.
        """
        self.progress.doing("compiling")
        members, plan = self.members, self.members[0].ready.plan
        transitions, parts = join_data([member.data for member in members])
        setup = stack_runs(
            [
                RunSetup(random_key(run.seed), part, run.hyper)
                for member, part in zip(members, parts, strict=True)
                for run in member.trained
            ]
        )
        make = functools.partial(Program, self.method, plan.spec, self.protocol.sampling)
        phases = [phase for phase, length in enumerate(self.lengths) if length and phase >= first_phase]
        self.runs_at_once = min(self.count, most or self.count)
        self.memory = fit(
            lambda runs: make(run_sharding(runs)),
            self.runs_at_once,
            phases,
            setup,
            transitions,
            device_memory(),
        )
        self.runs_at_once = self.memory.runs
        self.program = make(run_sharding(self.runs_at_once))
        self.training = self.program if self.runs_at_once == self.count else Turns(self.program, self.runs_at_once)
        self.data, self.setup = self.training.replicate(transitions), self.training.place(setup)
        fits_twice = self.memory.total + self.memory.state <= self.memory.limit
        self._overlaps = overlap and fits_twice
        if overlap and not fits_twice:
            self.progress.note("no memory to evaluate beside the training; --overlap has no effect")

    def init(self) -> TrainState:
        """Fresh states of all runs."""
        self.progress.doing("initializing")
        return self.training.init(self.setup, self.data)

    def own(self, tree: Tree, number: int) -> Tree:
        """A member's part of a tree with the run axis, in host memory."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[self.parts[number]]), tree)

    def steps(
        self,
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
        live = frozenset(range(len(self.members))) - finished
        sofar = dict(failed)
        acting = self._acting(live)
        with ExitStack() as stack, _PlayThread(self._precision) as thread:
            simulators = _Simulators(self.members, self.protocol.episodes, stack)
            awaited: _Awaited | None = None
            trained = intervals(
                self.training,
                state,
                self.setup,
                self.data,
                self.lengths,
                self.protocol.eval_interval,
                position,
                self.progress,
                partial,
            )
            while (interval := self._next(trained)) is not None:
                if awaited is not None:
                    yield (step := self._step(awaited, simulators))
                    awaited = None
                    if not step.interval.is_whole:
                        return
                if not interval.is_whole:
                    yield Step(interval, {})
                    return
                phase, means = self.method.phases[interval.phase].name, mean_metrics(interval.sums)
                for number in live:
                    found = rows.new_failures(phase, interval.bad_steps[self.parts[number]], sofar[number])
                    self._say(self.members[number], found)
                    sofar[number] = {**sofar[number], **found}
                plays = acting if interval.is_main else ()
                if plays and self._overlaps and not interval.is_last:
                    on_host = jax.tree.map(np.asarray, interval.state)  # the next interval consumes what is there
                    interval = interval._replace(state=on_host)
                    played = thread.start(functools.partial(self._play, interval, plays), simulators, self._heed)
                    awaited = _Awaited(interval, live, dict(sofar), means, played)
                else:
                    now = functools.partial(self._play, interval, plays, simulators, self._heed)
                    yield (step := self._step(_Awaited(interval, live, sofar, means, now), simulators))
                    if not step.interval.is_whole:
                        return
                if done := {number for number in live if self._is_done(number, interval, sofar[number])}:
                    live -= done
                    acting = self._acting(live)
                if not live:
                    break
            if awaited is not None:
                yield self._step(awaited, simulators)

    def show(self, step: Step) -> None:
        """The scores of an interval, or where nothing is ever evaluated its metrics."""
        for number, outcome in step.outcomes.items():
            member = self.members[number]
            if len(outcome.scores):
                what = member.ready.plan.task.id if len(self.members) > 1 else ""
                scores = [
                    Score(run.seed, run.setting, score)
                    for run, score in zip(member.runs, outcome.scores.tolist(), strict=True)
                ]
                self.progress.evaluated(step.interval.stop, scores, what)
            elif not self.protocol.episodes:
                self.progress.note(rows.metrics_line(member.name, outcome.metrics))

    def _next(self, trained: Iterator[Interval]) -> Interval | None:
        began = time.perf_counter()
        self.progress.doing("")
        interval = next(trained, None)
        self.spent.training += time.perf_counter() - began
        if interval is not None:
            self.spent.updates += interval.step - interval.start
        return interval

    def _step(self, awaited: _Awaited, simulators: "_Simulators") -> Step:
        """What is known of an interval once it was evaluated; not whole where the progress wants to stop before."""
        interval = awaited.interval
        began = time.perf_counter()
        self.progress.doing("evaluating")
        try:
            played = awaited.played()
        except _StopAsked:
            return Step(interval._replace(is_whole=False), {})
        finally:
            self.spent.evaluating += time.perf_counter() - began
        phase = self.method.phases[interval.phase].name
        outcomes = {}
        for number in sorted(awaited.live):
            member, part = self.members[number], self.parts[number]
            own = {name: values[part] for name, values in awaited.means.items()}
            metrics = rows.metrics_record(phase, member.runs, member.group, interval.stop, own)
            failed = awaited.failed[number]
            evaluations, scores = self._evaluations(number, interval, played.get(number), failed, simulators)
            outcomes[number] = Outcome(failed, metrics, evaluations, scores, self._is_last(number, interval))
        return Step(interval, outcomes)

    def _is_done(self, number: int, interval: Interval, failed: rows.Failures) -> bool:
        return self._is_last(number, interval) or len(failed) == self.counts[number]

    def _is_last(self, number: int, interval: Interval) -> bool:
        return interval.is_main and interval.stop == self.members[number].lengths[-1]

    def _acting(self, live: frozenset[int]) -> Sequence[Round]:
        """Who plays together when members are evaluated."""
        return rounds(self.members, live, self.runs_at_once) if self.protocol.episodes else ()

    def _heed(self, time: int) -> None:
        if self.progress.stop_status() is not None:
            raise _StopAsked

    def _play(
        self,
        interval: Interval,
        acting: Sequence[Round],
        simulators: "_Simulators",
        stepped: Callable[[int], None],
    ) -> dict[int, Episodes]:
        """Episodes ``(runs, episodes)`` of every member that is live."""
        episodes = self.protocol.episodes
        found: dict[int, Episodes] = {}
        for one in acting:
            trainings = np.array([played.training for played in one.played])
            is_all = len(trainings) == self.count and not self._overlaps
            state = interval.state if is_all else self._some(interval.state, trainings)
            hyper = self.program.place(stack_runs(one.hyper))
            keys = episode_keys(self.setup.key[trainings], interval.stop, episodes)
            result = evaluate(keys, self.program, state.acting(hyper), simulators.of(one), stepped)
            for place, played in enumerate(one.played):
                if played.member not in found:
                    shape = (len(self.members[played.member].group.runs), episodes)
                    found[played.member] = Episodes(np.zeros(shape), np.zeros(shape, np.int64))
                found[played.member].returns[played.run] = result.returns[place]
                found[played.member].lengths[played.run] = result.lengths[place]
        return found

    def _some(self, state: TrainState, trainings: np.ndarray) -> TrainState:
        """What acting reads of some trainings alone."""
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf[trainings]), state._replace(labels={}))
        return self.program.place(own)

    def _evaluations(
        self,
        number: int,
        interval: Interval,
        played: Episodes | None,
        failed: rows.Failures,
        simulators: "_Simulators",
    ) -> tuple[tuple[Evaluation, ...], np.ndarray]:
        if played is None:
            return (), np.zeros(0)
        ready, group = self.members[number].ready, self.members[number].group
        is_failed = [training in failed for training in group.training]
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


class _PlayThread:
    """A thread that plays while this one trains, under the same switches of JAX; what nobody awaits is given up."""

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._executor: ThreadPoolExecutor | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def start(
        self,
        play: Callable[["_Simulators", Callable[[int], None]], Result],
        simulators: "_Simulators",
        heed: Callable[[int], None],
    ) -> Callable[[], Result]:
        """Begins to play; what comes back waits for the end of it."""

        def stepped(time: int) -> None:
            heed(time)
            if self._is_over:
                raise _StopAsked

        @pinned()
        def work() -> Result:
            with matmul_precision(self._precision):
                return play(simulators, stepped)

        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        return self._executor.submit(work).result


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
