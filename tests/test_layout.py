"""Pages of tables: published numbers beside ours, what is bold, which tasks an average is over, what ± is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tables import block, page_of, write

from diffjax.errors import UserError
from diffjax.results import published
from diffjax.results.figures import metrics, profiles
from diffjax.results.layout import lay_out
from diffjax.results.page import Entry, Options, Page, PublishedColumn
from diffjax.results.statistics import bootstrap_interval, iqm
from diffjax.results.tables import build_table
from diffjax.tasks.registry import tasks

LOCOMOTION = published.groups()["dac-1", "locomotion"]


def hopper(path: Path, scores: Mapping[tuple[int, str], Sequence[float]] | None = None, **more: Any) -> Path:
    fields = {"task": "hopper-medium-v2", "suite": "locomotion", "dataset": "D4RL v2"} | more
    return write(path, scores or {(0, ""): [90.0], (1, ""): [110.0]}, **fields)


def column(page: Page, label: str, index: int = 0) -> list[str]:
    lines = block(page, index)
    return [line[lines[0].index(label)] for line in lines[1:]]


def test_published_numbers_stand_beside_ours_by_the_papers_own_rule(tmp_path: Path) -> None:
    page = page_of(hopper(tmp_path / "a"), published=True)
    assert [found.protocol.name for found in page.blocks] == ["paper", "mean", "last", "best"]
    assert block(page)[0] == ["task", "data", "dac", "dac (published)"]
    assert block(page)[1] == ["hopper-medium-v2", "D4RL v2", "100.0 ± 14.1", "101.2"]
    assert block(page, 1)[0] == ["task", "data", "dac"]
    assert "Rules: dac last evaluation." in page.notes  # as these folders say
    assert "dac (published): DAC README; mean over 8 seeds, no spread; by mean of last 5." in page.notes


@pytest.mark.parametrize(
    ("task", "dataset", "text"),
    [
        ("hopper-medium-v2", "snapshot", "100.1 ± 3.5 ≠ D4RL v2"),
        ("hopper-medium-local", "local", "100.1 ± 3.5 ≠ D4RL v2"),
        ("antmaze-umaze-v0", "D4RL v0", "97.4 ± 3.7"),
        ("antmaze-umaze-v2", "D4RL v2", "97.4 ± 3.7 ≠ D4RL v0"),
        ("pen-human-v1", "D4RL v1", "not published"),
    ],
)
def test_other_data_are_marked_in_the_table_itself(tmp_path: Path, task: str, dataset: str, text: str) -> None:
    page = page_of(hopper(tmp_path / "a", method="diffcps", task=task, dataset=dataset), published=True)
    assert column(page, "diffcps (published)")[0] == text
    assert any(note.startswith("≠ other data:") for note in page.notes) == ("≠" in text)


def test_a_number_on_another_version_of_the_data_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = next(score for score in published.scores() if (score.method, score.data_version) == ("cql", "v0"))
    monkeypatch.setattr(published, "preferred", lambda method, task, unverified: old._replace(task=task))
    page = page_of(hopper(tmp_path / "a"), baselines=("CQL",))
    assert column(page, "cql (published)")[0] == f"{old.mean} ≠ D4RL v0"


def test_an_unestablished_version_is_marked(tmp_path: Path) -> None:
    page = page_of(hopper(tmp_path / "a"), baselines=("iql", "SfBC"))
    assert column(page, "iql (published)")[0] == "66.3 ?"
    assert column(page, "sfbc (published)")[0] == "57.1 ?"
    assert any(note.startswith("? version:") for note in page.notes)
    assert "dac (published)" not in block(page)[0]


def test_what_is_not_published_says_why(tmp_path: Path) -> None:
    page = page_of(hopper(tmp_path / "a", method="diffpogan", variant="code"), published=True)
    assert column(page, "diffpogan (published)") == ["not readable"]
    reason = "the paper's result table was not readable; nothing is filled in from memory"
    assert f"diffpogan (published), not readable: {reason}." in page.notes
    pen = hopper(tmp_path / "b", method="diffcps", task="pen-human-v1", dataset="D4RL v1")
    page = page_of(pen, published=True)
    assert column(page, "diffcps (published)") == ["not published"]
    assert "diffcps (published), not published: the paper has no Adroit tasks." in page.notes


def test_remembered_numbers_are_shown_on_request_only(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a", method="dtql", task="kitchen-partial-v0", suite="kitchen", dataset="D4RL v0")
    assert column(page_of(path, published=True), "dtql (published)")[0] == "not readable"
    shown = column(page_of(path, published=True, unverified=True), "dtql (published)")[0]
    assert shown == "74.4 ± 0.3 (from memory)"


def test_unknown_baselines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown baseline 'iqll'; did you mean iql"):
        page_of(hopper(tmp_path / "a"), baselines=("iqll",))
    with pytest.raises(UserError, match="unknown spread 'sd'"):
        page_of(tmp_path / "a", spread="sd")
    with pytest.raises(UserError, match="unknown bold '1%'"):
        page_of(tmp_path / "a", bold="1%")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": ("iqql",)}, r"unknown baseline 'iqql'; did you mean iql or ifql or idql\?"),
        ({"baselines": ("all", "iql")}, "--baselines=all names every baseline"),
        ({"protocols": ("all", "mean")}, "--protocol=all names every block"),
        ({"unverified": True}, "--unverified chooses among published numbers"),
        ({"published": True, "protocols": ("last",)}, "published numbers stand in the block paper"),
        ({"baselines": ("iql",), "protocols": ("last",)}, "published numbers stand in the block paper"),
        ({"baselines": ("nonsense",), "protocols": ("last",)}, "unknown baseline 'nonsense'"),
    ],
)
def test_what_would_not_be_seen_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = hopper(tmp_path / "a")
    with pytest.raises(UserError, match=message):
        page_of(path, **options)


def test_methods_are_compared_under_one_rule(tmp_path: Path) -> None:
    paths = [
        hopper(tmp_path / method, method=method, config={"protocol": {"selection": rule}})
        for method, rule in (("dac", "last5"), ("diffcps", "best"))
    ]
    page = page_of(*paths, published=True, statistics=True)
    assert page.blocks[0].protocol.name == "paper"
    assert {found.protocol.name for found in page.blocks if found.kind != "scores"} == {"mean"}
    assert any(note.startswith("The block 'paper' sets each method beside its own paper") for note in page.notes)
    alone = page_of(paths[0], published=True)
    assert not any(note.startswith("The block") for note in alone.notes)


def test_a_column_without_seeds_keeps_no_other_from_its_intervals(tmp_path: Path) -> None:
    page = page_of(
        hopper(tmp_path / "a"),
        hopper(tmp_path / "b", {(0, ""): [50.0], (1, ""): [60.0]}, method="bc"),
        hopper(tmp_path / "c", {(0, ""): [70.0]}, method="dql"),
        statistics=True,
    )
    (aggregates,) = (found for found in page.blocks if found.kind == "aggregates")
    assert aggregates.header == ("dac", "bc")
    assert "Aggregates of locomotion leave out dql: no task with two seeds." in page.notes


def test_families_of_a_suite_have_averages(tmp_path: Path) -> None:
    names = ["hopper-medium-local", "walker2d-medium-local", "maze2d-umaze-local", "maze2d-large-local"]
    assert set(names) <= set(tasks())
    page = page_of(
        *(
            hopper(tmp_path / name, {(0, ""): [float(index)]}, task=name, suite="local", dataset="local")
            for index, name in enumerate(names)
        )
    )
    assert [line[::2] for line in block(page)[-3:]] == [
        ["local average", "1.5 §"],
        ["average of locomotion", "0.5 §"],
        ["average of maze2d", "2.5 §"],
    ]


def test_averages_carry_the_marks_of_what_they_are_of(tmp_path: Path) -> None:
    mazes = published.groups()["dac-1", "antmaze"]
    paths = [
        hopper(tmp_path / task, {(0, ""): [50.0]}, task=task, suite="antmaze-v0", dataset="D4RL v0") for task in mazes
    ]
    page = page_of(*paths, baselines=("dql", "dtql", "dac"))
    assert column(page, "dac (published)")[-1] == "76.7"  # printed so; that of the rounded numbers is 76.65
    assert column(page, "dql (published)")[-1] == "69.6"
    assert column(page, "dtql (published)")[-1] == "73.6 ?"  # no number of a task was readable, nor the version
    page = page_of(*paths, baselines=("dql", "BCQ"), unverified=True)
    assert column(page, "dql (published)")[-1] == "69.6"  # not the 75.4 of its best evaluations, from memory
    assert column(page, "BCQ (published)")[-1] == "23.8 (from memory)"


def test_all_baselines_come_once(tmp_path: Path) -> None:
    page = page_of(hopper(tmp_path / "a"), published=True, baselines=("all",))
    methods = [item.method for item in page.blocks[0].columns if isinstance(item, PublishedColumn)]
    assert len(methods) == len(set(methods))
    assert set(methods) == {score.method for score in published.scores()}


@pytest.fixture
def locomotion(tmp_path: Path) -> list[Path]:
    """DAC on the nine tasks that papers average, each at 90."""
    return [hopper(tmp_path / task, {(0, ""): [80.0, 90.0], (1, ""): [85.0, 90.0]}, task=task) for task in LOCOMOTION]


def test_an_average_over_exactly_a_papers_tasks_is_the_printed_one(locomotion: list[Path]) -> None:
    page = page_of(*locomotion, last=1, published=True, baselines=("diffcps", "Diffuser"))
    last = block(page)[-1]
    assert last[:4] == ["locomotion average", "D4RL v2", "90.0", "92.9"]
    assert column(page, "diffcps (published)")[-1] == "92.3"  # printed 92.26
    assert column(page, "diffuser (published)")[-1] == "77.5"


def test_averages_of_papers_among_more_tasks(locomotion: list[Path], tmp_path: Path) -> None:
    more = hopper(tmp_path / "more", {(0, ""): [0.0], (1, ""): [0.0]}, task="hopper-expert-v2")
    page = page_of(*locomotion, more, last=1, published=True)
    assert [line[0] for line in block(page)[-2:]] == [
        "locomotion average",
        "average of the 9 tasks of dac, diffcps, dtql",
    ]
    assert [line[2:] for line in block(page)[-2:]] == [["81.0", "9 of 10 rows"], ["90.0", "92.9"]]


def test_an_average_needs_all_its_tasks(locomotion: list[Path]) -> None:
    page = page_of(*locomotion[:-1], published=True)
    assert block(page)[-1][0] == "locomotion average"
    assert len(block(page)) == 1 + 8 + 1
    mean = np.mean([published.preferred("dac", task).mean for task in LOCOMOTION[:-1]])
    assert column(page, "dac (published)")[-1] == f"{mean:.1f}"


def test_offline_selection_reads_the_recorded_losses(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a", {(0, ""): [10.0, 20.0, 30.0, 40.0], (1, ""): [1.0, 2.0, 3.0, 4.0]})
    losses = {100: [0.9, 0.9], 200: [0.8, 0.95], 300: [0.85, 0.5], 400: [0.1, "nan"]}
    records = [
        {"phase": "main", "step": step, "seeds": [0, 1], "settings": ["", ""], "metrics": {"actor/bc": values}}
        for step, values in losses.items()
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = page_of(path, protocols=("offline",))
    assert block(page)[1][2] == "30.0 (n=1)"  # seed 0 stops at its first rise; seed 1 has a loss that is none
    config = json.loads((path / "config.json").read_text())
    config["protocol"] = {"selection": "offline", "offline_rank": 2}
    (path / "config.json").write_text(json.dumps(config))
    page = page_of(path, protocols=("paper",))
    assert block(page)[1][2] == "20.0 (n=1)"  # of the losses up to there 0.8 0.85 0.9 the order is 1 2 0
    assert "Rules: dac selected offline by the cloning loss." in page.notes


def test_rows_stand_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    names = ["walker2d-medium-v2", "antmaze-umaze-v0", "hopper-medium-v2", "nobody's"]
    suites = {"antmaze-umaze-v0": "antmaze", "nobody's": "own"}
    page = page_of(
        *(hopper(tmp_path / name, task=name, suite=suites.get(name, "locomotion"), dataset="x") for name in names)
    )
    assert [row.task for row in page.table.rows] == [names[2], names[0], names[1], names[3]]
    other_way = page_of(*(tmp_path / name for name in reversed(names)))
    assert [row.task for row in other_way.table.rows] == [names[3], names[2], names[0], names[1]]


def test_a_rule_that_nobody_knows_names_the_file(tmp_path: Path) -> None:
    path = hopper(tmp_path / "a")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"protocol": {"selection": "newest"}}))
    with pytest.raises(UserError) as error:
        page_of(path)
    assert str(error.value) == (
        f"{path / 'config.json'}: protocol.selection is 'newest', not one of last, last5, last10, best, offline"
    )


def test_bold_is_near_the_best_and_never_across_data(tmp_path: Path) -> None:
    folders = [
        hopper(tmp_path / "a", {(0, ""): [100.0]}),
        hopper(tmp_path / "b", {(0, ""): [95.0]}, method="dtql"),
        hopper(tmp_path / "c", {(0, ""): [94.9]}, method="bc"),
    ]
    page = page_of(*folders, bold="5%")
    assert block(page)[1][2:] == ["**100.0** §", "**95.0** §", "94.9 §"]
    (rule,) = (note for note in page.notes if note.startswith("Bold: at least b - 0.05 |b|"))
    assert "Published numbers of other data (≠) take no part, and a line with a single number has no bold." in rule
    snapshot = hopper(tmp_path / "d", {(0, ""): [10.0]}, dataset="snapshot")
    page = page_of(snapshot, bold="5%", published=True)
    assert block(page)[1][2:] == ["10.0", "101.2 ≠ D4RL v2"]


def test_bold_by_significance(tmp_path: Path) -> None:
    seeds = lambda *scores: {(seed, ""): [score] for seed, score in enumerate(scores)}  # noqa: E731
    folders = [
        hopper(tmp_path / "a", seeds(90, 100, 110, 95)),
        hopper(tmp_path / "b", seeds(70, 95, 100, 80), method="dtql"),
        hopper(tmp_path / "c", seeds(1, 2, 3, 4), method="bc"),
    ]
    entries = page_of(*folders, bold="significance").blocks[0].lines[0].entries
    assert [entry.is_best for entry in entries] == [True, True, False]
    alone = page_of(*folders[:1], bold="significance", published=True).blocks[0].lines[0].entries
    assert not any(entry.is_best for entry in alone)  # nothing to test against


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        ("std", "100.0 ± 14.1"),
        ("population-std", "100.0 ± 10.0"),
        ("standard-error", "100.0 ± 10.0"),
        ("interval", "100.0 ± 127.1"),  # t quantile 12.706 at one degree of freedom, times 10
        ("none", "100.0"),
    ],
)
def test_what_stands_behind_the_mean(tmp_path: Path, spread: str, text: str) -> None:
    page = page_of(hopper(tmp_path / "a"), last=1, spread=spread)
    assert block(page)[1][2] == text
    one = page_of(hopper(tmp_path / "b", {(0, ""): [5.0]}), last=1, spread=spread)
    assert block(one)[1][2] == "5.0"


def test_aggregates_over_the_tasks_of_all_columns(tmp_path: Path) -> None:
    runs = {"a": {(0, ""): [10.0], (1, ""): [30.0]}, "b": {(0, ""): [50.0], (1, ""): [110.0]}}
    better = {task: {key: [value[0] + 100] for key, value in scores.items()} for task, scores in runs.items()}
    folders = [write(tmp_path / f"dac-{task}", runs[task], task=task) for task in runs]
    folders += [write(tmp_path / f"bc-{task}", better[task], task=task, method="bc") for task in runs]
    folders.append(write(tmp_path / "dac-c", {(0, ""): [7.0]}, task="c"))
    page = page_of(*folders, last=1, statistics=True)
    aggregates, improvement = page.blocks[3:]
    assert [line.task for line in aggregates.lines] == [
        "mean",
        "median",
        "interquartile mean (IQM)",
        "optimality gap (lower is better)",
    ]
    assert {line.data for line in aggregates.lines} == {"2 of 3 rows"}
    assert [line.entries[0].mean for line in aggregates.lines] == [50.0, 50.0, 40.0, (90 + 70 + 50 + 0) / 4]
    expected = bootstrap_interval(
        np.random.default_rng(0), {"a": np.array([10.0, 30.0]), "b": np.array([50.0, 110.0])}, iqm
    )
    found = aggregates.lines[2].entries[0]
    assert (found.mean, found.low, found.high) == pytest.approx(expected)
    assert found.text == f"40.0 [{expected.low:.1f}, {expected.high:.1f}]"
    assert improvement.header == ("dac", "bc")
    assert improvement.lines[0].entries[0] == Entry(remark="–")
    assert improvement.lines[0].entries[1].mean == 0.0
    assert improvement.lines[1].entries[0].text == "100.0 [100.0, 100.0]"


def test_aggregates_say_what_removed_a_row_and_are_made_without_the_incomplete_column_too(tmp_path: Path) -> None:
    def scores(level: float) -> dict[tuple[int, str], list[float]]:
        return {(0, ""): [level], (1, ""): [level + 20]}

    page = page_of(
        *(write(tmp_path / f"dac-{task}", scores(10), task=task) for task in "abc"),
        *(write(tmp_path / f"bc-{task}", scores(50), task=task, method="bc") for task in "abc"),
        write(tmp_path / "dql-a", scores(0), task="a", method="dql"),
        write(tmp_path / "dql-b", {(0, ""): [7.0]}, task="b", method="dql"),
        last=1,
        statistics=True,
        protocols=("mean",),
    )
    every, _, complete, improvement = page.blocks[1:]
    assert every.header == ("dac", "bc", "dql")
    assert {line.data for line in every.lines} == {"1 of 3 rows"}
    assert complete.header == improvement.header == ("dac", "bc")
    assert {line.data for line in complete.lines} == {"3 of 3 rows"}
    assert complete.title == "Aggregates [95 % interval], mini, without dql, mean of the last evaluation"
    assert (
        "Aggregates of mini are over 1 of 3 rows, not over b (mini): dql with one seed; c (mini): dql not run."
    ) in page.notes
    assert [found.subject for found in metrics(page)] == ["mini"] * 4 + ["mini, without dql"] * 4
    assert [found.rows for found in profiles(page)] == [("a (mini)",), ("a (mini)", "b (mini)", "c (mini)")]


def test_columns_that_share_no_row_are_compared_where_they_can_be(tmp_path: Path) -> None:
    runs = {(0, ""): [10.0], (1, ""): [30.0]}
    page = page_of(
        *(write(tmp_path / f"dac-{task}", runs, task=task) for task in "ab"),
        write(tmp_path / "bc", runs, task="c", method="bc"),
        statistics=True,
    )
    (aggregates,) = (found for found in page.blocks if found.kind == "aggregates")
    assert (aggregates.header, aggregates.subject) == (("dac",), "mini, without bc")
    assert not any(note.startswith("Aggregates of mini leave out") for note in page.notes)


def test_one_seed_has_no_aggregates(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a", {(0, ""): [1.0]}), statistics=True)
    assert len(page.blocks) == 3
    assert "No intervals for mini: no task has two seeds of every column." in page.notes


def test_options_choose_the_blocks(tmp_path: Path) -> None:
    table = build_table(page_of(hopper(tmp_path / "a")).table.folders)
    page = lay_out(table, Options(protocols=("best", "offline")))
    assert [found.protocol.name for found in page.blocks] == ["best", "offline"]
    assert page.blocks[1].lines[0].entries[0].text == "no actor/bc recorded"


def ablated(path: Path, name: str, settings: Mapping[str, float], **more: Any) -> Path:
    """A folder that is part of an ablation, two seeds of each setting."""
    hopper(path, {(seed, setting): [score + seed] for setting, score in settings.items() for seed in (0, 1)}, **more)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"ablation": name, "settings": list(settings)}))
    return path


def test_an_ablation_has_a_layout_of_its_own(tmp_path: Path) -> None:
    settings = {"num_critics=2": 10.0, "num_critics=5": 20.0, "num_critics=10": 30.0}
    page = page_of(ablated(tmp_path / "a", "dac_ensemble", settings), last=1)
    assert page.blocks[0].title.startswith("DAC: size of the critic ensemble, mean of the last evaluation")
    assert block(page)[0] == ["task", "data", "2", "5", "10"]
    assert block(page)[1][2:] == ["10.5 ± 0.7", "20.5 ± 0.7", "30.5 ± 0.7 *"]  # H = 10 is published
    assert any(note.startswith("DAC: size of the critic ensemble. Columns: H (num_critics)") for note in page.notes)
    assert "* published value: what the published hyper-parameters of this task say." in page.notes


def test_factors_of_different_values_share_a_column(tmp_path: Path) -> None:
    """DTQL's alpha is 5 on hopper-medium and 50 on halfcheetah-medium-expert."""
    page = page_of(
        ablated(tmp_path / "a", "dtql_alpha", {"alpha=2.5": 10.0, "alpha=5": 20.0}, method="dtql"),
        ablated(
            tmp_path / "b",
            "dtql_alpha",
            {"alpha=25": 30.0, "alpha=50": 40.0},
            method="dtql",
            task="halfcheetah-medium-expert-v2",
        ),
        last=1,
    )
    assert block(page)[0][2:] == ["×0.5", "×1"]
    assert [line[2:] for line in block(page)[1:3]] == [
        ["10.5 ± 0.7", "20.5 ± 0.7 *"],
        ["30.5 ± 0.7", "40.5 ± 0.7 *"],
    ]


def test_what_a_paper_prints_of_its_ablation_stands_below(tmp_path: Path) -> None:
    settings = {f"diffusion_steps={steps}": float(steps) for steps in (5, 15, 20)}
    folders = [ablated(tmp_path / task, "diffcps_steps", settings, method="diffcps", task=task) for task in LOCOMOTION]
    page = page_of(*folders, last=1, published=True)
    assert block(page)[-2][2:] == ["5.5 *", "15.5", "20.5"]
    assert block(page)[-1] == ["published", "D4RL", "92.0", "87.5", "87.6"]
    assert block(page, 1)[-1][0] == "locomotion average"  # only beside the paper's own rule
    part = page_of(*folders[:3], last=1, published=True)
    assert block(part)[-1][0] == "locomotion average"


def test_an_ablation_among_other_folders_is_an_ordinary_table(tmp_path: Path) -> None:
    page = page_of(
        ablated(tmp_path / "a", "dac_ensemble", {"num_critics=2": 10.0}), hopper(tmp_path / "b", method="bc"), last=1
    )
    assert block(page)[0][2:] == ["dac (num_critics=2)", "bc"]


def test_a_title_names_few_columns_and_the_notes_all(tmp_path: Path) -> None:
    runs = {(0, ""): [10.0], (1, ""): [30.0]}
    others = [f"method-{index}" for index in range(4)]
    page = page_of(
        *(write(tmp_path / f"dac-{task}", runs, task=task) for task in "ab"),
        *(write(tmp_path / name, runs, task="a", method=name) for name in others),
        statistics=True,
    )
    subjects = [found.subject for found in page.blocks if found.kind == "aggregates"]
    assert subjects == ["mini", "mini, the column with the most rows"]
    assert f"Aggregates of mini are over 1 of 2 rows, not over b (mini): {', '.join(others)} not run." in page.notes
    assert f"Aggregates of {subjects[1]} leave out {', '.join(others)}." in page.notes
