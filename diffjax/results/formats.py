"""A page of score tables as text: markdown, LaTeX, tidy CSV, and the terminal."""

import itertools
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from diffjax.files import csv_text
from diffjax.results.page import LEGEND, OTHER, QUICK, RUNNING, SHORT, UNTUNED, Block, Entry, Page, PublishedColumn
from diffjax.results.tables import Column

_LATEX_COLUMNS = 7  # beside task and data: more would shrink below what can be read
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "η": "eta", "κ": "kappa", "λ": "lambda", "ρ": "rho", "σ": "sigma"}
_LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "–": "--", OTHER: "$\\neq$"},
    **{letter: f"$\\{name}$" for letter, name in _GREEK.items()},
    **{"×": "$\\times$", "…": "\\dots{}", "τ": "$\\tau$", "≥": "$\\geq$", "≤": "$\\leq$"},
    **{UNTUNED: "$^\\dagger$", QUICK: "$^\\ddagger$", SHORT: "$^\\S$", RUNNING: "$^\\P$"},
}
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


def grid(block: Block, of: Callable[[Entry], str] = lambda entry: entry.text) -> list[list[str]]:
    """The places of a block as text, the header first."""
    lines = [[line.task, line.data, *map(of, line.entries)] for line in block.lines]
    return [[*block.corner, *block.header], *lines]


def _markdown(page: Page) -> str:
    """A pipe table under each protocol, and the notes; columns are padded to read as plain text."""
    parts = []
    for block in page.blocks:
        lines = [[text.replace("|", "\\|") for text in line] for line in grid(block, _bold_markdown)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = [f"{'':-<{width}}" for width in widths[:2]] + [f"{':':->{width}}" for width in widths[2:]]
        parts.append(f"### {block.title}\n")
        for line in [lines[0], rule, *lines[1:]]:
            padded = [
                f"{text:{'<' if index < 2 else '>'}{width}}"
                for index, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            parts.append("| " + " | ".join(padded) + " |")
        parts.append("")
    parts.append("\n".join(f"- {note}" for note in page.notes) + "\n")
    return "\n".join(parts)


def _bold_markdown(entry: Entry) -> str:
    return replace(entry, shown=f"**{entry.shown}**").text if entry.is_best else entry.text


def _latex(page: Page) -> str:
    """``table`` environments to be input, a block in as many as its columns need; one still too wide shrinks."""
    parts = ["% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."]
    for block in itertools.chain.from_iterable(map(_parts, page.blocks)):
        header = " & ".join(map(_latex_text, [*block.corner, *block.header]))
        parts += [
            "",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_latex_text(block.title)}.}}",
            "\\small",
            "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
            f"\\begin{{tabular}}{{ll{'r' * len(block.columns)}}}",
            "\\toprule",
            f"{header} \\\\",
        ]
        above = ""
        for line in block.lines:
            rule = ["\\addlinespace[2pt]"] if line.kind == "average" and above in ("row", "printed") else []
            rule = ["\\midrule"] if not above or (above == "average" and line.kind == "row") else rule
            texts = [_latex_text(line.task), _latex_text(line.data), *map(_latex_entry, line.entries)]
            parts += [*rule, " & ".join(texts) + " \\\\"]
            above = line.kind
        parts += [
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table}",
        ]
    parts += ["", "{\\footnotesize\\noindent", *(f"{_latex_text(note)}\\par" for note in page.notes), "}"]
    return "\n".join(parts) + "\n"


def _parts(block: Block) -> Iterator[Block]:
    """A block as blocks of few columns, as even as can be."""
    count = math.ceil(len(block.columns) / _LATEX_COLUMNS)
    bounds = [round(index * len(block.columns) / count) for index in range(count + 1)]
    for number, (start, end) in enumerate(itertools.pairwise(bounds), start=1):
        yield replace(
            block,
            title=block.title if count == 1 else f"{block.title} (part {number} of {count})",
            columns=block.columns[start:end],
            header=block.header[start:end],
            lines=tuple(replace(line, entries=line.entries[start:end]) for line in block.lines),
        )


def _latex_entry(entry: Entry) -> str:
    """The number in math mode, for its minus sign; bold where it is among the best."""
    if not entry.shown:
        return _latex_text(entry.remark)
    math = entry.shown.replace("±", "\\pm").replace(" [", "~[")
    shown = f"$\\mathbf{{{math}}}$" if entry.is_best else f"${math}$"
    return " ".join(filter(None, (shown, _latex_text(entry.remark))))


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _csv(page: Page) -> str:
    """One line per row, column and protocol, full precision; an average's task is its label."""
    return csv_text([_SUMMARY, *_csv_rows(page)])


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


FORMATS: Mapping[str, Callable[[Page], str]] = {"markdown": _markdown, "latex": _latex, "csv": _csv}
