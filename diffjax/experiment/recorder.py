"""What keeps the folder of an experiment true: rows, logs, status, checkpoints, and where each group stands.

A checkpoint is the commit point: it says how many rows of its group stand, with a checksum. What lies beyond is cut
when the group goes on.
"""

import dataclasses
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import jax

from diffjax.clock import utc_now
from diffjax.errors import Stopped, UserError
from diffjax.experiment import rows
from diffjax.experiment.joint import Member, members_of
from diffjax.experiment.prepare import Ready
from diffjax.experiment.trainer import Outcome, Spent, Trainer
from diffjax.experiment.unfinished import Begun, UnfinishedInterval
from diffjax.methods.base import Metrics
from diffjax.records.commits import Ledger, Standing, read_ledgers, rows_of
from diffjax.records.entries import is_a
from diffjax.records.folder import CONFIG, STATUS, ResultsFolder, read_config, read_status
from diffjax.records.loggers import Loggers
from diffjax.records.schema import RunId, RunStatus
from diffjax.training.checkpoints import KEPT, Checkpoints
from diffjax.training.loop import Interval, Position, bounds, updates_done
from diffjax.training.program import TrainState
from diffjax.training.progress import Progress
from diffjax.words import count


class Saved(NamedTuple):
    """What a checkpoint's record says: where training stands, its number, failures, best evaluations, rows, company."""

    position: Position = Position()
    number: int = 0
    failed: rows.Failures = MappingProxyType({})
    best: rows.Best = MappingProxyType({})
    standing: Standing | None = None
    company: tuple[str, ...] = ()  # labels of all that trained in the program
    runs_at_once: int = 0  # on the devices
    spent: Spent = Spent()


class Recorder:
    """Keeps the folder of one experiment; every group has a recorder of its own, once the folder is open."""

    def __init__(self, ready: Ready, progress: Progress) -> None:
        self.ready = ready
        self.progress = progress
        self.groups: tuple[GroupRecorder, ...] = ()
        self.report: Callable[[str], None] = lambda news: None
        self._status: dict[RunId, RunStatus] = {}
        self._has_begun = False

    def check_versions(self, note: Callable[[str], None]) -> None:
        """What it means that a folder began with other programs.

        Raises:
          UserError: it did, and that is not wanted.
        """
        out, now = self.ready.plan.experiment.out, self.ready.config.versions
        if not (out / CONFIG).is_file():
            return
        there = read_config(out)
        if not (others := there.other_versions(now)):
            return
        is_over = (out / STATUS).is_file() and all(status.state != "running" for status in read_status(out))
        if is_over and there.runs == self.ready.config.runs and there.steps == self.ready.config.steps:
            return
        changes = ", ".join(f"{name} {there.versions.get(name, 'unknown')} -> {now[name]}" for name in others)
        if self.ready.plan.experiment.strict:
            raise UserError(f"{out} began with other programs ({changes}); leave out --strict to go on all the same")
        note(f"{out} began with other programs ({changes}); numbers may differ in their last digits")

    @property
    def has_begun(self) -> bool:
        """Whether anything was trained since this was made."""
        return self._has_begun

    def begin(self, devices: int) -> None:
        """Training begins, on so many devices."""
        if self._has_begun:
            return
        self._has_begun = True
        there, versions = read_config(self._folder.path), self.ready.config.versions
        self._folder.write_config(there.begun(socket.gethostname(), devices, utc_now(), versions))

    def open(self, folder: ResultsFolder, report: Callable[[str], None]) -> ResultsFolder:
        """Reads where every group stands and cuts rows that no checkpoint vouches for.

        ``report`` takes news for those who look on from elsewhere.

        Raises:
          UserError: rows, records or states are damaged; nothing is touched then.
        """
        self._folder, self.report = folder, report
        self._status = {one.run: one for one in read_status(folder.path)}
        self.groups = tuple(GroupRecorder(self, member, folder) for member in members_of(self.ready))
        for group in self.groups:
            group.look_for_rows(self._status)
        self.cut()
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Nothing more will be written; what goes wrong with that hides no error from before."""
        is_trouble = error is not None and not isinstance(error, Stopped)
        with suppress(UserError, OSError) if is_trouble else nullcontext():
            for group in self.groups:
                group.close()
            if self._has_begun:
                self._write_execution()

    def _write_execution(self) -> None:
        there = read_config(self._folder.path)
        assert there.execution is not None
        found = [(group.spent, len(group.member.trained)) for group in self.groups]
        seconds, training = sum(one.seconds for one, _ in found), sum(one.training for one, _ in found)
        runs = sum(own for _, own in found)
        execution = replace(
            there.execution,
            end=utc_now(),
            hours=seconds / 3600,
            hours_per_run=sum(one.seconds * own / max(one.runs, 1) for one, own in found) / 3600 / runs,
            updates_per_second=sum(one.updates for one, _ in found) / max(training, 1e-9),
            evaluation_share=sum(one.evaluating for one, _ in found) / max(seconds, 1e-9),
            saving_share=sum(one.saving for one, _ in found) / max(seconds, 1e-9),
        )
        self._folder.write_config(replace(there, execution=execution))

    def cut(self) -> None:
        """Cuts the rows of every group back to those that stand."""
        ledgers = read_ledgers(
            self._folder, [group.member.runs for group in self.groups], [group.wanted for group in self.groups]
        )
        for group, ledger in zip(self.groups, ledgers, strict=True):
            group.ledger = ledger

    def write_status(self, changed: Mapping[RunId, str]) -> None:
        """Rewrites ``status.json``."""
        now = utc_now()
        news = {run: RunStatus(run, state, now) for run, state in changed.items() if self._status[run].status != state}
        if news:
            self._status |= news
            self._folder.write_status(self._status.values())


class GroupRecorder:
    """Keeps what a group of runs leaves in the folder of its experiment."""

    ledger: Ledger

    def __init__(self, parent: Recorder, member: Member, folder: ResultsFolder) -> None:
        self.member = member
        self._parent, self._folder = parent, folder
        self._checkpoints = Checkpoints(folder.checkpoints / str(member.number))
        self._unfinished = UnfinishedInterval(folder.checkpoints / f"{member.number}-unfinished")
        self._begun = self._unfinished.begun()
        self._history = self._read()
        self._all_rows_stand: Standing | None = None
        self._company: tuple[str, ...] = ()
        self._trainer: Trainer | None = None
        self._spent_before = self.saved.spent
        self._loggers: Loggers | None = None

    @property
    def saved(self) -> Saved:
        """Where the group stands."""
        if self._history:
            return self._history[-1]
        begun = self._begun
        return Saved(company=begun.company) if begun is not None and begun.after == 0 else Saved()

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train."""
        if self._all_rows_stand is not None:
            return True
        interval = self.member.ready.plan.protocol.eval_interval
        is_done = not bounds(self.member.lengths, interval, self.saved.position)
        return is_done or len(self.saved.failed) == len(self.member.trained)

    @property
    def wanted(self) -> Standing | None:
        """The rows that stand."""
        return self._all_rows_stand or self.saved.standing

    @property
    def spent(self) -> Spent:
        """What its program took, before and since it was begun here."""
        if self._trainer is None:
            return self._spent_before
        return self._spent_before + self._trainer.spent

    @property
    def updates_done(self) -> int:
        """Of each of its runs."""
        return updates_done(self.member.lengths, self.saved.position)

    def updates_left(self) -> int:
        """Of all its runs."""
        left = sum(self.member.lengths) - self.updates_done
        return 0 if self.is_finished else len(self.member.trained) * left

    def look_for_rows(self, status: Mapping[RunId, RunStatus]) -> None:
        """What rows without any checkpoint mean, when a folder is opened.

        A group that is finished is finished all the same; of another what stands before a first checkpoint is nothing.

        Raises:
          UserError: there are rows of more than one interval, and no checkpoint of them.
        """
        if self._history:
            return
        found = rows_of(self._folder, self.member.runs)
        if any(found.rows) and all(status[run].state != "running" for run in self.member.runs):
            self._all_rows_stand = found
        elif found.metrics.rows > 1 or found.evaluations.rows > len(self.member.runs):
            raise UserError(
                f"{self._folder.path} has rows of an unfinished training and no checkpoint to go on from; bring "
                f"{self._folder.checkpoints} back, or delete the folder to begin again"
            )

    def reaches(self, position: Position) -> bool:
        """Whether the group stands at a position or can go back to it."""
        return position == self.saved.position or any(one.position == position for one in self._before())

    def go_back(self, position: Position) -> None:
        """Forgets what lies beyond a position."""
        if position == self.saved.position:
            return
        (index,) = [index for index, one in enumerate(self._before()) if one.position == position]
        kept = [one for one in self._before()[: index + 1] if one.number]
        for one in self._history[len(kept) :]:
            self._checkpoints.delete(one.number)
        self._history = kept
        self._parent.cut()

    def restore(self, like: TrainState) -> TrainState:
        """The group's state in host memory; ``like`` gives its structure and shapes."""
        state, _ = self._checkpoints.restore(self.saved.number, like)
        return state

    @property
    def unfinished(self) -> Begun | None:
        """The interval after the last checkpoint, if it was begun and kept."""
        return self._begun if self._begun is not None and self._begun.after == self.saved.number else None

    def restore_unfinished(self, like: TrainState) -> tuple[TrainState, Metrics]:
        """As :meth:`restore`, of the interval that was begun, with the sums of its metrics."""
        return self._unfinished.restore(like)

    def keep_unfinished(self, interval: Interval, state: TrainState, sums: Metrics) -> None:
        """Keeps an interval that ends early, to go on with; the group's part, in host memory."""
        self._checkpoints.settle()
        begun = Begun(Position(interval.phase, interval.start), interval.step, self.saved.number, self._company)
        self._unfinished.keep(begun, state, sums)

    @contextmanager
    def begin(self, state: TrainState, company: tuple[str, ...], trainer: Trainer) -> Iterator[None]:
        """While the group trains, together with ``company``, to which it belongs."""
        self._company, self._trainer, self._spent_before = company, trainer, self.saved.spent
        self._parent.begin(trainer.program.devices)
        ready, lengths = self.member.ready, self.member.lengths
        names = ready.plan.experiment.log
        phases = dict(zip((phase.name for phase in ready.plan.method.phases), lengths, strict=True))
        self._parent.write_status(rows.statuses(self.member.runs, self.member.group, self.saved.failed, False))
        self._say_what_is_kept(state)
        with Loggers(
            names, self._folder, ready.config, self.member.runs, phases, ready.plan.experiment.sweep
        ) as self._loggers:
            yield

    def commit(self, interval: Interval, outcome: Outcome, state: TrainState) -> None:
        """Keeps an interval: rows, log, status, checkpoint; ``state`` is the group's part, in host memory.

        The checkpoint is written while training goes on, and stands before the next one begins.
        """
        assert self._loggers is not None
        assert self._trainer is not None
        self._checkpoints.settle()  # never more than one interval's rows beyond what stands
        before = self.saved
        number = before.number + 1
        best = rows.best_evaluations(before.best, outcome.scores, number)
        self.ledger.append([outcome.metrics], outcome.evaluations)
        self._loggers.add(outcome.metrics, outcome.evaluations)
        member = self.member
        self._parent.write_status(rows.statuses(member.runs, member.group, outcome.failed, outcome.is_last))
        position = Position(interval.phase, interval.stop)
        at_once = self._trainer.runs_at_once
        now = Saved(position, number, outcome.failed, best, self.ledger.standing, self._company, at_once, self.spent)
        # The commit point; what was kept of the interval before it stood goes then.
        self._checkpoints.save(
            number,
            state,
            entries_of(now),
            kept_checkpoints(member.ready.plan.experiment.keep, best),
            self._unfinished.forget,
        )
        self._begun = None
        self._parent.report(self._news(interval, outcome))
        self._history = [*self._history[-1:], now]

    def close(self) -> None:
        """Nothing more will be written."""
        self._checkpoints.close()

    def _news(self, interval: Interval, outcome: Outcome) -> str:
        """How far training has come, for those who look on from elsewhere."""
        phases = self.member.ready.plan.method.phases
        length = self.member.lengths[interval.phase]
        found = [score for score in outcome.scores.tolist() if score == score]
        score = f", score {sum(found) / len(found):.1f}" if found else ""
        progress = self._parent.progress
        where = f"{phases[interval.phase].name} step {interval.stop:,} of {length:,}{score}"
        return f"{where}, {progress.rate()}{progress.left()}"

    def _before(self) -> list[Saved]:
        """Where the group can stand: its checkpoints, and its beginning if nothing older was deleted."""
        is_whole = not self._history or self._history[0].number == 1
        return [*([Saved()] if is_whole else []), *self._history]

    def _read(self) -> list[Saved]:
        """What the newest checkpoints say.

        Raises:
          UserError: a record is damaged.
        """
        return [
            saved_of(self._checkpoints.record(number), number, self._folder, self.member.runs)
            for number in self._checkpoints.numbers()[-KEPT:]
        ]

    def _say_what_is_kept(self, state: TrainState) -> None:
        """The room that checkpoints take, where more than two are kept."""
        plan = self.member.ready.plan
        keep = plan.experiment.keep
        if keep == "last":
            return
        kept = most_checkpoints(self.member)
        trained = len(self.member.trained)
        size = sum(leaf.nbytes // leaf.shape[0] * trained for leaf in jax.tree.leaves(state)) / 2**20
        checkpoints = "" if keep == "all" else "up to "
        checkpoints += count(kept, "checkpoint")
        self._parent.progress.note(f"--keep={keep}: {checkpoints} of {size:,.1f} MiB, {kept * size:,.1f} MiB on disk")


def most_checkpoints(member: Member) -> int:
    """How many stand at the end at most."""
    plan = member.ready.plan
    intervals = len(bounds(member.lengths, plan.protocol.eval_interval))
    kept = {"last": KEPT, "best": KEPT + len(member.runs), "all": intervals}
    return min(intervals, kept[plan.experiment.keep])


def kept_checkpoints(keep: str, best: rows.Best) -> set[int] | None:
    """The checkpoints to keep beside the newest two; None for all."""
    if keep == "all":
        return None
    return {one.checkpoint for one in best.values()} if keep == "best" else set()


def entries_of(saved: Saved) -> dict[str, Any]:
    """What a checkpoint records."""
    assert saved.standing is not None
    return {
        "phase": saved.position.phase,
        "step": saved.position.step,
        "rows": saved.standing.entries(),
        "failures": {str(training): reason for training, reason in saved.failed.items()},
        "best": {str(run): list(one) for run, one in saved.best.items()},
        "company": list(saved.company),
        "runs_at_once": saved.runs_at_once,
        "spent": dataclasses.asdict(saved.spent),
    }


def saved_of(record: Mapping[str, Any], number: int, folder: ResultsFolder, runs: Sequence[RunId]) -> Saved:
    """A checkpoint's record, checked; an older version's counts all rows of the folder and names no company.

    Raises:
      UserError: it is damaged.
    """
    try:
        position = Position(record["phase"], record["step"])
        failed = {int(training): str(reason) for training, reason in record["failures"].items()}
        best = {int(run): rows.BestEvaluation(*one) for run, one in record.get("best", {}).items()}
        found = record["rows"]
        if isinstance(found, list):
            evaluations, metrics = found
            standing: Standing | None = rows_of(folder, runs, first=(int(evaluations), int(metrics)))
        else:
            standing = Standing.of(found)
        company = tuple(map(str, record.get("company", ())))
        spent = Spent(**record.get("spent", {}))
        at_once = int(record.get("runs_at_once", 0))
        if not (is_a(int, position.phase) and is_a(int, position.step) and standing is not None):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{folder.checkpoints}: the record of checkpoint {number} is damaged; delete the checkpoint's folder to go "
            "on from the one before"
        ) from None
    return Saved(position, number, failed, best, standing, company, at_once, spent)
