"""Launchers run inside the test's own process."""

import contextlib
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import h5py
import numpy as np

PASSING = re.compile(r"(starting|loading the data of \S+|checking \S+ .*) \([\d.]+ (s|min)\)")
"""What a program says now and then, before it knows better, on a machine that is busy."""

REPOSITORY = Path(__file__).parents[1]


def launch(script: str | Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What ``python SCRIPT ARGUMENTS`` prints and its exit status, ``script`` as in ``"experiments/train.py"``."""
    command = [str(REPOSITORY / script), *map(str, arguments)]
    out, errors = io.StringIO(), io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), mock.patch.object(sys, "argv", command):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int), status
    return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())


def mistakes(errors: str) -> list[str]:
    """The lines of standard error that are not said in passing."""
    return [line for line in errors.splitlines() if line.strip() and not PASSING.fullmatch(line)]


def refused(run: subprocess.CompletedProcess[str], *words: str) -> None:
    """A user's mistake: exit status 2 and one line that has these words."""
    assert run.returncode == 2, run.stdout + run.stderr
    lines = mistakes(run.stderr)
    assert len(lines) == 1, run.stderr
    assert all(word in lines[0] for word in words), lines[0]


def data_file(path: Path, reward: float | None = None) -> Path:
    """A small file in D4RL's layout with Hopper's sizes; perhaps all rewards the same."""
    rng = np.random.default_rng(0)
    rows = 300
    rewards = rng.random(rows, np.float32) if reward is None else np.full(rows, reward, np.float32)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(rows, 11)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
        file["rewards"] = rewards
        file["terminals"] = np.arange(rows) % 50 == 49
        file["timeouts"] = np.zeros(rows, bool)
    return path
