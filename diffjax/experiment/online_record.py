"""What a group of runs that go on online leaves in its folder: rows, status, checkpoints, and where it stands.

A checkpoint is the commit point, as in training: it holds the state of the group with the transitions that its runs
keep, and says how many rows stand.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Self

import numpy as np

from diffjax.errors import UserError
from diffjax.experiment import rows
from diffjax.experiment.online_plan import Plan
from diffjax.methods.base import Metrics, Weighted
from diffjax.records.commits import Ledger, Standing
from diffjax.records.folder import ResultsFolder, read_status
from diffjax.records.schema import Evaluation, RunStatus
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.online import OnlineState

UNFINISHED = -1
"""What stands for the phase in the record of a checkpoint between two evaluations, which is no policy to read."""


class Saved(NamedTuple):
    """What a checkpoint says: its number, the evaluation it follows, whether more is begun, failures, rows."""

    number: int = 0
    step: int = -1  # of the environment; -1 before the first evaluation
    is_whole: bool = True
    failed: rows.Failures = MappingProxyType({})
    standing: Standing | None = None
    metrics: tuple[str, ...] = ()


class GroupRecord:
    """Keeps what a group of runs leaves in the folder."""

    ledger: Ledger

    def __init__(self, planned: Plan, folder: ResultsFolder, number: int, say: Callable[[str], None]) -> None:
        self.planned, self.group, self._folder, self._say = planned, planned.groups[number], folder, say
        self.runs = tuple(planned.config.run(run.seed, run.setting) for run in self.group.runs)
        self._checkpoints = Checkpoints(folder.checkpoints / str(number))
        self.saved = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpoints.close()

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        saved = self.saved
        is_over = saved.step == self.planned.config.steps or len(saved.failed) == len(self.runs)
        return is_over and saved.is_whole and saved.number > 0

    def _read(self) -> Saved:
        numbers = self._checkpoints.numbers()
        if not numbers:
            failed = {
                place: self.planned.failed[run] for place, run in enumerate(self.runs) if run in self.planned.failed
            }
            return Saved(failed=failed)
        record = self._checkpoints.record(numbers[-1])
        try:
            return Saved(
                numbers[-1],
                int(record["step"]),
                record["phase"] != UNFINISHED,
                {int(place): str(reason) for place, reason in record["failures"].items()},
                Standing.of(record["rows"]),
                tuple(map(str, record["metrics"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"{self._folder.checkpoints}: the record of checkpoint {numbers[-1]} is damaged; delete its folder to "
                "go on from the one before"
            ) from None

    def restore(self, like: OnlineState) -> tuple[OnlineState, Metrics | None]:
        """State and sums of metrics as the checkpoint holds them; ``like`` gives structure and shapes."""
        names, runs = self.saved.metrics, len(self.runs)
        sums = {"sums": np.zeros((len(names), 2, runs), np.float32)} if names else {}  # an empty array is not kept
        kept, _ = self._checkpoints.restore(self.saved.number, like._asdict() | sums)
        values = kept.pop("sums", ())
        return OnlineState(**kept), {name: Weighted(*pair) for name, pair in zip(names, values, strict=True)} or None

    def keep(self, state: OnlineState, failed: rows.Failures, sums: Metrics) -> None:
        """Keeps what came after the last evaluation, with the sums of its metrics, to go on with."""
        self._save(state, self.saved.step, failed, sums)

    def _save(self, state: OnlineState, step: int, failed: rows.Failures, sums: Metrics | None = None) -> None:
        values = {} if sums is None else {"sums": np.array([[one.total, one.weight] for one in sums.values()])}
        is_whole, names = sums is None, tuple(sums or ())
        main = len(self.planned.stored.method.phases) - 1
        now = Saved(self.saved.number + 1, step, is_whole, failed, self.ledger.standing, names)
        record = {
            "phase": main if is_whole else UNFINISHED,
            "step": step,
            "failures": {str(place): reason for place, reason in failed.items()},
            "rows": self.ledger.standing.entries(),
            "metrics": list(names),
        }
        self._checkpoints.save(now.number, state._asdict() | values, record)
        self._checkpoints.settle()
        self.saved = now

    def commit(
        self,
        state: OnlineState,
        step: int,
        failed: rows.Failures,
        means: Mapping[str, np.ndarray],
        evaluations: Sequence[Evaluation],
    ) -> None:
        """Keeps an evaluation and the updates before it: rows, status, checkpoint."""
        config = self.planned.config
        phase = self.planned.stored.method.phases[-1].name
        metrics = [rows.metrics_record(phase, self.runs, self.group, step, means)] if means else []
        self.ledger.append(metrics, evaluations)
        states = rows.statuses(self.runs, self.group, failed, step == config.steps)
        others = {one.run: one for one in read_status(self._folder.path)}
        self._folder.write_status({**others, **{run: RunStatus(run, state) for run, state in states.items()}}.values())
        self._save(state, step, failed)
        self._say(f"step {step:,} of {config.steps:,}")
