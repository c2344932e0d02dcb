"""One writer per results folder, whoever comes first and however it ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffjax import locks
from diffjax.errors import UserError
from diffjax.records import writer
from diffjax.records.writer import only_writer, writer_of

WRITE = """
import sys, time
from pathlib import Path
from diffjax.errors import UserError
from diffjax.records.writer import only_writer
folder, start = Path(sys.argv[1]), float(sys.argv[2])
for number in range(int(sys.argv[3])):
    own = folder / str(number) / "run"
    while time.time() < start + 0.02 * number:
        pass
    try:
        with only_writer(own, print):
            with open(folder / f"{number}.log", "a") as log:
                log.write("in\\n")
                log.flush()
                time.sleep(0.01)
                log.write("out\\n")
    except UserError as error:
        assert "is being written to by " in str(error), error
"""


def silent(line: str) -> None:
    raise AssertionError(line)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with only_writer(folder, silent):
        signed = writer_of(folder)
        assert signed is not None
        assert signed.process == os.getpid()
        words = f"is being written to by process {os.getpid()} on .* since 20"
        with pytest.raises(UserError, match=words), only_writer(folder, silent):
            pass
        assert writer_of(folder) == signed
        (folder / "kept").touch()
    assert writer_of(folder) is None
    assert os.listdir(folder) == ["kept"]


def test_a_folder_in_which_nothing_came_to_stand_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), only_writer(tmp_path / "a" / "run", silent):
        raise ValueError("no")
    assert os.listdir(tmp_path) == []


def test_of_pairs_that_start_together_never_two_write(tmp_path: Path) -> None:
    """200 folders, two processes at the same moment in each."""
    (tmp_path / "logs").mkdir()
    start = str(time.time() + 2)
    command = [sys.executable, "-c", WRITE, str(tmp_path / "logs"), start, "200"]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in pair:
        out, errors = process.communicate(timeout=120)
        assert (process.returncode, out, errors) == (0, "", "")
    logs = [(tmp_path / "logs" / f"{number}.log").read_text() for number in range(200)]
    assert all(log == "in\nout\n" * (len(log) // 7) for log in logs)
    assert sum(len(log) == 7 for log in logs) > 20  # the two did meet


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hold = (
        "import sys, time; from pathlib import Path; from diffjax.records.writer import only_writer\n"
        "with only_writer(Path(sys.argv[1]), print): print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    signed = writer_of(folder)
    assert signed is not None
    assert signed.process == process.pid
    process.kill()
    process.wait()
    process.stdout.close()
    assert writer_of(folder) is None
    with only_writer(folder, silent):
        signed = writer_of(folder)
        assert signed is not None
        assert signed.process == os.getpid()


def test_a_heartbeat_stands_for_a_lock_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "_lock", none)
    folder, said = tmp_path / "run", []
    with only_writer(folder, said.append):
        assert "this file system has no locks" in said[0]
        with pytest.raises(UserError, match="is being written to by process"), only_writer(folder, said.append):
            pass
    assert writer_of(folder) is None
    with only_writer(folder, said.append):
        long_ago = time.time() - 2 * writer.DEAD_S
        os.utime(folder / writer.WRITER, (long_ago, long_ago))
        assert writer_of(folder) is None  # of a machine that went down
        with only_writer(folder, said.append):
            assert writer_of(folder) is not None
