"""An experiment that grows: more seeds, more settings, more updates, in the folder that it has."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_tools import random_hdf5
from test_results import config, error_of

from diffjax import policy
from diffjax.experiment import run as experiment
from diffjax.experiment.plan import Experiment
from diffjax.launch.progress import TrainingProgress
from diffjax.records.folder import check_folder, open_folder, read_config, read_evaluations, read_status
from diffjax.records.schema import RunBlock
from diffjax.studies.collect.store import store_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_hdf5(tmp_path_factory.mktemp("data") / "tiny.hdf5", 11, 3)


def train(data: Path, out: Path, steps: int = 4, **changes: Any) -> None:
    given = {"steps": str(steps), "eval_interval": "2", "episodes": "1", "hidden_dims": "4", "batch_size": "4"}
    asked = Experiment("bc", "hopper-medium-v2", out, preset="quick", overrides=tuple(given.items()),
                       dataset=str(data), **changes)  # fmt: skip
    experiment.run_experiment(asked, TrainingProgress(), store_dataset)


def rows(out: Path) -> list[tuple[int, str, int, float]]:
    return [(row.seed, row.setting, row.step, row.return_mean) for row in read_evaluations(out)]


def test_seeds_settings_and_updates_are_added(data: Path, tmp_path: Path) -> None:
    """The new runs are those that they would be elsewhere, and the old ones stay; a policy of each can be loaded."""
    out, settings = tmp_path / "out", ("actor_lr=0.01", "actor_lr=0.001")
    train(data, out, seeds=(0, 1), settings=settings[:1])
    first = rows(out)
    train(data, out, seeds=(0, 1, 2, 3), settings=settings[:1], resume=True)
    assert rows(out)[: len(first)] == first
    train(data, tmp_path / "others", seeds=(2, 3), settings=settings[:1])
    assert rows(out)[len(first) :] == rows(tmp_path / "others")
    before = rows(out)
    train(data, out, seeds=(0, 1, 2, 3), settings=settings, resume=True)
    assert rows(out)[: len(before)] == before
    assert read_config(out).blocks == (
        RunBlock((0, 1), settings[:1]),
        RunBlock((0, 1, 2, 3), settings[:1]),
        RunBlock((0, 1, 2, 3), settings),
    )
    assert [one.status for one in read_status(out)] == ["complete"] * 8
    train(data, out, steps=8, seeds=(0, 1, 2, 3), settings=settings, resume=True)
    longer = [row for row in rows(out) if row[0] in (0, 1) and row[1] == settings[0]]
    train(data, tmp_path / "long", steps=8, seeds=(0, 1), settings=settings[:1])
    assert longer == rows(tmp_path / "long")
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["0", "1", "2"]
    observation = np.zeros(11)
    ours, theirs = (
        policy.load(folder, seed=1, setting=settings[0]).act(observation) for folder in (out, tmp_path / "long")
    )
    np.testing.assert_array_equal(ours, theirs)
    assert policy.load(out, seed=3, setting=settings[1]).about.step == 8
    unchanged = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    train(data, out, steps=8, seeds=(0, 1, 2, 3), settings=settings, resume=True)
    assert {path: path.stat().st_mtime_ns for path in unchanged} == unchanged


def test_what_cannot_be_added_is_another_experiment(tmp_path: Path) -> None:
    there = config()
    open_folder(tmp_path, there)
    refused = {
        "seeds": dataclasses.replace(there, seeds=(1, 2)),
        "settings": dataclasses.replace(there, settings=("",)),
        "steps is ": dataclasses.replace(there, steps=there.steps - 1),
        "hyper": dataclasses.replace(there, seeds=(0, 1, 2), hyper={**there.hyper, "": {"eta": 9.0}}),
    }
    for words, asked in refused.items():
        assert words in error_of(lambda asked=asked: check_folder(tmp_path, asked, resume=True))
    longer = dataclasses.replace(there, steps=2 * there.steps)
    check_folder(tmp_path, longer, resume=True)
    share = {**there.protocol, "pretrain_steps": 0.5}
    other = tmp_path / "share"
    open_folder(other, dataclasses.replace(there, protocol=share))
    assert "steps is " in error_of(
        lambda: check_folder(other, dataclasses.replace(longer, protocol=share), resume=True)
    )
    uneven = dataclasses.replace(there, steps=there.eval_interval + 1)
    open_folder(tmp_path / "uneven", uneven)
    assert "steps is " in error_of(lambda: check_folder(tmp_path / "uneven", longer, resume=True))
