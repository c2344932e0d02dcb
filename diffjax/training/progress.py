"""Who is told how training goes; launchers show it (:class:`diffjax.launch.progress.TrainingProgress`)."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Score(NamedTuple):
    """A run's normalised score; NaN of one that failed."""

    seed: int
    setting: str
    score: float


class Progress(Protocol):
    """Takes what happens during training, one program after the other."""

    def begin(self, name: str, runs: int, total: int, done: int) -> None:
        """A program of ``total`` updates starts, ``done`` of which stand already."""

    def advance(self, updates: int) -> None:
        """``updates`` more took place."""

    def doing(self, what: str) -> None:
        """What takes the time now: loading data, compiling, evaluating, saving; empty for updates."""

    def evaluated(self, step: int, scores: Sequence[Score], what: str = "") -> None:
        """The scores at a step of all runs, or of some, named ``what``."""

    def expect(self, updates: int) -> None:
        """How many updates of single runs come after the program that begins next."""

    def rate(self) -> str:
        """Updates per second so far."""

    def left(self) -> str:
        """Time left, as the end of a line: ``, about 5 min left``; empty where it is not known."""

    def note(self, text: str) -> None:
        """A line for the user."""

    def stop_status(self) -> int | None:
        """The exit status to stop with, for a signal or a limit of time; None to go on."""

    def end(self) -> None:
        """The program is over."""
