"""The tables of a page as HTML: a block of scores at a time, with what its marks mean, and aggregates."""

import re

from diffjax.results.page import BOLD, LEGEND, Block, Entry, Line, Page, PublishedColumn, meaning
from diffjax.results.report.markup import Markup, details, element, join, scroll, toggles
from diffjax.results.tables import Column

SECTION = "scores"
_MANY, _VERY_MANY = 8, 24  # columns beyond which a spread stands below its mean, and letters in print are tiny


def score_tables(page: Page) -> Markup:
    """The blocks of scores, one seen at a time, the headline first; the choice needs no program."""
    blocks = [block for block in page.blocks if block.kind == "scores"]
    opened = [block.protocol.name for block in blocks].index(page.options.headline.name)
    parts: list[Markup] = []
    for index, block in enumerate(blocks):
        name = f"protocol-{index}"
        parts += [
            element("input", type="radio", name="protocol", id=name, checked=index == opened),
            element("label", block.protocol.name, for_=name),
            element("div", block_table(block, page), _legend(block, page), class_="tab"),
        ]
    tabs = element("div", *parts, class_="tabs", role="group", aria_label="Protocol")
    columns = tuple(dict.fromkeys(column for block in blocks for column in block.columns))
    labels = {column: name for block in blocks for column, name in zip(block.columns, block.header, strict=True)}
    if len(columns) == 1:
        return tabs
    shown = [(_toggle(column, page), labels[column], None) for column in columns]
    return join(details(f"Columns: {len(columns)}, choose some", toggles(SECTION, shown, "Columns shown")), tabs)


def toggle_names(page: Page) -> tuple[str, ...]:
    """The classes by which parts of a page are shown or not."""
    columns = (column for block in page.blocks for column in block.columns)
    return tuple(dict.fromkeys(_toggle(column, page) for column in columns))


def _toggle(column: Column | PublishedColumn, page: Page) -> str:
    """The class of all that shows a column."""
    if isinstance(column, Column):
        return f"m{page.table.columns.index(column)}"
    shown = [each for block in page.blocks for each in block.columns if isinstance(each, PublishedColumn)]
    return f"p{list(dict.fromkeys(shown)).index(column)}"


def block_table(block: Block, page: Page) -> Markup:
    """One block; a suite's averages stay below its rows however they are sorted."""
    header = [element("th", name, scope="col") for name in block.corner]
    for name, column in zip(block.header, block.columns, strict=True):
        classes = _classes(_column_class(column), _toggle(column, page))
        header.append(element("th", _heading(name, column, page), scope="col", class_=classes))
    bodies = []
    for suite in dict.fromkeys(line.suite for line in block.lines):
        lines = (_line(line, block, page) for line in block.lines if line.suite == suite)
        bodies.append(element("tbody", *lines))
    content = element(
        "table",
        element("caption", element("span", block.title)),
        element("thead", element("tr", *header)),
        *bodies,
        class_=_classes(
            "scores sortable",
            "dense" if len(block.columns) > _MANY else None,
            "tiny" if len(block.columns) > _VERY_MANY else None,
        ),
    )
    return scroll(block.title, content)


def _heading(name: str, column: object, page: Page) -> Markup:
    """A column's label; of a published one with a link to the note that says where it was printed."""
    found = [index for index, note in enumerate(page.remarks) if note.startswith((f"{name}:", f"{name},"))]
    words = join(*([part, Markup("<wbr>")] for part in re.split("(?<=_)", name)))
    if not isinstance(column, PublishedColumn) or not found:
        return words
    return join(words, " ", _link("↓", f"#note-{found[0]}", f"where {name} was printed"))


def _line(line: Line, block: Block, page: Page) -> Markup:
    kind = line.kind if line.kind in ("average", "printed") else None
    cells = [element("th", line.task, scope="row"), element("td", line.data, class_="data")]
    for entry, column in zip(line.entries, block.columns, strict=True):
        missing = "missing" if entry.mean is None else None
        classes = _classes(missing, _column_class(column), _toggle(column, page))
        title = entry.citation or None
        cells.append(element("td", _entry(entry, block, page), data_sort=entry.mean, class_=classes, title=title))
    return element("tr", *cells, class_=kind)


def _classes(*names: str | None) -> str:
    return " ".join(filter(None, names))


def _column_class(column: object) -> str | None:
    return "published" if isinstance(column, PublishedColumn) else None


def _entry(entry: Entry, block: Block, page: Page) -> Markup:
    """The number, bold where it is among the best, and marks that lead to what they mean."""
    marked = [
        _link(letter, f"#{_note(letter, block, page)}", meaning(letter)) if letter in entry.marks else letter
        for letter in entry.remark
    ]
    mean, space, width = entry.shown.partition(" ")  # of a spread or an interval
    shown = join(element("span", mean, class_="mean"), element("span", f"{space}{width}", class_="spread"))
    shown = shown if width else join(entry.shown)
    shown = element("strong", shown) if entry.is_best else shown
    return join(shown, " " if entry.shown and entry.remark else "", *marked)


def _link(text: str, target: str, title: str) -> Markup:
    """A link that a pointer and a screen reader find; Tab passes it by, as a table may have hundreds."""
    return element("a", text, href=target, title=title, aria_label=title, tabindex="-1", class_="mark")


def _note(mark: str, block: Block, page: Page) -> str:
    """The id of a mark's line in the legend of a block."""
    return f"mark-{page.blocks.index(block)}-{LEGEND[mark][0].replace(' ', '-')}"


def _legend(block: Block, page: Page) -> Markup:
    """What bold and marks mean, of those that the block has."""
    lines = [element("li", page.caption)]
    if block.has_bold:
        lines.append(element("li", BOLD[page.options.bold]))
    lines += [
        element("li", element("b", mark), f" {meaning(mark)}", id=_note(mark, block, page)) for mark in block.marks
    ]
    if any(isinstance(column, PublishedColumn) for column in block.columns):
        lines.append(
            element("li", "Tinted columns are published numbers; where they were printed stands in the notes.")
        )
    return element("ul", *lines, class_="legend")
