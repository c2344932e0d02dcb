"""Runs of a folder that go on online: played and trained turn by turn, evaluated, recorded in a folder of their own.

The folder's steps are those of the environment, its evaluations follow the protocol of the training.
"""

import dataclasses
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.clock import utc_now
from diffjax.errors import Stopped, UserError, first_line
from diffjax.experiment import rows
from diffjax.experiment.online_plan import Plan
from diffjax.experiment.online_record import GroupRecord
from diffjax.experiment.plan import Group
from diffjax.experiment.run import is_out_of_memory
from diffjax.experiment.settings import acting_differently
from diffjax.methods.base import Metrics
from diffjax.numerics import check_platform, matmul_precision, pinned, random_key
from diffjax.records.commits import read_ledgers
from diffjax.records.folder import ResultsFolder, open_folder, read_config
from diffjax.records.schema import Config
from diffjax.records.writer import only_writer
from diffjax.tasks.registry import make_simulator
from diffjax.training.evaluation import episode_keys, evaluate
from diffjax.training.loop import bounds
from diffjax.training.online import (
    OnlineSetup,
    OnlineState,
    empty_replay,
    keep_episodes,
    learn_online,
    owed,
    play_episodes,
)
from diffjax.training.program import NEVER, Program, RunSetup, add_metrics, mean_metrics, run_sharding, stack_runs
from diffjax.training.progress import Progress, Score
from diffjax.words import count

Tree = TypeVar("Tree")

PIECE = 200  # updates between two looks at whether to stop


@pinned()
def go_online(planned: Plan, progress: Progress) -> ResultsFolder:
    """Plays, trains and evaluates all runs and records them in the folder ``out``.

    Raises:
      UserError: the folder or a checkpoint cannot be read or written, or there is not enough memory.
    """
    check_platform()
    out, config = planned.asked.out, planned.config
    with only_writer(out, progress.note) as say, ExitStack() as stack:
        folder = open_folder(out, config, planned.asked.resume)
        records = [
            stack.enter_context(GroupRecord(planned, folder, number, say)) for number in range(len(planned.groups))
        ]
        ledgers = read_ledgers(folder, [one.runs for one in records], [one.saved.standing for one in records])
        for record, ledger in zip(records, ledgers, strict=True):
            record.ledger = ledger
        if left := [record for record in records if not record.is_finished]:
            stack.enter_context(_recorded_time(folder, config))
            stack.enter_context(matmul_precision(config.matmul_precision or "highest"))
            stack.callback(progress.end)
        for record in left:
            with _enough_memory(record), ExitStack() as simulators:
                _Online(planned, record, progress, simulators).go_on()
    return folder


@contextmanager
def _recorded_time(folder: ResultsFolder, config: Config) -> Iterator[None]:
    """Says in the folder where and how long runs went on, and by which other programs than they began with."""
    devices, began = jax.local_device_count(), time.perf_counter()
    there = read_config(folder.path).begun(socket.gethostname(), devices, utc_now(), config.versions)
    folder.write_config(there)
    try:
        yield
    finally:
        assert there.execution is not None
        hours = there.execution.hours + (time.perf_counter() - began) / 3600
        per_run = hours / len(config.runs)
        execution = dataclasses.replace(there.execution, end=utc_now(), hours=hours, hours_per_run=per_run)
        folder.write_config(dataclasses.replace(read_config(folder.path), execution=execution))


@contextmanager
def _enough_memory(record: "GroupRecord") -> Iterator[None]:
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"no memory for {count(len(record.runs), 'run')} with room for "
            f"{count(record.planned.asked.capacity, 'transition')} each ({first_line(error)}); "
            "take fewer --seed at a time, or less --capacity"
        ) from None


class _Online:
    """A group of runs on the devices, from where its record stands to the end."""

    def __init__(self, planned: Plan, record: GroupRecord, progress: Progress, stack: ExitStack) -> None:
        self._planned, self._record, self._progress = planned, record, progress
        self._count, self._rule = len(record.runs), planned.asked.rule
        method, config = planned.stored.method, planned.config
        self._name = f"{planned.task.id} {config.method} online"
        self._main = method.phases[-1].name
        self._program = program = Program(method, planned.stored.spec, "uniform", run_sharding(self._count))
        self._state, self._setup = _begin(planned, record.group, program)
        self._data = program.replicate(planned.data.transitions)
        self._sums: Metrics | None = None  # of the updates since the last evaluation
        self._failed = dict(record.saved.failed)
        if record.saved.number:
            state, sums = record.restore(self._own(self._state))
            self._state = program.from_host(state)
            self._sums = None if sums is None else program.from_host(sums)
        self._simulator, self._judging = (
            stack.enter_context(closing(make_simulator(planned.task, self._count * episodes)))
            for episodes in (self._rule.episodes, config.episodes)
        )

    def go_on(self) -> None:
        """Turn by turn to the next evaluation, until the last."""
        config, progress, done = self._planned.config, self._progress, max(self._record.saved.step, 0)
        progress.begin(self._name, self._count, config.steps, done)
        for step in _evaluations(config, self._record.saved.step):
            progress.doing("")
            while self._turn(step):
                reached = min(step, int(np.min(self._taken(), initial=step, where=self._live())))
                if reached > done and not self._due().any():
                    progress.advance(reached - done)
                    done = reached
                self._heed(done)
            self._evaluate(step)
            if len(self._failed) == self._count:
                break
            if step < config.steps:
                self._heed(step)

    def _turn(self, step: int) -> bool:
        """Some of the updates that are due, or else episodes of the runs that have not reached a step; False: neither.

        A run that failed stays where it is.
        """
        state, setup, program = self._state, self._setup, self._program
        due, playing = self._due(), self._live() & (self._taken() < step)
        if due.any():
            self._learn(np.minimum(due, PIECE))
        elif playing.any():
            played = play_episodes(program, state, setup, self._simulator, self._rule, playing)
            self._state = keep_episodes(program, state, setup, program.from_host(played))
        else:
            return False
        return True

    def _due(self) -> np.ndarray:
        """How many updates each run is behind, ``(runs,)``."""
        behind = owed(self._state, self._setup, self._rule.updates_per_step)[: self._count]
        return np.where(self._live(), behind, 0)

    def _live(self) -> np.ndarray:
        """Which runs have not failed, ``(runs,)``."""
        return np.array([place not in self._failed for place in range(self._count)])

    def _taken(self) -> np.ndarray:
        """Steps of the environment that each run has taken, ``(runs,)``."""
        return np.asarray(self._state.taken[: self._count])

    def _learn(self, due: np.ndarray) -> None:
        program, fraction = self._program, jnp.float32(self._rule.offline_fraction)
        number = program.place(jnp.asarray(due, jnp.int32))
        self._state, sums = learn_online(program, self._state, number, fraction, self._setup, self._data)
        self._sums = jax.block_until_ready(add_metrics(self._sums, sums))
        bad_steps = np.asarray(self._state.first_bad_step[: self._count]).tolist()
        found = rows.new_failures(self._main, bad_steps, self._failed)
        for place, reason in found.items():
            self._progress.note(f"{self._name}: {self._record.runs[place].label} failed: {reason}; the others go on")
        self._failed |= found

    def _evaluate(self, step: int) -> None:
        """Plays by the protocol of the training, and commits."""
        config, record, count = self._planned.config, self._record, self._count
        self._progress.doing("evaluating")
        keys = episode_keys(self._setup.run.key[:count], step, config.episodes)
        played = evaluate(keys, self._program, self._state.acting(self._setup.run.hyper), self._judging)
        is_failed = [place in self._failed for place in range(count)]
        scores = np.where(is_failed, np.nan, rows.scores_of(self._planned.task, played))
        method, runs, version = self._planned.stored.method, record.group.runs, self._judging.version
        found = rows.evaluation_rows(config, method, version, runs, [step] * count, played, scores)
        means = {} if self._sums is None else mean_metrics(self._own(self._sums))
        record.commit(self._own(self._state), step, self._failed, means, found)
        self._sums = None
        each = zip(runs, scores.tolist(), strict=True)
        self._progress.evaluated(step, [Score(run.seed, run.setting, score) for run, score in each])

    def _heed(self, done: int) -> None:
        """Stops where that is wanted; what was played and not learned from since an evaluation is played anew."""
        if (status := self._progress.stop_status()) is None:
            return
        if self._sums is not None:
            self._record.keep(self._own(self._state), self._failed, self._own(self._sums))
        raise Stopped(f"{self._name}: stopped at step {done:,}; the same command with --resume goes on", status)

    def _own(self, tree: Tree) -> Tree:
        """Arrays with the run axis in host memory, without padding."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[: self._count]), tree)


def _evaluations(config: Config, last: int) -> list[int]:
    """The steps of the environment at which runs are evaluated, after the last that was."""
    found = [0, *(stop for _, _, stop in bounds([config.steps], config.eval_interval))]
    return [step for step in found if step > last]


def _begin(planned: Plan, group: Group, program: Program) -> tuple[OnlineState, OnlineSetup]:
    """The runs as their training left them, with room for what they will meet."""
    stored, asked, config = planned.stored, planned.asked, planned.config
    names = [config.run(run.seed, run.setting) for run in group.runs]
    steps = [planned.begun[name] for name in names]
    acting = [stored.acting(planned.trained[name], step) for name, step in zip(names, steps, strict=True)]
    exploring = [
        acting_differently(config.method, config.variant, run.hyper, dict(asked.exploring)) for run in group.runs
    ]
    setups = [
        OnlineSetup(
            RunSetup(random_key(run.seed), planned.data.part._replace(observation=one.observation), run.hyper),
            jnp.int32(step),
            explores,
        )
        for run, one, step, explores in zip(group.runs, acting, steps, exploring, strict=True)
    ]
    states = [
        OnlineState(
            one.state,
            one.observation,
            empty_replay(asked.capacity, stored.spec, stored.method.view),
            jnp.int32(step),
            jnp.int32(0),
            jnp.int32(NEVER),
        )
        for one, step in zip(acting, steps, strict=True)
    ]
    return program.place(stack_runs(states)), program.place(stack_runs(setups))
