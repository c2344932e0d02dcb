"""The tables of a page as HTML: a block of scores at a time, with what its marks mean, and aggregates."""

from collections.abc import Sequence

from diffjax.results.page import BOLD, Block, Entry, Line, Page, PublishedColumn, meaning
from diffjax.results.report.markup import Markup, element, join, scroll


def score_tables(page: Page) -> Markup:
    """The blocks of scores, one seen at a time; the choice needs no program."""
    parts: list[Markup] = []
    for index, block in enumerate(block for block in page.blocks if block.kind == "scores"):
        name = f"protocol-{index}"
        parts += [
            element("input", type="radio", name="protocol", id=name, checked=index == 0),
            element("label", block.protocol.name, for_=name),
            element("div", block_table(block), _legend(block, page), class_="tab"),
        ]
    return element("div", *parts, class_="tabs", role="group", aria_label="Protocol")


def block_table(block: Block) -> Markup:
    """One block; a suite's averages stay below its rows however they are sorted."""
    header = [element("th", name, scope="col") for name in block.corner]
    for name, column in zip(block.header, block.columns, strict=True):
        header.append(element("th", name, scope="col", class_=_column_class(column)))
    bodies = []
    for suite in dict.fromkeys(line.suite for line in block.lines):
        lines = (_line(line, block) for line in block.lines if line.suite == suite)
        bodies.append(element("tbody", *lines))
    content = element(
        "table",
        element("caption", element("span", block.title)),
        element("thead", element("tr", *header)),
        *bodies,
        class_="scores sortable",
    )
    return scroll(block.title, content)


def _line(line: Line, block: Block) -> Markup:
    kind = line.kind if line.kind in ("average", "printed") else None
    cells = [element("th", line.task, scope="row"), element("td", line.data, class_="data")]
    for entry, column in zip(line.entries, block.columns, strict=True):
        names = ["missing"] if entry.mean is None else []
        names += [found] if (found := _column_class(column)) else []
        class_ = " ".join(names) or None
        title = entry.citation or None
        cells.append(element("td", _entry(entry), data_sort=entry.mean, class_=class_, title=title))
    return element("tr", *cells, class_=kind)


def _column_class(column: object) -> str | None:
    return "published" if isinstance(column, PublishedColumn) else None


def _entry(entry: Entry) -> Markup:
    """The number, bold where it is among the best; marks say what they mean."""
    marked = [
        element("abbr", character, title=meaning(character)) if character in entry.marks else character
        for character in entry.remark
    ]
    shown = element("strong", entry.shown) if entry.is_best else entry.shown
    return join(shown, " " if entry.shown and entry.remark else "", *marked)


def _legend(block: Block, page: Page) -> Markup:
    """What bold and marks mean, of those that the block has."""
    lines: list[Sequence[str]] = [[page.caption]]
    if block.has_bold:
        lines.append([BOLD[page.options.bold]])
    lines += [[element("b", mark), f" {meaning(mark)}"] for mark in block.marks]
    if any(isinstance(column, PublishedColumn) for column in block.columns):
        lines.append(["Tinted columns are published numbers; where they were printed stands in the notes."])
    return element("ul", *(element("li", *line) for line in lines), class_="legend")
