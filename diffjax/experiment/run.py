"""One experiment: a method on a task, all its runs, from data to evaluated and recorded results."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax

from diffjax.data.transitions import Dataset
from diffjax.experiment import rows
from diffjax.experiment.plan import Experiment, plan
from diffjax.experiment.prepare import Ready, make_ready, obtain_dataset
from diffjax.experiment.provenance import request
from diffjax.experiment.trainer import Assembled, Trainer
from diffjax.numerics import check_platform, pinned
from diffjax.records.folder import ResultsFolder, Rows, check_folder, open_folder, read_status
from diffjax.records.loggers import Loggers
from diffjax.records.schema import RunId, RunStatus
from diffjax.tasks.default_data import MakeData
from diffjax.training.checkpoints import KEPT, Checkpoints
from diffjax.training.loop import Position, bounds, updates_done
from diffjax.training.program import TrainState
from diffjax.training.progress import Progress


@pinned()
def run_experiment(
    experiment: Experiment, progress: Progress, make_data: MakeData, dataset: Dataset | None = None
) -> ResultsFolder:
    """Trains and evaluates all runs of an experiment and records them in its folder.

    ``make_data`` makes the data of a task that has its own and none stored yet; ``dataset`` is what was loaded already.

    Raises:
      UserError: for any mistake in the request, the data or the folder; nothing is written then.
    """
    planned = plan(experiment)
    check_platform()
    check_folder(experiment.out, request(planned), experiment.resume)
    about_data: list[str] = []  # said once nothing can be refused any more, so that a refusal is one line
    ready = make_ready(planned, dataset or obtain_dataset(planned, make_data, about_data.append), about_data.append)
    folder = open_folder(experiment.out, ready.config, experiment.resume)
    for line in about_data:
        progress.note(line)
    with jax.default_matmul_precision(experiment.matmul_precision):
        _Recorder(ready, folder, progress).train()
    return folder


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

    def __init__(self, ready: Ready, folder: ResultsFolder, progress: Progress) -> None:
        self.plan, _, self.config = ready
        self.trainer = Trainer(ready, progress)
        self.folder = folder
        self.progress = progress
        self.lengths = self.trainer.lengths
        self.status = dict(read_status(folder.path))

    def train(self) -> None:
        """Trains what is not yet trained; rows that no checkpoint vouches for are cut first."""
        self.folder.truncate(self.committed_rows())
        for index, group in enumerate(self.plan.groups):
            assembled = self.trainer.assemble(group)
            with self.checkpoints(index) as checkpoints:
                state, saved = self.begin(assembled, checkpoints)
                done = updates_done(self.lengths, saved.position)
                self.progress.begin(self.trainer.name, len(group.trained), sum(self.lengths), done)
                with self.loggers(assembled, done) as loggers:
                    self.train_group(assembled, state, saved, checkpoints, loggers)
        self.progress.end()

    def train_group(
        self, assembled: Assembled, state: TrainState, saved: _Saved, checkpoints: Checkpoints, loggers: Loggers
    ) -> None:
        """Runs a group to its end: evaluate, rows, log, status, checkpoint, again and again."""
        group, runs = assembled.group, assembled.runs
        best = saved.best
        is_done = not bounds(self.lengths, self.plan.protocol.eval_interval, saved.position)
        self.write_status(rows.statuses(runs, group, saved.failed, is_done))
        if is_done or len(saved.failed) == len(group.trained):
            return
        self.say_what_is_kept(state, len(runs))
        outcomes = self.trainer.outcomes(assembled, state, saved.position, saved.failed)
        for number, outcome in enumerate(outcomes, start=saved.number + 1):
            best = rows.best_evaluations(best, outcome.scores, number)
            self.folder.append_metrics([outcome.metrics])
            self.folder.append_evaluations(outcome.evaluations)
            self.trainer.show(outcome)
            loggers.add(outcome.metrics, outcome.evaluations)
            self.write_status(rows.statuses(runs, group, outcome.failed, outcome.interval.is_last))
            record = {
                "phase": outcome.interval.phase,
                "step": outcome.interval.stop,
                "rows": list(self.folder.rows()),
                "failures": {str(training): reason for training, reason in outcome.failed.items()},
                "best": {str(run): list(one) for run, one in best.items()},
            }
            checkpoints.save(number, outcome.interval.state, record, self.kept(best))  # the commit point

    def begin(self, assembled: Assembled, checkpoints: Checkpoints) -> tuple[TrainState, _Saved]:
        """A fresh state, or the newest checkpoint's."""
        state = assembled.program.init(assembled.setup, assembled.data)
        number = checkpoints.latest()
        if number is None:
            return state, _Saved()
        state, record = checkpoints.restore(number, state)
        failed = {int(training): reason for training, reason in record["failures"].items()}
        best = {int(run): rows.BestEvaluation(*one) for run, one in record.get("best", {}).items()}
        return state, _Saved(Position(record["phase"], record["step"]), number, failed, best)

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

    def write_status(self, changed: Mapping[RunId, str]) -> None:
        """Rewrites ``status.json``."""
        self.status |= changed
        self.folder.write_status(RunStatus(run, state) for run, state in self.status.items())

    def loggers(self, assembled: Assembled, done: int) -> Loggers:
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
