"""Tables against means and deviations worked out by hand, in every format, and the launcher's bad inputs."""

import csv
import dataclasses
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launcher_tools import launch
from rich.console import Console

from diffjax.errors import UserError
from diffjax.records.folder import Results, open_folder, read_results
from diffjax.records.schema import Config, Evaluation, RunStatus
from diffjax.results import load_scores, plots
from diffjax.results.arrays import save_scores
from diffjax.results.figures import learning_curve
from diffjax.results.formats import FORMATS, escaped, print_page, render
from diffjax.results.latex import bibliography
from diffjax.results.layout import lay_out
from diffjax.results.page import Options, Page
from diffjax.results.protocols import History, chosen_protocols, offline_index, protocols
from diffjax.results.tables import (
    Cell,
    Column,
    Row,
    Table,
    average,
    build_table,
    column_labels,
    row_labels,
    run_scores,
    values_of,
)

COMPLETE = "complete"


def write(
    path: Path,
    scores: Mapping[tuple[int, str], Sequence[float]],
    *,
    method: str = "dac",
    variant: str = "default",
    task: str = "maze",
    suite: str = "mini",
    dataset: str = "mini",
    fingerprint: str = "0123456789abcdef",
    preset: str = "paper",
    tuning: str = "published",
    status: Mapping[tuple[int, str], str] | None = None,
    steps: int = 300,
    hyper: Mapping[str, Any] | None = None,
    hyper_of: Mapping[str, Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    selections: Sequence[str] = ("one sample",),
    candidates: int = 1,
) -> Path:
    """A results folder with the given scores of each (seed, setting), evaluated every 100 steps up to the last."""
    steps = max(steps, *(100 * len(history) for history in scores.values()))
    described = Config.from_json(
        {
            "method": method,
            "variant": variant,
            "preset": preset,
            "task": task,
            "suite": suite,
            "seeds": sorted({seed for seed, _ in scores}),
            "settings": sorted({setting for _, setting in scores}),
            "steps": steps,
            "eval_interval": 100,
            "episodes": 10,
            "hyper": {setting: dict((hyper_of or {}).get(setting, hyper or {"eta": 1.0})) for _, setting in scores},
            "dataset": {"label": dataset, "fingerprint": fingerprint, "source": "file"},
            "versions": {},
            "flags": [],
            **(config or {}),
        },
        "config.json",
    )
    folder = open_folder(path, described)
    folder.append_evaluations(
        Evaluation(
            method=method,
            variant=variant,
            preset=preset,
            tuning=tuning,
            task=task,
            dataset=dataset,
            dataset_fingerprint=fingerprint,
            env="Maze",
            simulator="jax 1",
            seed=seed,
            setting=setting,
            step=steps - 100 * (len(history) - 1 - index),
            episodes=10,
            return_mean=0.0,
            return_std=0.0,
            length_mean=5.0,
            score=score,
            candidates=candidates,
            network_evaluations=5,
            selection=selection,
        )
        for (seed, setting), history in scores.items()
        for index, score in enumerate(history)
        for selection in selections
    )
    folder.write_status(
        RunStatus(described.run(seed, setting), (status or {}).get((seed, setting), COMPLETE))
        for seed, setting in scores
    )
    return path


def table_of(*paths: Path) -> Table:
    return build_table([read_results(path) for path in paths])


def page_of(*paths: Path, last: int = 2, bold: str = "none", **options: Any) -> Page:
    return lay_out(table_of(*paths), Options(last=last, bold=bold, **options))


def block(page: Page, index: int = 0) -> list[list[str]]:
    """The cells of one block of the markdown table, without header and rule."""
    lines = render(page, "markdown").split("### ")[1 + index].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("|")]
    return [rows[0], *rows[2:]]


# Mean of last 2: 20, 40, 60 -> 40 ± 20. Last: 30, 50, 55 -> 45 ± sqrt((225 + 25 + 100) / 2) = 13.2288.
# Best: 30, 50, 90 -> 56.667 ± sqrt((711.11 + 44.44 + 1111.11) / 2) = 30.5505.
THREE_SEEDS = {(0, ""): [5.0, 10.0, 30.0], (1, ""): [0.0, 30.0, 50.0], (2, ""): [90.0, 65.0, 55.0]}


def test_means_and_deviations_by_hand(tmp_path: Path) -> None:
    table = table_of(write(tmp_path / "a", THREE_SEEDS))
    found = [entry for block in lay_out(table, Options(last=2)).blocks for entry in block.lines[0].entries]
    assert (found[0].mean, found[0].spread, found[0].seeds) == (40.0, 20.0, 3)
    assert (found[1].mean, found[1].spread) == pytest.approx((45.0, 13.228756555322953), rel=1e-12)
    assert (found[2].mean, found[2].spread) == pytest.approx((56.666666666666664, 30.550504633038933), rel=1e-12)


def history(*scores: float, losses: Sequence[float] = (), rule: str = "last", rank: int = 0) -> History:
    return History(0, tuple(range(1, len(scores) + 1)), scores, tuple(losses), rule, rank)


def test_each_protocol_takes_its_number() -> None:
    found = protocols(5)
    assert found["mean"].select(history(1.0, 2.0, 6.0)) == 3.0
    assert found["mean"].select(history(100.0, 1.0, 2.0, 3.0, 4.0, 5.0)) == 3.0
    assert found["last"].select(history(1.0, 9.0, 6.0)) == 6.0
    assert found["best"].select(history(1.0, 9.0, 6.0)) == 9.0
    falling = history(1.0, 9.0, 6.0, 7.0, losses=[0.9, 0.8, 0.7, 0.75], rank=1)
    assert found["offline"].select(falling) == 6.0
    assert found["offline"].select(history(1.0, 9.0)) is None
    assert found["offline"].select(history(1.0, 9.0, losses=[0.5, math.nan])) is None


@pytest.mark.parametrize(
    ("rule", "score", "needs"),
    [("last", 7.0, 1), ("last5", 6.0, 5), ("last10", 31 / 6, 10), ("best", 9.0, 1), ("offline", 8.0, 1)],
)
def test_a_papers_own_rule(rule: str, score: float, needs: int) -> None:
    """Whatever k the table's mean takes, DAC's is of five: (9 + 6 + 0 + 8 + 7) / 5 = 6; EDP's of ten, or all six."""
    run = history(1.0, 9.0, 6.0, 0.0, 8.0, 7.0, losses=[6, 5, 4, 3, 2, 3], rule=rule, rank=1)
    (own,) = chosen_protocols(["paper"], last=2)
    assert own.select(run) == pytest.approx(score)
    assert own.needs(run) == needs


@pytest.mark.parametrize(
    ("losses", "ranks"),
    [
        ([5, 4, 3, 2, 1], {0: 4, 1: 3, 2: 2}),  # never rises: counted from the end
        ([5, 4, 3, 3.5, 1], {0: 3, 1: 2, 2: 0, 3: 1, 4: 1}),  # stops at the first rise: order 2 3 1 0 of 5 4 3 3.5
        ([5, 5, 5], {0: 0, 1: 1, 2: 2}),  # standing still is no rise, equal losses keep their order
        ([5, 6], {0: 0, 1: 1, 2: 1}),  # not so many: the largest place
        ([0.5, 0.4, 0.3, 0.45], {0: 3, 1: 1, 2: 0, 3: 2}),  # order 2 1 3 0
    ],
)
def test_offline_selection_by_hand(losses: list[float], ranks: dict[int, int]) -> None:
    assert {rank: offline_index(losses, rank) for rank in ranks} == ranks


def test_unknown_options() -> None:
    with pytest.raises(UserError, match=r"unknown protocol 'bets'; did you mean best\?"):
        chosen_protocols(["bets"], 5)
    assert [protocol.name for protocol in chosen_protocols(["all"], 5)] == ["mean", "last", "best", "offline", "paper"]


def test_a_cell_without_runs_has_no_numbers() -> None:
    assert values_of(Cell(), protocols(5)["last"]) == values_of(None, protocols(5)["last"]) == []


@pytest.fixture
def two_tasks(tmp_path: Path) -> list[Path]:
    """Two tasks of one suite; ``dac`` everywhere, ``bc`` on one, another suite with one seed."""
    return [
        write(tmp_path / "maze-bc", {(0, ""): [1.0, -0.04], (1, ""): [1.0, 0.02]}, method="bc"),
        write(tmp_path / "maze-dac", {(0, ""): [10.0, 30.0], (1, ""): [10.0, 50.0]}),
        write(
            tmp_path / "swing-dac",
            {(0, ""): [70.0, 80.0], (1, ""): [80.0, 90.0]},
            task="swing",
            tuning="untuned",
        ),
        write(
            tmp_path / "hopper-dac",
            {(0, ""): [50.0, 60.0]},
            task="hopper",
            suite="locomotion",
            dataset="D4RL v2",
            preset="quick",
            tuning="quick",
        ),
    ]


def test_cells(two_tasks: list[Path]) -> None:
    assert block(page_of(*two_tasks, last=1)) == [
        ["task", "data", "bc", "dac (paper)", "dac (quick)"],
        ["maze", "mini", "0.0 ± 0.0", "40.0 ± 14.1", "not run"],
        ["swing", "mini", "not run", "85.0 ± 7.1 †", "not run"],
        ["mini average", "mini", "1 of 2 rows", "62.5 †", "not run"],
        ["hopper", "D4RL v2", "not run", "not run", "60.0 (n=1) ‡"],
    ]


def test_average_over_rows(two_tasks: list[Path]) -> None:
    table = table_of(*two_tasks)
    bc, dac = table.columns[:2]
    rows, last = table.suite_rows("mini"), protocols(1)["last"]
    assert (bc.method, dac.preset) == ("bc", "paper")
    assert average(table, rows, dac, last) == (40.0 + 85.0) / 2
    assert average(table, rows, bc, last) is None
    assert average(table, [], bc, last) is None


def test_markdown_is_aligned_and_explained(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a", THREE_SEEDS))
    assert render(page, "markdown") == (
        "### Normalised score, mean of last 2 evaluations\n"
        "\n"
        "| task | data |         dac |\n"
        "| ---- | ---- | ----------: |\n"
        "| maze | mini | 40.0 ± 20.0 |\n"
        "\n"
        "### Normalised score, last evaluation\n"
        "\n"
        "| task | data |         dac |\n"
        "| ---- | ---- | ----------: |\n"
        "| maze | mini | 45.0 ± 13.2 |\n"
        "\n"
        "### Normalised score, best over training (oracle)\n"
        "\n"
        "| task | data |         dac |\n"
        "| ---- | ---- | ----------: |\n"
        "| maze | mini | 56.7 ± 30.6 |\n"
        "\n"
        "- Score 0 is a random policy, 100 an expert. A cell is mean ± sample standard deviation (ddof = 1) "
        "over 3 seeds unless marked with n; one seed has no ±. An average is the mean of its suite's rows "
        "above it.\n"
        "- Best over training takes each run's best evaluation: an oracle, it chooses by the simulator.\n"
        "- Data mini: not D4RL's, so not comparable with published D4RL scores.\n"
        "- Updates: 300; evaluated every 100 updates on 10 episodes.\n"
        "- Simulators: Maze (jax 1).\n"
        "- Actions of dac: one sample; candidates 1, network evaluations 5.\n"
    )


def test_settings_are_columns(tmp_path: Path) -> None:
    settings = ("", "eta=0.1;rho=1.5")
    write(tmp_path / "a", {(seed, setting): [float(seed)] for seed in (0, 1) for setting in settings})
    assert block(page_of(tmp_path / "a", last=1))[:2] == [
        ["task", "data", "dac", "dac (eta=0.1, rho=1.5)"],
        ["maze", "mini", "0.5 ± 0.7", "0.5 ± 0.7"],
    ]


def test_failed_runs_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a",
        {(0, ""): [10.0, 20.0], (1, ""): [99.0, 99.0], (2, ""): [30.0, 40.0], (3, ""): [5.0, math.nan]},
        status={(1, ""): "failed: non-finite critic/loss at step 150"},
    )
    page = page_of(path, last=1)
    assert block(page)[1] == ["maze", "mini", "30.0 ± 14.1 (2 of 4 failed)"]
    assert page.notes[-1] == (
        "Failed: dac on maze: seed 1: non-finite critic/loss at step 150; seed 3: non-finite score at step 300."
    )


@pytest.mark.parametrize(
    ("scores", "status", "text"),
    [
        ([1.0], "failed: out of memory", "failed: out of memory"),
        ([], "running", "no evaluation yet"),
        ([], "complete", "failed: complete, but without evaluations"),
        ([1.0], "failed: out\nof memory", "failed: out of memory"),
    ],
)
def test_a_cell_without_a_number_says_why(tmp_path: Path, scores: list[float], status: str, text: str) -> None:
    page = page_of(write(tmp_path / "a", {(0, ""): scores}, status={(0, ""): status}))
    assert block(page)[1:] == [["maze", "mini", text]]


def test_runs_that_were_cut_short_enter_no_mean(tmp_path: Path) -> None:
    path = write(tmp_path / "a", THREE_SEEDS)
    lines = (path / "evaluations.csv").read_text().splitlines(keepends=True)
    (path / "evaluations.csv").write_text("".join(lines[:-1]))  # the last evaluation of seed 2
    page = page_of(path, last=1)
    assert block(page)[1] == ["maze", "mini", "40.0 ± 14.1 (1 of 3 failed)"]
    assert "Failed: dac on maze: seed 2: complete, but its evaluations end at step 200 of 300." in page.notes


def test_marks_and_their_legend(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a",
        {(0, ""): [1.0], (1, ""): [3.0]},
        preset="quick",
        tuning="untuned",
        status={(0, ""): "running"},
    )
    page = page_of(path)
    assert block(page)[1][2] == "2.0 ± 1.4 †‡§¶"
    assert block(page, 1)[1][2] == "2.0 ± 1.4 †‡¶"  # every run has a last evaluation
    legend = [note.split(":")[0] for note in page.notes if note[0] in "†‡§¶"]
    assert legend == ["† untuned", "‡ quick", "§ short", "¶ running"]
    unmarked = page_of(write(tmp_path / "b", THREE_SEEDS))
    assert not [note for note in unmarked.notes if note[0] in "†‡§¶"]


def test_data_sets_are_rows(tmp_path: Path) -> None:
    page = page_of(
        write(tmp_path / "a", THREE_SEEDS, dataset="snapshot"),
        write(tmp_path / "b", THREE_SEEDS, dataset="D4RL v2", method="bc"),
        write(tmp_path / "c", THREE_SEEDS, dataset="D4RL v2", fingerprint="f" * 16, method="bc"),
    )
    assert [line[:2] for line in block(page)[1:]] == [
        ["maze", "snapshot"],
        ["maze", "D4RL v2 #01234567"],
        ["maze", "D4RL v2 #ffffffff"],
        ["mini average", "snapshot / D4RL v2"],
    ]
    assert "Data snapshot: not D4RL's, so not comparable with published D4RL scores." in page.notes
    published = page_of(tmp_path / "b")
    assert not any(note.startswith("Data") for note in published.notes)


def test_seeds_of_two_folders_make_one_cell(tmp_path: Path) -> None:
    split = page_of(
        write(tmp_path / "a", {run: THREE_SEEDS[run] for run in [(0, ""), (1, "")]}),
        write(tmp_path / "b", {run: THREE_SEEDS[run] for run in [(2, "")]}),
    )
    together = page_of(write(tmp_path / "c", THREE_SEEDS))
    assert render(split, "markdown") == render(together, "markdown")


def test_what_cannot_be_one_cell_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {(0, ""): [1.0]})
    again = write(tmp_path / "b", {(0, ""): [2.0]})
    other = write(tmp_path / "c", {(1, ""): [2.0]}, hyper={"eta": 2.0})
    with pytest.raises(UserError) as error:
        table_of(first, again)
    assert str(error.value) == (
        f"{again}: seed 0 of dac on maze is in another folder too; name only one of the two in --runs"
    )
    with pytest.raises(UserError) as error:
        table_of(first, other)
    assert str(error.value) == (
        f"{first} and {other} hold dac on maze with hyper.eta 1.0 and 2.0; make a table of each, or train "
        "them as one --grid"
    )
    with pytest.raises(UserError, match="no results to make a table of"):
        build_table([])


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({"reference": {"min": 0.0, "max": 100.0}}, "reference.max 50.0 and 100.0"),
        ({"protocol": {"reward": "minus_one"}}, 'protocol.reward "none" and "minus_one"'),
        ({"matmul_precision": "default"}, 'matmul_precision "highest" and "default"'),
    ],
)
def test_seeds_scored_or_trained_otherwise_are_refused(tmp_path: Path, config: dict[str, Any], difference: str) -> None:
    usual = {"reference": {"min": 0.0, "max": 50.0}, "protocol": {"reward": "none"}, "matmul_precision": "highest"}
    first = write(tmp_path / "a", {(0, ""): [1.0]}, config=usual)
    other = write(tmp_path / "b", {(1, ""): [2.0]}, config=usual | config)
    with pytest.raises(UserError, match=re.escape(f"hold dac on maze with {difference}; make a table of each")):
        table_of(first, other)


def test_more_seeds_of_one_setting_of_a_grid(tmp_path: Path) -> None:
    grid = {"eta=1": {"eta": 1.0}, "eta=2": {"eta": 2.0}}
    both = write(tmp_path / "a", {(seed, name): [1.0] for name in grid for seed in (0, 1)}, hyper_of=grid)
    more = write(tmp_path / "b", {(seed, "eta=1"): [1.0] for seed in (2, 3)}, hyper_of=grid)
    cells = table_of(both, more).cells
    assert {column.setting: len(cell.histories) for (_, column), cell in cells.items()} == {"eta=1": 4, "eta=2": 2}


def test_settings_that_act_differently_have_a_column_each(tmp_path: Path) -> None:
    one = write(tmp_path / "a", {(0, "candidates=1"): [1.0], (1, "candidates=1"): [3.0]}, selections=["argmax of 1"])
    many = write(tmp_path / "b", {(0, "candidates=5"): [2.0], (1, "candidates=5"): [4.0]}, selections=["argmax of 5"])
    folders = [read_results(one), read_results(many)]
    config = dataclasses.replace(
        folders[0].config,
        settings=("candidates=1", "candidates=5"),
        hyper={**folders[0].config.hyper, **folders[1].config.hyper},
    )
    together = Results(
        tmp_path,
        config,
        folders[0].evaluations + folders[1].evaluations,
        folders[0].runs + folders[1].runs,
    )
    page = lay_out(build_table([together]), Options(statistics=True))
    assert block(page)[0] == ["task", "data", "dac (candidates=1)", "dac (candidates=5)"]
    assert all(line.entries[1].mean is not None for line in page.blocks[0].lines)
    assert any(found.kind == "aggregates" for found in page.blocks)


def test_evaluation_rules_are_columns_only_within_a_folder(tmp_path: Path) -> None:
    one = write(tmp_path / "a", THREE_SEEDS, selections=["argmax of 32"])
    another = write(tmp_path / "b", THREE_SEEDS, selections=["argmax of 64"], task="swing")
    both = write(tmp_path / "c", THREE_SEEDS, selections=["argmax of 32", "one sample"])
    assert block(page_of(one, another))[0] == ["task", "data", "dac"]
    assert block(page_of(both))[0][2:] == [
        "dac (argmax of 32; candidates 1, network evaluations 5)",
        "dac (one sample; candidates 1, network evaluations 5)",
    ]


def test_labels() -> None:
    columns = [
        Column("dac", "default", "paper", "", ""),
        Column("diffpogan", "paper", "paper", "eta=1", ""),
        Column("dac", "default", "quick", "", ""),
    ]
    assert list(column_labels(columns).values()) == ["dac (paper)", "diffpogan (paper, eta=1)", "dac (quick)"]
    assert list(column_labels(columns[:2]).values()) == ["dac", "diffpogan (paper, eta=1)"]
    rows = [Row("mini", "maze", "mini", "a"), Row("mini", "swing", "mini", "b")]
    assert list(row_labels(rows).values()) == ["mini", "mini"]


def test_methods_and_tasks_of_a_family_stay_together(tmp_path: Path) -> None:
    page = page_of(
        write(tmp_path / "1", THREE_SEEDS, method="dac", task="a"),
        write(tmp_path / "2", THREE_SEEDS, method="bc", task="h", suite="locomotion"),
        write(tmp_path / "3", THREE_SEEDS, method="dac", task="b", variant="hard"),
        write(tmp_path / "4", THREE_SEEDS, method="dac", task="b"),
    )
    assert [(row.suite, row.task) for row in page.table.rows] == [
        ("mini", "a"),
        ("mini", "b"),
        ("locomotion", "h"),
    ]
    assert block(page)[0] == ["task", "data", "dac", "dac (hard)", "bc"]


def test_csv_is_tidy(two_tasks: list[Path]) -> None:
    lines = list(csv.DictReader(io.StringIO(render(page_of(*two_tasks, last=1), "csv"))))
    assert len(lines) == 3 * 3 * (3 + 1)  # protocols x columns x (rows + average)
    (dac,) = [
        line
        for line in lines
        if (line["task"], line["method"], line["preset"], line["protocol"]) == ("swing", "dac", "paper", "last")
    ]
    assert dac == {
        "suite": "mini",
        "task": "swing",
        "dataset": "mini",
        "dataset_fingerprint": "0123456789abcdef",
        "method": "dac",
        "variant": "default",
        "preset": "paper",
        "setting": "",
        "rule": "",
        "protocol": "last",
        "mean": "85.0",
        "spread": "7.0710678118654755",
        "spread_kind": "std",
        "low": "",
        "high": "",
        "seeds": "2",
        "failed": "0",
        "running": "0",
        "marks": "untuned",
        "is_best": "False",
        "published_in": "",
        "text": "85.0 ± 7.1 †",
    }
    (suite,) = [
        line
        for line in lines
        if (line["suite"], line["task"], line["preset"], line["protocol"]) == ("mini", "mini average", "paper", "best")
        and line["method"] == "dac"
    ]
    assert (suite["mean"], suite["spread"], suite["text"]) == ("62.5", "", "62.5 †")
    assert {line["mean"] for line in lines if line["text"] == "not run"} == {""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dtql_kl (eta=0.1, max_q=1) #01234567 90.5 ± 0.7 *", None),
        ("a|b", None),  # a cell escapes it, a note need not
        ("*a* _b_ `c` <b> </b> &amp; [a](b) ~~c~~", "\\*a\\* \\_b\\_ \\`c\\` \\<b> \\</b> \\&amp; [a\\](b) \\~~c\\~~"),
        ("a\\*b 1 < 2 & 3", "a\\\\\\*b 1 < 2 & 3"),
        ("* published value", "\\* published value"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, expected: str | None) -> None:
    assert escaped(text) == (text if expected is None else expected)


def test_labels_are_escaped_in_markdown(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a", {(0, "a|b=*1*"): [1.0]}, task="<b>maze</b>", dataset="x_y|z"), last=1)
    lines = render(page, "markdown").splitlines()
    assert lines[2].split(" | ")[2].strip(" |") == "dac (a\\|b=\\*1\\*)"
    assert [cell.strip() for cell in lines[4].strip("| ").split(" | ")][:2] == ["\\<b>maze\\</b>", "x_y\\|z"]


def test_no_text_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {(0, "+x"): [-5.0], (1, "+x"): [-5.0]}, task="=1+1", dataset="@data", suite="-5")
    (line, *_) = csv.DictReader(io.StringIO(render(page_of(path, last=1), "csv")))
    assert (line["task"], line["dataset"], line["setting"]) == ("'=1+1", "'@data", "'+x")
    assert line["text"] == "'-5.0 ± 0.0"
    assert (line["mean"], line["suite"]) == ("-5.0", "-5")  # numbers


def test_scores_of_runs_as_arrays(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a", THREE_SEEDS),
        write(tmp_path / "b", {(0, ""): [1.0, 2.0], (1, ""): [4.0], (2, ""): [5.0, 6.0]}, task="swing"),
        write(tmp_path / "c", {(0, ""): [7.0], (1, ""): [8.0]}, method="bc", status={(1, ""): "failed: out of memory"}),
    ]
    rules = chosen_protocols(["mean", "best"], 2)
    save_scores(run_scores(table_of(*paths), rules), tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as file:  # as anybody reads it
        assert json.loads(str(file["about"]))["methods"] == ["dac", "bc"]
    found = load_scores(tmp_path / "scores.npz")
    assert (found.methods, found.tasks) == (("dac", "bc"), ("maze (mini)", "swing (mini)"))
    cell = found.cells["dac", "swing (mini)"]
    assert cell.seeds.tolist() == [0, 1, 2]
    assert cell.steps.tolist() == [200, 300]
    np.testing.assert_array_equal(cell.scores, [[1, 2], [np.nan, 4], [5, 6]])
    assert cell.numbers["best"].tolist() == [2, 4, 6]
    matrices = found.matrices(methods=["dac"])
    assert {name: matrix.tolist() for name, matrix in matrices.items()} == {"dac": [[20, 1.5], [40, 4], [60, 5.5]]}
    assert found.matrices("best", tasks=["maze (mini)"])["bc"].tolist() == [[7]]
    with pytest.raises(UserError, match=r"bc has no score on swing \(mini\); name methods= or tasks= without it"):
        found.matrices()
    with pytest.raises(UserError, match="no protocol 'last' in this file; it has mean, best"):
        found.matrices("last")
    (tmp_path / "other.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"other\.npz holds no scores of a table \(not an \.npz file\)"):
        load_scores(tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"none\.npz cannot be read \(No such file"):
        load_scores(tmp_path / "none.npz")


def test_methods_with_other_numbers_of_runs_make_no_matrix(tmp_path: Path) -> None:
    table = table_of(
        write(tmp_path / "a", THREE_SEEDS), write(tmp_path / "b", {(0, ""): [1.0], (1, ""): [2.0]}, task="swing")
    )
    with pytest.raises(UserError, match=r"dac has 3 runs on maze \(mini\) and 2 on swing \(mini\)"):
        run_scores(table, chosen_protocols(["last"], 1)).matrices()


def test_wide_latex_tables_come_in_parts(tmp_path: Path) -> None:
    methods = [f"method-{index}" for index in range(9)]
    paths = [write(tmp_path / name, {(0, ""): [1.0]}, method=name) for name in methods]
    for style, counts in (("free", [4, 5]), ("two-column", [9])):
        text = render(page_of(*paths, protocols=("last",), style=style), "latex")
        assert ("last evaluation, mini (part 1 of 2)" in text) is (len(counts) > 1)
        headers = [line.split(" & ")[1:] for line in text.splitlines() if line.startswith("task & ")]
        assert [len(header) for header in headers] == counts
        assert [name.removesuffix(" \\\\") for header in headers for name in header] == methods
        assert "resizebox" not in text
        assert text.count("\\begin{table*}") == (1 if style == "two-column" else 0)


def test_latex_has_a_table_for_each_family_with_label_and_citations(tmp_path: Path) -> None:
    names = ["hopper-medium-local", "walker2d-medium-local", "maze2d-umaze-local", "maze2d-large-local"]
    paths = [write(tmp_path / name, {(0, ""): [1.0]}, task=name, suite="local", dataset="local") for name in names]
    page = page_of(
        *paths,
        write(tmp_path / "bc", {(0, ""): [1.0]}, method="bc", task=names[0], suite="local", dataset="local"),
        protocols=("last",),
    )
    text = render(page, "latex")
    assert re.findall(r"\\label\{(.*)\}", text) == [
        "tab:last-local-locomotion",
        "tab:last-local-maze2d",
        "tab:last-local",
    ]
    tables = text.split("\\begin{table}")[1:]
    assert [sum(name in table for name in names) for table in tables] == [2, 2, 0]
    assert "average of locomotion" in tables[0]
    assert "local average" in tables[2]
    assert "Data: local" in tables[1]
    assert "Methods: dac~\\cite{fang2025dac}.}" in tables[0]
    entries = bibliography(page)
    assert entries.startswith("@inproceedings{fang2025dac,\n")
    assert entries.count("@") == 1


def test_many_latex_tables_are_set_before_there_are_too_many(tmp_path: Path) -> None:
    names = [f"suite-{index}" for index in range(13)]
    page = page_of(*(write(tmp_path / name, {(0, ""): [1.0]}, suite=name) for name in names), protocols=("last",))
    before, after = render(page, "latex").split("\\clearpage")
    assert (before.count("\\begin{table}"), after.count("\\begin{table}")) == (12, 1)


def test_latex_compiles_in_form(tmp_path: Path) -> None:
    page = page_of(
        write(tmp_path / "a", {(0, "max_q=1"): [-1.0], (1, "max_q=1"): [-3.0]}, dataset="50% & #1 ~^\\{}$_<|>"),
        write(tmp_path / "b", {(0, ""): [1.0]}, method="bc", task="swing", preset="quick"),
    )
    text = render(page, "latex")
    assert text.startswith("% Needs \\usepackage{booktabs}; ")
    for environment in ("table", "tabular"):
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 3
    for rule in ("toprule", "bottomrule"):
        assert text.count(f"\\{rule}\n") == 3
    data = (
        "50\\% \\& \\#1 \\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\{\\}\\$\\_"
        "\\textless{}\\textbar{}\\textgreater{}"
    )
    first = text.split("\\toprule\n")[1].split("\\bottomrule")[0]
    assert first == (
        "task & data & \\shortstack[r]{dac \\\\ (max\\_q=1)} & bc \\\\\n"
        "\\midrule\n"
        f"maze & {data} & $-2.0 \\pm 1.4$ $^\\S$ & not run \\\\\n"
        "swing & mini & not run & $1.0$ (n=1) $^\\ddagger$$^\\S$ \\\\\n"
        "\\addlinespace[2pt]\n"
        f"mini average & {data} / mini & 1 of 2 rows & 1 of 2 rows \\\\\n"
    )
    body = re.sub(r"\\[\\{}$%&#_]", "", "\n".join(text.splitlines()[1:]))  # what is left is syntax
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0
    assert "%" not in body
    assert "#" not in body
    assert all(ord(character) < 128 for character in body)


@pytest.mark.parametrize("width", [200, 50])
def test_terminal_shows_every_cell_whatever_the_width(two_tasks: list[Path], width: int) -> None:
    page = page_of(*two_tasks, last=1)
    stream = io.StringIO()
    print_page(page, Console(file=stream, width=width))
    text = stream.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    for expected in ("0.0±0.0", "40.0±14.1", "85.0±7.1 †", "60.0 (n=1) ‡", "maze (mini)", "62.5 †"):
        assert expected in text
    assert text.count("task (data)") == (1 if width == 200 else 2)


def test_curve_by_hand() -> None:
    histories = (History(0, (100, 200, 300), (1.0, 2.0, 9.0)), History(1, (100, 200), (3.0, 6.0)))
    found = learning_curve(histories)
    assert (found.steps, found.mean) == ((100, 200), (2.0, 4.0))
    # t with one degree of freedom at 97.5 % is 12.7062; the standard errors are 1 and 2.
    assert found.low == pytest.approx((2 - 12.7062, 4 - 2 * 12.7062), abs=1e-3)
    assert found.high == pytest.approx((2 + 12.7062, 4 + 2 * 12.7062), abs=1e-3)
    assert learning_curve(histories[:1]) == ((100, 200, 300), (1.0, 2.0, 9.0), (), ())


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_curves_are_a_function_of_the_table(two_tasks: list[Path], tmp_path: Path, name: str, magic: bytes) -> None:
    table = table_of(*two_tasks)
    plots.plot_curves(table, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(magic)
    plots.plot_curves(table, tmp_path / name)
    assert (tmp_path / name).read_bytes() == content
    assert len([file for file in os.listdir(tmp_path) if file.endswith("tmp")]) == 0


def test_curves_show_every_task_and_method(two_tasks: list[Path], tmp_path: Path) -> None:
    plots.plot_curves(table_of(*two_tasks), tmp_path / "a.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "a.svg").read_text())
    for expected in ("maze (mini)", "hopper (D4RL v2)", "bc", "dac (paper)", "updates", "normalised score"):
        assert texts.count(expected) >= 1
    assert texts.count("dac (paper)") == 1  # one legend for all panels


def test_curves_refuse(two_tasks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = table_of(write(tmp_path / "empty", {(0, ""): []}, status={(0, ""): "running"}))
    with pytest.raises(UserError, match="no run has been evaluated yet"):
        plots.plot_curves(empty, tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"needs matplotlib; install it with pip install \"diffjax\[plots\]\""):
        plots.plot_curves(table_of(*two_tasks), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def tables(*arguments: str) -> subprocess.CompletedProcess[str]:
    return launch("experiments/tables.py", *arguments)


def test_launcher_prints_or_writes(two_tasks: list[Path], tmp_path: Path) -> None:
    folders = sorted(two_tasks)  # the order in which they are found below one folder
    runs = ",".join(map(str, folders))
    printed = tables(f"--runs={runs}", "--format=csv", "--last=1")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout == render(page_of(*folders, last=1, bold="5%"), "csv")
    out, plot = tmp_path / "table.csv", tmp_path / "curves.svg"
    written = tables(f"--runs={tmp_path}", "--format=csv", "--last=1", f"--out={out}", f"--plot={plot}")
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert out.read_text() == printed.stdout
    assert plot.is_file()


def test_launcher_help_names_flags_and_choices() -> None:
    result = tables("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for expected in ("--runs=DIR[,DIR]", f"--format={'|'.join(FORMATS)}|html|npz", "Default: as wide", "examples:"):
        assert expected in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing --runs=DIR[,DIR]: "),
        (["--runs={runs}", "--fromat=csv"], "unknown flag --fromat; did you mean --format?"),
        (
            ["--runs={runs}", "--format=html5"],
            "--format=html5 is not one of markdown, latex, csv, html, npz; did you mean html?",
        ),
        (["--runs={runs}", "--format=npz"], "--format=npz is no text; name a file with --out=FILE.npz"),
        (["--runs={runs}", "--bibliography={tmp}/a.bib"], "--bibliography={tmp}/a.bib goes with --format=latex; "),
        (["--runs={runs}", "--style=two-column"], "--style=two-column is for --format=latex, --plot and --plots; "),
        (["--runs={runs}", "--pictures"], "--pictures goes with --format=html; add it"),
        (["--runs={runs}", "--last=0"], "--last=0 is not a positive integer"),
        (["--runs={runs}", "csv"], "unexpected argument 'csv'; "),
        (["--runs={tmp}/none"], "{tmp}/none is not a folder; "),
        (["--runs={tmp}/empty"], "{tmp}/empty holds no results "),
        (["--runs={tmp}/broken"], "{tmp}/broken/config.json: not JSON ("),
        (["--runs={runs},"], "--runs={runs}, has an empty item; "),
        (["--runs={runs}", "--out={tmp}"], "--out={tmp} is a folder; name a file"),
        (
            ["--runs={runs}", "--out={tmp}/none/a.md"],
            "--out={tmp}/none/a.md: the folder {tmp}/none does not exist",
        ),
        (["--runs={runs}", "--out=/proc/a.md"], "/proc/a.md cannot be written ("),
        (
            ["--runs={runs}", "--out={tmp}/old.md", "--plot={tmp}/a.gif"],
            "--plot={tmp}/a.gif does not end in .png, ",
        ),
    ],
)
def test_launcher_mistakes(tmp_path: Path, arguments: list[str], message: str) -> None:
    names = {"runs": str(write(tmp_path / "runs", THREE_SEEDS)), "tmp": str(tmp_path)}
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "old.md").write_text("old")
    result = tables(*(argument.format(**names) for argument in arguments))
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("tables.py: " + message.format(**names))
    assert (tmp_path / "old.md").read_text() == "old"
