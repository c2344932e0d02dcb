"""What a long training shows: a bar with updates per second and time left, a line per evaluation and now and then."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from diffjax.clock import duration
from diffjax.launch.stop import Stop
from diffjax.training.progress import Score
from diffjax.words import count

MOST_SCORES = 16  # that are shown one by one


class Quiet(NamedTuple):
    """Seconds without a line after which there is one, where nothing shows a bar."""

    first: float = 1.5  # before anything was said
    other: float = 10.0  # while something else than updates takes the time
    updates: float = 60.0


class TrainingProgress:
    """Shows one program at a time, in updates or another ``unit``; where output is no terminal, only lines.

    It begins by ``starting``: what is imported and read before a program begins takes its time too. With a ``stop`` it
    heeds signals between ``with`` and its end.
    """

    def __init__(
        self,
        console: Console | None = None,
        unit: str = "updates",
        stop: Stop | None = None,
        quiet: Quiet = Quiet(),  # noqa: B008
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._unit = unit
        self._stop = stop
        self._context = ExitStack()
        self._time = clock
        self._quiet = quiet
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            disable=not self.console.is_interactive,
            transient=True,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._runs = 0
        self._done = 0
        self._total = 0
        self._to_come = 0  # updates of single runs after this program
        self._spent = 0.0  # seconds that the updates of single runs took, evaluations and all
        self._shared = 0  # those updates
        self._clock = 0.0
        self._busy = 0.0  # seconds spent on updates since the first piece, which includes compilation
        self._counted = 0
        self._doing = "starting"
        self._since = self._last_line = clock()  # of what is done, and of the last line
        self._has_spoken = False

    def __enter__(self) -> Self:
        if self._stop is not None:
            self._context.enter_context(self._stop.heeding_signals())
        self._bar.start()
        self._show()
        if not self.console.is_interactive and not self.console.quiet:
            self._context.callback(self._speak_up().set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._context.close()

    def begin(self, name: str, runs: int, total: int, done: int) -> None:
        """A new program of ``total`` updates, ``done`` of which stand already."""
        self.end()
        self._remove()
        self._name, self._runs, self._total, self._done = name, runs, total, done
        self._busy, self._counted, self._doing = 0.0, 0, "compiling"
        self._clock = self._since = self._time()
        self._show()
        if self._stop is not None:
            self._stop.is_heeded = True

    def expect(self, updates: int) -> None:
        """How many updates of single runs come after the program that begins next."""
        self._to_come = updates

    def doing(self, what: str) -> None:
        """What takes the time now: loading data, compiling, evaluating, saving; empty for updates."""
        if what != self._doing:
            self._since = self._time()
        self._doing = what
        if not what and self._name:
            self._spent += self._time() - self._clock
            self._clock = self._time()
        self._show(at_once=True)

    def advance(self, updates: int) -> None:
        """``updates`` more took place since the last call of this object."""
        now = self._time()
        if self._counted or self._busy:
            self._busy += now - self._clock
            self._counted += updates
        else:
            self._busy = 1e-9  # the first piece compiles: not counted
        self._spent += now - self._clock
        self._shared += updates * self._runs
        self._done += updates
        self._clock = now
        self._doing = ""
        self._show()

    def rate(self) -> str:
        """Updates per second, of each of how many runs; or what else takes the time."""
        if not self._counted:
            return self._doing or "compiling"
        runs = f" x {count(self._runs, 'run')}" if self._runs > 1 else ""
        return f"{self._counted / self._busy:,.0f} {self._unit}/s{runs}"

    def evaluated(self, step: int, scores: Sequence[Score], what: str = "") -> None:
        """The scores at a step, of all runs or of some, named ``what``; a line for each setting, means first."""
        name = f"{self._name} ({what})" if what else self._name
        by_setting: dict[str, list[Score]] = {}
        for one in scores:
            by_setting.setdefault(one.setting, []).append(one)
        about = f" ({self.rate()}{self.left()})"
        for setting, found in by_setting.items():
            of = f", {setting}" if setting else ""
            self.note(f"{name}{of}: step {step:,}: score {score_words(found)}{about}")
            about = ""

    def seconds_left(self) -> float | None:
        """Time that the remaining updates of this program take at the rate seen so far; None before any was seen."""
        return (self._total - self._done) * self._busy / self._counted if self._counted else None

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._last_line, self._has_spoken = self._time(), True
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def stop_status(self) -> int | None:
        """The exit status to stop with; None to go on."""
        return None if self._stop is None else self._stop.status

    def end(self) -> None:
        """The current program is over."""
        if self._stop is not None:
            self._stop.is_heeded = False
        self._name = self._doing = ""
        self._remove()

    def left(self) -> str:
        """Time left of this program, and of all where others follow, as the end of a line; perhaps nothing."""
        left = self.seconds_left()
        if left is None:
            return ""
        words = [f"about {duration(left)} left"] if self._done < self._total else []
        if self._to_come and self._shared:
            mine = (self._total - self._done) * self._runs
            of_all = duration((mine + self._to_come) * self._spent / self._shared)
            words.append(f"{of_all} of all" if words else f"about {of_all} left of all")
        return "".join(f", {one}" for one in words)

    def _show(self, at_once: bool = False) -> None:
        """The bar as things stand; one that only moves while no program has begun."""
        if self._bar.disable:
            return
        if not (self._name or self._doing):
            self._remove()
            return
        done = f"{self._done:,}/{self._total:,} {self._unit}" if self._name else ""
        fields: dict[str, Any] = {"done": done, "rate": self._rate_shown(), "left": self.left().removeprefix(", ")}
        if self._task is None:
            self._task = self._bar.add_task(self._name, total=self._total if self._name else None, **fields)
        self._bar.update(self._task, completed=self._done if self._name else 0, refresh=at_once, **fields)

    def _rate_shown(self) -> str:
        return self._doing if self._doing or not self._name else self.rate()

    def _remove(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def _is_due(self) -> bool:
        """Whether nothing was said for too long."""
        if not (self._name or self._doing):
            return False
        quiet = self._quiet.first if not self._has_spoken else self._quiet.other if self._doing else self._quiet.updates
        return self._time() - self._last_line >= quiet

    def _speak_up(self) -> threading.Event:
        """A line whenever there was none for a while; until the event is set."""
        is_over = threading.Event()

        def work() -> None:
            while not is_over.wait(min(0.5, min(self._quiet) / 2)):
                if self._is_due():
                    self.note(self._state())

        threading.Thread(target=work, daemon=True, name="progress").start()
        return is_over

    def _state(self) -> str:
        """What goes on, on one line."""
        seconds = duration(self._time() - self._since)
        doing = f"{self._doing} ({seconds})" if self._doing else ""
        if not self._name:
            return doing
        done = f"{self._done:,} of {self._total:,} {self._unit}"
        rate = self.rate() if self._counted else ""
        return f"{self._name}: {', '.join(filter(None, (doing, done, rate)))}{self.left()}"


def score_words(scores: Sequence[Score]) -> str:
    """Scores of one setting: their mean with the standard deviation where there are several, then each by its seed."""
    values = [one.score for one in scores if not np.isnan(one.score)]
    single = [f"seed {one.seed} {'failed' if np.isnan(one.score) else f'{one.score:.1f}'}" for one in scores]
    if len(scores) == 1:
        return f"{values[0]:.1f} (seed {scores[0].seed})" if values else single[0]
    more = f", {len(single) - MOST_SCORES} more" if len(single) > MOST_SCORES else ""
    mean = f"{np.mean(values):.1f}" if values else "-"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{mean}{spread} ({', '.join(single[:MOST_SCORES])}{more})"
