"""Experiments: methods on tasks, all their runs, from data to evaluated and recorded results.

Groups of several experiments that share a program train in it side by side; each experiment keeps a folder of its own,
as if it were alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.transitions import Dataset
from diffjax.errors import Stopped
from diffjax.experiment.joint import program_of
from diffjax.experiment.plan import Experiment, Plan, plan
from diffjax.experiment.prepare import make_ready, obtain_dataset
from diffjax.experiment.provenance import request
from diffjax.experiment.recorder import GroupRecorder, Recorder
from diffjax.experiment.trainer import Trainer
from diffjax.experiment.unfinished import Begun
from diffjax.methods.base import Metrics
from diffjax.numerics import check_platform, pinned
from diffjax.records.folder import ResultsFolder, blocks_of, check_folder, open_folder
from diffjax.records.writer import only_writer
from diffjax.tasks.default_data import MakeData
from diffjax.training.loop import Partial, Position, updates_done
from diffjax.training.program import TrainState
from diffjax.training.progress import Progress


def run_experiment(
    experiment: Experiment, progress: Progress, make_data: MakeData, dataset: Dataset | None = None
) -> ResultsFolder:
    """Trains and evaluates all runs of one experiment; see :func:`run_experiments`.

    ``dataset`` is what was loaded already.
    """
    (folder,) = run_experiments([experiment], progress, make_data, dataset)
    return folder


@pinned()
def run_experiments(
    experiments: Sequence[Experiment], progress: Progress, make_data: MakeData, dataset: Dataset | None = None
) -> list[ResultsFolder]:
    """Trains and evaluates all runs of some experiments and records them in their folders.

    ``make_data`` makes the data of a task that has its own and none stored yet.

    Raises:
      UserError: for any mistake in a request, the data or a folder. What is wrong with a request is found before
        anything is written, with data or a simulator before anything of the experiments that share a program.
    """
    plans = [plan(experiment) for experiment in experiments]
    check_platform()
    for planned in plans:
        check_folder(planned.experiment.out, request(planned), planned.experiment.resume)
    plans = [planned.with_blocks(blocks_of(planned.experiment.out, request(planned))) for planned in plans]
    folders: dict[int, ResultsFolder] = {}
    loaded: dict[object, Dataset] = {}
    together = list(_together(plans))
    for count, numbers in enumerate(together, start=1):
        chosen = [plans[number] for number in numbers]
        said: list[str] = []  # once nothing can be refused any more, so that a refusal is one line
        # What the experiments before read and these do not is let go.
        loaded = {_data_of(one): loaded[_data_of(one)] for one in chosen if _data_of(one) in loaded}
        recorders = []
        for planned in chosen:
            data = dataset or loaded.get(_data_of(planned)) or obtain_dataset(planned, make_data, said.append)
            loaded[_data_of(planned)] = data
            ready = make_ready(planned, data, said.append)
            recorders.append(Recorder(ready, progress))
        with ExitStack() as stack:
            for number, recorder in zip(numbers, recorders, strict=True):
                experiment = recorder.ready.plan.experiment
                report = stack.enter_context(only_writer(experiment.out, said.append))
                folder = open_folder(experiment.out, recorder.ready.config, experiment.resume)
                stack.callback(recorder.close)
                folders[number] = recorder.open(folder, report)
            for line in dict.fromkeys(said):
                progress.note(line)
            by_program: dict[object, list[GroupRecorder]] = {}
            for group in (group for recorder in recorders for group in recorder.groups):
                by_program.setdefault(program_of(group.member), []).append(group)
            for groups in by_program.values():
                _train(groups, progress)
        if count < len(together):
            jax.clear_caches()  # the next ones compile programs of their own; these would pile up
    return [folders[number] for number in range(len(plans))]


def _together(plans: Sequence[Plan]) -> Iterator[list[int]]:
    """Experiments that may share programs, by their numbers."""
    found: dict[object, list[int]] = {}
    for number, planned in enumerate(plans):
        found.setdefault((planned.method, planned.spec), []).append(number)
    yield from found.values()


def _data_of(planned: Plan) -> object:
    """What names the data of an experiment."""
    experiment = planned.experiment
    return (
        experiment.dataset or planned.task.id,
        experiment.dataset and planned.task.id,
        experiment.dataset_source,
        experiment.mirror,
        experiment.top_percent,
    )


def _train(groups: Sequence[GroupRecorder], progress: Progress) -> None:
    """Trains what is not yet trained of the groups that share a program."""
    precision = groups[0].member.ready.plan.experiment.matmul_precision
    for team in _teams(groups):
        with jax.default_matmul_precision(precision), ExitStack() as stack:
            stack.callback(progress.end)
            _train_together(team, progress, stack)
    for group in groups:
        group.close()


def _teams(groups: Sequence[GroupRecorder]) -> list[list[GroupRecorder]]:
    """Those that train side by side, from one position.

    All that are new do. Training that was interrupted goes on in the program that it began in, so that it ends bitwise
    as it would have: with those that it began with, which go back an interval where they are ahead, and train along
    where they are finished. What stands too far apart goes on apart.
    """
    companies = sorted({group.saved.company for group in groups if group.saved.company})
    by_company: dict[tuple[str, ...], list[GroupRecorder]] = {}
    for group in groups:
        if not group.is_finished:
            # A group without a checkpoint belongs to those that began with it, if they have one.
            began = next((company for company in companies if group.member.label in company), ())
            by_company.setdefault(group.saved.company or began, []).append(group)
    teams: list[list[GroupRecorder]] = []
    for company, unfinished in by_company.items():
        lowest = min(group.saved.position for group in unfinished)
        if all(group.reaches(lowest) for group in unfinished):
            for group in unfinished:
                group.go_back(lowest)
            along = [group for group in groups if group.is_finished and group.member.label in company]
            teams.append([group for group in groups if group in unfinished or group in along])
        else:
            by_position: dict[Position, list[GroupRecorder]] = {}
            for group in unfinished:
                by_position.setdefault(group.saved.position, []).append(group)
            teams += by_position.values()
    return teams


def _train_together(recorders: Sequence[GroupRecorder], progress: Progress, stack: ExitStack) -> None:
    """Runs groups to their ends in one program: evaluate, rows, log, status, checkpoint, again and again."""
    members = [recorder.member for recorder in recorders]
    trainer = Trainer(members, progress)
    finished = frozenset(number for number, recorder in enumerate(recorders) if recorder.is_finished)
    position = min(recorder.saved.position for number, recorder in enumerate(recorders) if number not in finished)
    data, setup = trainer.arrays()
    state = trainer.program.init(setup, data)
    company = tuple(member.label for member in members)
    partial = None
    if (begun := _begun(recorders, company, finished)) is not None:
        state, sums = _restored_within(trainer, recorders, state, finished)
        partial = Partial(begun.step, sums)
    elif position != Position():
        state = _restored(trainer, recorders, state, finished)
    done = updates_done(trainer.lengths, position) + (partial.step - position.step if partial else 0)
    progress.begin(trainer.name, trainer.count, sum(trainer.lengths), done)
    for number, recorder in enumerate(recorders):
        if number not in finished:
            stack.enter_context(recorder.begin(state, company))
    failed = {number: recorder.saved.failed for number, recorder in enumerate(recorders)}
    for step in trainer.steps(data, setup, state, position, failed, finished, partial):
        if not step.interval.is_whole:
            for number, recorder in enumerate(recorders):
                if not recorder.is_finished:
                    sums = trainer.own(step.interval.sums, number)
                    recorder.keep_unfinished(step.interval, trainer.own(step.interval.state, number), sums)
            phase = trainer.method.phases[step.interval.phase].name
            where = f"{trainer.name}: stopped at {phase} step {step.interval.step}"
            status = progress.stop_status()
            assert status is not None
            raise Stopped(f"{where}; the same command with --resume goes on", status)
        trainer.show(step)
        for number, outcome in step.outcomes.items():
            recorders[number].commit(step.interval, outcome, trainer.own(step.interval.state, number))


def _restored(
    trainer: Trainer, recorders: Sequence[GroupRecorder], state: TrainState, finished: frozenset[int]
) -> TrainState:
    """The state of all runs as the checkpoints hold it; of those that are finished a fresh one, which nobody reads."""
    parts = []
    for number, recorder in enumerate(recorders):
        like = trainer.own(state, number)
        parts.append(like if number in finished else recorder.restore(like))
    return _joined(trainer, parts)


def _begun(recorders: Sequence[GroupRecorder], company: tuple[str, ...], finished: frozenset[int]) -> Begun | None:
    """The interval that all who are not finished were in when they were asked to stop, if it was kept of each."""
    found = {recorder.unfinished for number, recorder in enumerate(recorders) if number not in finished}
    places = {begun and (begun.position, begun.step, begun.company) for begun in found}
    if places != {place for place in places if place and place[2] == company} or len(places) != 1:
        return None
    return found.pop()


def _restored_within(
    trainer: Trainer, recorders: Sequence[GroupRecorder], state: TrainState, finished: frozenset[int]
) -> tuple[TrainState, Metrics]:
    """As :func:`_restored`, in the middle of an interval, with the sums of its metrics."""
    parts = [
        (trainer.own(state, number), None)
        if number in finished
        else recorder.restore_unfinished(trainer.own(state, number))
        for number, recorder in enumerate(recorders)
    ]
    (known, *_) = (sums for _, sums in parts if sums is not None)
    joined = [
        jax.tree.map(lambda leaf, count=count: np.zeros(count, leaf.dtype), known) if sums is None else sums
        for count, (_, sums) in zip(trainer.counts, parts, strict=True)
    ]
    return _joined(trainer, [own for own, _ in parts]), _joined(trainer, joined)


def _joined(trainer: Trainer, parts: Sequence[Any]) -> Any:
    """What members have in host memory, on the run axis of all."""
    return trainer.program.place(jax.tree.map(lambda *leaves: jnp.array(np.concatenate(leaves)), *parts))
