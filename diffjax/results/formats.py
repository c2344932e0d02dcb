"""A page of score tables as text: markdown, tidy CSV, and the terminal; LaTeX stands in ``diffjax.results.latex``."""

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from diffjax.files import csv_text
from diffjax.results.latex import latex
from diffjax.results.page import LEGEND, Block, Entry, Page, PublishedColumn
from diffjax.results.tables import Column

_MARKUP = re.compile(
    r"`|\\(?=[!-/:-@\[-`{-~])"  # code, escapes
    r"|\*(?=\S)|(?<=\S)\*|(?<!\w)_|_(?!\w)|~~"  # emphasis; a _ within a word is none
    r"|<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(\[:])"  # HTML, links
    r"|^[#>+*-](?=\s)"  # headings, lists
)
_FORMULA = "=+-@\t\r"  # what a spreadsheet takes a cell for a formula by
_WRAPPED = 18  # letters on the terminal, of a place that says more than a number
_SUMMARY = (
    "suite",
    "task",
    "dataset",
    "dataset_fingerprint",
    "method",
    "variant",
    "preset",
    "setting",
    "rule",
    "protocol",
    "mean",
    "spread",
    "spread_kind",
    "low",
    "high",
    "seeds",
    "failed",
    "running",
    "marks",
    "is_best",
    "published_in",
    "text",
)


def render(page: Page, format_name: str) -> str:
    """The page as text in one of ``FORMATS``."""
    return FORMATS[format_name](page)


def grid(block: Block) -> list[list[str]]:
    """The places of a block as text, the header first."""
    lines = [[line.task, line.data, *(entry.text for entry in line.entries)] for line in block.lines]
    return [[*block.corner, *block.header], *lines]


def _markdown(page: Page) -> str:
    """A pipe table under each protocol, and the notes; columns are padded to read as plain text."""
    parts = []
    for block in page.blocks:
        header = list(map(escaped, (*block.corner, *block.header)))
        body = [[escaped(row.task), escaped(row.data), *map(_markdown_entry, row.entries)] for row in block.lines]
        lines = [[text.replace("|", "\\|") for text in texts] for texts in (header, *body)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = [f"{'':-<{width}}" for width in widths[:2]] + [f"{':':->{width}}" for width in widths[2:]]
        parts.append(f"### {escaped(block.title)}\n")
        for texts in [lines[0], rule, *lines[1:]]:
            padded = [
                f"{text:{'<' if index < 2 else '>'}{width}}"
                for index, (text, width) in enumerate(zip(texts, widths, strict=True))
            ]
            parts.append("| " + " | ".join(padded) + " |")
        parts.append("")
    parts.append("\n".join(f"- {escaped(note)}" for note in page.notes) + "\n")
    return "\n".join(parts)


def _markdown_entry(entry: Entry) -> str:
    """A number's remark is of our own making; that of a missing one may hold anything."""
    if entry.mean is None:
        return replace(entry, remark=escaped(entry.remark)).text
    return replace(entry, shown=f"**{entry.shown}**").text if entry.is_best else entry.text


def escaped(text: str) -> str:
    """Text of one line that markdown shows as it is; what it would show so in any case stays as it is."""
    return _MARKUP.sub(r"\\\g<0>", re.sub(r"\s*[\r\n]+\s*", " ", text))


def _csv(page: Page) -> str:
    """One line per row, column and protocol, full precision; an average's task is its label.

    Text that a spreadsheet would take for a formula begins with a ``'``, which spreadsheets do not show.
    """
    return csv_text([_SUMMARY, *([_defused(value) for value in row] for row in _csv_rows(page))])


def _defused(value: Any) -> Any:
    """A value of a cell; a number is one, as text too."""
    if not isinstance(value, str) or value[:1] not in tuple(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _csv_rows(page: Page) -> Iterator[tuple[Any, ...]]:
    for block in page.blocks:
        for line in block.lines:
            fingerprint = line.row.fingerprint if line.row else ""
            data = line.row.dataset if line.row else line.data
            for column, entry in zip(block.columns, line.entries, strict=True):
                where = (line.suite, line.task, data, fingerprint, *_column_fields(column), block.protocol.name)
                is_own = line.kind == "row" and not isinstance(column, PublishedColumn)
                counts = (entry.seeds, entry.failed if is_own else None, entry.running if is_own else None)
                names = " ".join(LEGEND[mark][0] for mark in entry.marks)
                numbers = (entry.mean, entry.spread, entry.spread_kind, entry.low, entry.high)
                printed = "; elsewhere ".join(filter(None, (entry.citation, entry.elsewhere)))
                yield (*where, *numbers, *counts, names, entry.is_best, printed, entry.text)


def _column_fields(column: Column | PublishedColumn) -> Sequence[str]:
    return (column.method, "published", "", "", "") if isinstance(column, PublishedColumn) else column


def print_page(page: Page, console: Console | None = None, all_blocks: bool = False) -> None:
    """The first block on the terminal, or all; columns that do not fit continue in a further table below."""
    console = console or Console()
    for block in page.blocks if all_blocks else page.blocks[:1]:
        _print_block(block, console)
    for note in page.notes:
        # Addresses stay whole.
        text = textwrap.fill(note, console.width, break_long_words=False, break_on_hyphens=False)
        console.print(Text(text, style="dim"), soft_wrap=True)


def _print_block(block: Block, console: Console) -> None:
    lines = [[f"{task} ({data})", *(text.replace(" ± ", "±") for text in texts)] for task, data, *texts in grid(block)]
    first, *others = zip(*lines, strict=True)
    widths = [max(map(len, first)), *map(_width, others)]
    best = [[False] * len(block.columns), *([entry.is_best for entry in line.entries] for line in block.lines)]
    averages = [True, *(line.kind != "row" for line in block.lines)]
    console.print(Text(block.title, style="italic"))
    start = 1
    while start < len(widths):
        end = start + 1
        while end < len(widths) and sum(width + 2 for width in [widths[0], *widths[start : end + 1]]) <= console.width:
            end += 1
        shown = RichTable(box=None, padding=(0, 2, 0, 0), show_header=False)
        for index, width in enumerate([widths[0], *widths[start:end]]):
            shown.add_column(justify="right" if index else "left", no_wrap=index == 0, width=width if index else None)
        for line, marked, is_average in zip(lines, best, averages, strict=True):
            styles = ["bold" if mark else "" for mark in marked[start - 1 : end - 1]]
            texts = [Text(text, style) for text, style in zip(line[start:end], styles, strict=True)]
            shown.add_row(Text(line[0]), *texts, style="italic" if is_average else None)
        console.print(shown, "")
        start = end


def _width(column: Sequence[str]) -> int:
    """Of a column on the terminal: its header and long remarks are wrapped between words."""
    _, *texts = column
    longest_word = max(len(word) for text in column for word in text.split())
    return max(longest_word, min(_WRAPPED, max(map(len, texts), default=0)))


FORMATS: Mapping[str, Callable[[Page], str]] = {"markdown": _markdown, "latex": latex, "csv": _csv}
