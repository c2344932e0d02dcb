"""Signals at any moment: work stops where it can go on, and nothing takes the request for an error or loses it."""

import os
import signal
import subprocess
import sys

import pytest

from diffjax.errors import Stopped
from diffjax.launch.stop import TRY_AGAIN, Stop


def ask(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_nobody_asks() -> None:
    stop = Stop()
    with stop.heeding_signals():
        assert stop.status is None


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_flag_while_somebody_looks(number: int, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    before = signal.getsignal(number)
    with stop.heeding_signals():
        stop.is_heeded = True
        ask(number)
        assert stop.status == status
    assert signal.getsignal(number) == before
    assert "what is done will be kept" in capfd.readouterr().err


def test_elsewhere_it_ends_the_work_and_is_no_error() -> None:
    stop = Stop()
    with pytest.raises(Stopped) as stopped, stop.heeding_signals():  # noqa: PT012
        try:
            ask()
        except Exception:
            pytest.fail("taken for an error")
    assert stopped.value.status == 143


def test_a_request_that_is_lost_still_counts(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing that is raised leaves a finaliser or a callback of the garbage collector."""

    class Finalised:
        def __del__(self) -> None:
            ask()

    stop = Stop()
    hook = sys.unraisablehook
    with stop.heeding_signals():
        Finalised()
        assert stop.status == 143
    assert sys.unraisablehook is hook
    assert capfd.readouterr().err == ""


def test_a_second_signal_leaves_at_once() -> None:
    program = (
        "import os, signal\nfrom diffjax.launch.stop import Stop\nstop = Stop()\nwith stop.heeding_signals():\n"
        "    stop.is_heeded = True\n    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n    print('here')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "")


def test_the_end_of_time() -> None:
    assert Stop(0.0).status == TRY_AGAIN == 75
    assert Stop(1.0).status is None
