"""An interval of training that ended early on request: kept apart from checkpoints until the next one stands."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax.errors import UserError
from diffjax.methods.base import Metrics, Weighted
from diffjax.training.checkpoints import Checkpoints
from diffjax.training.loop import Position
from diffjax.training.program import TrainState


class Begun(NamedTuple):
    """Which interval was begun, how far it has come, after which checkpoint, and who trained in the program."""

    position: Position
    step: int
    after: int
    company: tuple[str, ...]


class UnfinishedInterval:
    """The state of a group in the middle of an interval, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, begun: Begun, state: TrainState, sums: Metrics) -> None:
        """Writes what is there of the interval, and forgets what was kept before."""
        self.forget()
        names = list(sums)
        values = np.array([[sums[name].total, sums[name].weight] for name in names], np.float32)
        record = {
            "phase": begun.position.phase,
            "start": begun.position.step,
            "step": begun.step,
            "after": begun.after,
            "company": list(begun.company),
            "metrics": names,
        }
        with Checkpoints(self._folder) as checkpoints:
            checkpoints.save(0, {"state": state, "sums": values}, record)

    def begun(self) -> Begun | None:
        """What is kept; None for nothing, or what cannot be read."""
        record = self._record()
        if record is None:
            return None
        try:
            position = Position(int(record["phase"]), int(record["start"]))
            return Begun(position, int(record["step"]), int(record["after"]), tuple(map(str, record["company"])))
        except (KeyError, TypeError, ValueError):
            return None

    def restore(self, like: TrainState) -> tuple[TrainState, Metrics]:
        """State and sums, in host memory; ``like`` gives structure and shapes."""
        record = self._record()
        assert record is not None
        names = record["metrics"]
        runs = like.first_bad_step.shape[0]
        with Checkpoints(self._folder) as checkpoints:
            kept, _ = checkpoints.restore(0, {"state": like, "sums": np.zeros((len(names), 2, runs), np.float32)})
        return kept["state"], {name: Weighted(*pair) for name, pair in zip(names, kept["sums"], strict=True)}

    def forget(self) -> None:
        """Deletes what is kept."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _record(self) -> dict[str, Any] | None:
        if not self._folder.is_dir():
            return None
        try:
            with Checkpoints(self._folder) as checkpoints:
                return checkpoints.record(0) if checkpoints.numbers() == [0] else None
        except UserError:
            return None
