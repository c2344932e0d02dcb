"""Runs evaluated again: the same numbers where nothing is other, other ones where it is, the training untouched."""

import json
import math
from pathlib import Path

import pytest
from launcher_tools import data_file, launch, refused

from diffjax.assess import episodes
from diffjax.records.folder import read_config, read_evaluations, read_results
from diffjax.records.schema import Evaluation
from diffjax.results.protocols import protocols
from diffjax.results.tables import build_table, table_labels, values_of

CANDIDATES = ("candidates=1", "candidates=3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, two evaluations, both with a checkpoint."""
    folder = tmp_path_factory.mktemp("evaluate")
    run = launch(
        "experiments/train.py",
        *("--method=dac", "--task=hopper-medium-v2", f"--dataset={data_file(folder / 'hopper.hdf5')}"),
        *("--preset=quick", "--steps=4", "--eval_interval=2", "--episodes=2", "--num_seeds=2", "--keep=all"),
        *("--set", "hidden_dims=8", "--set", "batch_size=8", "--set", "num_critics=2", f"--out={folder / 'trained'}"),
    )
    assert run.returncode == 0, run.stderr
    return folder / "trained"


def again(trained: Path, name: str, *flags: str) -> Path:
    """Evaluates and gives the new folder."""
    out = trained.parent / name
    run = launch("experiments/evaluate.py", f"--run={trained}", f"--out={out}", *flags)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"evaluations in {out}\n"
    return out


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def timeless_rows(folder: Path) -> list[Evaluation]:
    return [row._replace(wall_time="") for row in read_evaluations(folder)]


def test_as_trained_gives_the_numbers_of_the_training(trained):
    before = content(trained)
    out = again(trained, "every", "--step=all")
    assert content(trained) == before
    assert timeless_rows(out) == timeless_rows(trained)
    config = read_config(out)
    assert (config.again.source, config.again.step, config.evaluated) == (
        str(trained),
        "all",
        "again: every step, 2 episodes",
    )
    assert config.protocol == read_config(trained).protocol
    last = timeless_rows(again(trained, "last"))
    assert last == [row for row in timeless_rows(trained) if row.step == 4]


def test_more_and_other_episodes(trained, monkeypatch):
    """Episodes are told apart by their numbers, however many are played at once."""
    whole = read_evaluations(again(trained, "four", "--episodes=4", "--seed=1"))
    assert [(row.seed, row.episodes) for row in whole] == [(1, 4)]
    monkeypatch.setattr(episodes, "AT_ONCE", 2)
    parted = read_evaluations(again(trained, "parted", "--episodes=4", "--seed=1"))
    assert parted[0].return_mean == pytest.approx(whole[0].return_mean, rel=1e-5)
    halves = [
        read_evaluations(again(trained, f"from-{first}", "--seed=1", f"--first_episode={first}"))[0] for first in (0, 2)
    ]
    assert halves[0].return_mean != halves[1].return_mean
    assert sum(half.return_mean for half in halves) / 2 == pytest.approx(whole[0].return_mean, rel=1e-5)


def test_other_ways_of_acting_stand_beside_the_training(trained):
    out = again(trained, "candidates", "--grid", "candidates=1,3", "--set", "temperature=1", "--step=best")
    results = read_results(out)
    wanted = tuple(f"temperature=1;{name}" for name in CANDIDATES)
    assert results.config.settings == wanted
    assert [(row.setting, row.candidates) for row in results.evaluations] == [
        (setting, count) for setting, count in zip(wanted, (1, 3), strict=True) for _ in range(2)
    ]
    best = {
        seed: max((row for row in read_evaluations(trained) if row.seed == seed), key=lambda row: row.score).step
        for seed in (0, 1)
    }
    assert all(row.step == best[row.seed] for row in results.evaluations)
    assert {run.status for run in results.runs} == {"complete"}
    table = build_table([read_results(trained), results])
    labels = table_labels(table)
    assert list(labels.values()) == [
        "dac",
        *(f"dac (temperature=1, {name}, again: best step, 2 episodes)" for name in CANDIDATES),
    ]
    for (_, column), cell in table.cells.items():
        for rule in protocols().values():
            is_blind = rule.name == "offline" and column.setting  # no losses of training beside them
            assert len(values_of(cell, rule)) == (0 if is_blind else 2), (column, rule.name)
    text = launch("experiments/tables.py", f"--runs={trained},{out}").stdout
    assert f"again: best step, 2 episodes: evaluated after training, in {trained}" in text


def test_runs_that_failed_or_still_train(trained, tmp_path):
    status = trained / "status.json"
    before = status.read_text()
    entries = json.loads(before)
    entries["runs"][0]["status"] = "failed: a reason"
    entries["runs"][1]["status"] = "running"
    try:
        status.write_text(json.dumps(entries))
        out = again(trained, "unfinished")
    finally:
        status.write_text(before)
    results = read_results(out)
    assert [run.status for run in results.runs] == ["failed: a reason", "complete"]
    assert [row.seed for row in results.evaluations] == [1]
    assert math.isfinite(results.evaluations[0].score)


def test_several_folders(trained):
    """A folder of folders is walked, evaluations in it are passed over, each gets a folder of its own."""
    parent = trained.parent / "several"
    parent.mkdir()
    (parent / "real").mkdir()
    for path in trained.iterdir():
        (parent / "real" / path.name).symlink_to(path)
    again(trained, "several/evaluated", "--seed=0")
    out = again(parent, "of-several", "--seed=0")
    assert [path.parent.name for path in sorted(out.rglob("config.json"))] == ["real"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--set", "eta=0.1"],
            [
                "setting of dac that only acting reads",
                "'eta'",
                "candidates, ddim_eta, sampler, sampler_steps, temperature",
            ],
        ),
        (["--set", "candidates=0"], ["candidates=0 is out of range"]),
        (["--set", "candidates=two"], ["candidates=two is not"]),
        (["--step=3"], ["keeps no checkpoint of step 3, only of 2, 4", "--keep=all"]),
        (["--step=newest"], ["--step=newest is not last, best, all or a number"]),
        (["--seed=7"], ["has no seed 7, only 0, 1"]),
        (["--setting=eta=1"], ["has no setting 'eta=1', only ''"]),
        (["--episodes=0"], ["--episodes=0"]),
        (["--run=nowhere"], ["nowhere is not a folder"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(trained, tmp_path, flags, words):
    out = tmp_path / "out"
    refused(launch("experiments/evaluate.py", f"--run={trained}", f"--out={out}", *flags), *words)
    assert not out.exists()


def test_folders_that_cannot_be_evaluated(trained, tmp_path):
    refused(launch("experiments/evaluate.py", f"--run={trained}", f"--out={trained}"), "holds another experiment")
    done = again(trained, "done", "--seed=0")
    refused(
        launch("experiments/evaluate.py", f"--run={done}", f"--out={tmp_path / 'x'}"), "no checkpoints", str(trained)
    )
    refused(launch("experiments/evaluate.py", f"--run={trained}", "--seed=0", f"--out={done}"), "already holds")
    refused(
        launch("experiments/evaluate.py", "--run=tests/data/runs_version_0/hopper", f"--out={tmp_path / 'x'}"),
        "has no checkpoints",
    )
    assert not (tmp_path / "x").exists()
