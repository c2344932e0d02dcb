"""When a program is to stop: asked by a signal, or at the end of its time."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from diffjax.errors import Stopped

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether to stop, and with which exit status; ``max_hours`` counts from when this was made."""

    def __init__(self, max_hours: float | None = None, signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self._signals = signals
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._signal: int | None = None
        self.is_heeded = False
        """Whether somebody asks for :attr:`status` now and then; else a signal ends the work where it is."""

    @property
    def status(self) -> int | None:
        """128 plus the number of the signal, or ``TRY_AGAIN``; None to go on."""
        if self._signal is not None:
            return 128 + self._signal
        if self._deadline is not None and time.monotonic() > self._deadline:
            return TRY_AGAIN
        return None

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """While a first SIGINT or SIGTERM asks to stop, and a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heed(number: int, frame: FrameType | None) -> None:
            if self._signal is not None:
                leave(128 + number)
            self._signal = number  # first, for what is raised may be lost in code that Python lets nothing out of
            if not self.is_heeded:
                raise Stopped("interrupted", 128 + number)
            # Not through a stream, which may be in the middle of a line of its own.
            os.write(2, b"\nstopping; what is done will be kept (again to leave at once)\n")

        def say(lost: "sys.UnraisableHookArgs") -> None:
            if lost.exc_type is not Stopped:
                before_hook(lost)

        before = {number: signal.signal(number, heed) for number in self._signals}
        before_hook, sys.unraisablehook = sys.unraisablehook, say
        try:
            yield
        finally:
            sys.unraisablehook = before_hook
            for number, handler in before.items():
                signal.signal(number, handler)


def leave(status: int) -> None:
    """Ends the process without the interpreter's own end, during which threads that still compute would crash."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(status)
