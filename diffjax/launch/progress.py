"""What a long training shows: a bar with updates per second and time left, and a line per evaluation."""

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffjax.launch.stop import Stop


class TrainingProgress:
    """Shows one program at a time, in updates or another ``unit``; where output is no terminal, only the lines.

    With a ``stop`` it heeds signals between ``with`` and its end.
    """

    def __init__(self, console: Console | None = None, unit: str = "updates", stop: Stop | None = None) -> None:
        self._unit = unit
        self._stop = stop
        self._context = ExitStack()
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=False),
            console=self.console,
            disable=not self.console.is_interactive,
            transient=True,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._runs = 0
        self._done = 0
        self._total = 0
        self._clock = 0.0
        self._busy = 0.0  # seconds spent on updates since the first piece, which includes compilation
        self._counted = 0

    def __enter__(self) -> Self:
        if self._stop is not None:
            self._context.enter_context(self._stop.heeding_signals())
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._context.close()

    def begin(self, name: str, runs: int, total: int, done: int) -> None:
        """A new experiment of ``total`` updates, ``done`` of which stand already."""
        self.end()
        self._name, self._runs, self._total, self._done = name, runs, total, done
        self._busy, self._counted = 0.0, 0
        self._task = self._bar.add_task(name, total=total, completed=done, rate="compiling", unit=self._unit)
        self._clock = time.perf_counter()
        if self._stop is not None:
            self._stop.is_heeded = True

    def advance(self, updates: int) -> None:
        """``updates`` more took place since the last call of this object."""
        now = time.perf_counter()
        if self._counted or self._busy:
            self._busy += now - self._clock
            self._counted += updates
        else:
            self._busy = 1e-9  # the first piece compiles: not counted
        self._done += updates
        if self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self.rate())
        self._clock = now

    def rate(self) -> str:
        """Updates per second, of each of how many runs."""
        if not self._counted:
            return "compiling"
        return f"{self._counted / self._busy:.0f} {self._unit}/s x {self._runs} runs"

    def evaluated(self, step: int, scores: np.ndarray, what: str = "") -> None:
        """The normalised scores at a step, of all runs or of those that ``what`` names."""
        text = " ".join("failed" if np.isnan(score) else f"{score:.1f}" for score in scores[:8])
        more = " ..." if len(scores) > 8 else ""
        left = self.seconds_left()
        eta = f", about {left / 60:.1f} min left" if left is not None and self._done < self._total else ""
        name = f"{self._name} ({what})" if what else self._name
        self.note(f"{name}: step {step}: score {text}{more} ({self.rate()}{eta})")
        self._clock = time.perf_counter()

    def seconds_left(self) -> float | None:
        """Time that the remaining updates of this experiment take at the rate seen so far; None before any was seen."""
        return (self._total - self._done) * self._busy / self._counted if self._counted else None

    def note(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def stop_status(self) -> int | None:
        """The exit status to stop with; None to go on."""
        return None if self._stop is None else self._stop.status

    def end(self) -> None:
        """The current experiment is over."""
        if self._stop is not None:
            self._stop.is_heeded = False
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
