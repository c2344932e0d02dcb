"""What the help pages say of the methods, and how counts read."""

import dataclasses
import subprocess
import sys

import pytest
from launcher_tools import REPOSITORY, launch, refused

from diffjax.experiment.settings import PROTOCOL_ENTRIES, Protocol
from diffjax.launch import method_page
from diffjax.methods.registry import HOMES, METHODS
from diffjax.ranges import Range
from diffjax.words import count


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (count(1, "run"), "1 run"),
        (count(0, "run"), "0 runs"),
        (count(12_000, "update"), "12,000 updates"),
        (count(2, "trajectory", "trajectories"), "2 trajectories"),
        (Range(at_least=0.0, at_most="eta_max").words, "at least 0 and at most eta_max"),
        (Range(above=0, multiple_of=4).words, "above 0 and a multiple of 4"),
        (Range().words, ""),
    ],
)
def test_words(words, expected):
    assert words == expected


def test_help_lists_every_method_with_its_variants():
    lines = launch("experiments/train.py", "--help").stdout.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("methods ("))
    listed = "\n".join(lines[first:])
    for name, variants in HOMES.items():
        assert f"\n  {name} " in listed
        if len(variants) > 1:
            assert f"variants: {', '.join(variants)}" in listed


@pytest.mark.parametrize("name", list(HOMES))
def test_every_hyper_parameter_has_a_meaning(name):
    for variant, method in METHODS[name].items():
        said = method_page.page(name, variant).split("protocol (--set")[0].split("\n\n")
        blocks = {block.split("=")[0].strip(): block.splitlines() for block in said if block.startswith("  ")}
        assert set(blocks) == {field.name for field in dataclasses.fields(method.hyper)}
        assert all(len(lines) >= 3 for lines in blocks.values()), blocks  # the value, its meaning, its range


def test_every_entry_of_the_protocol_has_a_meaning():
    assert set(method_page.comments(Protocol)) == set(PROTOCOL_ENTRIES)


def test_a_methods_page_has_ranges_and_the_published_values_of_a_task():
    page = launch("experiments/train.py", "--method=dac", "--task=hopper-medium-v2", "--help").stdout
    assert "Values for hopper-medium-v2 are published: DAC, runs.sh" in page
    assert "\n  rho=1.5 (default 1)\n      width of the lower confidence bound" in page
    assert "one of lcb, min, convex, rand_convex; a program per value" in page
    assert "candidates=10\n      actions that one is chosen from when acting\n" in page
    assert "an integer, at least 1; a program per value; read only when acting" in page
    assert "steps=2000000 (default 1000000)" in page
    defaults = launch("experiments/train.py", "--method=dac", "--help").stdout
    assert "\n  rho=1\n" in defaults
    untuned = launch("experiments/train.py", "--method=dac", "--task=kitchen-mixed-v0", "--help").stdout
    assert "are untuned (nothing is published for it)" in untuned


def test_a_page_of_no_method_says_what_would_be_right():
    refused(launch("experiments/train.py", "--method=dacc", "--help"), "unknown method 'dacc'", "did you mean dac?")
    assert "usage: " in launch("experiments/train.py", "--method=dac", "--stpes=3", "--help").stdout


def test_a_methods_page_works_for_a_users_own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from diffjax import register_method\n"
        "from diffjax.methods.bc import METHOD\n"
        "register_method('own_bc', METHOD)\n"
    )
    command = [sys.executable, "experiments/train.py", f"--plugin={file}", "--method=own_bc", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "batch_size=" in done.stdout
