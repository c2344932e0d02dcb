"""Experiments: methods on tasks, all their runs, from data to evaluated and recorded results.

Groups of several experiments that share a program train in it side by side; each experiment keeps a folder of its own,
as if it were alone.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import jax
import numpy as np

from diffjax.clock import duration
from diffjax.data.transitions import Dataset
from diffjax.errors import Stopped, UserError, first_line
from diffjax.experiment.joint import program_of, together
from diffjax.experiment.plan import Experiment, Plan, phase_lengths, plan
from diffjax.experiment.prepare import make_ready, obtain_dataset
from diffjax.experiment.provenance import request
from diffjax.experiment.recorder import GroupRecorder, Recorder
from diffjax.experiment.trainer import Trainer
from diffjax.experiment.unfinished import Begun
from diffjax.methods.base import Metrics
from diffjax.numerics import check_platform, matmul_precision, pinned
from diffjax.records.folder import (
    CONFIG,
    STATUS,
    ResultsFolder,
    blocks_of,
    check_folder,
    open_folder,
    read_evaluations,
    read_status,
)
from diffjax.records.writer import only_writer
from diffjax.tasks.default_data import MakeData
from diffjax.training.loop import Partial, Position, updates_done
from diffjax.training.program import TrainState, join_runs
from diffjax.training.progress import Progress
from diffjax.words import count


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
    companies = list(together(plans))
    for place, numbers in enumerate(companies, start=1):
        chosen = [plans[number] for number in numbers]
        said: list[str] = []  # once nothing can be refused any more, so that a refusal is one line
        # What the experiments before read and these do not is let go.
        loaded = {_data_of(one): loaded[_data_of(one)] for one in chosen if _data_of(one) in loaded}
        recorders = []
        for planned in chosen:
            progress.doing(f"loading the data of {planned.task.id}")
            data = dataset or loaded.get(_data_of(planned)) or obtain_dataset(planned, make_data, said.append)
            loaded[_data_of(planned)] = data
            progress.doing(f"checking {planned.name}")
            ready = make_ready(planned, data, said.append)
            recorders.append(Recorder(ready, progress))
            recorders[-1].check_versions(said.append)
        with ExitStack() as stack:
            for number, recorder in zip(numbers, recorders, strict=True):
                experiment = recorder.ready.plan.experiment
                report = stack.enter_context(only_writer(experiment.out, said.append))
                folder = open_folder(experiment.out, recorder.ready.config, experiment.resume)
                stack.enter_context(recorder)
                folders[number] = recorder.open(folder, report)
            for line in dict.fromkeys(said):
                progress.note(line)
            for line in _standing(recorders):
                progress.note(line)
            by_program: dict[object, list[GroupRecorder]] = {}
            for group in (group for recorder in recorders for group in recorder.groups):
                by_program.setdefault(program_of(group.member), []).append(group)
            later = sum(_updates(plans[number]) for numbers in companies[place:] for number in numbers)
            left = [sum(map(GroupRecorder.updates_left, groups)) for groups in by_program.values()]
            for number, groups in enumerate(by_program.values(), start=1):
                _train(groups, progress, sum(left[number:]) + later)
            begun = [number for number, recorder in zip(numbers, recorders, strict=True) if recorder.has_begun]
        for number in begun if len(plans) > 1 else ():
            done = f"{len(folders)} of {len(plans)} experiments are done"
            progress.note(f"{plans[number].name}: finished; results in {folders[number].path} ({done})")
        if place < len(companies):
            jax.clear_caches()  # the next ones compile programs of their own; these would pile up
    return [folders[number] for number in range(len(plans))]


def _updates(planned: Plan) -> int:
    """Updates of all its runs that are to come, as far as its folder says without its data."""
    left = what_is_left(planned)
    return sum(trainings for _, trainings in left.groups) * sum(left.lengths)


class Left(NamedTuple):
    """What is still to train of an experiment: runs and trainings of each group, and updates of each phase."""

    groups: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]

    @property
    def runs(self) -> int:
        """That are not finished."""
        return sum(runs for runs, _ in self.groups)


def what_is_left(planned: Plan) -> Left:
    """As far as its folder says without its data; of what was interrupted, from the last evaluation on."""
    out = planned.experiment.out
    lengths = phase_lengths(planned.method, planned.protocol)
    finished: set[tuple[int, str]] = set()
    if (out / STATUS).is_file() and (out / CONFIG).is_file():
        finished = {(one.run.seed, one.run.setting) for one in read_status(out) if one.state != "running"}
        running = [row.step for row in read_evaluations(out) if (row.run.seed, row.run.setting) not in finished]
        if running:
            lengths = (*(0 for _ in lengths[:-1]), lengths[-1] - max(running))
    groups = []
    for group in planned.groups:
        places = [
            training
            for run, training in zip(group.runs, group.training, strict=True)
            if (run.seed, run.setting) not in finished
        ]
        groups.append((len(places), len(set(places))))
    return Left(tuple(groups), lengths)


def _standing(recorders: Sequence[Recorder]) -> Iterator[str]:
    """What was finished before, and where what was interrupted goes on."""
    skipped = [one.ready.plan.name for one in recorders if all(group.is_finished for group in one.groups)]
    if skipped:
        yield f"finished before, nothing to train: {', '.join(skipped)}"
    for one in recorders:
        unfinished = [group for group in one.groups if not group.is_finished]
        if len(unfinished) == len(one.groups) and not any(group.updates_done for group in unfinished):
            continue
        if unfinished:
            done, total = min(group.updates_done for group in unfinished), sum(unfinished[0].member.lengths)
            yield f"{one.ready.plan.name}: goes on at {done:,} of {total:,} updates"


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


def _train(groups: Sequence[GroupRecorder], progress: Progress, later: int) -> None:
    """Trains what is not yet trained of the groups that share a program; ``later`` updates of single runs follow."""
    experiment = groups[0].member.ready.plan.experiment
    teams = _teams(groups)
    left = [sum(group.updates_left() for group in team) for team in teams]
    for number, team in enumerate(teams, start=1):
        progress.expect(later + sum(left[number:]))
        recorded = [group.saved.runs_at_once for group in team if not group.is_finished]
        most: int | None = experiment.max_runs_per_program or min(recorded)
        while most is not None:
            with matmul_precision(experiment.matmul_precision), ExitStack() as stack:
                stack.callback(progress.end)
                most = _train_together(team, progress, most, stack)
    progress.doing("saving")
    for group in groups:
        group.close()
    progress.doing("")


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


def _train_together(recorders: Sequence[GroupRecorder], progress: Progress, most: int, stack: ExitStack) -> int | None:
    """Runs groups to their ends in one program: evaluate, rows, log, status, checkpoint, again and again.

    Args:
      most: runs on the devices at a time; 0 for as many as fit.

    Returns:
      with how many runs at a time to go on, where that were too many; None at the end.
    """
    trainer = Trainer([recorder.member for recorder in recorders], progress)
    try:
        _train_members(trainer, recorders, most, stack)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        runs = trainer.runs_at_once
        if runs == 1:
            raise UserError(f"{trainer.name}: not even one run fits into memory: {first_line(error)}") from None
        at_once = count(runs, "run")
        progress.note(f"{trainer.name}: out of memory with {at_once} at once; from the checkpoint with {runs // 2}")
        return runs // 2
    return None


def _train_members(trainer: Trainer, recorders: Sequence[GroupRecorder], most: int, stack: ExitStack) -> None:
    progress, experiment = trainer.progress, recorders[0].member.ready.plan.experiment
    finished = frozenset(number for number, recorder in enumerate(recorders) if recorder.is_finished)
    position = min(recorder.saved.position for number, recorder in enumerate(recorders) if number not in finished)
    company = tuple(member.label for member in trainer.members)
    begun = _begun(recorders, company, finished)
    done = updates_done(trainer.lengths, position) + (begun.step - position.step if begun else 0)
    progress.begin(trainer.name, trainer.count, sum(trainer.lengths), done)
    trainer.load(position.phase, most, experiment.overlap)
    progress.note(f"{trainer.name}: {_plan_of(trainer)}")
    if (status := progress.stop_status()) is not None:
        raise Stopped(f"{trainer.name}: stopped before any update; the same command with --resume goes on", status)
    state, partial = trainer.init(), None
    if begun is not None or position != Position():
        progress.doing("reading checkpoints")
        state, sums = _restored(trainer, recorders, state, finished, begun is not None)
        partial = Partial(begun.step, sums) if begun is not None and sums is not None else None
    for number, recorder in enumerate(recorders):
        if number not in finished:
            stack.enter_context(recorder.begin(state, company, trainer))
    failed = {number: recorder.saved.failed for number, recorder in enumerate(recorders)}
    for step in trainer.steps(state, position, failed, finished, partial):
        began = time.perf_counter()
        if not step.interval.is_whole:
            progress.doing("saving")
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
        progress.doing("saving")
        for number, outcome in step.outcomes.items():
            recorders[number].commit(step.interval, outcome, trainer.own(step.interval.state, number))
        trainer.spent.saving += time.perf_counter() - began
    spent = trainer.spent
    if spent.seconds:
        shares = f"{spent.evaluating / spent.seconds:.0%} evaluating, {spent.saving / spent.seconds:.0%} saving"
        progress.note(f"{trainer.name}: {duration(spent.seconds)}, of which {shares}")


def _plan_of(trainer: Trainer) -> str:
    """How the runs of a program are trained, in words."""
    memory, devices = trainer.memory, trainer.program.devices
    turns = -(-trainer.count // memory.runs)
    cut = f"{count(trainer.count, 'run')} in {turns} turns of {memory.runs}, " if turns > 1 else ""
    return f"{cut}{memory.words}" + f"; on {devices} devices" * (devices > 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host has no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _begun(recorders: Sequence[GroupRecorder], company: tuple[str, ...], finished: frozenset[int]) -> Begun | None:
    """The interval that all who are not finished were in when they were asked to stop, if it was kept of each."""
    found = {recorder.unfinished for number, recorder in enumerate(recorders) if number not in finished}
    places = {begun and (begun.position, begun.step, begun.company) for begun in found}
    if places != {place for place in places if place and place[2] == company} or len(places) != 1:
        return None
    return found.pop()


def _restored(
    trainer: Trainer,
    recorders: Sequence[GroupRecorder],
    state: TrainState,
    finished: frozenset[int],
    is_within: bool,
) -> tuple[TrainState, Metrics | None]:
    """The state of all runs as the checkpoints hold it, or within an interval, then with the sums of its metrics.

    Of members that are finished a fresh state, which nobody reads.
    """
    parts: list[tuple[TrainState, Metrics | None]] = []
    for number, recorder in enumerate(recorders):
        like = trainer.own(state, number)
        if number in finished:
            parts.append((like, None))
        else:
            parts.append(recorder.restore_unfinished(like) if is_within else (recorder.restore(like), None))
    on_devices = trainer.training.from_host
    whole = on_devices(join_runs([own for own, _ in parts]))
    if not is_within:
        return whole, None
    (known, *_) = (sums for _, sums in parts if sums is not None)
    joined = [
        jax.tree.map(lambda leaf, runs=runs: np.zeros(runs, leaf.dtype), known) if sums is None else sums
        for runs, (_, sums) in zip(trainer.counts, parts, strict=True)
    ]
    return whole, on_devices(join_runs(joined))
