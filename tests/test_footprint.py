"""What can never fit is refused in one line, before anything is written."""

from pathlib import Path

import pytest
from data_tools import random_hdf5
from launcher_tools import mistakes

from diffjax.commands import train
from diffjax.experiment.footprint import footprint
from diffjax.experiment.plan import Experiment, plan
from diffjax.experiment.prepare import make_ready, obtain_dataset
from diffjax.launch import cli
from diffjax.studies.collect.store import store_dataset
from diffjax.training.memory import device_memory, host_memory


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_hdf5(tmp_path_factory.mktemp("data") / "tiny.hdf5", 11, 3)


def test_what_a_group_takes(hopper: Path) -> None:
    """Of two layers: parameters and both moments, float32, and the optimiser's int32 counter."""
    overrides = (("hidden_dims", "4"), ("batch_size", "8"), ("episodes", "2"))
    asked = Experiment("bc", "hopper-medium-v2", Path("x"), preset="quick", seeds=(0, 1, 2), overrides=overrides,
                       dataset=str(hopper))  # fmt: skip
    planned = plan(asked)
    ready = make_ready(planned, obtain_dataset(planned, store_dataset, str), str)
    found = footprint(ready.plan, ready.plan.groups[0], ready.data[0], 10)
    parameters = 11 * 4 + 4 + 4 * 3 + 3
    rows, batch = ready.data[0].transitions.reward.shape[0], 8 * (11 + 3 + 1 + 11 + 1)
    held = {"the data": rows * (4 * (11 + 3 + 1) + 2) + 4 * len(ready.data[0].transitions.row)}
    assert found.device == {
        "1 run": 4 * (3 * parameters + 1),
        **held,
        "one update's arrays (batch_size, hidden_dims)": 4 * batch,
    }
    assert found.host == {
        "3 runs": 3 * 4 * (3 * parameters + 1),
        **held,
        "the episodes of an evaluation": 3 * 2 * (16 * 14 + 1024),
    }
    larger = footprint(ready.plan, ready.plan.groups[0], ready.data[0], 10**6)
    assert larger.device["one update's arrays (batch_size, hidden_dims)"] == 10**6
    assert 2**28 < device_memory() <= host_memory() < 2**47


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set=batch_size=2000000000"], ["needs at least", "most is for one update's arrays"]),
        (["--grid=batch_size=4,1500000000"], ["needs at least", "most is for one update's arrays"]),
        (["--set=hidden_dims=1000000,1000000"], ["needs at least", "most is for 1 run ("]),
        (["--episodes=1000000000"], ["needs at least", "most is for the episodes of an evaluation"]),
        (["--episodes=10000000000"], ["episodes=10000000000 is out of range"]),
        (["--set=batch_size=1000000000000"], ["batch_size=1000000000000 is out of range"]),
        (["--num_seeds=1000000000"], ["--num_seeds=1000000000 is not an integer in the range [1, 100000]"]),
        (["--first_seed=4294967296"], ["seed=4294967296 is out of range", "at most 4294967295"]),
        (["--max_hours=nan"], ["--max_hours=nan is not a number of hours"]),
        (["--max_hours=-1"], ["--max_hours=-1"]),
        (["--dataset=" + 5000 * "x"], ["is too long for a path (5000 letters)"]),
    ],
)
def test_impossible_sizes_are_one_line(hopper: Path, tmp_path: Path, capsys, flags, words) -> None:
    common = ["train.py", "--method=bc", "--task=hopper-medium-v2", f"--out={tmp_path / 'out'}", "--preset=quick"]
    given = flags if flags[0].startswith("--dataset") else [f"--dataset={hopper}", *flags]
    assert cli.run(train.COMMAND, [*common, *given]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(mistakes(said.err)) == 1
    assert all(word in said.err for word in words), said.err
    assert not (tmp_path / "out").exists()


def test_the_largest_seed_is_one_of_its_own() -> None:
    planned = plan(Experiment("bc", "hopper-medium-v2", Path("x"), seeds=(2**32 - 1,)))
    assert planned.groups[0].runs[0].seed == 2**32 - 1
