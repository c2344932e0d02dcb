"""The report put together: its sections in their order, with the style sheet and the program of the package."""

import importlib.resources
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from diffjax.results import charts
from diffjax.results.latency import TradeOff
from diffjax.results.page import Page
from diffjax.results.report import provenance, scores, sections
from diffjax.results.report.markup import Markup, element, join, toggle_rules
from diffjax.results.tables import table_labels

# Nothing is ever fetched, whatever a page should come to hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render(page: Page, trade_off: TradeOff | None = None, pictures: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """The page of a table (with ``statistics``) as one HTML file; ``pictures`` are PNG files of tasks, by task."""
    table, names = page.table, table_labels(page.table)
    styles = charts.styles(table.columns)
    parts = {
        "Scores": scores.score_tables(page),
        "Aggregates over tasks": sections.aggregates(page, styles, names),
        "Learning curves": sections.learning_curves(page, styles, names),
        "Performance profiles": sections.performance_profiles(page, styles, names),
        **({"Latency and score": sections.latency(trade_off, page, styles, names)} if trade_off else {}),
        "Hyper-parameters": provenance.hyper_parameters(table),
        "Environments and data": join(provenance.drawings(pictures), provenance.data(table)),
        "Runs and commands": join(provenance.runs(table), provenance.versions(table)),
        "Unfinished and failed runs": provenance.unfinished(table),
        "Notes": provenance.bullets(page.remarks, "note"),
    }
    toggled = scores.toggle_names(page)
    rules = [toggle_rules(name, toggled) for name in (scores.SECTION, sections.CURVES, sections.PROFILES)]
    ids = {title: title.lower().replace(" ", "-") for title in parts}
    title = _title(page)
    links = (element("li", element("a", name, href=f"#{ids[name]}")) for name in parts)
    body = element(
        "body",
        element("a", "Skip to the scores", href="#scores", class_="skip"),
        element("header", element("h1", title), element("p", _summary(page), class_="summary"), provenance.made(table)),
        element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *(_section(name, ids[name], content) for name, content in parts.items())),
        element("script", _file("report.js")),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", _file("report.css")),
        element("style", Markup("\n".join(rules))),
    )
    text = f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
    return text.encode("utf-8", "replace").decode("utf-8")  # a folder's name may hold what is no UTF-8


def _section(title: str, name: str, content: Markup) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, content, id=name, aria_labelledby=f"{name}-title")


def _title(page: Page) -> str:
    methods = list(dict.fromkeys(column.method for column in page.table.columns))
    tasks = list(dict.fromkeys(row.task for row in page.table.rows))
    subject = page.table.ablation.title if page.table.ablation else _listed(methods, "methods")
    return f"{subject} on {_listed(tasks, 'tasks')}"


def _listed(names: list[str], what: str) -> str:
    return ", ".join(names) if len(names) == 1 else f"{len(names)} {what}"


def _summary(page: Page) -> str:
    """How many runs there are and what is taken from each."""
    states = Counter(status.state for folder in page.table.folders for status in folder.runs)
    runs = sum(states.values())
    counts = ", ".join(f"{states[state]} {state}" for state in ("complete", "running", "failed") if states[state])
    methods = dict.fromkeys(column.method for column in page.table.columns)
    return (
        f"Normalised scores (0 random, 100 expert) of {', '.join(methods)} from {runs} "
        f"{'run' if runs == 1 else 'runs'} ({counts}), by {page.options.headline.title}."
    )


def _file(name: str) -> Markup:
    return Markup((importlib.resources.files(__package__) / name).read_text(encoding="utf-8"))
