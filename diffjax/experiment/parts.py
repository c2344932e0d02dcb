"""One experiment by several processes: each trains runs of its own in a folder of its own; the last one joins them.

Nothing is sent between the processes while they train, so that one which dies takes nobody along; they need a file
system that all of them see.
"""

import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffjax.errors import UserError
from diffjax.experiment.joint import together
from diffjax.experiment.plan import Experiment, Group, Plan, plan
from diffjax.experiment.provenance import request
from diffjax.experiment.recorder import Saved, entries_of, kept_checkpoints, saved_of
from diffjax.experiment.rows import BestEvaluation
from diffjax.experiment.run import run_experiments
from diffjax.experiment.stored import StoredRuns
from diffjax.experiment.trainer import Spent
from diffjax.files import write_text
from diffjax.records.commits import Ledger, Standing
from diffjax.records.folder import (
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    METRICS,
    PARTS,
    STATUS,
    ResultsFolder,
    check_folder,
    evaluation_header,
    read_config,
    read_evaluations,
    read_metrics,
    read_status,
)
from diffjax.records.schema import Config, Evaluation, Execution, MetricsRecord, Resumption, RunId, RunStatus
from diffjax.records.writer import Taken, only_writer
from diffjax.tasks.default_data import MakeData
from diffjax.training.checkpoints import Checkpoints, StoredCheckpoints
from diffjax.training.progress import Progress


class Host(NamedTuple):
    """Which of several processes this one is."""

    process_id: int
    num_processes: int

    @property
    def folder(self) -> str:
        """Of its part of an experiment."""
        return f"{self.process_id + 1}-of-{self.num_processes}"


def run_parts(experiments: Sequence[Experiment], host: Host, progress: Progress, make_data: MakeData) -> list[Path]:
    """Trains this process's part of some experiments, and joins what all processes have finished.

    Returns:
      the folders that are whole now.

    Raises:
      UserError: as :func:`diffjax.experiment.run.run_experiments`, or a folder is another number of processes' work.
    """
    plans = [plan(experiment) for experiment in experiments]
    owned = owned_runs(plans, host.num_processes)
    for planned, places in zip(plans, owned[host.process_id], strict=True):
        if places:  # of others this one may be late to see that they are finished
            _check(planned, host)
    mine = [
        dataclasses.replace(
            planned.experiment,
            out=part_folder(planned, host),
            only=places,
            keep="all" if planned.experiment.keep == "best" else planned.experiment.keep,
        )
        for planned, places in zip(plans, owned[host.process_id], strict=True)
        if places and not _is_whole(planned)
    ]
    run_experiments(mine, progress, make_data)
    for planned, by_process in zip(plans, zip(*owned, strict=True), strict=True):
        join_parts(planned, by_process, progress)
    return [planned.experiment.out for planned in plans if _is_whole(planned)]


def owned_runs(plans: Sequence[Plan], count: int) -> list[list[tuple[int, ...]]]:
    """Of every process, and of every experiment, the places of the runs that it trains.

    What could share a program is dealt out in stretches, so that a process sees few tasks; runs that are trained once
    stay together.
    """
    owned: list[list[list[int]]] = [[[] for _ in plans] for _ in range(count)]
    places = [_places(planned) for planned in plans]
    for numbers in together(plans):
        trainings = [
            (number, group, training)
            for number in numbers
            for group in plans[number].groups
            for training in range(len(group.trained))
        ]
        for index, (number, group, training) in enumerate(trainings):
            owned[index * count // len(trainings)][number] += [
                places[number][run.seed, run.setting]
                for run, one in zip(group.runs, group.training, strict=True)
                if one == training
            ]
    return [[tuple(sorted(own)) for own in of_process] for of_process in owned]


def part_folder(planned: Plan, host: Host) -> Path:
    """Where a process keeps its part."""
    return planned.experiment.out / PARTS / host.folder


def _places(planned: Plan) -> dict[tuple[int, str], int]:
    experiment = planned.experiment
    pairs = itertools.product(experiment.settings, experiment.seeds)
    return {(seed, setting): place for place, (setting, seed) in enumerate(pairs)}


def _is_whole(planned: Plan) -> bool:
    return (planned.experiment.out / CONFIG).is_file()


def _check(planned: Plan, host: Host) -> None:
    """That a folder is nobody else's, and not of another number of processes."""
    experiment = planned.experiment
    if _is_whole(planned):
        check_folder(experiment.out, request(planned), experiment.resume)
        there = read_config(experiment.out)
        missing = set(_places(planned)) - {(run.seed, run.setting) for run in there.runs}
        unfinished = any(status.state == "running" for status in read_status(experiment.out))
        if missing or unfinished or there.steps != planned.protocol.steps:
            raise UserError(f"{experiment.out} was begun by one process, which has to go on with it")
        return
    parts = experiment.out / PARTS
    counts = {name.rpartition("-of-")[2] for name in (os.listdir(parts) if parts.is_dir() else ())}
    if others := counts - {str(host.num_processes)}:
        raise UserError(f"{experiment.out} was begun by {min(others)} processes; go on with as many, or delete it")


class _Part(StoredRuns):
    """What a process left of an experiment."""

    @property
    def statuses(self) -> Mapping[RunId, RunStatus]:
        """How every run ended."""
        return {status.run: status for status in read_status(self.folder)}


def join_parts(planned: Plan, owned: Sequence[tuple[int, ...]], progress: Progress) -> None:
    """Makes one folder of the parts of an experiment, if all are finished; the folder that one process would have made.

    Raises:
      UserError: a part is damaged.
    """
    out = planned.experiment.out
    if _is_whole(planned):
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return
    hosts = [Host(index, len(owned)) for index, places in enumerate(owned) if places]
    folders = [part_folder(planned, host) for host in hosts]
    if not all(map(_is_finished, folders)):
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(only_writer(out, progress.note))
        except Taken:  # by the process that joins them
            return
        if not all(map(_is_finished, folders)):
            return
        _Joining(planned, [_Part(folder) for folder in folders]).write()
        shutil.rmtree(out / PARTS, ignore_errors=True)
    progress.note(f"{out}: joined the parts of {len(folders)} processes")


def _is_finished(folder: Path) -> bool:
    there = all((folder / name).is_file() for name in (CONFIG, STATUS))
    return there and all(status.state != "running" for status in read_status(folder))


class _Training(NamedTuple):
    """Where a training of the whole is found: which part, which of its groups, which place in it."""

    part: int
    group: int
    place: int


class _Joining:
    """One folder of several."""

    def __init__(self, planned: Plan, parts: Sequence[_Part]) -> None:
        self._planned, self._parts = planned, parts
        self._folder = ResultsFolder(planned.experiment.out)
        self._config = _joined_config(parts)
        self._evaluations = [read_evaluations(part.folder) for part in parts]
        self._metrics = [read_metrics(part.folder) for part in parts]

    def write(self) -> None:
        """Everything, and the configuration last: it says that the folder is whole."""
        path = self._folder.path
        shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
        write_text(path / EVALUATIONS, evaluation_header())
        write_text(path / METRICS, "")
        for number, group in enumerate(self._planned.groups):
            self._write_group(number, group)
        statuses = {run: status for part in self._parts for run, status in part.statuses.items()}
        self._folder.write_status(statuses[run] for run in self._config.runs)
        for part in self._parts:
            for logs in part.folder.glob("tensorboard"):
                shutil.copytree(logs, path / logs.name, dirs_exist_ok=True)
        self._folder.write_config(self._config)

    def _write_group(self, number: int, group: Group) -> None:
        found = self._trainings(group)
        runs = [self._config.run(run.seed, run.setting) for run in group.runs]
        ledger, standing = Ledger(self._folder), dict[tuple[str, int], Standing]()
        for metrics, evaluations in self._intervals(runs):
            ledger.append([metrics], evaluations)
            standing[metrics.phase, metrics.step] = ledger.standing
        self._write_checkpoints(number, group, found, standing)

    def _trainings(self, group: Group) -> list[_Training]:
        """Where every training of a group is found."""
        where = {}
        for index, part in enumerate(self._parts):
            for number, own in enumerate(part.groups):
                for run, place in zip(own.runs, own.training, strict=True):
                    where[run.seed, run.setting] = _Training(index, number, place)
        return [where[run.seed, run.setting] for run in group.trained]

    def _intervals(self, runs: Sequence[RunId]) -> Iterator[tuple[MetricsRecord, list[Evaluation]]]:
        """Rows of some runs, an interval after the other, in the order of the run axis."""
        place = {run: index for index, run in enumerate(runs)}
        phases = [phase.name for phase in self._planned.method.phases]
        by_interval: dict[tuple[int, int], list[MetricsRecord]] = {}
        for record in itertools.chain.from_iterable(self._metrics):
            if record.runs[0] in place:
                by_interval.setdefault((phases.index(record.phase), record.step), []).append(record)
        by_step: dict[int, list[Evaluation]] = {}  # of the main phase
        for row in itertools.chain.from_iterable(self._evaluations):
            if row.run in place:
                by_step.setdefault(row.step, []).append(row)
        for (phase, step), records in sorted(by_interval.items()):
            own = by_step.get(step, []) if phase == len(phases) - 1 else []
            yield _joined_metrics(phases[phase], step, runs, records), sorted(own, key=lambda row: place[row.run])

    def _write_checkpoints(
        self,
        number: int,
        group: Group,
        found: Sequence[_Training],
        standing: Mapping[tuple[str, int], Standing],
    ) -> None:
        """Checkpoints of which all that still trained have a part; of those that failed before, their last."""
        with ExitStack() as stack:
            opened: dict[tuple[int, int], StoredCheckpoints] = {}
            for one in found:
                if (key := (one.part, one.group)) not in opened:
                    folder = self._parts[one.part].folder / CHECKPOINTS / str(one.group)
                    opened[key] = stack.enter_context(StoredCheckpoints(folder))
            numbers = {key: stored.numbers() for key, stored in opened.items()}
            last = max(max(own) for own in numbers.values())
            whole = [
                checkpoint
                for checkpoint in range(1, last + 1)
                if all(checkpoint in own or checkpoint > max(own) for own in numbers.values())
            ]
            kept = stack.enter_context(Checkpoints(self._folder.checkpoints / str(number)))
            best: Mapping[int, BestEvaluation] = {}
            for checkpoint in whole:
                chosen = {key: min(checkpoint, max(own)) for key, own in numbers.items()}
                saved = {key: self._saved(key, stored, chosen[key]) for key, stored in opened.items()}
                states = {key: stored.parts(chosen[key]) for key, stored in opened.items()}
                state = _stacked([(states[each.part, each.group], each.place) for each in found])
                best = self._best(group, found, saved)
                furthest = max(saved.values(), key=lambda each: each.position)
                phase = self._planned.method.phases[furthest.position.phase].name
                record = Saved(
                    furthest.position,
                    checkpoint,
                    {
                        place: saved[each.part, each.group].failed[each.place]
                        for place, each in enumerate(found)
                        if each.place in saved[each.part, each.group].failed
                    },
                    best,
                    standing[phase, furthest.position.step],
                    (),
                    0,
                    _joined_spent([each.spent for each in saved.values()]),
                )
                kept.save(checkpoint, state, entries_of(record), kept_checkpoints(self._planned.experiment.keep, best))

    def _saved(self, key: tuple[int, int], stored: StoredCheckpoints, number: int) -> Saved:
        part = self._parts[key[0]]
        runs = [part.config.run(run.seed, run.setting) for run in part.groups[key[1]].runs]
        return saved_of(stored.record(number), number, ResultsFolder(part.folder), runs)

    def _best(
        self, group: Group, found: Sequence[_Training], saved: Mapping[tuple[int, int], Saved]
    ) -> dict[int, BestEvaluation]:
        """The best evaluation of every run that has one, by its place in the whole group."""
        best = {}
        for place, (run, training) in enumerate(zip(group.runs, group.training, strict=True)):
            one = found[training]
            own = self._parts[one.part].groups[one.group].runs
            there = [(each.seed, each.setting) for each in own].index((run.seed, run.setting))
            if there in saved[one.part, one.group].best:
                best[place] = saved[one.part, one.group].best[there]
        return best


def _joined_config(parts: Sequence[_Part]) -> Config:
    first, *_ = (part.config for part in parts)
    executions = [part.config.execution for part in parts if part.config.execution is not None]
    execution = None
    if executions:
        runs = [len(part.config.runs) for part in parts if part.config.execution is not None]
        means = {
            name: float(np.average([getattr(one, name) for one in executions], weights=runs))
            for name in ("hours_per_run", "updates_per_second", "evaluation_share", "saving_share")
        }
        execution = Execution(
            host=", ".join(dict.fromkeys(one.host for one in executions)),
            devices_used=sum(one.devices_used for one in executions),
            start=min(one.start for one in executions),
            end=max(one.end for one in executions),
            hours=max(one.hours for one in executions),
            **means,
        )
    resumptions: list[Resumption] = []
    for one in sorted((one for part in parts for one in part.config.resumptions), key=lambda one: one.start):
        if all(one.versions != other.versions for other in resumptions):
            resumptions.append(one)
    return dataclasses.replace(first, only=(), execution=execution, resumptions=tuple(resumptions))


def _joined_metrics(phase: str, step: int, runs: Sequence[RunId], records: Sequence[MetricsRecord]) -> MetricsRecord:
    """One record of several; NaN of runs that have none, which failed before."""
    names = records[0].metrics
    values = {name: dict.fromkeys(runs, float("nan")) for name in names}
    for record in records:
        for name, found in record.metrics.items():
            values[name] |= dict(zip(record.runs, map(float, found), strict=True))
    metrics = {name: [by_run[run] for run in runs] for name, by_run in values.items()}
    return MetricsRecord(phase, step, tuple(runs), metrics, max(record.wall_time for record in records))


def _joined_spent(spent: Sequence[Spent]) -> Spent:
    """Of processes that work side by side: the longest."""
    return max(spent, key=lambda one: one.seconds)


def _stacked(trainings: Sequence[tuple[Any, int]]) -> Any:
    """The states of trainings, each at its place in a part's state, on one run axis."""
    picked = [jax.tree.map(lambda leaf, place=place: np.asarray(leaf)[place], state) for state, place in trainings]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *picked)
