"""The report: one well-formed file that refers to nothing outside, with numbers worked out by hand."""

import importlib.resources
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_layout import ablated
from test_tables import THREE_SEEDS, table_of, write

from diffjax.commands.tables import COMMAND
from diffjax.errors import UserError
from diffjax.launch import cli
from diffjax.results import charts, figures, load_scores, plots
from diffjax.results.latency import pareto_front, read_latencies, trade_off
from diffjax.results.layout import lay_out
from diffjax.results.page import Options, Page
from diffjax.results.protocols import History
from diffjax.results.report import build
from diffjax.results.tables import Cell, Column, Row, Table

VOID = {"meta", "link", "input", "br", "img", "wbr"}
LATENCIES = "method,variant,candidates,network_evaluations,batch,p50_ms\n"
SIZE_LIMIT = 3_000_000


class Node:
    """An element with its attributes, children and text."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: "Node | None") -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Node | str] = []

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str = "", class_: str = "") -> "list[Node]":
        return [node for node in self.walk() if (not tag or node.tag == tag) and (not class_ or class_ in node.classes)]

    def walk(self) -> "Iterator[Node]":
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()


class Document(HTMLParser):
    """A page as a tree; every element must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.now = Node("", {}, None)
        self.feed(text)
        self.close()
        assert self.now is self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        node = Node(tag, {name: value or "" for name, value in attrs}, self.now)
        self.now.children.append(node)
        self.now = self.now if tag in VOID else node

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.now.tag
        assert self.now.parent is not None
        self.now = self.now.parent

    def handle_data(self, data: str) -> None:
        self.now.children.append(data)


def page_of(*paths: Path, **options: Any) -> Page:
    return lay_out(table_of(*paths), Options(statistics=True, **({"last": 2} | options)))


def parsed(text: str) -> Node:
    """The page, after what must be true of every page."""
    assert text.startswith("<!doctype html>\n")
    root = Document(text).root
    nodes = list(root.walk())
    ids = [node["id"] for node in nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for name in ("for", "aria-labelledby"):
        assert {node[name] for node in nodes if name in node.attributes} <= set(ids)
    links = [node[name] for node in nodes for name in ("href", "src") if name in node.attributes]
    assert {link.removeprefix("#") for link in links if link != "data:,"} <= set(ids)
    assert all(link.startswith("#") or link == "data:," for link in links)
    clips = {node["clip-path"] for node in nodes if "clip-path" in node.attributes}
    assert {clip.removeprefix("url(#").removesuffix(")") for clip in clips} <= set(ids)
    assert not re.search(r"(https?:)?//|@import|url\(", root.all("style")[0].text)
    assert [node for node in nodes if any(name.startswith("on") for name in node.attributes)] == []
    levels = [int(node.tag[1]) for node in nodes if re.fullmatch(r"h[1-6]", node.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for node in nodes:
        if node.tag == "input":
            assert [label for label in root.all("label") if label["for"] == node["id"]]
        if node.tag == "svg":
            assert node.attributes.get("aria-hidden") == "true" or (node["role"] == "img" and node["aria-label"])
        if node.tag == "th":
            assert node["scope"] in ("row", "col")
        if node.tag == "table":
            assert node.all("caption")
            widths = {len(row.all("th")) + len(row.all("td")) for row in node.all("tr")}
            assert len(widths) == 1
    return root


def section(root: Node, name: str) -> Node:
    (found,) = [node for node in root.all("section") if node["id"] == name]
    return found


def cells(table: Node) -> list[list[str]]:
    return [[cell.text for cell in row.walk() if cell.tag in ("th", "td")] for row in table.all("tr")]


@pytest.fixture
def two_tasks(tmp_path: Path) -> Page:
    """``dac`` on two tasks with two seeds, ``bc`` too, but one of its runs failed; ``dql`` on one task only."""
    return page_of(
        write(tmp_path / "a", {(0, ""): [10.0], (1, ""): [30.0]}, tuning="untuned", hyper={"eta": 1.0, "rho": 2.0}),
        write(tmp_path / "b", {(0, ""): [20.0], (1, ""): [40.0]}, task="swing", hyper={"eta": 3.0, "rho": 2.0}),
        write(tmp_path / "c", {(0, ""): [0.0], (1, ""): [4.0]}, method="bc"),
        write(
            tmp_path / "d",
            {(0, ""): [2.0], (1, ""): [6.0], (2, ""): [9.0]},
            method="bc",
            task="swing",
            status={(2, ""): "failed: non-finite critic/loss at step 150"},
        ),
    )


def test_sections_stand_in_their_order(two_tasks: Page, tmp_path: Path) -> None:
    (tmp_path / "inference.csv").write_text(LATENCIES + "dac,default,1,5,1,2.0\n")
    speed = trade_off(two_tasks, read_latencies(tmp_path / "inference.csv"))
    root = parsed(build.render(two_tasks, speed))
    assert [node.text for node in root.all("h2")] == [
        *("Scores", "Aggregates over tasks", "Learning curves", "Performance profiles", "Latency and score"),
        *("Hyper-parameters", "Environments and data", "Runs and commands", "Unfinished and failed runs", "Notes"),
    ]
    assert root.all("h1")[0].text == "2 methods on 2 tasks"
    (summary,) = root.all("p", "summary")
    assert "dac, bc from 9 runs (8 complete, 1 failed)" in summary.text
    assert {node.tag for node in root.walk()} >= {"header", "nav", "main"}
    assert "Latency and score" not in [node.text for node in parsed(build.render(two_tasks)).all("h2")]


def test_scores_are_those_of_the_page(two_tasks: Page) -> None:
    scores = section(parsed(build.render(two_tasks)), "scores")
    assert [label.text for label in scores.all("div", "tabs")[0].all("label")] == ["mean", "last", "best"]
    assert ["checked" in node.attributes for node in scores.all("div", "tabs")[0].all("input")] == [True, False, False]
    table = scores.all("table")[0]
    assert cells(table) == [
        ["task", "data", "dac", "bc"],
        ["maze", "mini", "20.0 ± 14.1 †§", "2.0 ± 2.8 §"],
        ["swing", "mini", "30.0 ± 14.1 §", "4.0 ± 2.8 (1 of 3 failed) §"],
        ["mini average", "mini", "25.0 †§", "3.0 §"],
    ]
    assert [node.text for node in table.all("strong")] == ["20.0 ± 14.1", "30.0 ± 14.1", "25.0"]
    links = {node.text: node for node in table.all("a", "mark")}
    assert {mark: node["title"].partition(":")[0] for mark, node in links.items()} == {"†": "untuned", "§": "short"}
    targets = {item["id"]: item.text for item in scores.all("li") if "id" in item.attributes}
    assert targets[links["†"]["href"].removeprefix("#")].startswith("† untuned: ")
    assert [row.text[:4] for row in table.all("tr", "average")] == ["mini"]
    assert [float(cell["data-sort"]) for cell in table.all("td") if "data-sort" in cell.attributes][:2] == [20, 2]
    legend = scores.all("ul", "legend")[0].text
    assert "† untuned: no published hyper-parameters" in legend
    assert "‡" not in legend


def test_missing_and_published_cells_say_so(tmp_path: Path) -> None:
    fields = {"suite": "locomotion", "dataset": "D4RL v2"}
    page = page_of(
        write(tmp_path / "a", {(0, ""): [90.0], (1, ""): [80.0]}, task="hopper-medium-v2", **fields),
        write(tmp_path / "b", {(0, ""): [50.0], (1, ""): [55.0]}, method="bc", task="walker2d-medium-v2", **fields),
        published=True,
        protocols=("paper", "last"),
    )
    tables = section(parsed(build.render(page)), "scores").all("table")
    heads = tables[0].all("th", "published")
    assert [cell.text for cell in heads] == ["dac (published) ↓", "bc (published) ↓"]
    notes = {item["id"]: item.text for item in section(parsed(build.render(page)), "notes").all("li")}
    assert notes[heads[0].all("a")[0]["href"].removeprefix("#")].startswith("dac (published): DAC README; ")
    assert tables[1].all("th", "published") == []
    (dac, *_) = tables[0].all("td", "published")
    assert (dac.text, dac["title"]) == ("101.2", "DAC README")
    assert [cell.text for cell in tables[1].all("td", "missing")] == [
        *("not run", "not run", "1 of 2 rows", "1 of 2 rows"),
    ]


def test_an_ablation_has_a_report_of_its_own(tmp_path: Path) -> None:
    settings = {"ensemble_target=lcb": 90.0, "ensemble_target=min": 40.0}
    page = page_of(
        ablated(tmp_path / "a", "dac_target", settings, task="halfcheetah-medium-expert-v2"), last=1, published=True
    )
    root = parsed(build.render(page))
    title = "DAC: lower confidence bound or minimum over the critics in the target"
    assert root.all("h1")[0].text == f"{title} on halfcheetah-medium-expert-v2"
    table = section(root, "scores").all("table")[0]
    assert [row["class"] if "class" in row.attributes else "" for row in table.all("tr")] == [
        *("", "", "printed"),
    ]
    assert cells(table)[:3] == [
        ["task", "data", "lcb", "min"],
        ["halfcheetah-medium-expert-v2", "D4RL v2", "90.5 ± 0.7 *", "40.5 ± 0.7"],
        ["published", "D4RL", "99.1", "43.2"],
    ]
    (key, *_) = section(root, "learning-curves").all("ul", "toggles")
    assert [item.text for item in key.all("li")] == ["lcb", "min"]


def test_learning_curves_by_hand(tmp_path: Path) -> None:
    """t is 4.30265, the standard errors are sqrt(2558.33 / 3), sqrt(775 / 3) and sqrt(175 / 3) = 7.6376."""
    curves = section(parsed(build.render(page_of(write(tmp_path / "a", THREE_SEEDS)))), "learning-curves")
    (figure,) = curves.all("figure")
    assert cells(figure.all("table")[0]) == [
        ["updates", "dac"],
        ["100", "31.7 [-94.0, 157.3]"],
        ["200", "35.0 [-34.2, 104.2]"],
        ["300", "45.0 [12.1, 77.9]"],
    ]
    (mean,) = figure.all("path", "mean")
    points = [tuple(map(float, point.split(","))) for point in mean["d"].removeprefix("M").split()]
    assert [x for x, _ in points] == [144.7, 243.3, 342]  # updates 0 to 300 on pixels 46 to 342
    limits = figures.panels(table_of(tmp_path / "a"))[0].limits
    heights = [190 - 182 * (score - limits.low) / (limits.high - limits.low) for score in (95 / 3, 35, 45)]
    assert [y for _, y in points] == pytest.approx(heights, abs=0.051)
    assert len(figure.all("path", "seed")) == 3
    assert len(figure.all("path", "band")) == 1
    assert len(curves.all("path", "reference")) == 0
    assert "last means: dac 45.0 at 300" in figure.all("svg")[0]["aria-label"]


def test_a_panel_shows_every_run_and_cuts_wide_intervals(tmp_path: Path) -> None:
    (panel,) = figures.panels(table_of(write(tmp_path / "a", THREE_SEEDS)))  # scores from 0 to 90
    assert panel.limits.steps == 300
    assert -25 < panel.limits.low < 0
    assert 90 < panel.limits.high < 115
    (flat,) = figures.panels(table_of(write(tmp_path / "b", {(0, ""): [7.0, 7.0]})))
    assert flat.limits.high - flat.limits.low >= 4
    assert flat.limits.low < 7 < flat.limits.high


@pytest.mark.parametrize(
    ("task", "dataset", "same"),
    [
        ("hopper-medium-v2", "D4RL v2", True),
        ("hopper-medium-v2", "snapshot", False),
        ("hopper-medium-local", "local", False),
        ("antmaze-umaze-v0", "D4RL v0", True),
        ("antmaze-umaze-v2", "D4RL v2", False),
        ("hopper-random-v2", "D4RL v2", None),
    ],
)
def test_the_published_curve_is_shown_on_its_own_data_only(task: str, dataset: str, same: bool | None) -> None:
    column, row = Column("bc", "default", "paper", "", ""), Row("locomotion", task, dataset, "f")
    history = History(0, (10_000, 30_000), (1.0, 2.0))
    (panel,) = figures.panels(Table((row,), (column,), {(row, column): Cell((history,))}))
    if same is None:
        assert panel.reference is None
    else:
        assert panel.reference is not None
        assert panel.reference.same_data is same
        assert ("other data: D4RL v" in panel.reference.label) is not same
        assert max(panel.reference.steps) == 30_000
        assert panel.limits.high > max(panel.reference.mean)


def long_runs(path: Path, dataset: str) -> Path:
    scores = {(seed, ""): list(range(0, 101)) for seed in (0, 1)}
    return write(path, scores, task="hopper-medium-v2", suite="locomotion", dataset=dataset, steps=10_100)


@pytest.mark.parametrize(("dataset", "switch", "checked"), [("D4RL v2", "reference", True), ("local", "other", False)])
def test_published_curves_of_other_data_must_be_asked_for(
    tmp_path: Path, dataset: str, switch: str, checked: bool
) -> None:
    curves = section(parsed(build.render(page_of(long_runs(tmp_path / "a", dataset)))), "learning-curves")
    found = {node["id"]: "checked" in node.attributes for node in curves.all("input")}
    assert found == {"show-seeds": False, "show-bands": True, f"show-{switch}": checked, "learning-curves-m0": True}
    (line,) = curves.all("figure")[0].all("path", "reference")
    assert ("other" in line.classes) is not checked
    assert ("other data: D4RL v2" in curves.all("figcaption")[0].text) is not checked


def test_performance_profiles_by_hand(two_tasks: Page) -> None:
    """dac: 10, 30 and 20, 40. Above 15 are a half of the one task's runs and all of the other's."""
    (found,) = figures.profiles(two_tasks)
    band = found.bands[two_tasks.table.columns[0]]

    def above(score: float) -> float:
        return float(band.estimate[np.searchsorted(found.thresholds, score)])

    assert found.rows == ("maze (mini)", "swing (mini)")
    assert [above(score) for score in (5, 15, 25, 35)] == [1.0, 0.75, 0.5, 0.25]
    assert band.estimate[-1] == 0
    assert np.all((band.low <= band.estimate) & (band.estimate <= band.high))
    profiles = section(parsed(build.render(two_tasks)), "performance-profiles")
    assert len(profiles.all("figure")) == 1
    assert len(profiles.all("path", "band")) == 2
    assert profiles.all("figcaption")[0].text == "mini (2 tasks)"


def test_one_seed_has_no_profile_and_no_interval(tmp_path: Path) -> None:
    root = parsed(build.render(page_of(write(tmp_path / "a", {(0, ""): [1.0, 2.0]}))))
    for name in ("performance-profiles", "aggregates-over-tasks"):
        assert "no task has two seeds" in section(root, name).text
        assert "Rows of mini with two seeds: dac on 0 of 1." in section(root, name).text
    assert section(root, "learning-curves").all("path", "band") == []
    assert cells(section(root, "learning-curves").all("table")[0])[1:] == [["200", "1.0"], ["300", "2.0"]]


def test_without_an_evaluation_there_is_still_a_report(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a", {(0, ""): []}, status={(0, ""): "running"}))
    root = parsed(build.render(page))
    assert "no evaluation yet" in section(root, "scores").text
    curves = section(root, "learning-curves").text
    assert "No run has been evaluated yet. The first evaluation of a run is at step 100." in curves
    unfinished = section(root, "unfinished-and-failed-runs")
    assert "No run failed." in unfinished.text
    assert "1 run has not finished:" in unfinished.text
    assert [item.text for item in unfinished.all("li")] == [
        "dac (paper) on maze, seed 0: not evaluated yet, 0 of 300 steps"
    ]


def test_it_opens_on_the_headline_protocol(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a", {(0, ""): [1.0]}), published=True)
    tabs = section(parsed(build.render(page)), "scores").all("div", "tabs")[0]
    opened = {
        label.text: "checked" in box.attributes for label, box in zip(tabs.all("label"), tabs.all("input"), strict=True)
    }
    assert opened == {"paper": False, "mean": True, "last": False, "best": False}


def test_columns_of_tables_and_figures_can_be_chosen(two_tasks: Page) -> None:
    root = parsed(build.render(two_tasks))
    rules = root.all("style")[1].text
    for name in ("scores", "learning-curves", "performance-profiles"):
        boxes = section(root, name).all("ul", "toggles")[0].all("input")
        assert [(box["id"], box["checked"]) for box in boxes] == [(f"{name}-m0", ""), (f"{name}-m1", "")]
        assert f"#{name}:has(#{name}-m1:not(:checked)) :is(figure,table) .m1{{display:none}}" in rules
    cells = [cell for cell in section(root, "scores").all("table")[0].walk() if "m1" in cell.classes]
    assert [cell.text for cell in cells] == ["bc", "2.0 ± 2.8 §", "4.0 ± 2.8 (1 of 3 failed) §", "3.0 §"]
    assert len(section(root, "learning-curves").all("figure")[0].all("g", "m1")) == 2  # runs and curve


def test_when_where_and_how_long_it_took(tmp_path: Path) -> None:
    execution = {"host": "node-1", "devices_used": 2, "start": "2026-01-01T10:00:00Z", "end": "2026-01-02T11:30:00Z"}
    execution |= {"hours": 3.0, "hours_per_run": 0.75, "updates_per_second": 120.0}
    flags = ["--methods=dac", "--out=my runs", "--set", "eta=0.1"]
    versions = {"device": "GPU", "diffjax": "9.9"}
    config = {"execution": execution, "flags": flags, "versions": versions}
    path = write(tmp_path / "a", {(0, ""): [1.0], (1, ""): [2.0]}, config=config)
    more = write(tmp_path / "b", {(0, ""): [1.0]}, task="swing", config={"flags": ["--method=dac", "--task=swing"]})
    root = parsed(build.render(page_of(path, more)))
    (made,) = root.all("p", "made")
    assert made.text == (
        "Trained 2026-01-01 to 2026-01-02 (UTC) on node-1 (2 x GPU), 1.5 hours in all, with diffjax 9.9; of 1 of 2 "
        "folders this is not recorded."
    )
    runs = section(root, "runs-and-commands")
    header, first, second = cells(runs.all("table")[0])
    assert dict(zip(header, first, strict=True)) | {"folder": ""} == {
        **{"method": "dac (paper)", "task": "maze", "data": "mini", "seeds": "0, 1", "runs": "2 complete"},
        **{"updates": "300", "tuning": "published", "trained (UTC)": "2026-01-01 10:00 to 2026-01-02 11:30"},
        **{"hours": "1.5", "updates/s of a run": "120", "devices": "GPU x 2", "machine": "node-1"},
        **{"revision": "not recorded", "command": "1", "folder": ""},
    }
    assert second[7:10] == ["not recorded"] * 3
    assert [code.text for code in runs.all("code", "command")] == [
        "diffjax sweep --methods=dac '--out=my runs' --set eta=0.1",
        "diffjax train --method=dac --task=swing",
    ]


def test_pictures_of_environments_are_part_of_the_file(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a", {(0, ""): [1.0]}))
    root = parsed(
        build.render(page, pictures={"maze": b"picture"}).replace("data:image/png;base64,cGljdHVyZQ==", "data:,")
    )
    (image,) = section(root, "environments-and-data").all("img")
    assert image["alt"] == "maze: its start"


def test_a_wide_table_is_dense(tmp_path: Path) -> None:
    methods = [f"method_{index}" for index in range(9)]
    paths = [write(tmp_path / name, {(0, ""): [1.0], (1, ""): [2.0]}, method=name) for name in methods]
    for count, dense in ((8, False), (9, True)):
        table = section(parsed(build.render(page_of(*paths[:count]))), "scores").all("table")[0]
        assert ("dense" in table.classes) is dense
        assert [cell.text for cell in table.all("th")][2 : 2 + count] == methods[:count]


def test_aggregates_are_drawn_and_told(two_tasks: Page) -> None:
    aggregates = section(parsed(build.render(two_tasks)), "aggregates-over-tasks")
    drawn = aggregates.all("figure")
    assert [figure.all("figcaption")[0].text for figure in drawn] == [
        *("mean", "median", "interquartile mean (IQM)", "optimality gap (lower is better)"),
    ]
    assert all(len(figure.all("path", "whisker")) == 2 for figure in drawn)
    metrics = figures.metrics(two_tasks)
    assert [interval.estimate for interval in metrics[0].intervals.values()] == [25, 3]
    assert [interval.estimate for interval in metrics[3].intervals.values()] == [75, 97]
    (better,) = [row for row in cells(aggregates.all("table")[1]) if row[0] == "dac beats"]
    assert better == ["dac beats", "2 of 2 rows", "–", "100.0 [100.0, 100.0]"]


def test_pareto_front_by_hand() -> None:
    points = [(1.0, 10.0), (2.0, 20.0), (3.0, 15.0), (1.0, 10.0), (0.5, 5.0), (0.5, 4.0), (4.0, 20.0)]
    assert pareto_front(points) == [True, True, False, True, True, False, False]
    assert pareto_front([]) == []


def test_latency_against_score(two_tasks: Page, tmp_path: Path) -> None:
    file = tmp_path / "inference.csv"
    file.write_text(
        LATENCIES + "dac,default,1,5,1,2.0\ndac,default,1,5,64,9.0\nbc,default,8,5,1,0.5\ndql,default,1,1,1,1.0\n"
    )
    (tmp_path / "inference.json").write_text('{"preset": "paper", "machine": {"device": "cpu"}}')
    found = trade_off(two_tasks, read_latencies(file))
    assert [point[1:] for point in found.points] == [(2.0, 25.0, True, True), (0.5, 3.0, False, False)]
    assert found.rows == ("maze (mini)", "swing (mini)")
    assert found.remarks == (
        "dql (default) with 1 candidate of 1 network evaluation: measured, but no results of it.",
        "≠ bc: latency with 8 candidates of 5 network evaluations, scores with 1 candidate of 5 network evaluations.",
    )
    latency = section(parsed(build.render(two_tasks, found)), "latency-and-score")
    assert cells(latency.all("table")[0])[1:] == [["bc", "0.5", "3.0", "≠"], ["dac", "2", "25.0", "yes"]]
    assert len(latency.all("circle", "ring")) == 1
    assert [node.text for node in latency.all("text", "name")] == ["dac", "bc ≠"]
    assert "preset paper, on cpu" in latency.all("p")[0].text
    assert [item.text for item in latency.all("li")] == list(found.remarks)


def test_a_setting_is_matched_with_the_latency_of_its_own_cost(tmp_path: Path) -> None:
    for candidates, score in ((1, 10.0), (50, 20.0)):
        setting = f"candidates={candidates}"
        write(tmp_path / setting, {(0, setting): [score]}, candidates=candidates)
    file = tmp_path / "l.csv"
    file.write_text(LATENCIES + "dac,default,50,5,1,40.0\ndac,default,1,5,1,2.0\n")
    found = trade_off(page_of(tmp_path / "candidates=1", tmp_path / "candidates=50"), read_latencies(file))
    assert [point[1:] for point in found.points] == [(2.0, 10.0, True, True), (40.0, 20.0, True, True)]
    assert found.remarks == ()
    file.write_text(LATENCIES + "dac,default,50,5,1,40.0\n")
    more = tmp_path / "more.csv"
    more.write_text(LATENCIES + "dac,default,1,5,1,2.0\n")
    assert [row.p50_ms for row in read_latencies(file, more).rows] == [40.0, 2.0]
    with pytest.raises(UserError, match="twice; name files that have it once"):
        read_latencies(file, file)
    (tmp_path / "more.json").write_text('{"preset": "quick"}')
    with pytest.raises(UserError, match=r"preset is '' in .*l\.csv and 'quick' in .*more\.csv"):
        read_latencies(file, more)
    found = trade_off(page_of(tmp_path / "candidates=1", tmp_path / "candidates=50"), read_latencies(file))
    assert [point.latency_ms for point in found.points] == [40.0, 40.0]
    assert found.remarks == (
        "≠ dac (candidates=1): latency with 50 candidates of 5 network evaluations, scores with 1 candidate of 5 "
        "network evaluations.",
    )


def test_a_latency_of_another_sampler_is_not_that_of_a_score(tmp_path: Path) -> None:
    """Two samplers of as many network evaluations are told apart by the rule, where a file has it."""
    rules = {"sampler=ancestral": "argmax of Q", "sampler=ddim": "argmax of Q, ddim in 5 steps"}
    for (setting, rule), score in zip(rules.items(), (10.0, 20.0), strict=True):
        write(tmp_path / setting, {(0, setting): [score]}, selections=(rule,))
    file, page = tmp_path / "l.csv", page_of(*(tmp_path / setting for setting in rules))
    head = LATENCIES.replace("candidates", "selection,candidates")
    ancestral, ddim = "dac,default,argmax of Q,1,5,1,4.0\n", 'dac,default,"argmax of Q, ddim in 5 steps",1,5,1,2.0\n'
    file.write_text(head + ddim + ancestral)
    found = trade_off(page, read_latencies(file))
    assert [point[1:] for point in found.points] == [(4.0, 10.0, False, True), (2.0, 20.0, True, True)]
    assert found.remarks == ()
    file.write_text(head + ancestral)
    found = trade_off(page, read_latencies(file))
    assert [(point.latency_ms, point.is_alike) for point in found.points] == [(4.0, True), (4.0, False)]
    assert found.remarks == (
        "≠ dac (sampler=ddim): latency with 1 candidate of 5 network evaluations (argmax of Q), scores with 1 "
        "candidate of 5 network evaluations (argmax of Q, ddim in 5 steps).",
    )


def test_names_of_points_do_not_overlap(tmp_path: Path) -> None:
    methods = [f"method-{index}" for index in range(6)]
    paths = [
        write(tmp_path / method, {(0, ""): [50.0 + index / 4]}, method=method) for index, method in enumerate(methods)
    ]
    lines = (f"{method},default,1,5,1,{1 + index / 50}\n" for index, method in enumerate(methods))
    (tmp_path / "l.csv").write_text(LATENCIES + "".join(lines))
    page = page_of(*paths)
    root = parsed(build.render(page, trade_off(page, read_latencies(tmp_path / "l.csv"))))
    names = section(root, "latency-and-score").all("text", "name")
    assert [node.text for node in names] == methods
    boxes = [(float(node["x"]), float(node["x"]) + 50, float(node["y"])) for node in names]
    for (left, right, level), (start, end, other) in itertools.combinations(boxes, 2):
        assert right < start or end < left or abs(level - other) > 10


def test_only_tasks_that_all_share_count(tmp_path: Path) -> None:
    page = page_of(
        write(tmp_path / "a", {(0, ""): [10.0]}),
        write(tmp_path / "b", {(0, ""): [90.0]}, task="swing"),
        write(tmp_path / "c", {(0, ""): [20.0]}, method="bc"),
        write(tmp_path / "d", {(0, ""): [20.0]}, method="dql", preset="quick"),
    )
    (tmp_path / "l.csv").write_text(LATENCIES + "dac,default,1,5,1,2\nbc,default,1,5,1,1\n")
    found = trade_off(page, read_latencies(tmp_path / "l.csv"))
    assert [(point.column.method, point.score, point.is_front) for point in found.points] == [
        ("dac", 10.0, False),
        ("bc", 20.0, True),
    ]
    assert found.remarks == ("dql: no latency of it in the file.",)
    apart = page_of(tmp_path / "b", tmp_path / "c")
    found = trade_off(apart, read_latencies(tmp_path / "l.csv"))
    assert found.points == ()
    assert found.remarks == ("No task has a score of every method here, so there is nothing to compare on.",)
    assert "nothing to compare" in section(parsed(build.render(apart, found)), "latency-and-score").text


def test_published_speeds_stand_below_ours_where_published_numbers_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {(0, ""): [50.0]}, task="hopper-medium-v2", suite="locomotion", dataset="D4RL v2")
    (tmp_path / "l.csv").write_text(LATENCIES + "dac,default,1,5,1,2.0\n")

    def tables(**options: Any) -> list[Node]:
        page = page_of(path, **options)
        root = parsed(build.render(page, trade_off(page, read_latencies(tmp_path / "l.csv"))))
        return section(root, "latency-and-score").all("table")

    assert len(tables()) == 1
    rows = cells(tables(published=True)[1])
    assert rows[0] == ["method", "quantity", "setting", "value", "hardware", "source"]
    assert ["dac", "one update", "T=5; 8 seeds at once", "2–2.3 ms", "not named"] in [row[:5] for row in rows]
    assert {row[0] for row in rows[1:]} == {"dac"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--latency={file} cannot be read (No such file"),
        ("", "--latency={file} has no column method; "),
        ("method,variant\ndac,default\n", "--latency={file} has no column candidates; "),
        (LATENCIES + "dac,default,1,5,64,2.0\n", "--latency={file} has no row of batch 1; "),
        (LATENCIES + "dac,default,1,5,1,fast\n", "--latency={file} line 2: batch, candidates, "),
        (LATENCIES + "dac,default,1,5,1\n", "--latency={file} line 2: batch, candidates, "),
        (LATENCIES + "dac,default,1,5,1,-1\n", "--latency={file} line 2: p50_ms is -1, not a positive time"),
        (LATENCIES + "dac,default,1,5,1,nan\n", "--latency={file} line 2: p50_ms is nan, not a positive time"),
        (
            LATENCIES + 2 * "dac,default,1,5,1,1\n",
            "--latency={file} has dac (default) with 1 candidate of 5 network evaluations at batch 1 twice; ",
        ),
        (b"\xff\xfe\x00", "--latency={file} is not CSV; "),
    ],
)
def test_bad_latencies(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    file = tmp_path / "l.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_latencies(file)
    assert str(error.value).startswith(message.format(file=file))
    assert len(str(error.value).splitlines()) == 1


def test_hyper_parameters_that_differ_come_first(two_tasks: Page) -> None:
    dac, bc = section(parsed(build.render(two_tasks)), "hyper-parameters").all("details")
    assert dac.all("summary")[0].text == "dac (paper): 2 values, 1 of them not the same everywhere"
    assert [cells(table) for table in dac.all("table")] == [
        [["name", "maze (mini)", "swing (mini)"], ["eta", "1", "3"]],
        [["name", "value"], ["rho", "2"]],
    ]
    assert bc.all("summary")[0].text == "bc (paper): 1 value"
    assert "open" not in dac.attributes


def test_settings_of_a_grid_are_compared(tmp_path: Path) -> None:
    settings = ("eta=1", "eta=2")
    hyper = {"eta=1": {"eta": 1.0, "tau": 5e-3}, "eta=2": {"eta": 2.0, "tau": 5e-3}}
    page = page_of(write(tmp_path / "a", {(0, name): [1.0] for name in settings}, hyper_of=hyper))
    tables = section(parsed(build.render(page)), "hyper-parameters").all("table")
    assert cells(tables[0]) == [["name", "maze (mini, eta=1)", "maze (mini, eta=2)"], ["eta", "1", "2"]]
    assert cells(tables[1]) == [["name", "value"], ["tau", "0.005"]]


def test_failures_and_provenance(two_tasks: Page) -> None:
    root = parsed(build.render(two_tasks))
    assert [item.text for item in section(root, "unfinished-and-failed-runs").all("li")] == [
        "bc on swing (mini), seed 2: non-finite critic/loss at step 150"
    ]
    (data,), (runs,) = (section(root, name).all("table") for name in ("environments-and-data", "runs-and-commands"))
    assert cells(data)[1][:6] == ["maze", "Maze", "jax 1", "mini", "0123456789abcdef", "file"]
    assert [row[4] for row in cells(runs)[1:]] == ["2 complete", "2 complete", "2 complete", "2 complete, 1 failed"]
    assert "No folder records versions." in section(root, "runs-and-commands").text
    assert "When and where these runs were trained is not recorded." in root.all("p", "made")[0].text
    notes = section(root, "notes").text
    assert "Updates: 300; evaluated every 100 updates on 10 episodes." in notes
    assert "† untuned" not in notes


EVIL = "<b id=x>&amp;\"'</script><!--</style>]]>"


def test_nothing_in_the_results_is_markup(tmp_path: Path) -> None:
    page = page_of(
        write(
            tmp_path / "a",
            {(0, EVIL): [1.0, 2.0], (1, EVIL): [2.0, 3.0], (2, EVIL): [2.0]},
            task=EVIL,
            suite=EVIL,
            method=EVIL,
            dataset=EVIL,
            hyper={EVIL: EVIL},
            status={(2, EVIL): f"failed: {EVIL}"},
            selections=[EVIL],
        )
    )
    (tmp_path / "l.csv").write_text(LATENCIES + 'other,"<img src=x>",1,1,1,1\n')
    root = parsed(build.render(page, trade_off(page, read_latencies(tmp_path / "l.csv"))))
    assert root.all("img") == []
    assert [node for node in root.all("b") if node.attributes] == []
    (script,) = root.all("script")
    assert script.text == (importlib.resources.files("diffjax.results.report") / "report.js").read_text("utf-8")
    assert root.all("title")[0].text == f"{EVIL} on {EVIL}"
    for name in ("scores", "learning-curves", "hyper-parameters", "environments-and-data", "notes"):
        assert EVIL in section(root, name).text
    assert "other (<img src=x>)" in section(root, "latency-and-score").text


def test_the_page_fetches_nothing(two_tasks: Page) -> None:
    text = build.render(two_tasks)
    assert not re.search(r"https?://", text)
    (policy,) = [node["content"] for node in parsed(text).all("meta") if "http-equiv" in node.attributes]
    assert policy.startswith("default-src 'none';")
    assert "innerHTML" not in text


def test_four_methods_on_nine_tasks_stay_small(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for method, task in itertools.product(("dac", "dtql", "diffcps", "bc"), range(9)):
        runs = {(seed, ""): list(60 + 20 * random.normal(size=200)) for seed in range(5)}
        write(tmp_path / f"{method}-{task}", runs, method=method, task=f"task-{task}", steps=20_000)
    text = build.render(page_of(*sorted(tmp_path.iterdir())))
    assert len(text.encode()) < SIZE_LIMIT
    assert len(parsed(text).all("path", "seed")) == 4 * 9 * 5


def luminance(color: str) -> float:
    parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """WCAG 2, AA: letters 4.5 to 1, lines and marks 3 to 1."""
    style = (importlib.resources.files("diffjax.results.report") / "report.css").read_text("utf-8")
    bodies = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", bodies[0 if scheme == "light" else 1]))
    assert len(colors) == 17
    for ground in ("paper", "raised", "tint"):
        assert min(contrast(colors[name], colors[ground]) for name in ("ink", "quiet", "link")) >= 4.5
    drawn = [f"s{index}" for index in range(charts.COLORS)]
    for name in [*drawn, "reference", "strong-rule", "focus"]:
        assert contrast(colors[name], colors["paper"]) >= 3, name


def test_ticks_by_hand() -> None:
    assert charts.ticks(0, 300) == [0, 100, 200, 300]
    assert charts.ticks(-3, 21) == [0, 5, 10, 15, 20]
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.ticks(-0.9, 2.4) == [0, 1, 2]
    assert charts.log_ticks(0.03, 6) == [0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    assert charts.log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert charts.log_ticks(2.07, 4.65) == [3, 4]
    assert charts.log_ticks(3.2, 3.9) == [3.2, 3.4, 3.6, 3.8]
    assert [charts.short(value) for value in (0, 500, 20_000, 1_500_000, 0.05)] == ["0", "500", "20k", "1.5M", "0.05"]


def test_a_method_has_its_colour_in_every_figure() -> None:
    def styles_of(*methods: str) -> dict[str, charts.Style]:
        columns = [Column(method, "default", "paper", str(index), "") for index, method in enumerate(methods)]
        return {f"{column.method} {column.setting}": look for column, look in charts.styles(columns).items()}

    few, many = styles_of("dtql", "bc"), styles_of("bc", "dac", "diffcps", "dtql", "dtql")
    assert few["dtql 0"] == many["dtql 3"] != many["dtql 4"]
    assert len({look.color for look in many.values()}) == 5


def test_figures_as_files(two_tasks: Page, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(LATENCIES + "dac,default,1,5,1,2\nbc,default,1,5,1,1\n")
    speed = trade_off(two_tasks, read_latencies(tmp_path / "l.csv"))
    files = plots.plot_all(two_tasks, speed, tmp_path / "figures")
    assert sorted(file.name for file in files) == sorted(
        f"{name}.{ending}" for name in plots.NAMES for ending in ("png", "svg", "pdf")
    )
    magic = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert all(file.read_bytes().startswith(magic[file.suffix]) for file in files)

    def texts(name: str) -> list[str]:
        return re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "figures" / f"{name}.svg").read_text())

    assert {"maze (mini)", "updates", "dac", "bc"} <= set(texts("learning-curves"))
    assert {"mini (2 tasks)", "normalised score τ"} <= set(texts("performance-profiles"))
    assert {"mini: mean", "mini: median"} <= set(texts("aggregates"))
    assert "mean normalised score" in texts("latency")


def launch(*arguments: str) -> int:
    """The exit status of the launcher, in this process."""
    return cli.run(COMMAND, ["tables.py", *arguments])


def test_launcher_writes_a_report_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "runs" / "a", THREE_SEEDS)
    (tmp_path / "l.csv").write_text(LATENCIES + "dac,default,1,5,1,2\n")
    out, folder = tmp_path / "report.html", tmp_path / "figures"
    runs, latency = f"--runs={tmp_path / 'runs'}", f"--latency={tmp_path / 'l.csv'}"
    assert launch(runs, "--format=html", latency, f"--out={out}") == 0
    assert capsys.readouterr() == ("", "")
    written = out.read_text("utf-8")
    assert "Latency and score" in parsed(written).text
    assert launch(runs, "--format=html", latency) == 0
    assert capsys.readouterr() == (written, "")
    assert launch(runs, "--format=csv", f"--plots={folder}") == 0
    assert {file.stem for file in folder.iterdir()} == set(plots.NAMES) - {plots.PARETO}


def test_launcher_draws_environments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a", THREE_SEEDS, task="pendulum-mixed")
    out = tmp_path / "report.html"
    assert launch(f"--runs={tmp_path / 'a'}", "--format=html", "--pictures", f"--out={out}") == 0
    assert capsys.readouterr() == ("", "")
    text = out.read_text("utf-8")
    assert text.count('<img src="data:image/png;base64,iVBORw0KGgo') == 1
    assert 'alt="pendulum-mixed: its start"' in text


def test_launcher_writes_scores_and_bibliography(tmp_path: Path) -> None:
    write(tmp_path / "a", THREE_SEEDS)
    runs, table, scores = f"--runs={tmp_path / 'a'}", tmp_path / "table.tex", tmp_path / "scores.npz"
    assert launch(runs, "--format=latex", f"--out={table}", f"--bibliography={tmp_path / 'papers.bib'}") == 0
    cited = set(re.findall(r"\\cite\{(\w+)\}", table.read_text("utf-8")))
    assert cited == set(re.findall(r"@\w+\{(\w+),", (tmp_path / "papers.bib").read_text("utf-8"))) == {"fang2025dac"}
    assert launch(runs, "--format=npz", "--protocol=last", f"--out={scores}") == 0
    assert load_scores(scores).matrices()["dac"].tolist() == [[30.0], [50.0], [55.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latency={tmp}/none.csv", "--format=html"], "--latency={tmp}/none.csv cannot be read ("),
        (["--latency={tmp}/l.csv"], "--latency={tmp}/l.csv is shown by --format=html and --plots only; "),
        (["--plots={tmp}/l.csv"], "--plots={tmp}/l.csv is a file; name a folder"),
        (["--plots="], "--plots= is empty; name a folder"),
        (["--plots={tmp}/runs/figures"], "--plots={tmp}/runs/figures lies in the results folder {tmp}/runs; "),
        (["--plot={tmp}/runs/a.png"], "--plot={tmp}/runs/a.png lies in the results folder {tmp}/runs; "),
        (["--plot={tmp}/old.html"], "--out and --plot are both {tmp}/old.html; name two files"),
        (["--plots={tmp}/none/figures"], "--plots={tmp}/none/figures: the folder {tmp}/none does not exist; "),
    ],
)
def test_launcher_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    write(tmp_path / "runs", THREE_SEEDS)
    (tmp_path / "l.csv").write_text(LATENCIES)
    (tmp_path / "old.html").write_text("old")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert launch(f"--runs={tmp_path / 'runs'}", *given, f"--out={tmp_path / 'old.html'}") == 2
    printed, complaint = capsys.readouterr()
    assert (printed, len(complaint.splitlines())) == ("", 1)
    assert complaint.startswith("tables.py: " + message.format(tmp=tmp_path))
    assert (tmp_path / "old.html").read_text() == "old"


def test_figures_need_matplotlib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "runs", THREE_SEEDS)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert launch(f"--runs={tmp_path / 'runs'}", f"--plots={tmp_path / 'figures'}") == 2
    message = 'tables.py: --plots needs matplotlib; install it with pip install "diffjax[plots]"\n'
    assert capsys.readouterr() == ("", message)
    assert not (tmp_path / "figures").exists()
