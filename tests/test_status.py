"""How far experiments are, as whoever looks at their folders is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_results import config, evaluation, run

from diffjax.commands import status as command
from diffjax.commands import sweep
from diffjax.launch import cli
from diffjax.launch.status import report, state_of
from diffjax.records.folder import ResultsFolder, open_folder
from diffjax.records.schema import RunStatus
from diffjax.records.writer import WRITER, only_writer

RUNS = [run(0), run(1), run(0, "eta=0.1"), run(1, "eta=0.1")]


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    found = open_folder(tmp_path / "out" / "run", config())
    found.append_evaluations([evaluation(step=2000)])
    return found


def test_a_folder_that_nobody_writes_to(folder: ResultsFolder, tmp_path: Path) -> None:
    assert state_of(tmp_path / "nowhere") == "not started"
    assert state_of(folder.path) == "4 stopped (last evaluation at step 2,000)"
    folder.write_status([RunStatus(one, "complete") for one in RUNS])
    assert state_of(folder.path) == "4 complete"
    failed = RunStatus(RUNS[3], "failed: non-finite loss or parameter at main step 7")
    folder.write_status([*(RunStatus(one, "complete") for one in RUNS[:3]), failed])
    assert state_of(folder.path) == "3 complete, 1 failed; non-finite loss or parameter at main step 7"


def test_who_trains_and_how_far(folder: ResultsFolder) -> None:
    with only_writer(folder.path, print) as news:
        assert state_of(folder.path).startswith("4 running; process ")
        news("main step 3,000 of 9,000, score 12.5, 80 updates/s x 4 runs")
        text = state_of(folder.path)
        assert text.startswith("4 running (main step 3,000 of 9,000, score 12.5, 80 updates/s x 4 runs); process ")
    assert state_of(folder.path).startswith("4 stopped")


def test_a_process_that_was_killed_is_named(folder: ResultsFolder) -> None:
    with only_writer(folder.path, print) as news:
        news("main step 3,000 of 9,000")
        signed = json.loads((folder.path / WRITER).read_text())
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    (folder.path / WRITER).write_text(json.dumps(signed | {"process": gone.pid}))
    text = state_of(folder.path)
    assert text.startswith(f"4 dead (main step 3,000 of 9,000); process {gone.pid} on {signed['host']} since ")
    assert text.endswith(", which is no more")


def test_the_command(folder: ResultsFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{folder.path}: 4 stopped (last evaluation at step 2,000)"
    assert report(tmp_path / "out") == [line]
    for argv in (["status", str(tmp_path / "out")], ["status", f"--out={tmp_path / 'out'}"]):
        assert cli.run(command.COMMAND, argv) == 0
        assert capsys.readouterr().out == line + "\n"
    assert cli.run(sweep.COMMAND, ["sweep.py", "--status", f"--out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out == line + "\n"
    assert cli.run(command.COMMAND, ["status", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert cli.run(command.COMMAND, ["status", "one", "two"]) == 2
