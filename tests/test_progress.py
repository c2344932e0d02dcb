"""What a long training says: rates, time left, scores of seeds and settings, and a line now and then."""

import io
import math
import re
import time

import pytest
from rich.console import Console

from diffjax.clock import duration
from diffjax.launch.progress import Quiet, TrainingProgress, score_words
from diffjax.training.progress import Score


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(clock: Clock | None = None, **more: Quiet) -> tuple[TrainingProgress, io.StringIO]:
    text = io.StringIO()
    progress = TrainingProgress(Console(file=text, width=200), clock=clock or time.perf_counter, **more)
    return progress, text


def test_rates_and_time_left() -> None:
    """The first piece compiles and is not counted; evaluation is not training."""
    clock = Clock()
    progress, text = shown(clock)
    progress.expect(6000)
    progress.begin("task bc", 2, 1000, 0)
    progress.doing("compiling")
    assert progress.rate() == "compiling"
    clock.now += 50
    progress.doing("")
    clock.now += 1
    progress.advance(100)
    clock.now += 10
    progress.advance(100)
    assert progress.rate() == "10 updates/s x 2 runs"
    progress.doing("evaluating")
    clock.now += 19
    progress.evaluated(200, [Score(0, "", 10.0), Score(1, "", 20.0)])
    progress.doing("")
    assert progress.seconds_left() == pytest.approx(80)
    # 61 s for the 400 updates of single runs so far; 1,600 are left here and 6,000 elsewhere.
    assert text.getvalue() == (
        "task bc: step 200: score 15.0 ± 7.1 (seed 0 10.0, seed 1 20.0) "
        "(10 updates/s x 2 runs, about 80 s left, 19.3 min of all)\n"
    )
    progress.expect(0)
    progress.begin("task bc", 1, 10, 10)
    progress.evaluated(10, [Score(3, "", math.nan)], "other")
    assert text.getvalue().splitlines()[1] == "task bc (other): step 10: score seed 3 failed (compiling)"


def test_a_line_for_each_setting() -> None:
    progress, text = shown(Clock())
    progress.begin("task bc", 3, 100, 0)
    progress.evaluated(10, [Score(0, "eta=1", 1.0), Score(0, "eta=2", 3.0), Score(1, "eta=1", 2.0)])
    assert text.getvalue().splitlines() == [
        "task bc, eta=1: step 10: score 1.5 ± 0.7 (seed 0 1.0, seed 1 2.0) (compiling)",
        "task bc, eta=2: step 10: score 3.0 (seed 0)",
    ]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([Score(4, "", 12.34)], "12.3 (seed 4)"),
        ([Score(0, "", 1.0), Score(1, "", math.nan)], "1.0 (seed 0 1.0, seed 1 failed)"),
        ([Score(0, "", math.nan), Score(1, "", math.nan)], "- (seed 0 failed, seed 1 failed)"),
    ],
)
def test_scores_in_words(scores: list[Score], words: str) -> None:
    assert score_words(scores) == words


def test_many_scores_are_not_all_shown() -> None:
    words = score_words([Score(seed, "", 1.0) for seed in range(20)])
    assert words.startswith("1.0 ± 0.0 (seed 0 1.0, ")
    assert words.endswith("seed 15 1.0, 4 more)")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.26, "0.3 s"), (0.99, "1 s"), (89, "89 s"), (90, "1.5 min"), (6000, "1.7 h"), (200_000, "2.3 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_silence_is_broken() -> None:
    """Also while a program is compiled, when nobody calls."""
    progress, text = shown(quiet=Quiet(0.05, 0.05, 0.05))
    with progress:
        progress.begin("task bc", 1, 1000, 40)
        deadline = time.monotonic() + 10
        while text.getvalue().count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    first, second, *_ = text.getvalue().splitlines()
    for line in (first, second):
        assert re.fullmatch(r"task bc: compiling \(0\.\d+ s\), 40 of 1,000 updates", line)
    said = text.getvalue()
    time.sleep(0.2)
    assert text.getvalue() == said


def test_something_is_said_before_a_program_begins() -> None:
    """What is imported and read takes its time; a program's updates are left alone for longer."""
    clock = Clock()
    progress, text = shown(clock, quiet=Quiet(0.02, 10.0, 60.0))
    with progress:
        clock.now += 0.03
        deadline = time.monotonic() + 10
        while not text.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.doing("loading the data of task")
        clock.now += 9.0
        time.sleep(0.1)
        assert text.getvalue() == "starting (0.03 s)\n"
        clock.now += 2.0
        while text.getvalue().count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert text.getvalue().splitlines()[1:] == ["loading the data of task (11 s)"]
        progress.begin("task bc", 1, 100, 0)
        progress.doing("")
        clock.now += 59.0
        time.sleep(0.1)
        assert text.getvalue().count("\n") == 2


def test_a_terminal_shows_what_goes_on_from_the_start() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True, force_interactive=True, color_system=None)
    with TrainingProgress(console) as progress:
        progress.doing("loading the data of task")
        progress.begin("task bc", 1, 1000, 40)
        progress.doing("")
        progress.advance(10)
        progress.advance(10)
        progress.doing("evaluating")
        progress.end()
    said = text.getvalue()
    for words in ("starting", "loading the data of task", "40/1,000 updates", "60/1,000 updates", "evaluating"):
        assert words in said
