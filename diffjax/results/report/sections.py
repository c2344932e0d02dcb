"""The figures of a page, each with its caption and, when asked for, its numbers."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from diffjax.results import charts, figures, published
from diffjax.results.aggregates import lacking_seeds, no_intervals
from diffjax.results.charts import Style, short, tasks_text
from diffjax.results.figures import Metric, Panel, Profiles
from diffjax.results.latency import Point, TradeOff
from diffjax.results.page import OTHER, Block, Page, number, with_interval
from diffjax.results.report import drawing
from diffjax.results.report.markup import Markup, details, element, join, table, toggles
from diffjax.results.report.provenance import bullets
from diffjax.results.report.scores import block_table
from diffjax.results.tables import Column

_PROFILE_ROWS = 10  # of 100 thresholds
CURVES, PROFILES = "learning-curves", "performance-profiles"
Names = Mapping[Column, str]
Styles = Mapping[Column, Style]


def _legend(section: str, columns: Iterable[Column], styles: Styles, names: Names) -> Markup:
    """Which colour, line and marker is whose, and whether it is shown."""
    shown = [(drawing.name_of(column, styles), names[column], drawing.swatch(styles[column])) for column in columns]
    return toggles(section, shown, "Key; choose what is shown")


def aggregates(page: Page, styles: Styles, names: Names) -> Markup:
    """The aggregates of each suite as intervals, and the tables behind them."""
    parts: list[Markup] = []
    found = figures.metrics(page)
    for suite in page.table.suites:
        metrics = [metric for metric in found if metric.suite == suite]
        blocks = [block for block in page.blocks if block.kind != "scores" and block.lines[0].suite == suite]
        if not metrics:
            lacking = lacking_seeds(page.table, suite, page.options.headline)
            parts.append(element("p", f"{no_intervals(suite)} {lacking}"))
        for subject in dict.fromkeys(metric.subject for metric in metrics):
            of_subject = [metric for metric in metrics if metric.subject == subject]
            parts.append(element("h3", f"{subject}, over {of_subject[0].over}"))
            parts.append(element("div", *(_metric(metric, styles, names) for metric in of_subject), class_="grid four"))
            parts += [_aggregate_table(block, page) for block in blocks if block.subject == subject]
    return join(*parts)


def _aggregate_table(block: Block, page: Page) -> Markup:
    shown = block_table(block, page)
    return details("Numbers of these figures", shown) if block.kind == "aggregates" else shown


def _metric(metric: Metric, styles: Styles, names: Names) -> Markup:
    values = (f"{names[column]} {with_interval(*found)}" for column, found in metric.intervals.items())
    label = f"{metric.name} of {metric.subject} with 95 % intervals: {'; '.join(values)}."
    shown = drawing.draw_whiskers(charts.intervals(metric), styles, names, label)
    return element("figure", element("figcaption", metric.name), shown)


def learning_curves(page: Page, styles: Styles, names: Names) -> Markup:
    """A panel for every row, and what else may be shown in them."""
    panels = figures.panels(page.table)
    if not panels:
        return element("p", f"No run has been evaluated yet. {_expected(page)}")
    references = [panel.reference for panel in panels if panel.reference]
    switches = [("seeds", "every seed", False), ("bands", "95 % intervals", True)]
    if any(reference.same_data for reference in references):
        switches.append(("reference", "dac (published), on the same data", True))
    if any(not reference.same_data for reference in references):
        switches.append(("other", "dac (published), on other data", False))
    dashed = element("p", _dashed(), " dac (published)", class_="key")
    columns = dict.fromkeys(line.column for panel in panels for line in panel.lines)
    return join(
        element(
            "p",
            f"Normalised score against {' and '.join(dict.fromkeys(panel.unit for panel in panels))}: the mean over "
            "seeds at the steps that all of them were evaluated at, "
            "with its 95 % interval by Student's t (of two or three seeds very wide; cut off at a panel's edge).",
        ),
        element("div", *(_switch(*each) for each in switches), class_="switches", role="group", aria_label="Show"),
        _legend(CURVES, columns, styles, names),
        *([dashed] if references else []),
        element("div", *(_panel(panel, index, styles, names) for index, panel in enumerate(panels)), class_="grid"),
    )


def _expected(page: Page) -> str:
    """When the first evaluations are due."""
    unit = {step for folder in page.table.folders if folder.config.episodes for step in [folder.config.eval_interval]}
    return f"The first evaluation of a run is at step {' / '.join(map(str, sorted(unit)))}." if unit else ""


def _switch(name: str, text: str, is_on: bool) -> Markup:
    box = element("input", type="checkbox", id=f"show-{name}", checked=is_on)
    return element("span", box, element("label", text, for_=f"show-{name}"))


def _dashed() -> Markup:
    line = element("path", d="M0 6L28 6", class_="reference")
    return element("svg", line, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")


def _panel(panel: Panel, index: int, styles: Styles, names: Names) -> Markup:
    ends = [
        f"{names[line.column]} {number(line.curve.mean[-1])} at {short(line.curve.steps[-1])}"
        for line in panel.lines
        if line.curve.steps
    ]
    label = f"Learning curves of {panel.title}; last means: {'; '.join(ends) or 'none'}."
    caption: list[str] = [element("strong", panel.row.task), f" ({panel.data})"]
    if panel.reference and not panel.reference.same_data:
        caption.append(element("span", f"; dashed: {panel.reference.label}", class_="other"))
    return element(
        "figure",
        element("figcaption", *caption),
        drawing.draw(charts.learning_curves(panel), styles, names, label, f"clip-curve-{index}"),
        details("Numbers", _curve_table(panel, styles, names)),
    )


def _curve_table(panel: Panel, styles: Styles, names: Names) -> Markup:
    """The mean of every method at every step, with its interval."""
    header: list[str] = [panel.unit, *(names[line.column] for line in panel.lines)]
    columns: list[dict[int, str]] = []
    for line in panel.lines:
        curve = line.curve
        found = {step: number(value) for step, value in zip(curve.steps, curve.mean, strict=True)}
        if curve.low:
            texts = map(with_interval, curve.mean, curve.low, curve.high)
            found = dict(zip(curve.steps, texts, strict=True))
        columns.append(found)
    steps = sorted({step for column in columns for step in column})
    if panel.reference:
        header.append(panel.reference.label)
        columns.append(dict(zip(panel.reference.steps, map(number, panel.reference.mean), strict=True)))
    rows = ([f"{step:,}", *(column.get(step, "–") for column in columns)] for step in steps)
    classes = [None, *(drawing.name_of(line.column, styles) for line in panel.lines)]
    return table(f"{panel.title}: mean over seeds [95 % interval]", header, rows, classes=classes)


def performance_profiles(page: Page, styles: Styles, names: Names) -> Markup:
    """A figure for every suite with enough seeds."""
    found = figures.profiles(page)
    if not found:
        lacking = (lacking_seeds(page.table, suite, page.options.headline) for suite in page.table.suites)
        return element("p", f"No performance profile: no task has two seeds of every method. {' '.join(lacking)}")
    columns = dict.fromkeys(column for each in found for column in each.bands)
    protocol = page.options.headline.title
    return join(
        element(
            "p",
            f"The fraction of runs with a score above τ by {protocol}, every task weighing the same (Agarwal et al., "
            "2021); band: 95 % at each τ, by a bootstrap over seeds within each task. Higher is better.",
        ),
        _legend(PROFILES, columns, styles, names),
        element("div", *(_profile(each, index, styles, names) for index, each in enumerate(found)), class_="grid"),
    )


def _profile(found: Profiles, index: int, styles: Styles, names: Names) -> Markup:
    middle = len(found.thresholds) // 2
    values = (f"{names[column]} {band.estimate[middle]:.2f}" for column, band in found.bands.items())
    label = (
        f"Performance profiles of {found.subject}; fraction of runs above {number(found.thresholds[middle])}: "
        f"{'; '.join(values)}."
    )
    rows = [
        [
            number(found.thresholds[at]),
            *(
                with_interval(band.estimate[at], band.low[at], band.high[at], lambda value: f"{value:.2f}")
                for band in found.bands.values()
            ),
        ]
        for at in range(0, len(found.thresholds), _PROFILE_ROWS)
    ]
    return element(
        "figure",
        element("figcaption", element("strong", found.subject), f" ({tasks_text(found.rows)})"),
        drawing.draw(charts.performance_profiles(found), styles, names, label, f"clip-profile-{index}"),
        details(
            "Numbers",
            table(
                f"{found.subject}: fraction of runs above τ [95 % interval]",
                ["τ", *(names[column] for column in found.bands)],
                rows,
                classes=[None, *(drawing.name_of(column, styles) for column in found.bands)],
            ),
            element("p", f"Over {', '.join(found.rows)}."),
        ),
    )


def latency(found: TradeOff, page: Page, styles: Styles, names: Names) -> Markup:
    """Score against latency, and what could not be matched."""
    source = found.source
    measured = [f"preset {source.preset}"] if source.preset else []
    measured += [f"on {source.device}"] if source.device else []
    parts = [
        element(
            "p",
            f"Median time of one action decided on alone ({source.file}"
            + (f"; {', '.join(measured)}" if measured else "")
            + f") against the mean score by {page.options.headline.title} over the tasks that all methods here "
            f"share. The line joins the Pareto front: ringed methods, which no other beats in both; {OTHER}: timed "
            "otherwise than scored (below), which takes no part in it.",
        )
    ]
    if found.points:
        values = (f"{names[p.column]} {p.latency_ms:.3g} ms, {number(p.score)}" for p in found.points)
        label = f"Score against latency: {'; '.join(values)}."
        shown = drawing.draw(charts.pareto(found.points, OTHER), styles, names, label)
        caption = element("figcaption", f"Over {tasks_text(found.rows)}")
        parts.append(element("div", element("figure", caption, shown), class_="grid"))
        parts.append(_pareto_table(found.points, names))
        parts.append(element("p", f"Tasks: {', '.join(found.rows)}."))
    if found.remarks:
        parts.append(bullets(found.remarks))
    if page.options.published:
        parts.append(_published_timings({column.method for column in page.table.columns}))
    return join(*parts)


def _published_timings(methods: Collection[str]) -> Markup:
    """What papers print of the methods' speed; nothing where they print none."""
    rows = [
        [
            timing.method,
            timing.quantity,
            timing.setting,
            "–".join(f"{value:g}" for value in (timing.value, timing.value_max) if value is not None)
            + (f" {timing.unit}" if timing.unit else ""),
            timing.hardware,
            ". ".join(filter(None, (published.sources()[timing.table].source, timing.note))),
        ]
        for timing in published.timings()
        if timing.method in methods
    ]
    header = ["method", "quantity", "setting", "value", "hardware", "source"]
    title = "Published speeds, of other hardware and programs: for orientation only"
    return details(title, table(title, header, rows, numbers=False)) if rows else Markup()


def _front(point: Point) -> str:
    return ("yes" if point.is_front else "no") if point.is_alike else OTHER


def _pareto_table(points: Sequence[Point], names: Names) -> Markup:
    rows = (
        [names[point.column], f"{point.latency_ms:.3g}", number(point.score), _front(point)]
        for point in sorted(points, key=lambda point: point.latency_ms)
    )
    header = ["method", "ms per action", "mean score", "on the Pareto front"]
    return table("Latency and score", header, rows)
