"""The documents hold: what they print runs, what they name is there."""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from absl import flags

import diffjax
from diffjax.commands import console

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}


class Block(NamedTuple):
    """A fenced block: its language, the file it is to be saved as, and its text."""

    language: str
    file: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w*) ?([\w.]*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found]


def commands(page: str) -> list[list[str]]:
    """Every command line of a page, split; lines that end in a backslash go on."""
    text = "".join(block.text for block in blocks(page) if not block.language).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def installed(command: list[str]) -> list[str] | None:
    """The arguments of ``diffjax``, also of ``python experiments/NAME.py``; None for another program."""
    for place, word in enumerate(command):
        if match := re.fullmatch(r"experiments/(\w+)\.py", word):
            return [match[1], *command[place + 1 :]]
    return command[1:] if command[0] == "diffjax" else None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_has_flags_that_exist(page):
    for command in commands(page):
        arguments = installed(command)
        if arguments is None:
            continue
        name, *rest = arguments
        values = flags.FlagValues()
        module = __import__(f"diffjax.commands.{name}", fromlist=["COMMAND"])
        module.COMMAND.define_flags(values)
        assert values([name, *rest])[1:] == [], command
        for needed in module.COMMAND.required:
            assert values[needed].value is not None, command


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the files of a page, then runs its commands and programs in their order."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text)
        if block.file.startswith(("collect", "record")) or (block.language == "python" and not block.file):
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, block.file or page, "exec"), {"__name__": "__main__"})
        if not block.language:
            for line in block.text.replace("\\\n", " ").splitlines():
                command = shlex.split(line)
                if command[:1] == ["diffjax"]:
                    monkeypatch.setattr(sys, "argv", command)
                    assert console.run() == 0, line


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment and the data that docs/method.md prints, which other pages use."""
    folder = tmp_path_factory.mktemp("reach")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for block in blocks("docs/method.md"):
            if block.file:
                (folder / block.file).write_text(block.text)
            if block.file.startswith("collect"):
                exec(compile(block.text, block.file, "exec"), {"__name__": "__main__"})
    return folder


@pytest.mark.slow
def test_a_method_and_an_environment_as_printed(reach, monkeypatch, capsys):
    """Commands of the page come before its data: these are there already."""
    run_page("docs/method.md", reach, monkeypatch)
    said = capsys.readouterr()
    assert "reach awr" in said.err
    table = (reach / "runs/reach/table.md").read_text()
    assert re.search(r"\| reach +\| unlabelled +\| +\**-?\d", table)
    assert "awr" in table.splitlines()[2]
    config = (reach / "runs/awr/config.json").read_text()
    assert re.search(r'"awr.py [0-9a-f]{16}",\s*"reach.py [0-9a-f]{16}"', config)


def test_data_without_a_simulator_as_printed(tmp_path, monkeypatch, capsys):
    run_page("docs/data.md", tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert "observations are arm/position (2), arm/speed (2), gripper (1), side by side in this order" in said
    assert "actions scaled to [-1, 1] from the data's bounds, (-1." in said
    assert "my-robot td3_bc: main step 100: actor/bc" in said
    policy = diffjax.load_policy(tmp_path / "runs/robot", seed=1)
    assert policy.about.score is None
    assert policy.action_bounds is not None


@pytest.mark.slow
def test_a_policy_as_printed(reach, monkeypatch, capsys):
    run_page("docs/policy.md", reach, monkeypatch)
    said = capsys.readouterr()
    assert "dac (candidates=50, again: 20 episodes)" in said.out
    assert "Fitted Q evaluation on unlabelled" in said.out
    assert {path.name for path in reach.iterdir()} >= {"alone.npz", "policy.jax", "policy.onnx", "policy.json"}


def test_the_ten_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """As printed but for the size of the networks."""
    (code,) = (block.text for block in blocks("README.md") if "dj.train" in block.text and block.language == "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(code.replace("steps=100,", "steps=100, hidden_dims=(16, 16, 16), progress=False,"), space)
    assert space["action"].shape == (2,)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_pages_name_files_and_pages_that_exist():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([\w/.]+)\)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), (page, target)
