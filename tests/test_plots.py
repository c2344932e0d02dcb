"""Pictures are the same whatever is set for matplotlib, and say what names say; looks of many columns differ."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from launcher_tools import REPOSITORY
from test_tables import THREE_SEEDS, page_of, table_of, write

from diffjax.methods.registry import METHODS
from diffjax.results import charts, plots
from diffjax.results.charts import COLORS, Band, Curve, Mark, Reference, Runs
from diffjax.results.figures import panels
from diffjax.results.latency import read_latencies, trade_off
from diffjax.results.page import STYLES
from diffjax.results.pictures import new_figure, style
from diffjax.results.tables import Column

UNBALANCED = "price=5$;a_b^c=\\frac"


def columns(*methods: str) -> list[Column]:
    return [Column(method, "default", "paper", str(place), "") for place, method in enumerate(methods)]


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text("utf-8"))


def test_no_setting_of_the_place_changes_a_picture(tmp_path: Path) -> None:
    """A shell below a notebook, a matplotlibrc for LaTeX and a window system, a home that cannot be written to."""
    table = table_of(write(tmp_path / "runs", THREE_SEEDS))
    plots.plot_curves(table, tmp_path / "here.png")
    place = tmp_path / "place"
    place.mkdir()
    (place / "matplotlibrc").write_text("backend: QtAgg\ntext.usetex: True\naxes.facecolor: red\nnonsense: 1\n")
    run = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "experiments" / "tables.py", f"--runs={tmp_path / 'runs'}"),
            *(f"--plot={tmp_path / 'there.png'}", f"--out={tmp_path / 'table.md'}"),
        ],
        cwd=place,
        env=os.environ
        | {
            "PYTHONPATH": str(REPOSITORY),
            "MPLBACKEND": "module://a_backend.that_is_not_there",
            "MPLCONFIGDIR": "/proc/nowhere",
            "DISPLAY": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_settings_of_this_process_neither_matter_nor_suffer(tmp_path: Path) -> None:
    table = table_of(write(tmp_path / "runs", THREE_SEEDS))
    plots.plot_curves(table, tmp_path / "plain.svg")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "savefig.dpi": 10, "axes.facecolor": "red"}):
        plots.plot_curves(table, tmp_path / "other.svg")
        assert matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "other.svg").read_bytes() == (tmp_path / "plain.svg").read_bytes()


def test_names_are_text_in_every_figure(tmp_path: Path) -> None:
    page = page_of(
        write(tmp_path / "a", {(0, UNBALANCED): [1.0], (1, UNBALANCED): [3.0]}, task="$\\alpha", suite="s$"),
        statistics=True,
    )
    (tmp_path / "l.csv").write_text(
        "method,variant,candidates,network_evaluations,batch,p50_ms\ndac,default,1,5,1,2.0\n"
    )
    plots.plot_all(page, trade_off(page, read_latencies(tmp_path / "l.csv")), tmp_path / "figures")
    column = "dac (price=5$, a_b^c=\\frac)"
    expected = {
        plots.CURVES: {column, "$\\alpha (mini)"},
        plots.PROFILES: {column, "s$ (1 task)"},
        plots.AGGREGATES: {column, "s$: mean"},
        plots.PARETO: {column, "2", "3"},  # and its ticks are numbers as on a page
    }
    for name, found in expected.items():
        assert found <= set(texts(tmp_path / "figures" / f"{name}.svg")), name


@pytest.mark.parametrize(("name", "inches"), [("one-column", 5.5), ("two-column", 3.25)])
def test_figures_for_papers_have_the_width_of_the_paper(tmp_path: Path, name: str, inches: float) -> None:
    long = "a-task-of-a-name-that-no-column-of-a-paper-is-wide-enough-for-v2"
    paths = [
        write(tmp_path / f"{task}-{method}", THREE_SEEDS, task=task, method=method)
        for task in (long, "swing")
        for method in ("dac", "diffusion_bc")
    ]
    page = page_of(*paths, statistics=True, style=name, protocols=("last",))
    with style("plots", STYLES[name].font_points):
        curves = plots.curves_figure(page.table, STYLES[name])
        aggregates = plots.aggregates_figure(page)
        assert curves is not None
        assert aggregates is not None
        assert curves.get_figwidth() == aggregates.get_figwidth() == inches
        curves.canvas.draw()
        for axes in curves.axes:
            title = axes.title.get_window_extent()
            assert title.x0 >= 0
            assert title.x1 <= curves.bbox.x1
        assert curves.axes[0].get_title().endswith("\n(mini)")  # below a name that fills its panel
        (legend,) = curves.legends
        assert [text.get_text() for text in legend.get_texts()] == ["dac", "diffusion_bc"]
        names = [[label.get_text() for label in axes.get_yticklabels()] for axes in aggregates.axes]
        assert names == [["dac", "diffusion_bc"], ["", ""]] * 2


def test_a_legend_makes_a_figure_higher_and_its_panels_no_lower(tmp_path: Path) -> None:
    def panel(count: int) -> tuple[float, float]:
        paths = [write(tmp_path / f"{count}-{index}", THREE_SEEDS, method=f"method-{index}") for index in range(count)]
        with style("plot"):
            figure = plots.curves_figure(table_of(*paths), STYLES["free"])
            assert figure is not None
            figure.canvas.draw()
            (axes,) = figure.axes
            return axes.get_window_extent().height, figure.get_figheight()

    (few, low), (many, high) = panel(2), panel(20)
    assert high > low + 1
    assert many == pytest.approx(few, rel=0.1)


def test_a_figure_is_drawn_in_memory() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    assert isinstance(new_figure(1, 1).canvas, FigureCanvasAgg)
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("count", [1, 7, 8, 28, 49, 196])
def test_no_two_columns_look_alike(count: int) -> None:
    methods = [*METHODS, *(f"method{index}" for index in range(196))][:count]
    found = list(charts.styles(columns(*methods)).values())
    assert len(set(found)) == count
    if count <= 49:
        assert len({(style.color, style.marker) for style in found}) == count
    if count <= 28:
        assert len({(style.line, style.marker) for style in found}) == count
    if count <= COLORS:
        assert len({style.color for style in found}) == len({style.marker for style in found}) == count


def test_settings_of_one_method_look_different() -> None:
    found = charts.styles(columns(*["bc"] * 30, "dac"))
    assert len(set(found.values())) == 31
    assert found[columns(*["bc"] * 30, "dac")[30]] == charts.styles(columns("dac"))[columns("dac")[0]]


def test_the_layers_of_a_learning_curve(tmp_path: Path) -> None:
    """Every run and other data's curves are there, but shown only when asked for."""
    scores = {(seed, ""): list(range(0, 101)) for seed in (0, 1)}
    path = write(tmp_path / "a", scores, task="hopper-medium-v2", suite="locomotion", dataset="own", steps=10_100)
    (panel,) = panels(table_of(path))
    chart = charts.learning_curves(panel)
    assert [type(layer) for layer in chart.layers] == [Band, Runs, Reference, Curve]
    assert [type(layer) for layer in filter(charts.shown_at_first, chart.layers)] == [Band, Curve]
    assert (chart.x.low, chart.x.high, chart.title) == (0, 10_100, "hopper-medium-v2 (own)")


def test_a_front_is_a_staircase_to_the_edge(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / method, {(0, ""): [score]}, method=method)
        for method, score in (("dac", 30.0), ("bc", 10.0), ("dql", 20.0))
    ]
    (tmp_path / "l.csv").write_text(
        "method,variant,candidates,network_evaluations,batch,p50_ms\n"
        "dac,default,1,5,1,4.0\nbc,default,1,5,1,1.0\ndql,default,1,5,1,8.0\n"
    )
    points = trade_off(page_of(*paths), read_latencies(tmp_path / "l.csv")).points
    front, *marks = charts.pareto(points, "?").layers
    assert (front.xs, front.ys) == ([1.0, 4.0, 4.0, 12.0], [10.0, 10.0, 30.0, 30.0])
    ringed = {mark.column.method: mark.is_ringed for mark in marks if isinstance(mark, Mark)}
    assert ringed == {"dac": True, "bc": True, "dql": False}


def test_markers_of_a_line_are_about_eight() -> None:
    for count in (1, 5, 16, 101, 1000):
        marked = len(range(0, count, Curve(columns("dac")[0], range(count), range(count)).marked_every))
        assert min(count, 8) <= marked <= 15


def test_lines_of_one_colour_differ_in_line_or_marker() -> None:
    found = charts.styles(columns(*(f"method{index}" for index in range(196))))
    for color, group in itertools.groupby(sorted(found.values()), key=lambda style: style.color):
        looks = [(style.line, style.marker) for style in group]
        assert len(set(looks)) == len(looks), color
