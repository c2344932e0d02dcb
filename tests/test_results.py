"""Results folders: written whole or cut back, read with every defect named."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.files import FULL_DISK, plain, whole_file, writable, write_text
from diffjax.records.folder import (
    METRICS,
    ResultsFolder,
    check_folder,
    find_folders,
    metrics_lines,
    open_folder,
    read_config,
    read_evaluations,
    read_metrics,
    read_results,
    read_status,
)
from diffjax.records.schema import FORMAT_VERSION, Config, Evaluation, MetricsRecord, Request, RunId, RunStatus

HEADER = (
    "method,variant,preset,tuning,task,dataset,dataset_fingerprint,env,simulator,seed,setting,step,episodes,"
    "return_mean,return_std,length_mean,score,candidates,network_evaluations,selection,actions,wall_time"
)


def content(**changes: Any) -> dict[str, Any]:
    """What ``config.json`` holds."""
    return {
        "format_version": 1,
        "method": "dac",
        "variant": "default",
        "preset": "paper",
        "task": "hopper-medium-v2",
        "suite": "locomotion",
        "seeds": [0, 1],
        "settings": ["", "eta=0.1"],
        "steps": 2000,
        "eval_interval": 1000,
        "episodes": 10,
        "hyper": {"": {"eta": 1.0, "rho": 1.5}, "eta=0.1": {"eta": 0.1, "rho": 1.5}},
        "dataset": {"label": "snapshot", "fingerprint": "0123456789abcdef", "source": "DATA/hopper.hdf5"},
        "versions": {"jax": "0.10.2"},
        "flags": ["--steps=2000"],
        **changes,
    }


def config(**changes: Any) -> Config:
    return Config.from_json(content(**changes), "config.json")


def run(seed: int = 0, setting: str = "") -> RunId:
    return RunId("dac", "default", "hopper-medium-v2", "0123456789abcdef", seed, setting)


def record(step: int = 1000, **metrics: Any) -> MetricsRecord:
    """Of the runs of the first setting."""
    return MetricsRecord("main", step, (run(0), run(1)), metrics or {"critic/loss": (0.5, 0.25)})


def tenth(**hyper: Any) -> dict[str, Any]:
    """The configuration's hyper-parameters with others for the second setting."""
    return {"hyper": {**content()["hyper"], "eta=0.1": hyper}}


def evaluation(**changes: Any) -> Evaluation:
    row = Evaluation(
        method="dac",
        variant="default",
        preset="paper",
        tuning="published",
        task="hopper-medium-v2",
        dataset="snapshot",
        dataset_fingerprint="0123456789abcdef",
        env="Hopper-v4",
        simulator="mujoco 3.17",
        seed=0,
        setting="",
        step=1000,
        episodes=10,
        return_mean=1200.5,
        return_std=3.25,
        length_mean=400.0,
        score=37.5,
        candidates=10,
        network_evaluations=5,
        selection="argmax mean target Q of 10",
    )
    return row._replace(**changes)


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return open_folder(tmp_path / "run", config())


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_folder(tmp_path: Path) -> None:
    created = open_folder(tmp_path / "a" / "b", config())
    assert created.path == tmp_path / "a" / "b"
    assert created.checkpoints == tmp_path / "a" / "b" / "checkpoints"
    assert sorted(os.listdir(created.path)) == [
        "config.json",
        "evaluations.csv",
        "metrics.jsonl",
        "status.json",
    ]
    assert (created.path / "evaluations.csv").read_text() == HEADER + "\n"
    assert (created.path / "metrics.jsonl").read_text() == ""
    assert json.loads((created.path / "config.json").read_text()) == content()
    assert read_config(created.path) == config()
    since = read_status(created.path)[0].wall_time
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", since)
    assert json.loads((created.path / "status.json").read_text()) == {
        "runs": [
            {"seed": seed, "setting": setting, "status": "running", "wall_time": since}
            for setting in ("", "eta=0.1")
            for seed in (0, 1)
        ]
    }


def test_an_empty_folder_and_a_started_one_may_be_used(tmp_path: Path) -> None:
    (tmp_path / ".config.json.123.tmp").write_text("{")  # what a killed program leaves
    open_folder(tmp_path, config())
    (tmp_path / "status.json").unlink()
    open_folder(tmp_path, config(), resume=True)
    assert len(read_status(tmp_path)) == 4


def test_resume_keeps_everything(results: ResultsFolder) -> None:
    results.append_evaluations([evaluation()])
    before = contents(results.path)
    changed = config(versions={"jax": "0.11"}, flags=["--resume"])
    assert open_folder(results.path, changed, resume=True) == results
    assert contents(results.path) == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"method": "dtql"}, 'method is "dac" there and "dtql" now'),
        ({"steps": 1000}, "steps is 2000 there and 1000 now"),
        ({"seeds": [0, 2]}, "seeds is [0, 1] there and [0, 2] now"),
        (tenth(eta=0.1, rho=1.0), "hyper.eta=0.1.rho is 1.5 there and 1.0 now"),
        (tenth(eta=0.1), "hyper.eta=0.1.rho is 1.5 there and absent now"),
        (tenth(eta=0.1, rho=1.5, tau=0.5), "hyper.eta=0.1.tau is absent there and 0.5 now"),
        ({"jax_options": {"jax_enable_x64": True}}, 'jax_options is absent there and {"jax_enable_x64": true} now'),
        (
            {"dataset": {"label": "snapshot", "fingerprint": "fedc", "source": "DATA/hopper.hdf5"}},
            'dataset.fingerprint is "0123456789abcdef" there and "fedc" now',
        ),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_experiment_is_refused(
    results: ResultsFolder, changes: dict[str, Any], difference: str, resume: bool
) -> None:
    before = contents(results.path)
    message = error_of(lambda: open_folder(results.path, config(**changes), resume))
    assert message == f"{results.path} holds another experiment ({difference}); choose another --out"
    assert contents(results.path) == before


def test_the_same_experiment_needs_resume(results: ResultsFolder) -> None:
    before = contents(results.path)
    assert error_of(lambda: open_folder(results.path, config())) == (
        f"{results.path} already holds this experiment; add --resume or choose another --out"
    )
    assert contents(results.path) == before


def test_what_the_data_say_is_compared_once_they_are_read(results: ResultsFolder) -> None:
    names = {field.name for field in dataclasses.fields(Request)}
    known = vars(config(dataset={"label": "b", "fingerprint": "c"}))
    asked = Request(**{name: known[name] for name in names})
    check_folder(results.path, asked, resume=True)
    message = error_of(lambda: check_folder(results.path, dataclasses.replace(asked, steps=1), resume=True))
    assert "steps is 2000 there and 1 now" in message


def test_a_folder_without_a_version_is_continued(results: ResultsFolder) -> None:
    old = content()
    del old["format_version"]
    (results.path / "config.json").write_text(json.dumps(old))
    before = contents(results.path)
    assert open_folder(results.path, config(), resume=True) == results
    assert contents(results.path) == before


def test_foreign_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    assert error_of(lambda: open_folder(tmp_path, config())) == (
        f"{tmp_path} holds other files (thesis.tex); choose another --out"
    )
    file = tmp_path / "thesis.tex"
    assert error_of(lambda: open_folder(file, config())) == f"{file} is a file; --out must name a folder"
    below = file / "run"
    assert error_of(lambda: open_folder(below, config())) == (
        f"{below} cannot be written (Not a directory); choose another --out"
    )
    assert contents(tmp_path) == {"thesis.tex": b"text"}


def test_equal_after_json(tmp_path: Path) -> None:
    arrays = config(**tenth(eta=np.float32(0.5), clip=math.inf, sizes=(256, 256)))
    open_folder(tmp_path, arrays)
    assert read_config(tmp_path).hyper["eta=0.1"] == {"eta": 0.5, "clip": "inf", "sizes": [256, 256]}
    open_folder(tmp_path, arrays, resume=True)


def test_rows_are_read_as_written(results: ResultsFolder) -> None:
    rows = [
        evaluation(),
        evaluation(seed=1, score=0.1 + 0.2, simulator='name, "quoted"'),
        evaluation(setting="eta=0.1", score=math.nan),
    ]
    results.append_evaluations(rows[:2])
    results.append_evaluations(rows[2:])
    read = read_evaluations(results.path)
    assert read[:2] == rows[:2]
    assert math.isnan(read[2].score)
    assert [type(value) for value in read[0]] == list(Evaluation.__annotations__.values())


def test_a_line_break_in_a_label_becomes_a_space(results: ResultsFolder) -> None:
    results.append_evaluations([evaluation(selection="two\nlines")])
    assert read_evaluations(results.path)[0].selection == "two lines"


def test_metrics_keep_the_run_axis(results: ResultsFolder) -> None:
    written = record(**{"critic/loss": np.array([0.5, -math.inf], np.float32)})
    results.append(METRICS, metrics_lines([written]))
    assert (results.path / "metrics.jsonl").read_text() == (
        '{"phase": "main", "step": 1000, "seeds": [0, 1], "settings": ["", ""], '
        '"metrics": {"critic/loss": [0.5, "-inf"]}}\n'
    )
    assert read_metrics(results.path) == [record(**{"critic/loss": (0.5, -math.inf)})]


def test_a_folder_without_the_newest_columns_is_read_and_continued(results: ResultsFolder) -> None:
    """An older version's rows lack the last columns, and so do those that are appended to them."""
    results.append_evaluations([evaluation(), evaluation(seed=1)])
    path = results.path / "evaluations.csv"
    newest = path.read_text()
    older = "".join(line.rsplit(",", 2)[0] + "\n" for line in newest.splitlines())
    path.write_text(older)
    assert older.splitlines()[0] == HEADER.removesuffix(",actions,wall_time")
    assert read_evaluations(results.path) == [evaluation(), evaluation(seed=1)]
    opened = open_folder(results.path, config(), resume=True)
    opened.append_evaluations([evaluation(step=2000, wall_time="2026-01-31T09:05:00Z")])
    assert path.read_text().startswith(older)
    assert read_evaluations(results.path)[2] == evaluation(step=2000)


def test_status_is_replaced(results: ResultsFolder) -> None:
    runs = [RunStatus(run(0), "failed: non-finite loss at\nstep 12"), RunStatus(run(1), "complete")]
    results.write_status(runs)
    assert read_status(results.path) == runs
    assert [(status.state, status.reason) for status in runs] == [
        ("failed", "non-finite loss at step 12"),
        ("complete", ""),
    ]


def test_results_hold_everything(results: ResultsFolder) -> None:
    results.append_evaluations([evaluation()])
    read = read_results(results.path)
    assert read.path == results.path
    assert read.config == config()
    assert read.evaluations == (evaluation(),)
    assert [status.run for status in read.runs] == [run(0), run(1), run(0, "eta=0.1"), run(1, "eta=0.1")]
    assert [status.status for status in read.runs] == ["running"] * 4
    assert read.evaluations[0].run == run(0)
    results.append(METRICS, metrics_lines([record()]))
    assert read_results(results.path).metrics == (record(),)
    (results.path / "metrics.jsonl").unlink()  # a copy of the scores alone
    assert read_results(results.path) == read


def test_find_folders(tmp_path: Path) -> None:
    for name in ("b/x", "a", "a/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    found = [tmp_path / "a", tmp_path / "b" / "x"]  # nothing inside another results folder
    assert find_folders([tmp_path]) == found
    assert find_folders([tmp_path / "b", tmp_path, f"{tmp_path}/b/x"]) == found[::-1]


def test_find_folders_refuses(tmp_path: Path) -> None:
    assert error_of(lambda: find_folders([tmp_path / "none"])) == (
        f"{tmp_path / 'none'} is not a folder; name a folder that a launcher wrote with --out"
    )
    assert error_of(lambda: find_folders([tmp_path])) == (
        f"{tmp_path} holds no results (no config.json in it or below)"
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "defect"),
    [
        ("config.json", "{", "", "config.json: not JSON ("),
        ("config.json", '"suite"', '"suit"', "config.json: no entry 'suite'"),
        ("config.json", "2000,", '"many",', "config.json: steps is 'many', not of type int"),
        ("config.json", "2000,", "true,", "config.json: steps is True, not of type int"),
        ("config.json", '"suite"', '"ablation": 3, "suite"', "config.json: ablation is 3, not of type str"),
        ("config.json", '"suite"', '"protocol": [], "suite"', "config.json: protocol is [], not of type dict"),
        (
            "config.json",
            '"suite"',
            '"protocol": {"offline_rank": "x"}, "suite"',
            "config.json: protocol.offline_rank is 'x', not of type int",
        ),
        (
            "config.json",
            '"suite"',
            '"reference": {"source": null}, "suite"',
            "config.json: reference.source is None, not of type str",
        ),
        ("config.json", '"eta=0.1": {', '"eta=1": {', "config.json: hyper has no entry 'eta=0.1', "),
        ("config.json", '"label"', '"name"', "config.json: no entry 'dataset.label'"),
        ("config.json", '"snapshot"', "7", "config.json: dataset.label is 7, not of type str"),
        ("config.json", '"fingerprint"', '"episodes": "x", "fingerprint"', "dataset.episodes is 'x', not of type int"),
        ("config.json", '"0.10.2"', "10", "config.json: versions.jax is 10, not of type str"),
        ("config.json", '2000"', '2000", 3', "config.json: flags is ['--steps=2000', 3], not a list of texts"),
        ("config.json", '"eta=0.1"\n', '""\n', "config.json: settings is ['', ''], not a list without repeats"),
        ("config.json", '"format_version": 1', '"format_version": "1"', "config.json: format_version is '1', "),
        (
            "config.json",
            f'"format_version": {FORMAT_VERSION}',
            f'"format_version": {FORMAT_VERSION + 1}',
            f"config.json: format_version is {FORMAT_VERSION + 1}, this program reads 0 to {FORMAT_VERSION}; update",
        ),
        ("status.json", '"runs"', '"run"', 'status.json: no list "runs"'),
        ("status.json", "running", "ready", "status.json: run 0 is "),
        ("status.json", '"seed"', '"sed"', "status.json: run 0 needs exactly seed, setting, status"),
        ("status.json", "1,", "0,", "status.json: one run has two entries"),
        ("evaluations.csv", "method,", "", "evaluations.csv: the first line must be method,variant,"),
        ("evaluations.csv", "1000,10,", "10,", "evaluations.csv line 2: 21 columns, expected 22"),
        ("evaluations.csv", ",1000,", ",1k,", "evaluations.csv line 2: step is '1k', not an integer"),
        ("evaluations.csv", ",37.5,", ",high,", "evaluations.csv line 2: score is 'high', not a number"),
        ("evaluations.csv", "published", "tuned", "evaluations.csv line 2: tuning is 'tuned', not one of "),
        ("evaluations.csv", "dac,d", "dtql,d", "line 2: method is 'dtql', config.json says 'dac'"),
        ("evaluations.csv", "snapshot", "mini", "line 2: dataset is 'mini', config.json says 'snapshot'"),
        ("evaluations.csv", "3.17,0,", "3.17,7,", "line 2: seed 7 is not in status.json"),
        ("evaluations.csv", "0,,1000", "0,eta=3,1000", "line 2: seed 0 (eta=3) is not in status.json"),
    ],
)
def test_a_defect_is_named(results: ResultsFolder, file: str, old: str, new: str, defect: str) -> None:
    results.append_evaluations([evaluation()])
    edit(results.path / file, old, new)
    message = error_of(lambda: read_results(results.path))
    assert message.startswith(str(results.path / file))
    assert defect in message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"phase"', '[{"phase"'),
        ('"seeds"', '"seed"'),
        ('"phase": "main", ', ""),
        ("1000", "null"),
        ("[0, 1]", "[0]"),
        ("[0.5, 0.25]", "[0.5]"),
        ("[0.5, 0.25]", "0.5"),
        ("[0.5, 0.25]", '["high", 0.25]'),
        ('{"critic/loss": [0.5, 0.25]}', "null"),
    ],
)
def test_a_record_of_another_shape_is_named(results: ResultsFolder, old: str, new: str) -> None:
    results.append(METRICS, metrics_lines([record()]))
    edit(results.path / "metrics.jsonl", old, new)
    if new.startswith("[{"):
        edit(results.path / "metrics.jsonl", "\n", "]\n")
    message = error_of(lambda: read_results(results.path))
    assert message.startswith(
        f"{results.path / 'metrics.jsonl'} line 1: needs a phase, a step, and lists of one length"
    )


def test_a_name_too_long_for_a_folder(tmp_path: Path) -> None:
    name = tmp_path / ("x" * 300)
    assert error_of(lambda: open_folder(name, config())) == (
        f"{name} cannot be written (File name too long); choose another --out"
    )
    assert error_of(lambda: find_folders([name])).startswith(f"{name} is not a folder; ")


def test_an_evaluation_twice_is_a_defect(results: ResultsFolder) -> None:
    results.append_evaluations([evaluation(), evaluation(candidates=1), evaluation()])
    assert error_of(lambda: read_results(results.path)) == (
        f"{results.path / 'evaluations.csv'} line 4: seed 0 is evaluated at step 1000 twice"
    )


@pytest.mark.parametrize("file", ["config.json", "evaluations.csv", "status.json"])
def test_a_missing_file_is_a_defect(results: ResultsFolder, file: str) -> None:
    (results.path / file).unlink()
    assert error_of(lambda: read_results(results.path)) == f"{results.path / file} is missing"


def test_bytes_that_are_no_text(results: ResultsFolder) -> None:
    (results.path / "evaluations.csv").write_bytes(b"\xff\xfe\n")
    assert "not UTF-8 text" in error_of(lambda: read_results(results.path))
    (results.path / "metrics.jsonl").write_bytes(b"{\n")
    assert "metrics.jsonl line 1: not JSON" in error_of(lambda: read_metrics(results.path))


def test_whole_file_leaves_the_old_one_on_error(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    write_text(file, "old")

    def fail_halfway() -> None:
        with whole_file(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert contents(tmp_path) == {"table.md": b"old"}
    write_text(file, "new")
    assert contents(tmp_path) == {"table.md": b"new"}


def test_whole_file_follows_links_and_spares_devices(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    with whole_file(tmp_path / "pipe") as temporary:
        assert temporary == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()


def test_a_full_disk_names_the_file(results: ResultsFolder) -> None:
    file = results.path / "metrics.jsonl"
    file.unlink()
    file.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        results.append(METRICS, metrics_lines([record()]))
    assert error.value.filename == str(file)


def test_a_file_that_is_gone_is_not_begun_again(results: ResultsFolder) -> None:
    (results.path / "evaluations.csv").unlink()
    assert error_of(lambda: results.append_evaluations([evaluation()])) == (
        f"{results.path / 'evaluations.csv'} is gone; it was there when this began"
    )
    assert not (results.path / "evaluations.csv").exists()


def test_writable_keeps_a_full_disk_apart(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), writable(tmp_path):
        raise OSError(FULL_DISK[0], "full")
    with (
        pytest.raises(UserError, match=r"cannot be written \(no\); choose another --plot"),
        writable(tmp_path, "plot"),
    ):
        raise PermissionError(13, "no")


def test_plain() -> None:
    assert plain({"a": (1, np.int64(2), True, None, -math.inf), "path": Path("x")}) == {
        "a": [1, 2, True, None, "-inf"],
        "path": "x",
    }
