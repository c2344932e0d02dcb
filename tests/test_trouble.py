"""What can happen to the folder of a training while it trains: one line, nothing lost."""

import errno
import os
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import pytest
from launcher_tools import data_file, launch, refused
from test_joint import TASKS, kept

from diffjax.records.commits import Ledger
from diffjax.records.folder import ResultsFolder
from diffjax.training.checkpoints import Checkpoints


def arguments(folder: Path, *more: str) -> list[str]:
    data = folder / "hopper.hdf5"
    if not data.exists():
        data_file(data)
    given = ["--method=bc", f"--task={TASKS[0]}", f"--dataset={data}", f"--out={folder / 'out'}", "--preset=quick"]
    return [*given, "--steps=8", "--eval_interval=2", "--episodes=1", "--set=hidden_dims=4", *more]


def in_the_middle(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, happens: Any, call: int = 2) -> None:
    """Something happens instead of the n-th call."""
    real, calls = getattr(owner, name), [0]

    def patched(self: Any, *given: Any, **more: Any) -> Any:
        calls[0] += 1
        return happens(self, *given) if calls[0] == call else real(self, *given, **more)

    monkeypatch.setattr(owner, name, patched)


def raises(error: Exception) -> Any:
    def happens(*_: Any) -> None:
        raise error

    return happens


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "whole"
    folder.mkdir()
    data_file(tmp_path / "hopper.hdf5")
    os.link(tmp_path / "hopper.hdf5", folder / "hopper.hdf5")
    assert launch("experiments/train.py", *arguments(folder)).returncode == 0
    return kept(folder / "out")


FULL = "RESOURCE_EXHAUSTED: Error writing: No space left on device [source locations='...']\nand more"


@pytest.mark.parametrize(
    ("owner", "name", "error", "words"),
    [
        (ResultsFolder, "append", OSError(errno.EROFS, "Read-only file system", "/x/evaluations.csv"),
         ["/x/evaluations.csv cannot be written or read any more (Read-only file system)"]),
        (ResultsFolder, "append", OSError(errno.EIO, "Input/output error", "/x/evaluations.csv"),
         ["(Input/output error)"]),
        (ResultsFolder, "append", OSError(errno.ENOSPC, "No space left on device", "/x/y/evaluations.csv"),
         ["no space left in /x/y; free some"]),
        (ocp.CheckpointManager, "save", ValueError(FULL), ["no space left in", "checkpoints; free some"]),
        (ocp.CheckpointManager, "wait_until_finished", ValueError(FULL), ["no space left in"]),
        (ocp.CheckpointManager, "save", ValueError("something else\nand more"),
         ["a checkpoint cannot be written (something else)"]),
        (ResultsFolder, "write_status", OSError(errno.ENOSPC, "No space left on device", "/x/y/status.json"),
         ["no space left in /x/y; free some"]),
    ],
)  # fmt: skip
def test_what_is_said_and_what_is_left(owner, name, error, words, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        in_the_middle(patch, owner, name, raises(error), call=2 if name == "write_status" else 4)
        done = launch("experiments/train.py", *arguments(tmp_path))
    lines = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert done.returncode == 2
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines
    assert "Traceback" not in done.stderr
    assert launch("experiments/train.py", *arguments(tmp_path, "--resume")).returncode == 0
    ours = kept(tmp_path / "out")
    assert ours == whole | {"config.json": ours["config.json"]}


@pytest.mark.parametrize("file", ["evaluations.csv", "metrics.jsonl", ""])
def test_what_vanishes_is_missed(file, tmp_path, monkeypatch):
    import shutil

    def vanish(self: ResultsFolder, *given: Any) -> Any:
        shutil.rmtree(self.path) if not file else (self.path / file).unlink()
        return real(self, *given)

    real = ResultsFolder.append
    in_the_middle(monkeypatch, ResultsFolder, "append", vanish, call=3)
    done = launch("experiments/train.py", *arguments(tmp_path))
    lines = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert done.returncode == 2
    assert len(lines) == 1
    assert " is gone; it was there when this began" in lines[0]
    assert "Traceback" not in done.stderr


def test_rows_wait_for_the_checkpoint_before(tmp_path, monkeypatch):
    """Never two intervals' rows beyond what stands: a kill would find rows that no checkpoint reaches."""
    order: list[str] = []

    def note(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def noted(self: Any, *given: Any, **more: Any) -> Any:
            order.append(name)
            return real(self, *given, **more)

        monkeypatch.setattr(owner, name, noted)

    for owner, name in ((Checkpoints, "settle"), (Checkpoints, "save"), (Ledger, "append")):
        note(owner, name)
    assert launch("experiments/train.py", *arguments(tmp_path)).returncode == 0
    appended = [place for place, name in enumerate(order) if name == "append"]
    assert len(appended) == 4
    assert all(order[place - 1] == "settle" for place in appended)


def test_what_a_kill_left_over_is_cleaned(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        in_the_middle(patch, ResultsFolder, "append", raises(OSError(errno.EIO, "Input/output error", "x")), call=5)
        launch("experiments/train.py", *arguments(tmp_path))
    out = tmp_path / "out"
    (out / ".status.json.123.tmp").write_text("{")
    (out / "checkpoints/0/9.orbax-checkpoint-tmp/state").mkdir(parents=True)
    assert launch("experiments/train.py", *arguments(tmp_path, "--resume")).returncode == 0
    ours = kept(out)
    assert ours == whole | {"config.json": ours["config.json"]}
    assert not [path for path in out.rglob("*") if "tmp" in path.name]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    refused(launch("experiments/train.py", *arguments(tmp_path)), "is a file; --out must name a folder")
    assert not list(tmp_path.glob("out/*"))
    (tmp_path / "out").unlink()
    done = launch("experiments/train.py", *arguments(tmp_path, "--out=/proc/out"))
    refused(done, "/proc/out cannot be written")
