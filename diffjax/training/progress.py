"""Who is told how training goes; launchers show it (:class:`diffjax.launch.progress.TrainingProgress`)."""

from typing import Protocol

import numpy as np


class Progress(Protocol):
    """Takes what happens during training, one program after the other."""

    def begin(self, name: str, runs: int, total: int, done: int) -> None:
        """A program of ``total`` updates starts, ``done`` of which stand already."""

    def advance(self, updates: int) -> None:
        """``updates`` more took place."""

    def evaluated(self, step: int, scores: np.ndarray, what: str = "") -> None:
        """The normalised scores at a step, of all runs or of some, named ``what``; NaN of a run that failed."""

    def rate(self) -> str:
        """Updates per second so far."""

    def note(self, text: str) -> None:
        """A line for the user."""

    def stop_status(self) -> int | None:
        """The exit status to stop with, for a signal or a limit of time; None to go on."""

    def end(self) -> None:
        """The program is over."""
