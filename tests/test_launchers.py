"""Training launchers run as a user runs them: results, resume, bad input."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_tools import timeless
from launcher_tools import REPOSITORY, data_file, launch, refused

from diffjax.launch.flags import chosen_methods
from diffjax.methods.registry import METHODS
from diffjax.records.folder import read_results
from diffjax.records.schema import ReferenceRecord
from diffjax.training.checkpoints import Checkpoints

TINY = ["--set", "hidden_dims=8,8", "--set", "batch_size=8", "--preset=quick"]


@pytest.fixture(scope="session")
def hopper_file(tmp_path_factory):
    """A small file in D4RL's layout with Hopper's sizes."""
    return data_file(tmp_path_factory.mktemp("data") / "hopper_tiny.hdf5")


def hopper(path: Path, out: Path, *more: object) -> list[object]:
    return [
        "--task=hopper-medium-v2",
        f"--dataset={path}",
        f"--out={out}",
        "--episodes=2",
        *TINY,
        *more,
    ]


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "evaluations.csv", newline="") as file:
        return list(csv.DictReader(file))


def final_state(folder: Path):
    with Checkpoints(folder / "checkpoints" / "0") as checkpoints:
        number = max(checkpoints.numbers())
        restored = checkpoints._manager.restore(number)
        return number, restored["state"]


def test_train_writes_a_results_folder_and_resumes_bitwise(hopper_file, tmp_path):
    import jax

    arguments = ["--method=td3_bc", "--steps=6", "--eval_interval=2", "--num_seeds=2"]
    whole = tmp_path / "whole"
    run = launch("experiments/train.py", *hopper(hopper_file, whole, *arguments))
    assert run.returncode == 0, run.stderr
    config = json.loads((whole / "config.json").read_text())
    assert config["method"] == "td3_bc"
    assert config["tuning"] == "quick"
    assert config["dataset"]["transitions"] == 299
    assert f"{hopper_file}: 'unlabelled', 299 transitions; 6 episodes; returns " in run.stderr
    table = rows(whole)
    assert [(row["seed"], row["step"]) for row in table] == [(s, t) for t in "246" for s in "01"]
    assert {row["env"] for row in table} == {"Hopper-v4"}
    assert all(entry["status"] == "complete" for entry in json.loads((whole / "status.json").read_text())["runs"])
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == [2, 4, 6]
    assert all(len(values) == 2 for values in metrics[0]["metrics"].values())

    # A twin that is stopped after its first or second checkpoint, and whose folder then gains rows that no
    # checkpoint vouches for.
    stopped = tmp_path / "stopped"
    command = [sys.executable, str(REPOSITORY / "experiments/train.py")]
    process = subprocess.Popen(
        [*command, *map(str, hopper(hopper_file, stopped, *arguments))], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not (stopped / "checkpoints" / "0" / "1").is_dir() and time.monotonic() < deadline:
        assert process.poll() is None, "ended before its first checkpoint was seen"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with open(stopped / "evaluations.csv", "a") as file:
        file.write((stopped / "evaluations.csv").read_text().splitlines()[-1].replace(",2,2,", ",4,2,") + "\n")
    again = launch("experiments/train.py", *hopper(hopper_file, stopped, *arguments))
    refused(again, "--resume")
    resumed = launch("experiments/train.py", *hopper(hopper_file, stopped, *arguments, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    for name in ("evaluations.csv", "metrics.jsonl", "status.json"):
        assert timeless((stopped / name).read_bytes()) == timeless((whole / name).read_bytes())
    first, second = final_state(whole), final_state(stopped)
    assert first[0] == second[0] == 3
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), first[1], second[1]))

    other = launch("experiments/train.py", *hopper(hopper_file, whole, "--method=bc", "--steps=6", "--eval_interval=2"))
    refused(other, "holds another experiment", "method")
    assert rows(whole) == table


def test_sweep_prints_and_writes_the_table(hopper_file, tmp_path):
    out = tmp_path / "sweep"
    arguments = hopper(
        hopper_file, out, "--methods=bc,td3_bc", "--steps=4", "--eval_interval=2", "--num_seeds=2", "--grid",
        "actor_lr=1e-3,1e-4",
    )  # fmt: skip
    status = launch("experiments/sweep.py", *arguments, "--status")
    assert status.returncode == 0
    assert status.stdout.count("not started") == 2
    assert not out.exists()
    run = launch("experiments/sweep.py", *arguments)
    assert run.returncode == 0, run.stderr
    assert "bc (actor_lr=1e-3)" in (out / "table.md").read_text()
    assert "hopper-medium-v2" in run.stdout
    again = launch("experiments/sweep.py", *arguments, "--resume")
    assert again.returncode == 0, again.stderr
    assert "4 complete" in launch("experiments/sweep.py", *arguments, "--status").stdout
    shards = [
        launch("experiments/sweep.py", *arguments, "--status", f"--shard={part}/3").stdout.splitlines()
        for part in (1, 2, 3)
    ]
    assert [line.split(":")[0] for part in shards for line in part] == [
        str(out / "hopper-medium-v2" / name) for name in ("bc", "td3_bc")
    ]
    assert [len(part) for part in shards] == [1, 1, 0]
    # What cannot be trained is refused before anything else is trained.
    other = [argument for argument in arguments if argument not in ("--methods=bc,td3_bc", "--steps=4")]
    run = launch("experiments/sweep.py", *other, "--methods=diffusion_bc,td3_bc", "--steps=3", "--resume")
    refused(run, "holds another experiment", "steps is 4 there and 3 now")
    assert not (out / "hopper-medium-v2" / "diffusion_bc").exists()
    (out / "hopper-medium-v2" / "bc" / "status.json").unlink()  # stopped between making a folder and its status
    assert launch("experiments/sweep.py", *arguments, "--status").stdout.count("not started") == 1


def test_settings_that_only_act_differently_share_their_training(hopper_file, tmp_path):
    common = ["--method=dac", "--steps=4", "--eval_interval=2", "--num_seeds=2", "--set", "num_critics=2"]
    grid = ["--grid", "candidates=1,3", "--grid", "rho=0,1"]
    shared = tmp_path / "shared"
    run = launch("experiments/train.py", *hopper(hopper_file, shared, *common, *grid))
    assert run.returncode == 0, run.stderr
    assert "x 4 runs" in run.stderr  # two values of rho times two seeds
    table = rows(shared)
    assert len(table) == 2 * 2 * 4
    setting, alone = "candidates=3;rho=0", tmp_path / "alone"
    assigned = [f"--set={assignment}" for assignment in setting.split(";")]
    run = launch("experiments/train.py", *hopper(hopper_file, alone, *common, *assigned))
    assert run.returncode == 0, run.stderr
    ours = [row for row in table if row["setting"] == setting]
    assert {row["candidates"] for row in ours} == {"3"}
    aside = {"setting": "", "wall_time": ""}
    played = ("return_mean", "return_std", "length_mean", "score")  # by programs of different sizes
    aside |= dict.fromkeys(played, "")
    assert [row | aside for row in ours] == [row | aside for row in rows(alone)]
    for name in played:
        numbers = ([float(row[name]) for row in table] for table in (ours, rows(alone)))
        assert next(numbers) == pytest.approx(next(numbers), rel=1e-3, abs=1e-2)
    others = [row for row in table if row["setting"] == setting.replace("candidates=3", "candidates=1")]
    assert {row["candidates"] for row in others} == {"1"}
    assert [row["score"] for row in others] != [row["score"] for row in ours]


def test_failed_runs_are_reported_and_the_others_go_on(hopper_file, tmp_path):
    out = tmp_path / "failing"
    run = launch(
        "experiments/train.py",
        *hopper(hopper_file, out, "--method=bc", "--steps=40", "--eval_interval=20", "--grid", "actor_lr=1e-3,1e38"),
    )
    assert run.returncode == 0, run.stderr
    assert "failed: non-finite" in run.stderr
    assert "actor_lr=1e38" in run.stderr
    statuses = [entry["status"] for entry in json.loads((out / "status.json").read_text())["runs"]]
    assert statuses[0] == "complete"
    assert statuses[1].startswith("failed: non-finite loss or parameter at main step")
    assert {row["setting"] for row in rows(out)} == {"actor_lr=1e-3"}


BAD_TRAIN = [
    (["--method=dacc"], ["unknown method", "dac"]),
    (["--method=dac", "--variant=papr"], ["variant of dac"]),
    (["--method=dac", "--task=hoper-medium-v2"], ["unknown task", "hopper-medium-v2"]),
    (["--method=dac", "--task=walker2d-medium-v2"], ["hopper_tiny.hdf5", "17"]),
    (["--method=dac", "--num_sees=2"], ["num_sees", "num_seeds"]),
    (["--method=dac", "--num_seeds=0"], ["num_seeds"]),
    (["--method=dac", "--preset=papr"], ["preset", "paper"]),
    (["--method=dac", "--steps=many"], ["steps", "many"]),
    (["--method=dac", "stray"], ["stray"]),
    (["--method=dac", "--set", "eta"], ["eta", "name=value"]),
    (["--method=dac", "--set", "eat=1"], ["eat", "eta"]),
    (["--method=dac", "--set", "steps=5", "--steps=6"], ["steps"]),
    (["--method=dac", "--grid", "steps=5,6"], ["--grid", "steps"]),
    (["--method=dac", "--dataset=/nowhere/x.hdf5"], ["/nowhere/x.hdf5"]),
    (["--method=dac", "--dataset_source=d4rl"], ["hopper_tiny.hdf5"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_TRAIN, ids=[" ".join(a) for a, _ in BAD_TRAIN])
def test_bad_input_is_one_line_and_nothing_is_written(hopper_file, tmp_path, arguments, words):
    out = tmp_path / "out"
    refused(launch("experiments/train.py", *hopper(hopper_file, out), *arguments), *words)
    assert not out.exists()


def damaged(kind: str, source: Path, folder: Path) -> Path:
    path = folder / f"{kind}.hdf5"
    content = source.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
        return path
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        if kind == "nan":
            file["observations"][7, 3] = np.nan
        elif kind == "action":
            actions = file["actions"][()]
            del file["actions"]
            file["actions"] = actions[:, :2]
        elif kind == "missing":
            del file["rewards"]
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [("truncated", ["truncated"]), ("nan", ["observations", "nan"]), ("action", ["2", "3"]), ("missing", ["rewards"])],
)
def test_damaged_data_is_refused(hopper_file, tmp_path, kind, words):
    path = damaged(kind, hopper_file, tmp_path)
    out = tmp_path / "out"
    run = launch("experiments/train.py", *hopper(path, out, "--method=bc"))
    refused(run, str(path), *words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods=dac,dac"], ["dac"]),
        (["--methods=bc", "--suite=mini"], ["--suite", "--task"]),
        (["--methods=bc:paper"], ["variant of bc"]),
        (["--methods=bc", "--task=walker2d-medium-v2"], ["--dataset", "2"]),
        (["--methods=bc", "--shard=3/2"], ["--shard=3/2"]),
        (["--methods=bc", "--executor=cloud"], ["executor", "local"]),
    ],
)
def test_bad_sweeps(hopper_file, tmp_path, arguments, words):
    out = tmp_path / "out"
    refused(launch("experiments/sweep.py", *hopper(hopper_file, out), *arguments), *words)
    assert not out.exists()


def test_all_names_every_method():
    assert chosen_methods("all") == tuple(METHODS)
    assert chosen_methods("bc,dtql:one_action") == ("bc", "dtql:one_action")


def test_data_that_cannot_be_fetched_are_named(tmp_path, monkeypatch):
    away = f"--mirror={tmp_path / 'away'}"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    run = launch("experiments/train.py", "--method=bc", "--task=hopper-medium-v2", away, f"--out={tmp_path / 'out'}")
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    assert all(word in last for word in ("hopper_medium-v2.hdf5", "away", "--mirror", str(tmp_path / "cache")))
    assert not (tmp_path / "out").exists()


def test_a_task_without_references_is_refused(hopper_file, tmp_path):
    task = ["--task=mujoco/hopper/medium-v0", f"--dataset={hopper_file}", f"--out={tmp_path / 'out'}"]
    run = launch("experiments/train.py", "--method=bc", *task, *TINY)
    refused(run, "mujoco/hopper/medium-v0", "no reference scores", hopper_file.name, "--ref_scores")
    for wrong in ("1", "3,1", "nan,2", "low,high", "1,2,3"):
        run = launch("experiments/train.py", "--method=bc", *task, *TINY, f"--ref_scores={wrong}")
        refused(run, f"--ref_scores={wrong}", "MIN,MAX")
    assert not (tmp_path / "out").exists()
    run = launch("experiments/train.py", "--method=bc", *task, *TINY, "--ref_scores=-20,3000")
    assert run.returncode == 0, run.stderr
    reference = read_results(tmp_path / "out").config.reference
    assert reference == ReferenceRecord(min=-20.0, max=3000.0, source="given with --ref_scores", given=True)


def test_the_best_trajectories_only(hopper_file, tmp_path):
    more = ["--steps=4", "--eval_interval=4", "--top_percent=50"]
    run = launch("experiments/train.py", "--method=bc", *hopper(hopper_file, tmp_path / "out", *more))
    assert run.returncode == 0, run.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dataset"]["transitions"] == 150
    assert "top 50%" in config["dataset"]["label"]


@pytest.mark.parametrize("program", ["experiments/train.py", "experiments/sweep.py"])
def test_help_is_a_page(program):
    run = launch(program, "--help")
    assert run.returncode == 0
    assert "examples:" in run.stdout
    assert "resume" in run.stdout


def test_tasks_are_listed_with_where_their_data_are(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "pen-human-v1.hdf5").write_bytes(b"")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(cache))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    listed = launch("experiments/tasks.py")
    assert listed.returncode == 0, listed.stderr
    lines = {line.split()[0]: line for line in listed.stdout.splitlines() if line.strip()}
    assert {"hopper-medium-v2", "antmaze-large-play-v0", "maze2d-umaze-local", "mujoco/ant/expert-v0"} <= set(lines)
    assert lines["pen-human-v1"].endswith("present: pen-human-v1.hdf5")
    assert "D4RL, to download" in lines["pen-cloned-v1"]
    assert "made on first use" in lines["hopper-medium-local"]
    assert "none" in lines["mujoco/ant/expert-v0"].split()
    assert len(launch("experiments/tasks.py", "--suite=kitchen").stdout.splitlines()) == 6


def test_a_task_says_everything_about_itself():
    described = launch("experiments/tasks.py", "--task=antmaze-umaze-v2").stdout
    assert "success rule built anew from D4RL's definitions" in " ".join(described.split())
    assert "700 steps" in described
    refused(launch("experiments/tasks.py", "--task=antmaze-umaze-v3"), "antmaze-umaze-v2")
    refused(launch("experiments/tasks.py", "--suite=antmase"), "antmaze")
    refused(launch("experiments/tasks.py", "--suite=mini", "--task=x"), "either")
